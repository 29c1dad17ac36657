//! A week of a whole store on virtual time: real records, real merges, and somebody who reads all the while.

use super::retain;
use super::thread::{Housekeeper, Settings};
use crate::merge::k_way::{Merge, MergeError, Source};
use crate::ops::metrics::{self, Metrics};
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::segment::reader::{BlockReader, FileRange};
use crate::segment::{Form, Segment, State};
use crate::store::log::StoreLog;
use crate::unit::{Bytes, UnixMillis, UnixNanos};
use crate::world::clock::{Clock, VirtualClock};
use crate::world::crew::Stop;
use crate::world::entropy::Dice;
use crate::world::entropy::SystemEntropy;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::MemoryFs;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
const START: UnixNanos = UnixNanos(1_800_000_000_000_000_000);
const WEEK: u64 = 7 * 24 * HOUR;
const TARGET: u64 = 64 << 10;
const RETAIN: Duration = Duration::from_secs(48 * 3_600);
const PURGE: Duration = Duration::from_secs(6 * 3_600);
const SEAL_AGE: Duration = Duration::from_secs(600);
/// The widest that a compacted segment gets, as the housekeeper sets it; arrivals are narrower.
const SPAN: Duration = Duration::from_secs(48 * 360);
/// How many of the last batches may come again.
const REMEMBERED: usize = 200;

/// What a record says follows from its id, so that one look tells whether it is whole.
fn text_of(id: Id) -> &'static [u8] {
    let text = b"the quick brown fox jumps over the lazy dog, and the lazy dog gets up and looks around";
    let n = id.nanos().0 as usize;
    &text[n % 40..40 + n / 40 % 40]
}

/// One segment of a snapshot, opened only when the reader comes to it.
struct Piece {
    segment: Arc<Segment>,
    open: Option<BlockReader<FileRange>>,
}

impl Source for Piece {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let blocks = match &mut self.open {
            Some(blocks) => blocks,
            closed => closed.insert(self.segment.blocks()?),
        };
        Ok(blocks.next_block(block)?)
    }

    fn low(&self) -> Id {
        self.segment.digest().first
    }
}

/// Somebody who took a snapshot and reads it little by little.
struct Reader {
    merge: Merge<Piece>,
    /// What had been sent when the snapshot was taken, as far back as retention can be late.
    sent: Vec<Id>,
    /// None younger than this may be missing.
    retained_from: Id,
    found: Vec<Id>,
    seed: u64,
}

impl Reader {
    fn new(week: &Week) -> Reader {
        let pieces = week.store.snapshot(Id::MIN, Id::MAX).into_iter().map(|segment| Piece { segment, open: None });
        let retained_from = week.last_tick.before(RETAIN);
        let sent = week.sent.range(Id::first_of(retained_from.before(SPAN))..).copied().collect();
        let retained_from = Id::first_of(retained_from);
        Reader { merge: Merge::new(pieces.collect()), sent, retained_from, found: Vec::new(), seed: week.seed }
    }

    /// Reads about so much. False at the end, after all that was found was compared.
    fn read(&mut self, at_least: usize) -> bool {
        let mut run = Vec::new();
        let more = self.merge.next_run(&mut run, at_least);
        let more =
            more.unwrap_or_else(|e| panic!("a snapshot must stay readable: {e}, replay with seed {}", self.seed));
        for record in stored::records(&run) {
            let id = record.id().expect("the merge has checked it");
            assert_eq!(record.text(), text_of(id), "{id}, replay with seed {}", self.seed);
            self.found.push(id);
        }
        if !more {
            self.compare();
        }
        more
    }

    fn compare(&self) {
        let seed = self.seed;
        let twice = self.found.windows(2).find(|pair| pair[0] >= pair[1]);
        assert_eq!(twice, None, "once and in order, replay with seed {seed}");
        let stranger = not_among(&self.found, &self.sent);
        assert_eq!(stranger, None, "never sent, or sent later, or long past its time, replay with seed {seed}");
        let from = self.sent.partition_point(|id| *id < self.retained_from);
        let missing = not_among(&self.sent[from..], &self.found);
        assert_eq!(missing, None, "a live record is missing, replay with seed {seed}");
    }
}

/// The first of `these` that is not in `all`; both in order.
fn not_among(these: &[Id], all: &[Id]) -> Option<Id> {
    let mut all = all.iter();
    these.iter().copied().find(|id| all.find(|other| *other >= id) != Some(id))
}

/// How the producers behave for some hours.
struct Weather {
    /// How many batches come with each tick, and one more in so many ticks.
    batches: u64,
    one_more_in: u64,
    records: u64,
    late_one_in: u64,
    again_one_in: u64,
}

