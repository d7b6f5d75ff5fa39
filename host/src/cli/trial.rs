//! How a call that changed nothing is shown: what it came to, what it would have done, what it logged.

use serde_json::Value;

/// Some lines, the first of which says what it came to.
pub(super) fn text(trial: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut lines = vec![headline(trial)];
    for asked in trial["requests"].as_array().into_iter().flatten() {
        let became = asked["error"].as_str().map_or_else(|| asked["status"].to_string(), |error| format!("not answered: {error}"));
        lines.push(format!("  request  {} {}: {became}", word(&asked["method"]), word(&asked["url"])));
    }
    for (key, write) in trial["writes"].as_object().into_iter().flatten() {
        let change = match (&write["set"], &write["add"]) {
            (Value::Null, Value::Null) => "deleted".to_owned(),
            (Value::Null, delta) => format!("{delta} added"),
            (value, _) => word(value),
        };
        lines.push(format!("  write    {key} = {}", short(&change)));
    }
    for emitted in trial["emits"].as_array().into_iter().flatten() {
        let event = &emitted["event"];
        let data = if event["data"].is_null() { &event["data_base64"] } else { &event["data"] };
        lines.push(format!("  emit     {}  {}", word(&event["type"]), short(&word(data))));
    }
    for diverged in trial["diverged"].as_array().into_iter().flatten() {
        lines.push(format!("  differs  {}", word(diverged)));
    }
    for line in trial["log"].as_array().into_iter().flatten() {
        lines.push(format!("  {:<8} {}", word(&line["level"]), word(&line["message"])));
    }
    lines.join("\n")
}

fn headline(trial: &Value) -> String {
    let (handler, outcome) = (trial["handler"].as_str().unwrap_or_default(), trial["outcome"].as_str().unwrap_or_default());
    let why = match (trial["reason"].as_str(), &trial["response"]) {
        (Some(reason), _) => format!(": {reason}"),
        (None, Value::Null) => String::new(),
        (None, response) => {
            let body = response["body"].as_str().map_or_else(|| response["body"].to_string(), str::to_owned);
            format!(": {} {}", response["status"], short(&body)).trim_end().to_owned()
        }
    };
    format!("{handler}: {outcome}{why} ({} ms)", trial["took_ms"])
}

/// One line, of a length that can be read.
fn short(text: &str) -> String {
    const LONGEST: usize = 200;
    let line = text.replace(['\n', '\r'], " ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The exit status of these: 0 when all are done.
pub(super) fn code<'a>(trials: impl IntoIterator<Item = &'a Value>) -> u8 {
    let mut trials = trials.into_iter().peekable();
    // Where nobody wanted it nothing is done.
    u8::from(trials.peek().is_none() || !trials.all(|trial| trial["outcome"] == "done"))
}
