//! What the path of a record costs, part by part: cutting and ids, writing, scanning, merging.
//!
//! Fixed input (the generator in `tools/gen_corpus.rs`, seed 1), one thread, several runs; each figure is given as smallest,
//! median and largest. Bytes are those of the lines as they were sent, except where a row says "stored". CPU seconds
//! count this thread in user and kernel mode. Without `--bench`, which `cargo bench` gives, one run on a small corpus shows
//! that all of it works: that is what `cargo test --benches` does.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
use oklog::ingest::log::{IngestLog, Limits, Reason};
use oklog::ingest::recover::Ground;
use oklog::query::needle::Matcher;
use oklog::record::id::{IdClock, IdRun, StreamBits};
use oklog::record::line::{Cut, LineCutter};
use oklog::record::stored::{records, whole_len, write};
use oklog::segment::reader::BLOCK;
use oklog::unit::{Bytes, UnixNanos};
use oklog::world::clock::{Clock, SystemClock};
use oklog::world::entropy::SystemEntropy;
use oklog::world::fs::FileSystem;
use oklog::world::fs::nop::NopFs;
use oklog::world::fs::real::RealFs;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "tools/eight_streams.rs"]
mod eight_streams;

/// The generator as it is, so that its lines are those of everyone who measures with it, and a way to have them in memory.
mod corpus {
    #![allow(dead_code, unused, missing_docs, clippy::all, clippy::unwrap_used, clippy::expect_used)]
    include!("tools/gen_corpus.rs");

    /// The first lines of the corpus of this seed with the built-in templates, at least `len` bytes of them.
    pub fn lines(seed: u64, len: usize) -> Vec<u8> {
        let (mut rng, mut clock) = (Rng(seed), Clock { ms: 0 });
        let mut out = Vec::with_capacity(len + 4096);
        let mut line = 0u64;
        while out.len() < len {
            clock.ms += rng.below(200);
            match rng.below(100) {
                0..=34 => nginx(&mut out, &mut rng, &clock),
                35..=72 => json(&mut out, &mut rng, &clock),
                73..=89 => syslog(&mut out, &mut rng, &clock),
                _ => out.extend_from_slice(BUILTIN[rng.below(BUILTIN.len() as u64) as usize].as_bytes()),
            }
            if line % 10 == 7 {
                out.extend_from_slice(b" retry=upstream");
            }
            if line % 10_000 == 4_917 {
                out.extend_from_slice(b" code=E4917");
            }
            out.push(b'\n');
            line += 1;
        }
        out
    }
}

/// What a connection hands on at a time.
const BATCH: usize = 256 << 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&String> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let is_test = args.iter().all(|arg| arg != "--bench");
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (len, runs) = if is_test {
        (1 << 20, 1)
    } else {
        (number("OKLOG_BENCH_BYTES", 64 << 20), number("OKLOG_BENCH_RUNS", 7).max(1))
    };
    let bench = Bench { names: names.into_iter().cloned().collect(), runs };
    let lines = corpus::lines(1, len);
    let stored = stored_form(&lines);
    let count = records(&stored).count();
    println!("corpus: {} bytes in {count} lines, {} bytes stored; {runs} runs", lines.len(), stored.len());
    println!("{:<48} {:>26} {:>26}", "", "MB/s min / median / max", "CPU s per GB, likewise");
    ingest(&bench, &lines);
    scans(&bench, &stored);
    merges(&bench, &stored);
}

struct Bench {
    names: Vec<String>,
    runs: usize,
}

impl Bench {
    /// Runs the work and prints what it cost. `prepare` is not measured.
    fn row<T>(&self, name: &str, bytes: usize, mut prepare: impl FnMut() -> T, mut work: impl FnMut(T)) {
        if !self.names.is_empty() && !self.names.iter().any(|wanted| name.contains(wanted.as_str())) {
            return;
        }
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        // The first run warms up caches and allocator, and does not count.
        for run in 0..=self.runs {
            let prepared = prepare();
            let (start, cpu) = (Instant::now(), cpu_time());
            work(prepared);
            let (wall, cpu) = (start.elapsed().as_secs_f64(), (cpu_time() - cpu).as_secs_f64());
            if run > 0 {
                rates.push(bytes as f64 / 1e6 / wall);
                costs.push(cpu / (bytes as f64 / 1e9));
            }
        }
        println!("{name:<48} {:>26} {:>26}", spread(&mut rates, 0), spread(&mut costs, 2));
    }
}

fn spread(values: &mut [f64], digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let (first, median, last) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    format!("{first:.digits$} / {median:.digits$} / {last:.digits$}")
}

/// CPU time of this thread, in user and kernel mode: clock_gettime(2), `CLOCK_THREAD_CPUTIME_ID`.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The lines as stored records, with ids as an ingester gives them.
fn stored_form(lines: &[u8]) -> Vec<u8> {
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    cutter.finish(lines, &mut cut);
    let mut out = Vec::with_capacity(lines.len() * 5 / 4);
    let ids = IdRun::new(UnixNanos(1_795_000_000_000_000_000), StreamBits::from_random(1), 0);
    for (&(from, to), id) in cut.records.iter().zip(ids) {
        write(&mut out, id, &lines[from as usize..to as usize]);
    }
    out
}

