//! A neighbour's calls go on as if nothing were.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use koksmat_tests::host::request;

use super::*;

const CALLS: usize = 300;
/// What a neighbour may lose besides twice what it had.
const LOST: Duration = Duration::from_millis(20);

/// The time below which 99 of 100 calls stay.
async fn p99<F: Future<Output = ()>>(call: impl Fn() -> F) -> Duration {
    let mut took = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let began = Instant::now();
        call().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[CALLS * 99 / 100]
}

/// Measure a neighbour quiet and under an attack that `attacker` repeats, eight at once. What else this machine does may hit one of the two
/// measurements alone, but not every time.
async fn is_left_alone<N, A>(what: &str, neighbour: impl Fn() -> N, attacker: impl Fn() -> A)
where
    N: Future<Output = ()>,
    A: Future<Output = ()> + Send + 'static,
{
    let _alone = ALONE.lock().await;
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        let quiet = p99(&neighbour).await;
        let stop = Arc::new(AtomicBool::new(false));
        let attacks: Vec<_> = std::iter::repeat_with(|| {
            let (stop, mut attack) = (stop.clone(), Box::pin(attacker()));
            let again: Vec<_> = std::iter::repeat_with(&attacker).take(200).map(Box::pin).collect();
            tokio::spawn(async move {
                for next in again {
                    attack.await;
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    attack = next;
                }
            })
        })
        .take(8)
        .collect();
        let attacked = p99(&neighbour).await;
        stop.store(true, Ordering::Relaxed);
        for attack in attacks {
            within("the end of an attack", attack).await.unwrap();
        }
        if attacked <= 2 * quiet + LOST {
            return;
        }
        seen.push((quiet, attacked));
    }
    panic!("{what}: (quiet, attacked) is {seen:?}: each time more than twice as slow and {LOST:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_in_the_same_process_is_left_alone() {
    let (hostile, quiet) = (format!("retry = {{ attempts = 1 }}\n{LIMITS}{}", granted("127.0.0.1:1")), granted("127.0.0.1:1"));
    let folder = Folder::new()
        .guest("hostile", "behave", &format!("on = [{{ source = \"memory\", type = \"attack\" }}]\n{hostile}"))
        .guest("neighbour", "behave", &format!("on = [{{ source = \"memory\", type = \"neighbour\" }}]\n{quiet}"));
    let host = TestHost::start(folder).await;
    for step in ["loop", "eat-memory", "recurse", "flood-log", "flood-emit", "trap"] {
        let call = || async {
            response(host.handle(Event::json("neighbour", &json!({ "do": "ok" })).unwrap()).await);
        };
        let memory = host.memory.clone();
        let attack = || {
            let memory = memory.clone();
            async move { drop(memory.send(super::attack(&json!({ "do": step }))).await.unwrap().answer().await) }
        };
        is_left_alone(step, call, attack).await;
    }
    host.stop().await;
}

/// What the neighbour does here needs the runtime's eyes on its connections: a webhook that waits for the handler's response.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_behind_a_webhook_is_left_alone() {
    let webhook = |name: &str| format!("[sources.{name}]\nkind = \"webhook\"\npath = \"/{name}\"\nreply = \"handler\"\n");
    let folder = Folder::new()
        .toml(&webhook("hostile"))
        .toml(&webhook("neighbour"))
        .guest("hostile", "behave", &format!("on = [{{ source = \"hostile\" }}]\n{LIMITS}{}", granted("127.0.0.1:1")))
        .guest("neighbour", "behave", &format!("on = [{{ source = \"neighbour\" }}]\n{}", granted("127.0.0.1:1")));
    let process = Process::start(&folder).await;
    // Eight who write to all their memory may well be cut before they have had it.
    for (step, statuses) in [("loop", &[504][..]), ("eat-memory", &[500, 504])] {
        let call = || async {
            let reply = process.post("/neighbour", &[], json!({ "do": "ok" }).to_string()).await;
            assert_eq!(reply.status, 204, "{}", reply.text());
        };
        let url = format!("http://{}/hostile", process.listen);
        let attack = || {
            let url = url.clone();
            async move {
                let reply = request(&url, "POST", &[], json!({ "do": step }).to_string().into()).await;
                assert!(statuses.contains(&reply.status), "{}", reply.text());
            }
        };
        is_left_alone(step, call, attack).await;
    }
    assert_eq!(process.stop().await.code, Some(0));
}
