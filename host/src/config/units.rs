//! Values with units, as they are written in a configuration: `200ms`, `64MiB`. It knows no key and checks no range.

use std::{fmt, time::Duration};

const MILLIS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const BYTES: [(&str, u64); 7] =
    [("B", 1), ("KB", 1_000), ("KiB", 1 << 10), ("MB", 1_000_000), ("MiB", 1 << 20), ("GB", 1_000_000_000), ("GiB", 1 << 30)];

/// What is expected where a duration stands.
pub(crate) const DURATION: &str = "a duration with its unit, such as `200ms`, `5s`, `2m`, `1h` or `7d`";

/// What is expected where a share stands.
pub(crate) const PERCENT: &str = "a share such as `10%` or `0.5%`";

/// What is expected where a size stands.
pub(crate) const SIZE: &str = "a size such as `64MiB`, `10KB` or a number of bytes";

/// `200ms`, `5s`, `2m`, `1h`, `7d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    scaled(text, &MILLIS).map(Duration::from_millis)
}

/// `10%`, `0.5%`: of 1.
pub(crate) fn percent(text: &str) -> Option<f64> {
    let number = text.strip_suffix('%')?;
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    number.parse::<f64>().ok().filter(|_| plain && !number.is_empty()).map(|percent| percent / 100.0)
}

/// `64MiB`, `10KB`, `512`: bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    text.parse().ok().or_else(|| scaled(text, &BYTES))
}

/// A duration as it would be written in a configuration.
pub(crate) struct ShowDuration(pub(crate) Duration);

impl fmt::Display for ShowDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX) {
            0 => f.write_str("0s"),
            millis => show(f, millis, &MILLIS),
        }
    }
}

/// A size as it would be written in a configuration.
pub(crate) struct ShowSize(pub(crate) u64);

impl fmt::Display for ShowSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, &BYTES)
    }
}

/// A whole number directly followed by one of the units.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// In the largest unit that leaves a whole number.
fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)]) -> fmt::Result {
    let fitting = units.iter().filter(|(_, scale)| value >= *scale && value.is_multiple_of(*scale)).max_by_key(|(_, scale)| *scale);
    let (unit, scale) = fitting.unwrap_or(&units[0]);
    write!(f, "{}{unit}", value / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        for wrong in ["", "5", "s", "5 s", "-5s", "1.5s", "5S", "5us", "99999999999999999999d", "18446744073709551615d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn shares_are_percent() {
        assert_eq!((percent("10%"), percent("0.5%")), (Some(0.1), Some(0.005)));
        for wrong in ["", "%", "10", "-1%", "1e2%", "inf%", "10 %"] {
            assert_eq!(percent(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_may_be_plain_bytes() {
        assert_eq!(size("64MiB"), Some(64 << 20));
        assert_eq!(size("10KB"), Some(10_000));
        assert_eq!(size("512"), Some(512));
        for wrong in ["", "MiB", "64 MiB", "64M", "-1", "64mib", "18446744073709551615GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn they_are_shown_as_they_are_written() {
        assert_eq!(ShowDuration(Duration::from_secs(300)).to_string(), "5m");
        assert_eq!(ShowDuration(Duration::from_millis(1500)).to_string(), "1500ms");
        assert_eq!(ShowDuration(Duration::ZERO).to_string(), "0s");
        assert_eq!(ShowSize(1 << 30).to_string(), "1GiB");
        assert_eq!(ShowSize(10_000).to_string(), "10KB");
        assert_eq!(ShowSize(1).to_string(), "1B");
    }
}
