//! `[sources.*]`: what is said about bad ones.

use super::*;
use crate::config::{PollMode, SourceKind};

#[test]
fn names_are_fit_for_keys_and_paths() {
    assert_said(
        r#"
        [sources]
        "b c" = { kind = "embedded" }
        emit = { kind = "embedded" }
        ok-1_A = { kind = "embedded" }
        "#,
        r#"
        koksmat.toml:2:1: sources.b c: a name has up to 64 letters, digits, `-` and `_`
        koksmat.toml:3:1: sources.emit: this name is taken: it is the source of what handlers emit
        "#,
    );
}

#[test]
fn a_source_has_a_kind() {
    assert_said(
        r#"
        [sources]
        a = 1
        b = {}
        c = { kind = 5 }
        d = { kind = "cron" }
        e = { kind = "web-hook" }
        "#,
        r#"
        koksmat.toml:2:5: sources.a: expected a table, `{ kind = … }`, not a whole number
        koksmat.toml:3:5: sources.b.kind: missing; a source is `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`
        koksmat.toml:4:14: sources.c.kind: must be `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`
        koksmat.toml:5:14: sources.d.kind: must be `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`
        koksmat.toml:6:14: sources.e.kind: must be `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`; did you mean `webhook`?
        "#,
    );
}

#[test]
fn limits_have_ranges() {
    assert_said(
        r#"
        [sources.a]
        kind = "embedded"
        in-flight = 0
        backlog = -1
        max-body = "1GiB"
        unmatched = "drop"
        "#,
        r#"
        koksmat.toml:3:13: sources.a.in-flight: 0 is out of range: 1 to 100000
        koksmat.toml:4:11: sources.a.backlog: expected a whole number, 0 or more
        koksmat.toml:5:12: sources.a.max-body: 1GiB is out of range: 1KiB to 256MiB
        koksmat.toml:6:13: sources.a.unmatched: must be `dead-letter` or `ignore`
        "#,
    );
}

#[test]
fn a_choice_is_one_of_its_words() {
    assert_said(
        r#"
        [sources.a]
        kind = "timer"
        cron = "@daily"
        missed = 5
        overlap = {}
        unmatched = "drop"
        intake = ["direct"]
        "#,
        r#"
        koksmat.toml:4:10: sources.a.missed: expected a string, not a whole number
        koksmat.toml:5:11: sources.a.overlap: expected a string, not a table
        koksmat.toml:6:13: sources.a.unmatched: must be `dead-letter` or `ignore`
        koksmat.toml:7:10: sources.a.intake: expected a string, not an array
        "#,
    );
}

#[test]
fn intake_is_for_brokers() {
    assert_said(
        r#"
        [sources.a]
        kind = "embedded"
        intake = "direct"

        [sources.b]
        kind = "webhook"
        path = "/b"
        intake = "direct"

        [sources.c]
        kind = "poller"
        database = "sqlite:c.db"
        every = "1s"
        claim = { table = "t", key = "id" }
        intake = "durable"
        "#,
        r#"
        koksmat.toml:3:10: sources.a.intake: embedded sources are always durable; leave this key out
        koksmat.toml:8:10: sources.b.intake: a webhook says it by `reply`: `accepted` or `handler`
        koksmat.toml:15:10: sources.c.intake: `durable` is for kafka and rabbitmq sources; a row waits in its database
        "#,
    );
}

#[test]
fn a_timer_fires_some_time_in_a_zone_that_exists() {
    assert_said(
        r#"
        [sources.a]
        kind = "timer"

        [sources.b]
        kind = "timer"
        cron = "0 0 30 2 *"

        [sources.c]
        kind = "timer"
        cron = "daily"
        zone = "Europe/Copenhagn"
        overlap = "wait"

        [sources.d]
        kind = "timer"
        cron = "0 0 0 1 1 * 2030"
        zone = "Mars/Olympus"
        every = "5s"
        "#,
        r#"
        koksmat.toml:1:1: sources.a.cron: missing; when it fires, such as `0 6 * * *`
        koksmat.toml:6:8: sources.b.cron: this never fires: there is no such day
        koksmat.toml:10:8: sources.c.cron: not a cron expression (Invalid pattern: Pattern must have 5 or 6 fields when years are disallowed); expected five fields, such as `0 6 * * *`, or six with seconds
        koksmat.toml:11:8: sources.c.zone: not a time zone that this machine knows; did you mean `Europe/Copenhagen`?
        koksmat.toml:12:11: sources.c.overlap: must be `allow`, `skip` or `queue`
        koksmat.toml:16:8: sources.d.cron: not a cron expression (Invalid pattern: Pattern must have 5 or 6 fields when years are disallowed); expected five fields, such as `0 6 * * *`, or six with seconds
        koksmat.toml:17:8: sources.d.zone: not a time zone that this machine knows; expected an IANA name, such as `Europe/Copenhagen`, or `UTC`
        koksmat.toml:18:1: sources.d.every: unknown key; here may stand `in-flight`, `unmatched`, `intake`, `cron`, `zone`, `missed` or `overlap`
        "#,
    );
}

