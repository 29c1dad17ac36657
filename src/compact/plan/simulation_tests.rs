//! A week of arrivals on virtual time: what the planner promises holds at every step, whatever comes in.

use super::*;
use crate::compact::retain::{self, Action, Held, plan_retention};
use crate::record::id::StreamBits;
use crate::unit::{UnixMillis, UnixNanos};
use crate::world::entropy::Dice;

const MINUTE: u64 = 60_000_000_000;
const HOUR: u64 = 60 * MINUTE;
const WEEK: u64 = 7 * 24 * HOUR;
const START: u64 = 1_800_000_000_000_000_000;
const TARGET: u64 = 128 << 20;
/// Enough for a week of all but the worst weather, few enough for 200 weeks in seconds.
const MOST_ARRIVALS: u64 = 1_500;
const RETAIN: Duration = Duration::from_secs(2 * 24 * 3600);
const PURGE: Duration = Duration::from_secs(8 * 3600);
const SEAL_AGE: Duration = Duration::from_secs(600);

fn id(ns: u64) -> Id {
    Id::new(UnixNanos(ns), StreamBits::from_random(7), 0)
}

struct Archive {
    live: Vec<Candidate>,
    trashed: Vec<(Candidate, UnixMillis)>,
    limits: Limits,
    next_key: u64,
    arrived: u64,
    arrivals: u64,
    smallest: u64,
    /// Bytes written by reason: Join, Overlap, Close, Seal.
    rewritten: [u64; 4],
    jobs: u64,
    seals: u64,
    outputs: u64,
}

impl Archive {
    fn new(limits: Limits) -> Archive {
        Archive {
            live: Vec::new(),
            trashed: Vec::new(),
            limits,
            next_key: 0,
            arrived: 0,
            arrivals: 0,
            smallest: TARGET,
            rewritten: [0; 4],
            jobs: 0,
            seals: 0,
            outputs: 0,
        }
    }

    fn put(&mut self, from_ns: u64, to_ns: u64, len: u64, is_sealed: bool) {
        self.next_key += 1;
        let is = Candidate { key: self.next_key, low: id(from_ns), high: id(to_ns), len: Bytes(len), is_sealed };
        let at = self.live.partition_point(|other| other.low <= is.low);
        self.live.insert(at, is);
    }

    fn arrive(&mut self, from_ns: u64, to_ns: u64, len: u64) {
        self.arrived += len;
        self.arrivals += 1;
        self.smallest = self.smallest.min(len);
        self.put(from_ns, to_ns, len, false);
    }

    /// Plans and merges until nothing is left to do.
    fn compact(&mut self, now: UnixMillis, seed: u64) {
        let mut jobs = 0;
        while let Some(job) = plan(&self.live, &self.limits, now) {
            self.merge(&job, seed);
            jobs += 1;
            assert!(jobs < 10_000, "no fixed point, replay with seed {seed}");
        }
        self.jobs += jobs;
        if let Some(age) = self.limits.seal_age {
            let waits = |is: &&Candidate| !is.is_sealed && is.high.millis().after(age) <= now;
            assert_eq!(self.live.iter().find(waits), None, "all that is old is sealed, replay with seed {seed}");
        }
    }

    fn merge(&mut self, job: &Job, seed: u64) {
        let is_input = |segment: &Candidate| job.inputs.contains(&segment.key);
        let inputs: Vec<Candidate> = self.live.iter().filter(|segment| is_input(segment)).copied().collect();
        let seals = job.reason == Reason::Seal;
        let counts = if seals { 1..=1 } else { 2..=MOST_INPUTS };
        assert!(counts.contains(&inputs.len()), "{job:?}, replay with seed {seed}");
        assert!(!seals || !inputs[0].is_sealed, "sealed twice, replay with seed {seed}");
        assert_eq!(inputs.len(), job.inputs.len(), "each once, replay with seed {seed}");
        let total: u64 = inputs.iter().map(|input| input.len.0).sum();
        let largest = inputs.iter().map(|input| input.len.0).max().unwrap();
        assert!(job.reason != Reason::Join || total >= 4 * largest, "{job:?}, replay with seed {seed}");
        self.rewritten[job.reason as usize] += total;
        if seals {
            self.seals += 1;
            return self.live.iter_mut().filter(|is| is_input(is)).for_each(|input| input.is_sealed = true);
        }
        self.live.retain(|segment| !is_input(segment));
        for (from, to, len) in cut_evenly(&inputs, total, job.cut.0) {
            self.outputs += 1;
            assert!(len <= TARGET, "an output of {len}, replay with seed {seed}");
            assert!(to - from <= self.limits.max_span.as_nanos() as u64, "{job:?}, replay with seed {seed}");
            self.put(from, to, len, false);
        }
    }

