use super::*;
use crate::record::id::StreamBits;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::{Clock, SystemClock};
use crate::world::entropy::Dice;

/// 1,600 bytes, so that full is above 700 and small up to 400; slots of 1 s.
fn limits() -> Limits {
    Limits::new(Bytes(1_600), Duration::from_secs(2))
}

/// First and last millisecond, length.
type Given = (u64, u64, u64);

/// Segments with the keys 0, 1, 2, ...
fn segments(given: &[Given]) -> Vec<Candidate> {
    let id = |ms: u64, counter: u32| Id::new(UnixNanos(ms * 1_000_000), StreamBits::from_random(1), counter);
    let candidate = |(key, &(low, high, len)): (usize, &Given)| Candidate {
        key: key as u64,
        low: id(low, 0),
        high: id(high, u32::MAX),
        len: Bytes(len),
    };
    given.iter().enumerate().map(candidate).collect()
}

/// Segments of these lengths one after the other, 10 ms each.
fn row(lens: &[u64]) -> Vec<Candidate> {
    let given: Vec<Given> =
        lens.iter().enumerate().map(|(at, len)| (at as u64 * 10, at as u64 * 10 + 9, *len)).collect();
    segments(&given)
}

fn planned(segments: &[Candidate]) -> Option<(Reason, Vec<u64>)> {
    plan(segments, &limits()).map(|job| (job.reason, job.inputs))
}

#[test]
fn nothing_is_planned_for_nothing_or_for_one() {
    assert_eq!(planned(&[]), None);
    assert_eq!(planned(&row(&[0])), None);
    assert_eq!(planned(&row(&[5])), None);
    assert_eq!(planned(&row(&[9_999])), None);
}

#[test]
fn small_segments_are_joined_when_they_come_to_four_times_the_largest() {
    let cases: &[(&[u64], Option<&[u64]>)] = &[
        (&[10, 10, 10], None),
        (&[10, 10, 10, 10], Some(&[0, 1, 2, 3])),
        (&[40, 10, 10, 10], None),
        (&[40, 10, 10, 10, 10], Some(&[1, 2, 3, 4])),
        (&[40, 40, 40, 10, 10, 10, 10], Some(&[3, 4, 5, 6])),
        (&[40, 40, 40, 40, 10, 10, 10], Some(&[0, 1, 2, 3, 4, 5, 6])),
        (&[400, 400, 400, 400], Some(&[0, 1, 2, 3])),
        (&[401, 401, 401], None),
    ];
    for (lens, expected) in cases {
        let expected = expected.map(|inputs| (Reason::Join, inputs.to_vec()));
        assert_eq!(planned(&row(lens)), expected, "{lens:?}");
    }
}

#[test]
fn a_full_segment_between_small_ones_is_stepped_over() {
    assert_eq!(planned(&row(&[10, 10, 1_500, 10, 10])), Some((Reason::Join, vec![0, 1, 3, 4])));
}

#[test]
fn no_run_leaves_its_slot_and_what_is_wide_is_left_alone() {
    let four = |last: (u64, u64)| segments(&[(0, 9, 10), (10, 19, 10), (20, 29, 10), (last.0, last.1, 10)]);
    assert_eq!(planned(&four((999, 1_999))), Some((Reason::Join, vec![0, 1, 2, 3])));
    assert_eq!(planned(&four((1_000, 1_009))), Some((Reason::Close, vec![0, 1, 2])), "its slot is over");
    assert_eq!(planned(&four((30, 2_000))), None, "it ends in the slot after the next");
}

#[test]
fn one_job_takes_64_segments_at_most() {
    let job = plan(&row(&[1; 200]), &limits()).unwrap();
    assert_eq!((job.inputs.len(), job.cut), (MOST_INPUTS, Bytes(64)));
    assert_eq!(job.inputs[63], 63, "the oldest first");
}

#[test]
fn a_run_is_closed_when_the_next_segment_would_take_it_over_the_target() {
    assert_eq!(planned(&row(&[600, 600, 300])), None, "it may grow by 100 yet");
    assert_eq!(planned(&row(&[600, 600, 300, 101])), Some((Reason::Close, vec![0, 1, 2])));
    assert_eq!(planned(&row(&[1_500, 101])), None, "what is full is never taken again");
    assert_eq!(planned(&row(&[600, 1_500, 600, 600])), Some((Reason::Close, vec![0, 2])));
}

