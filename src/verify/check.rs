//! Reads what it is given, in one pass, and puts the report together.

use super::copies::{Copies, Home, MOST_DIRS};
use super::finding::{Excuse, Finding, What};
use super::judge::{Surroundings, judge};
use super::merge::Merge;
use super::plan::{DirPlan, Part, Place, Planned, Tier, plan};
use super::report::{DirReport, Report};
use super::streams::{Oddity, Streams};
use super::walk::Walker;
use crate::record::id::{ID_LEN, Id, LARGEST_STEP_BACK};
use crate::record::stored::id_at;
use crate::segment::Bounds;
use crate::segment::sealed::{Glance, glance};
use crate::unit::{Bytes, UnixMillis};
use crate::world::clock::Clock;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{FileSystem, read_full_at};
use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// A stream whose beginning is missing is excused if it is so near the beginning of a store: what came before was in a
/// segment that retention has removed. Twenty times the default of `-ingest.segment-flush-age`, which is how long a stream is.
const NEAR: Duration = Duration::from_secs(60);

/// How much is read between two words on progress.
const STEP: u64 = 16 << 20;

/// What is to be looked at.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Directories of tiers, or ones that hold those.
    pub dirs: Vec<PathBuf>,
    /// On so many stores every record must be.
    pub copies: Option<u32>,
}

