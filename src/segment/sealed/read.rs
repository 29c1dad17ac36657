//! An open sealed segment: its index, checked, and its blocks, unpacked when asked for.

use super::filter::{BlockSet, Formula, candidates};
use super::layout::{self, Block, FOOTER_FRAME, Footer, Minute, Section, Stream, Unreadable};
use super::rebuild::{Rebuilt, rebuild};
use super::{Form, layout::ZSTD_MAGIC};
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::unit::Bytes;
use crate::world::fs::{File, read_full_at};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use zstd::bulk::Decompressor;

/// What is in a file, told by its first four bytes; an empty one is plain.
pub fn form_of(file: &dyn File) -> io::Result<Form> {
    let mut head = [0; ZSTD_MAGIC.len()];
    let n = read_full_at(file, &mut head, Bytes(0))?;
    Ok(if is_packed(head.get(..n).unwrap_or_default()) { Form::Sealed } else { Form::Plain })
}

/// Whether what begins so is a sealed segment.
pub fn is_packed(head: &[u8]) -> bool {
    head.starts_with(&ZSTD_MAGIC)
}

/// Unpacks blocks; keeps its memory from one to the next.
pub struct Unpacker {
    context: Decompressor<'static>,
    packed: Vec<u8>,
}

impl Unpacker {
    /// A new one, of about 128 KiB.
    pub fn new() -> io::Result<Unpacker> {
        Ok(Unpacker { context: Decompressor::new()?, packed: Vec::new() })
    }

    /// Replaces `text` by what the frame in `packed` holds, which is `len` bytes.
    pub(super) fn unpack(&mut self, len: usize, text: &mut Vec<u8>) -> io::Result<()> {
        text.clear();
        text.reserve(len);
        let got = self.context.decompress_to_buffer(&self.packed, text)?;
        if got != len {
            return Err(invalid(format!("{got} bytes of text instead of {len}")));
        }
        Ok(())
    }

