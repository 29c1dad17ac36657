//! Deliberately broken variants: each is a wrong step, a wrong parameter or a lying disk in place of the right one, and each
//! is caught within a few seeds, by the invariant that it breaks. One that is not shows that the simulation is too kind.
//!
//! Nothing of it is in the product: a variant is put in at a seam, the disk, the clock, the entropy, a setting, or a shell of
//! the simulation. A catch counts only where the same seed is well without the variant.

use crate::ledger::{COMMIT, KEPT, ONCE, SENT, UNIQUE, Violation, WHOLE};
use crate::lying::{Lie, lying};
use crate::node::{INGEST_DIR, STORE_DIR};
use crate::run::{Wanted, run};
use crate::shape::Shape;
use crate::world::EPOCH;
use oklog::unit::{Bytes, Monotonic, UnixMillis, UnixNanos};
use oklog::world::clock::Clock;
use oklog::world::entropy::{Entropy, SeededEntropy};
use oklog::world::fs::{Entry, File, FileSystem, Space};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wrong {
    /// Every disk lies.
    Disk(Lie),
    /// The disk lies about stores alone.
    StoreDisk(Lie),
    /// The disk lies about ingest tiers alone.
    IngestDisk(Lie),
    /// A file whose sync has failed is synced again, and the second answer believed.
    SyncTriedAgain,
    /// Of a compaction's inputs the files go before the outputs are there.
    InputsRemovedFirst,
    /// What is torn at the end of a file is taken for a record.
    TornTailKept,
    /// A durable connection is closed cleanly before its records are synced.
    ConfirmedUnsynced,
    /// Consumers are content with one store less.
    CommitBeforeR,
    /// A store that is known by two addresses counts as two.
    CopiesCountedByAddress,
    /// Bytes that break off are taken for a segment's end.
    BrokenReadTakenForTheEnd,
    /// A query shows every copy that it finds.
    CopiesShown,
    /// A query asks stores before ingesters.
    StoresAskedFirst,
    /// A query calls itself complete although R stores are silent.
    RStoresMissed,
    /// A query misses nobody who is gone.
    SilentNotMissed,
    /// A query takes a part that breaks off for one that has ended.
    BreaksTakenForEnds,
    /// Retention measures time by a clock that may be set.
    RetentionBelievesTheClock,
    /// The time of day begins anew with each start, and all streams are the same one.
    IdsBeginAgain,
}

impl Wrong {
    /// What kind of a run shows it soon.
    fn shape(self, seed: u64) -> Shape {
        let mut shape = Shape { wrong: Some(self), watched: true, ..Shape::of(seed) };
        match self {
            Wrong::CommitBeforeR => shape.consume.replicas = shape.consume.replicas.saturating_sub(1).max(1),
            Wrong::RetentionBelievesTheClock => {
                shape.clocks_jump = true;
                shape.compact.retention.retain = Duration::from_secs(60);
            }
            Wrong::SyncTriedAgain => shape.disks_fail = true,
            _ => {}
        }
        shape
    }

    /// The same without what is wrong.
    fn right(self, seed: u64) -> Shape {
        let consume = Shape::of(seed).consume;
        Shape { wrong: None, consume, ..self.shape(seed) }
    }
}

/// A node's disk, as its processes see it.
pub fn disk(honest: Arc<dyn FileSystem>, wrong: Option<Wrong>) -> Arc<dyn FileSystem> {
    let only_in = |dir: &'static str, lie: Lie| -> Arc<dyn FileSystem> {
        let bent = lying(honest.clone(), lie);
        Arc::new(Bent { bent, disk: honest.clone(), dir, how: None, kept: Mutex::default() })
    };
    let bent = |how: Wrong| -> Arc<dyn FileSystem> {
        let (disk, bent) = (honest.clone(), honest.clone());
        Arc::new(Bent { bent, disk, dir: "", how: Some(how), kept: Mutex::default() })
    };
    match wrong {
        Some(Wrong::Disk(lie)) => lying(honest, lie),
        Some(Wrong::StoreDisk(lie)) => only_in(STORE_DIR, lie),
        Some(Wrong::IngestDisk(lie)) => only_in(INGEST_DIR, lie),
        Some(how @ (Wrong::SyncTriedAgain | Wrong::InputsRemovedFirst | Wrong::TornTailKept)) => bent(how),
        _ => honest,
    }
}

