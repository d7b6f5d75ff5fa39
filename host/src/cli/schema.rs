//! `koksmat schema`

use super::{Failure, say};

pub(crate) fn print() -> Result<u8, Failure> {
    let schema = serde_json::to_string_pretty(&koksmat::config::json_schema()).map_err(Failure::start)?;
    say(format_args!("{schema}"));
    Ok(0)
}
