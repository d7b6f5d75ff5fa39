//! The main function of the host: one loop that receives from the control channel, routes, dispatches and drains.
//!
//! The loop never waits for a permit and never does I/O: what has to wait stands in a queue of [`dispatch::Dispatcher`], which the loop owns,
//! and calls run in tasks of their own. Drain and commands come by channels of their own and never queue behind events.

pub(crate) mod accept;
pub(crate) mod atomic;
pub(crate) mod attempts;
pub(crate) mod bell;
pub(crate) mod dispatch;
pub(crate) mod fair;
pub mod generation;
pub(crate) mod joint;
pub(crate) mod order;
pub(crate) mod probation;
pub mod router;
pub(crate) mod settle;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    channel::{ControlReceiver, Delivery, Intake, Origin},
    config::Unmatched,
    controller::{
        atomic::LaneStatus,
        dispatch::{Dispatcher, Slot},
        generation::{EMIT, Generation},
        joint::Joint,
        probation::Probation,
        settle::Settler,
    },
    event::Event,
    planted::{Mistake, is_planted},
    shutdown::ledger::Ledgers,
};

/// How many deliveries one turn of the loop takes.
const BATCH: usize = 64;

/// What the loop can see.
enum Control {
    Deliveries,
    Finished(Slot),
    Command(Command),
    Closed,
}

/// What others may ask of the controller.
pub(crate) enum Command {
    /// From now on nothing is started: what waits and what still comes is returned, but for what a source that acknowledges in order needs.
    Return(oneshot::Sender<()>),
    /// Return that too.
    ReturnAll(oneshot::Sender<()>),
    /// Answered when nothing waits or runs any more.
    Idle(oneshot::Sender<()>),
    /// What runs and waits.
    Status(oneshot::Sender<Status>),
}

/// The way to ask the controller.
#[derive(Debug, Clone)]
pub(crate) struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// A way to ask, and the controller's end of it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, asked) = mpsc::channel(16);
        (Self(commands), asked)
    }

    /// Ask, and wait for the answer; none when the controller has ended.
    pub(crate) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, mut answered) = oneshot::channel();
        self.0.send(command(answer)).await.ok()?;
        tokio::select! {
            biased;
            answer = &mut answered => answer.ok(),
            // What is sent in the moment in which the receiver is dropped stays in tokio's channel for as long as there is a sender: this
            // one. Its answer would neither come nor be given up.
            () = self.0.closed() => answered.try_recv().ok(),
        }
    }
}

/// The last event that came from outside.
pub(crate) type Last = Arc<ArcSwapOption<(Arc<Origin>, Arc<Event>)>>;

/// What runs and waits.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Status {
    /// Calls that run.
    pub running: usize,
    /// Plain calls that wait for a permit.
    pub waiting: usize,
    /// The lanes that are held or waited for.
    pub lanes: Vec<LaneStatus>,
}

/// The controller's side of everything it talks to.
pub(crate) struct Controller {
    pub(crate) control: ControlReceiver,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) generation: Arc<ArcSwap<Generation>>,
    pub(crate) settler: Arc<Settler>,
    pub(crate) ledgers: Ledgers,
    pub(crate) probation: Probation,
    /// Where the last event is remembered, if it is.
    pub(crate) last: Option<Last>,
    /// Calls side by side.
    pub(crate) concurrency: usize,
    /// The most deliveries there can be inside the host.
    pub(crate) credits: usize,
    /// Makes fencing tokens that never repeat.
    pub(crate) start_number: u64,
    /// Fires when calls that still run are to be cut.
    pub(crate) cut: CancellationToken,
    /// The calls that run.
    pub(crate) calls: TaskTracker,
}

