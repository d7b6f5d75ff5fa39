//! Which calls hold which keys: a call that was overtaken too often, or is about to do something that must not be repeated differently,
//! keeps what it has read as it is until it has committed.
//!
//! Holds live in the process and end by themselves; they make conflicts rare. That no update is lost does not rest on them, but on the
//! check of the reads in each commit.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    store::{Holder, Read},
    tenant::Tenant,
};

/// Who holds what.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    /// In the order of asking.
    entries: Mutex<Vec<Entry>>,
    /// Says that an entry is gone.
    changed: Notify,
}

/// One holder's keys: held as soon as no earlier entry overlaps. All at once, so that nobody holds some and waits for others.
#[derive(Debug)]
struct Entry {
    holder: Holder,
    tenant: Tenant,
    keys: BTreeSet<String>,
    /// Prefixes that were listed: a key that comes or goes below one is a conflict too.
    prefixes: Vec<String>,
    until: Instant,
    held: bool,
    /// Whose holds the commit of this holder waits for.
    waits_for: Vec<Holder>,
}

impl Holds {
    /// Ask for keys, in place of what this holder has. Commits that pass before the keys are held are not kept back.
    pub(crate) fn request(&self, holder: Holder, tenant: Tenant, reads: &[Read], writes: Vec<String>, until: Duration) -> Request<'_> {
        let mut keys: BTreeSet<String> = writes.into_iter().collect();
        let mut prefixes = Vec::new();
        for read in reads {
            match read {
                Read::Key { key, .. } => drop(keys.insert(key.clone())),
                Read::List { prefix, .. } => prefixes.push(prefix.clone()),
            }
        }
        let now = Instant::now();
        // As good as never, where the clock cannot say it.
        let until = now.checked_add(until).unwrap_or(now + Duration::from_secs(365 * 24 * 3600));
        self.release(holder);
        self.lock().push(Entry { holder, tenant, keys, prefixes, until, held: false, waits_for: Vec::new() });
        Request { holds: self, holder, until, keep: false }
    }

    /// Let go of what a holder has or asks for.
    pub(crate) fn release(&self, holder: Holder) {
        remove(&mut self.lock(), holder);
        self.changed.notify_waiters();
    }

    /// Wait until nobody else holds any of the keys. By then somebody may: [`pass`](Self::pass) says.
    ///
    /// A commit whose holder and those it waits for would wait for each other lets go of its own hold, so that the others go on.
    pub(crate) async fn wait(&self, holder: Option<Holder>, tenant: &Tenant, keys: &[String]) {
        loop {
            // From here on no change is missed.
            let changed = self.changed.notified();
            let Some(until) = self.blocked(holder, tenant, keys) else { return };
            let _ = tokio::time::timeout_at(until, changed).await;
        }
    }

    /// Pass with a commit that writes these keys, if nobody else holds one; the committer's own hold ends. As long as the answer lives no
    /// hold begins: the commit must be on its way to the store before it is dropped.
    pub(crate) fn pass(&self, holder: Option<Holder>, tenant: &Tenant, keys: &[String]) -> Option<Passage<'_>> {
        let mut entries = self.lock();
        if blockers(&entries, holder, tenant, keys).next().is_some() {
            return None;
        }
        if let Some(holder) = holder
            && remove(&mut entries, holder)
        {
            self.changed.notify_waiters();
        }
        Some(Passage { _entries: entries })
    }

    /// The end of the first hold that is in the way.
    fn blocked(&self, holder: Option<Holder>, tenant: &Tenant, keys: &[String]) -> Option<Instant> {
        let mut entries = self.lock();
        let until = blockers(&entries, holder, tenant, keys).map(|entry| entry.until).min()?;
        if let Some(own) = entries.iter().position(|entry| Some(entry.holder) == holder) {
            let waits_for: Vec<Holder> = blockers(&entries, holder, tenant, keys).map(|entry| entry.holder).collect();
            if circle(&entries, &waits_for, entries[own].holder) {
                entries.remove(own);
                self.changed.notify_waiters();
            } else {
                entries[own].waits_for = waits_for;
            }
        }
        Some(until)
    }

    /// The entries, without those whose time has passed.
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if !entries.is_empty() {
            let now = Instant::now();
            entries.retain(|entry| entry.until > now);
        }
        entries
    }
}