#[test]
fn a_poller_needs_a_database_an_interval_and_one_mode() {
    assert_said(
        r#"
        [sources.a]
        kind = "poller"

        [sources.b]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1ms"
        query = "select 1"
        condition = "select 2"
        claim = { table = "t", key = "id" }
        on = "change"
        version = "v"

        [sources.c]
        kind = "poller"
        database = "sqlite::memory:"
        every = 5
        query = " ; "
        "#,
        r#"
        koksmat.toml:1:1: sources.a.database: missing; the database, such as `sqlite:billing.db` or `env:BILLING_DATABASE_URL`
        koksmat.toml:1:1: sources.a.every: missing; the time between polls, such as `2s`
        koksmat.toml:1:1: sources.a.claim: missing; or `cursor`, `query` or `condition`: how rows become events
        koksmat.toml:7:9: sources.b.every: 1ms is out of range: 10ms to 1d
        koksmat.toml:8:9: sources.b.query: a poller has one of `claim`, `cursor`, `query` and `condition`; make this another source
        koksmat.toml:9:13: sources.b.condition: a poller has one of `claim`, `cursor`, `query` and `condition`; make this another source
        koksmat.toml:11:6: sources.b.on: this key goes with `condition`, not with `claim`
        koksmat.toml:12:11: sources.b.version: this key goes with `query`, not with `claim`
        koksmat.toml:14:1: sources.c.key: missing; the column of the query that says which row it is
        koksmat.toml:16:12: sources.c.database: expected `sqlite:PATH` with the path of a file; a database in memory has nothing to poll
        koksmat.toml:17:9: sources.c.every: expected a duration with its unit, such as `200ms`, `5s`, `2m`, `1h` or `7d`, not a whole number
        koksmat.toml:18:9: sources.c.query: is empty; expected SQL
        "#,
    );
}

#[test]
fn what_makes_a_database_is_read_from_beside_the_file() {
    assert_said(
        r#"
        [sources.a]
        kind = "poller"
        database = "sqlite:x.db"
        setup = "nowhere.sql"
        every = "1s"
        query = "select 1 as id"
        key = "id"
        "#,
        r#"
        koksmat.toml:4:9: sources.a.setup: cannot read the file nowhere.sql: No such file or directory (os error 2)
        "#,
    );
}

#[test]
fn what_only_some_databases_can_do_is_refused_on_the_others() {
    assert_said(
        r#"
        [sources.a]
        kind = "poller"
        database = "mariadb://shop@localhost/shop"
        setup = "make.sql"
        every = "1s"
        wake = "orders"
        cursor = { table = "orders", key = "id" }

        [sources.b]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1s"
        wake = "orders"
        cursor = { table = "orders", key = "id" }

        [sources.c]
        kind = "poller"
        database = "postgres://localhost/shop"
        every = "1s"
        wake = "or-ders"
        cursor = { key = "i d", xid = "x;y", where = "" }
        "#,
        r#"
        koksmat.toml:4:9: sources.a.setup: makes SQLite databases only; make this one with its own tools
        koksmat.toml:4:9: sources.a.setup: cannot read the file make.sql: No such file or directory (os error 2)
        koksmat.toml:6:8: sources.a.wake: only PostgreSQL notifies; elsewhere poll more often by `every`
        koksmat.toml:7:10: sources.a.cursor: only PostgreSQL can tell which transactions have ended; elsewhere a row that is committed late would be passed by: use `claim` or `query`
        koksmat.toml:13:8: sources.b.wake: only PostgreSQL notifies; elsewhere poll more often by `every`
        koksmat.toml:14:10: sources.b.cursor: only PostgreSQL can tell which transactions have ended; elsewhere a row that is committed late would be passed by: use `claim` or `query`
        koksmat.toml:20:8: sources.c.wake: a channel's name has letters, digits and `_`
        koksmat.toml:21:10: sources.c.cursor.table: missing; the table whose rows are read
        koksmat.toml:21:18: sources.c.cursor.key: a column's name has letters, digits and `_`
        koksmat.toml:21:31: sources.c.cursor.xid: a column's name has letters, digits and `_`
        koksmat.toml:21:46: sources.c.cursor.where: is empty; expected SQL
        "#,
    );
}

