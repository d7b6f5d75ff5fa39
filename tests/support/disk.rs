//! A disk whose power can be cut at any moment: what SQLite writes in a folder is written down, and what the disk would hold after a cut is
//! made from that, as often and for as many moments as wanted.
//!
//! A file is there as it was at its last sync. Of what was written since, each page of 4 KiB arrived or did not, in any order, in any of the
//! versions it had, or torn at a sector; its size moved or did not. A file that was made or removed since the last sync of its folder is there
//! or is not. What never arrived of a file that grew is zeros, or whatever the disk held before.
//!
//! Not modelled: a drive that says "synced" and is not, damage to what was not being written, and the entry of the folder itself in the one
//! above. The index of the log in shared memory (`-shm`) is never on a disk.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{Rng, RngCore, rngs::StdRng};

mod vfs;

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// A folder in which what happens to SQLite's files is written down.
pub struct Disk {
    folder: PathBuf,
    syncs: Syncs,
    /// When watching began.
    begin: Moment,
    log: Mutex<Log>,
}

/// Whether SQLite waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syncs {
    /// As the connection says by `PRAGMA synchronous`.
    AsTold,
    /// Never: it is `OFF`, whatever the connection says.
    Never,
}

/// A moment: how much had happened on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(usize);

/// What happened, in its order. Files have numbers: a name may be another file's later.
#[derive(Default)]
struct Log {
    changes: Vec<Change>,
    names: HashMap<String, usize>,
    files: usize,
}

enum Change {
    Made { name: String, file: usize },
    Written { file: usize, offset: usize, data: Vec<u8> },
    Truncated { file: usize, size: usize },
    Synced { file: usize },
    Removed { name: String },
    FolderSynced,
}

impl Disk {
    /// Write down what happens in this folder from now on, before SQLite opens anything there. What is there is on the disk.
    pub fn watch(folder: &Path, syncs: Syncs) -> Arc<Self> {
        let mut log = Log::default();
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.file_type().unwrap().is_file()) {
            let file = log.open(entry.file_name().to_str().unwrap());
            let data = std::fs::read(entry.path()).unwrap();
            log.changes.extend([Change::Written { file, offset: 0, data }, Change::Synced { file }]);
        }
        log.changes.push(Change::FolderSynced);
        let begin = Moment(log.changes.len());
        let disk = Arc::new(Self { folder: folder.canonicalize().unwrap(), syncs, begin, log: Mutex::new(log) });
        vfs::watch(disk.clone());
        disk
    }

    /// How much has happened so far. What anybody was promised before this, a cut after it must not take back.
    pub fn now(&self) -> Moment {
        Moment(self.log().changes.len())
    }

    /// What happened on it until now; from here on nothing is written down any more.
    pub fn recording(&self) -> Recording {
        vfs::leave(self);
        Recording { changes: std::mem::take(&mut self.log().changes), begin: self.begin }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }
}

impl Log {
    /// The number of the file of this name, which is opened.
    fn open(&mut self, name: &str) -> usize {
        if let Some(file) = self.names.get(name) {
            return *file;
        }
        let file = self.files;
        self.files += 1;
        self.names.insert(name.to_owned(), file);
        self.changes.push(Change::Made { name: name.to_owned(), file });
        file
    }

    fn remove(&mut self, name: &str, folder_synced: bool) {
        if self.names.remove(name).is_some() {
            self.changes.push(Change::Removed { name: name.to_owned() });
        }
        if folder_synced {
            self.changes.push(Change::FolderSynced);
        }
    }
}

/// What happened on a disk, from the beginning on.
pub struct Recording {
    changes: Vec<Change>,
    begin: Moment,
}

impl Recording {
    /// Cuts of the power at so many moments, spread at random over all of it, in their order.
    pub fn cuts(&self, count: usize, random: &mut StdRng) -> Vec<Moment> {
        let mut cuts: Vec<_> = (0..count).map(|_| Moment(random.random_range(self.begin.0..=self.changes.len()))).collect();
        cuts.sort();
        cuts
    }

