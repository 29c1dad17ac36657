//! Which segments to merge next: one decision over a snapshot.
//!
//! Four rules, in this order. With T the target, S the widest span, and time cut into slots of S/2:
//!
//! - **Join**: a run of small segments that comes to at least `growth` (4) times its largest member, smallest first.
//! - **Overlap**: segments above T/4 that lie over each other in time become segments that do not.
//! - **Close**: a run that cannot grow any more, since what comes next would take it over T or lies in a later slot, is
//!   joined once for good.
//! - **Seal**: one segment that is full, or whose last record is older than an age, is written anew in compressed form,
//!   the oldest first. A full one waits for what lies over it, as Overlap does, so that it is not compressed twice.
//!
//! A run comes to no more than T, and its segments begin in one slot and end by the end of the next. So nothing reaches
//! over more than S, and retention, which removes whole segments, is never late by more. A run is contiguous in the
//! order of first ids among the segments that its rule may touch: one that is full is stepped over, so a late arrival
//! between two full ones still finds its like.
//!
//! **What is written.** Every Join makes the segment that a byte lies in at least `growth` times larger, so there are
//! at most log4(T / first size) of them. Close takes only segments up to 7/16 T and makes a larger one, which it never
//! takes again: the +1. At the end of a slot it may make a smaller one; then it must double the largest member, so only
//! as much again in late arrivals has the same bytes written once more. Overlap writes at most two bytes for each that
//! lay over others. In each of 200 simulated weeks all together stayed below log4(T / mean first size) + 1, or by no
//! more than 1/8 above it where arrivals were as large as T and overlapped without end.
//!
//! **What is left.** When there is nothing to plan: at most 16/7 of total / T full segments; in the newest slot a tail
//! of at most 8 per doubling between the smallest segment and T/4; in each older slot about two more, three where some
//! records came late (measured; what is left in a slot falls by halves). What arrives wider than a slot and the next is
//! never joined and counts besides.
//!
//! **It ends.** Join and Close put one segment in the place of several up to 7/16 T. Overlap makes none of that size if
//! its outputs are cut as the job says, and shortens the sum of all spans. So for any input a plan that is carried out
//! again and again comes to `None`. Seal changes the form of one segment and nothing else, and no other rule looks at the
//! form. So the other jobs are those that there would be without it, as many and in the same order; after each of them at
//! most one segment for each output can be sealed more, since what is sealed is not sealed again unless its index is
//! damaged. Two things follow: joining and sealing do not feed each other, and sealing at most doubles how often a byte
//! is written, each time in a smaller form.
//!
//! Planning is one pass over all segments for each doubling of size: milliseconds for 100,000.

use crate::record::id::Id;
use crate::unit::{Bytes, UnixMillis};
use std::time::Duration;

#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod tests;

/// How many segments one job merges at most: each one is an open file and a block of memory.
pub const MOST_INPUTS: usize = 64;

/// How many segments that overlap are merged at once: so many targets of free disk does a job need.
pub const MOST_OVERLAPPING: usize = 16;

/// A segment that may be merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What the caller knows it by.
    pub key: u64,
    /// Its first id.
    pub low: Id,
    /// Its last id.
    pub high: Id,
    /// How long its stored records are.
    pub len: Bytes,
    /// Whether it is sealed, and its index is sound.
    pub is_sealed: bool,
}

/// What a plan keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// No output is longer.
    pub target: Bytes,
    /// No output reaches over more time, to the millisecond and from 2 ms up. A tenth of what is retained is a good
    /// value: by so much may retention be late.
    pub max_span: Duration,
    /// How much larger than its largest input an output of a Join is at least.
    pub growth: u64,
    /// How old the last record of a segment is when it is sealed that is not full; `None`: nothing is sealed.
    pub seal_age: Option<Duration>,
}

impl Limits {
    /// Limits with the growth for which the bounds above are stated, 4, that seal nothing.
    pub fn new(target: Bytes, max_span: Duration) -> Limits {
        Limits { target, max_span, growth: 4, seal_age: None }
    }

    /// Segments above this are full: 7/16 of the target, a little below the half, so that the halves of what was just
    /// above one target are full too, wherever the last record falls.
    fn full(&self) -> u64 {
        self.target.0 / 16 * 7
    }

    fn growth(&self) -> u64 {
        self.growth.max(2)
    }

    fn slot_ms(&self) -> u64 {
        u64::try_from(self.max_span.as_millis() / 2).unwrap_or(u64::MAX).max(1)
    }

    fn slot_of(&self, segment: &Candidate) -> u64 {
        segment.low.millis().0 / self.slot_ms()
    }

    /// Whether a segment ends by the end of the slot after its own, as then does all that is joined from such segments.
    fn is_narrow(&self, segment: &Candidate) -> bool {
        segment.high.millis().0 / self.slot_ms() <= self.slot_of(segment).saturating_add(1)
    }
}

/// Why segments are merged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// They are small.
    Join,
    /// They lie over each other in time.
    Overlap,
    /// They are neighbours that cannot grow any more.
    Close,
    /// There is one, which is to be compressed.
    Seal,
}