/// Why nothing was looked at, or what was found means nothing. `Display` is one sentence.
#[derive(Debug)]
pub enum Refusal {
    /// A directory could not be listed.
    Unreadable {
        /// Which.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory is none of a server's.
    Strange {
        /// Which.
        dir: PathBuf,
    },
    /// A server uses a directory.
    InUse {
        /// Which.
        dir: PathBuf,
        /// Who, in its own words.
        by: String,
    },
    /// A server was started while its directory was read.
    Started {
        /// Which.
        dir: PathBuf,
    },
    /// More directories than are looked at together.
    TooMany,
    /// More copies are asked for than there are stores.
    TooFewStores {
        /// How many there are.
        stores: usize,
        /// How many copies each record should have.
        copies: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unreadable { dir, source } => write!(f, "cannot read {}: {source}", dir.display()),
            Refusal::Strange { dir } => write!(f, "{} is no data directory of a server", dir.display()),
            Refusal::InUse { dir, by } => {
                write!(f, "{} is in use by {by}: stop that server first, or look at a copy", dir.display())
            }
            Refusal::Started { dir } => {
                write!(f, "a server was started on {} while it was read: nothing is known of it", dir.display())
            }
            Refusal::TooMany => write!(f, "more than {MOST_DIRS} directories cannot be looked at together"),
            Refusal::TooFewStores { stores, copies } => {
                write!(f, "-copies {copies} needs the directories of {copies} stores or more, and {stores} were given")
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes read.
    pub read: u64,
    /// Bytes to read in all.
    pub total: u64,
}

/// A directory that is looked at.
struct Dir {
    path: PathBuf,
    plan: DirPlan,
    /// When the lock was last taken: a server that starts takes it.
    locked: Option<UnixMillis>,
    /// Which store it is: two directories with one identity are one.
    store: usize,
}

impl Dir {
    /// The smallest id that a store's names speak of.
    fn oldest(&self) -> Option<Id> {
        let counts = |file: &&Planned| matches!(file.part, Part::Live | Part::Trash);
        self.plan.files.iter().filter(counts).filter_map(|file| Some(ends(file)?.0)).min()
    }

    fn file(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

/// Looks at all there is, reads all of it, and says what was found. `progress` is told now and then.
pub fn check(
    fs: &Arc<dyn FileSystem>,
    clock: &dyn Clock,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Refusal> {
    let start = clock.now();
    let future = Id::first_of(clock.unix_millis().after(LARGEST_STEP_BACK));
    let mut dirs = Vec::new();
    for path in &options.dirs {
        take_dir(&**fs, path, future, &mut dirs)?;
    }
    if dirs.len() > MOST_DIRS {
        return Err(Refusal::TooMany);
    }
    let stores = number_stores(&mut dirs);
    if let Some(copies) = options.copies.filter(|copies| stores < *copies as usize) {
        return Err(Refusal::TooFewStores { stores, copies });
    }
    let mut reading = Reading::new(fs, &dirs, options.copies.unwrap_or(0));
    reading.run(progress);
    for dir in &dirs {
        if look_at_lock(&**fs, &dir.path)? != dir.locked {
            return Err(Refusal::Started { dir: dir.path.clone() });
        }
    }
    let mut report = reading.report(&dirs, future);
    report.span = clock.now().since(start);
    Ok(report)
}

/// Adds what a path stands for: a tier's directory, or those below it.
fn take_dir(fs: &dyn FileSystem, path: &Path, future: Id, dirs: &mut Vec<Dir>) -> Result<(), Refusal> {
    let is_step = |step: &Component<'_>| *step != Component::CurDir;
    if dirs.iter().any(|dir| dir.path.components().filter(is_step).eq(path.components().filter(is_step))) {
        return Ok(());
    }
    // The lock before the list: what a server changes after this look is found out by the second one.
    let locked = look_at_lock(fs, path)?;
    let entries = fs.list(path).map_err(|source| Refusal::Unreadable { dir: path.to_path_buf(), source })?;
    match plan(&entries, future) {
        Place::Dir(plan) => {
            dirs.push(Dir { path: path.to_path_buf(), plan, locked, store: 0 });
            Ok(())
        }
        Place::Parent(names) => names.iter().try_for_each(|name| {
            let below = path.join(name);
            match take_dir(fs, &below, future, dirs) {
                // A directory that merely has such a name is not what was meant.
                Err(Refusal::Strange { .. }) if names.len() > 1 => Ok(()),
                other => other,
            }
        }),
        Place::Strange => Err(Refusal::Strange { dir: path.to_path_buf() }),
    }
}

/// When the lock of a directory was last taken; a refusal if a server holds it.
fn look_at_lock(fs: &dyn FileSystem, dir: &Path) -> Result<Option<UnixMillis>, Refusal> {
    let refused = |source| Refusal::Unreadable { dir: dir.to_path_buf(), source };
    if let Some(by) = fs.lock_holder(dir).map_err(refused)? {
        return Err(Refusal::InUse { dir: dir.to_path_buf(), by });
    }
    let entries = fs.list(dir).map_err(refused)?;
    Ok(entries.iter().find(|entry| entry.name == LOCK_NAME).map(|entry| entry.modified))
}

/// Gives every directory the number of its store, and says where two have one identity. Gives how many stores there are.
fn number_stores(dirs: &mut [Dir]) -> usize {
    let mut known: Vec<(Tier, u128, usize)> = Vec::new();
    let mut stores = 0;
    for n in 0..dirs.len() {
        let Some(dir) = dirs.get(n) else { continue };
        let (tier, id) = (dir.plan.tier, dir.plan.id);
        let same = known.iter().find(|(known_tier, known_id, _)| Some(*known_tier) == tier && Some(*known_id) == id);
        let same = same.map(|(.., at)| *at);
        let other = same.and_then(|at| dirs.get(at)).map(|other| (other.store, other.path.display().to_string()));
        let Some(dir) = dirs.get_mut(n) else { continue };
        if let Some((store, other)) = other {
            dir.store = store;
            dir.plan.findings.push((String::new(), What::SameIdentity { other }));
            continue;
        }
        dir.store = n;
        stores += usize::from(tier == Some(Tier::Store));
        known.extend(tier.zip(id).map(|(tier, id)| (tier, id, n)));
    }
    stores
}

/// The ids that a name speaks of.
fn ends(file: &Planned) -> Option<(Id, Id)> {
    match file.bounds? {
        Bounds::From(id) => Some((id, id)),
        Bounds::Range(low, high, _) => Some((low, high)),
    }
}

/// The reading of all files of all directories.
struct Reading<'a> {
    /// Every file, and which directory it lies in.
    files: Vec<(usize, &'a Planned)>,
    copies: Copies,
    streams: Streams,
    merge: Merge,
    read: Rc<Cell<u64>>,
    wanted: u32,
}

impl<'a> Reading<'a> {
    fn new(fs: &Arc<dyn FileSystem>, dirs: &'a [Dir], wanted: u32) -> Reading<'a> {
        let read = Rc::new(Cell::new(0));
        let (mut files, mut homes, mut walkers) = (Vec::new(), Vec::new(), Vec::new());
        for (n, dir) in dirs.iter().enumerate() {
            for file in &dir.plan.files {
                let path = dir.path.join(&file.name);
                let low = low(&**fs, &path, file);
                walkers.push(Walker::new(fs.clone(), path, file.size, low, read.clone()));
                homes.push(Home { dir: n, part: file.part, store: dir.store });
                files.push((n, file));
            }
        }
        let trash = files.iter().filter(|(_, file)| file.part == Part::Trash);
        let past = trash.filter_map(|(_, file)| Some(ends(file)?.1)).max();
        let (copies, merge) = (Copies::new(homes, wanted, past), Merge::new(walkers));
        Reading { files, copies, streams: Streams::default(), merge, read, wanted }
    }

    fn part(&self, file: usize) -> Option<Part> {
        self.files.get(file).map(|(_, planned)| planned.part)
    }

    fn run(&mut self, progress: &mut dyn FnMut(Progress)) {
        let total = self.files.iter().map(|(_, file)| file.size.0).sum();
        let mut said = 0;
        while let Some(id) = self.merge.next_id() {
            let (merge, group) = (&self.merge, self.merge.group());
            let alike = |one: usize, other: usize| merge.record(one) == merge.record(other);
            match self.copies.take(id, group, &alike) {
                Some(file) => self.streams.take(id, file, true),
                None => {
                    // What was set aside fills its place; what a start removes does not.
                    let aside = group.iter().copied().find(|file| self.part(*file) == Some(Part::Aside));
                    aside.into_iter().for_each(|file| self.streams.take(id, file, false));
                }
            }
            if self.read.get() - said >= STEP {
                said = self.read.get();
                progress(Progress { read: said, total });
            }
        }
        progress(Progress { read: self.read.get(), total });
    }

    /// Puts together what was found.
    fn report(self, dirs: &[Dir], future: Id) -> Report {
        let Reading { files, copies, streams, merge, read, wanted } = self;
        let walkers = merge.into_walkers();
        let mut report = Report::new(&copies, streams.count(), streams.missing());
        report.bytes = Bytes(read.get());
        let newest_floor = dirs.iter().filter_map(Dir::oldest).max();
        for dir in dirs {
            let mut found = DirReport::new(&dir.path, dir.plan.tier, dir.plan.id);
            found.findings.extend(dir.plan.findings.iter().map(|(name, what)| Finding::on(name, what.clone())));
            report.dirs.push(found);
        }
        for (n, ((at, file), walker)) in files.iter().zip(&walkers).enumerate() {
            let (Some(dir), Some(found)) = (dirs.get(*at), report.dirs.get_mut(*at)) else { continue };
            let alone = copies.alone(n);
            let floor = if dir.plan.tier == Some(Tier::Ingest) { newest_floor } else { dir.oldest() };
            let excuse = match (alone, floor) {
                (Some(alone), Some(floor)) if alone.last < floor => Excuse::Retention,
                (_, None) if dir.plan.tier == Some(Tier::Ingest) => Excuse::Elsewhere,
                _ => Excuse::None,
            };
            let around = Surroundings { future, alone, excuse };
            found.take_file(file, walker.facts());
            found.findings.extend(judge(file, walker.facts(), &around));
        }
        add_streams(&mut report, dirs, &files, &streams);
        add_copies(&mut report, dirs, &files, &copies, wanted);
        report
    }
}

/// The bound below which a file has no record: the smaller one of what its name says and what it begins with.
fn low(fs: &dyn FileSystem, path: &Path, file: &Planned) -> Id {
    let mut head = [0; ID_LEN + 1];
    let read = fs.open(path).and_then(|file| {
        let got = read_full_at(&*file, &mut head, Bytes(0))?;
        let plain = id_at(head.get(..got).unwrap_or_default());
        let sealed = match plain {
            None => glance(&*file)?,
            Some(first) => return Ok(Some(first)),
        };
        Ok(match sealed {
            Glance::Sound(digest) => Some(digest.first),
            _ => None,
        })
    });
    let first = read.ok().flatten();
    match (first, ends(file)) {
        (Some(first), Some((named, _))) => first.min(named),
        (Some(first), None) if file.part != Part::Aside => first,
        _ => Id::MIN,
    }
}

fn add_streams(report: &mut Report, dirs: &[Dir], files: &[(usize, &Planned)], streams: &Streams) {
    for seen in streams.seen() {
        let Some((at, file)) = files.get(seen.file) else { continue };
        let (Some(dir), Some(found)) = (dirs.get(*at), report.dirs.get_mut(*at)) else { continue };
        let near = |first: Id| dir.oldest().is_some_and(|oldest| first.millis() <= oldest.millis().after(NEAR));
        let excuse = match seen.oddity {
            Oddity::Headless { first } if near(first) => Excuse::Retention,
            _ => Excuse::None,
        };
        if let Oddity::Gap { before, .. } = seen.oddity {
            found.findings.iter_mut().for_each(|finding| finding.what.no_longer_sent(before));
        }
        found.findings.push(Finding::on(&file.name, What::Stream(seen.oddity, excuse)));
    }
    if streams.more() > 0 {
        report
            .across
            .push(Finding::on("", What::More { count: streams.more(), of: "places where counters are missing" }));
    }
}

fn add_copies(report: &mut Report, dirs: &[Dir], files: &[(usize, &Planned)], copies: &Copies, wanted: u32) {
    let (unlike, more) = copies.unlike();
    for ((one, other), span) in unlike {
        let (Some((at, file)), Some((other_at, other))) = (files.get(*one), files.get(*other)) else { continue };
        let (Some(found), Some(other_dir)) = (report.dirs.get_mut(*at), dirs.get(*other_at)) else { continue };
        found.findings.push(Finding::on(&file.name, What::Unlike { other: other_dir.file(&other.name), span: *span }));
    }
    if more > 0 {
        report.across.push(Finding::on("", What::More { count: more, of: "records that differ between files" }));
    }
    for (stores, span) in copies.lacking() {
        let mut having = dirs.iter().enumerate().filter(|(_, dir)| stores >> (dir.store % MOST_DIRS) & 1 == 1);
        let Some((at, _)) = having.next() else { continue };
        let others = having.map(|(_, dir)| dir.path.display().to_string()).collect();
        let what = What::Lacking { span: *span, stores: stores.count_ones(), wanted, others };
        report.dirs.get_mut(at).into_iter().for_each(|found| found.findings.push(Finding::on("", what.clone())));
    }
    for (n, found) in report.dirs.iter_mut().enumerate() {
        let repeated = copies.repeated(n);
        found.findings.extend((repeated > 0).then(|| Finding::on("", What::Repeated(repeated))));
    }
}
