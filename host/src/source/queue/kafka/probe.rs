//! Whether the brokers answer and the topics are there: asked beside everything else, and again after a while as long as they do not.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::Instant;

use super::{
    Consumer, asked,
    client::{Problem, reachable},
};
use crate::source::backoff::Backoff;

/// How long the library has to say why nobody answered: who asks in vain is often told before it.
const SAYS_WHY: Duration = Duration::from_secs(2);

/// The question, as long as it is asked.
pub(super) struct Probe {
    consumer: Arc<Consumer>,
    topics: Vec<String>,
    asking: Option<BoxFuture<'static, Result<Arc<str>, Problem>>>,
    /// What the library said last: it knows better why than who asks in vain.
    said: Option<String>,
    /// It was asked in vain, and until then the library may say why.
    unexplained: Option<(String, Instant)>,
    backoff: Backoff,
}

impl Probe {
    pub(super) fn new(consumer: Arc<Consumer>, topics: &[String]) -> Self {
        let backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(10));
        Self { consumer, topics: topics.to_vec(), asking: None, said: None, unexplained: None, backoff }
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
        if self.unexplained.is_none() {
            match asked(&mut self.asking).await {
                Ok(cluster) => {
                    self.said = None;
                    self.backoff.reset();
                    return Ok(cluster);
                }
                Err(problem) => {
                    let wait = self.backoff.after_failure();
                    self.ask_after(wait);
                    match problem {
                        Problem::Topic(why) => return Err(why),
                        Problem::Silent(why) => self.unexplained = Some((why, Instant::now() + SAYS_WHY)),
                    }
                }
            }
        }
        if let (None, Some((_, until))) = (&self.said, &self.unexplained) {
            tokio::time::sleep_until(*until).await;
        }
        let why = self.unexplained.take().map(|(why, _)| why).unwrap_or_default();
        Err(self.said.clone().unwrap_or(why))
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

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;

    use super::{super::rebalance::Context, *};

    #[tokio::test(start_paused = true)]
    async fn the_library_says_why_nobody_answers_though_it_speaks_after_who_asked_in_vain() {
        let (happenings, _happened) = tokio::sync::mpsc::channel(1);
        let consumer = ClientConfig::new().set("group.id", "g").create_with_context(Context::new(happenings)).unwrap();
        let mut probe = Probe::new(Arc::new(consumer), &[]);
        let in_vain = || Some(async { Err(Problem::Silent("transport failure".into())) }.boxed());
        probe.asking = in_vain();
        assert!(probe.answer().now_or_never().is_none());
        probe.hear(Some("certificate verify failed".into()));
        assert_eq!(probe.answer().await.unwrap_err(), "certificate verify failed");

        (probe.said, probe.asking) = (None, in_vain());
        let asked = Instant::now();
        assert_eq!(probe.answer().await.unwrap_err(), "transport failure", "though it says nothing");
        assert!(asked.elapsed() >= SAYS_WHY);
    }
}
