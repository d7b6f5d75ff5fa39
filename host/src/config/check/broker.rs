//! How brokers are reached, for sources and sinks alike.

use super::{Check, reference};
use crate::config::{
    AmqpConfig, KafkaCluster, Secret, TlsConfig,
    document::Span,
    raw::{self, At, Mechanism, Reference, Setting, Table},
};

/// Settings of librdkafka that the host needs for itself, each with the key that says it.
const OWN: [(&str, &str); 14] = [
    ("bootstrap.servers", "say it by `brokers`"),
    ("metadata.broker.list", "say it by `brokers`"),
    ("group.id", "say it by `group`"),
    ("group.protocol", "say it by `protocol`"),
    ("auto.offset.reset", "say it by `start`"),
    ("enable.auto.commit", "the host commits what was handled"),
    ("enable.auto.offset.store", "the host commits what was handled"),
    ("enable.idempotence", "a sink is always idempotent"),
    ("acks", "a sink waits for all replicas"),
    ("request.required.acks", "a sink waits for all replicas"),
    ("sasl.username", "say it by `sasl`"),
    ("sasl.password", "say it by `sasl`"),
    ("enable.partition.eof", "the host has no use for it"),
    ("transactional.id", "sinks do not use transactions"),
];

/// Settings of librdkafka whose value is a secret.
const SECRET: [&str; 6] = [
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
];

/// A Kafka cluster: TLS and SASL become settings of librdkafka, and whatever else is written there is passed through.
pub(super) fn kafka(check: &mut Check<'_>, section: &Span, raw: &raw::Cluster) -> KafkaCluster {
    let brokers = check.required(section, "brokers", &raw.brokers, "where the cluster is, such as `localhost:9092`");
    if let Some(At { value, span }) = brokers {
        for broker in value.split(',') {
            if !is_address(broker.trim()) {
                check.error(span, "expected `host:port`, several with commas between");
            }
        }
    }
    let mut settings = Vec::new();
    let protocol = match (raw.tls.is_some(), raw.sasl.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    };
    settings.push(("security.protocol".to_owned(), literal(protocol)));
    if let Some(Table(raw)) = &raw.tls {
        let tls = tls(check, raw);
        let path = |path: std::path::PathBuf| literal(path.to_string_lossy());
        let ca = tls.ca.map_or_else(|| literal("probe"), path);
        settings.push(("ssl.ca.location".to_owned(), ca));
        if let Some((certificate, key)) = tls.identity {
            settings.push(("ssl.certificate.location".to_owned(), path(certificate)));
            settings.push(("ssl.key.location".to_owned(), path(key)));
        }
    }
    if let Some(At { value: Table(sasl), span }) = &raw.sasl {
        let mechanism = sasl.mechanism.unwrap_or(Mechanism::ScramSha512);
        if mechanism == Mechanism::Plain && raw.tls.is_none() {
            check.warning(span, "`plain` sends the password as it is; use it with `tls`");
        }
        let word = match mechanism {
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::Plain => "PLAIN",
        };
        settings.push(("sasl.mechanism".to_owned(), literal(word)));
        let username = check.required(span, "username", &sasl.username, "the user of the broker");
        settings.extend(username.map(|at| ("sasl.username".to_owned(), literal(&at.value))));
        let password = check.required(span, "password", &sasl.password, "where the password is, such as `env:KAFKA_PASSWORD`");
        let password = password.and_then(|at| reference::secret(check, at));
        settings.extend(password.map(|password| ("sasl.password".to_owned(), password)));
    }
    for (name, At { value: Setting(value), span }) in &raw.settings {
        if let Some((_, instead)) = OWN.iter().find(|(own, _)| own == name) {
            check.error(span, format!("cannot be set here: {instead}"));
        } else if SECRET.contains(&name.as_str()) && matches!(value, Reference::Literal(_)) {
            check.error(span, "a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`");
        } else if let Some(resolved) = reference::resolve(check, value, span) {
            let shown = if let Reference::Literal(text) = value { text.clone() } else { reference::show(value) };
            if rdkafka::ClientConfig::new().set(name, &resolved).create_native_config().is_err() {
                check.error(span, format!("librdkafka has no setting `{name}`, or not with the value {shown}"));
            }
            settings.push((name.clone(), Secret::new(resolved, shown)));
        }
    }
    KafkaCluster { brokers: brokers.map(|at| at.value.clone()).unwrap_or_default(), settings }
}

/// A RabbitMQ broker.
pub(super) fn amqp(check: &mut Check<'_>, section: &Span, raw: &raw::Amqp) -> AmqpConfig {
    let url = check.required(section, "url", &raw.url, "the broker, such as `amqp://localhost:5672` or `env:AMQP_URL`");
    let url = url.and_then(|at| self::url(check, at, &["amqp", "amqps"]));
    let tls = raw.tls.as_ref().map(|Table(raw)| tls(check, raw)).unwrap_or_default();
    if let (Some(url), Some(_), Some(at)) = (&url, &raw.tls, &raw.url)
        && !url.expose().starts_with("amqps:")
    {
        check.error(&at.span, "with `tls` the URL begins with `amqps:`");
    }
    AmqpConfig { url: url.unwrap_or_else(|| literal("")), tls }
}

/// A URL of one of these schemes. A literal one is fine as long as it holds no password.
pub(super) fn url(check: &mut Check<'_>, At { value, span }: &At<Reference>, schemes: &[&str]) -> Option<Secret> {
    let written = reference::resolve(check, value, span)?;
    let parsed = url::Url::parse(&written).ok().filter(|url| schemes.contains(&url.scheme()) && url.has_host());
    let Some(parsed) = parsed else {
        let example = format!("{}://localhost", schemes[0]);
        let message = match value {
            Reference::Literal(_) => {
                format!("expected a URL such as `{example}`, or `env:NAME` or `file:PATH` for one that holds a password")
            }
            elsewhere => format!("what {} holds is no URL such as `{example}`", reference::show(elsewhere)),
        };
        check.error(span, message);
        return None;
    };
    if matches!(value, Reference::Literal(_)) && parsed.password().is_some() {
        check.error(span, "a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`");
        return None;
    }
    let shown = if matches!(value, Reference::Literal(_)) { written.clone() } else { reference::show(value) };
    Some(Secret::new(written, shown))
}

fn tls(check: &mut Check<'_>, raw: &raw::Tls) -> TlsConfig {
    let mut file = |field: &Option<At<String>>| {
        let At { value, span } = field.as_ref()?;
        let path = check.path(value);
        if !path.is_file() {
            check.error(span, format!("there is no file {}", path.display()));
        }
        Some(path)
    };
    let (ca, certificate, key) = (file(&raw.ca), file(&raw.certificate), file(&raw.key));
    let alone = match (&raw.certificate, &raw.key) {
        (Some(at), None) => Some((at, "key")),
        (None, Some(at)) => Some((at, "certificate")),
        _ => None,
    };
    if let Some((at, other)) = alone {
        check.error(&at.span, format!("a client's certificate and its key go together; `{other}` is missing"));
    }
    TlsConfig { ca, identity: certificate.zip(key) }
}

/// A setting that is no secret.
fn literal(value: impl AsRef<str>) -> Secret {
    Secret::new(value.as_ref(), value.as_ref())
}

/// `host:port`, the host being a name, an IPv4 address or an IPv6 address in brackets.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains(['/', ' ', '@']) && port.parse::<u16>().is_ok_and(|port| port > 0))
}
