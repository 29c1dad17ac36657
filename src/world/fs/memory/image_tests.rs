//! Images, copies and faults: what each gives, in sentences.

use super::*;
use crate::unit::{UnixMillis, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::fs::{File, FileSystem, read_full_at};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DATA: &str = "data";

fn path(name: &str) -> PathBuf {
    Path::new(DATA).join(name)
}

fn fresh() -> MemoryFs {
    let fs = MemoryFs::with_clock(Arc::new(VirtualClock::at(UnixNanos(0))));
    fs.create_dir_all(Path::new(DATA)).unwrap();
    fs
}

fn names(fs: &MemoryFs) -> Vec<String> {
    fs.list(Path::new(DATA)).unwrap().into_iter().map(|entry| entry.name).collect()
}

fn content(fs: &MemoryFs, name: &str) -> Vec<u8> {
    let file = fs.open(&path(name)).unwrap();
    let mut bytes = vec![0; file.size().unwrap().0 as usize];
    assert_eq!(read_full_at(&*file, &mut bytes, Bytes(0)).unwrap(), bytes.len());
    bytes
}

fn written(fs: &MemoryFs, name: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = fs.create_new(&path(name)).unwrap();
    file.append(bytes).unwrap();
    file
}

fn kind<T>(result: io::Result<T>) -> io::ErrorKind {
    result.err().expect("an error").kind()
}

fn images(fs: &MemoryFs, n: u64) -> impl Iterator<Item = MemoryFs> {
    (0..n).map(|seed| fs.image(&mut Dice::new(seed)))
}

#[test]
fn an_image_and_the_disk_it_was_taken_of_go_their_own_ways() {
    let fs = fresh();
    let file = written(&fs, "a", b"one");
    file.sync_data().unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    fs.set_capacity(Bytes(10));
    let _held = fs.lock_dir(Path::new(DATA)).unwrap();
    fs.fail_nth(Op::Open, 1, io::ErrorKind::Other);
    let image = fs.image(&mut Dice::new(1));
    assert_eq!(image.space(Path::new(DATA)).unwrap(), super::super::Space { total: Bytes(10), available: Bytes(7) });
    image.open_append(&path("a")).unwrap().append(b" image").unwrap();
    drop(image.lock_dir(Path::new(DATA)).unwrap());
    file.append(b" disk").unwrap();
    fs.create_new(&path("b")).err().expect("the planned fault is still the disk's own");
    assert_eq!((content(&image, "a"), content(&fs, "a")), (b"one image".to_vec(), b"one disk".to_vec()));
    assert_eq!((image.operations(), fs.tally().images), (1, 1));
}

#[test]
fn the_harshest_image_holds_what_is_synced_and_nothing_else() {
    let fs = fresh();
    let file = written(&fs, "a", b"synced");
    file.sync_data().unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    file.append(b" not").unwrap();
    written(&fs, "b", b"no name").sync_data().unwrap();
    fs.rename_new(&path("a"), &path("c")).unwrap();
    let image = fs.harshest_image();
    assert_eq!((names(&image), content(&image, "a")), (vec!["a".to_string()], b"synced".to_vec()));
    assert_eq!(
        fs.harshest_image().harshest_image().list(Path::new(DATA)).unwrap().len(),
        1,
        "of an image all is synced"
    );
}

#[test]
fn a_length_may_reach_the_disk_without_its_content_and_pages_in_any_order() {
    let fs = fresh();
    let file = written(&fs, "a", b"");
    fs.sync_dir(Path::new(DATA)).unwrap();
    file.append(&[b'x'; 3 * 4096]).unwrap();
    let mut seen = BTreeSet::new();
    for image in images(&fs, 4_000) {
        let kept = content(&image, "a");
        if kept.len() == 3 * 4096 {
            let whole = |page: &[u8]| page.iter().all(|byte| *byte == b'x');
            let empty = |page: &[u8]| page.iter().all(|byte| *byte == 0);
            let pages: Vec<char> = kept
                .chunks(4096)
                .map(|page| {
                    if whole(page) {
                        'x'
                    } else if empty(page) {
                        '0'
                    } else {
                        '/'
                    }
                })
                .collect();
            seen.insert(String::from_iter(pages));
        }
    }
    for pages in ["xxx", "000", "0xx", "x0x", "xx0", "00x", "0x0", "x00", "x/x", "/x0"] {
        assert!(seen.contains(pages), "{pages} in {seen:?}");
    }
}

#[test]
fn a_directory_whose_entry_was_not_synced_is_lost_with_all_that_was_synced_in_it() {
    let fs = MemoryFs::new();
    // As create_dir_all would be if it synced nothing.
    fs.create_dir_all(Path::new("made")).unwrap();
    let made = lock(&fs.state).dir(Path::new("made")).unwrap();
    lock(&fs.state).make_dir(made, OsStr::new("sub"));
    let file = fs.create_new(Path::new("made/sub/a")).unwrap();
    file.append(b"synced").unwrap();
    file.sync_data().unwrap();
    fs.sync_dir(Path::new("made/sub")).unwrap();
    let there = |image: &MemoryFs| image.open(Path::new("made/sub/a")).is_ok();
    let kept = images(&fs, 100).filter(there).count();
    assert!((10..90).contains(&kept), "{kept} of 100");
    assert_eq!(fs.harshest_image().list(Path::new("made")).unwrap(), []);
    assert_eq!(
        fs.harshest_image().space(Path::new("made")).unwrap().available,
        Bytes(u64::MAX),
        "nor does it use room"
    );
    // Whoever comes next syncs it.
    fs.create_dir_all(Path::new("made/sub/deeper")).unwrap();
    assert!(there(&fs.harshest_image()) && images(&fs, 100).all(|image| there(&image)));
}

#[test]
fn create_dir_all_leaves_directories_that_no_crash_takes_and_may_be_cut_short_anywhere() {
    let deep = Path::new("a/b/c");
    let whole = MemoryFs::new();
    whole.create_dir_all(deep).unwrap();
    assert_eq!(whole.operations(), 6, "each directory, and the sync of each entry");
    assert_eq!(whole.harshest_image().list(deep).unwrap(), []);
    for at in 0..6 {
        let fs = MemoryFs::new();
        fs.crash_at(at);
        fs.create_dir_all(deep).unwrap_err();
        fs.recover();
        for image in images(&fs, 20).chain([fs.harshest_image(), fs.copy()]) {
            image.create_dir_all(deep).unwrap();
            assert_eq!(image.harshest_image().list(deep).unwrap(), [], "cut short before operation {at}");
        }
    }
}

#[test]
fn a_rename_never_half_happens_and_takes_what_is_in_a_directory_with_it() {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("data/sub")).unwrap();
    written(&fs, "sub/a", b"").sync_data().unwrap();
    fs.sync_dir(Path::new("data/sub")).unwrap();
    fs.rename_new(&path("sub"), &path("sub.corrupt")).unwrap();
    let mut seen = BTreeSet::new();
    for image in images(&fs, 50) {
        let [name] = &names(&image)[..] else { panic!("{:?}", names(&image)) };
        image.open(&path(name).join("a")).unwrap();
        seen.insert(name.clone());
    }
    assert_eq!(Vec::from_iter(seen), ["sub", "sub.corrupt"]);
}

