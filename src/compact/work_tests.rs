use super::retain;
use super::thread::{Housekeeper, Settings};
use crate::ops::metrics::{self, Metrics};
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::segment::reader::FileRange;
use crate::segment::{Segment, State};
use crate::store::log::StoreLog;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::crew::Stop;
use crate::world::entropy::Dice;
use crate::world::entropy::SystemEntropy;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::{MemoryFs, Op};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

mod seal_tests;

const START: UnixNanos = UnixNanos(1_800_000_000_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    fs: MemoryFs,
    clock: Arc<VirtualClock>,
}

impl Bench {
    fn new() -> Bench {
        let clock = Arc::new(VirtualClock::at(START));
        Bench { fs: MemoryFs::with_clock(clock.clone()), clock }
    }

    fn try_open(&self) -> Option<Arc<StoreLog>> {
        StoreLog::open(
            Arc::new(self.fs.clone()),
            "store",
            self.clock.clone(),
            Arc::new(Metrics::default()),
            &SystemEntropy,
        )
        .ok()
    }

    fn open(&self) -> Arc<StoreLog> {
        self.try_open().expect("opens")
    }

    fn names(&self, state: State) -> usize {
        let names = self.fs.list(Path::new("store")).expect("a directory");
        names.iter().filter(|entry| entry.name.ends_with(&format!(".{}", state.extension()))).count()
    }
}

#[test]
fn a_compaction_that_does_not_fit_waits_and_a_smaller_one_is_done_instead() {
    let bench = Bench::new();
    bench.fs.set_capacity(Bytes(4 << 20));
    let store = bench.open();
    for n in 0..8 {
        let (mut body, text) = (Vec::new(), "x".repeat(500));
        ids(n, n, 0..20).iter().for_each(|id| stored::write(&mut body, *id, text.as_bytes()));
        store.replicate(&mut &body[..], &|| true).expect("room");
    }
    let one = store.catalogue().live()[0].digest().len.0;
    let free = bench.fs.space(Path::new("store")).expect("in memory").available.0;
    let reserve = (4 << 20) / 16;
    let foreign = |name: &str| Path::new("store").join(format!("{name}.corrupt"));
    // Room for one input, and later for four, and not for all eight, which the target size would take.
    bench.fs.reserve(&foreign("a"), Bytes(free - reserve - 4 * one - 10)).expect("room");
    bench.fs.reserve(&foreign("b"), Bytes(3 * one)).expect("room");
    let mut keeper = keeper(&store, None);
    keeper.tick(&Stop::default());
    assert_eq!((store.catalogue().live().len(), bench.names(State::Flushed)), (8, 8), "nothing fits: all is as it was");
    bench.fs.remove(&foreign("b")).expect("there");
    bench.clock.advance(Duration::from_secs(1));
    keeper.tick(&Stop::default());
    let joined = store.catalogue().live();
    assert!(joined.len() < 8, "what fits is joined");
    assert!(joined.iter().all(|segment| segment.digest().len.0 <= 4 * one), "and no more than fits");
    assert_eq!(joined.iter().filter_map(|segment| segment.digest().records).sum::<u64>(), 160);
    assert_eq!(bench.names(State::Reading), 0);
}

fn keeper(store: &Arc<StoreLog>, max_size: Option<Bytes>) -> Housekeeper {
    keeper_that_seals(store, max_size, None)
}

fn keeper_that_seals(store: &Arc<StoreLog>, max_size: Option<Bytes>, seal_age: Option<Duration>) -> Housekeeper {
    let retention = retain::Limits { retain: 48 * HOUR, purge: HOUR, max_size };
    Housekeeper::new(store.clone(), Settings { target_size: Bytes(100_000), retention, seal_age })
}

/// Ids of one second, counted from the start.
fn ids(seconds: u64, stream: u64, counts: std::ops::Range<u32>) -> Vec<Id> {
    let id = |n: u32| {
        let at = UnixNanos(START.0 + seconds * 1_000_000_000 + u64::from(n));
        Id::new(at, StreamBits::from_random(stream), n)
    };
    counts.map(id).collect()
}

fn put(store: &StoreLog, ids: &[Id]) -> bool {
    let mut body = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut body, *id, b"some text"));
    store.replicate(&mut &body[..], &|| true).is_ok()
}

fn read(segments: &[Arc<Segment>]) -> Vec<Id> {
    let mut content = Vec::new();
    for segment in segments {
        let file = segment.open().expect("there");
        FileRange::new(file, Bytes(0), segment.digest().len).read_to_end(&mut content).expect("readable");
    }
    stored::records(&content).map(|record| record.id().expect("an id")).collect()
}

fn all(store: &StoreLog) -> Vec<Id> {
    read(&store.snapshot(Id(0), Id::MAX))
}

