use std::sync::Arc;

use super::{clock::ManualClock, *};
use crate::source::testing::{FakeStore, TestHost};

fn config(cron: &str, missed: Missed, overlap: Overlap) -> TimerConfig {
    TimerConfig { cron: cron.into(), zone: "UTC".into(), missed, overlap }
}

fn every_minute(missed: Missed) -> TimerConfig {
    config("* * * * *", missed, Overlap::Allow)
}

fn start(config: TimerConfig, clock: &Arc<ManualClock>, store: &Arc<FakeStore>) -> TestHost {
    TestHost::start(TimerSource::with_clock(config, clock.clone()), 1, store)
}

fn keys(accepted: &[(String, Event)]) -> Vec<&str> {
    accepted.iter().map(|(key, _)| key.as_str()).collect()
}

/// The timer sees this time. (It runs on the thread of the test, so it has seen it when the test has its turn again.)
async fn it_is(clock: &ManualClock, time: &str) {
    clock.set(&format!("2026-05-01T{time}Z"));
    tokio::task::yield_now().await;
}

/// The timer has begun: everything until now is dealt with.
async fn begun(store: &FakeStore) {
    store.until_remembered(|state| state.contains_key(STATE)).await;
}

async fn until_last(store: &FakeStore, last: &str) {
    let last = format!("\"last\":\"{last}\"");
    store.until_remembered(|state| state.get(STATE).is_some_and(|s| String::from_utf8_lossy(s).contains(&last))).await;
}

#[tokio::test]
async fn a_firing_is_an_event_keyed_by_its_due_time() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(TimerConfig { zone: "Europe/Oslo".into(), ..every_minute(Missed::Skip) }, &clock, &store);
    begun(&store).await;
    host.until_ready().await;

    it_is(&clock, "10:01:00").await;
    let accepted = store.until_accepted(1).await;
    let (key, event) = &accepted[0];
    assert_eq!(key, "2026-05-01T10:01:00Z");
    assert_eq!(event.id, "2026-05-01T10:01:00Z");
    assert_eq!(event.ty, "koksmat.timer.due");
    assert_eq!(event.subject.as_deref(), Some("test"));
    assert_eq!(event.source, "/default/test");
    assert_eq!(event.data, r#"{"due":"2026-05-01T10:01:00Z","zone":"Europe/Oslo"}"#);
    host.stop().await;
}

#[tokio::test]
async fn nothing_fires_early_and_the_next_one_follows() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:00Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::Skip), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:00:59.999").await;
    it_is(&clock, "10:01:00.001").await;
    store.until_accepted(1).await;
    it_is(&clock, "10:01:59.999").await;
    it_is(&clock, "10:02:00").await;
    assert_eq!(keys(&store.until_accepted(2).await), ["2026-05-01T10:01:00Z", "2026-05-01T10:02:00Z"]);
    host.stop().await;
}

#[tokio::test]
async fn the_first_start_ever_has_missed_nothing() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::All), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:01:00").await;
    assert_eq!(keys(&store.until_accepted(1).await), ["2026-05-01T10:01:00Z"]);
    host.stop().await;
}

/// What fires when a host that fired at 10:01 is started again at 10:05:30, and then it is 10:06.
async fn fired_after_a_pause(missed: Missed) -> Vec<String> {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(missed), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:01:00").await;
    store.until_accepted(1).await;
    host.kill().await;

    let clock = ManualClock::at("2026-05-01T10:05:30Z");
    let host = start(every_minute(missed), &clock, &store);
    host.until_ready().await;
    it_is(&clock, "10:06:00").await;
    until_last(&store, "2026-05-01T10:06:00Z").await;
    host.stop().await;
    store.accepted().into_iter().map(|(key, _)| key[11..16].to_owned()).collect()
}

#[tokio::test]
async fn missed_firings_are_skipped_or_made_up_for_once_or_all() {
    assert_eq!(fired_after_a_pause(Missed::Skip).await, ["10:01", "10:06"]);
    assert_eq!(fired_after_a_pause(Missed::Once).await, ["10:01", "10:05", "10:06"]);
    assert_eq!(fired_after_a_pause(Missed::All).await, ["10:01", "10:02", "10:03", "10:04", "10:05", "10:06"]);
}

/// What fires when a timer is paused after 10:01 and goes on at 10:05:30, and then it is 10:06.
async fn fired_after_it_was_held(missed: Missed) -> Vec<String> {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(missed), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:01:00").await;
    store.until_accepted(1).await;
    host.gate.send_modify(|closed| closed.paused = true);
    it_is(&clock, "10:02:00").await;
    it_is(&clock, "10:05:30").await;
    assert_eq!(store.accepted().len(), 1, "nothing fires while it is paused");
    host.gate.send_modify(|closed| closed.paused = false);
    tokio::task::yield_now().await;
    it_is(&clock, "10:06:00").await;
    until_last(&store, "2026-05-01T10:06:00Z").await;
    host.stop().await;
    store.accepted().into_iter().map(|(key, _)| key[11..16].to_owned()).collect()
}