#[test]
fn a_time_that_was_set_is_lost_like_other_changes_of_a_directory_whatever_is_synced_of_the_file() {
    let fs = fresh();
    let file = written(&fs, "a", b"x");
    file.sync_data().unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    fs.set_modified(&path("a"), UnixMillis(7)).unwrap();
    file.sync_data().unwrap();
    let time = |fs: &MemoryFs| fs.list(Path::new(DATA)).unwrap()[0].modified;
    let seen: BTreeSet<UnixMillis> = images(&fs, 50).map(|image| time(&image)).collect();
    assert_eq!(Vec::from_iter(seen), [UnixMillis(0), UnixMillis(7)]);
    fs.sync_dir(Path::new(DATA)).unwrap();
    assert_eq!((time(&fs.harshest_image()), time(&fs)), (UnixMillis(7), UnixMillis(7)));
}

#[test]
fn a_killed_process_loses_nothing_and_what_was_not_synced_still_is_not() {
    let fs = fresh();
    let file = written(&fs, "a", b"synced ");
    file.sync_data().unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    file.append(b"cached").unwrap();
    fs.rename_new(&path("a"), &path("b")).unwrap();
    let removed = written(&fs, "c", b"gone");
    fs.remove(&path("c")).unwrap();
    let copy = fs.copy();
    drop((file, removed, fs));
    assert_eq!((names(&copy), content(&copy, "b")), (vec!["b".to_string()], b"synced cached".to_vec()));
    let harshest = copy.harshest_image();
    assert_eq!((names(&harshest), content(&harshest, "a")), (vec!["a".to_string()], b"synced ".to_vec()));
    // A sync by the next process is a sync: the file is one, whether it is reached by its old name or its new one.
    copy.open_append(&path("b")).unwrap().sync_data().unwrap();
    assert_eq!(content(&copy.harshest_image(), "a"), b"synced cached");
    copy.sync_dir(Path::new(DATA)).unwrap();
    assert_eq!(names(&copy.harshest_image()), ["b"]);
}

