//! Three hosts at one quorum queue, each with a store of its own, killed, stopped and added at random while they work.
//!
//! `KOKSMAT_TEST_EVENTS` and `KOKSMAT_TEST_FAULTS` raise the figures, `KOKSMAT_TEST_SEED` repeats a run.

use std::time::Duration;

use koksmat_tests::{Fleet, Inside, Witness, rabbitmq::URL, services};
use rand::Rng;

use super::*;

const IN_FLIGHT: usize = 64;
/// More than the broker lets a message come back.
const KILLS: usize = 22;
/// How long a call takes outside: longer while hosts end and begin, so that there is work for all faults however long a start takes.
const QUICK: Duration = Duration::from_millis(5);
const SLOW: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_are_killed_stopped_and_added_lose_nothing_and_the_broker_gives_up_on_nothing() {
    let (count, faults) = (services::figure("KOKSMAT_TEST_EVENTS", 10_000), services::figure("KOKSMAT_TEST_FAULTS", 30));
    let mut random = services::random();
    let (queue, witness) = (Queue::quorum().await, Witness::start().await);
    queue.broker.publish_many(&queue.name, "m", count).await;
    let inside = Inside::start(QUICK).await;
    let (held, told) = (inside.address(), witness.address());
    let settings = format!("on = [{{ source = \"orders\" }}]\ngrants = {{ http = [\"{held}\", \"{told}\"] }}");
    let script = format!(
        "import {{ http }} from \"koksmat\";\nexport function handle(event) {{\n  \
         http.fetch(\"http://{held}/hold\", {{ method: \"POST\", body: event.id }});\n  \
         http.fetch(\"http://{told}/\", {{ method: \"POST\", body: event.id }});\n}}"
    );
    let mut fleet = Fleet::of(3, || {
        let source = queue.source(URL, &format!("in-flight = {IN_FLIGHT}"));
        Folder::new().host("concurrency = 2").toml(&source).script("tell", "handlers/tell.js", &script, &settings)
    })
    .await;
    let mut made = 0;
    while made < faults || fleet.kills < KILLS {
        // Each fault meets work: the next one comes when a part of what is left was handled.
        let left = count - witness.different();
        assert!(left > fleet.hosts() * IN_FLIGHT, "fault {} meets no work in flight: {left} events are left", made + 1);
        let yet = faults.saturating_sub(made).max(KILLS.saturating_sub(fleet.kills) * 2);
        witness.hears(witness.count() + left / (yet + 1) / 2).await;
        inside.keep_for(SLOW);
        // Mostly kills: the broker counts what comes back.
        if random.random_bool(0.7) {
            fleet.kill(random.random_range(0..fleet.hosts())).await;
            fleet.add().await;
        } else {
            fleet.fault(&mut random).await;
        }
        inside.keep_for(QUICK);
        made += 1;
    }
    let heard_all = witness.hears_all_within(count, Duration::from_secs(60) + Duration::from_millis(count as u64 * 10)).await;
    // What was handled and is not acknowledged when the hosts stop would be there again.
    let (kills, stops) = (fleet.kills, fleet.stops);
    fleet.stop_all().await;
    let (lost, repeated) = (count - witness.different(), witness.count() - witness.different());
    let allowed = kills * IN_FLIGHT;
    println!(
        "rabbitmq: {count} events, {made} faults ({kills} kills, {stops} stops): lost {lost}, repeated {repeated} (allowed {allowed}: {kills} kills of {IN_FLIGHT} in flight)"
    );
    assert!(heard_all && lost == 0, "{lost} of {count} are lost");
    assert!(repeated <= allowed, "{repeated} were delivered again");
    assert_eq!(queue.broker.count(&queue.dead).await, 0, "the broker gave up on what is in order");
    assert_eq!(queue.broker.count(&queue.name).await, 0, "something is left");
    queue.gone().await;
}
