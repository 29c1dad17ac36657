//! The thread that fills gaps.
//!
//! One gap after the other, so that many links that come back together cost two queries at most: a wish that comes while a
//! gap is being filled is joined with all others that come meanwhile. The thread ends when nothing is wanted any more.
//! Records wait for room in the inbox: a gap is not missed for slowness.

use super::backfill::{Backfill, Leash};
use super::inbox::{Inbox, Item, Source};
use super::runs::RecordReader;
use super::wishes::Wishes;
use crate::forward::backoff::Backoff;
use crate::record::id::Id;
use crate::record::stored;
use crate::world::crew::{Crew, LARGE_STACK, lock};
use crate::world::entropy::Dice;
use std::io;
use std::sync::{Arc, Mutex};

/// How often a query is tried before the reader is told that its records are missing: for about five seconds.
const TRIES: u32 = 10;

/// Fills the gaps of one stream.
pub struct Filler {
    backfill: Arc<dyn Backfill>,
    wishes: Wishes,
    inbox: Arc<Inbox>,
    leash: Leash,
    crew: Crew,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The smallest id that is wanted.
    wanted: Option<Id>,
    at_work: bool,
}

impl Filler {
    /// A filler with nothing to do. Its thread, when there is one, is of this crew.
    pub fn new(
        backfill: Arc<dyn Backfill>,
        wishes: Wishes,
        inbox: Arc<Inbox>,
        leash: Leash,
        crew: Crew,
    ) -> Arc<Filler> {
        Arc::new(Filler { backfill, wishes, inbox, leash, crew, state: Mutex::default() })
    }

    /// Asks for all records from this id on, as of now. Does not wait.
    pub fn want(self: &Arc<Self>, from: Id) {
        {
            let mut state = lock(&self.state);
            state.wanted = Some(state.wanted.map_or(from, |other| other.min(from)));
        }
        self.tend();
    }

    /// Starts the thread if it is needed and is not there. To be called now and then, since the system may have given none.
    pub fn tend(self: &Arc<Self>) {
        {
            let mut state = lock(&self.state);
            if state.at_work || state.wanted.is_none() {
                return;
            }
            state.at_work = true;
        }
        let filler = self.clone();
        if let Err(why) = self.crew.start("stream gap", LARGE_STACK, move || filler.work()) {
            log::warn!("stream: no thread to fill a gap: {why}");
            lock(&self.state).at_work = false;
        }
    }

    fn work(&self) {
        while let Some(from) = self.next() {
            self.fill(from);
        }
    }

    fn next(&self) -> Option<Id> {
        let mut state = lock(&self.state);
        let from = state.wanted.take().filter(|_| !self.leash.stop.is_raised());
        state.at_work = from.is_some();
        from
    }

    fn fill(&self, mut from: Id) {
        let since = from.millis();
        let mut backoff = Backoff::new(1, Dice::new(since.0));
        while !self.leash.stop.wait(backoff.attempt().wait) {
            let sentence = match self.read(&mut from) {
                Ok(true) => return,
                Ok(false) => "some nodes do not answer".to_string(),
                Err(why) => {
                    log::debug!("stream: filling the gap since {since}: {why}");
                    backoff.failed();
                    if backoff.failures() < TRIES {
                        continue;
                    }
                    why.to_string()
                }
            };
            // If there is nobody to be told, nobody misses anything.
            let _ = self
                .inbox
                .bring(Source::GAP, Item::Say(format!("oklog: records since {since} may be missing: {sentence}")));
            return;
        }
    }

    /// One query. `from` is moved on to the last record that came. Gives whether all nodes have answered.
    fn read(&self, from: &mut Id) -> io::Result<bool> {
        let past = self.backfill.since(*from, &self.wishes, &self.leash)?;
        let mut runs = RecordReader::new(past.body);
        while let Some(run) = runs.next_run()? {
            let last = stored::last(run).and_then(|record| record.id());
            if !self.inbox.bring(Source::GAP, Item::Batch(run.into())) {
                return Ok(true);
            }
            *from = last.unwrap_or(*from);
        }
        Ok(past.whole)
    }
}
