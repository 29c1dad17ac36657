//! The reading room, on a node that has the corpus; everything is in the page cache.
//!
//! `oklog query` and `rg -a` are timed as whole processes, both with `/dev/null` as standard output, to which both write all
//! that they find. What is judged is `rg` on the one file of raw text; `rg/16` has it in 16 files, and so uses all cores.

use crate::Outcome;
use crate::bench::{Bench, Loaded};
use crate::http::{EVER, encode};
use crate::process::{Took, output, time};
use crate::spread::Spread;
use crate::table::Row;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const EVER_FLAGS: [&str; 4] = ["-from", "00000000000000000000000000", "-to", "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"];

/// What is looked for.
struct Wanted<'a> {
    row: &'a str,
    q: &'a str,
    is_regex: bool,
    /// So much is found that it counts where it goes: also to a file, and through curl.
    is_much: bool,
}

/// A text.
pub fn text(bench: &mut Bench, row: &str, q: &str) -> Outcome<()> {
    compare(bench, &Wanted { row, q, is_regex: false, is_much: false })
}

/// A regular expression.
pub fn pattern(bench: &mut Bench, row: &str, q: &str) -> Outcome<()> {
    compare(bench, &Wanted { row, q, is_regex: true, is_much: false })
}

/// So many hits that printing them counts.
pub fn hits(bench: &mut Bench) -> Outcome<()> {
    compare(bench, &Wanted { row: "hits", q: " retry=upstream", is_regex: false, is_much: true })
}

/// A literal at the start, and one at the end.
pub fn regex(bench: &mut Bench) -> Outcome<()> {
    pattern(bench, "regex", "timeout after [0-9]+ms")?;
    pattern(bench, "regex-suffix", "[0-9a-f]{8}-deadbeef")
}

/// Two literals at the start, which a good engine looks for both at once; and two of which one is at the end.
pub fn alternation(bench: &mut Bench) -> Outcome<()> {
    pattern(bench, "alternation", "deadbeef|timeout after [0-9]+ms")?;
    pattern(bench, "alternation-weak", "E4917|[a-f0-9]{8}-deadbeef")
}

pub fn oklog(bench: &Bench, flags: &[&str]) -> Outcome<Command> {
    let mut command = Command::new(&bench.options.binary);
    command.args(["query", "-store", bench.loaded()?.node.api()]).args(EVER_FLAGS).args(flags).stdout(Stdio::null());
    Ok(command)
}

