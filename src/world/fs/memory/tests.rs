use super::*;
use crate::unit::{UnixMillis, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{Entry, FileSystem, Space, read_full_at};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

fn path(name: &str) -> PathBuf {
    Path::new("data").join(name)
}

fn fresh() -> MemoryFs {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("data")).unwrap();
    fs
}

fn names(fs: &MemoryFs) -> Vec<String> {
    fs.list(Path::new("data")).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn content(fs: &MemoryFs, name: &str) -> Vec<u8> {
    let file = fs.open(&path(name)).unwrap();
    let mut bytes = vec![0; file.size().unwrap().0 as usize];
    assert_eq!(read_full_at(&*file, &mut bytes, Bytes(0)).unwrap(), bytes.len());
    bytes
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("an error").kind()
}

#[test]
fn what_is_appended_is_read_back_through_any_handle() {
    let fs = fresh();
    let file = fs.create_new(&path("a")).unwrap();
    file.append(b"one ").unwrap();
    fs.clone().open_append(Path::new("./data/a")).unwrap().append(b"two").unwrap();
    assert_eq!(content(&fs, "a"), b"one two");
    let mut buffer = [0; 8];
    assert_eq!(file.read_at(&mut buffer, Bytes(4)).unwrap(), 3);
    assert_eq!(file.read_at(&mut buffer, Bytes(99)).unwrap(), 0);
    file.truncate(Bytes(3)).unwrap();
    assert_eq!(content(&fs, "a"), b"one");
    assert_eq!(kind(fs.open(&path("a")).unwrap().append(b"x")), io::ErrorKind::PermissionDenied);
}

#[test]
fn a_name_is_never_given_twice() {
    let fs = fresh();
    fs.create_new(&path("a")).unwrap().append(b"one").unwrap();
    fs.create_new(&path("b")).unwrap().append(b"two").unwrap();
    assert_eq!(kind(fs.create_new(&path("a"))), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(fs.rename_new(&path("a"), &path("b"))), io::ErrorKind::AlreadyExists);
    assert_eq!(content(&fs, "b"), b"two");
    fs.rename_new(&path("a"), &path("c")).unwrap();
    assert_eq!(names(&fs), ["b", "c"]);
    assert_eq!(kind(fs.open(&path("a"))), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.rename_new(&path("a"), &path("d"))), io::ErrorKind::NotFound);
    assert_eq!(kind(fs.create_new(Path::new("elsewhere/a"))), io::ErrorKind::NotFound);
}

#[test]
fn a_listing_shows_directories_sizes_and_times() {
    let clock = Arc::new(VirtualClock::at(UnixMillis(5_000).nanos()));
    let fs = MemoryFs::with_clock(clock.clone());
    fs.create_dir_all(Path::new("/var/data")).unwrap();
    let file = fs.create_new(Path::new("/var/a")).unwrap();
    clock.advance(Duration::from_secs(1));
    file.append(b"four").unwrap();
    let entry = |name: &str, is_file, size, ms| Entry {
        name: name.into(),
        is_file,
        size: Bytes(size),
        modified: UnixMillis(ms),
    };
    assert_eq!(fs.list(Path::new("/var")).unwrap(), [entry("a", true, 4, 6_000), entry("data", false, 0, 0)]);
    clock.set_unix(UnixNanos(0));
    fs.set_modified(Path::new("/var/a"), UnixMillis(7)).unwrap();
    assert_eq!(fs.list(Path::new("/var")).unwrap()[0], entry("a", true, 4, 7));
    assert_eq!(kind(fs.list(Path::new("/none"))), io::ErrorKind::NotFound);
}

#[test]
fn a_removed_file_can_be_read_by_who_has_it_open() {
    let fs = fresh();
    let file = fs.create_new(&path("a")).unwrap();
    file.append(b"still here").unwrap();
    fs.remove(&path("a")).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(read_full_at(&*file, &mut buffer, Bytes(0)).unwrap(), 10);
    assert!(names(&fs).is_empty());
}