#[test]
fn small_neighbours_become_one_and_a_snapshot_taken_before_reads_on() {
    let bench = Bench::new();
    let store = bench.open();
    let mut expected = Vec::new();
    for n in 0..12 {
        let ids = ids(n, 1, 0..50);
        assert!(put(&store, &ids));
        expected.extend(ids);
    }
    let held = store.snapshot(Id(0), Id::MAX);
    let mut keeper = keeper(&store, None);
    keeper.tick(&Stop::default());
    assert!(store.catalogue().live().len() < 6);
    assert_eq!(all(&store), expected);
    assert_eq!(read(&held), expected, "opened only now, under other names");
    assert!(bench.names(State::Reading) > 0, "files wait for their reader");
    drop(held);
    keeper.tick(&Stop::default());
    assert_eq!((bench.names(State::Reading), bench.names(State::Active)), (0, 0));
    drop((keeper, store));
    assert_eq!(all(&bench.open()), expected);
}

#[test]
fn copies_of_the_same_records_become_one() {
    let bench = Bench::new();
    let store = bench.open();
    let ids = ids(0, 1, 0..200);
    for cut in 0..8 {
        assert!(put(&store, &ids[cut * 10..]));
    }
    keeper(&store, None).tick(&Stop::default());
    let found: BTreeSet<Id> = all(&store).into_iter().collect();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ids);
    assert!(all(&store).len() < 2 * ids.len(), "{}", all(&store).len());
}

#[test]
fn no_output_is_longer_than_the_target() {
    let bench = Bench::new();
    let store = bench.open();
    for n in 0..30 {
        assert!(put(&store, &ids(n / 3, n, 0..400)));
    }
    keeper(&store, None).tick(&Stop::default());
    assert!(store.catalogue().live().iter().all(|segment| segment.digest().len <= Bytes(100_000)));
    let mut found = all(&store);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 30 * 400);
}

#[test]
fn a_failure_leaves_the_inputs_as_they_were_and_it_is_tried_again_later() {
    for (op, n) in [(Op::Rename, 2), (Op::Open, 3), (Op::Write, 1), (Op::Sync, 1), (Op::Read, 1), (Op::Sync, 2)] {
        let bench = Bench::new();
        let store = bench.open();
        (0..8).for_each(|n| assert!(put(&store, &ids(n, 1, 0..50))));
        let before = all(&store);
        let mut keeper = keeper(&store, None);
        bench.fs.fail_nth(op, n, std::io::ErrorKind::Other);
        keeper.tick(&Stop::default());
        assert_eq!(all(&store), before, "{op:?}");
        let counts = (bench.names(State::Flushed), bench.names(State::Reading), bench.names(State::Active));
        assert_eq!(counts, (8, 0, 0), "{op:?} {n}");
        bench.clock.advance(Duration::from_secs(2));
        keeper.tick(&Stop::default());
        assert!(store.catalogue().live().len() < 8, "{op:?} {n}");
        assert_eq!(all(&store), before);
    }
}

#[test]
fn what_is_past_its_time_is_trashed_then_purged_once_nobody_reads_it() {
    let bench = Bench::new();
    let store = bench.open();
    assert!(put(&store, &ids(0, 1, 0..50)));
    let mut keeper = keeper(&store, None);
    for _ in 0..49 {
        keeper.tick(&Stop::default());
        assert_eq!(all(&store).len(), 50);
        bench.clock.advance(HOUR);
    }
    let held = store.snapshot(Id(0), Id::MAX);
    keeper.tick(&Stop::default());
    assert!(all(&store).is_empty());
    assert_eq!(bench.names(State::Trashed), 1);
    bench.clock.advance(2 * HOUR);
    keeper.tick(&Stop::default());
    assert_eq!(read(&held).len(), 50, "a running query goes on");
    drop(held);
    keeper.tick(&Stop::default());
    assert_eq!(bench.names(State::Trashed), 0);
    assert_eq!(store.metrics().counter(metrics::TRASHED, &["true"]).get(), 1);
    assert_eq!(store.metrics().counter(metrics::PURGED, &["true"]).get(), 1);
}

#[test]
fn the_oldest_go_first_when_the_store_is_too_large() {
    let bench = Bench::new();
    let store = bench.open();
    (0..10).for_each(|n| assert!(put(&store, &ids(n * 10_000, n, 0..1_500))));
    let mut keeper = keeper(&store, Some(Bytes(300_000)));
    keeper.tick(&Stop::default());
    keeper.tick(&Stop::default());
    let live = store.catalogue().live();
    assert!(live.iter().map(|segment| segment.digest().len.0).sum::<u64>() <= 300_000);
    assert_eq!(live.last().map(|segment| segment.digest().last), ids(90_000, 9, 1_499..1_500).pop());
}

#[test]
fn at_every_crash_point_each_acknowledged_record_is_found_once_by_a_reader_that_drops_duplicates() {
    crash_at_every_point(None);
}

#[test]
fn the_same_holds_where_segments_are_sealed_as_soon_as_they_can_be() {
    crash_at_every_point(Some(Duration::ZERO));
}

