//! Slack's [`X-Slack-Signature`](https://docs.slack.dev/authentication/verifying-requests-from-slack).

use http::HeaderMap;
use jiff::Timestamp;

use super::{Refusal, Verifier, digest, one};
use crate::config::DigestEncoding;

const SIGNATURE: &str = "x-slack-signature";
const TIMESTAMP: &str = "x-slack-request-timestamp";

pub(super) fn verify(verifier: &Verifier, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
    let timestamp = one(headers, TIMESTAMP)?;
    let digest = digest(one(headers, SIGNATURE)?, "v0=", DigestEncoding::Hex);
    let digest = digest.ok_or_else(|| Refusal::Malformed(SIGNATURE.to_owned()))?;
    verifier.fresh(timestamp, TIMESTAMP, now)?;
    verifier.signed(&[b"v0:", timestamp.as_bytes(), b":", body], &[digest])
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    // The example of Slack's documentation.
    const SECRET: &str = "8f742231b10e8888abcd99yyyzzz85a5";
    const BODY: &[u8] =
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar\
        &user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    const GOOD: &str = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";

    fn judge(timestamp: &str, signature: &str, now: i64) -> Result<(), Refusal> {
        verify(&verifier(Scheme::Slack, &[SECRET]), &headers(&[(TIMESTAMP, timestamp), (SIGNATURE, signature)]), BODY, at(now))
    }

    #[test]
    fn the_published_example_passes() {
        assert_eq!(judge("1531420618", GOOD, 1_531_420_618), Ok(()));
        assert_eq!(judge("1531420619", GOOD, 1_531_420_618), Err(Refusal::Mismatch), "the time is signed");
        assert_eq!(judge("1531420618", GOOD, 1_531_420_919), Err(Refusal::TooOld(301)));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for signature in ["", "v0=", "v0=a2", "v1=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"] {
            assert!(judge("1531420618", signature, 1_531_420_618).is_err(), "{signature}");
        }
        let unsigned = headers(&[(TIMESTAMP, "1531420618")]);
        assert_eq!(verify(&verifier(Scheme::Slack, &[SECRET]), &unsigned, BODY, at(0)), Err(Refusal::Missing(SIGNATURE.into())));
    }
}
