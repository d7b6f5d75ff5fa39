// What JavaScript and TypeScript handlers find: the module "koksmat" and the globals beside the language itself. For editors and type
// checkers; the host reads handlers without it.
//
//     // jsconfig.json or tsconfig.json beside the handlers
//     { "compilerOptions": { "lib": ["ES2024"], "types": [], "checkJs": true, "strict": true },
//       "include": [".", "path/to/koksmat.d.ts"] }
//
// `lib` without "DOM" and `types: []` matter: there is no fetch, no setTimeout and no process here, and the checker should say so.

declare module "koksmat" {
  /**
   * A time span: a number of milliseconds, or text with a unit, one of `ms`, `s`, `m`, `h`: `"250ms"`, `"5s"`, `"1.5h"`.
   */
  export type Duration = number | `${number}${"ms" | "s" | "m" | "h"}`;

  /** One thing that happened: a CloudEvents 1.0 event. */
  export interface Event {
    readonly id: string;
    readonly type: string;
    readonly source: string;
    readonly subject: string | undefined;
    /** RFC 3339. */
    readonly time: string | undefined;
    readonly datacontenttype: string | undefined;
    readonly dataschema: string | undefined;
    /** CloudEvents extension attributes in their text form. */
    readonly attributes: Readonly<Record<string, string>>;
    /**
     * What the transport carried besides: message headers, or the HTTP headers that a webhook lists. Names are lower case; the values of a
     * header that came more than once are joined with `", "`.
     */
    readonly headers: Readonly<Record<string, string>>;
    /** The data, parsed. What is not JSON throws, and uncaught that rejects the event: it would not be JSON the next time either. */
    json<T = any>(): T;
    /** The data as text. Bytes that are not UTF-8 become U+FFFD. */
    text(): string;
    /** A copy of the data. */
    bytes(): Uint8Array;
  }

  /** What the host knows of this call. */
  export interface Context {
    readonly tenant: string;
    readonly handler: string;
    /** 1 for the first attempt. */
    readonly attempt: number;
    /** The same for every attempt of this call: give it to what is called outside. `http.fetch` sends one by itself. */
    readonly idempotencyKey: string;
    /** When the host cuts this call; compare with `Date.now()`. */
    readonly deadline: number;
    /**
     * For atomic handlers: grows with every holder of the lane. A receiver that refuses a smaller one than it has seen is safe from a
     * host that stalled.
     */
    readonly fencingToken: number | undefined;
    /** W3C Trace Context. */
    readonly traceparent: string | undefined;
  }

  /**
   * What `handle` may return, or promise: a `Response` as it is; a string as text; bytes as bytes; nothing as 204; anything else as JSON
   * with status 200, whatever its keys are called.
   */
  export type Result = Response | string | Uint8Array | ArrayBuffer | object | number | boolean | null | undefined | void;

  /** The type of the function that a handler's file exports under the name `handle`: `export const handle: Handler = (event, ctx) => …` */
  export type Handler = (event: Event, ctx: Context) => Result | Promise<Result>;

  /** Thrown: the event is never tried again and becomes a dead letter with this reason. */
  export class Reject extends Error {
    constructor(reason: string, options?: { cause?: unknown });
  }

  /** Thrown: the event is tried again later, while attempts are left. Any error but `Reject` does that; this one says when. */
  export class Retry extends Error {
    constructor(reason: string, options?: { /** Absent: the handler's own back-off. */ after?: Duration; cause?: unknown });
    readonly after: number | undefined;
  }