    fn retire(&mut self, now: UnixMillis, seed: u64) {
        let held = |is: &Candidate, trashed| Held { key: is.key, high: is.high, len: is.len, trashed };
        let mut all: Vec<Held> = self.live.iter().map(|is| held(is, None)).collect();
        all.extend(self.trashed.iter().map(|(is, at)| held(is, Some(*at))));
        let limits = retain::Limits { retain: RETAIN, purge: PURGE, max_size: None };
        let actions = plan_retention(&all, &limits, now);
        let due = |is: &Candidate| is.high.millis().after(RETAIN) < now;
        let expected: Vec<Action> = (self.trashed.iter().filter(|(_, at)| at.after(PURGE) < now))
            .map(|(is, _)| Action::Purge(is.key))
            .chain(self.live.iter().filter(|is| due(is)).map(|is| Action::Trash(is.key)))
            .collect();
        let sorted = |mut actions: Vec<Action>| {
            actions.sort();
            actions
        };
        assert_eq!(sorted(actions), sorted(expected), "replay with seed {seed}");
        self.trashed.retain(|(_, at)| at.after(PURGE) >= now);
        let (old, live) = self.live.iter().partition(|is| due(is));
        self.live = live;
        let old: Vec<Candidate> = old;
        self.trashed.extend(old.into_iter().map(|is| (is, now)));
    }

    /// The bound in the documentation of the planner, term by term.
    fn most_segments(&self) -> f64 {
        let total: u64 = self.live.iter().map(|segment| segment.len.0).sum();
        let first = self.live.iter().map(|segment| segment.low.millis().0).min().unwrap_or(0);
        let last = self.live.iter().map(|segment| segment.high.millis().0).max().unwrap_or(0);
        let slots = (last - first) / self.limits.slot_ms() + 2;
        let wide = self.live.iter().filter(|segment| !self.limits.is_narrow(segment)).count();
        let doublings = (TARGET as f64 / 4.0 / self.smallest as f64).log2().max(1.0);
        16.0 / 7.0 * total as f64 / TARGET as f64 + 8.0 * doublings + 3.0 * slots as f64 + wide as f64
    }

    fn times_rewritten(&self) -> f64 {
        // Sealing is told of apart: what it writes is not as long.
        self.rewritten[..3].iter().sum::<u64>() as f64 / self.arrived as f64
    }

    fn most_times_rewritten(&self) -> f64 {
        let mean = self.arrived as f64 / self.arrivals as f64;
        (TARGET as f64 / mean).log(4.0) + 1.0
    }
}

/// What merging gives, if each input's bytes are spread evenly over its time: from, to, length of each output.
fn cut_evenly(inputs: &[Candidate], total: u64, cut: u64) -> Vec<(u64, u64, u64)> {
    let first = inputs.iter().map(|input| input.low.nanos().0).min().unwrap();
    let last = inputs.iter().map(|input| input.high.nanos().0).max().unwrap();
    let bytes_before = |ns: u64| -> f64 {
        let of = |input: &Candidate| {
            let (from, to) = (input.low.nanos().0, input.high.nanos().0 + 1);
            input.len.0 as f64 * (ns.clamp(from, to) - from) as f64 / (to - from) as f64
        };
        inputs.iter().map(of).sum()
    };
    let mut outputs = Vec::new();
    let (mut from, mut done) = (first, 0);
    while done < total {
        let len = cut.min(total - done);
        let (mut low, mut high) = (from, last);
        while low < high && done + len < total {
            let middle = low + (high - low) / 2;
            if bytes_before(middle) < (done + len) as f64 { low = middle + 1 } else { high = middle }
        }
        let to = if done + len == total { last.max(from) } else { low };
        outputs.push((from, to, len));
        (from, done) = (to + 1, done + len);
    }
    outputs
}

/// The outputs of a merge as candidates, with keys from `first_key` on.
pub(super) fn merged(inputs: &[Candidate], cut: Bytes, first_key: u64) -> Vec<Candidate> {
    let total = inputs.iter().map(|input| input.len.0).sum();
    let parts = cut_evenly(inputs, total, cut.0).into_iter().zip(first_key..);
    parts
        .map(|((from, to, len), key)| Candidate { key, low: id(from), high: id(to), len: Bytes(len), is_sealed: false })
        .collect()
}

/// How the producers behave for some hours.
struct Weather {
    consumers: u64,
    between_ns: u64,
    /// Arrivals are of a size from this to 4 times this.
    size: u64,
    late_one_in: u64,
}