/// Goes through the lines batch by batch, as a connection does.
fn in_batches(lines: &[u8], mut take: impl FnMut(&[u8], &Cut)) {
    let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
    let mut rest = lines;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        if batch.len() == rest.len() {
            cutter.finish(batch, &mut cut);
        } else {
            cutter.cut(batch, &mut cut);
        }
        take(batch, &cut);
        rest = &rest[cut.consumed..];
    }
}

fn ingest(bench: &Bench, lines: &[u8]) {
    let (ids, clock) = (IdClock::resume(UnixNanos(0)), SystemClock::default());
    let mut out = Vec::new();
    bench.row(
        "cut lines and give ids",
        lines.len(),
        || (),
        |()| {
            in_batches(lines, |batch, cut| {
                let first = ids.reserve(clock.unix(), cut.records.len() as u64).first;
                out.clear();
                for (&(from, to), id) in cut.records.iter().zip(IdRun::new(first, StreamBits::from_random(1), 0)) {
                    write(&mut out, id, &batch[from as usize..to as usize]);
                }
                black_box(&out);
            });
        },
    );
    let nowhere: Arc<dyn FileSystem> = Arc::new(NopFs);
    bench.row(
        "the same through the log, to nop",
        lines.len(),
        || open_log(&nowhere),
        |log| write_all(&log, lines, false),
    );
    let disk: Arc<dyn FileSystem> = Arc::new(RealFs);
    bench.row("write segments", lines.len(), || open_log(&disk), |log| write_all(&log, lines, false));
    bench.row("write segments and sync them", lines.len(), || open_log(&disk), |log| write_all(&log, lines, true));
}

/// A log in a directory of its own, which goes with it. Beside the build, so that it is on a disk.
struct Scratch {
    log: Option<IngestLog>,
    dir: tempfile::TempDir,
}

fn open_log(fs: &Arc<dyn FileSystem>) -> Scratch {
    let beside = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let dir = tempfile::tempdir_in(beside).expect("a directory");
    let clock = Arc::new(SystemClock::default());
    let ground = Ground {
        fs: fs.clone(),
        clock,
        entropy: Arc::new(SystemEntropy),
        metrics: Arc::default(),
        live: Arc::default(),
    };
    let limits = Limits {
        flush_size: Bytes(16 << 20),
        flush_age: Duration::from_secs(3),
        pending_timeout: Duration::from_secs(60),
    };
    Scratch { log: Some(IngestLog::open(ground, dir.path(), limits, 1).expect("a sound directory")), dir }
}

fn write_all(scratch: &Scratch, lines: &[u8], sync: bool) {
    let log = scratch.log.as_ref().expect("open");
    in_batches(lines, |batch, cut| {
        log.append(log.fast_slot(0), batch, cut).expect("room on the disk");
    });
    log.close_all(Reason::Size);
    if sync {
        log.flush_closed();
    }
    black_box(scratch.dir.path());
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.log = None;
    }
}

fn scans(bench: &Bench, stored: &[u8]) {
    let rows: [(&str, &str, bool); 6] = [
        ("scan: absent literal", "needle-7f3a9c1e-4b2d", false),
        ("scan: rare literal", " code=E4917", false),
        ("scan: common literal", " retry=upstream", false),
        ("scan: regex with a literal", "code=E[0-9]{4}", true),
        ("scan: regex, weak alternation", "user_id=4ddd7|duration_ms\":4999,", true),
        ("scan: regex without a literal", "[a-f]{12}", true),
    ];
    let mut found = Vec::new();
    for (name, q, regex) in rows {
        let matcher = Matcher::new(q.as_bytes(), regex, false, false).expect("a sound pattern");
        let hits: usize = blocks(stored).map(|block| count_hits(&matcher, block)).sum();
        assert_eq!(hits, records(stored).filter(|record| matcher.matches(record.text())).count(), "{name}");
        bench.row(
            &format!("{name}, {hits} hits (stored)"),
            stored.len(),
            || (),
            |()| {
                for block in blocks(stored) {
                    matcher.scan(block, &mut found);
                    black_box(&found);
                }
            },
        );
    }
}

fn count_hits(matcher: &Matcher, block: &[u8]) -> usize {
    let mut found = Vec::new();
    matcher.scan(block, &mut found);
    found.into_iter().map(|range| records(&block[range]).count()).sum()
}

/// Blocks of whole records, as a segment is read.
fn blocks(stored: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = stored;
    std::iter::from_fn(move || {
        let cut = whole_len(&rest[..rest.len().min(BLOCK)]);
        let (block, later) = rest.split_at(cut);
        rest = later;
        (cut > 0).then_some(block)
    })
}

fn merges(bench: &Bench, stored: &[u8]) {
    for (name, run) in [("merge 8 streams, record by record", 1), ("merge 8 streams, runs of 1,000", 1_000)] {
        let streams = eight_streams::deal(stored, run);
        let sources = || eight_streams::sources(&streams);
        bench.row(&format!("{name} (stored)"), stored.len(), sources, |sources| {
            let merged = eight_streams::merge(sources).expect("sound streams");
            assert_eq!(merged, stored.len(), "every record once");
        });
    }
}
