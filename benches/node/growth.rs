//! How cost grows: time per byte with the amount, memory with everything there can be more of.

use crate::Outcome;
use crate::bench::Bench;
use crate::consume::settle;
use crate::corpus::Corpus;
use crate::http::{EVER, encode};
use crate::limits::touch_memory;
use crate::process::{Node, Role};
use crate::segments::{Small, joinable, overlapping};
use crate::spread::Spread;
use crate::start::timed_start;
use crate::table::Row;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn mib(bytes: u64) -> String {
    match bytes >> 20 {
        mib if mib >= 1024 && mib % 1024 == 0 => format!("{}G", mib >> 10),
        mib => format!("{mib}M"),
    }
}

/// Time per GB of raw lines, for four things, and how much dearer it is at the largest size than at the smallest.
pub fn size(bench: &mut Bench) -> Outcome<()> {
    let size = bench.options.size;
    let mut sizes = vec![size / 4, size];
    if bench.options.large {
        sizes.extend([size * 4, size * 8]);
    }
    let names = ["ingest", "consumed", "needle", "dump"];
    let mut all: Vec<Vec<f64>> = vec![Vec::new(); names.len()];
    for size in &sizes {
        bench.place.need(size * 4)?;
        let corpus = Corpus::make(&bench.tools, &bench.place, "growth.log", *size)?;
        let (costs, peak) = at_size(bench, &corpus)?;
        bench.place.remove("growth.log");
        for (number, cost) in costs.into_iter().enumerate() {
            all[number].push(cost.median());
            let row = Row::alone(&format!("{}-{}", names[number], mib(*size)), "s per GB", cost);
            bench.add(row.peak(vec![peak]));
        }
    }
    for (name, costs) in names.iter().zip(all) {
        let grown = costs[costs.len() - 1] / costs[0];
        let note = format!("time per byte at {} by that at {}", mib(sizes[sizes.len() - 1]), mib(sizes[0]));
        bench.add(Row::alone(&format!("flat-{name}"), "x", Spread::one(grown)).note(note));
    }
    Ok(())
}

fn at_size(bench: &Bench, corpus: &Corpus) -> Outcome<(Vec<Spread>, f64)> {
    let node = bench.node(Role::Ingest, "growth", &["-ingest.drain-timeout=0s"])?;
    let ingest = bench.tools.push(node.fast(), &corpus.path, 4)?.closed_s / corpus.gb();
    drop(node);
    let node = bench.node(Role::Both, "growth", &[])?;
    let start = Instant::now();
    bench.tools.push(node.fast(), &corpus.path, 4)?;
    let settled = settle(&mut [node.client()], corpus.lines)?;
    let consumed = settled.consumed.duration_since(start).as_secs_f64() / corpus.gb();
    let mut client = node.client();
    let (mut needle, mut dump) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.long_runs() {
        let start = Instant::now();
        client.drain(&format!("/store/query?{EVER}&q=needle-7f3a9c1e-4b2d"))?;
        needle.push(start.elapsed().as_secs_f64() / corpus.gb());
        let start = Instant::now();
        client.drain(&format!("/store/query?{EVER}&q="))?;
        dump.push(start.elapsed().as_secs_f64() / corpus.gb());
    }
    let peak = node.peak();
    drop(node);
    bench.place.remove("growth");
    Ok((vec![Spread::one(ingest), Spread::one(consumed), Spread::of(needle), Spread::of(dump)], peak))
}

/// Peak memory of a node while it answers.
pub fn result(bench: &mut Bench) -> Outcome<()> {
    let mut rows = Vec::new();
    let node = &bench.loaded()?.node;
    for (name, q) in [("nothing", "nowhere-to-be-found"), ("hits", " retry=upstream"), ("everything", "")] {
        let mut peaks = Vec::new();
        let mut lines = 0;
        for _ in 0..bench.options.long_runs() {
            node.forget_peak();
            lines = node.client().count_lines(&format!("/store/query?{EVER}&q={}", encode(q)))?;
            peaks.push(node.peak() / f64::from(1 << 20));
        }
        rows.push(Row::alone(&format!("result-{name}"), "MiB", Spread::of(peaks)).note(format!("{lines} records")));
    }
    rows.into_iter().for_each(|row| bench.add(row));
    Ok(())
}

/// Peak memory of a node while it answers several queries for everything.
pub fn queries(bench: &mut Bench) -> Outcome<()> {
    let mut rows = Vec::new();
    let node = &bench.loaded()?.node;
    for count in [1, 4, 16, 64] {
        node.forget_peak();
        let start = Instant::now();
        let answered: u64 = std::thread::scope(|scope| {
            let ask =
                || node.client().drain(&format!("/store/query?{EVER}&q= retry=upstream").replace("= ", "=%20")).is_ok();
            let asking: Vec<_> = (0..count).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| u64::from(thread.join().unwrap_or(false))).sum()
        });
        let note = format!("{answered} answered in {:.2} s", start.elapsed().as_secs_f64());
        rows.push(
            Row::alone(&format!("queries-{count}"), "MiB", Spread::one(node.peak() / f64::from(1 << 20))).note(note),
        );
    }
    rows.into_iter().for_each(|row| bench.add(row));
    Ok(())
}

