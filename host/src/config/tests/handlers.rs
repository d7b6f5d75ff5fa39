//! `[handlers.*]`: what is said about bad ones.

use super::*;

#[test]
fn a_handler_has_a_plugin_and_a_subscription() {
    assert_said(
        r#"
        [handlers.a]

        [handlers.b]
        plugin = "b.js"
        on = []

        [handlers.c]
        plugn = "a.js"
        on = "orders"
        "#,
        r#"
        koksmat.toml:1:1: handlers.a.plugin: missing; the code, such as `handlers/invoice.js` or `plugins/invoice.wasm`
        koksmat.toml:1:1: handlers.a.on: missing; which events it wants, such as `[{ source = "orders" }]`
        koksmat.toml:3:1: handlers.b.on: missing; which events it wants, such as `[{ source = "orders" }]`
        koksmat.toml:4:10: handlers.b.plugin: there is no b.js
        koksmat.toml:8:1: handlers.c.plugn: unknown key; did you mean `plugin`?
        koksmat.toml:9:6: handlers.c.on: expected a table, `{ key = value }`, not a string
        "#,
    );
}

#[test]
fn plugins_are_files_and_folders_that_can_be_built() {
    assert_said(
        r#"
        [handlers.a]
        plugin = "notes.txt"
        on = { source = "emit" }

        [handlers.b]
        plugin = "made"
        on = { source = "emit" }

        [handlers.c]
        plugin = "made"
        build = { command = [] }
        on = { source = "emit" }

        [handlers.d]
        plugin = "a.js"
        build = { command = ["make"], output = "a.wasm" }
        on = { source = "emit" }

        [handlers.e]
        plugin = "no/such.wasm"
        on = { source = "emit" }
        "#,
        r#"
        koksmat.toml:2:10: handlers.a.plugin: not a plugin; expected a `.wasm`, `.js`, `.mjs`, `.ts` or `.mts` file, or a folder
        koksmat.toml:6:10: handlers.b.plugin: made has no Cargo.toml; say how it is built by `command` and `output` in [handlers.b.build]
        koksmat.toml:11:9: handlers.c.build.output: missing; the component that the command makes, such as `handlers/invoice/plugin.wasm`
        koksmat.toml:11:21: handlers.c.build.command: names no program
        koksmat.toml:16:9: handlers.d.build: only a folder is built; name one as `plugin`, or leave this table out
        koksmat.toml:20:10: handlers.e.plugin: there is no no/such.wasm
        "#,
    );
}

#[test]
fn subscriptions_name_something_that_exists() {
    assert_said(
        r#"
        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = [{}, { atomic = true }, { type = "" }, { source = "stock" }, { source = "order" }, { source = "ord*" }, { source = "x*" }]

        [handlers.b]
        plugin = "a.js"
        on = { kind = "webhok", attributes = { Region = "eu" } }
        "#,
        r#"
        koksmat.toml:6:7: handlers.a.on[0]: this entry names nothing; for every event write `{ type = "*" }`
        koksmat.toml:6:11: handlers.a.on[1]: this entry names nothing; for every event write `{ type = "*" }`
        koksmat.toml:6:39: handlers.a.on[2].type: is empty; leave it out, or write `*` for anything
        koksmat.toml:6:56: handlers.a.on[3].source: no source is called `stock`; expected `orders` or `emit`
        koksmat.toml:6:78: handlers.a.on[4].source: no source is called `order`; did you mean `orders`?
        koksmat.toml:6:121: handlers.a.on[6].source: no source is called `x*`; expected `orders` or `emit`
        koksmat.toml:10:15: handlers.b.on.kind: no kind of source is called `webhok`; did you mean `webhook`?
        koksmat.toml:10:49: handlers.b.on.attributes.Region: an attribute's name has lower-case letters and digits
        koksmat.toml:8:11: warning: handlers.b: no source makes events that this handler wants
        "#,
    );
}

#[test]
fn limits_have_ranges() {
    assert_said(
        r#"
        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = { source = "orders" }
        timeout = "2h"
        memory = 1
        concurrency = 0
        order = "keys"
        retry = { attempts = 101, backoff = "5s..1s" }

        [handlers.b]
        plugin = "a.js"
        on = { source = "orders" }
        timeout = "0ms"
        retry = { backoff = "1s" }
        "#,
        r#"
        koksmat.toml:7:11: handlers.a.timeout: 2h is out of range: 1ms to 1h
        koksmat.toml:8:10: handlers.a.memory: 1B is out of range: 1MiB to 1GiB
        koksmat.toml:9:15: handlers.a.concurrency: 0 is out of range: 1 to 10000
        koksmat.toml:10:9: handlers.a.order: must be `none`, `key` or `source`; did you mean `key`?
        koksmat.toml:11:22: handlers.a.retry.attempts: 101 is out of range: 1 to 100
        koksmat.toml:11:37: handlers.a.retry.backoff: the first wait is longer than the longest
        koksmat.toml:16:11: handlers.b.timeout: 0s is out of range: 1ms to 1h
        koksmat.toml:17:21: handlers.b.retry.backoff: expected the first and the longest wait, such as `200ms..30s`
        koksmat.toml:7:11: warning: handlers.a.timeout: a stop cuts what runs longer than host.drain-deadline, 30s
        "#,
    );
}

#[test]
fn a_call_that_may_outlast_a_stop_is_worth_a_warning() {
    assert_said(
        r#"
        [host]
        drain-deadline = "10s"

        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = { source = "orders" }
        timeout = "1m"
        "#,
        r#"
        koksmat.toml:10:11: warning: handlers.a.timeout: a stop cuts what runs longer than host.drain-deadline, 10s
        "#,
    );
}

