//! Numbers in key-value: decimal digits.

/// The number a key holds, and `delta`. The error says why not, for whoever wrote the handler.
pub(super) fn add(key: &str, value: Option<&[u8]>, delta: i64) -> Result<i64, String> {
    let invalid = |why: &str| format!("cannot add {delta} to the key `{key}`: {why}");
    let Some(value) = value else { return Ok(delta) };
    let number: Option<i64> = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
    number
        .ok_or_else(|| invalid("its value is not a whole number in decimal digits"))?
        .checked_add(delta)
        .ok_or_else(|| invalid("the sum is out of range"))
}
