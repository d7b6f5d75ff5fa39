//! Reaching a broker of RabbitMQ, for the source and the sink alike.

use std::{
    io,
    net::Shutdown,
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lapin::{
    AsyncTcpStream, Connection, ConnectionProperties, ErrorKind,
    tcp::{RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPScheme, AMQPUri},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use url::Host;

use crate::config::{AmqpConfig, TlsConfig};

/// How long reaching the broker may take, from the name to an open connection, unless the URL's `connection_timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Seconds after which a silent broker is taken for gone, unless the URL's `heartbeat` says otherwise. The broker may ask for less.
const HEARTBEAT: u16 = 30;

/// Why a broker cannot be used now: what, in whose words, and what to do. No secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BrokerError(pub(crate) String);

/// Open a connection that the broker shows under `name`.
pub(crate) async fn connect(broker: &AmqpConfig, name: &str) -> Result<Connection, BrokerError> {
    let wherefrom = broker.url.reference();
    let uri = uri(broker.url.expose()).ok_or_else(|| BrokerError(format!("what {wherefrom} holds is no URL of an AMQP broker")))?;
    let timeout = uri.query.connection_timeout.map_or(TIMEOUT, Duration::from_millis);
    let tls = match uri.scheme {
        AMQPScheme::AMQP => None,
        AMQPScheme::AMQPS => Some(tls(&broker.tls).await.map_err(BrokerError)?),
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let runtime = lapin::runtime::default_runtime().map_err(|error| BrokerError(error.to_string()))?;
    let wire = Wire::default();
    let (opened, dialler) = (wire.clone(), runtime.clone());
    // The connection's own thread dials: it must not wait for ever either, and gives up a little before the one who waits for it.
    let dial = async move |uri: AMQPUri, _| {
        let dialled = async {
            let address = (uri.authority.host.as_str(), uri.authority.port);
            let addresses: Vec<_> = tokio::net::lookup_host(address).await?.collect();
            let stream = AsyncTcpStream::connect(&dialler, addresses).await?;
            if let AsyncTcpStream::Plain(stream) = &stream {
                // Acknowledgements are small and must not wait for company.
                stream.get_ref().set_nodelay(true)?;
                opened.keep(stream.get_ref())?;
            }
            match &tls {
                None => Ok(stream),
                Some(tls) => stream.into_rustls(tls, &uri.authority.host).await,
            }
        };
        let dialled = tokio::time::timeout(timeout, dialled).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        Ok(dialled?)
    };
    let connecting = Connection::connector(uri, runtime, dial, properties);
    match tokio::time::timeout(timeout + Duration::from_secs(1), connecting).await {
        Ok(connected) => connected.map_err(|error| BrokerError(cannot_connect(wherefrom, &error))),
        Err(_) => {
            // Who answers nothing would keep the connection's thread for ever.
            wire.cut();
            Err(BrokerError(format!("RabbitMQ ({wherefrom}) does not answer; is it a broker that speaks AMQP 0-9-1?")))
        }
    }
}

/// The socket below a connection that is being opened.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Option<std::net::TcpStream>>>);

impl Wire {
    fn keep(&self, stream: &tokio::net::TcpStream) -> io::Result<()> {
        let socket = std::net::TcpStream::from(stream.as_fd().try_clone_to_owned()?);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(socket);
        Ok(())
    }

    fn cut(&self) {
        if let Some(socket) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// The parsed URL. Its error is not told: it might hold the URL.
fn uri(url: &str) -> Option<AMQPUri> {
    let mut uri: AMQPUri = url.parse().ok()?;
    // The parser takes an IPv6 address for no host.
    if let Some(Host::Ipv6(address)) = url::Url::parse(url).ok()?.host() {
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        // `amqp://host/` means the default virtual host to whoever writes it; one without a name exists nowhere by itself.
        "/".clone_into(&mut uri.vhost);
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Some(uri)
}

/// What `amqps:` trusts and shows. With an authority of its own it trusts no other.
async fn tls(config: &TlsConfig) -> Result<RustlsConnector, String> {
    let roots = match &config.ca {
        None => RustlsConnectorConfig::new_with_webpki_root_certs(),
        Some(path) => RustlsConnectorConfig::default().with_parsable_certificates(certificates(path).await?),
    };
    let connector = match &config.identity {
        None => roots.connector_with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate).await?;
            let key = PrivateKeyDer::from_pem_slice(&read(key).await?)
                .map_err(|error| format!("{} holds no private key: {error}", key.display()))?;
            roots.connector_with_single_cert(chain, key)
        }
    };
    connector.map_err(|error| format!("the files of `tls` cannot be used: {error}"))
}

/// The certificates of a PEM file.
pub(super) async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path).await?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} holds no certificate in PEM form", path.display())),
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    tokio::fs::read(path).await.map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn cannot_connect(wherefrom: &str, error: &lapin::Error) -> String {
    let said = words(error);
    match error.kind() {
        ErrorKind::ProtocolError(_) if said.starts_with("ACCESS_REFUSED") => {
            format!("RabbitMQ ({wherefrom}) says: {said} Check the user and the password.")
        }
        ErrorKind::ProtocolError(_) => format!("RabbitMQ ({wherefrom}) says: {said}"),
        ErrorKind::IOError(error) if error.kind() == io::ErrorKind::TimedOut => {
            format!("RabbitMQ ({wherefrom}) does not answer; check the address, and that nothing between keeps it away")
        }
        // How a connection breaks off differs from attempt to attempt, and is the same problem.
        ErrorKind::IOError(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            ) =>
        {
            format!("RabbitMQ ({wherefrom}) cannot be reached: the connection broke off")
        }
        ErrorKind::IOError(_) if said.contains("certificate") => {
            format!("RabbitMQ ({wherefrom}) is not who it should be: {said}; does `tls.ca` name the authority that signed its certificate?")
        }
        _ => format!("RabbitMQ ({wherefrom}) cannot be reached: {said}"),
    }
}

/// An error in the broker's own words where it has said something.
pub(crate) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) | ErrorKind::RuntimeShutdownError(error) => error.to_string(),
        ErrorKind::MissingHeartbeatError => "nothing was heard from it for too long".to_owned(),
        ErrorKind::InvalidConnectionState(_) | ErrorKind::InvalidChannelState(..) => "the connection is closed".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn broker(url: &str) -> AmqpConfig {
        AmqpConfig { url: Secret::new(url, "env:AMQP_URL"), tls: TlsConfig::default() }
    }

    #[test]
    fn a_url_means_what_its_writer_means() {
        let plain = uri("amqp://user:p%40ss@localhost").unwrap();
        assert_eq!((plain.authority.port, plain.vhost.as_str(), plain.query.heartbeat), (5672, "/", Some(HEARTBEAT)));
        assert_eq!(plain.authority.userinfo.password, "p@ss");
        assert_eq!(uri("amqp://localhost/").unwrap().vhost, "/");
        assert_eq!(uri("amqp://localhost/%2fa?heartbeat=5").unwrap().vhost, "/a");
        assert_eq!(uri("amqps://[::1]:1/x").unwrap().authority.host, "::1");
        assert!(uri("mailto:x").is_none());
    }

    #[tokio::test]
    async fn a_broker_that_is_not_there_is_named_by_its_reference_and_no_secret_is_told() {
        let error = connect(&broker("amqp://user:hunter2@127.0.0.1:1/%2f"), "koksmat default/test").await.unwrap_err().to_string();
        assert!(error.starts_with("RabbitMQ (env:AMQP_URL) cannot be reached: Connection refused"), "{error}");
        assert!(!error.contains("hunter2"));
        let error = connect(&broker("amqp:user:hunter2"), "koksmat default/test").await.unwrap_err();
        assert_eq!(error.to_string(), "what env:AMQP_URL holds is no URL of an AMQP broker");
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up_and_hung_up_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}/%2f?connection_timeout=100", listener.local_addr().unwrap());
        let silent = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.unwrap()
        };
        let broker = broker(&url);
        let (said, error) = tokio::join!(silent, connect(&broker, "koksmat default/test"));
        assert_eq!(said, 8, "the protocol header, and then the end");
        assert!(error.unwrap_err().to_string().contains("does not answer"));
    }

    #[tokio::test]
    async fn files_of_tls_that_hold_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let broker = AmqpConfig { tls: TlsConfig { ca: Some(path.clone()), identity: None }, ..broker("amqps://127.0.0.1:1") };
        let missing = connect(&broker, "t").await.unwrap_err().to_string();
        assert!(missing.contains("ca.pem cannot be read"), "{missing}");
        std::fs::write(&path, "nothing").unwrap();
        let empty = connect(&broker, "t").await.unwrap_err().to_string();
        assert!(empty.ends_with("ca.pem holds no certificate in PEM form"), "{empty}");
    }
}
