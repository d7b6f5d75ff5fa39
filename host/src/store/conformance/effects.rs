//! Key-value: seen together, checked at commit, counted.

use super::*;

pub(crate) async fn writes_are_seen_when_the_call_is_done(store: Arc<dyn Store>) {
    let effects = Effects {
        writes: [
            ("a".to_owned(), Write::Set("1".into())),
            ("b".to_owned(), Write::Set(Bytes::from_static(&[0, 255]))),
            ("c".to_owned(), Write::Add(-5)),
            ("d".to_owned(), Write::Delete),
        ]
        .into(),
        ..Effects::default()
    };
    assert_eq!(store.commit(direct(None, done_with(effects))).await.unwrap(), Committed::Yes);
    assert_eq!(store.get(tenant(), "b".into()).await.unwrap().unwrap().0, [0, 255].as_slice());
    assert_eq!(value(&*store, "c").await.as_deref(), Some("-5"));
    store.commit(direct(None, done_with(wrote("a", Write::Delete)))).await.unwrap();
    assert_eq!(store.list(tenant(), String::new(), None, 9).await.unwrap(), ["b", "c"]);
}

pub(crate) async fn keys_are_listed_by_prefix_in_pages(store: Arc<dyn Store>) {
    for key in ["stock/ä", "stock/b", "stock/a", "stock", "stocks", "stock/c", "stoc"] {
        put(&*store, key, "1").await;
    }
    let page =
        async |prefix: &str, after: Option<&str>, limit| store.list(tenant(), prefix.into(), after.map(Into::into), limit).await.unwrap();
    assert_eq!(page("stock/", None, 2).await, ["stock/a", "stock/b"]);
    assert_eq!(page("stock/", Some("stock/b"), 2).await, ["stock/c", "stock/ä"]);
    assert!(page("stock/", Some("stock/ä"), 2).await.is_empty());
    assert_eq!(page("stock/", Some("a"), 1).await, ["stock/a"], "behind what is before the prefix is all of it");
    assert_eq!(page("", None, 99).await.len(), 7);
}

pub(crate) async fn a_call_that_read_a_changed_key_is_overtaken(store: Arc<dyn Store>) {
    let attempt = async |read: Read| {
        let effects = Effects { reads: vec![read], ..set("result", "1") };
        store.commit(direct(None, done_with(effects))).await.unwrap()
    };
    let absent = read(&*store, "stock").await;
    assert_eq!(attempt(absent.clone()).await, Committed::Yes);
    put(&*store, "stock", "3").await;
    assert_eq!(attempt(absent).await, Committed::Overtaken, "it appeared");
    let three = read(&*store, "stock").await;
    put(&*store, "other", "1").await;
    assert_eq!(attempt(three.clone()).await, Committed::Yes, "other keys are no matter");
    put(&*store, "stock", "2").await;
    put(&*store, "stock", "3").await;
    assert_eq!(attempt(three).await, Committed::Overtaken, "it changed, and changed back");
    let three = read(&*store, "stock").await;
    store.commit(direct(None, done_with(wrote("stock", Write::Delete)))).await.unwrap();
    assert_eq!(attempt(three.clone()).await, Committed::Overtaken, "it is gone");
    put(&*store, "stock", "3").await;
    assert_eq!(attempt(three).await, Committed::Overtaken, "it is another one");
}

