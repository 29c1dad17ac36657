//! What a disk may forget of one file. The rules are in the documentation of the room above.

use super::directory::Name;
use crate::unit::UnixMillis;
use crate::world::entropy::Dice;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What the page cache writes as one.
const PAGE: usize = 4096;

/// What a disk writes as one.
const SECTOR: usize = 512;

/// How many truncations since the last sync are remembered one by one. Of more, the latest ones.
const ERAS: usize = 4;

/// A file: reachable by name, by an open handle, or by what a directory would hold after a crash. Its lock is only ever
/// taken under the one of the whole file system.
pub(super) type FileNode = Arc<Mutex<Inode>>;

/// A file as the process sees it, and what of that may be missing after a crash.
pub(super) struct Inode {
    /// What a reader sees. Images of the disk share it until either side changes it.
    pub(super) content: Arc<Vec<u8>>,
    /// How long the file was when the last sync, or the last truncation after it, was through. What follows was appended.
    base: usize,
    /// What the file was before each truncation since the last sync.
    older: Vec<Era>,
    /// No crash changes anything before this place, but for `lost`.
    certain: usize,
    /// What a failed sync marked clean: it will never reach stable storage.
    lost: Vec<Range<usize>>,
    /// How far the last sync came, failed or not: what lies before it is clean and is not written again.
    tried: usize,
    pub(super) modified: UnixMillis,
    pub(super) synced_modified: UnixMillis,
    /// Nothing was written to it yet but zeroes by [`Inode::reserve`], in one step: a crash leaves all of them or none.
    reserved: bool,
    /// Whether it has a name, so that its bytes count.
    pub(super) linked: bool,
    /// The directory and the name it was last seen under.
    pub(super) dir: usize,
    pub(super) name: Name,
}

/// Content that only grew, from `base` to what it was when a truncation ended it.
#[derive(Clone)]
struct Era {
    content: Arc<Vec<u8>>,
    base: usize,
}

