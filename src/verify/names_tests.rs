//! What names alone tell: each kind of strange name is found, and said of the right file.

use super::finding::{Severity, What};
use super::plan::{Place, Tier, plan};
use super::tests::{Bench, ID, NOW, bytes, found, id, ids};
use crate::record::id::{Id, StreamBits};
use crate::segment::State;
use crate::unit::UnixNanos;
use crate::world::fs::Entry;

/// The findings on one file more in a sound store, and the exit status.
fn with(file: &str, content: &[u8]) -> (Vec<(String, What)>, u8) {
    let bench = Bench::with_store();
    bench.segment("store", &ids(100, 1, 0..10), State::Flushed);
    bench.put(&format!("store/{file}"), content);
    bench.found()
}

/// The same in an ingest directory.
fn with_ingest(file: &str, content: &[u8]) -> (Vec<(String, What)>, u8) {
    let bench = Bench::new();
    bench.ingest("ingest", 7);
    bench.waiting("ingest", id(100, 1, 0), State::Flushed, &bytes(&ids(100, 1, 0..10)));
    bench.put(&format!("ingest/{file}"), content);
    found(&bench.check(&["ingest"]))
}

#[test]
fn a_name_that_no_server_gives_is_a_problem_and_what_belongs_there_is_not() {
    for name in ["notes.txt", "core", "X.flushed", ".flushed", "LOCK2", "members.old"] {
        assert_eq!(with(name, b""), (vec![(name.into(), What::NotUnderstood)], 1));
        assert_eq!(with_ingest(name, b""), (vec![(name.into(), What::NotUnderstood)], 1));
    }
    for name in ["members", "members.new", "ballast", "ballast.new"] {
        assert_eq!(with(name, b"oklog members 1 start=1\n"), (vec![], 0));
    }
    for name in ["ballast", "ballast.new"] {
        assert_eq!(with(name, &[0; 9_000]), (vec![], 0), "room that is kept back");
        assert_eq!(with_ingest(name, &[0; 9_000]), (vec![], 0), "room that is kept back");
    }
    let lower = format!("{}.flushed", id(1, 1, 0)).to_lowercase();
    assert_eq!(with_ingest(&lower, b""), (vec![(lower.clone(), What::NotUnderstood)], 1));
    let trashed = format!("{}.trashed", id(1, 1, 0));
    assert_eq!(with_ingest(&trashed, b""), (vec![(trashed.clone(), What::NotUnderstood)], 1));
}

#[test]
fn a_name_that_is_not_utf_8_is_named_and_not_opened() {
    let name = "x\u{FFFD}.flushed";
    assert_eq!(with(name, b"anything"), (vec![(name.into(), What::NotUtf8)], 1));
    // The name of a store's draft has the first id twice; another one is taken in by a start.
    let name = super::tests::name(&ids(1, 1, 0..5), State::Active);
    assert_eq!(with(&name, b""), (vec![(name.clone(), What::NotUnderstood)], 1));
}

#[test]
fn a_name_of_the_other_tier_is_told_from_nonsense() {
    let of_ingest = format!("{}.flushed", id(1, 1, 0));
    assert_eq!(with(&of_ingest, b""), (vec![(of_ingest.clone(), What::OtherTier)], 1));
    let of_store = super::tests::name(&ids(1, 1, 0..5), State::Flushed);
    assert_eq!(with_ingest(&of_store, b""), (vec![(of_store.clone(), What::OtherTier)], 1));
    let mark = format!("{}.mark", id(1, 1, 0));
    assert_eq!(with(&mark, b""), (vec![(mark.clone(), What::OtherTier)], 1));
}

#[test]
fn a_directory_is_left_alone_unless_it_has_a_segment_s_name() {
    assert_eq!(with("lost+found/x", b""), (vec![("lost+found".into(), What::LeftAlone)], 0));
    assert_eq!(with(&format!("{}.corrupt/x", id(1, 1, 0)), b"").1, 0);
    let name = super::tests::name(&ids(1, 1, 0..5), State::Flushed);
    assert_eq!(with(&format!("{name}/x"), b""), (vec![(name.clone(), What::NotAFile)], 1));
}

#[test]
fn identities_that_are_missing_twice_there_or_misspelt_are_problems() {
    let second = format!("{:032x}.store", ID + 1);
    assert_eq!(with(&second, b""), (vec![(second.clone(), What::SecondIdentity { used: ID })], 1));
    assert_eq!(with("xyz.store", b""), (vec![("xyz.store".into(), What::BadIdentity)], 1));
    let bench = Bench::new();
    bench.segment("store", &ids(100, 1, 0..10), State::Flushed);
    assert_eq!(bench.found(), (vec![(String::new(), What::NoIdentity)], 1));
}

