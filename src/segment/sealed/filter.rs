//! The substring filter: tells from few bytes in which blocks of a segment a text with certain strings can be at all.
//!
//! For each block it holds which sequences of [`GRAM`] bytes occur in the records' texts, letters of ASCII in lower case,
//! each hashed to one of 2^n rows. Ids, the space behind them and LFs are left out, and a sequence never reaches from one
//! record into the next. A string can only be where all its sequences are; the reverse does not hold, so what a filter
//! finds is a superset.
//!
//! Random numbers make most of the variety of logs, and there are only 2^16 sequences of four hexadecimal digits: a block
//! soon has half of them. So a sequence of four such digits that has a fifth in front of it is hashed with that one, and
//! of these only three in four are kept, which a number has enough of. Measured, this leaves a quarter of the blocks for
//! an id of 16 digits, at the same size.
//!
//! It is stored *bit-sliced*: not a set of rows for each block but a set of blocks for each row, one bit a block, so that
//! a query reads some rows and visits no blocks.
//!
//! ```text
//! filter  group 0 | group 1 | ... | group 2^(rows_log2 - group_log2) - 1
//! group   2^group_log2 rows, next to each other bit by bit | CRC-32 of these bytes, little-endian
//! row     one bit a block, the first block first
//! ```
//!
//! Row `r` is in group `r >> group_log2` and is there the bits from `(r & (2^group_log2 - 1)) * blocks` on; bit `i` of a
//! group is bit `i % 8`, counted from the least, of byte `i / 8`. A group has at least 64 rows, hence whole bytes. The
//! checksum of a group is looked at whenever it is read: a damaged filter is no filter, never a wrong one.
//!
//! A row is the top bits of the hash. So a filter of half the rows is this one with each two neighbours joined, which is
//! how a filter is made to measure when all blocks are known.

use crate::record::stored::{PREFIX_LEN, records};
use std::collections::HashMap;
use std::io;

/// Bytes of a sequence. A string shorter than this cannot be looked for.
pub const GRAM: usize = 4;

/// Rows while building, as a power of two.
const MOST_ROWS_LOG2: u8 = 16;

/// The fewest rows, as a power of two, and the fewest in a group: one transposition's worth.
const FEWEST_ROWS_LOG2: u8 = 6;

/// The most rows that a filter read from a file may have, as a power of two.
const LARGEST_ROWS_LOG2: u8 = 20;

/// Rows are halved while less than one bit in so many is set: a filter is as large as the variety of its text asks for.
const SPARSE: u64 = 8;

/// About the length of a group, in bytes: what one read takes, and what one checksum is of.
const GROUP_LEN: u64 = 4 << 10;

/// Bytes of the checksum behind each group.
const CHECKSUM_LEN: u64 = 4;

/// The hash of a sequence in lower case, whose top bits are its row. `before` is the digit in front if it is part of the
/// sequence, otherwise 0.
///
/// One multiplication alone lets sequences meet that differ by the same few bytes, as those of words do: measured, a
/// string of words that is nowhere then has twice as many blocks left. The first factor is 2^32 by the golden ratio
/// (Knuth, TAOCP 3, 6.4), the last one that of MurmurHash3's end.
fn hash(gram: [u8; GRAM], before: u8) -> u32 {
    let spread = u32::from_le_bytes(gram).wrapping_mul(0x9E37_79B1) ^ u32::from(before).wrapping_mul(0x2545_F491);
    (spread ^ spread >> 15).wrapping_mul(0x85EB_CA6B)
}

/// The row of a hash, of 2^`rows_log2`.
fn row_of(hash: u32, rows_log2: u8) -> usize {
    (hash >> (32 - u32::from(rows_log2))) as usize
}

/// Whether a sequence with a digit in front is left out. The bits are none of those that make the row.
fn is_left_out(hash: u32) -> bool {
    hash >> 8 & 3 == 0
}

