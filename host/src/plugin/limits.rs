//! What a call may use, and how the host knows that it asked for more.

use wasmtime::ResourceLimiter;

/// Bytes a guest may hand to the host in one call into it (wasmtime's host-call fuel): the largest payload there is, and some. Taking them
/// over is the host's work, which no deadline interrupts.
pub(crate) const HOSTCALL_BYTES: usize = 20 << 20;

/// Live handles of one call: streams, requests, buckets.
pub(crate) const HANDLES: usize = 1_000;

/// Header bytes of one outbound request or response.
pub(crate) const HEADER_BYTES: usize = 128 << 10;

const TABLE_ELEMENTS: usize = 20_000;

/// Holds a guest to its memory. A denied growth is no trap, the guest sees −1; but a call that then fails has failed for want of memory,
/// whatever the guest makes of it.
#[derive(Debug)]
pub(crate) struct Limiter {
    memory: usize,
    /// Linear memory of all of the call's memories, in bytes.
    used: usize,
    denied: bool,
}

impl Limiter {
    pub(crate) fn new(memory: usize) -> Self {
        Self { memory, used: 0, denied: false }
    }

    /// A growth was denied.
    pub(crate) fn denied(&self) -> bool {
        self.denied
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let used = self.used.saturating_sub(current).saturating_add(desired);
        if used > self.memory {
            self.denied = true;
            return Ok(false);
        }
        self.used = used;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.denied = true;
        Ok(())
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = desired <= TABLE_ELEMENTS;
        self.denied |= !allowed;
        Ok(allowed)
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_of_a_call_count_together() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 50, None).unwrap(), "the second memory would make it 110");
        assert!(limiter.denied());
        assert!(limiter.memory_growing(60, 100, None).unwrap());
    }
}
