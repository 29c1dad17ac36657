//! What a disk may forget of one directory. The rules are in the documentation of the room above.

use super::inode::{FileNode, Inode};
use crate::unit::UnixMillis;
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use std::ffi::OsStr;
use std::sync::Arc;

/// A name in a directory. Shared by all who hold it.
pub(super) type Name = Arc<OsStr>;

/// What a directory holds, in the order of names. Images of the disk share it until either side changes it.
pub(super) type Entries = Arc<Vec<(Name, Node)>>;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Node {
    File(FileNode),
    /// The index of a directory.
    Dir(usize),
}

impl Node {
    pub(super) fn is(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::File(one), Node::File(other)) => Arc::ptr_eq(one, other),
            (Node::Dir(one), Node::Dir(other)) => one == other,
            _ => false,
        }
    }
}

/// What a directory is now, what it is on stable storage, and what lies between.
#[derive(Clone, Default)]
pub(super) struct Dir {
    /// The directory it is in, and its name there.
    pub(super) parent: usize,
    pub(super) name: Option<Name>,
    pub(super) entries: Entries,
    pub(super) synced: Entries,
    pub(super) pending: Vec<Change>,
}

/// A change that was made since the last sync.
#[derive(Clone)]
pub(super) struct Change {
    pub(super) node: Node,
    pub(super) what: Kind,
    /// A sync of it failed, and marked it clean: later syncs do not bring it, unless a later change to the same name or
    /// file brings it along.
    stuck: bool,
}

#[derive(Clone)]
pub(super) enum Kind {
    Create { name: Name },
    Rename { from: Name, to: Name },
    Remove { name: Name },
    Modified { to: UnixMillis },
}

fn insert(entries: &mut Vec<(Name, Node)>, name: &Name, node: &Node) {
    match entries.binary_search_by(|(there, _)| there.cmp(name)) {
        Ok(at) => entries[at].1 = node.clone(),
        Err(at) => entries.insert(at, (name.clone(), node.clone())),
    }
}

fn remove(entries: &mut Vec<(Name, Node)>, name: &Name) {
    if let Ok(at) = entries.binary_search_by(|(there, _)| there.cmp(name)) {
        entries.remove(at);
    }
}

impl Change {
    fn apply(&self, entries: &mut Vec<(Name, Node)>) {
        match &self.what {
            Kind::Create { name } => insert(entries, name, &self.node),
            Kind::Rename { from, to } => {
                remove(entries, from);
                insert(entries, to, &self.node);
            }
            Kind::Remove { name } => remove(entries, name),
            Kind::Modified { .. } => {}
        }
    }

    fn names(&self) -> [Option<&Name>; 2] {
        match &self.what {
            Kind::Create { name } | Kind::Remove { name } => [Some(name), None],
            Kind::Rename { from, to } => [Some(from), Some(to)],
            Kind::Modified { .. } => [None, None],
        }
    }

    /// Whether one of the two cannot be on the disk in another order than that in which they were made.
    fn touches(&self, other: &Change) -> bool {
        self.node.is(&other.node)
            || self.names().iter().flatten().any(|name| other.names().iter().flatten().any(|other| name == other))
    }
}

impl Dir {
    pub(super) fn find(&self, name: &OsStr) -> Option<&Node> {
        let at = self.entries.binary_search_by(|(there, _)| (**there).cmp(name)).ok()?;
        self.entries.get(at).map(|(_, node)| node)
    }

    pub(super) fn change(&mut self, node: Node, what: Kind) {
        let change = Change { node, what, stuck: false };
        change.apply(Arc::make_mut(&mut self.entries));
        self.pending.push(change);
    }

    pub(super) fn sync(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut reaches: Vec<bool> = self.pending.iter().map(|change| !change.stuck).collect();
        for index in (0..self.pending.len()).rev() {
            let later = index + 1..self.pending.len();
            let brought =
                later.into_iter().any(|later| reaches[later] && self.pending[later].touches(&self.pending[index]));
            reaches[index] |= brought;
        }
        self.bring(&reaches);
    }

    /// A sync that failed. What was pending may have reached the disk, or is stuck; with no dice, all is stuck.
    pub(super) fn fail_sync(&mut self, dice: Option<&mut Dice>) {
        let reaches = self.subset(dice);
        self.bring(&reaches);
        for change in &mut self.pending {
            change.stuck = true;
        }
    }

    fn bring(&mut self, reaches: &[bool]) {
        let synced = Arc::make_mut(&mut self.synced);
        let mut reaches = reaches.iter();
        self.pending.retain(|change| {
            let reaches = reaches.next().copied().unwrap_or_default();
            if reaches {
                change.apply(synced);
                if let (Node::File(node), Kind::Modified { to }) = (&change.node, &change.what) {
                    lock(node).synced_modified = *to;
                }
            }
            !reaches
        });
        if self.pending.is_empty() {
            self.synced = self.entries.clone();
        }
    }

    /// Which pending changes a crash finds on the disk: with no dice none, else any prefix, and after it, in every other
    /// case, any subset in which no change follows a missing one to the same name or file.
    fn subset(&self, dice: Option<&mut Dice>) -> Vec<bool> {
        let Some(dice) = dice else {
            return vec![false; self.pending.len()];
        };
        let kept = dice.below(self.pending.len() as u64 + 1) as usize;
        let more = dice.one_in(2);
        let mut reaches: Vec<bool> = Vec::with_capacity(self.pending.len());
        for (index, change) in self.pending.iter().enumerate() {
            let follows = |reaches: &[bool]| {
                reaches.iter().zip(&self.pending).any(|(reached, earlier)| !reached && change.touches(earlier))
            };
            let reached = index < kept || more && dice.one_in(2) && !follows(&reaches);
            reaches.push(reached);
        }
        reaches
    }

    /// What a crash leaves, its files included.
    pub(super) fn survivor(&self, mut dice: Option<&mut Dice>) -> Dir {
        let (mut entries, mut times) = (self.synced.clone(), Vec::new());
        if !self.pending.is_empty() && dice.is_some() {
            let reaches = self.subset(dice.as_deref_mut());
            let entries = Arc::make_mut(&mut entries);
            for (change, _) in self.pending.iter().zip(reaches).filter(|(_, reached)| *reached) {
                change.apply(entries);
                if let (Node::File(node), Kind::Modified { to }) = (&change.node, &change.what) {
                    times.push((node, *to));
                }
            }
        }
        let survive = |(name, node): &(Name, Node)| {
            let Node::File(file) = node else {
                return (name.clone(), node.clone());
            };
            let mut inode = lock(file).survivor(dice.as_deref_mut());
            inode.name = name.clone();
            if let Some((_, to)) = times.iter().rev().find(|(node, _)| Arc::ptr_eq(node, file)) {
                (inode.modified, inode.synced_modified) = (*to, *to);
            }
            (name.clone(), Node::file(inode))
        };
        let entries: Entries = Arc::new(entries.iter().map(survive).collect());
        Dir { parent: self.parent, name: None, synced: entries.clone(), entries, pending: Vec::new() }
    }
}

impl Node {
    pub(super) fn file(inode: Inode) -> Node {
        Node::File(Arc::new(std::sync::Mutex::new(inode)))
    }
}
