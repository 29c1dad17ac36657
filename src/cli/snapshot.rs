//! What a tier's directory holds at one moment, opened, though a server may rename and remove files in it meanwhile.
//!
//! A server replaces files only after what replaces them is there under its final name, so a list of names that is true at one
//! instant, each of them opened, has every record. A list is not true at one instant when names change while it is made: a
//! file may then be missed under both its names. So the directory is listed again until nothing changed meanwhile, and again
//! when a name is gone before it is opened. Where names never stand still, several lists have to do, with all that is in any
//! of them: what is in none was renamed or replaced in each of them, in the short stretch in which that hides it, and no
//! segment is renamed so often. (On Linux a list of some hundred names is made at one instant anyway.)
//!
//! What is open stays readable, whatever becomes of its name. Records that are there twice, in the inputs and the output of a
//! compaction, are for the merge to drop.
//!
//! Nothing is locked, written, renamed or removed.

use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{self, id_at, whole_len};
use crate::segment::handle::{Content, Known};
use crate::segment::readable::Readable;
use crate::segment::reader::LONGEST_RECORD;
use crate::segment::sealed::{Form, Sealed, form_of};
use crate::segment::{Bounds, Segment, State};
use crate::unit::{Bytes, UnixMillis};
use crate::verify::check::Refusal;
use crate::verify::plan::{DirPlan, Part, Place, Planned, plan};
use crate::world::clock::Clock;
use crate::world::crew::Stop;
use crate::world::fs::{File, FileSystem, read_full_at};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Longer ago than this, a change has another time than whatever changes now: systems tell time in steps of some
/// milliseconds, and may tell it late.
const LONG_AGO: Duration = Duration::from_secs(1);

/// How long nothing may change before a list is made, where the last change is not long ago.
const STILL: Duration = Duration::from_millis(20);

/// So many lists have to do where names never stand still.
const ENOUGH: usize = 8;

/// How long it is tried to open what is listed before it is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much is read to find the last record, at first.
const TAIL: usize = 4 << 10;

/// What is to be read, and what cannot be.
#[derive(Default)]
pub struct Snapshot {
    /// The segments that reach into the range.
    pub parts: Vec<Readable>,
    /// What of them may be missing, as sentences that name the file or the directory.
    pub missing: Vec<String>,
    /// What is wrong and costs nothing but time, likewise.
    pub notes: Vec<String>,
    /// What keeps them open.
    held: Vec<Content>,
}

/// Takes snapshots.
pub struct Photographer<'a> {
    /// Where files are.
    pub fs: &'a Arc<dyn FileSystem>,
    /// What time it is.
    pub clock: &'a dyn Clock,
    /// The smallest id and the largest one wanted.
    pub range: (Id, Id),
    /// So many files may be held open; what is beyond them is opened when it is read.
    pub most_open: usize,
}

/// What became of one file.
enum Look {
    /// It is to be read; with what is missing of it.
    Taken(Readable, Option<Content>, Option<Damage>),
    /// Nothing in it is wanted.
    PassedOver,
    /// It has another name by now, or was replaced.
    Gone,
    /// It cannot be read.
    Refused(String),
}

enum Damage {
    /// Records are missing.
    OfRecords(String),
    /// Nothing is missing.
    OfIndex(String),
}

