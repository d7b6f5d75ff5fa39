//! How problems are found and shown, whatever they are about.

use super::*;

#[test]
fn all_of_them_are_reported_at_once_each_with_its_place_and_its_key() {
    assert_said(
        r#"
        [host]
        concurency = 8
        drain-deadline = 30
        store = "sqlite:"

        [sources.orders]
        kind = "embeded"

        [sources.tick]
        kind = "timer"
        cron = "61 * * * *"
        zone = "Europe/Copenhague"
        missed = "onse"

        [handlers.reserve]
        plugin = "a.js"
        on = [{ source = "ordres" }, { sourse = "tick" }]
        timeuot = "5s"
        memory = "64 megabytes"
        retry = { attempts = 0, backof = "1s..2s" }
        grants = { http = [1, "https://api.example.com/v1"], keyvalue = 3 }

        [handler.typo]
        "#,
        r#"
        koksmat.toml:2:1: host.concurency: unknown key; did you mean `concurrency`?
        koksmat.toml:3:18: host.drain-deadline: expected a duration with its unit, such as `30s`, or `none`, not a whole number
        koksmat.toml:4:9: host.store: expected `sqlite:PATH` with the path of a file and no options; for one in memory write `memory`
        koksmat.toml:7:8: sources.orders.kind: must be `kafka`, `rabbitmq`, `embedded`, `poller`, `webhook` or `timer`; did you mean `embedded`?
        koksmat.toml:11:8: sources.tick.cron: not a cron expression (Component error: Number out of bounds); expected five fields, such as `0 6 * * *`, or six with seconds
        koksmat.toml:12:8: sources.tick.zone: not a time zone that this machine knows; did you mean `Europe/Copenhagen`?
        koksmat.toml:13:10: sources.tick.missed: must be `skip`, `once` or `all`; did you mean `once`?
        koksmat.toml:17:18: handlers.reserve.on[0].source: no source is called `ordres`; did you mean `orders`?
        koksmat.toml:17:32: handlers.reserve.on[1].sourse: unknown key; did you mean `source`?
        koksmat.toml:18:1: handlers.reserve.timeuot: unknown key; did you mean `timeout`?
        koksmat.toml:19:10: handlers.reserve.memory: expected a size such as `64MiB`, `10KB` or a number of bytes
        koksmat.toml:20:22: handlers.reserve.retry.attempts: 0 is out of range: 1 to 100
        koksmat.toml:20:25: handlers.reserve.retry.backof: unknown key; did you mean `backoff`?
        koksmat.toml:21:20: handlers.reserve.grants.http[0]: expected a string, not a whole number
        koksmat.toml:21:23: handlers.reserve.grants.http[1]: only the host is granted, without scheme and path: write `api.example.com`
        koksmat.toml:21:65: handlers.reserve.grants.keyvalue: expected true, false or the prefix of the keys that are granted, not a whole number
        koksmat.toml:23:2: handler: unknown key; did you mean `handlers`?
        "#,
    );
}

#[test]
fn an_error_of_syntax_is_reported_alone() {
    assert_said(
        r#"
        [host]
        watch = true
        concurrency = "sixty
        listen = 5
        "#,
        r#"
        koksmat.toml:3:21: not TOML: invalid basic string, expected `"`
        "#,
    );
}

#[test]
fn a_key_that_is_given_twice_is_an_error_of_syntax() {
    assert_said(
        r#"
        [host]
        watch = true
        watch = false
        "#,
        r#"
        koksmat.toml:3:1: not TOML: duplicate key
        "#,
    );
}

#[test]
fn columns_count_characters() {
    assert_said(
        r#"
        [handlers.h]
        on = { subject = "größe", sourse = "x" }
        plugin = "a.js"
        "#,
        r#"
        koksmat.toml:2:27: handlers.h.on.sourse: unknown key; did you mean `source`?
        koksmat.toml:1:11: warning: handlers.h: no source makes events that this handler wants
        "#,
    );
}

#[test]
fn what_should_be_a_table_must_be_one() {
    assert_said(
        r#"
        host = 1
        sources = 2
        handlers = []
        "#,
        r#"
        koksmat.toml:1:8: host: expected a table, `{ key = value }`, not a whole number
        koksmat.toml:2:11: sources: expected a table for each name, not a whole number
        koksmat.toml:3:12: handlers: expected a table for each name, not an array
        "#,
    );
}

