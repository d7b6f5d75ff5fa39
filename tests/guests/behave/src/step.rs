//! The steps and what each does.

use crate::hostile;
use koksmat_sdk::prelude::*;
use serde::Deserialize;
use std::{hint::black_box, time::Duration};

const MEBIBYTE: usize = 1 << 20;

/// Parsed from `{"do": "kebab-case-name", …fields}`.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
pub(crate) enum Step {
    // What ends well.
    Ok { status: Option<u16>, body: Option<Value> },
    Echo,
    Steps { steps: Vec<Step> },
    BigResponse { bytes: Option<usize> },

    // What ends as a failure.
    Reject { reason: Option<String> },
    Retry { reason: Option<String>, after: Option<u64> },
    FailUntilAttempt { attempt: u32 },

    // Keys.
    Get { key: String },
    Set { key: String, value: Value },
    Delete { key: String },
    Exists { key: String },
    Keys { prefix: Option<String> },
    Increment { key: String, by: Option<u64> },
    Add { key: String, by: Option<i64> },
    Rmw { key: String, by: Option<i64> },

    // Events, log, configuration, time, chance.
    Emit(Emit),
    FloodEmit { count: Option<usize>, bytes: Option<usize>, r#type: Option<String> },
    Log { level: Option<String>, message: String },
    FloodLog { bytes: Option<usize>, line: Option<usize> },
    LogHuge { bytes: Option<usize> },
    Config { key: Option<String> },
    Now,
    Random { bytes: Option<usize> },
    SleepBusy { ms: u64 },
    Sleep { ms: u64 },
    Fetch(Fetch),

    // What a sandbox is for.
    Loop,
    EatMemory { limit: Option<usize> },
    EatMemoryInAllocatorThenCatch,
    Recurse,
    RecurseInMemory,
    Trap,
    Panic { message: Option<String> },
    GarbageStatus { status: Option<u16> },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Emit {
    r#type: String,
    data: Option<Value>,
    id: Option<String>,
    subject: Option<String>,
    schema: Option<String>,
    #[serde(default)]
    attributes: Vec<(String, String)>,
    queue: Option<String>,
    /// Milliseconds.
    after: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fetch {
    url: String,
    method: Option<String>,
    body: Option<String>,
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// Milliseconds.
    timeout: Option<u64>,
}

pub(crate) fn run(step: Step, event: &Event, ctx: &Context) -> Result<Response> {
    let value = match step {
        Step::Ok { status, body } => return Ok(body.map_or(Response::empty(), |body| Response::json(&body)).status_if(status)),
        Step::Echo => echo(event, ctx),
        Step::Steps { steps } => {
            let answers: Result<Vec<Value>> = steps.into_iter().map(|step| run(step, event, ctx).map(|answer| body(&answer))).collect();
            json!({ "steps": answers? })
        }
        Step::BigResponse { bytes } => return Ok(Response::bytes(vec![b'x'; bytes.unwrap_or(MEBIBYTE)], "application/octet-stream")),

        Step::Reject { reason } => return Err(reject(reason.unwrap_or_else(|| "asked to".into()))),
        Step::Retry { reason, after } => {
            let error = retry(reason.unwrap_or_else(|| "asked to".into()));
            return Err(after.map_or(error.clone(), |after| error.after(Duration::from_millis(after))));
        }
        Step::FailUntilAttempt { attempt } if ctx.attempt < attempt => return Err(retry(format!("attempt {} of {attempt}", ctx.attempt))),
        Step::FailUntilAttempt { .. } => json!({ "attempt": ctx.attempt }),

        Step::Get { key } => json!({ "value": keyvalue::get::<Value>(&key)? }),
        Step::Set { key, value } => done(keyvalue::set(&key, &value)?),
        Step::Delete { key } => done(keyvalue::delete(&key)?),
        Step::Exists { key } => json!({ "exists": keyvalue::exists(&key)? }),
        Step::Keys { prefix } => json!({ "keys": keyvalue::keys(&prefix.unwrap_or_default())? }),
        Step::Increment { key, by } => json!({ "value": keyvalue::increment(&key, by.unwrap_or(1))? }),
        Step::Add { key, by } => done(keyvalue::add(&key, by.unwrap_or(1))?),
        Step::Rmw { key, by } => {
            let value = keyvalue::get::<i64>(&key)?.unwrap_or(0) + by.unwrap_or(1);
            keyvalue::set(&key, &value)?;
            json!({ "value": value })
        }

        Step::Emit(emit) => json!({ "id": send(emit)? }),
        Step::FloodEmit { count, bytes, r#type } => {
            let (count, kind) = (count.unwrap_or(10_000), r#type.unwrap_or_else(|| "flood".into()));
            let data = "x".repeat(bytes.unwrap_or(1));
            for _ in 0..count {
                emit(&kind, &data)?;
            }
            json!({ "emitted": count })
        }
        Step::Log { level, message } => done(log::write(log_level(level.as_deref())?, "", &message)),
        Step::FloodLog { bytes, line } => {
            let line = "x".repeat(line.unwrap_or(1024).max(1));
            let lines = bytes.unwrap_or(10 * MEBIBYTE) / line.len();
            (0..lines).for_each(|_| log::write(log::Level::Info, "", &line));
            json!({ "lines": lines })
        }
        Step::LogHuge { bytes } => {
            let pattern = "\x1b[31mred\x1b[0m\r\n2026-01-01T00:00:00Z ERROR forged: line\n\u{202e}\0";
            let message: String = pattern.chars().cycle().take(bytes.unwrap_or(MEBIBYTE)).collect();
            log::write(log::Level::Info, "\x1b[2Jcontext\n", &message);
            json!({ "bytes": message.len() })
        }
        Step::Config { key: Some(key) } => json!({ "value": config::get(&key)? }),
        Step::Config { key: None } => json!({ "all": config::all()? }),
        Step::Now => json!({ "now": clock::now().as_millis() as u64, "remaining": ctx.remaining().as_millis() as u64 }),
        Step::Random { bytes } => json!({ "hex": hex(&random::bytes(bytes.unwrap_or(16))) }),
        Step::SleepBusy { ms } => {
            let (begin, wait) = (clock::monotonic(), Duration::from_millis(ms));
            while clock::monotonic().saturating_sub(begin) < wait {}
            json!({ "slept": ms })
        }
        Step::Sleep { ms } => {
            clock::sleep(Duration::from_millis(ms));
            json!({ "slept": ms })
        }
        Step::Fetch(fetch) => call(fetch)?,

        Step::Loop => hostile::spin(),
        Step::EatMemory { limit } => json!({ "ate": hostile::eat_memory(limit.unwrap_or(usize::MAX)) }),
        Step::EatMemoryInAllocatorThenCatch => json!({ "pages": hostile::grow_until_denied(), "denied": true }),
        Step::Recurse => json!({ "depth": hostile::recurse(black_box(0)) }),
        Step::RecurseInMemory => json!({ "depth": hostile::recurse_in_memory(0) }),
        Step::Trap => hostile::trap(),
        Step::Panic { message } => panic!("{}", message.as_deref().unwrap_or("asked to")),
        Step::GarbageStatus { status } => {
            let garbage = [("x-split\r\nset-cookie: forged=1", "a\r\n\r\n<script>"), ("", "no name"), ("content-length", "5")];
            return Ok(Response {
                status: status.unwrap_or(9999),
                headers: garbage.map(|(name, value)| (name.into(), value.into())).into(),
                body: b"garbage".to_vec(),
            });
        }
    };
    Ok(Response::json(&value))
}

trait StatusIf {
    fn status_if(self, status: Option<u16>) -> Self;
}

impl StatusIf for Response {
    fn status_if(self, status: Option<u16>) -> Response {
        match status {
            Some(status) => self.status(status),
            None => self,
        }
    }
}

fn done((): ()) -> Value {
    json!({ "done": true })
}

/// A step's answer inside `steps`.
fn body(answer: &Response) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or(Value::Null)
}

fn send(event: Emit) -> Result<String> {
    let mut builder = emit::event(event.r#type);
    if let Some(data) = &event.data {
        builder = builder.json(data)?;
    }
    if let Some(id) = event.id {
        builder = builder.id(id);
    }
    if let Some(subject) = event.subject {
        builder = builder.subject(subject);
    }
    if let Some(schema) = event.schema {
        builder = builder.schema(schema);
    }
    for (name, value) in event.attributes {
        builder = builder.attribute(name, value);
    }
    if let Some(queue) = event.queue {
        builder = builder.queue(queue);
    }
    if let Some(after) = event.after {
        builder = builder.after(Duration::from_millis(after));
    }
    builder.send()
}

fn call(fetch: Fetch) -> Result<Value> {
    let mut request = http::Request::new(fetch.method.as_deref().unwrap_or("GET"), fetch.url);
    for (name, value) in fetch.headers {
        request = request.header(name, value);
    }
    if let Some(body) = fetch.body {
        request = request.text(body);
    }
    if let Some(timeout) = fetch.timeout {
        request = request.timeout(Duration::from_millis(timeout));
    }
    let answer = request.send()?;
    Ok(json!({ "status": answer.status, "ok": answer.ok(), "headers": answer.headers, "text": answer.text() }))
}

fn echo(event: &Event, ctx: &Context) -> Value {
    json!({
        "event": {
            "id": event.id, "source": event.source, "type": event.type_, "subject": event.subject, "time": event.time,
            "datacontenttype": event.datacontenttype, "dataschema": event.dataschema, "attributes": event.attributes,
            "headers": event.headers, "data": base64(&event.data),
        },
        "ctx": {
            "tenant": ctx.tenant, "handler": ctx.handler, "attempt": ctx.attempt, "idempotency-key": ctx.idempotency_key,
            "deadline": ctx.deadline, "fencing-token": ctx.fencing_token, "traceparent": ctx.traceparent,
        },
    })
}

fn log_level(name: Option<&str>) -> Result<log::Level> {
    Ok(match name.unwrap_or("info") {
        "trace" => log::Level::Trace,
        "debug" => log::Level::Debug,
        "info" => log::Level::Info,
        "warn" => log::Level::Warn,
        "error" => log::Level::Error,
        "critical" => log::Level::Critical,
        other => return Err(reject(format!("no level is called {other}"))),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
    text
}
