//! What a node costs as its users meet it: the real binary on real files and sockets, beside the limits of the machine.
//!
//! Each case is measured in pairs, the reference and then ours, again and again within one run, since machines drift and
//! only ratios hold. A case ends as one or more rows of one table, which are held against the floors in
//! `scripts/bench-floors`. `scripts/bench` says how to call it; `cases.rs` says what there is.
//!
//! Load client and corpus generator are the programs in `benches/tools`, built with `rustc -O` and run as processes of their
//! own, so that figures stay comparable with all that were taken with them.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod bench;
mod cases;
mod cluster;
mod connections;
mod consume;
mod corpus;
#[path = "../tools/eight_streams.rs"]
mod eight_streams;
mod floors;
mod growth;
mod http;
mod ingest;
mod latency;
mod limits;
mod merge;
mod options;
mod place;
mod process;
mod query;
mod sealed;
mod segments;
mod spread;
mod start;
mod table;
mod tools;

use bench::Bench;
use cases::CASES;
use floors::Floors;
use options::Options;
use std::process::ExitCode;

/// What went wrong, for a person.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &[String]) -> Outcome<ExitCode> {
    let options = Options::parse(args)?;
    let floors = Floors::read(&options.floors)?;
    if options.list {
        cases::list();
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = cases::chosen(&options)?;
    let mut bench = Bench::new(options, floors)?;
    bench.table.head();
    let mut broken = Vec::new();
    for case in CASES.iter().filter(|case| chosen.contains(&case.name)) {
        if let Err(error) = bench.run(case) {
            eprintln!("{}: BROKEN: {error}", case.name);
            broken.push(case.name);
        }
    }
    bench.table.foot();
    if !broken.is_empty() {
        println!("broken: {}", broken.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    let below = bench.table.below_floor();
    if !bench.options.check || below.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    below.iter().for_each(|line| println!("{line}"));
    Ok(ExitCode::FAILURE)
}