#[test]
fn an_array_is_no_table() {
    assert_said(
        r#"
        [[host]]
        watch = true

        [[sources.orders]]
        kind = "embedded"

        [handlers.h]
        plugin = "a.js"
        on = [["orders"], { type = "*" }]
        retry = [5, "1s..2s"]
        "#,
        r#"
        koksmat.toml:1:1: host: expected a table, `{ key = value }`, not an array
        koksmat.toml:4:1: sources.orders: expected a table, `{ kind = … }`, not an array
        koksmat.toml:9:7: handlers.h.on[0]: expected a table, `{ key = value }`, not an array
        koksmat.toml:10:9: handlers.h.retry: expected a table, `{ key = value }`, not an array
        "#,
    );
}

#[test]
fn what_comes_later_is_named_as_such() {
    assert_said(
        r#"
        [sinks.other]
        kind = "http"

        [handlers.h]
        plugin = "oci://example.com/h@sha256:00"
        on = { type = "*" }
        "#,
        r#"
        koksmat.toml:2:8: sinks.other.kind: must be `kafka` or `rabbitmq`
        koksmat.toml:5:10: handlers.h.plugin: plugins from a registry are not in this version yet; name a file or a folder
        koksmat.toml:4:11: warning: handlers.h: no source makes events that this handler wants
        "#,
    );
}

#[test]
fn the_host_is_checked() {
    assert_said(
        r#"
        [host]
        listen = "localhost:80"
        admin = ":90"
        store = "data/koksmat.db"
        drain-deadline = "2d"
        drain-delay = "none"
        dedup-for = "1s"
        watch = "yes"
        concurrency = 1.5
        "#,
        r#"
        koksmat.toml:2:10: host.listen: expected an IP address and a port, such as `127.0.0.1:8080`; did you mean `127.0.0.1:80`?
        koksmat.toml:3:9: host.admin: expected an IP address and a port, such as `127.0.0.1:8081`
        koksmat.toml:4:9: host.store: expected `sqlite:PATH`, `postgres://USER@HOST/DATABASE` or `memory`, such as `sqlite:data/koksmat.db`
        koksmat.toml:5:18: host.drain-deadline: 2d is out of range: 0s to 1d
        koksmat.toml:6:15: host.drain-delay: expected a duration with its unit, such as `200ms`, `5s`, `2m`, `1h` or `7d`
        koksmat.toml:7:13: host.dedup-for: 1s is out of range: 1m to 365d
        koksmat.toml:8:9: host.watch: expected true or false, not a string
        koksmat.toml:9:15: host.concurrency: expected a whole number, 0 or more, not a number with a fraction
        "#,
    );
}

#[test]
fn two_listeners_need_two_addresses() {
    assert_said(
        r#"
        [host]
        listen = "127.0.0.1:80"
        admin = "127.0.0.1:80"
        "#,
        r#"
        koksmat.toml:3:9: host.admin: host.listen and host.admin are the same address; each needs a port of its own
        "#,
    );
}

#[test]
fn no_more_is_said_about_one_table_than_can_be_read() {
    let keys: String = (0..1000).map(|number| format!("nonsense-{number} = 1\n")).collect();
    assert_eq!(Folder::new().said(&format!("[host]\n{keys}")).lines().count(), 50);
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_of_its_own() {
    let folder = Folder::new();
    let problems = Config::load(folder.path()).unwrap_err();
    let file = folder.path().join("koksmat.toml");
    let expected = format!(
        "{}:1:1: cannot read the configuration: No such file or directory (os error 2); name a configuration file or a folder with a \
         koksmat.toml",
        file.display()
    );
    assert_eq!(problems.to_string(), expected);

    std::fs::write(&file, b"[host]\nstore = \"\xff\"\n").unwrap();
    let problems = Config::load(&file).unwrap_err();
    assert_eq!(problems.to_string(), format!("{}:2:10: not UTF-8 text; a configuration is TOML, which is UTF-8", file.display()));
}

#[test]
fn a_folder_of_tenants_is_not_overlooked() {
    let folder = Folder::new();
    folder.write("koksmat.toml", "");
    folder.write("tenants/acme/koksmat.toml", "");
    let problems = Config::load(folder.path()).unwrap_err();
    let file = folder.path().join("koksmat.toml");
    let expected = format!("{}:1:1: there is a `tenants` folder beside this file: tenants are not in this version yet", file.display());
    assert_eq!(problems.to_string(), expected);
}

#[test]
fn a_mangled_file_is_a_problem_and_never_a_panic() {
    let folder = Folder::new();
    let text: Vec<char> = super::meaning::FULL.chars().collect();
    for at in 0..text.len() {
        let mangled: String = match at % 3 {
            0 => text[..at].iter().collect(),
            1 => [&text[..at], &text[at + 1..]].concat().iter().collect(),
            _ => [&text[..at], &['{'], &text[at + 1..]].concat().iter().collect(),
        };
        drop(folder.parse(&mangled));
    }
}
