//! Answers with its version, which stands in it as text: whoever writes another text there has another version of it.

use koksmat_sdk::prelude::*;

#[unsafe(no_mangle)]
static VERSION: [u8; 24] = *b"koksmat-version-00000000";

#[handler]
fn handle(_: Event) -> Result<Response> {
    let text: Vec<u8> = VERSION.iter().map(|byte| unsafe { std::ptr::read_volatile(byte) }).collect();
    Ok(Response::text(String::from_utf8_lossy(&text)))
}
