//! From the bytes of a `.wasm` file to a component.

use wasmparser::{Parser, Payload, Validator, WasmFeatures};
use wit_component::ComponentEncoder;

/// Why some bytes are no component and cannot be made one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EncodeError {
    /// WAT.
    #[error("this is WebAssembly text: compile it first, for instance with `wasm-tools parse handler.wat -o handler.wasm`")]
    Text,
    /// Something else altogether.
    #[error("this is not WebAssembly: it does not begin with \\0asm")]
    NotWasm,
    /// What `wasmtime compile` makes. It cannot be checked, so it is never taken.
    #[error("this is machine code, compiled ahead of time: name the component it was compiled from")]
    MachineCode,
    /// A core module that does not say which interfaces its functions mean.
    #[error(
        "this is a core module without a component-type section, so nothing says which interfaces it implements: build it with the SDK or with \
         bindings that wit-bindgen made, or encode it with `wasm-tools component embed` and `wasm-tools component new`"
    )]
    NoWorld,
    /// A core module that needs an adapter.
    #[error(
        "this core module imports wasi_snapshot_preview1: build it for wasm32-unknown-unknown or wasm32-wasip2, or encode it with \
         `wasm-tools component new --adapt`"
    )]
    NeedsAdapter,
    /// Damaged, or using what is not switched on.
    #[error("this is not valid WebAssembly: {0}")]
    Invalid(String),
}

/// A component: as it is if it is one already, encoded if it is a core module that says what it implements. What comes back is valid.
pub(crate) fn component(bytes: Vec<u8>) -> Result<Vec<u8>, EncodeError> {
    if Parser::is_component(&bytes) {
        // What of it is switched on, the engine knows.
        Validator::new_with_features(WasmFeatures::all()).validate_all(&bytes).map_err(|error| EncodeError::Invalid(error.to_string()))?;
        return Ok(bytes);
    }
    if !Parser::is_core_wasm(&bytes) {
        return Err(not_wasm(&bytes));
    }
    match says_what_it_is(&bytes).map_err(|error| EncodeError::Invalid(error.to_string()))? {
        Says { world: false, .. } => Err(EncodeError::NoWorld),
        Says { preview1: true, .. } => Err(EncodeError::NeedsAdapter),
        Says { .. } => ComponentEncoder::default()
            .validate(true)
            .module(&bytes)
            .and_then(|mut encoder| encoder.encode())
            .map_err(|error| EncodeError::Invalid(format!("{error:#}"))),
    }
}

/// What a core module tells about itself.
#[derive(Default)]
struct Says {
    world: bool,
    preview1: bool,
}

fn says_what_it_is(bytes: &[u8]) -> wasmparser::Result<Says> {
    let mut says = Says::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::CustomSection(section) => says.world |= section.name().starts_with("component-type"),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    says.preview1 |= import?.module == "wasi_snapshot_preview1";
                }
            }
            _ => {}
        }
    }
    Ok(says)
}

fn not_wasm(bytes: &[u8]) -> EncodeError {
    if bytes.starts_with(b"\x7fELF") {
        return EncodeError::MachineCode;
    }
    let start = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(0);
    let text = &bytes[start..];
    if text.starts_with(b"(module") || text.starts_with(b"(component") || text.starts_with(b";;") || text.starts_with(b"(;") {
        return EncodeError::Text;
    }
    EncodeError::NotWasm
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        CodeSection, Component, CustomSection, EntityType, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Module,
        TypeSection, ValType,
    };
    use wit_component::StringEncoding;
    use wit_parser::Resolve;

    use super::*;

    /// A core module that exports `run` and says that it implements a world with such an export.
    fn core_with_world() -> Vec<u8> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str("world.wit", "package test:it; world it { export run: func() -> u32; }").unwrap();
        let world = resolve.select_world(&[package], None).unwrap();
        let (mut types, mut functions, mut exports, mut code) =
            (TypeSection::new(), FunctionSection::new(), ExportSection::new(), CodeSection::new());
        types.ty().function([], [ValType::I32]);
        functions.function(0);
        exports.export("run", ExportKind::Func, 0);
        let mut run = Function::new([]);
        run.instructions().i32_const(7).end();
        code.function(&run);
        let mut module = Module::new().section(&types).section(&functions).section(&exports).section(&code).clone().finish();
        wit_component::embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        module
    }

    #[test]
    fn a_component_passes_through() {
        let bytes = Component::new().finish();
        assert_eq!(component(bytes.clone()).unwrap(), bytes);
    }

    #[test]
    fn a_core_module_that_names_its_world_is_encoded() {
        let encoded = component(core_with_world()).unwrap();
        assert!(Parser::is_component(&encoded));
        assert_eq!(super::super::inspect::inspect(&encoded).unwrap().exports, ["run"]);
    }

    #[test]
    fn a_core_module_that_does_not_is_refused() {
        assert!(matches!(component(Module::new().finish()), Err(EncodeError::NoWorld)));
    }

    #[test]
    fn a_core_module_for_preview_1_is_told_what_to_build_for() {
        let mut types = TypeSection::new();
        types.ty().function([], []);
        let mut imports = ImportSection::new();
        imports.import("wasi_snapshot_preview1", "proc_exit", EntityType::Function(0));
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&CustomSection { name: "component-type:x".into(), data: (&[]).into() });
        assert!(matches!(component(module.finish()), Err(EncodeError::NeedsAdapter)));
    }

    #[test]
    fn what_is_no_webassembly_is_called_what_it_is() {
        assert!(matches!(component(b"  (component)".to_vec()), Err(EncodeError::Text)));
        assert!(matches!(component(b"\x7fELF...".to_vec()), Err(EncodeError::MachineCode)));
        assert!(matches!(component(b"#!/bin/sh".to_vec()), Err(EncodeError::NotWasm)));
        assert!(matches!(component(Vec::new()), Err(EncodeError::NotWasm)));
        let mut cut = Component::new().section(&CustomSection { name: "x".into(), data: (&[1, 2, 3]).into() }).clone().finish();
        cut.truncate(cut.len() - 2);
        assert!(matches!(component(cut), Err(EncodeError::Invalid(_))));
    }
}
