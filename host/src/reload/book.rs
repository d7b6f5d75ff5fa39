//! Which versions of each handler there were, and why one of them must not serve: kept beside the store, so that the next start knows it too.
//!
//! It is this host's alone, also where hosts share a store: each has code and a cache of its own, and an operator goes back host by host.

use std::{
    collections::BTreeMap,
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
    histories: Mutex<BTreeMap<String, History>>,
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
        Self(Arc::new(Inner { file, histories: Mutex::new(histories) }))
    }

    pub(crate) fn history(&self, handler: &(Tenant, String)) -> Option<History> {
        self.histories().get(&name_of(handler)).cloned()
    }

    /// This version serves, and `rejected` must not.
    ///
    /// # Errors
    /// When it cannot be written down: the next start may not know it. The next time all is written.
    pub(crate) fn serves(&self, handler: &(Tenant, String), digest: &str, rejected: Option<(&str, &str)>) -> io::Result<()> {
        self.all_serve([(handler, digest, rejected)])
    }

    /// The same for several.
    pub(crate) fn all_serve<'a>(
        &self,
        serving: impl IntoIterator<Item = (&'a (Tenant, String), &'a str, Option<(&'a str, &'a str)>)>,
    ) -> io::Result<()> {
        let mut histories = self.histories();
        let before = histories.clone();
        for (handler, digest, rejected) in serving {
            histories.entry(name_of(handler)).or_default().serve(digest, rejected, now());
        }
        if *histories == before {
            return Ok(());
        }
        let written = self.0.file.as_deref().map_or(Ok(()), |file| write(file, &serde_json::to_vec(&*histories).unwrap_or_default()));
        if written.is_err() {
            // So that it is written the next time.
            *histories = before;
        }
        written
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<String, History>> {
        self.0.histories.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// The version that an operator means by this beginning of its digest, or who says none: the last one that is not what serves.
    pub(crate) fn earlier_version(&self, beginning: Option<&str>) -> Option<&str> {
        let mut others = self.earlier.iter().map(|earlier| earlier.digest.as_str()).filter(|digest| *digest != self.serving);
        match beginning {
            None => others.next(),
            Some(beginning) => others.find(|digest| !beginning.is_empty() && digest.starts_with(beginning)),
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
        assert_eq!((history.earlier_version(None), history.earlier_version(Some("c"))), (Some("bbb"), None));
    }

    #[test]
    fn what_could_not_be_written_is_written_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let key = (Tenant::default(), "h".to_owned());
        let book = Book::open(Some(&folder.path().join("later")));
        book.serves(&key, "aaa", None).unwrap_err();
        fs::create_dir(folder.path().join("later")).unwrap();
        book.serves(&key, "aaa", None).unwrap();
        assert_eq!(Book::open(Some(&folder.path().join("later"))).history(&key).unwrap().serving, "aaa");
    }
}
