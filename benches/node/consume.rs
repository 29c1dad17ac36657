//! From the first byte sent until the store has everything, and until it is in order there.
//!
//! *Consumed*: every line was taken, and the ingest tier holds no segment in any state, so the last one was committed, which
//! happens after R stores have it on stable storage. *Compacted*: besides, no compaction runs, and none has ended for 2.5 s,
//! more than two rounds of the housekeeper, who looks once a second; the time counts to the end of the last one.

use crate::Outcome;
use crate::bench::Bench;
use crate::http::Client;
use crate::limits::touch_memory;
use crate::process::{Node, Role};
use crate::spread::Spread;
use crate::table::Row;
use std::time::{Duration, Instant};

/// What old OK Log reached here with 4 connections, MB/s until complete (R = 1).
const OLD: f64 = 27.0;

/// How long nothing is compacted when nothing is left to compact.
const QUIET: Duration = Duration::from_millis(2_500);

/// When it was done.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    pub consumed: Instant,
    pub compacted: Instant,
}

/// Waits until the nodes of these clients have consumed so many lines, all together, and compacted them.
pub fn settle(clients: &mut [Client], lines: u64) -> Outcome<Settled> {
    let deadline = Instant::now() + Duration::from_secs(600);
    let (mut consumed, mut compactions, mut last_change) = (None, 0.0, Instant::now());
    loop {
        let (mut taken, mut held, mut reading, mut ended) = (0.0, 0.0, 0.0, 0.0);
        for client in clients.iter_mut() {
            let metrics = client.metrics()?;
            taken += metrics.sum("oklog_ingest_writer_records_written_total", "");
            held += metrics.sum("oklog_ingest_segments", "");
            reading += metrics.sum("oklog_store_segments", "state=\"reading\"");
            ended += metrics.sum("oklog_store_compact_duration_seconds_count", "");
        }
        let now = Instant::now();
        if reading > 0.0 || ended != compactions {
            (last_change, compactions) = (now, ended);
        }
        if taken >= lines as f64 && held == 0.0 {
            let consumed = *consumed.get_or_insert(now);
            if now.duration_since(last_change.max(consumed)) > QUIET {
                return Ok(Settled { consumed, compacted: last_change.max(consumed) });
            }
        } else if now > deadline {
            return Err(format!("{lines} lines were sent, {taken} taken, {held} segments are not consumed").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until a store has sealed all that it has.
pub fn seal_all(node: &Node) -> Outcome<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !node.files("store", &["flushed", "reading", "active"]).is_empty() {
        if Instant::now() > deadline {
            return Err("segments are left that are not sealed".into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

pub fn run(bench: &mut Bench) -> Outcome<()> {
    let corpus = bench.corpus()?;
    let (mut consumed, mut compacted, mut cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut sent, mut segments) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.long_runs() {
        let node = bench.node(Role::Both, "consumed", &["-store.seal=false"])?;
        touch_memory(4 * bench.options.size);
        let (start, before) = (Instant::now(), node.cpu_s());
        sent.push(bench.tools.push(node.fast(), &corpus.path, 4)?.closed_s);
        let settled = settle(&mut [node.client()], corpus.lines)?;
        cpu.push((node.cpu_s() - before) / corpus.gb());
        consumed.push(corpus.mb() / settled.consumed.duration_since(start).as_secs_f64());
        compacted.push(corpus.mb() / settled.compacted.duration_since(start).as_secs_f64());
        peaks.push(node.peak());
        segments.push(node.files("store", &["flushed"]).len() as f64);
        drop(node);
        bench.place.remove("consumed");
    }
    let note = format!("sent in {:.2} s", Spread::of(sent).median());
    let row = Row::against("consumed", "MB/s", "old, 27", OLD, consumed).note(note);
    bench.add(row.cpu(cpu).peak(peaks));
    let note = format!("{} segments are left", Spread::of(segments));
    bench.add(Row::against("compacted", "MB/s", "old, 27", OLD, compacted).note(note));
    Ok(())
}
