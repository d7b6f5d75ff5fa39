//! `Authorization: Bearer TOKEN` (RFC 6750), compared in constant time.

use http::{HeaderMap, header::AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::config::Secret;

/// The token of a request; `None`: there is none, or more than one.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Whether the request carries one of `secrets`. How long this takes tells nothing about them, their length included.
pub(crate) fn matches(headers: &HeaderMap, secrets: &[Secret]) -> bool {
    let Some(token) = token(headers) else { return false };
    let given = Sha256::digest(token);
    let same = |secret: &Secret| Sha256::digest(secret.expose()).ct_eq(&given);
    secrets.iter().filter(|s| !s.expose().is_empty()).fold(Choice::from(0), |any, secret| any | same(secret)).into()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn secret(value: &str) -> Secret {
        Secret::new(value, "env:TOKEN")
    }

    fn authorization(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn any_of_the_secrets_will_do() {
        let secrets = [secret("old"), secret("new")];
        assert!(matches(&authorization("Bearer new"), &secrets));
        assert!(matches(&authorization("bearer  old"), &secrets));
        for other in ["Bearer newer", "Bearer ne", "Bearer", "Bearer ", "Basic new", "new", ""] {
            assert!(!matches(&authorization(other), &secrets), "{other}");
        }
        assert!(!matches(&HeaderMap::new(), &secrets));
    }

    #[test]
    fn two_tokens_and_empty_secrets_match_nothing() {
        let mut two = authorization("Bearer a");
        two.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(!matches(&two, &[secret("a")]));
        assert!(!matches(&authorization("Bearer a"), &[secret("")]));
        assert!(!matches(&authorization("Bearer a"), &[]));
    }
}
