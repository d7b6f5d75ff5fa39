//! `koksmat schema`

use super::Failure;

pub(crate) fn print() -> Result<u8, Failure> {
    let schema = serde_json::to_string_pretty(&koksmat::config::json_schema()).map_err(Failure::start)?;
    println!("{schema}");
    Ok(0)
}