impl Photographer<'_> {
    /// Opens what a directory of a tier holds, or one that holds those.
    pub fn take(&self, dir: &Path) -> Result<Snapshot, Refusal> {
        let mut snapshot = Snapshot::default();
        // The ingest tier is the first of two: what leaves it meanwhile is in the store by then.
        for tier in self.tiers(dir)? {
            self.take_tier(&tier, &mut snapshot)?;
        }
        Ok(snapshot)
    }

    fn tiers(&self, dir: &Path) -> Result<Vec<PathBuf>, Refusal> {
        match self.plan(dir)? {
            Place::Dir(_) => Ok(vec![dir.to_path_buf()]),
            Place::Parent(names) => Ok(names.iter().map(|name| dir.join(name)).collect()),
            Place::Strange => Err(Refusal::Strange { dir: dir.to_path_buf() }),
        }
    }

    fn plan(&self, dir: &Path) -> Result<Place, Refusal> {
        let entries = self.fs.list(dir).map_err(|source| Refusal::Unreadable { dir: dir.to_path_buf(), source })?;
        Ok(plan(&entries, Id::MAX))
    }

    fn take_tier(&self, dir: &Path, snapshot: &mut Snapshot) -> Result<(), Refusal> {
        let (began, mut album) = (self.clock.now(), Album::new());
        for lists in 1.. {
            let (listed, is_still) = self.list(dir)?;
            let is_open = self.open_all(dir, &listed, snapshot.held.len(), &mut album);
            let is_late = self.clock.now().since(began) >= PATIENCE;
            if is_open && is_still {
                // That list alone has all.
                album.retain(|key, _| listed.files.iter().any(|file| key_of(file) == *key));
            }
            if is_late && !is_open {
                let why = "its files were renamed all the time while it was listed";
                snapshot.missing.push(format!("{}: {why}", dir.display()));
            }
            if is_late || (is_open && (is_still || lists >= ENOUGH)) {
                break;
            }
        }
        album.into_iter().for_each(|((name, _), look)| snapshot.take(&dir.join(name), look));
        Ok(())
    }

    /// What a directory holds, and whether that was so at one instant.
    fn list(&self, dir: &Path) -> Result<(DirPlan, bool), Refusal> {
        let changed =
            || self.fs.names_changed(dir).map_err(|source| Refusal::Unreadable { dir: dir.to_path_buf(), source });
        let mut before = changed()?;
        if before.is_some_and(|at| self.clock.unix_millis().before(LONG_AGO) <= at) {
            // What changes from the end of this wait on has a time of its own.
            Stop::default().wait(STILL);
            let after = changed()?;
            before = before.filter(|before| Some(*before) == after).or(Some(UnixMillis(u64::MAX)));
        }
        let plan = match self.plan(dir)? {
            Place::Dir(plan) => plan,
            // Its last file went, or it is none of ours after all: there is nothing to read.
            Place::Parent(_) | Place::Strange => DirPlan::default(),
        };
        Ok((plan, changed()? == before))
    }

    /// Looks at what was listed and not looked at before. False if something is gone.
    fn open_all(&self, dir: &Path, listed: &DirPlan, held: usize, album: &mut Album) -> bool {
        let counts = listed.files.iter().filter(|file| matches!(file.part, Part::Waiting | Part::Live));
        let is_held = |look: &Look| matches!(look, Look::Taken(_, Some(_), _));
        let (mut is_open, mut held) = (true, held + album.values().filter(|look| is_held(look)).count());
        for file in counts.filter(|file| self.may_reach(file)) {
            let key = key_of(file);
            if album.contains_key(&key) {
                continue;
            }
            match self.look(&dir.join(&file.name), file) {
                Look::Gone => is_open = false,
                mut look => {
                    if let Look::Taken(_, content, _) = &mut look {
                        *content = content.take().filter(|_| held < self.most_open);
                        held += usize::from(content.is_some());
                    }
                    album.insert(key, look);
                }
            }
        }
        is_open
    }

    /// Whether a file may have something within the range, by its name.
    fn may_reach(&self, file: &Planned) -> bool {
        let (from, to) = self.range;
        match file.bounds {
            Some(Bounds::Range(low, high, _)) => low <= to && high >= from,
            Some(Bounds::From(low)) => low <= to,
            None => true,
        }
    }

    fn look(&self, path: &Path, file: &Planned) -> Look {
        if file.bounds.is_none() {
            return Look::Refused("is damaged, and was not searched; the server copies out what is whole".into());
        }
        let is_gone = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
        let known = self.fs.open(path).and_then(|opened| known_of(&opened));
        let (known, damage) = match known {
            Ok(Found::Records(known, damage)) => (known, damage),
            Ok(Found::Nothing) => return Look::PassedOver,
            Ok(Found::Torn) if file.state == State::Active => return Look::PassedOver,
            Ok(Found::Torn) => return Look::Refused("has no whole record".into()),
            Err(e) if is_gone(&e) => return Look::Gone,
            Err(e) => return Look::Refused(format!("was not searched: {e}")),
        };
        // The end of what is being written, or was when the server was killed, is nobody's record.
        let damage = damage.filter(|damage| file.state != State::Active || matches!(damage, Damage::OfIndex(_)));
        let damage = lacking(file, &known).map(Damage::OfRecords).or(damage);
        let (from, to) = self.range;
        if (known.last < from || known.first > to) && !matches!(damage, Some(Damage::OfRecords(_))) {
            return Look::PassedOver;
        }
        let segment = Arc::new(Segment::new(self.fs.clone(), path.to_path_buf(), known));
        match segment.content() {
            Ok(content) => Look::Taken(Readable::whole(segment), Some(content), damage),
            Err(e) if is_gone(&e) => Look::Gone,
            Err(e) => Look::Refused(format!("was not searched: {e}")),
        }
    }
}

