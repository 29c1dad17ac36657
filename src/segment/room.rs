//! The room that a tier's directory has on its medium: when the tier takes no more, and what is kept back for those who make room.
//!
//! | who needs room | of what | when the medium is full |
//! | --- | --- | --- |
//! | connections | what comes in | are held below the ingest tier's mark |
//! | flushing, the clock mark, giving back | a name | go on: out of the reserve, then out of the ballast |
//! | copies that a store takes | a batch | are refused below the store's mark |
//! | compaction | its inputs once more | waits until that fits above the store's mark |
//! | retention, purging, removing what was committed | a name | go on: out of the reserve, then out of the ballast |
//! | recovery, the table of members | a name, a damaged segment once more | out of the reserve, and of the ballast where that is small |
//!
//! The *reserve* is free room that nobody of ours fills: 64 MiB, or a sixteenth of a smaller medium. The store stops at it. The
//! ingest tier stops as much before: so there is room for a batch to go from the one to the other where both lie on one medium.
//!
//! The *ballast* is a file of as many zeroes, at most a 32nd of the medium, for the case that others fill the reserve. It is
//! removed when something that makes room is refused, and at a start that finds less than the reserve. It is made again when there
//! was room for a while. Not where the medium is smaller than 2 MiB, has no limit, or cannot promise blocks.

use super::handle::set_aside;
use super::sift::tells_of_the_file;
use crate::ops::metrics::{self as m, Gauge, Metrics};
use crate::unit::{Bytes, Monotonic};
use crate::world::crew::lock;
use crate::world::fs::{FileSystem, read_full_at};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

/// The file that keeps room back.
const BALLAST: &str = "ballast";
/// A file that shows whether there is room, where a write was refused and nothing else says why. It is removed at once.
const PROBE: &str = "ballast.new";

/// The most that is kept free, and the most that the ballast weighs.
const RESERVE: u64 = 64 << 20;
/// Ballast below this is not worth a file.
const LEAST_BALLAST: u64 = 64 << 10;
/// Some batches of connections in stored form, of ordinary lines: by so much may a segment and the medium become fuller than they
/// should. Counts on small media alone.
const BATCHES: u64 = 5 << 18;
/// How large a probe is.
const PROBE_SIZE: u64 = 1 << 20;

/// How often the medium is looked at, at most, unless much was written since.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long after it was given up the ballast is made again at the earliest, and how long after a batch that was too large a store
/// says that it has room: others as large may follow.
const CALM: Duration = Duration::from_secs(10);

/// Whether a file of this name in a data directory belongs here. It holds zeroes, of any length.
pub fn is_ours(name: &str) -> bool {
    name == BALLAST || name == PROBE
}

/// What it means that a file system has refused to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no room: on the medium, or for this user.
    NoRoom,
    /// This file may not become longer (`RLIMIT_FSIZE`, or the file system's own limit). Another one may.
    TooLong,
    /// The process lacks something else for the moment: descriptors, memory.
    Passing,
    /// The medium is broken, or became read-only.
    Broken,
}

impl Refusal {
    /// What an error means.
    pub fn of(error: &io::Error) -> Refusal {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Refusal::NoRoom,
            (io::ErrorKind::FileTooLarge, _) => Refusal::TooLong,
            (io::ErrorKind::OutOfMemory | io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock, _) => {
                Refusal::Passing
            }
            // ENFILE and EMFILE (errno(3)) have no kind of their own.
            (_, Some(23 | 24)) => Refusal::Passing,
            _ => Refusal::Broken,
        }
    }
}

/// Whose room it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// The ingest tier, whose segments become so large.
    Ingest(Bytes),
    /// The store.
    Store,
}

impl Tier {
    fn name(self) -> &'static str {
        match self {
            Tier::Ingest(_) => "ingest",
            Tier::Store => "store",
        }
    }

    fn what_is_done(self) -> (&'static str, &'static str) {
        match self {
            Tier::Ingest(_) => ("connections are held until there is room", "connections go on"),
            Tier::Store => ("segments are refused until there is room", "segments are taken"),
        }
    }

    /// The largest segment that may be written on a medium of this size, so that one of them always fits into the reserve.
    pub fn largest_segment(flush_size: Bytes, total: Bytes) -> Bytes {
        Bytes(flush_size.0.min((total.0 / 32).max(1)))
    }
}

/// Where a tier stops on a medium, and where it goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    /// Free room that writers of both tiers leave.
    pub reserve: Bytes,
    /// With less than this free the tier is full.
    pub full_below: Bytes,
    /// With this free it is not full any more.
    pub free_from: Bytes,
    /// What the ballast weighs, if there is to be one.
    pub ballast: Option<Bytes>,
}