impl Weather {
    fn any(dice: &mut Dice) -> Weather {
        let (batches, one_more_in, records) = match dice.below(6) {
            0 => (0, u64::MAX, 0),
            1 => (0, 60, 300),
            2 => (3, 2, 8),
            3 => (1, u64::MAX, 20),
            _ => (0, 3, 30),
        };
        let late_one_in = [u64::MAX, u64::MAX, 20, 4][dice.below(4) as usize];
        let again_one_in = [u64::MAX, 40, 8][dice.below(3) as usize];
        Weather { batches, one_more_in, records, late_one_in, again_one_in }
    }

    fn batches_now(&self, dice: &mut Dice) -> u64 {
        self.batches + u64::from(dice.one_in(self.one_more_in))
    }
}

/// A segment as the model of retention knows it.
type Ends = (Id, Id, Bytes);

struct Week {
    fs: MemoryFs,
    clock: Arc<VirtualClock>,
    store: Arc<StoreLog>,
    keeper: Housekeeper,
    dice: Dice,
    seed: u64,
    sent: BTreeSet<Id>,
    batches: VecDeque<Vec<u8>>,
    smallest: u64,
    last_tick: UnixMillis,
    trash: Vec<(Ends, UnixMillis)>,
    trashed: u64,
    purged: u64,
    last_batch_ns: u64,
}

impl Week {
    fn new(seed: u64) -> Week {
        let clock = Arc::new(VirtualClock::at(START));
        let fs = MemoryFs::with_clock(clock.clone());
        let store =
            StoreLog::open(Arc::new(fs.clone()), "store", clock.clone(), Arc::new(Metrics::default()), &SystemEntropy);
        let store = store.expect("an empty store opens");
        let retention = retain::Limits { retain: RETAIN, purge: PURGE, max_size: None };
        let keeper = Housekeeper::new(
            store.clone(),
            Settings { target_size: Bytes(TARGET), retention, seal_age: Some(SEAL_AGE) },
        );
        Week {
            fs,
            clock,
            store,
            keeper,
            dice: Dice::new(seed),
            seed,
            sent: BTreeSet::new(),
            batches: VecDeque::new(),
            smallest: TARGET,
            last_tick: START.millis(),
            trash: Vec::new(),
            trashed: 0,
            purged: 0,
            last_batch_ns: START.0,
        }
    }

    /// A batch of what came in since the last one, or of some time within the last 20 hours; or one that came before.
    fn arrive(&mut self, weather: &Weather) {
        if self.dice.one_in(weather.again_one_in) && !self.batches.is_empty() {
            let at = self.dice.below(self.batches.len() as u64) as usize;
            let batch = self.batches[at].clone();
            return self.replicate(&batch);
        }
        let now = self.clock.unix().0;
        let late = if self.dice.one_in(weather.late_one_in) { self.dice.below(20 * HOUR) } else { 0 };
        let width = (now - self.last_batch_ns).clamp(SECOND, HOUR);
        let stream = StreamBits::from_random(self.dice.roll());
        let count = 1 + weather.records / 2 + self.dice.below(weather.records);
        let ids: BTreeSet<Id> =
            (0..count).map(|n| Id::new(UnixNanos(now - late - self.dice.below(width)), stream, n as u32)).collect();
        let mut batch = Vec::new();
        ids.iter().for_each(|id| stored::write(&mut batch, *id, text_of(*id)));
        self.replicate(&batch);
        self.sent.extend(ids);
        self.last_batch_ns = now;
        self.batches.push_back(batch);
        if self.batches.len() > REMEMBERED {
            self.batches.pop_front();
        }
    }

    fn replicate(&mut self, mut batch: &[u8]) {
        self.smallest = self.smallest.min(batch.len() as u64);
        let receipt = self.store.replicate(&mut batch, &|| true);
        receipt.unwrap_or_else(|e| panic!("{e}, replay with seed {}", self.seed));
    }

    /// Lets the housekeeper work, and holds what it trashed and purged against what was due.
    fn tick(&mut self, reader_waits: bool) {
        let (seed, now) = (self.seed, self.clock.unix_millis());
        let live = self.store.catalogue().live();
        let due = live.iter().filter(|segment| segment.digest().last.millis().after(RETAIN) < now);
        let due: Vec<Ends> = due.map(|segment| segment.digest().ends()).collect();
        drop(live);
        let before = self.trash.len();
        self.trash.retain(|(_, since)| since.after(PURGE) >= now);
        self.purged += (before - self.trash.len()) as u64;
        self.trashed += due.len() as u64;
        self.trash.extend(due.into_iter().map(|ends| (ends, now)));
        self.trash.sort();
        self.keeper.tick(&Stop::default());
        self.last_tick = now;

        let found = self.store.catalogue().trashed().into_iter();
        let mut found: Vec<_> = found.map(|trashed| (trashed.segment.digest().ends(), trashed.since)).collect();
        found.sort();
        assert_eq!(found, self.trash, "the trash at {now}, replay with seed {seed}");
        let count = |counter, label| self.store.metrics().counter(counter, &[label]).get();
        assert_eq!(count(metrics::TRASHED, "true"), self.trashed, "at {now}, replay with seed {seed}");
        let failed = count(metrics::TRASHED, "false") + count(metrics::PURGED, "false");
        assert_eq!(failed, 0, "at {now}, replay with seed {seed}");
        if !reader_waits {
            self.check_files();
        }
        let (segments, bound) = (self.store.catalogue().live().len(), self.most_segments());
        assert!(
            segments as f64 <= bound,
            "{segments} segments where {bound:.0} are the bound, replay with seed {seed}"
        );
    }

