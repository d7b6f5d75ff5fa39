//! RabbitMQ as a source and as a sink: nothing is lost, whoever stops, dies or goes away, and what is done is done once.
//!
//! What is proved here is proved on the version that `tests/services` starts (Debian's 3.10). It knows no limit of deliveries of its own, so
//! the tests give their quorum queues the one that RabbitMQ 4 has, 20.

use koksmat_tests::{
    Folder,
    rabbitmq::{Rabbitmq, name, text},
    until,
};

mod failing;
mod faults;
mod messages;
mod publishing;
mod stopping;
mod taking;

/// Counts each event under its own id.
const COUNT: &str = r#"
    import { keyvalue } from "koksmat";
    export function handle(event) {
      keyvalue.add(event.id, 1);
    }
"#;

/// A queue, and where the broker puts what it gives up on.
struct Queue {
    broker: Rabbitmq,
    name: String,
    dead: String,
}

impl Queue {
    async fn classic() -> Self {
        let queue = Self::named().await;
        queue.broker.queue(&queue.name, &[("x-queue-type", text("classic"))]).await;
        queue
    }

    /// A quorum queue that gives up on a message when it has come back more than twenty times.
    async fn quorum() -> Self {
        let queue = Self::named().await;
        let limit = lapin::types::AMQPValue::LongInt(20);
        let arguments = [("x-queue-type", text("quorum")), ("x-dead-letter-exchange", text(&queue.dead)), ("x-delivery-limit", limit)];
        queue.broker.queue(&queue.name, &arguments).await;
        queue
    }

    async fn named() -> Self {
        let queue = Self { broker: Rabbitmq::connect().await, name: name("queue"), dead: name("dead") };
        queue.broker.fanout(&queue.dead).await;
        queue
    }

    /// The source `orders`, with these lines of configuration.
    fn source(&self, url: &str, lines: &str) -> String {
        format!("[sources.orders]\nkind = \"rabbitmq\"\nurl = \"{url}\"\nqueue = \"{}\"\n{lines}\n", self.name)
    }

    /// A folder whose handler counts what comes.
    fn counted(&self, url: &str, lines: &str) -> Folder {
        let settings = "on = [{ source = \"orders\" }]\ngrants = { keyvalue = true }";
        Folder::new().toml(&self.source(url, lines)).script("count", "count.js", COUNT, settings)
    }

    /// Nothing is left of it.
    async fn gone(self) {
        self.broker.delete(&self.name).await;
        self.broker.delete(&self.dead).await;
        self.broker.delete_exchange(&self.dead).await;
    }
}

/// How many events were handled.
fn handled(folder: &Folder) -> usize {
    usize::try_from(folder.count("select count(*) from kv")).unwrap()
}

/// How many were handled more than once.
fn repeated(folder: &Folder) -> i64 {
    folder.count("select count(*) from kv where cast(value as text) <> '1'")
}

async fn until_handled(folder: &Folder, count: usize) {
    until(&format!("{count} events to be handled"), || async { (handled(folder) >= count).then_some(()) }).await;
}
