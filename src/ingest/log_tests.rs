//! The ingest log on real files in a fresh directory, on a clock wound by hand.

use super::*;
use crate::ingest::durable::sync_once;
use crate::ingest::flusher::Rounds;
use crate::ingest::recover::Ground;
use crate::record::line::LineCutter;
use crate::record::stored;
use crate::segment::reader::{BlockReader, FileRange};
use crate::world::clock::VirtualClock;
use crate::world::entropy::SystemEntropy;
use crate::world::fs::memory::{MemoryFs, Op};
use crate::world::fs::real::RealFs;
use std::path::Path;

const START: UnixNanos = UnixNanos(1_795_000_000_000_000_000);

fn limits() -> Limits {
    Limits { flush_size: Bytes(10_000), flush_age: Duration::from_secs(3), pending_timeout: Duration::from_secs(60) }
}

fn open_at(dir: &Path, clock: Arc<VirtualClock>) -> IngestLog {
    let ground = Ground {
        fs: Arc::new(RealFs),
        clock,
        entropy: Arc::new(SystemEntropy),
        metrics: Arc::default(),
        live: Arc::default(),
    };
    IngestLog::open(ground, dir, limits(), 2).expect("a sound directory")
}

fn append(log: &IngestLog, slot: &Slot, text: &[u8]) -> u64 {
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    cutter.finish(text, &mut cut);
    log.append(slot, text, &cut).expect("room on the disk")
}

fn texts(log: &IngestLog) -> Vec<String> {
    let mut records = Vec::new();
    for readable in log.snapshot(Id::MIN, Id::MAX) {
        let file = readable.source.open().expect("a file");
        let mut reader = BlockReader::new(FileRange::new(file, Bytes(0), readable.len));
        let mut block = Vec::new();
        while reader.next_block(&mut block).expect("readable") {
            records.extend(
                stored::records(&block)
                    .map(|record| (record.id().expect("an id"), String::from_utf8_lossy(record.text()).into_owned())),
            );
        }
    }
    records.sort();
    records.into_iter().map(|(_, text)| text).collect()
}

#[test]
fn a_record_is_readable_at_once_and_in_every_state_until_it_is_committed() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    append(&log, log.fast_slot(0), b"one\ntwo\n");
    assert_eq!(texts(&log), ["one", "two"]);
    clock.advance(Duration::from_secs(3));
    let mut rounds = Rounds::default();
    log.round(&mut rounds);
    assert_eq!(texts(&log), ["one", "two"]);
    let segment = log.next().expect("renamed").expect("one segment");
    let id = segment.digest().first;
    assert_eq!(texts(&log), ["one", "two"]);
    assert_eq!(log.commit(id, &[]), Verdict::NeverRead);
    assert!(log.read(id).is_some());
    assert_eq!(log.commit(id, &[]), Verdict::Done);
    assert_eq!(texts(&log), Vec::<String>::new());
    drop(segment);
    log.round(&mut rounds);
    let left: Vec<String> = RealFs.list(dir.path()).expect("a directory").into_iter().map(|e| e.name).collect();
    let of_the_directory =
        |name: &String| name == "LOCK" || name == "ballast" || name.ends_with(".mark") || name.ends_with(".ingest");
    assert!(left.iter().all(of_the_directory), "{left:?}");
}

#[test]
fn a_directory_that_begins_empty_is_told_from_one_in_which_records_wait() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    assert!(log.began_empty());
    append(&log, log.fast_slot(0), b"one\n");
    drop(log);
    let log = open_at(dir.path(), clock.clone());
    assert!(!log.began_empty());
    let id = log.next().expect("renamed").expect("one segment").digest().first;
    assert!(log.read(id).is_some());
    assert_eq!(log.commit(id, &[]), Verdict::Done);
    log.remove_committed();
    drop(log);
    assert!(open_at(dir.path(), clock).began_empty(), "all was handed over");
}

#[test]
fn what_was_active_pending_or_torn_is_flushed_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    append(&log, log.fast_slot(0), b"first\n");
    log.close_all(Reason::Age);
    log.flush_closed();
    log.next().expect("renamed").expect("one segment");
    append(&log, log.fast_slot(1), b"second\n");
    let active = lock(&log.fast_slot(1).writer).active.as_ref().expect("active").file.file().clone();
    active.append(b"01ARZ3NDEKTSV4RRFFQ69G5FAV torn").expect("room");
    drop((active, log));
    for _ in 0..2 {
        let log = open_at(dir.path(), clock.clone());
        assert_eq!(texts(&log), ["first", "second"]);
        let names: Vec<String> = RealFs.list(dir.path()).expect("a directory").into_iter().map(|e| e.name).collect();
        assert_eq!(names.iter().filter(|name| name.ends_with(".flushed")).count(), 2, "{names:?}");
    }
}