impl Controller {
    /// Run until every sender of the control channel is gone and nothing runs any more.
    pub(crate) async fn run(mut self) {
        // As many calls can finish at once as can run at once, so that telling it never waits.
        let (finished_tx, mut finished) = mpsc::channel(self.credits + self.concurrency + 1);
        let mut dispatcher = Dispatcher::new(self.concurrency, self.start_number, finished_tx);
        let mut batch = Vec::with_capacity(BATCH);
        let mut returning = false;
        let mut idle: Vec<oneshot::Sender<()>> = Vec::new();
        let mut closed = false;
        loop {
            let control = tokio::select! {
                biased;
                Some(command) = self.commands.recv() => Control::Command(command),
                Some(slot) = finished.recv() => Control::Finished(slot),
                n = self.control.recv_many(&mut batch, BATCH), if !closed => if n == 0 { Control::Closed } else { Control::Deliveries },
                else => Control::Closed,
            };
            match control {
                Control::Deliveries => batch.drain(..).for_each(|delivery| self.receive(delivery, &mut dispatcher, returning)),
                Control::Finished(slot) => dispatcher.finished(slot),
                Control::Command(Command::Status(answer)) => drop(answer.send(dispatcher.status())),
                Control::Command(Command::Return(answer)) => {
                    returning = true;
                    self.return_waiting(&mut dispatcher, false);
                    let _ = answer.send(());
                }
                Control::Command(Command::ReturnAll(answer)) => {
                    returning = true;
                    self.return_waiting(&mut dispatcher, true);
                    let _ = answer.send(());
                }
                Control::Command(Command::Idle(answer)) => idle.push(answer),
                Control::Closed => closed = true,
            }
            while let Some(started) = dispatcher.next() {
                self.calls.spawn(started.run(self.settler.clone(), self.cut.clone()));
            }
            if dispatcher.is_idle() {
                for answer in idle.drain(..) {
                    let _ = answer.send(());
                }
            }
            if closed && dispatcher.is_idle() {
                return;
            }
        }
    }

    /// Count a delivery, find the handlers that want it, put its calls in line.
    fn receive(&mut self, delivery: Delivery, dispatcher: &mut Dispatcher, returning: bool) {
        self.ledgers.received(&delivery.origin);
        let comes_again = || matches!(&delivery.intake, Intake::Task(task) if task.attempts > 0);
        if let Some(last) = self.last.as_ref().filter(|_| &*delivery.origin.source != EMIT && !comes_again()) {
            last.store(Some(Arc::new((delivery.origin.clone(), delivery.event.clone()))));
        }
        let generation = self.generation.load();
        let mut routed = match &delivery.intake {
            Intake::Task(task) => router::of_task(&generation, task),
            Intake::Direct { .. } | Intake::Reply { .. } => router::route(&generation, &delivery.origin, &delivery.event),
        };
        if is_planted(Mistake::DroppedHandler) {
            routed.truncate(1);
        }
        if let Intake::Direct { place: Some(place) } = &delivery.intake {
            dispatcher.has_come(place, |handler| routed.iter().any(|routed| routed.handler.config.name == handler));
        }
        if routed.is_empty() {
            match (&delivery.intake, generation.unmatched(&delivery.origin)) {
                (Intake::Direct { .. }, Unmatched::Ignore) => settle::ignored(&self.ledgers, delivery),
                _ => drop(self.calls.spawn(settle::unmatched(self.settler.clone(), delivery))),
            }
            return;
        }
        let aside = !self.probation.is_over() && self.probation.takes(&delivery, tokio::time::Instant::now());
        let joint = Joint::new(delivery, routed.len(), aside, self.settler.clone());
        for routed in routed {
            let call = joint.clone().call(routed);
            if returning { drop(call) } else { dispatcher.enqueue(call) }
        }
    }

    /// Nothing of this was started: dropping it returns it.
    fn return_waiting(&mut self, dispatcher: &mut Dispatcher, all: bool) {
        while let Some(delivery) = self.control.try_recv() {
            self.receive(delivery, dispatcher, true);
        }
        let waiting = dispatcher.take_waiting();
        let (needed, returned): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|call| !all && dispatcher.is_behind_started(call));
        drop(returned);
        needed.into_iter().for_each(|call| dispatcher.enqueue(call));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whoever_asks_in_the_moment_in_which_the_controller_ends_does_not_wait_for_ever() {
        for round in 0..20_000 {
            let (commands, mut asked) = Commands::new();
            let ready = Arc::new(tokio::sync::Notify::new());
            let controller = crate::task::spawn("controller", {
                let ready = ready.clone();
                async move {
                    ready.notify_one();
                    (0..round % 200).for_each(|_| std::hint::spin_loop());
                    while let Ok(Command::Return(answer)) = asked.try_recv() {
                        let _ = answer.send(());
                    }
                }
            });
            ready.notified().await;
            let asked = tokio::time::timeout(std::time::Duration::from_secs(10), commands.ask(Command::Return)).await;
            assert!(asked.is_ok(), "no answer in round {round}");
            controller.await.unwrap();
        }
    }
}