/// The hashes of the sequences that a text in lower case surely has if it holds `literal`. Those that do not overlap come
/// first: they depend least on each other, and most often settle it.
fn hashes(literal: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let starts = (0..GRAM).flat_map(|first| (first..literal.len()).step_by(GRAM));
    starts.filter_map(|start| {
        let gram: [u8; GRAM] = *literal.get(start..)?.first_chunk()?;
        if !gram.iter().all(|byte| is_digit(*byte)) {
            return Some(hash(gram, 0));
        }
        // What is in front of the literal decides, and may be anything.
        let before = *literal.get(start.checked_sub(1)?)?;
        if !is_digit(before) {
            return Some(hash(gram, 0));
        }
        Some(hash(gram, before)).filter(|hash| !is_left_out(*hash))
    })
}

/// Whether a byte in lower case is a hexadecimal digit.
fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

/// What a text must hold so that it can match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Formula {
    /// Nothing in particular.
    Any,
    /// What each of these asks for.
    All(Vec<Formula>),
    /// What at least one of these asks for.
    OneOf(Vec<Formula>),
    /// These bytes next to each other, where letters of ASCII stand for both cases.
    Holds(Vec<u8>),
}

/// How the rows of a filter lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilterShape {
    blocks: u32,
    rows_log2: u8,
    group_log2: u8,
}

impl FilterShape {
    /// The shape of these numbers, which may come from anywhere; `None` if no filter has it. Whoever reads the filter
    /// from a file must also see that [`len`](FilterShape::len) bytes of it are there.
    pub fn new(blocks: u32, rows_log2: u8, group_log2: u8) -> Option<FilterShape> {
        let is_one = blocks > 0
            && (FEWEST_ROWS_LOG2..=LARGEST_ROWS_LOG2).contains(&rows_log2)
            && (FEWEST_ROWS_LOG2..=rows_log2).contains(&group_log2);
        let shape = FilterShape { blocks, rows_log2, group_log2 };
        (is_one && usize::try_from(shape.len()).is_ok()).then_some(shape)
    }

    /// The shape that a new filter gets: groups as near to [`GROUP_LEN`] as whole ones come.
    fn of(blocks: u32, rows_log2: u8) -> FilterShape {
        let fits = |log2: &u8| (u64::from(blocks) << log2) / 8 <= GROUP_LEN;
        let group_log2 = (FEWEST_ROWS_LOG2..=rows_log2).rev().find(fits).unwrap_or(FEWEST_ROWS_LOG2);
        FilterShape { blocks, rows_log2, group_log2 }
    }

    /// How many blocks: bits in a row.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// How many rows, as a power of two.
    pub fn rows_log2(&self) -> u8 {
        self.rows_log2
    }

    /// How many rows are in a group, as a power of two.
    pub fn group_log2(&self) -> u8 {
        self.group_log2
    }

    /// Bytes of the whole filter. At most 2^50.
    pub fn len(&self) -> u64 {
        (self.group_len() + CHECKSUM_LEN) << (self.rows_log2 - self.group_log2)
    }

    /// Whether it is the filter of no blocks, which no file holds.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0
    }

    /// Bytes of the rows of one group.
    fn group_len(&self) -> u64 {
        (u64::from(self.blocks) << self.group_log2) / 8
    }
}

/// A set of the blocks of one segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BlockSet {
    /// The first block is the least bit of the first word; bits beyond the last block are zero.
    words: Vec<u64>,
    blocks: u32,
}

impl BlockSet {
    /// None of `blocks` blocks.
    pub fn none(blocks: u32) -> BlockSet {
        BlockSet { words: vec![0; (blocks as usize).div_ceil(64)], blocks }
    }

    /// All of `blocks` blocks.
    pub fn all(blocks: u32) -> BlockSet {
        let mut set = BlockSet { words: vec![u64::MAX; (blocks as usize).div_ceil(64)], blocks };
        if let (Some(last), beyond @ 1..) = (set.words.last_mut(), blocks % 64) {
            *last = (1 << beyond) - 1;
        }
        set
    }

    /// Of how many blocks it is a set.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Puts a block in. One that does not exist is left out.
    pub fn insert(&mut self, block: u32) {
        if let Some(word) = self.words.get_mut(block as usize / 64).filter(|_| block < self.blocks) {
            *word |= 1 << (block % 64);
        }
    }

    /// Whether a block is in it.
    pub fn contains(&self, block: u32) -> bool {
        self.words.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    /// The blocks in it, ascending; also from the back.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        (0..self.blocks).filter(|block| self.contains(*block))
    }

