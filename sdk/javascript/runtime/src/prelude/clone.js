// structuredClone, after the HTML standard, for the types there are here.
(function (native) {
  "use strict";

  const ERRORS = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError };
  const UNCLONABLE = [Symbol, Promise, WeakMap, WeakSet, WeakRef];
  const tagOf = (value) => Object.prototype.toString.call(value);

  function structuredClone(value, options) {
    if (arguments.length === 0) throw new TypeError("structuredClone(value): there is no value");
    const transfer = options?.transfer === undefined ? [] : [...options.transfer];
    for (const item of transfer) {
      if (!(item instanceof ArrayBuffer)) refuse(item, "cannot be transferred");
    }
    /** Original → clone: keeps cycles, and two references to one object, as they were. */
    const seen = new Map();
    // A transferred buffer moves: its clone is the moved one, and the original is empty afterwards.
    for (const item of transfer) {
      if (item.detached) refuse(item, "is detached and cannot be transferred");
    }
    const result = clone(value, seen);
    for (const item of transfer) item.transfer();
    return result;
  }

  function clone(value, seen) {
    switch (typeof value) {
      case "symbol":
      case "function":
        refuse(value, "cannot be cloned");
        break;
      case "object":
        break;
      default:
        return value;
    }
    if (value === null) return null;
    if (seen.has(value)) return seen.get(value);
    const keep = (copy) => (seen.set(value, copy), copy);

    if (Array.isArray(value)) {
      const copy = keep(new Array(value.length));
      return properties(value, copy, seen);
    }
    if (ArrayBuffer.isView(value)) {
      const buffer = clone(value.buffer, seen);
      if (value instanceof DataView) return keep(new DataView(buffer, value.byteOffset, value.byteLength));
      // The class by its tag, which no subclass can hide.
      const constructor = globalThis[value[Symbol.toStringTag]];
      return keep(new constructor(buffer, value.byteOffset, value.length));
    }
    if (value instanceof ArrayBuffer) {
      if (value.detached) refuse(value, "is detached and cannot be cloned");
      return keep(value.slice(0));
    }
    if (value instanceof Map) {
      const copy = keep(new Map());
      for (const [key, item] of [...value]) copy.set(clone(key, seen), clone(item, seen));
      return copy;
    }
    if (value instanceof Set) {
      const copy = keep(new Set());
      for (const item of [...value]) copy.add(clone(item, seen));
      return copy;
    }
    if (value instanceof Date) return keep(new Date(value.getTime()));
    if (value instanceof RegExp) return keep(new RegExp(value.source, value.flags));
    if (value instanceof Error) return error(value, keep, seen);
    if (value instanceof Boolean || value instanceof Number || value instanceof String || value instanceof BigInt) {
      return keep(Object(value.valueOf()));
    }
    if (UNCLONABLE.some((kind) => value instanceof kind)) refuse(value, "cannot be cloned");
    return properties(value, keep({}), seen);
  }

  function error(value, keep, seen) {
    const name = String(value.name);
    const constructor = Object.hasOwn(ERRORS, name) ? ERRORS[name] : Error;
    const copy = keep(new constructor(value.message === undefined ? undefined : String(value.message)));
    copy.stack = value.stack;
    if (Object.hasOwn(value, "cause")) {
      Object.defineProperty(copy, "cause", { value: clone(value.cause, seen), writable: true, configurable: true });
    }
    return copy;
  }

  function properties(from, to, seen) {
    for (const key of Object.keys(from)) {
      Object.defineProperty(to, key, { value: clone(from[key], seen), writable: true, enumerable: true, configurable: true });
    }
    return to;
  }

  function refuse(value, why) {
    let what = typeof value === "symbol" ? String(value) : tagOf(value);
    if (typeof value === "function") what = `the function ${value.name || "without a name"}`;
    throw new DOMException(`structuredClone: ${what} ${why}`, "DataCloneError");
  }

  return { structuredClone };
})
