//! `LISTEN`: a notification of PostgreSQL makes the next poll happen at once.
//!
//! It is a hint and decides nothing: polls go on whether it comes or not, and a connection that is lost is no problem of the source.

use std::{convert::Infallible, sync::Arc, time::Duration};

use sqlx::{
    Executor,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::Notify, time::timeout};

use crate::source::backoff::Backoff;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// After so long without a notification the server is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(60);

/// Ring `bell` for every notification on `channel`, and whenever some may have been missed.
pub(super) async fn listen(options: PgConnectOptions, channel: String, bell: Arc<Notify>) -> Infallible {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    loop {
        if let Err(error) = until_lost(&options, &channel, &bell, &mut backoff).await {
            tracing::debug!(channel, error = super::database::reason(&error), "not listening for notifications; polls go on without them");
        }
        tokio::time::sleep(backoff.after_failure()).await;
    }
}

async fn until_lost(options: &PgConnectOptions, channel: &str, bell: &Notify, backoff: &mut Backoff) -> sqlx::Result<()> {
    // A listener takes its connection from a pool; this one is its own.
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(ANSWER).connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    in_time(listener.listen(channel)).await?;
    backoff.reset();
    bell.notify_one();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(_))) => bell.notify_one(),
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => _ = in_time((&mut listener).execute("SELECT 1")).await?,
        }
    }
}

async fn in_time<T>(asked: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    timeout(ANSWER, asked).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}
