//! Which code of a handler a call runs on: what serves, or new code that stands beside it.
//!
//! A handler's limits and grants are always the current ones; its code is not. A script is served by the generic runtime until its snapshot is
//! compiled; new code may have a share of the calls until it is known to be as good ([`super::canary`]); an operator may go back to earlier
//! code; and a retry may be pinned to what the call failed on. A digest names a version: of a component, or of a script, whichever way it is
//! run.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Notify;

use super::{
    Handler,
    build::Positions,
    canary::{Comparison, Side, Verdict},
    instance::{Call, Finished},
    link,
    shadow::{Compared, Shadow, Shadowed},
};
use crate::{
    config::{CanaryConfig, ShareOf},
    outcome::Outcome,
    tenant::Tenant,
};

/// How many earlier versions are at hand for retries that are pinned to them.
const EARLIER: usize = 4;

/// Code that is ready to be instantiated.
pub(crate) struct Code {
    /// None: it is still being compiled, and nothing runs on it.
    pub(crate) pre: Option<link::Linked>,
    pub(crate) digest: Arc<str>,
    pub(crate) positions: Positions,
    /// Set while a new script is served by the generic runtime, which loads it anew for each event, until its snapshot is compiled.
    pub(crate) script: Option<Arc<ScriptLoad>>,
    pub(crate) counts: Arc<Counts>,
}

/// What the generic runtime's `load` is called with.
pub(crate) struct ScriptLoad {
    pub(crate) load: wasmtime::component::ComponentExportIndex,
    pub(crate) entry: String,
    pub(crate) modules: Vec<(String, String)>,
}

/// What became of the calls of a version, since this host has it.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    calls: AtomicU64,
    errors: AtomicU64,
}

impl Counts {
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}

/// The versions of one handler.
pub(crate) struct Versions {
    serving: ArcSwap<Code>,
    candidate: ArcSwapOption<Candidate>,
    /// What the files say must not serve: it was rolled back, and something else serves.
    rejected: ArcSwapOption<String>,
    /// The last ones that served, if retries are pinned to them.
    earlier: Mutex<Vec<Arc<Code>>>,
    pinned: bool,
    decisions: Decisions,
}

/// New code beside what serves.
pub(crate) struct Candidate {
    code: ArcSwap<Code>,
    config: CanaryConfig,
    comparison: Comparison,
    since: Instant,
    /// It serves nobody, and what it comes to is compared.
    shadow: Option<Arc<Shadow>>,
}

/// What a call runs on.
pub(crate) struct Chosen {
    pub(crate) code: Arc<Code>,
    beside: Option<(Side, Arc<Candidate>)>,
    /// New code runs on this call too, and serves nobody.
    shadow: bool,
}

/// What was decided about candidates, for whoever keeps the book.
#[derive(Clone, Default)]
pub(crate) struct Decisions(Arc<(Mutex<Vec<Decision>>, Notify)>);

/// A candidate serves from now on, or never will.
#[derive(Clone)]
pub(crate) struct Decision {
    pub(crate) handler: (Tenant, String),
    /// The handler that decided: another one of the name may serve by now.
    pub(crate) of: Weak<Handler>,
    pub(crate) old: Arc<str>,
    pub(crate) new: Arc<str>,
    /// Why it was rolled back; none: it was promoted.
    pub(crate) rolled_back: Option<String>,
}

impl Decisions {
    fn push(&self, decision: Decision) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(decision);
        self.0.1.notify_one();
    }

    /// Wait for decisions. Cancel safe: what was not taken is there the next time.
    pub(crate) async fn next(&self) -> Vec<Decision> {
        loop {
            let decided = std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
            if !decided.is_empty() {
                return decided;
            }
            self.0.1.notified().await;
        }
    }
}

impl Versions {
    pub(crate) fn of(code: Arc<Code>, pinned: bool, decisions: Decisions) -> Self {
        Self {
            serving: ArcSwap::new(code),
            candidate: ArcSwapOption::empty(),
            rejected: ArcSwapOption::empty(),
            earlier: Mutex::default(),
            pinned,
            decisions,
        }
    }

    /// Whether this version serves or stands beside it, compiled or not.
    pub(crate) fn has(&self, digest: &str) -> bool {
        *self.serving().digest == *digest || self.candidate().is_some_and(|candidate| *candidate.digest() == *digest)
    }

    /// Whether what is to serve is still being compiled.
    pub(crate) fn is_pending(&self) -> bool {
        self.serving.load().pre.is_none()
    }

