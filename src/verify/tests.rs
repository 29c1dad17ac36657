//! A bench for directories in memory that are made by hand, and what holds for the auditor as a whole.

use super::check::{Progress, Refusal};
use super::finding::{Severity, What};
use super::report::Report;
use super::walk::Fault;
use super::{Options, check};
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::segment::{Bounds, State};
use crate::unit::UnixNanos;
use crate::world::clock::VirtualClock;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::{MemoryFs, Op};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// When all tests take place.
pub const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// The identity of the store at `store`, and of others by number.
pub const ID: u128 = 0xABCD;

/// An id so many seconds before now.
pub fn id(ago: u64, stream: u64, counter: u32) -> Id {
    Id::new(UnixNanos(NOW.0 - ago * 1_000_000_000 + u64::from(counter)), StreamBits::from_random(stream), counter)
}

/// Ids of one stream, a nanosecond apart.
pub fn ids(ago: u64, stream: u64, counters: std::ops::Range<u32>) -> Vec<Id> {
    counters.map(|counter| id(ago, stream, counter)).collect()
}

/// Stored records whose text follows from their ids: 42 bytes each.
pub fn bytes(ids: &[Id]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut bytes, *id, format!("record{:08x}", id.counter()).as_bytes()));
    bytes
}

/// How long each of them is.
pub const LEN: u64 = 42;

/// The name of a store's segment.
pub fn name(ids: &[Id], state: State) -> String {
    Bounds::Range(ids[0], ids[ids.len() - 1], 0).file_name(state)
}

/// Directories in memory, and a clock that stands still.
pub struct Bench {
    pub fs: MemoryFs,
    pub clock: Arc<VirtualClock>,
}

impl Bench {
    pub fn new() -> Bench {
        let clock = Arc::new(VirtualClock::at(NOW));
        Bench { fs: MemoryFs::with_clock(clock.clone()), clock }
    }

    /// One with an empty store at `store`.
    pub fn with_store() -> Bench {
        let bench = Bench::new();
        bench.store("store", ID);
        bench
    }

    pub fn store(&self, dir: &str, id: u128) {
        self.put(&format!("{dir}/{id:032x}.store"), b"");
        drop(self.fs.lock_dir(Path::new(dir)).unwrap());
    }

    pub fn ingest(&self, dir: &str, id: u128) {
        self.put(&format!("{dir}/{id:032x}.ingest"), b"");
        drop(self.fs.lock_dir(Path::new(dir)).unwrap());
    }

    pub fn put(&self, path: &str, content: &[u8]) {
        let path = Path::new(path);
        self.fs.create_dir_all(path.parent().unwrap()).unwrap();
        self.fs.create_new(path).unwrap().append(content).unwrap();
    }

    /// A store's segment with sound content; gives its name.
    pub fn segment(&self, dir: &str, ids: &[Id], state: State) -> String {
        self.segment_of(dir, ids, state, &bytes(ids))
    }

    /// A store's segment with this content under the name of these ids; gives its name.
    pub fn segment_of(&self, dir: &str, ids: &[Id], state: State, content: &[u8]) -> String {
        let name = name(ids, state);
        self.put(&format!("{dir}/{name}"), content);
        name
    }

    /// An ingest segment; gives its name.
    pub fn waiting(&self, dir: &str, first: Id, state: State, content: &[u8]) -> String {
        let name = Bounds::From(first).file_name(state);
        self.put(&format!("{dir}/{name}"), content);
        name
    }

    pub fn try_check(&self, dirs: &[&str], copies: Option<u32>) -> Result<Report, Refusal> {
        self.check_with(dirs, copies, &mut |_| {})
    }