    /// How many blocks are in it.
    pub fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no block is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Keeps what is in the other as well. Both are sets of the same blocks.
    pub fn and(&mut self, other: &BlockSet) {
        self.combine(other, |mine, theirs| mine & theirs);
    }

    /// Adds what is in the other. Both are sets of the same blocks.
    pub fn or(&mut self, other: &BlockSet) {
        self.combine(other, |mine, theirs| mine | theirs);
    }

    /// Drops what is in the other. Both are sets of the same blocks.
    pub fn minus(&mut self, other: &BlockSet) {
        self.combine(other, |mine, theirs| mine & !theirs);
    }

    fn combine(&mut self, other: &BlockSet, with: impl Fn(u64, u64) -> u64) {
        debug_assert_eq!(self.blocks, other.blocks, "sets of the same blocks");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine = with(*mine, *theirs);
        }
    }
}

/// Rows while building.
const MOST_ROWS: usize = 1 << MOST_ROWS_LOG2;

/// Makes the filter of a segment, block after block. Takes [`MOST_ROWS`] bits of memory for each.
#[derive(Debug)]
pub struct FilterBuilder {
    /// For each block, one after the other, [`MOST_ROWS`] bits: which rows it has.
    rows: Vec<u64>,
    blocks: u32,
    /// The block in lower case.
    folded: Vec<u8>,
    /// For each byte of the block, all bits set if it is a digit.
    digits: Vec<u8>,
    /// For each byte of the block, all bits set if it and the [`GRAM`] behind it are digits.
    fives: Vec<u8>,
    /// A byte for each row, 1 if the block has it, and one for what is left out. Bytes, because a store that need not read
    /// first does not wait for the one before it.
    seen: Box<[u8; MOST_ROWS + 1]>,
}

impl Default for FilterBuilder {
    fn default() -> FilterBuilder {
        FilterBuilder::new()
    }
}

impl FilterBuilder {
    /// A filter of no blocks yet.
    pub fn new() -> FilterBuilder {
        let seen = Box::new([0; MOST_ROWS + 1]);
        let (folded, digits, fives) = (Vec::new(), Vec::new(), Vec::new());
        FilterBuilder { rows: Vec::new(), blocks: 0, folded, digits, fives, seen }
    }

    /// Takes the next block of whole stored records.
    pub fn add_block(&mut self, block: &[u8]) {
        self.folded.clear();
        self.folded.extend_from_slice(block);
        self.folded.make_ascii_lowercase();
        self.digits.clear();
        self.digits.extend(self.folded.iter().map(|byte| if is_digit(*byte) { u8::MAX } else { 0 }));
        self.fives.clear();
        let fives = self.digits.windows(GRAM + 1).map(|five| five[0] & five[1] & five[2] & five[3] & five[4]);
        self.fives.extend(fives);
        self.seen.fill(0);
        let mut start = 0;
        for record in records(&self.folded) {
            // From the space behind the id on, which is no digit.
            let range = start + PREFIX_LEN - 1..start + record.whole.len() - 1;
            start += record.whole.len();
            let (text, fives) = (self.folded.get(range.clone()), self.fives.get(range.start..));
            see(text.unwrap_or_default(), fives.unwrap_or_default(), &mut self.seen);
        }
        self.rows.extend(self.seen.chunks_exact(64).map(bits_of));
        self.blocks += 1;
    }

    /// The filter of all blocks taken, and its shape. Of none it is empty, with a shape that no file has.
    pub fn finish(mut self) -> (FilterShape, Vec<u8>) {
        let mut rows_log2 = MOST_ROWS_LOG2;
        while rows_log2 > FEWEST_ROWS_LOG2 && self.is_sparse() {
            self.halve();
            rows_log2 -= 1;
        }
        let shape = FilterShape::of(self.blocks, rows_log2);
        let mut filter = Vec::with_capacity(usize::try_from(shape.len()).unwrap_or(0));
        if !shape.is_empty() {
            for group in 0..1 << (rows_log2 - shape.group_log2) {
                let from = filter.len();
                self.slice_group(&shape, group, &mut filter);
                let checksum = crc32fast::hash(filter.get(from..).unwrap_or_default());
                filter.extend_from_slice(&checksum.to_le_bytes());
            }
        }
        (shape, filter)
    }