/// The right to hand a commit over.
pub(crate) struct Passage<'a> {
    _entries: MutexGuard<'a, Vec<Entry>>,
}

/// A holder's request. Dropped before it is kept, it is taken back.
pub(crate) struct Request<'a> {
    holds: &'a Holds,
    holder: Holder,
    until: Instant,
    keep: bool,
}

impl Request<'_> {
    /// Wait until the keys are held. `false`: the time passed before. Cancel safe.
    pub(crate) async fn held(&self) -> bool {
        loop {
            let changed = self.holds.changed.notified();
            let wake = {
                let mut entries = self.holds.lock();
                let Some(own) = entries.iter().position(|entry| entry.holder == self.holder) else { return false };
                let earlier = entries[..own].iter().filter(|earlier| earlier.overlaps(&entries[own]));
                match earlier.map(|entry| entry.until).min() {
                    None => {
                        entries[own].held = true;
                        return true;
                    }
                    Some(until) => until.min(self.until),
                }
            };
            let _ = tokio::time::timeout_at(wake, changed).await;
        }
    }

    /// The hold lasts beyond this request.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.holds.release(self.holder);
        }
    }
}

impl Entry {
    fn covers(&self, key: &str) -> bool {
        self.keys.contains(key) || self.prefixes.iter().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.tenant == other.tenant
            && (self.keys.iter().any(|key| other.covers(key))
                || other.keys.iter().any(|key| self.covers(key))
                || self.prefixes.iter().any(|a| other.prefixes.iter().any(|b| a.starts_with(b.as_str()) || b.starts_with(a.as_str()))))
    }
}

/// What others hold of these keys.
fn blockers<'a>(entries: &'a [Entry], holder: Option<Holder>, tenant: &'a Tenant, keys: &'a [String]) -> impl Iterator<Item = &'a Entry> {
    entries
        .iter()
        .filter(move |entry| entry.held && Some(entry.holder) != holder && entry.tenant == *tenant)
        .filter(move |entry| keys.iter().any(|key| entry.covers(key)))
}

/// Whether one of these waits, directly or through others, for `holder`.
fn circle(entries: &[Entry], waits_for: &[Holder], holder: Holder) -> bool {
    let mut seen = HashSet::new();
    let mut open = waits_for.to_vec();
    while let Some(next) = open.pop() {
        if next == holder {
            return true;
        }
        if seen.insert(next)
            && let Some(entry) = entries.iter().find(|entry| entry.holder == next)
        {
            open.extend(&entry.waits_for);
        }
    }
    false
}

fn remove(entries: &mut Vec<Entry>, holder: Holder) -> bool {
    let before = entries.len();
    entries.retain(|entry| entry.holder != holder);
    entries.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_holder_passes() {
        let (holds, tenant, own) = (Holds::default(), Tenant::default(), Holder::new());
        let keys = ["stock".to_owned()];
        let request = holds.request(own, tenant.clone(), &[], keys.to_vec(), Duration::from_secs(600));
        assert!(holds.pass(None, &tenant, &keys).is_some(), "what is only asked for is not held");
        assert!(request.held().await);
        request.keep();
        assert!(holds.pass(None, &tenant, &keys).is_none());
        assert!(holds.pass(Some(Holder::new()), &tenant, &keys).is_none());
        assert!(holds.pass(None, &Tenant::new("acme"), &keys).is_some());
        assert!(holds.pass(Some(own), &tenant, &keys).is_some());
        assert!(holds.pass(None, &tenant, &keys).is_some(), "with its commit the hold has ended");
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_is_in_nobodys_way() {
        let (holds, tenant) = (Holds::default(), Tenant::default());
        let ask = || holds.request(Holder::new(), tenant.clone(), &[], vec!["stock".into()], Duration::from_secs(600));
        let (first, second, third) = (ask(), ask(), ask());
        assert!(first.held().await);
        drop(second);
        drop(first);
        assert!(third.held().await);
    }
}
