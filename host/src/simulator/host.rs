//! A host in the world: what `host.rs` puts together, without what listens and without what loads code.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Config, Host, Stopped,
    channel::{Origin, control_channel},
    config::{HostConfig, StoreConfig, Unmatched},
    controller::{
        Commands, Controller,
        accept::{DurableIntake, Router},
        attempts::Attempts,
        bell::Bell,
        generation::{EMIT, Generation, Policy},
        probation::{self, Probation},
        settle::Settler,
    },
    health::{Health, Phase},
    letters::{DeadLetters, HandledEvents},
    listener::{Routes, serve::Stop},
    pause::{Parts, Pauses, Records},
    shutdown::{Running, Takedown, ledger::Ledgers},
    simulator::{
        guests,
        sources::{Posts, Table},
        world::{Alive, Place, World},
    },
    source::{
        Source,
        queue::kafka::simulated::{Broker, Consumer},
        tasks::{FeederState, TaskFeeder},
    },
    store::{Store, sqlite::simulated::SimulatedStore},
    supervisor::{Supervisor, Supplies},
    task,
    tenant::Tenant,
    token::Token,
};

/// Try until it works.
async fn again<T, E, F: Future<Output = Result<T, E>>>(tries: impl Fn() -> F) -> T {
    loop {
        if let Ok(done) = tries().await {
            return done;
        }
    }
}

/// What waits outside the host.
pub(super) struct Outdoors {
    pub(super) broker: Arc<Broker>,
    pub(super) posts: Arc<super::sources::Outside>,
    pub(super) table: Arc<super::sources::Outside>,
}

/// One start of the host.
pub(super) struct Start {
    host: Host,
    alive: Alive,
    place: Arc<Place>,
    /// Of its stop.
    pub(super) deadline: Duration,
    pub(super) store: Arc<dyn Store>,
}

impl Start {
    /// Boot the only host there is.
    pub(super) async fn boot(world: &Arc<World>, outdoors: &Outdoors) -> Result<Self, String> {
        let place = Place::new(world);
        let store = SimulatedStore::open(world.disk.clone(), place.clone()).map_err(|error| error.to_string())?;
        Self::with_store(world, outdoors, true, place, Arc::new(store)).await
    }

    /// Boot one of the hosts that share the disk. The `first` consumes from the broker.
    pub(super) async fn boot_shared(world: &Arc<World>, outdoors: &Outdoors, first: bool) -> Result<Self, String> {
        let place = Place::new(world);
        let name = format!("host {}", world.draw(0..u64::MAX)).into();
        let store = SimulatedStore::open_shared(name, world.disk.clone(), place.clone()).map_err(|error| error.to_string())?;
        let store = Arc::new(store);
        drop(task::spawn("lease", store.clone().keep_lease()));
        Self::with_store(world, outdoors, first, place, store).await
    }

