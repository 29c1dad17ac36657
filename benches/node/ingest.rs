//! The front door: lines from the load client's first byte until every connection is closed.

use crate::Outcome;
use crate::bench::Bench;
use crate::http::{end, producer};
use crate::limits::{syncs_per_second, touch_memory};
use crate::process::{Role, cpu_s};
use crate::table::Row;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

/// Nothing leaves the ingest tier while it is measured, and an end is not waited for.
const ALONE: &[&str] = &["-ingest.drain-timeout=0s"];

/// Which port lines are sent to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Fast,
    Durable,
}

/// What one push has cost.
struct Cost {
    mb_per_s: f64,
    cpu_per_gb: f64,
    peak: f64,
}

/// The fast port against a receiver that writes to a file and does nothing else.
pub fn fast(bench: &mut Bench, connections: usize) -> Outcome<()> {
    let (mut pairs, mut cpu, mut limit_cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.runs() {
        let limit = sink(bench, connections)?;
        let ours = push(bench, Port::Fast, connections)?;
        pairs.push((ours.mb_per_s, limit.mb_per_s));
        cpu.push(ours.cpu_per_gb);
        limit_cpu.push(limit.cpu_per_gb);
        peaks.push(ours.peak);
    }
    let row = Row::pairs(&format!("ingest-{connections}"), "MB/s", "sink", &pairs);
    bench.add(row.cpu(cpu).limit_cpu(limit_cpu).peak(peaks));
    Ok(())
}

/// The durable port against the fast one.
pub fn durable_many(bench: &mut Bench) -> Outcome<()> {
    let (mut pairs, mut cpu, mut limit_cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.runs() {
        let limit = push(bench, Port::Fast, 16)?;
        let ours = push(bench, Port::Durable, 16)?;
        pairs.push((ours.mb_per_s, limit.mb_per_s));
        cpu.push(ours.cpu_per_gb);
        limit_cpu.push(limit.cpu_per_gb);
        peaks.push(ours.peak);
    }
    let row = Row::pairs("durable-16", "MB/s", "fast port", &pairs);
    bench.add(row.cpu(cpu).limit_cpu(limit_cpu).peak(peaks));
    Ok(())
}

fn sink(bench: &mut Bench, connections: usize) -> Outcome<Cost> {
    let corpus = bench.corpus()?;
    bench.place.remove("sink");
    touch_memory(2 * bench.options.size);
    let (sink, address) = bench.tools.sink(&bench.place, &bench.place.path("sink"))?;
    let pushed = bench.tools.push(&address, &corpus.path, connections)?;
    let cpu_per_gb = cpu_s(sink.pid()) / corpus.gb();
    drop(sink);
    bench.place.remove("sink");
    Ok(Cost { mb_per_s: corpus.mb() / pushed.closed_s, cpu_per_gb, peak: 0.0 })
}

fn push(bench: &mut Bench, port: Port, connections: usize) -> Outcome<Cost> {
    let corpus = bench.corpus()?;
    let node = bench.node(Role::Ingest, "ingest", ALONE)?;
    touch_memory(2 * bench.options.size);
    let address = if port == Port::Fast { node.fast() } else { node.durable() };
    let cpu = node.cpu_s();
    let pushed = bench.tools.push(address, &corpus.path, connections)?;
    let cost = Cost {
        mb_per_s: corpus.mb() / pushed.closed_s,
        cpu_per_gb: (node.cpu_s() - cpu) / corpus.gb(),
        peak: node.peak(),
    };
    let taken = node.client().metrics()?.sum("oklog_ingest_writer_records_written_total", "");
    if taken != corpus.lines as f64 {
        return Err(format!("{} lines were sent and {taken} taken", corpus.lines).into());
    }
    drop(node);
    bench.place.remove("ingest");
    Ok(cost)
}

/// One line at a time. The server never writes on this port, so the one sign that a line is safe is the clean close after the
/// half-close: a connection for each line. That is what is judged. Beside it, what a receiver reaches in the same way that
/// does nothing but read, append, sync and close; and how often the server syncs while one connection sends line after line
/// and waits for nothing.
pub fn durable_lines(bench: &mut Bench) -> Outcome<()> {
    let line = format!("{}\n", "x".repeat(172));
    let span = Duration::from_secs(bench.options.seconds(10).min(2));
    let node = bench.node(Role::Ingest, "ingest", ALONE)?;
    let bare = bare_receiver(&node.dir().join("bare"))?;
    let (mut pairs, mut bare_pairs, mut loose) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.runs() {
        // As long as the record is on disk, with its id.
        let limit = syncs_per_second(node.dir(), line.len() + 27, span)?;
        let least = lines_per_second(&bare, line.as_bytes(), span)?;
        let ours = lines_per_second(node.durable(), line.as_bytes(), span)?;
        pairs.push((ours, limit));
        bare_pairs.push((ours, least));
        loose.push((syncs_of_one_connection(&node, line.as_bytes(), span)?, limit));
    }
    drop(node);
    bench.place.remove("ingest");
    let note = "a connection for each line, until its clean close";
    bench.add(Row::pairs("durable-line", "lines/s", "fdatasync", &pairs).note(note));
    let note = "the same against a receiver that does no more than it must";
    bench.add(Row::pairs("durable-line-bare", "lines/s", "bare", &bare_pairs).note(note));
    let note = "syncs/s while one connection sends a line at a time and waits for nothing";
    bench.add(Row::pairs("durable-syncs", "syncs/s", "fdatasync", &loose).note(note));
    Ok(())
}

/// How many lines a second are safe, each on a connection of its own, one after the other.
fn lines_per_second(address: &str, line: &[u8], span: Duration) -> Outcome<f64> {
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < span {
        let mut stream = producer(address)?;
        stream.write_all(line)?;
        end(stream)?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Takes connections one after the other: reads to the end, appends to a file, syncs, closes. Gives its address. Lives as long
/// as this process, since it costs nothing while nobody calls.
fn bare_receiver(file: &Path) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?.to_string();
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut lines = Vec::new();
            let taken = stream.and_then(|mut stream| {
                stream.read_to_end(&mut lines)?;
                file.write_all(&lines)?;
                file.sync_data()
            });
            if let Err(error) = taken {
                eprintln!("bench: the bare receiver: {error}");
                return;
            }
        }
    });
    Ok(address)
}

fn syncs_of_one_connection(node: &crate::process::Node, line: &[u8], span: Duration) -> Outcome<f64> {
    let syncs = |client: &mut crate::http::Client| -> Outcome<f64> {
        Ok(client.metrics()?.sum("oklog_ingest_writer_syncs_total", ""))
    };
    let (mut client, mut stream) = (node.client(), producer(node.durable())?);
    let (start, before) = (Instant::now(), syncs(&mut client)?);
    while start.elapsed() < span {
        stream.write_all(line)?;
        // Slower than it could be, so that what is measured is not the sending.
        std::thread::sleep(Duration::from_micros(20));
    }
    let rate = (syncs(&mut client)? - before) / start.elapsed().as_secs_f64();
    end(stream)?;
    Ok(rate)
}
