//! A broker that goes away, refuses, or has something else than it should: one clear line, and on it goes when that is over.

use std::sync::{Arc, Mutex};

use koksmat_tests::{
    Folder, Process, outages,
    rabbitmq::{ADDRESS, MANAGEMENT, Rabbitmq, TLS_URL, URL, certificate, name, text},
    services, until,
};
use tokio::net::{TcpListener, TcpStream};

use super::{COUNT, Queue, handled, repeated, until_handled};

/// A way to the broker that can be cut.
#[derive(Clone)]
struct Proxy {
    address: std::net::SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    connections: Vec<tokio::task::JoinHandle<()>>,
}

impl Proxy {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = proxy.state.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut state = state.lock().unwrap();
                if state.cut {
                    continue;
                }
                state.connections.push(tokio::spawn(async move {
                    let mut broker = TcpStream::connect(ADDRESS).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut broker).await;
                }));
            }
        });
        proxy
    }

    /// Hang up on everybody, and on whoever comes.
    fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut = true;
        state.connections.drain(..).for_each(|connection| connection.abort());
    }

    fn mend(&self) {
        self.state.lock().unwrap().cut = false;
    }

    fn url(&self) -> String {
        format!("amqp://{}/%2f", self.address)
    }
}

/// The lines that say that the source cannot take events.
fn problems(host: &Process) -> Vec<String> {
    host.log().into_iter().filter(|line| line.contains("source cannot take events")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_and_comes_back() {
    const MESSAGES: usize = 600;
    let away = std::time::Duration::from_secs(services::figure("KOKSMAT_TEST_GONE", 3) as u64);
    let (queue, proxy) = (Queue::quorum().await, Proxy::start().await);
    let folder = queue.counted(&proxy.url(), "in-flight = 32");
    let mut host = Process::start(&folder).await;
    queue.broker.publish_many(&queue.name, "m", MESSAGES).await;
    for round in 1..=3 {
        until_handled(&folder, round * 40).await;
        proxy.cut();
        until("readiness to show it", || async { (host.admin("/readyz").await.status == 503).then_some(()) }).await;
        host.line("the connection to RabbitMQ was lost").await;
        if round == 3 {
            tokio::time::sleep(away).await;
            assert_eq!(host.admin("/livez").await.status, 200);
        }
        proxy.mend();
        until("readiness to show it", || async { (host.admin("/readyz").await.status == 200).then_some(()) }).await;
    }
    until_handled(&folder, MESSAGES).await;
    until("the queue to be empty", || async { (queue.broker.count(&queue.name).await == 0).then_some(()) }).await;
    let outages = outages(&host.log());
    assert!(outages.len() == 3 && outages.iter().all(|said| said.len() <= 5), "once per change: {outages:?}");
    host.stops_well().await;
    assert_eq!((handled(&folder), repeated(&folder)), (MESSAGES, 0));
    assert_eq!((queue.broker.count(&queue.name).await, queue.broker.count(&queue.dead).await), (0, 0));
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_said_once_and_a_stop_does_not_wait_for_it() {
    let queue = Queue::classic().await;
    // A port that is taken and at which nobody listens.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let folder = queue.counted(&format!("amqp://{address}/%2f"), "");
    let mut host = Process::spawn(&folder, &[]);
    host.listens().await;
    host.line("source cannot take events").await;
    // Time for several attempts.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(problems(&host).len(), 1, "{:?}", problems(&host));
    host.stops_well().await;
    queue.gone().await;
}

/// What the one line of a host says that cannot use its broker.
async fn refused(folder: &Folder, environment: &[(&str, &str)]) -> String {
    let mut host = Process::spawn(folder, environment);
    host.line("source cannot take events").await;
    host.listens().await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let problems = problems(&host);
    let ended = host.stop().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(!ended.said().contains("hunter2"), "{}", ended.said());
    assert!(!ended.said().contains("lapin"), "{}", ended.said());
    problems[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_in_the_brokers_words_without_the_password() {
    let queue = Queue::classic().await;
    let folder = queue.counted("env:AMQP_URL", "");
    let said = refused(&folder, &[("AMQP_URL", "amqp://guest:hunter2@127.0.0.1:25673/%2f")]).await;
    assert!(said.contains("RabbitMQ (env:AMQP_URL) says: ACCESS_REFUSED"), "{said}");
    assert!(said.contains("Check the user and the password"), "{said}");
    let said = refused(&folder, &[("AMQP_URL", "amqp://guest:guest@127.0.0.1:25673/nowhere")]).await;
    assert!(said.contains("RabbitMQ (env:AMQP_URL) says: NOT_ALLOWED - vhost nowhere not found"), "{said}");
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_is_told() {
    let queue = Queue::classic().await;
    for (tls, lines) in [("other-ca.pem", true), ("", false)] {
        let tls = if lines { format!("tls = {{ ca = {:?} }}", certificate(tls)) } else { String::new() };
        let said = refused(&queue.counted(TLS_URL, &tls), &[]).await;
        assert!(said.contains("is not who it should be: invalid peer certificate") && said.contains("tls.ca"), "{said}");
    }
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_there_is_told_and_taken_as_soon_as_it_is() {
    let queue = Queue { broker: Rabbitmq::connect().await, name: name("later"), dead: name("dead") };
    let folder = queue.counted(URL, "");
    let mut host = Process::spawn(&folder, &[]);
    let said = host.line("source cannot take events").await;
    assert!(said.contains("NOT_FOUND - no queue") && said.contains("make the queue, or let the source do it with `declare`"), "{said}");
    host.listens().await;
    queue.broker.fanout(&queue.dead).await;
    queue.broker.queue(&queue.name, &[("x-queue-type", text("classic"))]).await;
    queue.broker.publish_many(&queue.name, "m", 10).await;
    host.ready().await;
    until_handled(&folder, 10).await;
    // Somebody deletes it under our hands.
    queue.broker.delete(&queue.name).await;
    host.line("RabbitMQ ended the consumer").await;
    queue.broker.queue(&queue.name, &[("x-queue-type", text("classic"))]).await;
    host.ready().await;
    host.stops_well().await;
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_another_is_told() {
    let queue = Queue::classic().await;
    let declare = format!("declare = {{ dead-letter-exchange = \"{}\" }}", queue.dead);
    let said = refused(&queue.counted(URL, &declare), &[]).await;
    assert!(said.contains("PRECONDITION_FAILED") && said.contains("make `declare` say what it is, or leave it out"), "{said}");
    let said = refused(&queue.counted(URL, "declare = { dead-letter-exchange = \"nowhere-at-all\" }"), &[]).await;
    assert!(said.contains("NOT_FOUND - no exchange 'nowhere-at-all'") && said.contains("make the dead-letter exchange"), "{said}");
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_queue_without_a_dead_letter_exchange_is_refused_where_that_can_be_asked_and_warned_of_where_not() {
    let queue = Queue::named().await;
    queue.broker.queue(&queue.name, &[("x-queue-type", text("quorum"))]).await;
    let asks = queue.counted(URL, "management = \"env:MANAGEMENT_URL\"");
    let said = refused(&asks, &[("MANAGEMENT_URL", MANAGEMENT)]).await;
    assert!(said.contains("has no dead-letter exchange"), "{said}");

    let mut host = Process::start(&queue.counted(URL, "")).await;
    host.line("it is not known whether the queue has a dead-letter exchange").await;
    host.stops_well().await;
    let mut host = Process::start_with(&asks, &[("MANAGEMENT_URL", "http://guest:hunter2@127.0.0.1:25680")]).await;
    let warned = host.line("cannot say whether the queue").await;
    assert!(warned.contains("env:MANAGEMENT_URL") && warned.contains("401") && !warned.contains("hunter2"), "{warned}");
    host.stops_well().await;

    let good = Queue::quorum().await;
    let folder = good.counted(URL, "management = \"env:MANAGEMENT_URL\"");
    let host = Process::start_with(&folder, &[("MANAGEMENT_URL", MANAGEMENT)]).await;
    let log = host.log();
    host.stops_well().await;
    assert!(!log.iter().any(|line| line.contains("dead-letter exchange")), "{log:?}");
    good.gone().await;
    queue.gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credits_that_are_used_up_are_the_back_pressure_and_are_shown() {
    let queue = Queue::classic().await;
    let inside = koksmat_tests::Inside::start(std::time::Duration::from_secs(3600)).await;
    let script = format!(
        "import {{ http }} from 'koksmat';\n{}",
        COUNT.replace(
            "export function handle(event) {",
            &format!("export function handle(event) {{ http.fetch(\"{}\", {{ method: 'POST', body: event.id }});", inside.url())
        )
    );
    let settings =
        format!("on = [{{ source = \"orders\" }}]\ntimeout = \"60s\"\ngrants = {{ keyvalue = true, http = [\"{}\"] }}", inside.address());
    let folder = Folder::new().toml(&queue.source(URL, "in-flight = 4")).script("held", "held.js", &script, &settings);
    queue.broker.publish_many(&queue.name, "m", 20).await;
    let host = Process::start(&folder).await;
    inside.reached(4).await;
    until("it to be held back", || async { host.admin("/readyz").await.text().contains("its credits are used up").then_some(()) }).await;
    assert_eq!(queue.broker.count(&queue.name).await, 16, "no more than the credits left the queue");
    inside.keep_for(std::time::Duration::ZERO);
    until_handled(&folder, 20).await;
    until("it to go on", || async { (!host.admin("/readyz").await.text().contains("used up")).then_some(()) }).await;
    host.stops_well().await;
    queue.gone().await;
}
