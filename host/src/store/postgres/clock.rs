//! The time of the store: the server's, so that hosts whose clocks differ agree.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::PgConnection;

use crate::store::Millis;

/// Now, in SQL.
pub(super) const NOW: &str = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint";

/// The server's time, by this host's clock and how far the server's is ahead of it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// How far the server's clock is ahead.
    ahead: AtomicI64,
}

impl Clock {
    /// Compare with the server's.
    pub(super) async fn look(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let theirs: Millis =
            sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").fetch_one(connection).await?;
        self.ahead.store(theirs.saturating_sub(own()), Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn now(&self) -> Millis {
        own().saturating_add(self.ahead())
    }

    /// How far the server's clock is ahead: whoever says when something is due says so by this host's.
    pub(super) fn ahead(&self) -> Millis {
        self.ahead.load(Ordering::Relaxed)
    }

    /// `age` ago.
    pub(super) fn before(&self, age: Duration) -> Millis {
        self.now().saturating_sub(millis(age))
    }
}

fn own() -> Millis {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).unwrap_or(Millis::MAX)
}