#[test]
fn a_watched_disk_gives_a_picture_before_each_operation_the_harshest_first() {
    let fs = fresh();
    fs.watch(Some(Watch { one_in: 1, images: 3, most: 100, dice: Dice::new(1) }));
    let first = fs.operations();
    let file = written(&fs, "a", b"bytes");
    fs.rename_new(&path("a"), &path("b")).unwrap();
    file.sync_data().unwrap();
    file.truncate(Bytes(2)).unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    content(&fs, "b");
    let pictures = fs.pictures();
    let what: Vec<(u64, Op, PathBuf)> =
        pictures.iter().step_by(3).map(|p| (p.operation - first, p.what, p.path.clone())).collect();
    let expected = [
        (0, Op::Create, path("a")),
        (1, Op::Write, path("a")),
        (2, Op::Rename, path("a")),
        (3, Op::SyncFile, path("b")),
        (4, Op::Truncate, path("b")),
        (5, Op::SyncDir, PathBuf::from(DATA)),
    ];
    assert_eq!(what, expected);
    assert!(pictures.iter().step_by(3).all(|picture| names(&picture.image).is_empty()), "nothing had a durable name");
    assert!(pictures.iter().any(|picture| names(&picture.image) == ["b"]), "others kept more");
    assert_eq!((fs.pictures().len(), fs.tally().images), (0, 18));
    fs.watch(Some(Watch { one_in: 1, images: 3, most: 4, dice: Dice::new(1) }));
    for _ in 0..5 {
        fs.sync_dir(Path::new(DATA)).unwrap();
    }
    assert_eq!(fs.pictures().len(), 4, "no more than may wait");
    fs.watch(None);
    fs.sync_dir(Path::new(DATA)).unwrap();
    assert_eq!(fs.pictures().len(), 0);
}

#[test]
fn one_in_so_many_operations_is_watched() {
    let fs = fresh();
    fs.watch(Some(Watch { one_in: 10, images: 1, most: usize::MAX, dice: Dice::new(1) }));
    for _ in 0..1_000 {
        fs.sync_dir(Path::new(DATA)).unwrap();
    }
    let taken = fs.pictures().len();
    assert!((50..200).contains(&taken), "{taken}");
}

/// Does the same on a disk on which one sort of operation always fails in one way.
fn failing(set: impl Fn(&mut Misbehaviour), seed: u64) -> MemoryFs {
    let fs = fresh();
    written(&fs, "a", b"0123456789").sync_data().unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    let mut how = Misbehaviour::none(Dice::new(seed));
    set(&mut how);
    fs.misbehave(Some(how));
    fs
}

fn given(fs: &MemoryFs) -> Vec<Fault> {
    fs.tally().faults().filter(|(_, n)| *n > 0).map(|(fault, _)| fault).collect()
}

#[test]
fn a_write_that_fails_leaves_any_part_of_its_bytes() {
    type Way = (fn(&mut Misbehaviour), Fault, io::ErrorKind);
    let ways: [Way; 3] = [
        (|how| how.write_error = 1, Fault::WriteError, io::Error::from(rustix::io::Errno::IO).kind()),
        (|how| how.write_full = 1, Fault::WriteFull, io::ErrorKind::StorageFull),
        (|how| how.write_short = 1, Fault::WriteShort, io::ErrorKind::WriteZero),
    ];
    for (set, fault, expected) in ways {
        let mut left = BTreeSet::new();
        for seed in 0..100 {
            let fs = failing(set, seed);
            let file = fs.open_append(&path("a")).unwrap();
            assert_eq!(kind(file.append(b"abc")), expected);
            left.insert(content(&fs, "a"));
            assert_eq!(given(&fs), [fault]);
            fs.misbehave(None);
            file.append(b"!").unwrap();
        }
        let parts = [&b"0123456789"[..], b"0123456789a", b"0123456789ab"];
        assert_eq!(Vec::from_iter(left), parts, "{fault:?}");
    }
}