    fn check_with(
        &self,
        dirs: &[&str],
        copies: Option<u32>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, Refusal> {
        let fs: Arc<dyn FileSystem> = Arc::new(self.fs.clone());
        let dirs = dirs.iter().map(PathBuf::from).collect();
        let before = self.fs.operations();
        let report = check(&fs, &*self.clock, &Options { dirs, copies }, progress);
        assert_eq!(self.fs.operations(), before, "nothing may be written");
        report
    }

    pub fn check(&self, dirs: &[&str]) -> Report {
        self.try_check(dirs, None).unwrap()
    }

    /// The findings on `store`, by name, problems and notes, and the exit status.
    pub fn found(&self) -> (Vec<(String, What)>, u8) {
        found(&self.check(&["store"]))
    }
}

/// The findings by name, and the exit status.
pub fn found(report: &Report) -> (Vec<(String, What)>, u8) {
    let all = report.findings().map(|finding| (finding.name.clone(), finding.what.clone())).collect();
    (all, report.exit_status())
}

fn refused(bench: &Bench, dirs: &[&str], copies: Option<u32>) -> String {
    bench.try_check(dirs, copies).expect_err("refused").to_string()
}

#[test]
fn sound_directories_have_no_finding() {
    let bench = Bench::with_store();
    bench.ingest("ingest", 7);
    bench.segment("store", &ids(100, 1, 0..10), State::Flushed);
    bench.segment("store", &ids(50, 2, 0..10), State::Flushed);
    let waiting = ids(9, 3, 0..5);
    bench.waiting("ingest", waiting[0], State::Flushed, &bytes(&waiting));
    let report = bench.check(&["ingest", "store"]);
    assert_eq!(found(&report), (vec![], 0));
    assert_eq!((report.by_stores.get(&1), report.waiting), (Some(&20), (5, 0)));
    assert_eq!((report.bytes.0, report.streams), (25 * LEN, 3));
}

#[test]
fn a_directory_that_holds_both_tiers_stands_for_them_and_none_is_read_twice() {
    let bench = Bench::new();
    bench.ingest("data/ingest", 7);
    bench.store("data/store", ID);
    bench.segment("data/store", &ids(100, 1, 0..10), State::Flushed);
    let report = bench.check(&["data", "data/./store", "data"]);
    let paths: Vec<_> = report.dirs.iter().map(|dir| dir.path.display().to_string()).collect();
    assert_eq!(paths, ["data/ingest", "data/store"]);
    assert_eq!((found(&report), report.bytes.0), ((vec![], 0), 10 * LEN));
}

#[test]
fn what_is_no_data_directory_is_refused_in_one_sentence() {
    let bench = Bench::with_store();
    bench.put("etc/passwd", b"root\n");
    assert_eq!(refused(&bench, &["store", "etc"], None), "etc is no data directory of a server");
    assert!(refused(&bench, &["store", "none"], None).starts_with("cannot read none: "));
    let too_many: Vec<String> = (0..=super::copies::MOST_DIRS).map(|n| format!("many/{n}")).collect();
    too_many.iter().enumerate().for_each(|(n, dir)| bench.store(dir, n as u128));
    let too_many: Vec<&str> = too_many.iter().map(String::as_str).collect();
    assert_eq!(refused(&bench, &too_many, None), "more than 128 directories cannot be looked at together");
}

#[test]
fn a_directory_in_use_is_refused_also_when_it_is_taken_meanwhile() {
    let bench = Bench::with_store();
    let held = bench.fs.lock_dir(Path::new("store")).unwrap();
    let sentence = refused(&bench, &["store"], None);
    assert!(sentence.starts_with("store is in use by process ") && sentence.contains("stop that server"), "{sentence}");
    drop(held);
    bench.check(&["store"]);
    let mut held = None;
    let mut start = |_| held = bench.fs.lock_dir(Path::new("store")).ok();
    let refusal = bench.check_with(&["store"], None, &mut start).expect_err("refused");
    assert!(matches!(refusal, Refusal::InUse { .. }), "{refusal}");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_all_others_are_read() {
    for nth in 1..=8 {
        let bench = Bench::with_store();
        let first = bench.segment("store", &ids(100, 1, 0..10), State::Flushed);
        let second = bench.segment("store", &ids(50, 2, 0..10), State::Flushed);
        bench.fs.fail_nth(Op::Read, nth, io::ErrorKind::Other);
        let report = bench.check(&["store"]);
        // The first two reads are looks at the beginning, for the order of reading: what they miss is read later. Then of each
        // file both ends are looked at, for its form, before it is read.
        if nth <= 2 {
            assert_eq!(found(&report), (vec![], 0), "{nth}");
            continue;
        }
        let (all, status) = found(&report);
        let unread = if nth <= 5 { &first } else { &second };
        assert!(
            matches!(&all[..], [(name, What::Fault(Fault::Unreadable { at: 0, .. }, _))] if name == unread),
            "{nth}: {all:?}"
        );
        assert_eq!((status, report.by_stores.get(&1)), (2, Some(&10)), "{nth}");
    }
}

#[test]
fn thousands_of_files_that_overlap_are_read_side_by_side() {
    let bench = Bench::with_store();
    for stream in 0..2_000 {
        bench.segment("store", &[id(100, stream, 0), id(50, stream, 1)], State::Flushed);
    }
    let report = bench.check(&["store"]);
    assert_eq!((found(&report), report.by_stores.get(&1)), ((vec![], 0), Some(&4_000)));
}

#[test]
fn the_report_says_on_each_line_which_file_what_is_wrong_and_how_it_ends() {
    let bench = Bench::with_store();
    let name = bench.segment_of("store", &ids(100, 1, 0..10), State::Flushed, &bytes(&ids(100, 1, 0..9)));
    bench.put("store/x\u{1b}[2J", b"hello");
    bench.waiting("store/lost+found", id(1, 1, 0), State::Flushed, b"");
    let report = bench.check(&["store"]);
    let lines = |notes| {
        let mut out = Vec::new();
        report.print(notes, &mut out).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_string).collect::<Vec<_>>()
    };
    let all = lines(true);
    assert_eq!(all[0], format!("store (store {ID:032x}): 1 segment, 9 records, 378 bytes"));
    let problem = |line: &str, of: &str| line.starts_with(&format!("  problem: {of}: "));
    assert!(problem(&all[1], &name) && problem(&all[2], "x?[2J"), "{all:#?}");
    assert!(all[3].starts_with("  note: lost+found: is no plain file"), "{all:#?}");
    assert!(all[4].starts_with("  note: x?[2J: counts for nothing"), "{all:#?}");
    assert_eq!(all[5], "9 records on 1 store");
    assert_eq!(all[6], "no counter is missing between two of the same stream, of 1 stream");
    assert_eq!(all[8], "1 directory, 383 bytes read in 0.0 s: 2 problems, 2 notes");
    assert_eq!(lines(false), [&all[..3], &all[5..7], &all[8..]].concat());
    assert_eq!(report.count(Severity::Note), 2);
}

#[test]
fn a_server_that_came_and_went_meanwhile_is_noticed() {
    let bench = Bench::with_store();
    let mut pass = |_| {
        bench.clock.advance(Duration::from_secs(1));
        drop(bench.fs.lock_dir(Path::new("store")));
        bench.fs.set_modified(Path::new("store/LOCK"), crate::unit::UnixMillis(NOW.millis().0 + 5)).unwrap();
    };
    let fs: Arc<dyn FileSystem> = Arc::new(bench.fs.clone());
    let options = Options { dirs: vec!["store".into()], copies: None };
    let refusal = check(&fs, &*bench.clock, &options, &mut pass).expect_err("refused");
    assert!(matches!(refusal, Refusal::Started { .. }), "{refusal}");
}
