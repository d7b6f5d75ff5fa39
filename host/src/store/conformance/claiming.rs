//! Claiming tasks.

use std::task::Poll;

use super::*;

pub(crate) async fn the_oldest_are_claimed_first_and_only_once(store: Arc<dyn Store>) {
    for id in ["1", "2", "3", "4"] {
        accept(&*store, order(id)).await;
    }
    assert_eq!(ids(&store.claim(vec![want("invoice", 3)]).await.unwrap()), ["1", "2", "3"]);
    assert_eq!(ids(&claim(&*store).await), ["4"]);
    assert!(claim(&*store).await.is_empty());
}

pub(crate) async fn a_delayed_task_waits_for_its_time(store: Arc<dyn Store>) {
    assert_eq!(store.next_due(0).await.unwrap(), None);
    accept(&*store, Acceptance { due: Some(LATER + 1), ..order("1") }).await;
    accept(&*store, Acceptance { due: Some(LATER), ..order("2") }).await;
    accept(&*store, Acceptance { due: Some(5), ..order("3") }).await;
    assert_eq!(store.next_due(5).await.unwrap(), Some(LATER), "what was due then is no next one");
    assert_eq!(store.next_due(4).await.unwrap(), Some(5), "what became due since then is");
    assert_eq!(ids(&claim(&*store).await), ["3"]);
}

pub(crate) async fn tasks_with_an_order_key_run_one_after_the_other(store: Arc<dyn Store>) {
    for (id, key) in [("1", "anna"), ("2", "anna"), ("3", "ben"), ("4", "anna")] {
        accept(&*store, ordered(id, key)).await;
    }
    let first = claim(&*store).await;
    assert_eq!(ids(&first), ["1", "3"]);
    assert!(claim(&*store).await.is_empty(), "the rest is behind what runs");
    store.commit(settling(&first[0], done())).await.unwrap();
    assert_eq!(ids(&claim(&*store).await), ["2"]);
    // Another handler has an order of its own.
    let other = Acceptance { handlers: vec![Subscriber { handler: "ship".into(), order: Some("anna".into()) }], ..order("5") };
    accept(&*store, other).await;
    assert_eq!(store.claim(vec![want("ship", 9)]).await.unwrap().len(), 1);
}

pub(crate) async fn a_parked_task_holds_back_its_order_key_only(store: Arc<dyn Store>) {
    for (id, key) in [("1", "anna"), ("2", "anna"), ("3", "ben")] {
        accept(&*store, ordered(id, key)).await;
    }
    let first = claim(&*store).await;
    assert_eq!(ids(&first), ["1", "3"]);
    store.commit(settling(&first[0], park(LATER))).await.unwrap();
    store.commit(settling(&first[1], park(0))).await.unwrap();
    let ben = claim_one(&*store).await;
    assert_eq!((ben.event.id.as_str(), ben.attempts), ("3", 1));
}

pub(crate) async fn a_released_task_is_due_again_and_the_old_claim_is_void(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let first = claim_one(&*store).await;
    store.release(vec![first.claim, void(first.claim)]).await.unwrap();
    assert_eq!(store.commit(settling(&first, done())).await.unwrap(), Committed::Settled);
    let second = claim_one(&*store).await;
    assert_eq!((second.attempts, second.history.len()), (0, 0));
    store.release(vec![first.claim]).await.unwrap();
    assert!(claim(&*store).await.is_empty(), "a void claim gives nothing back");
    assert_eq!(store.commit(settling(&second, done())).await.unwrap(), Committed::Yes);
}

pub(crate) async fn what_a_dropped_claim_took_comes_back(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    loop {
        let mut claiming = store.claim(vec![want("invoice", 9)]);
        // Pending: it is handed over and nobody will take what it claims.
        let Poll::Ready(claimed) = futures_util::poll!(&mut claiming) else { break };
        store.release(claimed.unwrap().iter().map(|task| task.claim).collect()).await.unwrap();
    }
    // What follows in the queue is carried out behind it.
    accept(&*store, Acceptance { source: "returns".into(), ..order("2") }).await;
    assert_eq!(ids(&claim(&*store).await), ["1"]);
}

pub(crate) async fn groups_with_something_to_claim_are_found(store: Arc<dyn Store>) {
    let of = |source: &str, handler: &str| Group { tenant: tenant(), source: source.into(), handler: handler.into() };
    assert_eq!(store.claimable().await.unwrap(), []);
    for (n, (source, handler)) in [("orders", "invoice"), ("orders", "ship"), ("returns", "refund"), ("b", "c")].into_iter().enumerate() {
        let handlers = vec![Subscriber { handler: handler.into(), order: None }];
        for m in 0..3 {
            accept(&*store, Acceptance { source: source.into(), handlers: handlers.clone(), ..order(&format!("{n}{m}")) }).await;
        }
    }
    accept(&*store, Acceptance { source: "later".into(), due: Some(LATER), ..order("later") }).await;
    let mut found = store.claimable().await.unwrap();
    found.sort();
    assert_eq!(found, [of("b", "c"), of("orders", "invoice"), of("orders", "ship"), of("returns", "refund")]);
    let Group { tenant, source, handler } = of("orders", "ship");
    store.claim(vec![Want { tenant, source, handler, limit: 3 }]).await.unwrap();
    let mut found = store.claimable().await.unwrap();
    found.sort();
    assert_eq!(found, [of("b", "c"), of("orders", "invoice"), of("returns", "refund")], "what runs is not to be claimed");
}

pub(crate) async fn depths_tell_ready_later_and_running(store: Arc<dyn Store>) {
    assert!(store.depths().await.unwrap().is_empty());
    accept(&*store, order("1")).await;
    claim_one(&*store).await;
    accept(&*store, ordered("2", "anna")).await;
    accept(&*store, ordered("3", "anna")).await;
    accept(&*store, Acceptance { due: Some(LATER), ..order("4") }).await;
    accept(&*store, Acceptance { source: "returns".into(), ..order("5") }).await;
    let depths = store.depths().await.unwrap();
    let counts: Vec<_> = depths.iter().map(|depth| (depth.source.as_str(), depth.ready, depth.later, depth.running)).collect();
    assert_eq!(counts, [("orders", 2, 1, 1), ("returns", 1, 0, 0)]);
    assert!(
        depths.iter().all(|depth| depth.failed == 0 && depth.handler == "invoice" && depth.tenant == tenant() && depth.oldest.is_some())
    );
    let fifth = store.claim(vec![Want { source: "returns".into(), ..want("invoice", 9) }]).await.unwrap().remove(0);
    store.commit(settling(&fifth, park(LATER))).await.unwrap();
    let returns = store.depths().await.unwrap().remove(1);
    assert_eq!((returns.ready, returns.later, returns.failed, returns.running), (0, 1, 1, 0));
}

pub(crate) async fn what_waits_is_told_by_type(store: Arc<dyn Store>) {
    assert!(store.waiting().await.unwrap().is_empty());
    accept(&*store, order("1")).await;
    claim_one(&*store).await;
    accept(&*store, order("2")).await;
    let refund = Acceptance { event: Arc::new(crate::event::Event::new("order.refunded", "")), due: Some(LATER), ..order("3") };
    accept(&*store, refund).await;
    let waiting = store.waiting().await.unwrap();
    let counts: Vec<_> = waiting.iter().map(|waiting| (waiting.ty.as_str(), waiting.handler.as_str(), waiting.count)).collect();
    assert_eq!(counts, [(order("1").event.ty.as_str(), "invoice", 2), ("order.refunded", "invoice", 1)]);
}
