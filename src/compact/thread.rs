//! The thread of the housekeeper: once a second, and after each compaction, retention and the removal of what nobody reads
//! any more; then the next compaction, until nothing is left to plan.

use super::execute::{CompactError, Cuts, execute};
use super::plan::{self, Candidate, Job, Reason};
use super::retain::{self, Action, Held, TrustedNow, plan_retention};
use crate::ops::metrics;
use crate::segment::handle::Graveyard;
use crate::segment::room::Refusal;
use crate::segment::{Form, Segment, State};
use crate::store::log::StoreLog;
use crate::store::writer::rename_free;
use crate::unit::{Bytes, Monotonic, UnixMillis};
use crate::world::crew::{Patience, Stop, be_patient};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often it looks for work.
pub const TICK: Duration = Duration::from_secs(1);

/// The longest wait after a compaction that failed; the first one is a second.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How often a segment may fail to merge before it is set aside.
const MOST_FAILURES: u32 = 3;

/// What a housekeeper keeps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// No compacted segment is longer.
    pub target_size: Bytes,
    /// What is kept, and how long.
    pub retention: retain::Limits,
    /// How old records are when they are sealed even if their segment is not full; `None`: nothing is sealed.
    pub seal_age: Option<Duration>,
}

/// What a plan rests on, besides the time: the changes of the catalogue, and how many indexes were found damaged.
type Standing = (u64, usize);

/// Keeps one store in order.
pub struct Housekeeper {
    store: Arc<StoreLog>,
    settings: Settings,
    limits: plan::Limits,
    trusted: TrustedNow,
    complained: bool,
    /// A compaction waits for room, and that was said.
    cramped: bool,
    purged: Graveyard,
    /// Segments that failed to merge, and how often; those that are gone are forgotten.
    failures: Vec<(Weak<Segment>, u32)>,
    not_before: Monotonic,
    wait: Duration,
    /// When there was nothing to compact: how things stood, and until what time that is so.
    settled: Option<(Standing, UnixMillis)>,
    /// Those after which nothing was past its time, and the time until which nothing will be.
    kept: Option<(u64, UnixMillis)>,
}

/// Runs until `stop` is raised. A compaction on its way is ended first.
pub fn run(mut keeper: Housekeeper, stop: &Stop) {
    be_patient(Patience::Housekeeping);
    while !stop.wait(TICK) {
        keeper.tick(stop);
    }
}

impl Housekeeper {
    /// A housekeeper for `store`.
    pub fn new(store: Arc<StoreLog>, settings: Settings) -> Housekeeper {
        let newest = store.catalogue().live().iter().map(|segment| segment.digest().last).max();
        let retain = settings.retention.retain;
        let clock = store.clock();
        Housekeeper {
            trusted: TrustedNow::start(clock.unix_millis(), clock.now(), newest, retain),
            limits: plan::Limits {
                seal_age: settings.seal_age,
                ..plan::Limits::new(settings.target_size, retain / 10)
            },
            settings,
            store,
            complained: false,
            cramped: false,
            purged: Graveyard::default(),
            failures: Vec::new(),
            not_before: Monotonic::default(),
            wait: TICK,
            settled: None,
            kept: None,
        }
    }

    /// Does all there is to do now, unless `stop` is raised meanwhile.
    pub fn tick(&mut self, stop: &Stop) {
        loop {
            // Before each compaction anew: there may be hours of them, when a store is sealed for the first time.
            self.store.room().look(self.store.clock().now());
            self.set_damaged_aside();
            self.retain();
            self.sweep();
            if stop.is_raised() || self.store.clock().now() < self.not_before || !self.compact() {
                return;
            }
        }
    }

