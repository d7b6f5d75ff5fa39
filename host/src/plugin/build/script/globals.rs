//! Globals that browsers or Node have and a handler has not: using one is an error at build time that names the way out.
//!
//! A module that looks before it leaps (`typeof fetch`) is left alone: it does without. What only types name is no use of it.

use oxc::{
    ast::{AstKind, ast::Expression},
    semantic::{Reference, Semantic, SymbolFlags},
    span::{GetSpan, Span},
};

/// A use of a global that is not there.
pub(super) struct Missing {
    pub(super) span: Span,
    pub(super) message: String,
}

const FETCH: &str = "import { http } from \"koksmat\" and use http.fetch(url), which is synchronous";
const TIMERS: &str = "nothing runs after the handler has answered: throw new Retry(reason, { after: \"5s\" }) to be called again later, \
    or emit({ type, data, after: \"5s\" }) to send an event later";
const RUNTIMES: &str = "there is no process and no environment: import { config } from \"koksmat\" and use config.get(name)";
const COMMON_JS: &str = "a handler is an ES module: use import and export";
const BYTES: &str = "use Uint8Array with TextEncoder and TextDecoder";
const STORAGE: &str = "import { keyvalue } from \"koksmat\" and use keyvalue.get(key) and keyvalue.set(key, value)";
const BROWSER: &str = "a handler does not run in a browser";
const GLOBAL: &str = "use globalThis";
const CODE: &str = "a handler runs only the code it was built from";

const WAYS_OUT: &[(&str, &str)] = &[
    ("fetch", FETCH),
    ("XMLHttpRequest", FETCH),
    ("WebSocket", FETCH),
    ("EventSource", FETCH),
    ("setTimeout", TIMERS),
    ("setInterval", TIMERS),
    ("setImmediate", TIMERS),
    ("clearTimeout", TIMERS),
    ("clearInterval", TIMERS),
    ("clearImmediate", TIMERS),
    ("process", RUNTIMES),
    ("Deno", RUNTIMES),
    ("Bun", RUNTIMES),
    ("require", COMMON_JS),
    ("module", COMMON_JS),
    ("exports", COMMON_JS),
    ("__dirname", COMMON_JS),
    ("__filename", COMMON_JS),
    ("Buffer", BYTES),
    ("localStorage", STORAGE),
    ("sessionStorage", STORAGE),
    ("indexedDB", STORAGE),
    ("document", BROWSER),
    ("window", GLOBAL),
    ("self", GLOBAL),
    ("global", GLOBAL),
    ("eval", CODE),
    ("Function", CODE),
];

/// Every use of such a global in a module.
pub(super) fn missing(semantic: &Semantic<'_>) -> Vec<Missing> {
    let scoping = semantic.scoping();
    let mut found = Vec::new();
    for &(name, way_out) in WAYS_OUT {
        let mut uses: Vec<&Reference> = Vec::new();
        if let Some((_, ids)) = scoping.root_unresolved_references().iter().find(|(global, _)| global.as_str() == name) {
            uses.extend(ids.iter().map(|&id| scoping.get_reference(id)));
        }
        // `declare const process: …` says that there is one; there is none.
        if let Some(symbol) = scoping.get_root_binding(name.into())
            && scoping.symbol_flags(symbol).contains(SymbolFlags::Ambient)
        {
            uses.extend(scoping.get_resolved_references(symbol));
        }
        if uses.iter().any(|reference| is_asked_for(semantic, reference)) {
            continue;
        }
        for reference in uses {
            if reference.is_value() && (name != "Function" || is_called(semantic, reference)) {
                let span = semantic.nodes().kind(reference.node_id()).span();
                found.push(Missing { span, message: format!("`{name}` is not here: {way_out}") });
            }
        }
    }
    found
}

/// `typeof NAME`
fn is_asked_for(semantic: &Semantic<'_>, reference: &Reference) -> bool {
    matches!(semantic.nodes().parent_kind(reference.node_id()), AstKind::UnaryExpression(unary) if unary.operator.is_typeof())
}

/// `Function(…)` and `new Function(…)`, as opposed to `x instanceof Function`.
fn is_called(semantic: &Semantic<'_>, reference: &Reference) -> bool {
    let is_it = |callee: &Expression<'_>| callee.span() == semantic.nodes().kind(reference.node_id()).span();
    match semantic.nodes().parent_kind(reference.node_id()) {
        AstKind::CallExpression(call) => is_it(&call.callee),
        AstKind::NewExpression(new) => is_it(&new.callee),
        _ => false,
    }
}