impl Marks {
    /// The marks of a tier on a medium of `total` bytes.
    pub fn of(tier: Tier, total: Bytes) -> Marks {
        if total.0 == u64::MAX {
            return Marks { reserve: Bytes(0), full_below: Bytes(0), free_from: Bytes(0), ballast: None };
        }
        let reserve = RESERVE.min(total.0 / 16);
        let full_below = match tier {
            Tier::Store => reserve,
            Tier::Ingest(flush_size) => {
                // One segment that is on its way into the store, one that is being written, and what connections write before
                // they see that they should not.
                let segments = Tier::largest_segment(flush_size, total).0.saturating_mul(2);
                (reserve + reserve.max(segments.saturating_add(BATCHES))).min(total.0 / 4)
            }
        };
        let ballast = RESERVE.min(total.0 / 32) / 4096 * 4096;
        Marks {
            reserve: Bytes(reserve),
            full_below: Bytes(full_below),
            // A quarter more, so that one segment more or less does not end and begin it again.
            free_from: Bytes(full_below + full_below / 4),
            ballast: (ballast >= LEAST_BALLAST).then_some(Bytes(ballast)),
        }
    }
}

/// One tier's room.
pub struct Room {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    tier: Tier,
    full: AtomicBool,
    /// Bytes written since the medium was last looked at.
    unlooked: AtomicU64,
    state: Mutex<State>,
    full_gauge: Gauge,
    free_gauge: Gauge,
}

#[derive(Default)]
struct State {
    looked: Option<Monotonic>,
    marks: Option<Marks>,
    /// When a batch did not fit last, though there was room for less.
    too_large: Option<Monotonic>,
    /// Whether the ballast is there.
    ballast: bool,
    /// When it may be made again.
    not_before: Monotonic,
    /// The file system cannot promise blocks, or does not say how much room it has; that was said.
    no_ballast: bool,
    no_answer: bool,
}

impl Room {
    /// The room of a tier in `dir`, whose lock the caller holds. Where there is less than the reserve the ballast is given up, so
    /// that recovery can work; call this before it.
    pub fn open(fs: &Arc<dyn FileSystem>, dir: &Path, tier: Tier, metrics: &Metrics) -> io::Result<Room> {
        let room = Room {
            fs: fs.clone(),
            dir: dir.to_path_buf(),
            tier,
            full: AtomicBool::new(false),
            unlooked: AtomicU64::new(0),
            state: Mutex::default(),
            full_gauge: metrics.gauge(m::DISK_FULL, &[tier.name()]),
            free_gauge: metrics.gauge(m::DISK_FREE, &[tier.name()]),
        };
        if room.is_there(PROBE, metrics)? {
            fs.remove(&dir.join(PROBE))?;
        }
        if room.is_there(BALLAST, metrics)? {
            let mut state = lock(&room.state);
            state.ballast = true;
            let space = fs.space(dir)?;
            if space.available < Marks::of(tier, space.total).reserve {
                room.give_up_ballast(&mut state);
            }
        }
        Ok(room)
    }

    /// Whether a file of ours is there. One of its name that holds anything but zeroes is not ours, and is set aside.
    fn is_there(&self, name: &str, metrics: &Metrics) -> io::Result<bool> {
        let path = self.dir.join(name);
        let file = match self.fs.open(&path) {
            Err(e) => {
                // What is no plain file, or may not be read, is left to recovery, which tells of it.
                if e.kind() != io::ErrorKind::NotFound && !tells_of_the_file(&e) {
                    log::warn!("{} is no ballast of ours: {e}; it is left alone", path.display());
                }
                return Ok(false);
            }
            Ok(file) => file,
        };
        let mut head = [0; 4096];
        let Ok(n) = read_full_at(&*file, &mut head, Bytes(0)) else { return Ok(false) };
        if head[..n].iter().all(|byte| *byte == 0) {
            return Ok(true);
        }
        metrics.counter(m::CORRUPT, &[self.tier.name()]).inc();
        let aside = set_aside(&*self.fs, &path)?;
        log::warn!("{} is no ballast of ours: it is set aside as {}", path.display(), aside.display());
        Ok(false)
    }

    /// Whether the tier takes no more for now.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Looks at the medium, but not more often than once a second, or ten times while it is full.
    pub fn look(&self, now: Monotonic) {
        let mut state = lock(&self.state);
        let every = if self.is_full() { LOOK_EVERY / 10 } else { LOOK_EVERY };
        if state.looked.is_none_or(|at| now.since(at) >= every) {
            self.look_closely(&mut state, now, None);
        }
    }