#[test]
fn the_url_of_a_server_has_options_it_knows_and_no_password() {
    assert_said(
        r#"
        [sources.a]
        kind = "poller"
        database = "postgresql://shop@db/shop?sslmode=verify-ful"
        every = "1s"
        condition = "select true"

        [sources.b]
        kind = "poller"
        database = "mysql://shop@db/shop?ssl-moed=REQUIRED"
        every = "1s"
        condition = "select true"

        [sources.c]
        kind = "poller"
        database = "postgres://shop@db/shop?password=hunter2"
        every = "1s"
        condition = "select true"

        [sources.d]
        kind = "poller"
        database = "mariadb:shop"
        every = "1s"
        condition = "select true"
        "#,
        r#"
        koksmat.toml:3:12: sources.a.database: the URL has an option with a value that cannot be; is its mode of TLS spelled right?
        koksmat.toml:9:12: sources.b.database: the URL has an option `ssl-moed` that is not known; known are `sslmode`, `ssl-mode`, `sslca`, `ssl-ca`, `sslcert`, `ssl-cert`, `sslkey`, `ssl-key`, `charset`, `collation` or `socket`
        koksmat.toml:15:12: sources.c.database: a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:21:12: sources.d.database: expected a URL such as `mysql://localhost`, or `env:NAME` or `file:PATH` for one that holds a password
        "#,
    );
}

#[test]
fn a_cursor_and_its_defaults_are_understood() {
    let config = good(
        "[sources.a]\nkind = \"poller\"\ndatabase = \"env:POSTGRES_URL\"\nevery = \"1h\"\nwake = \"events\"\n\
         cursor = { table = \"shop.events\", key = \"id\" }\n",
    );
    let SourceKind::Poller(poller) = &config.sources[0].kind else { panic!("{:?}", config.sources) };
    assert_eq!((poller.database.reference(), poller.wake.as_deref()), ("env:POSTGRES_URL", Some("events")));
    assert!(!format!("{config:?}").contains("hunter2"));
    let PollMode::Cursor { table, key, xid, filter } = &poller.mode else { panic!("{:?}", poller.mode) };
    assert_eq!((table.as_str(), key.as_str(), xid.as_str(), filter), ("shop.events", "id", "xid", &None));
}

#[test]
fn a_claim_names_a_table_and_a_column() {
    assert_said(
        r#"
        [sources.a]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1s"
        claim = { table = "a;b", key = "1d", done = "drop", lease = "0s" }

        [sources.b]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1s"
        claim = { table = "main.orders", key = "main.id", where = "" }

        [sources.c]
        kind = "poller"
        database = "sqlite:x.db"
        every = "1s"
        claim = {}
        "#,
        r#"
        koksmat.toml:5:19: sources.a.claim.table: a table's name has letters, digits and `_`, and a schema before it may be: `main.orders`
        koksmat.toml:5:32: sources.a.claim.key: a column's name has letters, digits and `_`
        koksmat.toml:5:45: sources.a.claim.done: must be `mark`, `delete` or what to set, such as `set status = 'sent'`
        koksmat.toml:5:61: sources.a.claim.lease: 0s is out of range: 1s to 1h
        koksmat.toml:11:40: sources.b.claim.key: a column's name has letters, digits and `_`
        koksmat.toml:11:59: sources.b.claim.where: is empty; expected SQL
        koksmat.toml:17:9: sources.c.claim.table: missing; the table whose rows are claimed
        koksmat.toml:17:9: sources.c.claim.key: missing; the table's key column
        "#,
    );
}

#[test]
fn a_webhook_needs_a_path_of_its_own() {
    assert_said(
        r#"
        [sources.a]
        kind = "webhook"

        [sources.b]
        kind = "webhook"
        path = "hooks"

        [sources.c]
        kind = "webhook"
        path = "/queues/orders"

        [sources.d]
        kind = "webhook"
        path = "/d/{id}"

        [sources.e]
        kind = "webhook"
        path = "/e"

        [sources.f]
        kind = "webhook"
        path = "/e"
        "#,
        r#"
        koksmat.toml:1:1: sources.a.path: missing; the path that is served, such as `/github`
        koksmat.toml:6:8: sources.b.path: a path begins with `/`
        koksmat.toml:10:8: sources.c.path: `/queues` is where embedded queues are published; choose another path
        koksmat.toml:14:8: sources.d.path: a path has letters, digits, `-`, `_`, `.`, `~` and single `/`
        koksmat.toml:20:10: sources.f: its path `/e` is that of sources.e; each webhook needs a path of its own
        "#,
    );
}

