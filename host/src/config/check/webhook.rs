//! `kind = "webhook"`: paths, signatures, headers.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderName;

use super::{
    Check, DAY, KIB, MIB, MINUTE, reference, seconds,
    source::{BACKLOG, Sources},
};
use crate::{
    config::{
        DigestEncoding, HostConfig, Reply, Scheme, Secret, SourceKind, Verify, WebhookConfig,
        document::Span,
        raw::{self, At, Common, SchemeWord, Table},
    },
    event::is_credential,
};

pub(super) fn check(check: &mut Check<'_>, section: &Span, raw: raw::Webhook) -> (Common, SourceKind) {
    let path = check.required(section, "path", &raw.path, "the path that is served, such as `/github`");
    if let Some(at) = path {
        self::path(check, at);
    }
    let verify = raw.verify.as_ref().and_then(|at| verify(check, at));
    let signed_by = match verify.as_ref().map(|verify| &verify.scheme) {
        Some(Scheme::Hmac { header, .. }) => header.clone(),
        _ => String::new(),
    };
    let headers = raw.headers.iter().filter_map(|at| shown_header(check, at, &signed_by)).collect();
    let kind = SourceKind::Webhook(WebhookConfig {
        path: path.map(|at| at.value.clone()).unwrap_or_default(),
        verify,
        reply: raw.reply.as_ref().map_or(Reply::Accepted, |at| at.value),
        headers,
        max_body: check.size(&raw.max_body, MIB, KIB..=256 * MIB),
        backlog: check.count(&raw.backlog, BACKLOG, 1..=100_000_000),
        id_header: raw.id_header.as_ref().and_then(|at| shown_header(check, at, &signed_by)),
    });
    (Common { in_flight: raw.in_flight, unmatched: raw.unmatched, intake: raw.intake }, kind)
}

/// What concerns several webhooks, or a webhook and the host.
pub(super) fn check_together(check: &mut Check<'_>, sources: &Sources<'_>, host: &HostConfig) {
    let mut taken: Vec<(&str, &str)> = Vec::new();
    for source in &sources.found {
        let SourceKind::Webhook(webhook) = &source.config.kind else { continue };
        match taken.iter().find(|(path, _)| *path == webhook.path) {
            Some((_, other)) if !webhook.path.is_empty() => {
                check.error(
                    &source.span,
                    format!("its path `{}` is that of sources.{other}; each webhook needs a path of its own", webhook.path),
                );
            }
            _ => taken.push((&webhook.path, &source.config.name)),
        }
        if webhook.verify.is_none() && !host.listen.ip().is_loopback() {
            check.warning(&source.span, format!("anyone who reaches {} may post; say by `verify` who may", host.listen));
        }
    }
}

fn path(check: &mut Check<'_>, At { value, span }: &At<String>) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.' | b'~');
    if !value.starts_with('/') {
        check.error(span, "a path begins with `/`");
    } else if !value.bytes().all(plain) || value.contains("//") {
        check.error(span, "a path has letters, digits, `-`, `_`, `.`, `~` and single `/`");
    } else if value == "/queues" || value.starts_with("/queues/") {
        check.error(span, "`/queues` is where embedded queues are published; choose another path");
    }
}

fn verify(check: &mut Check<'_>, At { value: Table(raw), span: section }: &At<Table<raw::Verify>>) -> Option<Verify> {
    let word = check.required(section, "scheme", &raw.scheme, "how requests are signed, such as `github` or `standard-webhooks`");
    let given = check.required(section, "secret", &raw.secret, "where the secret is, such as `env:WEBHOOK_SECRET`");
    let word = word?.value;
    if let (true, Some(At { span, .. })) = (given.is_some_and(|at| at.value.0.is_empty()), given) {
        check.error(span, "names no secret; expected `env:NAME` or `file:PATH`");
    }
    let mut secrets = Vec::new();
    for at in given.iter().flat_map(|at| &at.value.0) {
        let Some(secret) = reference::secret(check, at) else { continue };
        if word == SchemeWord::StandardWebhooks && !is_standard(&secret) {
            let message = format!("{} holds no Standard Webhooks secret: base64 after `whsec_`", secret.reference());
            check.error(&at.span, message);
        }
        secrets.push(secret);
    }
    if let (false, Some(at)) = (matches!(word, SchemeWord::StandardWebhooks | SchemeWord::Stripe | SchemeWord::Slack), &raw.tolerance) {
        check.error(&at.span, "this scheme signs no timestamp; leave this key out");
    }
    let tolerance = check.time(&raw.tolerance, MINUTE * 5, seconds(1)..=DAY);
    Some(Verify { scheme: scheme(check, word, section, raw), secrets, tolerance })
}

fn scheme(check: &mut Check<'_>, word: SchemeWord, section: &Span, raw: &raw::Verify) -> Scheme {
    if word != SchemeWord::Hmac {
        let places =
            [raw.header.as_ref().map(|at| &at.span), raw.prefix.as_ref().map(|at| &at.span), raw.encoding.as_ref().map(|at| &at.span)];
        for span in places.into_iter().flatten() {
            check.error(span, "this key goes with the scheme `hmac`; the others know it themselves");
        }
    }
    match word {
        SchemeWord::StandardWebhooks => Scheme::StandardWebhooks,
        SchemeWord::Github => Scheme::Github,
        SchemeWord::Stripe => Scheme::Stripe,
        SchemeWord::Slack => Scheme::Slack,
        SchemeWord::Bearer => Scheme::Bearer,
        SchemeWord::Hmac => Scheme::Hmac {
            header: check
                .required(section, "header", &raw.header, "the header that carries the digest, such as `x-signature`")
                .and_then(|at| header(check, at))
                .unwrap_or_default(),
            prefix: raw.prefix.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
            encoding: raw.encoding.as_ref().map_or(DigestEncoding::Hex, |at| at.value),
        },
    }
}

/// Whether a secret is base64, with or without its prefix and padding.
fn is_standard(secret: &Secret) -> bool {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let secret = secret.expose().strip_prefix("whsec_").unwrap_or(secret.expose());
    GeneralPurpose::new(&alphabet::STANDARD, config).decode(secret).is_ok_and(|key| !key.is_empty())
}

/// A header's name in lower case.
fn header(check: &mut Check<'_>, At { value, span }: &At<String>) -> Option<String> {
    match HeaderName::from_bytes(value.as_bytes()) {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(_) => {
            check.error(span, "not the name of a header");
            None
        }
    }
}

/// A header that a handler may see: none that may hold a credential.
fn shown_header(check: &mut Check<'_>, at: &At<String>, signed_by: &str) -> Option<String> {
    let name = header(check, at)?;
    if is_credential(&name) || name == signed_by {
        check.error(&at.span, "handlers never see signatures, cookies or credentials; leave this header out");
        return None;
    }
    Some(name)
}
