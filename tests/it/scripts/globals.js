// Checks of the globals against results that the standards give. Answers with what is wrong.
import { log } from "koksmat";

let checks = 0;
const wrong = [];

function is(what, actual, expected) {
  checks += 1;
  const same = Object.is(actual, expected) || JSON.stringify(actual) === JSON.stringify(expected) && typeof actual === typeof expected;
  if (!same) wrong.push(`${what}: ${shown(actual)} instead of ${shown(expected)}`);
}
function throws(what, name, run) {
  checks += 1;
  try {
    wrong.push(`${what}: no ${name} but ${shown(run())}`);
  } catch (error) {
    if (error.name !== name) wrong.push(`${what}: ${error.name} (${error.message}) instead of ${name}`);
  }
}
const shown = (value) => (typeof value === "number" ? String(value) : JSON.stringify(value) ?? String(value));
const bytes = (...values) => Uint8Array.from(values);
const list = (view) => Array.from(view);

// https://url.spec.whatwg.org
function urls() {
  const href = (url, base) => new URL(url, base).href;
  is("relative", href("../x/./y?q=ä b#f g", "http://User:Pw@EXAMPLE.com:80/a/b/c"), "http://User:Pw@example.com/a/x/y?q=%C3%A4%20b#f%20g");
  is("no path", href("https://example.com"), "https://example.com/");
  is("tabs and line ends go", href(" \thttp://exa\nmple.com/ "), "http://example.com/");
  is("back slashes", href("http:\\\\example.com\\a"), "http://example.com/a");
  is("international", new URL("https://faß.ExAmPlE/").hostname, "xn--fa-hia.example");
  is("odd IPv4", new URL("http://0x7f.1/").hostname, "127.0.0.1");
  is("one number is an IPv4 address", new URL("http://3232235777/").hostname, "192.168.1.1");
  is("IPv6", new URL("http://[2001:DB8:0:0:0:0:0:1]/").host, "[2001:db8::1]");
  is("default port", [new URL("https://example.org:443").port, new URL("https://example.org:8443").port], ["", "8443"]);
  is("dots in escapes", href("http://a/b/%2e%2E/c"), "http://a/c");
  is("without slashes", [new URL("mailto:a@b.c").pathname, new URL("mailto:a@b.c").host], ["a@b.c", ""]);
  is("origin", [new URL("http://a:80/b").origin, new URL("blob:https://a.com/x").origin, new URL("data:,x").origin], ["http://a", "https://a.com", "null"]);
  is("query only", href("?x", "http://a/b?c#d"), "http://a/b?x");
  is("fragment only", href("#x", "http://a/b?c#d"), "http://a/b?c#x");
  is("scheme-relative", href("//b/c", "https://a/"), "https://b/c");
  is("canParse", [URL.canParse("a:b"), URL.canParse("a b"), URL.canParse("c", "http://a/"), URL.canParse("http://a b/")], [true, false, true, false]);
  is("parse", [URL.parse("nothing"), URL.parse("http://a")?.href], [null, "http://a/"]);
  for (const bad of ["", "http://", "http://a:99999/", "http://[::1", "http://%00/", "http://a<b/", "//a", "http://1.2.3.256/"]) {
    throws(`new URL(${bad})`, "TypeError", () => new URL(bad).href);
  }
  const url = new URL("http://a/?a=b%20c+d&e=%E2%98%83");
  is("search params", [url.searchParams.get("a"), url.searchParams.get("e"), url.searchParams.get("x")], ["b c d", "☃", null]);
  url.searchParams.append("x", "y z&");
  is("they write back", url.href, "http://a/?a=b+c+d&e=%E2%98%83&x=y+z%26");
  url.search = "?n=1";
  is("and follow", [url.searchParams.get("n"), url.searchParams.size, url.searchParams === url.searchParams], ["1", 1, true]);
  url.protocol = "https"; url.host = "b:8080"; url.pathname = "/p q"; url.hash = "h"; url.username = "a:b"; url.password = "@";
  is("setters", url.href, "https://a%3Ab:%40@b:8080/p%20q?n=1#h");
  url.port = "443"; url.hash = ""; url.search = ""; url.username = ""; url.password = "";
  is("setters that clear", url.href, "https://b/p%20q");
  url.port = "x"; url.protocol = "1";
  is("setters that are not understood", url.href, "https://b/p%20q");
  throws("href is parsed", "TypeError", () => { url.href = "nothing"; });
  is("as text", [String(url), JSON.stringify({ url })], ["https://b/p%20q", '{"url":"https://b/p%20q"}']);
  is("lone surrogates", href("http://a/?\uD800"), "http://a/?%EF%BF%BD");
}

