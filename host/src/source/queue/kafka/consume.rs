//! The loop of a consumer: it takes messages, carries out answers, commits, and answers rebalances. It owns all of its state.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use rdkafka::{
    consumer::{Consumer as _, MessageStream, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Message},
};
use tokio::{sync::mpsc, task::coop::unconstrained};

use super::{
    Consumer, client,
    commits::{Commits, Committed},
    line::{Line, Waiting},
    message,
    partitions::{self, Partitions, Place, Ticket, list, places},
    probe::Probe,
    rebalance::{Context, Happening},
    taken::{Answered, Taken},
};
use crate::{
    channel::{Credit, Delivery},
    config::{Intake, KafkaConfig},
    receipt::Answer,
    source::{SourceContext, SourceError, in_flight::InFlight},
};

type Messages<'a> = MessageStream<'a, Context>;

/// So many handled events are committed at once, and fewer when a commit is due.
const COMMIT_SOON: usize = 500;
/// How long a stop goes on trying to commit.
const LAST_COMMITS: Duration = Duration::from_secs(4);
/// The most messages that one turn of the loop takes: as many as a source has inside the host unless told otherwise, and no more than a
/// processor's cache holds until their answers come. Of fewer the waking of the host costs more for each.
const BATCH: usize = 256;
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

/// Partitions that go to others when their calls have ended.
struct Leaving {
    partitions: Vec<Place>,
    /// How long their calls are waited for.
    calls_until: Instant,
    /// How long the broker is asked to confirm what of them is handled.
    commits_until: Instant,
}

struct Consumption<'a> {
    config: &'a KafkaConfig,
    ctx: SourceContext,
    consumer: Arc<Consumer>,
    happened: mpsc::Receiver<Happening>,
    reader: message::Reader,
    partitions: Partitions,
    leaving: VecDeque<Leaving>,
    /// Events inside the host.
    in_flight: InFlight<Taken>,
    /// Those that go there at the end of this turn of the loop.
    outgoing: Vec<Delivery>,
    /// What is no event, on its way to the dead letters.
    dying: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Events that came back and are sent again after a while. While there is one nothing new is taken.
    again: FuturesUnordered<BoxFuture<'static, Taken>>,
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
    /// An operator has paused the source: the member stays in its group, and its partitions stay paused.
    held: bool,
    commits: Commits,
    look_due: Instant,
    probe: Probe,
}

impl<'a> Consumption<'a> {
    fn new(config: &'a KafkaConfig, ctx: SourceContext, consumer: Arc<Consumer>, happened: mpsc::Receiver<Happening>) -> Self {
        let now = Instant::now();
        let line = Line::new(ctx.clone(), config.backlog);
        let commits = Commits::new(consumer.clone(), now);
        let probe = Probe::new(consumer.clone(), &config.topics);
        Self {
            config,
            ctx,
            consumer,
            happened,
            reader: message::Reader::default(),
            partitions: Partitions::default(),
            leaving: VecDeque::new(),
            in_flight: InFlight::default(),
            outgoing: Vec::with_capacity(BATCH),
            dying: FuturesUnordered::new(),
            again: FuturesUnordered::new(),
            line,
            waiting: VecDeque::new(),
            starving: None,
            stalled: None,
            paused: None,
            held: false,
            commits,
            look_due: now,
            probe,
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
                () = self.ctx.paused(), if !self.held => self.hold(),
                () = self.ctx.resumed(), if self.held => self.let_on(),
                // Though this task may have had its share for now: what is answered and not seen would not be counted as unconfirmed.
                () = unconstrained(self.in_flight.wait()), if !self.in_flight.is_empty() => self.answers(),
                Some(answered) = self.dying.next(), if !self.dying.is_empty() => self.answered(answered),
                Some(taken) = self.again.next(), if !self.again.is_empty() => self.send_again(taken),
                accepted = self.line.accepted(), if !self.line.is_empty() => self.accepted(&accepted),
                answer = self.probe.answer() => self.probed(answer),
                committed = self.commits.committed() => self.committed(committed),
                credit = acquire(&self.ctx), if self.starving.is_some() && self.paused.is_none() => self.fed(Some(credit)),
                () = half_free(&self.ctx), if self.starving.is_some() && self.paused.is_some() => self.fed(None),
                message = messages.next(), if self.polls() => if let Some(message) = message { self.take(message, messages)? },
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            self.turn().await;
        }
        self.finish(messages).await;
        Ok(())
    }