fn crash_at_every_point(seal_age: Option<Duration>) {
    let mut crash = 0;
    loop {
        let bench = Bench::new();
        bench.clock.advance(HOUR);
        bench.fs.crash_at(crash);
        let (acknowledged, ended) = work(&bench, seal_age);
        assert_eq!(ended && seal_age.is_some(), ended && bench.names(State::Sealed) > 0, "crash at {crash}");
        for again in 0..2 {
            bench.fs.crash(&mut Dice::new(crash * 2 + again));
            bench.fs.recover();
            let store = bench.open();
            let found: BTreeSet<Id> = all(&store).into_iter().collect();
            let missing = acknowledged.iter().find(|id| !found.contains(id));
            assert_eq!(missing, None, "crash at operation {crash}, round {again}");
            keeper_that_seals(&store, None, seal_age).tick(&Stop::default());
            let later: BTreeSet<Id> = all(&store).into_iter().collect();
            assert_eq!(later, found, "crash at operation {crash}, round {again}");
        }
        if ended {
            assert!(crash > 50, "the workload is too small to show anything: {crash}");
            return;
        }
        crash += 1;
    }
}

/// Replicates and compacts. Gives what was acknowledged, and whether it came to its end.
fn work(bench: &Bench, seal_age: Option<Duration>) -> (Vec<Id>, bool) {
    let mut acknowledged = Vec::new();
    let Some(store) = bench.try_open() else { return (acknowledged, false) };
    let mut keeper = keeper_that_seals(&store, None, seal_age);
    let mut ended = true;
    for n in 0..12 {
        // Every third one repeats some records of the one before.
        let ids = ids(n / 3, 1, if n % 3 == 2 { 40..70 } else { (n % 3) as u32 * 30..(n % 3) as u32 * 30 + 30 });
        if put(&store, &ids) {
            acknowledged.extend(ids);
        } else {
            ended = false;
        }
        if n % 6 == 5 {
            keeper.tick(&Stop::default());
        }
    }
    ended &= bench.fs.list(Path::new("store")).is_ok();
    (acknowledged, ended)
}

#[test]
fn a_segment_that_is_damaged_in_the_middle_is_set_aside_by_compaction_and_what_is_whole_is_kept() {
    for is_hole in [false, true] {
        let bench = Bench::new();
        let store = bench.open();
        let mut expected = BTreeSet::new();
        for n in 0..8 {
            let ids = ids(n, 1, 0..400);
            assert!(put(&store, &ids));
            expected.extend(ids);
        }
        let victim = store.catalogue().live()[3].path();
        drop(store);
        let file = bench.fs.open(&victim).expect("there");
        let mut content = vec![0; file.size().expect("open").0 as usize];
        file.read_at(&mut content, Bytes(0)).expect("readable");
        let len = content.len() / 400;
        let lost = if is_hole { 4_096 / len..8_192_usize.div_ceil(len) } else { 100..101 };
        match is_hole {
            true => content[4_096..8_192].fill(0),
            false => content[100 * len + 3] = b'!',
        }
        let damaged = ids(3, 1, 0..400);
        lost.for_each(|n| assert!(expected.remove(&damaged[n])));
        bench.fs.remove(&victim).expect("there");
        let file = bench.fs.create_new(&victim).expect("free");
        file.append(&content).and_then(|()| file.sync_data()).expect("room");
        let store = bench.open();
        let mut keeper = keeper(&store, None);
        let mut rounds = 0;
        while store.corrupt().get() == 0 {
            assert_eq!(bench.names(State::Flushed), 8, "round {rounds}: inputs stay until the outputs are sound");
            assert!(rounds < 3, "hole: {is_hole}");
            keeper.tick(&Stop::default());
            bench.clock.advance(Duration::from_secs(10));
            rounds += 1;
        }
        assert_eq!((store.corrupt().get(), bench.names(State::Corrupt)), (1, 1), "hole: {is_hole}");
        assert_eq!(all(&store).into_iter().collect::<BTreeSet<_>>(), expected, "hole: {is_hole}");
        keeper.tick(&Stop::default());
        assert!(store.catalogue().live().len() < 8, "compaction goes on without it");
        assert_eq!(all(&store).into_iter().collect::<BTreeSet<_>>(), expected, "hole: {is_hole}");
    }
}

#[test]
fn a_segment_in_which_a_query_met_damage_is_set_aside_at_the_next_round() {
    let bench = Bench::new();
    let store = bench.open();
    assert!(put(&store, &ids(0, 1, 0..400)));
    let path = store.catalogue().live()[0].path();
    drop(store);
    let file = bench.fs.open(&path).expect("there");
    let mut content = vec![0; file.size().expect("open").0 as usize];
    file.read_at(&mut content, Bytes(0)).expect("readable");
    let middle = content.len() / 800 * 400 + 3;
    content[middle] = b'!';
    bench.fs.remove(&path).expect("there");
    bench.fs.create_new(&path).and_then(|file| file.append(&content)).expect("room");
    let store = bench.open();
    let mut keeper = keeper(&store, None);
    keeper.tick(&Stop::default());
    assert_eq!(store.corrupt().get(), 0, "nobody has read it");
    let segment = store.catalogue().live().pop().expect("one");
    assert!(segment.check(&content, 0, (0, content.len() as u64)).is_err());
    keeper.tick(&Stop::default());
    assert_eq!((store.corrupt().get(), all(&store).len()), (1, 399));
}
