//! A store on a disk of which each operation fails once, in each way there is, and is looked at after a power cut before
//! each operation: what has a receipt is found, nothing else is, and the next attempt or the next start works.

use super::log::{StoreError, StoreLog};
use crate::compact::retain;
use crate::compact::thread::{Housekeeper, Settings};
use crate::ops::metrics::Metrics;
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::segment::reader::FileRange;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::crew::Stop;
use crate::world::entropy::{Dice, SeededEntropy};
use crate::world::fs::memory::{Fault, MemoryFs, Watch};
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

const START: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// A store, and what is known of its records by their ids.
struct Bench {
    fs: MemoryFs,
    clock: Arc<VirtualClock>,
    sent: BTreeSet<Id>,
    promised: BTreeSet<Id>,
    /// In words, what is tried.
    what: String,
}

impl Bench {
    fn new(what: String) -> Bench {
        let clock = Arc::new(VirtualClock::at(START));
        let fs = MemoryFs::with_clock(clock.clone());
        Bench { fs, clock, sent: BTreeSet::new(), promised: BTreeSet::new(), what }
    }

    fn open(&self, fs: &MemoryFs) -> Result<Arc<StoreLog>, StoreError> {
        let metrics = Arc::new(Metrics::default());
        StoreLog::open(Arc::new(fs.clone()), "store", self.clock.clone(), metrics, &SeededEntropy::new(1))
    }

    fn put(&mut self, store: &StoreLog, counts: std::ops::Range<u32>) -> bool {
        let id = |n: u32| Id::new(UnixNanos(START.0 + u64::from(n)), StreamBits::from_random(1), n);
        let ids: Vec<Id> = counts.map(id).collect();
        let mut body = Vec::new();
        ids.iter().for_each(|id| stored::write(&mut body, *id, b"some text"));
        self.sent.extend(&ids);
        let taken = store.replicate(&mut &body[..], &|| true).is_ok();
        self.look_at_pictures();
        if taken {
            self.promised.extend(&ids);
        }
        taken
    }

    fn keep(&mut self, keeper: &mut Housekeeper) {
        self.clock.advance(Duration::from_secs(2));
        keeper.tick(&Stop::default());
        self.look_at_pictures();
    }

    fn work(&mut self, store: &StoreLog, keeper: &mut Housekeeper) {
        for n in 0..8 {
            // Every third one repeats some records of the one before.
            self.put(store, if n % 3 == 2 { n * 20 - 10..n * 20 + 10 } else { n * 20..n * 20 + 20 });
            if n % 4 == 3 {
                self.keep(keeper);
            }
        }
    }

    fn look_at_pictures(&self) {
        for picture in self.fs.pictures() {
            let place = format!("{}, power cut before {:?} of {}", self.what, picture.what, picture.path.display());
            match self.open(&picture.image) {
                Ok(store) => self.check(&store, &place),
                Err(e) => panic!("{place}: no start: {e}"),
            }
        }
    }

    fn check(&self, store: &StoreLog, place: &str) {
        // Once more, as whoever asks does: the failure may come only now, once.
        let found = ids(store).or_else(|_| ids(store)).unwrap_or_else(|e| panic!("{place}: {e}"));
        let lost = self.promised.difference(&found).count();
        assert_eq!(lost, 0, "{place}: lost of {}", self.promised.len());
        assert!(found.is_subset(&self.sent), "{place}: never sent");
    }
}

fn ids(store: &StoreLog) -> io::Result<BTreeSet<Id>> {
    let mut content = Vec::new();
    for segment in store.snapshot(Id::MIN, Id::MAX) {
        FileRange::new(segment.open()?, Bytes(0), segment.digest().len).read_to_end(&mut content)?;
    }
    Ok(stored::records(&content).map(|record| record.id().expect("an id")).collect())
}

fn keeper(store: &Arc<StoreLog>) -> Housekeeper {
    let [retain, purge] = [Duration::from_secs(86_400), Duration::from_secs(3_600)];
    let retention = retain::Limits { retain, purge, max_size: None };
    Housekeeper::new(store.clone(), Settings { target_size: Bytes(100_000), retention, seal_age: Some(Duration::ZERO) })
}

fn happened(fs: &MemoryFs, wanted: Fault) -> bool {
    fs.tally().faults().any(|(fault, n)| fault == wanted && n > 0)
}

#[test]
fn whatever_fails_once_what_has_a_receipt_is_found_and_the_next_attempt_works() {
    let mut tried = 0;
    for fault in Fault::ALL {
        for n in 1.. {
            let mut bench = Bench::new(format!("{fault:?} {n}"));
            let disk = bench.fs.clone();
            let store = bench.open(&disk).expect("a new disk");
            let mut keeper = keeper(&store);
            disk.plan(fault, n);
            disk.watch(Some(Watch { one_in: 3, images: 2, most: 10_000, dice: Dice::new(n) }));
            bench.work(&store, &mut keeper);
            disk.watch(None);
            let place = format!("{fault:?} {n}, while it goes on");
            bench.check(&store, &place);
            // The failure may come only now, once.
            assert!((0..2).any(|_| bench.put(&store, 1_000..1_020)), "{place}: nothing is taken any more");
            (0..4).for_each(|_| bench.keep(&mut keeper));
            bench.check(&store, &place);
            assert!(store.catalogue().live().len() < 6, "{place}: nothing is compacted any more");
            drop((keeper, store));
            disk.recover();
            bench.check(&bench.open(&disk).expect("the next start"), &place);
            if !happened(&disk, fault) {
                break;
            }
            tried += 1;
        }
    }
    assert!(tried > 100, "only {tried} operations failed");
}

#[test]
fn whatever_fails_once_while_it_starts_what_has_a_receipt_is_found_and_the_next_start_works() {
    let mut bench = Bench::new("without a fault".into());
    let disk = bench.fs.clone();
    let store = bench.open(&disk).expect("a new disk");
    let mut keeper = keeper(&store);
    (0..6).for_each(|n| assert!(bench.put(&store, n * 20..n * 20 + 20)));
    disk.watch(Some(Watch { one_in: 1, images: 2, most: 40, dice: Dice::new(1) }));
    keeper.tick(&Stop::default());
    let images: Vec<MemoryFs> = disk.pictures().into_iter().map(|picture| picture.image).collect();
    assert!(images.len() > 10, "{}", images.len());
    for (number, image) in images.into_iter().enumerate() {
        for fault in Fault::ALL {
            for n in 1.. {
                let (disk, place) = (image.copy(), format!("image {number}, {fault:?} {n}"));
                disk.plan(fault, n);
                drop(bench.open(&disk));
                let failed = happened(&disk, fault);
                disk.recover();
                for left in [disk.copy(), disk.harshest_image(), disk.image(&mut Dice::new(n))] {
                    match bench.open(&left) {
                        Ok(store) => bench.check(&store, &place),
                        Err(e) => panic!("{place}: no second start: {e}"),
                    }
                }
                if !failed {
                    break;
                }
            }
        }
    }
}
