//! The loop of a consumer: it takes messages, carries out answers, commits, and answers rebalances. It owns all of its state.

use std::{
    collections::VecDeque,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    TopicPartitionList,
    consumer::{CommitMode, Consumer as _, MessageStream, RebalanceProtocol, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Message},
};
use tokio::{sync::mpsc, task::coop::unconstrained};

use super::{
    client::{self, Problem, reachable},
    line::{Line, Waiting},
    message::{self, Read},
    partitions::{Partitions, Place, Ticket, list, places},
    rebalance::{Context, Happening},
};
use crate::{
    channel::{Credit, InOrder},
    config::{Intake, KafkaConfig},
    event::Event,
    receipt::Answer,
    source::{SourceContext, SourceError, backoff::Backoff},
};

type Consumer = StreamConsumer<Context>;
type Messages<'a> = MessageStream<'a, Context>;

/// How often what was handled is committed.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// So many handled events are committed at once, without waiting for [`COMMIT_EVERY`].
const COMMIT_SOON: usize = 500;
/// How long a stop goes on trying to commit.
const LAST_COMMITS: Duration = Duration::from_secs(4);
/// The most messages that one turn of the loop takes.
const BATCH: usize = 64;
/// How long the host may have no credit left before partitions are paused: a pause throws away what was fetched ahead.
const GRACE: Duration = Duration::from_millis(200);
/// How long to wait before an event that came back is sent again, when nobody says.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a full backlog is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What can happen between two turns of the loop.
const HAPPENINGS: usize = 1_024;

/// Take messages until told to stop.
pub(super) async fn run(config: &KafkaConfig, ctx: SourceContext) -> Result<(), SourceError> {
    let (happenings, happened) = mpsc::channel(HAPPENINGS);
    let created = client::consumer(config, ctx.origin()).create_with_context(Context::new(happenings));
    let consumer: Arc<Consumer> = Arc::new(created.map_err(|error| SourceError(client::refused(&error)))?);
    let shared = consumer.clone();
    let mut stream = shared.stream();
    let mut consumption = Consumption::new(config, ctx, consumer, happened);
    let ended = consumption.run(&mut stream).await;
    drop((stream, consumption));
    // Leaving the group waits for the broker.
    let left = tokio::task::spawn_blocking(move || drop(shared)).await;
    ended.and(left.map_err(SourceError::new))
}

/// An event that was sent, with what carrying out its answer needs.
struct Answered {
    ticket: Ticket,
    event: Arc<Event>,
    key: String,
    answer: Answer,
}

/// What became of a commit.
type Committed = (TopicPartitionList, KafkaResult<()>);

/// A message that was taken and waits for a credit.
struct Taken {
    ticket: Ticket,
    read: Read,
}

/// Partitions that go to others when their calls have ended.
struct Leaving {
    partitions: Vec<Place>,
    /// Until then.
    deadline: Instant,
}

struct Consumption<'a> {
    config: &'a KafkaConfig,
    ctx: SourceContext,
    consumer: Arc<Consumer>,
    happened: mpsc::Receiver<Happening>,
    /// The cluster's id: part of what a message is recognised by.
    cluster: Arc<str>,
    partitions: Partitions,
    leaving: VecDeque<Leaving>,
    /// Events inside the host, at most one for each credit.
    in_flight: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Events that came back and are sent again after a while. While there is one nothing new is taken.
    again: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Events on their way to the store, with `intake = "durable"`.
    line: Line<Ticket>,
    /// Messages that came although there is no credit for them: no more than what was on its way when partitions were paused.
    waiting: VecDeque<Taken>,
    /// Since when there is no credit.
    starving: Option<Instant>,
    /// Since when as much is handled and not confirmed as may come again.
    stalled: Option<Instant>,
    /// All partitions are paused, and why.
    paused: Option<String>,
    /// A commit that is on its way, one at a time.
    committing: Option<BoxFuture<'static, Committed>>,
    commit_due: Instant,
    look_due: Instant,
    /// The question whether the brokers answer, while it is asked.
    probe: Option<BoxFuture<'static, Result<Arc<str>, Problem>>>,
    /// What the library said last.
    said: Option<String>,
    backoff: Backoff,
}

