//! Accepting events.

use super::*;

pub(crate) async fn an_event_becomes_a_task_for_each_handler(store: Arc<dyn Store>) {
    let acceptance = Acceptance { handlers: vec![subscriber("invoice"), subscriber("ship")], hops: 3, ..order("1") };
    let event = acceptance.event.clone();
    accept(&*store, acceptance).await;
    let tasks = store.claim(vec![want("invoice", 9), want("ship", 9), want("other", 9)]).await.unwrap();
    assert_eq!(tasks.iter().map(|task| &*task.handler).collect::<Vec<_>>(), ["invoice", "ship"]);
    for task in &tasks {
        assert_eq!(task.event, event);
        assert_eq!((&*task.source, &*task.kind, task.key.as_deref(), task.hops), ("orders", "webhook", Some("1"), 3));
        assert_eq!((task.attempts, task.history.len(), task.suspect), (0, 0, false));
    }
}

pub(crate) async fn a_repeated_event_is_a_duplicate_with_the_first_id(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    let again = Acceptance { event: event("2"), ..order("1") };
    assert_eq!(accepted(&*store, again.clone()).await, Accepted::Duplicate { id: "1".into() });
    let task = claim_one(&*store).await;
    assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    assert_eq!(accepted(&*store, again).await, Accepted::Duplicate { id: "1".into() }, "also when it is handled");
    assert!(claim(&*store).await.is_empty());
}

pub(crate) async fn an_event_without_a_key_is_never_a_duplicate(store: Arc<dyn Store>) {
    let nameless = Acceptance { key: None, ..order("1") };
    accept(&*store, nameless.clone()).await;
    accept(&*store, nameless).await;
    assert_eq!(claim(&*store).await.len(), 2);
}

pub(crate) async fn a_key_belongs_to_its_tenant_and_source(store: Arc<dyn Store>) {
    accept(&*store, order("1")).await;
    accept(&*store, Acceptance { tenant: Tenant::new("acme"), ..order("1") }).await;
    accept(&*store, Acceptance { source: "returns".into(), ..order("1") }).await;
    assert_eq!(claim(&*store).await.len(), 1);
    let theirs = Want { tenant: Tenant::new("acme"), ..want("invoice", 9) };
    assert_eq!(store.claim(vec![theirs]).await.unwrap().len(), 1);
}

pub(crate) async fn a_full_backlog_refuses_and_changes_nothing(store: Arc<dyn Store>) {
    let bounded = |id: &str| Acceptance { backlog: Some(2), ..order(id) };
    accept(&*store, bounded("1")).await;
    accept(&*store, bounded("2")).await;
    assert_eq!(accepted(&*store, bounded("3")).await, Accepted::Full);
    assert_eq!(accepted(&*store, bounded("1")).await, Accepted::Duplicate { id: "1".into() }, "what is known needs no room");
    accept(&*store, Acceptance { source: "returns".into(), ..bounded("3") }).await;
    let tasks = claim(&*store).await;
    assert_eq!(accepted(&*store, bounded("3")).await, Accepted::Full, "a running task takes room");
    store.commit(settling(&tasks[0], done())).await.unwrap();
    accept(&*store, bounded("3")).await;
}

