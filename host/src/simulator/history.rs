//! What happens in a world: events come in while the host is killed, stopped and started again; in the end it is calm.

use std::{sync::Arc, time::Duration};

use crate::{
    ambient::simulated::Surroundings,
    simulator::{
        host::{Outdoors, Start},
        verdict,
        world::World,
    },
    source::queue::kafka::simulated::Broker,
};

/// How many events each source has.
const EVENTS: u64 = 12;
/// Partitions of the broker's topic.
const PARTITIONS: u64 = 2;
/// Keys of its messages.
const KEYS: u64 = 3;
/// By then everything is handled, once nothing goes wrong any more. The store is looked at without a ring every 30 s only.
const CALM: Duration = Duration::from_secs(20);

/// The history of a seed: what happened, and what was wrong in the end, if anything.
pub(super) async fn of(seed: u64) -> (Vec<String>, Result<(), String>) {
    let _surroundings = Surroundings::begin(seed);
    let world = World::new(seed);
    let partitions = usize::try_from(PARTITIONS).unwrap_or(1);
    let outdoors = Outdoors { broker: Arc::new(Broker::new(partitions)), posts: Arc::default(), table: Arc::default() };
    let ended = happen(&world, &outdoors).await;
    (world.trace(), ended)
}

async fn happen(world: &Arc<World>, outdoors: &Outdoors) -> Result<(), String> {
    let mut next = 0;
    for _ in 0..world.draw(0..4) {
        let start = Start::boot(world, outdoors).await?;
        world.note("boot");
        let lasts = Duration::from_millis(world.draw(0..3_000));
        tokio::select! {
            biased;
            () = tokio::time::sleep(lasts) => {}
            () = come(world, outdoors, &mut next) => tokio::time::sleep(Duration::from_millis(world.draw(0..3_000))).await,
        }
        match world.draw(0..4) {
            0 | 1 => {
                world.note("killed");
                start.kill();
                // What it had started sees that it is over.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            choice => {
                let hurry = (choice == 2).then(|| Duration::from_millis(world.draw(0..500)));
                let stopped = start.stop(hurry).await;
                world.note(format_args!("stopped: {}", stopped.line()));
                verdict::of_stop(&stopped)?;
            }
        }
        outdoors.posts.forgotten();
        outdoors.table.forgotten();
    }
    world.calm_down();
    let start = Start::boot(world, outdoors).await?;
    world.note("calm");
    while next < EVENTS {
        come(world, outdoors, &mut next).await;
    }
    let handled = verdict::everything_is_handled(outdoors, &start.store);
    let in_time = tokio::time::timeout(CALM, handled).await;
    let waits = if in_time.is_err() { Some(verdict::what_waits(outdoors, &start.store).await) } else { None };
    let store = start.store.clone();
    let found = verdict::Found::look(&store).await?;
    let stopped = start.stop(None).await;
    world.note(format_args!("stopped: {}", stopped.line()));
    if let Some(waits) = waits {
        return Err(format!("not handled within {CALM:?} of calm: {waits}"));
    }
    verdict::of_stop(&stopped)?;
    if stopped.exit_code() != 0 {
        return Err(format!("a stop with nothing to do ends with {}", stopped.exit_code()));
    }
    verdict::judge(outdoors, &found)
}

/// Events come to every source, one after the other.
async fn come(world: &Arc<World>, outdoors: &Outdoors, next: &mut u64) {
    while *next < EVENTS {
        let number = *next;
        *next += 1;
        let (partition, key) = (world.draw(0..PARTITIONS), world.draw(0..KEYS));
        let gap = if world.happens(0.1) { 2 } else { 0 };
        outdoors.broker.publish(usize::try_from(partition).unwrap_or(0), gap, format!("{partition}-{key}"), format!("message {number:02}"));
        outdoors.posts.add(format!("post {number:02}"));
        outdoors.table.add(format!("row {number:02}"));
        tokio::time::sleep(Duration::from_millis(world.draw(0..200))).await;
    }
}
