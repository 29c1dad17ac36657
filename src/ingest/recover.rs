//! Opening the ingest directory: lock it, read what an earlier process left, bring every segment into a sound state.
//!
//! `.active` and `.pending` become `.flushed`; a torn last record is cut off. A file that is damaged otherwise is set aside
//! as `.corrupt`, and what is whole in it goes on under its own name. Nothing is deleted because it was not understood.
//! A crash at any point of this leaves a directory that can be opened again with the same result.

use super::flusher::MARK_EXTENSION;
use super::log::{IngestLog, Limits};
use crate::cluster::{DataId, remembered};
use crate::ops::metrics::{self as m, Metrics};
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::segment::handle::set_aside;
use crate::segment::recover::{examine, salvage};
use crate::segment::room::{self, Room, Tier};
use crate::segment::{Bounds, Segment, State, identity, name};
use crate::stream::registry::Registry;
use crate::unit::UnixNanos;
use crate::world::clock::Clock;
use crate::world::entropy::Entropy;
use crate::world::fs::{Entry, FileSystem};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The extension of the file whose name is the directory's id.
pub const ID_EXTENSION: &str = ".ingest";

/// What recovery hands to the log.
pub(super) struct Recovered {
    pub fs: Arc<dyn FileSystem>,
    pub dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    pub live: Arc<Registry>,
    pub id: DataId,
    pub flushed: BTreeMap<Id, Arc<Segment>>,
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
        write!(f, "{} {}: {}", self.doing, self.path.display(), self.source)
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
        let total = fs.space(dir).map_err(doing("asking for the room of", dir))?.total;
        let limits = Limits { flush_size: Tier::largest_segment(limits.flush_size, total), ..limits };
        let room = Room::open(&fs, dir, Tier::Ingest(limits.flush_size), &metrics);
        let room = room.map_err(doing("looking after the ballast in", dir))?;
        let mut entries = fs.list(dir).map_err(doing("reading the directory", dir))?;
        entries.sort();
        let mut flushed = BTreeMap::new();
        let mut marked: Option<(UnixNanos, PathBuf)> = None;
        let mut id = None;
        for entry in &entries {
            let path = dir.join(&entry.name);
            match kind_of(entry) {
                Kind::Ours => {}
                Kind::Identity(found) => {
                    let first = *id.get_or_insert(found);
                    if first != found {
                        log::warn!("{} is a second id of this directory; {first} is used", path.display());
                    }
                }
                Kind::Mark(at) => {
                    // Two marks are left when a crash came before the older one was removed: the higher one holds.
                    if let Some((_, older)) = marked.replace((at, path)) {
                        fs.remove(&older).map_err(doing("removing the older mark", dir))?;
                    }
                }
                Kind::Segment(bounds, state) => {
                    let segment =
                        bring_back(&fs, &metrics, &path, bounds, state).map_err(doing("recovering", &path))?;
                    flushed.extend(segment.map(|segment| (segment.digest().first, segment)));
                }
                Kind::Directory => log::warn!("{} is a directory: it is left alone", path.display()),
                Kind::Strange => {
                    metrics.counter(m::CORRUPT, &["ingest"]).inc();
                    let aside = set_aside(fs.as_ref(), &path).map_err(doing("setting aside", &path))?;
                    log::warn!("{} is no segment of ours: it is set aside as {}", path.display(), aside.display());
                }
            }
        }
        fs.sync_dir(dir).map_err(doing("syncing the directory", dir))?;
        let highest = flushed.values().map(|segment| segment.digest().last.nanos()).max().unwrap_or_default();
        let mark = highest.max(marked.as_ref().map_or(UnixNanos(0), |(at, _)| *at));
        let id = match id {
            Some(id) => id,
            None => DataId(identity::draw(&*fs, dir, ID_EXTENSION, &*entropy).map_err(doing("giving an id to", dir))?),
        };
        let dir = dir.to_path_buf();
        let parts = Recovered { fs, dir, clock, entropy, metrics, limits, live, id, flushed, room, mark, marked, lock };
        Ok(IngestLog::assemble(parts, slots))
    }
}

enum Kind {
    Ours,
    Identity(DataId),
    Mark(UnixNanos),
    Segment(Bounds, State),
    Directory,
    Strange,
}

fn kind_of(entry: &Entry) -> Kind {
    let ours = entry.name == crate::world::fs::real::LOCK_NAME
        || remembered::is_ours(&entry.name)
        || room::is_ours(&entry.name);
    if ours || entry.name.ends_with(".corrupt") {
        return Kind::Ours;
    }
    if !entry.is_file {
        return Kind::Directory;
    }
    if let Some(stem) = entry.name.strip_suffix(ID_EXTENSION) {
        return identity::parse(stem).map_or(Kind::Strange, |id| Kind::Identity(DataId(id)));
    }
    if let Some((stem, MARK_EXTENSION)) = entry.name.rsplit_once('.') {
        return Id::parse(stem.as_bytes()).map_or(Kind::Strange, |id| Kind::Mark(id.nanos()));
    }
    match name::parse(&entry.name) {
        Some((bounds @ Bounds::From(_), state @ (State::Active | State::Flushed | State::Pending))) => {
            Kind::Segment(bounds, state)
        }
        _ => Kind::Strange,
    }
}

/// Brings one segment file into the flushed state. `None` if there was not one whole record in it.
fn bring_back(
    fs: &Arc<dyn FileSystem>,
    metrics: &Metrics,
    path: &Path,
    bounds: Bounds,
    state: State,
) -> io::Result<Option<Arc<Segment>>> {
    let file = fs.open_append(path)?;
    let found = examine(&file)?;
    let named_right = |digest: &Digest| Bounds::From(digest.first) == bounds;
    let digest = match found.digest {
        Some(digest) if named_right(&digest) && (found.fault.is_none() || found.is_torn_only()) => {
            if found.is_torn_only() {
                log::info!("{}: a torn last record is cut off at byte {}", path.display(), digest.len.0);
                file.truncate(digest.len)?;
            }
            file.sync_data()?;
            Some((path.to_path_buf(), digest))
        }
        None if found.size.0 == 0 || found.is_torn_only() => {
            log::info!("{}: no whole record in it, removed", path.display());
            fs.remove(path)?;
            None
        }
        _ => {
            metrics.counter(m::CORRUPT, &["ingest"]).inc();
            let aside = set_aside(fs.as_ref(), path)?;
            let fault = found.fault.map_or("its first id is not its name".into(), |fault| fault.to_string());
            log::error!("{}: {fault}: set aside as {}", path.display(), aside.display());
            let temporary = path.with_file_name(bounds.file_name(State::Active));
            let temporary = if fs.open(&temporary).is_ok() { path.to_path_buf() } else { temporary };
            salvage(fs.as_ref(), &file, &temporary)?.map(|digest| (temporary, digest))
        }
    };
    let Some((path, digest)) = digest else { return Ok(None) };
    let segment = Segment::new(fs.clone(), path.clone(), digest);
    let right = Bounds::From(digest.first).file_name(State::Flushed);
    if state != State::Flushed || path.file_name() != Some(right.as_ref()) {
        segment.rename(&right)?;
    }
    Ok(Some(Arc::new(segment)))
}
