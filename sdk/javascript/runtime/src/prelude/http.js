// http.fetch: takes the arguments apart; the request itself is in Rust.
(function (native) {
  "use strict";
  const { Headers, bodyOf, flat, fetched } = native.part("response");
  const REDIRECT = ["follow", "manual", "error"];

  function fetch(url, options = {}) {
    if (url === undefined) throw new TypeError("http.fetch(url, options): there is no url");
    if (options === null || typeof options !== "object") {
      throw new TypeError("http.fetch(url, options): the options must be an object such as { method, headers, body, timeout }");
    }
    const method = options.method === undefined ? "GET" : String(options.method).toUpperCase();
    const redirect = options.redirect ?? "follow";
    if (!REDIRECT.includes(redirect)) throw new TypeError(`the \`redirect\` of http.fetch must be one of ${REDIRECT.join(", ")}`);
    const headers = new Headers(options.headers);
    const [body, type] = bodyOf(options.body, "the body of http.fetch");
    if (body !== undefined) {
      if (method === "GET" || method === "HEAD") throw new TypeError(`http.fetch: a ${method} request has no body; is a method missing?`);
      if (!headers.has("content-type")) headers.set("content-type", type);
    }
    const timeout = native.duration(options.timeout, "the `timeout` of http.fetch");
    const answer = native.request(String(url), method, flat(headers), body, timeout, redirect);
    return fetched(answer.status, answer.headers, answer.body, answer.url);
  }

  return { fetch };
})
