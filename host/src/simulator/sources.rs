//! Sources of the simulation: senders that post until they are told that they need not, and rows that are polled until they are marked.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::{
    Answer, Event, Source, SourceContext, SourceError,
    simulator::world::{Alive, World},
    source::AcceptRequest,
    store::Accepted,
};

/// Events that wait outside, and whether whoever has them was told that it may forget them.
#[derive(Default)]
pub(super) struct Outside(Mutex<BTreeMap<String, State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Inside,
    Gone,
}

impl Outside {
    /// A new event.
    pub(super) fn add(&self, id: String) {
        self.set(&id, State::Waits);
    }

    /// Nobody of the host that ended remembers what it had taken.
    pub(super) fn forgotten(&self) {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        events.values_mut().filter(|state| **state == State::Inside).for_each(|state| *state = State::Waits);
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    pub(super) fn are_gone(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().all(|state| *state == State::Gone)
    }

    fn take(&self) -> Option<String> {
        let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, state) = events.iter_mut().find(|(_, state)| **state == State::Waits)?;
        *state = State::Inside;
        Some(id.clone())
    }

    fn set(&self, id: &str, state: State) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), state);
    }
}

/// How long there may be nothing to take before it is looked at again.
const LOOK: Duration = Duration::from_millis(200);

fn event(id: &str) -> Event {
    Event { id: id.into(), ..Event::new("simulated", id.to_owned()) }
}

/// A durable source: what it posts is answered when it is on disk.
pub(super) struct Posts {
    pub(super) outside: Arc<Outside>,
    pub(super) world: Arc<World>,
    pub(super) alive: Alive,
}

impl Source for Posts {
    fn kind(&self) -> &'static str {
        "webhook"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            ctx.ready();
            let sender = || async {
                loop {
                    let Some(id) = self.outside.take() else {
                        tokio::time::sleep(LOOK).await;
                        continue;
                    };
                    self.world.pass_time().await;
                    let accepted = ctx.accept(AcceptRequest { event: event(&id), key: Some(id.clone()), ..Default::default() }).await;
                    self.world.pass_time().await;
                    let state = match accepted {
                        Ok(Accepted::New { .. } | Accepted::Duplicate { .. }) if self.alive.is() => State::Gone,
                        _ => State::Waits,
                    };
                    self.world.note(format_args!("post {id}: {state:?}"));
                    self.outside.set(&id, state);
                }
            };
            let senders = async { tokio::join!(sender(), sender(), sender()) };
            tokio::select! {
                biased;
                () = ctx.stopping().cancelled() => self.outside.forgotten(),
                _ = senders => {}
            }
            Ok(())
        })
    }
}

/// A direct source without order: a row is marked when its event is handled.
pub(super) struct Table {
    pub(super) outside: Arc<Outside>,
    pub(super) world: Arc<World>,
    pub(super) alive: Alive,
}

impl Source for Table {
    fn kind(&self) -> &'static str {
        "poller"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        Box::pin(async move {
            ctx.ready();
            let mut pending = FuturesUnordered::new();
            loop {
                let stopping = ctx.stopping().is_cancelled();
                if stopping && pending.is_empty() {
                    return Ok(());
                }
                let credit = if stopping { None } else { ctx.credits().try_acquire() };
                if let Some(credit) = credit
                    && let Some(id) = self.outside.take()
                {
                    let answer = ctx.send(event(&id), Some(id.clone()), credit).await;
                    pending.push(async move { (id, answer.answer().await) });
                    continue;
                }
                tokio::select! {
                    biased;
                    Some((id, answer)) = pending.next(), if !pending.is_empty() => {
                        // Marking it takes its time, and is lost with the host.
                        self.world.pass_time().await;
                        let done = matches!(answer, Answer::Done { .. } | Answer::Dead { .. });
                        self.world.note(format_args!("row {id}: {done}"));
                        let state = if done && self.alive.is() && !self.world.strikes(0.02) { State::Gone } else { State::Waits };
                        self.outside.set(&id, state);
                    }
                    () = ctx.stopping().cancelled(), if !stopping => {}
                    () = tokio::time::sleep(LOOK) => {}
                }
            }
        })
    }
}