#[test]
fn a_file_sync_that_fails_leaves_pages_clean_that_no_later_sync_brings() {
    let (mut lost, mut brought) = (0, 0);
    for seed in 0..50 {
        let fs = failing(|how| (how.sync_error, how.sync_full) = (2, 1), seed);
        let file = fs.open_append(&path("a")).unwrap();
        file.append(&[b'x'; 4 * 4096]).unwrap();
        file.sync_data().unwrap_err();
        fs.misbehave(None);
        file.sync_data().unwrap();
        assert!(content(&fs, "a").ends_with(b"xxxx"), "as long as the cache lives");
        let kept = content(&fs.harshest_image(), "a");
        assert!(kept.starts_with(b"0123456789") && kept.len() == 10 + 4 * 4096, "replay with seed {seed}");
        let pages = kept[10..].chunks(4096).filter(|page| page[4000..].contains(&0)).count();
        assert!(pages > 0, "replay with seed {seed}");
        lost += pages;
        brought += usize::from(kept.contains(&b'x'));
    }
    assert!(lost > 100 && brought > 10, "{lost} pages lost, {brought} files in part");
}

#[test]
fn a_directory_sync_that_fails_brings_some_changes_and_a_later_one_only_what_is_changed_again() {
    let mut seen = BTreeMap::new();
    for seed in 0..200 {
        let fs = failing(|how| how.sync_dir_error = 1, seed);
        written(&fs, "b", b"");
        fs.rename_new(&path("a"), &path("c")).unwrap();
        fs.sync_dir(Path::new(DATA)).unwrap_err();
        fs.misbehave(None);
        let after_failure = names(&fs.harshest_image());
        written(&fs, "other", b"");
        fs.sync_dir(Path::new(DATA)).unwrap();
        let expected: Vec<String> = after_failure.iter().cloned().chain(["other".to_string()]).collect();
        assert_eq!(names(&fs.harshest_image()), expected, "a later sync brings nothing more: seed {seed}");
        fs.rename_new(&path("c"), &path("d")).unwrap();
        fs.rename_new(&path("b"), &path("e")).unwrap();
        fs.sync_dir(Path::new(DATA)).unwrap();
        assert_eq!(names(&fs.harshest_image()), ["d", "e", "other"], "what is changed again comes whole: seed {seed}");
        *seen.entry(after_failure.join(" ")).or_insert(0) += 1;
    }
    assert_eq!(seen.into_keys().collect::<Vec<_>>(), ["a", "a b", "b c", "c"]);
}

#[test]
fn a_rename_that_fails_has_not_happened_or_has() {
    let fs = failing(|how| how.rename_error = 1, 1);
    assert_eq!(fs.rename_new(&path("a"), &path("b")).unwrap_err().raw_os_error(), Some(5));
    assert_eq!((names(&fs), given(&fs)), (vec!["a".to_string()], vec![Fault::RenameError]));
    let fs = failing(|how| how.rename_lie = 1, 1);
    assert_eq!(fs.rename_new(&path("a"), &path("b")).unwrap_err().raw_os_error(), Some(5));
    assert_eq!((names(&fs), given(&fs)), (vec!["b".to_string()], vec![Fault::RenameLie]));
    assert_eq!(kind(fs.rename_new(&path("a"), &path("c"))), io::ErrorKind::NotFound);
}

#[test]
fn what_cannot_be_opened_made_cut_or_removed_is_as_it_was() {
    let fs = failing(|how| (how.open_error, how.remove_error, how.truncate_error) = (1, 1, 1), 1);
    for refused in [fs.open(&path("a")), fs.open_append(&path("a")), fs.create_new(&path("b"))] {
        assert_eq!(refused.err().expect("an error").raw_os_error(), Some(24));
    }
    assert_eq!(fs.remove(&path("a")).unwrap_err().raw_os_error(), Some(5));
    fs.lock_dir(Path::new(DATA)).err().expect("a lock is a file too");
    fs.misbehave(None);
    let file = fs.open_append(&path("a")).unwrap();
    fs.misbehave(Some(Misbehaviour { truncate_error: 1, ..Misbehaviour::none(Dice::new(1)) }));
    file.truncate(Bytes(1)).unwrap_err();
    assert_eq!((names(&fs), content(&fs, "a")), (vec!["a".to_string()], b"0123456789".to_vec()));
    let fs = failing(|how| how.create_full = 1, 1);
    assert_eq!(kind(fs.create_new(&path("b"))), io::ErrorKind::StorageFull);
    assert_eq!(kind(fs.create_dir_all(&path("sub"))), io::ErrorKind::StorageFull);
    assert_eq!(names(&fs), ["a"]);
}

