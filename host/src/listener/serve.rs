//! The HTTP/1 server below every listener: webhooks and queues, administration, the control socket.
//!
//! It bounds connections and the time of slow senders and readers, and stops gracefully. It knows nothing of what it serves.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    serve::{Listener, ListenerExt},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::patience::Patience;
use crate::task;

/// The most connections at once; more wait in the kernel.
const MAX_CONNECTIONS: usize = 1_024;
/// How long a sender may take for the head of a request, and how long a connection may be idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a reader may take none of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const MAX_HEADERS: usize = 64 * 1024;

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}; choose another address or stop what uses it")]
pub(crate) struct BindError {
    address: SocketAddr,
    error: io::Error,
}

/// How a server is stopped.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    /// Take no new connection; answer open requests with `Connection: close`.
    pub(crate) graceful: CancellationToken,
    /// Close what is still open.
    pub(crate) now: CancellationToken,
}

/// Listen on a TCP address. Connections wait until [`serve`] takes them.
pub(crate) async fn bind(address: SocketAddr) -> Result<impl Listener<Addr = SocketAddr>, BindError> {
    let listener = TcpListener::bind(address).await.map_err(|error| BindError { address, error })?;
    // Answers are small: waiting to fill a packet only delays them. A connection that refuses works all the same.
    Ok(listener.tap_io(|stream| drop(stream.set_nodelay(true))))
}

/// Serve `router` to everyone who connects until `stop.graceful`; returns when open requests are answered, or at `stop.now`.
///
/// Not cancel safe: dropping the future leaves open connections to themselves.
pub(crate) async fn serve(mut listener: impl Listener, router: Router, stop: Stop) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accept = async {
            let permit = room.clone().acquire_owned().await;
            (permit, listener.accept().await.0)
        };
        let (permit, stream) = tokio::select! {
            biased;
            () = stop.graceful.cancelled() => break,
            () = stop.now.cancelled() => break,
            accepted = accept => accepted,
        };
        let connection = connection(stream, router.clone(), stop.clone());
        task::spawn(
            "connection",
            connections.track_future(async move {
                connection.await;
                drop(permit);
            }),
        );
    }
    // The socket is closed before the wait, so that who connects now is refused at once and goes elsewhere.
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router, stop: Stop) {
    let stream = TokioIo::new(Patience::new(stream, WRITE_TIMEOUT));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_header_size(MAX_HEADERS)
        .serve_connection(stream, TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.now.cancelled() => return,
        () = stop.graceful.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stop.now.cancelled() => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
