//! [Standard Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md): symmetric signatures, `v1`.

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;
use jiff::Timestamp;

use super::{Refusal, Verifier, digest, one};
use crate::config::DigestEncoding;

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";

/// The bytes of a secret, with or without its prefix and its padding. `None`: it is not base64.
pub(super) fn key(secret: &str) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
    BASE64.decode(secret.strip_prefix("whsec_").unwrap_or(secret)).ok()
}

pub(super) fn verify(verifier: &Verifier, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), Refusal> {
    let (id, timestamp) = (one(headers, ID)?, one(headers, TIMESTAMP)?);
    // The parts are joined by dots: with one in the id, what was signed could be read in two ways.
    if id.is_empty() || id.contains('.') {
        return Err(Refusal::Malformed(ID.to_owned()));
    }
    // Signatures of other versions (`v1a`: Ed25519) stand beside ours; several of ours mean that a secret is being changed.
    let signatures = one(headers, SIGNATURE)?.split(' ');
    let digests: Vec<_> = signatures.filter_map(|signature| digest(signature, "v1,", DigestEncoding::Base64)).collect();
    if digests.is_empty() {
        return Err(Refusal::Malformed(SIGNATURE.to_owned()));
    }
    verifier.fresh(timestamp, TIMESTAMP, now)?;
    verifier.signed(&[id.as_bytes(), b".", timestamp.as_bytes(), b".", body], &digests)
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    // The example of the reference implementations.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const GOOD: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn judge(secrets: &[&str], id: &str, signature: &str, body: &[u8], now: i64) -> Result<(), Refusal> {
        let headers = headers(&[(ID, id), (TIMESTAMP, "1614265330"), (SIGNATURE, signature)]);
        verify(&verifier(Scheme::StandardWebhooks, secrets), &headers, body, at(now))
    }

    fn judge_signature(signature: &str) -> Result<(), Refusal> {
        judge(&[SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", signature, BODY, 1_614_265_330)
    }

    #[test]
    fn the_published_example_passes() {
        assert_eq!(judge_signature(GOOD), Ok(()));
    }

    #[test]
    fn any_of_several_signatures_and_secrets_will_do() {
        let other = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
        assert_eq!(
            judge_signature(&format!(
                "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg== {other} {GOOD}"
            )),
            Ok(())
        );
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(judge(&["whsec_bmV3", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], id, GOOD, BODY, 1_614_265_330), Ok(()));
        assert_eq!(judge(&["whsec_bmV3"], id, GOOD, BODY, 1_614_265_330), Err(Refusal::Mismatch));
    }

    #[test]
    fn everything_that_is_signed_counts() {
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        assert_eq!(judge(&[SECRET], "msg_other", GOOD, BODY, 1_614_265_330), Err(Refusal::Mismatch));
        assert_eq!(
            judge(&[SECRET], id, GOOD, br#"{"test":2432232314}"#, 1_614_265_330),
            Err(Refusal::Mismatch),
            "the raw bytes, not the JSON"
        );
        assert_eq!(judge(&[SECRET], id, GOOD, BODY, 1_614_265_631), Err(Refusal::TooOld(301)));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for signature in ["", "v1", "v1,", "v2,g0hM", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=", "v1,g0hM"] {
            assert!(judge_signature(signature).is_err(), "{signature}");
        }
        assert_eq!(judge(&[SECRET], "msg.1", GOOD, BODY, 1_614_265_330), Err(Refusal::Malformed(ID.into())));
        let none = verify(&verifier(Scheme::StandardWebhooks, &[SECRET]), &headers(&[]), BODY, at(0));
        assert_eq!(none, Err(Refusal::Missing(ID.into())));
    }
}
