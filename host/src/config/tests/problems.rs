//! How problems are found and shown, whatever they are about.

use std::path::Path;

use super::*;

#[test]
fn all_of_them_are_reported_at_once_each_with_its_place_and_key() {
    let text = r#"[host]
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
"#;
    assert_eq!(said(text), "");
}