#[test]
fn two_directories_with_one_identity_are_one_store_and_a_problem() {
    let bench = Bench::with_store();
    bench.store("copy", ID);
    for dir in ["store", "copy"] {
        bench.segment(dir, &ids(100, 1, 0..10), State::Flushed);
    }
    let report = bench.check(&["store", "copy"]);
    assert_eq!(found(&report), (vec![(String::new(), What::SameIdentity { other: "store".into() })], 1));
    assert_eq!(report.by_stores.get(&1), Some(&10));
    assert!(bench.try_check(&["store", "copy"], Some(2)).is_err(), "one store cannot have two copies");
}

#[test]
fn of_two_marks_the_lower_one_is_noted_and_so_is_one_in_the_future() {
    let mark = |at: u64| format!("{}.mark", Id::new(UnixNanos(at), StreamBits::from_random(0), 0));
    let (low, high) = (mark(NOW.0 - 5), mark(NOW.0 - 4));
    let bench = Bench::new();
    bench.ingest("ingest", 7);
    bench.put(&format!("ingest/{low}"), b"");
    bench.put(&format!("ingest/{high}"), b"");
    assert_eq!(found(&bench.check(&["ingest"])), (vec![(low, What::LowerMark)], 0));
    let (all, status) = with_ingest(&mark(NOW.0 + 60_000_000_000), b"");
    assert!(matches!(&all[..], [(_, What::FutureMark { .. })]) && status == 0, "{all:?}");
}

#[test]
fn two_files_of_one_ingest_segment_are_a_problem() {
    let name = format!("{}.pending", id(100, 1, 0));
    let (all, status) = with_ingest(&name, &bytes(&ids(100, 1, 0..10)));
    let other = format!("{}.flushed", id(100, 1, 0));
    assert!(all.contains(&(name, What::Twin { other })) && status == 1, "{all:?}");
}

#[test]
fn what_a_killed_server_leaves_is_noted() {
    let all = ids(50, 2, 0..10);
    let name = super::tests::name(&all, State::Reading);
    assert_eq!(with(&name, &bytes(&all)), (vec![(name.clone(), What::Interrupted)], 0));
    for (state, what) in [(State::Active, What::Unclosed), (State::Pending, What::Handed)] {
        let name = format!("{}.{}", all[0], state.extension());
        assert_eq!(with_ingest(&name, &bytes(&all)), (vec![(name.clone(), what)], 0));
    }
}

#[test]
fn a_rescue_that_was_interrupted_is_noted_and_what_is_whole_in_the_file_counts() {
    let all = ids(50, 2, 0..10);
    let name = format!("{}.flushed.damaged", all[0]);
    assert_eq!(with_ingest(&name, &bytes(&all)), (vec![(name.clone(), What::HalfRescued)], 0));
    let copy = format!("{name}.0.copy");
    assert_eq!(with_ingest(&copy, &bytes(&ids(100, 1, 0..5))), (vec![(copy.clone(), What::Draft { alone: None })], 0));
    assert_eq!(with(&name, b"").1, 1, "a store leaves no such file");
}

#[test]
fn whose_directory_it_is_follows_from_what_lies_in_it() {
    let entry = |name: &str, is_file| Entry {
        name: name.into(),
        is_file,
        size: crate::unit::Bytes(0),
        modified: crate::unit::UnixMillis(0),
    };
    let of = |names: &[&str]| {
        let entries: Vec<Entry> =
            names.iter().map(|name| entry(name.trim_end_matches('/'), !name.ends_with('/'))).collect();
        plan(&entries, Id::MAX)
    };
    let tier = |names: &[&str]| match of(names) {
        Place::Dir(plan) => plan.tier,
        other => panic!("{names:?}: {other:?}"),
    };
    let (ingest, store) = (format!("{ID:032x}.ingest"), format!("{ID:032x}.store"));
    let (waiting, kept) = (format!("{}.flushed", id(1, 1, 0)), super::tests::name(&ids(1, 1, 0..2), State::Flushed));
    let (ingest, store, waiting, kept) = (ingest.as_str(), store.as_str(), waiting.as_str(), kept.as_str());
    assert_eq!(tier(&[ingest, kept, "LOCK"]), Some(Tier::Ingest));
    assert_eq!(tier(&[store, waiting]), Some(Tier::Store));
    assert_eq!((tier(&[waiting]), tier(&[kept])), (Some(Tier::Ingest), Some(Tier::Store)));
    assert_eq!(tier(&["LOCK"]), None);
    assert_eq!(of(&["ingest/", "store/", "x"]), Place::Parent(vec!["ingest", "store"]));
    assert_eq!(of(&["store/"]), Place::Parent(vec!["store"]));
    assert_eq!(of(&["store", "x/"]), Place::Strange);
    assert_eq!(of(&[]), Place::Strange);
    assert_eq!(What::LeftAlone.severity(), Severity::Note);
}
