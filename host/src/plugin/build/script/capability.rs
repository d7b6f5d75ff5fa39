//! What a script can import from `"koksmat"`, and what of it needs a grant.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

/// What needs a grant in the handler's table. Logging, configuration, clocks and random numbers need none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Capability {
    /// Keys and values of the tenant.
    Keyvalue,
    /// New events.
    Emit,
    /// Outbound requests.
    Http,
}

/// The module that scripts import.
pub(crate) const MODULE: &str = "koksmat";

/// What it exports.
const EXPORTS: &[(&str, Option<Capability>)] = &[
    ("keyvalue", Some(Capability::Keyvalue)),
    ("emit", Some(Capability::Emit)),
    ("log", None),
    ("config", None),
    ("http", Some(Capability::Http)),
    ("Retry", None),
    ("Reject", None),
    ("Response", None),
];

impl Capability {
    /// All of them.
    pub(crate) fn all() -> BTreeSet<Self> {
        EXPORTS.iter().filter_map(|&(_, capability)| capability).collect()
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keyvalue => "keyvalue",
            Self::Emit => "emit",
            Self::Http => "http",
        })
    }
}

/// The grant that an export needs, if it needs one; an unknown name is an error that suggests one.
pub(super) fn of_export(name: &str) -> Result<Option<Capability>, String> {
    if let Some((_, capability)) = EXPORTS.iter().find(|(export, _)| *export == name) {
        return Ok(*capability);
    }
    let known = EXPORTS.iter().map(|(export, _)| *export).collect::<Vec<_>>().join(", ");
    let nearest = EXPORTS.iter().map(|(export, _)| (distance(name, export), *export)).min();
    Err(match nearest {
        Some((distance, export)) if distance <= 2 => format!("\"koksmat\" has no `{name}`: did you mean `{export}`?"),
        _ => format!("\"koksmat\" has no `{name}`: it has {known}"),
    })
}

/// How many letters must be changed, added or left out to make one of the other, whatever their case (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_gets_the_nearest_one() {
        assert_eq!(of_export("keyvlaue").unwrap_err(), "\"koksmat\" has no `keyvlaue`: did you mean `keyvalue`?");
        assert_eq!(of_export("retry").unwrap_err(), "\"koksmat\" has no `retry`: did you mean `Retry`?");
        assert!(of_export("database").unwrap_err().contains("it has keyvalue, emit, log"));
    }

    #[test]
    fn three_names_need_a_grant() {
        assert_eq!(Capability::all(), BTreeSet::from([Capability::Keyvalue, Capability::Emit, Capability::Http]));
        assert_eq!(of_export("log"), Ok(None));
    }
}