#[test]
fn what_is_left_of_a_past_slot_is_closed_only_if_that_doubles_its_largest() {
    let cases: &[(&[u64], Option<&[u64]>)] = &[
        (&[300, 200, 100], Some(&[0, 1, 2])),
        (&[300, 200, 99], None),
        (&[650, 30], None),
        (&[650, 60], Some(&[0, 1])),
    ];
    for (lens, expected) in cases {
        let mut given = row(lens);
        given.extend(segments(&[(5_000, 5_001, 1)]));
        given.last_mut().unwrap().key = 99;
        let expected = expected.map(|inputs| (Reason::Close, inputs.to_vec()));
        assert_eq!(planned(&given), expected, "{lens:?}");
    }
}

#[test]
fn large_segments_that_lie_over_each_other_are_cut_into_even_parts() {
    let two = segments(&[(0, 99, 1_600), (20, 119, 1_600), (200, 209, 1_600)]);
    let job = plan(&two, &limits()).unwrap();
    assert_eq!(job, Job { inputs: vec![0, 1], reason: Reason::Overlap, cut: Bytes(1_067) });
    assert_eq!(even_cut(1_600, Bytes(1_600)), Bytes(1_600));
    assert_eq!(even_cut(1_601, Bytes(1_600)), Bytes(801));
    assert_eq!(even_cut(3_150, Bytes(1_600)), Bytes(1_575));
}

#[test]
fn an_overlap_is_left_alone_when_it_is_small_unsettled_narrow_or_dear() {
    let cases: &[(&str, &[Given])] = &[
        ("shares less than half", &[(0, 99, 1_600), (60, 159, 1_600), (200, 209, 1_600)]),
        ("nothing newer has come", &[(0, 99, 1_600), (20, 119, 1_600)]),
        ("one of them is small", &[(0, 99, 1_600), (20, 119, 400), (200, 209, 1_600)]),
        ("reaches over too much", &[(0, 1_500, 1_600), (600, 2_100, 1_600), (2_200, 2_209, 1_600)]),
        ("writes more than twice what lies over", &[(0, 99, 1_600), (10, 89, 1_000), (200, 209, 1_600)]),
    ];
    for (why, given) in cases {
        assert_eq!(planned(&segments(given)), None, "{why}");
    }
}

#[test]
fn a_chain_of_overlaps_is_merged_16_at_a_time() {
    let chain: Vec<Given> = (0..40).map(|at| (at * 10, at * 10 + 20, 1_600)).collect();
    let (reason, inputs) = planned(&segments(&chain)).unwrap();
    assert_eq!((reason, inputs.len()), (Reason::Overlap, MOST_OVERLAPPING));
}

#[test]
fn any_list_of_segments_comes_to_rest() {
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let random = |dice: &mut Dice| {
            let low = dice.below(6_000);
            let longest = [1, 50, 2_500][dice.below(3) as usize];
            (low, low + dice.below(longest), 1 << dice.below(12))
        };
        let mut given: Vec<Given> = (0..dice.below(120)).map(|_| random(&mut dice)).collect();
        given.sort();
        let mut held = segments(&given);
        let mut jobs = 0;
        while let Some(job) = plan(&held, &limits()) {
            let (inputs, rest) = held.iter().copied().partition(|segment| job.inputs.contains(&segment.key));
            held = rest;
            held.extend(super::simulation_tests::merged(&inputs, job.cut, 1_000 * (jobs + 1)));
            held.sort_by_key(|segment| (segment.low, segment.key));
            jobs += 1;
            assert!(jobs < 1_000, "replay with seed {seed}");
        }
    }
}

#[test]
fn a_hundred_thousand_segments_are_planned_at_once() {
    let mut dice = Dice::new(1);
    let small: Vec<u64> = (0..100_000).map(|_| 10_000 + dice.below(1 << 20)).collect();
    let full = vec![100 << 20; 100_000];
    let mut falling: Vec<u64> = (0..100_000).map(|at| 1 + at * at / 400).collect();
    falling.reverse();
    let limits = Limits::new(Bytes(128 << 20), Duration::from_secs(60_000));
    for lens in [small, full, falling] {
        let segments = row(&lens);
        let clock = SystemClock::default();
        let job = plan(&segments, &limits);
        let took = clock.now().0;
        // 7 ms at most where it was measured; the rest is for machines that are slow or busy.
        assert!(took < Duration::from_millis(500), "{took:?} for {:?}", job.map(|job| job.reason));
    }
}
