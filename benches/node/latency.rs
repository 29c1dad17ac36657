//! How soon a line that was sent is seen.

use crate::Outcome;
use crate::bench::Bench;
use crate::http::{encode, producer};
use crate::process::{Role, Running, wait_for};
use crate::spread::Spread;
use crate::table::Row;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A line on an open connection, then queries for it, one after the other, until one finds it.
pub fn found(bench: &mut Bench) -> Outcome<()> {
    let node = bench.node(Role::Both, "found", &[])?;
    let (mut stream, mut client) = (producer(node.fast())?, node.client());
    let mut times = Vec::new();
    // The first few find the way.
    for number in 0..bench.options.many(500).max(50) + 10 {
        let token = format!("latency-{number:08x}");
        let target = format!("/store/query?from=1m&q={}", encode(&token));
        let start = Instant::now();
        stream
            .write_all(format!("a line of the usual length, that says {token} and {}\n", "y".repeat(120)).as_bytes())?;
        while client.get(&target)?.is_empty() {
            if start.elapsed() > Duration::from_secs(10) {
                return Err("a line is not found within 10 s".into());
            }
        }
        if number >= 10 {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    drop(node);
    let times = Spread::of(times);
    let (p50, p99) = (times.median(), times.quantile(0.99));
    let note = format!("p50 {p50:.2}, p99 {p99:.2}, judged by p99");
    bench.add(Row::alone("found", "ms", times).judged_by(p99).note(note));
    Ok(())
}

/// 1,000 lines a second on one connection, and `oklog stream -window 0`, which prints them.
pub fn streamed(bench: &mut Bench) -> Outcome<()> {
    let node = bench.node(Role::Both, "streamed", &[])?;
    let mut command = Command::new(&bench.options.binary);
    command.args(["stream", "-store", node.api(), "-window", "0s", "-q", "streamed-"]).stdout(Stdio::piped());
    let mut reader = Running::spawn(&bench.place, command.stdin(Stdio::null()))?;
    let pipe = reader.child().stdout.take().ok_or("no pipe")?;
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let number = line.split("streamed-").nth(1).and_then(|rest| rest.get(..8)?.parse::<usize>().ok());
            if tell.send((number.unwrap_or(usize::MAX), Instant::now())).is_err() {
                return;
            }
        }
    });
    let mut stream = producer(node.fast())?;
    wait_for("the stream prints", || {
        stream.write_all(b"streamed-99999999\n").ok()?;
        told.recv_timeout(Duration::from_millis(100)).ok()
    })?;
    let lines = bench.options.many(10_000);
    let (start, mut sent) = (Instant::now(), Vec::with_capacity(lines));
    for number in 0..lines {
        let due = start + Duration::from_millis(number as u64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        sent.push(Instant::now());
        stream.write_all(format!("streamed-{number:08} and {}\n", "y".repeat(150)).as_bytes())?;
    }
    let mut times = Vec::with_capacity(lines);
    while times.len() < lines {
        let (number, at) = told
            .recv_timeout(Duration::from_secs(10))
            .map_err(|_| format!("{} of {lines} lines were printed within 10 s", times.len()))?;
        if let Some(sent) = sent.get(number) {
            times.push(at.duration_since(*sent).as_secs_f64() * 1e3);
        }
    }
    drop((reader, node));
    let times = Spread::of(times);
    let (p50, p99) = (times.median(), times.quantile(0.99));
    let note = format!("p50 {p50:.2}, p99 {p99:.2}, judged by p99");
    bench.add(Row::alone("streamed", "ms", times).judged_by(p99).note(note));
    Ok(())
}
