//! Opening the ingest directory: lock it, read what an earlier process left, bring every segment into a sound state.
//!
//! | what is found | what is done |
//! | --- | --- |
//! | `ID.flushed`, `ID.pending`, whole | `.flushed` |
//! | `ID.active`, whole | synced, `.flushed` |
//! | `ID.active`, its end cut off or zeroes | what is behind the last LF is cut off: it was never acknowledged |
//! | `ID.active` without one whole record, empty or its end cut off | removed: likewise |
//! | any of them with other damage, or of `.flushed` and `.pending` any at all | what is whole goes on, the file is set aside (`rescue`) |
//! | whole under a name that is not its first id, also none of ours (`UUID.flushed` of the Go OK Log) | renamed to it |
//! | cannot be opened, or is no plain file | set aside |
//! | `X.damaged`, `X.damaged.N.copy` | a rescue was interrupted: it goes on; the copy is removed |
//! | `ID.mark` | the highest counts; an older one is removed, one that is not empty set aside |
//! | `HEX.ingest` | the first one counts; it is made again where it is no plain file |
//! | `HEX.store` where there is no `HEX.ingest` | the directory is that of a store: refused |
//! | `LOCK`, `members`, `ballast`, `*.corrupt` | left alone, unless they are no plain files |
//! | directories and the like whose names are none of ours, names that are not UTF-8 | left alone |
//! | anything else | set aside |
//!
//! A file that can neither be brought in order nor set aside is left as it is and read by queries, which then say that they
//! are not whole. The start is refused only where the directory itself cannot be listed, locked or written.
//! A crash at any point of this leaves a directory that can be opened again with the same result.

use super::flusher::MARK_EXTENSION;
use super::log::{IngestLog, Limits};
use super::rescue::{COPY, copy_whole, is_same};
use crate::cluster::{DataId, remembered};
use crate::ops::metrics::{self as m, Metrics};
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::segment::findings::{Findings, hint, name as name_of};
use crate::segment::handle::{DAMAGED, Known, mark_damaged, rename_surely};
use crate::segment::names::Names;
use crate::segment::reader::BLOCK;
use crate::segment::recover::{BATCH, look, look_at_all};
use crate::segment::room::{self, Room, Tier};
use crate::segment::sift::{Survey, survey, tells_of_the_file};
use crate::segment::{Bounds, Segment, State, identity};
use crate::stream::registry::Registry;
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::Clock;
use crate::world::entropy::Entropy;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{Entry, FileSystem};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of the file whose name is the directory's id.
pub const ID_EXTENSION: &str = ".ingest";

/// That of a store's: a directory that has one is not to be recovered here.
const STORE_EXTENSION: &str = ".store";

/// What recovery hands to the log.
pub(super) struct Recovered {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub names: Arc<Names>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub live: Arc<Registry>,
    pub id: DataId,
    pub flushed: BTreeMap<Id, Arc<Segment>>,
    /// Files that are neither in order nor set aside: for queries alone.
    pub aside: BTreeMap<Id, Arc<Segment>>,
    pub room: Room,
    pub mark: UnixNanos,
    pub marked: Option<(UnixNanos, PathBuf)>,
    pub lock: Box<dyn Send + Sync>,
}

/// Why a directory could not be opened. It is as it was, or further on the way to being sound.
#[derive(Debug)]
pub struct OpenError {
    /// What was being done.
    pub doing: &'static str,
    /// To which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}{}", self.doing, self.path.display(), self.source, hint(&self.source))
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn doing<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError { doing, path: path.to_path_buf(), source }
}

/// What the log rests on.
pub struct Ground {
    /// Where files lie.
    pub fs: Arc<dyn FileSystem>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// What streams are told apart by.
    pub entropy: Arc<dyn Entropy>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
    /// Who listens to live batches.
    pub live: Arc<Registry>,
}

