// TextEncoder and TextDecoder: UTF-8 in Rust, UTF-16 here.
(function (native) {
  "use strict";

  class TextEncoder {
    get encoding() { return "utf-8"; }
    encode(text = "") { return native.encode(String(text)); }
    encodeInto(source, destination) {
      if (!(destination instanceof Uint8Array)) {
        throw new TypeError("encodeInto(source, destination): the destination must be a Uint8Array");
      }
      source = String(source);
      let read = 0, written = 0;
      for (const character of source) {
        const bytes = native.encode(character);
        if (written + bytes.length > destination.length) break;
        destination.set(bytes, written);
        written += bytes.length;
        read += character.length;
      }
      return { read, written };
    }
  }

  const LABELS = new Map();
  for (const [encoding, labels] of [
    ["utf-8", ["unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "utf-8", "utf8", "x-unicode20utf8"]],
    ["utf-16le", ["csunicode", "iso-10646-ucs-2", "ucs-2", "unicode", "unicodefeff", "utf-16", "utf-16le"]],
  ]) {
    for (const label of labels) LABELS.set(label, encoding);
  }

  class TextDecoder {
    #encoding;
    #fatal;
    #ignoreBOM;
    /** Between calls with { stream: true }: what is left of a character, and whether the beginning is over. */
    #rest = new Uint8Array();
    #started = false;

    constructor(label = "utf-8", options = {}) {
      this.#encoding = LABELS.get(String(label).trim().toLowerCase());
      if (!this.#encoding) {
        throw new RangeError(`TextDecoder: ${JSON.stringify(String(label))} is not here, only utf-8 and utf-16le are`);
      }
      this.#fatal = Boolean(options?.fatal);
      this.#ignoreBOM = Boolean(options?.ignoreBOM);
    }
    get encoding() { return this.#encoding; }
    get fatal() { return this.#fatal; }
    get ignoreBOM() { return this.#ignoreBOM; }

    decode(input, options) {
      const stream = Boolean(options?.stream);
      let bytes = input === undefined ? new Uint8Array() : native.bytes(input);
      if (!bytes) throw new TypeError("TextDecoder.decode: the input must be an ArrayBuffer or a view of one");
      if (this.#rest.length > 0) {
        const joined = new Uint8Array(this.#rest.length + bytes.length);
        joined.set(this.#rest);
        joined.set(bytes, this.#rest.length);
        bytes = joined;
      }
      // Cleared first: after an error the decoder begins anew.
      const started = this.#started;
      this.#rest = new Uint8Array();
      this.#started = false;
      const open = this.#encoding === "utf-8" ? native.incomplete : incompleteUtf16;
      const whole = stream ? bytes.length - open(bytes) : bytes.length;
      const now = bytes.subarray(0, whole);
      let text = this.#encoding === "utf-8" ? native.decode(now, false, this.#fatal) : decodeUtf16(now, this.#fatal);
      if (!started && !this.#ignoreBOM && text.startsWith("\uFEFF")) text = text.slice(1);
      if (stream) {
        this.#rest = bytes.slice(whole);
        this.#started = started || now.length > 0;
      }
      return text;
    }
  }

  const HIGH = (unit) => (unit & 0xfc00) === 0xd800;
  const LOW = (unit) => (unit & 0xfc00) === 0xdc00;

  function incompleteUtf16(bytes) {
    const odd = bytes.length % 2;
    const even = bytes.length - odd;
    return even >= 2 && HIGH(bytes[even - 2] | (bytes[even - 1] << 8)) ? odd + 2 : odd;
  }

  function decodeUtf16(bytes, fatal) {
    const bad = () => {
      if (fatal) throw new TypeError("TextDecoder.decode: the data is not UTF-16");
      return "\uFFFD";
    };
    const pieces = [];
    let i = 0;
    for (; i + 1 < bytes.length; i += 2) {
      const unit = bytes[i] | (bytes[i + 1] << 8);
      if (HIGH(unit) && i + 3 < bytes.length && LOW(bytes[i + 2] | (bytes[i + 3] << 8))) {
        pieces.push(String.fromCharCode(unit, bytes[i + 2] | (bytes[i + 3] << 8)));
        i += 2;
      } else {
        pieces.push(HIGH(unit) || LOW(unit) ? bad() : String.fromCharCode(unit));
      }
    }
    if (i < bytes.length) pieces.push(bad());
    return pieces.join("");
  }

  for (const [name, value] of [["TextEncoder", TextEncoder], ["TextDecoder", TextDecoder]]) {
    Object.defineProperty(value.prototype, Symbol.toStringTag, { value: name, configurable: true });
  }
  return { TextEncoder, TextDecoder };
})
