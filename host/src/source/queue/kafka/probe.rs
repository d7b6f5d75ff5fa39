//! Whether the brokers answer and the topics are there: asked beside everything else, and again after a while as long as they do not.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};

use super::{
    Consumer, asked,
    client::{Problem, reachable},
};
use crate::source::backoff::Backoff;

/// The question, as long as it is asked.
pub(super) struct Probe {
    consumer: Arc<Consumer>,
    topics: Vec<String>,
    asking: Option<BoxFuture<'static, Result<Arc<str>, Problem>>>,
    /// What the library said last: it knows better why than who asks in vain.
    said: Option<String>,
    backoff: Backoff,
}

impl Probe {
    pub(super) fn new(consumer: Arc<Consumer>, topics: &[String]) -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        Self { consumer, topics: topics.to_vec(), asking: None, said: None, backoff }
    }

    /// Ask, unless it is asked already.
    pub(super) fn ask(&mut self) {
        if self.asking.is_none() {
            self.ask_after(Duration::ZERO);
        }
    }

    /// The library says what is wrong (`None`: only that something is), which is reason to ask.
    pub(super) fn hear(&mut self, said: Option<String>) {
        self.said = said.or(self.said.take());
        self.ask();
    }

    /// The cluster's id, or why the brokers do not answer: then it is asked again by itself. Forever pending while nothing is asked. Cancel
    /// safe.
    pub(super) async fn answer(&mut self) -> Result<Arc<str>, String> {
        match asked(&mut self.asking).await {
            Ok(cluster) => {
                self.said = None;
                self.backoff.reset();
                Ok(cluster)
            }
            Err(problem) => {
                let wait = self.backoff.after_failure();
                self.ask_after(wait);
                Err(match problem {
                    Problem::Topic(why) => why,
                    Problem::Silent(why) => self.said.clone().unwrap_or(why),
                })
            }
        }
    }

    fn ask_after(&mut self, wait: Duration) {
        let (consumer, topics) = (self.consumer.clone(), self.topics.clone());
        let asking = async move {
            tokio::time::sleep(wait).await;
            let asked = tokio::task::spawn_blocking(move || reachable(rdkafka::consumer::Consumer::client(&*consumer), &topics)).await;
            asked.unwrap_or_else(|error| Err(Problem::Silent(error.to_string())))
        };
        self.asking = Some(asking.boxed());
    }
}
