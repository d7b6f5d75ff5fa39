//! A value that is never printed.

use std::fmt;

/// A resolved secret: a password, a token, a URL that may hold one. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: String,
    reference: String,
}

impl Secret {
    /// A secret that came from `reference` (`env:NAME`, `file:PATH`), which may be printed.
    pub fn new(value: impl Into<String>, reference: impl Into<String>) -> Self {
        Self { value: value.into(), reference: reference.into() }
    }

    /// The value. Mind where it goes.
    pub fn expose(&self) -> &str {
        &self.value
    }

    /// Where it came from.
    pub fn reference(&self) -> &str {
        &self.reference
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.reference)
    }
}
