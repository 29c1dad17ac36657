//! Many connections: silent ones, and slow ones.

use crate::Outcome;
use crate::bench::Bench;
use crate::http::producer;
use crate::process::{Node, Role, wait_for};
use crate::spread::Spread;
use crate::table::Row;
use oklog::segment::name::{Bounds, State, parse};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

/// What the kernel lets this process and its children have open.
fn most_files() -> u64 {
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let (current, most) = (limits.current.unwrap_or(u64::MAX), limits.maximum.unwrap_or(u64::MAX));
    let raised = rustix::process::Rlimit { current: limits.maximum, maximum: limits.maximum };
    // Where it may not be raised, what is there has to do.
    match rustix::process::setrlimit(rustix::process::Resource::Nofile, raised) {
        Ok(()) => most,
        Err(_) => current,
    }
}

/// Memory of each connection that is silent: those that never sent anything, and those that have sent a line.
pub fn idle(bench: &mut Bench) -> Outcome<()> {
    let wanted = bench.options.many(10_000);
    let count = wanted.min((most_files().saturating_sub(200)) as usize);
    for (name, line) in [("idle-connections", None), ("idle-after-a-line", Some(format!("{}\n", "z".repeat(189))))] {
        let mut figures = Vec::new();
        let mut threads = 0.0;
        for _ in 0..bench.options.long_runs() {
            let node = bench.node(Role::Ingest, "idle", &["-ingest.drain-timeout=0s"])?;
            let before = node.resident();
            let streams = open(&node, count, line.as_deref())?;
            let mut client = node.client();
            wait_for("all connections are taken", || {
                let metrics = client.metrics().ok()?;
                let lines = if line.is_some() { count as f64 } else { 0.0 };
                (metrics.sum("oklog_connected_clients", "") >= count as f64
                    && metrics.sum("oklog_ingest_writer_records_written_total", "") >= lines)
                    .then_some(())
            })?;
            // Until every thread has gone back to waiting.
            std::thread::sleep(Duration::from_millis(500));
            figures.push((node.resident() - before) / count as f64 / 1024.0);
            threads = client.metrics()?.sum("process_threads", "");
            drop(streams);
        }
        bench.place.remove("idle");
        let less = if count < wanted { ", no more for want of file descriptors (ulimit -n)" } else { "" };
        let note = format!("{count} connections, {threads} threads{less}");
        bench.add(Row::alone(name, "KiB each", Spread::of(figures)).note(note));
    }
    Ok(())
}

fn open(node: &Node, count: usize, line: Option<&str>) -> Outcome<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = producer(node.fast())?;
        if let Some(line) = line {
            stream.write_all(line.as_bytes())?;
        }
        streams.push(stream);
    }
    Ok(streams)
}

/// 2,000 connections that send 10 lines a second each: how far the store is behind, and how many files are made.
pub fn busy(bench: &mut Bench) -> Outcome<()> {
    let count = 2_000.min((most_files().saturating_sub(200)) as usize);
    let span = Duration::from_secs(bench.options.seconds(60).max(12));
    let node = bench.node(Role::Both, "busy", &[])?;
    let streams = open(&node, count, None)?;
    let dir = node.dir().to_path_buf();
    let watch = std::thread::spawn(move || watch(&dir, span));
    let cpu = node.cpu_s();
    let sent = send(streams, span)?;
    let cpu = (node.cpu_s() - cpu) / span.as_secs_f64();
    let seen = watch.join().map_err(|_| "the watch broke")??;
    let peak = node.peak();
    drop(node);
    bench.place.remove("busy");
    let note = format!(
        "{count} connections, {:.0} lines/s for {} s, CPU {:.1} %, judged by the worst",
        sent as f64 / span.as_secs_f64(),
        span.as_secs(),
        cpu * 100.0
    );
    let lag = Spread::of(seen.lag_s);
    let worst = lag.max();
    bench.add(Row::alone("busy-lag", "s", lag).judged_by(worst).peak(vec![peak]).note(note));
    let minutes = span.as_secs_f64() / 60.0;
    let note = format!("ingest {}, store {} in {} s", seen.ingest, seen.store, span.as_secs());
    let files = Spread::one((seen.ingest + seen.store) as f64 / minutes);
    bench.add(Row::alone("busy-files", "per minute", files).note(note));
    Ok(())
}

/// Sends a line on each connection ten times a second, evenly, and counts them.
fn send(mut streams: Vec<TcpStream>, span: Duration) -> Outcome<u64> {
    let line = format!("{}\n", "w".repeat(188));
    let (start, mut sent) = (Instant::now(), 0u64);
    let count = streams.len() as u64;
    loop {
        for stream in &mut streams {
            stream.write_all(line.as_bytes())?;
            sent += 1;
            if sent.is_multiple_of(count / 100) {
                let due = start + Duration::from_secs_f64(sent as f64 / (count as f64 * 10.0));
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        }
        if start.elapsed() >= span {
            return Ok(sent);
        }
    }
}

/// What was seen in the directories.
struct Seen {
    /// How old the newest record in the store was, each time.
    lag_s: Vec<f64>,
    /// Different names of ingest segments, and of store segments.
    ingest: usize,
    store: usize,
}

fn watch(dir: &std::path::Path, span: Duration) -> Outcome<Seen> {
    let (start, mut lag_s) = (Instant::now(), Vec::new());
    let (mut ingest, mut store) = (BTreeSet::new(), BTreeSet::new());
    // Nothing can be in the store before the first segment was old enough.
    let settled = span.min(Duration::from_secs(10));
    while start.elapsed() < span {
        let list = |tier: &str| -> Outcome<Vec<(Bounds, State)>> {
            let entries = std::fs::read_dir(dir.join(tier))?.flatten();
            Ok(entries.filter_map(|entry| parse(entry.file_name().to_str()?)).collect())
        };
        ingest.extend(list("ingest")?.into_iter().map(|(bounds, _)| bounds));
        let segments: Vec<Bounds> =
            list("store")?.into_iter().filter(|(_, state)| *state != State::Active).map(|(bounds, _)| bounds).collect();
        let newest = segments.iter().filter_map(|bounds| match bounds {
            Bounds::Range(_, high, _) => Some(high.nanos().0),
            Bounds::From(_) => None,
        });
        if let (true, Some(newest)) = (start.elapsed() >= settled, newest.max()) {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
            lag_s.push(now.as_secs_f64() - newest as f64 / 1e9);
        }
        store.extend(segments);
        std::thread::sleep(Duration::from_millis(20));
    }
    if lag_s.is_empty() {
        return Err("nothing came into the store".into());
    }
    Ok(Seen { lag_s, ingest: ingest.len(), store: store.len() })
}
