//! Finding the blocks of a sealed segment without its index: by walking from frame to frame, and unpacking each.
//!
//! What is no frame, or cannot be unpacked, is passed over up to the next magic number. Memory: one block and its frame.

use super::layout::{Block, FRAME_HEADER, MOST_TEXT, SKIPPABLE_MAGIC, ZSTD_MAGIC, skippable_len};
use super::read::Unpacker;
use crate::record::id::Id;
use crate::record::stored::{Checker, Digest};
use crate::unit::Bytes;
use crate::world::fs::{File, read_full_at};
use memchr::memmem;
use std::io;
use std::ops::Range;
use zstd::zstd_safe::{compress_bound, find_frame_compressed_size, get_frame_content_size};

/// How much is read at first to find the end of a frame, and how much at a time to find the next one.
const WINDOW: usize = 1 << 20;

/// What was found.
pub struct Rebuilt {
    /// The blocks that can be unpacked, and continue those before them.
    pub blocks: Vec<Block>,
    /// What their text is, all together; `None` if there is none.
    pub digest: Option<Digest>,
    /// The bytes that were passed over.
    pub lost: Vec<Range<u64>>,
}

/// Walks through a file of `size` bytes.
pub fn rebuild(file: &dyn File, size: u64) -> io::Result<Rebuilt> {
    let mut walk = Walk { file, size, window: Vec::new(), text: Vec::new(), unpacker: Unpacker::new()? };
    let mut found = Rebuilt { blocks: Vec::new(), digest: None, lost: Vec::new() };
    let (mut checker, mut at, mut before) = (Checker::default(), 0, None);
    while at < size {
        match walk.frame_at(at, before)? {
            Some(Frame::Index { end }) => at = end,
            Some(Frame::Block(mut block)) => {
                block.text_at = checker.len().0;
                before = Some(block.last);
                checker.take_seen(&walk.text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                at += u64::from(block.packed);
                found.blocks.push(block);
            }
            None => {
                let next = walk.next_magic(at + 1)?;
                match found.lost.last_mut() {
                    Some(range) if range.end == at => range.end = next,
                    _ => found.lost.push(at..next),
                }
                at = next;
            }
        }
    }
    found.digest = checker.digest();
    Ok(found)
}

enum Frame {
    Index { end: u64 },
    Block(Block),
}

struct Walk<'a> {
    file: &'a dyn File,
    size: u64,
    window: Vec<u8>,
    /// The text of the block that was found last.
    text: Vec<u8>,
    unpacker: Unpacker,
}

impl Walk<'_> {
    /// The frame that begins at `at`; `None` if there is no sound one. Its records come after `before`.
    fn frame_at(&mut self, at: u64, before: Option<Id>) -> io::Result<Option<Frame>> {
        self.read(at, FRAME_HEADER)?;
        if let Some(len) = skippable_len(&self.window) {
            let end = at.checked_add(FRAME_HEADER as u64).and_then(|from| from.checked_add(len));
            return Ok(end.filter(|end| *end <= self.size).map(|end| Frame::Index { end }));
        }
        if !self.window.starts_with(&ZSTD_MAGIC) {
            return Ok(None);
        }
        let Some(packed) = self.frame_len(at)? else { return Ok(None) };
        let Ok(Some(text)) = get_frame_content_size(&self.window) else { return Ok(None) };
        let Some(text) = usize::try_from(text).ok().filter(|text| (1..=MOST_TEXT).contains(text)) else {
            return Ok(None);
        };
        self.unpacker.fetch(self.file, at, packed)?;
        if self.unpacker.unpack(text, &mut self.text).is_err() {
            return Ok(None);
        }
        let mut checker = Checker::default();
        let digest = checker.take(&self.text).ok().and_then(|()| checker.digest());
        let Some(digest) = digest.filter(|digest| before < Some(digest.first)) else { return Ok(None) };
        let narrow = |number: u64| u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
        Ok(Some(Frame::Block(Block {
            offset: at,
            packed: narrow(packed as u64)?,
            text_at: 0,
            text: narrow(digest.len.0)?,
            records: narrow(digest.records)?,
            crc32: digest.crc32,
            first: digest.first,
            last: digest.last,
        })))
    }

    /// How long the frame is that begins at `at`; `None` if its parts do not follow each other as those of a frame do.
    fn frame_len(&mut self, at: u64) -> io::Result<Option<usize>> {
        let most = usize::try_from(self.size - at).unwrap_or(usize::MAX).min(compress_bound(MOST_TEXT));
        let mut wanted = WINDOW.min(most);
        loop {
            self.read(at, wanted)?;
            if let Ok(len) = find_frame_compressed_size(&self.window) {
                return Ok(Some(len));
            }
            if wanted == most {
                return Ok(None);
            }
            wanted = wanted.saturating_mul(4).min(most);
        }
    }

    /// Where the next frame may begin, from `from` on; the end of the file if there is none.
    fn next_magic(&mut self, from: u64) -> io::Result<u64> {
        let mut at = from;
        while at < self.size {
            self.read(at, WINDOW)?;
            let found =
                [ZSTD_MAGIC, SKIPPABLE_MAGIC].iter().filter_map(|magic| memmem::find(&self.window, magic)).min();
            if let Some(found) = found {
                return Ok(at + found as u64);
            }
            // A magic number may lie across the end of what was read.
            let step = self.window.len().saturating_sub(ZSTD_MAGIC.len() - 1);
            at = if step == 0 { self.size } else { at + step as u64 };
        }
        Ok(self.size)
    }

    fn read(&mut self, at: u64, wanted: usize) -> io::Result<()> {
        self.window.resize(wanted, 0);
        let n = read_full_at(self.file, &mut self.window, Bytes(at))?;
        self.window.truncate(n);
        Ok(())
    }
}
