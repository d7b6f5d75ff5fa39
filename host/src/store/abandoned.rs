//! Claims nobody took: their tasks would stay running until the next start. They are given back with the next claim.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Claim, Task};

#[derive(Debug, Default)]
pub(super) struct Abandoned(Mutex<Vec<Claim>>);

impl Abandoned {
    pub(super) fn take(&self) -> Vec<Claim> {
        mem::take(&mut *self.lock())
    }

    pub(super) fn put_back(&self, claims: &[Claim]) {
        self.lock().extend(claims);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claimed tasks on their way to who wanted them.
pub(super) struct Claimed {
    pub(super) tasks: Vec<Task>,
    pub(super) abandoned: Arc<Abandoned>,
}

impl Claimed {
    pub(super) fn keep(mut self) -> Vec<Task> {
        mem::take(&mut self.tasks)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if !self.tasks.is_empty() {
            self.abandoned.lock().extend(self.tasks.iter().map(|task| task.claim));
        }
    }
}
