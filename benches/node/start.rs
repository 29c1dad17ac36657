//! A node that begins, and one that has nothing to do.

use crate::Outcome;
use crate::bench::Bench;
use crate::process::{Node, Role};
use crate::segments::{AS_THEY_ARE, Small};
use crate::spread::Spread;
use crate::table::Row;
use std::path::Path;
use std::time::{Duration, Instant};

/// From the start of the process to `/ready`, with small segments in the store. Files are in the page cache.
pub fn start(bench: &mut Bench) -> Outcome<()> {
    let dir = bench.place.fresh("start")?;
    let count = bench.options.many(10_000) as u64;
    Small::make(&dir, count)?;
    let (mut times, mut peaks) = (Vec::new(), Vec::new());
    // The first start draws the directory's identity.
    for run in 0..=bench.options.runs() {
        let (node, took) = timed_start(bench, &dir)?;
        if run > 0 {
            times.push(took.as_secs_f64());
            peaks.push(node.peak());
        }
    }
    bench.place.remove("start");
    bench.add(Row::alone("start", "s", Spread::of(times)).peak(peaks).note(format!("{count} segments")));
    Ok(())
}

/// Starts a node of both tiers on small segments, and says how long it took until it was ready.
pub fn timed_start(bench: &Bench, dir: &Path) -> Outcome<(Node, Duration)> {
    let start = Instant::now();
    let node = Node::start(&bench.place, &bench.options.binary, Role::Both, dir, AS_THEY_ARE)?;
    Ok((node, start.elapsed()))
}

/// A query of which three segments know something: as an answer on a connection that stays open, which is judged.
pub fn few(bench: &mut Bench) -> Outcome<()> {
    let dir = bench.place.fresh("few")?;
    let count = bench.options.many(10_000) as u64;
    let small = Small::make(&dir, count)?;
    let (node, _) = timed_start(bench, &dir)?;
    let (range, records) = small.three();
    let target = format!("/store/query?{range}&q=");
    let mut client = node.client();
    let mut times = Vec::new();
    // The first one checks what was found at the start.
    for number in 0..=bench.options.many(200).max(20) {
        let start = Instant::now();
        let lines = client.count_lines(&target)?;
        if lines != records {
            return Err(format!("{lines} records in place of {records}").into());
        }
        if number > 0 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    drop(node);
    bench.place.remove("few");
    bench.add(
        Row::alone("few", "ms", Spread::of(times)).note(format!("3 of {count} segments, {records} records, HTTP")),
    );
    Ok(())
}

/// A node of both tiers without data.
pub fn idle(bench: &mut Bench) -> Outcome<()> {
    let node = bench.node(Role::Both, "idle-node", &[])?;
    watch(bench, "idle-node", &node)
}

/// Memory and CPU of a node that nobody calls.
pub fn watch(bench: &mut Bench, name: &str, node: &Node) -> Outcome<()> {
    std::thread::sleep(Duration::from_secs(2));
    let (cpu, start) = (node.cpu_s(), Instant::now());
    std::thread::sleep(Duration::from_secs(bench.options.seconds(30)));
    let percent = (node.cpu_s() - cpu) / start.elapsed().as_secs_f64() * 100.0;
    let mib = node.resident() / f64::from(1 << 20);
    bench.add(Row::alone(&format!("{name}-memory"), "MiB", Spread::one(mib)).peak(vec![node.peak()]));
    let note = format!("of one core, over {:.0} s", start.elapsed().as_secs_f64());
    bench.add(Row::alone(&format!("{name}-cpu"), "%", Spread::one(percent)).note(note));
    Ok(())
}
