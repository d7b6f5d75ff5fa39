//! HMAC-SHA256 of the body in a header of the sender's choice.
//!
//! It signs no time: what protects from replays is the id in `id-header`, where there is one.

use http::HeaderMap;

use super::{Refusal, Verifier, digest, one};
use crate::config::DigestEncoding;

pub(super) fn verify(
    verifier: &Verifier,
    headers: &HeaderMap,
    body: &[u8],
    header: &str,
    prefix: &str,
    encoding: DigestEncoding,
) -> Result<(), Refusal> {
    let digest = digest(one(headers, header)?, prefix, encoding).ok_or_else(|| Refusal::Malformed(header.to_owned()))?;
    verifier.signed(&[body], &[digest])
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    fn judge(prefix: &str, encoding: DigestEncoding, signature: &str) -> Result<(), Refusal> {
        let scheme = Scheme::Hmac { header: "x-signature".into(), prefix: prefix.into(), encoding };
        // RFC 4231, test case 2.
        verifier(scheme, &["Jefe"]).verify(&headers(&[("X-Signature", signature)]), b"what do ya want for nothing?", at(0))
    }

    #[test]
    fn the_digest_is_read_as_it_is_written() {
        let hex = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let base64 = "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=";
        assert_eq!(judge("", DigestEncoding::Hex, hex), Ok(()));
        assert_eq!(judge("", DigestEncoding::Hex, &hex.to_uppercase()), Ok(()));
        assert_eq!(judge("sha256=", DigestEncoding::Hex, &format!("sha256={hex}")), Ok(()));
        assert_eq!(judge("", DigestEncoding::Base64, base64), Ok(()));
        let malformed = Err(Refusal::Malformed("x-signature".into()));
        assert_eq!(judge("sha256=", DigestEncoding::Hex, hex), malformed);
        assert_eq!(judge("", DigestEncoding::Hex, base64), malformed);
        assert_eq!(judge("", DigestEncoding::Hex, &hex.replace('5', "6")), Err(Refusal::Mismatch));
        assert_eq!(judge("", DigestEncoding::Hex, &hex[..62]), Err(Refusal::Mismatch), "a shorter digest is no digest");
    }
}
