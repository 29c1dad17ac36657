//! The reading room over sealed segments, what they take on the disk, and what it costs to make them.
//!
//! Queries go over one connection that stays open, as a person's page or a tool's would, beside whole processes of `rg` over
//! the plain text; what the whole command takes is a row of its own.

use crate::Outcome;
use crate::bench::Bench;
use crate::http::{EVER, encode};
use crate::process::time;
use crate::query::{count, oklog, rg, searched};
use crate::spread::Spread;
use crate::table::Row;
use oklog::record::id::{IdRun, StreamBits};
use oklog::record::stored::{PREFIX_LEN, whole_len, write};
use oklog::segment::sealed::{Sealed, SealedWriter, Unpacker};
use oklog::unit::UnixNanos;
use oklog::world::fs::FileSystem;
use oklog::world::fs::real::RealFs;
use std::io::Read;
use std::time::Instant;

/// Files of the store by the size of the raw text.
pub fn disk(bench: &mut Bench) -> Outcome<()> {
    let loaded = bench.loaded()?;
    let (share, files) = (loaded.stored as f64 / loaded.corpus.bytes as f64, loaded.segments.len());
    bench.add(Row::alone("sealed-disk", "of raw", Spread::one(share)).note(format!("{share:.4}, {files} segments")));
    Ok(())
}

/// A text that the filter finds in few blocks or none; `rg` on the one file.
pub fn needle(bench: &mut Bench, row: &str, q: &str) -> Outcome<()> {
    let ours = against_rg(bench, row, q, false, false)?;
    bench.add(Row::alone(&format!("{row}-ms"), "ms", Spread::of(ours)).note("the same, in ms"));
    Ok(())
}

/// A text with many hits, each in a block of its own; `rg` on all cores.
pub fn code(bench: &mut Bench) -> Outcome<()> {
    against_rg(bench, "sealed-code", " code=E4917", false, true).map(drop)
}

/// So many hits that the filter leaves every block.
pub fn hits(bench: &mut Bench) -> Outcome<()> {
    let ours = against_rg(bench, "sealed-hits", " retry=upstream", false, false)?;
    bench.add(Row::alone("sealed-hits-ms", "ms", Spread::of(ours)).note("the same, in ms"));
    Ok(())
}

/// A text that is too short for the filter, and nowhere: everything is unpacked and searched. Text, ids included, by CPU
/// seconds of the node.
pub fn scan(bench: &mut Bench) -> Outcome<()> {
    let target = format!("/store/query?{EVER}&q={}", encode("q~q"));
    let mut rates = Vec::new();
    let loaded = bench.loaded()?;
    let gb = (loaded.corpus.bytes + loaded.corpus.lines * PREFIX_LEN as u64) as f64 / 1e9;
    let mut client = loaded.node.client();
    let mut walls = Vec::new();
    for _ in 0..bench.options.runs() {
        let (before, start) = (loaded.node.cpu_s(), Instant::now());
        client.drain(&target)?;
        walls.push(gb / start.elapsed().as_secs_f64());
        rates.push(gb / (loaded.node.cpu_s() - before));
    }
    let note = format!("by CPU seconds; {} GB/s by the clock", Spread::of(walls));
    bench.add(Row::alone("sealed-scan", "GB/s", Spread::of(rates)).note(note));
    Ok(())
}

/// An expression of which the filter knows nothing, and whose search costs more than unpacking; `rg` on all cores.
pub fn pattern(bench: &mut Bench) -> Outcome<()> {
    against_rg(bench, "sealed-hex12", "[a-f]{12}", true, true).map(drop)
}

