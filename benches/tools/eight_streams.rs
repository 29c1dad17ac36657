//! Sorted streams in memory, for measuring a merge: what both benchmarks of it share.

use oklog::merge::k_way::{Merge, MergeError, Source};
use oklog::record::id::Id;
use oklog::record::stored::{records, whole_len};
use oklog::segment::reader::BLOCK;

/// A segment in memory.
pub struct InMemory<'a> {
    low: Id,
    rest: &'a [u8],
}

impl Source for InMemory<'_> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let cut = whole_len(&self.rest[..self.rest.len().min(BLOCK)]);
        let (front, later) = self.rest.split_at(cut);
        block.clear();
        block.extend_from_slice(front);
        self.rest = later;
        Ok(cut > 0)
    }

    fn low(&self) -> Id {
        self.low
    }
}

/// Deals records out to eight streams in turn, `run` of them at a time.
pub fn deal(stored: &[u8], run: usize) -> Vec<Vec<u8>> {
    let mut streams = vec![Vec::new(); 8];
    for (number, record) in records(stored).enumerate() {
        streams[number / run % 8].extend_from_slice(record.whole);
    }
    streams
}

/// The streams that are not empty, from their beginning.
pub fn sources(streams: &[Vec<u8>]) -> Vec<InMemory<'_>> {
    let first = |stream: &[u8]| records(stream).next().and_then(|record| record.id());
    streams.iter().filter_map(|stream| Some(InMemory { low: first(stream)?, rest: stream })).collect()
}

/// Merges them, and gives how many bytes come out.
pub fn merge(sources: Vec<InMemory<'_>>) -> Result<usize, MergeError> {
    let (mut merge, mut out, mut merged) = (Merge::new(sources), Vec::new(), 0);
    loop {
        out.clear();
        if !merge.next_run(&mut out, BLOCK)? {
            return Ok(merged);
        }
        merged += out.len();
        std::hint::black_box(&out);
    }
}
