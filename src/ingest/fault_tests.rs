//! The ingest tier on a disk of which each operation fails once, in each way there is, and is looked at after a power cut
//! before each operation: nothing promised is lost, nothing comes twice, and the next attempt or the next start works.

use super::durable::sync_once;
use super::flusher::Rounds;
use super::log::{IngestLog, Limits, Reason};
use super::queue::{Drained, Verdict};
use super::recover::{Ground, OpenError};
use crate::record::id::Id;
use crate::record::line::{Cut, LineCutter};
use crate::record::stored;
use crate::segment::reader::{BlockReader, FileRange};
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::crew::lock;
use crate::world::entropy::{Dice, SeededEntropy};
use crate::world::fs::File;
use crate::world::fs::memory::{Fault, MemoryFs, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const START: UnixNanos = UnixNanos(1_795_000_000_000_000_000);

/// An ingest tier, and what is known of its records by their texts.
struct Bench {
    fs: MemoryFs,
    clock: Arc<VirtualClock>,
    lives: u64,
    sent: BTreeSet<String>,
    /// Synced, and said to be.
    promised: BTreeSet<String>,
    /// Taken over by a consumer, who said so.
    taken: BTreeSet<String>,
    /// In words, what is tried.
    what: String,
}

impl Bench {
    fn new(what: String) -> Bench {
        let clock = Arc::new(VirtualClock::at(START));
        let fs = MemoryFs::with_clock(clock.clone());
        let [sent, promised, taken] = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
        Bench { fs, clock, lives: 0, sent, promised, taken, what }
    }

    fn open(&mut self, fs: &MemoryFs) -> Result<IngestLog, OpenError> {
        self.lives += 1;
        let ground = Ground {
            fs: Arc::new(fs.clone()),
            clock: self.clock.clone(),
            entropy: Arc::new(SeededEntropy::new(self.lives)),
            metrics: Arc::default(),
            live: Arc::default(),
        };
        let [flush_age, pending_timeout] = [Duration::from_secs(3), Duration::from_secs(60)];
        IngestLog::open(ground, Path::new("d"), Limits { flush_size: Bytes(10_000), flush_age, pending_timeout }, 1)
    }

    fn append(&mut self, log: &IngestLog, durable: bool, text: &str) -> Option<(u64, u64)> {
        self.sent.insert(text.to_string());
        let line = format!("{text}\n");
        let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
        cutter.finish(line.as_bytes(), &mut cut);
        let slot = if durable { log.durable_slot() } else { log.fast_slot(0) };
        let from = lock(&slot.writer).appended;
        // As a connection does: the same batch, until it is taken.
        let taken = (0..3).find_map(|_| log.append(slot, line.as_bytes(), &cut).ok());
        Some((from, taken?))
    }

    /// A line on the durable port. Gives whether it was acknowledged.
    fn durable(&mut self, log: &IngestLog, text: &str) -> bool {
        let slot = log.durable_slot();
        let Some((from, mark)) = self.append(log, true, text) else { return false };
        slot.group.want(mark);
        sync_once(log, slot);
        let safe = slot.group.outcome(from, mark).is_some_and(|outcome| outcome.is_ok());
        self.look_at_pictures();
        if safe {
            self.promised.insert(text.to_string());
        }
        safe
    }

    fn fast(&mut self, log: &IngestLog, text: &str) {
        self.append(log, false, text);
        self.look_at_pictures();
    }

    fn round(&mut self, log: &IngestLog, rounds: &mut Rounds) {
        self.clock.advance(Duration::from_secs(3));
        log.round(rounds);
        self.look_at_pictures();
    }

    /// A consumer takes the oldest segment over, unless it cannot read all of it. Gives whether there was one.
    fn take(&mut self, log: &IngestLog) -> bool {
        let Ok(Some(segment)) = log.next() else { return false };
        let id = segment.digest().first;
        let read = segment.open().and_then(|file| texts_of(&file, segment.digest().len));
        log.read(id).expect("it is pending");
        match read {
            Ok(texts) => {
                assert_eq!(log.commit(id, &[]), Verdict::Done, "{}", self.what);
                self.taken.extend(texts.into_values());
            }
            Err(_) => drop(log.failed(id)),
        }
        self.look_at_pictures();
        true
    }

    fn work(&mut self, log: &IngestLog, rounds: &mut Rounds) {
        for n in 0..3 {
            self.durable(log, &format!("durable {n}"));
            self.fast(log, &format!("fast {n}"));
            self.durable(log, &format!("durable {n} again"));
            self.round(log, rounds);
            if n == 1 {
                let id = log.next().ok().flatten().map(|segment| segment.digest().first);
                id.map(|id| log.failed(id));
            }
            self.take(log);
            self.round(log, rounds);
        }
    }

    /// What was looked at before the operations since the last call must hold what was promised by then.
    fn look_at_pictures(&mut self) {
        for picture in self.fs.pictures() {
            let place = format!("{}, power cut before {:?} of {}", self.what, picture.what, picture.path.display());
            match self.open(&picture.image) {
                Ok(log) => self.check(&log, &place),
                Err(e) => panic!("{place}: no start: {e}"),
            }
        }
    }

    fn check(&self, log: &IngestLog, place: &str) {
        // Once more, as whoever asks does: the failure may come only now, once.
        let found = texts(log).or_else(|_| texts(log)).unwrap_or_else(|e| panic!("{place}: {e}"));
        let by_text: BTreeSet<String> = found.values().cloned().collect();
        let lost: Vec<_> =
            self.promised.iter().filter(|text| !by_text.contains(*text) && !self.taken.contains(*text)).collect();
        assert!(lost.is_empty(), "{place}: lost {lost:?} of {:?}, found {by_text:?}", self.promised);
        assert!(by_text.is_subset(&self.sent), "{place}: never sent, {by_text:?}");
        assert_eq!(by_text.len(), found.len(), "{place}: under two ids, {found:?}");
    }
}

fn texts_of(file: &Arc<dyn File>, len: Bytes) -> io::Result<BTreeMap<Id, String>> {
    let mut reader = BlockReader::new(FileRange::new(file.clone(), Bytes(0), len));
    let (mut block, mut found) = (Vec::new(), BTreeMap::new());
    while reader.next_block(&mut block)? {
        let text = |record: &stored::Stored<'_>| String::from_utf8_lossy(record.text()).into_owned();
        found.extend(stored::records(&block).map(|record| (record.id().expect("an id"), text(&record))));
    }
    Ok(found)
}

fn texts(log: &IngestLog) -> io::Result<BTreeMap<Id, String>> {
    let mut found = BTreeMap::new();
    for readable in log.snapshot(Id::MIN, Id::MAX) {
        found.extend(texts_of(&readable.source.open()?, readable.len)?);
    }
    Ok(found)
}

/// Each sort of failure, as often as `run` meets one: `run` is given what plans it, and gives whether it happened.
fn each_failure(run: impl Fn(Fault, u64) -> bool) -> u64 {
    let mut tried = 0;
    for fault in Fault::ALL {
        let n = (1..).find(|n| !run(fault, *n)).unwrap_or_default();
        tried += n - 1;
    }
    tried
}

fn happened(fs: &MemoryFs, wanted: Fault) -> bool {
    fs.tally().faults().any(|(fault, n)| fault == wanted && n > 0)
}

#[test]
fn whatever_fails_once_nothing_promised_is_lost_and_the_next_attempt_works() {
    let tried = each_failure(|fault, n| {
        let mut bench = Bench::new(format!("{fault:?} {n}"));
        let disk = bench.fs.clone();
        let log = bench.open(&disk).expect("a new disk");
        disk.plan(fault, n);
        disk.watch(Some(Watch { one_in: 2, images: 2, most: 10_000, dice: Dice::new(n) }));
        let mut rounds = Rounds::default();
        bench.work(&log, &mut rounds);
        disk.watch(None);
        bench.look_at_pictures();
        let place = format!("{fault:?} {n}, while it goes on");
        bench.check(&log, &place);
        assert!((0..2).any(|n| bench.durable(&log, &format!("after {n}"))), "{place}: no line is taken any more");
        log.close_all(Reason::Stop);
        for _ in 0..5 {
            bench.round(&log, &mut rounds);
            while bench.take(&log) {}
        }
        assert_eq!(log.wait_until_drained(Duration::ZERO), Drained::All, "{place}: something stays here for ever");
        drop(log);
        disk.recover();
        let log = bench.open(&disk).expect("the next start");
        bench.check(&log, &place);
        happened(&disk, fault)
    });
    assert!(tried > 100, "only {tried} operations failed");
}

#[test]
fn whatever_fails_once_while_it_starts_nothing_promised_is_lost_and_the_next_start_works() {
    let mut bench = Bench::new("without a fault".into());
    let disk = bench.fs.clone();
    let log = bench.open(&disk).expect("a new disk");
    disk.watch(Some(Watch { one_in: 6, images: 2, most: 10_000, dice: Dice::new(1) }));
    let (mut rounds, mut images) = (Rounds::default(), Vec::new());
    for n in 0..3 {
        for text in ["one", "two"] {
            let (from, mark) = bench.append(&log, true, &format!("{text} {n}")).expect("no fault");
            images.extend(disk.pictures().into_iter().map(|picture| (picture.image, bench.promised.clone())));
            sync_once(&log, log.durable_slot());
            assert!(log.durable_slot().group.outcome(from, mark).is_some_and(|outcome| outcome.is_ok()));
            images.extend(disk.pictures().into_iter().map(|picture| (picture.image, bench.promised.clone())));
            bench.promised.insert(format!("{text} {n}"));
        }
        bench.clock.advance(Duration::from_secs(3));
        log.round(&mut rounds);
        log.next().expect("no fault");
        images.extend(disk.pictures().into_iter().map(|picture| (picture.image, bench.promised.clone())));
    }
    images.push((disk.copy(), bench.promised.clone()));
    for (number, (image, promised)) in images.into_iter().enumerate() {
        let tried = each_failure(|fault, n| {
            let place = format!("image {number}, {fault:?} {n}");
            let mut again = Bench { promised: promised.clone(), sent: bench.sent.clone(), ..Bench::new(place.clone()) };
            let disk = image.copy();
            disk.plan(fault, n);
            disk.watch(Some(Watch { one_in: 2, images: 2, most: 10_000, dice: Dice::new(n) }));
            let opened = again.open(&disk);
            let failed = happened(&disk, fault);
            disk.recover();
            disk.watch(None);
            drop(opened);
            let pictures = disk.pictures().into_iter().map(|picture| picture.image);
            for left in pictures.chain([disk.copy(), disk.harshest_image()]) {
                match again.open(&left) {
                    Ok(log) => again.check(&log, &place),
                    Err(e) => panic!("{place}: no second start: {e}"),
                }
            }
            failed
        });
        assert!(tried > 0, "image {number}");
    }
}
