//! Reading the event and its context.

use crate::{Context, Event, Result, clock, reject};
use serde::Deserialize;
use std::time::Duration;

impl Event {
    /// The data as JSON. Data that does not parse is a reject: it will not parse the next time either.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        serde_json::from_slice(&self.data).map_err(|error| reject(format_args!("the event's data: {error}")))
    }

    /// The data as text. Data that is not UTF-8 is a reject.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.data).map_err(|error| reject(format_args!("the event's data: {error}")))
    }

    /// The data as it is.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The first header with this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// A CloudEvents extension attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        find(&self.attributes, name)
    }
}

impl Context {
    /// How long until the host cuts this call.
    pub fn remaining(&self) -> Duration {
        Duration::from_millis(self.deadline).saturating_sub(clock::now())
    }
}

/// The first value under a name, which is compared without regard to case.
pub(crate) fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(data: &[u8]) -> Event {
        Event { data: data.to_vec(), headers: vec![("x-shop".into(), "north".into())], ..Event::default() }
    }

    #[test]
    fn json_borrows_from_the_event() {
        #[derive(Deserialize)]
        struct Order<'a> {
            sku: &'a str,
        }
        let event = event(br#"{"sku":"tea"}"#);
        assert_eq!(event.json::<Order>().unwrap().sku, "tea");
    }

    #[test]
    fn what_does_not_parse_is_a_reject() {
        let error = event(b"{").json::<u32>().unwrap_err();
        assert!(error.is_reject());
        assert!(error.reason().starts_with("the event's data: "), "{error}");
        assert!(event(&[0xff]).text().unwrap_err().is_reject());
    }

    #[test]
    fn headers_are_found_whatever_their_case() {
        assert_eq!(event(b"").header("X-Shop"), Some("north"));
        assert_eq!(event(b"").header("x-other"), None);
        assert_eq!(event(b"").attribute("x-shop"), None);
    }
}