    /// Where nobody reads there is one file for each live segment and one for each in the trash, and no other.
    fn check_files(&self) {
        let names = self.fs.list(Path::new("store")).expect("the store's directory");
        let files = |state: State| {
            let end = format!(".{}", state.extension());
            names.iter().filter(|entry| entry.name.ends_with(&end)).count()
        };
        let found = [State::Flushed, State::Sealed, State::Trashed, State::Reading, State::Active].map(files);
        let live = self.store.catalogue().live();
        let sealed = live.iter().filter(|segment| segment.form() == Form::Sealed).count();
        let expected = [live.len() - sealed, sealed, self.trash.len(), 0, 0];
        assert_eq!(found, expected, "files by state, replay with seed {}", self.seed);
        let waits = |segment: &&Arc<Segment>| {
            segment.form() == Form::Plain && segment.digest().last.millis().after(SEAL_AGE) <= self.last_tick
        };
        assert_eq!(live.iter().filter(waits).count(), 0, "all that is old is sealed, replay with seed {}", self.seed);
        let purged = self.store.metrics().counter(metrics::PURGED, &["true"]).get();
        assert_eq!(purged, self.purged, "replay with seed {}", self.seed);
    }

    /// The bound in the documentation of the planner, term by term; no arrival is wide.
    fn most_segments(&self) -> f64 {
        let live = self.store.catalogue().live();
        let total: u64 = live.iter().map(|segment| segment.digest().len.0).sum();
        let first = live.iter().map(|segment| segment.digest().first.millis()).min().unwrap_or_default();
        let last = live.iter().map(|segment| segment.digest().last.millis()).max().unwrap_or_default();
        let slots = last.since(first).as_millis() / (SPAN / 2).as_millis() + 2;
        let doublings = (TARGET as f64 / 4.0 / self.smallest as f64).log2().max(1.0);
        16.0 / 7.0 * total as f64 / TARGET as f64 + 8.0 * doublings + 3.0 * slots as f64
    }

    /// How often each byte was written by compaction, and what the planner allows: an eighth for overlaps besides.
    fn times_rewritten(&self) -> (f64, f64) {
        let count = |counter, labels: &[&str]| self.store.metrics().counter(counter, labels).get() as f64;
        let arrived = count(metrics::REPLICATED_BYTES, &["ingress"]);
        let mean = arrived / count(metrics::REPLICATED, &["ingress"]);
        let joined: f64 = ["join", "overlap", "close"].map(|kind| count(metrics::COMPACT_BYTES, &[kind])).iter().sum();
        (joined / arrived, (TARGET as f64 / mean).log(4.0) + 1.0 + 0.125)
    }

    fn pass(&mut self) {
        let mut weather = Weather::any(&mut self.dice);
        let mut changes_at = START.0;
        let mut reader: Option<Reader> = None;
        let mut readings = 0;
        while self.clock.unix().0 < START.0 + WEEK {
            if self.clock.unix().0 >= changes_at {
                weather = Weather::any(&mut self.dice);
                changes_at = self.clock.unix().0 + self.dice.below(12 * HOUR);
            }
            self.clock.advance(Duration::from_secs(30 + self.dice.below(61)));
            (0..weather.batches_now(&mut self.dice)).for_each(|_| self.arrive(&weather));
            self.tick(reader.is_some());
            if self.dice.one_in(200) {
                while_more(Reader::new(self));
            }
            if reader.is_none() && self.dice.one_in(10) {
                reader = Some(Reader::new(self));
            }
            let slice = 1 + self.dice.below(16 << 10) as usize;
            if reader.as_mut().is_some_and(|reading| !reading.read(slice)) {
                reader = None;
                readings += 1;
            }
        }
        assert!(readings > 10, "{readings} readings are too few to show anything, replay with seed {}", self.seed);
    }
}

fn while_more(mut reader: Reader) {
    while reader.read(1 << 20) {}
}

#[test]
fn through_a_week_of_any_weather_each_live_record_is_read_once_and_what_is_past_its_time_goes() {
    for seed in 0..3 {
        let mut week = Week::new(seed);
        week.pass();
        let (times, bound) = week.times_rewritten();
        let sealed = week.store.metrics().counter(metrics::COMPACT_BYTES, &["seal"]).get();
        assert!(sealed > 0, "nothing was sealed, replay with seed {seed}");
        assert!(times <= bound, "{times:.2} times where {bound:.2} is the bound, replay with seed {seed}");
        assert!(week.trashed > 10 && week.purged > 10, "too little was due, replay with seed {seed}");
    }
}
