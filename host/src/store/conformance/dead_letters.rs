//! Dead letters, and forgetting.

use std::time::Duration;

use super::*;
use crate::store::{Reroute, Retention};

fn nowhere() -> Arc<Reroute> {
    Arc::new(|_| Vec::new())
}

/// To the handler that it died in, in the same order.
pub(crate) fn again() -> Arc<Reroute> {
    Arc::new(|letter| {
        letter.handler.iter().map(|handler| Subscriber { handler: handler.as_str().into(), order: letter.order.clone() }).collect()
    })
}

async fn kill(store: &dyn Store, id: &str) {
    accept(store, order(id)).await;
    let task = claim_one(store).await;
    assert_eq!(store.commit(settling(&task, dead("no"))).await.unwrap(), Committed::Yes);
}

pub(crate) async fn letters_are_found_by_what_they_belong_to(store: Arc<dyn Store>) {
    kill(&*store, "1").await;
    kill(&*store, "2").await;
    accept(&*store, Acceptance { source: "returns".into(), handlers: Vec::new(), ..order("3") }).await;
    accept(&*store, Acceptance { tenant: Tenant::new("acme"), handlers: Vec::new(), ..order("4") }).await;
    let found = async |query: DeadLetterQuery| {
        let letters = store.dead_letters(query).await.unwrap();
        letters.into_iter().map(|letter| letter.event.id).collect::<Vec<_>>()
    };
    assert_eq!(found(all_letters()).await, ["1", "2", "3", "4"]);
    assert_eq!(found(DeadLetterQuery { limit: 1, ..all_letters() }).await, ["1"]);
    let first = store.dead_letters(all_letters()).await.unwrap()[0].id;
    assert_eq!(found(DeadLetterQuery { after: first, limit: 2, ..all_letters() }).await, ["2", "3"]);
    assert_eq!(found(DeadLetterQuery { id: Some(first), ..all_letters() }).await, ["1"]);
    assert_eq!(found(DeadLetterQuery { handler: Some("invoice".into()), ..all_letters() }).await, ["1", "2"]);
    assert_eq!(found(DeadLetterQuery { source: Some("returns".into()), ..all_letters() }).await, ["3"]);
    assert_eq!(found(DeadLetterQuery { tenant: Some(Tenant::new("acme")), ..all_letters() }).await, ["4"]);
}

pub(crate) async fn letters_are_found_by_when_they_came_and_counted(store: Arc<dyn Store>) {
    for id in ["1", "2", "3"] {
        kill(&*store, id).await;
    }
    let letters = store.dead_letters(all_letters()).await.unwrap();
    let (first, last) = (letters[0].at, letters[2].at);
    let count = async |query: DeadLetterQuery| store.count_dead_letters(query).await.unwrap();
    assert_eq!(count(DeadLetterQuery { limit: 0, ..all_letters() }).await, 3, "the limit does not count");
    assert_eq!(count(DeadLetterQuery { since: Some(first), until: Some(last), ..all_letters() }).await, 3, "both ends are inside");
    assert_eq!(count(DeadLetterQuery { since: Some(last + 1), ..all_letters() }).await, 0);
    assert_eq!(count(DeadLetterQuery { until: Some(first - 1), ..all_letters() }).await, 0);
    assert_eq!(count(DeadLetterQuery { handler: Some("ship".into()), ..all_letters() }).await, 0);
    assert_eq!(store.purge(DeadLetterQuery { until: Some(first - 1), ..all_letters() }).await.unwrap(), 0);
}

