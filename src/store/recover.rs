//! What a store finds in its directory when it starts, brought into order.
//!
//! | name | what is done |
//! | --- | --- |
//! | `LOW-HIGH.flushed` | its ends are read; if they are those in the name, it answers queries |
//! | `LOW-HIGH.reading` | a compaction was interrupted: as above, and `.flushed` again |
//! | both, with other ends, and any other name with the extension of a segment | read whole: sound, it is renamed to what it holds; else what is whole is copied out and the file set aside |
//! | `LOW-LOW.active` | never acknowledged, its inputs never given up: removed |
//! | `.trashed` | stays in the trash, since its modification time |
//! | cannot be opened, or is no plain file | set aside |
//! | `HEX.store` | the first one counts; it is made again where it is no plain file |
//! | `HEX.ingest` where there is no `HEX.store` | the directory is that of an ingest tier: refused |
//! | `LOCK`, `members`, `ballast`, `*.corrupt` | left alone, unless they are no plain files |
//! | directories and the like whose names are none of ours, names that are not UTF-8 | left alone |
//! | anything else | set aside as `.corrupt`, never deleted |
//!
//! What lies between the two ends is not looked at: that would take hours. It is checked when it is first read, by a query
//! or by a compaction (`segment/checked.rs`).
//!
//! Every step leaves a directory from which the same recovery comes to the same end: a copy has its final name before
//! the original is set aside, and a copy that is there already is not made again. A damaged file that can neither be copied
//! nor set aside stays in the catalogue: a query that comes to the damage says that it is not whole.

use super::catalogue::Trashed;
use super::log::StoreError;
use super::replicate::StoreId;
use super::writer::{MOST_NAMES, Writer, rename_free};
use crate::cluster::remembered;
use crate::ops::metrics::Counter;
use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{self, Digest};
use crate::segment::findings::Findings;
use crate::segment::handle::Known;
use crate::segment::reader::LONGEST_RECORD;
use crate::segment::recover::{BATCH, examine, look, look_at_all};
use crate::segment::sift::{Survey, sift, survey, tells_of_the_file};
use crate::segment::{Bounds, Segment, State, identity, name, room};
use crate::unit::Bytes;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{Entry, File, FileSystem, read_full_at};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of the file whose name is the store's id.
pub const STORE_EXTENSION: &str = ".store";

/// That of an ingest tier's: a directory that has one is not to be recovered here.
const INGEST_EXTENSION: &str = ".ingest";

/// What was found.
#[derive(Default)]
pub struct Found {
    /// The store's id, if it has one yet.
    pub id: Option<StoreId>,
    /// Segments that answer queries.
    pub live: Vec<Arc<Segment>>,
    /// Segments that do not any more.
    pub trash: Vec<Trashed>,
}

/// What is in the directory, in order. Refuses that of an ingest tier, before anything in it is changed.
pub(super) fn list(fs: &dyn FileSystem, dir: &Path) -> Result<Vec<Entry>, StoreError> {
    let mut entries = fs.list(dir).map_err(StoreError::io("listing", dir))?;
    identity::refuse_other(&entries, STORE_EXTENSION, INGEST_EXTENSION).map_err(StoreError::io("recovering", dir))?;
    entries.sort_unstable();
    Ok(entries)
}

/// Brings `dir` into order, which holds these `entries`. The caller holds its lock. `corrupt` counts what was wrong.
///
/// The ends of many files are read before the first of them is touched, several at once; what is done with each of them comes
/// in the order of their names.
pub(super) fn recover(
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    entries: &[Entry],
    corrupt: &Counter,
) -> Result<Found, StoreError> {
    let findings = Findings::new(dir, corrupt.clone());
    let mut recovery = Recovery { fs, dir, findings, found: Found::default() };
    for batch in entries.chunks(BATCH) {
        let looked = look_at_all(&**fs, batch, |entry| glance(&**fs, dir, entry));
        for (entry, Looked { kind, ends }) in batch.iter().zip(looked) {
            let path = dir.join(&entry.name);
            recovery.take(entry, kind, ends, &path).map_err(StoreError::io("recovering", &path))?;
        }
    }
    // A rename that another process made, and did not live to sync, is what answers rest on from now on.
    fs.sync_dir(dir).map_err(StoreError::io("syncing", dir))?;
    recovery.findings.sum_up();
    Ok(recovery.found)
}