#[test]
fn the_stores_that_a_commit_names_are_known_when_the_segment_is_gone() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_at(dir.path(), Arc::new(VirtualClock::at(START)));
    append(&log, log.fast_slot(0), b"one\n");
    log.close_all(Reason::Age);
    log.flush_closed();
    let id = log.next().expect("renamed").expect("one segment").digest().first;
    let stores = [DataId(3), DataId(1)];
    assert_eq!(log.commit(id, &stores), Verdict::NeverRead);
    assert_eq!(log.witnesses(), [], "nothing was committed yet");
    log.read(id);
    assert_eq!(log.commit(id, &stores), Verdict::Done);
    assert_eq!(log.commit(id, &[DataId(2)]), Verdict::Done, "again, because the answer was lost");
    assert_eq!(log.witnesses(), [DataId(1), DataId(2), DataId(3)]);
}

#[test]
fn ids_go_on_where_they_were_though_the_clock_is_behind_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_at(dir.path(), Arc::new(VirtualClock::at(START)));
    append(&log, log.fast_slot(0), b"before\n");
    log.close_all(Reason::Stop);
    log.flush_closed();
    let id = log.next().expect("renamed").expect("one segment").digest().first;
    log.read(id);
    log.commit(id, &[]);
    log.remove_committed();
    drop(log);
    let log = open_at(dir.path(), Arc::new(VirtualClock::at(UnixNanos(START.0 - 5_000_000_000))));
    append(&log, log.fast_slot(0), b"after\n");
    assert!(log.snapshot(Id::MIN, Id::MAX)[0].low > id);
}

#[test]
fn a_clock_set_back_by_a_year_begins_a_new_segment_at_the_true_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    append(&log, log.fast_slot(0), b"next year\n");
    clock.set_unix(UnixNanos(START.0 - 31_536_000_000_000_000));
    append(&log, log.fast_slot(0), b"this year\n");
    assert_eq!(texts(&log), ["this year", "next year"]);
    assert_eq!(log.snapshot(Id::MIN, Id::MAX).len(), 2);
}

#[test]
fn a_file_that_is_no_segment_is_set_aside_and_a_damaged_one_gives_what_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    append(&log, log.fast_slot(0), b"a\nb\nc\n");
    drop(log);
    let name = RealFs
        .list(dir.path())
        .expect("a directory")
        .into_iter()
        .find(|e| e.name.ends_with(".active"))
        .expect("one")
        .name;
    let path = dir.path().join(&name);
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[29..33].copy_from_slice(b"....");
    std::fs::write(&path, bytes).expect("a file");
    std::fs::write(dir.path().join("notes.txt"), "mine").expect("a file");
    std::fs::create_dir(dir.path().join("sub")).expect("a directory");
    let log = open_at(dir.path(), clock);
    assert_eq!(texts(&log), ["a", "c"]);
    assert_eq!(std::fs::read(dir.path().join("notes.txt.corrupt")).expect("set aside"), b"mine");
    assert!(dir.path().join(format!("{name}.corrupt")).exists());
    assert!(dir.path().join("sub").is_dir());
}

#[test]
fn a_segment_that_no_consumer_can_merge_is_queried_on_and_of_a_damaged_one_what_is_whole_goes_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    let mut rounds = Rounds::default();
    let mut pending = |text: &[u8]| {
        append(&log, log.fast_slot(0), text);
        clock.advance(Duration::from_secs(3));
        log.round(&mut rounds);
        log.next().expect("renamed").expect("a segment")
    };
    let sound = pending(b"sound\n");
    let damaged = pending(b"a\nb\nc\n");
    let mut bytes = std::fs::read(damaged.path()).expect("a file");
    bytes[29..33].copy_from_slice(b"....");
    std::fs::write(damaged.path(), bytes).expect("a file");
    assert_eq!(log.set_aside(sound.digest().first), Verdict::Done);
    assert_eq!(log.set_aside(damaged.digest().first), Verdict::Done);
    assert_eq!(texts(&log), ["sound", "a", "c"]);
    let next = log.next().expect("renamed").expect("what is whole of the damaged one");
    assert_eq!(next.digest().records, Some(2));
    assert!(log.next().expect("nothing to rename").is_none(), "the sound one is not handed out again");
    assert_eq!(log.wait_until_drained(Duration::ZERO), Drained::Not);
    log.read(next.digest().first).expect("pending");
    log.commit(next.digest().first, &[]);
    // A node that has it does not say that it has nothing, nor does it wait for somebody who takes it.
    assert_eq!(log.wait_until_drained(Duration::from_secs(3_600)), Drained::ButForAside(1));
    assert_eq!(log.set_aside(sound.digest().first), Verdict::Unknown);
}

