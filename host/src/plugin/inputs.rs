//! The files that a handler's code was made from, and whether they have changed since.
//!
//! Whether a file changed is told by what the file system says of it, not by its content: that is asked often, of many files.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ignore::WalkBuilder;
use sha2::{Digest, Sha256};

/// The most files of a folder that are looked at.
const MAX_FILES: usize = 20_000;

/// What is no source, whatever `.gitignore` says of it.
const NEVER: [&str; 4] = ["target", "node_modules", ".git", "__pycache__"];

/// What a folder holds in which a host keeps its store: never an input.
const STORE: [&str; 2] = ["koksmat.db", "koksmat.sock"];

/// A clock of a file system may stand still for so long: a file that was written within this time of being read may be written again and
/// look the same.
const GRANULARITY: Duration = Duration::from_millis(20);

/// Files and folders, as they were when they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inputs {
    files: Vec<PathBuf>,
    /// Folders with all that is in them, but for a file that is made of it.
    folders: Vec<(PathBuf, Option<PathBuf>)>,
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    /// What those hold that changed while they were read, as a digest.
    young: BTreeMap<PathBuf, [u8; 32]>,
}

/// What the file system says of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    file: (u64, u64),
}

impl Inputs {
    /// These files. What they were `read_from` on counts: later than that they may have changed.
    pub(crate) fn files(files: Vec<PathBuf>, read_from: SystemTime) -> Self {
        Self { files, ..Self::default() }.see(read_from)
    }

    /// A folder and all that is in it, but for what is made of it. A tool that reads it may write there as well: what held the same already
    /// when it was read `before` is what was read.
    pub(crate) fn folder(folder: &Path, made: Option<&Path>, read_from: SystemTime, before: Option<&Self>) -> Self {
        let mut folder = Self { folders: vec![(folder.to_owned(), made.map(Path::to_owned))], ..Self::default() };
        folder.seen = folder.look();
        for (path, stamp) in folder.seen.iter_mut().filter(|(_, stamp)| is_young(stamp.as_ref(), read_from)) {
            let Some(content) = digest_of(path) else { continue };
            if before.is_none_or(|before| before.young.get(path) != Some(&content)) {
                *stamp = None;
            }
            folder.young.insert(path.clone(), content);
        }
        folder
    }

    fn see(mut self, read_from: SystemTime) -> Self {
        self.seen = self.look();
        for stamp in self.seen.values_mut().filter(|stamp| is_young(stamp.as_ref(), read_from)) {
            *stamp = None;
        }
        self
    }

    /// Whether any of them is not as it was, is gone, or is new. Reads the file system.
    pub(crate) fn have_changed(&self) -> bool {
        self.first_changed().is_some()
    }

    /// One that is not as it was.
    pub(crate) fn first_changed(&self) -> Option<PathBuf> {
        let now = self.look();
        let gone = self.seen.keys().find(|path| !now.contains_key(*path)).cloned();
        now.into_iter().find(|(path, stamp)| self.seen.get(path) != Some(stamp)).map(|(path, _)| path).or(gone)
    }

    /// The same files as they are now.
    pub(crate) fn again(&self) -> Self {
        Self { seen: self.look(), ..self.clone() }
    }

    /// Whether a change of this path may be one of theirs.
    pub(crate) fn concern(&self, path: &Path) -> bool {
        self.files.iter().any(|file| file == path) || self.folders.iter().any(|(folder, made)| is_of(path, folder, made.as_deref()))
    }

    /// The folders in which changes of them show.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PathBuf> {
        let of_files = self.files.iter().filter_map(|file| file.parent()).map(Path::to_owned);
        let of_folders = self.folders.iter().flat_map(|(folder, _)| walk(folder).filter(|entry| entry.is_dir()));
        of_files.chain(of_folders)
    }

    fn look(&self) -> BTreeMap<PathBuf, Option<Stamp>> {
        let mut seen: BTreeMap<_, _> = self.files.iter().map(|file| (file.clone(), Stamp::of(file))).collect();
        for (folder, made) in &self.folders {
            let files = walk(folder).filter(|path| path.is_file() && made.as_deref() != Some(path)).take(MAX_FILES);
            seen.extend(files.map(|file| {
                let stamp = Stamp::of(&file);
                (file, stamp)
            }));
        }
        seen
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            size: meta.size(),
            file: (meta.dev(), meta.ino()),
        })
    }

    fn is_since(&self, time: SystemTime) -> bool {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = self.changed.max(self.modified);
        (seconds, nanoseconds) >= (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), i64::from(since.subsec_nanos()))
    }
}