#[test]
fn what_was_synced_survives_every_crash() {
    for seed in 0..200 {
        let mut dice = Dice::new(seed);
        let fs = fresh();
        let file = fs.create_new(&path("a")).unwrap();
        file.append(b"synced").unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(Path::new("data")).unwrap();
        file.append(&[b'x'; 10_000]).unwrap();
        fs.crash(&mut dice);
        let kept = content(&fs, "a");
        assert!(kept.starts_with(b"synced"), "replay with seed {seed}");
        assert!(kept[6..].iter().all(|b| [0, b'x'].contains(b)), "replay with seed {seed}");
    }
}

#[test]
fn every_way_to_lose_unsynced_bytes_comes_up() {
    let (mut nothing, mut all, mut part, mut holes) = (0, 0, 0, 0);
    for seed in 0..200 {
        let fs = fresh();
        let file = fs.create_new(&path("a")).unwrap();
        fs.sync_dir(Path::new("data")).unwrap();
        file.append(&[b'x'; 20_000]).unwrap();
        fs.crash(&mut Dice::new(seed));
        let kept = content(&fs, "a");
        match kept.len() {
            _ if kept.contains(&0) => holes += 1,
            0..100 => nothing += 1,
            20_000 => all += 1,
            _ => part += 1,
        }
    }
    assert!(nothing > 0 && all > 10 && part > 10 && holes > 10, "{nothing} {all} {part} {holes}");
}

#[test]
fn a_file_whose_directory_was_not_synced_may_be_gone() {
    let mut seen = BTreeMap::new();
    for seed in 0..100 {
        let fs = fresh();
        let file = fs.create_new(&path("a")).unwrap();
        file.append(b"synced").unwrap();
        file.sync_data().unwrap();
        fs.rename_new(&path("a"), &path("b")).unwrap();
        fs.crash(&mut Dice::new(seed));
        for name in names(&fs) {
            assert_eq!(content(&fs, &name), b"synced", "replay with seed {seed}");
        }
        *seen.entry(names(&fs)).or_insert(0) += 1;
    }
    let ways: Vec<Vec<String>> = seen.into_keys().collect();
    assert_eq!(ways, [vec![], vec!["a".to_string()], vec!["b".to_string()]], "gone, before, after");
}

#[test]
fn changes_to_one_file_are_lost_from_the_end_while_others_may_survive() {
    let (mut only_second, mut renamed_without_time) = (0, 0);
    for seed in 0..300 {
        let fs = fresh();
        fs.create_new(&path("a")).unwrap();
        fs.create_new(&path("b")).unwrap();
        fs.sync_dir(Path::new("data")).unwrap();
        fs.set_modified(&path("a"), UnixMillis(7)).unwrap();
        fs.rename_new(&path("a"), &path("a.trashed")).unwrap();
        fs.remove(&path("b")).unwrap();
        fs.crash(&mut Dice::new(seed));
        let entries = fs.list(Path::new("data")).unwrap();
        let trashed = entries.iter().find(|entry| entry.name == "a.trashed");
        only_second += usize::from(trashed.is_none() && entries.len() == 1);
        renamed_without_time += usize::from(trashed.is_some_and(|entry| entry.modified != UnixMillis(7)));
    }
    assert!(only_second > 0, "the removal came first at times");
    assert_eq!(renamed_without_time, 0, "a time that was set before a rename is there after it");
}

#[test]
fn a_truncation_that_was_not_synced_may_not_have_happened() {
    let mut seen = BTreeMap::new();
    for seed in 0..2_000 {
        let fs = fresh();
        let file = fs.create_new(&path("a")).unwrap();
        file.append(b"whole torn").unwrap();
        file.sync_data().unwrap();
        fs.sync_dir(Path::new("data")).unwrap();
        file.truncate(Bytes(8)).unwrap();
        file.truncate(Bytes(5)).unwrap();
        fs.crash(&mut Dice::new(seed));
        *seen.entry(content(&fs, "a")).or_insert(0) += 1;
    }
    let ways = ["whole", "whole to", "whole torn", "whole\0\0\0", "whole to\0\0", "whole\0\0\0\0\0"];
    assert!(seen.keys().all(|kept| ways.iter().any(|way| way.as_bytes() == kept)), "{seen:?}");
    assert!(ways.iter().all(|way| seen.contains_key(way.as_bytes())), "each way comes up: {seen:?}");
}

