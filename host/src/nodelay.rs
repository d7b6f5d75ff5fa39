//! Connections to database servers that send at once.
//!
//! sqlx 0.9.0 leaves Nagle's algorithm on (transact-rs/sqlx#4335; 0.8 did not, and what comes after 0.9.0 does not either): the last part of
//! any message that is larger than a segment waits until the server has acknowledged the rest, which it does 40 ms later. It gives no way to
//! its socket, so it is found among those of this process. With the next version of sqlx this file goes.

use std::{
    fs,
    os::fd::{BorrowedFd, RawFd},
};

use socket2::SockRef;

/// Have every connection of this process to a server's port send at once. To be called when one was made.
pub(crate) fn on_connections_to(port: u16) {
    let Ok(open) = fs::read_dir("/dev/fd") else { return };
    for fd in open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok()) {
        // SAFETY: it is only asked about, and told to send at once if it is connected to that port. Should it have been closed since it was
        // listed that fails, or concerns another connection, to which it does no harm.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let socket = SockRef::from(&fd);
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        if peer.is_some_and(|peer| peer.port() == port) {
            let _ = socket.set_tcp_nodelay(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_the_port_sends_at_once_and_no_other() {
        let servers =
            [tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let mut connections = Vec::new();
        for server in &servers {
            connections.push(tokio::net::TcpStream::connect(server.local_addr().unwrap()).await.unwrap());
        }
        on_connections_to(servers[0].local_addr().unwrap().port());
        let at_once: Vec<_> = connections.iter().map(|connection| connection.nodelay().unwrap()).collect();
        assert_eq!(at_once, [true, false]);
    }
}