impl Weather {
    fn any(dice: &mut Dice) -> Weather {
        let between_ns = match dice.below(4) {
            0 => MINUTE,
            1 => 5 * MINUTE,
            2 => 30 * MINUTE,
            _ => 8 * HOUR,
        };
        let late_one_in = [u64::MAX, u64::MAX, 20, 3][dice.below(4) as usize];
        Weather { consumers: 1 + dice.below(4), between_ns, size: (10 << 10) << dice.below(14), late_one_in }
    }
}

/// One week of it.
fn week(seed: u64, seal_age: Option<Duration>) -> Archive {
    let mut dice = Dice::new(seed);
    let mut archive = Archive::new(Limits { seal_age, ..Limits::new(Bytes(TARGET), RETAIN / 10) });
    let (mut now, mut weather_ends) = (START, START);
    let mut weather = Weather::any(&mut dice);
    while now < START + WEEK && archive.arrivals < MOST_ARRIVALS {
        if now >= weather_ends {
            weather = Weather::any(&mut dice);
            weather_ends = now + dice.below(18) * HOUR;
        }
        let before = now;
        now += 1 + dice.below(2 * weather.between_ns);
        for _ in 0..weather.consumers {
            let late = if dice.one_in(weather.late_one_in) { dice.below(20 * HOUR) } else { 0 };
            let to = now - dice.below(now - before) - late;
            let from = before - dice.below(now - before).min(HOUR) - late;
            let len = (weather.size + dice.below(3 * weather.size)).min(TARGET);
            archive.arrive(from, to, len);
        }
        archive.compact(UnixNanos(now).millis(), seed);
        archive.retire(UnixNanos(now).millis(), seed);
        let (count, bound) = (archive.live.len(), archive.most_segments());
        assert!(count as f64 <= bound, "{count} segments where {bound:.0} are the bound, replay with seed {seed}");
    }
    archive
}

/// What Overlap may write beyond the bound: a cluster of 16 begins and ends with a segment that may have been, or will
/// be, an output of its neighbour.
const OVERLAP_SLACK: f64 = 2.0 / MOST_OVERLAPPING as f64;

#[test]
fn a_week_of_any_weather_stays_within_both_bounds() {
    let mut jobs = 0;
    for seed in 0..200 {
        let archive = week(seed, Some(SEAL_AGE));
        let (times, bound) = (archive.times_rewritten(), archive.most_times_rewritten() + OVERLAP_SLACK);
        let by_reason = archive.rewritten.map(|bytes| bytes as f64 / archive.arrived as f64);
        assert!(
            times <= bound,
            "{times:.2} times where {bound:.2} is the bound, {by_reason:.2?}, replay with seed {seed}"
        );
        let most = archive.arrivals + archive.outputs;
        assert!(archive.seals <= most, "{} sealed of {most}, replay with seed {seed}", archive.seals);
        jobs += archive.jobs - archive.seals;
    }
    assert!(jobs > 10_000, "the weather was too fair: {jobs} jobs");
}

#[test]
fn sealing_changes_nothing_else_that_is_planned() {
    for seed in 0..40 {
        let [with, without] = [Some(SEAL_AGE), None].map(|age| week(seed, age));
        assert!(with.seals > 0 && without.seals == 0, "replay with seed {seed}");
        assert_eq!(with.rewritten[..3], without.rewritten[..3], "replay with seed {seed}");
        assert_eq!(with.jobs - with.seals, without.jobs, "replay with seed {seed}");
        let ends = |archive: &Archive| archive.live.iter().map(|is| (is.low, is.high, is.len)).collect::<Vec<_>>();
        assert_eq!(ends(&with), ends(&without), "replay with seed {seed}");
    }
}

#[test]
fn small_arrivals_in_order_leave_two_segments_per_slot_besides_the_full_ones_and_the_tail() {
    let mut archive = Archive::new(Limits::new(Bytes(TARGET), RETAIN / 10));
    for at in 0..8_000 {
        let from = START + at * 2 * MINUTE;
        archive.arrive(from, from + 2 * MINUTE - 1, 300 << 10);
        archive.compact(UnixNanos(from).millis(), 0);
        let slots = (at * 2 * MINUTE / 1_000_000 / archive.limits.slot_ms() + 1) as f64;
        let total = archive.arrived as f64 / TARGET as f64;
        let bound = 16.0 / 7.0 * total + 2.0 * slots + 8.0 * 7.0;
        assert!(archive.live.len() as f64 <= bound, "{} segments after {at} arrivals", archive.live.len());
    }
    let (times, bound) = (archive.times_rewritten(), archive.most_times_rewritten());
    assert!(times <= bound, "{times:.2} times where {bound:.2} is the bound");
}
