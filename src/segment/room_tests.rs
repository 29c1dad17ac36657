//! Room on a medium in memory, on a clock wound by hand.

use super::*;
use crate::world::fs::memory::{MemoryFs, Op};

const DIR: &str = "d";
const MEDIUM: Bytes = Bytes(8 << 20);

fn medium() -> (MemoryFs, Arc<dyn FileSystem>) {
    let fs = MemoryFs::new();
    fs.set_capacity(MEDIUM);
    fs.create_dir_all(Path::new(DIR)).expect("in memory");
    (fs.clone(), Arc::new(fs))
}

fn open(fs: &Arc<dyn FileSystem>, tier: Tier) -> Room {
    Room::open(fs, Path::new(DIR), tier, &Metrics::default()).expect("in memory")
}

fn second(n: u64) -> Monotonic {
    Monotonic(Duration::from_secs(n))
}

fn fill(fs: &MemoryFs, name: &str, size: u64) {
    fs.reserve(&Path::new(DIR).join(name), Bytes(size)).expect("room");
}

fn names(fs: &MemoryFs) -> Vec<String> {
    let mut names: Vec<String> = fs.list(Path::new(DIR)).expect("there").into_iter().map(|entry| entry.name).collect();
    names.sort();
    names
}

#[test]
fn the_ingest_tier_stops_early_enough_that_a_store_beside_it_can_take_one_of_its_segments() {
    const GIB: u64 = 1 << 30;
    for total in [Bytes(1 << 20), MEDIUM, Bytes(32 << 20), Bytes(GIB), Bytes(1000 * GIB)] {
        for flush_size in [Bytes(1), Bytes(16 << 20), Bytes(GIB)] {
            let segment = Tier::largest_segment(flush_size, total);
            let (ingest, store) = (Marks::of(Tier::Ingest(flush_size), total), Marks::of(Tier::Store, total));
            assert!(ingest.full_below.0 >= store.full_below.0 + 2 * segment.0, "{total:?} {flush_size:?}");
            // The store goes on before the ingest tier does: else the one would wait for the other.
            assert!(store.free_from < ingest.full_below || segment.0 > GIB / 2, "{total:?} {flush_size:?}");
            assert!(ingest.full_below.0 <= total.0 / 4, "{total:?} {flush_size:?}: too much is kept free");
        }
    }
    let none = Marks::of(Tier::Store, Bytes(u64::MAX));
    assert_eq!((none.full_below, none.ballast), (Bytes(0), None), "what has no limit needs no reserve");
    assert_eq!(Marks::of(Tier::Store, Bytes(1 << 20)).ballast, None, "a medium that is too small for one");
}

#[test]
fn a_tier_is_full_below_its_mark_and_goes_on_with_a_quarter_more() {
    let (memory, fs) = medium();
    let room = open(&fs, Tier::Store);
    let marks = Marks::of(Tier::Store, MEDIUM);
    room.look(second(1));
    assert!(!room.is_full());
    assert_eq!(names(&memory), ["ballast"], "it is made where there is room");
    let free = fs.space(Path::new(DIR)).expect("there").available.0;
    fill(&memory, "most", free - marks.full_below.0);
    room.look(second(2));
    assert!(!room.is_full(), "just at the mark");
    fill(&memory, "one more", 1);
    room.look(second(2));
    assert!(!room.is_full(), "not looked at twice in one second");
    room.look(second(3));
    assert!(room.is_full());
    memory.remove(&Path::new(DIR).join("one more")).expect("there");
    room.look(second(4));
    assert!(room.is_full(), "at the mark again: not yet");
    memory.set_capacity(Bytes(MEDIUM.0 + marks.full_below.0 / 2));
    room.look(second(5));
    assert!(!room.is_full());
}

#[test]
fn the_medium_is_looked_at_again_when_so_much_was_written_as_may_have_filled_it() {
    let (memory, fs) = medium();
    let room = open(&fs, Tier::Ingest(Bytes(16 << 20)));
    room.look(second(1));
    let free = fs.space(Path::new(DIR)).expect("there").available.0;
    fill(&memory, "all", free);
    room.wrote(Marks::of(Tier::Store, MEDIUM).reserve.0 / 8 - 1);
    room.look_after_writing(|| second(1));
    assert!(!room.is_full(), "little was written");
    room.wrote(1);
    room.look_after_writing(|| second(1));
    assert!(room.is_full());
}

