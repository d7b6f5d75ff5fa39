//! Settling calls.

use super::*;
use crate::store::Settled;

async fn outcome(store: &dyn Store, key: &str) -> Option<String> {
    let call = direct(Some(key), done()).call;
    store.settled(call).await.unwrap().map(|settled| settled.outcome)
}

pub(crate) async fn a_done_task_is_gone_and_remembered(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let task = claim_one(&*store).await;
    assert_eq!(outcome(&*store, "1").await, None);
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    assert_eq!(outcome(&*store, "1").await.as_deref(), Some("done"));
    assert!(store.depths().await.unwrap().is_empty());
}

pub(crate) async fn a_claim_that_moved_on_settles_nothing(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let task = claim_one(&*store).await;
    let commits = [done_with(set("stock", "1")), park(0), dead("no")];
    for verdict in commits {
        let commit = Commit { claim: Some(void(task.claim)), ..settling(&task, verdict) };
        assert_eq!(store.commit(commit).await.unwrap(), Committed::Settled);
    }
    assert_eq!(value(&*store, "stock").await, None);
    assert!(store.dead_letters(all_letters()).await.unwrap().is_empty());
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Settled, "once is enough");
}

pub(crate) async fn a_parked_task_waits_with_its_history(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let first = claim_one(&*store).await;
    store.commit(settling(&first, park(0))).await.unwrap();
    let second = claim_one(&*store).await;
    assert_eq!((second.attempts, second.history.as_slice()), (1, [failed("busy")].as_slice()));
    let never_started = Verdict::Park { due: 0, failed: None, order: None };
    store.commit(settling(&second, never_started)).await.unwrap();
    let third = claim_one(&*store).await;
    assert_eq!((third.attempts, third.history.len()), (1, 1), "what never started is no attempt");
    store.commit(settling(&third, park(LATER))).await.unwrap();
    assert!(claim(&*store).await.is_empty());
    assert_eq!(store.next_due(0).await.unwrap(), Some(LATER));
    assert_eq!(outcome(&*store, "1").await, None);
}

pub(crate) async fn a_parked_direct_call_becomes_a_task_and_is_not_run_by_a_redelivery(store: Arc<dyn Store>) {
    let parked = Commit { history: vec![failed("first")], ..direct(Some("1"), park(0)) };
    assert_eq!(store.commit(parked).await.unwrap(), Committed::Yes);
    for verdict in [park(0), dead("no"), done_with(set("stock", "0"))] {
        assert_eq!(store.commit(direct(Some("1"), verdict)).await.unwrap(), Committed::Settled);
    }
    assert_eq!(value(&*store, "stock").await, None);
    let task = claim_one(&*store).await;
    assert_eq!(task.history, [failed("first"), failed("busy")]);
    assert_eq!((task.attempts, &*task.kind, &task.event), (2, "kafka", &event("1")));
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    assert_eq!(store.commit(direct(Some("1"), park(0))).await.unwrap(), Committed::Settled);
    assert!(claim(&*store).await.is_empty());
}

pub(crate) async fn a_direct_call_waits_behind_the_tasks_of_its_order_key_if_there_are_any(store: Arc<dyn Store>) {
    let behind = |key: &str| direct(Some(key), Verdict::Behind { order: "anna".into() });
    assert_eq!(store.commit(behind("2")).await.unwrap(), Committed::Free);
    let Verdict::Park { due, failed, .. } = park(0) else { unreachable!() };
    let parked = Verdict::Park { due, failed, order: Some("anna".into()) };
    assert_eq!(store.commit(direct(Some("1"), parked)).await.unwrap(), Committed::Yes);
    let first = claim_one(&*store).await;
    assert_eq!(store.commit(behind("2")).await.unwrap(), Committed::Yes, "the one before it runs");
    assert_eq!(store.commit(behind("2")).await.unwrap(), Committed::Settled, "a redelivery waits once");
    assert_eq!(store.orders().await.unwrap().len(), 1);
    assert!(claim(&*store).await.is_empty(), "in order");
    assert_eq!(store.commit(settling(&first, done())).await.unwrap(), Committed::Yes);
    let second = claim_one(&*store).await;
    assert_eq!((second.attempts, second.key.as_deref()), (0, Some("2")), "what waited is no attempt");
    assert_eq!(store.commit(settling(&second, done())).await.unwrap(), Committed::Yes);
    assert_eq!(store.commit(behind("3")).await.unwrap(), Committed::Free);
    assert!(store.orders().await.unwrap().is_empty());
}