impl IngestLog {
    /// Opens a directory, made if it is missing, with `slots` writers for the fast port.
    pub fn open(ground: Ground, dir: &Path, limits: Limits, slots: usize) -> Result<IngestLog, OpenError> {
        let Ground { fs, clock, entropy, metrics, live } = ground;
        fs.create_dir_all(dir).map_err(doing("making the directory", dir))?;
        let lock = fs.lock_dir(dir).map_err(doing("locking the directory", dir))?;
        let mut entries = fs.list(dir).map_err(doing("reading the directory", dir))?;
        identity::refuse_other(&entries, ID_EXTENSION, STORE_EXTENSION).map_err(doing("recovering", dir))?;
        let total = fs.space(dir).map_err(doing("asking for the room of", dir))?.total;
        let limits = Limits { flush_size: Tier::largest_segment(limits.flush_size, total), ..limits };
        let room = Room::open(&fs, dir, Tier::Ingest(limits.flush_size), &metrics);
        let room = room.map_err(doing("looking after the ballast in", dir))?;
        // What looked after the ballast has changed files of its own names alone, of which recovery asks no more than that.
        // Copies first: what they are copies of makes them anew.
        entries.sort_by_cached_key(|entry| (!matches!(kind_of(entry), Kind::Copy(_)), entry.name.clone()));
        let mut recovery = Recovery::new(&fs, dir, &metrics);
        for batch in entries.chunks(BATCH) {
            let looked = look_at_all(&*fs, batch, |entry| glance(&*fs, dir, entry));
            for (entry, Looked { kind, survey }) in batch.iter().zip(looked) {
                let path = dir.join(&entry.name);
                recovery.take(entry, kind, survey, &path).map_err(doing("recovering", &path))?;
            }
        }
        drop(entries);
        fs.sync_dir(dir).map_err(doing("syncing the directory", dir))?;
        recovery.findings.sum_up();
        let Recovery { names, flushed, aside, marked, id, highest_mark, .. } = recovery;
        let highest = flushed.values().map(|segment| segment.digest().last.nanos()).max().unwrap_or_default();
        let mark = highest.max(highest_mark);
        let id = match id {
            Some(id) => id,
            None => DataId(identity::draw(&*fs, dir, ID_EXTENSION, &*entropy).map_err(doing("giving an id to", dir))?),
        };
        let dir = dir.to_path_buf();
        let parts = Recovered {
            fs,
            dir,
            names,
            clock,
            entropy,
            metrics,
            limits,
            live,
            id,
            flushed,
            aside,
            room,
            mark,
            marked,
            lock,
        };
        Ok(IngestLog::assemble(parts, slots))
    }
}

/// What a name says.
enum Kind {
    Ours,
    Identity(DataId),
    Mark(UnixNanos),
    /// A segment in a state, by its first id if its name says one.
    Segment(Option<Id>, State),
    Damaged,
    /// A copy on its way, of the file of this name.
    Copy(String),
    NotUtf8,
    Strange,
}

fn kind_of(entry: &Entry) -> Kind {
    let name = entry.name.as_str();
    if name.ends_with(".corrupt") || name == LOCK_NAME || remembered::is_ours(name) || room::is_ours(name) {
        return Kind::Ours;
    }
    // Such a name is shown as nearly as it can be (see `Entry`), and cannot be worked with.
    if name.contains(char::REPLACEMENT_CHARACTER) {
        return Kind::NotUtf8;
    }
    if name.ends_with(DAMAGED) {
        return Kind::Damaged;
    }
    if let Some((original, number)) = name.strip_suffix(COPY).and_then(|front| front.rsplit_once('.'))
        && original.ends_with(DAMAGED)
        && number.bytes().all(|b| b.is_ascii_digit())
    {
        return Kind::Copy(original.to_string());
    }
    if let Some(stem) = name.strip_suffix(ID_EXTENSION) {
        return identity::parse(stem).map_or(Kind::Strange, |id| Kind::Identity(DataId(id)));
    }
    match name.rsplit_once('.') {
        Some((stem, MARK_EXTENSION)) => Id::parse(stem.as_bytes()).map_or(Kind::Strange, |id| Kind::Mark(id.nanos())),
        Some((stem, extension)) => match State::of_extension(extension) {
            Some(state @ (State::Active | State::Flushed | State::Pending | State::Reading)) => {
                Kind::Segment(Id::parse(stem.as_bytes()), state)
            }
            _ => Kind::Strange,
        },
        None => Kind::Strange,
    }
}

