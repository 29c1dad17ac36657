//! What runs have come to, counted and printed; and what a failed one leaves for whoever has to understand it.

use crate::run::{Failure, Outcome, Wanted, run};
use crate::shape::Shape;
use crate::world::SECOND;
use std::fmt;
use std::time::Duration;

/// What was counted.
#[derive(Clone, Copy, Default, Debug)]
pub struct Totals {
    /// Seeds.
    pub seeds: u64,
    /// Events.
    pub events: u64,
    /// File operations that change or sync something.
    pub operations: u64,
    /// Processes that were killed.
    pub kills: u64,
    /// Machines whose power went.
    pub power_cuts: u64,
    /// Of both, those that came within recovery.
    pub deaths_in_recovery: u64,
    /// Disks as a power cut would have left them, recovered and compared.
    pub crash_points: u64,
    /// Of these, those with a second crash within recovery.
    pub second_crashes: u64,
    /// Times something was made to go wrong.
    pub faults: u64,
    /// File operations that failed.
    pub disk_faults: u64,
    /// Messages that were lost or cut.
    pub network_faults: u64,
    /// Stores that were lost for good.
    pub lost_stores: u64,
    /// Recoveries that could not end before their disk had room again.
    pub waited_for_room: u64,
    /// Starts by hand in the end, to bring in order what a failing disk had kept from it.
    pub restarts: u64,
    /// Times a record that was never promised was found with zeroes in it.
    pub damaged: u64,
    /// Records that were appended.
    pub records: u64,
    /// Segments that consumers took to stores, compactions, and segments that retention has put into the trash.
    pub moved: [u64; 3],
    /// Nodes that were told to end and did, those that had not handed over everything and those that had.
    pub stops: [u64; 2],
    /// Queries that ended complete, partial, and broken.
    pub queries: [u64; 3],
}

impl Totals {
    /// Both together.
    pub fn add(&mut self, other: &Totals) {
        self.queries.iter_mut().zip(other.queries).for_each(|(sum, n)| *sum += n);
        self.moved.iter_mut().zip(other.moved).for_each(|(sum, n)| *sum += n);
        self.stops.iter_mut().zip(other.stops).for_each(|(sum, n)| *sum += n);
        for (sum, n) in self.fields().into_iter().zip(other.values()) {
            *sum += n;
        }
    }

    fn fields(&mut self) -> [&mut u64; 16] {
        [
            &mut self.seeds,
            &mut self.events,
            &mut self.operations,
            &mut self.kills,
            &mut self.power_cuts,
            &mut self.deaths_in_recovery,
            &mut self.crash_points,
            &mut self.second_crashes,
            &mut self.faults,
            &mut self.disk_faults,
            &mut self.network_faults,
            &mut self.lost_stores,
            &mut self.waited_for_room,
            &mut self.restarts,
            &mut self.damaged,
            &mut self.records,
        ]
    }

    fn values(&self) -> [u64; 16] {
        let mut copy = *self;
        copy.fields().map(|field| *field)
    }

    /// The table that a series of runs ends with.
    pub fn table(&self, took: Duration) -> String {
        let rate = self.seeds as f64 / took.as_secs_f64().max(0.001);
        let [complete, partial, broken] = self.queries;
        format!(
            "seeds         {:>12}   {:.1} a second\n\
             events        {:>12}\n\
             operations    {:>12}   on files, those that only read left out\n\
             crashes       {:>12}   {} kills, {} power cuts; {} within recovery\n\
             crash points  {:>12}   {} with a second crash within recovery, {} had to wait for room\n\
             faults        {:>12}   {} file operations failed, {} messages lost or cut, {} stores lost for good\n\
             ends in order {:>12}   {} with everything handed over; {} starts by hand after a disk had failed\n\
             segments      {:>12}   handed over to stores, {} compactions, {} trashed\n\
             records       {:>12}   in {} crash points one that was never promised had zeroes in it\n\
             queries       {:>12}   {} complete, {} partial, {} broken off\n",
            self.seeds,
            rate,
            self.events,
            self.operations,
            self.kills + self.power_cuts,
            self.kills,
            self.power_cuts,
            self.deaths_in_recovery,
            self.crash_points,
            self.second_crashes,
            self.waited_for_room,
            self.faults,
            self.disk_faults,
            self.network_faults,
            self.lost_stores,
            self.stops[0] + self.stops[1],
            self.stops[1],
            self.restarts,
            self.moved[0],
            self.moved[1],
            self.moved[2],
            self.records,
            self.damaged,
            complete + partial + broken,
            complete,
            partial,
            broken,
        )
    }
}

/// A failed seed in words: run once more to see what came before.
pub struct Report {
    seed: u64,
    failure: Failure,
    trace: Vec<String>,
    shape: Shape,
}

impl Report {
    /// Of a seed that has failed.
    pub fn of(shape: Shape, failure: Failure) -> Report {
        let again: Outcome = run(shape.clone(), Wanted { trace: true, ..Wanted::default() });
        Report { seed: shape.seed, failure, trace: again.trace, shape }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { seed, failure, trace, shape } = self;
        writeln!(f, "seed {seed}: {}", failure.violation)?;
        let (seconds, micros) = (failure.at / SECOND, failure.at % SECOND / 1_000);
        writeln!(f, "at step {}, {seconds}.{micros:06} s, in {shape:?}", failure.step)?;
        writeln!(f, "what came last:")?;
        trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f, "replay with: scripts/sim --seeds {seed}..{} --verbose", seed + 1)
    }
}

/// Prints what the shipped code logs among what happens.
struct Printer;

impl log::Log for Printer {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        println!("{:>24}  {}: {}", "", record.level(), record.args());
    }

    fn flush(&self) {}
}

/// From now on what the shipped code logs is printed.
pub fn print_logs() {
    if log::set_logger(&Printer).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
