//! The disk in memory against a naive model of what a crash may leave, over thousands of random histories.

use super::*;
use crate::unit::{UnixMillis, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::fs::{File, FileSystem, read_full_at};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A file as everything it has been since the last sync, oldest first; the last one is what a reader sees.
#[derive(Clone)]
struct NaiveFile {
    versions: Vec<Vec<u8>>,
    /// Where in `versions` the last truncation is.
    cut: usize,
    /// How far syncs have come, failed ones included.
    tried: usize,
    /// What failed syncs marked clean.
    lost: BTreeSet<usize>,
    times: BTreeSet<u64>,
}

#[derive(Clone, PartialEq, Debug)]
enum What {
    Put(String),
    Move(String, String),
    Drop(String),
    Time,
}

struct Pending {
    file: usize,
    what: What,
    stuck: bool,
}

#[derive(Default)]
struct Naive {
    files: Vec<NaiveFile>,
    names: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<Pending>,
}

impl Pending {
    fn touches(&self, other: &Pending) -> bool {
        let names = |what: &What| match what {
            What::Put(name) | What::Drop(name) => vec![name.clone()],
            What::Move(from, to) => vec![from.clone(), to.clone()],
            What::Time => vec![],
        };
        self.file == other.file || names(&self.what).iter().any(|name| names(&other.what).contains(name))
    }

    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match &self.what {
            What::Put(name) => drop(names.insert(name.clone(), self.file)),
            What::Move(from, to) => {
                names.remove(from);
                names.insert(to.clone(), self.file);
            }
            What::Drop(name) => drop(names.remove(name)),
            What::Time => {}
        }
    }
}

impl NaiveFile {
    fn now(&self) -> &Vec<u8> {
        self.versions.last().unwrap()
    }

    fn truncate(&mut self, to: usize) {
        let mut next = self.now().clone();
        next.truncate(to);
        for version in &mut self.versions[self.cut..] {
            let len = version.len();
            self.lost.range(..len).for_each(|at| version[*at] = 0);
        }
        self.cut = self.versions.len();
        self.versions.push(next);
        self.tried = self.tried.min(to);
        self.lost.retain(|at| *at < to);
    }

    fn sync(&mut self, fails: bool) {
        let len = self.now().len();
        if fails {
            self.lost.extend(self.tried..len);
        } else {
            (self.versions, self.cut) = (vec![self.now().clone()], 0);
        }
        self.tried = len;
    }

    fn allows_length(&self, len: usize) -> bool {
        self.versions.iter().any(|version| version.len() == len)
            || self.versions.windows(2).any(|pair| pair[0].len() < len && len < pair[1].len())
    }

    /// Whether a crash may leave this.
    fn allows(&self, kept: &[u8]) -> bool {
        let certain = self.versions.iter().map(Vec::len).min().unwrap();
        let byte = |index: usize, at: usize| match self.versions[index].get(at) {
            Some(byte) if index < self.cut || !self.lost.contains(&at) => *byte,
            _ => 0,
        };
        let sure = |at: usize| byte(self.versions.len() - 1, at) == kept[at];
        let from_one = |sector: std::ops::Range<usize>| {
            (0..self.versions.len()).any(|index| sector.clone().all(|at| byte(index, at) == kept[at]))
        };
        let sectors =
            (certain / 512..kept.len().div_ceil(512)).map(|n| (n * 512).max(certain)..kept.len().min((n + 1) * 512));
        kept.len() >= certain
            && self.allows_length(kept.len())
            && (0..certain).all(sure)
            && sectors.into_iter().all(from_one)
    }
}

impl Naive {
    fn change(&mut self, file: usize, what: What) {
        let change = Pending { file, what, stuck: false };
        change.apply(&mut self.names);
        self.pending.push(change);
    }

    /// The sets of pending changes, as bits, that may be on the disk: none without all before it that it rests on.
    fn subsets(&self) -> Vec<u64> {
        let rests_on: Vec<u64> = (0..self.pending.len())
            .map(|at| (0..at).filter(|e| self.pending[at].touches(&self.pending[*e])).fold(0, |bits, e| bits | 1 << e))
            .collect();
        let closed =
            |bits: &u64| rests_on.iter().enumerate().all(|(at, rest)| bits >> at & 1 == 0 || bits & rest == *rest);
        (0..1u64 << self.pending.len()).filter(closed).collect()
    }

    fn with(&self, bits: u64) -> BTreeMap<String, usize> {
        let mut names = self.durable.clone();
        let on_disk = self.pending.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        on_disk.for_each(|(_, change)| change.apply(&mut names));
        names
    }

    fn sync_dir(&mut self, fails: bool) {
        if fails {
            self.pending.iter_mut().for_each(|change| change.stuck = true);
            return;
        }
        let asked = self.pending.iter().enumerate().filter(|(_, change)| !change.stuck);
        let asked = asked.fold(0u64, |bits, (at, _)| bits | 1 << at);
        let smallest =
            self.subsets().into_iter().filter(|bits| bits & asked == asked).min_by_key(|bits| bits.count_ones());
        let reached = smallest.unwrap();
        self.durable = self.with(reached);
        let mut at = 0;
        self.pending.retain(|_| {
            at += 1;
            reached >> (at - 1) & 1 == 0
        });
    }