/// What files turned out to be, by name and length: a name may be another file's later, one with more in it.
type Album = BTreeMap<(String, Bytes), Look>;

fn key_of(file: &Planned) -> (String, Bytes) {
    (file.name.clone(), file.size)
}

impl Snapshot {
    fn take(&mut self, path: &Path, look: Look) {
        let shown = path.display();
        match look {
            Look::Taken(part, content, damage) => {
                self.parts.push(part);
                self.held.extend(content);
                match damage {
                    Some(Damage::OfRecords(why)) => self.missing.push(format!("{shown}: {why}")),
                    Some(Damage::OfIndex(why)) => self.notes.push(format!("{shown}: {why}")),
                    None => {}
                }
            }
            Look::Refused(why) => self.missing.push(format!("{shown}: {why}")),
            Look::PassedOver | Look::Gone => {}
        }
    }
}

/// What a first look at a file has shown.
enum Found {
    /// Whole records, and what is wrong behind them or with their index.
    Records(Known, Option<Damage>),
    /// No byte.
    Nothing,
    /// Bytes, and no whole record.
    Torn,
}

/// What is missing at the ends of a file by what its name says of them.
fn lacking(file: &Planned, known: &Known) -> Option<String> {
    match file.bounds? {
        Bounds::Range(low, high, _) if (low, high) == (known.first, known.last) => None,
        Bounds::From(low) if low == known.first => None,
        _ => Some(format!("has records from {} to {}, which is not what its name says", known.first, known.last)),
    }
}

fn known_of(file: &Arc<dyn File>) -> io::Result<Found> {
    match form_of(&**file)? {
        Form::Plain => ends_of(&**file),
        Form::Sealed => {
            let sealed = Sealed::open(file.clone())?;
            let digest = sealed.digest();
            // Not known to be whole: what is read is checked.
            let known = Known::by_ends(digest.first, digest.last, digest.len).sealed(sealed.disk());
            let slow = |why| Damage::OfIndex(format!("its index is damaged, which costs time alone: {why}"));
            let lost: u64 = sealed.lost().iter().map(|range| range.end - range.start).sum();
            let damage = match lost {
                0 => sealed.fault().map(slow),
                lost => Some(Damage::OfRecords(format!("{lost} bytes of it cannot be unpacked"))),
            };
            Ok(Found::Records(known, damage))
        }
    }
}

/// The first and the last of the whole records at the front of a plain file, and how long they are.
fn ends_of(file: &dyn File) -> io::Result<Found> {
    let size = file.size()?;
    if size == Bytes(0) {
        return Ok(Found::Nothing);
    }
    let mut window = TAIL;
    loop {
        let from = size.0.saturating_sub(window as u64);
        let mut tail = vec![0; usize::try_from(size.0 - from).unwrap_or(window)];
        let got = read_full_at(file, &mut tail, Bytes(from))?;
        tail.truncate(got);
        let whole = tail.get(..whole_len(&tail)).unwrap_or_default();
        // What begins before the window is seen in a larger one.
        let last = stored::last(whole).filter(|last| from == 0 || last.whole.len() < whole.len());
        let len = Bytes(from + whole.len() as u64);
        match last {
            Some(last) => {
                let no_id =
                    |at| io::Error::new(io::ErrorKind::InvalidData, format!("it is damaged: no id at byte {at}"));
                let high = last.id().ok_or_else(|| no_id(len.0 - last.whole.len() as u64))?;
                let mut head = [0; ID_LEN + 1];
                let got = read_full_at(file, &mut head, Bytes(0))?;
                let low =
                    id_at(head.get(..got).unwrap_or_default()).filter(|low| *low <= high).ok_or_else(|| no_id(0))?;
                let torn = || Damage::OfRecords(format!("{} bytes at its end are no whole record", size.0 - len.0));
                return Ok(Found::Records(Known::by_ends(low, high, len), (len < size).then(torn)));
            }
            None if from == 0 => return Ok(Found::Torn),
            None if window > LONGEST_RECORD => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is damaged: a record is longer than any can be",
                ));
            }
            None => window = window.saturating_mul(16),
        }
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