pub(crate) async fn a_direct_call_is_settled_once(store: Arc<dyn Store>) {
    let deliver = || direct(Some("1"), done_with(wrote("count", Write::Add(1))));
    let (one, two, three) = tokio::join!(store.commit(deliver()), store.commit(deliver()), store.commit(deliver()));
    let happened = [one, two, three].into_iter().filter(|result| matches!(result, Ok(Committed::Yes))).count();
    assert_eq!(happened, 1);
    assert_eq!(value(&*store, "count").await.as_deref(), Some("1"));
    let other = Commit { call: CallId { handler: "ship".into(), ..deliver().call }, ..deliver() };
    assert_eq!(store.commit(other).await.unwrap(), Committed::Yes, "another handler's call is another call");
}

pub(crate) async fn a_direct_call_without_effects_leaves_no_row(store: Arc<dyn Store>) {
    for _ in 0..2 {
        assert_eq!(store.commit(direct(Some("1"), done())).await.unwrap(), Committed::Yes);
    }
    assert_eq!(outcome(&*store, "1").await, None);
}

pub(crate) async fn a_kept_response_comes_back(store: Arc<dyn Store>) {
    let verdict = Verdict::Done { effects: Effects::default(), keep: Some(response("made")) };
    let commit = direct(Some("1"), verdict);
    let call = commit.call.clone();
    assert_eq!(store.commit(commit).await.unwrap(), Committed::Yes);
    let kept = Settled { outcome: "done".into(), response: Some(response("made")), plugin: Some("v1".into()) };
    assert_eq!(store.settled(call).await.unwrap(), Some(kept));
}

pub(crate) async fn a_dead_task_becomes_a_letter_and_its_order_key_goes_on(store: Arc<dyn Store>) {
    accept(&*store, ordered("1", "anna")).await;
    accept(&*store, ordered("2", "anna")).await;
    let task = claim_one(&*store).await;
    store.commit(settling(&task, park(0))).await.unwrap();
    let task = claim_one(&*store).await;
    assert_eq!(store.commit(settling(&task, dead("out of stock"))).await.unwrap(), Committed::Yes);
    let letters = store.dead_letters(all_letters()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), letters[0].handler.as_deref()), ("out of stock", Some("invoice")));
    assert_eq!(letters[0].attempts, [failed("busy"), failed("out of stock")]);
    assert_eq!((letters[0].plugin.as_deref(), &letters[0].event), (Some("sha256:0"), &*event("1")));
    assert_eq!(outcome(&*store, "1").await.as_deref(), Some("dead"));
    assert_eq!(ids(&claim(&*store).await), ["2"]);
}

pub(crate) async fn emits_happen_with_the_call_or_not_at_all(store: Arc<dyn Store>) {
    let emitting = |version: i64| Effects {
        reads: vec![Read::Key { key: "stock".into(), version }],
        emits: vec![Acceptance { source: "emit".into(), kind: "emit".into(), hops: 1, ..order("child") }],
        ..set("stock", "1")
    };
    assert_eq!(store.commit(direct(None, done_with(emitting(7)))).await.unwrap(), Committed::Overtaken);
    let emitted = Want { source: "emit".into(), ..want("invoice", 9) };
    assert!(store.claim(vec![emitted.clone()]).await.unwrap().is_empty());
    assert_eq!(store.commit(direct(None, done_with(emitting(0)))).await.unwrap(), Committed::Yes);
    let tasks = store.claim(vec![emitted]).await.unwrap();
    assert_eq!((ids(&tasks), tasks[0].hops), (vec!["child"], 1));
}

pub(crate) async fn an_emit_into_a_full_backlog_writes_nothing(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let task = claim_one(&*store).await;
    accept(&*store, order("2")).await;
    let effects = Effects { emits: vec![Acceptance { backlog: Some(1), ..order("child") }], ..set("stock", "1") };
    assert_eq!(store.commit(settling(&task, done_with(effects))).await.unwrap(), Committed::Full("orders".into()));
    assert_eq!(value(&*store, "stock").await, None);
    assert_eq!(store.commit(settling(&task, park(0))).await.unwrap(), Committed::Yes, "the call is still to be settled");
}