#[test]
fn one_sync_serves_all_who_wait_for_the_durable_slot() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_at(dir.path(), Arc::new(VirtualClock::at(START)));
    let slot = log.durable_slot();
    let marks = [append(&log, slot, b"one\n"), append(&log, slot, b"two\n")];
    super::super::durable::sync_once(&log, slot);
    for mark in marks {
        slot.group.wait(0, mark, &Stop::default(), || ()).expect("synced");
    }
    assert_eq!(log.gauges.syncs.get(), 1);
}

#[test]
fn a_full_segment_is_closed_and_what_was_not_committed_in_time_is_offered_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let log = open_at(dir.path(), clock.clone());
    append(&log, log.fast_slot(0), &b"0123456789\n".repeat(1_000));
    let mut rounds = Rounds::default();
    log.round(&mut rounds);
    let first = log.next().expect("renamed").expect("closed by its size").digest().first;
    assert!(log.next().expect("renamed").is_none());
    clock.advance(Duration::from_secs(61));
    log.round(&mut rounds);
    assert_eq!(log.next().expect("renamed").expect("offered again").digest().first, first);
}

fn open_in_memory(fs: &MemoryFs) -> IngestLog {
    let ground = Ground {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(VirtualClock::at(START)),
        entropy: Arc::new(SystemEntropy),
        metrics: Arc::default(),
        live: Arc::default(),
    };
    IngestLog::open(ground, Path::new("d"), limits(), 1).expect("in memory")
}

#[test]
fn what_the_flusher_was_told_of_a_file_is_told_to_those_who_wait_for_it() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    let slot = log.durable_slot();
    let mark = append(&log, slot, b"one\n");
    log.close_all(Reason::Size);
    fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
    fs.fail_nth(Op::Write, 1, io::ErrorKind::StorageFull);
    log.flush_closed();
    // The kernel has told of the failure: it calls the next sync a success.
    sync_once(&log, slot);
    assert!(slot.group.outcome(0, mark).is_some_and(|outcome| outcome.is_err()));
    let later = append(&log, slot, b"two\n");
    sync_once(&log, slot);
    assert!(slot.group.outcome(mark, later).is_some_and(|outcome| outcome.is_ok()), "the next file is another one");
}

#[test]
fn what_came_into_a_file_that_was_closed_by_a_failed_sync_is_not_called_synced_with_the_next_one() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    let slot = log.durable_slot();
    append(&log, slot, b"one\n");
    let mark = append(&log, slot, &b"0123456789\n".repeat(1_000));
    assert!(lock(&slot.writer).active.is_none(), "closed by its size, not synced yet");
    fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
    sync_once(&log, slot);
    assert!(slot.group.outcome(0, mark).is_some_and(|outcome| outcome.is_err()));
    log.flush_closed();
    let segment = log.next().expect("renamed").expect("rewritten, since its sync has failed");
    assert_eq!(segment.digest().records, Some(1_001));
}

#[test]
fn a_failed_sync_of_the_directory_is_told_to_all_whose_file_was_new() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    let slot = log.durable_slot();
    let mark = append(&log, slot, b"one\n");
    fs.fail_nth(Op::SyncDir, 1, io::ErrorKind::Other);
    assert!(log.names.sync(log.names.since()).is_err(), "as for the clock mark, or a flush");
    // The disk calls the next one a success; the name of the file may not be on it all the same.
    sync_once(&log, slot);
    assert!(slot.group.outcome(0, mark).is_some_and(|outcome| outcome.is_err()));
    let later = append(&log, slot, b"two\n");
    sync_once(&log, slot);
    assert!(slot.group.outcome(mark, later).is_some_and(|outcome| outcome.is_ok()), "a new file, a new name");
}

