//! What the hosts of this process log: the tests of logging read it, and others wait for what it says.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{LazyLock, Mutex, Once},
};

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

/// A line of the log.
#[derive(Debug, Clone, Default)]
pub struct Line {
    pub level: String,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());
static COUNT: LazyLock<watch::Sender<usize>> = LazyLock::new(Default::default);

/// Keep what is logged from now on. Before the host that is to be listened to starts.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| tracing_subscriber::registry().with(Listener).init());
}

/// The lines about a handler. Handlers of tests that ask have names of their own.
pub fn of_handler(name: &str) -> Vec<Line> {
    LINES.lock().unwrap().iter().filter(|line| line.fields.get("handler").is_some_and(|handler| handler == name)).cloned().collect()
}

/// Wait for a line about a handler.
pub async fn line(handler: &str, text: &str) -> Line {
    let mut count = COUNT.subscribe();
    crate::within(&format!("a log line about {handler} with `{text}`"), async {
        loop {
            count.mark_unchanged();
            if let Some(line) = of_handler(handler).into_iter().find(|line| line.message.contains(text)) {
                return line;
            }
            count.changed().await.unwrap();
        }
    })
    .await
}

/// What the one source of a host said that it could not take events for, a list for each time it could not. In none is anything said twice.
pub fn outages(log: &[String]) -> Vec<Vec<String>> {
    told(log, "source cannot take events", "source takes events")
}

/// The same of what the one sink of a host could not publish for.
pub fn outages_of_sink(log: &[String]) -> Vec<Vec<String>> {
    told(log, "sink cannot publish", "sink publishes again")
}

fn told(log: &[String], is_away: &str, is_back: &str) -> Vec<Vec<String>> {
    let mut outages = vec![vec![]];
    for line in log {
        if line.contains(is_back) {
            outages.push(vec![]);
        } else if line.contains(is_away) {
            let problem = line.split_once("problem=").unwrap_or_else(|| panic!("a problem: {line}")).1.to_owned();
            let said = outages.last_mut().unwrap();
            assert!(!said.contains(&problem), "said twice: {}", log.join("\n"));
            said.push(problem);
        }
    }
    outages.retain(|said| !said.is_empty());
    outages
}

struct Listener;

impl<S: tracing::Subscriber> Layer<S> for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("koksmat")
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut line = Line { level: event.metadata().level().to_string().to_lowercase(), ..Line::default() };
        event.record(&mut line);
        LINES.lock().unwrap().push(line);
        COUNT.send_modify(|count| *count += 1);
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.to_owned());
    }
}

impl Line {
    fn set(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => drop(self.fields.insert(name.to_owned(), value)),
        }
    }
}
