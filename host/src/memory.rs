//! The allocator of the command, and when it returns memory to the system.

use std::{ffi::c_long, thread, time::Duration};

use mimalloc::MiMalloc;

/// An event is made by one thread and dropped by another, which the system's allocator pays for with locks: with it a host that takes events
/// from Kafka is slower by up to a half, as its threads happen to share arenas.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, in milliseconds, which libmimalloc-sys has no name for.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Have freed memory returned by a thread of its own.
///
/// mimalloc does so on whichever thread asks for more, a second after it was freed at the earliest. So whoever runs calls would return the
/// tens of megabytes that a compile had taken, which takes milliseconds; and where nobody asks for more they would stay.
pub(crate) fn return_from_time_to_time() {
    const NEVER: c_long = c_long::MAX / 4;
    // SAFETY: an option may be set at any time; no pointer is passed.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) };
    let returning = thread::Builder::new().name("memory".into()).spawn(|| {
        // A thread that never allocated has no part in the allocator, and would return nothing.
        drop(std::hint::black_box(Box::new(0_u64)));
        loop {
            thread::park_timeout(Duration::from_secs(5));
            // SAFETY: any thread may call it at any time; no pointer is passed.
            unsafe { libmimalloc_sys::mi_collect(true) };
        }
    });
    if returning.is_err() {
        // SAFETY: as above. Then it is as it would be anyway.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 1_000) };
    }
}
