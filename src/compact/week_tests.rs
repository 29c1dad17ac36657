//! A week in the life of a store, on a virtual clock and in memory, with the real housekeeper: what it holds is held against
//! a model of what was sent.

use super::retain;
use super::thread::{Housekeeper, Settings};
use crate::merge::k_way::{Merge, MergeError, Source};
use crate::ops::metrics::{self, Metrics};
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::segment::Segment;
use crate::segment::reader::{BlockReader, FileRange};
use crate::store::log::StoreLog;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::{Clock, VirtualClock};
use crate::world::crew::Stop;
use crate::world::entropy::Dice;
use crate::world::fs::{FileSystem, memory::MemoryFs};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);
const TICK: Duration = Duration::from_secs(600);
const TICKS_A_DAY: u64 = 144;
const RETAIN: Duration = Duration::from_secs(2 * 24 * 3_600);
const PURGE: Duration = Duration::from_secs(6 * 3_600);
const TARGET: Bytes = Bytes(64 << 10);

/// One segment, read from its start.
struct Part {
    low: Id,
    reader: BlockReader<FileRange>,
}

impl Source for Part {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        Ok(self.reader.next_block(block)?)
    }

    fn low(&self) -> Id {
        self.low
    }
}

/// What a query over a snapshot gives: each id once, in order.
fn ids_in(snapshot: &[Arc<Segment>]) -> Vec<Id> {
    let part = |segment: &Arc<Segment>| {
        let file = segment.open().expect("a segment that is held can be opened");
        Part {
            low: segment.digest().first,
            reader: BlockReader::new(FileRange::new(file, Bytes(0), segment.digest().len)),
        }
    };
    let mut merge = Merge::new(snapshot.iter().map(part).collect());
    let (mut run, mut ids) = (Vec::new(), Vec::new());
    while merge.next_run(&mut run, 1 << 16).expect("sound segments") {
        ids.extend(stored::records(&run).filter_map(|record| record.id()));
        run.clear();
    }
    ids
}

struct Week {
    seed: u64,
    dice: Dice,
    clock: Arc<VirtualClock>,
    fs: MemoryFs,
    store: Arc<StoreLog>,
    metrics: Arc<Metrics>,
    keeper: Housekeeper,
    sent: BTreeSet<Id>,
    batches: Vec<Vec<u8>>,
    arrived: u64,
    counter: u32,
}

impl Week {
    fn begin(seed: u64) -> Week {
        let clock = Arc::new(VirtualClock::at(UnixNanos(1_795_000_000_000_000_000)));
        let (fs, metrics) = (MemoryFs::with_clock(clock.clone()), Arc::new(Metrics::default()));
        let store = StoreLog::open(Arc::new(fs.clone()), "store", clock.clone(), metrics.clone()).expect("in memory");
        let retention = retain::Limits { retain: RETAIN, purge: PURGE, max_size: None };
        let keeper = Housekeeper::new(store.clone(), Settings { target_size: TARGET, retention });
        let (sent, batches) = (BTreeSet::new(), Vec::new());
        Week { seed, dice: Dice::new(seed), clock, fs, store, metrics, keeper, sent, batches, arrived: 0, counter: 0 }
    }

    /// A batch whose records came in over the last ten minutes, or `late` before that.
    fn batch(&mut self, records: u64, late: Duration) -> Vec<u8> {
        let end = self.clock.unix().0 - u64::try_from(late.as_nanos()).expect("a few hours");
        let mut times: Vec<u64> = (0..records).map(|_| end - self.dice.below(600_000_000_000)).collect();
        times.sort_unstable();
        times.dedup();
        let mut batch = Vec::new();
        for at in times {
            self.counter += 1;
            let id = Id::new(UnixNanos(at), StreamBits::from_random(self.seed), self.counter);
            stored::write(&mut batch, id, &vec![b'x'; self.dice.below(60) as usize]);
            self.sent.insert(id);
        }
        batch
    }

    fn replicate(&mut self, batch: Vec<u8>) {
        self.arrived += batch.len() as u64;
        self.store.replicate(&mut batch.as_slice(), &|| true).expect("a sound batch");
        self.batches.push(batch);
    }

