//! Whoever stops or dies: nothing is lost, nothing is done twice, and the broker gives up on nothing that is in order.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use koksmat_tests::{
    Folder, Inside, Process,
    rabbitmq::{URL, text},
    until,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{Queue, handled, repeated, until_handled};

/// Calls the outside resource with the event's name, then counts it.
const HELD: &str = r#"
    import { config, http, keyvalue } from "koksmat";
    export function handle(event) {
      http.fetch(config.get("url"), { method: "POST", body: event.id });
      keyvalue.add(event.id, 1);
    }
"#;

fn held(queue: &Queue, inside: &Inside, lines: &str) -> Folder {
    let settings = format!(
        "on = [{{ source = \"orders\" }}]\nconfig = {{ url = \"{}\" }}\ntimeout = \"60s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}",
        inside.url(),
        inside.address()
    );
    Folder::new().host("concurrency = 8").toml(&queue.source(URL, lines)).script("held", "held.js", HELD, &settings)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_hands_back_what_was_not_handled() {
    const MESSAGES: usize = 400;
    let inside = Inside::start(Duration::from_millis(10)).await;
    let queue = Queue::quorum().await;
    queue.broker.publish_many(&queue.name, "m", MESSAGES).await;
    let folder = held(&queue, &inside, "in-flight = 64");
    let mut returned = 0;
    for round in 1..=3 {
        let host = Process::start(&folder).await;
        until_handled(&folder, round * 30).await;
        let ledger = host.stops_well().await;
        returned += ledger["returned"].as_u64().unwrap();
        // What is not handled is back when the host has stopped. The broker counts an acknowledgement when the log of a quorum queue has it, which
        // may be a moment after it has closed the connection.
        until("what is not handled to be back, and nothing else", || async {
            let waits = usize::try_from(queue.broker.count(&queue.name).await).unwrap();
            (handled(&folder) + waits == MESSAGES).then_some(())
        })
        .await;
    }
    assert!(returned > 0, "else this proves little");
    let host = Process::start(&folder).await;
    until_handled(&folder, MESSAGES).await;
    host.stops_well().await;
    assert_eq!((handled(&folder), repeated(&folder)), (MESSAGES, 0));
    assert_eq!(inside.entered().len(), MESSAGES, "no call was begun twice");
    assert_eq!((queue.broker.count(&queue.name).await, queue.broker.count(&queue.dead).await), (0, 0));
    queue.gone().await;
}

/// More than twenty kills, on a queue that gives up on what has come back more than twenty times.
#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_and_do_nothing_twice_and_the_broker_gives_up_on_nothing() {
    let (messages, kills) = (3_000, 24);
    let queue = Queue::quorum().await;
    queue.broker.publish_many(&queue.name, "m", messages).await;
    let inside = Inside::start(Duration::from_millis(1)).await;
    let folder = held(&queue, &inside, "");
    let mut random = StdRng::seed_from_u64(3);
    let began = Instant::now();
    for kill in 0..kills {
        let host = Process::start(&folder).await;
        // Early enough that there is always something left to do.
        let left = messages - handled(&folder).min(messages);
        let few = (left / (kills - kill) / 2).clamp(1, 150);
        let more = handled(&folder) + random.random_range(0..few);
        until("some to be handled", || async { (handled(&folder) >= more).then_some(()) }).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..50))).await;
        host.signal("KILL").await;
        assert_eq!(host.ended().await.code, None);
    }
    let left = messages - handled(&folder);
    println!("{kills} kills in {:?}; {left} of {messages} events left", began.elapsed());
    assert!(left > 0, "the last kill came too late to prove anything");
    let host = Process::start(&folder).await;
    let mut before = handled(&folder);
    while before < messages {
        let now = until("another event to be handled", || async { Some(handled(&folder)).filter(|now| *now > before) }).await;
        before = now;
    }
    until("the queue to be empty", || async { (queue.broker.count(&queue.name).await == 0).then_some(()) }).await;
    host.stops_well().await;
    assert_eq!((handled(&folder), repeated(&folder)), (messages, 0));
    assert_eq!(folder.count("select count(*) from dead_letter"), 0);
    assert_eq!(queue.broker.count(&queue.dead).await, 0, "the broker gave up on what is in order");
    assert_eq!(queue.broker.count(&queue.name).await, 0);
    // A call that was running when its host died, or had not been acknowledged, was begun again.
    let begun = inside.entered().len();
    println!("{} calls for {messages} events: {} were begun again", begun, begun - messages);
    assert!(begun - messages <= kills * 8, "more than were running at the kills");
    queue.gone().await;
}

/// A host that dies before it has handled anything, as often as it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_never_begun_is_not_counted_with_the_one_that_was() {
    let queue = Queue::named().await;
    let limit = lapin::types::AMQPValue::LongInt(5);
    let arguments = [("x-queue-type", text("quorum")), ("x-dead-letter-exchange", text(&queue.dead)), ("x-delivery-limit", limit)];
    queue.broker.queue(&queue.name, &arguments).await;
    queue.broker.publish_many(&queue.name, "m", 50).await;
    let inside = Inside::start(Duration::from_secs(3600)).await;
    let folder = held(&queue, &inside, "");
    // Each message may come back five times; these are more ends than that, and after the first one only one is in hand each time.
    for _ in 0..12 {
        inside.forget();
        let host = Process::start(&folder).await;
        inside.reached(1).await;
        host.signal("KILL").await;
        host.ended().await;
        until("the calls to be gone", || async { (inside.now() == 0).then_some(()) }).await;
    }
    assert_eq!(queue.broker.count(&queue.dead).await, 0);
    inside.keep_for(Duration::ZERO);
    let host = Process::start(&folder).await;
    // The host ended three times while each of these was the one that it had begun, alone.
    let quarantined = || usize::try_from(folder.count("select count(*) from dead_letter where reason like 'quarantined%'")).unwrap();
    until("the rest to be handled", || async { (handled(&folder) + quarantined() == 50).then_some(()) }).await;
    host.stops_well().await;
    assert_eq!((handled(&folder) + quarantined(), repeated(&folder)), (50, 0));
    assert!((1..=4).contains(&quarantined()), "{} of twelve ends", quarantined());
    let mut begun = BTreeMap::<String, usize>::new();
    inside.entered().into_iter().for_each(|id| *begun.entry(id).or_default() += 1);
    // What was begun in the last of the twelve may be what that end has quarantined.
    assert!((0..=1).contains(&(begun.len() - handled(&folder))), "{} begun, {} handled", begun.len(), handled(&folder));
    queue.gone().await;
}
