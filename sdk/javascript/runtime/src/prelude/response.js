// Headers and Response, after the web's, but with bodies that are simply there: text(), json() and bytes() do not return promises.
(function (native) {
  "use strict";

  const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  /** Header name as it is kept. */
  function nameOf(name) {
    name = String(name);
    if (!NAME.test(name)) throw new TypeError(`${JSON.stringify(name)} is not a header name`);
    return name.toLowerCase();
  }
  function valueOf(name, value) {
    if (value === undefined || value === null) {
      throw new TypeError(`the header ${JSON.stringify(name)} has no value: it is ${value}`);
    }
    value = String(value).replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, "");
    if (/[\0\r\n]/.test(value)) throw new TypeError(`the header ${JSON.stringify(name)} has a line break in its value`);
    return value;
  }

  class Headers {
    /** Name in lower case → all of its values. */
    #values = new Map();

    constructor(init) {
      if (init === undefined || init === null) return;
      if (typeof init !== "object") throw new TypeError("headers must be an object, or pairs of name and value");
      if (#values in init) {
        for (const [name, values] of init.#values) this.#values.set(name, [...values]);
      } else if (typeof init[Symbol.iterator] === "function") {
        for (const [name, value] of init) this.append(name, value);
      } else {
        for (const name of Object.keys(init)) {
          for (const value of Array.isArray(init[name]) ? init[name] : [init[name]]) this.append(name, value);
        }
      }
    }
    append(name, value) {
      const key = nameOf(name);
      value = valueOf(name, value);
      const values = this.#values.get(key);
      if (values) values.push(value);
      else this.#values.set(key, [value]);
    }
    set(name, value) { this.#values.set(nameOf(name), [valueOf(name, value)]); }
    delete(name) { this.#values.delete(nameOf(name)); }
    has(name) { return this.#values.has(nameOf(name)); }
    get(name) { return this.#values.get(nameOf(name))?.join(", ") ?? null; }
    getSetCookie() { return [...(this.#values.get("set-cookie") ?? [])]; }
    forEach(callback, self) { for (const [name, value] of this) callback.call(self, value, name, this); }
    *entries() {
      for (const name of [...this.#values.keys()].sort()) {
        const values = this.#values.get(name) ?? [];
        // Cookies may hold commas: they alone are never joined.
        if (name === "set-cookie") for (const value of values) yield [name, value];
        else yield [name, values.join(", ")];
      }
    }
    *keys() { for (const [name] of this.entries()) yield name; }
    *values() { for (const [, value] of this.entries()) yield value; }
    toJSON() { return Object.fromEntries(this.entries()); }

    /** [name, value, name, value, …], in the order they came in. */
    static flat(headers) {
      const flat = [];
      for (const [name, values] of headers.#values) for (const value of values) flat.push(name, value);
      return flat;
    }
    static fromFlat(flat) {
      const headers = new Headers();
      for (let i = 0; i < flat.length; i += 2) {
        const values = headers.#values.get(flat[i]);
        if (values) values.push(flat[i + 1]);
        else headers.#values.set(flat[i], [flat[i + 1]]);
      }
      return headers;
    }
  }
  const { flat, fromFlat } = Headers;
  delete Headers.flat;
  delete Headers.fromFlat;
  Object.defineProperty(Headers.prototype, Symbol.iterator, { value: Headers.prototype.entries, writable: true, configurable: true });
  Object.defineProperty(Headers.prototype, Symbol.toStringTag, { value: "Headers", configurable: true });

  /** A body as [string or Uint8Array, its content type], or [undefined, undefined] for none. */
  function bodyOf(value, what) {
    if (value === undefined || value === null) return [undefined, undefined];
    if (typeof value === "string") return [value, "text/plain; charset=utf-8"];
    const bytes = native.bytes(value);
    if (bytes) return [bytes, "application/octet-stream"];
    if (typeof value === "object" && value[Symbol.toStringTag] === "URLSearchParams") {
      return [String(value), "application/x-www-form-urlencoded;charset=UTF-8"];
    }
    return [native.json(value, what), "application/json"];
  }

  class Response {
    #status;
    #headers;
    #body;
    #url = "";

    constructor(body, init = {}) {
      if (init === null || typeof init !== "object") {
        throw new TypeError("new Response(body, { status, headers }): the second argument must be an object");
      }
      const status = init.status ?? 200;
      if (!Number.isInteger(status) || status < 200 || status > 599) {
        throw new RangeError(`the status of a Response must be a whole number from 200 to 599, not ${String(status)}`);
      }
      const [data, type] = bodyOf(body, "the body of the Response");
      if (data !== undefined && (status === 204 || status === 205 || status === 304)) {
        throw new TypeError(`a Response with status ${status} has no body`);
      }
      this.#status = status;
      this.#headers = new Headers(init.headers);
      this.#body = data;
      if (type !== undefined && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
    }
    get status() { return this.#status; }
    get ok() { return this.#status >= 200 && this.#status < 300; }
    get headers() { return this.#headers; }
    get url() { return this.#url; }
    text() { return typeof this.#body === "string" ? this.#body : native.decode(this.#body ?? new Uint8Array(), true); }
    bytes() { return typeof this.#body === "string" ? native.encode(this.#body) : new Uint8Array(this.#body ?? 0); }
    json() {
      try {
        return JSON.parse(this.text());
      } catch (error) {
        throw new SyntaxError(`the response's body is not JSON: ${error.message}`, { cause: error });
      }
    }
    toJSON() { return { status: this.status, headers: this.headers, url: this.url || undefined }; }

    static json(value, init = {}) {
      const headers = new Headers(init.headers);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
      return new Response(native.json(value, "the body of the Response"), { ...init, headers });
    }
    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError(`${status} is not the status of a redirect`);
      return new Response(null, { status, headers: { location: String(url) } });
    }

    /** What Rust takes to answer: [status, flat headers, body]; undefined for anything that is no Response. */
    static unwrap(value) {
      return #status in value ? [value.#status, flat(value.#headers), value.#body] : undefined;
    }
    /** The response of an HTTP request. Any status can come back, so it does not go through the constructor's checks. */
    static fetched(status, headers, body, url) {
      const response = new Response();
      response.#status = status;
      response.#headers = fromFlat(headers);
      response.#body = body;
      response.#url = url;
      return response;
    }
  }
  const { unwrap, fetched } = Response;
  delete Response.unwrap;
  delete Response.fetched;
  Object.defineProperty(Response.prototype, Symbol.toStringTag, { value: "Response", configurable: true });

  return { Headers, Response, bodyOf, flat, unwrap, fetched };
})
