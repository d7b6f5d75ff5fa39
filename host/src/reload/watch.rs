//! Notices that the configuration, or the files that handlers are made from, have changed.
//!
//! Notifications of the file system wake, they do not decide: what has changed is told by looking, and everything is looked at every second
//! too, for what no notification comes for. A file that somebody has open for writing is waited for, and what cannot be loaded is tried again
//! while it keeps changing: only what stays wrong is said to be.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::Notify,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Reloaded, Reloader};
use crate::{
    config::PluginRef,
    plugin::inputs::{self, Inputs},
    task,
    tenant::Tenant,
};

/// How long nothing must have happened before what changed is looked at: who writes several files writes them one after the other.
const QUIET: Duration = Duration::from_millis(3);
/// How long a file that was written to and not closed is waited for after the last time.
const WRITING: Duration = Duration::from_secs(1);
/// How long something has to stay wrong before that is said.
const STAYS: Duration = Duration::from_millis(250);
/// How long changes are waited for to come to an end at most: some files never stop changing.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often everything is looked at, whatever was notified.
const LOOK: Duration = Duration::from_secs(1);
/// How often what is wrong is tried again though nothing has changed as far as anybody knows: what mends it may be anywhere.
const AGAIN: Duration = Duration::from_secs(5);
/// After so many builds of a handler that its own builds led to, they wait for each other: its tool writes in its own folder.
const RESTLESS: u32 = 3;
/// How long at most.
const CALM: Duration = Duration::from_secs(60);
/// What is written so soon after a build may be the work of its tool still.
const AFTERMATH: Duration = Duration::from_millis(500);
/// The most files that are remembered one by one.
const MANY: usize = 10_000;

/// What is reloaded: everything, or one handler's code.
type What = Option<(Tenant, String)>;

/// Reload what changes until told to stop.
pub(crate) async fn watch(reloader: Reloader, stopping: CancellationToken) {
    let watching = Watching::new(reloader);
    tokio::select! {
        () = stopping.cancelled() => {}
        () = watching.run() => {}
    }
}

/// What the file system told since the last time.
#[derive(Default)]
struct Told {
    /// When something happened to them.
    paths: BTreeMap<PathBuf, Instant>,
    /// More than can be remembered, or nobody knows which.
    any: Option<Instant>,
    /// Files that were written to, and when; until they are closed.
    open: HashMap<PathBuf, Instant>,
}

impl Told {
    fn take_in(&mut self, event: Event) -> bool {
        let now = Instant::now();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                for path in &event.paths {
                    self.open.remove(path);
                }
            }
            // Whoever reads changes nothing.
            EventKind::Access(_) => return false,
            EventKind::Modify(notify::event::ModifyKind::Data(_)) if cfg!(target_os = "linux") => {
                self.open.extend(event.paths.iter().map(|path| (path.clone(), now)));
            }
            _ => {}
        }
        if event.need_rescan() || self.paths.len() > MANY {
            self.any = Some(now);
        }
        if self.any.is_none() {
            self.paths.extend(event.paths.into_iter().map(|path| (path, now)));
        }
        true
    }

    /// Until when nothing is looked at: files that concern nobody are not waited for.
    fn wait_until(&self, concerns: impl Fn(&Path) -> bool) -> Option<Instant> {
        let told = self.paths.iter().filter(|(path, _)| concerns(path)).map(|(_, told)| *told);
        let quiet = told.chain(self.any).max().map(|last| last + QUIET);
        let open = self.open.iter().filter(|(path, _)| concerns(path));
        let closed = open.map(|(_, written)| *written + WRITING).max();
        quiet.max(closed)
    }
}

struct Watching {
    reloader: Reloader,
    told: Arc<Mutex<Told>>,
    wake: Arc<Notify>,
    /// None: there are no notifications here, and all is found by looking.
    notifier: Option<notify::RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    reloading: JoinSet<(What, Reloaded)>,
    running: HashMap<What, Running>,
    /// What was wrong, and since when; said once it has stayed so.
    wrong: BTreeMap<What, Wrong>,
    /// What is built by tools.
    builds: HashMap<What, Builds>,
    config: Inputs,
}

/// A reload that goes on.
struct Running {
    /// The files as they were when it began.
    inputs: Inputs,
    /// It began because they had changed during the one before: a tool that writes in its own folder would be run for ever.
    is_again: bool,
    /// They have changed since.
    again: bool,
}