    /// What serves.
    pub(crate) fn serving(&self) -> Arc<Code> {
        self.serving.load_full()
    }

    pub(crate) fn candidate(&self) -> Option<Arc<Candidate>> {
        self.candidate.load_full()
    }

    /// The code of a version that is at hand.
    pub(crate) fn at_hand(&self, digest: &str) -> Option<Arc<Code>> {
        let candidate = self.candidate().map(|candidate| candidate.code.load_full());
        let mut all: Vec<_> = [Some(self.serving()), candidate].into_iter().flatten().collect();
        all.extend(self.earlier().iter().cloned());
        all.into_iter().find(|code| &*code.digest == digest)
    }

    /// The digest of what the files say.
    pub(crate) fn wanted(&self) -> String {
        match (self.rejected.load_full(), self.candidate()) {
            (Some(rejected), _) => rejected.to_string(),
            (None, Some(candidate)) => candidate.code.load().digest.to_string(),
            (None, None) => self.serving.load().digest.to_string(),
        }
    }

    /// What the files say and must not serve.
    pub(crate) fn rejected(&self) -> Option<String> {
        self.rejected.load_full().map(|rejected| rejected.to_string())
    }

    /// Have this code serve beside what serves, until it is known whether it is as good.
    pub(crate) fn try_beside(&self, code: Arc<Code>, config: CanaryConfig) {
        let comparison = Comparison::new(config.clone());
        let shadow = config.shadow.then(Arc::default);
        let candidate = Candidate { code: ArcSwap::new(code), config, comparison, since: Instant::now(), shadow };
        self.candidate.store(Some(Arc::new(candidate)));
    }

    /// Have other code serve than the files say.
    pub(crate) fn go_back_to(&self, code: Arc<Code>) {
        let wanted = self.wanted();
        self.keep(self.serving());
        self.candidate.store(None);
        self.rejected.store((*code.digest != *wanted).then(|| Arc::new(wanted)));
        self.serving.store(code);
    }

    /// Have what serves go on alone, though the files say what stands beside it. What stood there; none: there was nothing.
    pub(crate) fn drop_candidate(&self) -> Option<Arc<Candidate>> {
        let candidate = self.candidate.swap(None)?;
        self.rejected.store(Some(Arc::new(candidate.digest().to_string())));
        Some(candidate)
    }

    /// The same for what the files say, though something else served before.
    pub(crate) fn stand_beside(&self, code: Arc<Code>, config: CanaryConfig) {
        self.rejected.store(None);
        self.try_beside(code, config);
    }

    /// Have the candidate serve. `false`: there is none.
    pub(crate) fn promote(&self) -> bool {
        let Some(candidate) = self.candidate.swap(None) else { return false };
        self.keep(self.serving());
        self.serving.store(candidate.code.load_full());
        true
    }

    /// Go on from where another handler of the name is now: `wanted` is what the files say. Said again it is as if it had not been said before.
    pub(crate) fn follow(&self, before: &Self, wanted: Arc<Code>, canary: Option<CanaryConfig>) {
        let earlier: Vec<_> = before.earlier().iter().cloned().chain([before.serving()]).collect();
        earlier.into_iter().for_each(|code| self.keep(code));
        let serving = before.serving();
        let rejected = before.rejected().filter(|rejected| **rejected == *wanted.digest);
        // Beside what is not there yet nothing can be tried.
        let beside = canary.filter(|_| rejected.is_none() && serving.digest != wanted.digest && serving.pre.is_some());
        let stays = rejected.is_some() || beside.is_some();
        self.rejected.store(rejected.map(Arc::new));
        self.candidate.store(None);
        self.serving.store(if stays { serving } else { wanted.clone() });
        if let Some(canary) = beside {
            self.try_beside(wanted, canary);
        }
    }

    fn keep(&self, code: Arc<Code>) {
        if code.pre.is_none() || !self.pinned {
            return;
        }
        let mut earlier = self.earlier();
        earlier.retain(|other| other.digest != code.digest);
        earlier.push(code);
        if earlier.len() > EARLIER {
            earlier.remove(0);
        }
    }

    fn earlier(&self) -> MutexGuard<'_, Vec<Arc<Code>>> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A script's snapshot is ready, or what was still being compiled: it takes over where that is.
    pub(crate) fn take_over(&self, code: Code) {
        let serving = self.serving();
        if serving.digest == code.digest {
            self.serving.store(Arc::new(Code { counts: serving.counts.clone(), ..code }));
        } else if let Some(candidate) = self.candidate()
            && let beside = candidate.code.load_full()
            && beside.digest == code.digest
        {
            candidate.code.store(Arc::new(Code { counts: beside.counts.clone(), ..code }));
        }
    }
}

