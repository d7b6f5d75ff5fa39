//! Stripe's [`Stripe-Signature: t=…,v1=…`](https://docs.stripe.com/webhooks#verify-manually).

use http::HeaderMap;
use jiff::Timestamp;

use super::{Refusal, Verifier, digest, one};
use crate::config::DigestEncoding;

const SIGNATURE: &str = "stripe-signature";

pub(super) fn verify(verifier: &Verifier, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
    let malformed = || Refusal::Malformed(SIGNATURE.to_owned());
    let (mut timestamp, mut digests) = (None, Vec::new());
    // Other schemes stand beside ours (`v0` in test mode); several of ours mean that a secret is being changed.
    for field in one(headers, SIGNATURE)?.split(',').map(str::trim) {
        match field.split_once('=') {
            Some(("t", _)) if timestamp.is_some() => return Err(malformed()),
            Some(("t", time)) => timestamp = Some(time),
            Some(("v1", _)) => digests.extend(digest(field, "v1=", DigestEncoding::Hex)),
            _ => {}
        }
    }
    let timestamp = timestamp.filter(|_| !digests.is_empty()).ok_or_else(malformed)?;
    verifier.fresh(timestamp, SIGNATURE, now)?;
    verifier.signed(&[timestamp.as_bytes(), b".", body], &digests)
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    const SECRET: &str = "whsec_test_secret";

    fn judge(signature: &str, now: i64) -> Result<(), Refusal> {
        verify(&verifier(Scheme::Stripe, &[SECRET]), &headers(&[(SIGNATURE, signature)]), b"{\"id\":\"evt_1\"}", at(now))
    }

    #[test]
    fn any_v1_signature_will_do() {
        let good = hex_mac(SECRET, "1492774577.{\"id\":\"evt_1\"}");
        assert_eq!(judge(&format!("t=1492774577,v1={good}"), 1_492_774_577), Ok(()));
        assert_eq!(judge(&format!("t=1492774577, v1={}, v1={good}, v0=00", "0".repeat(64)), 1_492_774_877), Ok(()));
        assert_eq!(judge(&format!("t=1492774577,v0={good}"), 1_492_774_577), Err(Refusal::Malformed(SIGNATURE.into())), "an older scheme");
        assert_eq!(judge(&format!("t=1492774577,v1={good}"), 1_492_774_878), Err(Refusal::TooOld(301)));
        assert_eq!(judge(&format!("t=1492774578,v1={good}"), 1_492_774_577), Err(Refusal::Mismatch), "the time is signed");
        assert_eq!(judge(&format!("t=1492774578,t=1492774577,v1={good}"), 1_492_774_577), Err(Refusal::Malformed(SIGNATURE.into())));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for signature in ["", "t=", "t=1492774577", "v1=00", "t=1492774577,v1=", "t=1492774577,v1=xyz", ",,=,"] {
            assert!(judge(signature, 1_492_774_577).is_err(), "{signature}");
        }
    }
}