/// Whether it changed while it was read, or just before: what was read is not sure to be this.
fn is_young(stamp: Option<&Stamp>, read_from: SystemTime) -> bool {
    let uncertain = read_from.checked_sub(GRANULARITY).unwrap_or(read_from);
    // A clock that was set back leaves stamps that will be young for long.
    let future = SystemTime::now() + Duration::from_secs(1);
    stamp.is_some_and(|stamp| stamp.is_since(uncertain) && !stamp.is_since(future))
}

/// Whether this file is younger than that. One that is gone is not.
pub(crate) fn has_changed_since(file: &Path, time: SystemTime) -> bool {
    Stamp::of(file).is_some_and(|stamp| stamp.is_since(time))
}

fn digest_of(file: &Path) -> Option<[u8; 32]> {
    let mut digest = Sha256::new();
    std::io::copy(&mut fs::File::open(file).ok()?, &mut digest).ok()?;
    Some(digest.finalize().into())
}

fn is_of(path: &Path, folder: &Path, made: Option<&Path>) -> bool {
    let Ok(inside) = path.strip_prefix(folder) else { return false };
    let in_store = || path.parent().is_some_and(|parent| parent != folder && STORE.iter().any(|file| parent.join(file).exists()));
    made != Some(path) && !in_store() && !inside.iter().any(|part| NEVER.iter().any(|never| part == *never))
}

/// All that is in a folder but what is built from it.
fn walk(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let walk = WalkBuilder::new(folder)
        .hidden(false)
        .require_git(false)
        .parents(true)
        .filter_entry(|entry| {
            let is_store = || entry.depth() > 0 && STORE.iter().any(|file| entry.path().join(file).exists());
            !NEVER.iter().any(|never| entry.file_name() == *never) && !is_store()
        })
        .build();
    walk.filter_map(Result::ok).map(ignore::DirEntry::into_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.js");
        fs::write(&file, "one").unwrap();
        let inputs = Inputs::files(vec![file.clone()], settled());
        assert!(!inputs.have_changed());
        let other = folder.path().join("b.js");
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &file).unwrap();
        assert!(inputs.have_changed(), "another file has its name");
        let inputs = Inputs::files(vec![file.clone()], settled());
        fs::remove_file(&file).unwrap();
        assert!(inputs.have_changed());
    }

    #[test]
    fn what_changed_while_it_was_read_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.js");
        let begun = SystemTime::now();
        fs::write(&file, "one").unwrap();
        let inputs = Inputs::files(vec![file], begun);
        assert!(inputs.have_changed());
        assert!(!inputs.again().have_changed());
    }

    #[test]
    fn a_link_that_leads_elsewhere_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.js"), version).unwrap();
        }
        std::os::unix::fs::symlink(at("v1"), at("now")).unwrap();
        let inputs = Inputs::files(vec![at("now").join("a.js")], settled());
        std::os::unix::fs::symlink(at("v2"), at("next")).unwrap();
        fs::rename(at("next"), at("now")).unwrap();
        assert!(inputs.have_changed());
    }

    #[test]
    fn what_a_build_makes_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("src")).unwrap();
        fs::write(at("src/lib.rs"), "").unwrap();
        fs::write(at(".gitignore"), "*.o\n").unwrap();
        let inputs = Inputs::folder(folder.path(), Some(&at("out.wasm")), settled(), None);
        fs::create_dir_all(at("target/debug")).unwrap();
        for made in ["target/debug/lib.d", "lib.o", "out.wasm"] {
            fs::write(at(made), "made").unwrap();
        }
        assert!(!inputs.have_changed());
        assert!(!inputs.concern(&at("target/debug/lib.d")) && inputs.concern(&at("src/new.rs")));
        fs::write(at("src/new.rs"), "").unwrap();
        assert!(inputs.have_changed());
    }

    #[test]
    fn what_a_tool_writes_again_as_it_was_is_no_change_and_anything_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let made = folder.path().join("bindings.rs");
        let build = |content: &str, before: Option<&Inputs>| {
            let begun = SystemTime::now();
            fs::write(&made, content).unwrap();
            Inputs::folder(folder.path(), None, begun, before)
        };
        let first = build("one", None);
        assert!(first.have_changed(), "nobody knows what was read");
        let second = build("one", Some(&first));
        assert!(!second.have_changed());
        fs::write(&made, "mine").unwrap();
        assert_eq!(second.first_changed().as_ref(), Some(&made));
        assert!(build("two", Some(&second)).have_changed());
    }
}
