//! Answers with its version, which stands in it as text: whoever writes another text there has another version of it. A number in the code stands
//! beside it, so that versions differ in what is compiled, too.

use koksmat_sdk::prelude::*;

#[unsafe(no_mangle)]
static VERSION: [u8; 24] = *b"koksmat-version-00000000";

/// Its lowest 28 bits are for the version.
const CODE: u64 = 0x6b6f_6b73_6000_0000;

#[handler]
fn handle(_: Event) -> Result<Response> {
    std::hint::black_box(CODE);
    let text: Vec<u8> = VERSION.iter().map(|byte| unsafe { std::ptr::read_volatile(byte) }).collect();
    Ok(Response::text(String::from_utf8_lossy(&text)))
}