#[test]
fn a_scheme_has_the_keys_it_needs() {
    assert_said(
        r#"
        [sources.a]
        kind = "webhook"
        path = "/a"
        verify = { scheme = "githib" }

        [sources.b]
        kind = "webhook"
        path = "/b"
        verify = { scheme = "hmac", secret = "env:SECRET", tolerance = "5m" }

        [sources.c]
        kind = "webhook"
        path = "/c"
        verify = { scheme = "stripe", secret = "env:SECRET", header = "x-sig", tolerance = "2d" }
        "#,
        r#"
        koksmat.toml:4:10: sources.a.verify.secret: missing; where the secret is, such as `env:WEBHOOK_SECRET`
        koksmat.toml:4:21: sources.a.verify.scheme: must be `standard-webhooks`, `github`, `stripe`, `slack`, `hmac` or `bearer`; did you mean `github`?
        koksmat.toml:9:10: sources.b.verify.header: missing; the header that carries the digest, such as `x-signature`
        koksmat.toml:9:64: sources.b.verify.tolerance: this scheme signs no timestamp; leave this key out
        koksmat.toml:14:63: sources.c.verify.header: this key goes with the scheme `hmac`; the others know it themselves
        koksmat.toml:14:84: sources.c.verify.tolerance: 2d is out of range: 1s to 1d
        "#,
    );
}

#[test]
fn handlers_never_see_credentials() {
    assert_said(
        r#"
        [sources.a]
        kind = "webhook"
        path = "/a"
        verify = { scheme = "hmac", secret = "env:SECRET", header = "X-Proof" }
        headers = ["Cookie", "x-hub-signature-256", "x-proof", "x-gitlab-token", "a b", 5, "x-fine"]
        id-header = "Authorization"
        "#,
        r#"
        koksmat.toml:5:12: sources.a.headers[0]: handlers never see signatures, cookies or credentials; leave this header out
        koksmat.toml:5:22: sources.a.headers[1]: handlers never see signatures, cookies or credentials; leave this header out
        koksmat.toml:5:45: sources.a.headers[2]: handlers never see signatures, cookies or credentials; leave this header out
        koksmat.toml:5:56: sources.a.headers[3]: handlers never see signatures, cookies or credentials; leave this header out
        koksmat.toml:5:74: sources.a.headers[4]: not the name of a header
        koksmat.toml:5:81: sources.a.headers[5]: expected a string, not a whole number
        koksmat.toml:6:13: sources.a.id-header: handlers never see signatures, cookies or credentials; leave this header out
        "#,
    );
}

#[test]
fn an_open_webhook_on_a_public_address_is_worth_a_warning() {
    assert_said(
        r#"
        [host]
        listen = "0.0.0.0:80"

        [sources.a]
        kind = "webhook"
        path = "/a"

        [sources.b]
        kind = "webhook"
        path = "/b"
        verify = { scheme = "bearer", secret = "env:SECRET" }
        "#,
        r#"
        koksmat.toml:4:10: warning: sources.a: anyone who reaches 0.0.0.0:80 may post; say by `verify` who may
        "#,
    );
}

#[test]
fn what_must_last_needs_a_store_that_lasts() {
    assert_said(
        r#"
        [host]
        store = "memory"

        [sources.a]
        kind = "embedded"

        [sources.b]
        kind = "timer"
        cron = "@hourly"

        [sources.c]
        kind = "webhook"
        path = "/c"

        [sources.d]
        kind = "poller"
        database = "sqlite:d.db"
        every = "1s"
        query = "select id from t"
        key = "id"

        [sources.fine]
        kind = "webhook"
        path = "/fine"
        reply = "handler"

        [sources.fine-too]
        kind = "poller"
        database = "sqlite:d.db"
        every = "1s"
        claim = { table = "t", key = "id" }

        [handlers.h]
        plugin = "a.js"
        on = { source = "fine*" }
        "#,
        r#"
        koksmat.toml:4:10: sources.a: this source needs a store that lasts; with `store = "memory"` its events would be lost
        koksmat.toml:7:10: sources.b: this source needs a store that lasts; with `store = "memory"` its events would be lost
        koksmat.toml:11:10: sources.c: this source needs a store that lasts; with `store = "memory"` its events would be lost
        koksmat.toml:15:10: sources.d: this source needs a store that lasts; with `store = "memory"` its events would be lost
        "#,
    );
}