pub fn rg(flags: &[&str], q: &str, is_regex: bool, file: &Path) -> Command {
    let mut command = Command::new("rg");
    command.args(["-a", "--no-filename"]).args(flags).args((!is_regex).then_some("-F")).arg("--").arg(q).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Found (0) or nothing found (1), in both programs.
pub fn searched(took: Took, what: &str) -> Outcome<Took> {
    match took.status.code() {
        Some(0 | 1) => Ok(took),
        _ => Err(format!("{what} ended with {}", took.status).into()),
    }
}

fn compare(bench: &mut Bench, wanted: &Wanted) -> Outcome<()> {
    let (q, is_regex) = (wanted.q, wanted.is_regex);
    let target = format!("/store/query?{EVER}&q={}{}", encode(q), if is_regex { "&regex=true" } else { "" });
    let flags: Vec<&str> = ["-q", q].into_iter().chain(is_regex.then_some("-regex")).collect();
    let found = count(bench, q, is_regex, &target)?;
    let (mut ours, mut by_curl, mut one, mut sixteen) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut limit_cpu, mut peaks, mut to_file) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let gb = bench.loaded()?.corpus.gb();
    for _ in 0..bench.options.runs() {
        let loaded = bench.loaded()?;
        if bench.has_rg {
            let took = searched(time(&bench.place, &mut rg(&[], q, is_regex, &loaded.corpus.path))?, "rg")?;
            one.push(took.ms());
            limit_cpu.push(took.cpu_s / gb);
            sixteen.push(searched(time(&bench.place, &mut rg(&[], q, is_regex, &loaded.pieces))?, "rg")?.ms());
        }
        loaded.node.forget_peak();
        let before = loaded.node.cpu_s();
        let took = searched(time(&bench.place, &mut oklog(bench, &flags)?)?, "oklog query")?;
        ours.push(took.ms());
        cpu.push((took.cpu_s + loaded.node.cpu_s() - before) / gb);
        peaks.push(loaded.node.peak());
        if wanted.is_much && bench.has_curl {
            by_curl.push(curl(bench, loaded, &target)?.ms());
        }
        if wanted.is_much && bench.has_rg {
            let file = || std::fs::File::create(bench.place.path("printed"));
            let mut command = rg(&[], q, is_regex, &loaded.corpus.path);
            let limit = searched(time(&bench.place, command.stdout(file()?))?, "rg")?.ms();
            bench.place.remove("printed");
            let took = searched(time(&bench.place, oklog(bench, &flags)?.stdout(file()?))?, "oklog query")?;
            bench.place.remove("printed");
            to_file.push((took.ms(), limit));
        }
    }
    let note = format!("{found} hits");
    if !bench.has_rg {
        // Without a reference a figure is shown under another name than the one that is judged.
        bench.add(Row::alone(&format!("{}-ms", wanted.row), "ms", Spread::of(ours)).cpu(cpu).peak(peaks).note(note));
        return Ok(());
    }
    let pairs =
        |ours: &[f64], limit: &[f64]| -> Vec<(f64, f64)> { ours.iter().copied().zip(limit.iter().copied()).collect() };
    let row = Row::pairs(wanted.row, "ms", "rg", &pairs(&ours, &one)).note(note);
    bench.add(row.cpu(cpu).limit_cpu(limit_cpu).peak(peaks));
    bench.add(Row::pairs(&format!("{}/16", wanted.row), "ms", "rg/16", &pairs(&ours, &sixteen)));
    if !to_file.is_empty() {
        bench.add(Row::pairs(&format!("{}-file", wanted.row), "ms", "rg", &to_file).note("both print to a file"));
    }
    if !by_curl.is_empty() {
        bench.add(Row::pairs(&format!("{}-curl", wanted.row), "ms", "rg", &pairs(&by_curl, &one)).note("through curl"));
    }
    Ok(())
}

/// How many records match, which must be as many lines as `rg` finds.
pub fn count(bench: &Bench, q: &str, is_regex: bool, target: &str) -> Outcome<u64> {
    let loaded = bench.loaded()?;
    let found = loaded.node.client().count_lines(target)?;
    if bench.has_rg {
        let mut command = rg(&["--count"], q, is_regex, &loaded.corpus.path);
        command.stdout(Stdio::piped());
        // Its status is 1 where it finds nothing, and then it prints nothing.
        let said = String::from_utf8_lossy(&command.output()?.stdout).trim().parse().unwrap_or(0);
        if found != said {
            return Err(format!("{found} records match {q:?}, and rg finds {said} lines").into());
        }
    }
    Ok(found)
}

fn curl(bench: &Bench, loaded: &Loaded, target: &str) -> Outcome<Took> {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail", "-o", "/dev/null"]).arg(format!("http://{}{target}", loaded.node.api()));
    let took = time(&bench.place, &mut command)?;
    match took.status.success() {
        true => Ok(took),
        false => Err(format!("curl ended with {}", took.status).into()),
    }
}

/// A hundredth of the time between the first record and the last, from the middle, against what its bytes are of the time of
/// the whole; both on one connection that stays open.
pub fn one_percent(bench: &mut Bench) -> Outcome<()> {
    let loaded = bench.loaded()?;
    let mut client = loaded.node.client();
    let (first, last) = ends(&mut client)?;
    let (from, span) = (first + (last - first) / 2, ((last - first) / 100).max(1));
    let id = |ms: u64| {
        String::from_utf8_lossy(&oklog::record::id::Id::first_of(oklog::unit::UnixMillis(ms)).text()).into_owned()
    };
    let some = format!("/store/query?from={}&to={}&q=", id(from), id(from + span));
    let all = format!("/store/query?{EVER}&q=");
    let mut pairs = Vec::new();
    let mut share = 0.0;
    for _ in 0..bench.options.runs() {
        let start = Instant::now();
        let whole = client.drain(&all)? as f64;
        let limit = start.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        share = client.drain(&some)? as f64 / whole;
        pairs.push((start.elapsed().as_secs_f64() * 1e3, limit * share));
    }
    let note = format!("{:.2} % of the bytes in {span} ms of the time", share * 100.0);
    bench.add(Row::pairs("one-percent", "ms", "its share", &pairs).note(note));
    Ok(())
}

