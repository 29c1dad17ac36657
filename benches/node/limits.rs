//! What the machine does without us, in the same run: every other figure is to be read beside these.

use crate::Outcome;
use crate::bench::Bench;
use crate::process::time;
use crate::spread::Spread;
use crate::table::Row;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn run(bench: &mut Bench) -> Outcome<()> {
    let corpus = bench.corpus()?;
    let (mut copies, mut cats, mut moves, mut syncs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let dir = bench.place.fresh("limits")?;
    for _ in 0..bench.options.runs() {
        let took = time(&bench.place, Command::new("cp").arg(&corpus.path).arg(dir.join("copy")))?;
        copies.push(corpus.mb() / took.wall.as_secs_f64());
        std::fs::remove_file(dir.join("copy"))?;
        let took = time(&bench.place, Command::new("cat").arg(&corpus.path).stdout(Stdio::null()))?;
        cats.push(corpus.mb() / took.wall.as_secs_f64());
        moves.push(memcpy());
        syncs.push(syncs_per_second(&dir, 200, Duration::from_millis(500))?);
    }
    bench.place.remove("limits");
    bench.add(Row::alone("limit-cp", "MB/s", Spread::of(copies)));
    bench.add(Row::alone("limit-cat", "MB/s", Spread::of(cats)).note("to /dev/null"));
    bench.add(Row::alone("limit-memcpy", "MB/s", Spread::of(moves)).note("64 MiB to 64 MiB"));
    bench.add(Row::alone("limit-fdatasync", "calls/s", Spread::of(syncs)).note("after an append of 200 bytes each"));
    Ok(())
}

/// MB/s from one buffer to another, both too large for a cache, both touched before.
fn memcpy() -> f64 {
    let (from, mut to) = (vec![1u8; 64 << 20], vec![2u8; 64 << 20]);
    let start = Instant::now();
    to.copy_from_slice(std::hint::black_box(&from));
    std::hint::black_box(&to);
    from.len() as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Touches so much memory and gives it back, at most half of what is available. A virtual machine that has returned free
/// memory to its host pays for the first touch of each page again (1.4 to 2.7 s a GiB measured), so without this the one of
/// two measurements that comes upon such pages is slower by a multiple of what is measured.
pub fn touch_memory(bytes: u64) {
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    let bytes = bytes.min(available.unwrap_or(0) << 9);
    std::hint::black_box(vec![1u8; bytes as usize]);
}

/// How often a line of this length is appended to a file in `dir` and synced, each second.
pub fn syncs_per_second(dir: &Path, len: usize, span: Duration) -> Outcome<f64> {
    let path = dir.join("synced");
    let mut file: File = OpenOptions::new().create(true).append(true).open(&path)?;
    let line = vec![b'x'; len];
    let (start, mut count) = (Instant::now(), 0u64);
    while start.elapsed() < span {
        file.write_all(&line)?;
        file.sync_data()?;
        count += 1;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}
