//! Holding keys.

use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::store::StoreFuture;

const LONG: Duration = Duration::from_secs(600);

async fn hold(store: &dyn Store, holder: Option<Holder>, reads: Vec<Read>, writes: &[&str], until: Duration) -> bool {
    let writes = writes.iter().map(|key| (*key).to_owned()).collect();
    store.hold(holder.unwrap(), tenant(), reads, writes, until).await.unwrap()
}

/// Commit writes under a holder, or nobody.
fn commit(store: &dyn Store, holder: Option<Holder>, effects: Effects) -> StoreFuture<'_, Committed> {
    store.commit(Commit { holder, ..direct(None, done_with(effects)) })
}

/// It still waits after the store has done other things.
async fn waits(store: &dyn Store, waiting: &mut StoreFuture<'_, Committed>) {
    for turn in 0..3 {
        assert!(waiting.now_or_never_ref().is_none(), "a commit went past a hold");
        put(store, "unrelated", &turn.to_string()).await;
    }
    assert!(waiting.now_or_never_ref().is_none(), "a commit went past a hold");
}

trait Poll {
    fn now_or_never_ref(&mut self) -> Option<Committed>;
}

impl Poll for StoreFuture<'_, Committed> {
    fn now_or_never_ref(&mut self) -> Option<Committed> {
        self.now_or_never().map(Result::unwrap)
    }
}

pub(crate) async fn others_wait_until_the_holder_has_committed(store: Arc<dyn Store>) {
    put(&*store, "stock", "3").await;
    let (holder, stock) = (holder(), read(&*store, "stock").await);
    assert!(hold(&*store, holder, vec![stock.clone()], &["log"], LONG).await);
    let mut other = commit(&*store, None, set("stock", "9"));
    let mut logs = commit(&*store, self::holder(), wrote("log", Write::Add(1)));
    waits(&*store, &mut other).await;
    waits(&*store, &mut logs).await;
    let own = Effects { reads: vec![stock], ..set("stock", "2") };
    assert_eq!(commit(&*store, holder, own).await.unwrap(), Committed::Yes, "it is not in its own way, and was not overtaken");
    assert_eq!(other.await.unwrap(), Committed::Yes);
    assert_eq!(logs.await.unwrap(), Committed::Yes);
    assert_eq!(value(&*store, "stock").await.as_deref(), Some("9"));
}

pub(crate) async fn others_wait_until_it_is_let_go_of(store: Arc<dyn Store>) {
    let holder = holder();
    assert!(hold(&*store, holder, Vec::new(), &["stock"], LONG).await);
    let mut other = commit(&*store, None, set("stock", "9"));
    waits(&*store, &mut other).await;
    store.unhold(Holder::new());
    waits(&*store, &mut other).await;
    store.unhold(holder.unwrap());
    assert_eq!(other.await.unwrap(), Committed::Yes);
}

pub(crate) async fn a_hold_ends_by_itself(store: Arc<dyn Store>) {
    assert!(hold(&*store, holder(), Vec::new(), &["stock"], Duration::from_millis(50)).await);
    assert_eq!(commit(&*store, None, set("stock", "9")).await.unwrap(), Committed::Yes);
    assert!(hold(&*store, holder(), Vec::new(), &["stock"], LONG).await);
    let late = hold(&*store, holder(), Vec::new(), &["stock"], Duration::from_millis(50)).await;
    assert!(!late, "its time passed while it waited");
}

pub(crate) async fn who_was_overtaken_holds_nothing(store: Arc<dyn Store>) {
    let stock = read(&*store, "stock").await;
    put(&*store, "stock", "1").await;
    assert!(!hold(&*store, holder(), vec![stock], &[], LONG).await);
    put(&*store, "stock", "2").await;
}

pub(crate) async fn a_listed_prefix_is_held(store: Arc<dyn Store>) {
    let holder = holder();
    let listed = Read::List { prefix: "cart/".into(), after: None, limit: 9, keys: Vec::new() };
    assert!(hold(&*store, holder, vec![listed], &[], LONG).await);
    let mut inside = commit(&*store, None, set("cart/a", "1"));
    assert_eq!(commit(&*store, None, set("cars", "1")).await.unwrap(), Committed::Yes);
    let foreign = direct(None, done_with(set("cart/a", "1")));
    let foreign = Commit { call: CallId { tenant: Tenant::new("acme"), ..foreign.call }, ..foreign };
    assert_eq!(store.commit(foreign).await.unwrap(), Committed::Yes, "another tenant's keys are others");
    waits(&*store, &mut inside).await;
    store.unhold(holder.unwrap());
    assert_eq!(inside.await.unwrap(), Committed::Yes);
}

pub(crate) async fn holders_take_turns(store: Arc<dyn Store>) {
    put(&*store, "count", "0").await;
    // Each holds before it counts, so no one is overtaken more often than the hold itself says.
    let worker = async || {
        let own = holder();
        loop {
            let (count, version) = store.get(tenant(), "count".into()).await.unwrap().unwrap();
            let read = Read::Key { key: "count".into(), version };
            if !hold(&*store, own, vec![read.clone()], &["a", "b"], LONG).await {
                continue;
            }
            let next = std::str::from_utf8(&count).unwrap().parse::<i64>().unwrap() + 1;
            let effects = Effects { reads: vec![read], ..set("count", &next.to_string()) };
            return assert_eq!(commit(&*store, own, effects).await.unwrap(), Committed::Yes);
        }
    };
    futures_util::future::join_all((0..20).map(|_| worker())).await;
    assert_eq!(value(&*store, "count").await.as_deref(), Some("20"));
}

pub(crate) async fn holders_that_write_each_others_keys_both_end(store: Arc<dyn Store>) {
    let (anna, ben) = (holder(), holder());
    let (left, right) = (read(&*store, "left").await, read(&*store, "right").await);
    assert!(hold(&*store, anna, vec![left.clone()], &[], LONG).await);
    assert!(hold(&*store, ben, vec![right.clone()], &[], LONG).await);
    let one = commit(&*store, anna, Effects { reads: vec![left], ..set("right", "1") });
    let two = commit(&*store, ben, Effects { reads: vec![right], ..set("left", "1") });
    let both = tokio::time::timeout(Duration::from_secs(60), futures_util::future::join(one, two));
    let (one, two) = both.await.expect("neither waits for the end of the other's hold");
    let mut ends = [one.unwrap(), two.unwrap()];
    ends.sort_by_key(|end| *end == Committed::Overtaken);
    assert_eq!(ends, [Committed::Yes, Committed::Overtaken], "one gives way, at once");
}

pub(crate) async fn a_holder_is_never_overtaken(store: Arc<dyn Store>) {
    put(&*store, "stock", "0").await;
    let stop = std::sync::atomic::AtomicBool::new(false);
    let writer = async || {
        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
            commit(&*store, None, wrote("stock", Write::Add(1))).await.unwrap();
        }
    };
    let holders = async {
        for _ in 0..50 {
            let own = holder();
            let stock = read(&*store, "stock").await;
            if hold(&*store, own, vec![stock.clone()], &[], LONG).await {
                let effects = Effects { reads: vec![stock], ..wrote("stock", Write::Add(1)) };
                assert_eq!(commit(&*store, own, effects).await.unwrap(), Committed::Yes);
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    tokio::join!(holders, writer(), writer(), writer());
}
