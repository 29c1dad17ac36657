//! Which operations fail, and how: planned one by one, or drawn from a seed.
//!
//! What Linux really gives, and what it leaves behind:
//!
//! | sort | when | what is left |
//! | --- | --- | --- |
//! | write EIO, ENOSPC | a bad block; a full disk or quota | any part of the bytes is appended, as `write(2)` is called until it fails |
//! | write short | `write(2)` answers 0 | the same, as [`io::ErrorKind::WriteZero`] |
//! | truncate EIO | the block of the new end cannot be read | nothing has changed |
//! | fsync EIO, ENOSPC of a file | writeback failed; delayed allocation found no room | pages are marked clean: each may be on the disk or never get there, and the next fsync succeeds (ext4, XFS; see "fsyncgate", 2018) |
//! | fsync EIO of a directory | its blocks could not be written | each change may be on the disk or not; the buffers are clean, so a later fsync brings only what is changed again (a file system with a journal refuses all later changes instead) |
//! | rename, remove EIO | a block of the directory cannot be read | nothing has changed |
//! | rename EIO although it happened | a network file system lost the answer; the second half of link and unlink failed | the new name, not the old one |
//! | open EMFILE | the process or the machine has too many files open | nothing has changed |
//! | create ENOSPC | no block or inode for the name | nothing has changed |
//! | read EIO | a bad block | nothing is read; the next try may succeed |
//! | read EINTR, short read | a signal; a page that is not there yet | fewer bytes than were asked for, at least one |
//! | slow | a disk that is busy, or dying | time passes before the operation |

use super::{MemoryFs, State};
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::sync::{Arc, MutexGuard};

/// A sort of operation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Op {
    /// Opening a file; for [`MemoryFs::fail_nth`], be it new or old.
    Open,
    /// Creating a file.
    Create,
    /// Reading from a file.
    Read,
    /// Appending to a file; half of the bytes get there all the same when it is planned to fail.
    Write,
    /// Cutting a file.
    Truncate,
    /// Syncing, of a file or a directory: only for [`MemoryFs::fail_nth`].
    Sync,
    /// Syncing a file.
    SyncFile,
    /// Syncing a directory.
    SyncDir,
    /// Renaming.
    Rename,
    /// Removing.
    Remove,
    /// Setting the time of a file.
    SetModified,
    /// Making a directory. Syncing its parent is an operation by itself.
    CreateDir,
    /// Listing a directory.
    List,
}

impl Op {
    const ALL: [Op; 13] = [
        Op::Open,
        Op::Create,
        Op::Read,
        Op::Write,
        Op::Truncate,
        Op::Sync,
        Op::SyncFile,
        Op::SyncDir,
        Op::Rename,
        Op::Remove,
        Op::SetModified,
        Op::CreateDir,
        Op::List,
    ];

    /// Whether a fault that is planned for this sort is meant for that one.
    fn covers(self, other: Op) -> bool {
        self == other
            || self == Op::Open && other == Op::Create
            || self == Op::Sync && (other == Op::SyncFile || other == Op::SyncDir)
    }

    fn faults(self) -> &'static [Fault] {
        match self {
            Op::Open => &[Fault::OpenError],
            Op::Create => &[Fault::OpenError, Fault::CreateFull],
            Op::CreateDir => &[Fault::CreateFull],
            Op::Read => &[Fault::ReadError, Fault::ReadInterrupted, Fault::ReadShort],
            Op::Write => &[Fault::WriteError, Fault::WriteFull, Fault::WriteShort],
            Op::Truncate => &[Fault::TruncateError],
            Op::SyncFile => &[Fault::SyncError, Fault::SyncFull],
            Op::SyncDir => &[Fault::SyncDirError],
            Op::Rename => &[Fault::RenameError, Fault::RenameLie],
            Op::Remove => &[Fault::RemoveError],
            Op::Sync | Op::SetModified | Op::List => &[],
        }
    }
}

/// A sort of failure.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// A failure that was asked for by [`MemoryFs::fail_nth`].
    Planned,
    /// The medium was full, by [`MemoryFs::set_capacity`].
    Full,
    /// EIO after a part of the bytes.
    WriteError,
    /// ENOSPC after a part of the bytes.
    WriteFull,
    /// A part of the bytes, then no more.
    WriteShort,
    /// EIO when cutting a file.
    TruncateError,
    /// EIO when syncing a file.
    SyncError,
    /// ENOSPC when syncing a file.
    SyncFull,
    /// EIO when syncing a directory.
    SyncDirError,
    /// EIO when renaming.
    RenameError,
    /// EIO when renaming, although it happened.
    RenameLie,
    /// EMFILE when opening or creating.
    OpenError,
    /// ENOSPC when creating a file or a directory.
    CreateFull,
    /// EIO when reading.
    ReadError,
    /// EINTR when reading.
    ReadInterrupted,
    /// Fewer bytes than are there.
    ReadShort,
    /// EIO when removing.
    RemoveError,
    /// Time has passed before an operation.
    Slow,
}

