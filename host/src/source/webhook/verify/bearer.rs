//! `Authorization: Bearer SECRET`. It says who sends and nothing about what is sent: use it over TLS only.

use http::HeaderMap;

use super::Refusal;
use crate::{config::Secret, listener::bearer};

pub(super) fn verify(headers: &HeaderMap, secrets: &[Secret]) -> Result<(), Refusal> {
    if bearer::matches(headers, secrets) { Ok(()) } else { Err(Refusal::Token) }
}

#[cfg(test)]
mod tests {
    use super::super::test::*;
    use super::*;
    use crate::config::Scheme;

    #[test]
    fn the_token_must_be_one_of_the_secrets() {
        let verifier = verifier(Scheme::Bearer, &["old", "new"]);
        let judge = |value| verifier.verify(&headers(&[("authorization", value)]), b"", at(0));
        assert_eq!(judge("Bearer new"), Ok(()));
        assert_eq!(judge("Bearer newer"), Err(Refusal::Token));
        assert_eq!(verifier.verify(&headers(&[]), b"", at(0)), Err(Refusal::Token));
    }
}
