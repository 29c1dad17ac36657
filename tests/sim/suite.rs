//! Many seeds, side by side on all cores.

use crate::node::Death;
use crate::report::{Report, Totals, print_logs};
use crate::run::{Wanted, run};
use crate::shape::Shape;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use std::time::Instant;

/// Runs seeds from `first` on, up to `end` or until the time is over. Gives what was counted and the reports of the first
/// seeds that failed.
pub fn run_seeds(first: u64, end: u64, time: Duration, verbose: bool, most_reports: usize) -> (Totals, Vec<String>) {
    let (next, failed) = (AtomicU64::new(first), AtomicBool::new(false));
    let (totals, reports) = (Mutex::new(Totals::default()), Mutex::new(Vec::new()));
    let begun = Instant::now();
    let work = || {
        while begun.elapsed() < time && !failed.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let shape = Shape::of(seed);
            let wanted = Wanted { verbose, ..Wanted::default() };
            match catch_unwind(AssertUnwindSafe(|| run(shape.clone(), wanted))) {
                Ok(mut outcome) => {
                    outcome.totals.seeds = 1;
                    totals.lock().unwrap().add(&outcome.totals);
                    if let Some(failure) = outcome.failure {
                        reports.lock().unwrap().push(Report::of(shape, failure).to_string());
                        failed.store(reports.lock().unwrap().len() >= most_reports, Ordering::Relaxed);
                    }
                }
                Err(_) => {
                    reports.lock().unwrap().push(format!(
                        "seed {seed}: a panic, see above; replay with: scripts/sim --seeds {seed}..{}",
                        seed + 1
                    ));
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    let threads = if verbose { 1 } else { std::thread::available_parallelism().map_or(1, usize::from) };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    (totals.into_inner().unwrap(), reports.into_inner().unwrap())
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text}")))
}

#[test]
fn what_was_promised_holds_whatever_happens() {
    let (first, end) = (number("OKLOG_SIM_FROM").unwrap_or(0), number("OKLOG_SIM_TO").unwrap_or(SEEDS));
    let time = number("OKLOG_SIM_SECONDS").map_or(Duration::MAX, Duration::from_secs);
    let end = if time < Duration::MAX { u64::MAX } else { end };
    let verbose = std::env::var_os("OKLOG_SIM_VERBOSE").is_some();
    if verbose {
        print_logs();
    }
    let most_reports = number("OKLOG_SIM_FAILURES").unwrap_or(3) as usize;
    let begun = Instant::now();
    let (totals, reports) = run_seeds(first, end, time, verbose, most_reports);
    println!("{}", totals.table(begun.elapsed()));
    assert!(reports.is_empty(), "{}", reports.join("\n"));
    if (first, end) == (0, SEEDS) {
        assert!(totals.seeds == SEEDS && totals.crash_points >= CRASH_POINTS, "{totals:?}");
    }
}

#[test]
fn a_seed_that_is_run_again_takes_the_same_steps() {
    for seed in 0..20 {
        let wanted = Wanted { hashes: true, ..Wanted::default() };
        let (one, other) = (run(Shape::of(seed), wanted), run(Shape::of(seed), wanted));
        let differs = one.hashes.iter().zip(&other.hashes).position(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed} takes another way at this step");
        assert_eq!(one.hashes.len(), other.hashes.len(), "seed {seed}");
    }
}

#[test]
fn a_node_may_die_before_any_operation_on_its_disk() {
    let (mut deaths, begun) = (0, Instant::now());
    for seed in 0..LONE_SEEDS {
        let operations = run(Shape::alone(seed, None), Wanted::default()).totals.operations;
        for death in [Death::Killed, Death::PowerCut] {
            for operation in 0..operations {
                let shape = Shape::alone(seed, Some((operation, death)));
                let outcome = run(shape.clone(), Wanted::default());
                if let Some(failure) = outcome.failure {
                    panic!("{death:?} before operation {operation}: {}", Report::of(shape, failure));
                }
                deaths += outcome.totals.kills + outcome.totals.power_cuts;
            }
        }
    }
    println!("{deaths} deaths in {:.1} s", begun.elapsed().as_secs_f64());
}

/// How many seeds are run with a death at every operation.
const LONE_SEEDS: u64 = 15;

/// How many crash points that comes to at least.
const CRASH_POINTS: u64 = 1_000_000;

/// How many seeds the suite runs.
const SEEDS: u64 = 2_000;