impl Fault {
    /// All there are.
    pub const ALL: [Fault; 18] = [
        Fault::Planned,
        Fault::Full,
        Fault::WriteError,
        Fault::WriteFull,
        Fault::WriteShort,
        Fault::TruncateError,
        Fault::SyncError,
        Fault::SyncFull,
        Fault::SyncDirError,
        Fault::RenameError,
        Fault::RenameLie,
        Fault::OpenError,
        Fault::CreateFull,
        Fault::ReadError,
        Fault::ReadInterrupted,
        Fault::ReadShort,
        Fault::RemoveError,
        Fault::Slow,
    ];

    /// What the operation answers.
    fn error(self) -> io::Error {
        match self {
            Fault::WriteShort => io::Error::new(io::ErrorKind::WriteZero, "no more bytes were taken"),
            Fault::ReadInterrupted => Errno::INTR.into(),
            Fault::OpenError => Errno::MFILE.into(),
            Fault::Full | Fault::WriteFull | Fault::SyncFull | Fault::CreateFull => Errno::NOSPC.into(),
            _ => Errno::IO.into(),
        }
    }
}

/// A disk that fails by chance: each number is one in how many operations of the sort fail so, 0 for none.
#[derive(Clone)]
pub struct Misbehaviour {
    /// Where chance comes from.
    pub dice: Dice,
    /// EIO when writing, after a part of the bytes.
    pub write_error: u64,
    /// ENOSPC when writing, after a part of the bytes.
    pub write_full: u64,
    /// A write that ends early, and fails for that.
    pub write_short: u64,
    /// EIO when cutting a file, which stays as it was.
    pub truncate_error: u64,
    /// EIO when syncing a file, whose pages are clean all the same.
    pub sync_error: u64,
    /// ENOSPC when syncing a file, whose pages are clean all the same.
    pub sync_full: u64,
    /// EIO when syncing a directory: some changes are durable, the others wait for another change.
    pub sync_dir_error: u64,
    /// EIO when renaming: nothing has changed.
    pub rename_error: u64,
    /// EIO when renaming, although it happened.
    pub rename_lie: u64,
    /// EMFILE when opening or creating a file.
    pub open_error: u64,
    /// ENOSPC when creating a file or a directory.
    pub create_full: u64,
    /// EIO when reading.
    pub read_error: u64,
    /// EINTR when reading.
    pub read_interrupted: u64,
    /// A read that gives less than is there.
    pub read_short: u64,
    /// EIO when removing: nothing has changed.
    pub remove_error: u64,
    /// How many operations of any sort begin late: then `slowly` is called first.
    pub slow: u64,
    /// What passes the time, say by winding a clock. No lock of the file system is held.
    pub slowly: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Misbehaviour {
    /// A disk that does not fail yet.
    pub fn none(dice: Dice) -> Misbehaviour {
        Misbehaviour::all(dice, 0)
    }

    /// A disk of which one in `n` operations fails, in each of the ways there are. It is not slow.
    pub fn all(dice: Dice, n: u64) -> Misbehaviour {
        Misbehaviour {
            dice,
            write_error: n,
            write_full: n,
            write_short: n,
            truncate_error: n,
            sync_error: n,
            sync_full: n,
            sync_dir_error: n,
            rename_error: n,
            rename_lie: n,
            open_error: n,
            create_full: n,
            read_error: n,
            read_interrupted: n,
            read_short: n,
            remove_error: n,
            slow: 0,
            slowly: None,
        }
    }

    fn one_in(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Planned | Fault::Full => 0,
            Fault::WriteError => self.write_error,
            Fault::WriteFull => self.write_full,
            Fault::WriteShort => self.write_short,
            Fault::TruncateError => self.truncate_error,
            Fault::SyncError => self.sync_error,
            Fault::SyncFull => self.sync_full,
            Fault::SyncDirError => self.sync_dir_error,
            Fault::RenameError => self.rename_error,
            Fault::RenameLie => self.rename_lie,
            Fault::OpenError => self.open_error,
            Fault::CreateFull => self.create_full,
            Fault::ReadError => self.read_error,
            Fault::ReadInterrupted => self.read_interrupted,
            Fault::ReadShort => self.read_short,
            Fault::RemoveError => self.remove_error,
            Fault::Slow => self.slow,
        }
    }

    /// Whether this operation fails so.
    fn draws(&mut self, fault: Fault) -> bool {
        let n = self.one_in(fault);
        n > 0 && self.dice.one_in(n)
    }
}

impl fmt::Debug for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Misbehaviour");
        for fault in Fault::ALL.into_iter().filter(|fault| self.one_in(*fault) > 0) {
            shown.field(&format!("{fault:?}"), &self.one_in(fault));
        }
        shown.finish_non_exhaustive()
    }
}

/// A failure that was chosen beforehand.
pub(super) struct Planned {
    /// How many operations of its sort are left until then, it included.
    left: u64,
    how: How,
}

#[derive(Clone, Copy)]
enum How {
    Kind(Op, io::ErrorKind),
    Fault(Fault, u64),
}

