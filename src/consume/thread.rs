//! The thread of a consumer: does what the machine says, one thing after the other.

use super::copy::{Input, Tools, copy};
use super::links::{IngestLink, LinkError, Membership, Offer, StoreLink};
use super::machine::{Action, Answer, Consumer, Event, Peer, Piece, Settings};
use crate::ops::metrics::{self, Metrics};
use crate::unit::Bytes;
use crate::world::clock::Clock;
use crate::world::crew::Stop;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a consumer's thread is made of.
pub struct Carrier {
    /// What it keeps to.
    pub settings: Settings,
    /// How much is merged at a time.
    pub buffer: Bytes,
    /// Whom it works with.
    pub members: Arc<dyn Membership>,
    /// The clock it goes by.
    pub clock: Arc<dyn Clock>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// Runs a consumer until `stop` is raised; what it has in hand then is given back. A copy that is on its way is ended first.
pub fn run(carrier: &Carrier, stop: &Stop) {
    let mut consumer = Consumer::new(carrier.settings);
    let mut shell = Shell { carrier, stop, ingesters: BTreeMap::new(), stores: BTreeMap::new() };
    let mut events = VecDeque::new();
    while !stop.is_raised() {
        let event = events.pop_front().unwrap_or_else(|| shell.wake());
        for action in consumer.step(carrier.clock.now(), event) {
            events.extend(shell.perform(action));
        }
    }
    // What was handed out or copied in the last step is in the events alone.
    events.retain(|event| matches!(event, Event::Offered(_) | Event::Copied { .. }));
    events.push_back(Event::Stopping);
    for event in events {
        for action in consumer.step(carrier.clock.now(), event) {
            if matches!(action, Action::Commit(_) | Action::FailBack(_)) {
                shell.perform(action);
            }
        }
    }
}

struct Shell<'a> {
    carrier: &'a Carrier,
    stop: &'a Stop,
    ingesters: BTreeMap<Peer, Arc<dyn IngestLink>>,
    stores: BTreeMap<Peer, Arc<dyn StoreLink>>,
}

impl Shell<'_> {
    /// Looks who is there.
    fn wake(&mut self) -> Event {
        let members = &self.carrier.members;
        self.ingesters = members.ingesters().into_iter().map(|link| (link.name().into(), link)).collect();
        self.stores = members.stores().into_iter().map(|link| (link.name().into(), link)).collect();
        Event::Woke {
            ingesters: self.ingesters.keys().cloned().collect(),
            stores: self.stores.keys().cloned().collect(),
        }
    }

    /// The only place that may block.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Ask { from } => Some(self.ask(from)),
            Action::Copy { pieces, to } => Some(self.copy(pieces, &to)),
            Action::Commit(pieces) => {
                for piece in &pieces {
                    // Once more where the answer was lost; beyond that its deadline brings it back, as a duplicate.
                    let committed = self.tell(piece, |link, offer| link.commit(offer.id))
                        || self.tell(piece, |link, offer| link.commit(offer.id));
                    self.count_commit(piece, committed);
                }
                None
            }
            Action::FailBack(pieces) => {
                self.carrier.metrics.counter(metrics::CONSUME_FAILURES, &["batch"]).inc();
                for piece in &pieces {
                    self.tell(piece, |link, offer| link.failed(offer.id));
                }
                None
            }
            Action::SetAside(piece) => {
                log::error!("segment {} of {} cannot be merged: set aside there", piece.offer.id, piece.from);
                self.carrier.metrics.counter(metrics::CONSUME_FAILURES, &["set_aside"]).inc();
                self.tell(&piece, |link, offer| link.set_aside(offer.id));
                None
            }
            Action::Renew(pieces) => {
                for piece in &pieces {
                    self.tell(piece, |link, offer| link.renew(offer.id));
                }
                None
            }
            Action::WaitUntil(until) => {
                self.stop.wait(until.since(self.carrier.clock.now()));
                None
            }
        }
    }

    fn ask(&self, from: Peer) -> Event {
        let Some(link) = self.ingesters.get(&from) else { return Event::Silent { from } };
        match link.next() {
            Ok(Some(offer)) => Event::Offered(Piece { from, offer }),
            Ok(None) => Event::Nothing { from },
            Err(e) => {
                log::warn!("{e}");
                self.carrier.metrics.counter(metrics::CONSUME_FAILURES, &["gather"]).inc();
                Event::Silent { from }
            }
        }
    }

    fn copy(&self, pieces: Vec<Piece>, to: &[Peer]) -> Event {
        let link_of = |piece: &Piece| self.ingesters.get(&piece.from).cloned();
        let inputs: Vec<Input> = pieces.into_iter().map(|piece| Input { link: link_of(&piece), piece }).collect();
        let stores: Vec<_> =
            to.iter().filter_map(|peer| Some((peer.clone(), self.stores.get(peer)?.clone()))).collect();
        let Carrier { settings, buffer, clock, metrics, .. } = self.carrier;
        let buffer = usize::try_from(buffer.0).unwrap_or(usize::MAX).clamp(64 << 10, 64 << 20);
        let event = copy(&inputs, &stores, &Tools { clock: &**clock, renew_every: settings.renew_every, buffer });
        match &event {
            Event::Copied { sent, answers } => {
                for (_, answer) in answers {
                    if matches!(answer, Answer::Has(_)) {
                        metrics.counter(metrics::REPLICATED, &["egress"]).inc();
                        metrics.counter(metrics::REPLICATED_BYTES, &["egress"]).add(sent.len.0);
                    } else {
                        metrics.counter(metrics::CONSUME_FAILURES, &["replicate"]).inc();
                    }
                }
            }
            Event::Spoilt { .. } => metrics.counter(metrics::CONSUME_FAILURES, &["merge"]).inc(),
            _ => metrics.counter(metrics::CONSUME_FAILURES, &["replicate"]).inc(),
        }
        event
    }

    fn count_commit(&self, piece: &Piece, committed: bool) {
        let metrics = &self.carrier.metrics;
        if committed {
            metrics.counter(metrics::CONSUMED, &[]).inc();
            metrics.counter(metrics::CONSUMED_BYTES, &[]).add(piece.offer.len.0);
        } else {
            metrics.counter(metrics::CONSUME_FAILURES, &["commit"]).inc();
        }
    }

    /// Tells an ingester something about a segment. False if that failed, which is logged.
    fn tell(&self, piece: &Piece, say: impl Fn(&dyn IngestLink, Offer) -> Result<(), LinkError>) -> bool {
        let Some(link) = self.ingesters.get(&piece.from) else { return false };
        match say(&**link, piece.offer) {
            Ok(()) => true,
            Err(e) => {
                log::warn!("{e}");
                false
            }
        }
    }
}