impl Chosen {
    pub(crate) fn is_shadowed(&self) -> bool {
        self.shadow
    }

    /// What new code is to be compared with, if it is.
    pub(crate) fn see(&self, call: &Call, finished: &Finished) -> Option<Shadowed> {
        let (_, candidate) = self.beside.as_ref().filter(|_| self.shadow && !finished.overtaken)?;
        candidate.shadow.as_ref()?.see(call, finished)
    }
}

impl Candidate {
    pub(crate) fn compared(&self) -> Option<Compared> {
        self.shadow.as_ref().map(|shadow| shadow.compared())
    }

    pub(crate) fn digest(&self) -> Arc<str> {
        self.code.load().digest.clone()
    }

    pub(crate) fn counts(&self) -> Arc<Counts> {
        self.code.load().counts.clone()
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }
}

impl Handler {
    /// What a call runs on. `failed_on`: what its last attempt did.
    pub(crate) fn choose(&self, call: &Call, failed_on: Option<&str>) -> Chosen {
        let serving = self.versions.serving();
        if self.config.pin_retries
            && let Some(code) = failed_on.and_then(|digest| self.versions.at_hand(digest))
        {
            return Chosen { code, beside: None, shadow: false };
        }
        // A second attempt is made on what is known: new code has first attempts only.
        let candidate = self.versions.candidate().filter(|candidate| call.attempt == 1 && candidate.code.load().pre.is_some());
        let Some(candidate) = candidate else {
            return Chosen { code: serving, beside: None, shadow: false };
        };
        let key = match candidate.config.by {
            ShareOf::Events => call.id.key.as_deref().unwrap_or(&call.event.id),
            ShareOf::Keys => call.event.attributes.get("partitionkey").or(call.event.subject.as_ref()).unwrap_or(&call.event.id),
        };
        let takes = candidate.comparison.takes(key);
        match (takes, candidate.shadow.is_some()) {
            (true, false) => Chosen { code: candidate.code.load_full(), beside: Some((Side::New, candidate)), shadow: false },
            (_, shadow) => Chosen { code: serving, beside: Some((Side::Old, candidate)), shadow: shadow && takes },
        }
    }

    /// A call has run. `Some`: it failed on new code, and runs again on the old; that is no attempt.
    pub(crate) fn ran(self: &Arc<Self>, chosen: &Chosen, finished: &Finished) -> Option<Chosen> {
        if finished.overtaken {
            return None;
        }
        let failed = !matches!(finished.outcome, Outcome::Done(_));
        chosen.code.counts.calls.fetch_add(1, Ordering::Relaxed);
        chosen.code.counts.errors.fetch_add(u64::from(failed), Ordering::Relaxed);
        let (side, candidate) = chosen.beside.as_ref().filter(|(_, candidate)| candidate.shadow.is_none())?;
        let verdict = candidate.comparison.ended(*side, failed, finished.took, candidate.since.elapsed());
        self.decide(candidate, verdict);
        (*side == Side::New && failed).then(|| Chosen { code: self.versions.serving(), beside: None, shadow: false })
    }

    /// A call is settled: have new code run on it too, if it is to.
    pub(crate) fn shadow(self: &Arc<Self>, chosen: &Chosen, shadowed: Option<Shadowed>) {
        let candidate = chosen.beside.as_ref().map(|(_, candidate)| candidate);
        if let (Some(shadowed), Some(candidate)) = (shadowed, candidate)
            && let Some(shadow) = &candidate.shadow
        {
            self.compare(candidate.code.load_full(), shadow.clone(), shadowed);
        }
    }

    fn decide(self: &Arc<Self>, candidate: &Arc<Candidate>, verdict: Verdict) {
        // Other code may have been put beside meanwhile.
        let is_there = self.versions.candidate().is_some_and(|now| Arc::ptr_eq(&now, candidate));
        if !is_there || verdict == Verdict::Wait {
            return;
        }
        let (old, new) = (self.versions.serving().digest.clone(), candidate.digest());
        let rolled_back = match verdict {
            Verdict::RollBack(why) => {
                self.versions.go_back_to(self.versions.serving());
                Some(why)
            }
            _ if self.versions.promote() => None,
            _ => return,
        };
        let handler = (self.config.tenant.clone(), self.config.name.clone());
        self.versions.decisions.push(Decision { handler, of: Arc::downgrade(self), old, new, rolled_back });
    }
}
