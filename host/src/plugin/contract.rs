//! Whether a component's handler has the type that the contract gives it: said when it is loaded, not by every event.

use wasmtime::{
    Engine,
    component::{
        Component,
        types::{ComponentFunc, ComponentItem, Type},
    },
};

/// What a handler exports.
pub(crate) const HANDLER: &str = "koksmat:plugin/handler@0.1.0";

/// The type of its one function, as `wit/handler.wit` and `wit/types.wit` have it.
const HANDLE: &str = "func(event: record { id: string, source: string, type: string, subject: option<string>, time: option<string>, \
    datacontenttype: option<string>, dataschema: option<string>, attributes: list<tuple<string, string>>, \
    headers: list<tuple<string, string>>, data: list<u8> }, \
    ctx: record { tenant: string, handler: string, attempt: u32, idempotency-key: string, deadline: u64, fencing-token: option<u64>, \
    traceparent: option<string> }) \
    -> result<record { status: u16, headers: list<tuple<string, string>>, body: list<u8> }, \
    variant { retry(record { reason: string, after: option<u64> }), reject(string) }>";

/// What does not fit, in words.
pub(crate) fn check(engine: &Engine, component: &Component) -> Result<(), String> {
    let exports = component.component_type();
    let Some(ComponentItem::ComponentInstance(handler)) = exports.get_export(engine, HANDLER).map(|export| export.ty) else {
        let mut ours = exports.exports(engine).map(|(name, _)| name).filter(|name| name.starts_with("koksmat:plugin/"));
        return Err(ours.next().map_or_else(|| format!("it does not export {HANDLER}"), |other| format!("it exports {other}")));
    };
    let Some(ComponentItem::ComponentFunc(handle)) = handler.get_export(engine, "handle").map(|export| export.ty) else {
        return Err(format!("its {HANDLER} has no function `handle`"));
    };
    match signature(&handle) {
        fits if fits == HANDLE => Ok(()),
        other => Err(format!("its `handle` is {other}, where the contract (wit/handler.wit) says {HANDLE}")),
    }
}

fn signature(function: &ComponentFunc) -> String {
    let parameters = join(function.params().map(|(name, ty)| format!("{name}: {}", text(&ty))));
    let results: Vec<String> = function.results().map(|ty| format!(" -> {}", text(&ty))).collect();
    format!("{}func({parameters}){}", if function.async_() { "async " } else { "" }, results.concat())
}

/// A type as WIT has it, written out.
fn text(ty: &Type) -> String {
    let or_none = |ty: Option<Type>| ty.as_ref().map_or_else(|| "_".to_owned(), text);
    match ty {
        Type::List(list) => format!("list<{}>", text(&list.ty())),
        Type::Option(option) => format!("option<{}>", text(&option.ty())),
        Type::Result(result) => format!("result<{}, {}>", or_none(result.ok()), or_none(result.err())),
        Type::Tuple(tuple) => format!("tuple<{}>", join(tuple.types().map(|ty| text(&ty)))),
        Type::Record(record) => {
            format!("record {{ {} }}", join(record.fields().map(|field| format!("{}: {}", field.name, text(&field.ty)))))
        }
        Type::Variant(variant) => {
            let case = |name: &str, ty: Option<Type>| ty.map_or_else(|| name.to_owned(), |ty| format!("{name}({})", text(&ty)));
            format!("variant {{ {} }}", join(variant.cases().map(|of| case(of.name, of.ty))))
        }
        Type::Enum(of) => format!("enum {{ {} }}", join(of.names().map(str::to_owned))),
        Type::Flags(of) => format!("flags {{ {} }}", join(of.names().map(str::to_owned))),
        Type::Own(_) | Type::Borrow(_) => "resource".to_owned(),
        // The others have no parts.
        primitive => format!("{primitive:?}").to_lowercase(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
