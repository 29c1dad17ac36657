//! What several directories tell together: how many copies, whether they are alike, what is left in files that count for
//! nothing.

use super::copies::Span;
use super::finding::{Excuse, What};
use super::tests::{Bench, LEN, bytes, found, ids};
use crate::record::id::Id;
use crate::segment::State;

/// Three stores `a`, `b`, `c` and an ingester `i`, all empty.
fn cluster() -> Bench {
    let bench = Bench::new();
    ["a", "b", "c"].into_iter().zip(1..).for_each(|(dir, n)| bench.store(dir, n));
    bench.ingest("i", 9);
    bench
}

fn span(ids: &[Id]) -> Span {
    Span { records: ids.len() as u64, first: ids[0], last: ids[ids.len() - 1] }
}

#[test]
fn records_are_counted_by_the_number_of_stores_that_have_them() {
    let bench = cluster();
    bench.segment("a", &ids(100, 1, 0..10), State::Flushed);
    bench.segment("b", &ids(100, 1, 0..7), State::Flushed);
    bench.segment("c", &ids(100, 1, 0..2), State::Reading);
    bench.segment("a", &ids(500, 2, 0..3), State::Trashed);
    let waiting = ids(50, 3, 0..4);
    bench.waiting("i", waiting[0], State::Flushed, &bytes(&waiting));
    bench.segment("c", &waiting[..1], State::Flushed);
    let report = bench.check(&["a", "b", "c", "i"]);
    assert_eq!(report.by_stores.into_iter().collect::<Vec<_>>(), [(1, 4), (2, 5), (3, 2)]);
    assert_eq!((report.waiting, report.trashed), ((3, 1), 3));
}

#[test]
fn too_few_copies_are_a_problem_of_the_directory_that_has_the_last_one() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    bench.segment("a", &all, State::Flushed);
    bench.segment("b", &all[..7], State::Flushed);
    let report = bench.try_check(&["a", "b", "c"], Some(2)).unwrap();
    let lacking = |ids, stores, wanted, others| What::Lacking { span: span(ids), stores, wanted, others };
    assert_eq!(found(&report), (vec![(String::new(), lacking(&all[7..], 1, 2, vec![]))], 1));
    assert_eq!(report.dirs[0].findings.len(), 1);
    assert_eq!(found(&bench.try_check(&["a", "b", "c"], Some(1)).unwrap()), (vec![], 0));
    let (mut three, status) = found(&bench.try_check(&["a", "b", "c"], Some(3)).unwrap());
    three.sort_by_key(|(_, what)| what.to_string());
    let both = lacking(&all[..7], 2, 3, vec!["b".into()]);
    assert_eq!((three.len(), status), (2, 1));
    assert!(three.contains(&(String::new(), both)), "{three:?}");
    let refused = bench.try_check(&["a", "b", "i"], Some(3)).expect_err("refused").to_string();
    assert_eq!(refused, "-copies 3 needs the directories of 3 stores or more, and 2 were given");
}

#[test]
fn a_record_that_an_ingester_has_is_on_its_way_and_needs_no_copy_yet() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    bench.segment("a", &all, State::Flushed);
    bench.waiting("i", all[0], State::Pending, &bytes(&all));
    assert_eq!(bench.try_check(&["a", "b", "i"], Some(2)).unwrap().exit_status(), 0);
    assert_eq!(bench.try_check(&["a", "b"], Some(2)).unwrap().exit_status(), 1);
}

#[test]
fn what_retention_has_begun_to_remove_needs_no_copies() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    bench.segment("a", &all, State::Flushed);
    bench.segment("b", &all, State::Trashed);
    assert_eq!(bench.try_check(&["a", "b"], Some(2)).unwrap().exit_status(), 0);
    bench.segment("a", &ids(50, 2, 0..1), State::Flushed);
    assert_eq!(bench.try_check(&["a", "b"], Some(2)).unwrap().exit_status(), 1);
}

#[test]
fn two_records_under_one_id_are_a_problem_that_names_both_files() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    let mut other = bytes(&all);
    [3, 5].into_iter().for_each(|n| other[n * LEN as usize + 30] = b'!');
    let file = bench.segment("a", &all, State::Flushed);
    bench.segment_of("b", &all, State::Flushed, &other);
    let unlike = What::Unlike { other: format!("b/{file}"), span: Span { records: 2, first: all[3], last: all[5] } };
    assert_eq!(found(&bench.check(&["a", "b"])), (vec![(file, unlike)], 1));
}