  /**
   * The tenant's key-value store. A call sees its own writes at once, others see them when it is done, together with everything else it
   * did or not at all. Needs the grant `keyvalue`.
   */
  export const keyvalue: {
    /** The value as text. */
    get(key: string): string | undefined;
    getBytes(key: string): Uint8Array | undefined;
    /** The value, parsed. Throws where it is not JSON. */
    getJSON<T = any>(key: string): T | undefined;
    /** Text as it is, numbers and booleans as text, bytes as bytes, other objects as JSON. */
    set(key: string, value: string | number | bigint | boolean | ArrayBuffer | ArrayBufferView | object): void;
    delete(key: string): void;
    exists(key: string): boolean;
    /** All keys that begin with the prefix. */
    keys(prefix?: string): string[];
    /**
     * Adds to the number under the key (absent counts as 0) and returns the new one. `delta` is 0 or more. The result is something read: a
     * call that was overtaken runs again. Where nobody needs the result, `add` is never overtaken.
     */
    increment(key: string, delta?: number | bigint): number;
    /** Adds to the number under the key when the call is done, without reading it. `delta` may be negative. */
    add(key: string, delta: number | bigint): void;
  };

  /** An event to be. What is absent, the host fills in. */
  export interface Outgoing {
    type: string;
    /** Absent: a new UUID. Given: an event with this id is accepted once. */
    id?: string;
    subject?: string;
    /** A string goes out as text, bytes as bytes, anything else as JSON, undefined as no data. */
    data?: unknown;
    /** Absent: what fits the data. */
    datacontenttype?: string;
    dataschema?: string;
    /** CloudEvents extension attributes. */
    attributes?: Record<string, string | number | boolean | undefined>;
    /** The embedded queue to publish to; absent: routed by its type like any other event. */
    queue?: string;
    /** Hold the event back for so long. */
    after?: Duration;
  }

  /** A new event, which leaves when the call is done, or not at all. Returns its id. Needs the grant `emit`. */
  export function emit(event: Outgoing): string;

  /** Structured log lines: a message, and fields that are kept apart from it. */
  export const log: {
    trace(message: unknown, fields?: object): void;
    debug(message: unknown, fields?: object): void;
    info(message: unknown, fields?: object): void;
    warn(message: unknown, fields?: object): void;
    error(message: unknown, fields?: object): void;
  };

  /** What the handler's `config` table in the host's configuration says. */
  export const config: {
    get(name: string): string | undefined;
    all(): Record<string, string>;
  };

  export interface FetchOptions {
    /** Default `"GET"`. */
    method?: string;
    headers?: HeadersInit;
    /** A string goes out as text, bytes as bytes, URLSearchParams as a form, anything else as JSON; a content-type of yours wins. */
    body?: unknown;
    /** For the whole exchange, redirects and bodies included. Absent: the host's limits. */
    timeout?: Duration;
    /**
     * `"follow"` (default) goes after up to five redirects of GET and HEAD, without Authorization and Cookie where they lead to another
     * origin; `"manual"` returns the redirect; `"error"` throws. Redirects of other methods are always returned.
     */
    redirect?: "follow" | "manual" | "error";
  }

  export const http: {
    /**
     * An HTTP request, **synchronous**: it returns the response, not a promise, and nobody else is held up meanwhile. Any status is a
     * response; what throws is that there was none. The error's `code` is then `"timeout"` or the name of an error of wasi:http such as
     * `"connection-refused"`. Needs the grant `http` with the host's name.
     */
    fetch(url: string | URL, options?: FetchOptions): Response;
  };

  const ResponseClass: typeof Response;
  export { ResponseClass as Response };
}

type HeadersInit = Headers | Record<string, string | number | string[]> | Iterable<readonly [string, string]>;

/** HTTP headers. Names are compared without regard to case. */
declare class Headers {
  constructor(init?: HeadersInit);
  append(name: string, value: string): void;
  set(name: string, value: string): void;
  delete(name: string): void;
  has(name: string): boolean;
  /** All values of the header, joined with `", "`. */
  get(name: string): string | null;
  getSetCookie(): string[];
  forEach(callback: (value: string, name: string, headers: Headers) => void, self?: unknown): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
}

/**
 * An HTTP response: what a handler returns where it wants to choose the status or headers, and what `http.fetch` gives. Unlike in browsers
 * its body is simply there: `text()`, `json()` and `bytes()` return it at once and as often as asked.
 */
