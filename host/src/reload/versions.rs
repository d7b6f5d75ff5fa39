//! Which version of a handler serves, beside what its files say: back to an earlier one, on to one that was tried beside it.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{Book, Change, Handlers, History, Kind, Reloaded, Reloader, Serving, changes};
use crate::{
    plugin::{
        Compared, Loader,
        load::Loaded,
        version::{Decision, Versions},
    },
    tenant::Tenant,
};

/// Why a version must not serve of which nobody knows why.
const ROLLED_BACK: &str = "it was rolled back";

impl Reloader {
    /// Have an earlier version of a handler serve, and not what its files say, until they say something else. `version`: the beginning of a
    /// digest; none: what serves where new code stands beside it, else the last one that served before.
    pub(crate) async fn roll_back(&self, key: &(Tenant, String), version: Option<&str>) -> Reloaded {
        let began = Instant::now();
        if version.is_none()
            && let Some(dropped) = self.drop_candidate(key, began)
        {
            return dropped;
        }
        let serving = self.serving();
        let Some(loaded) = serving.handlers.get(key) else { return no_handler(key) };
        let history = self.0.works.book.history(key).unwrap_or_default();
        let versions = history.earlier_versions(version);
        let Some(first) = versions.first() else {
            let which = version.map_or_else(|| "earlier version".to_owned(), |version| format!("version {version}"));
            return Reloaded::kept_old(format!("there is no {which} of `{}`: see `koksmat plugins`", key.1));
        };
        // A script that was saved again at once may have served without having been made a component.
        let mut found = None;
        for digest in &versions {
            found = match loaded.handler.versions.at_hand(digest) {
                Some(code) => Some(code),
                None => match self.0.works.loader.earlier(&loaded.handler.config, digest).await {
                    Ok(code) => code,
                    Err(error) => return Reloaded::kept_old(error.to_string()),
                },
            };
            if found.is_some() {
                break;
            }
        }
        let Some(code) = found else {
            return Reloaded::kept_old(format!(
                "the code of {} is not in the cache: have its files say again what they said",
                changes::short(first)
            ));
        };
        let _exchange = self.exchanging();
        // Another handler of the name may serve by now.
        let serving = self.serving();
        let Some(loaded) = serving.handlers.get(key) else { return no_handler(key) };
        let versions = &loaded.handler.versions;
        let (is, was) = (code.digest.clone(), versions.serving().digest.clone());
        versions.go_back_to(code);
        self.rolled_back(key, versions, format!("version {} serves (was {})", changes::short(&is), changes::short(&was)), began)
    }

    /// Have the new version of a handler serve nobody that stands beside the old one. None: there is no such.
    fn drop_candidate(&self, key: &(Tenant, String), began: Instant) -> Option<Reloaded> {
        let _exchange = self.exchanging();
        let serving = self.serving();
        let versions = &serving.handlers.get(key)?.handler.versions;
        let dropped = versions.drop_candidate()?.digest().to_string();
        let what =
            format!("version {} serves alone (beside it was {})", changes::short(&versions.serving().digest), changes::short(&dropped));
        Some(self.rolled_back(key, versions, what, began))
    }

    /// To be called while nothing else is exchanged.
    fn rolled_back(&self, key: &(Tenant, String), versions: &Versions, what: String, began: Instant) -> Reloaded {
        let rejected = versions.rejected();
        let rejected = rejected.as_deref().map(|rejected| (rejected, "an operator rolled it back"));
        let written = self.0.works.book.serves(key, &versions.serving().digest, rejected);
        let change = Change { kind: Kind::Handler, name: key.1.clone(), what: vec![format!("rolled back: {what}")] };
        self.bump(vec![change], not_written(written), began)
    }

    /// Have the new version of a handler serve that stands beside the old one.
    pub(crate) fn promote(&self, key: &(Tenant, String)) -> Reloaded {
        let began = Instant::now();
        let _exchange = self.exchanging();
        let serving = self.serving();
        let Some(loaded) = serving.handlers.get(key) else { return no_handler(key) };
        if !loaded.handler.versions.promote() {
            return Reloaded::kept_old(format!("there is no new version of `{}` beside what serves", key.1));
        }
        let digest = loaded.handler.digest();
        let change = Change {
            kind: Kind::Handler,
            name: key.1.clone(),
            what: vec![format!("promoted: version {} serves", changes::short(&digest))],
        };
        let written = self.0.works.book.serves(key, &digest, None);
        self.bump(vec![change], not_written(written), began)
    }

    fn exchanging(&self) -> MutexGuard<'_, ()> {
        self.0.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handler serves another version, which is another generation. To be called while nothing else is exchanged.
    fn bump(&self, changes: Vec<Change>, warnings: Vec<String>, began: Instant) -> Reloaded {
        let serving = self.serving();
        let generation = serving.number + 1;
        self.0.serving.store(Arc::new(Serving { number: generation, ..Serving::clone(&serving) }));
        self.0.generation.send_replace(generation);
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Reloaded::Applied { generation, changes, warnings, took_ms }
    }