impl Planned {
    /// Whether this is an operation of its sort.
    fn covers(&self, op: Op) -> bool {
        match self.how {
            How::Kind(sort, _) => sort.covers(op),
            How::Fault(fault, _) => op.faults().contains(&fault),
        }
    }
}

/// A failure that an operation has to give.
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) error: io::Error,
    /// What chance made of the rest: `None` where a failure was planned, and the harshest is meant.
    pub(super) dice: Option<Dice>,
}

impl MemoryFs {
    /// Makes the `n`-th operation of a sort from now on fail with `kind`; 1 is the next one.
    pub fn fail_nth(&self, op: Op, n: u64, kind: io::ErrorKind) {
        lock(&self.state).planned.push(Planned { left: n.max(1), how: How::Kind(op, kind) });
    }

    /// Makes the `n`-th operation that can fail so do it, from now on; 1 is the next one. What chance has to do with it comes
    /// from the number itself.
    pub fn plan(&self, fault: Fault, n: u64) {
        lock(&self.state).planned.push(Planned { left: n.max(1), how: How::Fault(fault, n) });
    }

    /// Makes operations fail by chance from now on, or not any more.
    pub fn misbehave(&self, how: Option<Misbehaviour>) {
        lock(&self.state).misbehaviour = how;
    }

    /// What was done on this disk since it was made, and what went wrong.
    pub fn tally(&self) -> Tally {
        lock(&self.state).tally.clone()
    }

    /// The lock that every operation takes. Before it, a slow disk lets time pass.
    pub(super) fn enter(&self) -> MutexGuard<'_, State> {
        enter(&self.state)
    }
}

pub(super) fn enter(state: &std::sync::Mutex<State>) -> MutexGuard<'_, State> {
    let mut guard = lock(state);
    let Some(how) = guard.misbehaviour.as_mut().filter(|how| how.slow > 0) else {
        return guard;
    };
    if !how.draws(Fault::Slow) {
        return guard;
    }
    let slowly = how.slowly.clone();
    guard.tally.count_fault(Fault::Slow);
    drop(guard);
    if let Some(slowly) = slowly {
        slowly();
    }
    lock(state)
}

impl State {
    /// How this operation fails, if it was chosen to.
    pub(super) fn failure(&mut self, op: Op) -> Option<Failure> {
        let failure = self.planned_failure(op).or_else(|| self.drawn_failure(op));
        if let Some(failure) = &failure {
            self.tally.count_fault(failure.fault);
        }
        failure
    }

    /// The same for an operation that either happens or leaves all as it was.
    pub(super) fn refuse(&mut self, op: Op) -> io::Result<()> {
        self.failure(op).map_or(Ok(()), |failure| Err(failure.error))
    }

    fn planned_failure(&mut self, op: Op) -> Option<Failure> {
        if self.planned.is_empty() {
            return None;
        }
        let mut hit = None;
        self.planned.retain_mut(|planned| {
            if planned.covers(op) {
                planned.left -= 1;
            }
            if planned.left == 0 {
                hit = Some(planned.how);
            }
            planned.left > 0
        });
        Some(match hit? {
            How::Kind(_, kind) => {
                let error = io::Error::new(kind, format!("chosen to fail: {op:?}"));
                Failure { fault: Fault::Planned, error, dice: None }
            }
            How::Fault(fault, n) => Failure { fault, error: fault.error(), dice: Some(Dice::new(n)) },
        })
    }

    fn drawn_failure(&mut self, op: Op) -> Option<Failure> {
        let how = self.misbehaviour.as_mut()?;
        let fault = *op.faults().iter().find(|fault| how.draws(**fault))?;
        Some(Failure { fault, error: fault.error(), dice: Some(Dice::new(how.dice.roll())) })
    }

    pub(super) fn full(&mut self) -> io::Error {
        self.tally.count_fault(Fault::Full);
        Fault::Full.error()
    }
}

/// What was done on a disk, and what went wrong.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    operations: [u64; Op::ALL.len()],
    faults: [u64; Fault::ALL.len()],
    /// Images that were taken, watched ones included.
    pub images: u64,
    /// Copies that were taken.
    pub copies: u64,
    /// Crashes of this disk itself.
    pub crashes: u64,
}

impl Tally {
    pub(super) fn count(&mut self, op: Op) {
        self.operations[op as usize] += 1;
    }

    pub(super) fn count_fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    /// How many operations of each sort have begun, failed ones included.
    pub fn operations(&self) -> impl Iterator<Item = (Op, u64)> {
        Op::ALL.into_iter().zip(self.operations)
    }

    /// How often each sort of failure was given.
    pub fn faults(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL.into_iter().zip(self.faults)
    }

    /// Adds what happened on another disk.
    pub fn add(&mut self, other: &Tally) {
        let pairs = self.operations.iter_mut().zip(other.operations).chain(self.faults.iter_mut().zip(other.faults));
        pairs.for_each(|(sum, more)| *sum += more);
        self.images += other.images;
        self.copies += other.copies;
        self.crashes += other.crashes;
    }
}