    /// How often a disk was waited for: what makes it more than a few cuts between two of them.
    pub fn syncs(&self) -> usize {
        self.changes.iter().filter(|change| matches!(change, Change::Synced { .. })).count()
    }

    /// When it ends.
    pub fn end(&self) -> Moment {
        Moment(self.changes.len())
    }

    pub fn replay(&self) -> Replay<'_> {
        Replay { changes: &self.changes, now: 0, files: Vec::new(), names: BTreeMap::new() }
    }
}

/// A disk on its way through what happened.
pub struct Replay<'a> {
    changes: &'a [Change],
    now: usize,
    files: Vec<File>,
    /// Which file a name stands for.
    names: BTreeMap<String, History<Option<usize>>>,
}

/// What was there at the last sync, and what came after it, each with its moment.
struct History<T> {
    synced: T,
    since: Vec<(usize, T)>,
}

#[derive(Default)]
struct File {
    /// As programs see it.
    content: Vec<u8>,
    /// As it was at its last sync.
    synced: Vec<u8>,
    /// What happened since. A truncation comes whole or not at all, and with it what came after it.
    epochs: Vec<Epoch>,
}

/// What happened to a file up to the next truncation.
#[derive(Default)]
struct Epoch {
    /// The truncation it began with: when, and to what size.
    truncated: Option<(usize, usize)>,
    sizes: Vec<(usize, usize)>,
    pages: BTreeMap<usize, Vec<(usize, [u8; PAGE])>>,
}

/// How much of what was not synced arrived.
#[derive(Debug, Clone, Copy)]
enum Arrived {
    /// What happened until then, in its order.
    Until(usize),
    /// Any part of it: about this share.
    Any(f64),
}

/// The files of a disk after a cut.
pub struct Image(BTreeMap<String, Vec<u8>>);

impl Image {
    /// Write them into a folder.
    pub fn write(&self, folder: &Path) {
        for (name, content) in &self.0 {
            std::fs::write(folder.join(name), content).unwrap();
        }
    }

    /// What a file of it holds.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
}

impl Replay<'_> {
    /// Go on to a later moment, cut the power there, and look at what one disk of many may hold then.
    pub fn cut(&mut self, at: Moment, random: &mut StdRng) -> Image {
        while self.now < at.0 {
            self.step();
        }
        let arrived = match random.random_range(0..4) {
            0 => Arrived::Until(random.random_range(0..=self.now)),
            _ => Arrived::Any(random.random()),
        };
        let mut image = BTreeMap::new();
        for (name, history) in &self.names {
            if let Some(file) = history.pick(arrived, random) {
                image.insert(name.clone(), self.files[*file].pick(arrived, random));
            }
        }
        Image(image)
    }

    fn step(&mut self) {
        let (change, now) = (&self.changes[self.now], self.now);
        match change {
            Change::Made { name, file } => {
                self.files.push(File::default());
                entry(&mut self.names, name).since.push((now, Some(*file)));
            }
            Change::Removed { name } => entry(&mut self.names, name).since.push((now, None)),
            Change::FolderSynced => self.names.values_mut().for_each(History::sync),
            Change::Written { file, offset, data } => self.files[*file].write(now, *offset, data),
            Change::Truncated { file, size } => self.files[*file].truncate(now, *size),
            Change::Synced { file } => self.files[*file].sync(),
        }
        self.now += 1;
    }
}

fn entry<'a>(names: &'a mut BTreeMap<String, History<Option<usize>>>, name: &str) -> &'a mut History<Option<usize>> {
    names.entry(name.to_owned()).or_insert_with(|| History { synced: None, since: Vec::new() })
}

impl<T: Clone> History<T> {
    fn sync(&mut self) {
        if let Some((_, last)) = self.since.drain(..).next_back() {
            self.synced = last;
        }
    }

