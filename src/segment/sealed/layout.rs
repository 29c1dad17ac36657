//! The bytes of a sealed segment's index: what oklog-segment(5) says, as code. All numbers are little-endian.
//!
//! Reading is checked: a length, an offset or a count that does not fit is an error in words, never a panic or an allocation.

use super::filter::FilterShape;
use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::segment::reader::{BLOCK, LONGEST_RECORD};
use crate::unit::Bytes;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// What a zstd frame begins with.
pub const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// What our skippable frames begin with: one of the sixteen numbers that RFC 8878 sets aside.
pub const SKIPPABLE_MAGIC: [u8; 4] = 0x184D_2A5C_u32.to_le_bytes();

/// Magic number and length.
pub const FRAME_HEADER: usize = 8;

/// The last bytes of a sealed segment.
pub const END_TAG: [u8; 8] = *b"oklogend";

/// The footer without its frame header.
const FOOTER: usize = 176;

/// The footer with its frame header.
pub const FOOTER_FRAME: usize = FRAME_HEADER + FOOTER;

/// The footer's part that does not change with the version: the version itself, and [`END_TAG`].
pub const FOOTER_FIXED: usize = 12;

/// Where in the footer the places of the sections are.
const PLACES: usize = 64;

/// Where in the footer its checksum is.
const FOOTER_CRC: usize = 160;

const BLOCK_ENTRY: usize = 56;
const MINUTE_ENTRY: usize = 32;
const STREAM_ENTRY: usize = 16;
const STREAM_HEADER: usize = 8;

/// The most text a block can have: what fits beside one more record of the greatest length.
pub const MOST_TEXT: usize = LONGEST_RECORD + BLOCK;

/// One block of a sealed segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// Where its frame begins in the file.
    pub offset: u64,
    /// How long its frame is.
    pub packed: u32,
    /// Where its text begins in the text of the segment.
    pub text_at: u64,
    /// How long its text is.
    pub text: u32,
    /// How many records.
    pub records: u32,
    /// CRC-32 (IEEE 802.3) of its text.
    pub crc32: u32,
    /// Its first id.
    pub first: Id,
    /// Its last id.
    pub last: Id,
}

/// What was recorded within one minute, for comparing segments without reading them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Minute {
    /// Minutes since 1970.
    pub minute: u64,
    /// How many records.
    pub records: u64,
    /// How many bytes, ids and LFs included.
    pub text: u64,
    /// The sum, modulo 2^64, of the digests of the ids: the same for the same set, in whatever order.
    pub ids: u64,
}

/// What is there of one writer of ids.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stream {
    /// Its 28 bits.
    pub stream: u32,
    /// The smallest counter.
    pub first: u32,
    /// The largest counter.
    pub last: u32,
    /// How many records.
    pub records: u32,
}

/// Which section of the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Section {
    /// The blocks.
    Table,
    /// The minutes.
    Minutes,
    /// The writers of ids.
    Streams,
    /// The filter.
    Filter,
}

impl Section {
    /// All of them, in the order in which they are written.
    pub const ALL: [Section; 4] = [Section::Table, Section::Minutes, Section::Streams, Section::Filter];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Section::Table => "block table",
            Section::Minutes => "minutes",
            Section::Streams => "streams",
            Section::Filter => "filter",
        }
    }
}

/// Where a section lies, without its frame header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
    /// CRC-32 of all of it.
    pub crc32: u32,
}

/// The end of a sealed segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// What the text is.
    pub digest: Digest,
    /// How many blocks.
    pub blocks: u32,
    /// How the filter is laid out.
    pub shape: FilterShape,
    /// Where the sections lie, in the order of [`Section::ALL`].
    pub places: [Place; 4],
}