/// Memory, and time until ready, with many segments.
pub fn segments(bench: &mut Bench) -> Outcome<()> {
    for count in [1_000, 10_000, 100_000].map(|count| bench.options.many(count) as u64) {
        let dir = bench.place.fresh("many")?;
        bench.place.need(count * 4096 * 2)?;
        let small = Small::make(&dir, count)?;
        drop(timed_start(bench, &dir)?);
        let (node, took) = timed_start(bench, &dir)?;
        let at_rest = node.resident() / f64::from(1 << 20);
        let start = Instant::now();
        node.client().drain(&format!("/store/query?{}&q=", small.three().0))?;
        let few = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let lines = node.client().count_lines(&format!("/store/query?{EVER}&q="))?;
        let all = start.elapsed().as_secs_f64();
        let note = format!(
            "ready in {:.3} s; 3 segments in {few:.1} ms; all {lines} records in {all:.2} s",
            took.as_secs_f64()
        );
        let row = Row::alone(&format!("segments-{count}"), "MiB", Spread::one(at_rest));
        bench.add(row.peak(vec![node.peak()]).note(note));
        drop(node);
        bench.place.remove("many");
    }
    Ok(())
}

/// Peak memory of a query for everything, and its time, with segments that lie over each other from end to end.
pub fn sources(bench: &mut Bench) -> Outcome<()> {
    let bytes = bench.options.size / 4;
    for count in [1, 8, 64] {
        let dir = bench.place.fresh("sources")?;
        bench.place.need(bytes * 2)?;
        overlapping(&dir, count, bytes)?;
        let node = Node::start(&bench.place, &bench.options.binary, Role::Both, &dir, &["-store.seal=false"])?;
        // The first one checks what was found at the start.
        node.client().drain(&format!("/store/query?{EVER}&q="))?;
        node.forget_peak();
        let (mut peaks, mut times) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.long_runs() {
            let start = Instant::now();
            node.client().drain(&format!("/store/query?{EVER}&q="))?;
            times.push(bytes as f64 / 1e6 / start.elapsed().as_secs_f64());
            peaks.push(node.peak() / f64::from(1 << 20));
        }
        let left = node.files("store", &["flushed"]).len();
        let note = format!("{} MB/s, {left} segments", Spread::of(times));
        bench.add(Row::alone(&format!("sources-{count}"), "MiB", Spread::of(peaks)).note(note));
        drop(node);
        bench.place.remove("sources");
    }
    Ok(())
}

/// The rate of the fast port of a node of both tiers while four queries scan all the time and compaction runs, against its
/// rate when it has nothing else to do. For compaction to have work, segments of 1 MiB are put into the store while it is
/// stopped, half as much as the corpus.
pub fn beside(bench: &mut Bench) -> Outcome<()> {
    let corpus = bench.corpus()?;
    let pieces = corpus.cut(&bench.place.fresh("beside-pieces")?, 4)?;
    let piece_mb = pieces[0].metadata()?.len() as f64 / 1e6;
    let dir = bench.place.fresh("beside")?;
    let start = || Node::start(&bench.place, &bench.options.binary, Role::Both, &dir, &[]);
    let mut node = start()?;
    bench.tools.push(node.fast(), &corpus.path, 4)?;
    let (mut pairs, mut asked, mut compacting) = (Vec::new(), 0, 0);
    for run in 0..bench.options.long_runs() {
        settle_all(&node)?;
        touch_memory(4 * bench.options.size);
        let alone = piece_mb / bench.tools.push(node.fast(), &pieces[0], 4)?.closed_s;
        settle_all(&node)?;
        drop(node);
        let small = bench.options.size >> 21;
        joinable(&dir, small, 600 + (run as u64) * (small + 60))?;
        // What was laid in is on the disk before: its write-back is none of the node's.
        std::process::Command::new("sync").status()?;
        touch_memory(4 * bench.options.size);
        node = start()?;
        let stop = AtomicBool::new(false);
        let beside = std::thread::scope(|scope| {
            let ask = || {
                let (mut client, mut count) = (node.client(), 0);
                while !stop.load(Ordering::Relaxed) {
                    count += u64::from(client.drain(&format!("/store/query?{EVER}&q=nowhere-to-be-found")).is_ok());
                }
                count
            };
            let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
            let began = wait_for_compaction(&node);
            let pushed = bench.tools.push(node.fast(), &pieces[1], 4);
            // Still at it, or again: then it ran beside all or nearly all of the push.
            compacting += u64::from(began && wait_for_compaction(&node));
            stop.store(true, Ordering::Relaxed);
            asked += asking.into_iter().map(|thread| thread.join().unwrap_or(0)).sum::<u64>();
            pushed
        });
        pairs.push((piece_mb / beside?.closed_s, alone));
    }
    drop(node);
    bench.place.remove("beside");
    bench.place.remove("beside-pieces");
    let note = format!("{asked} queries ended, compaction ran in {compacting} of {} runs", pairs.len());
    bench.add(Row::pairs("beside", "MB/s", "alone", &pairs).note(note));
    Ok(())
}

/// Waits until a compaction runs, two seconds at most; whether one does.
fn wait_for_compaction(node: &Node) -> bool {
    let (mut client, start) = (node.client(), Instant::now());
    while start.elapsed() < Duration::from_secs(2) {
        let reading = client.metrics().map_or(0.0, |metrics| metrics.sum("oklog_store_segments", "state=\"reading\""));
        if reading > 0.0 {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Waits until all that the node has taken since its start is consumed and compacted.
fn settle_all(node: &Node) -> Outcome<()> {
    let lines = node.client().metrics()?.sum("oklog_ingest_writer_records_written_total", "") as u64;
    settle(&mut [node.client()], lines).map(drop)
}
