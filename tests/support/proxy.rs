//! A TCP proxy in front of a server, which a test can close: a server that is gone.

use std::sync::Arc;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Forwards connections for as long as it is open.
pub struct Proxy {
    open: Arc<watch::Sender<bool>>,
    address: String,
}

impl Proxy {
    /// Listen on `listen` (port 0 takes a free one) and forward to `target`.
    pub async fn start(listen: &str, target: &str) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap_or_else(|error| panic!("{listen}: {error}"));
        let address = listener.local_addr().unwrap().to_string();
        let (open, _) = watch::channel(true);
        let open = Arc::new(open);
        let (state, target) = (open.clone(), target.to_owned());
        tokio::spawn(async move {
            loop {
                let Ok((mut client, _)) = listener.accept().await else { return };
                let (mut state, target) = (state.subscribe(), target.clone());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(&target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        // Dropping both ends is what the death of the server looks like.
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { open, address }
    }

    /// Where clients connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Cut every connection; new ones end at once.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Forward again.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}