#[tokio::test]
async fn what_comes_due_while_the_timer_is_paused_was_missed() {
    assert_eq!(fired_after_it_was_held(Missed::Skip).await, ["10:01", "10:06"]);
    assert_eq!(fired_after_it_was_held(Missed::Once).await, ["10:01", "10:05", "10:06"]);
    assert_eq!(fired_after_it_was_held(Missed::All).await, ["10:01", "10:02", "10:03", "10:04", "10:05", "10:06"]);
}

#[tokio::test]
async fn another_schedule_has_missed_nothing() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::All), &clock, &store);
    begun(&store).await;
    host.kill().await;
    let clock = ManualClock::at("2026-05-01T12:00:30Z");
    let host = start(config("*/2 * * * *", Missed::All, Overlap::Allow), &clock, &store);
    until_last(&store, "2026-05-01T12:00:30Z").await;
    it_is(&clock, "12:02:00").await;
    assert_eq!(keys(&store.until_accepted(1).await), ["2026-05-01T12:02:00Z"]);
    host.stop().await;
}

#[tokio::test]
async fn a_machine_that_was_suspended_has_missed_what_came_due() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::Once), &clock, &store);
    begun(&store).await;
    host.until_ready().await;
    it_is(&clock, "14:30:10").await;
    assert_eq!(keys(&store.until_accepted(1).await), ["2026-05-01T14:30:00Z"]);
    host.stop().await;
}

#[tokio::test]
async fn a_clock_that_goes_back_fires_nothing_twice_and_does_not_fall_silent() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::Skip), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:01:00").await;
    store.until_accepted(1).await;
    it_is(&clock, "10:02:00").await;
    store.until_accepted(2).await;

    it_is(&clock, "09:59:30").await;
    for minute in ["10:00:00", "10:01:00", "10:02:00", "10:03:00"] {
        it_is(&clock, minute).await;
        until_last(&store, &format!("2026-05-01T{minute}Z")).await;
    }
    let accepted = store.accepted();
    assert_eq!(keys(&accepted), ["10:01", "10:02", "10:00", "10:03"].map(|minute| format!("2026-05-01T{minute}:00Z")));
    host.stop().await;
}

#[tokio::test]
async fn with_overlap_skip_a_firing_is_skipped_while_an_earlier_one_is_unsettled() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(config("* * * * *", Missed::Skip, Overlap::Skip), &clock, &store);
    begun(&store).await;
    it_is(&clock, "10:01:00").await;
    store.until_accepted(1).await;
    store.set_unsettled(1);
    it_is(&clock, "10:02:00").await;
    until_last(&store, "2026-05-01T10:02:00Z").await;
    store.set_unsettled(0);
    it_is(&clock, "10:03:00").await;
    assert_eq!(keys(&store.until_accepted(2).await), ["2026-05-01T10:01:00Z", "2026-05-01T10:03:00Z"]);
    host.stop().await;
}

#[tokio::test]
async fn with_overlap_queue_a_firing_waits_for_the_earlier_one_and_none_is_left_out() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    store.set_unsettled(1);
    let host = start(config("* * * * *", Missed::Skip, Overlap::Queue), &clock, &store);
    begun(&store).await;
    host.until_ready().await;
    for second in ["10:01:00", "10:01:30", "10:02:00", "10:02:30"] {
        it_is(&clock, second).await;
    }
    assert!(store.accepted().is_empty());
    store.set_unsettled(0);
    it_is(&clock, "10:02:31").await;
    assert_eq!(keys(&store.until_accepted(2).await), ["2026-05-01T10:01:00Z", "2026-05-01T10:02:00Z"]);
    host.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_delays_a_firing_and_loses_none() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let host = start(every_minute(Missed::Skip), &clock, &store);
    begun(&store).await;
    host.until_ready().await;
    store.fail(true);
    it_is(&clock, "10:01:00").await;
    assert_eq!(host.until_unready().await, "the store failed: out of order");
    it_is(&clock, "10:05:00").await;
    store.fail(false);
    it_is(&clock, "10:05:40").await;
    host.until_ready().await;
    assert_eq!(
        keys(&store.until_accepted(5).await),
        ["10:01", "10:02", "10:03", "10:04", "10:05"].map(|minute| format!("2026-05-01T{minute}:00Z"))
    );
    host.stop().await;
}

#[tokio::test]
async fn a_schedule_that_makes_no_sense_is_an_error_that_says_so() {
    let (clock, store) = (ManualClock::at("2026-05-01T10:00:30Z"), Arc::new(FakeStore::default()));
    let source = TimerSource::with_clock(config("61 * * * *", Missed::Skip, Overlap::Allow), clock);
    let host = start(every_minute(Missed::Skip), &ManualClock::at("2026-05-01T10:00:30Z"), &store);
    let error = source.run(host.context.clone()).await.unwrap_err().to_string();
    assert!(error.starts_with("cron = \"61 * * * *\" is not understood"), "{error}");
    host.stop().await;
}
