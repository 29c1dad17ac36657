//! What a store finds in its directory when it starts, brought into order.
//!
//! | name | what is done |
//! | --- | --- |
//! | `LOW-HIGH.flushed` | its ends are read; if they are those in the name, it answers queries |
//! | `LOW-HIGH.sealed` | the same of its footer |
//! | `LOW-HIGH.reading` | a compaction was interrupted: as above, and `.flushed` or `.sealed` again, by its content |
//! | `.flushed` that is sealed, `.sealed` that is not | renamed to what it is |
//! | sealed, with a damaged index | it answers queries if all blocks are there |
//! | sealed, of a version that is not known here | set aside as it is |
//! | these, with other ends, and any other name with the extension of a segment | read whole: sound, it is renamed to what it holds; else what is whole is copied out and the file set aside |
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
use super::rescue::{Copied, Look, Steady, copy_out, look_into};
use super::writer::rename_free;
use crate::cluster::remembered;
use crate::ops::metrics::Counter;
use crate::record::id::{ID_LEN, Id};
use crate::record::stored;
use crate::segment::findings::Findings;
use crate::segment::handle::Known;
use crate::segment::reader::LONGEST_RECORD;
use crate::segment::recover::{BATCH, look_at_all};
use crate::segment::sealed::{Glance, form_of, glance as footer_of};
use crate::segment::sift::tells_of_the_file;
use crate::segment::{Bounds, Form, Segment, State, identity, name, room};
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
        for (entry, Looked { kind, known }) in batch.iter().zip(looked) {
            let path = dir.join(&entry.name);
            recovery.take(entry, kind, known, &path).map_err(StoreError::io("recovering", &path))?;
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
        Some((Bounds::Range(first, last, _), state @ (State::Flushed | State::Sealed | State::Reading))) => {
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

/// What a first look has shown: what a file's name says, and what its two ends say where that names them.
struct Looked {
    kind: Kind,
    known: io::Result<Option<Known>>,
}

fn glance(fs: &dyn FileSystem, dir: &Path, entry: &Entry) -> Looked {
    let kind = kind_of(&entry.name);
    let known = match kind {
        Kind::Segment(Some(_), _) if entry.is_file => {
            fs.open(&dir.join(&entry.name)).and_then(|file| known_of(&*file, entry.size))
        }
        _ => Ok(None),
    };
    Looked { kind, known }
}

/// A file of `len` bytes as a segment, if what is read quickly says what it is.
fn known_of(file: &dyn File, len: Bytes) -> io::Result<Option<Known>> {
    if let Some((first, last)) = ends(file, len)? {
        return Ok(Some(Known::by_ends(first, last, len)));
    }
    if form_of(file)? == Form::Plain {
        return Ok(None);
    }
    let Glance::Sound(digest) = footer_of(file)? else { return Ok(None) };
    // Its checksum is not known yet: nobody has unpacked it.
    Ok(Some(Known { crc32: None, ..Known::from(digest).sealed(len) }))
}

struct Recovery<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a Path,
    findings: Findings,
    found: Found,
}

impl Recovery<'_> {
    /// Brings one file in order. An error means that the directory cannot be worked with.
    fn take(&mut self, entry: &Entry, kind: Kind, known: io::Result<Option<Known>>, path: &Path) -> io::Result<()> {
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
                let segment = self.segment(path.to_path_buf(), Known::by_ends(first, last, entry.size));
                self.found.trash.push(Trashed { segment, since: entry.modified });
                Ok(())
            }
            Kind::Segment(named, state) => self.take_segment(path, entry.size, known, named, state),
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

    fn segment(&self, path: PathBuf, known: Known) -> Arc<Segment> {
        Arc::new(Segment::new(self.fs.clone(), path, known))
    }

    /// `found`: what the first look has shown.
    fn take_segment(
        &mut self,
        path: &Path,
        len: Bytes,
        found: io::Result<Option<Known>>,
        named: Option<(Id, Id)>,
        state: State,
    ) -> io::Result<()> {
        // Each once more after an error that may not come again: what is set aside answers no query.
        if named.is_some() {
            let found = found.or_else(|_| self.fs.open(path).and_then(|file| known_of(&Steady::new(file, len), len)));
            if let Some(known) = found.ok().flatten().filter(|known| Some((known.first, known.last)) == named) {
                let segment = self.segment(path.to_path_buf(), known);
                return self.make_live(segment, state);
            }
        }
        let looked = self.fs.open(path).and_then(look_into);
        match looked.or_else(|_| self.fs.open(path).and_then(look_into)) {
            Ok(look) => self.take_wrong(path, named, state, &look),
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                let then = "perhaps it is of another version of oklog, which can take it under its old name";
                self.findings.set_aside(&**self.fs, path, e, then)
            }
            Err(e) if tells_of_the_file(&e) => {
                let then = "make it readable and give it back its name, and the next start takes it";
                self.findings.set_aside(&**self.fs, path, format!("it cannot be read: {e}"), then)
            }
            Err(e) => Err(e),
        }
    }

    fn make_live(&mut self, segment: Arc<Segment>, state: State) -> io::Result<()> {
        let (resting, from) = (segment.resting_state(), segment.path());
        if state != resting {
            match rename_free(&segment, resting) {
                Ok(()) if state == State::Reading => {}
                Ok(()) => self.findings.rested(&from, &segment.path()),
                Err(e) => self.findings.cannot(&from, "giving it the name of its form", e)?,
            }
        }
        self.found.live.push(segment);
        Ok(())
    }

    /// A file whose ends are not those in its name, or are not to be had without its index, or whose name says none.
    fn take_wrong(&mut self, path: &Path, named: Option<(Id, Id)>, state: State, look: &Look) -> io::Result<()> {
        let Some(digest) = look.survey.sound().filter(|digest| digest.len == look.survey.size) else {
            return self.rescue(path, named, look);
        };
        let segment = self.segment(path.to_path_buf(), look.known(digest));
        if look.index.is_some() {
            segment.note_damaged_index();
        }
        if Some((digest.first, digest.last)) == named {
            look.index.iter().for_each(|why| self.findings.slow(path, why));
            return self.make_live(segment, state);
        }
        match rename_free(&segment, segment.resting_state()) {
            Ok(()) => self.findings.renamed(path, &segment.path(), named.is_some()),
            Err(e) => self.findings.cannot(path, "giving it the name of what it holds", e)?,
        }
        self.found.live.push(segment);
        Ok(())
    }

    /// Copies what is whole to segments with the right names, then sets the file aside.
    fn rescue(&mut self, path: &Path, named: Option<(Id, Id)>, look: &Look) -> io::Result<()> {
        let survey = &look.survey;
        let why = survey.fault().unwrap_or_else(|| "it is empty".to_string());
        let copied = copy_out(self.fs, self.dir, &*look.text, Some(path)).and_then(|copied| {
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
                    let known = Known::by_ends(first, last, survey.size);
                    let known = Known { form: look.form, disk: look.disk, ..known };
                    self.found.live.push(self.segment(path.to_path_buf(), known));
                }
                Ok(())
            }
            Err(e) => Err(e),
        }
    }
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