declare class Response {
  /** A string becomes text, bytes stay bytes, anything else becomes JSON, with the fitting content-type unless the headers have one. */
  constructor(body?: unknown, init?: { /** 200 to 599, default 200. */ status?: number; headers?: HeadersInit });
  readonly status: number;
  /** Whether the status is 200 to 299. */
  readonly ok: boolean;
  readonly headers: Headers;
  /** Where the response came from in the end; empty for one that was made here. */
  readonly url: string;
  text(): string;
  json<T = any>(): T;
  bytes(): Uint8Array;
  static json(value: unknown, init?: { status?: number; headers?: HeadersInit }): Response;
  static redirect(url: string | URL, status?: 301 | 302 | 303 | 307 | 308): Response;
}

/** To the handler's log. Objects are shown as JSON, errors with their stack; `%s`, `%d`, `%j` and the like are understood. */
declare const console: {
  debug(...values: unknown[]): void;
  log(...values: unknown[]): void;
  info(...values: unknown[]): void;
  dir(...values: unknown[]): void;
  warn(...values: unknown[]): void;
  error(...values: unknown[]): void;
  /** With the place it was called from. */
  trace(...values: unknown[]): void;
  assert(condition: unknown, ...values: unknown[]): void;
};

declare class TextEncoder {
  readonly encoding: "utf-8";
  encode(text?: string): Uint8Array;
  encodeInto(source: string, destination: Uint8Array): { read: number; written: number };
}

declare class TextDecoder {
  /** `"utf-8"` (default) or `"utf-16le"`. */
  constructor(label?: string, options?: { fatal?: boolean; ignoreBOM?: boolean });
  readonly encoding: string;
  readonly fatal: boolean;
  readonly ignoreBOM: boolean;
  decode(input?: ArrayBuffer | ArrayBufferView, options?: { stream?: boolean }): string;
}

/** As on the web (WHATWG). */
declare class URL {
  constructor(url: string | URL, base?: string | URL);
  static canParse(url: string | URL, base?: string | URL): boolean;
  static parse(url: string | URL, base?: string | URL): URL | null;
  href: string;
  protocol: string;
  username: string;
  password: string;
  host: string;
  hostname: string;
  port: string;
  pathname: string;
  search: string;
  hash: string;
  readonly origin: string;
  /** Changes here change the URL, and the other way round. */
  readonly searchParams: URLSearchParams;
  toString(): string;
  toJSON(): string;
}

/** As on the web (WHATWG). */
declare class URLSearchParams {
  constructor(init?: string | Record<string, string> | Iterable<readonly [string, string]>);
  readonly size: number;
  append(name: string, value: string): void;
  delete(name: string, value?: string): void;
  get(name: string): string | null;
  getAll(name: string): string[];
  has(name: string, value?: string): boolean;
  set(name: string, value: string): void;
  sort(): void;
  forEach(callback: (value: string, name: string, params: URLSearchParams) => void, self?: unknown): void;
  entries(): IterableIterator<[string, string]>;
  keys(): IterableIterator<string>;
  values(): IterableIterator<string>;
  [Symbol.iterator](): IterableIterator<[string, string]>;
  toString(): string;
}

declare class DOMException extends Error {
  constructor(message?: string, name?: string);
  readonly code: number;
}

/** A deep copy: objects, arrays, Map, Set, Date, RegExp, errors, buffers and views, cycles. Functions throw a DataCloneError. */
declare function structuredClone<T>(value: T, options?: { transfer?: ArrayBuffer[] }): T;

/** Runs the callback before the handler's answer is sent. One that throws fails the call. */
declare function queueMicrotask(callback: () => void): void;

/** Base64 to a string with one character for each byte. */
declare function atob(base64: string): string;
/** A string of characters up to U+00FF to Base64. */
declare function btoa(text: string): string;

/** From the host's random source. Not at a module's top level. */
declare const crypto: {
  /** A new UUID, version 4. */
  randomUUID(): string;
  /** Fills a typed array of integers, at most 65,536 bytes, and returns it. */
  getRandomValues<T extends ArrayBufferView>(array: T): T;
};

declare const performance: {
  /** Milliseconds from a beginning that means nothing by itself: for differences. */
  now(): number;
};