    /// Write down what is decided about new code, until told to stop.
    pub(crate) async fn keep_book(self, stopping: CancellationToken) {
        let decisions = self.0.works.loader.decisions();
        let mut late = self.0.works.loader.late();
        loop {
            self.0.works.health.late(late.borrow_and_update().clone());
            let decided = tokio::select! {
                () = stopping.cancelled() => return,
                decided = decisions.next() => decided,
                Ok(()) = late.changed() => {
                    self.0.works.bell.ring_all();
                    continue;
                }
            };
            for Decision { handler, of, old, new, rolled_back } in decided {
                let _exchange = self.exchanging();
                let serving = self.serving();
                let is_there = serving.handlers.get(&handler).is_some_and(|now| std::ptr::eq(Arc::as_ptr(&now.handler), of.as_ptr()));
                if !is_there {
                    continue;
                }
                let (old, new) = (changes::short(&old), changes::short(&new));
                let what = match &rolled_back {
                    None => format!("promoted: version {new} is as good as {old} and serves"),
                    Some(why) => format!("rolled back: version {new} serves no more, {why}; version {old} does"),
                };
                // An operator may have decided otherwise since.
                let Some(versions) = serving.handlers.get(&handler).map(|now| &now.handler.versions) else { continue };
                let (digest, rejected) = (versions.serving().digest.clone(), versions.rejected());
                let rejected = rejected.as_deref().map(|rejected| (rejected, rolled_back.as_deref().unwrap_or(ROLLED_BACK)));
                let written = self.0.works.book.serves(&handler, &digest, rejected);
                let change = Change { kind: Kind::Handler, name: handler.1, what: vec![what] };
                self.bump(vec![change], not_written(written), Instant::now()).log("the comparison of two versions");
            }
        }
    }

    /// Write down which versions serve. What went wrong. Not on a thread that calls run on: it waits for the disk.
    pub(super) async fn write_down(&self) -> Vec<String> {
        let reloader = self.clone();
        let written = spawn_blocking(move || {
            let _exchange = reloader.exchanging();
            write_down(&reloader.0.works.book, &reloader.serving().handlers)
        });
        written.await.unwrap_or_default()
    }

    /// What serves and what served of each handler.
    pub(crate) fn plugins(&self) -> Vec<Plugin> {
        let serving = self.serving();
        let plugin = |(key, loaded): (&(Tenant, String), &Loaded)| {
            let (versions, history) = (&loaded.handler.versions, self.0.works.book.history(key).unwrap_or_default());
            let code = versions.serving();
            let beside = versions.candidate().map(|candidate| Beside {
                digest: candidate.digest().to_string(),
                calls: candidate.counts().calls(),
                errors: candidate.counts().errors(),
                compared: candidate.compared(),
                since_ms: u64::try_from(candidate.since().elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            Plugin {
                handler: key.1.clone(),
                plugin: loaded.handler.config.plugin.path().display().to_string(),
                calls: code.counts.calls(),
                errors: code.counts.errors(),
                beside,
                history,
            }
        };
        serving.handlers.iter().map(plugin).collect()
    }
}

/// What serves of a handler, and what served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugin {
    /// The handler.
    pub handler: String,
    /// Where its code is.
    pub plugin: String,
    /// The calls of the version that serves, since this host has it.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// New code that has a share of the calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beside: Option<Beside>,
    /// Which version serves, and which did.
    #[serde(flatten)]
    pub history: History,
}

/// New code beside what serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// Its digest.
    pub digest: String,
    /// Its calls.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// For how long it has been there, in milliseconds.
    pub since_ms: u64,
    /// It serves nobody, and what it comes to is compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compared: Option<Compared>,
}

fn write_down(book: &Book, handlers: &Handlers) -> Vec<String> {
    let serving = |(key, loaded): (&(Tenant, String), &Loaded)| {
        let versions = &loaded.handler.versions;
        (key.clone(), versions.serving().digest.clone(), versions.rejected())
    };
    let serving: Vec<_> = handlers.iter().map(serving).collect();
    let all = serving
        .iter()
        .map(|(key, digest, rejected)| (key, &**digest, rejected.as_deref().map(|rejected| (rejected, "it was rolled back"))));
    not_written(book.all_serve(all))
}

fn no_handler(key: &(Tenant, String)) -> Reloaded {
    Reloaded::kept_old(format!("there is no handler `{}`", key.1))
}

fn not_written(written: std::io::Result<()>) -> Vec<String> {
    let failed = |error| format!("which version serves could not be written down, and the next start may not know it: {error}");
    written.err().map(failed).into_iter().collect()
}

/// Have each handler serve what it served before the host stopped, where that is not what its files say: because an operator rolled that back,
/// or because it was not known to be as good.
pub(crate) async fn recall(loader: &Loader, book: &Book, handlers: &Handlers) {
    for (key, loaded) in handlers {
        let (versions, config) = (&loaded.handler.versions, &loaded.handler.config);
        if let Some(history) = book.history(key).filter(|history| *history.serving != *loaded.digest) {
            let rejected = history.rejected.as_ref().is_some_and(|rejected| *rejected.digest == *loaded.digest);
            if rejected || config.canary.is_some() {
                match loader.earlier(config, &history.serving).await {
                    Ok(Some(code)) => {
                        let new = versions.serving();
                        versions.go_back_to(code);
                        if let Some(canary) = config.canary.clone().filter(|_| !rejected) {
                            versions.stand_beside(new, canary);
                        }
                    }
                    Ok(None) => tracing::warn!(
                        handler = key.1,
                        "the version that served before is not in the cache any more: what the files say serves"
                    ),
                    Err(error) => {
                        tracing::warn!(handler = key.1, %error, "the version that served before cannot serve: what the files say does")
                    }
                }
            }
        }
    }
    write_down(book, handlers).iter().for_each(|warning| tracing::warn!("{warning}"));
}