function searchParams() {
  const text = (init) => new URLSearchParams(init).toString();
  is("written", text([["a", "b c"], ["ä", "*-._~'"]]), "a=b+c&%C3%A4=*-._%7E%27");
  is("from text", text("?a=b&&c&d=&=e&a=%zz+%2B"), "a=b&c=&d=&=e&a=%25zz+%2B");
  is("from a record", text({ a: 1, b: undefined, c: null }), "a=1&b=undefined&c=null");
  is("from itself", text(new URLSearchParams("a=1&a=2")), "a=1&a=2");
  const params = new URLSearchParams("z=1&a=2&z=3&é=4&a=5");
  is("get", [params.get("z"), params.getAll("z"), params.get("x"), params.size], ["1", ["1", "3"], null, 5]);
  is("has", [params.has("z"), params.has("z", "3"), params.has("z", "2"), params.has("x")], [true, true, false, false]);
  params.sort();
  is("sorted, and stable", params.toString(), "a=2&a=5&z=1&z=3&%C3%A9=4");
  params.delete("a", "5"); params.delete("é");
  is("deleted", params.toString(), "a=2&z=1&z=3");
  params.set("z", "9"); params.set("new", "n");
  is("set", params.toString(), "a=2&z=9&new=n");
  is("iterated", [[...params], [...params.keys()], [...params.values()]], [[["a", "2"], ["z", "9"], ["new", "n"]], ["a", "z", "new"], ["2", "9", "n"]]);
  const seen = [];
  params.forEach((value, name) => seen.push(name + value));
  is("forEach", seen, ["a2", "z9", "newn"]);
  throws("pairs are two", "TypeError", () => new URLSearchParams([["a"]]));
}

// https://encoding.spec.whatwg.org
function text() {
  const encode = (string) => list(new TextEncoder().encode(string));
  is("encode", encode("a£☃😀"), [0x61, 0xc2, 0xa3, 0xe2, 0x98, 0x83, 0xf0, 0x9f, 0x98, 0x80]);
  is("encode nothing", [encode(), encode("")], [[], []]);
  is("encode a lone surrogate", encode("\uD83D"), [0xef, 0xbf, 0xbd]);
  const into = new Uint8Array(4);
  is("encodeInto", [new TextEncoder().encodeInto("a☃b", into), list(into)], [{ read: 2, written: 4 }, [0x61, 0xe2, 0x98, 0x83]]);
  is("encodeInto leaves out what does not fit", new TextEncoder().encodeInto("☃☃", new Uint8Array(5)), { read: 1, written: 3 });
  is("encoding", [new TextEncoder().encoding, new TextDecoder().encoding, new TextDecoder(" UTF8 ").encoding], ["utf-8", "utf-8", "utf-8"]);

  const decode = (data, label, options) => new TextDecoder(label, options).decode(data);
  is("decode", decode(bytes(0x61, 0xe2, 0x98, 0x83, 0xf0, 0x9f, 0x98, 0x80)), "a☃😀");
  is("decode nothing", [decode(), decode(bytes())], ["", ""]);
  is("one mark for the longest valid beginning", [decode(bytes(0xe2, 0x98)), decode(bytes(0xe2, 0x98, 0x41)), decode(bytes(0xf0, 0x9f, 0x98))], ["\uFFFD", "\uFFFDA", "\uFFFD"]);
  is("a mark for each byte that begins nothing", [decode(bytes(0xff, 0x61)), decode(bytes(0xf0, 0x80, 0x80)), decode(bytes(0xed, 0xa0, 0x80))], ["\uFFFDa", "\uFFFD\uFFFD\uFFFD", "\uFFFD\uFFFD\uFFFD"]);
  is("byte order mark", [decode(bytes(0xef, 0xbb, 0xbf, 0x61)), decode(bytes(0xef, 0xbb, 0xbf, 0x61), "utf-8", { ignoreBOM: true })], ["a", "\uFEFFa"]);
  is("UTF-16", [decode(bytes(0x61, 0, 0x3d, 0xd8, 0x00, 0xde), "utf-16le"), decode(bytes(0x3d, 0xd8, 0x61, 0), "utf-16")], ["a😀", "\uFFFDa"]);
  is("of buffers and views", [decode(bytes(0x61, 0x62).buffer), decode(new DataView(bytes(0x61, 0x62, 0x63).buffer, 1, 1))], ["ab", "b"]);
  throws("fatal", "TypeError", () => decode(bytes(0xff), "utf-8", { fatal: true }));
  throws("a label that is none", "RangeError", () => new TextDecoder("utf-99"));
  const streamed = new TextDecoder();
  const parts = [bytes(0xef, 0xbb), bytes(0xbf, 0xe2), bytes(0x98), bytes(0x83, 0x61)].map((part) => streamed.decode(part, { stream: true }));
  is("streamed", [parts.join("|"), streamed.decode()], ["||" + "|☃a", ""]);
  is("a stream that ends early", [streamed.decode(bytes(0xe2), { stream: true }), streamed.decode()], ["", "\uFFFD"]);
  is("base64", [btoa("a\u00ff"), atob("Yf8="), atob(" Y f 8 ")], ["Yf8=", "a\u00ff", "a\u00ff"]);
  throws("btoa of more than bytes", "InvalidCharacterError", () => btoa("☃"));
  throws("atob of something else", "InvalidCharacterError", () => atob("*"));
}

