use super::*;
use crate::record::id::StreamBits;
use crate::world::entropy::Dice;

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;
const NOW: UnixMillis = UnixMillis(20_000 * DAY);

fn limits(max_size: Option<u64>) -> Limits {
    Limits { retain: Duration::from_millis(7 * DAY), purge: Duration::from_millis(DAY), max_size: max_size.map(Bytes) }
}

fn id(at: UnixMillis) -> Id {
    Id::new(at.nanos(), StreamBits::from_random(1), 0)
}

fn live(key: u64, age_ms: u64, len: u64) -> Held {
    Held { key, high: id(UnixMillis(NOW.0 - age_ms)), len: Bytes(len), trashed: None }
}

fn trashed(key: u64, age_ms: u64, trashed_for_ms: u64, len: u64) -> Held {
    Held { trashed: Some(UnixMillis(NOW.0 - trashed_for_ms)), ..live(key, age_ms, len) }
}

#[test]
fn a_segment_is_trashed_when_its_last_record_is_too_old_and_not_a_millisecond_before() {
    let held = [live(1, 7 * DAY + 1, 10), live(2, 7 * DAY, 10), live(3, 0, 10)];
    assert_eq!(plan_retention(&held, &limits(None), NOW), [Action::Trash(1)]);
    assert_eq!(plan_retention(&[], &limits(None), NOW), []);
}

#[test]
fn trash_is_purged_when_it_has_lain_long_enough() {
    let held = [trashed(1, 9 * DAY, DAY + 1, 10), trashed(2, 9 * DAY, DAY, 10), trashed(3, 30 * DAY, 0, 10)];
    assert_eq!(plan_retention(&held, &limits(None), NOW), [Action::Purge(1)]);
}

#[test]
fn what_is_dated_in_the_future_is_new() {
    let future = Held { key: 1, high: Id::MAX, len: Bytes(1), trashed: None };
    let held = [future, Held { key: 2, trashed: Some(UnixMillis::MAX), ..future }];
    assert_eq!(plan_retention(&held, &limits(None), NOW), []);
}

#[test]
fn beyond_the_size_the_oldest_go_first_and_trash_before_what_is_live() {
    let held = [live(1, 3 * DAY, 10), live(2, 2 * DAY, 10), trashed(3, 8 * DAY, 5, 10), trashed(4, 9 * DAY, 1, 10)];
    let expected: &[(u64, &[Action])] = &[
        (40, &[]),
        (39, &[Action::Purge(4)]),
        (20, &[Action::Purge(4), Action::Purge(3)]),
        (19, &[Action::Purge(4), Action::Purge(3), Action::Trash(1), Action::Purge(1)]),
        (
            0,
            &[
                Action::Purge(4),
                Action::Purge(3),
                Action::Trash(1),
                Action::Purge(1),
                Action::Trash(2),
                Action::Purge(2),
            ],
        ),
    ];
    for (max_size, actions) in expected {
        assert_eq!(plan_retention(&held, &limits(Some(*max_size)), NOW), *actions, "at most {max_size}");
    }
}

#[test]
fn what_time_purges_counts_before_room_is_made() {
    let held = [trashed(1, 9 * DAY, 2 * DAY, 50), live(2, 8 * DAY, 10), live(3, DAY, 10)];
    assert_eq!(plan_retention(&held, &limits(Some(20)), NOW), [Action::Purge(1), Action::Trash(2)]);
    let all_due = [Action::Purge(1), Action::Trash(2), Action::Purge(2)];
    assert_eq!(plan_retention(&held, &limits(Some(19)), NOW), all_due);
}

#[test]
fn what_is_left_fits_and_nothing_newer_went_before_something_older() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let held: Vec<Held> = (0..dice.below(60))
            .map(|key| match dice.one_in(3) {
                true => trashed(key, dice.below(10 * DAY), dice.below(2 * DAY), dice.below(100)),
                false => live(key, dice.below(8 * DAY), dice.below(100)),
            })
            .collect();
        let max_size = dice.below(3_000);
        let actions = plan_retention(&held, &limits(Some(max_size)), NOW);
        let is_purged = |segment: &&Held| actions.contains(&Action::Purge(segment.key));
        let (purged, left): (Vec<&Held>, Vec<&Held>) = held.iter().partition(is_purged);
        let size: u64 = left.iter().map(|segment| segment.len.0).sum();
        assert!(size <= max_size, "{size} of {max_size}, replay with seed {seed}");
        let newest_purged = purged.iter().filter(|s| s.trashed.is_none()).map(|s| s.high).max();
        let oldest_left = left.iter().filter(|s| s.trashed.is_none()).map(|s| s.high).min();
        if let (Some(newest), Some(oldest)) = (newest_purged, oldest_left) {
            assert!(newest <= oldest, "replay with seed {seed}");
        }
    }
}

