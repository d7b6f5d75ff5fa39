//! `wasi:logging`, and standard output and error: into `tracing`, with tenant, handler and event; bounded for each call.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use serde::Serialize;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::plugin::{
    bindings::wasi::logging::logging::{Host, Level},
    guest::Guest,
};

/// The most a call may log, in bytes.
const CALL_BYTES: usize = 64 << 10;
/// The longest message, in bytes.
const MESSAGE_BYTES: usize = 8 << 10;
/// What a message costs besides its text, so that empty ones are bounded too.
const MESSAGE_COST: usize = 64;

/// Where the messages of one call go.
#[derive(Debug, Clone)]
pub(crate) struct CallLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    to: To,
    budget: Mutex<Budget>,
}

#[derive(Debug)]
enum To {
    /// Into the host's log.
    Host { tenant: Arc<str>, handler: Arc<str>, event: Arc<str>, attempt: u32 },
    /// Nowhere: they are kept for whoever tries the handler.
    Kept(Mutex<Vec<LogLine>>),
}

/// A message that was kept.
#[derive(Debug, Clone, Serialize)]
pub struct LogLine {
    /// How bad it is.
    pub level: LogLevel,
    /// What the guest called its context, if anything: `stdout` and `stderr` for what is printed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub context: String,
    /// The message.
    pub message: String,
}

/// How bad a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// For whoever looks for a mistake.
    Debug,
    /// What goes on.
    Info,
    /// Something is odd.
    Warn,
    /// Something went wrong.
    Error,
}

impl From<Level> for LogLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Trace => Self::Trace,
            Level::Debug => Self::Debug,
            Level::Info => Self::Info,
            Level::Warn => Self::Warn,
            Level::Error | Level::Critical => Self::Error,
        }
    }
}

#[derive(Debug)]
struct Budget {
    left: usize,
    dropped: u64,
    dropped_bytes: u64,
}

impl CallLog {
    pub(crate) fn new(tenant: Arc<str>, handler: Arc<str>, event: Arc<str>, attempt: u32) -> Self {
        Self::to(To::Host { tenant, handler, event, attempt })
    }

    /// One whose messages are kept and go nowhere.
    pub(crate) fn kept() -> Self {
        Self::to(To::Kept(Mutex::default()))
    }

    fn to(to: To) -> Self {
        let budget = Mutex::new(Budget { left: CALL_BYTES, dropped: 0, dropped_bytes: 0 });
        Self(Arc::new(Inner { to, budget }))
    }

    /// What was kept.
    pub(crate) fn lines(&self) -> Vec<LogLine> {
        match &self.0.to {
            To::Host { .. } => Vec::new(),
            To::Kept(lines) => std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    /// Write a message, or count it as dropped.
    pub(crate) fn write(&self, level: Level, context: &str, message: &str) {
        let inner = &*self.0;
        {
            let mut budget = inner.budget.lock().unwrap_or_else(PoisonError::into_inner);
            let cost = message.len().min(MESSAGE_BYTES) + context.len().min(MESSAGE_BYTES) + MESSAGE_COST;
            if cost > budget.left {
                budget.dropped += 1;
                budget.dropped_bytes += (message.len() + context.len()) as u64;
                return;
            }
            budget.left -= cost;
        }
        let (message, context) = (clean(message), clean(context));
        let (tenant, handler, event, attempt) = match &inner.to {
            To::Host { tenant, handler, event, attempt } => (&**tenant, &**handler, &**event, *attempt),
            To::Kept(lines) => {
                let line = LogLine { level: level.into(), context, message };
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                return;
            }
        };
        macro_rules! line {
            ($level:ident) => {
                if context.is_empty() {
                    tracing::$level!(target: "koksmat::guest", tenant, handler, event, attempt, "{message}")
                } else {
                    tracing::$level!(target: "koksmat::guest", tenant, handler, event, attempt, context = %context, "{message}")
                }
            };
        }
        match level {
            Level::Trace => line!(trace),
            Level::Debug => line!(debug),
            Level::Info => line!(info),
            Level::Warn => line!(warn),
            Level::Error | Level::Critical => line!(error),
        }
    }

    /// The call has ended: one line that says what was dropped.
    pub(crate) fn finish(&self) {
        let inner = &*self.0;
        let budget = inner.budget.lock().unwrap_or_else(PoisonError::into_inner);
        if budget.dropped == 0 {
            return;
        }
        let (dropped, bytes) = (budget.dropped, budget.dropped_bytes);
        let message = format!("the call logged more than {CALL_BYTES} bytes: {dropped} messages were dropped");
        match &inner.to {
            To::Host { tenant, handler, event, .. } => {
                tracing::warn!(target: "koksmat::guest", tenant = &**tenant, handler = &**handler, event = &**event, dropped, bytes, "{message}");
            }
            To::Kept(lines) => {
                let line = LogLine { level: LogLevel::Warn, context: String::new(), message };
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }
    }
}

/// Cut to the longest length, and with control characters escaped: a guest must not forge lines or speak to a terminal.
fn clean(text: &str) -> String {
    let mut end = text.len().min(MESSAGE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut clean = String::with_capacity(end);
    for c in text[..end].chars() {
        match c {
            '\t' => clean.push(c),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                clean.extend(c.escape_default());
            }
            c => clean.push(c),
        }
    }
    if end < text.len() {
        clean.push('…');
    }
    clean
}

impl Host for Guest {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        self.log.write(level, &context, &message);
        Ok(())
    }
}

/// Standard output or error of a guest: each line is a message.
#[derive(Debug, Clone)]
pub(crate) struct Stdio {
    pub(crate) log: CallLog,
    pub(crate) level: StdioLevel,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum StdioLevel {
    Out,
    Err,
}

impl IsTerminal for Stdio {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stdio {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(Lines { stdio: self.clone(), line: Vec::new() })
    }
}

struct Lines {
    stdio: Stdio,
    line: Vec<u8>,
}

impl Lines {
    fn end_line(&mut self) {
        let (level, context) = match self.stdio.level {
            StdioLevel::Out => (Level::Info, "stdout"),
            StdioLevel::Err => (Level::Warn, "stderr"),
        };
        self.stdio.log.write(level, context, &String::from_utf8_lossy(&self.line));
        self.line.clear();
    }
}

impl AsyncWrite for Lines {
    fn poll_write(mut self: Pin<&mut Self>, _cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
                if self.line.len() >= MESSAGE_BYTES {
                    self.end_line();
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.end_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_forge_a_line_or_speak_to_a_terminal() {
        assert_eq!(clean("a\nERROR forged\u{1b}[31m"), "a\\nERROR forged\\u{1b}[31m");
        assert!(clean(&"x".repeat(MESSAGE_BYTES + 1)).ends_with('…'));
        assert_eq!(clean(&"å".repeat(MESSAGE_BYTES)).chars().filter(|c| *c == 'å').count(), MESSAGE_BYTES / 2);
    }

    #[test]
    fn what_a_call_may_log_is_bounded_and_the_rest_is_counted() {
        let log = CallLog::new("t".into(), "h".into(), "e".into(), 1);
        for _ in 0..10_000 {
            log.write(Level::Info, "", "");
        }
        let budget = log.0.budget.lock().unwrap();
        assert_eq!(budget.dropped, 10_000 - (CALL_BYTES / MESSAGE_COST) as u64);
    }
}
