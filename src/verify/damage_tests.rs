//! What content tells: each sort of damage is made by hand and found, at its place, and with what it leads to.

use super::finding::{Excuse, What};
use super::streams::Oddity;
use super::tests::{Bench, LEN, NOW, bytes, found, id, ids, name};
use super::walk::{Fault, MOST_FAULTS, Stretch};
use crate::record::id::Id;
use crate::record::stored;
use crate::segment::State;

/// The findings on a store whose one segment of ten records was damaged so, and the exit status.
fn damaged(damage: impl Fn(&mut Vec<u8>)) -> (Vec<What>, u8) {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    let mut content = bytes(&all);
    damage(&mut content);
    let name = bench.segment_of("store", &all, State::Flushed, &content);
    let (found, status) = bench.found();
    assert!(found.iter().all(|(of, _)| *of == name), "{found:?}");
    (found.into_iter().map(|(_, what)| what).collect(), status)
}

fn stretch(from: u64, to: u64) -> Stretch {
    Stretch { from, to }
}

fn fault(fault: Fault) -> What {
    What::Fault(fault, Excuse::None)
}

fn gap(from: u32, to: u32) -> What {
    let (before, after) = (id(100, 1, from - 1), id(100, 1, to + 1));
    What::Stream(Oddity::Gap { from, to, before, after }, Excuse::None)
}

const AT: usize = LEN as usize;

#[test]
fn a_line_without_an_id_is_named_by_its_bytes_and_its_counter_is_missing() {
    for at in [0, 25, 26] {
        let (all, status) = damaged(|content| content[3 * AT + at] = b'!');
        let at = stretch(3 * LEN, 4 * LEN);
        assert_eq!((all, status), (vec![fault(Fault::NotRecords { at, zeroes: None }), gap(3, 3)], 1));
    }
}

#[test]
fn a_lost_line_feed_makes_one_record_of_two_and_shows_as_a_missing_counter() {
    assert_eq!(damaged(|content| content[4 * AT - 1] = b'.'), (vec![gap(4, 4)], 1));
}

#[test]
fn a_line_feed_too_many_is_found() {
    let (all, status) = damaged(|content| content[3 * AT + 30] = b'\n');
    let at = stretch(3 * LEN + 31, 4 * LEN);
    assert_eq!((all, status), (vec![fault(Fault::NotRecords { at, zeroes: None })], 1));
}

#[test]
fn a_file_that_was_cut_ends_within_a_record_and_before_its_name_says() {
    let (all, status) = damaged(|content| content.truncate(8 * AT + 5));
    let torn = fault(Fault::Torn { at: stretch(8 * LEN, 8 * LEN + 5), zeroes: None });
    let last = What::OtherLast { last: id(100, 1, 7), named: id(100, 1, 9) };
    assert_eq!((all, status), (vec![torn, last.clone()], 1));
    assert_eq!(damaged(|content| content.truncate(8 * AT)), (vec![last], 1));
    assert_eq!(damaged(Vec::clear), (vec![What::Empty(Excuse::None)], 1));
}

#[test]
fn a_torn_end_is_what_a_kill_leaves_in_an_active_segment_alone() {
    let all = ids(100, 1, 0..10);
    let torn = &bytes(&all)[..9 * AT + 3];
    for (state, excuse) in [(State::Active, Excuse::Killed), (State::Flushed, Excuse::None)] {
        let bench = Bench::new();
        bench.ingest("ingest", 7);
        let name = bench.waiting("ingest", all[0], state, torn);
        let (found, status) = found(&bench.check(&["ingest"]));
        let at = stretch(9 * LEN, 9 * LEN + 3);
        assert_eq!(found[0], (name, What::Fault(Fault::Torn { at, zeroes: None }, excuse)));
        assert_eq!(status, u8::from(excuse == Excuse::None));
    }
    let bench = Bench::new();
    bench.ingest("ingest", 7);
    let name = bench.waiting("ingest", all[0], State::Active, b"");
    let expected = vec![(name.clone(), What::Empty(Excuse::Killed)), (name, What::Unclosed)];
    assert_eq!(found(&bench.check(&["ingest"])), (expected, 0));
}

