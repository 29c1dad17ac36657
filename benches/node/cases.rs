//! Every case there is, in the order in which they are run.

use crate::Outcome;
use crate::bench::Bench;
use crate::{cluster, connections, consume, growth, ingest, latency, limits, merge, query, sealed, start};

/// What has to be there before a case begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// No node.
    Bare,
    /// A node that has so many times the size that was asked for, in plain segments.
    Loaded(u64),
    /// A node that has the size that was asked for, in sealed segments.
    Sealed,
}

/// When a case is run that nobody named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    Always,
    /// With `--large`.
    Large,
    /// Never.
    Named,
}

/// One case: its rows have its name, or begin with it.
pub struct Case {
    pub name: &'static str,
    /// A name for it and others like it.
    pub group: &'static str,
    pub says: &'static str,
    pub stage: Stage,
    /// Room on the disk it takes besides the corpus, in sizes of it.
    pub room: u64,
    pub when: When,
    pub run: fn(&mut Bench) -> Outcome<()>,
}

const fn case(name: &'static str, group: &'static str, run: fn(&mut Bench) -> Outcome<()>, says: &'static str) -> Case {
    Case { name, group, says, stage: Stage::Bare, room: 0, when: When::Always, run }
}

impl Case {
    const fn loaded(self, scale: u64) -> Case {
        Case { stage: Stage::Loaded(scale), ..self }
    }

    const fn sealed(self) -> Case {
        Case { stage: Stage::Sealed, ..self }
    }

    const fn room(self, room: u64) -> Case {
        Case { room, ..self }
    }

    const fn when(self, when: When) -> Case {
        Case { when, ..self }
    }
}

