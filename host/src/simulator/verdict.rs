//! What has to hold when everything is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    Stopped,
    simulator::{
        guests::{ACCOUNTS, KINDS, Kind},
        host::Outdoors,
    },
    store::{DeadLetter, DeadLetterQuery, Store},
    tenant::Tenant,
};

/// A stop accounts for everything, and cuts no source before its deadline.
pub(super) fn of_stop(stopped: &Stopped, deadline: Duration) -> Result<(), String> {
    if !stopped.ledger.balanced {
        return Err(format!("the ledger does not balance: {}", stopped.line()));
    }
    if !stopped.aborted.is_empty() && stopped.took < deadline {
        return Err(format!("a stop aborted {:?}", stopped.aborted));
    }
    Ok(())
}

/// Wait until nobody outside waits and the store has nothing to do.
pub(super) async fn everything_is_handled(outdoors: &Outdoors, store: &Arc<dyn Store>) {
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        tokio::time::sleep(LOOK).await;
        let outside = outdoors.broker.is_consumed() && outdoors.posts.are_gone() && outdoors.table.are_gone();
        if outside && matches!(store.depths().await, Ok(depths) if depths.is_empty()) {
            return;
        }
    }
}

/// What [`everything_is_handled`] waits for.
pub(super) async fn what_waits(outdoors: &Outdoors, store: &Arc<dyn Store>) -> String {
    let depths = store.depths().await.map_or_else(|error| error.to_string(), |depths| format!("{depths:?}"));
    format!(
        "broker consumed: {}, posts accepted: {}, rows marked: {}, store: {depths}",
        outdoors.broker.is_consumed(),
        outdoors.posts.are_gone(),
        outdoors.table.are_gone()
    )
}

/// What the store holds in the end.
pub(super) struct Found {
    keyvalue: BTreeMap<String, String>,
    dead: Vec<DeadLetter>,
}

impl Found {
    pub(super) async fn look(store: &Arc<dyn Store>) -> Result<Self, String> {
        let failed = |error: crate::store::StoreError| error.to_string();
        let tenant = Tenant::default();
        let mut keyvalue = BTreeMap::new();
        for key in store.list(tenant.clone(), String::new(), None, 10_000).await.map_err(failed)? {
            let value = store.get(tenant.clone(), key.clone()).await.map_err(failed)?;
            keyvalue.insert(key, value.map(|(value, _)| String::from_utf8_lossy(&value).into_owned()).unwrap_or_default());
        }
        let dead = store.dead_letters(DeadLetterQuery { limit: 10_000, ..Default::default() }).await.map_err(failed)?;
        Ok(Self { keyvalue, dead })
    }

    fn number(&self, key: &str) -> i64 {
        self.keyvalue.get(key).and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    /// How often the event was done by the handler, and how often it is a dead letter of it.
    fn of(&self, kind: Kind, about: &str) -> (i64, i64) {
        let of = |letter: &&DeadLetter| letter.handler.as_deref() == Some(kind.name()) && letter.event.data == about.as_bytes();
        let dead = i64::try_from(self.dead.iter().filter(of).count()).unwrap_or(i64::MAX);
        (self.number(&format!("count/{}/{about}", kind.name())), dead)
    }
}

/// Nothing lost, nothing twice, nothing out of order.
pub(super) fn judge(outdoors: &Outdoors, found: &Found) -> Result<(), String> {
    let messages = outdoors.broker.messages();
    let events: [(&str, Vec<String>); 3] = [
        ("broker", messages.iter().map(|(_, _, about)| about.clone()).collect()),
        ("posts", outdoors.posts.ids()),
        ("table", outdoors.table.ids()),
    ];
    let mut emitted = Vec::new();
    for kind in KINDS {
        for (_, events) in events.iter().filter(|(source, _)| kind.sources().contains(source)) {
            for about in events {
                once(found, kind, about)?;
                if kind == Kind::Emit && found.of(kind, about).0 == 1 {
                    emitted.push(about.clone());
                }
            }
        }
    }
    emitted.iter().try_for_each(|about| once(found, Kind::Audit, about))?;
    let audited = found.keyvalue.keys().filter(|key| key.starts_with("count/audit/")).count();
    if audited > emitted.len() {
        return Err(format!("{audited} events were audited and {} were emitted", emitted.len()));
    }
    let money: i64 = (0..ACCOUNTS).map(|account| found.number(&format!("account/{account}"))).sum();
    if money != 0 {
        return Err(format!("{money} came into the accounts by transfers between them"));
    }
    let done = found.keyvalue.iter().filter(|(key, _)| key.starts_with("count/atomic/")).count();
    if found.number("atomic") != i64::try_from(done).unwrap_or(i64::MAX) {
        return Err(format!("{done} atomic calls counted to {}: they overlapped", found.number("atomic")));
    }
    in_order(&messages, found)
}

fn once(found: &Found, kind: Kind, about: &str) -> Result<(), String> {
    match found.of(kind, about) {
        (1, 0) | (0, 1) => Ok(()),
        (0, 0) => Err(format!("`{about}` is lost for `{}`", kind.name())),
        (done, dead) => Err(format!("`{about}` is done {done} times and dead {dead} times for `{}`", kind.name())),
    }
}

/// Of each key in a partition, what was done was done in the order of the log.
fn in_order(messages: &[(usize, String, String)], found: &Found) -> Result<(), String> {
    let lines: BTreeSet<(usize, &String)> = messages.iter().map(|(partition, key, _)| (*partition, key)).collect();
    for (partition, key) in lines {
        let published = messages.iter().filter(|(of, about, _)| (of, about) == (&partition, key)).map(|(_, _, about)| about.as_str());
        let expected: Vec<&str> = published.filter(|about| found.of(Kind::Ordered, about).0 == 1).collect();
        let list = found.keyvalue.get(&format!("list/{key}")).cloned().unwrap_or_default();
        let done: Vec<&str> = list.split(',').filter(|about| expected.contains(about)).collect();
        if done != expected {
            return Err(format!("of `{key}` in partition {partition}, {done:?} were done instead of {expected:?}"));
        }
    }
    Ok(())
}