#[test]
fn zeroes_are_said_to_be_zeroes_wherever_they_are() {
    let bench = Bench::with_store();
    let all = ids(100, 1, 0..100);
    let mut content = bytes(&all);
    content[10 * AT..10 * AT + 1024].fill(0);
    bench.segment_of("store", &all, State::Flushed, &content);
    let (found, status) = bench.found();
    let zeroes = Some(stretch(10 * LEN, 10 * LEN + 1024));
    assert_eq!(found[0].1, fault(Fault::NotRecords { at: stretch(10 * LEN, 35 * LEN), zeroes }));
    assert_eq!((&found[1].1, found.len(), status), (&gap(10, 34), 2, 1));

    let (all, status) = damaged(|content| content.extend_from_slice(&[0; 4096]));
    let at = stretch(10 * LEN, 10 * LEN + 4096);
    assert_eq!((all, status), (vec![fault(Fault::Torn { at, zeroes: Some(at) })], 1));

    // Within a record they may be what was sent.
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..1));
    let mut content = Vec::new();
    stored::write(&mut content, all[0], &[&b"text"[..], &[0; 600], b"text"].concat());
    let name = bench.segment_of("store", &all, State::Flushed, &content);
    let zeroes = What::Fault(Fault::Zeroes { at: stretch(31, 631), id: all[0] }, Excuse::Sent);
    assert_eq!(bench.found(), (vec![(name, zeroes)], 0));

    // Not where records are missing behind them.
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..100));
    let mut content = bytes(&all);
    content[10 * AT + 30..10 * AT + 630].fill(0);
    let name = bench.segment_of("store", &all, State::Flushed, &content);
    let at = stretch(10 * LEN + 30, 10 * LEN + 630);
    let zeroes = What::Fault(Fault::Zeroes { at, id: all[10] }, Excuse::None);
    assert_eq!(bench.found(), (vec![(name.clone(), zeroes), (name, gap(11, 25))], 1));
}

#[test]
fn records_out_of_order_are_named_one_by_one() {
    let swapped = |content: &mut Vec<u8>| {
        let third: Vec<u8> = content.drain(3 * AT..4 * AT).collect();
        content.splice(6 * AT..6 * AT, third);
    };
    let (all, status) = damaged(swapped);
    let out = fault(Fault::OutOfOrder { at: 6 * LEN, id: id(100, 1, 3), neighbour: id(100, 1, 6) });
    assert_eq!((all, status), (vec![out, gap(3, 3)], 1));

    let (all, status) = damaged(|content| {
        let (far, mut one) = (id(1, 1, 4), Vec::new());
        stored::write(&mut one, far, b"record00000004");
        content.splice(4 * AT..5 * AT, one);
    });
    let out = fault(Fault::OutOfOrder { at: 4 * LEN, id: id(1, 1, 4), neighbour: id(100, 1, 5) });
    assert_eq!((all, status), (vec![out, gap(4, 4)], 1));
}

#[test]
fn an_id_that_comes_twice_in_a_file_is_named_and_whether_both_are_alike() {
    let (all, status) = damaged(|content| {
        let again = content[3 * AT..4 * AT].to_vec();
        content.splice(4 * AT..4 * AT, again);
    });
    assert_eq!((all, status), (vec![fault(Fault::Twice { at: 4 * LEN, id: id(100, 1, 3), alike: true })], 1));
    let (all, _) = damaged(|content| {
        let (again, at) = (content[3 * AT..4 * AT].to_vec(), 4 * AT);
        content.splice(at..at, again);
        content[at + 30] = b'!';
    });
    assert_eq!(all, [fault(Fault::Twice { at: 4 * LEN, id: id(100, 1, 3), alike: false })]);
}