// https://html.spec.whatwg.org/multipage/structured-data.html
function clones() {
  const circle = { list: [1, , 3], date: new Date(5), pattern: /a+/giu, big: 2n ** 70n, nan: NaN, zero: -0, nothing: undefined };
  circle.self = circle;
  const copy = structuredClone(circle);
  is("a copy, with its circle", [copy !== circle, copy.self === copy, copy.list !== circle.list], [true, true, true]);
  is("holes", [copy.list.length, 1 in copy.list], [3, false]);
  is("dates", [copy.date instanceof Date, copy.date.getTime(), copy.date !== circle.date], [true, 5, true]);
  is("patterns", [copy.pattern.source, copy.pattern.flags], ["a+", "giu"]);
  is("numbers", [copy.big === 2n ** 70n, Number.isNaN(copy.nan), Object.is(copy.zero, -0), "nothing" in copy], [true, true, true, true]);
  const shared = { a: 1 };
  const two = structuredClone([shared, shared]);
  is("what was one stays one", two[0] === two[1], true);
  const map = structuredClone(new Map([[{ k: 1 }, new Set([1, "x"])]]));
  is("maps and sets", [map instanceof Map, [...map.keys()][0], [...[...map.values()][0]]], [true, { k: 1 }, [1, "x"]]);
  const failure = structuredClone(new RangeError("far", { cause: new TypeError("why") }));
  is("errors", [failure instanceof RangeError, failure.message, failure.cause instanceof TypeError, failure.cause.message], [true, "far", true, "why"]);
  class Point { constructor() { this.x = 1; } get y() { return 2; } }
  const plain = structuredClone(new Point());
  is("classes are lost", [plain instanceof Point, Object.getPrototypeOf(plain) === Object.prototype, plain], [false, true, { x: 1 }]);
  const view = bytes(1, 2, 3, 4).subarray(1, 3);
  const copied = structuredClone({ view, buffer: view.buffer });
  is("views share their buffer", [list(copied.view), copied.view.byteOffset, copied.view.buffer === copied.buffer, copied.buffer !== view.buffer], [[2, 3], 1, true, true]);
  is("wrappers", [typeof structuredClone(Object("a")), structuredClone(Object(1)) instanceof Number], ["object", true]);
  const moved = new ArrayBuffer(8);
  is("transfer", [structuredClone(moved, { transfer: [moved] }).byteLength, moved.byteLength, moved.detached], [8, 0, true]);
  for (const [what, value] of [["a function", () => {}], ["a symbol", Symbol("s")], ["a promise", Promise.resolve()], ["a weak map", new WeakMap()], ["a function inside", { f() {} }]]) {
    throws(`structuredClone of ${what}`, "DataCloneError", () => structuredClone(value));
  }
  throws("structuredClone of nothing", "TypeError", () => structuredClone());
}

// https://w3c.github.io/webcrypto
function chance() {
  is("UUID", /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(crypto.randomUUID()), true);
  is("two UUIDs", crypto.randomUUID() !== crypto.randomUUID(), true);
  const array = new Uint16Array(64);
  is("the same array", crypto.getRandomValues(array) === array, true);
  is("filled", array.some((value) => value > 255), true);
  const part = new Uint8Array(200);
  crypto.getRandomValues(part.subarray(100));
  is("a part of a buffer", [part.subarray(0, 100).every((byte) => byte === 0), part.subarray(100).some((byte) => byte !== 0)], [true, true]);
  is("big integers", crypto.getRandomValues(new BigUint64Array(2)).length, 2);
  throws("too much at once", "QuotaExceededError", () => crypto.getRandomValues(new Uint8Array(65_537)));
  throws("fractions", "TypeError", () => crypto.getRandomValues(new Float64Array(1)));
  const draws = Array.from({ length: 1000 }, () => Math.random());
  is("Math.random", [draws.every((n) => n >= 0 && n < 1), new Set(draws).size], [true, 1000]);
}

