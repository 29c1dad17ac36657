//! Files that are not what their names say: each row of the table of recovery, and crashes within.

use super::*;
use crate::world::entropy::Dice;
use crate::world::fs::memory::Op;
use std::collections::{BTreeMap, BTreeSet};

const GOOD: [u128; 3] = [5, 6, 7];

fn flushed(first: u128, last: u128) -> String {
    file_name(first, last, 0, State::Flushed)
}

fn files(fs: &MemoryFs) -> BTreeMap<String, Vec<u8>> {
    let content = |name: &String| {
        let file = fs.open(&Path::new(DIR).join(name)).expect("there");
        let mut content = vec![0; file.size().expect("open").0 as usize];
        file.read_at(&mut content, Bytes(0)).expect("readable");
        content
    };
    names(fs).into_iter().map(|name| (name.clone(), content(&name))).collect()
}

fn found(log: &StoreLog) -> Vec<u128> {
    let content = all(log).concat();
    let mut ids: Vec<u128> = stored::records(&content).map(|record| record.id().expect("whole").0).collect();
    ids.sort_unstable();
    ids
}

/// One row: what lies in the directory, what lies in it after the start, what is found, and how many were wrong.
fn check(before: &[(&str, &[u8])], after: &[&str], expected: &[u128], wrong: u64) {
    let fs = MemoryFs::new();
    before.iter().for_each(|(name, content)| write_file(&fs, name, content));
    for round in 0..3 {
        let log = open(&fs);
        let what = format!("{:?}, round {round}", before.iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!(found(&log), expected, "{what}");
        assert_eq!(log.corrupt().get(), if round == 0 { wrong } else { 0 }, "{what}: said once");
        let mut after: Vec<&str> = after.to_vec();
        after.sort_unstable();
        assert_eq!(names(&fs), after, "{what}");
    }
    let now = files(&fs);
    for (name, content) in before {
        let aside = now.get(&format!("{name}.corrupt"));
        assert!(aside.is_none_or(|aside| aside == content), "{name} was changed before it was set aside");
    }
}

#[test]
fn a_file_that_is_damaged_at_an_end_gives_what_is_whole_and_is_set_aside() {
    let good = body(GOOD, "good");
    let (right, wide) = (flushed(5, 7), flushed(4, 9));
    for tail in [&b"0000000000"[..], b"garbage", &[0; 5_000], b"no record\n"] {
        let damaged = [&good[..], tail].concat();
        // The copy cannot have the name that the damaged file still has.
        let copy = file_name(5, 7, 1, State::Flushed);
        check(&[(&right, &damaged)], &[&copy, &format!("{right}.corrupt")], &GOOD, 1);
        check(&[(&wide, &damaged)], &[&right, &format!("{wide}.corrupt")], &GOOD, 1);
    }
    check(&[(&right, b"")], &[&format!("{right}.corrupt")], &[], 1);
    check(&[(&right, b"a later version's\n")], &[&format!("{right}.corrupt")], &[], 1);
    let cut = &good[..good.len() / 3 * 2];
    check(&[(&right, cut)], &[&flushed(5, 6)], &[5, 6], 1);
    let swapped = [body([5, 6, 30], "good"), body([7, 8], "good")].concat();
    let wide = flushed(5, 30);
    let mut damaged = swapped.clone();
    damaged.extend_from_slice(b"torn");
    // A single record out of order has a damaged id: its neighbours are in order without it.
    check(&[(&wide, &damaged)], &[&flushed(5, 8), &format!("{wide}.corrupt")], &[5, 6, 7, 8], 1);
}

#[test]
fn a_sound_file_with_a_wrong_name_goes_on_under_the_right_one() {
    let good = body(GOOD, "good");
    for (first, last) in [(5, 9), (4, 7), (1, 2)] {
        check(&[(&flushed(first, last), &good)], &[&flushed(5, 7)], &GOOD, 1);
        check(&[(&file_name(first, last, 3, State::Reading), &good)], &[&flushed(5, 7)], &GOOD, 1);
    }
    let low = Id(5).to_string();
    let lower = format!("{}-{}.flushed", Id(31).to_string().to_lowercase(), Id(31));
    let third = format!("{low}-{low}-x.flushed");
    let descending = format!("{}-{}.flushed", Id(7), Id(5));
    for name in [&*lower, &third, &descending, "5ad47d2e-3b54-4d0c-9a35.active", &format!("{low}.flushed")] {
        check(&[(name, &good)], &[&flushed(5, 7)], &GOOD, 0);
    }
    // What the Go OK Log left: any ULIDs, in order.
    let ids = [u128::MAX / 3, u128::MAX / 3 + 99, u128::MAX / 2];
    let name = flushed(ids[0], ids[2]);
    check(&[(&name, &body(ids, "of old"))], &[&name], &ids, 0);
}

#[test]
fn what_is_none_of_ours_is_set_aside_and_never_touched_again() {
    let trashed = format!("{}.trashed", Id(5));
    for name in ["notes.txt", "noextension", "x.sealed", &trashed, "UPPER.store"] {
        check(&[(name, b"by a person")], &[&format!("{name}.corrupt")], &[], 1);
    }
    // Only what our writers call so was never acknowledged.
    check(&[(&file_name(5, 5, 0, State::Active), &body(GOOD, "x"))], &[], &[], 0);
    check(&[(&file_name(5, 7, 0, State::Active), &body(GOOD, "x"))], &[&flushed(5, 7)], &GOOD, 0);
}

#[test]
fn without_room_a_damaged_file_stays_and_a_reader_comes_to_the_damage() {
    let (fs, name) = (MemoryFs::new(), flushed(5, 7));
    let damaged = [&body(GOOD, "good")[..], b"torn"].concat();
    write_file(&fs, &name, &damaged);
    fs.set_capacity(Bytes(damaged.len() as u64 + 20));
    let log = open(&fs);
    let segment = log.snapshot(Id(0), Id::MAX).pop().expect("in the catalogue");
    assert!(segment.check(&damaged, 0, (0, damaged.len() as u64)).is_err());
    assert_eq!(files(&fs), [(name.clone(), damaged)].into());
    drop((segment, log));
    fs.set_capacity(Bytes(u64::MAX));
    assert_eq!(found(&open(&fs)), GOOD);
    assert_eq!(names(&fs).len(), 2);
}

#[test]
fn one_file_that_cannot_be_read_or_renamed_does_not_keep_the_store_from_opening() {
    let name = flushed(5, 7);
    let fs = MemoryFs::new();
    write_file(&fs, &name, &body(GOOD, "good"));
    // The lock and the two files of the ballast come first.
    (4..8).for_each(|n| fs.fail_nth(Op::Open, n, io::ErrorKind::PermissionDenied));
    let log = open(&fs);
    assert_eq!((found(&log), log.corrupt().get()), (vec![], 1));
    assert_eq!(names(&fs), [format!("{name}.corrupt")]);

    let fs = MemoryFs::new();
    write_file(&fs, "notes.txt", b"mine");
    write_file(&fs, &file_name(5, 7, 0, State::Reading), &body(GOOD, "good"));
    (1..3).for_each(|n| fs.fail_nth(Op::Rename, n, io::ErrorKind::Other));
    assert_eq!(found(&open(&fs)), GOOD, "under the name it has");
    assert_eq!(names(&fs).len(), 2);

    let fs = MemoryFs::new();
    write_file(&fs, &name, &body(GOOD, "good"));
    fs.fail_nth(Op::Read, 1, io::ErrorKind::Other);
    assert_eq!(found(&open(&fs)), GOOD, "an error that does not come again costs nothing");
    assert_eq!(names(&fs), [name]);

    let fs = MemoryFs::new();
    write_file(&fs, "notes.txt", b"mine");
    fs.fail_nth(Op::Rename, 1, io::ErrorKind::PermissionDenied);
    let refused = try_open(&fs).err().expect("refused").to_string();
    assert!(refused.contains("must belong to the user"), "{refused}");
}

#[test]
fn the_directory_of_an_ingest_tier_is_refused_untouched() {
    let fs = MemoryFs::new();
    write_file(&fs, &format!("{}.ingest", "a".repeat(32)), b"");
    write_file(&fs, &format!("{}.flushed", Id(5)), &body(GOOD, "good"));
    let refused = try_open(&fs).err().expect("refused").to_string();
    assert!(refused.contains("directory of another tier"), "{refused}");
    assert_eq!(names(&fs).len(), 2);
}

#[test]
fn a_crash_at_any_operation_of_a_recovery_costs_nothing_and_removes_nothing() {
    let build = |fs: &MemoryFs| {
        let mut hole = body(100..400, "good");
        hole[4_096..8_192].fill(0);
        let hole = [&hole[..], b"torn"].concat();
        write_file(fs, &flushed(100, 399), &hole);
        write_file(fs, &flushed(5, 7), &[&body(GOOD, "good")[..], b"torn"].concat());
        write_file(fs, &file_name(5, 7, 0, State::Reading), &[&body(GOOD, "good")[..], b"torn"].concat());
        write_file(fs, &flushed(10, 30), &body([10, 11, 12], "good"));
        write_file(fs, &flushed(40, 49), &[body([40, 41, 48, 49], "good"), body([44, 45], "good")].concat());
        write_file(fs, "notes.txt", b"mine");
        write_file(fs, &file_name(1, 1, 0, State::Active), b"x");
    };
    let expected = {
        let fs = MemoryFs::new();
        build(&fs);
        found(&open(&fs)).into_iter().collect::<BTreeSet<_>>()
    };
    assert!([5, 7, 10, 12, 40, 44, 49, 100, 399].iter().all(|id| expected.contains(id)), "{expected:?}");
    let mut crash = 0;
    loop {
        let mut ended = false;
        for again in 0..4 {
            let fs = MemoryFs::new();
            build(&fs);
            let kept: Vec<Vec<u8>> =
                files(&fs).into_values().filter(|content| content.ends_with(b"torn") || content == b"mine").collect();
            fs.crash_at(fs.operations() + crash);
            ended = try_open(&fs).is_ok();
            fs.crash(&mut Dice::new(crash * 4 + again));
            fs.recover();
            let log = open(&fs);
            let replay = format!("crash at operation {crash}, replay with seed {}", crash * 4 + again);
            assert_eq!(found(&log).into_iter().collect::<BTreeSet<_>>(), expected, "{replay}");
            let now = files(&fs);
            for content in &kept {
                let count = now.iter().filter(|(name, other)| name.ends_with(".corrupt") && *other == content).count();
                assert!(count > 0, "{replay}: {:?}", now.keys());
            }
            drop(log);
            assert_eq!(open(&fs).corrupt().get(), 0, "{replay}: said once");
        }
        if ended {
            assert!(crash > 15, "the recovery is too small to show anything: {crash}");
            return;
        }
        crash += 1;
    }
}

#[test]
fn a_segment_that_a_reader_found_damaged_gives_what_is_whole_and_is_set_aside() {
    let fs = MemoryFs::new();
    let mut damaged = body(1..400, "good");
    let len = damaged.len() / 399;
    damaged[200 * len + 3] = b'!';
    write_file(&fs, &flushed(1, 399), &damaged);
    let log = open(&fs);
    let segment = log.snapshot(Id(0), Id::MAX).pop().expect("its ends are right");
    let refused = segment.check(&damaged, 0, (0, damaged.len() as u64)).expect_err("damaged");
    assert!(
        refused.to_string().ends_with(&format!("no id where a record must begin, at byte {}", 200 * len)),
        "{refused}"
    );
    assert!(segment.take_damaged() && !segment.take_damaged());
    log.set_aside(&segment).expect("room for the copy");
    assert_eq!(found(&log).len(), 398);
    assert_eq!((log.corrupt().get(), files(&fs)[&format!("{}.corrupt", flushed(1, 399))] == damaged), (1, true));
    let copy = log.snapshot(Id(0), Id::MAX).pop().expect("what is whole");
    assert!(copy.is_known_whole() && log.set_aside(&copy).is_err(), "nothing is wrong with the copy");
}

#[path = "sealed_tests.rs"]
mod sealed;