/// A node's clock, as its ingest tier sees it.
pub fn ingest_clock(honest: Arc<dyn Clock>, wrong: Option<Wrong>) -> Arc<dyn Clock> {
    if wrong == Some(Wrong::IdsBeginAgain) { Arc::new(NoBattery(honest)) } else { honest }
}

/// A node's clock, as its store sees it.
pub fn store_clock(honest: Arc<dyn Clock>, wrong: Option<Wrong>) -> Arc<dyn Clock> {
    if wrong == Some(Wrong::RetentionBelievesTheClock) { Arc::new(OneClock(honest)) } else { honest }
}

/// What ids are drawn from.
pub fn entropy(seed: u64, wrong: Option<Wrong>) -> Arc<dyn Entropy> {
    if wrong == Some(Wrong::IdsBeginAgain) {
        Arc::new(Fixed(SeededEntropy::new(seed)))
    } else {
        Arc::new(SeededEntropy::new(seed))
    }
}

/// Measures delays by the time of day.
struct OneClock(Arc<dyn Clock>);

impl Clock for OneClock {
    fn unix(&self) -> UnixNanos {
        self.0.unix()
    }

    fn now(&self) -> Monotonic {
        // A month before the beginning, so that it does not go below zero when it is set back.
        Monotonic(Duration::from_nanos(self.0.unix().0.saturating_sub(EPOCH - 30 * 86_400_000_000_000)))
    }
}

/// Knows no more of the time than how long it has run, in tenths of seconds.
struct NoBattery(Arc<dyn Clock>);

impl Clock for NoBattery {
    fn unix(&self) -> UnixNanos {
        UnixNanos(EPOCH + self.0.now().0.as_millis() as u64 / 100 * 100_000_000)
    }

    fn now(&self) -> Monotonic {
        self.0.now()
    }
}

/// Gives the same bits for each stream.
struct Fixed(SeededEntropy);

impl Entropy for Fixed {
    fn bits_64(&self) -> u64 {
        7
    }

    fn bits_128(&self) -> u128 {
        self.0.bits_128()
    }
}

/// A disk that does one thing wrongly, or all in one directory as another does.
struct Bent {
    disk: Arc<dyn FileSystem>,
    bent: Arc<dyn FileSystem>,
    dir: &'static str,
    how: Option<Wrong>,
    /// Files that are read although they are gone.
    kept: Mutex<BTreeMap<PathBuf, Arc<dyn File>>>,
}

impl Bent {
    fn of(&self, path: &Path) -> &Arc<dyn FileSystem> {
        if !self.dir.is_empty() && path.starts_with(self.dir) { &self.bent } else { &self.disk }
    }

    fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        if self.how == Some(Wrong::SyncTriedAgain) { Arc::new(Stubborn(file)) } else { file }
    }
}

impl FileSystem for Bent {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.of(dir).create_dir_all(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        self.of(dir).list(dir)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        match self.kept.lock().unwrap().get(path) {
            Some(kept) => Ok(kept.clone()),
            None => self.of(path).open(path),
        }
    }

    fn open_append(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = self.of(path).open_append(path)?;
        let size = file.size()?.0;
        let mut last = [b'\n'];
        if self.how == Some(Wrong::TornTailKept) && size > 0 {
            file.read_at(&mut last, Bytes(size - 1))?;
        }
        if last != [b'\n'] {
            file.append(b"\n")?;
        }
        Ok(self.file(file))
    }

    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.of(path).create_new(path)?))
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let is_input = to.extension().is_some_and(|extension| extension == "reading");
        if self.how == Some(Wrong::InputsRemovedFirst) && is_input {
            let file = self.disk.open(from)?;
            self.disk.remove(from)?;
            self.kept.lock().unwrap().insert(to.to_path_buf(), file);
            return Ok(());
        }
        self.of(from).rename_new(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.kept.lock().unwrap().remove(path).is_some() {
            return Ok(());
        }
        self.of(path).remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.of(dir).sync_dir(dir)
    }

    fn set_modified(&self, path: &Path, to: UnixMillis) -> io::Result<()> {
        self.of(path).set_modified(path, to)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.disk.space(dir)
    }

    fn reserve(&self, path: &Path, size: Bytes) -> io::Result<()> {
        self.of(path).reserve(path, size)
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock_dir(dir)
    }
}