/// The id as 64 bits that tell it from its neighbours (the finalizer of splitmix64, twice): summed up in [`Minute::ids`].
pub fn digest_of(id: Id) -> u64 {
    mix((id.0 >> 64) as u64 ^ mix(id.0 as u64))
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// The header of a skippable frame around `len` bytes; `None` if they are too many for one.
pub fn frame_header(len: usize) -> Option<[u8; FRAME_HEADER]> {
    let mut header = [0; FRAME_HEADER];
    header[..4].copy_from_slice(&SKIPPABLE_MAGIC);
    header[4..].copy_from_slice(&u32::try_from(len).ok()?.to_le_bytes());
    Some(header)
}

/// The length that the header of a skippable frame says, of any of the sixteen kinds.
pub fn skippable_len(header: &[u8]) -> Option<u64> {
    let magic = u32_at(header, 0)?;
    (magic & 0xFFFF_FFF0 == 0x184D_2A50).then_some(())?;
    Some(u64::from(u32_at(header, 4)?))
}

impl Footer {
    /// The footer with its frame header.
    pub fn write(&self) -> [u8; FOOTER_FRAME] {
        let mut out = Vec::with_capacity(FOOTER_FRAME);
        out.extend(frame_header(FOOTER).unwrap_or_default());
        out.extend(self.blocks.to_le_bytes());
        out.extend([self.shape.rows_log2(), self.shape.group_log2(), 0, 0]);
        out.extend(self.digest.records.to_le_bytes());
        out.extend(self.digest.len.0.to_le_bytes());
        out.extend(self.digest.first.0.to_le_bytes());
        out.extend(self.digest.last.0.to_le_bytes());
        out.extend(self.digest.crc32.to_le_bytes());
        out.extend([0; 4]);
        for place in &self.places {
            out.extend(place.offset.to_le_bytes());
            out.extend(place.len.to_le_bytes());
            out.extend(place.crc32.to_le_bytes());
            out.extend([0; 4]);
        }
        let mut end = [0; 16];
        end[4..8].copy_from_slice(&VERSION.to_le_bytes());
        end[8..].copy_from_slice(&END_TAG);
        let crc = footer_crc(&out[FRAME_HEADER..], &end[4..]);
        end[..4].copy_from_slice(&crc.to_le_bytes());
        out.extend(end);
        let mut whole = [0; FOOTER_FRAME];
        whole.copy_from_slice(&out);
        whole
    }

    /// Reads the last [`FOOTER_FRAME`] bytes of a file of `size` bytes.
    pub fn read(frame: &[u8], size: u64) -> Result<Footer, Unreadable> {
        let damaged = |what: &str| Unreadable::Damaged(format!("the footer is damaged: {what}"));
        let fixed = frame.len().checked_sub(FOOTER_FIXED).and_then(|at| frame.get(at..));
        let fixed = fixed.ok_or_else(|| damaged("the file is too short for one"))?;
        if fixed.get(4..) != Some(&END_TAG) {
            return Err(damaged("the file does not end as a sealed segment does"));
        }
        match u32_at(fixed, 0) {
            Some(VERSION) => {}
            Some(_) if is_of_this_version_but_for_its_number(frame) => return Err(damaged("its version is another")),
            // Whether that is what was written is known to that version alone.
            other => return Err(Unreadable::Version(other.unwrap_or(0))),
        }
        let footer = frame.get(FRAME_HEADER..).filter(|footer| footer.len() == FOOTER);
        let footer = footer.ok_or_else(|| damaged("the file is too short for one"))?;
        let crc = footer_crc(&footer[..FOOTER_CRC], &footer[FOOTER_CRC + 4..]);
        if u32_at(footer, FOOTER_CRC) != Some(crc)
            || frame.get(..FRAME_HEADER) != frame_header(FOOTER).as_ref().map(|h| &h[..])
        {
            return Err(damaged("its checksum is another"));
        }
        Footer::read_numbers(footer, size).ok_or_else(|| damaged("its numbers do not fit each other"))
    }

    fn read_numbers(footer: &[u8], size: u64) -> Option<Footer> {
        let blocks = u32_at(footer, 0)?;
        let shape = FilterShape::new(blocks, *footer.get(4)?, *footer.get(5)?)?;
        let digest = Digest {
            records: u64_at(footer, 8)?,
            len: Bytes(u64_at(footer, 16)?),
            first: id_at(footer, 24)?,
            last: id_at(footer, 40)?,
            crc32: u32_at(footer, 56)?,
        };
        let mut places = [Place::default(); 4];
        let mut end = 0;
        for (nth, place) in places.iter_mut().enumerate() {
            let at = PLACES + 24 * nth;
            *place =
                Place { offset: u64_at(footer, at)?, len: u64_at(footer, at + 8)?, crc32: u32_at(footer, at + 16)? };
            // One behind the other, with a frame header before each.
            if place.offset < end || place.offset < FRAME_HEADER as u64 {
                return None;
            }
            end = place.offset.checked_add(place.len)?;
        }
        let fits = end.checked_add(FOOTER_FRAME as u64)? <= size
            && digest.first <= digest.last
            && blocks > 0
            && places[0].len == u64::from(blocks) * BLOCK_ENTRY as u64
            && places[3].len == shape.len();
        fits.then_some(Footer { digest, blocks, shape, places })
    }

    /// Where a section lies.
    pub fn place(&self, section: Section) -> Place {
        self.places[section as usize]
    }
}

/// Why a footer could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// It is not whole.
    Damaged(String),
    /// It is of a version that is not known here.
    Version(u32),
}

