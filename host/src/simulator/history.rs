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
    store::LANE_LEASE,
};

/// How many events each source has.
const EVENTS: u64 = 9;
/// Partitions of the broker's topic.
const PARTITIONS: u64 = 2;
/// Keys of its messages.
const KEYS: u64 = 3;
/// By then everything is handled, once nothing goes wrong any more. The store is looked at without a ring every 30 s only.
const CALM: Duration = Duration::from_secs(20);

/// The history of a seed: what happened, and what was wrong in the end, if anything. Every third is one of two hosts that share a store.
pub(super) async fn of(seed: u64) -> (Vec<String>, Result<(), String>) {
    let _surroundings = Surroundings::begin(seed);
    let world = World::new(seed);
    let partitions = usize::try_from(PARTITIONS).unwrap_or(1);
    let outdoors = Outdoors { broker: Arc::new(Broker::new(partitions)), posts: Arc::default(), table: Arc::default() };
    let ended = if seed % 3 == 2 { happen_to_two(&world, &outdoors).await } else { happen(&world, &outdoors).await };
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
                let deadline = hurry.unwrap_or(start.deadline).min(start.deadline);
                let stopped = start.stop(hurry).await;
                world.note(format_args!("stopped: {}", stopped.line()));
                verdict::of_stop(&stopped, deadline)?;
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
    end(world, outdoors, vec![start]).await
}

/// Two hosts on one disk: they are killed, stopped, or stand still for longer than their leases last.
async fn happen_to_two(world: &Arc<World>, outdoors: &Outdoors) -> Result<(), String> {
    world.disk.share().map_err(|error| error.to_string())?;
    let mut next = 0;
    let mut hosts = vec![Start::boot_shared(world, outdoors, true).await?, Start::boot_shared(world, outdoors, false).await?];
    for _ in 0..world.draw(0..4) {
        let lasts = Duration::from_millis(world.draw(0..3_000));
        tokio::select! {
            biased;
            () = tokio::time::sleep(lasts) => {}
            () = come(world, outdoors, &mut next) => tokio::time::sleep(Duration::from_millis(world.draw(0..3_000))).await,
        }
        let which = usize::from(world.happens(0.5));
        let choice = world.draw(0..4);
        world.note(format_args!("{} host {which}", ["kill", "stop", "still", "still"][usize::try_from(choice).unwrap_or(0)]));
        if choice >= 2 {
            let long = Duration::from_millis(world.draw(1_000..15_000));
            hosts[which].stand_still(long);
            tokio::time::sleep(Duration::from_millis(world.draw(0..15_000))).await;
            continue;
        }
        let ends = hosts.remove(which);
        if choice == 0 {
            ends.kill();
            tokio::time::sleep(Duration::from_millis(1)).await;
        } else {
            ends.moves().await;
            let deadline = ends.deadline;
            verdict::of_stop(&ends.stop(None).await, deadline)?;
        }
        outdoors.posts.forgotten();
        outdoors.table.forgotten();
        hosts.insert(which, Start::boot_shared(world, outdoors, which == 0).await?);
    }
    world.calm_down();
    world.note("calm");
    while next < EVENTS {
        come(world, outdoors, &mut next).await;
    }
    for host in &hosts {
        host.moves().await;
    }
    end(world, outdoors, hosts).await
}

/// Nothing goes wrong any more: everything is handled in time, and these hosts stop well.
async fn end(world: &Arc<World>, outdoors: &Outdoors, hosts: Vec<Start>) -> Result<(), String> {
    let store = hosts[0].store.clone();
    // What a host was running that was killed just now is taken over when its lease has ended.
    let patience = if store.shared() { CALM + 2 * LANE_LEASE } else { CALM };
    let in_time = tokio::time::timeout(patience, verdict::everything_is_handled(outdoors, &store)).await;
    let waits = if in_time.is_err() { Some(verdict::what_waits(outdoors, &store).await) } else { None };
    let found = verdict::Found::look(&store).await?;
    for host in hosts {
        let deadline = host.deadline;
        let stopped = host.stop(None).await;
        world.note(format_args!("stopped: {}", stopped.line()));
        if let Some(waits) = &waits {
            return Err(format!("not handled within {patience:?} of calm: {waits}"));
        }
        verdict::of_stop(&stopped, deadline)?;
        if stopped.exit_code() != 0 {
            return Err(format!("a stop with nothing to do ends with {}", stopped.exit_code()));
        }
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
        outdoors.broker.publish(usize::try_from(partition).unwrap_or(0), gap, format!("key {key}"), format!("message {number:02}"));
        outdoors.posts.add(format!("post {number:02}"));
        outdoors.table.add(format!("row {number:02}"));
        tokio::time::sleep(Duration::from_millis(world.draw(0..200))).await;
    }
}