    /// The frame to unpack next, read from a file.
    pub(super) fn fetch(&mut self, file: &dyn File, at: u64, len: usize) -> io::Result<()> {
        self.packed.clear();
        while self.packed.len() < len {
            let (from, left) = (Bytes(at + self.packed.len() as u64), len - self.packed.len());
            match file.read_onto(&mut self.packed, left, from) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// What is known of a sealed file without unpacking anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Glance {
    /// What its text is, as its footer says.
    Sound(Digest),
    /// Its footer is damaged.
    Damaged(String),
    /// It is of another version.
    Version(u32),
}

/// Looks at the footer of a sealed file alone.
pub fn glance(file: &dyn File) -> io::Result<Glance> {
    Ok(match read_footer(file, file.size()?.0)? {
        Ok(footer) => Glance::Sound(footer.digest),
        Err(Unreadable::Damaged(why)) => Glance::Damaged(why),
        Err(Unreadable::Version(version)) => Glance::Version(version),
    })
}

/// An open sealed segment. Memory: 64 bytes a block, about 1/4000 of the text.
pub struct Sealed {
    file: Arc<dyn File>,
    disk: Bytes,
    digest: Digest,
    blocks: Vec<Block>,
    index: Index,
    /// A group of the filter was found damaged.
    filter_is_damaged: AtomicBool,
}

enum Index {
    Sound(Footer),
    Rebuilt { why: String, lost: Vec<Range<u64>> },
}

impl Sealed {
    /// Opens a sealed file. Where its index is damaged, it is made anew in memory by unpacking everything once.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if it is of a version that is not known here; [`io::ErrorKind::InvalidData`] if not one
    /// block of it can be unpacked.
    pub fn open(file: Arc<dyn File>) -> io::Result<Sealed> {
        let size = file.size()?.0;
        let why = match read_footer(&*file, size)? {
            Ok(footer) => match read_blocks(&*file, &footer)? {
                Some(blocks) => return Ok(Sealed::with(file, size, footer.digest, blocks, Index::Sound(footer))),
                None => "the block table is damaged".to_string(),
            },
            Err(Unreadable::Damaged(why)) => why,
            Err(Unreadable::Version(version)) => return Err(of_another_version(version)),
        };
        Sealed::rebuilt(file, size, why)
    }

    /// The blocks of a file that can be unpacked, whatever its index says: for bringing what is whole to safety.
    pub fn salvage(file: Arc<dyn File>) -> io::Result<Sealed> {
        let size = file.size()?.0;
        Sealed::rebuilt(file, size, "the segment is damaged".to_string())
    }

    fn rebuilt(file: Arc<dyn File>, size: u64, why: String) -> io::Result<Sealed> {
        let Rebuilt { blocks, digest, lost } = rebuild(&*file, size)?;
        let digest = digest.ok_or_else(|| invalid(format!("{why}, and no block of it can be unpacked")))?;
        Ok(Sealed::with(file, size, digest, blocks, Index::Rebuilt { why, lost }))
    }

    fn with(file: Arc<dyn File>, size: u64, digest: Digest, blocks: Vec<Block>, index: Index) -> Sealed {
        Sealed { file, disk: Bytes(size), digest, blocks, index, filter_is_damaged: AtomicBool::new(false) }
    }

    /// What the text is.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// How long the file is.
    pub fn disk(&self) -> Bytes {
        self.disk
    }

    /// The blocks, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// What is wrong with the index, if anything was found: it costs speed alone.
    pub fn fault(&self) -> Option<String> {
        match &self.index {
            Index::Rebuilt { why, .. } => Some(why.clone()),
            Index::Sound(_) => {
                self.filter_is_damaged.load(Ordering::Relaxed).then(|| "the filter is damaged".to_string())
            }
        }
    }

    /// The bytes of the file that are no block and no index: what was in them is lost. Known only where the index was rebuilt.
    pub fn lost(&self) -> &[Range<u64>] {
        match &self.index {
            Index::Rebuilt { lost, .. } => lost,
            Index::Sound(_) => &[],
        }
    }

    /// Replaces `text` by the text of a block.
    pub fn unpack(&self, number: usize, unpacker: &mut Unpacker, text: &mut Vec<u8>) -> io::Result<()> {
        let block = self.blocks.get(number).ok_or_else(|| invalid(format!("there is no block {number}")))?;
        let damaged =
            |e: io::Error| invalid(format!("block {number} at byte {} cannot be unpacked: {e}", block.offset));
        unpacker.fetch(&*self.file, block.offset, block.packed as usize)?;
        unpacker.unpack(block.text as usize, text).map_err(damaged)?;
        // The frame has its own checksum; that it is this block is told by its ends.
        let last = crate::record::stored::last(text).and_then(|last| last.id());
        if crate::record::stored::id_at(text) != Some(block.first) || last != Some(block.last) {
            return Err(damaged(invalid("its records are others".to_string())));
        }
        Ok(())
    }

    /// The blocks that may hold a match; `None` if there is no filter, or a damaged one: then all of them may.
    pub fn candidates(&self, formula: &Formula) -> io::Result<Option<BlockSet>> {
        let Index::Sound(footer) = &self.index else { return Ok(None) };
        if self.filter_is_damaged.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let place = footer.place(Section::Filter);
        let found = candidates(formula, &footer.shape, &mut |offset, buffer| {
            let n = read_full_at(&*self.file, buffer, Bytes(place.offset + offset))?;
            // What is missing is found damaged by its checksum.
            if let Some(missing) = buffer.get_mut(n..) {
                missing.fill(0);
            }
            Ok(())
        })?;
        if found.is_none() {
            self.filter_is_damaged.store(true, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// The numbers of the blocks that reach into a range of ids, both ends included.
    pub fn between(&self, from: Id, to: Id) -> Range<usize> {
        let begin = self.blocks.partition_point(|block| block.last < from);
        let end = self.blocks.partition_point(|block| block.first <= to);
        begin..end.max(begin)
    }

    /// What was recorded in each minute; `None` if that part of the index is damaged.
    pub fn minutes(&self) -> io::Result<Option<Vec<Minute>>> {
        Ok(self.section(Section::Minutes)?.and_then(|bytes| layout::read_minutes(&bytes)))
    }

    /// What there is of each writer of ids; `None` if that part of the index is damaged, `Some(None)` if there were too many.
    pub fn streams(&self) -> io::Result<Option<Option<Vec<Stream>>>> {
        Ok(self.section(Section::Streams)?.and_then(|bytes| layout::read_streams(&bytes)))
    }

    /// The bytes of the filter, and how they are laid out; `None` if they are damaged.
    pub fn filter(&self) -> io::Result<Option<(super::filter::FilterShape, Vec<u8>)>> {
        let Index::Sound(footer) = &self.index else { return Ok(None) };
        Ok(self.section(Section::Filter)?.map(|bytes| (footer.shape, bytes)))
    }

    /// The parts of the index that are not what their checksums say.
    pub fn damaged_sections(&self) -> io::Result<Vec<&'static str>> {
        let mut damaged = Vec::new();
        for section in Section::ALL {
            if matches!(self.index, Index::Sound(_)) && self.section(section)?.is_none() {
                damaged.push(section.name());
            }
        }
        Ok(damaged)
    }

    fn section(&self, section: Section) -> io::Result<Option<Vec<u8>>> {
        let Index::Sound(footer) = &self.index else { return Ok(None) };
        read_section(&*self.file, footer, section)
    }
}

pub(super) fn read_footer(file: &dyn File, size: u64) -> io::Result<Result<Footer, Unreadable>> {
    let len = size.min(FOOTER_FRAME as u64);
    let mut frame = [0; FOOTER_FRAME];
    let frame = frame.get_mut(..usize::try_from(len).unwrap_or_default()).unwrap_or_default();
    let n = read_full_at(file, frame, Bytes(size - len))?;
    Ok(Footer::read(frame.get(..n).unwrap_or_default(), size))
}

fn read_blocks(file: &dyn File, footer: &Footer) -> io::Result<Option<Vec<Block>>> {
    Ok(read_section(file, footer, Section::Table)?.and_then(|bytes| layout::read_table(&bytes, footer)))
}

/// Reads a section; `None` if it is not what its checksum says. Its place was held against the size of the file.
fn read_section(file: &dyn File, footer: &Footer, section: Section) -> io::Result<Option<Vec<u8>>> {
    let place = footer.place(section);
    let Ok(len) = usize::try_from(place.len) else { return Ok(None) };
    let mut bytes = vec![0; len];
    let n = read_full_at(file, &mut bytes, Bytes(place.offset))?;
    Ok((n == len && crc32fast::hash(&bytes) == place.crc32).then_some(bytes))
}

/// The refusal of a version that is not known here.
pub fn of_another_version(version: u32) -> io::Error {
    let known = layout::VERSION;
    let why = format!("it is a sealed segment of version {version}, and this oklog reads version {known}");
    io::Error::new(io::ErrorKind::Unsupported, why)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
