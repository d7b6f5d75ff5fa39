//! What is outside the host, and outlives it: chance, the disk's moods, and what everybody saw.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    source::queue::kafka::simulated::Chance,
    store::sqlite::simulated::{Disk, Weather},
};

/// Everything that outlives a host.
pub(super) struct World {
    random: Mutex<StdRng>,
    /// Things go wrong.
    stormy: AtomicBool,
    pub(super) disk: Arc<Disk>,
    /// What handlers did outside: by (event, handler), how often.
    pub(super) seen: Mutex<BTreeMap<(String, String), u32>>,
    /// What happened, in order.
    trace: Mutex<Vec<String>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            stormy: AtomicBool::new(true),
            disk: Disk::new().expect("a database in memory"),
            seen: Mutex::default(),
            trace: Mutex::default(),
        })
    }

    /// A number from the range.
    pub(super) fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).random_range(range)
    }

    /// Whether something of this probability happens.
    pub(super) fn happens(&self, probability: f64) -> bool {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).random_bool(probability)
    }

    /// Whether something bad of this probability happens: nothing bad does once it is calm.
    pub(super) fn strikes(&self, probability: f64) -> bool {
        self.is_stormy() && self.happens(probability)
    }

    pub(super) fn is_stormy(&self) -> bool {
        self.stormy.load(Ordering::Relaxed)
    }

    /// Nothing goes wrong from now on.
    pub(super) fn calm_down(&self) {
        self.stormy.store(false, Ordering::Relaxed);
    }

    /// As long as something takes: mostly some milliseconds, at times much longer.
    pub(super) fn some_time(&self) -> Duration {
        Duration::from_millis(match self.draw(0..100) {
            0..40 => 0,
            40..90 => self.draw(1..10),
            90..99 => self.draw(10..100),
            _ => self.draw(100..1_500),
        })
    }

    /// Let it pass.
    pub(super) async fn pass_time(&self) {
        match self.some_time() {
            Duration::ZERO => tokio::task::yield_now().await,
            time => tokio::time::sleep(time).await,
        }
    }

    /// A handler did something outside.
    pub(super) fn saw(&self, event: &str, handler: &str) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry((event.to_owned(), handler.to_owned())).or_default() += 1;
    }

    /// Note what happened.
    pub(super) fn note(&self, what: impl std::fmt::Display) {
        let at = crate::ambient::now() % 1_000_000_000;
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{at:>9} {what}"));
    }

    pub(super) fn trace(&self) -> Vec<String> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The weather where one host is: it may stand still for a while, like one that was stopped and woken.
pub(super) struct Place {
    world: Arc<World>,
    still_until: Mutex<Option<Instant>>,
}

impl Place {
    pub(super) fn new(world: &Arc<World>) -> Arc<Self> {
        Arc::new(Self { world: world.clone(), still_until: Mutex::default() })
    }

    pub(super) fn stands_still_for(&self) -> Duration {
        let until = *self.still_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Whatever it does from now on takes so long at least.
    pub(super) fn stand_still(&self, long: Duration) {
        *self.still_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + long);
    }
}

impl Weather for Place {
    fn delay(&self) -> Duration {
        self.stands_still_for() + self.world.some_time()
    }

    fn fails(&self) -> bool {
        self.world.strikes(0.01)
    }
}

/// Whether the host still lives: what it does afterwards has no effect.
#[derive(Clone, Default)]
pub(super) struct Alive(Arc<AtomicBool>);

impl Alive {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.0.clone()
    }

    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Chance for World {
    fn strikes(&self, probability: f64) -> bool {
        World::strikes(self, probability)
    }

    fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        World::draw(self, range)
    }

    fn some_time(&self) -> Duration {
        World::some_time(self)
    }

    fn note(&self, what: String) {
        World::note(self, what);
    }
}
