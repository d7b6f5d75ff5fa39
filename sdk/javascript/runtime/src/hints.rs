//! Globals that browsers or Node have and a handler has not, with the way out.
//!
//! They are really absent, so that `typeof fetch` is `"undefined"` and libraries that look before they leap take the right path. Using
//! one is JavaScript's own ReferenceError, and it is reworded where errors are described: in a failure and in the log.

const TIMERS: &str = "nothing runs after the handler has answered: throw new Retry(reason, { after: \"5s\" }) to be called again later, \
    or emit({ type, data, after: \"5s\" }) to send an event later";
const COMMON_JS: &str = "a handler is an ES module: use `import` and `export`";
const BROWSER: &str = "a handler does not run in a browser";
const GLOBAL: &str = "use `globalThis`";
const STORAGE: &str = "import { keyvalue } from \"koksmat\"";
const BYTES: &str = "use Uint8Array, TextEncoder and TextDecoder, atob and btoa, or Uint8Array.fromBase64, .toBase64 and .toHex";
const RUNTIMES: &str = "there is no process, environment or file system: import { config } from \"koksmat\" and use config.get(name)";
const FETCH: &str = "import { http } from \"koksmat\" and use http.fetch(url), which is synchronous";
const INTL: &str = "there is no locale data, and the time zone is UTC: use toISOString, toFixed and the like";
const BLOBS: &str = "use a Uint8Array or a string";
const STREAMS: &str = "bodies are read as a whole: use text(), json() or bytes()";
const ABORT: &str = "use the `timeout` of http.fetch";

const WAYS_OUT: &[(&str, &str)] = &[
    ("fetch", FETCH),
    ("XMLHttpRequest", FETCH),
    ("Request", FETCH),
    ("WebSocket", FETCH),
    ("EventSource", FETCH),
    ("setTimeout", TIMERS),
    ("setInterval", TIMERS),
    ("setImmediate", TIMERS),
    ("clearTimeout", TIMERS),
    ("clearInterval", TIMERS),
    ("clearImmediate", TIMERS),
    ("requestAnimationFrame", TIMERS),
    ("process", RUNTIMES),
    ("Deno", RUNTIMES),
    ("Bun", RUNTIMES),
    ("require", COMMON_JS),
    ("module", COMMON_JS),
    ("exports", COMMON_JS),
    ("__dirname", COMMON_JS),
    ("__filename", COMMON_JS),
    ("Buffer", BYTES),
    ("FileReader", BYTES),
    ("Blob", BLOBS),
    ("File", BLOBS),
    ("FormData", BLOBS),
    ("ReadableStream", STREAMS),
    ("WritableStream", STREAMS),
    ("TransformStream", STREAMS),
    ("AbortController", ABORT),
    ("AbortSignal", ABORT),
    ("Intl", INTL),
    ("localStorage", STORAGE),
    ("sessionStorage", STORAGE),
    ("indexedDB", STORAGE),
    ("caches", STORAGE),
    ("global", GLOBAL),
    ("window", GLOBAL),
    ("self", GLOBAL),
    ("document", BROWSER),
    ("navigator", BROWSER),
    ("location", BROWSER),
    ("alert", BROWSER),
    ("Worker", "each event has an instance of its own, and several run at once"),
    ("MessageChannel", "use queueMicrotask or a promise"),
];

/// The better message for QuickJS's "NAME is not defined", if NAME is one of those.
pub fn for_missing_global(class: &str, message: &str) -> Option<String> {
    if class != "ReferenceError" {
        return None;
    }
    let name = message.strip_suffix(" is not defined")?.trim_matches('\'');
    let (name, way_out) = WAYS_OUT.iter().find(|(global, _)| *global == name)?;
    Some(format!("`{name}` is not here: {way_out}"))
}