#[test]
fn a_batch_that_was_refused_halfway_and_could_not_be_cut_off_comes_only_once() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    append(&log, log.fast_slot(0), b"one\n");
    let batch = b"two\nthree, which is longer than the one before it\n";
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    cutter.finish(batch, &mut cut);
    // Half of it gets there: a whole record and the beginning of the next.
    fs.fail_nth(Op::Write, 1, io::ErrorKind::Other);
    fs.fail_nth(Op::Truncate, 1, io::ErrorKind::Other);
    log.append(log.fast_slot(0), batch, &cut).expect_err("as planned");
    append(&log, log.fast_slot(0), batch);
    log.flush_closed();
    assert_eq!(texts(&log), ["one", "two", "three, which is longer than the one before it"]);
}

#[test]
fn a_segment_whose_name_could_not_be_given_back_is_offered_again_all_the_same() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    append(&log, log.fast_slot(0), b"one\n");
    log.close_all(Reason::Age);
    log.flush_closed();
    let id = log.next().expect("renamed").expect("flushed").digest().first;
    fs.fail_nth(Op::Rename, 1, io::ErrorKind::Other);
    assert_eq!(log.failed(id), Verdict::Done);
    assert_eq!(log.next().expect("it has the name already").map(|segment| segment.digest().first), Some(id));
}

#[test]
fn a_segment_whose_sync_and_rewriting_fail_is_rewritten_later_and_never_passed_on_in_part() {
    let fs = MemoryFs::new();
    let log = open_in_memory(&fs);
    append(&log, log.fast_slot(0), b"one\ntwo\n");
    log.close_all(Reason::Age);
    fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
    fs.fail_nth(Op::Write, 1, io::ErrorKind::StorageFull);
    log.flush_closed();
    assert!(log.hindrance().is_some(), "a disk that fails to sync is not ready for work");
    assert!(log.next().expect("no rename was due").is_none(), "what was not made durable is not offered");
    assert_eq!(texts(&log), ["one", "two"]);
    log.flush_closed();
    let segment = log.next().expect("renamed").expect("rewritten");
    assert_eq!((segment.digest().records, texts(&log)), (Some(2), vec!["one".to_string(), "two".to_string()]));
    let names: Vec<String> = fs.list(Path::new("d")).expect("in memory").into_iter().map(|e| e.name).collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".corrupt")).count(), 1, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".active")).count(), 0, "{names:?}");
}

/// A log on a medium of 8 MiB in memory, and both.
fn on_a_small_medium(clock: Arc<VirtualClock>) -> (MemoryFs, IngestLog) {
    let fs = MemoryFs::new();
    fs.set_capacity(Bytes(8 << 20));
    let (metrics, live) = (Arc::default(), Arc::default());
    let ground = Ground { fs: Arc::new(fs.clone()), clock, entropy: Arc::new(SystemEntropy), metrics, live };
    let log = IngestLog::open(ground, Path::new("d"), limits(), 1).expect("in memory");
    (fs, log)
}

fn fill(fs: &dyn FileSystem, leave: u64) -> PathBuf {
    let free = fs.space(Path::new("d")).expect("in memory").available.0;
    let path = PathBuf::from(format!("d/{free}.corrupt"));
    fs.reserve(&path, Bytes(free - leave)).expect("room");
    path
}

#[test]
fn a_batch_that_finds_no_room_leaves_nothing_behind_and_its_connection_waits_until_there_is_some() {
    let clock = Arc::new(VirtualClock::at(START));
    let (fs, log) = on_a_small_medium(clock.clone());
    let (slot, mut rounds) = (log.fast_slot(0), Rounds::default());
    clock.advance(Duration::from_secs(1));
    log.round(&mut rounds);
    append(&log, slot, b"one\n");
    let foreign = fill(&fs, 40);
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    let text = b"two, which is longer than the room\n";
    cutter.finish(text, &mut cut);
    for _ in 0..3 {
        let refused = log.append(slot, text, &cut).expect_err("40 bytes are free");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        log.note_refused_write(&refused);
        let active = lock(&slot.writer).active.as_ref().map(|active| active.file.file().size().expect("in memory"));
        assert_eq!(active, Some(Bytes(31)), "cut back to the last whole record");
    }
    assert!(log.is_behind() && log.hindrance().is_some_and(|why| why.contains("full")));
    assert_eq!(texts(&log), ["one"]);
    fs.remove(&foreign).expect("there");
    clock.advance(Duration::from_secs(1));
    log.round(&mut rounds);
    assert!(!log.is_behind() && log.hindrance().is_none());
    append(&log, slot, text);
    assert_eq!(texts(&log), ["one", "two, which is longer than the room"]);
}

