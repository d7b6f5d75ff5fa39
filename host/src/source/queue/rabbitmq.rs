//! A queue of RabbitMQ.
//!
//! A message is acknowledged when its event is handled (or, with durable intake, in the store), each by itself. The prefetch is the number of
//! credits, so the broker is the back-pressure; how it opens is in [`pace`] and [`window`]. An acknowledgement belongs to the channel on
//! which its message was delivered: when that is gone the broker delivers the message again, and it is recognised, either because it is
//! still inside ([`intake`]) or by what the store knows.
//!
//! Connections are made anew with a growing wait, for as long as it takes, and each reason is said once.

use std::{collections::VecDeque, future::Future, pin::Pin, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use self::{
    intake::{Intake, Settled},
    message::Message,
    pace::{Pace, Step},
    session::{Item, Session},
};
use super::super::backoff::Backoff;
use crate::{
    config::RabbitmqConfig,
    source::{Source, SourceContext, SourceError},
};

pub(crate) mod connect;
mod intake;
mod management;
mod message;
mod pace;
pub(crate) mod queue;
mod session;
mod window;

/// How long to wait before the broker is tried again, at first and at most.
const SHORTEST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(10);
/// How often it is looked whether the credits are used up.
const LOOK: Duration = Duration::from_millis(500);
const NO_CREDIT: &str = "its credits are used up: as many events as `in-flight` allows wait for their handlers";

/// `kind = "rabbitmq"`.
pub struct RabbitmqSource {
    config: RabbitmqConfig,
}

impl RabbitmqSource {
    /// A source that takes what `config` says.
    pub fn new(config: RabbitmqConfig) -> Self {
        Self { config }
    }
}

impl Source for RabbitmqSource {
    fn kind(&self) -> &str {
        "rabbitmq"
    }

    fn run(&self, ctx: SourceContext) -> Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send + '_>> {
        let consumer = Consumer { intake: Intake::new(ctx.clone(), self.config.clone()), config: &self.config, ctx, said_unsafe: false };
        Box::pin(async move {
            consumer.run().await;
            Ok(())
        })
    }
}

/// Connects, consumes, and connects again.
struct Consumer<'a> {
    ctx: SourceContext,
    config: &'a RabbitmqConfig,
    intake: Intake,
    /// Nobody could say whether the queue keeps what the broker gives up on, and that was said.
    said_unsafe: bool,
}

/// A connection in use.
struct Consuming {
    session: Session,
    pace: Pace,
    /// In hand and not inside the host yet: what there is no credit for.
    waiting: VecDeque<Message>,
    /// Whether only one consumer at a time gets messages, if anybody said.
    single_active: Option<bool>,
    /// An operator has paused the source: there is no consumer, and what was delivered is back in the queue.
    held: bool,
}

impl Consuming {
    /// The store has to have messages in the order of the queue.
    fn in_order(&self) -> bool {
        self.single_active == Some(true)
    }

    /// Have messages brought. A connection begins with few.
    async fn begin(&mut self, limit: usize) -> Result<(), String> {
        let limit = u16::try_from(limit).unwrap_or(u16::MAX).max(1);
        self.pace = Pace::new(limit, self.single_active);
        self.session.consume(1).await.map_err(|error| error.to_string())
    }
}

/// Why a connection is not used any more.
enum End {
    /// The host stops.
    Stopping,
    /// It is lost: why.
    Lost(String),
}

