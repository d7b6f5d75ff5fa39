//! Whether a request comes from who may send it: signatures over the raw body, compared in constant time, with fresh timestamps.
//!
//! One file per scheme. What is refused and why goes to the operator's log; the sender learns only that it was refused.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use http::HeaderMap;
use jiff::Timestamp;
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq};

use crate::config::{DigestEncoding, Scheme, Verify};

mod bearer;
mod github;
mod hmac_header;
mod slack;
mod standard_webhooks;
mod stripe;

/// Judges requests by one scheme and its secrets.
pub(crate) struct Verifier {
    verify: Verify,
    /// One for each secret; any of them may have signed.
    keys: Vec<Hmac<Sha256>>,
}

/// A secret no request can be verified with.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSecret {
    #[error("no secret is given to verify requests with")]
    None,
    #[error("the secret {0} is empty")]
    Empty(String),
    #[error("the secret {0} is not \"whsec_\" and base64, as Standard Webhooks wants it")]
    NotBase64(String),
    #[error("the secret {0} cannot be a key")]
    NotAKey(String),
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the header {0} is missing")]
    Missing(String),
    #[error("the header {0} is there more than once")]
    Repeated(String),
    #[error("the header {0} is malformed")]
    Malformed(String),
    #[error("the signed time is {0} seconds in the past; is it a replay, or a clock that is wrong?")]
    TooOld(i64),
    #[error("the signed time is {0} seconds in the future; is a clock wrong?")]
    TooNew(i64),
    #[error("the signature does not match; is the secret the sender's?")]
    Mismatch,
    #[error("the token is missing or not the right one")]
    Token,
}

impl Verifier {
    /// # Errors
    /// When a secret cannot be one of this scheme's.
    pub(crate) fn new(verify: Verify) -> Result<Self, BadSecret> {
        if verify.secrets.is_empty() {
            return Err(BadSecret::None);
        }
        let mut keys = Vec::with_capacity(verify.secrets.len());
        for secret in &verify.secrets {
            // References may be printed, values never.
            let reference = || secret.reference().to_owned();
            let bytes = match verify.scheme {
                Scheme::StandardWebhooks => standard_webhooks::key(secret.expose()).ok_or_else(|| BadSecret::NotBase64(reference()))?,
                _ => secret.expose().as_bytes().to_vec(),
            };
            if bytes.is_empty() {
                return Err(BadSecret::Empty(reference()));
            }
            keys.push(Hmac::new_from_slice(&bytes).map_err(|_| BadSecret::NotAKey(reference()))?);
        }
        Ok(Self { verify, keys })
    }

    /// Judge a request that arrived at `now`.
    pub(super) fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
        match &self.verify.scheme {
            Scheme::StandardWebhooks => standard_webhooks::verify(self, headers, body, now),
            Scheme::Github => github::verify(self, headers, body),
            Scheme::Stripe => stripe::verify(self, headers, body, now),
            Scheme::Slack => slack::verify(self, headers, body, now),
            Scheme::Hmac { header, prefix, encoding } => hmac_header::verify(self, headers, body, header, prefix, *encoding),
            Scheme::Bearer => bearer::verify(headers, &self.verify.secrets),
        }
    }

    /// Whether one of `digests` is the HMAC-SHA256 of the joined `parts` under one of the keys.
    fn signed(&self, parts: &[&[u8]], digests: &[Vec<u8>]) -> Result<(), Refusal> {
        let mut any = Choice::from(0);
        for key in &self.keys {
            let mut mac = key.clone();
            parts.iter().for_each(|part| mac.update(part));
            let expected = mac.finalize().into_bytes();
            for digest in digests {
                any |= expected.as_slice().ct_eq(digest);
            }
        }
        if any.into() { Ok(()) } else { Err(Refusal::Mismatch) }
    }

    /// Whether a signed time, in Unix seconds, is within the tolerance. `header` is where it stands.
    fn fresh(&self, seconds: &str, header: &str, now: Timestamp) -> Result<(), Refusal> {
        let malformed = || Refusal::Malformed(header.to_owned());
        // Digits only: one time is written in one way.
        let digits = !seconds.is_empty() && seconds.bytes().all(|b| b.is_ascii_digit());
        let signed: i64 = if digits { seconds.parse().map_err(|_| malformed())? } else { return Err(malformed()) };
        let age = now.as_second().saturating_sub(signed);
        if age.unsigned_abs() <= self.verify.tolerance.as_secs() {
            Ok(())
        } else if age > 0 {
            Err(Refusal::TooOld(age))
        } else {
            Err(Refusal::TooNew(age.saturating_neg()))
        }
    }
}

/// A header that must be there exactly once.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Refusal> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| Refusal::Malformed(name.to_owned())),
        (Some(_), Some(_)) => Err(Refusal::Repeated(name.to_owned())),
        (None, _) => Err(Refusal::Missing(name.to_owned())),
    }
}