    fn pick(&self, arrived: Arrived, random: &mut StdRng) -> &T {
        pick(&self.since, arrived, random).unwrap_or(&self.synced)
    }
}

/// One of those that came after the last sync, or none of them.
fn pick<'a, T>(since: &'a [(usize, T)], arrived: Arrived, random: &mut StdRng) -> Option<&'a T> {
    let count = match arrived {
        Arrived::Until(moment) => since.iter().take_while(|(at, _)| *at < moment).count(),
        Arrived::Any(share) if !since.is_empty() && random.random_bool(share) => random.random_range(1..=since.len()),
        Arrived::Any(_) => 0,
    };
    Some(&since[count.checked_sub(1)?].1)
}

impl File {
    fn write(&mut self, now: usize, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        let grows = end > self.content.len();
        if grows {
            self.content.resize(end, 0);
        }
        self.content[offset..end].copy_from_slice(data);
        if self.epochs.is_empty() {
            self.epochs.push(Epoch::default());
        }
        if let Some(epoch) = self.epochs.last_mut() {
            epoch.sizes.extend(grows.then_some((now, end)));
            for page in offset / PAGE..end.div_ceil(PAGE) {
                epoch.pages.entry(page).or_default().push((now, page_of(&self.content, page)));
            }
        }
    }

    fn truncate(&mut self, now: usize, size: usize) {
        self.content.resize(size, 0);
        self.epochs.push(Epoch { truncated: Some((now, size)), ..Epoch::default() });
    }

    fn sync(&mut self) {
        for epoch in self.epochs.drain(..) {
            if let Some((_, size)) = epoch.truncated {
                self.synced.resize(size, 0);
            }
            self.synced.resize(self.content.len().max(self.synced.len()), 0);
            for page in epoch.pages.into_keys() {
                let (from, to) = bounds(page, self.content.len());
                self.synced[from..to].copy_from_slice(&self.content[from..to]);
            }
        }
        self.synced.truncate(self.content.len());
    }

    fn pick(&self, arrived: Arrived, random: &mut StdRng) -> Vec<u8> {
        let mut content = self.synced.clone();
        for epoch in &self.epochs {
            if let Some(truncated) = &epoch.truncated {
                let Some(size) = pick(std::slice::from_ref(truncated), arrived, random) else { break };
                content.resize(*size, 0);
            }
            epoch.arrive(&mut content, arrived, random);
        }
        content
    }
}

impl Epoch {
    fn arrive(&self, content: &mut Vec<u8>, arrived: Arrived, random: &mut StdRng) {
        let before = content.len();
        let size = *pick(&self.sizes, arrived, random).unwrap_or(&before);
        content.resize(size, 0);
        if random.random() {
            random.fill_bytes(&mut content[before..]);
        }
        for (page, versions) in &self.pages {
            let Some(version) = pick(versions, arrived, random) else { continue };
            let (from, to) = bounds(*page, size);
            let (first, last) = if random.random_bool(0.3) { torn(random) } else { (0, PAGE) };
            let (first, last) = (first.min(to - from), last.min(to - from));
            content[from + first..from + last].copy_from_slice(&version[first..last]);
        }
    }
}

/// The sectors of a page that arrived: some of the first ones, or of the last.
fn torn(random: &mut StdRng) -> (usize, usize) {
    let at = random.random_range(0..=PAGE / SECTOR) * SECTOR;
    if random.random() { (0, at) } else { (at, PAGE) }
}

/// Where a page begins and ends in a file of this size; nowhere if the file ends before it.
fn bounds(page: usize, size: usize) -> (usize, usize) {
    ((page * PAGE).min(size), ((page + 1) * PAGE).min(size))
}

fn page_of(content: &[u8], page: usize) -> [u8; PAGE] {
    let mut whole = [0; PAGE];
    let (from, to) = bounds(page, content.len());
    whole[..to - from].copy_from_slice(&content[from..to]);
    whole
}
