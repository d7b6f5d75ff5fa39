//! What a handler that did not work out says, and with it what happens to the event.

use crate::bindings::koksmat::plugin::types::{Advice, Failure};
use std::{error::Error as StdError, fmt, time::Duration};

/// The result of a handler and of everything in this crate that can fail.
pub type Result<T = crate::Response, E = Error> = std::result::Result<T, E>;

/// Why a call did not work out: [`retry`] or [`reject`].
///
/// Every `std::error::Error` turns into a retry by `?`. That is why this type does not implement that trait itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Failure);

/// Try again later, while attempts are left. Without [`Error::after`] the handler's own back-off decides when.
pub fn retry(reason: impl fmt::Display) -> Error {
    Error(Failure::Retry(Advice { reason: reason.to_string(), after: None }))
}

/// Never try again: the event becomes a dead letter with this reason.
pub fn reject(reason: impl fmt::Display) -> Error {
    Error(Failure::Reject(reason.to_string()))
}

impl Error {
    /// How long to wait before the next attempt. A reject has none, so there it changes nothing.
    pub fn after(mut self, wait: Duration) -> Error {
        if let Failure::Retry(advice) = &mut self.0 {
            advice.after = Some(milliseconds(wait));
        }
        self
    }

    /// What to tell the people who look into it.
    pub fn reason(&self) -> &str {
        match &self.0 {
            Failure::Retry(advice) => &advice.reason,
            Failure::Reject(reason) => reason,
        }
    }

    /// Whether trying again is of no use.
    pub fn is_reject(&self) -> bool {
        matches!(self.0, Failure::Reject(_))
    }
}

impl<E: StdError> From<E> for Error {
    fn from(error: E) -> Error {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            reason.push_str(": ");
            reason.push_str(&cause.to_string());
            source = cause.source();
        }
        retry(reason)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        error.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_reject() { "reject" } else { "retry" };
        write!(f, "{kind}: {}", self.reason())
    }
}

/// A duration as the contract counts it. A part of a millisecond counts as one: waiting less than asked for would surprise.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u32> {
        Ok(text.parse::<u32>()?)
    }

    #[test]
    fn any_error_is_a_retry() {
        let error = parse("one").unwrap_err();
        assert!(!error.is_reject());
        assert_eq!(error.reason(), "invalid digit found in string");
    }

    #[test]
    fn causes_are_told() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("no quantity")
            }
        }
        impl StdError for Outer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&self.0)
            }
        }
        let error = Error::from(Outer("one".parse::<u32>().unwrap_err()));
        assert_eq!(error.reason(), "no quantity: invalid digit found in string");
    }

    #[test]
    fn after_is_for_retries() {
        let Failure::Retry(advice) = retry("busy").after(Duration::from_secs(5)).into() else { panic!("a retry") };
        assert_eq!((advice.reason.as_str(), advice.after), ("busy", Some(5000)));
        assert_eq!(reject("no").after(Duration::from_secs(5)), reject("no"));
    }

    #[test]
    fn durations_round_up_and_saturate() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_micros(1)), 1);
        assert_eq!(milliseconds(Duration::from_micros(1500)), 2);
        assert_eq!(milliseconds(Duration::MAX), u64::MAX);
    }
}
