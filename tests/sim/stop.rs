//! A node that is told to end: takes no more lines, lets connections finish, flushes, waits for stores to take what is left,
//! says good-bye, ends. As `cli/serve` does it, with the same steps of the log.

use crate::ledger::Checked;
use crate::node::{Death, Place};
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, SECOND, Ticket};
use oklog::ingest::log::Reason;
use oklog::ingest::queue::Drained;
use std::time::Duration;

/// How far it has come, and until when it waits there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopping {
    /// Connections write what they were sent.
    Doors(Nanos),
    /// Stores take what is left.
    Draining(Nanos),
    /// Others are told.
    Leaving(Nanos),
}

/// From one look at how far it has come to the next.
const LOOK: Nanos = 100 * MS;

impl Sim {
    /// A node is told to end.
    pub fn stop(&mut self, place: Place) -> Checked {
        let now = self.time.now();
        let node = &mut self.nodes[place];
        if node.process.is_none() || node.stopping.is_some() {
            return Ok(());
        }
        node.stopping = Some(Stopping::Doors(now + 10 * SECOND));
        let ticket = node.ticket();
        self.trace(|| format!("node {place} is told to end"));
        self.hang_up(ticket)?;
        self.time.after(LOOK, Event::Stop(ticket));
        Ok(())
    }

    /// Goes on with it.
    pub fn stop_goes_on(&mut self, ticket: Ticket) -> Checked {
        let (place, now) = (ticket.place, self.time.now());
        let next = match self.nodes[place].stopping {
            Some(Stopping::Doors(until)) if now < until && !self.have_hung_up(ticket) => None,
            Some(Stopping::Doors(_)) => {
                self.on_ingest_tier(place, |log| log.close_all(Reason::Stop))?;
                Some(Stopping::Draining(now + SECOND + self.dice.below(15 * SECOND)))
            }
            Some(Stopping::Draining(until)) => {
                let drained =
                    self.on_ingest_tier(place, |log| log.wait_until_drained(Duration::ZERO))?.unwrap_or(Drained::All);
                (drained != Drained::Not || now >= until).then(|| {
                    let drained = drained == Drained::All;
                    self.trace(|| format!("node {place} leaves, drained: {drained}"));
                    self.totals.stops[usize::from(drained)] += 1;
                    self.nodes[place].is_unmissed |= drained;
                    self.say_good_bye(ticket, drained);
                    Stopping::Leaving(now + SECOND)
                })
            }
            Some(Stopping::Leaving(until)) if now < until && !self.has_said_good_bye(place) => None,
            Some(Stopping::Leaving(_)) => return self.stop_ends(ticket),
            None => return Ok(()),
        };
        if self.nodes[place].runs(ticket.life) {
            let node = &mut self.nodes[place];
            node.stopping = next.or(node.stopping);
            self.time.after(LOOK, Event::Stop(ticket));
        }
        Ok(())
    }

    /// The threads end, the flusher last; then the process. What was flushed holds even if the machine goes down now.
    fn stop_ends(&mut self, ticket: Ticket) -> Checked {
        let place = ticket.place;
        self.on_ingest_tier(place, |log| {
            log.close_all(Reason::Stop);
            log.flush_closed();
            log.remove_committed();
        })?;
        if !self.nodes[place].runs(ticket.life) {
            return Ok(());
        }
        let synced = self.unsynced.remove(&place).unwrap_or_default();
        if !self.nodes[place].is_suspect {
            self.ledger.promise(synced);
        }
        let death = if self.dice.one_in(2) { Death::Killed } else { Death::PowerCut };
        self.trace(|| format!("node {place} has ended"));
        self.nodes[place].die(death, &mut self.dice);
        let away = self.dice.below(8 * SECOND);
        self.time.after(away, Event::Start(place));
        Ok(())
    }

    fn on_ingest_tier<R>(
        &mut self,
        place: Place,
        what: impl FnOnce(&oklog::ingest::log::IngestLog) -> R,
    ) -> Checked<Option<R>> {
        Ok(self.act(place, |process| process.ingest.as_ref().map(|tier| what(&tier.log)))?.flatten())
    }
}