#[test]
fn grants_are_spelled_out() {
    assert_said(
        r#"
        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = { source = "orders" }

        [handlers.a.grants]
        http = ["*", "10.0.0.1", "http://user:hunter2@example.com/path", "localhost:9000"]
        keyvalue = ""
        emit = [""]
        sockets = true

        [handlers.b]
        plugin = "a.js"
        on = { source = "orders" }
        grants = { http = "api.example.com" }
        "#,
        r#"
        koksmat.toml:9:9: handlers.a.grants.http[0]: `*` alone would grant every host; name them, or a domain: `*.example.com`
        koksmat.toml:9:14: handlers.a.grants.http[1]: 10.0.0.1 is a private address, which is granted with its port only: `10.0.0.1:PORT`
        koksmat.toml:9:26: handlers.a.grants.http[2]: only the host is granted, without scheme and path: write `example.com`
        koksmat.toml:9:66: handlers.a.grants.http[3]: a loopback address is granted by the address itself: `127.0.0.1:9000`
        koksmat.toml:10:12: handlers.a.grants.keyvalue: is empty; for all keys write `true`
        koksmat.toml:11:9: handlers.a.grants.emit[0]: is empty; expected a type of events, such as `orders.*`
        koksmat.toml:12:1: handlers.a.grants.sockets: unknown key; here may stand `http`, `keyvalue` or `emit`
        koksmat.toml:17:19: handlers.b.grants.http: expected an array, not a string
        "#,
    );
}

#[test]
fn a_sender_that_waits_needs_exactly_one_handler() {
    assert_said(
        r#"
        [sources.none]
        kind = "webhook"
        path = "/none"
        reply = "handler"

        [sources.two]
        kind = "webhook"
        path = "/two"
        reply = "handler"

        [sources.split]
        kind = "webhook"
        path = "/split"
        reply = "handler"

        [handlers.a]
        plugin = "a.js"
        on = [{ source = "two", type = "com.*" }, { source = "split", type = "com.github.push" }]

        [handlers.b]
        plugin = "a.js"
        on = [{ kind = "webhook", source = "two" }, { source = "split", type = "com.github.issues" }]
        "#,
        r#"
        koksmat.toml:1:10: sources.none: `reply = "handler"` needs a handler for this source, and none wants its events
        koksmat.toml:6:10: sources.two: `reply = "handler"` needs exactly one handler for an event, and both handlers.a and handlers.b want it
        "#,
    );
}

#[test]
fn a_type_alone_does_not_make_a_handler_the_second_one() {
    assert_said(
        r#"
        [sources.ask]
        kind = "webhook"
        path = "/ask"
        reply = "handler"

        [handlers.answer]
        plugin = "a.js"
        on = { source = "ask" }

        [handlers.other]
        plugin = "a.js"
        on = { type = "order.created" }
        "#,
        "",
    );
}

#[test]
fn order_needs_events_that_wait_in_the_store() {
    assert_said(
        r#"
        [sources.rows]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1s"
        claim = { table = "t", key = "id" }

        [sources.ask]
        kind = "webhook"
        path = "/ask"
        reply = "handler"

        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = [{ source = "orders" }, { source = "rows" }]
        order = "key"

        [handlers.b]
        plugin = "a.js"
        on = { source = "ask" }
        order = "source"

        [handlers.c]
        plugin = "a.js"
        on = { source = "orders" }
        order = "key"
        "#,
        r#"
        koksmat.toml:18:9: handlers.a.order: order cannot be kept for events of sources.rows, whose events do not wait in the store; subscribe to durable sources only
        koksmat.toml:23:9: handlers.b.order: order cannot be kept for events of sources.ask, which waits for the handler's response; subscribe to durable sources only
        "#,
    );
}

#[test]
fn a_handler_that_nothing_can_feed_is_worth_a_warning() {
    assert_said(
        r#"
        [sources.orders]
        kind = "embedded"

        [handlers.a]
        plugin = "a.js"
        on = { kind = "timer" }

        [handlers.b]
        plugin = "a.js"
        on = [{ source = "emit" }, { kind = "timer" }]
        "#,
        r#"
        koksmat.toml:4:11: warning: handlers.a: no source makes events that this handler wants
        "#,
    );
}

#[test]
fn how_new_code_comes_to_serve_is_checked() {
    assert_said(
        r#"
        [handlers.a]
        plugin = "a.js"
        on = { source = "emit" }
        self-test = ["none.json"]
        retry-on = "old"
        canary = { share = "0%", for = "2 m", min-calls = 0, max-errors = 1, shade = true }
        "#,
        r#"
        koksmat.toml:4:14: handlers.a.self-test[0]: there is no none.json; expected a file with an event in the JSON format of CloudEvents
        koksmat.toml:5:12: handlers.a.retry-on: must be `current` or `same`
        koksmat.toml:6:20: handlers.a.canary.share: 0% is out of range: 0.1% to 100%
        koksmat.toml:6:32: handlers.a.canary.for: expected a duration with its unit, such as `200ms`, `5s`, `2m`, `1h` or `7d`
        koksmat.toml:6:51: handlers.a.canary.min-calls: 0 is out of range: 1 to 1000000
        koksmat.toml:6:67: handlers.a.canary.max-errors: expected a share such as `10%` or `0.5%`, not a whole number
        koksmat.toml:6:70: handlers.a.canary.shade: unknown key; did you mean `share`?
        "#,
    );
}