    /// Wait until the brokers answer and the topics are there. `false`: the stop came first.
    async fn connect(&mut self, messages: &mut Messages<'_>) -> bool {
        let stopping = self.ctx.stopping().clone();
        self.probe.ask();
        loop {
            tokio::select! {
                biased;
                () = stopping.cancelled() => return false,
                Some(happening) = self.happened.recv() => if let Happening::Problem(said) = happening { self.probe.hear(said) },
                answer = self.probe.answer() => match answer {
                    Ok(cluster) => {
                        self.reader = message::Reader::new(cluster, self.ctx.uri());
                        return true;
                    }
                    Err(why) => self.ctx.unready(why),
                },
                // Nothing is subscribed to: this is for what the library has to say.
                _ = messages.next() => {}
            }
        }
    }

    fn probed(&self, answer: Result<Arc<str>, String>) {
        match answer {
            Ok(_) => self.ctx.ready(),
            Err(why) => self.ctx.unready(why),
        }
    }

    /// Whether the library is polled: always but while there is shortly no credit, or a commit not confirmed.
    fn polls(&self) -> bool {
        (self.starving.is_none() && self.stalled.is_none()) || self.paused.is_some()
    }

    /// When the loop has to look around though nothing happened.
    fn next_deadline(&self) -> Instant {
        let grace = self.starving.into_iter().chain(self.stalled).min().filter(|_| self.paused.is_none()).map(|since| since + GRACE);
        let now = Instant::now();
        let leaving =
            self.leaving.front().map(|leaving| if now < leaving.calls_until { leaving.calls_until } else { leaving.commits_until });
        [self.commits.next(now), grace, leaving].into_iter().flatten().fold(self.look_due, Instant::min)
    }

    /// What is due after whatever happened.
    async fn turn(&mut self) {
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
        self.let_go(now);
        if self.commits.are_due(now, self.partitions.uncommitted() >= COMMIT_SOON.min(self.config.commit_batch / 2)) {
            self.commit(now);
        }
        if self.stalled.is_some() && !self.unconfirmed() {
            self.stalled = None;
            if self.starving.is_none() && self.again.is_empty() {
                self.fed(None);
            }
        }
        if !self.outgoing.is_empty() {
            self.ctx.send_all(&mut self.outgoing).await;
            // The host's turn: what it takes up now is still in the processor's cache, and so are its answers in the next turn here.
            tokio::task::yield_now().await;
        }
    }

    /// Commit what is new, beside everything else.
    fn commit(&mut self, now: Instant) {
        let offsets = self.partitions.next_commit(None);
        self.commits.commit(now, offsets);
    }

    fn committed(&mut self, (offsets, committed): Committed) {
        match committed {
            Ok(()) => self.partitions.confirm(&partitions::offsets(&offsets)),
            // It is tried again after a while, or the partitions are somebody else's by then.
            Err(error) => {
                let origin = self.ctx.origin();
                tracing::debug!(tenant = %origin.tenant, source = %origin.source, %error, "offsets were not committed and will be again");
                self.partitions.commit_failed(&places(&offsets));
            }
        }
    }

    /// As much is handled and not confirmed as may come again, beside what the credits allow to be inside the host: there is also what has been
    /// answered and not been looked at, of which the credits are free.
    fn unconfirmed(&self) -> bool {
        let (uncommitted, batch) = (self.partitions.uncommitted(), self.config.commit_batch);
        uncommitted >= batch || uncommitted + self.in_flight.len() >= batch.saturating_add(self.ctx.credits().limit())
    }

    /// Whether what waits in the store for this source is within its bound.
    async fn look(&mut self) {
        let held = self.held || !self.again.is_empty() || self.line.held().is_some() || self.starving.is_some() || self.unconfirmed();
        if !held && (self.paused.is_some() || self.config.intake == Intake::Direct) {
            match self.ctx.unsettled().await {
                Ok(unsettled) if unsettled >= self.config.backlog => {
                    self.pause(format!("{unsettled} of its events wait in the store"));
                }
                // What waits here comes first.
                _ if !self.waiting.is_empty() => self.fed(None),
                _ => self.resume(),
            }
        }
    }

    // ---- taking ------------------------------------------------------------------------------------------------------------------------