    fn is_sparse(&self) -> bool {
        let set: u64 = self.rows.iter().map(|word| u64::from(word.count_ones())).sum();
        set * SPARSE < self.rows.len() as u64 * 64
    }

    /// Joins each two neighbours among the rows. There are at least 128.
    fn halve(&mut self) {
        self.rows = self.rows.chunks_exact(2).map(|two| joined(two[0]) | joined(two[1]) << 32).collect();
    }

    /// Appends the rows of one group, a bit a block.
    fn slice_group(&self, shape: &FilterShape, group: usize, filter: &mut Vec<u8>) {
        let words_a_block = (1 << shape.rows_log2) / 64;
        let words_a_group = (1 << shape.group_log2) / 64;
        let blocks = shape.blocks as usize;
        let len = shape.group_len() as usize;
        // One word more than whole ones, for what the last bits of the last row are shifted over.
        let mut sliced = vec![0u64; len.div_ceil(8) + 1];
        let mut square = [0u64; 64];
        for word in 0..words_a_group {
            let column = group * words_a_group + word;
            for first in (0..blocks).step_by(64) {
                square.fill(0);
                for (line, block) in square.iter_mut().zip(first..blocks) {
                    *line = self.rows[block * words_a_block + column];
                }
                transpose(&mut square);
                for (row, line) in square.iter().enumerate() {
                    put_bits(&mut sliced, (word * 64 + row) * blocks + first, *line);
                }
            }
        }
        let end = filter.len() + len;
        filter.extend(sliced.iter().flat_map(|word| word.to_le_bytes()));
        filter.truncate(end);
    }
}

/// Marks the rows of a text; the first byte is the one in front of it. This loop is what building costs, so it has no
/// branches: sequences that are left out are marked behind the last row.
fn see(text: &[u8], fives: &[u8], seen: &mut [u8; MOST_ROWS + 1]) {
    for (five, with_front) in text.windows(GRAM + 1).zip(fives) {
        let hash = hash([five[1], five[2], five[3], five[4]], five[0] & with_front);
        let left_out = *with_front != 0 && is_left_out(hash);
        seen[if left_out { MOST_ROWS } else { row_of(hash, MOST_ROWS_LOG2) }] = 1;
    }
}

/// 64 bytes that are 0 or 1 as bits, the first one least.
fn bits_of(bytes: &[u8]) -> u64 {
    let mut word = 0;
    for (at, eight) in bytes.chunks_exact(8).enumerate() {
        let eight = eight.try_into().map_or(0, u64::from_le_bytes);
        // The product brings the lowest bit of byte `i` to bit `56 + i`; no two of its sums meet, so nothing is carried.
        word |= eight.wrapping_mul(0x0102_0408_1020_4080) >> 56 << (8 * at);
    }
    word
}

/// Each two neighbouring bits joined to one, in the lower half.
fn joined(word: u64) -> u64 {
    let mut bits = (word | word >> 1) & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0F0F_0F0F_0F0F_0F0F),
        (4, 0x00FF_00FF_00FF_00FF),
        (8, 0x0000_FFFF_0000_FFFF),
        (16, 0x0000_0000_FFFF_FFFF),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits
}

/// Turns bit `b` of line `l` into bit `l` of line `b`, by exchanging ever smaller squares across the diagonal (Warren,
/// Hacker's Delight, 7-3).
fn transpose(square: &mut [u64; 64]) {
    let (mut side, mut low) = (32, u64::MAX >> 32);
    while side > 0 {
        for upper in (0..64).filter(|line| line & side == 0) {
            let lower = upper | side;
            let exchanged = (square[upper] >> side ^ square[lower]) & low;
            square[upper] ^= exchanged << side;
            square[lower] ^= exchanged;
        }
        side /= 2;
        low ^= low << side;
    }
}

/// Sets 64 bits from bit `at` on, where so far are zeros; those that do not fit must be zero.
fn put_bits(words: &mut [u64], at: usize, bits: u64) {
    let (word, shift) = (at / 64, at % 64);
    words[word] |= bits << shift;
    if shift > 0 {
        words[word + 1] |= bits >> (64 - shift);
    }
}