/// The times of the first and the last record, in milliseconds.
fn ends(client: &mut crate::http::Client) -> Outcome<(u64, u64)> {
    let mut time = |order: &str| -> Outcome<u64> {
        let body = client.get(&format!("/store/query?{EVER}&q=&limit=1&order={order}"))?;
        let id = body.get(..26).and_then(oklog::record::id::Id::parse).ok_or("no record where one must be")?;
        Ok(id.millis().0)
    };
    Ok((time("asc")?, time("desc")?))
}

/// The newest 100: as an answer on a connection that stays open, which is judged, and as the whole command.
pub fn newest(bench: &mut Bench, row: &str) -> Outcome<()> {
    let loaded = bench.loaded()?;
    let mut client = loaded.node.client();
    let target = format!("/store/query?{EVER}&q=&limit=100&order=desc");
    let (mut answers, mut commands) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.many(50).max(5) {
        let start = Instant::now();
        let body = client.get(&target)?;
        answers.push(start.elapsed().as_secs_f64() * 1e3);
        if memchr::memchr_iter(b'\n', &body).count() != 100 {
            return Err("not 100 records".into());
        }
        commands.push(searched(time(&bench.place, &mut oklog(bench, &["-n", "100"])?)?, "oklog query")?.ms());
    }
    let size = format!("{:.1} GB, HTTP", bench.loaded()?.corpus.gb());
    bench.add(Row::alone(row, "ms", Spread::of(answers)).note(size));
    bench.add(Row::alone(&format!("{row}-cli"), "ms", Spread::of(commands)).note("the whole command"));
    Ok(())
}

/// Everything, in stored form: `curl | cat` against `cat SEGMENTS | cat`, both of which end in `/dev/null`. Beside it both
/// without the pipe, and the command.
pub fn dump(bench: &mut Bench, row: &str) -> Outcome<()> {
    if !bench.has_curl {
        eprintln!("{row}: not measured, since curl is not here");
        return Ok(());
    }
    let loaded = bench.loaded()?;
    let url = format!("http://{}/store/query?{EVER}&q=", loaded.node.api());
    let shell = |script: &str| {
        let mut command = Command::new("sh");
        // All segments are arguments: at most a few hundred.
        command.arg("-c").arg(script).arg(&url).args(&loaded.segments).stdout(Stdio::null());
        time(&bench.place, &mut command)
    };
    let said = output(Command::new("sh").args(["-c", "curl -sS --fail \"$0\" | wc -c"]).arg(&url))?;
    if said.trim() != loaded.stored.to_string() {
        return Err(format!("{} bytes are stored, and {} come", loaded.stored, said.trim()).into());
    }
    let (mb, gb) = (loaded.stored as f64 / 1e6, loaded.corpus.gb());
    let (mut piped, mut direct, mut command) = (Vec::new(), Vec::new(), Vec::new());
    let (mut cpu, mut limit_cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.runs() {
        let limit = shell("cat \"$@\" | cat > /dev/null")?;
        loaded.node.forget_peak();
        let before = loaded.node.cpu_s();
        let ours = shell("curl -sS --fail \"$0\" | cat > /dev/null")?;
        cpu.push((ours.cpu_s + loaded.node.cpu_s() - before) / gb);
        limit_cpu.push(limit.cpu_s / gb);
        peaks.push(loaded.node.peak());
        let rate = |took: Took| mb / took.wall.as_secs_f64();
        piped.push((rate(ours), rate(limit)));
        direct.push((rate(shell("curl -sS --fail -o /dev/null \"$0\"")?), rate(limit)));
        command.push((rate(searched(time(&bench.place, &mut oklog(bench, &[])?)?, "oklog query")?), rate(limit)));
    }
    bench
        .add(Row::pairs(row, "MB/s", "cat | cat", &piped).cpu(cpu).limit_cpu(limit_cpu).peak(peaks).note("curl | cat"));
    bench.add(Row::pairs(&format!("{row}-null"), "MB/s", "cat | cat", &direct).note("curl -o /dev/null"));
    bench.add(Row::pairs(&format!("{row}-cli"), "MB/s", "cat | cat", &command).note("oklog query > /dev/null"));
    Ok(())
}