/// What to merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    /// The keys of the segments, in order of their first ids; at least 2, at most [`MOST_INPUTS`]. One, where it is sealed.
    pub inputs: Vec<u64>,
    /// Why.
    pub reason: Reason,
    /// An output ends with the record that brings it to this length, and before one that would take it over the target.
    /// Even parts, so that no crumb is left over; the whole sum where one output takes it all.
    pub cut: Bytes,
}

/// The next job, or `None` when all is well. `segments` are in order of their first ids. `now` is for the age of records.
pub fn plan(segments: &[Candidate], limits: &Limits, now: UnixMillis) -> Option<Job> {
    join(segments, limits)
        .or_else(|| overlap(segments, limits))
        .or_else(|| close(segments, limits))
        .or_else(|| seal(segments, limits, now))
}

/// A contiguous run while it grows.
#[derive(Clone, Copy)]
struct Run {
    count: usize,
    total: u64,
    largest: u64,
}

impl Run {
    fn of(first: &Candidate) -> Run {
        Run { count: 1, total: first.len.0, largest: first.len.0 }
    }

    fn and(self, next: &Candidate) -> Run {
        let total = self.total.saturating_add(next.len.0);
        Run { count: self.count + 1, total, largest: self.largest.max(next.len.0) }
    }

    fn fits(&self, limits: &Limits) -> bool {
        self.count <= MOST_INPUTS && self.total <= limits.target.0
    }

    /// The job that merges this run, which begins where `segments` begin.
    fn job(&self, segments: &[&Candidate], reason: Reason) -> Job {
        let inputs = segments.iter().take(self.count).map(|segment| segment.key).collect();
        Job { inputs, reason, cut: Bytes(self.total) }
    }
}

/// The longest run from the first segment on that fits, and what it comes to.
fn longest_run(segments: &[&Candidate], limits: &Limits) -> Option<Run> {
    let (first, rest) = segments.split_first()?;
    let mut run = Run::of(first);
    for next in rest {
        match run.and(next) {
            longer if longer.fits(limits) => run = longer,
            _ => break,
        }
    }
    Some(run)
}

/// Sizes are taken by doublings, smallest first: in one doubling, runs of segments up to `cap`. A run is taken as long
/// as it gets: the more at once, the fewer times each byte is written.
fn join(segments: &[Candidate], limits: &Limits) -> Option<Job> {
    let most = limits.target.0 / limits.growth();
    let small: Vec<&Candidate> = segments.iter().filter(|s| s.len.0 <= most && limits.is_narrow(s)).collect();
    let smallest = small.iter().map(|segment| segment.len.0.max(1)).min()?;
    let mut cap = smallest.checked_next_power_of_two().unwrap_or(most);
    loop {
        let mut runs = small
            .split(|segment| segment.len.0 > cap)
            .flat_map(|run| run.chunk_by(|one, next| limits.slot_of(one) == limits.slot_of(next)));
        let found = runs.find_map(|run| join_within(run, limits));
        if found.is_some() || cap >= most {
            return found;
        }
        cap = cap.saturating_mul(2);
    }
}

fn join_within(segments: &[&Candidate], limits: &Limits) -> Option<Job> {
    (0..segments.len()).find_map(|at| {
        let rest = &segments[at..];
        let run = longest_run(rest, limits)?;
        let grows = run.count >= 2 && run.total >= run.largest.saturating_mul(limits.growth());
        grows.then(|| run.job(rest, Reason::Join))
    })
}

/// Clusters are taken in order of time, each as large as it gets.
fn overlap(segments: &[Candidate], limits: &Limits) -> Option<Job> {
    let newest = segments.last()?.low;
    let large: Vec<&Candidate> = segments.iter().filter(|segment| segment.len.0 > limits.target.0 / 4).collect();
    for at in 0..large.len() {
        let cluster = cluster_from(&large[at..], limits);
        let Some(reach) = cluster.iter().map(|member| member.high).max() else { continue };
        // While arrivals still lie over its end, a cluster would be merged again with each of them.
        let settled = cluster.len() == MOST_OVERLAPPING || newest > reach;
        if cluster.len() >= 2 && settled && pays(&cluster) {
            let inputs = cluster.iter().map(|member| member.key).collect();
            return Some(Job { inputs, reason: Reason::Overlap, cut: even_cut(total_of(&cluster), limits.target) });
        }
    }
    None
}

/// Segments from the first one on, each of which lies over an earlier one by half of the shorter of the two.
fn cluster_from<'a>(segments: &[&'a Candidate], limits: &Limits) -> Vec<&'a Candidate> {
    let mut cluster: Vec<&Candidate> = Vec::new();
    let mut reach = Id::MIN;
    for next in segments {
        let Some(first) = cluster.first() else {
            reach = next.high;
            cluster.push(next);
            continue;
        };
        let longer = reach.max(next.high);
        let span = longer.millis().since(first.low.millis());
        if next.low > reach || cluster.len() == MOST_OVERLAPPING || span > limits.max_span {
            break;
        }
        if !cluster.iter().any(|member| lies_over(member, next)) {
            break;
        }
        reach = longer;
        cluster.push(next);
    }
    cluster
}