impl Inode {
    pub(super) fn born(at: UnixMillis, dir: usize, name: Name) -> Inode {
        Inode {
            content: Arc::default(),
            base: 0,
            older: Vec::new(),
            certain: 0,
            lost: Vec::new(),
            tried: 0,
            modified: at,
            synced_modified: at,
            reserved: false,
            linked: true,
            dir,
            name,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.content.len()
    }

    /// Makes an empty file one of so many zeroes.
    pub(super) fn reserve(&mut self, size: usize) {
        self.content = Arc::new(vec![0; size]);
        self.reserved = true;
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.reserved = false;
        if let Some(content) = Arc::get_mut(&mut self.content) {
            content.extend_from_slice(bytes);
            return;
        }
        // An image holds it too: one copy, with room for more to come.
        let mut content = Vec::with_capacity((self.content.len() + bytes.len()).next_power_of_two());
        content.extend_from_slice(&self.content);
        content.extend_from_slice(bytes);
        self.content = Arc::new(content);
    }

    /// Cuts the file; a longer one than it is is not made.
    pub(super) fn truncate(&mut self, to: usize) {
        if to >= self.len() {
            return;
        }
        self.reserved = false;
        if self.older.len() == ERAS {
            self.older.remove(1);
        }
        self.older.push(Era { content: self.without_lost(self.content.clone()), base: self.base });
        self.content = Arc::new(self.content.get(..to).unwrap_or_default().to_vec());
        self.base = to;
        self.certain = self.certain.min(to);
        self.tried = self.tried.min(to);
        self.lost.retain_mut(|range| {
            range.end = range.end.min(to);
            range.start < range.end
        });
    }

    pub(super) fn sync(&mut self) {
        // fdatasync(2) writes the time only along with a length that has changed.
        if self.base != self.len() || !self.older.is_empty() {
            self.synced_modified = self.modified;
        }
        self.older.clear();
        (self.base, self.certain, self.tried) = (self.len(), self.len(), self.len());
    }

    /// A sync that failed: of what was to be written, nothing was, or with dice any pages but one.
    pub(super) fn fail_sync(&mut self, mut dice: Option<&mut Dice>) {
        let (start, end) = (self.tried, self.len());
        if start < end {
            let pages = (end - 1) / PAGE - start / PAGE + 1;
            let surely = dice.as_mut().map(|dice| dice.below(pages as u64) as usize);
            for (index, page) in pages_of(start..end).enumerate() {
                if surely.is_none_or(|surely| surely == index) || dice.as_mut().is_some_and(|dice| dice.one_in(2)) {
                    self.lost.push(page);
                }
            }
        }
        self.tried = end;
    }

    /// The same file for another process's eyes: nothing lost, what was unsynced still is.
    pub(super) fn copy(&self) -> Inode {
        Inode {
            content: self.content.clone(),
            older: self.older.clone(),
            lost: self.lost.clone(),
            name: self.name.clone(),
            ..*self
        }
    }

    /// What a crash leaves: with no dice, only what is synced.
    pub(super) fn survivor(&self, dice: Option<&mut Dice>) -> Inode {
        // What a failed sync marked clean was never written over what an older era has at its place.
        let now = self.without_lost(self.content.clone());
        let content = match dice {
            _ if self.base == self.len() && self.older.is_empty() => now,
            None => self.durable(&now),
            Some(dice) => match dice.below(if self.reserved { 3 } else { 8 }) {
                0 | 1 => self.durable(&now),
                2 => now,
                _ => Arc::new(self.mixed(&now, dice)),
            },
        };
        let len = content.len();
        Inode {
            content,
            base: len,
            older: Vec::new(),
            certain: len,
            lost: Vec::new(),
            tried: len,
            modified: self.synced_modified,
            linked: true,
            name: self.name.clone(),
            ..*self
        }
    }

    /// The content as of the last sync.
    fn durable(&self, now: &Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        let (content, len) = self.older.first().map_or((now, self.base), |era| (&era.content, era.base));
        if len == content.len() {
            return content.clone();
        }
        Arc::new(content.get(..len).unwrap_or_default().to_vec())
    }

    /// Content and length of one moment since the last sync; in every other case, pages of other moments in it.
    fn mixed(&self, now: &Arc<Vec<u8>>, dice: &mut Dice) -> Vec<u8> {
        let era = dice.below(self.older.len() as u64 + 1) as usize;
        let (content, base) = self.older.get(era).map_or((now, self.base), |era| (&era.content, era.base));
        let grown = (content.len() - base) as u64;
        let len = if dice.one_in(4) { content.len() } else { base + dice.below(grown + 1) as usize };
        let mut bytes = content.get(..len).unwrap_or_default().to_vec();
        if dice.one_in(2) {
            for page in pages_of(self.certain..len) {
                if dice.one_in(2) {
                    self.lose_page(now, &mut bytes, page, dice);
                }
            }
        }
        bytes
    }

    /// Sectors of a page are as they were at another moment: all from one on, or any.
    fn lose_page(&self, now: &Arc<Vec<u8>>, bytes: &mut [u8], page: Range<usize>, dice: &mut Dice) {
        // In an era that only grew, what was written last holds all there was: only the last sync is another moment.
        let ends = if self.older.is_empty() { 0 } else { self.older.len() as u64 + 1 };
        let (content, len) = match dice.below(ends + 1).checked_sub(1) {
            None => self.older.first().map_or((now, self.base), |era| (&era.content, era.base)),
            Some(end) => {
                let content = self.older.get(end as usize).map_or(now, |era| &era.content);
                (content, content.len())
            }
        };
        let lost = match dice.below(4) {
            0 => u64::MAX,
            1 => dice.roll(),
            _ => u64::MAX << dice.below((PAGE / SECTOR) as u64),
        };
        let first = page.start / PAGE * PAGE;
        for sector in 0..PAGE / SECTOR {
            let start = (first + sector * SECTOR).max(page.start);
            let end = (first + (sector + 1) * SECTOR).min(page.end);
            if lost >> sector & 1 == 0 || start >= end {
                continue;
            }
            let there = content.get(start..end.min(len)).unwrap_or_default();
            if let Some(sector) = bytes.get_mut(start..end) {
                let (old, rest) = sector.split_at_mut(there.len());
                old.copy_from_slice(there);
                rest.fill(0);
            }
        }
    }

    /// With zeroes where a failed sync left them.
    fn without_lost(&self, content: Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        if self.lost.is_empty() {
            return content;
        }
        let mut bytes = content.to_vec();
        for range in &self.lost {
            let end = range.end.min(bytes.len());
            if let Some(bytes) = bytes.get_mut(range.start..end) {
                bytes.fill(0);
            }
        }
        Arc::new(bytes)
    }
}

/// A range cut at the borders of pages.
fn pages_of(range: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = range.start;
    std::iter::from_fn(move || {
        let end = ((start / PAGE + 1) * PAGE).min(range.end);
        let page = start..end;
        start = end;
        (page.start < page.end).then_some(page)
    })
}