/// What a name says.
enum Kind {
    Ours,
    Identity(StoreId),
    /// A segment that nobody was ever told of.
    Unfinished,
    Trashed(Id, Id),
    /// A segment, with its ends if its name says them.
    Segment(Option<(Id, Id)>, State),
    NotUtf8,
    Strange,
}

fn kind_of(file_name: &str) -> Kind {
    let ours = file_name == LOCK_NAME || remembered::is_ours(file_name) || room::is_ours(file_name);
    if ours || file_name.ends_with(".corrupt") {
        return Kind::Ours;
    }
    // Such a name is shown as nearly as it can be (see `Entry`), and cannot be worked with.
    if file_name.contains(char::REPLACEMENT_CHARACTER) {
        return Kind::NotUtf8;
    }
    if let Some(stem) = file_name.strip_suffix(STORE_EXTENSION) {
        return StoreId::parse(stem).map_or(Kind::Strange, Kind::Identity);
    }
    match name::parse(file_name) {
        Some((Bounds::Range(first, last, _), State::Active)) if first == last => return Kind::Unfinished,
        Some((Bounds::Range(first, last, _), State::Trashed)) => return Kind::Trashed(first, last),
        Some((Bounds::Range(first, last, _), state @ (State::Flushed | State::Reading))) => {
            return Kind::Segment(Some((first, last)), state);
        }
        _ => {}
    }
    match file_name.rsplit_once('.').and_then(|(_, extension)| State::of_extension(extension)) {
        // Out of its time: what it holds does not come back.
        None | Some(State::Trashed) => Kind::Strange,
        Some(state) => Kind::Segment(None, state),
    }
}

/// What a first look has shown: what a file's name says, and its ends where that says that they are there.
struct Looked {
    kind: Kind,
    ends: io::Result<Option<(Id, Id)>>,
}

fn glance(fs: &dyn FileSystem, dir: &Path, entry: &Entry) -> Looked {
    let kind = kind_of(&entry.name);
    let ends = match kind {
        Kind::Segment(Some(_), _) if entry.is_file => {
            fs.open(&dir.join(&entry.name)).and_then(|file| ends(&*file, entry.size))
        }
        _ => Ok(None),
    };
    Looked { kind, ends }
}

struct Recovery<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a Path,
    findings: Findings,
    found: Found,
}

