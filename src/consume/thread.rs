//! The thread of a consumer: does what the machine says.
//!
//! Ingesters are asked by threads of their own, at most [`MOST_ASKED`](super::machine::MOST_ASKED) of them, whose answers are
//! taken when there is nothing else to do: one that hangs costs nobody else's time. Segments are renewed by at most one
//! thread, beside all else. Commits go to [`TOLD_AT_ONCE`] ingesters at a time; one that does not answer is told no more, and
//! so costs at most two calls' time.

use super::copy::{Input, Tools, copy};
use super::courier::{Couriers, Patience, Terms};
use super::links::{IngestLink, LinkError, Membership, Offer, StoreLink};
use super::machine::{Action, Answer, Consumer, Event, MOST_ASKED, Peer, Piece, Settings};
use crate::cluster::DataId;
use crate::ops::metrics::{self, Metrics};
use crate::unit::{Bytes, Monotonic};
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, Stop, each, lock};
use crossbeam::channel::{Receiver, Sender, bounded, select};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many ingesters are told at once that segments were copied, or were not.
pub const TOLD_AT_ONCE: usize = 16;

/// How long the ingesters that were asked are waited for at the end, to give back what they hand out. What comes later goes
/// back by its own deadline.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How many rings wait at most. One more is not heard: that ingester is asked when its time comes.
const MOST_RINGING: usize = 16;

/// How long a consumer that stops waits for an answer at a time.
const STOP_TICK: Duration = Duration::from_millis(50);

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
    /// Whom its helping threads belong to.
    pub crew: Crew,
    /// How long stores may take where others can take their place, and where none can.
    pub patience: (Patience, Patience),
}

