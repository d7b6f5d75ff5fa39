//! What a handler call came to, and the one table that maps failures to it.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// How many emits or requests of handlers may lie between an event and one from outside: a ring of handlers that call each other ends here.
pub(crate) const MAX_HOPS: u32 = 16;

/// The header of an outbound request that counts them.
pub(crate) const HOPS_HEADER: &str = "koksmat-hops";

/// What happens to a call after its handler was run once.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It worked: its effects are committed.
    Done(Response),
    /// Try again, while attempts are left.
    Retry {
        /// What went wrong.
        reason: String,
        /// Not before this; absent: the handler's back-off.
        after: Option<Duration>,
    },
    /// It will never work: a dead letter.
    Reject {
        /// What went wrong.
        reason: String,
    },
}

/// The answer of a handler, for where someone waits for one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// HTTP status, 100 to 599.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(with = "base64_bytes")]
    pub body: Bytes,
}

/// Why a call ended without the guest's own answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The deadline passed.
    #[error("timeout: the call was cut after {0:?}")]
    Timeout(Duration),
    /// A `memory.grow` or table growth beyond the handler's limit was asked for.
    #[error("out of memory: the handler's limit is {limit} bytes")]
    OutOfMemory {
        /// The limit that was reached.
        limit: usize,
    },
    /// The guest trapped.
    #[error("trap: {0}")]
    Trap(String),
    /// The guest's answer is not one the contract allows.
    #[error("bad response: {0}")]
    BadResponse(String),
    /// The host could not run the call (no instance to be had, the store failed under it).
    #[error("host: {0}")]
    Host(String),
}

impl From<Failure> for Outcome {
    /// The table. What may pass by itself is tried again; what the guest will answer the same way next time is not.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout(_) | Failure::OutOfMemory { .. } | Failure::Trap(_) | Failure::Host(_) => {
                Self::Retry { reason: failure.to_string(), after: None }
            }
            Failure::BadResponse(_) => Self::Reject { reason: failure.to_string() },
        }
    }
}

/// Bytes in JSON: base64.
mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(D::Error::custom)
    }
}