impl Consumer<'_> {
    async fn run(mut self) {
        let stopping = self.ctx.stopping().clone();
        let mut backoff = Backoff::new(SHORTEST_WAIT, LONGEST_WAIT);
        loop {
            let began = Instant::now();
            let opened = tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                opened = self.open() => opened,
            };
            let why = match opened {
                Err(why) => why,
                Ok(mut consuming) => {
                    self.ctx.ready();
                    match self.consume(&mut consuming).await {
                        End::Stopping => return self.stop(consuming).await,
                        End::Lost(why) => why,
                    }
                }
            };
            if began.elapsed() > LASTED {
                backoff.reset();
            }
            self.ctx.unready(why);
            tokio::select! {
                biased;
                () = stopping.cancelled() => break,
                () = tokio::time::sleep(backoff.after_failure()) => {}
            }
        }
        // Without a connection there is nothing to acknowledge: the broker has it all. What is inside must end all the same.
        while self.intake.settled().await.is_some() {}
    }

    async fn open(&mut self) -> Result<Consuming, String> {
        let (session, known) = Session::open(self.config, self.ctx.origin()).await.map_err(|error| error.to_string())?;
        if known.unsafe_perhaps && !std::mem::replace(&mut self.said_unsafe, true) {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, queue = self.config.queue,
                "it is not known whether the queue has a dead-letter exchange; a quorum queue without one throws away what was delivered too often. \
                 With `management` the source can ask");
        }
        let (single_active, held) = (known.single_active_consumer, self.ctx.is_paused());
        let mut consuming = Consuming { session, pace: Pace::new(1, single_active), waiting: VecDeque::new(), single_active, held };
        if !held {
            consuming.begin(self.ctx.credits().limit()).await?;
        }
        Ok(consuming)
    }

    async fn consume(&mut self, consuming: &mut Consuming) -> End {
        let (stopping, credits) = (self.ctx.stopping().clone(), self.ctx.credits().clone());
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut held_back = false;
        loop {
            let takes = !consuming.waiting.is_empty() && self.intake.takes(consuming.in_order());
            let done = tokio::select! {
                biased;
                () = stopping.cancelled() => return End::Stopping,
                settled = self.intake.progress() => match settled {
                    Some(settled) => self.settle(consuming, settled).await,
                    None => Ok(()),
                },
                credit = credits.acquire(), if takes => {
                    if let Some(message) = consuming.waiting.pop_front() {
                        self.intake.take(message, credit).await;
                    }
                    Ok(())
                }
                () = self.ctx.paused(), if !consuming.held => {
                    consuming.held = true;
                    self.hand_back(consuming).await;
                    Ok(())
                }
                () = self.ctx.resumed(), if consuming.held => {
                    consuming.held = false;
                    consuming.begin(credits.limit()).await
                }
                item = consuming.session.next() => self.item(consuming, item).await,
                _ = look.tick() => {
                    let used_up = credits.used_up();
                    if used_up != held_back {
                        held_back = used_up;
                        self.ctx.held_back(used_up.then_some(NO_CREDIT));
                    }
                    Ok(())
                }
            };
            if let Err(why) = done {
                return End::Lost(why);
            }
        }
    }

    /// Something came from the broker.
    async fn item(&mut self, consuming: &mut Consuming, item: Item) -> Result<(), String> {
        match item {
            Item::Delivery { delivery, first } => {
                let message = Message::of(*delivery, self.config.id_header.as_deref());
                let step = consuming.pace.delivered(first, message.times_returned);
                if !self.intake.joins(&message) {
                    consuming.waiting.push_back(message);
                }
                self.step(consuming, step).await
            }
            Item::Lost(why) => Err(why),
            Item::Ended(_) => Ok(()),
        }
    }

    /// Something is settled: acknowledge it, and have more brought.
    async fn settle(&mut self, consuming: &mut Consuming, settled: Settled) -> Result<(), String> {
        let goes_on = settled.done && !consuming.held;
        let step = goes_on.then(|| consuming.pace.handled(settled.times_returned)).flatten();
        if let Some(Step::Replace(_)) = step {
            // Before the acknowledgement, with which the broker would deliver the next one to the consumer that goes.
            consuming.session.cancel().await.map_err(|error| error.to_string())?;
        }
        self.intake.answer(&settled);
        self.step(consuming, step).await
    }

    async fn step(&mut self, consuming: &mut Consuming, step: Option<Step>) -> Result<(), String> {
        let prefetch = match step {
            None => return Ok(()),
            Some(Step::Add(prefetch)) => prefetch,
            Some(Step::Replace(prefetch)) => {
                self.intake.all_acknowledged().await;
                prefetch
            }
        };
        consuming.session.consume(prefetch).await.map_err(|error| error.to_string())
    }

    /// Take nothing more, and hand back what is not inside.
    async fn hand_back(&mut self, Consuming { session, waiting, .. }: &mut Consuming) {
        let rest = session.rest().await;
        for acker in waiting.drain(..).map(|message| message.acker).chain(rest.into_iter().map(|delivery| delivery.acker)) {
            self.intake.hand_back(acker);
        }
        self.intake.all_acknowledged().await;
    }

    /// Take nothing more, hand back what is not inside, and carry out the answers that are owed.
    async fn stop(mut self, mut consuming: Consuming) {
        self.hand_back(&mut consuming).await;
        let session = consuming.session;
        while let Some(settled) = self.intake.settled().await {
            self.intake.answer(&settled);
            self.intake.all_acknowledged().await;
        }
        session.close().await;
    }
}
