//! Writing a sealed segment from front to back: records in, frames out, the index at the end.
//!
//! Memory: a block and its frame, 4 KiB of filter and 64 bytes of table for each block, 32 bytes a minute, and up to
//! [`MOST_STREAMS`] streams.

use super::filter::FilterBuilder;
use super::layout::{self, Block, Footer, Minute, Place, Section, Stream};
use super::{BLOCK_TEXT, LEVEL};
use crate::record::stored::{Checker, Digest, records};
use crate::unit::Bytes;
use crate::world::fs::File;
use memchr::{memchr, memrchr};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, Strategy};

/// Of more writers of ids in one segment none is kept: a client that opens a connection for each line would make them as
/// many as there are records.
pub const MOST_STREAMS: usize = 1 << 16;

/// What is changed of that level. Lines full of random hexadecimal digits have matches of four and five bytes everywhere that
/// cost more than they spare: with six at least, the blocks of such logs are 0.246 of the raw text instead of 0.254 (256 KiB).
const PACKING: [CParameter; 2] = [CParameter::Strategy(Strategy::ZSTD_lazy2), CParameter::MinMatch(6)];

/// Writes a sealed segment to an empty file.
pub struct SealedWriter {
    file: Arc<dyn File>,
    block_text: usize,
    packer: Compressor<'static>,
    /// Records that are in no block yet.
    held: Vec<u8>,
    packed: Vec<u8>,
    /// How long the file is.
    at: u64,
    checker: Checker,
    blocks: Vec<Block>,
    tally: Tally,
    filter: FilterBuilder,
}

impl SealedWriter {
    /// Begins a segment in this file.
    pub fn new(file: Arc<dyn File>) -> io::Result<SealedWriter> {
        SealedWriter::with_blocks_of(BLOCK_TEXT, file)
    }

    /// The same with blocks of another size: for tests, in which a few records are many blocks.
    pub fn with_blocks_of(block_text: usize, file: Arc<dyn File>) -> io::Result<SealedWriter> {
        let mut packer = Compressor::new(LEVEL)?;
        PACKING.into_iter().try_for_each(|parameter| packer.set_parameter(parameter))?;
        // A decoder finds damage by itself, also a stock one.
        packer.include_checksum(true)?;
        packer.include_contentsize(true)?;
        Ok(SealedWriter {
            file,
            block_text,
            packer,
            held: Vec::new(),
            packed: Vec::new(),
            at: 0,
            checker: Checker::default(),
            blocks: Vec::new(),
            tally: Tally::default(),
            filter: FilterBuilder::new(),
        })
    }

    /// Adds whole stored records. Ids ascend over all calls; what does not is refused.
    pub fn append(&mut self, records: &[u8]) -> io::Result<()> {
        self.held.extend_from_slice(records);
        if self.held.len() <= self.block_text {
            return Ok(());
        }
        let held = std::mem::take(&mut self.held);
        let mut rest = &held[..];
        while rest.len() > self.block_text {
            // A block is whole records: as many as fit, or one that does not.
            let within = memrchr(b'\n', &rest[..self.block_text]).or_else(|| memchr(b'\n', rest));
            let Some(lf) = within else { break };
            let (block, later) = rest.split_at(lf + 1);
            self.write_block(block)?;
            rest = later;
        }
        let kept = rest.len();
        self.held = held;
        self.held.drain(..self.held.len() - kept);
        Ok(())
    }

