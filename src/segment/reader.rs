//! Reading a segment from front to back in blocks of whole records.

use super::Segment;
use crate::record::stored::whole_len;
use crate::unit::Bytes;
use crate::world::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// How much is read at a time: it stays in the second-level cache while it is worked on.
pub const BLOCK: usize = 256 << 10;

/// The same for input that is given out as it comes: a few reads of a socket.
const EAGER_BLOCK: usize = 64 << 10;

/// Cuts a byte stream into blocks that end with an LF, each at least one record, usually [`BLOCK`] bytes.
///
/// A record longer than a block makes the block as long as it needs to be, up to `longest`: beyond that the bytes are no
/// segment of ours.
pub struct BlockReader<R> {
    input: R,
    held: Vec<u8>,
    longest: usize,
    /// How much is read at a time, as long as no record is longer.
    piece: usize,
    /// Whether whole records are given as soon as there are any.
    eager: bool,
    ended: bool,
}

/// The most a record may take up where segments are read: far above any `-ingest.max-record-size` (64 MiB at most).
pub const LONGEST_RECORD: usize = 65 << 20;

impl<R: Read> BlockReader<R> {
    /// Reads `input` to its end.
    pub fn new(input: R) -> BlockReader<R> {
        BlockReader { input, held: Vec::new(), longest: LONGEST_RECORD, piece: BLOCK, eager: false, ended: false }
    }

    /// The same for an input of at most `len` bytes: where that is little, so is what is read at a time.
    pub fn sized(input: R, len: Bytes) -> BlockReader<R> {
        // One byte more, so that the read that gives the last byte also meets the end.
        let piece = usize::try_from(len.0.saturating_add(1)).unwrap_or(BLOCK).min(BLOCK);
        BlockReader { piece, ..BlockReader::new(input) }
    }

    /// The same for an input that may pause for long: a block is what has come, as soon as it holds a whole record.
    pub fn eager(input: R) -> BlockReader<R> {
        BlockReader { piece: EAGER_BLOCK, eager: true, ..BlockReader::new(input) }
    }

    /// Replaces `block` with the next whole records; `false` at the end. A torn last record comes as a last block without
    /// LF, for the caller to refuse or to cut off.
    pub fn next_block(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        block.clear();
        std::mem::swap(block, &mut self.held);
        let mut wanted = self.piece;
        loop {
            if !self.ended {
                self.fill(block, wanted)?;
            }
            let whole = whole_len(block);
            if whole > 0 {
                self.held.clear();
                self.held.extend_from_slice(&block[whole..]);
                block.truncate(whole);
                return Ok(true);
            }
            if self.ended {
                return Ok(!block.is_empty());
            }
            if block.len() >= self.longest {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a record is longer than any can be"));
            }
            wanted = wanted.max(block.len() * 2);
        }
    }

    fn fill(&mut self, block: &mut Vec<u8>, wanted: usize) -> io::Result<()> {
        let mut filled = block.len();
        block.resize(wanted.max(filled), 0);
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => {
                    // Only what is new can hold an LF that was not there before.
                    let is_enough = self.eager && whole_len(&block[filled..filled + n]) > 0;
                    filled += n;
                    if is_enough {
                        break;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    block.truncate(filled);
                    return Err(e);
                }
            }
        }
        block.truncate(filled);
        Ok(())
    }
}

/// A file, or a part of it, as a byte stream.
pub struct FileRange {
    file: Arc<dyn File>,
    at: Bytes,
    end: Bytes,
}

impl FileRange {
    /// The bytes from `from` up to, not including, `to`.
    pub fn new(file: Arc<dyn File>, from: Bytes, to: Bytes) -> FileRange {
        FileRange { file, at: from, end: to }
    }
}

impl Read for FileRange {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.0.saturating_sub(self.at.0)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let n = loop {
            match self.file.read_at(&mut buffer[..wanted], self.at) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the segment is shorter than it was"));
        }
        self.at.0 += n as u64;
        Ok(n)
    }
}

impl Segment {
    /// Its records from front to back, held to its length. Opens the file.
    pub fn blocks(&self) -> io::Result<BlockReader<FileRange>> {
        let len = self.digest().len;
        Ok(BlockReader::sized(FileRange::new(self.open()?, Bytes(0), len), len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    /// Gives a few bytes at a time.
    struct Dripping<'a>(&'a [u8], Dice);

    impl Read for Dripping<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = (1 + self.1.below(100_000) as usize).min(self.0.len()).min(buffer.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn blocks_end_with_lf_and_together_are_the_input_however_long_a_record_is() {
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let mut input = Vec::new();
            for _ in 0..200 {
                let longest = if dice.one_in(20) { 900_000 } else { 3_000 };
                input.resize(input.len() + dice.below(longest) as usize, b'x');
                input.push(b'\n');
            }
            let mut reader = BlockReader::new(Dripping(&input, Dice::new(seed)));
            let (mut block, mut all) = (Vec::new(), Vec::new());
            while reader.next_block(&mut block).expect("in memory") {
                assert_eq!(block.last(), Some(&b'\n'), "replay with seed {seed}");
                all.extend_from_slice(&block);
            }
            assert!(all == input, "replay with seed {seed}");
        }
    }

    #[test]
    fn an_eager_reader_does_not_wait_for_more_than_a_record() {
        struct Twice(Vec<&'static [u8]>);
        impl Read for Twice {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let next = self.0.pop().expect("not asked for more than is needed");
                buffer[..next.len()].copy_from_slice(next);
                Ok(next.len())
            }
        }
        let mut reader = BlockReader::eager(Twice(vec![b"", b"ond\nthird\nfo", b"sec", b"first\n"]));
        let mut block = Vec::new();
        for expected in [&b"first\n"[..], b"second\nthird\n", b"fo"] {
            assert!(reader.next_block(&mut block).expect("in memory"));
            assert_eq!(block, expected);
        }
        assert!(!reader.next_block(&mut block).expect("in memory"));
    }

    #[test]
    fn a_torn_end_comes_last_and_without_lf() {
        let mut reader = BlockReader::new(&b"whole\ntor"[..]);
        let mut block = Vec::new();
        assert!(reader.next_block(&mut block).expect("in memory"));
        assert_eq!(block, b"whole\n");
        assert!(reader.next_block(&mut block).expect("in memory"));
        assert_eq!(block, b"tor");
        assert!(!reader.next_block(&mut block).expect("in memory"));
    }
}