#[test]
fn records_that_a_directory_has_twice_are_noted_and_count_once() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    bench.segment("a", &all, State::Flushed);
    bench.segment("a", &all[4..], State::Flushed);
    let report = bench.check(&["a"]);
    assert_eq!(found(&report), (vec![(String::new(), What::Repeated(6))], 0));
    assert_eq!(report.by_stores.get(&1), Some(&10));
}

#[test]
fn what_was_set_aside_matters_if_it_is_the_last_copy() {
    let aside = |records, alone, excuse| What::Aside { records, alone, excuse };
    let all = ids(100, 1, 0..10);
    let with = |kept: &[Id], dirs: &[&str]| {
        let bench = cluster();
        // Old enough that retention excuses nothing.
        bench.segment("a", &ids(5_000, 7, 0..5), State::Flushed);
        bench.segment("a", kept, State::Flushed);
        bench.put("i/x.flushed.corrupt", &[&bytes(&all)[..], b"torn"].concat());
        let (found, status) = found(&bench.check(dirs));
        let mut of = found.into_iter().filter(|(name, _)| name.ends_with(".corrupt"));
        (of.next().unwrap().1, status)
    };
    assert_eq!(with(&all, &["i", "a"]), (aside(10, None, Excuse::None), 0));
    let alone = Some(span(&all[8..]));
    assert_eq!(with(&all[..8], &["i", "a"]), (aside(10, alone, Excuse::None), 1));
    // Without any store it cannot be known.
    assert_eq!(with(&all[..8], &["i"]), (aside(10, Some(span(&all)), Excuse::Elsewhere), 0));

    let bench = cluster();
    bench.segment("a", &ids(50, 7, 0..5), State::Flushed);
    bench.put("a/x.corrupt", &bytes(&all));
    let expected = vec![("x.corrupt".to_string(), aside(10, Some(span(&all)), Excuse::Retention))];
    assert_eq!(found(&bench.check(&["a"])), (expected, 0));
}

#[test]
fn a_record_that_was_set_aside_is_said_to_be_there_and_not_missing_too() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    bench.segment("store", &[&all[..3], &all[4..]].concat(), State::Flushed);
    bench.put("store/x.corrupt", &bytes(&all[3..4]));
    let alone = Some(span(&all[3..4]));
    let expected = vec![("x.corrupt".to_string(), What::Aside { records: 1, alone, excuse: Excuse::None })];
    assert_eq!(bench.found(), (expected, 1));
}

#[test]
fn a_file_under_a_name_that_nobody_gave_is_looked_into() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    bench.segment("store", &all[..8], State::Flushed);
    bench.put("store/backup", &bytes(&all));
    let (found, status) = bench.found();
    let alone = Some(span(&all[8..]));
    assert_eq!(found[0], ("backup".into(), What::NotUnderstood));
    assert_eq!(found[1], ("backup".into(), What::Aside { records: 10, alone, excuse: Excuse::None }));
    assert_eq!((found.len(), status), (2, 1));
}

#[test]
fn what_a_store_was_writing_when_it_ended_counts_for_nothing() {
    let (bench, all) = (Bench::with_store(), ids(100, 1, 0..10));
    bench.segment("store", &all[..5], State::Flushed);
    let name = bench.segment_of("store", &[all[0], all[0]], State::Active, &bytes(&all)[..9 * LEN as usize + 5]);
    let report = bench.check(&["store"]);
    assert_eq!(found(&report), (vec![(name, What::Draft { alone: Some(span(&all[5..9])) })], 0));
    assert_eq!(report.by_stores.get(&1), Some(&5));
}

#[test]
fn a_damaged_copy_is_found_and_its_records_are_known_to_be_elsewhere() {
    let bench = cluster();
    let all = ids(100, 1, 0..10);
    bench.segment("a", &all, State::Flushed);
    let mut content = bytes(&all);
    content[4 * LEN as usize] = b'!';
    bench.segment_of("b", &all, State::Flushed, &content);
    let report = bench.check(&["a", "b"]);
    assert_eq!((report.findings().count(), report.missing), (1, 0), "the bytes are bad, no counter is missing");
    assert_eq!(report.by_stores.into_iter().collect::<Vec<_>>(), [(1, 1), (2, 9)]);
    let lacking = bench.try_check(&["a", "b"], Some(2)).unwrap();
    assert!(
        lacking.findings().any(|finding| matches!(&finding.what, What::Lacking { span, .. } if span.first == all[4]))
    );
}