    fn write_block(&mut self, text: &[u8]) -> io::Result<()> {
        let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
        let mut checker = Checker::default();
        checker.take(text).map_err(|e| invalid(e.to_string()))?;
        let too_long = || invalid(format!("{} bytes are too long for a block", text.len()));
        let digest = checker.digest().filter(|_| text.len() <= layout::MOST_TEXT).ok_or_else(too_long)?;
        self.checker.take_seen(text).map_err(|e| invalid(e.to_string()))?;
        self.tally.take(text);
        self.filter.add_block(text);
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(text.len()));
        let packed = self.packer.compress_to_buffer(text, &mut self.packed)?;
        self.file.append(&self.packed)?;
        let narrow = |number: usize| u32::try_from(number).map_err(|_| too_long());
        self.blocks.push(Block {
            offset: self.at,
            packed: narrow(packed)?,
            text_at: self.checker.len().0 - text.len() as u64,
            text: narrow(text.len())?,
            records: u32::try_from(digest.records).map_err(|_| too_long())?,
            crc32: digest.crc32,
            first: digest.first,
            last: digest.last,
        });
        self.at += packed as u64;
        Ok(())
    }

    /// Writes what is left and the index. Gives what the text is, and how long the file. Nothing is synced.
    pub fn finish(mut self) -> io::Result<(Digest, Bytes)> {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() {
            self.write_block(&held)?;
        }
        let invalid = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why);
        let digest = self.checker.digest().ok_or_else(|| invalid("a segment without records"))?;
        let blocks = u32::try_from(self.blocks.len()).map_err(|_| invalid("too many blocks"))?;
        let (shape, filter) = std::mem::take(&mut self.filter).finish();
        let minutes = layout::write_minutes(&self.tally.minutes);
        let streams = layout::write_streams(self.tally.streams().as_deref());
        let mut places = [Place::default(); 4];
        let sections = [layout::write_table(&self.blocks), minutes, streams, filter];
        for (section, content) in Section::ALL.into_iter().zip(sections) {
            places[section as usize] = self.write_section(&content)?;
        }
        let footer = Footer { digest, blocks, shape, places }.write();
        self.file.append(&footer)?;
        Ok((digest, Bytes(self.at + footer.len() as u64)))
    }

    fn write_section(&mut self, content: &[u8]) -> io::Result<Place> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "a section is too long for its frame");
        let header = layout::frame_header(content.len()).ok_or_else(too_long)?;
        self.file.append(&header)?;
        self.file.append(content)?;
        let offset = self.at + header.len() as u64;
        self.at = offset + content.len() as u64;
        Ok(Place { offset, len: content.len() as u64, crc32: crc32fast::hash(content) })
    }
}

/// What is counted by the way.
#[derive(Default)]
pub(super) struct Tally {
    pub minutes: Vec<Minute>,
    streams: HashMap<u32, Stream>,
    too_many: bool,
}

impl Tally {
    /// Counts whole stored records whose ids ascend.
    pub fn take(&mut self, text: &[u8]) {
        for stored in records(text) {
            let Some(id) = stored.id() else { continue };
            let minute = id.millis().0 / 60_000;
            let now = match self.minutes.last_mut() {
                Some(last) if last.minute == minute => last,
                _ => {
                    self.minutes.push(Minute { minute, ..Minute::default() });
                    let Some(new) = self.minutes.last_mut() else { continue };
                    new
                }
            };
            now.records += 1;
            now.text += stored.whole.len() as u64;
            now.ids = now.ids.wrapping_add(layout::digest_of(id));
            if self.too_many {
                continue;
            }
            let (stream, counter) = (id.stream().number(), id.counter());
            let of = self.streams.entry(stream).or_insert(Stream { stream, first: counter, last: counter, records: 0 });
            of.first = of.first.min(counter);
            of.last = of.last.max(counter);
            of.records += 1;
            if self.streams.len() > MOST_STREAMS {
                self.too_many = true;
                self.streams = HashMap::new();
            }
        }
    }

    /// The streams in the order of their numbers; `None` if there were too many.
    pub fn streams(&self) -> Option<Vec<Stream>> {
        if self.too_many {
            return None;
        }
        let mut streams: Vec<Stream> = self.streams.values().copied().collect();
        streams.sort_unstable_by_key(|stream| stream.stream);
        Some(streams)
    }
}
