//! Where each record is: on how many stores, in which files twice, and whether its copies are alike.

use super::plan::Part;
use crate::record::id::Id;
use std::collections::BTreeMap;

/// The most directories that are looked at together.
pub const MOST_DIRS: usize = 128;

/// Pairs of files that contradict each other which are kept; records of further pairs are counted.
pub const MOST_PAIRS: usize = 1_000;

/// Where a file lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    /// Which directory.
    pub dir: usize,
    /// What its records count for.
    pub part: Part,
    /// Which store, by identity: two directories with one identity are one. Below [`MOST_DIRS`].
    pub store: usize,
}

/// Some records: how many, the oldest and the newest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// How many.
    pub records: u64,
    /// The first id.
    pub first: Id,
    /// The last id.
    pub last: Id,
}

impl Span {
    fn add(spans: &mut Option<Span>, id: Id) {
        match spans {
            Some(span) => {
                span.records += 1;
                span.last = id;
            }
            None => *spans = Some(Span { records: 1, first: id, last: id }),
        }
    }
}

/// The stores that have a record: bit n stands for store n.
pub type Stores = u128;

/// What is counted.
pub struct Copies {
    homes: Vec<Home>,
    /// Every record newer than this must be on so many stores, unless it is in the ingest tier.
    wanted: u32,
    /// The newest id in any trash: up to here retention was at work.
    past: Option<Id>,
    /// Records by the number of stores that have them, from 1.
    by_stores: BTreeMap<u32, u64>,
    /// Records in the ingest tier alone, and in the stores too.
    waiting: (u64, u64),
    /// Records that are only in the trash.
    trashed: u64,
    /// For each file that counts for nothing: its records that are in none that counts.
    alone: Vec<Option<Span>>,
    /// For each directory: records that it has more than once.
    repeated: Vec<u64>,
    unlike: BTreeMap<(usize, usize), Span>,
    unlike_more: u64,
    lacking: BTreeMap<Stores, Span>,
}

impl Copies {
    /// Nothing is counted yet. `homes` are those of the files, by number.
    pub fn new(homes: Vec<Home>, wanted: u32, past: Option<Id>) -> Copies {
        let dirs = homes.iter().map(|home| home.dir + 1).max().unwrap_or(0);
        Copies {
            alone: vec![None; homes.len()],
            homes,
            wanted,
            past,
            by_stores: BTreeMap::new(),
            waiting: (0, 0),
            trashed: 0,
            repeated: vec![0; dirs],
            unlike: BTreeMap::new(),
            unlike_more: 0,
            lacking: BTreeMap::new(),
        }
    }

    /// Takes the next id and the files that have it; `alike` says whether two of them have the same under it. Gives the first
    /// of the files that count, if there is one.
    pub fn take(&mut self, id: Id, files: &[usize], alike: &dyn Fn(usize, usize) -> bool) -> Option<usize> {
        let (mut stores, mut waiting, mut trash): (Stores, bool, bool) = (0, false, false);
        let mut counts = None;
        for file in files {
            let Some(home) = self.homes.get(*file) else { continue };
            match home.part {
                Part::Waiting => waiting = true,
                Part::Live => stores |= 1 << (home.store % MOST_DIRS),
                Part::Trash => trash = true,
                Part::Draft | Part::Aside => continue,
            }
            counts = counts.or(Some(*file));
        }
        match (stores.count_ones(), waiting) {
            (0, true) => self.waiting.0 += 1,
            (0, false) if trash => self.trashed += 1,
            (0, false) => {}
            (count, waits) => {
                *self.by_stores.entry(count).or_default() += 1;
                self.waiting.1 += u64::from(waits);
                if count < self.wanted && !waits && self.past.is_none_or(|past| id > past) {
                    let mut span = self.lacking.get(&stores).copied();
                    Span::add(&mut span, id);
                    self.lacking.extend(span.map(|span| (stores, span)));
                }
            }
        }
        if files.len() > 1 {
            self.compare(id, files, alike);
        }
        if counts.is_none() {
            for file in files {
                self.alone.get_mut(*file).into_iter().for_each(|alone| Span::add(alone, id));
            }
        }
        counts
    }

    /// Holds the files that have one id against each other.
    fn compare(&mut self, id: Id, files: &[usize], alike: &dyn Fn(usize, usize) -> bool) {
        let mut dirs: Vec<usize> = Vec::with_capacity(files.len());
        let mut first = None;
        for file in files {
            let Some(home) = self.homes.get(*file).copied() else { continue };
            // What is damaged or unfinished anyway contradicts nobody.
            if matches!(home.part, Part::Draft | Part::Aside) {
                continue;
            }
            if home.part != Part::Trash {
                if dirs.contains(&home.dir) {
                    self.repeated.get_mut(home.dir).into_iter().for_each(|repeated| *repeated += 1);
                }
                dirs.push(home.dir);
            }
            let Some(first) = first else {
                first = Some(*file);
                continue;
            };
            if !alike(first, *file) {
                let pair = (first, *file);
                if self.unlike.len() >= MOST_PAIRS && !self.unlike.contains_key(&pair) {
                    self.unlike_more += 1;
                    continue;
                }
                let mut span = self.unlike.get(&pair).copied();
                Span::add(&mut span, id);
                self.unlike.extend(span.map(|span| (pair, span)));
            }
        }
    }

    /// Records by the number of stores that have them, from 1 up.
    pub fn by_stores(&self) -> &BTreeMap<u32, u64> {
        &self.by_stores
    }

    /// How many records are in the ingest tier and in no store, and how many in both.
    pub fn waiting(&self) -> (u64, u64) {
        self.waiting
    }

    /// How many records are in the trash alone.
    pub fn trashed(&self) -> u64 {
        self.trashed
    }

    /// The records of a file that counts for nothing which are in no file that counts.
    pub fn alone(&self, file: usize) -> Option<Span> {
        self.alone.get(file).copied().flatten()
    }

    /// How many records a directory has more than once.
    pub fn repeated(&self, dir: usize) -> u64 {
        self.repeated.get(dir).copied().unwrap_or(0)
    }

    /// Pairs of files that have different records under one id, and how many records of further pairs.
    pub fn unlike(&self) -> (&BTreeMap<(usize, usize), Span>, u64) {
        (&self.unlike, self.unlike_more)
    }

    /// Records that are on too few stores, by the stores that have them.
    pub fn lacking(&self) -> &BTreeMap<Stores, Span> {
        &self.lacking
    }
}