    fn arrivals(&mut self, tick: u64) {
        let idle_hours = tick % TICKS_A_DAY < 20;
        let count = if idle_hours { 0 } else { 1 + self.dice.below(3) };
        for _ in 0..count {
            let burst = if self.dice.one_in(20) { 10 } else { 1 };
            let records = burst * (20 + self.dice.below(60));
            let late = if self.dice.one_in(15) { HOUR * (1 + self.dice.below(4) as u32) } else { Duration::ZERO };
            let batch = self.batch(records, late);
            self.replicate(batch);
        }
        // A batch that went to R stores and was then failed back comes again, to one that has it.
        if self.dice.one_in(25)
            && let Some(again) = self.batches.last().cloned()
        {
            self.replicate(again);
        }
    }

    fn snapshot(&self) -> Vec<Arc<Segment>> {
        self.store.snapshot(Id::MIN, Id::MAX)
    }

    /// Nothing that was never sent, nothing twice, and nothing missing that is not past its time.
    fn check(&self) {
        let seed = self.seed;
        let found = ids_in(&self.snapshot());
        assert!(
            found.windows(2).all(|pair| pair[0] < pair[1]),
            "each record once and in order: replay with seed {seed}"
        );
        assert!(found.iter().all(|id| self.sent.contains(id)), "a record that nobody sent: replay with seed {seed}");
        let due = Id::first_of(self.clock.unix_millis().before(RETAIN));
        let missing = self.sent.range(due..).filter(|id| found.binary_search(id).is_err()).count();
        assert_eq!(missing, 0, "records younger than their retention: replay with seed {seed}");
        let late = Id::first_of(self.clock.unix_millis().before(RETAIN + RETAIN / 10 + 5 * HOUR));
        assert!(found.first().is_none_or(|id| *id > late), "a record long past its time: replay with seed {seed}");
    }
}

#[test]
fn a_week_of_random_arrivals_is_kept_once_each_compacted_within_its_bounds_and_removed_in_time() {
    for seed in 0..3 {
        let (mut week, stop) = (Week::begin(seed), Stop::default());
        let mut held: Option<(u64, Vec<Arc<Segment>>, Vec<Id>)> = None;
        for tick in 0..7 * TICKS_A_DAY {
            week.clock.advance(TICK);
            week.arrivals(tick);
            if held.is_none() && week.dice.one_in(10) {
                let snapshot = week.snapshot();
                let ids = ids_in(&snapshot);
                held = Some((tick + week.dice.below(60), snapshot, ids));
            }
            week.keeper.tick(&stop);
            if let Some((_, snapshot, ids)) = held.take_if(|(until, ..)| *until <= tick) {
                assert!(ids_in(&snapshot) == ids, "a reader sees its own moment, tick {tick}: replay with seed {seed}");
            }
            if tick % 36 == 0 {
                week.check();
            }
        }
        week.check();
        let first_size = week.arrived as f64 / week.batches.len() as f64;
        let written = week.metrics.counter(metrics::COMPACT_BYTES, &[]).get() as f64;
        let bound = (TARGET.0 as f64 / first_size).log(4.0) + 1.125;
        let rewrites = written / week.arrived as f64;
        assert!(rewrites <= bound, "{rewrites:.2} rewrites of a byte, at most {bound:.2}: replay with seed {seed}");
        let live = week.snapshot();
        let bytes: u64 = live.iter().map(|segment| segment.digest().len.0).sum();
        // The bound that the plan states: full ones, three for each slot of a twentieth of the retention, a few new ones.
        let most =
            bytes as f64 * 16.0 / 7.0 / TARGET.0 as f64 + 3.0 * 22.0 + 8.0 * (TARGET.0 as f64 / first_size).log2();
        assert!(live.len() as f64 <= most, "{} segments, at most {most:.0}: replay with seed {seed}", live.len());
        drop((live, held));
        let all_gone = RETAIN + RETAIN / 10 + PURGE + 8 * HOUR;
        for _ in 0..all_gone.as_secs() / HOUR.as_secs() {
            week.clock.advance(HOUR);
            week.keeper.tick(&stop);
        }
        let left: Vec<String> =
            week.fs.list(Path::new("store")).expect("in memory").into_iter().map(|e| e.name).collect();
        assert!(
            left.iter().all(|name| name == "LOCK" || name.ends_with(".store")),
            "{left:?}: replay with seed {seed}"
        );
    }
}
