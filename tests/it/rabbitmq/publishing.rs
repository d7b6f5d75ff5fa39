//! What handlers emit arrives in the queue that the exchange leads to, once for each event or again with the same id, and never nowhere.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use koksmat_tests::{
    Folder, Process, Proxy, outages_of_sink,
    rabbitmq::{ADDRESS, URL, property, text},
    until,
};
use lapin::types::AMQPValue;

use super::Queue;

/// Emits one event for each it gets.
const RELAY: &str = r#"
    import { emit } from "koksmat";
    export function handle(event) {
      emit({ type: "order.shipped", subject: event.id, data: { order: event.id } });
    }
"#;

fn relay(queue: &Queue, sink: &str) -> Folder {
    relay_to(URL, queue, sink)
}

fn relay_to(url: &str, queue: &Queue, sink: &str) -> Folder {
    let sink = format!("[sinks.shipped]\nkind = \"rabbitmq\"\nurl = \"{url}\"\non = [{{ type = \"order.shipped\" }}]\n{sink}\n");
    let settings = "on = [{ source = \"orders\" }]\ngrants = { emit = [\"order.*\"] }";
    Folder::new().toml(&queue.source(URL, "")).toml(&sink).script("relay", "relay.js", RELAY, settings)
}

async fn all_arrive(mode: &str) -> Vec<lapin::message::Delivery> {
    const EVENTS: usize = 200;
    let queue = Queue::quorum().await;
    let folder = relay(&queue, &format!("exchange = \"{}\"\nmode = \"{mode}\"", queue.dead));
    queue.broker.publish_many(&queue.name, "m", EVENTS).await;
    let host = Process::start(&folder).await;
    until("all events to be published", || async {
        (usize::try_from(queue.broker.count(&queue.dead).await).unwrap() >= EVENTS).then_some(())
    })
    .await;
    host.stops_well().await;
    let all = queue.broker.take_all(&queue.dead).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|message| property(message.properties.message_id()).to_owned()).collect();
    assert_eq!((all.len(), ids.len()), (EVENTS, EVENTS));
    for message in &all {
        assert_eq!((property(message.properties.kind()), message.routing_key.as_str()), ("order.shipped", "order.shipped"));
        assert_eq!(*message.properties.delivery_mode(), Some(2));
    }
    queue.gone().await;
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn emitted_events_arrive_in_binary_mode() {
    let all = all_arrive("binary").await;
    let headers: BTreeMap<_, _> =
        all[0].properties.headers().as_ref().unwrap().into_iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    assert_eq!(headers["cloudEvents:specversion"], text("1.0"));
    assert_eq!(headers["cloudEvents:type"], text("order.shipped"));
    assert!(matches!(&headers["cloudEvents:subject"], AMQPValue::LongString(subject) if subject.to_string().starts_with("m-")));
    assert_eq!(property(all[0].properties.content_type()), "application/json");
    assert!(all[0].data.starts_with(b"{\"order\":\"m-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn emitted_events_arrive_in_structured_mode() {
    let all = all_arrive("structured").await;
    assert!(property(all[0].properties.content_type()).starts_with("application/cloudevents+json"));
    let event: serde_json::Value = serde_json::from_slice(&all[0].data).unwrap();
    assert_eq!((&event["type"], &event["specversion"]), (&"order.shipped".into(), &"1.0".into()));
    assert_eq!(event["id"], property(all[0].properties.message_id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_wants_waits_with_the_reason_until_one_does() {
    let queue = Queue::quorum().await;
    // The exchange without a name leads to the queue that the routing key names.
    let later = koksmat_tests::rabbitmq::name("later");
    let folder = relay(&queue, &format!("routing-key = \"{later}\""));
    queue.broker.publish_many(&queue.name, "m", 20).await;
    let host = Process::start(&folder).await;
    let said = until("the reason to be shown", || async { Some(host.log().join("\n")).filter(|log| log.contains("NO_ROUTE")) }).await;
    assert!(said.contains(&later), "{said}");
    queue.broker.queue(&later, &[("x-queue-type", text("classic"))]).await;
    until("all events to be published", || async { (queue.broker.count(&later).await >= 20).then_some(()) }).await;
    host.stops_well().await;
    let all = queue.broker.take_all(&later).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|message| property(message.properties.message_id()).to_owned()).collect();
    assert_eq!(ids.len(), 20);
    queue.broker.delete(&later).await;
    queue.gone().await;
}

/// Emits events of the type that the name of the message begins with.
const SORT: &str = r#"
    import { emit } from "koksmat";
    export function handle(event) {
      emit({ type: event.id.split("-").slice(0, -2).join("-"), data: { order: event.id } });
    }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_wants_holds_up_nothing_else_and_is_told_once() {
    const EVENTS: usize = 1000;
    let queue = Queue::quorum().await;
    let [wanted, unwanted] = ["order.wanted", "order.unwanted"].map(koksmat_tests::rabbitmq::name);
    queue.broker.queue(&wanted, &[("x-queue-type", text("classic"))]).await;
    // The exchange without a name leads to the queue that the routing key, here the type, names.
    let sink = format!("[sinks.shipped]\nkind = \"rabbitmq\"\nurl = \"{URL}\"\non = [{{ type = \"order.*\" }}]\n");
    let settings = "on = [{ source = \"orders\" }]\ngrants = { emit = [\"order.*\"] }";
    let folder = Folder::new().toml(&queue.source(URL, "")).toml(&sink).script("sort", "sort.js", SORT, settings);
    let host = Process::start(&folder).await;
    for part in 0..10 {
        queue.broker.publish_many(&queue.name, &format!("{unwanted}-{part}"), 1).await;
        queue.broker.publish_many(&queue.name, &format!("{wanted}-{part}"), EVENTS / 10).await;
    }
    let began = Instant::now();
    until("the others to be published", || async { (usize::try_from(queue.broker.count(&wanted).await).unwrap() >= EVENTS).then_some(()) })
        .await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    until("the reason to be shown", || async { host.log().iter().any(|line| line.contains("NO_ROUTE")).then_some(()) }).await;
    assert_eq!(host.log().iter().filter(|line| line.contains("sink publishes again")).count(), 0, "{}", host.log().join("\n"));
    assert_eq!(outages_of_sink(&host.log()).concat().len(), 1, "{}", host.log().join("\n"));
    queue.broker.queue(&unwanted, &[("x-queue-type", text("classic"))]).await;
    until("the rest to be published", || async { (queue.broker.count(&unwanted).await >= 10).then_some(()) }).await;
    until("it to be over", || async { host.log().iter().any(|line| line.contains("sink publishes again")).then_some(()) }).await;
    host.stops_well().await;
    for queue_of_type in [&wanted, &unwanted] {
        queue.broker.delete(queue_of_type).await;
    }
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_with_much_on_its_way_is_one_outage_and_back_as_soon_as_after_one_failure() {
    const EVENTS: usize = 3000;
    const LATE: usize = 50;
    let (queue, proxy) = (Queue::quorum().await, Proxy::start("127.0.0.1:0", ADDRESS).await);
    let folder = relay_to(&format!("amqp://{}/%2f", proxy.address()), &queue, &format!("exchange = \"{}\"", queue.dead));
    let process = Process::start(&folder).await;
    let host = &process;
    let away = |times| until("the outage to be told", move || async move { (outages_of_sink(&host.log()).len() >= times).then_some(()) });
    let back = |times| {
        let lines = || host.log().iter().filter(|line| line.contains("sink publishes again")).count();
        until("its end to be told", move || async move { (lines() >= times).then_some(()) })
    };
    for outage in 1..=3 {
        queue.broker.publish_many(&queue.name, &format!("m{outage}"), EVENTS / 3 - LATE).await;
        let published = (EVENTS / 3) * (outage - 1) + 100;
        until("some to be published", || async {
            (usize::try_from(queue.broker.count(&queue.dead).await).unwrap() >= published).then_some(())
        })
        .await;
        proxy.close();
        // Though all of them may have arrived by then.
        queue.broker.publish_many(&queue.name, &format!("late{outage}"), LATE).await;
        away(outage).await;
        proxy.open();
        let opened = Instant::now();
        back(outage).await;
        assert!(
            opened.elapsed() < Duration::from_secs(5),
            "back after {:?}: what failed together was waited for one by one",
            opened.elapsed()
        );
    }
    until("the outbox to be empty", || async { (folder.count("select count(*) from task") == 0).then_some(()) }).await;
    let outages = outages_of_sink(&host.log());
    assert!(outages.len() == 3, "what had arrived before is no sign of the broker being back: {outages:?}");
    process.stops_well().await;
    let all = queue.broker.take_all(&queue.dead).await;
    let ids: std::collections::BTreeSet<_> = all.iter().map(|message| property(message.properties.message_id()).to_owned()).collect();
    assert_eq!(ids.len(), EVENTS);
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_not_there_is_told() {
    let queue = Queue::quorum().await;
    let folder = relay(&queue, "exchange = \"nowhere-at-all\"");
    queue.broker.publish_many(&queue.name, "m", 3).await;
    let host = Process::start(&folder).await;
    let said =
        until("the reason to be shown", || async { host.log().into_iter().find(|line| line.contains("no exchange 'nowhere-at-all'")) })
            .await;
    assert!(said.contains("NOT_FOUND") && said.contains("name another in the sink's `exchange`"), "{said}");
    host.signal("KILL").await;
    host.ended().await;
    queue.gone().await;
}
