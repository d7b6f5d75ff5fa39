//! Where the real brokers and databases are that `tests/services/services.sh` starts.

use std::path::PathBuf;

use rand::{SeedableRng, rngs::StdRng};

/// A file that the services share with the tests: `certificates/ca.pem`, for instance.
///
/// A test that needs services fails without them; it is never skipped.
pub fn file(name: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("KOKSMAT_TEST_SERVICES") else {
        panic!("this test needs brokers and databases: run it by `tests/services/services.sh run cargo test …`, or as tests/run.sh does")
    };
    PathBuf::from(folder).join(name)
}

/// The authority that signed the certificates of all of them.
pub fn ca() -> PathBuf {
    file("certificates/ca.pem")
}

/// Another authority, which signed nothing.
pub fn other_ca() -> PathBuf {
    file("certificates/other-ca.pem")
}

/// A figure that the environment may raise: CI runs the small one.
pub fn figure(name: &str, small: usize) -> usize {
    std::env::var(name).ok().map_or(small, |value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Chance, which `KOKSMAT_TEST_SEED` repeats.
pub fn random() -> StdRng {
    let seed = figure("KOKSMAT_TEST_SEED", rand::random::<u16>().into());
    println!("KOKSMAT_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed as u64)
}
