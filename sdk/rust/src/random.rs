//! Random numbers nobody can foretell. Needs no grant.

use crate::bindings::wasi::random::random;

/// This many random bytes.
pub fn bytes(count: usize) -> Vec<u8> {
    random::get_random_bytes(count as u64)
}

/// A random number.
pub fn u64() -> u64 {
    random::get_random_u64()
}
