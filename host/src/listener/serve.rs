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

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;

    /// A server whose one page is answered when the test says so.
    struct Slow {
        address: SocketAddr,
        stop: Stop,
        served: JoinHandle<()>,
        asked: Arc<Notify>,
        answer: Arc<Notify>,
    }

    async fn slow() -> Slow {
        let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let page = {
            let (asked, answer) = (asked.clone(), answer.clone());
            move || async move {
                asked.notify_one();
                answer.notified().await;
                "late"
            }
        };
        let listener = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Stop::default());
        let served = task::spawn("listener", serve(listener, Router::new().route("/", get(page)), stop.clone()));
        Slow { address, stop, served, asked, answer }
    }

    async fn ask(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
        stream
    }

    #[tokio::test]
    async fn a_stop_answers_open_requests_and_closes_their_connections() {
        let server = slow().await;
        let idle = TcpStream::connect(server.address).await.unwrap();
        let mut open = ask(server.address).await;
        server.asked.notified().await;
        server.stop.graceful.cancel();
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.served.is_finished(), "a request is open");
        server.answer.notify_one();
        let mut answer = String::new();
        open.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close") && answer.ends_with("late"), "{answer}");
        server.served.await.unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn what_is_open_at_the_deadline_is_closed() {
        let server = slow().await;
        let mut open = ask(server.address).await;
        server.asked.notified().await;
        server.stop.graceful.cancel();
        server.stop.now.cancel();
        server.served.await.unwrap();
        let mut answer = Vec::new();
        let _ = open.read_to_end(&mut answer).await;
        assert_eq!(answer, b"");
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let first = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = first.local_addr().unwrap();
        let Err(error) = bind(address).await else { panic!("the address is in use") };
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
    }

    #[tokio::test]
    async fn garbage_ends_its_connection_and_nothing_else() {
        use rand::{Rng, SeedableRng, rngs::StdRng};
        let server = slow().await;
        let mut random = StdRng::seed_from_u64(7);
        for _ in 0..50 {
            let mut garbage = vec![0; 64];
            random.fill(garbage.as_mut_slice());
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
            let _ = stream.write_all(&garbage).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
        }
        let mut open = ask(server.address).await;
        server.asked.notified().await;
        server.answer.notify_one();
        let mut answer = [0; 15];
        open.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn any_stream_will_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let stop = Stop::default();
        let served = task::spawn("listener", serve(listener, Router::new().route("/", get(async || "here")), stop.clone()));
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
        stop.graceful.cancel();
        served.await.unwrap();
    }
}