#[test]
fn a_full_medium_takes_what_fits_and_has_room_again_after_a_removal() {
    let fs = fresh();
    fs.set_capacity(Bytes(10));
    let file = fs.create_new(&path("a")).unwrap();
    file.append(b"seven b").unwrap();
    assert_eq!(fs.space(Path::new("data")).unwrap(), Space { total: Bytes(10), available: Bytes(3) });
    assert_eq!(kind(file.append(b"12345")), io::ErrorKind::StorageFull);
    assert_eq!(content(&fs, "a"), b"seven b123");
    file.truncate(Bytes(7)).unwrap();
    let other = fs.create_new(&path("b")).unwrap();
    assert_eq!(kind(other.append(b"4444")), io::ErrorKind::StorageFull);
    fs.remove(&path("a")).unwrap();
    other.append(b"5555555").unwrap();
    assert_eq!(fs.space(Path::new("data")).unwrap().available, Bytes(0));
    file.append(b"nobody's").unwrap_err();
}

#[test]
fn the_nth_operation_of_a_sort_fails_alone() {
    let fs = fresh();
    fs.fail_nth(Op::Write, 2, io::ErrorKind::Other);
    fs.fail_nth(Op::Rename, 1, io::ErrorKind::PermissionDenied);
    fs.fail_nth(Op::Open, 2, io::ErrorKind::NotFound);
    fs.fail_nth(Op::Remove, 1, io::ErrorKind::PermissionDenied);
    let file = fs.create_new(&path("a")).unwrap();
    assert_eq!(kind(fs.open(&path("a"))), io::ErrorKind::NotFound);
    file.append(b"1111").unwrap();
    assert_eq!(kind(file.append(b"2222")), io::ErrorKind::Other);
    file.append(b"3333").unwrap();
    assert_eq!(content(&fs, "a"), b"1111223333", "half of a failed write is there");
    assert_eq!(kind(fs.rename_new(&path("a"), &path("b"))), io::ErrorKind::PermissionDenied);
    fs.rename_new(&path("a"), &path("b")).unwrap();
    assert_eq!(kind(fs.remove(&path("b"))), io::ErrorKind::PermissionDenied);
    fs.remove(&path("b")).unwrap();
    fs.fail_nth(Op::Read, 1, io::ErrorKind::Other);
    assert_eq!(kind(file.read_at(&mut [0], Bytes(0))), io::ErrorKind::Other);
}

#[test]
fn what_a_failed_sync_marked_clean_is_lost_although_the_next_sync_succeeds() {
    for seed in 0..50 {
        let fs = fresh();
        let file = fs.create_new(&path("a")).unwrap();
        fs.sync_dir(Path::new("data")).unwrap();
        file.append(b"safe").unwrap();
        file.sync_data().unwrap();
        file.append(b"lost").unwrap();
        fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
        assert_eq!(kind(file.sync_data()), io::ErrorKind::Other);
        file.append(b"kept").unwrap();
        file.sync_data().unwrap();
        assert_eq!(content(&fs, "a"), b"safelostkept", "as long as the cache lives");
        fs.crash(&mut Dice::new(seed));
        assert_eq!(content(&fs, "a"), b"safe\0\0\0\0kept", "replay with seed {seed}");
    }
}

#[test]
fn a_directory_whose_sync_failed_is_not_durable_yet() {
    let gone = (0..20).filter(|seed| {
        let fs = fresh();
        fs.create_new(&path("a")).unwrap();
        fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
        fs.sync_dir(Path::new("data")).unwrap_err();
        fs.crash(&mut Dice::new(*seed));
        names(&fs).is_empty()
    });
    assert!(gone.count() > 0);
}

