//! What the host takes from its surroundings without asking anybody: the time of day and chance. A simulation decides both.

use crate::store::Millis;

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> Millis {
    #[cfg(test)]
    if let Some(now) = simulated::now() {
        return now;
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX)
}

/// A number between 0 and 1, by chance.
pub(crate) fn chance() -> f64 {
    #[cfg(test)]
    if let Some(chance) = simulated::chance() {
        return chance;
    }
    rand::random()
}

/// What a simulation puts in place of the surroundings, for the thread it runs in.
#[cfg(test)]
pub(crate) mod simulated {
    use std::cell::RefCell;

    use rand::{Rng, SeedableRng, rngs::StdRng};
    use tokio::time::Instant;

    use crate::store::Millis;

    /// The time of day at which every simulation begins.
    const BEGIN: Millis = 1_700_000_000_000;

    thread_local! {
        static SURROUNDINGS: RefCell<Option<(Instant, StdRng)>> = const { RefCell::new(None) };
    }

    /// From now on, until it is dropped, time is the runtime's (which may be paused) and chance follows from the seed.
    pub(crate) struct Surroundings(());

    impl Surroundings {
        pub(crate) fn begin(seed: u64) -> Self {
            SURROUNDINGS.set(Some((Instant::now(), StdRng::seed_from_u64(seed))));
            Self(())
        }
    }

    impl Drop for Surroundings {
        fn drop(&mut self) {
            SURROUNDINGS.set(None);
        }
    }

    pub(super) fn now() -> Option<Millis> {
        SURROUNDINGS.with_borrow(|surroundings| {
            let (began, _) = surroundings.as_ref()?;
            Some(BEGIN + Millis::try_from(began.elapsed().as_millis()).unwrap_or(Millis::MAX))
        })
    }

    pub(super) fn chance() -> Option<f64> {
        SURROUNDINGS.with_borrow_mut(|surroundings| Some(surroundings.as_mut()?.1.random()))
    }
}