pub(crate) async fn of_several_none_is_accepted_behind_one_without_room(store: Arc<dyn Store>) {
    let bounded = |id: &str, bound: u64| Acceptance { backlog: Some(bound), ..order(id) };
    let new = |id: &str| Accepted::New { id: id.into() };
    let several = vec![bounded("1", 2), bounded("1", 2), bounded("2", 2), bounded("3", 2), bounded("4", 9), order("1")];
    let answers = vec![new("1"), Accepted::Duplicate { id: "1".into() }, new("2"), Accepted::Full, Accepted::Full, Accepted::Full];
    assert_eq!(store.accept(several).await.unwrap(), answers);
    assert_eq!(store.accept(vec![bounded("3", 9), bounded("4", 9)]).await.unwrap(), [new("3"), new("4")]);
    let claimed: Vec<_> = claim(&*store).await.iter().map(|task| task.event.id.clone()).collect();
    assert_eq!(claimed, ["1", "2", "3", "4"], "in this order");
    assert_eq!(store.accept(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn state_is_written_with_the_event_or_not_at_all(store: Arc<dyn Store>) {
    let remembering = |id: &str, last: &str| Acceptance { state: vec![("last".into(), Some(last.into()))], backlog: Some(2), ..order(id) };
    let state = async || store.state(tenant(), "orders".into(), String::new()).await.unwrap();
    accept(&*store, remembering("1", "one")).await;
    assert_eq!(state().await, [("last".to_owned(), b"one".to_vec())]);
    accepted(&*store, remembering("1", "two")).await;
    assert_eq!(state().await, [("last".to_owned(), b"one".to_vec())], "a duplicate writes nothing");
    accept(&*store, remembering("2", "three")).await;
    accepted(&*store, remembering("3", "four")).await;
    assert_eq!(state().await, [("last".to_owned(), b"three".to_vec())], "a refused event writes nothing");
}

pub(crate) async fn an_event_nobody_wants_is_a_dead_letter(store: Arc<dyn Store>) {
    accept(&*store, Acceptance { handlers: Vec::new(), ..order("1") }).await;
    let letters = store.dead_letters(all_letters()).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason.as_str(), &letters[0].handler, &letters[0].event), ("no route", &None, &*event("1")));
}

pub(crate) async fn an_event_nobody_wants_may_be_ignored_but_its_key_is_kept(store: Arc<dyn Store>) {
    let ignored = Acceptance { handlers: Vec::new(), unrouted: None, state: vec![("last".into(), Some(b"1".to_vec()))], ..order("1") };
    accept(&*store, ignored.clone()).await;
    assert!(store.dead_letters(all_letters()).await.unwrap().is_empty());
    assert_eq!(accepted(&*store, ignored).await, Accepted::Duplicate { id: "1".into() });
    assert_eq!(store.state(tenant(), "orders".into(), "last".into()).await.unwrap().len(), 1);
}

pub(crate) async fn state_is_listed_by_prefix_and_forgotten(store: Arc<dyn Store>) {
    let entries = ["window/a", "window/b", "windows", "other"].map(|name| (name.to_owned(), Some(name.as_bytes().to_vec())));
    store.set_state(tenant(), "orders".into(), entries.to_vec()).await.unwrap();
    store.set_state(tenant(), "orders".into(), vec![("window/a".into(), None), ("none".into(), None)]).await.unwrap();
    let names = async |source: &str, prefix: &str| {
        let entries = store.state(tenant(), source.into(), prefix.into()).await.unwrap();
        entries.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(names("orders", "window/").await, ["window/b"]);
    assert_eq!(names("orders", "").await, ["other", "window/b", "windows"]);
    assert!(names("returns", "").await.is_empty());
}

pub(crate) async fn any_text_can_be_a_key_or_a_reason(store: Arc<dyn Store>) {
    let odd = ["a\0b", "a\u{10FFFF}0b", "\u{10FFFF}", "'; --", "\\"];
    for text in odd {
        let acceptance = Acceptance { state: vec![(text.to_owned(), Some(b"1".to_vec()))], ..ordered(text, text) };
        accept(&*store, acceptance.clone()).await;
        assert_eq!(accepted(&*store, acceptance).await, Accepted::Duplicate { id: text.into() });
        assert_eq!(store.state(tenant(), "orders".into(), text.into()).await.unwrap(), [(text.to_owned(), b"1".to_vec())]);
        assert_eq!(&*store.orders().await.unwrap()[0].key, text);
        let task = claim_one(&*store).await;
        assert_eq!((task.key.as_deref(), task.event.id.as_str()), (Some(text), text));
        assert_eq!(store.commit(settling(&task, dead(text))).await.unwrap(), Committed::Yes);
        assert!(store.settled(settling(&task, done()).call).await.unwrap().is_some());
        assert_eq!(store.dead_letters(all_letters()).await.unwrap()[0].reason, text);
        assert_eq!(store.replay(all_letters(), dead_letters::again()).await.unwrap(), 1);
        let task = claim_one(&*store).await;
        assert_eq!(task.key.as_deref(), Some(text));
        assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
    }
}

pub(crate) async fn what_many_have_accepted_at_once_is_in_the_order_of_each(store: Arc<dyn Store>) {
    // Each of ten sends twenty, in pairs, of three order keys; every event comes from two of them.
    let sender = async |sender: u32| {
        for pair in 0..10 {
            let id = |n: u32| format!("{}", (sender / 2) * 100 + pair * 2 + n);
            let acceptances = [0, 1].map(|n| ordered(&id(n), &(n + pair % 2).to_string())).to_vec();
            for accepted in store.accept(acceptances).await.unwrap() {
                assert!(matches!(accepted, Accepted::New { .. } | Accepted::Duplicate { .. }));
            }
        }
    };
    futures_util::future::join_all((0..10).map(sender)).await;
    let mut handled: Vec<u32> = Vec::new();
    loop {
        let tasks = claim(&*store).await;
        assert!(tasks.len() <= 3, "one of each order key");
        if tasks.is_empty() {
            break;
        }
        for task in tasks {
            handled.push(task.event.id.parse().unwrap());
            assert_eq!(store.commit(settling(&task, done())).await.unwrap(), Committed::Yes);
        }
    }
    for sender in 0..5 {
        for key in 0..3 {
            let of = |id: &&u32| **id / 100 == sender && (**id % 2 + (**id % 100 / 2) % 2) == key;
            let order: Vec<&u32> = handled.iter().filter(of).collect();
            assert!(order.is_sorted(), "sender {sender}, key {key}: {order:?}");
        }
    }
    handled.sort_unstable();
    let all: Vec<u32> = (0..5).flat_map(|sender| (0..20).map(move |n| sender * 100 + n)).collect();
    assert_eq!(handled, all, "each once");
}