    /// Whether a crash may leave this.
    fn allows(&self, image: &BTreeMap<String, (Vec<u8>, u64)>) -> bool {
        self.subsets().into_iter().any(|bits| {
            let names = self.with(bits);
            names.len() == image.len()
                && names.iter().zip(image).all(|((name, file), (found, (kept, time)))| {
                    let file = &self.files[*file];
                    name == found && file.allows(kept) && file.times.contains(time)
                })
        })
    }
}

fn path(name: &str) -> PathBuf {
    Path::new("d").join(name)
}

fn look(fs: &MemoryFs) -> BTreeMap<String, (Vec<u8>, u64)> {
    let entry = |entry: crate::world::fs::Entry| {
        let mut bytes = vec![0; entry.size.0 as usize];
        let file = fs.open(&path(&entry.name)).unwrap();
        assert_eq!(read_full_at(&*file, &mut bytes, Bytes(0)).unwrap(), bytes.len());
        (entry.name, (bytes, entry.modified.0))
    };
    fs.list(Path::new("d")).unwrap().into_iter().map(entry).collect()
}

/// A disk, its model, and the files that are open.
struct Bench {
    fs: MemoryFs,
    naive: Naive,
    open: Vec<Arc<dyn File>>,
    dice: Dice,
}

impl Bench {
    fn new(seed: u64) -> Bench {
        let fs = MemoryFs::with_clock(Arc::new(VirtualClock::at(UnixNanos(0))));
        fs.create_dir_all(Path::new("d")).unwrap();
        Bench { fs, naive: Naive::default(), open: Vec::new(), dice: Dice::new(seed) }
    }

    fn some_name(&mut self) -> Option<(String, usize)> {
        let names: Vec<_> = self.naive.names.iter().map(|(name, file)| (name.clone(), *file)).collect();
        names.get(self.dice.below(names.len() as u64) as usize).cloned()
    }

    fn free_name(&mut self) -> Option<String> {
        let name = ["a", "b", "c", "e"][self.dice.below(4) as usize].to_string();
        (!self.naive.names.contains_key(&name)).then_some(name)
    }

    fn step(&mut self) {
        let fails = self.dice.one_in(8);
        let file = self.dice.below(self.open.len() as u64) as usize;
        match self.dice.below(12) {
            0 | 1 => self.create(),
            2..=4 if !self.open.is_empty() => {
                let len = 1 + self.dice.below([20, 600, 9_000][self.dice.clone().below(3) as usize]);
                let bytes: Vec<u8> = (0..len).map(|_| 1 + self.dice.below(255) as u8).collect();
                self.open[file].append(&bytes).unwrap();
                let naive = &mut self.naive.files[file];
                naive.versions.push([&naive.now()[..], &bytes].concat());
                naive.times.insert(0);
            }
            5 if !self.open.is_empty() => {
                let to = self.dice.below(self.naive.files[file].now().len() as u64 + 1) as usize;
                self.open[file].truncate(Bytes(to as u64)).unwrap();
                self.naive.files[file].truncate(to);
            }
            6 | 7 if !self.open.is_empty() => {
                self.plan_failure(fails);
                assert_eq!(self.open[file].sync_data().is_err(), fails);
                self.naive.files[file].sync(fails);
            }
            8 => {
                self.plan_failure(fails);
                assert_eq!(self.fs.sync_dir(Path::new("d")).is_err(), fails);
                self.naive.sync_dir(fails);
            }
            other => self.change_name(other),
        }
    }

    fn plan_failure(&mut self, fails: bool) {
        if fails {
            self.fs.fail_nth(Op::Sync, 1, io::ErrorKind::Other);
        }
    }

    fn create(&mut self) {
        let Some(name) = self.free_name() else { return };
        self.open.push(self.fs.create_new(&path(&name)).unwrap());
        let times = BTreeSet::from([0]);
        self.naive.files.push(NaiveFile { versions: vec![vec![]], cut: 0, tried: 0, lost: BTreeSet::new(), times });
        self.naive.change(self.open.len() - 1, What::Put(name));
    }

    fn change_name(&mut self, how: u64) {
        let (Some((name, file)), free) = (self.some_name(), self.free_name()) else { return };
        match (how, free) {
            (9, _) => {
                self.fs.remove(&path(&name)).unwrap();
                self.naive.change(file, What::Drop(name));
            }
            (10, Some(to)) => {
                self.fs.rename_new(&path(&name), &path(&to)).unwrap();
                self.naive.change(file, What::Move(name, to));
            }
            _ => {
                let time = self.dice.below(1_000);
                self.fs.set_modified(&path(&name), UnixMillis(time)).unwrap();
                self.naive.files[file].times.insert(time);
                self.naive.change(file, What::Time);
            }
        }
    }
}

