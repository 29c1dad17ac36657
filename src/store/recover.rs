//! What a store finds in its directory when it starts, brought into order.
//!
//! | name | what is done |
//! | --- | --- |
//! | `.flushed` | its ends are read; if they are not what the name says, what is whole is copied out and the file set aside |
//! | `.reading` | a compaction was interrupted: as above, and `.flushed` again |
//! | `.active` | never acknowledged, its inputs never given up: removed |
//! | `.trashed` | stays in the trash, since its modification time |
//! | `LOCK`, `members`, `ballast`, `*.store`, `*.corrupt`, directories | left alone |
//! | anything else | set aside as `.corrupt`, never deleted |
//!
//! Every step leaves a directory from which the same recovery comes to the same end: a copy has its final name before
//! the original is set aside, and a copy that is there already is not made again.

use super::catalogue::Trashed;
use super::log::StoreError;
use super::replicate::StoreId;
use super::writer::{Writer, rename_free};
use crate::cluster::remembered;
use crate::ops::metrics::Counter;
use crate::record::id::{ID_LEN, Id};
use crate::record::stored::{self, Digest};
use crate::segment::handle::{Known, set_aside};
use crate::segment::reader::LONGEST_RECORD;
use crate::segment::recover::{examine, sift};
use crate::segment::{Bounds, Segment, State, name, room};
use crate::unit::Bytes;
use crate::world::fs::real::LOCK_NAME;
use crate::world::fs::{Entry, File, FileSystem, read_full_at};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of the file whose name is the store's id.
pub const STORE_EXTENSION: &str = ".store";

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

/// Brings `dir` into order. The caller holds its lock. `corrupt` counts what had to be set aside.
pub fn recover(fs: &Arc<dyn FileSystem>, dir: &Path, corrupt: &Counter) -> Result<Found, StoreError> {
    let mut entries = fs.list(dir).map_err(StoreError::io("listing", dir))?;
    entries.sort();
    let mut recovery = Recovery { fs, dir, corrupt, found: Found::default() };
    // Names that are taken are seen before names are given.
    for entry in &entries {
        recovery.take(entry).map_err(StoreError::io("recovering", &dir.join(&entry.name)))?;
    }
    // A rename that another process made, and did not live to sync, is what answers rest on from now on.
    fs.sync_dir(dir).map_err(StoreError::io("syncing", dir))?;
    Ok(recovery.found)
}

struct Recovery<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a Path,
    corrupt: &'a Counter,
    found: Found,
}

impl Recovery<'_> {
    fn take(&mut self, entry: &Entry) -> io::Result<()> {
        let path = self.dir.join(&entry.name);
        if !entry.is_file {
            log::warn!("{} is not a plain file: left alone", path.display());
            return Ok(());
        }
        if let Some(stem) = entry.name.strip_suffix(STORE_EXTENSION) {
            self.take_store_id(stem, &path);
            return Ok(());
        }
        if entry.name == LOCK_NAME
            || remembered::is_ours(&entry.name)
            || room::is_ours(&entry.name)
            || entry.name.ends_with(".corrupt")
        {
            return Ok(());
        }
        match name::parse(&entry.name) {
            Some((Bounds::Range(..), State::Active)) => self.fs.remove(&path),
            Some((Bounds::Range(first, last, _), state @ (State::Flushed | State::Reading))) => {
                self.take_live(path, entry.size, (first, last), state)
            }
            Some((Bounds::Range(first, last, _), State::Trashed)) => {
                let segment = self.segment(path, first, last, entry.size);
                self.found.trash.push(Trashed { segment, since: entry.modified });
                Ok(())
            }
            _ => self.set_aside(&path, "its name is not understood"),
        }
    }

    fn take_store_id(&mut self, stem: &str, path: &Path) {
        match (StoreId::parse(stem), self.found.id) {
            (Some(id), None) => self.found.id = Some(id),
            (Some(_), Some(first)) => log::warn!("{} is a second store id; {first} is used", path.display()),
            (None, _) => log::warn!("{} is not a store id: left alone", path.display()),
        }
    }

    fn segment(&self, path: PathBuf, first: Id, last: Id, len: Bytes) -> Arc<Segment> {
        let known = Known { first, last, len, records: None, crc32: None };
        Arc::new(Segment::new(self.fs.clone(), path, known))
    }

    fn take_live(&mut self, path: PathBuf, len: Bytes, named: (Id, Id), state: State) -> io::Result<()> {
        let file = self.fs.open(&path)?;
        if ends(&*file, len)? != Some(named) {
            return self.rescue(&path, &file);
        }
        let segment = self.segment(path, named.0, named.1, len);
        if state == State::Reading {
            rename_free(&segment, State::Flushed)?;
        }
        self.found.live.push(segment);
        Ok(())
    }

    /// Copies what is whole to a segment with the right name, then sets the file aside.
    fn rescue(&mut self, path: &Path, file: &Arc<dyn File>) -> io::Result<()> {
        let examined = examine(file)?;
        if let Some(digest) = sift(file, &mut |_| Ok(()))?
            && !self.is_there(&digest, path)?
        {
            let segment = copy_out(self.fs, self.dir, file, &digest)?;
            self.fs.sync_dir(self.dir)?;
            log::warn!("recovered {} of {} bytes of {}", digest.len.0, examined.size.0, path.display());
            self.found.live.push(segment);
        }
        let why = examined.fault.map_or("its ends are not those in its name".to_string(), |fault| fault.to_string());
        self.set_aside(path, &why)
    }

    /// Whether a recovery that was interrupted has made this copy already.
    fn is_there(&self, digest: &Digest, except: &Path) -> io::Result<bool> {
        for n in 0..u32::MAX {
            let path = self.dir.join(Bounds::Range(digest.first, digest.last, n).file_name(State::Flushed));
            let file = match self.fs.open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
                other => other?,
            };
            if path != except && file.size()? == digest.len && examine(&file)?.digest == Some(*digest) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn set_aside(&self, path: &Path, why: &str) -> io::Result<()> {
        let to = set_aside(&**self.fs, path)?;
        self.corrupt.inc();
        log::error!("{} is set aside as {}: {why}", path.display(), to.display());
        Ok(())
    }
}

/// Copies what is whole in a file to a new segment; `sound` is what sifting it has given.
pub(super) fn copy_out(
    fs: &Arc<dyn FileSystem>,
    dir: &Path,
    file: &Arc<dyn File>,
    sound: &Digest,
) -> io::Result<Arc<Segment>> {
    let mut writer = Writer::begin(fs, dir, sound.first)?;
    let refused = |e: super::writer::WriteError| io::Error::other(e.to_string());
    sift(file, &mut |kept| if kept.is_empty() { Ok(()) } else { writer.append(kept).map_err(refused) })?;
    writer.seal()?.name()
}

/// How much of a file's end is read at first to find its last record; most are shorter.
const TAIL: usize = 4 << 10;

/// The first and last id of a file of `len` bytes, read at its two ends alone. `None`: they are not to be found.
fn ends(file: &dyn File, len: Bytes) -> io::Result<Option<(Id, Id)>> {
    let mut head = [0; ID_LEN + 1];
    let got = read_full_at(file, &mut head, Bytes(0))?;
    let Some(first) = head.get(..got).and_then(stored::id_at) else { return Ok(None) };
    let Ok(size) = usize::try_from(len.0) else { return Ok(None) };
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