    async fn with_store(
        world: &Arc<World>,
        outdoors: &Outdoors,
        first: bool,
        place: Arc<Place>,
        store: Arc<dyn Store>,
    ) -> Result<Self, String> {
        let alive = Alive::new();
        let (health, ledgers, bell) = (Health::default(), Ledgers::default(), Bell::default());
        let mut takedown = Takedown::default();
        let emitted = Policy { unmatched: Unmatched::DeadLetter, backlog: Some(1_000) };
        let policies = HashMap::from([((Tenant::default(), Arc::from(EMIT)), emitted)]);
        let handlers = guests::handlers(world, &store, &alive);
        let generation = Arc::new(ArcSwap::from_pointee(Generation::new(handlers, policies, Vec::new())));
        let router = Router { generation: generation.clone(), keep: false };
        let in_flight = usize::try_from(world.draw(1..9)).unwrap_or(1);
        // A boot that fails is tried again.
        let orders = again(|| store.orders()).await;
        let sources = [("broker", in_flight), ("posts", in_flight), ("table", in_flight)];
        let ended_badly = store.ended_badly();
        let inside = sources.iter().map(|(_, in_flight)| *in_flight as u64).sum();
        let attempts = again(|| Attempts::load(store.clone(), ended_badly, inside, Duration::from_secs(3_600))).await;
        let parts = sources.iter().fold(Parts::of(&Config::default()), |parts, (name, _)| parts.own(name));
        let records = Records::new(store.clone(), parts);
        let pauses = again(|| Pauses::load(records.clone(), health.clone())).await;
        let probation = if ended_badly { Probation::of(&Config::default(), sources.into_iter()) } else { Probation::none() };
        let concurrency = usize::try_from(world.draw(1..9)).unwrap_or(1);
        let settler = Arc::new(Settler {
            store: store.clone(),
            ledgers: ledgers.clone(),
            health: health.clone(),
            bell: bell.clone(),
            router: router.clone(),
            pauses: pauses.clone(),
            attempts,
            returned: Default::default(),
            parked: Mutex::new(orders.into_iter().collect()),
        });
        let credits = in_flight * 40;
        let (control, receiver) = control_channel(credits);
        let (commands, asked) = Commands::new();
        let (cut, calls) = (CancellationToken::new(), TaskTracker::new());
        let controller = Controller {
            control: receiver,
            commands: asked,
            generation: generation.clone(),
            settler: settler.clone(),
            ledgers: ledgers.clone(),
            probation,
            last: None,
            concurrency,
            credits,
            start_number: store.start_number(),
            cut: cut.clone(),
            calls: calls.clone(),
        };
        takedown.token(&cut);
        let controller = takedown.task(task::spawn("controller", controller.run()));
        let (stop_listening, stop_admin, stopping) = (Stop::default(), Stop::default(), CancellationToken::new());
        takedown.token(&stopping);
        takedown.store(&store);
        let feeder = TaskFeeder {
            store: store.clone(),
            control: control.clone(),
            settler: settler.clone(),
            bell: bell.clone(),
            pauses: pauses.clone(),
            in_flight,
            careful: ended_badly.then(|| (Instant::now() + probation::SOON, concurrency)),
            stopping: stopping.clone(),
        };
        let feeder = takedown.task(task::spawn("tasks", feeder.run(FeederState::default())));
        let acceptor =
            Arc::new(DurableIntake { router, store: store.clone(), bell: bell.clone(), health: health.clone(), ledgers: ledgers.clone() });
        let supplies = Supplies {
            store: store.clone(),
            acceptor,
            settler: settler.clone(),
            routes: Routes::default(),
            health: health.clone(),
            pauses: pauses.clone(),
            token: Token::open(&StoreConfig::Memory).map_err(|error| error.to_string())?,
        };
        let supervisor = Arc::new(Supervisor::new(supplies, control, stopping.clone()));
        takedown.supervisor(&supervisor);
        for (name, source) in outside(world, outdoors, &alive).into_iter().skip(usize::from(!first)) {
            let origin = Origin { tenant: Tenant::default(), source: name.into(), kind: source.kind().into() };
            supervisor.start(origin, in_flight, source);
        }
        health.enter(Phase::Running);
        let until = |token: CancellationToken| task::spawn("listener", async move { token.cancelled().await });
        let deadline = Duration::from_millis(world.draw(1..10_000));
        let running = Running {
            health,
            ledgers,
            store: store.clone(),
            settler: settler.clone(),
            pauses,
            letters: DeadLetters::serving(&Config::default(), store.clone(), generation.clone(), settler),
            events: HandledEvents::new(store.clone(), generation, bell),
            commands,
            stopping: stopping.clone(),
            controller,
            listener: until(stop_listening.graceful.clone()),
            admin: until(stop_admin.graceful.clone()),
            stop_listening,
            stop_admin,
            takedown,
            cut,
            calls,
            control_socket: None,
            feeder,
            supervisor,
            reloader: None,
            last: None,
            keeper: until(stopping),
            routes: Routes::default(),
            listen_address: ([127, 0, 0, 1], 0).into(),
            admin_address: ([127, 0, 0, 1], 0).into(),
            settings: Arc::new(ArcSwap::from_pointee(HostConfig { drain_deadline: Some(deadline), ..Config::default().host })),
        };
        Ok(Self { host: Host { running }, alive, place, deadline, store })
    }

    /// The host stands still, and goes on.
    pub(super) fn stand_still(&self, long: Duration) {
        self.place.stand_still(long);
    }

    /// Wait until it stands still no more.
    pub(super) async fn moves(&self) {
        tokio::time::sleep(self.place.stands_still_for()).await;
    }

    /// The end of the process.
    pub(super) fn kill(self) {
        self.alive.end();
        drop(self.host);
    }

    /// A graceful stop, with or without a second signal.
    pub(super) async fn stop(self, hurry: Option<Duration>) -> Stopped {
        let signal = CancellationToken::new();
        let stop = self.host.shutdown_with(signal.clone());
        let Some(hurry) = hurry else { return stop.await };
        let second = async {
            tokio::time::sleep(hurry).await;
            signal.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            stopped = stop => stopped,
            () = second => unreachable!("it waits for ever"),
        }
    }
}

fn outside(world: &Arc<World>, outdoors: &Outdoors, alive: &Alive) -> [(&'static str, Arc<dyn Source>); 3] {
    let (world, alive) = (world.clone(), alive.clone());
    [
        ("broker", Arc::new(Consumer { broker: outdoors.broker.clone(), chance: world.clone(), alive: alive.flag() })),
        ("posts", Arc::new(Posts { outside: outdoors.posts.clone(), world: world.clone(), alive: alive.clone() })),
        ("table", Arc::new(Table { outside: outdoors.table.clone(), world, alive })),
    ]
}
