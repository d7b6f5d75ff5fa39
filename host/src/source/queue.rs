//! Message queues as sources. The embedded one lives in the host's own store.

pub mod embedded;
pub mod kafka;
pub mod rabbitmq;
pub mod stand_in;

/// The type of a message that says none.
pub const DEFAULT_TYPE: &str = "koksmat.queue.message";
