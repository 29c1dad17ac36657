//! Each row of the table above, and crashes within.

use super::*;
use crate::ingest::log::Limits;
use crate::record::stored::{self, records};
use crate::segment::reader::{BlockReader, FileRange};
use crate::world::clock::VirtualClock;
use crate::world::entropy::{Dice, SystemEntropy};
use crate::world::fs::File;
use crate::world::fs::memory::{MemoryFs, Op};
use std::collections::BTreeSet;
use std::time::Duration;

const DIR: &str = "ingest";

fn try_open(fs: &MemoryFs) -> Result<IngestLog, OpenError> {
    let ground = Ground {
        fs: Arc::new(fs.clone()),
        clock: Arc::new(VirtualClock::at(UnixNanos(1_795_000_000_000_000_000))),
        entropy: Arc::new(SystemEntropy),
        metrics: Arc::default(),
        live: Arc::default(),
    };
    let (flush_age, pending_timeout) = (Duration::from_secs(3), Duration::from_secs(60));
    IngestLog::open(ground, Path::new(DIR), Limits { flush_size: Bytes(10_000), flush_age, pending_timeout }, 1)
}

fn open(fs: &MemoryFs) -> IngestLog {
    try_open(fs).expect("opens")
}

fn corrupt(log: &IngestLog) -> u64 {
    log.metrics.counter(m::CORRUPT, &["ingest"]).get()
}

fn body(ids: &[u128]) -> Vec<u8> {
    let mut body = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut body, Id(*id), format!("record {id}").as_bytes()));
    body
}

fn named(id: u128, state: State) -> String {
    Bounds::From(Id(id)).file_name(state)
}

fn put(fs: &MemoryFs, name: &str, content: &[u8]) {
    fs.create_dir_all(Path::new(DIR)).expect("in memory");
    let file = fs.create_new(&Path::new(DIR).join(name)).expect("a new file");
    file.append(content).and_then(|()| file.sync_data()).expect("written");
    fs.sync_dir(Path::new(DIR)).expect("synced");
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut content = vec![0; file.size().expect("open").0 as usize];
    file.read_at(&mut content, Bytes(0)).expect("readable");
    content
}

/// Names and contents of all but the lock and the id.
fn files(fs: &MemoryFs) -> BTreeMap<String, Vec<u8>> {
    let names = fs.list(Path::new(DIR)).expect("a directory").into_iter().map(|entry| entry.name);
    let names = names.filter(|name| name != "LOCK" && !name.ends_with(ID_EXTENSION));
    names.map(|name| (name.clone(), content(&*fs.open(&Path::new(DIR).join(name)).expect("there")))).collect()
}

