//! Mistakes that can be switched on, to show that what looks for such mistakes finds them: the simulator, and `koksmat crash-test`.
//!
//! They are there only in builds with debug assertions; elsewhere [`is_planted`] is `false` at compile time.

/// A mistake that hosts like this one make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// An event is answered as done before the effects of its call are committed.
    AckBeforeCommit,
    /// A call that failed is neither parked nor a dead letter, and its source goes on.
    CommitPastFailure,
    /// Whoever waits for work is not told that there is some.
    LostWakeUp,
    /// A call counts as settled twice, so that its event is answered while another handler still works.
    DoubleSettle,
    /// The lane is left before the call in it has committed.
    EarlyLaneRelease,
    /// Of the handlers that want an event only the first gets it.
    DroppedHandler,
}

/// How much too early [`Mistake::AckBeforeCommit`] answers.
pub(crate) const TOO_EARLY: std::time::Duration = std::time::Duration::from_millis(300);

/// Whether a mistake is switched on.
#[cfg(not(debug_assertions))]
pub(crate) const fn is_planted(_: Mistake) -> bool {
    false
}

#[cfg(debug_assertions)]
pub(crate) use switched::is_planted;

#[cfg(debug_assertions)]
mod switched {
    use std::{cell::Cell, sync::LazyLock};

    use super::Mistake;

    /// By its name, for a whole process.
    const VARIABLE: &str = "KOKSMAT_PLANTED_MISTAKE";

    static OF_PROCESS: LazyLock<Option<Mistake>> = LazyLock::new(|| {
        let mistake = match std::env::var(VARIABLE).ok()?.as_str() {
            "ack-before-commit" => Mistake::AckBeforeCommit,
            "commit-past-failure" => Mistake::CommitPastFailure,
            other => {
                tracing::error!("{VARIABLE} has no mistake {other:?}: ack-before-commit, commit-past-failure");
                return None;
            }
        };
        // Nobody may take this host for one that keeps its promises.
        tracing::error!(?mistake, "{VARIABLE} is set: this host makes a mistake on purpose");
        Some(mistake)
    });

    thread_local! {
        static OF_THREAD: Cell<Option<Mistake>> = const { Cell::new(None) };
    }

    pub(crate) fn is_planted(mistake: Mistake) -> bool {
        OF_THREAD.get().or(*OF_PROCESS) == Some(mistake)
    }

    /// Make this mistake, or none, in this thread from now on.
    #[cfg(test)]
    pub(crate) fn plant(mistake: Option<Mistake>) {
        OF_THREAD.set(mistake);
    }
}

#[cfg(test)]
pub(crate) use switched::plant;
