//! Directories that the servers' own code has made, in random orders of work, are sound; and one random damage is found
//! exactly when a naive look at everything says that something is wrong.

use super::finding::{Severity, What};
use super::streams::Oddity;
use super::{Options, Report, check};
use crate::compact::retain;
use crate::compact::thread::{Housekeeper, Settings};
use crate::ingest::flusher::Rounds;
use crate::ingest::log::{IngestLog, Limits};
use crate::ingest::recover::Ground;
use crate::record::id::{Id, StreamBits};
use crate::record::line::{Cut, LineCutter};
use crate::record::stored;
use crate::segment::{Bounds, State, name};
use crate::store::log::StoreLog;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::crew::Stop;
use crate::world::entropy::{Dice, SeededEntropy};
use crate::world::fs::memory::MemoryFs;
use crate::world::fs::{FileSystem, read_full_at};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const START: UnixNanos = UnixNanos(1_800_000_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
const STORES: [&str; 2] = ["s0", "s1"];

/// A node of each kind, and the disk they share.
struct Nodes {
    fs: MemoryFs,
    clock: Arc<VirtualClock>,
    dice: Dice,
    log: Option<IngestLog>,
    rounds: Rounds,
    stores: Vec<Option<(Arc<StoreLog>, Housekeeper)>>,
}

impl Nodes {
    fn new(seed: u64) -> Nodes {
        let clock = Arc::new(VirtualClock::at(START));
        let fs = MemoryFs::with_clock(clock.clone());
        Nodes { fs, clock, dice: Dice::new(seed), log: None, rounds: Rounds::default(), stores: vec![None, None] }
    }

    fn entropy(&mut self) -> SeededEntropy {
        SeededEntropy::new(self.dice.roll())
    }

    fn log(&mut self) -> &IngestLog {
        if self.log.is_none() {
            let ground = Ground {
                fs: Arc::new(self.fs.clone()),
                clock: self.clock.clone(),
                entropy: Arc::new(self.entropy()),
                metrics: Arc::default(),
                live: Arc::default(),
            };
            let limits = Limits {
                flush_size: Bytes(3_000),
                flush_age: Duration::from_secs(3),
                pending_timeout: Duration::from_secs(60),
            };
            self.log = Some(IngestLog::open(ground, Path::new("i"), limits, 2).expect("a sound directory"));
        }
        self.log.as_ref().expect("just opened")
    }

    fn store(&mut self, n: usize) -> &mut (Arc<StoreLog>, Housekeeper) {
        if self.stores[n].is_none() {
            let entropy = self.entropy();
            let fs = Arc::new(self.fs.clone());
            let store = StoreLog::open(fs, STORES[n], self.clock.clone(), Arc::default(), &entropy).expect("sound");
            let retention = retain::Limits { retain: 48 * HOUR, purge: 24 * HOUR, max_size: None };
            let keeper =
                Housekeeper::new(store.clone(), Settings { target_size: Bytes(5_000), retention, seal_age: None });
            self.stores[n] = Some((store, keeper));
        }
        self.stores[n].as_mut().expect("just opened")
    }

    fn append(&mut self) {
        let mut text = Vec::new();
        for _ in 0..1 + self.dice.below(12) {
            let word = self.dice.roll();
            text.extend_from_slice(format!("{word:x}").repeat(1 + self.dice.below(4) as usize).as_bytes());
            text.push(b'\n');
        }
        let slot = self.dice.below(2);
        let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
        cutter.finish(&text, &mut cut);
        let log = self.log();
        log.append(log.fast_slot(slot), &text, &cut).expect("room");
    }

    /// One segment from the ingester to the stores, or only part of the way.
    fn consume(&mut self) {
        let breaks_off = self.dice.below(12);
        let Some(segment) = self.log().next().expect("renamed") else { return };
        let id = segment.digest().first;
        self.log().read(id).expect("pending");
        let content = content(&self.fs, &segment.path());
        drop(segment);
        for n in 0..2 {
            if breaks_off == n {
                return;
            }
            self.store(n as usize).0.replicate(&mut &content[..], &|| true).expect("sound");
        }
        if breaks_off != 2 {
            self.log().commit(id, &[]);
        }
    }

    fn step(&mut self) {
        match self.dice.below(20) {
            0..8 => self.append(),
            8..12 => {
                let span = Duration::from_millis(self.dice.below(4_000));
                self.clock.advance(span);
                self.log();
                let log = self.log.as_ref().expect("just opened");
                log.round(&mut self.rounds);
            }
            12..16 => self.consume(),
            16 => {
                let n = self.dice.below(2) as usize;
                self.store(n).1.tick(&Stop::default());
            }
            17 => {
                // Killed: what was active or pending is so when it starts again.
                self.log = None;
                self.rounds = Rounds::default();
            }
            18 => {
                let n = self.dice.below(2) as usize;
                self.stores[n] = None;
            }
            _ => {
                let hours = self.dice.below(12) as u32;
                self.clock.advance(HOUR * hours);
            }
        }
    }

    /// What such nodes leave behind when they are killed after some work.
    fn leave(seed: u64, steps: u64) -> (MemoryFs, Arc<VirtualClock>, Dice) {
        let mut nodes = Nodes::new(seed);
        nodes.log();
        (0..2).for_each(|n| drop(nodes.store(n).0.clone()));
        (0..steps).for_each(|_| nodes.step());
        // Both stores keep to their retention now: what one has removed the other must not count.
        (0..2).for_each(|n| nodes.store(n).1.tick(&Stop::default()));
        (nodes.fs.clone(), nodes.clock.clone(), nodes.dice.clone())
    }
}

fn content(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("there");
    let mut content = vec![0; file.size().expect("there").0 as usize];
    read_full_at(&*file, &mut content, Bytes(0)).expect("readable");
    content
}

fn report(fs: &MemoryFs, clock: &VirtualClock) -> Report {
    let fs: Arc<dyn FileSystem> = Arc::new(fs.clone());
    let dirs: Vec<PathBuf> = ["i", "s0", "s1"].map(PathBuf::from).to_vec();
    check(&fs, clock, &Options { dirs, copies: Some(2) }, &mut |_| {}).expect("readable")
}

fn lines(report: &Report) -> String {
    let mut out = Vec::new();
    report.print(true, &mut out).expect("in memory");
    String::from_utf8_lossy(&out).into_owned()
}

/// What a look at everything at once, held in memory, says: whether something is wrong, and whether the beginning of a stream
/// is missing, which may be excused.
fn naive(fs: &MemoryFs) -> (BTreeSet<&'static str>, bool) {
    let mut wrong = BTreeSet::new();
    let mut texts: BTreeMap<Id, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let (mut live, mut waiting): (BTreeMap<Id, BTreeSet<&str>>, BTreeSet<Id>) = Default::default();
    let mut past = None;
    for dir in ["i", "s0", "s1"] {
        for entry in fs.list(Path::new(dir)).expect("there") {
            let ours =
                [".ingest", ".store", ".mark"].iter().any(|end| entry.name.ends_with(end)) || entry.name == "LOCK";
            if ours {
                continue;
            }
            let Some((bounds, state)) = name::parse(&entry.name) else {
                wrong.insert("a strange name");
                continue;
            };
            let content = content(fs, &Path::new(dir).join(&entry.name));
            let records: Vec<_> =
                stored::records(&content).map(|record| (record.id(), record.text().to_vec())).collect();
            let ids: Vec<Id> = records.iter().filter_map(|(id, _)| *id).collect();
            let whole = content.ends_with(b"\n") && ids.len() == records.len() && ids.is_sorted_by(|a, b| a < b);
            let named = match bounds {
                Bounds::From(first) => ids.first() == Some(&first),
                Bounds::Range(first, last, _) => (ids.first(), ids.last()) == (Some(&first), Some(&last)),
            };
            if !whole || !named {
                wrong.insert("a file that is not what its name says");
                continue;
            }
            if let (State::Trashed, Bounds::Range(_, last, _)) = (state, bounds) {
                past = past.max(Some(last));
            }
            for (id, text) in records {
                let id = id.expect("checked");
                texts.entry(id).or_default().insert(text);
                match (dir, state) {
                    ("i", _) => drop(waiting.insert(id)),
                    (_, State::Trashed) => {}
                    _ => drop(live.entry(id).or_default().insert(dir)),
                }
            }
        }
    }
    if texts.values().any(|texts| texts.len() > 1) {
        wrong.insert("copies that differ");
    }
    if live.iter().any(|(id, stores)| stores.len() < 2 && !waiting.contains(id) && past.is_none_or(|past| *id > past)) {
        wrong.insert("too few copies");
    }
    let mut counters: BTreeMap<StreamBits, Vec<u32>> = BTreeMap::new();
    texts.keys().for_each(|id| counters.entry(id.stream()).or_default().push(id.counter()));
    let mut headless = false;
    for counters in counters.values() {
        headless |= counters[0] != 0;
        if counters.windows(2).any(|pair| pair[1] != pair[0].wrapping_add(1)) {
            wrong.insert("a counter that is missing");
        }
    }
    (wrong, headless)
}

#[test]
fn what_servers_leave_behind_is_sound() {
    let mut states = BTreeSet::new();
    for seed in 0..seeds(40) {
        let (fs, clock, _) = Nodes::leave(seed, 20 + seed % 100 * 4);
        let report = report(&fs, &clock);
        assert_eq!(report.exit_status(), 0, "replay with seed {seed}: {}", lines(&report));
        assert_eq!(naive(&fs).0, BTreeSet::new(), "replay with seed {seed}");
        for dir in ["i", "s0"] {
            let entries = fs.list(Path::new(dir)).expect("there");
            states.extend(entries.iter().filter_map(|entry| Some((dir, name::parse(&entry.name)?.1))));
        }
    }
    let waiting = [State::Active, State::Flushed, State::Pending].map(|state| ("i", state));
    let kept = [State::Flushed, State::Trashed].map(|state| ("s0", state));
    assert_eq!(states, BTreeSet::from_iter(waiting.into_iter().chain(kept)), "what the servers left");
}

/// So many seeds, and fifty times as many where there is time.
fn seeds(usual: u64) -> u64 {
    usual * if std::env::var_os("OKLOG_TEST_LONG").is_some() { 50 } else { 1 }
}

/// Does one thing to one file that may matter. Gives what.
fn damage(fs: &MemoryFs, dice: &mut Dice) -> Option<String> {
    let mut files = Vec::new();
    for dir in ["i", "s0", "s1"] {
        let names = fs.list(Path::new(dir)).expect("there").into_iter().map(|entry| entry.name);
        // A file without an LF at its end is excused where it is active, so that its damage may be.
        let names = names.filter(|name| matches!(name::parse(name), Some((_, state)) if state != State::Active));
        files.extend(names.map(|name| Path::new(dir).join(name)));
    }
    if files.is_empty() {
        return None;
    }
    let path = files.swap_remove(dice.below(files.len() as u64) as usize);
    let mut bytes = content(fs, &path);
    let at = dice.below(bytes.len() as u64) as usize;
    let sort = dice.below(8);
    let what = match sort {
        0..3 => {
            bytes[at] ^= 1 << dice.below(8);
            format!("a bit flipped in byte {at}")
        }
        3 => {
            bytes.truncate(at);
            format!("cut at byte {at}")
        }
        4 => {
            let end = bytes.len().min(at + 512);
            bytes[at..end].fill(0);
            format!("zeroes from byte {at}")
        }
        5 => {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            lines.remove(dice.below(lines.len() as u64) as usize);
            bytes = lines.concat();
            "a record removed".to_string()
        }
        6 => {
            let mut lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let two = lines.len() as u64;
            lines.swap(dice.below(two) as usize, dice.below(two) as usize);
            bytes = lines.concat();
            "two records swapped".to_string()
        }
        _ => "removed".to_string(),
    };
    fs.remove(&path).expect("there");
    if sort < 7 {
        fs.create_new(&path).expect("free").append(&bytes).expect("room");
    }
    Some(format!("{}: {what}", path.display()))
}

#[test]
fn one_damage_is_found_exactly_when_a_naive_look_at_everything_finds_it() {
    let (mut found, mut harmless) = (0, 0);
    for seed in 0..seeds(120) {
        let (fs, clock, mut dice) = Nodes::leave(seed, 40 + seed % 200);
        let Some(what) = damage(&fs, &mut dice) else { continue };
        let (report, (wrong, headless)) = (report(&fs, &clock), naive(&fs));
        let story = || format!("replay with seed {seed}: {what}: {wrong:?}, {headless}\n{}", lines(&report));
        if !wrong.is_empty() {
            assert_eq!(report.exit_status(), 1, "{}", story());
            found += 1;
            continue;
        }
        let problems = report.findings().filter(|finding| finding.what.severity() == Severity::Problem);
        // What is missing at the beginning of a stream may be excused, or not.
        let other = |what: &What| !matches!(what, What::Stream(Oddity::Headless { .. }, _));
        assert_eq!(problems.filter(|problem| other(&problem.what)).count(), 0, "{}", story());
        harmless += 1;
    }
    assert!(found > 60 && harmless > 3, "{found} found, {harmless} harmless");
}