    /// A message, and those that are there already, as long as there are credits.
    fn take<'m>(&mut self, first: KafkaResult<BorrowedMessage<'m>>, messages: &mut Messages<'m>) -> Result<(), SourceError> {
        let mut message = first;
        for left in (0..BATCH).rev() {
            match message {
                Ok(message) => self.took(&message),
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

    fn took(&mut self, message: &BorrowedMessage<'_>) {
        let (topic, partition) = (message.topic(), message.partition());
        // One of a partition that is not ours any more comes again where it is.
        let Some(ticket) = self.partitions.take(topic, partition, message.offset()) else { return };
        if self.partitions.fills(&ticket, self.config.span) {
            let _ = self.consumer.pause(&list(&[(topic.to_owned(), partition)]));
            self.show();
        }
        let taken = Taken::new(ticket, self.reader.read(topic, message), &self.ctx);
        if !self.waiting.is_empty() || !self.again.is_empty() || self.unconfirmed() {
            if self.unconfirmed() {
                self.stalled.get_or_insert_with(Instant::now);
            }
            self.waiting.push_back(taken);
            return;
        }
        match self.ctx.credits().try_acquire() {
            Some(credit) => self.send(taken, credit),
            None => {
                self.starving.get_or_insert_with(Instant::now);
                self.waiting.push_back(taken);
            }
        }
    }

    /// There are credits again.
    fn fed(&mut self, mut credit: Option<Credit>) {
        while !self.unconfirmed() {
            let Some(taken) = self.waiting.pop_front() else { break };
            match credit.take().or_else(|| self.ctx.credits().try_acquire()) {
                Some(credit) => self.send(taken, credit),
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

    fn send(&mut self, taken: Taken, credit: Credit) {
        let Some(place) = self.partitions.enter(&taken.ticket) else { return };
        if taken.is_invalid() {
            self.dying.push(taken.dead(self.ctx.clone(), credit).boxed());
        } else if self.config.intake == Intake::Durable {
            let Taken { ticket, event, key, .. } = taken;
            self.line.push(Waiting { of: ticket, event, key, _credit: credit });
        } else {
            let (event, key) = (taken.event.clone(), taken.key.clone());
            let receipt = self.in_flight.receipt(taken);
            self.outgoing.push(self.ctx.delivery(event, key, Some(place), receipt, credit));
        }
    }

    /// What came back has waited long enough.
    fn send_again(&mut self, taken: Taken) {
        match self.ctx.credits().try_acquire() {
            Some(credit) => self.send(taken, credit),
            None => {
                self.starving.get_or_insert_with(Instant::now);
                self.waiting.push_front(taken);
            }
        }
    }

    // ---- carrying out ------------------------------------------------------------------------------------------------------------------

    /// All answers that have come.
    fn answers(&mut self) {
        while let Some((taken, answer)) = self.in_flight.next() {
            self.answered(Answered { taken, answer });
        }
    }

    fn answered(&mut self, Answered { taken, answer }: Answered) {
        match answer {
            Answer::Done { .. } | Answer::Dead { .. } => self.resolve(&taken.ticket),
            Answer::Again { after, .. } => {
                self.partitions.come_back(&taken.ticket);
                if self.ctx.stopping().is_cancelled() || !self.partitions.holds(&taken.ticket) {
                    return;
                }
                let wait = after.unwrap_or(AGAIN);
                let again = async move {
                    tokio::time::sleep(wait).await;
                    taken
                };
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
        if let Some(place) = self.partitions.has_room(ticket, self.config.span) {
            if self.paused.is_none() {
                let _ = self.consumer.resume(&list(&[place]));
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
        if self.held {
            return;
        }
        if self.paused.take().is_some() {
            let _ = self.consumer.resume(&list(&self.partitions.open()));
            self.show();
        }
    }

    /// An operator pauses the source. What is inside the host goes on.
    fn hold(&mut self) {
        self.held = true;
        self.pause("the source is paused".to_owned());
    }

    /// It goes on: when nothing else holds it, with the next look.
    fn let_on(&mut self) {
        self.held = false;
        self.look_due = Instant::now();
    }

    /// Why nothing is taken, where people look.
    fn show(&self) {
        let partitions = self.partitions.len();
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
            Happening::Revoke { partitions, lost } => self.revoke(partitions, lost),
            Happening::Problem(said) => self.probe.hear(said),
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

    /// Take nothing more of these. What is inside the host goes on; what is not there yet comes again where they go.
    fn revoke(&mut self, partitions: Vec<Place>, lost: bool) {
        self.partitions.leave(&partitions);
        let _ = self.consumer.pause(&list(&partitions));
        let patience = if lost { Duration::ZERO } else { self.config.patience() };
        if lost {
            // They are somebody else's already: what is answered now commits nothing.
            self.partitions.forget(&partitions);
        }
        self.waiting.retain(|taken| self.partitions.holds(&taken.ticket));
        let returned = self.line.remove(|ticket| !self.partitions.holds(ticket));
        returned.iter().for_each(|ticket| self.partitions.come_back(ticket));
        let calls_until = Instant::now() + patience;
        self.leaving.push_back(Leaving { partitions, calls_until, commits_until: calls_until + patience });
    }

    /// Let go of partitions whose calls have ended or have had their time, when the broker has what was handled of them.
    fn let_go(&mut self, now: Instant) {
        while let Some(leaving) = self.leaving.front() {
            if now < leaving.calls_until && !self.partitions.are_settled(&leaving.partitions) {
                return;
            }
            if now < leaving.commits_until {
                if !self.commits.may(now) {
                    return;
                }
                if let Some(offsets) = self.partitions.next_commit(Some(&leaving.partitions)) {
                    return self.commits.commit(now, Some(offsets));
                }
            }
            let Some(Leaving { partitions, .. }) = self.leaving.pop_front() else { return };
            let origin = self.ctx.origin();
            let again = self.partitions.forget(&partitions);
            if again > 0 {
                tracing::warn!(tenant = %origin.tenant, source = %origin.source, events = again, "handled and not committed: these events come again");
            }
            let let_go = match self.consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&list(&partitions)),
                _ => self.consumer.unassign(),
            };
            tracing::info!(tenant = %origin.tenant, source = %origin.source, partitions = partitions.len(), "partitions let go");
            if let Err(error) = let_go {
                tracing::warn!(tenant = %origin.tenant, source = %origin.source, %error, "partitions could not be let go of");
            }
        }
    }

    // ---- the stop ----------------------------------------------------------------------------------------------------------------------

    /// Take nothing new, wait for the answers that are owed, commit, and let go of everything.
    async fn finish(&mut self, messages: &mut Messages<'_>) {
        self.again = FuturesUnordered::new();
        self.waiting.clear();
        self.pause("the host stops".to_owned());
        self.empty_line();
        while !(self.in_flight.is_empty() && self.dying.is_empty() && self.line.is_empty()) {
            let wait = self.next_deadline();
            tokio::select! {
                biased;
                () = unconstrained(self.in_flight.wait()), if !self.in_flight.is_empty() => self.answers(),
                Some(answered) = self.dying.next(), if !self.dying.is_empty() => self.answered(answered),
                accepted = self.line.accepted(), if !self.line.is_empty() => self.accepted(&accepted),
                Some(happening) = self.happened.recv() => if self.happen(happening).is_err() { break },
                committed = self.commits.committed() => self.committed(committed),
                // Polled on, or the group takes this member for dead. What comes though everything is paused comes again elsewhere.
                _ = messages.next() => {}
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            // What the store did not take at its last try comes again: a full backlog must not hold up the stop.
            self.empty_line();
            self.turn().await;
        }
        // A rebalance may be on, and the broker confirms no commit before it is over.
        let give_up = Instant::now() + LAST_COMMITS;
        self.commits.hasten(Instant::now());
        while self.partitions.owe_commits() && Instant::now() < give_up {
            let now = Instant::now();
            self.let_go(now);
            if self.commits.are_due(now, false) {
                self.commit(now);
            }
            let wait = self.next_deadline().min(give_up);
            tokio::select! {
                biased;
                Some(happening) = self.happened.recv() => if self.happen(happening).is_err() { break },
                committed = self.commits.committed() => self.committed(committed),
                _ = messages.next() => {}
                () = tokio::time::sleep_until(wait.into()) => {}
            }
        }
        let again = self.partitions.uncommitted();
        if again > 0 {
            let origin = self.ctx.origin();
            tracing::warn!(tenant = %origin.tenant, source = %origin.source, events = again, "handled and not committed: these events come again");
        }
        self.ctx.held_back(None);
    }

    /// What is not on its way to the store yet comes again.
    fn empty_line(&mut self) {
        let returned = self.line.remove(|_| true);
        returned.iter().for_each(|ticket| self.partitions.come_back(ticket));
    }
}

/// Half of the credits: a pause for each event would fetch everything again.
async fn half_free(ctx: &SourceContext) {
    ctx.credits().half_free().await;
}

async fn acquire(ctx: &SourceContext) -> Credit {
    ctx.credits().acquire().await
}