/// The builds of a handler since somebody else than its tool changed a file.
struct Builds {
    times: u32,
    last: Instant,
    /// What changes later than this is not the work of its tool.
    ended: SystemTime,
}

struct Wrong {
    outcome: Reloaded,
    since: Instant,
    said: bool,
    /// How often it came to that, and when it did last.
    times: u32,
    last: Instant,
    /// The files as they were then.
    inputs: Inputs,
}

impl Watching {
    fn new(reloader: Reloader) -> Self {
        let (told, wake) = (Arc::new(Mutex::new(Told::default())), Arc::new(Notify::new()));
        let notifier = notify::recommended_watcher({
            let (told, wake) = (told.clone(), wake.clone());
            move |event: notify::Result<Event>| {
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let news = match event {
                    Ok(event) => told.take_in(event),
                    Err(_) => {
                        told.any = Some(Instant::now());
                        true
                    }
                };
                if news {
                    wake.notify_one();
                }
            }
        });
        let notifier =
            notifier.inspect_err(|error| tracing::warn!(%error, "no notifications of changed files: they are looked for every second"));
        Self {
            reloader,
            told,
            wake,
            notifier: notifier.ok(),
            folders: BTreeSet::new(),
            reloading: JoinSet::new(),
            running: HashMap::new(),
            wrong: BTreeMap::new(),
            builds: HashMap::new(),
            config: Inputs::default(),
        }
    }

    async fn run(mut self) {
        let mut generation = self.reloader.generation();
        self.config = self.config_inputs(self.reloader.serving().config.read_from).await;
        self.watch_folders().await;
        // What has changed before anybody was told.
        let mut look = Instant::now();
        let mut again = look + AGAIN;
        loop {
            let say = self.wrong.values().filter(|wrong| !wrong.said).map(|wrong| wrong.since + STAYS).min();
            tokio::select! {
                () = self.wake.notified() => {
                    self.settle().await;
                    let told = self.take_told();
                    self.look(Some(&told)).await;
                }
                Some(Ok((what, outcome))) = self.reloading.join_next(), if !self.reloading.is_empty() => self.reloaded(what, outcome).await,
                Ok(()) = generation.changed() => self.watch_folders().await,
                () = sleep_until(look) => {
                    self.look(None).await;
                    look = Instant::now() + LOOK;
                    if look >= again {
                        self.try_again().await;
                        again = look + AGAIN;
                    }
                }
                () = until(say) => self.say(),
            }
        }
    }

