//! What membership does on simulated networks: how soon is known what, how often by mistake, at what cost.
//!
//! For 3 to 5,000 nodes and 0, 10 and 25 % loss, beside the bound for each figure and beside the same machine with the
//! parameters that are usual (hashicorp/memberlist, `DefaultLANConfig`, over UDP alone). Virtual time: the figures do not
//! depend on the computer. Bytes are those with a key.
//!
//! `--nodes N` and `--loss N` choose one size and one loss, `--seeds N` the number of worlds, `--events N` how many join,
//! leave and crash in each; `--halves` only splits networks, `--course` only does all else, `--ours` compares with nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
use oklog::cluster::measure::{Course, Figures, course, halves};
use oklog::cluster::timing::Timing;
use std::time::{Duration, Instant};

struct Size {
    nodes: usize,
    seeds: u64,
    /// Joins, good-byes and crashes in each world.
    events: usize,
    quiet_s: u64,
    halves: u64,
    /// First suspicion p50, p99; known to all; join 99 %, all; leave; halves.
    bounds_s: [f64; 7],
    /// At 0, 10, 25 % loss.
    bytes: [f64; 3],
}

const SIZES: [Size; 4] = [
    Size {
        nodes: 3,
        seeds: 200,
        events: 1,
        quiet_s: 600,
        halves: 20,
        bounds_s: [2.0, 5.0, 9.0, 0.5, 0.7, 1.0, 60.0],
        bytes: [150.0, 200.0, 320.0],
    },
    Size {
        nodes: 100,
        seeds: 20,
        events: 10,
        quiet_s: 120,
        halves: 5,
        bounds_s: [2.0, 6.0, 15.0, 0.8, 1.2, 1.5, 60.0],
        bytes: [150.0, 200.0, 900.0],
    },
    Size {
        nodes: 1_000,
        seeds: 2,
        events: 30,
        quiet_s: 30,
        halves: 1,
        bounds_s: [2.0, 6.0, 19.0, 1.0, 1.5, 2.0, 75.0],
        bytes: [150.0, 210.0, 4_000.0],
    },
    Size {
        nodes: 5_000,
        seeds: 1,
        events: 5,
        quiet_s: 30,
        halves: 1,
        bounds_s: [2.0, 6.0, 22.0, 1.1, 1.6, 2.0, 90.0],
        bytes: [150.0, 210.0, 14_000.0],
    },
];

const LOSSES: [u64; 3] = [0, 10, 25];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| {
        let place = args.iter().position(|arg| arg == name)?;
        args.get(place + 1)?.parse::<u64>().ok()
    };
    let is_test = args.iter().all(|arg| arg != "--bench");
    let only = |name: &str| args.iter().any(|arg| arg == name);
    let nodes = if is_test { Some(3) } else { option("--nodes") };
    for mut size in SIZES.into_iter().filter(|size| nodes.is_none_or(|nodes| nodes == size.nodes as u64)) {
        size.events = option("--events").map_or(size.events, |events| events as usize);
        let size = &size;
        for (column, loss) in LOSSES.into_iter().enumerate() {
            if option("--loss").is_some_and(|wanted| wanted != loss) {
                continue;
            }
            let seeds = if is_test { 1 } else { option("--seeds").unwrap_or(size.seeds) };
            let begun = Instant::now();
            let ours = run(size, loss, seeds, &Timing::default(), &only);
            // With loss, many nodes of the usual kind suspect each other faster than they can tell: a run takes hours.
            let is_bearable = size.nodes <= 100 || loss == 0;
            let usual = (!only("--ours") && is_bearable).then(|| run(size, loss, seeds, &Timing::textbook(), &only));
            print(size, column, seeds, &ours, usual.as_ref());
            println!("  ({} worlds, {:.0?} to simulate)\n", seeds, begun.elapsed());
        }
    }
}