/// What a first look has shown: what a file's name says, and what a small segment holds.
struct Looked {
    kind: Kind,
    survey: Option<io::Result<Survey>>,
}

/// Only small files are read here, several at once. Large ones come one after the other: a disk that turns would not be
/// faster, but much slower.
fn glance(fs: &dyn FileSystem, dir: &Path, entry: &Entry) -> Looked {
    let kind = kind_of(entry);
    let is_small = entry.is_file && entry.size.0 <= BLOCK as u64 && matches!(kind, Kind::Segment(..));
    let survey = is_small.then(|| fs.open(&dir.join(&entry.name)).and_then(|file| look(&file)));
    Looked { kind, survey }
}

/// What is to be done with a segment file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is whole.
    Sound(Digest),
    /// It is whole up to where an append was cut off.
    CutOff(Digest),
    /// Nothing was ever written whole.
    Empty,
    /// It is not what it was when it was written.
    Damaged,
}

/// Judges a file that was in a state by what it holds. Only what was being written may end within a record.
fn judge(survey: &Survey, state: State) -> Verdict {
    let is_written_to = state == State::Active && survey.ends_as_cut_off;
    match survey.sound() {
        Some(digest) if digest.len == survey.size => Verdict::Sound(digest),
        Some(digest) if is_written_to => Verdict::CutOff(digest),
        None if is_written_to && survey.flaw.is_none() && survey.runs.is_empty() => Verdict::Empty,
        _ => Verdict::Damaged,
    }
}

struct Recovery<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a Path,
    names: Arc<Names>,
    findings: Findings,
    flushed: BTreeMap<Id, Arc<Segment>>,
    aside: BTreeMap<Id, Arc<Segment>>,
    marked: Option<(UnixNanos, PathBuf)>,
    highest_mark: UnixNanos,
    id: Option<DataId>,
}

