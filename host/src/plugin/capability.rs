//! What a guest can call: one file for each capability. Each checks the handler's grants on every call, besides the check at load.

pub(crate) mod config;
pub(crate) mod counters;
pub(crate) mod emit;
pub(crate) mod http;
pub(crate) mod keyvalue;
pub(crate) mod logging;

use std::collections::BTreeSet;

pub(crate) use crate::plugin::build::Capability;

impl Capability {
    /// The capability that an imported interface belongs to. `Err`: no handler is given it. `Ok(None)`: it needs no grant.
    pub(crate) fn of_import(import: &str) -> Result<Option<Self>, ()> {
        let interface = import.split('@').next().unwrap_or(import);
        match interface {
            "wasi:keyvalue/store" | "wasi:keyvalue/atomics" | "wasi:keyvalue/batch" | "koksmat:plugin/counters" => Ok(Some(Self::Keyvalue)),
            "koksmat:plugin/emit" => Ok(Some(Self::Emit)),
            "wasi:http/outgoing-handler" => Ok(Some(Self::Http)),
            "koksmat:plugin/types" | "wasi:http/types" | "wasi:logging/logging" | "wasi:config/store" => Ok(None),
            other if ["wasi:clocks/", "wasi:random/", "wasi:cli/", "wasi:io/"].iter().any(|p| other.starts_with(p)) => Ok(None),
            _ => Err(()),
        }
    }

    /// The entry of `grants` that gives it, with an example of what to write.
    pub(crate) fn grant_line(self) -> &'static str {
        match self {
            Self::Keyvalue => "keyvalue = true",
            Self::Emit => r#"emit = ["order.*"]"#,
            Self::Http => r#"http = ["api.example.com"]"#,
        }
    }
}

/// The capabilities in `needs` that `grants` does not give.
pub(crate) fn missing(needs: &BTreeSet<Capability>, grants: &crate::config::Grants) -> Vec<Capability> {
    needs
        .iter()
        .copied()
        .filter(|need| match need {
            Capability::Keyvalue => grants.keyvalue.is_none(),
            Capability::Emit => grants.emit.is_empty(),
            Capability::Http => grants.http.is_empty(),
        })
        .collect()
}

/// The entries that `grants` has, and those for `missing`, as they stand in the file.
/// The hosts are those that the code names, if it is known which.
pub(crate) fn grants_line(grants: &crate::config::Grants, missing: &[Capability], hosts: &[String]) -> String {
    let list = |items: &[String]| format!("{items:?}");
    let mut entries = Vec::new();
    match grants.keyvalue.as_deref() {
        Some("") => entries.push("keyvalue = true".to_owned()),
        Some(prefix) => entries.push(format!("keyvalue = {prefix:?}")),
        None => {}
    }
    if !grants.emit.is_empty() {
        entries.push(format!("emit = {}", list(&grants.emit)));
    }
    if !grants.http.is_empty() {
        entries.push(format!("http = {}", list(&grants.http)));
    }
    entries.extend(missing.iter().map(|missing| match missing {
        Capability::Http if !hosts.is_empty() => format!("http = {}", list(hosts)),
        other => other.grant_line().to_owned(),
    }));
    entries.join(", ")
}
