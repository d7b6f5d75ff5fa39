//! Secrets and references to them: nothing ever shows a value.

use super::*;
use crate::config::{Secret, SourceKind};

#[test]
fn a_literal_secret_is_refused_and_not_shown() {
    assert_said(
        r#"
        [sources.a]
        kind = "webhook"
        path = "/a"
        verify = { scheme = "bearer", secret = "hunter2" }

        [sources.b]
        kind = "webhook"
        path = "/b"
        verify = { scheme = "bearer", secret = ["env:SECRET", "hunter2"] }

        [sources.c]
        kind = "webhook"
        path = "/c"
        verify = { scheme = "bearer", secret = 482759 }

        [sources.d]
        kind = "webhook"
        path = "/d"
        verify = "hunter2"

        [sources.e]
        kind = "webhook"
        path = "/e"
        verify = { scheme = "bearer", secret = { value = "hunter2" } }

        [sources.f]
        kind = "webhook"
        path = "/f"
        verify = { scheme = "bearer", secert = "hunter2" }
        "#,
        r#"
        koksmat.toml:4:40: sources.a.verify.secret: a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:9:55: sources.b.verify.secret[1]: a secret does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:14:40: sources.c.verify.secret: expected a reference, `env:NAME` or `file:PATH`, not a whole number
        koksmat.toml:19:10: sources.d.verify: expected a table, `{ key = value }`, not a string
        koksmat.toml:24:40: sources.e.verify.secret: expected a reference, `env:NAME` or `file:PATH`, not a table
        koksmat.toml:29:31: sources.f.verify.secert: unknown key; did you mean `secret`?
        "#,
    );
}

#[test]
fn a_url_with_a_password_is_not_shown() {
    assert_said(
        r#"
        [host]
        store = "postgres://koksmat:hunter2@db/koksmat"

        [sources.a]
        kind = "poller"
        database = "mysql://root:hunter2@db/x"
        every = "1s"
        claim = { table = "t", key = "id" }

        [sources.b]
        kind = "poller"
        database = "env:POSTGRES_URL"
        every = "1s"
        claim = { table = "t", key = "id" }

        [sources.c]
        kind = "poller"
        database = "env:SECRET"
        every = "1s"
        claim = { table = "t", key = "id" }

        [sources.d]
        kind = "poller"
        database = "oracle://scott:hunter2@db/x"
        every = "1s"
        claim = { table = "t", key = "id" }
        "#,
        r#"
        koksmat.toml:2:9: host.store: a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:6:12: sources.a.database: a URL with a password does not belong in this file; refer to it by `env:NAME` or `file:PATH`
        koksmat.toml:18:12: sources.c.database: what env:SECRET holds is no URL of a database; expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `mysql://USER@HOST/DATABASE`
        koksmat.toml:24:12: sources.d.database: expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `mysql://USER@HOST/DATABASE`, or `env:NAME` or `file:PATH` for a URL that holds a password
        "#,
    );
}

#[test]
fn a_reference_that_leads_nowhere_is_named() {
    assert_said(
        r#"
        [host]
        store = "env:NOPE"

        [sources.a]
        kind = "webhook"
        path = "/a"
        verify = { scheme = "bearer", secret = ["env:NOPE", "env:EMPTY", "env:", "file:no/such", "file:empty"] }

        [sources.b]
        kind = "webhook"
        path = "/b"
        verify = { scheme = "github", secret = [] }

        [sources.c]
        kind = "webhook"
        path = "/c"
        verify = { scheme = "standard-webhooks", secret = "env:POSTGRES_URL" }

        [handlers.h]
        plugin = "a.js"
        on = { source = "a" }
        config = { a = "${NOPE} ${SECRET", b = ["${SECRET}"] }
        "#,
        r#"
        koksmat.toml:2:9: host.store: the environment variable `NOPE` is not set (or not UTF-8)
        koksmat.toml:7:41: sources.a.verify.secret[0]: the environment variable `NOPE` is not set (or not UTF-8)
        koksmat.toml:7:53: sources.a.verify.secret[1]: the environment variable `EMPTY` is empty
        koksmat.toml:7:66: sources.a.verify.secret[2]: `env:` must be followed by the name of an environment variable
        koksmat.toml:7:74: sources.a.verify.secret[3]: cannot read the file no/such: No such file or directory (os error 2)
        koksmat.toml:7:90: sources.a.verify.secret[4]: the file empty is empty
        koksmat.toml:12:40: sources.b.verify.secret: names no secret; expected `env:NAME` or `file:PATH`
        koksmat.toml:17:51: sources.c.verify.secret: env:POSTGRES_URL holds no Standard Webhooks secret: base64 after `whsec_`
        koksmat.toml:22:16: handlers.h.config.a: the environment variable `NOPE` is not set (or not UTF-8)
        koksmat.toml:22:16: handlers.h.config.a: `${` must be followed by the name of an environment variable and `}`; for the characters themselves write `$${`
        koksmat.toml:22:40: handlers.h.config.b: expected a string, a number, true or false, not an array
        "#,
    );
}

#[test]
fn a_secret_in_broken_toml_is_not_shown() {
    assert_said(
        r#"
        [sources.a]
        verify = { scheme = "bearer", secret = "hunter2 }
        "#,
        r#"
        koksmat.toml:2:50: not TOML: unclosed inline table, expected `}`
        "#,
    );
}

#[test]
fn a_secret_comes_from_the_environment_or_a_file_and_is_not_printed() {
    let folder = Folder::new();
    folder.write("secrets/hook", "swordfish\n");
    let config = folder
        .parse(
            r#"
            [sources.hook]
            kind = "webhook"
            path = "/hook"
            verify = { scheme = "bearer", secret = ["env:SECRET", "file:secrets/hook"] }
            [sources.standard]
            kind = "webhook"
            path = "/standard"
            verify = { scheme = "standard-webhooks", secret = "env:WHSEC" }
            "#,
        )
        .unwrap_or_else(|problems| panic!("{problems}"));
    let SourceKind::Webhook(webhook) = &config.sources[0].kind else { panic!() };
    let secrets: Vec<&str> = webhook.verify.as_ref().unwrap().secrets.iter().map(Secret::expose).collect();
    assert_eq!(secrets, ["hunter2", "swordfish"]);

    let shown = format!("{config:?}");
    assert!(shown.contains("Secret(env:SECRET)") && shown.contains("Secret(file:secrets/hook)"), "{shown}");
    assert!(!shown.contains("hunter2") && !shown.contains("swordfish") && !shown.contains("whsec_"), "{shown}");
}

#[test]
fn the_path_of_a_database_is_relative_to_the_file_wherever_it_is_written() {
    let folder = Folder::new();
    folder.write("url", "sqlite:./jobs.db?mode=ro\n");
    for (reference, path) in
        [("env:BILLING_DATABASE_URL", "billing.db"), ("file:url", "jobs.db?mode=ro"), ("sqlite://a%20b.db", "a%20b.db")]
    {
        let text = format!("[sources.p]\nkind = \"poller\"\ndatabase = \"{reference}\"\nevery = \"1s\"\ncondition = \"select 1\"\n");
        let config = folder.parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
        let SourceKind::Poller(poller) = &config.sources[0].kind else { panic!() };
        assert_eq!(poller.database.expose(), format!("sqlite:{}/{path}", folder.path().display()));
    }
}