fn run(size: &Size, loss: u64, seeds: u64, timing: &Timing, only: &dyn Fn(&str) -> bool) -> Figures {
    let mut figures = Figures::default();
    let (events, quiet) = (size.events, Duration::from_secs(size.quiet_s));
    let plan = Course { nodes: size.nodes, loss, quiet, events, timing: timing.clone() };
    if !only("--halves") {
        (0..seeds).for_each(|seed| figures.add(course(seed, &plan)));
    }
    if !only("--course") {
        (0..seeds.min(size.halves)).for_each(|seed| figures.add(halves(seed, &plan, Duration::from_secs(600))));
    }
    figures
}

fn print(size: &Size, column: usize, seeds: u64, ours: &Figures, usual: Option<&Figures>) {
    println!("{} nodes, {} % loss, {seeds} seeds", size.nodes, LOSSES[column]);
    println!("  {:<44} {:>10} {:>10} {:>10} {:>14}", "", "bound", "p50", "worst", "usual worst");
    let [first50, first99, dead, most, joined, left, healed] = size.bounds_s;
    let row = |name: &str, bound: f64, part: f64, pick: fn(&Figures) -> &Vec<Option<Duration>>| {
        let value = quantile(pick(ours), part);
        let usual = usual.map(|usual| show(quantile(pick(usual), part))).unwrap_or_default();
        if pick(ours).is_empty() {
            return;
        }
        let mark = if value.is_some_and(|value| value <= bound) { "" } else { "  MISSED" };
        let median = show(quantile(pick(ours), 0.5));
        println!("  {name:<44} {bound:>10} {median:>10} {:>10} {usual:>14}{mark}", show(value));
    };
    row("crash -> first suspicion, p50 (s)", first50, 0.5, |figures| &figures.suspected);
    row("crash -> first suspicion, p99 (s)", first99, 0.99, |figures| &figures.suspected);
    row("crash -> known to all (s)", dead, 1.0, |figures| &figures.dead);
    row("join -> known to 99 % (s)", most, 1.0, |figures| &figures.joined_most);
    row("join -> known to all (s)", joined, 1.0, |figures| &figures.joined);
    row("leave -> known to all (s)", left, 1.0, |figures| &figures.left);
    row("halves apart 10 min -> one view (s)", healed, 1.0, |figures| &figures.healed);
    let hourly = |count: u64, figures: &Figures| count as f64 / figures.node_seconds.max(1.0) * 3_600.0;
    let number = |name: &str, bound: f64, ours: f64, usual: Option<f64>| {
        let usual = usual.map(|usual| format!("{usual:.2}")).unwrap_or_default();
        let mark = if ours <= bound { "" } else { "  MISSED" };
        println!("  {name:<44} {:>10} {:>10} {ours:>10.2} {usual:>14}{mark}", shown_bound(bound), "");
    };
    if ours.node_seconds > 0.0 {
        let deaths = usual.map(|usual| hourly(usual.false_deaths, usual));
        number("false deaths per node-hour", 0.0, hourly(ours.false_deaths, ours), deaths);
        let suspicions = usual.map(|usual| hourly(usual.false_suspicions, usual));
        number("false suspicions per node-hour", f64::INFINITY, hourly(ours.false_suspicions, ours), suspicions);
        let bytes = usual.map(Figures::bytes_per_second);
        number("bytes per node and second", size.bytes[column], ours.bytes_per_second(), bytes);
    }
    println!(
        "  {} crashes, {} joins and good-byes, {} splits; {:.0} node-seconds in which nobody was to be declared dead",
        ours.dead.len(),
        ours.joined.len(),
        ours.healed.len(),
        ours.node_seconds
    );
}

fn shown_bound(bound: f64) -> String {
    if bound.is_finite() { format!("{bound}") } else { String::new() }
}

fn show(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.2}"))
}

/// In seconds; never is later than everything.
fn quantile(values: &[Option<Duration>], part: f64) -> Option<f64> {
    let mut sorted: Vec<f64> =
        values.iter().map(|value| value.map_or(f64::INFINITY, |value| value.as_secs_f64())).collect();
    sorted.sort_by(f64::total_cmp);
    let place = ((sorted.len() as f64 * part).ceil() as usize).max(1) - 1;
    sorted.get(place).copied()
}