#[test]
fn what_would_touch_the_reserve_is_not_admitted_and_what_fits_is() {
    let (memory, fs) = medium();
    let room = open(&fs, Tier::Store);
    let spare = MEDIUM.0 - Marks::of(Tier::Store, MEDIUM).full_below.0;
    room.admit(Bytes(spare), second(1)).expect("just fits");
    fill(&memory, "half", spare / 2);
    let refused = room.admit(Bytes(spare), second(1)).expect_err("does not fit");
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
    assert!(room.is_full(), "who refuses is not ready");
    room.admit(Bytes(spare / 4), second(1)).expect("a smaller one fits");
    room.look(second(1) + CALM - Duration::from_millis(1));
    assert!(room.is_full(), "the next one may be as large");
    room.look(second(2) + CALM);
    assert!(!room.is_full());
    let free = fs.space(Path::new(DIR)).expect("there").available.0;
    fill(&memory, "rest", free - 1000);
    room.look(second(4) + CALM);
    assert!(room.is_full());
    room.admit(Bytes(1), second(4) + CALM).expect_err("below the mark nothing fits");
}

#[test]
fn a_quota_that_the_medium_does_not_show_is_full_until_a_probe_is_taken() {
    let (memory, fs) = medium();
    let room = open(&fs, Tier::Store);
    room.refused(&io::ErrorKind::QuotaExceeded.into(), second(1));
    assert!(room.is_full());
    memory.fail_nth(Op::Write, 1, io::ErrorKind::QuotaExceeded);
    room.look(second(2));
    assert!(room.is_full(), "blocks are free, and not for us");
    room.look(second(3));
    assert!(!room.is_full());
    assert_eq!(names(&memory), ["ballast"], "no probe is left");
}

#[test]
fn the_ballast_is_given_up_for_what_makes_room_and_made_again_when_it_is_calm() {
    let (memory, fs) = medium();
    let room = open(&fs, Tier::Store);
    room.look(second(1));
    let free = fs.space(Path::new(DIR)).expect("there").available.0;
    fill(&memory, "foreign", free);
    room.give_way(&io::Error::other("broken"), second(2));
    assert_eq!(names(&memory), ["ballast", "foreign"], "no reason to give it up");
    room.give_way(&io::ErrorKind::StorageFull.into(), second(2));
    assert_eq!(names(&memory), ["foreign"]);
    assert!(room.is_full() && fs.space(Path::new(DIR)).expect("there").available.0 > 0);
    memory.remove(&Path::new(DIR).join("foreign")).expect("there");
    room.look(second(3));
    assert!(!room.is_full());
    assert!(names(&memory).is_empty(), "not at once");
    room.look(second(2) + CALM);
    assert_eq!(names(&memory), ["ballast"]);
}

#[test]
fn a_start_that_finds_less_than_the_reserve_gives_the_ballast_up_and_one_with_room_keeps_it() {
    let (memory, fs) = medium();
    open(&fs, Tier::Store).look(second(1));
    fill(&memory, "ballast.new", 1000);
    drop(open(&fs, Tier::Store));
    assert_eq!(names(&memory), ["ballast"], "a probe that a crash left is removed");
    let free = fs.space(Path::new(DIR)).expect("there").available.0;
    fill(&memory, "foreign", free - Marks::of(Tier::Store, MEDIUM).reserve.0 + 1);
    drop(open(&fs, Tier::Store));
    assert_eq!(names(&memory), ["foreign"]);
}

#[test]
fn a_file_of_its_name_that_holds_something_is_no_ballast_and_is_kept() {
    let (memory, fs) = medium();
    let path = Path::new(DIR).join("ballast");
    memory.create_new(&path).and_then(|file| file.append(b"somebody's words\n")).expect("room");
    let metrics = Metrics::default();
    Room::open(&fs, Path::new(DIR), Tier::Store, &metrics).expect("in memory").look(second(1));
    assert_eq!(names(&memory), ["ballast", "ballast.corrupt"]);
    assert_eq!(metrics.counter(m::CORRUPT, &["store"]).get(), 1);
}

#[test]
fn errors_are_told_apart_by_what_helps() {
    let os = io::Error::from_raw_os_error;
    for (error, refusal) in [
        (os(28), Refusal::NoRoom),  // ENOSPC
        (os(122), Refusal::NoRoom), // EDQUOT
        (os(27), Refusal::TooLong), // EFBIG
        (os(24), Refusal::Passing), // EMFILE
        (os(12), Refusal::Passing), // ENOMEM
        (os(5), Refusal::Broken),   // EIO
        (os(30), Refusal::Broken),  // EROFS
    ] {
        assert_eq!(Refusal::of(&error), refusal, "{error}");
    }
}