    /// Carries out the next job. False if there is none, or it failed.
    fn compact(&mut self) -> bool {
        let catalogue = self.store.catalogue();
        let standing = (catalogue.changes(), catalogue.live_that(Segment::has_damaged_index).len());
        let today = self.store.clock().unix_millis();
        if self.settled.is_some_and(|(before, until)| before == standing && today < until) {
            return false;
        }
        let live = self.store.catalogue().live();
        let candidates: Vec<Candidate> =
            live.iter().zip(0..).filter_map(|(segment, key)| self.candidate(segment, key)).collect();
        let Some(planned) = plan::plan(&candidates, &self.limits, today) else {
            let until = plan::next_seal(&candidates, &self.limits).unwrap_or(UnixMillis(u64::MAX));
            self.settled = Some((standing, until));
            return false;
        };
        let Some(job) = self.job(planned, &candidates, today) else { return false };
        let pick = |key: &u64| live.get(usize::try_from(*key).ok()?).cloned();
        let inputs: Vec<Arc<Segment>> = job.inputs.iter().filter_map(pick).collect();
        drop(live);
        let start = self.store.clock().now();
        let (form, never_over) = match job.reason {
            // One for one, also where the target size was larger once.
            Reason::Seal => (Form::Sealed, Bytes(u64::MAX)),
            Reason::Join | Reason::Overlap | Reason::Close => (Form::Plain, self.settings.target_size),
        };
        let result = execute(&self.store, &inputs, Cuts { at: job.cut, never_over }, form);
        let labels =
            [kind(&job), if result.is_ok() { "true" } else { "false" }, if result.is_ok() { "ok" } else { "error" }];
        let took = self.store.clock().now().since(start);
        self.store.metrics().histogram(metrics::COMPACT_SECONDS, &labels).observe_span(took);
        match result {
            Ok(written) => {
                self.store.metrics().counter(metrics::COMPACT_BYTES, &[kind(&job)]).add(written.0);
                self.wait = TICK;
                true
            }
            Err(e) => {
                self.failed(&inputs, &e);
                false
            }
        }
    }

    /// This job, if it fits above the store's mark. One that does not waits, and a smaller one is done instead, as if no
    /// segment might be larger than the room that there is.
    fn job(&mut self, job: Job, candidates: &[Candidate], today: UnixMillis) -> Option<Job> {
        let (room, needed) = match self.store.room().spare() {
            Ok((room, _)) => (room, size_of(&job, candidates)),
            Err(e) => {
                log::warn!("asking how much room {} has: {e}", self.store.dir().display());
                return None;
            }
        };
        let cramped = needed > room;
        if cramped && !self.cramped {
            let (path, free) = (self.store.dir().display().to_string(), room.0);
            log::warn!(path, needed = needed.0, free; "a compaction waits for room: it needs its inputs once more");
        }
        self.cramped = cramped;
        if !cramped {
            return Some(job);
        }
        // What is full does not become so by want of room: sealing is planned by itself, and makes room.
        let limits = plan::Limits { target: Bytes(room.0.min(self.limits.target.0)), seal_age: None, ..self.limits };
        let smaller = plan::plan(candidates, &limits, today).filter(|job| size_of(job, candidates) <= room);
        smaller.or_else(|| {
            let fitting: Vec<Candidate> = candidates.iter().filter(|segment| segment.len <= room).copied().collect();
            plan::seal(&fitting, &self.limits, today)
        })
    }

    fn candidate(&self, segment: &Arc<Segment>, key: u64) -> Option<Candidate> {
        let failures = self.failures.iter().find(|(failed, _)| failed.as_ptr() == Arc::as_ptr(segment));
        if failures.is_some_and(|(_, times)| *times >= MOST_FAILURES) {
            return None;
        }
        let known = segment.digest();
        let is_sealed = known.form == Form::Sealed && !segment.has_damaged_index();
        Some(Candidate { key, low: known.first, high: known.last, len: known.len, is_sealed })
    }

    /// Waits longer each time; a segment that failed three times is set aside, or left out where that fails too.
    fn failed(&mut self, inputs: &[Arc<Segment>], error: &CompactError) {
        if let CompactError::Io { source, .. } = error
            && Refusal::of(source) == Refusal::NoRoom
        {
            self.store.room().refused(source, self.store.clock().now());
        }
        log::warn!("{error}; trying again in {:?}", self.wait);
        self.not_before = self.store.clock().now() + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        let CompactError::Input { index, .. } = error else { return };
        let Some(input) = inputs.get(*index) else { return };
        self.failures.retain(|(segment, _)| segment.strong_count() > 0);
        let times = match self.failures.iter_mut().find(|(failed, _)| failed.as_ptr() == Arc::as_ptr(input)) {
            Some((_, times)) => {
                *times += 1;
                *times
            }
            None => {
                self.failures.push((Arc::downgrade(input), 1));
                1
            }
        };
        if times >= MOST_FAILURES
            && let Err(e) = self.store.set_aside(input)
        {
            log::error!("setting {} aside: {e}; it is left out of compaction", input.path().display());
        }
    }

    /// What a query has found damaged: what is whole in it answers the next one.
    fn set_damaged_aside(&self) {
        for segment in self.store.catalogue().live_that(Segment::take_damaged) {
            if let Err(e) = self.store.set_aside(&segment) {
                let path = segment.path();
                log::error!(
                    "{} was found damaged, and stays: {e}; a query that comes to it tries again",
                    path.display()
                );
            }
        }
    }

