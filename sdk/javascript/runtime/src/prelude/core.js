// What every handler gets: the two errors that say what happens to an event, the JSON of the log, and no `eval`.
(function (native) {
  "use strict";

  /** Never try again: the event becomes a dead letter with this reason. */
  class Reject extends Error {
    constructor(reason, options) {
      super(reason === undefined ? "rejected by the handler" : reason, options);
    }
  }

  /** Try again later, while attempts are left. */
  class Retry extends Error {
    constructor(reason, options) {
      super(reason === undefined ? "the handler asked to be called again" : reason, options);
      this.after = native.duration(options?.after, "the `after` of Retry");
    }
  }

  for (const [name, value] of [["Reject", Reject], ["Retry", Retry]]) {
    Object.defineProperty(value.prototype, "name", { value: name, writable: true, configurable: true });
  }

  /**
   * JSON of a value, for the log: it never refuses what JSON cannot hold. `undefined` is undefined.
   */
  function inspect(value) {
    const ancestors = [];
    return JSON.stringify(value, function (key, value) {
      switch (typeof value) {
        case "bigint":
        case "symbol":
          return String(value);
        case "function":
          return `[function ${value.name || "without a name"}]`;
        case "object":
          break;
        default:
          return value;
      }
      if (value === null) return null;
      if (value instanceof Error) return native.describe(value);
      // `this` holds the value; what is not above it any more is done with.
      while (ancestors.length > 0 && ancestors[ancestors.length - 1] !== this) ancestors.pop();
      if (ancestors.includes(value)) return "[circular]";
      ancestors.push(value);
      if (value instanceof Map) return replaced(Object.fromEntries(value));
      if (value instanceof Set) return replaced([...value]);
      if (value instanceof Promise) return "[promise]";
      if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return binary(value);
      return value;

      // The replacement is what JSON.stringify goes into, so it is what `this` will be below.
      function replaced(plain) {
        ancestors.push(plain);
        return plain;
      }
    });
  }

  function binary(value) {
    const bytes = native.bytes(value);
    const shown = Array.from(bytes.subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    return `[${value.constructor?.name ?? "bytes"}, ${bytes.length} bytes: ${shown}${bytes.length > 16 ? " …" : ""}]`;
  }

  // A handler runs the code it was loaded with and no other: no `eval`, no function constructors, by no path.
  function refuse(what) {
    throw new EvalError(`${what} is not here: a handler runs only the code it was loaded with`);
  }
  let functionConstructor;
  for (const sample of [function () {}, async function () {}, function* () {}, async function* () {}]) {
    const prototype = Object.getPrototypeOf(sample);
    const name = prototype.constructor.name;
    const constructor = { [name]: function () { refuse(`new ${name}`); } }[name];
    Object.defineProperty(constructor, "prototype", { value: prototype, writable: false });
    Object.defineProperty(prototype, "constructor", { value: constructor, writable: false, configurable: true });
    if (functionConstructor) Object.setPrototypeOf(constructor, functionConstructor);
    else functionConstructor = constructor;
  }
  const hidden = (value) => ({ value, writable: true, configurable: true, enumerable: false });
  Object.defineProperty(globalThis, "Function", hidden(functionConstructor));
  Object.defineProperty(globalThis, "eval", hidden(function () { refuse("eval"); }));

  // A callback that throws must not vanish: as a rejection nobody handles it is reported.
  function queueMicrotask(callback) {
    if (typeof callback !== "function") throw new TypeError("queueMicrotask: the callback must be a function");
    Promise.resolve().then(() => { callback(); });
  }
  Object.defineProperty(globalThis, "queueMicrotask", hidden(queueMicrotask));

  // QuickJS's own counts from when the context was made, which is before the snapshot.
  Object.defineProperty(globalThis, "performance", hidden(Object.freeze({ now: native.monotonic })));

  Object.defineProperty(globalThis, "crypto", hidden(Object.freeze({
    randomUUID: native.randomUUID,
    getRandomValues: native.getRandomValues,
  })));

  Object.defineProperty(Math, "random", hidden(native.random));

  return { Reject, Retry, inspect };
})
