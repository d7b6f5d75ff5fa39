//! Events that are kept after they were handled, and wanted re-runs of them.

use std::time::Duration;

use super::*;
use crate::store::{KeptQuery, Rerun, RerunRoute, Retention};

fn kept(id: &str) -> Acceptance {
    Acceptance { keep: true, ..order(id) }
}

fn all() -> KeptQuery {
    KeptQuery { limit: 1000, ..KeptQuery::default() }
}

fn to(handlers: &'static [&'static str]) -> Arc<RerunRoute> {
    Arc::new(|_| handlers.iter().map(|handler| subscriber(handler)).collect())
}

async fn found(store: &dyn Store, query: KeptQuery) -> Vec<String> {
    store.kept_events(query).await.unwrap().into_iter().map(|kept| kept.event.id).collect()
}

async fn handle_all(store: &dyn Store) {
    for task in claim(store).await {
        assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    }
}

pub(crate) async fn what_is_to_be_kept_outlives_its_tasks_and_the_rest_does_not(store: Arc<dyn Store>) {
    accept(&*store, Acceptance { hops: 3, ..kept("1") }).await;
    accept(&*store, order("2")).await;
    accept(&*store, Acceptance { source: "returns".into(), ..kept("3") }).await;
    accept(&*store, Acceptance { handlers: Vec::new(), ..kept("nobody's") }).await;
    assert_eq!(found(&*store, all()).await, ["1", "3"]);
    handle_all(&*store).await;
    let events = store.kept_events(all()).await.unwrap();
    let first = &events[0];
    assert_eq!((&first.event, first.key.as_deref(), first.hops, &*first.kind), (&*event("1"), Some("1"), 3, "webhook"));
    assert_eq!(found(&*store, KeptQuery { source: Some("returns".into()), ..all() }).await, ["3"]);
    assert_eq!(found(&*store, KeptQuery { id: Some("1".into()), ..all() }).await, ["1"]);
    assert_eq!(found(&*store, KeptQuery { number: Some(first.number), ..all() }).await, ["1"]);
    assert_eq!(found(&*store, KeptQuery { after: first.number, ..all() }).await, ["3"]);
    assert_eq!(found(&*store, KeptQuery { since: Some(first.accepted_at), limit: 1, ..all() }).await, ["1"]);
    assert_eq!(found(&*store, KeptQuery { until: Some(first.accepted_at - 1), ..all() }).await, Vec::<String>::new());
    assert_eq!(found(&*store, KeptQuery { tenant: Some(Tenant::new("acme")), ..all() }).await, Vec::<String>::new());
}

pub(crate) async fn a_rerun_is_a_new_call_and_the_first_one_stays_settled(store: Arc<dyn Store>) {
    accept(&*store, kept("1")).await;
    let first = claim_one(&*store).await;
    store.commit(settling(&first, done())).await.unwrap();
    let rerun = store.rerun(all(), "r1".into(), to(&["invoice"])).await.unwrap();
    assert_eq!(rerun, Rerun { events: 1, calls: 1, ..Rerun::default() });
    let again = claim_one(&*store).await;
    assert_eq!((&again.event, again.attempts), (&first.event, 0));
    assert!(again.key.is_some() && again.key != first.key, "{:?}", again.key);
    assert_eq!(store.settled(settling(&again, done()).call).await.unwrap(), None);
    assert_eq!(store.commit(settling(&again, done())).await.unwrap(), Committed::Yes);
    assert!(store.settled(settling(&first, done()).call).await.unwrap().is_some());
    assert_eq!(accepted(&*store, kept("1")).await, Accepted::Duplicate { id: "1".into() });
    assert_eq!(found(&*store, all()).await, ["1"], "a re-run is not kept itself");
}

pub(crate) async fn the_same_request_again_makes_nothing_and_another_one_does(store: Arc<dyn Store>) {
    for n in 0..100 {
        accept(&*store, kept(&n.to_string())).await;
    }
    handle_all(&*store).await;
    let run = async |request: &str| store.rerun(all(), request.into(), to(&["invoice", "ship"])).await.unwrap();
    assert_eq!(run("r1").await, Rerun { events: 100, calls: 200, ..Rerun::default() });
    assert_eq!(run("r1").await, Rerun { repeated: 100, ..Rerun::default() });
    assert_eq!(run("r2").await, Rerun { events: 100, calls: 200, ..Rerun::default() });
    assert_eq!(store.claim(vec![want("invoice", 999), want("ship", 999)]).await.unwrap().len(), 400);
    let one = KeptQuery { limit: 1, ..all() };
    assert_eq!(store.rerun(one, "r3".into(), to(&["invoice"])).await.unwrap().events, 1);
}

pub(crate) async fn a_call_that_is_not_settled_is_not_run_again_beside_itself(store: Arc<dyn Store>) {
    accept(&*store, Acceptance { handlers: vec![subscriber("invoice"), subscriber("ship")], ..kept("1") }).await;
    handle_all(&*store).await;
    let rerun = store.rerun(all(), "r1".into(), to(&["invoice", "ship"])).await.unwrap();
    assert_eq!(rerun, Rerun { events: 1, calls: 1, unfinished: 1, ..Rerun::default() });
    let rerun = store.rerun(all(), "r2".into(), to(&["ship"])).await.unwrap();
    assert_eq!(rerun, Rerun { unfinished: 1, ..Rerun::default() });
    assert_eq!(store.rerun(all(), "r3".into(), to(&[])).await.unwrap(), Rerun { unwanted: 1, ..Rerun::default() });
    assert_eq!(claim(&*store).await.len(), 1);
    assert_eq!(store.claim(vec![want("ship", 9)]).await.unwrap().len(), 1, "the event's own");
}

pub(crate) async fn kept_events_are_forgotten_by_age_and_by_size_but_not_while_a_task_needs_them(store: Arc<dyn Store>) {
    let long = Duration::from_secs(3600);
    let keep = |kept: Duration, kept_bytes: u64| Retention { settled: long, dead_letters: long, kept, kept_bytes };
    for n in 0..10 {
        let mut event = Event::new("order.created", vec![b'x'; 10_000]);
        event.id = n.to_string();
        accept(&*store, Acceptance { event: Arc::new(event), ..kept(&n.to_string()) }).await;
    }
    assert_eq!(store.expire(keep(long, 1 << 20)).await.unwrap(), 0);
    assert_eq!(store.expire(keep(long, 45_000)).await.unwrap(), 6);
    assert_eq!(found(&*store, all()).await, ["6", "7", "8", "9"], "the newest stay");
    assert_eq!(store.expire(keep(Duration::ZERO, 1 << 20)).await.unwrap(), 4);
    assert!(found(&*store, all()).await.is_empty());
    let tasks = claim(&*store).await;
    assert!(tasks.len() == 10 && tasks.iter().all(|task| task.event.data.len() == 10_000), "their tasks have them");
}