pub(crate) async fn a_call_that_listed_a_changed_prefix_is_overtaken(store: Arc<dyn Store>) {
    put(&*store, "cart/a", "1").await;
    put(&*store, "cart/c", "1").await;
    let listed = |limit, keys: &[&str]| Read::List {
        prefix: "cart/".into(),
        after: None,
        limit,
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
    };
    let attempt = async |read: Read| {
        let effects = Effects { reads: vec![read], ..set("result", "1") };
        store.commit(direct(None, done_with(effects))).await.unwrap()
    };
    let (all, first) = (listed(9, &["cart/a", "cart/c"]), listed(1, &["cart/a"]));
    put(&*store, "cart/a", "2").await;
    assert_eq!(attempt(all.clone()).await, Committed::Yes, "a list is of keys, not of values");
    put(&*store, "cart/b", "1").await;
    assert_eq!(attempt(all).await, Committed::Overtaken);
    assert_eq!(attempt(first.clone()).await, Committed::Yes, "its page is as it was");
    store.commit(direct(None, done_with(wrote("cart/a", Write::Delete)))).await.unwrap();
    assert_eq!(attempt(first).await, Committed::Overtaken);
}

pub(crate) async fn a_read_that_nothing_relies_on_is_checked_too(store: Arc<dyn Store>) {
    let effects = || Effects { reads: vec![Read::Key { key: "stock".into(), version: 9 }], ..Effects::default() };
    assert_eq!(store.commit(direct(None, done_with(effects()))).await.unwrap(), Committed::Overtaken);
    accept(&*store, order("1")).await;
    let task = claim_one(&*store).await;
    assert_eq!(store.commit(settling(&task, done_with(effects()))).await.unwrap(), Committed::Overtaken);
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes, "it runs again under the same claim");
}

pub(crate) async fn an_increment_of_no_number_is_invalid_and_writes_nothing(store: Arc<dyn Store>) {
    put(&*store, "name", "anna").await;
    put(&*store, "most", &i64::MAX.to_string()).await;
    for key in ["name", "most"] {
        let mut effects = wrote(key, Write::Add(1));
        effects.writes.insert("a".into(), Write::Set("before".into()));
        effects.writes.insert("z".into(), Write::Set("after".into()));
        let Committed::Invalid(why) = store.commit(direct(None, done_with(effects))).await.unwrap() else { panic!("it was written") };
        assert!(why.contains(&format!("`{key}`")), "{why}");
    }
    assert_eq!((value(&*store, "a").await, value(&*store, "z").await), (None, None));
}

pub(crate) async fn a_thousand_increments_side_by_side_are_a_thousand(store: Arc<dyn Store>) {
    let increment = || store.commit(direct(None, done_with(wrote("count", Write::Add(1)))));
    let results = futures_util::future::join_all((0..1000).map(|_| increment())).await;
    assert!(results.iter().all(|result| matches!(result, Ok(Committed::Yes))), "an increment never conflicts");
    assert_eq!(value(&*store, "count").await.as_deref(), Some("1000"));
}

pub(crate) async fn no_update_is_lost(store: Arc<dyn Store>) {
    let worker = async || {
        for _ in 0..25 {
            loop {
                let found = store.get(tenant(), "count".into()).await.unwrap();
                let (count, version) =
                    found.map_or((0, 0), |(value, version)| (std::str::from_utf8(&value).unwrap().parse().unwrap(), version));
                let next: i64 = count + 1;
                let effects = Effects { reads: vec![Read::Key { key: "count".into(), version }], ..set("count", &next.to_string()) };
                match store.commit(direct(None, done_with(effects))).await.unwrap() {
                    Committed::Yes => break,
                    Committed::Overtaken => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    };
    futures_util::future::join_all((0..8).map(|_| worker())).await;
    assert_eq!(value(&*store, "count").await.as_deref(), Some("200"));
}

pub(crate) async fn keys_belong_to_their_tenant(store: Arc<dyn Store>) {
    put(&*store, "stock", "1").await;
    let theirs = direct(None, done_with(wrote("stock", Write::Delete)));
    let theirs = Commit { call: CallId { tenant: Tenant::new("acme"), ..theirs.call }, ..theirs };
    assert_eq!(store.commit(theirs).await.unwrap(), Committed::Yes);
    assert_eq!(value(&*store, "stock").await.as_deref(), Some("1"));
    assert!(store.list(Tenant::new("acme"), String::new(), None, 9).await.unwrap().is_empty());
}