#[test]
fn on_a_full_medium_segments_are_flushed_handed_out_and_removed_and_that_makes_room() {
    let clock = Arc::new(VirtualClock::at(START));
    let (fs, log) = on_a_small_medium(clock.clone());
    let (mut rounds, stopped) = (Rounds::default(), Stop::default());
    stopped.raise();
    while !log.is_behind() {
        append(&log, log.fast_slot(0), &b"0123456789\n".repeat(1_000));
        clock.advance(Duration::from_millis(100));
        log.round(&mut rounds);
        log.wait_for_disk(&stopped);
    }
    fill(&fs, 0);
    fs.fail_nth(Op::Open, 1, io::ErrorKind::StorageFull);
    let mut taken = 0;
    while let Some(segment) = log.next().expect("renamed") {
        let id = segment.digest().first;
        log.read(id).expect("pending");
        assert_eq!(log.commit(id, &[]), Verdict::Done);
        taken += 1;
    }
    assert!(taken > 100, "{taken}");
    // The mark, without which nothing may be removed, was refused. The ballast is given up, and the next round removes all.
    log.round(&mut rounds);
    assert!(fs.open(Path::new("d/ballast")).is_err(), "given up");
    for _ in 0..2 {
        clock.advance(Duration::from_secs(1));
        log.round(&mut rounds);
    }
    assert!(!log.is_behind(), "there is room again");
    assert_eq!(lock(&log.queue).drained(), Drained::All);
}

#[test]
fn a_disk_that_refuses_to_write_for_another_reason_is_not_ready_and_descriptors_that_ran_out_are_no_reason() {
    let (_fs, log) = on_a_small_medium(Arc::new(VirtualClock::at(START)));
    log.note_refused_write(&io::Error::from_raw_os_error(24));
    assert_eq!(log.hindrance(), None, "descriptors come back");
    log.note_refused_write(&io::Error::from_raw_os_error(5));
    assert!(log.hindrance().is_some_and(|why| why.contains("failed")));
}

#[test]
fn a_file_that_may_not_become_longer_is_closed_and_another_begun() {
    let (fs, log) = on_a_small_medium(Arc::new(VirtualClock::at(START)));
    append(&log, log.fast_slot(0), b"one\n");
    fs.fail_nth(Op::Write, 1, io::ErrorKind::FileTooLarge);
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    cutter.finish(b"two\n", &mut cut);
    log.append(log.fast_slot(0), b"two\n", &cut).expect_err("too long");
    append(&log, log.fast_slot(0), b"two\n");
    assert_eq!(texts(&log), ["one", "two"]);
    assert_eq!(log.flush_closed(), 0);
    assert!(log.next().expect("renamed").is_some(), "the first is whole, and goes on");
    assert_eq!(log.gauges.corrupt.get(), 0);
}

#[test]
fn a_directory_keeps_its_id_over_restarts_and_another_has_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let clock = Arc::new(VirtualClock::at(START));
    let id = open_at(dir.path(), clock.clone()).id();
    assert_eq!(open_at(dir.path(), clock.clone()).id(), id);
    assert!(dir.path().join(format!("{id}.ingest")).is_file());
    let other = tempfile::tempdir().expect("a directory");
    assert_ne!(open_at(other.path(), clock).id(), id);
}

#[test]
fn what_comes_after_the_end_is_refused_so_that_what_was_drained_stays_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = open_at(dir.path(), Arc::new(VirtualClock::at(UnixNanos(1_000_000_000))));
    append(&log, log.fast_slot(0), b"before\n");
    log.end();
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), crate::record::line::Cut::default());
    cutter.cut(b"after\n", &mut cut);
    assert!(log.append(log.fast_slot(0), b"after\n", &cut).is_err());
    assert!(log.append(log.durable_slot(), b"after\n", &cut).is_err());
    log.flush_closed();
    let taken = log.next().expect("renamed").expect("a segment").digest().first;
    log.read(taken).expect("pending");
    log.commit(taken, &[]);
    assert_eq!(log.wait_until_drained(Duration::ZERO), Drained::All);
    assert_eq!(log.states().map(|(_, segments, _)| segments), [0; 3]);
    assert!(texts(&log).is_empty());
}
