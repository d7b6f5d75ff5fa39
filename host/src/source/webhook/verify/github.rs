//! GitHub's [`X-Hub-Signature-256`](https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries).
//!
//! It signs no time: what protects from replays is that a delivery's id is remembered.

use http::HeaderMap;

use super::{Refusal, Verifier, digest, one};
use crate::config::DigestEncoding;

const SIGNATURE: &str = "x-hub-signature-256";

pub(super) fn verify(verifier: &Verifier, headers: &HeaderMap, body: &[u8]) -> Result<(), Refusal> {
    let digest = digest(one(headers, SIGNATURE)?, "sha256=", DigestEncoding::Hex);
    let digest = digest.ok_or_else(|| Refusal::Malformed(SIGNATURE.to_owned()))?;
    verifier.signed(&[body], &[digest])
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    fn judge(signature: &str, body: &[u8]) -> Result<(), Refusal> {
        verify(&verifier(Scheme::Github, &["new", "It's a Secret to Everybody"]), &headers(&[(SIGNATURE, signature)]), body)
    }

    #[test]
    fn the_published_example_passes() {
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(judge(signature, b"Hello, World!"), Ok(()));
        assert_eq!(judge(signature, b"Hello, World"), Err(Refusal::Mismatch));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for signature in ["", "sha256=", "sha256=75", "sha1=757107ea0eb2509fc211221cce984b8a37570b6d", "sha256=xyz"] {
            assert!(judge(signature, b"Hello, World!").is_err(), "{signature}");
        }
        assert_eq!(verify(&verifier(Scheme::Github, &["s"]), &headers(&[]), b""), Err(Refusal::Missing(SIGNATURE.into())));
    }
}