/// The ids that queries find; an error where they come to damage.
fn found(log: &IngestLog) -> io::Result<Vec<u128>> {
    let mut ids = Vec::new();
    for readable in log.snapshot(Id::MIN, Id::MAX) {
        let file = readable.source.open()?;
        let mut reader = BlockReader::new(FileRange::new(file, Bytes(0), readable.len));
        let mut block = Vec::new();
        while reader.next_block(&mut block)? {
            for record in records(&block) {
                let id = record.id().ok_or(io::ErrorKind::InvalidData)?;
                assert_eq!(record.text(), format!("record {}", id.0).as_bytes());
                ids.push(id.0);
            }
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

/// One row: what lies in the directory, what lies in it after the start, what is found, and how many were wrong.
fn check(before: &[(&str, &[u8])], after: &[&str], expected: &[u128], wrong: u64) -> MemoryFs {
    let fs = MemoryFs::new();
    before.iter().for_each(|(name, content)| put(&fs, name, content));
    for round in 0..3 {
        let log = open(&fs);
        let what = format!("{:?}, round {round}", before.iter().map(|(name, _)| name).collect::<Vec<_>>());
        assert_eq!(found(&log).expect("whole"), expected, "{what}");
        assert_eq!(corrupt(&log), if round == 0 { wrong } else { 0 }, "{what}: said once");
        let mut after: Vec<&str> = after.to_vec();
        after.sort_unstable();
        assert_eq!(files(&fs).keys().collect::<Vec<_>>(), after, "{what}");
    }
    // Whatever is set aside is as it was.
    for (name, content) in files(&fs).iter().filter(|(name, _)| name.ends_with(".corrupt")) {
        assert!(before.iter().any(|(_, before)| before == content), "{name} was changed before it was set aside");
    }
    fs
}

const GOOD: [u128; 3] = [5, 6, 7];

#[test]
fn a_whole_segment_is_flushed_whatever_state_it_was_in() {
    for state in [State::Active, State::Pending, State::Flushed] {
        check(&[(&named(5, state), &body(&GOOD))], &[&named(5, State::Flushed)], &GOOD, 0);
    }
}

#[test]
fn what_an_append_left_behind_is_cut_off_where_a_segment_was_being_written_and_only_there() {
    let flushed = named(5, State::Flushed);
    for tail in [&b"0000000000000000"[..], b"00000000000000000000000009 half a rec", &[0; 5_000]] {
        let torn = [&body(&GOOD)[..], tail].concat();
        let fs = check(&[(&named(5, State::Active), &torn)], &[&flushed], &GOOD, 0);
        assert_eq!(files(&fs)[&flushed], body(&GOOD));
        for state in [State::Flushed, State::Pending] {
            let name = named(5, state);
            check(&[(&name, &torn)], &[&flushed, &format!("{name}.corrupt")], &GOOD, 1);
        }
        // The same without one whole record: nothing that was promised, or all of it.
        check(&[(&named(5, State::Active), tail)], &[], &[], 0);
        check(&[(&flushed, tail)], &[&format!("{flushed}.corrupt")], &[], 1);
    }
    check(&[(&named(5, State::Active), b"")], &[], &[], 0);
    check(&[(&flushed, b"")], &[&format!("{flushed}.corrupt")], &[], 1);
    let active = named(5, State::Active);
    for tail in [&b"not the beginning of a record"[..], b"\x01\x02"] {
        check(&[(&active, tail)], &[&format!("{active}.corrupt")], &[], 1);
        let both = [&body(&GOOD)[..], tail].concat();
        check(&[(&active, &both)], &[&flushed, &format!("{active}.corrupt")], &GOOD, 1);
    }
}

#[test]
fn what_is_whole_around_damage_goes_on_and_the_file_is_set_aside() {
    let flushed = named(5, State::Flushed);
    for state in [State::Active, State::Pending, State::Flushed] {
        let name = named(5, state);
        let mut damaged = body(&GOOD);
        let len = damaged.len() / 3;
        damaged[len + 2] = b'!';
        check(&[(&name, &damaged)], &[&flushed, &format!("{name}.corrupt")], &[5, 7], 1);
        let mut first = body(&GOOD);
        first[2] = b'!';
        check(&[(&name, &first)], &[&named(6, State::Flushed), &format!("{name}.corrupt")], &[6, 7], 1);
        let swapped = [body(&[5, 6, 30, 31]), body(&[7, 8])].concat();
        let both = [flushed.clone(), named(7, State::Flushed), format!("{name}.corrupt")];
        check(&[(&name, &swapped)], &both.each_ref().map(String::as_str), &[5, 6, 7, 8, 30, 31], 1);
    }
    let text = b"a text of a later version\nwith lines\n";
    check(&[(&flushed, text)], &[&format!("{flushed}.corrupt")], &[], 1);
}

#[test]
fn a_sound_file_with_a_wrong_name_goes_on_under_the_right_one() {
    let (good, flushed) = (body(&GOOD), named(5, State::Flushed));
    check(&[(&named(4, State::Flushed), &good)], &[&flushed], &GOOD, 1);
    let range = Bounds::Range(Id(5), Id(7), 0).file_name(State::Flushed);
    let lower = format!("{}.flushed", Id(31).to_string().to_lowercase());
    for name in ["5ad47d2e-3b54-4d0c-9a35-1e4c1f1f2d11.flushed", "5ad47d2e.pending", "x.active", &range, &lower] {
        check(&[(name, &good)], &[&flushed], &GOOD, 0);
    }
    // Twice the same, and another that begins with the same id.
    check(&[(&flushed, &good), ("copy.flushed", &good)], &[&flushed, "copy.flushed.corrupt"], &GOOD, 1);
    let after = [&*flushed, &named(8, State::Flushed), "other.flushed.corrupt"];
    check(&[(&flushed, &good), ("other.flushed", &body(&[5, 8, 9]))], &after, &[5, 6, 7, 8, 9], 1);
}

#[test]
fn what_is_none_of_ours_is_set_aside_and_what_was_set_aside_is_never_touched() {
    let newer = format!("{}.sealed", Id(5));
    let trashed = named(5, State::Trashed);
    for name in ["notes.txt", "noextension", &newer, &trashed, "x.mark", "UPPER.ingest", ".flushed.swp"] {
        check(&[(name, b"by a person")], &[&format!("{name}.corrupt")], &[], 1);
    }
    let (aside, name) = (named(5, State::Flushed) + ".corrupt", named(5, State::Flushed));
    let again = format!("{name}.1.corrupt");
    check(&[(&aside, b"earlier"), (&name, b"garbage\n")], &[&aside, &again], &[], 1);
    let long = "x".repeat(250);
    let fs = MemoryFs::new();
    put(&fs, &long, b"");
    open(&fs);
    assert!(files(&fs).keys().all(|name| name.len() <= 255 && name.ends_with(".corrupt")));
}

#[test]
fn the_higher_of_two_marks_holds_and_one_that_is_not_empty_is_set_aside() {
    let mark = |ms: u64| format!("{}.mark", Id::first_of(crate::unit::UnixMillis(ms)));
    let (low, high) = (mark(1_795_000_000_001), mark(1_795_000_005_000));
    let fs = check(&[(&low, b""), (&high, b"")], &[&high], &[], 0);
    assert!(open(&fs).ids.reserve(UnixNanos(1_795_000_000_000_000_000), 1).first.0 > 1_795_000_005_000_000_000);
    let fs = check(&[(&low, b""), (&high, b"something")], &[&low, &format!("{high}.corrupt")], &[], 1);
    drop(fs);
}

#[test]
fn a_rescue_that_was_interrupted_goes_on() {
    let (flushed, good) = (named(5, State::Flushed), body(&GOOD));
    let damaged = [&good[..], b"torn"].concat();
    let (name, copy) = (format!("{flushed}.damaged"), format!("{flushed}.damaged.0.copy"));
    let after = [&*flushed, &format!("{flushed}.corrupt")];
    check(&[(&name, &damaged)], &after, &GOOD, 1);
    check(&[(&name, &damaged), (&copy, &good[..40])], &after, &GOOD, 1);
    check(&[(&name, &damaged), (&flushed, &good)], &after, &GOOD, 1);
    check(&[(&copy, &good[..40])], &[&format!("{copy}.corrupt")], &[], 1);
}

#[test]
fn without_room_a_damaged_file_waits_for_the_next_start_and_queries_say_so() {
    let (fs, flushed) = (MemoryFs::new(), named(5, State::Flushed));
    let mut damaged = body(&GOOD);
    damaged[2] = b'!';
    put(&fs, &flushed, &damaged);
    fs.set_capacity(Bytes(damaged.len() as u64 + 20));
    for _ in 0..2 {
        let log = open(&fs);
        assert!(found(&log).is_err(), "what cannot be had is not left out in silence");
        assert_eq!(files(&fs), [(format!("{flushed}.damaged"), damaged.clone())].into());
    }
    fs.set_capacity(Bytes(u64::MAX));
    assert_eq!(found(&open(&fs)).expect("whole"), [6, 7]);
    assert_eq!(files(&fs).len(), 2);
}

#[test]
fn one_file_that_cannot_be_read_or_renamed_does_not_keep_the_node_from_starting() {
    let flushed = named(5, State::Flushed);
    let fs = MemoryFs::new();
    put(&fs, &flushed, &body(&GOOD));
    // The lock and the two files of the ballast come first.
    (4..6).for_each(|n| fs.fail_nth(Op::Open, n, io::ErrorKind::PermissionDenied));
    let log = open(&fs);
    assert_eq!((found(&log).expect("whole"), corrupt(&log)), (vec![], 1));
    assert_eq!(files(&fs), [(format!("{flushed}.corrupt"), body(&GOOD))].into());

    let fs = MemoryFs::new();
    put(&fs, "notes.txt", b"mine");
    put(&fs, &named(5, State::Active), &body(&GOOD));
    (1..3).for_each(|n| fs.fail_nth(Op::Rename, n, io::ErrorKind::Other));
    let log = open(&fs);
    assert_eq!((found(&log).expect("whole"), corrupt(&log)), (GOOD.to_vec(), 2));
    assert!(log.next().expect("nothing to rename").is_none(), "it is there for queries alone");
    drop(log);
    let log = open(&fs);
    assert!(log.next().expect("renamed").is_some(), "the next start offers it");

    let fs = MemoryFs::new();
    put(&fs, &flushed, &body(&GOOD));
    fs.fail_nth(Op::Open, 4, io::ErrorKind::Other);
    fs.fail_nth(Op::Read, 1, io::ErrorKind::Other);
    assert_eq!(found(&open(&fs)).expect("whole"), GOOD, "an error that does not come again costs nothing");
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_in_one_sentence() {
    let fs = MemoryFs::new();
    put(&fs, "notes.txt", b"mine");
    fs.fail_nth(Op::Rename, 1, io::ErrorKind::PermissionDenied);
    let refused = try_open(&fs).err().expect("refused").to_string();
    assert!(
        refused.starts_with("recovering ingest/notes.txt") && refused.contains("must belong to the user"),
        "{refused}"
    );
    let fs = MemoryFs::new();
    put(&fs, &format!("{}.store", "a".repeat(32)), b"");
    put(&fs, &named(5, State::Flushed), &body(&GOOD));
    let refused = try_open(&fs).err().expect("refused").to_string();
    assert!(refused.contains("directory of another tier"), "{refused}");
    assert_eq!(files(&fs).len(), 2, "and nothing in it is touched");
}

#[test]
fn ten_thousand_names_that_are_taken_leave_the_file_where_it_is() {
    let fs = MemoryFs::new();
    put(&fs, "notes.txt", b"mine");
    put(&fs, "notes.txt.corrupt", b"");
    for n in 1..10_000 {
        fs.create_new(&Path::new(DIR).join(format!("notes.txt.{n}.corrupt"))).expect("a new file");
    }
    assert_eq!(corrupt(&open(&fs)), 1);
    assert!(files(&fs).contains_key("notes.txt"));
}

/// A directory with one file for each sort of damage, and the ids that are whole in it.
fn damaged_directory(fs: &MemoryFs) -> BTreeSet<u128> {
    let mut bad = body(&[10, 11, 12]);
    bad[50] = b'!';
    bad[40] = b'!';
    let mut hole = body(&(100..400).collect::<Vec<_>>());
    hole[4_096..8_192].fill(0);
    let len = body(&[100]).len();
    put(fs, &named(5, State::Flushed), &[&body(&GOOD)[..], b"0000"].concat());
    put(fs, &named(10, State::Pending), &bad);
    put(fs, &named(20, State::Active), &[&body(&[20, 21])[..], b"0000"].concat());
    put(fs, &named(100, State::Active), &hole);
    put(fs, &named(500, State::Flushed), &[body(&[500, 501, 520, 521]), body(&[510, 511])].concat());
    put(fs, "uuid.flushed", &body(&[600]));
    put(fs, "notes.txt", b"mine");
    let spared = |n: &usize| (n + 1) * len <= 4_096 || n * len >= 8_192;
    let around = (0..300).filter(spared).map(|n| n as u128 + 100);
    let others = [5, 6, 7, 10, 12, 20, 21, 500, 501, 510, 511, 520, 521, 600];
    around.chain(others).collect()
}

#[test]
fn a_crash_at_any_operation_of_a_recovery_costs_nothing_and_removes_nothing() {
    let originals = |fs: &MemoryFs| -> Vec<Vec<u8>> {
        let is_damaged = |name: &str| !name.starts_with(&Id(20).to_string()) && name != "uuid.flushed";
        files(fs).into_iter().filter(|(name, _)| is_damaged(name)).map(|(_, content)| content).collect()
    };
    let mut crash = 0;
    loop {
        let mut ended = false;
        for again in 0..4 {
            let fs = MemoryFs::new();
            let expected = damaged_directory(&fs);
            let kept = originals(&fs);
            fs.crash_at(fs.operations() + crash);
            ended = try_open(&fs).is_ok();
            fs.crash(&mut Dice::new(crash * 4 + again));
            fs.recover();
            if again % 2 == 1 {
                // And once more within the recovery from that.
                fs.crash_at(fs.operations() + crash / 2);
                let _ = try_open(&fs);
                fs.crash(&mut Dice::new(crash * 4 + again));
                fs.recover();
            }
            let log = open(&fs);
            let found = found(&log).expect("whole");
            let replay = format!("crash at operation {crash}, replay with seed {}", crash * 4 + again);
            assert_eq!(found.iter().copied().collect::<BTreeSet<_>>(), expected, "{replay}");
            assert_eq!(found.len(), expected.len(), "{replay}: nothing twice");
            let now = files(&fs);
            for content in &kept {
                let is_kept = now.iter().any(|(name, other)| name.ends_with(".corrupt") && other == content);
                assert!(is_kept, "{replay}: {:?} of {:?}", &content[..content.len().min(60)], now.keys());
            }
            assert!(
                now.keys().all(|name| name.ends_with(".flushed") || name.ends_with(".corrupt")),
                "{replay}: {now:?}"
            );
        }
        if ended {
            assert!(crash > 20, "the recovery is too small to show anything: {crash}");
            return;
        }
        crash += 1;
    }
}
