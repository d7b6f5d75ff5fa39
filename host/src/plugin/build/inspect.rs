//! What a component says of itself: its imports and exports, and what a build wrote into it.

use std::collections::BTreeSet;

use wasm_encoder::{ComponentSection, CustomSection};
use wasmparser::{Parser, Payload};

use super::{encode::EncodeError, script::Capability, sourcemap::Positions};

/// Custom section: the capabilities a script imports, as a JSON list. The runtime itself imports all of them.
const NEEDS: &str = "koksmat:needs";
/// Custom section: where the running code stands in the user's files, as JSON.
const POSITIONS: &str = "koksmat:positions";

/// What a component says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The names of what it imports, `wasi:keyvalue/store@0.2.0-draft` for instance.
    pub(crate) imports: Vec<String>,
    /// The names of what it exports.
    pub(crate) exports: Vec<String>,
    /// For a script: the capabilities it uses. Where this is given it holds, and not the imports.
    pub(crate) needs: Option<BTreeSet<Capability>>,
    /// For a script: from positions in errors to the user's files. Empty for others.
    pub(crate) positions: Positions,
}

/// Look into a component. It is not validated.
pub(crate) fn inspect(component: &[u8]) -> Result<Inspection, EncodeError> {
    let invalid = |error: wasmparser::BinaryReaderError| EncodeError::Invalid(error.to_string());
    let mut found = Inspection::default();
    // Components and modules stand inside one another; only the outermost is looked at.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(imports) if depth == 1 => {
                for import in imports {
                    found.imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 1 => {
                for export in exports {
                    found.exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if depth == 1 => {
                let unreadable = |error: serde_json::Error| EncodeError::Invalid(format!("section {}: {error}", section.name()));
                match section.name() {
                    NEEDS => found.needs = Some(serde_json::from_slice(section.data()).map_err(unreadable)?),
                    POSITIONS => found.positions = serde_json::from_slice(section.data()).map_err(unreadable)?,
                    _ => {}
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Write into a component what [`inspect`] finds.
pub(super) fn annotate(component: &mut Vec<u8>, needs: &BTreeSet<Capability>, positions: &Positions) -> serde_json::Result<()> {
    for (name, data) in [(NEEDS, serde_json::to_vec(needs)?), (POSITIONS, serde_json::to_vec(positions)?)] {
        CustomSection { name: name.into(), data: data.into() }.append_to_component(component);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_wrote_is_found_again() {
        let mut component = wasm_encoder::Component::new().finish();
        let needs = BTreeSet::from([Capability::Emit, Capability::Keyvalue]);
        let mut positions = Positions::default();
        positions.insert("a.ts", [[0, 0, 3, 0].into()]);
        annotate(&mut component, &needs, &positions).unwrap();
        let found = inspect(&component).unwrap();
        assert_eq!(found.needs, Some(needs));
        assert_eq!(found.positions.rewrite("a.ts:1:1"), "a.ts:4:1");
    }

    #[test]
    fn a_component_without_sections_of_ours_names_no_needs() {
        assert_eq!(inspect(&wasm_encoder::Component::new().finish()).unwrap(), Inspection::default());
    }

    #[test]
    fn the_runtime_exports_the_handler_and_load() {
        let found = inspect(super::super::runtime::COMPONENT).unwrap();
        assert!(found.exports.iter().any(|name| name == "load"), "{:?}", found.exports);
        assert!(found.exports.iter().any(|name| name == "koksmat:plugin/handler@0.1.0"), "{:?}", found.exports);
    }
}