/// Times of a query in ms, each with `rg` before it: on the one file, or on 16 and so on all cores.
fn against_rg(bench: &mut Bench, row: &str, q: &str, is_regex: bool, on_all_cores: bool) -> Outcome<Vec<f64>> {
    let target = format!("/store/query?{EVER}&q={}{}", encode(q), if is_regex { "&regex=true" } else { "" });
    let flags: Vec<&str> = ["-q", q].into_iter().chain(is_regex.then_some("-regex")).collect();
    let found = count(bench, q, is_regex, &target)?;
    let loaded = bench.loaded()?;
    let mut client = loaded.node.client();
    let (mut ours, mut limit, mut command) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut limit_cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    let gb = loaded.corpus.gb();
    for _ in 0..bench.options.runs() {
        if bench.has_rg {
            let path = if on_all_cores { &loaded.pieces } else { &loaded.corpus.path };
            let took = searched(time(&bench.place, &mut rg(&[], q, is_regex, path))?, "rg")?;
            limit.push(took.ms());
            limit_cpu.push(took.cpu_s / gb);
        }
        loaded.node.forget_peak();
        let (before, start) = (loaded.node.cpu_s(), Instant::now());
        client.drain(&target)?;
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        cpu.push((loaded.node.cpu_s() - before) / gb);
        peaks.push(loaded.node.peak());
        command.push(searched(time(&bench.place, &mut oklog(bench, &flags)?)?, "oklog query")?.ms());
    }
    let note = format!("{found} hits, HTTP");
    if bench.has_rg {
        let against = if on_all_cores { "rg/16" } else { "rg" };
        let pairs: Vec<_> = ours.iter().copied().zip(limit).collect();
        bench.add(Row::pairs(row, "ms", against, &pairs).cpu(cpu).limit_cpu(limit_cpu).peak(peaks).note(note));
    }
    bench.add(Row::alone(&format!("{row}-cli"), "ms", Spread::of(command)).note("the whole command"));
    Ok(ours)
}

/// One thread packs stored records, ids included, and reads them back as compaction does before it gives its inputs up. By
/// the CPU time of the thread: what is promised is a rate per core.
pub fn seal(bench: &mut Bench) -> Outcome<()> {
    let mut lines = Vec::new();
    std::fs::File::open(&bench.corpus()?.path)?.take(128 << 20).read_to_end(&mut lines)?;
    lines.truncate(whole_len(&lines));
    let mut stored = Vec::with_capacity(lines.len() * 5 / 4);
    let ids = IdRun::new(UnixNanos(1_795_000_000_000_000_000), StreamBits::from_random(1), 0);
    let texts = lines.split_inclusive(|b| *b == b'\n').zip(ids);
    texts.for_each(|(line, id)| write(&mut stored, id, &line[..line.len() - 1]));
    let mb = stored.len() as f64 / 1e6;
    let (mut rates, mut back, mut share) = (Vec::new(), Vec::new(), 0.0);
    for _ in 0..bench.options.long_runs() {
        bench.place.remove("packed");
        let fs = RealFs;
        let start = thread_cpu_s();
        let mut writer = SealedWriter::new(fs.create_new(&bench.place.path("packed"))?)?;
        let mut rest = &stored[..];
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(whole_len(&rest[..rest.len().min(1 << 20)]));
            writer.append(piece)?;
            rest = later;
        }
        let (_, disk) = writer.finish()?;
        let packed = thread_cpu_s();
        let sealed = Sealed::open(fs.open(&bench.place.path("packed"))?)?;
        let (mut unpacker, mut text, mut read) = (Unpacker::new()?, Vec::new(), 0);
        for block in 0..sealed.blocks().len() {
            sealed.unpack(block, &mut unpacker, &mut text)?;
            read += text.len();
        }
        if read != stored.len() {
            return Err(format!("{read} of {} bytes came back", stored.len()).into());
        }
        let end = thread_cpu_s();
        back.push(mb / (end - packed));
        rates.push(mb / (end - start));
        share = disk.0 as f64 / lines.len() as f64;
    }
    bench.place.remove("packed");
    let note = format!("by CPU seconds; read back at {} MB/s; {share:.4} of the raw text", Spread::of(back));
    bench.add(Row::alone("seal", "MB/s", Spread::of(rates)).note(note));
    Ok(())
}

fn thread_cpu_s() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
