//! Which versions of each handler there were, and why one of them must not serve: kept beside the store, so that the next start knows it too.
//!
//! It is this host's alone, also where hosts share a store: each has code and a cache of its own, and an operator goes back host by host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{ambient::now, store::Millis, tenant::Tenant};

/// What the file is called.
const FILE: &str = "versions.json";
/// How many earlier versions of a handler are remembered.
const EARLIER: usize = 20;
/// How many handlers are remembered that are there no more.
const GONE: usize = 200;

/// The versions of one handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The digest of what serves.
    pub serving: String,
    /// Since when.
    pub since: Millis,
    /// What the files say and must not serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Rejected>,
    /// What served before, the latest first.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

/// A version that was rolled back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Its digest.
    pub digest: String,
    /// Why.
    pub why: String,
    /// When.
    pub at: Millis,
}

/// A version that served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Its digest.
    pub digest: String,
    /// Since when it served.
    pub since: Millis,
    /// Until when.
    pub until: Millis,
}

/// The histories of all handlers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Book(Arc<Inner>);

struct Inner {
    /// None: the host keeps nothing.
    file: Option<PathBuf>,
    histories: Mutex<Histories>,
}

#[derive(Default)]
struct Histories {
    of: BTreeMap<String, History>,
    /// The file says something else.
    unwritten: bool,
}

impl Book {
    /// What this host remembers, in the folder of what is its own.
    pub(crate) fn open(folder: Option<&Path>) -> Self {
        let file = folder.map(|folder| folder.join(FILE));
        let read = |file: &PathBuf| match fs::read(file) {
            Ok(json) => serde_json::from_slice(&json).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeMap::new()),
            Err(error) => Err(error.to_string()),
        };
        let histories = file.as_ref().map_or_else(|| Ok(BTreeMap::new()), read).unwrap_or_else(|error| {
            tracing::warn!(error, "which versions served is not known any more: what the files say serves");
            BTreeMap::new()
        });
        Self(Arc::new(Inner { file, histories: Mutex::new(Histories { of: histories, unwritten: false }) }))
    }

    pub(crate) fn history(&self, handler: &(Tenant, String)) -> Option<History> {
        self.histories().of.get(&name_of(handler)).cloned()
    }

    /// This version serves, and `rejected` must not.
    ///
    /// # Errors
    /// When it cannot be written down: the next start may not know it. The next time all is written.
    pub(crate) fn serves(&self, handler: &(Tenant, String), digest: &str, rejected: Option<(&str, &str)>) -> io::Result<()> {
        let mut histories = self.histories();
        histories.serve(&name_of(handler), digest, rejected);
        self.write(histories)
    }

    /// These are all that serve.
    ///
    /// # Errors
    /// As [`serves`](Self::serves).
    pub(crate) fn all_serve<'a>(
        &self,
        serving: impl IntoIterator<Item = (&'a (Tenant, String), &'a str, Option<(&'a str, &'a str)>)>,
    ) -> io::Result<()> {
        let mut histories = self.histories();
        let mut there = BTreeSet::new();
        for (handler, digest, rejected) in serving {
            let name = name_of(handler);
            histories.serve(&name, digest, rejected);
            there.insert(name);
        }
        histories.forget_all_but(&there);
        self.write(histories)
    }

    fn write(&self, mut histories: MutexGuard<'_, Histories>) -> io::Result<()> {
        if histories.unwritten {
            self.0.file.as_deref().map_or(Ok(()), |file| write(file, &serde_json::to_vec(&histories.of).unwrap_or_default()))?;
            histories.unwritten = false;
        }
        Ok(())
    }

    fn histories(&self) -> MutexGuard<'_, Histories> {
        self.0.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Histories {
    fn serve(&mut self, name: &str, digest: &str, rejected: Option<(&str, &str)>) {
        let history = self.of.entry(name.to_owned()).or_default();
        let before = history.clone();
        history.serve(digest, rejected, now());
        self.unwritten |= *history != before;
    }

    /// Forget those that are gone for longest.
    fn forget_all_but(&mut self, there: &BTreeSet<String>) {
        let mut gone: Vec<_> =
            self.of.iter().filter(|(name, _)| !there.contains(*name)).map(|(name, of)| (of.since, name.clone())).collect();
        gone.sort();
        for (_, name) in gone.iter().take(gone.len().saturating_sub(GONE)) {
            self.of.remove(name);
            self.unwritten = true;
        }
    }
}

fn name_of((tenant, handler): &(Tenant, String)) -> String {
    format!("{tenant}/{handler}")
}

/// The whole file or the one before.
fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    let new = file.with_extension("new");
    let mut written = fs::File::create(&new)?;
    written.write_all(content)?;
    written.sync_data()?;
    fs::rename(&new, file)
}

