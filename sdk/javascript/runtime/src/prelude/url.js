// URL and URLSearchParams: parsing, writing and the setters' rules are in Rust (the `url` crate), the objects are here.
(function (native) {
  "use strict";

  // The order of what native.urlParse and native.urlSet give.
  const PARTS = ["href", "protocol", "username", "password", "host", "hostname", "port", "pathname", "search", "hash", "origin"];
  const HREF = 0, SEARCH = 8, ORIGIN = 10;

  class URLSearchParams {
    /** [[name, value], …] */
    #pairs = [];
    /** Called with the query after every change: the URL this belongs to. */
    #changed = undefined;

    constructor(init = "") {
      if (init !== null && (typeof init === "object" || typeof init === "function")) {
        if (init[Symbol.iterator] !== undefined && init[Symbol.iterator] !== null) {
          for (const pair of init) {
            if (pair === null || typeof pair !== "object") throw new TypeError("URLSearchParams: every pair must be [name, value]");
            const both = [...pair];
            if (both.length !== 2) throw new TypeError(`URLSearchParams: a pair has a name and a value, this one has ${both.length} items`);
            this.#pairs.push([string(both[0]), string(both[1])]);
          }
        } else {
          // Like a record: a later key that is the same text replaces an earlier one.
          const record = new Map();
          for (const name of Reflect.ownKeys(init)) {
            if (Object.getOwnPropertyDescriptor(init, name)?.enumerable) record.set(string(name), string(init[name]));
          }
          this.#pairs = [...record];
        }
      } else {
        const text = string(init);
        this.#pairs = native.queryParse(text.startsWith("?") ? text.slice(1) : text);
      }
    }
    #update() { this.#changed?.(this.toString()); }

    get size() { return this.#pairs.length; }
    append(name, value) {
      needed(arguments, 2, "append(name, value)");
      this.#pairs.push([string(name), string(value)]);
      this.#update();
    }
    delete(name, value) {
      needed(arguments, 1, "delete(name)");
      name = string(name);
      value = value === undefined ? undefined : string(value);
      this.#pairs = this.#pairs.filter((pair) => pair[0] !== name || (value !== undefined && pair[1] !== value));
      this.#update();
    }
    get(name) {
      needed(arguments, 1, "get(name)");
      name = string(name);
      return this.#pairs.find((pair) => pair[0] === name)?.[1] ?? null;
    }
    getAll(name) {
      needed(arguments, 1, "getAll(name)");
      name = string(name);
      return this.#pairs.filter((pair) => pair[0] === name).map((pair) => pair[1]);
    }
    has(name, value) {
      needed(arguments, 1, "has(name)");
      name = string(name);
      value = value === undefined ? undefined : string(value);
      return this.#pairs.some((pair) => pair[0] === name && (value === undefined || pair[1] === value));
    }
    set(name, value) {
      needed(arguments, 2, "set(name, value)");
      name = string(name);
      value = string(value);
      const first = this.#pairs.findIndex((pair) => pair[0] === name);
      if (first === -1) {
        this.#pairs.push([name, value]);
      } else {
        this.#pairs[first][1] = value;
        this.#pairs = this.#pairs.filter((pair, i) => i <= first || pair[0] !== name);
      }
      this.#update();
    }
    sort() {
      // By UTF-16 code units, and stable: both are what `<` and Array.sort do.
      this.#pairs.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
      this.#update();
    }
    forEach(callback, self) {
      if (typeof callback !== "function") throw new TypeError("URLSearchParams.forEach: the callback must be a function");
      for (const [name, value] of this) callback.call(self, value, name, this);
    }
    // By index: what is added while iterating is seen, as the standard has it.
    *entries() { for (let i = 0; i < this.#pairs.length; i++) yield [...this.#pairs[i]]; }
    *keys() { for (let i = 0; i < this.#pairs.length; i++) yield this.#pairs[i][0]; }
    *values() { for (let i = 0; i < this.#pairs.length; i++) yield this.#pairs[i][1]; }
    toString() { return native.queryWrite(this.#pairs); }

    static link(search, changed) {
      const params = new URLSearchParams(search);
      params.#changed = changed;
      return params;
    }
    static relink(params, search) { params.#pairs = native.queryParse(search.slice(1)); }
  }
  const { link, relink } = URLSearchParams;
  delete URLSearchParams.link;
  delete URLSearchParams.relink;

  class URL {
    /** As in PARTS. */
    #parts;
    /** Made when it is first asked for. */
    #params = undefined;

    constructor(url, base) {
      needed(arguments, 1, "new URL(url)");
      this.#parts = parse(url, base);
      if (!this.#parts) {
        const against = base === undefined ? "" : ` against ${JSON.stringify(String(base))}`;
        const error = new TypeError(`Invalid URL: ${JSON.stringify(String(url))}${against}`);
        error.code = "ERR_INVALID_URL";
        error.input = String(url);
        throw error;
      }
    }
    static canParse(url, base) {
      needed(arguments, 1, "URL.canParse(url)");
      return parse(url, base) !== undefined;
    }
    static parse(url, base) {
      needed(arguments, 1, "URL.parse(url)");
      return URL.canParse(url, base) ? new URL(url, base) : null;
    }
    get searchParams() {
      return (this.#params ??= link(this.#parts[SEARCH], (query) => {
        this.#parts = native.urlSet(this.#parts[HREF], SEARCH, query) ?? this.#parts;
      }));
    }
    toString() { return this.#parts[HREF]; }
    toJSON() { return this.#parts[HREF]; }

    static read(url, part) { return url.#parts[part]; }
    static write(url, part, value) {
      value = string(value);
      const parts = native.urlSet(url.#parts[HREF], part, value);
      if (parts) url.#parts = parts;
      else if (part === HREF) throw new TypeError(`Invalid URL: ${JSON.stringify(value)}`);
      if (url.#params && (part === SEARCH || part === HREF)) relink(url.#params, url.#parts[SEARCH]);
    }
  }
  const { read, write } = URL;
  delete URL.read;
  delete URL.write;
  PARTS.forEach((name, part) => {
    Object.defineProperty(URL.prototype, name, {
      get() { return read(this, part); },
      set: part === ORIGIN ? undefined : function (value) { write(this, part, value); },
      enumerable: true,
      configurable: true,
    });
  });

  function parse(url, base) {
    return native.urlParse(string(url), base === undefined ? undefined : string(base));
  }
  /** The standard's USVString. */
  function string(value) { return `${value}`.toWellFormed(); }
  function needed(given, count, call) {
    if (given.length < count) throw new TypeError(`${call}: ${given.length} of ${count} arguments were given`);
  }

  const { prototype } = URLSearchParams;
  Object.defineProperty(prototype, Symbol.iterator, { value: prototype.entries, writable: true, configurable: true });
  for (const [name, value] of [["URL", URL], ["URLSearchParams", URLSearchParams]]) {
    Object.defineProperty(value.prototype, Symbol.toStringTag, { value: name, configurable: true });
  }
  return { URL, URLSearchParams };
})
