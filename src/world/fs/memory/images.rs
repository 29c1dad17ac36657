//! What a power cut or a kill leaves of a disk, as a disk of its own, while the disk itself goes on.

use super::directory::{Dir, Entries, Name, Node};
use super::faults::{Op, Tally};
use super::inode::FileNode;
use super::{ABSOLUTE, MemoryFs, RELATIVE, State};
use crate::unit::Bytes;
use crate::world::clock::Clock;
use crate::world::crew::lock;
use crate::world::entropy::Dice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Takes images of a disk while it is used: before operations that change or sync something.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Before one in how many operations; 0 for none.
    pub one_in: u64,
    /// How many images each time. The first is the harshest, in which only what is synced survives.
    pub images: usize,
    /// How many may wait to be taken by [`MemoryFs::pictures`]; beyond that no more are made.
    pub most: usize,
    /// Where chance comes from.
    pub dice: Dice,
}

/// What a power cut just before an operation would have left.
#[derive(Clone)]
pub struct Picture {
    /// The index of the operation, as [`MemoryFs::operations`] counts.
    pub operation: u64,
    /// What was about to be done.
    pub what: Op,
    /// To which file or directory.
    pub path: PathBuf,
    /// What is left.
    pub image: MemoryFs,
}

/// What an operation is about.
#[derive(Clone, Copy)]
pub(super) enum Subject<'a> {
    Path(&'a Path),
    File(&'a FileNode),
}

impl MemoryFs {
    /// What a power cut at this moment leaves, as a disk of its own: without faults and locks, of the same size, by the
    /// same clock. This one goes on unharmed.
    pub fn image(&self, dice: &mut Dice) -> MemoryFs {
        let mut state = lock(&self.state);
        state.tally.images += 1;
        MemoryFs::of(state.survivor(Some(dice)))
    }

    /// The harshest of all images: only what is synced survives.
    pub fn harshest_image(&self) -> MemoryFs {
        let mut state = lock(&self.state);
        state.tally.images += 1;
        MemoryFs::of(state.survivor(None))
    }

    /// The disk as the process sees it, as a disk of its own: what is left when the process is killed. Nothing is lost,
    /// and what was not synced still is not. Without faults and locks, of the same size, by the same clock.
    pub fn copy(&self) -> MemoryFs {
        let mut state = lock(&self.state);
        state.tally.copies += 1;
        MemoryFs::of(state.copy())
    }

    /// Takes images from now on, or not any more. Those that wait stay.
    pub fn watch(&self, watch: Option<Watch>) {
        lock(&self.state).watch = watch;
    }

    /// The images that were taken since the last call, in the order of their operations.
    pub fn pictures(&self) -> Vec<Picture> {
        std::mem::take(&mut lock(&self.state).pictures)
    }

    fn of(state: State) -> MemoryFs {
        MemoryFs { state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    /// A disk that holds these directories, to which nothing has happened yet.
    pub(super) fn new(clock: Arc<dyn Clock>, capacity: Bytes, dirs: Vec<Dir>, used: u64) -> State {
        State {
            clock,
            dirs,
            capacity,
            used,
            operations: 0,
            crash_at: None,
            planned: Vec::new(),
            misbehaviour: None,
            watch: None,
            pictures: Vec::new(),
            tally: Tally::default(),
            locks: Vec::new(),
            life: 0,
        }
    }

    /// Another disk of the same kind that holds these directories.
    fn with(&self, dirs: Vec<Dir>, used: u64) -> State {
        State::new(self.clock.clone(), self.capacity, dirs, used)
    }

    pub(super) fn survivor(&self, mut dice: Option<&mut Dice>) -> State {
        // A directory comes after the one it is in, so one walk finds all that can still be reached, and by which name.
        let mut names: Vec<Option<Name>> = vec![None; self.dirs.len()];
        let (mut dirs, mut used) = (Vec::with_capacity(self.dirs.len()), 0);
        for (index, dir) in self.dirs.iter().enumerate() {
            let name = names[index].take();
            if name.is_none() && index != RELATIVE && index != ABSOLUTE {
                dirs.push(Dir::default());
                continue;
            }
            let dir = Dir { name, ..dir.survivor(dice.as_deref_mut()) };
            for (name, node) in dir.entries.iter() {
                match node {
                    Node::File(file) => used += lock(file).len() as u64,
                    Node::Dir(below) => names[*below] = Some(name.clone()),
                }
            }
            dirs.push(dir);
        }
        self.with(dirs, used)
    }

    fn copy(&self) -> State {
        let mut known: Vec<(*const Mutex<super::inode::Inode>, Node)> = Vec::new();
        let mut same = |node: &Node| -> Node {
            let Node::File(file) = node else {
                return node.clone();
            };
            let at = Arc::as_ptr(file);
            match known.binary_search_by(|(known, _)| known.cmp(&at)) {
                Ok(found) => known[found].1.clone(),
                Err(place) => {
                    let copy = Node::file(lock(file).copy());
                    known.insert(place, (at, copy.clone()));
                    copy
                }
            }
        };
        let mut all = |entries: &Entries| -> Entries {
            Arc::new(entries.iter().map(|(name, node)| (name.clone(), same(node))).collect())
        };
        let mut dirs = Vec::with_capacity(self.dirs.len());
        for dir in &self.dirs {
            let entries = all(&dir.entries);
            let synced = if Arc::ptr_eq(&dir.entries, &dir.synced) { entries.clone() } else { all(&dir.synced) };
            dirs.push(Dir {
                parent: dir.parent,
                name: dir.name.clone(),
                entries,
                synced,
                pending: dir.pending.clone(),
            });
        }
        for change in dirs.iter_mut().flat_map(|dir: &mut Dir| &mut dir.pending) {
            change.node = same(&change.node);
        }
        self.with(dirs, self.used)
    }

    /// Before an operation that changes or syncs something.
    pub(super) fn take_pictures(&mut self, what: Op, on: Subject<'_>) {
        let Some(mut watch) = self.watch.take() else {
            return;
        };
        if watch.one_in > 0 && watch.dice.one_in(watch.one_in) {
            let path = self.path_of(on);
            for index in 0..watch.images {
                if self.pictures.len() >= watch.most {
                    break;
                }
                let image = self.survivor(if index == 0 { None } else { Some(&mut watch.dice) });
                self.tally.images += 1;
                let picture =
                    Picture { operation: self.operations, what, path: path.clone(), image: MemoryFs::of(image) };
                self.pictures.push(picture);
            }
        }
        self.watch = Some(watch);
    }

    fn path_of(&self, on: Subject<'_>) -> PathBuf {
        let file = match on {
            Subject::Path(path) => return path.to_path_buf(),
            Subject::File(file) => lock(file),
        };
        self.path_of_dir(file.dir).join(&*file.name)
    }

    fn path_of_dir(&self, index: usize) -> PathBuf {
        match self.dirs.get(index).map(|dir| (dir.parent, &dir.name)) {
            Some((parent, Some(name))) => self.path_of_dir(parent).join(&**name),
            _ if index == ABSOLUTE => PathBuf::from("/"),
            _ => PathBuf::new(),
        }
    }
}