/// A file that is synced again when that has failed.
struct Stubborn(Arc<dyn File>);

impl File for Stubborn {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.0.append(bytes)
    }

    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn size(&self) -> io::Result<Bytes> {
        self.0.size()
    }

    fn truncate(&self, to: Bytes) -> io::Result<()> {
        self.0.truncate(to)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().or_else(|_| self.0.sync_data())
    }
}

/// Each variant in words, and the invariant that catches it.
const VARIANTS: [(&str, Wrong, &str); 21] = [
    ("no directory is synced", Wrong::Disk(Lie::DirectoriesNotSynced), KEPT),
    ("no file is synced", Wrong::Disk(Lie::FilesNotSynced), KEPT),
    ("a file is renamed before it is synced", Wrong::Disk(Lie::FilesSyncedAfter(4)), KEPT),
    ("a store gives its receipt before the sync", Wrong::StoreDisk(Lie::FilesNotSynced), KEPT),
    ("a durable connection is confirmed before the sync", Wrong::ConfirmedUnsynced, KEPT),
    ("a failed sync is tried again on the same file", Wrong::SyncTriedAgain, KEPT),
    ("pending segments are lost at a start", Wrong::Disk(Lie::Hides("pending")), KEPT),
    ("a compaction removes its inputs first", Wrong::InputsRemovedFirst, KEPT),
    ("a rename takes a name that is in use", Wrong::StoreDisk(Lie::RenamesReplace), KEPT),
    ("a write is cut short and nobody is told", Wrong::IngestDisk(Lie::WritesAtMost(200)), KEPT),
    ("retention believes a clock that was set", Wrong::RetentionBelievesTheClock, KEPT),
    ("a segment is committed before R stores have it", Wrong::CommitBeforeR, COMMIT),
    ("copies are counted by address", Wrong::CopiesCountedByAddress, COMMIT),
    ("a broken read is taken for the end of a segment", Wrong::BrokenReadTakenForTheEnd, COMMIT),
    ("copies are not told apart from records", Wrong::CopiesShown, ONCE),
    ("a torn record is taken for a whole one", Wrong::TornTailKept, SENT),
    ("ids begin again with each start, in the same stream", Wrong::IdsBeginAgain, UNIQUE),
    ("stores are asked before ingesters", Wrong::StoresAskedFirst, WHOLE),
    ("an answer is called complete although R stores are silent", Wrong::RStoresMissed, WHOLE),
    ("nobody who is gone is missed", Wrong::SilentNotMissed, WHOLE),
    ("a part that breaks off is taken for the whole", Wrong::BreaksTakenForEnds, WHOLE),
];

/// Within so many seeds each variant is to be caught.
const MOST_SEEDS: u64 = 200;

#[test]
fn every_broken_variant_is_caught_by_the_invariant_that_it_breaks() {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some((name, wrong, invariant)) = VARIANTS.get(next.fetch_add(1, Relaxed)) {
            let caught = (0..MOST_SEEDS).find_map(|seed| Some((seed, catch(*wrong, seed, invariant)?)));
            results.lock().unwrap().insert(*name, caught);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().unwrap();
    let mut missed = Vec::new();
    for (name, _, invariant) in VARIANTS {
        match &results[name] {
            Some((seed, violation)) => println!("{name}: caught after {} seeds: {violation}", seed + 1),
            None => missed.push(format!("{name} (by \"{invariant}\")")),
        }
    }
    assert!(missed.is_empty(), "not caught within {MOST_SEEDS} seeds: {}", missed.join("; "));
}

/// How a variant breaks this invariant with this seed, if it does. All must be well with the seed without it.
fn catch(wrong: Wrong, seed: u64, invariant: &str) -> Option<Violation> {
    let fails = |shape: Shape| run(shape, Wanted::default()).failure.map(|failure| failure.violation);
    let violation = fails(wrong.shape(seed)).filter(|violation| violation.invariant == invariant)?;
    fails(wrong.right(seed)).is_none().then_some(violation)
}