pub(crate) async fn a_letter_keeps_where_its_event_came_from_and_what_was_tried(store: Arc<dyn Store>) {
    accept(&*store, Acceptance { hops: 2, ..ordered("1", "anna") }).await;
    let task = claim_one(&*store).await;
    store.commit(settling(&task, park(0))).await.unwrap();
    let task = claim_one(&*store).await;
    store.commit(settling(&task, dead("no"))).await.unwrap();
    store.commit(direct(Some("2"), dead("no"))).await.unwrap();
    let letters = store.dead_letters(all_letters()).await.unwrap();
    let [tried, at_once] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((tried.key.as_deref(), tried.order.as_deref(), tried.hops), (Some("1"), Some("anna"), 2));
    assert_eq!(tried.attempts, [failed("busy"), failed("no")], "each with the code that ran");
    assert!(tried.accepted_at.is_some_and(|accepted| accepted <= tried.at), "{tried:?}");
    let recording = store.recording(tried.id).await.unwrap();
    assert_eq!((tried.recorded, recording.as_deref()), (true, Some(r#"{"at":1}"#)));
    assert_eq!(store.recording(4711).await.unwrap(), None);
    assert_eq!((at_once.key.as_deref(), at_once.order.as_deref(), at_once.accepted_at), (Some("2"), None, None));
}

pub(crate) async fn a_replayed_letter_is_a_new_call(store: Arc<dyn Store>) {
    for id in ["1", "2", "3"] {
        kill(&*store, id).await;
    }
    assert_eq!(store.replay(DeadLetterQuery { limit: 2, ..all_letters() }, again()).await.unwrap(), 2);
    assert_eq!(store.dead_letters(all_letters()).await.unwrap().len(), 1);
    let tasks = claim(&*store).await;
    assert_eq!(ids(&tasks), ["1", "2"]);
    for task in &tasks {
        assert_eq!((task.attempts, task.history.len()), (0, 0));
        assert!(task.key.is_some(), "it is recognised as before");
        let call = settling(task, done()).call;
        assert_eq!(store.settled(call).await.unwrap(), None);
        assert_eq!(store.commit(settling(task, done())).await.unwrap(), Committed::Yes);
    }
    assert_eq!(accepted(&*store, order("1")).await, Accepted::Duplicate { id: "1".into() });
}

pub(crate) async fn a_letter_that_nobody_is_to_handle_stays(store: Arc<dyn Store>) {
    kill(&*store, "1").await;
    assert_eq!(store.replay(all_letters(), nowhere()).await.unwrap(), 0);
    assert_eq!(store.count_dead_letters(all_letters()).await.unwrap(), 1);
    assert!(claim(&*store).await.is_empty());
}

pub(crate) async fn a_letter_without_a_handler_is_routed_again(store: Arc<dyn Store>) {
    for id in 0..100 {
        accept(&*store, Acceptance { handlers: Vec::new(), ..order(&id.to_string()) }).await;
    }
    assert_eq!(store.replay(all_letters(), nowhere()).await.unwrap(), 0);
    assert_eq!(store.dead_letters(all_letters()).await.unwrap().len(), 100, "they stay");
    let odd: Arc<Reroute> = Arc::new(|letter| match letter.event.id.parse::<u32>() {
        Ok(id) if id % 2 == 1 => vec![subscriber("invoice"), subscriber("ship")],
        _ => Vec::new(),
    });
    assert_eq!(store.replay(all_letters(), odd).await.unwrap(), 50);
    assert_eq!(store.dead_letters(all_letters()).await.unwrap().len(), 50);
    assert_eq!(store.claim(vec![want("invoice", 99), want("ship", 99)]).await.unwrap().len(), 100);
}

pub(crate) async fn purged_letters_are_gone(store: Arc<dyn Store>) {
    for id in 0..100 {
        accept(&*store, Acceptance { handlers: Vec::new(), ..order(&id.to_string()) }).await;
    }
    kill(&*store, "wanted").await;
    assert_eq!(store.purge(DeadLetterQuery { handler: Some("invoice".into()), ..all_letters() }).await.unwrap(), 1);
    assert_eq!(store.purge(DeadLetterQuery { limit: 70, ..all_letters() }).await.unwrap(), 70);
    assert_eq!(store.purge(all_letters()).await.unwrap(), 30);
    assert!(store.dead_letters(all_letters()).await.unwrap().is_empty());
}

fn retention(settled: Duration, dead_letters: Duration) -> Retention {
    Retention { settled, dead_letters, kept: Duration::ZERO, kept_bytes: 0 }
}

pub(crate) async fn what_is_old_is_forgotten_but_not_while_a_task_needs_it(store: Arc<dyn Store>) {
    let (everything, nothing) = (Duration::ZERO, Duration::from_secs(3600));
    accept(&*store, Acceptance { handlers: vec![subscriber("invoice"), subscriber("ship")], ..order("half") }).await;
    let half = claim_one(&*store).await;
    store.commit(settling(&half, done())).await.unwrap();
    kill(&*store, "whole").await;
    assert_eq!(store.expire(retention(nothing, nothing)).await.unwrap(), 0);
    assert_eq!(store.expire(retention(nothing, everything)).await.unwrap(), 1);
    assert!(store.dead_letters(all_letters()).await.unwrap().is_empty());
    assert_eq!(store.expire(retention(everything, nothing)).await.unwrap(), 2);
    accept(&*store, order("whole")).await;
    assert_eq!(accepted(&*store, order("half")).await, Accepted::Duplicate { id: "half".into() });
    assert!(store.settled(settling(&half, done()).call).await.unwrap().is_some());
}
