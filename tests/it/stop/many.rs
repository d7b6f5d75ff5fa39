//! Stop after stop on one store, at random moments under load: each ends in time with its ledger in balance, and over all of them every event is
//! handled once.
//!
//! `KOKSMAT_TEST_STOPS` raises the figure, `KOKSMAT_TEST_SEED` repeats the moments.

use koksmat_tests::{process::Ended, services};

use super::*;

/// What a host may take beyond its deadline.
const GRACE: Duration = Duration::from_secs(1);

/// Start, take events for up to this long, stop. How it ended and how long that took.
async fn stop_under_load(traffic: &Traffic, most: Duration, random: &mut StdRng, before: impl FnOnce()) -> (Ended, Duration) {
    let host = Process::start(&traffic.folder).await;
    let sending = traffic.send_to(&host);
    tokio::time::sleep(random.random_range(Duration::ZERO..most)).await;
    before();
    host.signal("TERM").await;
    let began = Instant::now();
    let ended = host.ended().await;
    let took = began.elapsed();
    sending.stop().await;
    assert_balanced(&ended.ledger());
    (ended, took)
}

/// What went wrong in spite of all stops must show now.
async fn everything_is_handled_once(traffic: &Traffic) {
    let host = Process::start(&traffic.folder).await;
    traffic.handled().await;
    host.stops_well().await;
    traffic.check();
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_under_load_end_in_time_and_nothing_is_delivered_again() {
    const DEADLINE: Duration = Duration::from_secs(10);
    let stops = services::figure("KOKSMAT_TEST_STOPS", 100);
    let mut random = services::random();
    let inside = Inside::start(Duration::from_millis(5)).await;
    let traffic = Traffic::new(&inside, &format!("concurrency = 8\ndrain-deadline = \"{}s\"", DEADLINE.as_secs()));
    let (mut received, mut returned, mut longest) = (0, 0, Duration::ZERO);
    for stop in 1..=stops {
        let (ended, took) = stop_under_load(&traffic, Duration::from_millis(250), &mut random, || ()).await;
        assert_eq!(ended.code, Some(0), "stop {stop}: {}", ended.said());
        assert!(took <= DEADLINE + GRACE, "stop {stop} took {took:?}: {}", ended.said());
        let ledger = ended.ledger();
        received += counts(&ledger)[0];
        returned += counts(&ledger)[4];
        longest = longest.max(took);
    }
    everything_is_handled_once(&traffic).await;
    let outside = inside.entered();
    let different: HashSet<_> = outside.iter().collect();
    println!(
        "{stops} stops: {} accepted, {received} received, {returned} of them returned, the longest stop {longest:?}, delivered again {}",
        traffic.accepted(),
        outside.len() - different.len()
    );
    assert!(traffic.accepted() > 3 * stops && returned > 0, "too little load to prove anything");
    assert_eq!(outside.len(), different.len(), "delivered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_that_have_to_cut_end_in_time_too_and_lose_nothing() {
    const DEADLINE: Duration = Duration::from_millis(300);
    const CONCURRENCY: usize = 8;
    let stops = services::figure("KOKSMAT_TEST_STOPS", 100).div_ceil(10);
    let mut random = services::random();
    let inside = Inside::start(Duration::ZERO).await;
    let traffic = Traffic::new(&inside, &format!("concurrency = {CONCURRENCY}\ndrain-deadline = \"{}ms\"", DEADLINE.as_millis()));
    let (mut cut, mut longest) = (0, Duration::ZERO);
    for stop in 1..=stops {
        inside.keep_for(Duration::from_millis(5));
        let hold = || inside.keep_for(FOR_EVER);
        let (ended, took) = stop_under_load(&traffic, Duration::from_millis(500), &mut random, hold).await;
        assert!(matches!(ended.code, Some(0 | 3)), "stop {stop}: {}", ended.said());
        assert!(took <= DEADLINE + GRACE, "stop {stop} took {took:?}: {}", ended.said());
        cut += usize::from(ended.code == Some(3));
        longest = longest.max(took);
    }
    inside.keep_for(Duration::ZERO);
    everything_is_handled_once(&traffic).await;
    let outside = inside.entered();
    let again = outside.len() - outside.iter().collect::<HashSet<_>>().len();
    println!(
        "{stops} stops, {cut} had to cut: {} accepted, lost 0, the longest stop {longest:?}, delivered again {again} (allowed {})",
        traffic.accepted(),
        cut * CONCURRENCY
    );
    assert!(cut >= stops.div_ceil(4), "too few met work in flight: {cut}");
    assert!(again <= cut * CONCURRENCY, "{again} were delivered again");
}