    fn retain(&mut self) {
        let (now, complaint) = self.trusted.now(self.store.clock().unix_millis(), self.store.clock().now());
        if let Some(complaint) = complaint.filter(|_| !self.complained) {
            log::warn!("{complaint}");
        }
        self.complained = complaint.is_some();
        let changes = self.store.catalogue().changes();
        if self.kept.is_some_and(|(before, until)| before == changes && now <= until) {
            return;
        }
        let live = self.store.catalogue().live();
        let trashed = self.store.catalogue().trashed();
        let all: Vec<(Arc<Segment>, Option<UnixMillis>)> = live
            .into_iter()
            .map(|segment| (segment, None))
            .chain(trashed.into_iter().map(|trashed| (trashed.segment, Some(trashed.since))))
            .collect();
        let held: Vec<Held> = all
            .iter()
            .zip(0..)
            .map(|((segment, trashed), key)| Held {
                key,
                high: segment.digest().last,
                len: segment.digest().disk,
                trashed: *trashed,
            })
            .collect();
        let actions = plan_retention(&held, &self.settings.retention, now);
        self.kept = actions.is_empty().then(|| (changes, retain::nothing_before(&held, &self.settings.retention)));
        let segment_of = |key: u64| all.get(usize::try_from(key).ok()?).map(|(segment, _)| segment);
        for action in &actions {
            match action {
                Action::Trash(key) => segment_of(*key).into_iter().for_each(|segment| self.trash(segment, now)),
                Action::Purge(key) => segment_of(*key).into_iter().for_each(|segment| self.purge(segment)),
            }
        }
        if !actions.is_empty()
            && let Err(e) = self.store.names().sync(self.store.names().since())
        {
            // What a crash brings back is trashed or purged again.
            log::warn!("syncing {}: {e}", self.store.dir().display());
        }
    }

    /// The time goes into the file before the name changes: a crash between leaves a live segment, not one due for purging.
    fn trash(&self, segment: &Arc<Segment>, now: UnixMillis) {
        let path = segment.path();
        let result = self.store.fs().set_modified(&path, now).and_then(|()| rename_free(segment, State::Trashed));
        match &result {
            Ok(()) => self.store.catalogue().trash(segment, now),
            Err(e) => {
                self.give_way(e);
                log::warn!("trashing {}: {e}", path.display());
            }
        }
        self.store.metrics().counter(metrics::TRASHED, &[success(&result)]).inc();
    }

    /// The file goes when its last reader has gone. Not what could not be trashed just before.
    fn purge(&self, segment: &Arc<Segment>) {
        if crate::store::writer::state_of(segment) == Some(State::Trashed) {
            self.store.catalogue().forget_trashed(segment);
            self.purged.give_up(segment.clone());
        }
    }

    fn sweep(&self) {
        for (path, e) in self.store.graveyard().sweep() {
            // At the next start it is a segment again, of records that are elsewhere too.
            log::warn!("removing {}: {e}", path.display());
            self.give_way(&e);
        }
        let before = self.purged.len();
        let failed = self.purged.sweep();
        let gone = before.saturating_sub(self.purged.len()).saturating_sub(failed.len());
        self.store.metrics().counter(metrics::PURGED, &["true"]).add(gone as u64);
        for (path, e) in failed {
            log::warn!("purging {}: {e}; the next start tries again", path.display());
            self.give_way(&e);
            self.store.metrics().counter(metrics::PURGED, &["false"]).inc();
        }
    }

    /// Something was refused that makes room.
    fn give_way(&self, error: &io::Error) {
        self.store.room().give_way(error, self.store.clock().now());
    }
}

/// What a job writes at most.
fn size_of(job: &Job, candidates: &[Candidate]) -> Bytes {
    // Candidates are in the order of their keys.
    let found =
        job.inputs.iter().filter_map(|key| candidates.binary_search_by_key(key, |candidate| candidate.key).ok());
    let inputs = found.filter_map(|at| candidates.get(at));
    Bytes(inputs.fold(0u64, |sum, candidate| sum.saturating_add(candidate.len.0)))
}

fn kind(job: &Job) -> &'static str {
    match job.reason {
        Reason::Join => "join",
        Reason::Overlap => "overlap",
        Reason::Close => "close",
        Reason::Seal => "seal",
    }
}

fn success(result: &io::Result<()>) -> &'static str {
    if result.is_ok() { "true" } else { "false" }
}