#[test]
fn a_name_that_is_not_that_of_the_content_is_found() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    let (low, high) = (id(101, 1, 0), id(99, 1, 9));
    let file = bench.segment_of("store", &[low, high], State::Flushed, &bytes(&all));
    let first = What::OtherFirst { first: all[0], named: low };
    let last = What::OtherLast { last: all[9], named: high };
    assert_eq!(bench.found(), (vec![(file.clone(), first), (file, last)], 1));

    // A name that is too narrow hides nothing.
    let bench = Bench::with_store();
    bench.segment_of("store", &all[4..6], State::Flushed, &bytes(&all));
    assert_eq!((bench.found().0.len(), bench.check(&["store"]).by_stores.get(&1)), (2, Some(&10)));
}

#[test]
fn damage_everywhere_is_listed_up_to_a_bound_and_counted_beyond() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..100));
    let mut content = bytes(&all);
    (1..99).step_by(2).for_each(|n| content[n * AT] = b'!');
    bench.segment_of("store", &all, State::Flushed, &content);
    let (found, _) = bench.found();
    let faults = found.iter().filter(|(_, what)| matches!(what, What::Fault(..))).count();
    assert_eq!(faults, MOST_FAULTS);
    assert!(found.iter().any(|(_, what)| *what == What::MoreFaults(49 - MOST_FAULTS as u64)), "{found:?}");
}

#[test]
fn a_counter_that_is_missing_in_one_file_may_be_in_another() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    bench.segment("store", &[&all[..3], &all[5..]].concat(), State::Flushed);
    bench.segment("store", &all[3..5], State::Trashed);
    assert_eq!(bench.found(), (vec![], 0));
    let bench = Bench::with_store();
    let file = bench.segment("store", &[&all[..3], &all[5..]].concat(), State::Flushed);
    assert_eq!(bench.found(), (vec![(file, gap(3, 4))], 1));
}

#[test]
fn a_segment_that_is_gone_from_the_middle_shows_where_streams_went_through_it() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..30));
    bench.segment("store", &all[..10], State::Flushed);
    let behind = bench.segment("store", &all[20..], State::Flushed);
    assert_eq!(bench.found(), (vec![(behind, gap(10, 19))], 1));
}

#[test]
fn a_stream_without_its_beginning_is_excused_at_the_beginning_of_a_store_alone() {
    let headless = |first, excuse| What::Stream(Oddity::Headless { first }, excuse);
    let bench = Bench::with_store();
    let old = bench.segment("store", &ids(5_000, 1, 4..10), State::Flushed);
    let young = bench.segment("store", &ids(1_000, 2, 4..10), State::Flushed);
    let found = bench.found();
    let expected =
        [(old, headless(id(5_000, 1, 4), Excuse::Retention)), (young, headless(id(1_000, 2, 4), Excuse::None))];
    assert_eq!(found, (expected.to_vec(), 1));
}

#[test]
fn an_id_whose_counter_was_damaged_is_told_from_records_that_are_lost() {
    let (stray, mut one) = (id(100, 1, 0), Vec::new());
    // The counter is the lowest 32 bits: the order does not show it.
    let stray = Id((stray.0 & !0xFFFF_FFFF) | 4 << 60 | 0x8000_0004);
    stored::write(&mut one, stray, b"record00000004");
    let (all, status) = damaged(|content| {
        content.splice(4 * AT..5 * AT, one.clone());
    });
    assert_eq!((all, status), (vec![What::Stream(Oddity::Stray { id: stray, expected: 4 }, Excuse::None)], 1));
}

#[test]
fn records_of_the_future_are_noted() {
    let bench = Bench::with_store();
    let ahead = Id::new(crate::unit::UnixNanos(NOW.0 + 3_600_000_000_000), id(1, 1, 0).stream(), 0);
    let file = bench.segment("store", &[ahead], State::Flushed);
    assert_eq!(bench.found(), (vec![(file, What::Future { last: ahead })], 0));
    assert_eq!(name(&[ahead], State::Flushed).len(), 61);
}
