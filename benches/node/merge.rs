//! Merging eight sorted streams, in memory and on one thread, beside a copy of the same bytes.

use crate::Outcome;
use crate::bench::Bench;
use crate::table::Row;
use oklog::merge::k_way::{Merge, MergeError, Source};
use oklog::record::id::{Id, IdRun, StreamBits};
use oklog::record::stored::{records, whole_len, write};
use oklog::segment::reader::BLOCK;
use oklog::unit::UnixNanos;
use std::io::Read;
use std::time::Instant;

/// A segment in memory.
struct InMemory<'a> {
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

/// Twice: records taken in turns from all streams, which is the worst there is, and in runs of 1,000, about what connections
/// leave that send at full speed.
pub fn run(bench: &mut Bench) -> Outcome<()> {
    let mut lines = Vec::new();
    std::fs::File::open(&bench.corpus()?.path)?.take(64 << 20).read_to_end(&mut lines)?;
    lines.truncate(whole_len(&lines));
    let mut stored = Vec::with_capacity(lines.len() * 5 / 4);
    let ids = IdRun::new(UnixNanos(1_795_000_000_000_000_000), StreamBits::from_random(1), 0);
    lines
        .split_inclusive(|b| *b == b'\n')
        .zip(ids)
        .for_each(|(line, id)| write(&mut stored, id, &line[..line.len() - 1]));
    let mut copy = vec![1u8; stored.len()];
    for (name, run) in [("merge", 1), ("merge-runs", 1_000)] {
        let mut streams = vec![Vec::new(); 8];
        for (number, record) in records(&stored).enumerate() {
            streams[number / run % 8].extend_from_slice(record.whole);
        }
        let mut pairs = Vec::new();
        for _ in 0..bench.options.runs() {
            let mb = stored.len() as f64 / 1e6;
            let start = Instant::now();
            let mut at = 0;
            for stream in &streams {
                copy[at..at + stream.len()].copy_from_slice(stream);
                at += stream.len();
            }
            std::hint::black_box(&copy);
            let limit = mb / start.elapsed().as_secs_f64();
            let start = Instant::now();
            merge(&streams, stored.len())?;
            pairs.push((mb / start.elapsed().as_secs_f64(), limit));
        }
        let note = if run == 1 { "record by record" } else { "runs of 1,000 records" };
        bench.add(Row::pairs(name, "MB/s", "memcpy", &pairs).note(note));
    }
    Ok(())
}

fn merge(streams: &[Vec<u8>], len: usize) -> Outcome<()> {
    let first = |stream: &[u8]| records(stream).next().and_then(|record| record.id());
    let sources = streams.iter().filter_map(|stream| Some(InMemory { low: first(stream)?, rest: stream }));
    let mut merge = Merge::new(sources.collect());
    let (mut out, mut merged) = (Vec::new(), 0);
    loop {
        out.clear();
        if !merge.next_run(&mut out, BLOCK).map_err(|e| format!("{e:?}"))? {
            break;
        }
        merged += out.len();
        std::hint::black_box(&out);
    }
    if merged != len {
        return Err(format!("{merged} of {len} bytes came out of the merge").into());
    }
    Ok(())
}