#[test]
fn nothing_works_from_the_chosen_operation_on_until_recovery() {
    let workload = |fs: &MemoryFs| -> io::Result<()> {
        let file = fs.create_new(&path("x.active"))?;
        file.append(b"record\n")?;
        file.sync_data()?;
        fs.rename_new(&path("x.active"), &path("x.flushed"))?;
        fs.sync_dir(Path::new("data"))
    };
    let fs = fresh();
    let before = fs.operations();
    workload(&fs).unwrap();
    assert_eq!(fs.operations() - before, 5);
    for at in 0..5 {
        let fs = fresh();
        fs.crash_at(before + at);
        workload(&fs).unwrap_err();
        assert_eq!(fs.operations(), before + at);
        fs.list(Path::new("data")).unwrap_err();
        fs.open(&path("x.active")).err().expect("down");
        fs.crash(&mut Dice::new(at));
        fs.create_new(&path("y")).err().expect("still down");
        fs.recover();
        fs.create_new(&path("y")).unwrap();
    }
}

#[test]
fn files_opened_before_a_crash_fail_after_it_and_a_killed_process_loses_nothing() {
    let fs = fresh();
    let file = fs.create_new(&path("a")).unwrap();
    file.append(b"in the cache").unwrap();
    fs.recover();
    assert_eq!(content(&fs, "a"), b"in the cache");
    file.append(b"!").unwrap_err();
    file.sync_data().unwrap_err();
    file.size().unwrap_err();
}

#[test]
fn a_locked_directory_is_held_until_the_guard_or_the_process_is_gone() {
    let fs = fresh();
    assert_eq!(kind(fs.lock_dir(Path::new("none"))), io::ErrorKind::NotFound);
    let held = fs.lock_dir(Path::new("data")).unwrap();
    let refused = fs.lock_dir(Path::new("./data")).err().expect("held");
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    drop(held);
    let first_life = fs.lock_dir(Path::new("data")).unwrap();
    fs.recover();
    let _second_life = fs.lock_dir(Path::new("data")).unwrap();
    drop(first_life);
    assert_eq!(kind(fs.lock_dir(Path::new("data"))), io::ErrorKind::WouldBlock);
    assert_eq!(names(&fs), [LOCK_NAME]);
}

#[derive(Clone, Copy, PartialEq)]
enum LeftOut {
    Nothing,
    FileSync,
    DirectorySync,
}

/// Writes a segment as it must be written, but for what is left out.
fn flush(fs: &MemoryFs, left_out: LeftOut) -> io::Result<()> {
    let file = fs.create_new(&path("x.active"))?;
    file.append(b"record\n")?;
    if left_out != LeftOut::FileSync {
        file.sync_data()?;
    }
    fs.rename_new(&path("x.active"), &path("x.flushed"))?;
    if left_out != LeftOut::DirectorySync {
        fs.sync_dir(Path::new("data"))?;
    }
    Ok(())
}

/// Whether some crash at some operation loses what was promised, or shows what was never whole under the final name.
fn some_crash_breaks(left_out: LeftOut) -> bool {
    let broken = |at: u64, seed: u64| {
        let fs = fresh();
        fs.crash_at(fs.operations() + at);
        let promised = flush(&fs, left_out).is_ok();
        fs.crash(&mut Dice::new(seed));
        fs.recover();
        match names(&fs).contains(&"x.flushed".to_string()) {
            true => content(&fs, "x.flushed") != b"record\n",
            false => promised,
        }
    };
    (0..6).any(|at| (0..100).any(|seed| broken(at, seed)))
}

#[test]
fn leaving_out_either_sync_of_a_flush_is_found_and_the_whole_sequence_stands() {
    assert!(some_crash_breaks(LeftOut::FileSync));
    assert!(some_crash_breaks(LeftOut::DirectorySync));
    assert!(!some_crash_breaks(LeftOut::Nothing));
}