/// Runs a consumer until `stop` is raised; what it has in hand then is given back. A copy that is on its way is ended first.
pub fn run(carrier: &Carrier, stop: &Stop) {
    let mut consumer = Consumer::new(carrier.settings);
    let mut shell = Shell::new(carrier, stop);
    let mut events = VecDeque::new();
    while !stop.is_raised() {
        let event = events.pop_front().unwrap_or_else(|| shell.next_event());
        shell.until = Monotonic::default();
        for action in consumer.step(carrier.clock.now(), event) {
            events.extend(shell.perform(action));
        }
    }
    // What was copied in the last step is in the events alone.
    events.retain(|event| matches!(event, Event::Copied { .. }));
    events.push_back(Event::Stopping);
    let deadline = carrier.clock.now() + LAST_ANSWERS;
    while let Some(event) = events.pop_front().or_else(|| shell.last_answer(deadline)) {
        for action in consumer.step(carrier.clock.now(), event) {
            if matches!(action, Action::Commit { .. } | Action::FailBack(_)) {
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
    couriers: Couriers,
    /// The answers of ingesters: at most one for each that was asked, so that no answer waits for room.
    answers: (Sender<Event>, Receiver<Event>),
    /// The names of ingesters that may have something, though nobody asked.
    bell: (Sender<Peer>, Receiver<Peer>),
    /// Answers that came in while a batch was copied.
    heard: Mutex<VecDeque<Event>>,
    /// Breaks off when the stop is raised.
    stopped: Receiver<()>,
    /// How many of those that were asked have not been heard.
    asked: usize,
    /// Until when an answer is waited for before looking around, as the last step has said; if it has not, not at all.
    until: Monotonic,
    /// Whether the last event was a look around: then answers come first, so that neither starves the other.
    looked: bool,
    /// Set while segments are being renewed.
    renewing: Arc<AtomicBool>,
}

impl<'a> Shell<'a> {
    fn new(carrier: &'a Carrier, stop: &'a Stop) -> Shell<'a> {
        let (going_on, stopped) = bounded(0);
        stop.on_raise(move || drop(going_on));
        Shell {
            carrier,
            stop,
            ingesters: BTreeMap::new(),
            stores: BTreeMap::new(),
            couriers: Couriers::of(carrier.crew.clone()),
            answers: bounded(MOST_ASKED),
            bell: bounded(MOST_RINGING),
            stopped,
            heard: Mutex::default(),
            asked: 0,
            until: Monotonic::default(),
            looked: false,
            renewing: Arc::default(),
        }
    }

    /// An answer, or a look around when it is time for one.
    fn next_event(&mut self) -> Event {
        let due = self.carrier.clock.now() >= self.until;
        if due && !self.looked {
            return self.wake();
        }
        match self.answer_until(self.until) {
            Some(answer) => {
                self.looked = false;
                answer
            }
            None => self.wake(),
        }
    }

    /// Waits for an answer, or a ring, or the end.
    fn answer_until(&mut self, until: Monotonic) -> Option<Event> {
        let heard = lock(&self.heard).pop_front();
        let answer = heard.or_else(|| {
            loop {
                let left = until.since(self.carrier.clock.now());
                if self.stop.is_raised() {
                    return self.answers.1.recv_timeout(left.min(STOP_TICK)).ok();
                }
                // This side holds the senders of the first two: neither is ever disconnected.
                select! {
                    recv(self.answers.1) -> answer => return answer.ok(),
                    recv(self.bell.1) -> from => return from.ok().map(|from| Event::Stirred { from }),
                    recv(self.stopped) -> _ => {}
                    default(left) => return None,
                }
            }
        })?;
        if !matches!(answer, Event::Stirred { .. }) {
            self.asked = self.asked.saturating_sub(1);
        }
        Some(answer)
    }

    /// After the end: what those that were asked still say.
    fn last_answer(&mut self, deadline: Monotonic) -> Option<Event> {
        while self.asked > 0 && self.carrier.clock.now() < deadline {
            if let Some(answer) = self.answer_until(self.carrier.clock.now() + STOP_TICK) {
                return Some(answer);
            }
        }
        None
    }

    /// Looks who is there.
    fn wake(&mut self) -> Event {
        let members = &self.carrier.members;
        self.looked = true;
        let ingesters: BTreeMap<Peer, Arc<dyn IngestLink>> =
            members.ingesters().into_iter().map(|link| (link.name().into(), link)).collect();
        for (name, link) in &ingesters {
            if !self.ingesters.get(name).is_some_and(|known| Arc::ptr_eq(known, link)) {
                link.watch(&self.bell.0);
            }
        }
        self.ingesters = ingesters;
        self.stores = members.stores().into_iter().map(|link| (link.name().into(), link)).collect();
        Event::Woke {
            ingesters: self.ingesters.keys().cloned().collect(),
            stores: self.stores.keys().cloned().collect(),
        }
    }

    /// The only place that may block, besides waiting for an answer.
    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Ask { from } => {
                from.into_iter().for_each(|peer| self.ask(peer));
                None
            }
            Action::Copy { pieces, to, spare } => Some(self.copy(pieces, &to, spare)),
            Action::Commit { pieces, stores } => {
                self.commit(pieces, &stores);
                None
            }
            Action::FailBack(pieces) => {
                self.count_failure("batch");
                self.tell(pieces, 1, &|link, offer| link.failed(offer.id));
                None
            }
            Action::SetAside(piece) => {
                log::error!("segment {} of {} cannot be merged: set aside there", piece.offer.id, piece.from);
                self.count_failure("set_aside");
                self.tell(vec![piece], 1, &|link, offer| link.set_aside(offer.id));
                None
            }
            Action::Renew(pieces) => {
                self.renew(&pieces);
                None
            }
            Action::WaitUntil(until) => {
                self.until = until;
                None
            }
        }
    }

    fn ask(&mut self, from: Peer) {
        self.asked += 1;
        let link = self.ingesters.get(&from).cloned();
        let answer = Pledge { from: from.clone(), answers: self.answers.0.clone(), given: false };
        let metrics = self.carrier.metrics.clone();
        let work = move || answer.give(ask(link.as_deref(), from, &metrics));
        // Where the system gives no thread, the pledge is dropped unanswered: this ingester counts as silent, and rests.
        if let Err(e) = self.carrier.crew.start("ask", LARGE_STACK, work) {
            log::warn!("starting a thread to ask an ingester: {e}");
        }
    }

    fn copy(&mut self, pieces: Vec<Piece>, to: &[Peer], spare: usize) -> Event {
        let link_of = |piece: &Piece| self.ingesters.get(&piece.from).cloned();
        let inputs: Vec<Input> =
            pieces.iter().map(|piece| Input { link: link_of(piece), piece: piece.clone() }).collect();
        let stores: Vec<_> =
            to.iter().filter_map(|peer| Some((peer.clone(), self.stores.get(peer)?.clone()))).collect();
        let Carrier { settings, buffer, clock, patience: (spared, last), .. } = self.carrier;
        let renew = || {
            let mut heard = lock(&self.heard);
            heard.extend(self.answers.1.try_iter());
            let waiting = heard.iter().filter_map(|event| match event {
                Event::Offered(piece) => Some(piece),
                _ => None,
            });
            let all: Vec<Piece> = pieces.iter().chain(waiting).cloned().collect();
            drop(heard);
            self.renew(&all);
        };
        let patience = if spare > 0 { *spared } else { *last };
        let tools = Tools {
            couriers: &self.couriers,
            terms: Terms { clock: &**clock, patience, tick: settings.renew_every, spare },
            renew_every: settings.renew_every,
            renew: &renew,
            buffer: usize::try_from(buffer.0).unwrap_or(usize::MAX).clamp(64 << 10, 64 << 20),
        };
        let event = copy(&inputs, &stores, &tools);
        self.count_copies(&event);
        event
    }

    fn count_copies(&self, event: &Event) {
        let metrics = &self.carrier.metrics;
        match event {
            Event::Copied { sent, answers } => {
                for (_, answer) in answers {
                    if matches!(answer, Answer::Has(_)) {
                        metrics.counter(metrics::REPLICATED, &["egress"]).inc();
                        metrics.counter(metrics::REPLICATED_BYTES, &["egress"]).add(sent.len.0);
                    } else {
                        self.count_failure("replicate");
                    }
                }
            }
            Event::Spoilt { .. } => self.count_failure("merge"),
            _ => self.count_failure("replicate"),
        }
    }

    fn count_failure(&self, phase: &'static str) {
        self.carrier.metrics.counter(metrics::CONSUME_FAILURES, &[phase]).inc();
    }

    fn commit(&self, pieces: Vec<Piece>, stores: &[DataId]) {
        // Twice where the answer was lost; beyond that its deadline brings it back, as a duplicate.
        for (piece, committed) in self.tell(pieces, 2, &|link, offer| link.commit(offer.id, stores)) {
            self.count_commit(&piece, committed);
        }
    }

    /// Renews segments in a thread of its own. While that is at work on earlier ones, these are left out: it will be their
    /// turn again before their deadlines.
    fn renew(&self, pieces: &[Piece]) {
        if self.renewing.swap(true, Ordering::AcqRel) {
            return;
        }
        let done = Lowered(self.renewing.clone());
        let links: Vec<_> = by_ingester(pieces.to_vec())
            .into_iter()
            .filter_map(|(peer, pieces)| Some((self.ingesters.get(&peer)?.clone(), pieces)))
            .collect();
        let work = move || {
            let _done = done;
            for (link, pieces) in links {
                tell(&*link, pieces, 1, &|link, offer| link.renew(offer.id));
            }
        };
        if let Err(e) = self.carrier.crew.start("renew", LARGE_STACK, work) {
            // Too late at worst: then they are copied twice, and a second copy is never wrong.
            log::warn!("starting a thread to renew segments: {e}");
        }
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

    /// Tells ingesters something about segments, up to `tries` times. Gives for each segment whether it was heard.
    fn tell(&self, pieces: Vec<Piece>, tries: usize, say: &Say<'_>) -> Vec<(Piece, bool)> {
        let groups: Vec<_> = by_ingester(pieces).into_iter().collect();
        let told = each(&groups, TOLD_AT_ONCE, |(peer, pieces)| match self.ingesters.get(peer) {
            Some(link) => tell(&**link, pieces.clone(), tries, say),
            None => pieces.iter().map(|piece| (piece.clone(), false)).collect(),
        });
        told.into_iter().flatten().collect()
    }
}

/// What is said to an ingester about a segment.
type Say<'a> = dyn Fn(&dyn IngestLink, Offer) -> Result<(), LinkError> + Sync + 'a;

fn by_ingester(pieces: Vec<Piece>) -> BTreeMap<Peer, Vec<Piece>> {
    let mut groups: BTreeMap<Peer, Vec<Piece>> = BTreeMap::new();
    for piece in pieces {
        groups.entry(piece.from.clone()).or_default().push(piece);
    }
    groups
}

/// Tells one ingester something about segments of its own. When it does not answer it is told nothing more.
fn tell(link: &dyn IngestLink, pieces: Vec<Piece>, tries: usize, say: &Say<'_>) -> Vec<(Piece, bool)> {
    let mut answers = true;
    let mut told = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let mut heard = false;
        for _ in 0..if answers { tries } else { 0 } {
            answers = true;
            match say(link, piece.offer) {
                Ok(()) => heard = true,
                Err(e) => {
                    log::warn!("{e}");
                    answers = !matches!(e, LinkError::Broken { .. });
                }
            }
            if heard || answers {
                break;
            }
        }
        told.push((piece, heard));
    }
    told
}

fn ask(link: Option<&dyn IngestLink>, from: Peer, metrics: &Metrics) -> Event {
    let Some(link) = link else { return Event::Silent { from } };
    match link.next() {
        Ok(Some(offer)) => Event::Offered(Piece { from, offer }),
        Ok(None) => Event::Nothing { from },
        Err(e) => {
            log::warn!("{e}");
            metrics.counter(metrics::CONSUME_FAILURES, &["gather"]).inc();
            Event::Silent { from }
        }
    }
}

/// An answer that is owed. Dropped without one, by a panic or because no thread could be had, it says that the ingester was
/// silent.
struct Pledge {
    from: Peer,
    answers: Sender<Event>,
    given: bool,
}

impl Pledge {
    fn give(mut self, answer: Event) {
        self.given = true;
        // Nobody listens any more where the consumer has ended: the segment goes back by its deadline.
        let _ = self.answers.send(answer);
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        if !self.given {
            // As above.
            let _ = self.answers.send(Event::Silent { from: self.from.clone() });
        }
    }
}

/// A flag that is up until this is dropped.
struct Lowered(Arc<AtomicBool>);

impl Drop for Lowered {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
