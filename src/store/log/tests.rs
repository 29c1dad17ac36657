use super::*;
use crate::record::stored;
use crate::segment::Bounds;
use crate::segment::handle::Known;
use crate::segment::reader::FileRange;
use crate::store::replicate::ReplicateError;
use crate::unit::{Bytes, UnixMillis, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::entropy::SystemEntropy;
use crate::world::fs::memory::{MemoryFs, Op};
use std::io::Read;

const DIR: &str = "store";

fn open(fs: &MemoryFs) -> Arc<StoreLog> {
    try_open(fs).expect("opens")
}

fn try_open(fs: &MemoryFs) -> Result<Arc<StoreLog>, StoreError> {
    let clock = Arc::new(VirtualClock::at(UnixNanos(1)));
    StoreLog::open(Arc::new(fs.clone()), DIR, clock, Arc::new(Metrics::default()), &SystemEntropy)
}

fn body(ids: impl IntoIterator<Item = u128>, text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    ids.into_iter().for_each(|id| stored::write(&mut body, Id(id), text.as_bytes()));
    body
}

fn put(log: &StoreLog, body: &[u8]) -> Result<super::super::replicate::Receipt, ReplicateError> {
    log.replicate(&mut &*body, &|| true)
}

/// Names in the directory that are segments or were, in order.
fn names(fs: &MemoryFs) -> Vec<String> {
    let list = fs.list(Path::new(DIR)).expect("a directory").into_iter().map(|entry| entry.name);
    let mut names: Vec<String> = list.filter(|name| name != "LOCK" && !name.ends_with(".store")).collect();
    names.sort();
    names
}

fn file_name(first: u128, last: u128, n: u32, state: State) -> String {
    Bounds::Range(Id(first), Id(last), n).file_name(state)
}

fn write_file(fs: &MemoryFs, name: &str, content: &[u8]) {
    fs.create_dir_all(Path::new(DIR)).expect("a directory");
    let file = fs.create_new(&Path::new(DIR).join(name)).expect("a new file");
    file.append(content).and_then(|()| file.sync_data()).expect("written");
    fs.sync_dir(Path::new(DIR)).expect("synced");
}

fn all(log: &StoreLog) -> Vec<Vec<u8>> {
    let read = |segment: Arc<Segment>| {
        let mut content = Vec::new();
        let file = segment.open().expect("there");
        FileRange::new(file, Bytes(0), segment.digest().len).read_to_end(&mut content).expect("readable");
        content
    };
    log.snapshot(Id(0), Id::MAX).into_iter().map(read).collect()
}

#[test]
fn what_was_replicated_is_there_after_a_power_cut() {
    let fs = MemoryFs::new();
    let (log, content) = (open(&fs), body(1..500, "text"));
    let receipt = put(&log, &content).expect("taken");
    assert_eq!((receipt.store_id, receipt.digest.records), (log.id(), 499));
    let id = log.id();
    drop(log);
    fs.crash(&mut crate::world::entropy::Dice::new(1));
    fs.recover();
    let log = open(&fs);
    assert_eq!(all(&log), [content]);
    assert_eq!(log.id(), id, "a store keeps its id");
    let known = *log.snapshot(Id(0), Id::MAX)[0].digest();
    assert_eq!(known, Known::by_ends(Id(1), Id(499), known.len));
}

#[test]
fn bad_input_is_refused_and_leaves_no_file() {
    let fs = MemoryFs::new();
    let log = open(&fs);
    let torn = &body(1..9, "x")[..200];
    let mut late = body(1..20_000, "some text");
    late.extend(body([7], "x"));
    for (bad, what) in [(&b""[..], "empty"), (b"no record\n", "bad id"), (torn, "torn"), (&late, "descends at the end")]
    {
        assert_eq!(put(&log, bad).expect_err(what).status(), 400, "{what}");
        assert_eq!(names(&fs), Vec::<String>::new(), "{what}");
    }
    let content = body(1..9, "x");
    let refused = log.replicate(&mut &content[..], &|| false).expect_err("not whole");
    assert_eq!(refused.status(), 400);
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    assert!(log.replicate(&mut (&content[..]).chain(Broken), &|| true).is_err());
    assert_eq!(names(&fs), Vec::<String>::new());
}

#[test]
fn a_disk_that_is_full_or_fails_leaves_no_file_and_no_receipt() {
    let fs = MemoryFs::new();
    let log = open(&fs);
    let content = body(1..2_000, "some text");
    fs.set_capacity(Bytes(10_000));
    assert_eq!(put(&log, &content).expect_err("full").status(), 507);
    fs.set_capacity(Bytes(u64::MAX));
    for (op, n) in [(Op::Open, 1), (Op::Write, 1), (Op::Sync, 1), (Op::Sync, 2), (Op::Rename, 1)] {
        fs.fail_nth(op, n, io::ErrorKind::Other);
        assert_eq!(put(&log, &content).expect_err("failed").status(), 500, "{op:?} {n}");
        assert!(log.hindrance().is_some_and(|why| why.contains("failed")), "{op:?} {n}");
        assert_eq!(names(&fs), Vec::<String>::new(), "{op:?} {n}");
        assert!(log.snapshot(Id(0), Id::MAX).is_empty());
    }
    put(&log, &content).expect("healthy again");
    assert!(log.hindrance().is_none_or(|why| !why.contains("failed")), "what it takes, it can write");
}

#[test]
fn a_segment_that_would_touch_the_reserve_is_refused_before_it_is_written_and_taken_when_there_is_room() {
    let fs = MemoryFs::new();
    fs.set_capacity(Bytes(4 << 20));
    let (log, dir) = (open(&fs), Path::new(DIR));
    let mut content = body(1..5_000, "some text");
    let free = fs.space(dir).expect("in memory").available.0;
    let foreign = dir.join("foreign.corrupt");
    fs.reserve(&foreign, Bytes(free - (256 << 10) - content.len() as u64 + 1)).expect("room");
    assert_eq!(put(&log, &content).expect_err("one byte too much").status(), 507);
    assert_eq!(names(&fs), ["foreign.corrupt"]);
    assert!(log.hindrance().is_some());
    content.truncate(content.len() / 2);
    content.truncate(content.iter().rposition(|byte| *byte == b'\n').expect("a record") + 1);
    put(&log, &content).expect("half of it fits");
    fs.remove(&foreign).expect("there");
    put(&log, &body(1..5_000, "some text")).expect("there is room");
}

#[test]
fn the_same_content_is_kept_once_and_other_content_beside_it() {
    let fs = MemoryFs::new();
    let log = open(&fs);
    let (one, two) = (body([1, 5, 9], "one"), body([1, 5, 9], "two"));
    let receipt = put(&log, &one).expect("taken");
    assert_eq!(put(&log, &one).expect("taken again"), receipt);
    put(&log, &two).expect("taken beside");
    let both = [file_name(1, 9, 1, State::Flushed), file_name(1, 9, 0, State::Flushed)];
    assert_eq!(names(&fs), both);
    drop(log);
    let log = open(&fs);
    put(&log, &two).expect("known by reading it");
    assert_eq!(names(&fs), both);
}

#[test]
fn every_kind_of_name_meets_its_fate_at_the_start() {
    let fs = MemoryFs::new();
    let content = body([1, 2], "x");
    write_file(&fs, &file_name(1, 2, 0, State::Flushed), &content);
    write_file(&fs, &file_name(1, 2, 0, State::Reading), &body([1, 2], "y"));
    write_file(&fs, &file_name(3, 3, 0, State::Active), b"half a rec");
    write_file(&fs, &file_name(4, 4, 0, State::Trashed), &body([4], "old"));
    fs.set_modified(&Path::new(DIR).join(file_name(4, 4, 0, State::Trashed)), UnixMillis(77)).expect("set");
    write_file(&fs, "notes.txt", b"by a person");
    write_file(&fs, "old.corrupt", b"?");
    write_file(&fs, &Bounds::From(Id(8)).file_name(State::Pending), b"astray");
    fs.create_dir_all(&Path::new(DIR).join("lost+found")).expect("made");
    for round in 0..2 {
        let log = open(&fs);
        assert_eq!(all(&log).len(), 2, "round {round}");
        let trashed = log.catalogue().trashed();
        assert_eq!((trashed.len(), trashed[0].since), (1, UnixMillis(77)));
        let mut expected = vec![
            file_name(1, 2, 1, State::Flushed),
            file_name(1, 2, 0, State::Flushed),
            file_name(4, 4, 0, State::Trashed),
            format!("{}.corrupt", Bounds::From(Id(8)).file_name(State::Pending)),
            "lost+found".into(),
            "notes.txt.corrupt".into(),
            "old.corrupt".into(),
        ];
        expected.sort();
        assert_eq!(names(&fs), expected, "round {round}");
        assert_eq!(log.corrupt().get(), if round == 0 { 2 } else { 0 });
    }
}

#[test]
fn recovery_comes_to_the_same_end_wherever_it_was_cut_off() {
    for crash in 0..40 {
        let fs = MemoryFs::new();
        let mut torn = body([5, 6, 7], "good");
        torn.extend_from_slice(b"torn");
        write_file(&fs, &file_name(5, 7, 0, State::Flushed), &torn);
        write_file(&fs, &file_name(1, 2, 0, State::Reading), &body([1, 2], "a"));
        write_file(&fs, &file_name(1, 2, 0, State::Flushed), &body([1, 2], "b"));
        write_file(&fs, &file_name(3, 3, 0, State::Active), b"x");
        fs.crash_at(fs.operations() + crash);
        let first = try_open(&fs).is_ok();
        fs.crash(&mut crate::world::entropy::Dice::new(crash));
        fs.recover();
        let mut found = all(&open(&fs));
        found.sort();
        found.dedup();
        let mut expected = vec![body([1, 2], "a"), body([1, 2], "b"), body([5, 6, 7], "good")];
        expected.sort();
        assert_eq!(found, expected, "crash at operation {crash}, which opened: {first}");
    }
}

#[test]
fn a_long_last_record_is_found_from_the_end() {
    let fs = MemoryFs::new();
    let mut content = body([1], "short");
    stored::write(&mut content, Id(2), &vec![b'x'; 300_000]);
    put(&open(&fs), &content).expect("taken");
    assert_eq!(all(&open(&fs)), [content]);
    assert_eq!(names(&fs), [file_name(1, 2, 0, State::Flushed)]);
}

#[test]
fn a_store_directory_is_opened_once() {
    let fs = MemoryFs::new();
    let held = open(&fs);
    assert!(try_open(&fs).err().expect("locked").to_string().starts_with("locking store: in use by"));
    drop(held);
    open(&fs);
}

#[test]
fn the_gauges_count_segments_by_state() {
    let fs = MemoryFs::new();
    let log = open(&fs);
    put(&log, &body([1, 2], "x")).expect("taken");
    let text = log.metrics().text();
    assert!(text.contains("oklog_store_segments{state=\"flushed\"} 1\n"), "{text}");
    assert!(text.contains("oklog_store_segment_bytes{state=\"flushed\"} 58\n"), "{text}");
}

#[path = "wrong_tests.rs"]
mod wrong;

#[test]
fn what_is_copied_out_of_a_damaged_segment_after_a_failed_sync_outlives_a_power_cut() {
    let fs = MemoryFs::new();
    let mut content = body(1..50, "some text");
    put(&open(&fs), &content).expect("room");
    let name = names(&fs).remove(0);
    let path = Path::new(DIR).join(&name);
    fs.recover();
    // A byte of an id in the middle goes wrong.
    fs.remove(&path).expect("there");
    let middle = content.len() / 2;
    let start = content[..middle].iter().rposition(|byte| *byte == b'\n').expect("a record before it") + 1;
    content[start + 3] = b'!';
    let file = fs.create_new(&path).expect("free");
    file.append(&content).and_then(|()| file.sync_data()).and_then(|()| fs.sync_dir(Path::new(DIR))).expect("room");
    let log = open(&fs);
    let segment = log.snapshot(Id(0), Id::MAX).remove(0);
    fs.fail_nth(Op::SyncDir, 1, io::ErrorKind::Other);
    assert!(log.set_aside(&segment).is_err(), "the copy has its name, but not on the disk");
    log.set_aside(&segment).expect("nothing fails any more");
    fs.sync_dir(Path::new(DIR)).expect("as the next one who gives a name does");
    let left = names(&fs.harshest_image());
    assert!(left.iter().any(|name| name.ends_with(".flushed")), "{left:?}");
}