/// Whether two segments, of which `earlier` begins first, share at least half of the time of the shorter one.
fn lies_over(earlier: &Candidate, later: &Candidate) -> bool {
    let span = |from: Id, to: Id| to.nanos().0.saturating_sub(from.nanos().0).saturating_add(1);
    if later.low > earlier.high {
        return false;
    }
    let shared = span(later.low, later.high.min(earlier.high));
    let shorter = span(earlier.low, earlier.high).min(span(later.low, later.high));
    shared.saturating_mul(2) >= shorter
}

/// Whether merging writes at most twice what lies over others: all but the heaviest set of members that are disjoint
/// (weighted interval scheduling, over 16 at most). With four times, a simulated week wrote each byte 4.9 times where
/// the bound is 2.2; with twice, no week of 200 is more than 1/8 above it.
fn pays(cluster: &[&Candidate]) -> bool {
    let mut best: Vec<u64> = Vec::with_capacity(cluster.len());
    for (at, member) in cluster.iter().enumerate() {
        let before = cluster.iter().zip(&best).take(at).filter(|(earlier, _)| earlier.high < member.low);
        best.push(before.map(|(_, weight)| *weight).max().unwrap_or(0).saturating_add(member.len.0));
    }
    let disjoint = best.into_iter().max().unwrap_or(0);
    total_of(cluster) <= total_of(cluster).saturating_sub(disjoint).saturating_mul(2)
}

fn total_of(cluster: &[&Candidate]) -> u64 {
    cluster.iter().fold(0, |sum, member| sum.saturating_add(member.len.0))
}

/// Even parts of at most 63/64 of the target: the 64th is room for the record with which a part ends.
fn even_cut(total: u64, target: Bytes) -> Bytes {
    if total <= target.0 {
        return Bytes(total);
    }
    let part = (target.0 - target.0 / 64).max(1);
    Bytes(total.div_ceil(total.div_ceil(part)))
}

/// The oldest run that nothing can be added to any more: what comes next would take it over the target, or lies in a
/// later slot.
fn close(segments: &[Candidate], limits: &Limits) -> Option<Job> {
    let newest = limits.slot_of(segments.last()?);
    let open: Vec<&Candidate> = segments.iter().filter(|s| s.len.0 <= limits.full() && limits.is_narrow(s)).collect();
    open.chunk_by(|one, next| limits.slot_of(one) == limits.slot_of(next)).find_map(|slot| {
        let is_over = slot.first().is_some_and(|segment| limits.slot_of(segment) < newest);
        close_within(slot, is_over, limits)
    })
}

fn close_within(slot: &[&Candidate], is_over: bool, limits: &Limits) -> Option<Job> {
    for at in 0..slot.len() {
        let rest = &slot[at..];
        let run = longest_run(rest, limits)?;
        let reaches_end = run.count == rest.len();
        if reaches_end && !is_over {
            // It grows by what arrives, and so do all that begin later.
            return None;
        }
        let for_good = run.total > limits.full() || run.total >= run.largest.saturating_mul(2);
        if run.count >= 2 && for_good {
            return Some(run.job(rest, Reason::Close));
        }
    }
    None
}

/// The oldest segment, by its last record, that is due. One that was written in the future is new.
pub fn seal(segments: &[Candidate], limits: &Limits, now: UnixMillis) -> Option<Job> {
    let age = limits.seal_age?;
    let newest = segments.last()?.low;
    let is_due = |segment: &&Candidate| {
        is_old(segment, age, now) || (segment.len.0 > limits.full() && is_settled(segment, segments, limits, newest))
    };
    let due = segments.iter().filter(|segment| !segment.is_sealed).filter(is_due);
    let oldest = due.min_by_key(|segment| (segment.high, segment.key))?;
    Some(Job { inputs: vec![oldest.key], reason: Reason::Seal, cut: oldest.len })
}

fn is_old(segment: &Candidate, age: Duration, now: UnixMillis) -> bool {
    now >= segment.high.millis().after(age)
}

/// Whether no arrival lies over the end of a full segment any more, or of one that Overlap may merge it with.
fn is_settled(segment: &Candidate, segments: &[Candidate], limits: &Limits, newest: Id) -> bool {
    let may_merge = |other: &&Candidate| {
        other.len.0 > limits.target.0 / 4
            && if other.low < segment.low { lies_over(other, segment) } else { lies_over(segment, other) }
    };
    segments.iter().filter(may_merge).all(|other| other.high < newest) && segment.high < newest
}

/// From when on time alone gives [`plan`] something to seal, after it has found nothing to do.
pub fn next_seal(segments: &[Candidate], limits: &Limits) -> Option<UnixMillis> {
    let age = limits.seal_age?;
    let plain = segments.iter().filter(|segment| !segment.is_sealed);
    plain.map(|segment| segment.high.millis().after(age)).min()
}
