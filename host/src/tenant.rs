//! Who an event, a handler or a row belongs to.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A namespace with its own handlers, data and share. It comes from configuration or credentials, never from a payload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant of a host that has no `tenants/` folder.
    pub const DEFAULT: &'static str = "default";

    /// A tenant called `name`.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name, as it stands in keys, rows, log lines and metrics.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Tenant {
    fn from(name: String) -> Self {
        Self::new(&name)
    }
}

impl From<Tenant> for String {
    fn from(tenant: Tenant) -> Self {
        tenant.0.as_ref().to_owned()
    }
}