function language() {
  is("UTC", [new Date(2026, 0, 1).getTimezoneOffset(), new Date("2026-01-01T00:00:00+02:00").toISOString()], [0, "2025-12-31T22:00:00.000Z"]);
  is("now", Math.abs(Date.now() - Date.parse(new Date().toISOString())) < 1000 && Date.now() > 1.7e12, true);
  is("performance.now", performance.now() <= performance.now(), true);
  is("Unicode", ["ǅ".toLowerCase(), "é".normalize("NFD").length, /\p{Script=Greek}/u.test("α"), [..."a😀"].length], ["ǆ", 2, true, 2]);
  is("groups", "2026-02-03".match(/(?<y>\d+)-(?<m>\d+)/).groups.m, "02");
  is("lists", [[3, 1, 2].toSorted(), [1, 2, 3].at(-1), Object.groupBy([1, 2, 3], (n) => (n % 2 ? "odd" : "even"))], [[1, 2, 3], 3, { odd: [1, 3], even: [2] }]);
  is("sets", [...new Set([1, 2]).union(new Set([3]))], [1, 2, 3]);
  is("iterators", [1, 2, 3, 4].values().filter((n) => n % 2).map((n) => n * 2).toArray(), [2, 6]);
  is("private members", new (class { #x = 4; get x() { return this.#x; } static { this.s = 1; } })().x, 4);
  is("JSON", [JSON.stringify({ a: [1, undefined, NaN], "é": "\uD800" }), JSON.parse('{"__proto__":1}')["__proto__"]], ['{"a":[1,null,null],"é":"\\ud800"}', 1]);
  is("bytes", [Uint8Array.fromBase64("Yf8=").toHex(), bytes(0x61, 0xff).toBase64()], ["61ff", "Yf8="]);
}

/** Absent, so that libraries which look before they leap find another way. */
function absent() {
  for (const name of ["fetch", "setTimeout", "setInterval", "process", "require", "Buffer", "window", "self", "global", "document", "Deno", "Bun", "Intl"]) {
    is(`typeof ${name}`, [typeof globalThis[name], name in globalThis], ["undefined", false]);
  }
  is("typeof without the object", [typeof fetch, typeof process, typeof setTimeout], ["undefined", "undefined", "undefined"]);
}

/** No code but what the handler was built from, by no path. */
function noCode() {
  const hidden = globalThis;
  throws("eval", "EvalError", () => hidden["eval"]("1 + 1"));
  throws("Function", "EvalError", () => new hidden["Function"]("return 1"));
  throws("Function, called", "EvalError", () => hidden["Function"]("return 1"));
  const samples = [function () {}, () => {}, async () => {}, function* () {}, async function* () {}, class {}, { m() {} }.m];
  for (const sample of samples) throws("a function's constructor", "EvalError", () => sample.constructor("return 1"));
  for (const sample of samples) throws("by its prototype", "EvalError", () => new (Object.getPrototypeOf(sample).constructor)("return 1"));
  throws("by reflection", "EvalError", () => Reflect.construct(hidden["Function"], ["return 1"], Object));
  throws("by inheritance", "EvalError", () => new (class extends hidden["Function"] {})("return 1"));
  is("functions are still known", [(() => {}) instanceof hidden["Function"], typeof hidden["Function"].prototype.call], [true, "function"]);
}

async function later() {
  const order = [];
  queueMicrotask(() => order.push("microtask"));
  await null;
  order.push("after");
  is("microtasks", order, ["microtask", "after"]);
  const settled = await Promise.allSettled([Promise.reject(new Error("no")), 1]);
  is("promises", [settled.map((one) => one.status), await Promise.any([Promise.reject(1), 2])], [["rejected", "fulfilled"], 2]);
  const items = [];
  for await (const item of (async function* () { yield 1; yield 2; })()) items.push(item);
  is("for await", items, [1, 2]);
}

export async function handle() {
  for (const check of [urls, searchParams, text, clones, chance, language, absent, noCode, later]) {
    try {
      await check();
    } catch (error) {
      wrong.push(`${check.name} threw ${error.name}: ${error.message}`);
    }
  }
  log.info("checked", { checks });
  return { checks, wrong };
}