#[test]
fn a_read_fails_is_interrupted_or_short_and_reading_on_gives_all() {
    let fs = failing(|how| how.read_error = 1, 1);
    assert_eq!(fs.open(&path("a")).unwrap().read_at(&mut [0; 4], Bytes(0)).unwrap_err().raw_os_error(), Some(5));
    let fs = failing(|how| (how.read_interrupted, how.read_short) = (2, 2), 1);
    for _ in 0..100 {
        assert_eq!(content(&fs, "a"), b"0123456789");
    }
    assert_eq!(given(&fs), [Fault::ReadInterrupted, Fault::ReadShort]);
}

#[test]
fn the_nth_operation_that_can_fail_in_a_way_does_and_no_other() {
    let fs = failing(|_| {}, 1);
    fs.plan(Fault::RenameLie, 2);
    fs.plan(Fault::SyncError, 1);
    fs.sync_dir(Path::new(DATA)).unwrap();
    fs.rename_new(&path("a"), &path("b")).unwrap();
    fs.open_append(&path("b")).unwrap().sync_data().unwrap_err();
    fs.rename_new(&path("b"), &path("c")).unwrap_err();
    assert_eq!((names(&fs), given(&fs)), (vec!["c".to_string()], vec![Fault::SyncError, Fault::RenameLie]));
    fs.rename_new(&path("c"), &path("d")).unwrap();
}

#[test]
fn what_is_reserved_is_there_whole_after_a_crash_or_not_at_all() {
    let fs = fresh();
    fs.reserve(&path("ballast"), Bytes(10_000)).unwrap();
    fs.sync_dir(Path::new(DATA)).unwrap();
    let seen: BTreeSet<usize> = images(&fs, 50).map(|image| content(&image, "ballast").len()).collect();
    assert_eq!(Vec::from_iter(seen), [0, 10_000]);
}

#[test]
fn a_slow_disk_lets_time_pass_before_an_operation_and_may_be_asked_meanwhile() {
    let clock = Arc::new(VirtualClock::at(UnixNanos(0)));
    let (fs, calls) = (MemoryFs::with_clock(clock.clone()), Arc::new(AtomicU64::new(0)));
    let (inside, counted) = (fs.clone(), calls.clone());
    let slowly = move || {
        clock.advance(Duration::from_secs(1));
        counted.fetch_add(1, Ordering::Relaxed);
        assert_eq!(inside.operations(), 0, "no lock is held");
    };
    let how = Misbehaviour { slow: 1, slowly: Some(Arc::new(slowly)), ..Misbehaviour::none(Dice::new(1)) };
    fs.misbehave(Some(how));
    fs.create_new(Path::new("a")).unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    fs.misbehave(None);
    assert_eq!(fs.list(Path::new("")).unwrap()[0].modified, UnixMillis(1_000), "the time was there first");
    assert_eq!(given(&fs), [Fault::Slow]);
}

#[test]
fn what_was_done_and_what_went_wrong_is_counted_by_sort() {
    let fs = failing(|how| how.write_error = 1, 1);
    fs.open_append(&path("a")).unwrap().append(b"x").unwrap_err();
    fs.misbehave(None);
    fs.set_capacity(Bytes(0));
    fs.open_append(&path("a")).unwrap().append(b"x").unwrap_err();
    fs.crash(&mut Dice::new(1));
    let mut tally = fs.tally();
    tally.add(&fs.tally());
    let done: Vec<(Op, u64)> = tally.operations().filter(|(_, n)| *n > 0).collect();
    let expected =
        [(Op::Open, 4), (Op::Create, 2), (Op::Write, 6), (Op::SyncFile, 2), (Op::SyncDir, 4), (Op::CreateDir, 4)];
    assert_eq!(done, expected);
    assert_eq!((given(&fs), tally.crashes), (vec![Fault::Full, Fault::WriteError], 2));
    assert_eq!(MemoryFs::new().tally(), Tally::default());
}