/// Whether the checksum is that of a footer of this version: then it is the version that is damaged.
fn is_of_this_version_but_for_its_number(frame: &[u8]) -> bool {
    let Some(footer) = frame.get(FRAME_HEADER..).filter(|footer| footer.len() == FOOTER) else { return false };
    let mut end = [0; FOOTER_FIXED];
    end[..4].copy_from_slice(&VERSION.to_le_bytes());
    end[4..].copy_from_slice(&END_TAG);
    u32_at(footer, FOOTER_CRC) == Some(footer_crc(&footer[..FOOTER_CRC], &end))
}

fn footer_crc(front: &[u8], end: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(front);
    crc.update(end);
    crc.finalize()
}

/// The block table as bytes.
pub fn write_table(blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blocks.len() * BLOCK_ENTRY);
    for block in blocks {
        out.extend(block.offset.to_le_bytes());
        out.extend(block.packed.to_le_bytes());
        out.extend(block.text.to_le_bytes());
        out.extend(block.records.to_le_bytes());
        out.extend(block.crc32.to_le_bytes());
        out.extend(block.first.0.to_le_bytes());
        out.extend(block.last.0.to_le_bytes());
    }
    out
}

/// Reads a block table and holds it against the footer: blocks lie one behind the other from the start of the file, their ids
/// ascend, and all together they are what the footer says.
pub fn read_table(bytes: &[u8], footer: &Footer) -> Option<Vec<Block>> {
    let mut blocks = Vec::with_capacity(bytes.len() / BLOCK_ENTRY);
    let (mut offset, mut text_at, mut records, mut before) = (0u64, 0u64, 0u64, None);
    for entry in bytes.chunks(BLOCK_ENTRY) {
        let block = Block {
            offset: u64_at(entry, 0)?,
            packed: u32_at(entry, 8)?,
            text: u32_at(entry, 12)?,
            records: u32_at(entry, 16)?,
            crc32: u32_at(entry, 20)?,
            first: id_at(entry, 24)?,
            last: id_at(entry, 40)?,
            text_at,
        };
        let is_sound = block.offset == offset
            && block.packed > 0
            && (1..=MOST_TEXT).contains(&(block.text as usize))
            && block.records > 0
            && block.first <= block.last
            && before < Some(block.first);
        if !is_sound {
            return None;
        }
        before = Some(block.last);
        offset = offset.checked_add(u64::from(block.packed))?;
        text_at = text_at.checked_add(u64::from(block.text))?;
        records = records.checked_add(u64::from(block.records))?;
        blocks.push(block);
    }
    let ends = (blocks.first()?.first, blocks.last()?.last);
    let fits = blocks.len() == footer.blocks as usize
        && text_at == footer.digest.len.0
        && records == footer.digest.records
        && ends == (footer.digest.first, footer.digest.last)
        && offset <= footer.place(Section::Table).offset;
    fits.then_some(blocks)
}

/// The minutes as bytes.
pub fn write_minutes(minutes: &[Minute]) -> Vec<u8> {
    let numbers = minutes.iter().flat_map(|minute| [minute.minute, minute.records, minute.text, minute.ids]);
    numbers.flat_map(u64::to_le_bytes).collect()
}

/// Reads minutes.
pub fn read_minutes(bytes: &[u8]) -> Option<Vec<Minute>> {
    let read = |entry: &[u8]| {
        let [minute, records, text, ids] =
            [u64_at(entry, 0)?, u64_at(entry, 8)?, u64_at(entry, 16)?, u64_at(entry, 24)?];
        Some(Minute { minute, records, text, ids })
    };
    bytes.chunks(MINUTE_ENTRY).map(read).collect()
}

/// The streams as bytes; `None` stands for more of them than are kept.
pub fn write_streams(streams: Option<&[Stream]>) -> Vec<u8> {
    let mut out = vec![0; STREAM_HEADER];
    out[0] = u8::from(streams.is_some());
    for stream in streams.unwrap_or_default() {
        for number in [stream.stream, stream.first, stream.last, stream.records] {
            out.extend(number.to_le_bytes());
        }
    }
    out
}

/// Reads streams: `Some(None)` if they were too many to be kept.
pub fn read_streams(bytes: &[u8]) -> Option<Option<Vec<Stream>>> {
    let (header, entries) = bytes.split_at_checked(STREAM_HEADER)?;
    let read = |entry: &[u8]| {
        let [stream, first, last, records] =
            [u32_at(entry, 0)?, u32_at(entry, 4)?, u32_at(entry, 8)?, u32_at(entry, 12)?];
        Some(Stream { stream, first, last, records })
    };
    if header[0] == 0 {
        return entries.is_empty().then_some(None);
    }
    entries.chunks(STREAM_ENTRY).map(read).collect::<Option<Vec<_>>>().map(Some)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn id_at(bytes: &[u8], at: usize) -> Option<Id> {
    Some(Id(u128::from_le_bytes(bytes.get(at..at.checked_add(16)?)?.try_into().ok()?)))
}
