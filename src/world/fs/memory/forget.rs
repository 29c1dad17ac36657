//! What a disk may forget of one file and of one directory. The rules are in the documentation of the room above.

use crate::unit::UnixMillis;
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Arc, Mutex};

/// What the page cache writes as one.
const PAGE: usize = 4096;

/// What a disk writes as one.
const SECTOR: u64 = 512;

/// A file: reachable by name, by an open handle, or by what a directory would hold after a crash. Its lock is only ever
/// taken under the one of the whole file system.
pub(super) type Node = Arc<Mutex<Inode>>;

#[derive(Default)]
pub(super) struct Inode {
    pub(super) content: Vec<u8>,
    /// How much of `content` is on stable storage.
    pub(super) synced: usize,
    /// What a truncation cut off that is still on stable storage, and where.
    cut_off: Option<(usize, Vec<u8>)>,
    /// What a failed sync marked clean: it will never reach stable storage.
    lost: Vec<std::ops::Range<usize>>,
    pub(super) modified: UnixMillis,
    synced_modified: UnixMillis,
    /// Whether it has a name, so that its bytes count.
    pub(super) linked: bool,
}

/// What a directory is now, what it would be after a crash, and what lies between.
#[derive(Default)]
pub(super) struct Dir {
    pub(super) entries: BTreeMap<OsString, Node>,
    pub(super) synced: BTreeMap<OsString, Node>,
    pub(super) pending: Vec<Change>,
}

#[derive(Clone)]
pub(super) enum Change {
    Create { name: OsString, node: Node },
    Rename { from: OsString, to: OsString, node: Node },
    Remove { name: OsString, node: Node },
    Modified { node: Node, to: UnixMillis },
}

impl Change {
    fn apply(&self, entries: &mut BTreeMap<OsString, Node>) {
        match self {
            Change::Create { name, node } => {
                entries.insert(name.clone(), node.clone());
            }
            Change::Rename { from, to, node } => {
                entries.remove(from);
                entries.insert(to.clone(), node.clone());
            }
            Change::Remove { name, .. } => {
                entries.remove(name);
            }
            Change::Modified { node, to } => lock(node).synced_modified = *to,
        }
    }

    fn names(&self) -> impl Iterator<Item = &OsString> {
        let (one, other) = match self {
            Change::Create { name, .. } | Change::Remove { name, .. } => (Some(name), None),
            Change::Rename { from, to, .. } => (Some(from), Some(to)),
            Change::Modified { .. } => (None, None),
        };
        one.into_iter().chain(other)
    }

    fn node(&self) -> &Node {
        match self {
            Change::Create { node, .. }
            | Change::Rename { node, .. }
            | Change::Remove { node, .. }
            | Change::Modified { node, .. } => node,
        }
    }
}

impl Dir {
    pub(super) fn change(&mut self, change: Change) {
        change.apply(&mut self.entries);
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            change.apply(&mut self.synced);
        }
    }

    /// Any prefix of what is pending; after it, in every other crash, any subset in which no change follows a lost one
    /// to the same name or file.
    pub(super) fn crash(&mut self, dice: &mut Dice) {
        let kept = dice.below(self.pending.len() as u64 + 1) as usize;
        let more = dice.one_in(2);
        let mut lost_names = BTreeSet::new();
        let mut lost_nodes = Vec::new();
        for (index, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            let follows = change.names().any(|name| lost_names.contains(name))
                || lost_nodes.iter().any(|node| Arc::ptr_eq(node, change.node()));
            if index < kept || more && !follows && dice.one_in(2) {
                change.apply(&mut self.synced);
            } else {
                lost_names.extend(change.names().cloned());
                lost_nodes.push(change.node().clone());
            }
        }
        self.entries = self.synced.clone();
    }
}

impl Inode {
    pub(super) fn born(at: UnixMillis) -> Inode {
        Inode { modified: at, synced_modified: at, linked: true, ..Inode::default() }
    }

    pub(super) fn truncate(&mut self, to: usize) {
        if to < self.synced {
            let end = self.synced;
            let mut tail = self.content.get(to..end).unwrap_or_default().to_vec();
            if let Some((_, older)) = self.cut_off.take() {
                tail.extend(older);
            }
            self.cut_off = Some((to, tail));
            self.synced = to;
        }
        self.content.resize(to, 0);
        self.lost.retain_mut(|range| {
            range.end = range.end.min(to);
            range.start < range.end
        });
    }

    pub(super) fn sync(&mut self) {
        self.synced = self.content.len();
        self.synced_modified = self.modified;
        self.cut_off = None;
    }

    pub(super) fn fail_sync(&mut self) {
        if self.synced < self.content.len() {
            self.lost.push(self.synced..self.content.len());
        }
    }

    pub(super) fn crash(&mut self, dice: &mut Dice) {
        self.modified = self.synced_modified;
        if let Some((at, tail)) = self.cut_off.take()
            && dice.one_in(2)
        {
            self.content.truncate(at);
            self.content.extend(tail);
            self.synced = self.content.len();
        }
        let unsynced = self.content.len() - self.synced;
        if !dice.one_in(4) {
            self.content.truncate(self.synced + dice.below(unsynced as u64 + 1) as usize);
        }
        if dice.one_in(2) {
            self.lose_pages(dice);
        }
        for range in std::mem::take(&mut self.lost) {
            let end = range.end.min(self.content.len());
            if let Some(bytes) = self.content.get_mut(range.start..end) {
                bytes.fill(0);
            }
        }
        self.synced = self.content.len();
    }

    /// Each page that was not synced is whole, or zeroes from some sector on.
    fn lose_pages(&mut self, dice: &mut Dice) {
        let mut start = self.synced;
        while start < self.content.len() {
            let end = (start / PAGE + 1) * PAGE;
            let end = end.min(self.content.len());
            if dice.one_in(2) {
                let torn_at = (start / PAGE * PAGE) + (dice.below(PAGE as u64 / SECTOR) * SECTOR) as usize;
                self.content[torn_at.clamp(start, end)..end].fill(0);
            }
            start = end;
        }
    }
}