    /// Notes that so much was written.
    pub fn wrote(&self, bytes: u64) {
        self.unlooked.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Looks again where what was written since the last look may have used up the room; not while somebody else does.
    pub fn look_after_writing(&self, now: impl FnOnce() -> Monotonic) {
        let unlooked = self.unlooked.load(Ordering::Relaxed);
        if unlooked < LEAST_BALLAST {
            return;
        }
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if state.marks.is_none_or(|marks| unlooked >= marks.reserve.0 / 8) {
            self.look_closely(&mut state, now(), None);
        }
    }

    /// Whether so much more may be written without touching the reserve. Where that is not so, the tier says that it is full, but
    /// less may still be admitted: until then nobody knows how much a batch comes to.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`]: it may not. Any other kind: the medium does not answer.
    pub fn admit(&self, more: Bytes, now: Monotonic) -> io::Result<()> {
        let mut state = lock(&self.state);
        if self.is_full() {
            self.look_closely(&mut state, now, None);
        }
        let (spare, marks) = self.spare()?;
        let takes_less = !self.is_full() || state.too_large.is_some();
        if takes_less && spare >= more {
            return Ok(());
        }
        if takes_less && spare > Bytes(0) {
            state.too_large = Some(now);
        }
        let words = format!("{} bytes are kept free at {}", marks.full_below.0, self.dir.display());
        let refusal = io::Error::new(io::ErrorKind::StorageFull, words);
        if !self.is_full() {
            self.look_closely(&mut state, now, Some(&refusal));
        }
        Err(refusal)
    }

    /// What may be written before the tier is full, and its marks.
    pub fn spare(&self) -> io::Result<(Bytes, Marks)> {
        let space = self.fs.space(&self.dir)?;
        let marks = Marks::of(self.tier, space.total);
        Ok((Bytes(space.available.0.saturating_sub(marks.full_below.0)), marks))
    }

    /// A write was refused for want of room: the tier is full from now on, also where the medium says otherwise, as with a quota.
    pub fn refused(&self, error: &io::Error, now: Monotonic) {
        if !self.is_full() {
            self.look_closely(&mut lock(&self.state), now, Some(error));
        }
    }

    /// Something that makes room was refused. If that was for want of room, the ballast is given up, and it may be tried again.
    pub fn give_way(&self, error: &io::Error, now: Monotonic) {
        if Refusal::of(error) != Refusal::NoRoom {
            return;
        }
        self.refused(error, now);
        let mut state = lock(&self.state);
        if state.ballast {
            state.not_before = now + CALM;
            self.give_up_ballast(&mut state);
        }
    }

    fn give_up_ballast(&self, state: &mut State) {
        let path = self.dir.join(BALLAST);
        match self.fs.remove(&path) {
            Ok(()) => log::warn!("{} is given up, so that what makes room can work", path.display()),
            Err(e) => log::error!("giving up {}: {e}", path.display()),
        }
        state.ballast = false;
    }

    fn look_closely(&self, state: &mut State, now: Monotonic, refused: Option<&io::Error>) {
        state.looked = Some(now);
        self.unlooked.store(0, Ordering::Relaxed);
        let space = match self.fs.space(&self.dir) {
            Ok(space) => space,
            Err(e) => {
                if !std::mem::replace(&mut state.no_answer, true) {
                    log::warn!("asking how much room {} has: {e}", self.dir.display());
                }
                return;
            }
        };
        state.no_answer = false;
        self.free_gauge.set(space.available.0 as f64);
        let marks = Marks::of(self.tier, space.total);
        state.marks = Some(marks);
        let (begins, ends) = self.tier.what_is_done();
        let (tier, free, path) = (self.tier.name(), space.available.0, self.dir.display().to_string());
        if !self.is_full() && (space.available < marks.full_below || refused.is_some()) {
            self.set_full(true);
            let why = refused.map_or(format!("less than {} bytes are free", marks.full_below.0), io::Error::to_string);
            log::error!(tier, free, path, why; "the disk is full: {begins}");
        } else if self.is_full()
            && refused.is_none()
            && space.available >= marks.free_from
            && state.too_large.is_none_or(|at| now.since(at) >= CALM)
            && self.has_room(space.total)
        {
            state.too_large = None;
            self.set_full(false);
            log::info!(tier, free, path; "there is room again: {ends}");
        }
        if !self.is_full() && space.available.0 >= marks.free_from.0.saturating_add(marks.ballast.unwrap_or_default().0)
        {
            self.keep_ballast(state, now, marks.ballast);
        }
    }

    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
        self.full_gauge.set(if full { 1.0 } else { 0.0 });
    }

    /// Whether a file can be made and blocks be had: free blocks alone say nothing of quotas and of the number of files.
    fn has_room(&self, total: Bytes) -> bool {
        let path = self.dir.join(PROBE);
        match self.fs.reserve(&path, Bytes(PROBE_SIZE.min((total.0 / 64).max(1)))) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            // It cannot be asked: those who write find out.
            Err(e) if e.kind() == io::ErrorKind::Unsupported || Refusal::of(&e) == Refusal::TooLong => return true,
            Err(_) => return false,
        }
        self.fs.remove(&path).is_ok()
    }

    fn keep_ballast(&self, state: &mut State, now: Monotonic, weight: Option<Bytes>) {
        let Some(weight) = weight else { return };
        if state.ballast || state.no_ballast || now < state.not_before {
            return;
        }
        let path = self.dir.join(BALLAST);
        match self.fs.reserve(&path, weight) {
            Ok(()) => {
                state.ballast = true;
                log::debug!("{} bytes are kept back in {}", weight.0, path.display());
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => state.ballast = true,
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                state.no_ballast = true;
                log::info!("{}: {e}: no room can be kept back there", path.display());
            }
            Err(e) => {
                state.not_before = now + CALM;
                log::debug!("making {}: {e}", path.display());
            }
        }
    }
}

#[cfg(test)]
#[path = "room_tests.rs"]
mod tests;
