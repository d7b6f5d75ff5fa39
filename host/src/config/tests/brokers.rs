//! Brokers: `kind = "kafka"`, `kind = "rabbitmq"` and `[sinks.*]`.

use super::*;
use crate::config::{ContentMode, Intake, Protocol, SinkKind, SourceKind, Start};

fn kafka(settings: &str) -> String {
    format!("[sources.a]\nkind = \"kafka\"\nbrokers = \"localhost:9092\"\ngroup = \"g\"\ntopics = [\"orders\"]\n{settings}\n")
}

#[test]
fn a_kafka_source_has_defaults() {
    let config = good(&kafka(""));
    let SourceKind::Kafka(kafka) = &config.sources[0].kind else { panic!("{:?}", config.sources) };
    assert_eq!((kafka.start, kafka.protocol, kafka.span, kafka.intake), (Start::Earliest, Protocol::Classic, 10_000, Intake::Direct));
    assert_eq!(config.sources[0].in_flight, 256);
    let settings: Vec<_> = kafka.cluster.settings.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(settings, [("security.protocol", "plaintext")]);
}

#[test]
fn tls_and_sasl_become_settings_of_the_library_and_the_password_is_not_shown() {
    let file = "tls = {}\nsasl = { username = \"shop\", password = \"env:SECRET\" }\n[sources.a.settings]\n\"fetch.wait.max.ms\" = 50";
    let config = good(&kafka(file));
    let SourceKind::Kafka(kafka) = &config.sources[0].kind else { panic!("{:?}", config.sources) };
    let settings: Vec<_> = kafka.cluster.settings.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
    assert_eq!(
        settings,
        [
            ("security.protocol", "sasl_ssl"),
            ("ssl.ca.location", "probe"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("sasl.username", "shop"),
            ("sasl.password", "hunter2"),
            ("fetch.wait.max.ms", "50"),
        ]
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_is_wrong_with_a_kafka_source_is_said() {
    assert_said(
        r#"
        [sources.a]
        kind = "kafka"
        brokers = "http://localhost"
        group = ""
        topics = ["no good", "^fine.*"]
        backlog = 5
        sasl = { mechanism = "plain", username = "u", password = "hunter2" }

        [sources.a.settings]
        "group.id" = "x"
        "enable.auto.commit" = true
        "fetch.wait.max.msec" = 5
        "session.timeout.ms" = "soon"
        "ssl.key.password" = "hunter2"

        [sources.b]
        kind = "kafka"
        "#,
        r#"
        koksmat.toml:3:11: sources.a.brokers: expected `host:port`, several with commas between
        koksmat.toml:4:9: sources.a.group: is empty; expected the name of a consumer group
        koksmat.toml:5:11: sources.a.topics[0]: a topic's name has up to 249 letters, digits, `.`, `_` and `-`; a pattern begins with `^`
        koksmat.toml:6:11: sources.a.backlog: goes with `intake = "durable"`; a direct source is bounded by `in-flight`
        koksmat.toml:7:58: sources.a.sasl.password: a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:10:14: sources.a.settings.group.id: cannot be set here: say it by `group`
        koksmat.toml:11:24: sources.a.settings.enable.auto.commit: cannot be set here: the host commits what was handled
        koksmat.toml:12:25: sources.a.settings.fetch.wait.max.msec: librdkafka has no setting `fetch.wait.max.msec`, or not with the value 5
        koksmat.toml:13:24: sources.a.settings.session.timeout.ms: librdkafka has no setting `session.timeout.ms`, or not with the value soon
        koksmat.toml:14:22: sources.a.settings.ssl.key.password: a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:16:1: sources.b.brokers: missing; where the cluster is, such as `localhost:9092`
        koksmat.toml:16:1: sources.b.group: missing; the consumer group, such as `koksmat`
        koksmat.toml:16:1: sources.b.topics: missing; such as `["orders"]`
        koksmat.toml:7:8: warning: sources.a.sasl: `plain` sends the password as it is; use it with `tls`
        "#,
    );
}

#[test]
fn what_is_wrong_with_a_rabbitmq_source_is_said() {
    assert_said(
        r#"
        [sources.a]
        kind = "rabbitmq"
        url = "amqp://shop:hunter2@localhost"
        queue = "tasks"
        in-flight = 5000
        declare = { type = "quorum" }

        [sources.b]
        kind = "rabbitmq"
        url = "http://localhost"
        queue = ""
        declare = { type = "classic", delivery-limit = 5 }
        tls = { certificate = "nowhere.pem" }
        "#,
        r#"
        koksmat.toml:3:7: sources.a.url: a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:5:13: sources.a.in-flight: 5000 is out of range: 1 to 2000
        koksmat.toml:6:11: sources.a.declare.dead-letter-exchange: missing; a quorum queue gives up on a message it has delivered too often, and without this exchange the message is lost
        koksmat.toml:10:7: sources.b.url: expected a URL such as `amqp://localhost`, or `env:NAME` or `file:PATH` for one that holds a password
        koksmat.toml:11:9: sources.b.queue: a queue's name has 1 to 255 bytes
        koksmat.toml:12:48: sources.b.declare.delivery-limit: only quorum queues count deliveries; leave this out
        koksmat.toml:13:23: sources.b.tls.certificate: there is no file nowhere.pem
        koksmat.toml:13:23: sources.b.tls.certificate: a client's certificate and its key go together; `key` is missing
        "#,
    );
}

#[test]
fn a_sink_publishes_what_handlers_emit() {
    let config = good(
        "[sinks.shipped]\nkind = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"shipped\"\nmode = \"structured\"\n\
         on = [{ type = \"order.shipped\" }]\n",
    );
    let sink = &config.sinks[0];
    assert_eq!((sink.name.as_str(), sink.mode, sink.on[0].ty.as_deref()), ("shipped", ContentMode::Structured, Some("order.shipped")));
    assert!(matches!(&sink.kind, SinkKind::Kafka { topic, .. } if topic == "shipped"));
    assert_said(
        r#"
        [sinks.a]
        kind = "kafka"
        brokers = "localhost:9092"
        topic = "t"
        on = [{ source = "orders", type = "x" }]

        [sinks.b]
        kind = "rabbitmq"
        "#,
        r#"
        koksmat.toml:5:18: sinks.a.on[0].source: a sink publishes what handlers emit; say which by `type`, `subject` and `attributes`
        koksmat.toml:7:1: sinks.b.url: missing; the broker, such as `amqp://localhost:5672` or `env:AMQP_URL`
        koksmat.toml:7:1: sinks.b.on: missing; which emitted events it publishes, such as `[{ type = "order.shipped" }]`
        "#,
    );
}

#[test]
fn what_one_host_alone_can_promise_is_said() {
    let handler = "[handlers.h]\nplugin = \"a.js\"\non = { source = \"a\" }\n";
    let said = |file: String| good(&file).warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(said(format!("{}{handler}", kafka(""))), "");
    let effects = said(format!("{}{handler}grants = {{ keyvalue = true }}\n", kafka("")));
    assert!(effects.contains("sources.a") && effects.contains("run it on one host"), "{effects}");
    let shared = said(format!("[host]\nstore = \"postgres://db/k\"\n{}{handler}grants = {{ keyvalue = true }}\n", kafka("")));
    assert_eq!(shared, "", "hosts that share a store promise it together");
    let slow = said(format!("{}{handler}timeout = \"20s\"\n", kafka("")));
    assert!(slow.contains("its calls may take 20s") && slow.contains("waits 5s") && slow.contains("durable"), "{slow}");
    assert_eq!(said(format!("{}{handler}timeout = \"20s\"\n", kafka("intake = \"durable\""))), "");
}
