//! Merging eight sorted streams, in memory and on one thread, beside a copy of the same bytes.

use crate::Outcome;
use crate::bench::Bench;
use crate::eight_streams::{deal, merge, sources};
use crate::table::Row;
use oklog::record::id::{IdRun, StreamBits};
use oklog::record::stored::{whole_len, write};
use oklog::unit::UnixNanos;
use std::io::Read;
use std::time::Instant;

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
        let streams = deal(&stored, run);
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
            let merged = merge(sources(&streams)).map_err(|e| format!("{e:?}"))?;
            pairs.push((mb / start.elapsed().as_secs_f64(), limit));
            if merged != stored.len() {
                return Err(format!("{merged} of {} bytes came out of the merge", stored.len()).into());
            }
        }
        let note = if run == 1 { "record by record" } else { "runs of 1,000 records" };
        bench.add(Row::pairs(name, "MB/s", "memcpy", &pairs).note(note));
    }
    Ok(())
}