/// All of them.
pub const CASES: &[Case] = &[
    case("limits", "limits", limits::run, "what this machine does without us: cp, cat, memcpy, fdatasync").room(1),
    case("ingest-1", "ingest", |b| ingest::fast(b, 1), "fast port, ingest tier alone, 1 connection; TCP to file")
        .room(2),
    case("ingest-4", "ingest", |b| ingest::fast(b, 4), "the same, 4 connections").room(2),
    case("ingest-16", "ingest", |b| ingest::fast(b, 16), "the same, 16 connections").room(2),
    case("durable-16", "ingest", ingest::durable_many, "durable port, 16 connections; our fast port").room(2),
    case("durable-line", "ingest", ingest::durable_lines, "durable port, one line at a time; fdatasync of the disk"),
    case("consumed", "consume", consume::run, "4 connections until all is consumed, and compacted; old OK Log").room(3),
    case("needle", "query", |b| query::text(b, "needle", "needle-7f3a9c1e-4b2d"), "a rare text; rg").loaded(1),
    case("absent", "query", |b| query::text(b, "absent", "nowhere-to-be-found"), "a text that is nowhere; rg")
        .loaded(1),
    case("code", "query", |b| query::text(b, "code", " code=E4917"), "a text in 1 of 10,000 lines; rg").loaded(1),
    case("hits", "query", query::hits, "a text in 1 of 10 lines; rg").loaded(1),
    case("regex", "query", query::regex, "regular expressions with a literal; rg").loaded(1),
    case("alternation", "query", query::alternation, "alternations of two weak literals; rg").loaded(1),
    case("hex12", "query", |b| query::pattern(b, "hex12", "[a-f]{12}"), "a regex without a literal; rg").loaded(1),
    case("one-percent", "query", query::one_percent, "1 % of the time range; its share of the full dump").loaded(1),
    case("newest", "query", |b| query::newest(b, "newest"), "the newest 100 records").loaded(1),
    case("dump", "query", |b| query::dump(b, "dump"), "everything through curl; cat of the segments").loaded(1),
    case(
        "needle-4x",
        "query",
        |b| query::text(b, "needle-4x", "needle-7f3a9c1e-4b2d"),
        "a rare text in 4 times as much; rg",
    )
    .loaded(4)
    .when(When::Large),
    case("newest-4x", "query", |b| query::newest(b, "newest-4x"), "the newest 100 records of 4 times as much")
        .loaded(4)
        .when(When::Large),
    case("dump-4x", "query", |b| query::dump(b, "dump-4x"), "4 times as much through curl; cat of the segments")
        .loaded(4)
        .when(When::Large),
    case("seal", "sealed", sealed::seal, "packing records and reading them back, one thread"),
    case("sealed-disk", "sealed", sealed::disk, "sealed segments on the disk, of the raw text").sealed(),
    case("sealed-needle", "sealed", |b| sealed::needle(b, "sealed-needle", "needle-7f3a9c1e-4b2d"), "a rare text; rg")
        .sealed(),
    case(
        "sealed-absent",
        "sealed",
        |b| sealed::needle(b, "sealed-absent", "nowhere-to-be-found"),
        "a text nowhere; rg",
    )
    .sealed(),
    case("sealed-code", "sealed", sealed::code, "a text in 1 of 10,000 lines; rg on all cores").sealed(),
    case("sealed-hits", "sealed", sealed::hits, "a text in 1 of 10 lines; rg").sealed(),
    case("sealed-scan", "sealed", sealed::scan, "a text that the filter cannot look for, and that is nowhere").sealed(),
    case("sealed-hex12", "sealed", sealed::pattern, "a regex without a literal; rg on all cores").sealed(),
    case("merge", "merge", merge::run, "8 sorted streams into one, in memory, one thread; memcpy"),
    case("found", "latency", latency::found, "line sent until a query finds it"),
    case("streamed", "latency", latency::streamed, "line sent until oklog stream prints it, at 1,000 lines/s"),
    case("idle-connections", "connections", connections::idle, "10,000 connections that are silent: memory of each"),
    case("busy-connections", "connections", connections::busy, "2,000 connections with 10 lines/s: lag and files"),
    case("idle-node", "idle", start::idle, "a node that has nothing to do: memory, CPU"),
    case("idle-of-three", "idle", cluster::idle, "one of three nodes that have nothing to do: memory, CPU"),
    case("start", "start", start::start, "start with 10,000 segments until /ready"),
    case("few", "start", start::few, "query over 10,000 segments of which 3 match the time range"),
    case("three-nodes", "cluster", cluster::consumed, "3 nodes, R = 2, 6 connections, until consumed; old OK Log")
        .room(6),
    case("growth-size", "growth", growth::size, "time per byte at a quarter of the size, the size, and 4 and 8 times")
        .room(4)
        .when(When::Named),
    case("growth-result", "growth", growth::result, "memory with the size of the result").loaded(1).when(When::Named),
    case("growth-queries", "growth", growth::queries, "memory with queries at once").loaded(1).when(When::Named),
    case("growth-segments", "growth", growth::segments, "memory and start with the number of segments")
        .when(When::Named),
    case("growth-sources", "growth", growth::sources, "memory and time with segments that overlap").when(When::Named),
    case("growth-beside", "growth", growth::beside, "ingest while 4 queries scan and compaction runs; ingest alone")
        .room(6)
        .when(When::Named),
];

/// The names of the cases to run.
pub fn chosen(options: &crate::options::Options) -> Outcome<Vec<&'static str>> {
    let by_itself = |case: &&Case| case.when == When::Always || case.when == When::Large && options.large;
    if options.names.is_empty() {
        return Ok(CASES.iter().filter(by_itself).map(|case| case.name).collect());
    }
    let mut names = Vec::new();
    for wanted in &options.names {
        // A group is those of its cases that are run by themselves, and all where none is.
        let group: Vec<&Case> = CASES.iter().filter(|case| case.group == wanted).collect();
        let group: Vec<&Case> = match group.iter().any(|case| case.when == When::Always) {
            true => group.into_iter().filter(by_itself).collect(),
            false => group,
        };
        let named = CASES.iter().filter(|case| case.name == wanted).chain(group);
        let before = names.len();
        names.extend(named.map(|case| case.name));
        if names.len() == before {
            return Err(format!("no case is called {wanted}; --list says which there are").into());
        }
    }
    Ok(names)
}

/// Prints what there is.
pub fn list() {
    for case in CASES {
        let when = match case.when {
            When::Always => "",
            When::Large => " [--large]",
            When::Named => " [only when named]",
        };
        println!("{:<18} {:<12} {}{when}", case.name, case.group, case.says);
    }
}