/// The blocks in which there can be a text that meets the formula; a superset of those where there is one.
///
/// `read` fills the buffer from a place within the filter. Each group is read at most once, and only those that are
/// needed; memory is bounded by the filter's length, which the caller has seen to be there. `None` if a group does not
/// have its checksum: the filter is of no use. Errors are those of `read`.
pub fn candidates(
    formula: &Formula,
    shape: &FilterShape,
    read: &mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<BlockSet>> {
    let mut look = Look { shape: *shape, read, groups: HashMap::new() };
    match look.narrow(formula, BlockSet::all(shape.blocks)) {
        Ok(found) => Ok(Some(found)),
        Err(Stop::Damaged) => Ok(None),
        Err(Stop::Io(error)) => Err(error),
    }
}

/// Why there is no answer.
enum Stop {
    Damaged,
    Io(io::Error),
}

/// One look into a filter.
struct Look<'a> {
    shape: FilterShape,
    read: &'a mut dyn FnMut(u64, &mut [u8]) -> io::Result<()>,
    /// The groups read so far, checksums seen, each with some zeros behind it.
    groups: HashMap<usize, Vec<u8>>,
}

/// Zeros behind a group, so that its last bits can be read like any: whole words beyond the last bit, and the shift.
const SLACK: usize = 16;

impl Look<'_> {
    /// What the formula leaves of `within`.
    fn narrow(&mut self, formula: &Formula, mut within: BlockSet) -> Result<BlockSet, Stop> {
        match formula {
            Formula::Any => Ok(within),
            Formula::Holds(literal) => self.narrow_to_literal(literal, within),
            Formula::All(parts) => {
                for part in parts {
                    if within.is_empty() {
                        break;
                    }
                    within = self.narrow(part, within)?;
                }
                Ok(within)
            }
            Formula::OneOf(parts) => {
                let mut found = BlockSet::none(self.shape.blocks);
                for part in parts {
                    if within.is_empty() {
                        break;
                    }
                    let more = self.narrow(part, within.clone())?;
                    within.minus(&more);
                    found.or(&more);
                }
                Ok(found)
            }
        }
    }

    fn narrow_to_literal(&mut self, literal: &[u8], mut within: BlockSet) -> Result<BlockSet, Stop> {
        let literal = literal.to_ascii_lowercase();
        for hash in hashes(&literal) {
            if within.is_empty() {
                break;
            }
            self.and_row(row_of(hash, self.shape.rows_log2), &mut within)?;
        }
        Ok(within)
    }

    fn and_row(&mut self, row: usize, within: &mut BlockSet) -> Result<(), Stop> {
        let shape = self.shape;
        let group = self.group(row >> shape.group_log2)?;
        let from = (row & ((1 << shape.group_log2) - 1)) * shape.blocks as usize;
        for (word, at) in within.words.iter_mut().zip((from..).step_by(64)) {
            *word &= bits_at(group, at);
        }
        Ok(())
    }

    /// A group, read unless it was before.
    fn group(&mut self, group: usize) -> Result<&[u8], Stop> {
        use std::collections::hash_map::Entry;
        match self.groups.entry(group) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(vacant) => {
                let len = self.shape.group_len();
                let mut rows = vec![0; (len + CHECKSUM_LEN) as usize];
                (self.read)(group as u64 * (len + CHECKSUM_LEN), &mut rows).map_err(Stop::Io)?;
                let (bits, checksum) = rows.split_at(len as usize);
                if crc32fast::hash(bits).to_le_bytes() != *checksum {
                    return Err(Stop::Damaged);
                }
                rows.truncate(len as usize);
                rows.resize(len as usize + SLACK, 0);
                Ok(vacant.insert(rows))
            }
        }
    }
}

/// 64 bits from bit `at` on; zeros where there are none.
fn bits_at(bytes: &[u8], at: usize) -> u64 {
    let sixteen = bytes.get(at / 8..).and_then(|rest| rest.first_chunk());
    sixteen.map_or(0, |sixteen| (u128::from_le_bytes(*sixteen) >> (at % 8)) as u64)
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