/// The digest that follows `prefix`. `None`: it is not written so.
fn digest(value: &str, prefix: &str, encoding: DigestEncoding) -> Option<Vec<u8>> {
    let written = value.strip_prefix(prefix)?;
    match encoding {
        DigestEncoding::Hex => hex::decode(written).ok(),
        DigestEncoding::Base64 => STANDARD.decode(written).ok(),
    }
}

#[cfg(test)]
pub(super) mod test {
    //! What the tests of the schemes share.

    use std::time::Duration;

    use http::{HeaderName, HeaderValue};

    use super::*;
    use crate::config::Secret;

    pub(crate) fn verifier(scheme: Scheme, secrets: &[&str]) -> Verifier {
        let secrets = secrets.iter().map(|value| Secret::new(*value, "env:SECRET")).collect();
        Verifier::new(Verify { scheme, secrets, tolerance: Duration::from_secs(300) }).unwrap()
    }

    pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field =
            |(name, value): &(&str, &str)| (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    pub(crate) fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    pub(crate) fn hex_mac(secret: &str, text: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(text.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

    use super::{test::*, *};
    use crate::config::Secret;

    #[test]
    fn secrets_that_cannot_verify_are_refused() {
        let bad = |scheme, secrets: &[&str]| {
            let secrets = secrets.iter().map(|value| Secret::new(*value, "env:SECRET")).collect();
            Verifier::new(Verify { scheme, secrets, tolerance: Duration::from_secs(300) }).err()
        };
        assert_eq!(bad(Scheme::Github, &[]), Some(BadSecret::None));
        assert_eq!(bad(Scheme::Github, &["a", ""]), Some(BadSecret::Empty("env:SECRET".into())));
        assert_eq!(bad(Scheme::StandardWebhooks, &["whsec_"]), Some(BadSecret::Empty("env:SECRET".into())));
        assert_eq!(bad(Scheme::StandardWebhooks, &["whsec_***"]), Some(BadSecret::NotBase64("env:SECRET".into())));
        let text = BadSecret::NotBase64("env:SECRET".into()).to_string();
        assert!(text.contains("env:SECRET") && !text.contains("***"));
    }

    #[test]
    fn a_header_that_is_repeated_is_refused() {
        let headers = headers(&[("x-a", "1"), ("x-a", "1")]);
        assert_eq!(one(&headers, "x-a"), Err(Refusal::Repeated("x-a".into())));
        assert_eq!(one(&headers, "x-b"), Err(Refusal::Missing("x-b".into())));
    }

    #[test]
    fn a_time_is_fresh_within_the_tolerance_on_both_sides() {
        let verifier = verifier(Scheme::Stripe, &["s"]);
        let fresh = |signed: &str| verifier.fresh(signed, "h", at(10_000));
        assert_eq!(fresh("9700"), Ok(()));
        assert_eq!(fresh("10300"), Ok(()));
        assert_eq!(fresh("9699"), Err(Refusal::TooOld(301)));
        assert_eq!(fresh("10301"), Err(Refusal::TooNew(301)));
        assert_eq!(fresh("9223372036854775807"), Err(Refusal::TooNew(i64::MAX - 10_000)));
        for malformed in ["", "-1", "+10000", "1e4", " 10000", "9223372036854775808", "now"] {
            assert_eq!(fresh(malformed), Err(Refusal::Malformed("h".into())), "{malformed:?}");
        }
    }

    #[test]
    fn no_header_makes_it_panic_or_passes() {
        let hmac = Scheme::Hmac { header: "x-signature".into(), prefix: "sha256=".into(), encoding: DigestEncoding::Base64 };
        let schemes = [Scheme::StandardWebhooks, Scheme::Github, Scheme::Stripe, Scheme::Slack, hmac, Scheme::Bearer];
        let verifiers = schemes.map(|scheme| verifier(scheme, &["c2VjcmV0"]));
        let names = [
            "webhook-id",
            "webhook-timestamp",
            "webhook-signature",
            "x-hub-signature-256",
            "stripe-signature",
            "x-slack-signature",
            "x-slack-request-timestamp",
            "x-signature",
            "authorization",
        ];
        let pieces = [
            "v1,",
            "v0=",
            "v1=",
            "t=",
            "10000",
            "sha256=",
            "Bearer ",
            ",",
            " ",
            "=",
            "AAAA",
            "00ff",
            "\u{e9}",
            "\t",
            "-1",
            "99999999999999999999",
        ];
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..5_000 {
            let mut headers = HeaderMap::new();
            for name in names {
                let value: String = (0..random.random_range(0..6)).filter_map(|_| pieces.choose(&mut random)).copied().collect();
                if let Ok(value) = http::HeaderValue::from_bytes(value.as_bytes()) {
                    headers.append(name, value);
                }
            }
            for verifier in &verifiers {
                assert!(verifier.verify(&headers, b"body", at(10_000)).is_err());
            }
        }
    }
}
