//! What every file system that keeps must do alike: each test runs on the machine's own files and on those in memory.

use super::memory::MemoryFs;
use super::real::{LOCK_NAME, RealFs};
use super::{File, FileSystem, read_full_at};
use crate::unit::{Bytes, UnixMillis};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Runs a test on each file system, in a directory of its own.
fn on_each(test: impl Fn(&dyn FileSystem, &Path)) {
    let real = tempfile::tempdir().unwrap();
    test(&RealFs, real.path());
    let memory = MemoryFs::new();
    memory.create_dir_all(Path::new("/tmp/test")).unwrap();
    test(&memory, Path::new("/tmp/test"));
}

fn kind<T>(result: io::Result<T>) -> ErrorKind {
    result.err().expect("an error").kind()
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.size().unwrap().0 as usize];
    assert_eq!(read_full_at(file, &mut bytes, Bytes(0)).unwrap(), bytes.len());
    bytes
}

fn names(fs: &dyn FileSystem, dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs.list(dir).unwrap().into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn a_new_file_is_never_one_that_was_there() {
    on_each(|fs, dir| {
        fs.create_new(&dir.join("a")).unwrap().append(b"one").unwrap();
        fs.create_dir_all(&dir.join("sub")).unwrap();
        assert_eq!(kind(fs.create_new(&dir.join("a"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs.create_new(&dir.join("sub"))), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs.create_new(&dir.join("none/a"))), ErrorKind::NotFound);
        assert_eq!(kind(fs.create_new(&dir.join("a/b"))), ErrorKind::NotADirectory);
        assert_eq!(content(&*fs.open(&dir.join("a")).unwrap()), b"one");
    });
}

#[test]
fn a_rename_takes_no_name_that_is_in_use_and_open_files_go_with_it() {
    on_each(|fs, dir| {
        let (a, b, c) = (dir.join("a"), dir.join("b"), dir.join("c"));
        let file = fs.create_new(&a).unwrap();
        file.append(b"one").unwrap();
        fs.create_new(&b).unwrap();
        fs.create_dir_all(&dir.join("sub")).unwrap();
        for taken in [&b, &a, &dir.join("sub")] {
            assert_eq!(kind(fs.rename_new(&a, taken)), ErrorKind::AlreadyExists);
        }
        assert_eq!(kind(fs.rename_new(&dir.join("none"), &c)), ErrorKind::NotFound);
        assert_eq!(names(fs, dir), ["a", "b", "sub"]);
        fs.rename_new(&a, &c).unwrap();
        file.append(b" two").unwrap();
        assert_eq!(content(&*fs.open(&c).unwrap()), b"one two");
        assert_eq!(kind(fs.open(&a)), ErrorKind::NotFound);
        fs.create_new(&a).unwrap();
        fs.rename_new(&dir.join("sub"), &dir.join("sub.corrupt")).unwrap();
        assert_eq!(names(fs, dir), ["a", "b", "c", "sub.corrupt"]);
    });
}

#[test]
fn what_is_appended_goes_to_the_end_whoever_moved_it() {
    on_each(|fs, dir| {
        let one = fs.create_new(&dir.join("a")).unwrap();
        let other = fs.open_append(&dir.join("a")).unwrap();
        one.append(b"one ").unwrap();
        other.append(b"two ").unwrap();
        one.append(b"three").unwrap();
        assert_eq!(content(&*other), b"one two three");
        other.truncate(Bytes(4)).unwrap();
        one.append(b"four").unwrap();
        assert_eq!(content(&*one), b"one four");
        one.append(b"").unwrap();
        one.sync_data().unwrap();
        assert_eq!(one.size().unwrap(), Bytes(8));
    });
}

#[test]
fn a_truncation_only_makes_shorter() {
    on_each(|fs, dir| {
        let file = fs.create_new(&dir.join("a")).unwrap();
        file.append(b"whole torn").unwrap();
        file.truncate(Bytes(99)).unwrap();
        assert_eq!(content(&*file), b"whole torn");
        file.truncate(Bytes(5)).unwrap();
        file.truncate(Bytes(5)).unwrap();
        assert_eq!(content(&*file), b"whole");
        file.truncate(Bytes(0)).unwrap();
        assert_eq!(file.size().unwrap(), Bytes(0));
    });
}

#[test]
fn who_opens_for_reading_cannot_write() {
    on_each(|fs, dir| {
        fs.create_new(&dir.join("a")).unwrap().append(b"one").unwrap();
        let file = fs.open(&dir.join("a")).unwrap();
        file.append(b"two").unwrap_err();
        file.truncate(Bytes(0)).unwrap_err();
        assert_eq!(content(&*file), b"one");
        assert_eq!(kind(fs.open(&dir.join("none"))), ErrorKind::NotFound);
        assert_eq!(kind(fs.open_append(&dir.join("none"))), ErrorKind::NotFound);
        assert_eq!(names(fs, dir), ["a"], "opening makes nothing");
    });
}

#[test]
fn reading_gives_what_is_there_and_nothing_behind_the_end() {
    on_each(|fs, dir| {
        let file = fs.create_new(&dir.join("a")).unwrap();
        file.append(b"0123456789").unwrap();
        let mut buffer = [b'x'; 4];
        assert_eq!(file.read_at(&mut buffer, Bytes(8)).unwrap(), 2);
        assert_eq!(&buffer, b"89xx");
        assert_eq!(file.read_at(&mut buffer, Bytes(10)).unwrap(), 0);
        assert_eq!(file.read_at(&mut buffer, Bytes(1 << 40)).unwrap(), 0);
        assert_eq!(file.read_at(&mut [], Bytes(0)).unwrap(), 0);
    });
}

#[test]
fn a_removed_file_lives_on_for_who_has_it_open_and_its_name_is_free() {
    on_each(|fs, dir| {
        let file = fs.create_new(&dir.join("a")).unwrap();
        file.append(b"old").unwrap();
        fs.remove(&dir.join("a")).unwrap();
        assert_eq!(kind(fs.remove(&dir.join("a"))), ErrorKind::NotFound);
        fs.create_new(&dir.join("a")).unwrap().append(b"new").unwrap();
        assert_eq!(content(&*file), b"old");
        assert_eq!(content(&*fs.open(&dir.join("a")).unwrap()), b"new");
    });
}

#[test]
fn a_directory_is_no_file_and_a_file_no_directory() {
    on_each(|fs, dir| {
        let (file, sub) = (dir.join("file"), dir.join("sub"));
        fs.create_new(&file).unwrap();
        fs.create_dir_all(&sub).unwrap();
        assert_eq!(kind(fs.open(&sub)), ErrorKind::IsADirectory);
        assert_eq!(kind(fs.open_append(&sub)), ErrorKind::IsADirectory);
        assert_eq!(kind(fs.remove(&sub)), ErrorKind::IsADirectory);
        assert_eq!(kind(fs.set_modified(&sub, UnixMillis(1))), ErrorKind::IsADirectory);
        assert_eq!(kind(fs.list(&file)), ErrorKind::NotADirectory);
        assert_eq!(kind(fs.sync_dir(&file)), ErrorKind::NotADirectory);
        assert_eq!(kind(fs.sync_dir(&dir.join("none"))), ErrorKind::NotFound);
        assert_eq!(kind(fs.lock_dir(&dir.join("none"))), ErrorKind::NotFound);
        assert_eq!(kind(fs.create_dir_all(&file)), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs.create_dir_all(&file.join("below"))), ErrorKind::AlreadyExists);
        assert_eq!(names(fs, dir), ["file", "sub"]);
    });
}

#[test]
fn directories_are_made_with_their_parents_and_again_without_complaint() {
    on_each(|fs, dir| {
        let deep = dir.join("a/b/c");
        for _ in 0..2 {
            fs.create_dir_all(&deep).unwrap();
            fs.create_dir_all(&dir.join("a/./b/")).unwrap();
        }
        fs.create_new(&deep.join("file")).unwrap();
        fs.sync_dir(&deep).unwrap();
        assert_eq!(names(fs, &dir.join("a")), ["b"]);
        assert_eq!(names(fs, &deep), ["file"]);
        fs.create_dir_all(Path::new("/")).unwrap();
        fs.create_dir_all(Path::new(".")).unwrap();
    });
}

#[test]
fn a_listing_says_what_is_a_file_how_long_it_is_and_of_when() {
    on_each(|fs, dir| {
        fs.create_new(&dir.join("a")).unwrap().append(b"four").unwrap();
        fs.create_dir_all(&dir.join("sub")).unwrap();
        fs.set_modified(&dir.join("a"), UnixMillis(1_234_567)).unwrap();
        let mut entries = fs.list(dir).unwrap();
        entries.sort();
        let [a, sub] = &entries[..] else { panic!("{entries:?}") };
        assert_eq!((a.name.as_str(), a.is_file, a.size, a.modified), ("a", true, Bytes(4), UnixMillis(1_234_567)));
        assert_eq!((sub.name.as_str(), sub.is_file), ("sub", false));
        assert_eq!(kind(fs.set_modified(&dir.join("none"), UnixMillis(1))), ErrorKind::NotFound);
        assert!(fs.space(dir).unwrap().available <= fs.space(dir).unwrap().total);
    });
}

#[test]
fn a_lock_is_held_until_it_is_dropped_and_its_file_stays() {
    on_each(|fs, dir| {
        let held = fs.lock_dir(dir).unwrap();
        let refused = fs.lock_dir(dir).err().expect("held");
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        assert_eq!(refused.to_string(), format!("in use by process {}", std::process::id()));
        drop(held);
        assert_eq!(names(fs, dir), [LOCK_NAME]);
        drop(fs.lock_dir(dir).unwrap());
    });
}

#[test]
fn what_is_reserved_is_a_file_of_zeroes_and_takes_no_name_that_is_in_use() {
    on_each(|fs, dir| {
        fs.reserve(&dir.join("ballast"), Bytes(10_000)).unwrap();
        assert_eq!(content(&*fs.open(&dir.join("ballast")).unwrap()), [0; 10_000]);
        assert_eq!(kind(fs.reserve(&dir.join("ballast"), Bytes(1 << 62))), ErrorKind::AlreadyExists);
        assert_eq!(kind(fs.reserve(&dir.join("none/ballast"), Bytes(1))), ErrorKind::NotFound);
        fs.open_append(&dir.join("ballast")).unwrap().append(b"x").unwrap();
        assert_eq!(fs.list(dir).unwrap()[0].size, Bytes(10_001));
        fs.remove(&dir.join("ballast")).unwrap();
        assert_eq!(names(fs, dir), Vec::<String>::new());
    });
}
