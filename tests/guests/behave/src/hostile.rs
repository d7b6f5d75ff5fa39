//! What a host must survive. `black_box` keeps the compiler from seeing through it.

use std::hint::black_box;

/// Never comes back.
pub(crate) fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

/// Takes memory, and writes to it, until the allocator gives up (which aborts) or there is that much.
pub(crate) fn eat_memory(limit: usize) -> usize {
    let mut eaten = Vec::new();
    let mut total = 0;
    while total < limit {
        eaten.push(black_box(vec![1u8; 64 * 1024]));
        total += 64 * 1024;
    }
    black_box(eaten);
    total
}

/// Asks for memory page by page until the host denies it, and carries on as if nothing were.
pub(crate) fn grow_until_denied() -> usize {
    #[cfg(target_arch = "wasm32")]
    while core::arch::wasm32::memory_grow::<0>(1) != usize::MAX {}
    #[cfg(target_arch = "wasm32")]
    return core::arch::wasm32::memory_size::<0>();
    #[cfg(not(target_arch = "wasm32"))]
    0
}

/// Calls itself until the stack is gone: the machine's, which holds what the function keeps across the call.
pub(crate) fn recurse(depth: u64) -> u64 {
    if depth == u64::MAX {
        return 0;
    }
    let deeper = recurse(depth + 1);
    // Neither a tail call nor a sum, or the compiler makes a loop of it.
    (deeper ^ depth).rotate_left(deeper as u32 & 63)
}

/// The same with the stack in linear memory, which holds what has an address. It begins at 0 and grows down, so this ends out of bounds.
pub(crate) fn recurse_in_memory(depth: u64) -> u64 {
    if depth == u64::MAX {
        return 0;
    }
    let frame = black_box([depth; 8]);
    black_box(recurse_in_memory(frame[7] + 1)) + frame[0]
}

/// The `unreachable` instruction.
pub(crate) fn trap() -> ! {
    #[cfg(target_arch = "wasm32")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_arch = "wasm32"))]
    std::process::abort()
}