#[test]
fn every_image_of_every_history_is_one_that_the_rules_allow() {
    let seeds = if std::env::var_os("OKLOG_TEST_LONG").is_some() { 100_000 } else { 3_000 };
    let mut images = 0;
    for seed in 0..seeds {
        let mut bench = Bench::new(seed);
        for step in 0..40 {
            if bench.naive.pending.len() >= 9 {
                break;
            }
            bench.step();
            if bench.dice.one_in(4) {
                let image = look(&bench.fs.image(&mut bench.dice));
                assert!(bench.naive.allows(&image), "step {step}; replay with seed {seed}");
                images += 1;
            }
        }
        let copy = bench.fs.copy();
        for disk in [&bench.fs, &copy] {
            let seen: Vec<(String, Vec<u8>)> = look(disk).into_iter().map(|(name, (bytes, _))| (name, bytes)).collect();
            let now =
                bench.naive.names.iter().map(|(name, file)| (name.clone(), bench.naive.files[*file].now().clone()));
            assert_eq!(seen, Vec::from_iter(now), "images harm nobody: replay with seed {seed}");
            for image in [disk.harshest_image(), disk.image(&mut bench.dice)] {
                assert!(bench.naive.allows(&look(&image)), "at the end; replay with seed {seed}");
            }
        }
        let harshest = look(&copy.harshest_image());
        assert_eq!(harshest.into_keys().collect::<Vec<_>>(), bench.naive.durable.into_keys().collect::<Vec<_>>());
    }
    assert!(images > seeds, "{images} images");
}

#[test]
fn what_a_later_life_finds_after_a_crash_is_what_the_next_crash_cannot_take() {
    for seed in 0..300 {
        let mut bench = Bench::new(seed);
        for _ in 0..20 {
            bench.step();
        }
        bench.fs.crash(&mut bench.dice);
        bench.fs.recover();
        let found = look(&bench.fs);
        assert_eq!(look(&bench.fs.image(&mut bench.dice)), found, "replay with seed {seed}");
        assert_eq!(look(&bench.fs.harshest_image()), found, "replay with seed {seed}");
    }
}

#[test]
fn every_set_of_names_that_the_rules_allow_comes_up() {
    let mut sets = 0;
    for seed in 0..60 {
        let mut bench = Bench::new(seed);
        while bench.naive.pending.len() < 6 {
            bench.create();
            for how in [9, 10, 10, 11] {
                if bench.dice.one_in(4) {
                    bench.change_name(how);
                }
            }
            if bench.dice.one_in(6) {
                bench.fs.sync_dir(Path::new("d")).unwrap();
                bench.naive.sync_dir(false);
            }
        }
        let allowed: BTreeSet<Vec<String>> =
            bench.naive.subsets().into_iter().map(|bits| bench.naive.with(bits).into_keys().collect()).collect();
        let names = |fs: MemoryFs| fs.list(Path::new("d")).unwrap().into_iter().map(|entry| entry.name).collect();
        let seen: BTreeSet<Vec<String>> = (0..4_000).map(|_| names(bench.fs.image(&mut bench.dice))).collect();
        assert_eq!(seen, allowed, "replay with seed {seed}");
        sets += allowed.len();
    }
    assert!(sets > 300, "{sets} sets of names");
}

/// What became of a file that was written, cut and written again since its last sync.
fn fate(old: &[u8], new: &[u8], cut: usize, kept: &[u8]) -> &'static str {
    let holes = kept[cut..].contains(&0);
    match kept.len() {
        len if kept == old && len == old.len() => "the cut did not happen",
        len if kept == new && len == new.len() => "all is there",
        len if len == cut => "the cut alone",
        len if len == old.len() && kept[cut..] != old[cut..] => "the old length with other bytes",
        _ if holes => "holes",
        len if len < new.len() && kept == &new[..len] => "a part",
        _ => "else",
    }
}

#[test]
fn every_kind_of_loss_comes_up() {
    let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
    let fs = MemoryFs::new();
    let file = fs.create_new(Path::new("a")).unwrap();
    fs.sync_dir(Path::new("")).unwrap();
    let (old, more, cut) = ([b'o'; 9_000], [b'n'; 12_000], 3_000);
    file.append(&old).unwrap();
    file.sync_data().unwrap();
    file.truncate(Bytes(cut)).unwrap();
    file.append(&more).unwrap();
    let new = [&old[..cut as usize], &more].concat();
    for seed in 0..2_000 {
        let image = fs.image(&mut Dice::new(seed));
        let kept = image.open(Path::new("a")).unwrap();
        let mut bytes = vec![0; kept.size().unwrap().0 as usize];
        read_full_at(&*kept, &mut bytes, Bytes(0)).unwrap();
        *seen.entry(fate(&old, &new, cut as usize, &bytes)).or_default() += 1;
    }
    for kind in ["the cut did not happen", "all is there", "the old length with other bytes", "holes", "a part"] {
        assert!(seen.get(kind).is_some_and(|n| *n > 20), "{kind}: {seen:?}");
    }
}