    /// Wait until whoever writes has written.
    async fn settle(&self) {
        let serving = self.reloader.serving();
        let concerns = |path: &Path| {
            let mends = || !self.wrong.is_empty() && is_code(path);
            self.config.concern(path) || serving.handlers.values().any(|loaded| loaded.inputs.concern(path)) || mends()
        };
        let at_most = Instant::now() + PATIENCE;
        loop {
            let until = self.told().wait_until(concerns).map(|until| until.min(at_most));
            let Some(until) = until.filter(|until| *until > Instant::now()) else { return };
            tokio::select! {
                () = sleep_until(until) => {}
                // A file may have been closed.
                () = self.wake.notified() => {}
            }
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_told(&self) -> Told {
        std::mem::take(&mut *self.told())
    }

    /// Reload what has changed: of what was told, or of everything.
    async fn look(&mut self, told: Option<&Told>) {
        let serving = self.reloader.serving();
        if !self.reloader.watches() {
            return;
        }
        let may_have = |inputs: &Inputs| told.is_none_or(|told| told.any.is_some() || told.paths.keys().any(|path| inputs.concern(path)));
        // What is wrong may be mended by a file that nobody knows of yet.
        let mended = |what: &What| {
            told.is_some_and(|told| {
                self.wrong.get(what).is_some_and(|wrong| told.any.is_some() || wrong.may_be_mended_by(told.paths.keys()))
            })
        };
        let mut looked_at: Vec<Looked> = Vec::new();
        for (key, loaded) in &serving.handlers {
            let what = Some(key.clone());
            if self.is_restless(&what) {
                continue;
            }
            let inputs = match (self.running.get(&what), self.wrong.get(&what)) {
                (Some(running), _) => &running.inputs,
                (None, Some(wrong)) => &wrong.inputs,
                (None, None) => &*loaded.inputs,
            };
            let mended = mended(&what);
            if mended || may_have(inputs) {
                // One that runs may be who changes them.
                let built = self.builds.get(&what).filter(|_| !self.running.contains_key(&what)).map(|builds| builds.ended);
                looked_at.push(Looked { inputs: inputs.clone(), what, mended, built });
            }
        }
        let config = self.wrong.get(&None).map_or(&self.config, |wrong| &wrong.inputs).clone();
        if mended(&None) || may_have(&config) {
            looked_at.push(Looked { what: None, inputs: config, mended: mended(&None), built: None });
        }
        let changed = spawn_blocking(move || looked_at.into_iter().filter_map(Looked::changed).collect::<Vec<_>>());
        let Ok(changed) = changed.await else { return };
        if changed.iter().any(|changed| changed.what.is_none()) {
            self.config = self.config_inputs(SystemTime::now()).await;
            // It reads all that changed.
            let inputs = self.config.clone();
            self.reload(None, inputs, false);
            return;
        }
        for Changed { what, inputs, file, is_from_outside } in changed {
            if is_from_outside {
                self.builds.remove(&what);
            }
            self.tell_restless(&what, file.as_deref());
            self.reload(what, inputs, false);
        }
    }

    /// Whether it was built again and again, and is to wait.
    fn is_restless(&self, what: &What) -> bool {
        self.builds.get(what).is_some_and(|builds| builds.times >= RESTLESS && builds.last.elapsed() < calm(builds.times))
    }

    /// Say once why something is built again and again.
    fn tell_restless(&self, what: &What, file: Option<&Path>) {
        if let (Some((_, handler)), Some(file)) = (what, file)
            && self.builds.get(what).is_some_and(|builds| builds.times == 2 * RESTLESS)
        {
            tracing::warn!(
                handler,
                file = %file.display(),
                "building it writes a file in its own folder, another one each time, so it is built again and again: have .gitignore name it"
            );
        }
    }

    /// Try again what is wrong, where that costs little, and less and less often.
    async fn try_again(&mut self) {
        let is_due = |wrong: &Wrong| wrong.said && wrong.last.elapsed() + LOOK >= AGAIN * 2_u32.pow(wrong.times.min(4));
        let wrong: Vec<_> = self.wrong.iter().filter(|(_, wrong)| is_due(wrong)).map(|(what, _)| what.clone()).collect();
        for what in wrong {
            if !self.is_built_by_a_tool(&what).await {
                let inputs = self.inputs_of(&what).await;
                self.reload(what, inputs, false);
            }
        }
    }

    /// Whether it is made by a tool that runs in its folder, and may write there.
    async fn is_built_by_a_tool(&self, what: &What) -> bool {
        let Some(key) = what else { return false };
        let serving = self.reloader.serving();
        serving
            .handlers
            .get(key)
            .is_some_and(|loaded| matches!(loaded.handler.config.plugin, PluginRef::Cargo(_) | PluginRef::Command { .. }))
    }

    fn reload(&mut self, what: What, inputs: Inputs, is_again: bool) {
        if let Some(running) = self.running.get_mut(&what) {
            running.again = !running.is_again;
            return;
        }
        self.running.insert(what.clone(), Running { inputs, is_again, again: false });
        let reloader = self.reloader.clone();
        let asked = what.clone();
        let reloading = task::spawn("reload", async move {
            match &asked {
                None => reloader.reload(false).await,
                Some(key) => reloader.reload_handler(key).await,
            }
        });
        // It goes to its end though nobody watches any more.
        self.reloading.spawn(async move {
            let outcome = reloading.await.unwrap_or_else(|_| Reloaded::kept_old("the reload did not come to its end"));
            (what, outcome)
        });
    }

    async fn reloaded(&mut self, what: What, outcome: Reloaded) {
        let Some(running) = self.running.remove(&what) else { return };
        let builds = self.is_built_by_a_tool(&what).await;
        if builds {
            let times = self.builds.get(&what).map_or(0, |builds| builds.times);
            let ended = SystemTime::now() + AFTERMATH;
            self.builds.insert(what.clone(), Builds { times: times.saturating_add(1), last: Instant::now(), ended });
        }
        if running.again && !self.is_restless(&what) {
            if !matches!(outcome, Reloaded::KeptOld { .. }) {
                outcome.log("a changed file");
            }
            let inputs = self.inputs_of(&what).await;
            self.reload(what, inputs, builds);
            return;
        }
        if matches!(outcome, Reloaded::KeptOld { .. }) {
            // What is still wrong as it was is not said anew.
            let known = self.wrong.remove(&what).filter(|wrong| wrong.outcome == outcome);
            let now = Instant::now();
            let (since, said, times) = known.map_or((now, false, 0), |wrong| (wrong.since, wrong.said, wrong.times + 1));
            self.wrong.insert(what, Wrong { outcome, since, said, times, last: now, inputs: running.inputs });
            return;
        }
        outcome.log("a changed file");
        match what {
            // Whatever was wrong with a handler is right, or it would not serve.
            None => self.wrong.clear(),
            what => drop(self.wrong.remove(&what)),
        }
    }

    /// Say what has stayed wrong.
    fn say(&mut self) {
        let now = Instant::now();
        for wrong in self.wrong.values_mut().filter(|wrong| !wrong.said && wrong.since + STAYS <= now) {
            wrong.outcome.log("a changed file");
            wrong.said = true;
        }
    }

    /// The files of what could not be loaded, as they are now.
    async fn inputs_of(&self, what: &What) -> Inputs {
        let Some(key) = what else { return self.config.clone() };
        let Some(loaded) = self.reloader.serving().handlers.get(key).cloned() else { return Inputs::default() };
        spawn_blocking(move || loaded.inputs.again()).await.unwrap_or_default()
    }

    /// The configuration's file.
    async fn config_inputs(&self, read_from: SystemTime) -> Inputs {
        let file = self.reloader.serving().config.file.clone();
        let files = std::iter::once(file.clone()).chain(file.canonicalize().ok().filter(|real| *real != file)).collect();
        spawn_blocking(move || Inputs::files(files, read_from)).await.unwrap_or_default()
    }

    /// Have the file system tell of the folders of everything that serves.
    async fn watch_folders(&mut self) {
        let serving = self.reloader.serving();
        let config = self.config.clone();
        let wanted = spawn_blocking(move || {
            let inputs = serving.handlers.values().map(|loaded| &*loaded.inputs).chain([&config]);
            inputs.flat_map(|inputs| inputs.watched().collect::<Vec<_>>()).collect::<BTreeSet<_>>()
        });
        let Ok(wanted) = wanted.await else { return };
        let Some(notifier) = &mut self.notifier else { return };
        for folder in self.folders.difference(&wanted) {
            // One that is gone is watched no more.
            let _ = notifier.unwatch(folder);
        }
        let mut watched: BTreeSet<PathBuf> = self.folders.intersection(&wanted).cloned().collect();
        for folder in wanted.difference(&self.folders) {
            match notifier.watch(Path::new(folder), RecursiveMode::NonRecursive) {
                Ok(()) => drop(watched.insert(folder.clone())),
                Err(error) => {
                    tracing::warn!(folder = %folder.display(), %error, "no notifications of changes in this folder: it is looked at every second")
                }
            }
        }
        self.folders = watched;
        let serving = self.reloader.serving();
        self.builds.retain(|what, _| what.as_ref().is_some_and(|key| serving.handlers.contains_key(key)));
    }
}

/// What is looked at for changes.
struct Looked {
    what: What,
    inputs: Inputs,
    /// It was wrong and something that may mend it has changed.
    mended: bool,
    /// Up to when its last build may have changed it.
    built: Option<SystemTime>,
}

/// What is to be reloaded.
struct Changed {
    what: What,
    /// The files as they are now.
    inputs: Inputs,
    file: Option<PathBuf>,
    /// Its own build has not done it.
    is_from_outside: bool,
}

impl Looked {
    /// Reads the file system.
    fn changed(self) -> Option<Changed> {
        let file = self.inputs.first_changed();
        if file.is_none() && !self.mended {
            return None;
        }
        let is_from_outside = self.built.zip(file.as_ref()).is_some_and(|(built, file)| inputs::has_changed_since(file, built));
        Some(Changed { inputs: self.inputs.again(), what: self.what, file, is_from_outside })
    }
}

impl Wrong {
    /// Whether one of these may be the file that is missing: it is where its files are.
    fn may_be_mended_by<'a>(&self, mut paths: impl Iterator<Item = &'a PathBuf>) -> bool {
        paths.any(|path| self.inputs.concern(path) || is_code(path))
    }
}

/// How long something waits that was built so often.
fn calm(times: u32) -> Duration {
    Duration::from_secs(1).saturating_mul(2_u32.saturating_pow(times.saturating_sub(RESTLESS))).min(CALM)
}

/// What files with code end in.
const CODE: [&str; 6] = ["js", "mjs", "ts", "mts", "wasm", "toml"];

fn is_code(path: &Path) -> bool {
    path.extension().is_some_and(|extension| CODE.iter().any(|code| extension == *code))
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