impl<'a> Recovery<'a> {
    fn new(fs: &'a Arc<dyn FileSystem>, dir: &'a Path, metrics: &Metrics) -> Recovery<'a> {
        Recovery {
            fs,
            dir,
            names: Arc::new(Names::new(fs.clone(), dir.to_path_buf())),
            findings: Findings::new(dir, metrics.counter(m::CORRUPT, &["ingest"])),
            flushed: BTreeMap::new(),
            aside: BTreeMap::new(),
            marked: None,
            highest_mark: UnixNanos(0),
            id: None,
        }
    }

    /// Brings one file in order. An error means that the directory cannot be worked with.
    fn take(&mut self, entry: &Entry, kind: Kind, survey: Option<io::Result<Survey>>, path: &Path) -> io::Result<()> {
        if let Kind::Mark(at) = kind {
            self.highest_mark = self.highest_mark.max(at);
        }
        if !entry.is_file {
            return self.take_what_is_no_file(kind, path);
        }
        match kind {
            Kind::Ours => Ok(()),
            Kind::Identity(found) => {
                let first = *self.id.get_or_insert(found);
                if first != found {
                    log::warn!(
                        "{} is a second id of this directory; {first} is used: move the other away",
                        path.display()
                    );
                }
                Ok(())
            }
            Kind::Mark(at) => self.take_mark(at, entry.size, path),
            Kind::Segment(named, state) => self.take_segment(path, survey, named, state),
            Kind::Damaged => self.rescue(path, "it was found damaged at an earlier start"),
            Kind::Copy(original) => self.take_copy(&original, path),
            Kind::NotUtf8 => {
                log::warn!("{}: its name is not UTF-8: it is left alone; move it away", path.display());
                Ok(())
            }
            Kind::Strange => {
                let then = "perhaps it is of another version of oklog, which can take it under its old name";
                self.findings.set_aside(&**self.fs, path, "its name is none of ours", then)
            }
        }
    }

    fn take_what_is_no_file(&mut self, kind: Kind, path: &Path) -> io::Result<()> {
        let is_ours = !matches!(kind, Kind::Strange | Kind::NotUtf8);
        if self.findings.no_file(&**self.fs, path, is_ours)?
            && let Kind::Identity(id) = kind
        {
            // The name is what counts: others know this directory by it.
            identity::write(&**self.fs, self.dir, ID_EXTENSION, id.0)?;
            self.id.get_or_insert(id);
        }
        Ok(())
    }

    fn take_mark(&mut self, at: UnixNanos, size: Bytes, path: &Path) -> io::Result<()> {
        if size.0 > 0 {
            return self.findings.set_aside(&**self.fs, path, "a mark is empty, and this is not", "its time counts");
        }
        // Two marks are left when a crash came before the older one was removed. It says nothing that the other does not.
        if let Some((_, older)) = self.marked.replace((at, path.to_path_buf()))
            && let Err(e) = self.fs.remove(&older)
        {
            log::warn!("removing the older mark {}: {e}", older.display());
        }
        Ok(())
    }

    fn take_copy(&mut self, original: &str, path: &Path) -> io::Result<()> {
        match self.fs.open(&self.dir.join(original)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let why = "it is a copy of a file that is not there";
                self.findings.set_aside(&**self.fs, path, why, "what is whole in it is in no other file")
            }
            // Not all of it may be there; it is made again.
            _ => match self.fs.remove(path) {
                Ok(()) => Ok(()),
                Err(e) => self.findings.cannot(path, "removing an unfinished copy", e),
            },
        }
    }

    /// `looked`: what the first look has found, if there was one.
    fn take_segment(
        &mut self,
        path: &Path,
        looked: Option<io::Result<Survey>>,
        named: Option<Id>,
        state: State,
    ) -> io::Result<()> {
        // Once more after an error that may not come again: what is set aside answers no query.
        let again = || self.fs.open(path).and_then(|file| look(&file));
        let looked = looked.unwrap_or_else(again).or_else(|_| again());
        let survey = match looked {
            Ok(survey) => survey,
            Err(e) if tells_of_the_file(&e) => {
                let then = "make it readable and give it back its name, and the next start takes it";
                return self.findings.set_aside(&**self.fs, path, format!("it cannot be read: {e}"), then);
            }
            Err(e) => return Err(e),
        };
        match judge(&survey, state) {
            Verdict::Sound(digest) => self.bring_in(path, (named, state), digest, &survey),
            Verdict::CutOff(digest) => {
                let cut = survey.size.0 - digest.len.0;
                log::info!(
                    "{}: {} records are whole; the last {cut} bytes, from byte {} on, are the beginning of what was being \
                     written at the end and never acknowledged: they are cut off",
                    path.display(),
                    digest.records,
                    digest.len.0
                );
                let cut = self.fs.open_append(path).and_then(|file| file.truncate(digest.len));
                match cut {
                    Ok(()) => self.bring_in(path, (named, state), digest, &survey),
                    Err(e) => self.stay(path, "cutting off its end", &survey, e),
                }
            }
            Verdict::Empty => {
                log::info!(
                    "{}: no record in its {} bytes came to its end, none was acknowledged: it is removed",
                    path.display(),
                    survey.size.0
                );
                match self.fs.remove(path) {
                    Ok(()) => Ok(()),
                    Err(e) => self.findings.cannot(path, "removing what is empty", e),
                }
            }
            Verdict::Damaged => {
                let what = if state == State::Active { "" } else { ", though it was whole and synced once" };
                let fault = survey.fault().unwrap_or_else(|| "it is empty".to_string());
                self.rescue(path, &format!("{fault}{what}"))
            }
        }
    }

    /// Offers a whole segment under the name of its first id.
    fn bring_in(
        &mut self,
        path: &Path,
        (named, state): (Option<Id>, State),
        digest: Digest,
        survey: &Survey,
    ) -> io::Result<()> {
        // What has such a name was on stable storage before it was given it. Anything else may lie in memory alone.
        let is_synced = named == Some(digest.first) && matches!(state, State::Flushed | State::Pending);
        let sync = || self.fs.open(path).and_then(|file| file.sync_data());
        if !is_synced && let Err(e) = sync() {
            // The file is suspect from now on (fsync(2)); what can be read of it goes to a new one.
            return self.rescue(path, &format!("it cannot be synced: {e}"));
        }
        let right = path.with_file_name(Bounds::From(digest.first).file_name(State::Flushed));
        if right != path {
            match rename_surely(&**self.fs, path, &right) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return self.take_twin(path, &right, &digest),
                Err(e) => return self.stay(path, "giving it its name", survey, e),
            }
            if named != Some(digest.first) {
                self.findings.renamed(path, &right, named.is_some());
            }
        }
        self.flushed.insert(digest.first, Arc::new(Segment::new(self.fs.clone(), right, digest)));
        Ok(())
    }

    /// A whole segment whose name another one has.
    fn take_twin(&mut self, path: &Path, other: &Path, digest: &Digest) -> io::Result<()> {
        if !is_same(&**self.fs, other, digest)? {
            return self.rescue(path, &format!("{} begins with the same id", name_of(other)));
        }
        let why = format!("it holds the same records as {}", name_of(other));
        self.findings.set_aside(&**self.fs, path, why, "nothing in it is missing elsewhere")
    }

    /// Lets what is whole in a damaged file go on, and sets the file aside.
    fn rescue(&mut self, path: &Path, why: &str) -> io::Result<()> {
        let whole = self.fs.open(path).and_then(|file| survey(&*file)).unwrap_or_default();
        let marked = mark_damaged(&**self.fs, path).and_then(|damaged| {
            self.fs.sync_dir(self.dir)?;
            Ok(damaged)
        });
        let damaged = match marked {
            Ok(damaged) => damaged,
            Err(e) => return self.stay(path, why, &whole, e),
        };
        match copy_whole(&self.names, &damaged) {
            Ok(rescued) => {
                let files: Vec<PathBuf> = rescued.segments.iter().map(|segment| segment.path()).collect();
                let records = rescued.survey.records();
                self.flushed.extend(rescued.segments.into_iter().map(|segment| (segment.digest().first, segment)));
                self.findings.rescued(&**self.fs, &damaged, why, records, &files)
            }
            Err(e) if tells_of_the_file(&e) => {
                self.stay(&damaged, &format!("{why}; copying what is whole in it"), &whole, e)
            }
            Err(e) => Err(e),
        }
    }

    /// Leaves a file as it is. Queries read it, and break off where it is damaged, rather than say nothing of it.
    fn stay(&mut self, path: &Path, why: &str, survey: &Survey, error: io::Error) -> io::Result<()> {
        self.findings.cannot(path, why, error)?;
        let first = survey.runs.iter().map(|run| run.first).min();
        let last = survey.runs.iter().map(|run| run.last).max();
        if let (Some(first), Some(last)) = (first, last) {
            let len = survey.sound().map_or(survey.size, |digest| digest.len);
            let known = Known::by_ends(first, last, len);
            self.aside.entry(first).or_insert(Arc::new(Segment::new(self.fs.clone(), path.to_path_buf(), known)));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