impl<'a> Consumption<'a> {
    fn new(config: &'a KafkaConfig, ctx: SourceContext, consumer: Arc<Consumer>, happened: mpsc::Receiver<Happening>) -> Self {
        let now = Instant::now();
        let line = Line::new(ctx.clone(), config.backlog);
        Self {
            config,
            ctx,
            consumer,
            happened,
            cluster: "".into(),
            partitions: Partitions::default(),
            leaving: VecDeque::new(),
            in_flight: FuturesUnordered::new(),
            again: FuturesUnordered::new(),
            line,
            waiting: VecDeque::new(),
            starving: None,
            stalled: None,
            paused: None,
            committing: None,
            commit_due: now + COMMIT_EVERY,
            look_due: now,
            probe: None,
            said: None,
            backoff: Backoff::new(Duration::from_millis(250), Duration::from_secs(10)),
        }
    }

    async fn run<'m>(&mut self, messages: &mut Messages<'m>) -> Result<(), SourceError> {
        let stopping = self.ctx.stopping().clone();
        if !self.connect(messages).await {
            return Ok(());
        }
        let topics: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&topics).map_err(SourceError::new)?;
        self.ctx.ready();
        while !stopping.is_cancelled() {
            let wait = self.next_deadline();
            tokio::select! {
                biased;
                () = stopping.cancelled() => {}
                Some(happening) = self.happened.recv() => self.happen(happening)?,
                Some(answered) = unconstrained(self.in_flight.next()), if !self.in_flight.is_empty() => self.answered_many(answered),
                Some(answered) = self.again.next(), if !self.again.is_empty() => self.answered(answered),
                accepted = self.line.accepted(), if !self.line.is_empty() => self.accepted(&accepted),
                probed = asked(&mut self.probe) => self.probed(probed),
                committed = asked(&mut self.committing) => self.committed(committed),
                credit = acquire(&self.ctx), if self.starving.is_some() && self.paused.is_none() => self.fed(Some(credit)).await,
                () = half_free(&self.ctx), if self.starving.is_some() && self.paused.is_some() => self.fed(None).await,
                message = messages.next(), if self.polls() => if let Some(message) = message { self.take(message, messages).await? },
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            self.turn().await?;
        }
        self.finish(messages).await;
        Ok(())
    }

    /// Wait until the brokers answer and the topics are there. `false`: the stop came first.
    async fn connect(&mut self, messages: &mut Messages<'_>) -> bool {
        let stopping = self.ctx.stopping().clone();
        let mut retry = Instant::now();
        loop {
            if self.probe.is_none() && Instant::now() >= retry {
                self.ask();
            }
            tokio::select! {
                biased;
                () = stopping.cancelled() => return false,
                Some(happening) = self.happened.recv() => if let Happening::Problem(Some(said)) = happening { self.said = Some(said) },
                probed = asked(&mut self.probe) => match probed {
                    Ok(cluster) => {
                        self.cluster = cluster;
                        self.backoff.reset();
                        return true;
                    }
                    Err(problem) => {
                        retry = Instant::now() + self.backoff.after_failure();
                        self.unreachable(problem);
                    }
                },
                // Nothing is subscribed to: this is for what the library has to say.
                _ = messages.next() => {}
                () = tokio::time::sleep_until(retry.into()), if self.probe.is_none() => {}
            }
        }
    }

    /// Ask whether the brokers answer, beside everything else.
    fn ask(&mut self) {
        let (consumer, topics) = (self.consumer.clone(), self.config.topics.clone());
        let asked = tokio::task::spawn_blocking(move || reachable(consumer.client(), &topics));
        self.probe = Some(asked.map(|asked| asked.unwrap_or_else(|error| Err(Problem::Silent(error.to_string())))).boxed());
    }

    fn unreachable(&mut self, problem: Problem) {
        match problem {
            Problem::Topic(why) => self.ctx.unready(why),
            Problem::Silent(why) => self.ctx.unready(self.said.clone().unwrap_or(why)),
        }
    }

    fn probed(&mut self, probed: Result<Arc<str>, Problem>) {
        match probed {
            Ok(_) => {
                self.said = None;
                self.backoff.reset();
                self.ctx.ready();
            }
            Err(problem) => {
                self.unreachable(problem);
                let (consumer, topics, wait) = (self.consumer.clone(), self.config.topics.clone(), self.backoff.after_failure());
                let again = async move {
                    tokio::time::sleep(wait).await;
                    let asked = tokio::task::spawn_blocking(move || reachable(consumer.client(), &topics)).await;
                    asked.unwrap_or_else(|error| Err(Problem::Silent(error.to_string())))
                };
                self.probe = Some(again.boxed());
            }
        }
    }

    /// Whether the library is polled: always but while there is shortly no credit, or a commit not confirmed.
    fn polls(&self) -> bool {
        (self.starving.is_none() && self.stalled.is_none()) || self.paused.is_some()
    }

    /// When the loop has to look around though nothing happened.
    fn next_deadline(&self) -> Instant {
        let grace = self.starving.into_iter().chain(self.stalled).min().filter(|_| self.paused.is_none()).map(|since| since + GRACE);
        let leaving = self.leaving.front().map(|leaving| leaving.deadline);
        [Some(self.commit_due), Some(self.look_due), grace, leaving].into_iter().flatten().min().unwrap_or(self.commit_due)
    }

    /// What is due after whatever happened.
    async fn turn(&mut self) -> Result<(), SourceError> {
        let now = Instant::now();
        if self.paused.is_none() && self.starving.is_some_and(|since| now >= since + GRACE) {
            let limit = self.ctx.credits().limit();
            self.pause(format!("{limit} of its events are inside the host and not handled yet"));
        }
        if self.paused.is_none() && self.stalled.is_some_and(|since| now >= since + GRACE) {
            self.pause("the broker does not confirm what was committed".to_owned());
        }
        if self.paused.is_none()
            && let Some(why) = self.line.held()
        {
            self.pause(why.to_owned());
        }
        if now >= self.look_due {
            self.look_due = now + LOOK;
            self.look().await;
        }
        self.let_go(now).await;
        if self.committing.is_none()
            && (now >= self.commit_due || self.partitions.uncommitted() >= COMMIT_SOON.min(self.config.commit_batch / 2))
        {
            self.commit();
        }
        if self.stalled.is_some() && !self.unconfirmed() {
            self.stalled = None;
            if self.starving.is_none() && self.again.is_empty() {
                self.fed(None).await;
            }
        }
        Ok(())
    }

    /// Commit what is new, beside everything else. Not by the library's asynchronous commit, which does not tell what became of it.
    fn commit(&mut self) {
        self.commit_due = Instant::now() + COMMIT_EVERY;
        let Some(offsets) = self.partitions.next_commit(None) else { return };
        self.committing = Some(commit(self.consumer.clone(), offsets).boxed());
    }

    fn committed(&mut self, (offsets, committed): Committed) {
        match committed {
            Ok(()) => self.partitions.confirm(&super::partitions::offsets(&offsets)),
            // The next time it is tried again, or the partitions are somebody else's by then.
            Err(error) => {
                let origin = self.ctx.origin();
                tracing::debug!(tenant = %origin.tenant, source = %origin.source, %error, "offsets were not committed and will be again");
                self.partitions.commit_failed(&places(&offsets));
            }
        }
    }

    /// As much is handled and not confirmed as may come again.
    fn unconfirmed(&self) -> bool {
        self.partitions.uncommitted() >= self.config.commit_batch
    }

    /// Whether what waits in the store for this source is within its bound.
    async fn look(&mut self) {
        let held = !self.again.is_empty() || self.line.held().is_some() || self.starving.is_some() || self.unconfirmed();
        if !held && (self.paused.is_some() || self.config.intake == Intake::Direct) {
            match self.ctx.unsettled().await {
                Ok(unsettled) if unsettled >= self.config.backlog => {
                    self.pause(format!("{unsettled} of its events wait in the store"));
                }
                // What waits here comes first.
                _ if !self.waiting.is_empty() => self.fed(None).await,
                _ => self.resume(),
            }
        }
    }

    // ---- taking ------------------------------------------------------------------------------------------------------------------------

    /// A message, and those that are there already, as long as there are credits.
    async fn take<'m>(&mut self, first: KafkaResult<BorrowedMessage<'m>>, messages: &mut Messages<'m>) -> Result<(), SourceError> {
        let mut message = first;
        for left in (0..BATCH).rev() {
            match message {
                Ok(message) => self.took(&message).await,
                Err(KafkaError::MessageConsumptionFatal(code)) => return Err(SourceError(code.to_string())),
                // The library told why by its callback.
                Err(_) => {}
            }
            // What the library has given out is taken, or it would be missing: asked only for what this turn still has room for.
            if left == 0 || self.starving.is_some() || self.stalled.is_some() || !self.again.is_empty() || self.paused.is_some() {
                break;
            }
            let Some(Some(next)) = messages.next().now_or_never() else { break };
            message = next;
        }
        Ok(())
    }

    async fn took(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition) = (message.topic(), message.partition());
        // One of a partition that is not ours any more comes again where it is.
        let Some(ticket) = self.partitions.take(topic, partition, message.offset()) else { return };
        if self.partitions.fills(topic, partition, self.config.span) {
            let _ = self.consumer.pause(&list(&[(topic.to_owned(), partition)]));
            self.show();
        }
        let taken = Taken { ticket, read: message::read(message, &self.cluster) };
        if !self.waiting.is_empty() || !self.again.is_empty() || self.unconfirmed() {
            if self.unconfirmed() {
                self.stalled.get_or_insert_with(Instant::now);
            }
            self.waiting.push_back(taken);
            return;
        }
        match self.ctx.credits().try_acquire() {
            Some(credit) => self.send(taken, credit).await,
            None => {
                self.starving.get_or_insert_with(Instant::now);
                self.waiting.push_back(taken);
            }
        }
    }

    /// There are credits again.
    async fn fed(&mut self, mut credit: Option<Credit>) {
        while !self.unconfirmed() {
            let Some(taken) = self.waiting.pop_front() else { break };
            match credit.take().or_else(|| self.ctx.credits().try_acquire()) {
                Some(credit) => self.send(taken, credit).await,
                None => {
                    self.waiting.push_front(taken);
                    // It goes on, if slowly: from now on there is no credit, and a pause is for when that lasts.
                    self.starving = Some(Instant::now());
                    return;
                }
            }
        }
        self.starving = None;
        if !self.waiting.is_empty() {
            // The rest waits for a commit.
            self.stalled.get_or_insert_with(Instant::now);
        } else if self.again.is_empty() {
            self.resume();
        }
    }

    async fn send(&mut self, taken: Taken, credit: Credit) {
        let Taken { ticket, read: Read { event, key, invalid } } = taken;
        if !self.partitions.holds(&ticket) {
            return;
        }
        let event = Arc::new(event);
        let sent = Sent { ctx: self.ctx.clone(), ticket, event, key };
        if let Some(why) = invalid {
            self.in_flight.push(sent.dead(why.to_string(), credit).boxed());
        } else if self.config.intake == Intake::Durable {
            let Sent { ticket, event, key, .. } = sent;
            self.line.push(Waiting { of: ticket, event, key, _credit: credit });
        } else {
            let handled = sent.handle(credit).await;
            self.in_flight.push(handled.boxed());
        }
    }

    // ---- carrying out ------------------------------------------------------------------------------------------------------------------

    /// An answer, and those that are there already. All of them, though this task may have had its share for now: what is answered and not
    /// seen would not be counted as unconfirmed.
    fn answered_many(&mut self, first: Answered) {
        self.answered(first);
        for _ in 1..BATCH {
            let Some(Some(answered)) = unconstrained(self.in_flight.next()).now_or_never() else { break };
            self.answered(answered);
        }
    }

    fn answered(&mut self, answered: Answered) {
        let Answered { ticket, event, key, answer } = answered;
        match answer {
            Answer::Done { .. } | Answer::Dead { .. } => self.resolve(&ticket),
            Answer::Again { .. } if self.ctx.stopping().is_cancelled() || !self.partitions.holds(&ticket) => {}
            Answer::Again { after, .. } => {
                let sent = Sent { ctx: self.ctx.clone(), ticket, event, key };
                let again = sent.again(after.unwrap_or(AGAIN));
                self.again.push(again.boxed());
                if self.paused.is_none() {
                    self.pause("events came back and are sent again".to_owned());
                }
            }
        }
    }

    /// Events are in the store.
    fn accepted(&mut self, tickets: &[Ticket]) {
        tickets.iter().for_each(|ticket| self.resolve(ticket));
    }

    fn resolve(&mut self, ticket: &Ticket) {
        self.partitions.resolve(ticket);
        if self.partitions.has_room(ticket, self.config.span) {
            if self.paused.is_none() {
                let _ = self.consumer.resume(&list(&[(ticket.topic.to_string(), ticket.partition)]));
            }
            self.show();
        }
    }

    fn pause(&mut self, why: String) {
        if self.paused.is_none() {
            let _ = self.consumer.pause(&list(&self.partitions.open()));
        }
        self.paused = Some(why);
        self.show();
    }

    fn resume(&mut self) {
        if self.paused.take().is_some() {
            let _ = self.consumer.resume(&list(&self.partitions.open()));
            self.show();
        }
    }

    /// Why nothing is taken, where people look.
    fn show(&self) {
        let partitions = self.partitions.all().len();
        let why = match (&self.paused, self.partitions.full()) {
            (Some(why), _) => Some(format!("all {partitions} partitions are paused: {why}")),
            (None, 0) => None,
            (None, full) => {
                let span = self.config.span;
                Some(format!(
                    "{full} of {partitions} partitions are paused: {span} offsets behind an event that is not handled yet were taken"
                ))
            }
        };
        self.ctx.held_back(why.as_deref());
    }

    // ---- rebalances --------------------------------------------------------------------------------------------------------------------

    fn happen(&mut self, happening: Happening) -> Result<(), SourceError> {
        match happening {
            Happening::Assign(partitions) => self.assign(&partitions)?,
            Happening::Revoke { partitions, lost } => {
                self.partitions.leave(&partitions);
                let _ = self.consumer.pause(&list(&partitions));
                let deadline = Instant::now() + if lost { Duration::ZERO } else { self.config.patience() };
                if lost {
                    // They are somebody else's already: what is answered now commits nothing.
                    self.partitions.forget(&partitions);
                }
                self.leaving.push_back(Leaving { partitions, deadline });
            }
            Happening::Problem(said) => {
                self.said = said.or(self.said.take());
                if self.probe.is_none() {
                    self.ask();
                }
            }
        }
        Ok(())
    }

    fn assign(&mut self, partitions: &[Place]) -> Result<(), SourceError> {
        self.partitions.assign(partitions);
        let assigned = list(partitions);
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&assigned),
            _ => self.consumer.assign(&assigned),
        }
        .map_err(SourceError::new)?;
        // A pause outlasts an assignment.
        let _ = if self.paused.is_some() { self.consumer.pause(&assigned) } else { self.consumer.resume(&assigned) };
        let origin = self.ctx.origin();
        tracing::info!(tenant = %origin.tenant, source = %origin.source, partitions = partitions.len(), "partitions assigned");
        Ok(())
    }

    /// Let go of partitions whose calls have ended or have had their time.
    async fn let_go(&mut self, now: Instant) {
        while let Some(leaving) = self.leaving.front() {
            if now < leaving.deadline && !self.partitions.are_settled(&leaving.partitions) {
                return;
            }
            let Some(Leaving { partitions, .. }) = self.leaving.pop_front() else { return };
            self.commit_now(&partitions).await;
            self.partitions.forget(&partitions);
            self.waiting.retain(|taken| self.partitions.holds(&taken.ticket));
            self.line.retain(|ticket| self.partitions.holds(ticket));
            let let_go = match self.consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&list(&partitions)),
                _ => self.consumer.unassign(),
            };
            let origin = self.ctx.origin();
            tracing::info!(tenant = %origin.tenant, source = %origin.source, partitions = partitions.len(), "partitions let go");
            if let Err(error) = let_go {
                tracing::warn!(tenant = %origin.tenant, source = %origin.source, %error, "partitions could not be let go of");
            }
        }
    }

    /// Commit and wait until the broker has it.
    async fn commit_now(&mut self, partitions: &[Place]) {
        // What is on its way may not arrive.
        self.partitions.commit_failed(partitions);
        let Some(offsets) = self.partitions.next_commit(Some(partitions)) else { return };
        let (offsets, committed) = commit(self.consumer.clone(), offsets).await;
        match committed {
            Ok(()) => self.partitions.confirm(&super::partitions::offsets(&offsets)),
            Err(error) => {
                let origin = self.ctx.origin();
                tracing::warn!(tenant = %origin.tenant, source = %origin.source, %error, "offsets were not committed: what was handled comes again");
            }
        }
    }

    // ---- the stop ----------------------------------------------------------------------------------------------------------------------

    /// Take nothing new, wait for the answers that are owed, commit, and let go of everything.
    async fn finish(&mut self, messages: &mut Messages<'_>) {
        self.again = FuturesUnordered::new();
        self.waiting.clear();
        self.line.retain(|_| false);
        self.pause("the host stops".to_owned());
        while !self.in_flight.is_empty() || !self.line.is_empty() {
            let wait = self.next_deadline();
            tokio::select! {
                biased;
                Some(answered) = unconstrained(self.in_flight.next()), if !self.in_flight.is_empty() => self.answered(answered),
                accepted = self.line.accepted(), if !self.line.is_empty() => self.accepted(&accepted),
                Some(happening) = self.happened.recv() => if self.happen(happening).is_err() { break },
                committed = asked(&mut self.committing) => self.committed(committed),
                // Polled on, or the group takes this member for dead. What comes though everything is paused comes again elsewhere.
                _ = messages.next() => {}
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            // What the store did not take at its last try comes again: a full backlog must not hold up the stop.
            self.line.retain(|_| false);
            if self.turn().await.is_err() {
                break;
            }
        }
        // A rebalance may be on, and the broker confirms no commit before it is over.
        let give_up = Instant::now() + LAST_COMMITS;
        self.commit_due = Instant::now();
        while self.partitions.uncommitted() > 0 && Instant::now() < give_up {
            if self.committing.is_none() && Instant::now() >= self.commit_due {
                self.commit();
                self.commit_due = Instant::now() + LAST_COMMITS / 20;
            }
            let wait = self.next_deadline().min(give_up);
            tokio::select! {
                biased;
                Some(happening) = self.happened.recv() => if self.happen(happening).is_err() { break },
                committed = asked(&mut self.committing) => self.committed(committed),
                _ = messages.next() => {}
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            self.let_go(Instant::now()).await;
        }
        let again = self.partitions.uncommitted();
        if again > 0 {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, events = again, "handled and not committed: these events come again");
        }
        self.ctx.held_back(None);
    }
}