fn after(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms))
}

#[test]
fn a_clock_that_goes_with_time_is_believed() {
    let trusted = TrustedNow::start(NOW, after(5), Some(id(NOW)), limits(None).retain);
    for hours in [0, 1, 24, 24 * 365] {
        let wall = UnixMillis(NOW.0 + hours * HOUR);
        assert_eq!(trusted.now(wall, after(5 + hours * HOUR)), (wall, None));
    }
}

#[test]
fn a_clock_that_jumps_ahead_is_believed_by_a_tenth_of_what_is_retained() {
    let trusted = TrustedNow::start(NOW, after(0), Some(id(NOW)), limits(None).retain);
    let tenth = 7 * DAY / 10;
    let small_jump = UnixMillis(NOW.0 + tenth);
    assert_eq!(trusted.now(small_jump, after(0)), (small_jump, None));
    for years in [1, 100, 8_000] {
        let wall = UnixMillis(NOW.0 + years * 365 * DAY);
        let (now, complaint) = trusted.now(wall, after(HOUR));
        assert_eq!(now, UnixMillis(NOW.0 + tenth + HOUR));
        assert_eq!(complaint, Some(Complaint { wall, trusted: now }));
    }
}

#[test]
fn a_clock_that_steps_back_only_delays() {
    let trusted = TrustedNow::start(NOW, after(0), None, limits(None).retain);
    assert_eq!(trusted.now(UnixMillis(0), after(DAY)), (UnixMillis(0), None));
}

#[test]
fn a_process_that_starts_with_a_wrong_clock_goes_by_the_newest_record() {
    let newest = UnixMillis(NOW.0 - HOUR);
    let wrong = UnixMillis(NOW.0 + 365 * DAY);
    let trusted = TrustedNow::start(wrong, after(0), Some(id(newest)), limits(None).retain);
    let (now, complaint) = trusted.now(wrong, after(0));
    assert_eq!(now, UnixMillis(newest.0 + 7 * DAY / 10));
    let sentence = complaint.unwrap().to_string();
    assert!(sentence.contains(&wrong.to_string()) && sentence.contains(&now.to_string()), "{sentence}");
    assert_eq!(TrustedNow::start(NOW, after(0), Some(Id::MAX), Duration::ZERO).now(NOW, after(0)), (NOW, None));
}

#[test]
fn nothing_goes_more_than_a_tenth_early_however_the_clock_jumps() {
    let retain = limits(None).retain;
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let trusted = TrustedNow::start(NOW, after(0), Some(id(NOW)), retain);
        let mut elapsed = 0;
        for _ in 0..50 {
            elapsed += dice.below(DAY);
            let wall = UnixMillis(dice.below(2 * NOW.0));
            let held = live(1, dice.below(9 * DAY), 1);
            let true_age = elapsed + (NOW.0 - held.high.millis().0);
            let actions = plan_retention(&[held], &limits(None), trusted.now(wall, after(elapsed)).0);
            if !actions.is_empty() {
                assert!(true_age + 7 * DAY / 10 > 7 * DAY, "after {true_age} ms, replay with seed {seed}");
            }
        }
    }
}

#[test]
fn nothing_is_due_until_it_is_said_that_something_may_be() {
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let held: Vec<Held> = (0..dice.below(20))
            .map(|key| match dice.one_in(3) {
                true => trashed(key, dice.below(9 * DAY), dice.below(DAY), 1),
                false => live(key, dice.below(7 * DAY), 1),
            })
            .collect();
        let limits = limits(None);
        let until = nothing_before(&held, &limits);
        let earlier = UnixMillis(until.0 - dice.below(10 * DAY));
        for now in [until, earlier] {
            assert_eq!(plan_retention(&held, &limits, now), [], "replay with seed {seed}");
        }
        let later = UnixMillis(until.0.saturating_add(1));
        assert_eq!(plan_retention(&held, &limits, later).is_empty(), held.is_empty(), "replay with seed {seed}");
    }
}
