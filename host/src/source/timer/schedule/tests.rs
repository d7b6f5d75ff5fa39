use jiff::civil::DateTime;

use super::*;

/// Everything due on `days` days from `day` on, in local time with its offset: `02:30+02`.
fn due(cron: &str, zone: &str, day: &str, days: i64) -> Vec<String> {
    let schedule = Schedule::parse(cron, zone).unwrap();
    let midnight = day.parse::<jiff::civil::Date>().unwrap().to_datetime(jiff::civil::Time::midnight());
    let zoned = |at: DateTime| at.to_zoned(schedule.zone.clone()).unwrap().timestamp();
    let from = zoned(midnight) - SignedDuration::from_secs(1);
    let until = zoned(midnight + SignedDuration::from_hours(24 * days)) - SignedDuration::from_secs(1);
    let local = |due: Timestamp| due.to_zoned(schedule.zone.clone()).strftime("%H:%M%:::z").to_string();
    schedule.between(from, until, 1000).into_iter().map(local).collect()
}

/// The days on which clocks change: zone, forward (night from 2 to 3), back (night from 3 to 2), the offsets in summer and winter.
const CHANGES: [(&str, &str, &str, &str, &str); 3] = [
    ("Europe/Oslo", "2026-03-29", "2026-10-25", "+02", "+01"),
    ("America/New_York", "2026-03-08", "2026-11-01", "-04", "-05"),
    ("Australia/Sydney", "2026-10-04", "2026-04-05", "+11", "+10"),
];

#[test]
fn a_fixed_time_that_does_not_exist_fires_at_the_end_of_the_gap() {
    for (zone, forward, _, summer, _) in CHANGES {
        // New York goes from 2 to 3, Sydney and Oslo too.
        assert_eq!(due("30 2 * * *", zone, forward, 1), [format!("03:00{summer}")], "{zone}");
        assert_eq!(due("@daily", zone, forward, 1).len(), 1, "{zone}");
    }
    // Where midnight does not exist.
    assert_eq!(due("0 0 * * *", "America/Santiago", "2026-09-06", 1), ["01:00-03"]);
}

#[test]
fn a_fixed_time_that_comes_twice_fires_the_first_time_only() {
    for (zone, _, back, summer, _) in CHANGES {
        let hour = if zone == "America/New_York" { "01" } else { "02" };
        assert_eq!(due(&format!("30 {hour} * * *"), zone, back, 1), [format!("{hour}:30{summer}")], "{zone}");
    }
}

#[test]
fn a_list_of_fixed_times_fires_once_for_each() {
    assert_eq!(due("0 2,14 * * *", "Europe/Oslo", "2026-10-25", 1), ["02:00+02", "14:00+01"]);
    assert_eq!(due("30 2,14 * * *", "Europe/Oslo", "2026-03-29", 1), ["03:00+02", "14:30+02"]);
    assert_eq!(due("0 0,30 1,2 * * *", "America/New_York", "2026-11-01", 1), ["01:00-04", "01:30-04", "02:00-05", "02:30-05"]);
    assert_eq!(due("0,30 9 * * MON", "Europe/Oslo", "2026-03-30", 1), ["09:00+02", "09:30+02"]);
}

#[test]
fn a_fixed_time_fires_once_a_day_all_year() {
    for (zone, ..) in CHANGES {
        for cron in ["0 0 * * *", "30 1 * * *", "30 2 * * *", "0 3 * * *", "59 23 * * *"] {
            assert_eq!(due(cron, zone, "2026-01-01", 365).len(), 365, "{cron} in {zone}");
        }
    }
}

#[test]
fn an_interval_goes_by_real_time() {
    for (zone, forward, back, summer, winter) in CHANGES {
        assert_eq!(due("*/15 * * * *", zone, forward, 1).len(), 23 * 4, "{zone}");
        assert_eq!(due("*/15 * * * *", zone, back, 1).len(), 25 * 4, "{zone}");
        assert_eq!(due("0 */1 * * *", zone, forward, 1).len(), 23, "{zone}");
        let hour = if zone == "America/New_York" { "01" } else { "02" };
        let twice: Vec<_> = due("*/30 * * * *", zone, back, 1).into_iter().filter(|due| due.starts_with(hour)).collect();
        let expected = [(":00", summer), (":30", summer), (":00", winter), (":30", winter)].map(|(minute, o)| format!("{hour}{minute}{o}"));
        assert_eq!(twice, expected, "{zone}");
    }
}

#[test]
fn every_due_time_is_a_quarter_of_an_hour_after_the_one_before() {
    let schedule = Schedule::parse("*/15 * * * *", "Europe/Oslo").unwrap();
    for day in ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"] {
        let from: Timestamp = day.parse().unwrap();
        let dues = schedule.between(from, from + SignedDuration::from_hours(48), 1000);
        assert!(dues.windows(2).all(|pair| pair[1].duration_since(pair[0]) == SignedDuration::from_mins(15)));
        assert_eq!(dues.len(), 48 * 4);
    }
}

#[test]
fn passing_over_keeps_the_latest() {
    let schedule = Schedule::parse("*/10 * * * * *", "UTC").unwrap();
    let at = |time: &str| format!("2026-05-01T{time}Z").parse::<Timestamp>().unwrap();
    let kept = |last: &str, now: &str, keep| {
        let from = schedule.pass(at(last), at(now), keep);
        assert!(from >= at(last));
        schedule.between(from, at(now), 10_000)
    };
    assert_eq!(kept("10:00:00", "10:00:35", 0), []);
    assert_eq!(kept("10:00:00", "10:00:35", 1), [at("10:00:30")]);
    assert_eq!(kept("10:00:00", "10:00:30", 1), [at("10:00:30")]);
    assert_eq!(kept("10:00:00", "10:00:35", 3).len(), 3);
    assert_eq!(kept("10:00:00", "10:00:35", 1000).len(), 3);
    assert_eq!(kept("10:00:30", "10:00:35", 1), []);
    assert_eq!(kept("00:00:00", "23:00:00", 1000).len(), 1000);
}

#[test]
fn a_year_of_seconds_is_passed_over_at_once() {
    let schedule = Schedule::parse("* * * * * *", "Europe/Oslo").unwrap();
    let now: Timestamp = "2026-05-01T10:00:00Z".parse().unwrap();
    let from = schedule.pass(now - SignedDuration::from_hours(365 * 24), now, 1000);
    assert_eq!(now.duration_since(from), SignedDuration::from_secs(1000));
}

#[test]
fn what_never_comes_due_is_none() {
    assert_eq!(Schedule::parse("0 0 30 2 *", "UTC").unwrap().next("2026-05-01T10:00:00Z".parse().unwrap()), None);
}

#[test]
fn mistakes_are_named() {
    let cron = Schedule::parse("every day", "UTC").unwrap_err().to_string();
    assert!(cron.starts_with("cron = \"every day\" is not understood: "), "{cron}");
    let list = Schedule::parse("0 2,25 * * *", "UTC").unwrap_err().to_string();
    assert!(list.starts_with("cron = \"0 2,25 * * *\" is not understood: "), "{list}");
    let zone = Schedule::parse("@daily", "Europe/Olso").unwrap_err().to_string();
    assert!(zone.starts_with("the time zone \"Europe/Olso\" is not known here: "), "{zone}");
}