/// An event on its way into the host.
struct Sent {
    ctx: SourceContext,
    ticket: Ticket,
    event: Arc<Event>,
    key: String,
}

impl Sent {
    /// Send it through the control channel; the answer is still to come.
    async fn handle(self, credit: Credit) -> impl Future<Output = Answered> + Send + 'static {
        let Self { ctx, ticket, event, key } = self;
        let place = InOrder { line: ticket.line.clone(), at: ticket.offset };
        let pending = ctx.send_in_order(event.clone(), key.clone(), place, credit).await;
        async move { Answered { ticket, event, key, answer: pending.answer().await } }
    }

    /// Keep it as a dead letter.
    async fn dead(self, reason: String, credit: Credit) -> Answered {
        let Self { ctx, ticket, event, key } = self;
        let kept = ctx.dead_letter(Event::clone(&event), Some(key.clone()), reason.clone()).await;
        drop(credit);
        Answered { ticket, event, key, answer: if kept.is_ok() { Answer::Dead { reason } } else { again() } }
    }

    /// The same after a while, when it came back.
    async fn again(self, after: Duration) -> Answered {
        tokio::time::sleep(after).await;
        let credit = self.ctx.credits().acquire().await;
        self.handle(credit).await.await
    }
}

fn again() -> Answer {
    Answer::Again { after: None, cause: crate::receipt::Cause::Host }
}

/// Half of the credits: a pause for each event would fetch everything again.
async fn half_free(ctx: &SourceContext) {
    ctx.credits().half_free().await;
}

async fn acquire(ctx: &SourceContext) -> Credit {
    ctx.credits().acquire().await
}

/// Commit, and wait until the broker has it.
async fn commit(consumer: Arc<Consumer>, offsets: TopicPartitionList) -> Committed {
    let committing = tokio::task::spawn_blocking(move || {
        let committed = consumer.commit(&offsets, CommitMode::Sync);
        (offsets, committed)
    });
    committing.await.unwrap_or_else(|_| (TopicPartitionList::new(), Err(KafkaError::Canceled)))
}

/// The answer to a question, once; forever pending while none is asked.
pub(super) async fn asked<T>(question: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(asking) = question else { return pending().await };
    let answer = asking.await;
    *question = None;
    answer
}