impl Recovery<'_> {
    /// Brings one file in order. An error means that the directory cannot be worked with.
    fn take(&mut self, entry: &Entry, kind: Kind, ends: io::Result<Option<(Id, Id)>>, path: &Path) -> io::Result<()> {
        if !entry.is_file {
            return self.take_what_is_no_file(kind, path);
        }
        match kind {
            Kind::Ours => Ok(()),
            Kind::Identity(id) => {
                let first = *self.found.id.get_or_insert(id);
                if first != id {
                    log::warn!("{} is a second store id; {first} is used: move the other away", path.display());
                }
                Ok(())
            }
            Kind::Unfinished => match self.fs.remove(path) {
                Ok(()) => Ok(()),
                Err(e) => self.findings.cannot(path, "removing what was never acknowledged", e),
            },
            Kind::Trashed(first, last) => {
                let segment = self.segment(path.to_path_buf(), first, last, entry.size);
                self.found.trash.push(Trashed { segment, since: entry.modified });
                Ok(())
            }
            Kind::Segment(named, state) => self.take_segment(path, entry.size, ends, named, state),
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
            // The name is what counts: copies are counted by it.
            identity::write(&**self.fs, self.dir, STORE_EXTENSION, id.0)?;
            self.found.id.get_or_insert(id);
        }
        Ok(())
    }

    fn segment(&self, path: PathBuf, first: Id, last: Id, len: Bytes) -> Arc<Segment> {
        let known = Known::by_ends(first, last, len);
        Arc::new(Segment::new(self.fs.clone(), path, known))
    }

    /// `found`: its ends at the first look.
    fn take_segment(
        &mut self,
        path: &Path,
        len: Bytes,
        found: io::Result<Option<(Id, Id)>>,
        named: Option<(Id, Id)>,
        state: State,
    ) -> io::Result<()> {
        // Each once more after an error that may not come again: what is set aside answers no query.
        if let Some((first, last)) = named {
            let found = found.or_else(|_| self.fs.open(path).and_then(|file| ends(&*file, len)));
            if found.is_ok_and(|ends| ends == named) {
                let segment = self.segment(path.to_path_buf(), first, last, len);
                return self.make_live(segment, state);
            }
        }
        let looked = self.fs.open(path).and_then(|file| look(&file));
        match looked.or_else(|_| self.fs.open(path).and_then(|file| look(&file))) {
            Ok(survey) => self.take_wrong(path, named, &survey),
            Err(e) if tells_of_the_file(&e) => {
                let then = "make it readable and give it back its name, and the next start takes it";
                self.findings.set_aside(&**self.fs, path, format!("it cannot be read: {e}"), then)
            }
            Err(e) => Err(e),
        }
    }

    fn make_live(&mut self, segment: Arc<Segment>, state: State) -> io::Result<()> {
        let resting = segment.resting_state();
        if state != resting
            && let Err(e) = rename_free(&segment, resting)
        {
            self.findings.cannot(&segment.path(), "giving it back its name", e)?;
        }
        self.found.live.push(segment);
        Ok(())
    }

    /// A file whose ends are not those in its name, or whose name says none.
    fn take_wrong(&mut self, path: &Path, named: Option<(Id, Id)>, survey: &Survey) -> io::Result<()> {
        let Some(digest) = survey.sound().filter(|digest| digest.len == survey.size) else {
            return self.rescue(path, named, survey);
        };
        let segment = Arc::new(Segment::new(self.fs.clone(), path.to_path_buf(), digest));
        match rename_free(&segment, State::Flushed) {
            Ok(()) => self.findings.renamed(path, &segment.path(), named.is_some()),
            Err(e) => self.findings.cannot(path, "giving it the name of what it holds", e)?,
        }
        self.found.live.push(segment);
        Ok(())
    }

    /// Copies what is whole to segments with the right names, then sets the file aside.
    fn rescue(&mut self, path: &Path, named: Option<(Id, Id)>, survey: &Survey) -> io::Result<()> {
        let why = survey.fault().unwrap_or_else(|| "it is empty".to_string());
        let copied = self.fs.open(path).and_then(|file| {
            let copied = copy_out(self.fs, self.dir, &*file, Some(path))?;
            self.fs.sync_dir(self.dir)?;
            Ok(copied)
        });
        match copied {
            Ok(Copied { records, segments, before }) => {
                let files: Vec<PathBuf> = segments.iter().map(|segment| segment.path()).collect();
                let files = [files, before.into_iter().map(|(path, _)| path).collect()].concat();
                self.found.live.extend(segments);
                self.findings.rescued(&**self.fs, path, why, records, &files)
            }
            Err(e) if tells_of_the_file(&e) => {
                self.findings.cannot(path, format!("{why}; copying what is whole in it"), e)?;
                let (first, last) = (survey.runs.iter().map(|run| run.first), survey.runs.iter().map(|run| run.last));
                let first = first.chain(named.map(|ends| ends.0)).min();
                let last = last.chain(named.map(|ends| ends.1)).max();
                if let (Some(first), Some(last)) = (first, last) {
                    self.found.live.push(self.segment(path.to_path_buf(), first, last, survey.size));
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
}

/// What was copied out of a damaged file.
pub(super) struct Copied {
    /// How many records are whole.
    pub records: u64,
    /// The copies that were made now.
    pub segments: Vec<Arc<Segment>>,
    /// Where copies lie that were made before.
    pub before: Vec<(PathBuf, Digest)>,
}

/// Copies what is whole in a file to new segments, save for what an interrupted recovery has copied already. The caller
/// syncs the directory. `except` is the file's own path.
pub(super) fn copy_out(
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    file: &dyn File,
    except: Option<&Path>,
) -> io::Result<Copied> {
    let there = survey(file)?.runs.iter().map(|run| find(&**fs, dir, run, except)).collect::<io::Result<Vec<_>>>()?;
    let mut writers: Vec<Option<Writer>> = Vec::new();
    let survey = sift(file, &|_| true, &mut |run, block| {
        if writers.len() <= run {
            let is_there = there.get(run).is_some_and(Option::is_some);
            let first = stored::id_at(block).ok_or(io::ErrorKind::InvalidData)?;
            writers.push(if is_there { None } else { Some(Writer::begin(fs, dir, first)?) });
        }
        match writers.get_mut(run) {
            Some(Some(writer)) => writer.append(block).map_err(|e| io::Error::other(e.to_string())),
            _ => Ok(()),
        }
    })?;
    let sealed: Vec<_> = writers.into_iter().flatten().map(Writer::seal).collect::<io::Result<_>>()?;
    let segments: Vec<Arc<Segment>> = sealed.into_iter().map(|sealed| sealed.name()).collect::<io::Result<_>>()?;
    let before = there.into_iter().zip(&survey.runs).filter_map(|(path, run)| Some((path?, *run))).collect();
    Ok(Copied { records: survey.records(), segments, before })
}

/// Where exactly these records lie already, if they do.
fn find(fs: &dyn FileSystem, dir: &Path, digest: &Digest, except: Option<&Path>) -> io::Result<Option<PathBuf>> {
    for n in 0..MOST_NAMES {
        let path = dir.join(Bounds::Range(digest.first, digest.last, n).file_name(State::Flushed));
        let file = match fs.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if tells_of_the_file(&e) => continue,
            other => other?,
        };
        let same = || examine(&file).is_ok_and(|found| found.fault.is_none() && found.digest == Some(*digest));
        if except != Some(path.as_path()) && file.size()? == digest.len && same() {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// How much of a file's end is read at first to find its last record; most are shorter.
const TAIL: usize = 4 << 10;

/// The first and last id of a file of `len` bytes, read at its two ends alone. `None`: they are not to be found.
fn ends(file: &dyn File, len: Bytes) -> io::Result<Option<(Id, Id)>> {
    let Ok(size) = usize::try_from(len.0) else { return Ok(None) };
    let mut page = [0; TAIL];
    // Of a short file that is all of it: one read for both ends.
    let wanted = if size <= TAIL { size } else { ID_LEN + 1 };
    let got = read_full_at(file, page.get_mut(..wanted).unwrap_or_default(), Bytes(0))?;
    let head = page.get(..got).unwrap_or_default();
    let Some(first) = stored::id_at(head) else { return Ok(None) };
    if size <= TAIL {
        let last = if got == size { stored::last(head) } else { None };
        return Ok(last.and_then(|last| last.id()).map(|last| (first, last)));
    }
    let mut wanted = TAIL;
    loop {
        let window = wanted.min(size);
        let mut tail = vec![0; window];
        let at = Bytes(len.0 - window as u64);
        if read_full_at(file, &mut tail, at)? != window {
            return Ok(None);
        }
        let Some(last) = stored::last(&tail) else { return Ok(None) };
        if last.whole.len() < window || window == size {
            return Ok(last.id().map(|last| (first, last)));
        }
        if window >= LONGEST_RECORD {
            return Ok(None);
        }
        wanted = wanted.saturating_mul(16);
    }
}

#[cfg(test)]
#[path = "recover_tests.rs"]
mod tests;