impl History {
    fn serve(&mut self, digest: &str, rejected: Option<(&str, &str)>, at: Millis) {
        if self.serving != digest {
            if !self.serving.is_empty() {
                self.earlier.insert(0, Earlier { digest: std::mem::take(&mut self.serving), since: self.since, until: at });
                self.earlier.truncate(EARLIER);
            }
            (self.serving, self.since) = (digest.to_owned(), at);
        }
        let same = |known: &Rejected| rejected.is_some_and(|(digest, _)| known.digest == digest);
        if !self.rejected.as_ref().is_some_and(same) {
            self.rejected = rejected.map(|(digest, why)| Rejected { digest: digest.to_owned(), why: why.to_owned(), at });
        }
    }

    /// The versions that an operator may mean by this beginning of a digest, or who says none: the last one that served before, and if its code
    /// is gone, the one before that. Who has gone back already and says it again means one from before what he went back to.
    pub(crate) fn earlier_versions(&self, beginning: Option<&str>) -> Vec<&str> {
        let all = self.earlier.iter().map(|earlier| earlier.digest.as_str());
        let is_other = |digest: &&str| *digest != self.serving;
        match (beginning, &self.rejected) {
            (Some(beginning), _) => all.filter(|digest| !beginning.is_empty() && digest.starts_with(beginning)).filter(is_other).collect(),
            (None, None) => all.filter(is_other).collect(),
            (None, Some(rejected)) => {
                // What served on when something beside it was dropped did not serve before.
                let before = self.earlier.iter().position(|earlier| earlier.digest == self.serving).map_or(0, |at| at + 1);
                all.skip(before).filter(is_other).filter(|digest| *digest != rejected.digest).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_knows_what_served_and_what_must_not() {
        let folder = tempfile::tempdir().unwrap();
        let key = (Tenant::default(), "h".to_owned());
        let book = Book::open(Some(folder.path()));
        for digest in ["aaa", "bbb", "bbb"] {
            book.serves(&key, digest, None).unwrap();
        }
        book.serves(&key, "aaa", Some(("bbb", "it failed"))).unwrap();
        let history = Book::open(Some(folder.path())).history(&key).unwrap();
        assert_eq!((history.serving.as_str(), history.rejected.as_ref().map(|r| r.digest.as_str())), ("aaa", Some("bbb")));
        assert_eq!(history.earlier.iter().map(|earlier| earlier.digest.as_str()).collect::<Vec<_>>(), ["bbb", "aaa"]);
    }

    #[test]
    fn whoever_goes_back_again_goes_further_back() {
        let served = |serving: &str, rejected: Option<&str>, earlier: &[&str]| {
            let earlier = earlier.iter().map(|digest| Earlier { digest: (*digest).into(), since: 0, until: 0 }).collect();
            let rejected = rejected.map(|digest| Rejected { digest: digest.into(), why: String::new(), at: 0 });
            History { serving: serving.into(), since: 0, rejected, earlier }
        };
        let third = served("ccc", None, &["bbb", "aaa"]);
        assert_eq!(third.earlier_versions(None), ["bbb", "aaa"]);
        assert_eq!((third.earlier_versions(Some("a")), third.earlier_versions(Some("c")).len()), (vec!["aaa"], 0));
        let back = served("bbb", Some("ccc"), &["ccc", "bbb", "aaa"]);
        assert_eq!(back.earlier_versions(None), ["aaa"]);
        assert_eq!(back.earlier_versions(Some("ccc")), ["ccc"], "said by name it is wanted");
        assert!(served("aaa", Some("ccc"), &["bbb", "ccc", "bbb", "aaa"]).earlier_versions(None).is_empty());
        assert_eq!(served("bbb", Some("ccc"), &["aaa"]).earlier_versions(None), ["aaa"], "it was dropped beside what serves");
        // The file says again what served before: that is no going back.
        assert_eq!(served("bbb", None, &["ccc", "bbb", "aaa"]).earlier_versions(None)[0], "ccc");
    }

    #[test]
    fn handlers_that_are_gone_for_long_are_forgotten() {
        let book = Book::open(None);
        let key = |n: usize| (Tenant::default(), format!("h{n:04}"));
        for n in 0..GONE + 10 {
            book.serves(&key(n), "aaa", None).unwrap();
        }
        let there = key(0);
        book.all_serve([(&there, "aaa", None)]).unwrap();
        assert_eq!(book.histories().of.len(), GONE + 1);
        assert!(book.history(&there).is_some());
    }

    #[test]
    fn what_could_not_be_written_is_written_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let key = (Tenant::default(), "h".to_owned());
        let book = Book::open(Some(&folder.path().join("later")));
        book.serves(&key, "aaa", None).unwrap_err();
        assert_eq!(book.history(&key).unwrap().serving, "aaa", "it serves all the same");
        fs::create_dir(folder.path().join("later")).unwrap();
        book.serves(&key, "aaa", None).unwrap();
        assert_eq!(Book::open(Some(&folder.path().join("later"))).history(&key).unwrap().serving, "aaa");
    }
}
