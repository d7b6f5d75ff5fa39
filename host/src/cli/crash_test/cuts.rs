//! Between the host and its databases and brokers: forwards, and cuts.

use std::net::SocketAddr;

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use url::Url;

/// Schemes of what can be reached through somebody in between, as long as nobody asks whose certificate it is.
const SCHEMES: [&str; 4] = ["postgres", "postgresql", "mysql", "amqp"];

/// Everything that can be cut.
pub(super) struct Cuts {
    /// Environment variables of the host that lead here in place of there.
    pub(super) variables: Vec<(String, String)>,
    open: watch::Sender<bool>,
    /// Ends with this.
    _forwarding: JoinSet<()>,
}

impl Cuts {
    /// Stand between the host and what these environment variables name.
    pub(super) async fn start(references: &[String]) -> Result<Self, String> {
        let (open, opened) = watch::channel(true);
        let (mut variables, mut forwarding) = (Vec::new(), JoinSet::new());
        for name in references {
            let Some((mut url, target)) = std::env::var(name).ok().and_then(|value| target(&value)) else { continue };
            let failed = |error: std::io::Error| format!("cannot listen on the loopback address: {error}");
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            if lead(&mut url, address).is_none() {
                continue;
            }
            variables.push((name.clone(), url.to_string()));
            forwarding.spawn(forward(listener, target, opened.clone()));
        }
        Ok(Self { variables, open, _forwarding: forwarding })
    }

    /// Whether there is anything to cut.
    pub(super) fn are_there(&self) -> bool {
        !self.variables.is_empty()
    }

    /// End every connection, and refuse new ones.
    pub(super) fn cut(&self) {
        self.open.send_replace(false);
    }

    /// Forward again.
    pub(super) fn mend(&self) {
        self.open.send_replace(true);
    }
}

fn target(value: &str) -> Option<(Url, String)> {
    let url = Url::parse(value).ok().filter(|url| SCHEMES.contains(&url.scheme()))?;
    let named = url.query_pairs().any(|(name, value)| name == "sslmode" && value.starts_with("verify"));
    let default = match url.scheme() {
        "mysql" => 3306,
        "amqp" => 5672,
        _ => 5432,
    };
    let target = format!("{}:{}", url.host_str()?, url.port().unwrap_or(default));
    (!named).then_some((url, target))
}

fn lead(url: &mut Url, address: SocketAddr) -> Option<()> {
    url.set_host(Some("127.0.0.1")).ok()?;
    url.set_port(Some(address.port())).ok()
}

async fn forward(listener: TcpListener, target: String, opened: watch::Receiver<bool>) {
    // Connections are the host's, which bounds them.
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let (target, mut opened) = (target.clone(), opened.clone());
        connections.spawn(async move {
            if !*opened.borrow() {
                return;
            }
            let Ok(mut server) = TcpStream::connect(&target).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => {}
                _ = opened.wait_for(|open| !open) => {}
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_a_name_is_not_cut() {
        let through = |url: &str| target(url).map(|(_, target)| target);
        assert_eq!(through("postgres://user:secret@db/orders").as_deref(), Some("db:5432"));
        assert_eq!(through("amqp://broker:5673").as_deref(), Some("broker:5673"));
        assert_eq!(through("postgres://db/orders?sslmode=verify-full"), None);
        assert_eq!(through("whsec_c2VjcmV0"), None);
    }
}
