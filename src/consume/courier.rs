//! Sends one body to several stores at the same time, and waits for none of them longer than it may take.
//!
//! Each store is served by a thread of its own. A store is dropped when it has taken nothing for [`Patience::stall`]; or
//! when all waiting for stores together is more than that and what was sent would have taken at [`Patience::rate`]. The
//! receipt is waited for for [`Patience::receipt`]. So one round over S bytes takes at most
//!
//! ```text
//! time to merge + stall + S / rate + stall + receipt
//! ```
//!
//! which for 128 MiB is 3 min where another store can take the place of a slow one ([`Patience::SPARED`]), and 18 min where
//! none can ([`Patience::LAST`]: then a slow copy is better than none), beside the time in which the ingesters give the
//! segments. A batch has at most [`super::machine::MOST_ROUNDS`] rounds.
//!
//! The thread of a store that was dropped goes on until its own time limits end it. That store is not sent to again before:
//! so there is at most one thread for each store and consumer.

use super::links::{LinkError, Part, Parts, StoreLink};
use super::machine::Peer;
use crate::store::replicate::Receipt;
use crate::unit::{Bytes, Monotonic};
use crate::world::clock::Clock;
use crate::world::crew::{Crew, LARGE_STACK, lock};
use crossbeam::channel::{Receiver, RecvTimeoutError, Select, Sender, TrySendError, bounded};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// How many runs may wait for a store that is slower than the others. At that the others wait too: R copies are needed.
pub const IN_FLIGHT: usize = 2;

/// How long stores may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long a store may take nothing.
    pub stall: Duration,
    /// Bytes in a second that it must take at least, on the average and beyond the first stall.
    pub rate: Bytes,
    /// How long it may take from the end of the body to its receipt: it syncs meanwhile.
    pub receipt: Duration,
}

impl Patience {
    /// Where another store can take its place.
    pub const SPARED: Patience =
        Patience { stall: Duration::from_secs(10), rate: Bytes(1 << 20), receipt: Duration::from_secs(30) };

    /// Where none can.
    pub const LAST: Patience =
        Patience { stall: Duration::from_secs(20), rate: Bytes(128 << 10), receipt: Duration::from_secs(30) };

    /// How long all stores together may be waited for while so much is sent.
    fn allowance(&self, sent: Bytes) -> Duration {
        self.stall + Duration::from_millis(sent.0.saturating_mul(1000) / self.rate.0.max(1))
    }
}

/// What is sent: runs of whole records, made while they are sent. After an error the body is broken for good.
pub trait Body: Parts {
    /// Replaces `run` by the next run, not empty; false at the end.
    fn next_run(&mut self, run: &mut Vec<u8>) -> io::Result<bool>;

    /// Called now and then while stores are waited for, at least as often as [`Terms::tick`] says.
    fn tend(&mut self);
}

/// How a store's call ended.
#[derive(Debug)]
pub enum Outcome {
    /// By itself.
    Answered(Result<Receipt, LinkError>),
    /// It was dropped, because it took too long; or its last call has not ended yet.
    TooSlow(&'static str),
    /// The body broke off while it still took it.
    CutShort,
}

/// What a round goes by.
pub struct Terms<'a> {
    /// The clock waiting is measured with. Real: the waits themselves are.
    pub clock: &'a dyn Clock,
    /// How long stores may take.
    pub patience: Patience,
    /// How often the body is tended at least.
    pub tick: Duration,
    /// How many stores may fail before the rest is broken off too, since nothing is gained by it.
    pub spare: usize,
}

/// The threads that serve stores.
#[derive(Clone, Default)]
pub struct Couriers {
    crew: Crew,
    /// The calls that have not ended.
    out: Arc<Mutex<BTreeMap<Peer, Weak<()>>>>,
}

impl Couriers {
    /// Couriers that are threads of this crew.
    pub fn of(crew: Crew) -> Couriers {
        Couriers { crew, out: Arc::default() }
    }

    /// Sends a body to all stores. Gives an outcome for each, in the same order, and whether the body was sent to its end.
    ///
    /// Where the system gives no thread for a store, that one is not served; where it gives none at all, the first is served
    /// by this thread, with its own time limits alone.
    pub fn send(
        &self,
        body: &mut dyn Body,
        stores: &[(Peer, Arc<dyn StoreLink>)],
        terms: &Terms<'_>,
    ) -> (Vec<Outcome>, bool) {
        let mut round = Round { terms, outcomes: stores.iter().map(|_| None).collect(), waited: Duration::ZERO };
        let (heard, answers) = bounded(stores.len().max(1));
        let (mut lines, mut no_thread) = (Vec::new(), Vec::new());
        for (index, (peer, store)) in stores.iter().enumerate() {
            match self.start(index, peer, store, &heard) {
                Ok(Some(parts)) => lines.push(Line { index, parts }),
                Ok(None) => round.outcomes[index] = Some(Outcome::TooSlow("its last call has not ended yet")),
                Err(e) => {
                    log::warn!("starting a thread for {peer}: {e}");
                    no_thread.push(index);
                }
            }
        }
        drop(heard);
        let ended = match no_thread.first().and_then(|index| Some((*index, stores.get(*index)?))) {
            Some((index, (_, store))) if lines.is_empty() => {
                let answer = store.replicate_parts(body);
                let ended = answer.is_ok();
                round.outcomes[index] = Some(Outcome::Answered(answer));
                ended
            }
            _ => {
                for index in no_thread {
                    round.outcomes[index] = Some(Outcome::TooSlow("the system gives no thread for it"));
                }
                let ended = round.pump(body, &mut lines);
                round.hear(body, lines, &answers, ended);
                ended
            }
        };
        let outcomes = round
            .outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or(Outcome::TooSlow("the system gives no thread for it")));
        (outcomes.collect(), ended)
    }

    /// Starts a store's call. `None`: its last one has not ended.
    fn start(
        &self,
        index: usize,
        peer: &Peer,
        store: &Arc<dyn StoreLink>,
        heard: &Sender<(usize, Result<Receipt, LinkError>)>,
    ) -> io::Result<Option<Sender<Part>>> {
        let token = Arc::new(());
        {
            let mut out = lock(&self.out);
            out.retain(|_, call| call.strong_count() > 0);
            if out.contains_key(peer) {
                return Ok(None);
            }
            out.insert(peer.clone(), Arc::downgrade(&token));
        }
        let (sender, parts) = bounded(IN_FLIGHT);
        let (store, heard) = (store.clone(), heard.clone());
        self.crew.start(&format!("to {peer}"), LARGE_STACK, move || {
            let answer = store.replicate_parts(&mut PartsBody { parts, part: Arc::default(), at: 0, ended: false });
            // Before it is heard: who hears it may send again at once.
            drop(token);
            // Nobody listens any more where the store was too slow.
            let _ = heard.send((index, answer));
        })?;
        Ok(Some(sender))
    }
}

/// A store that still takes parts.
struct Line {
    index: usize,
    parts: Sender<Part>,
}

struct Round<'a> {
    terms: &'a Terms<'a>,
    outcomes: Vec<Option<Outcome>>,
    /// How long stores were waited for so far.
    waited: Duration,
}

impl Round<'_> {
    /// Makes the body and hands every part to every store that still takes them. Gives whether it came to its end.
    fn pump(&mut self, body: &mut dyn Body, lines: &mut Vec<Line>) -> bool {
        let fewest = self.outcomes.len().saturating_sub(self.terms.spare).max(1);
        let (mut sent, mut parts) = (Bytes(0), Vec::<Part>::new());
        loop {
            if lines.len() < fewest {
                return false;
            }
            // The memory of one that all have sent is used again: to ask for so much anew each time costs more than to fill it.
            let free = parts.iter_mut().find_map(Arc::get_mut).map(std::mem::take);
            parts.retain(|part| part.capacity() > 0);
            let mut run = free.unwrap_or_default();
            // The senders go without an end where the body breaks.
            let Ok(more) = body.next_run(&mut run) else { return false };
            let part: Part = Arc::new(if more { run } else { Vec::new() });
            sent.0 += part.len() as u64;
            self.hand_over(body, lines, &part, sent);
            if !more {
                return true;
            }
            parts.push(part);
        }
    }

    /// Waits until all stores have taken the part, or have taken too long.
    fn hand_over(&mut self, body: &mut dyn Body, lines: &mut Vec<Line>, part: &Part, sent: Bytes) {
        let Terms { clock, patience, tick, .. } = *self.terms;
        let (begun, allowance) = (clock.now(), patience.allowance(sent));
        let mut waiting: BTreeSet<usize> = lines.iter().map(|line| line.index).collect();
        loop {
            // Who has hung up answers by itself: it is heard later.
            lines.retain(|line| !waiting.contains(&line.index) || offer(line, part, &mut waiting));
            if waiting.is_empty() {
                break;
            }
            let waited = clock.now().since(begun);
            let left = patience.stall.min(allowance.saturating_sub(self.waited)).saturating_sub(waited);
            if left.is_zero() {
                lines.retain(|line| !waiting.contains(&line.index));
                for index in waiting {
                    self.outcomes[index] = Some(Outcome::TooSlow("it does not take the segment fast enough"));
                }
                break;
            }
            let mut select = Select::new();
            for line in lines.iter().filter(|line| waiting.contains(&line.index)) {
                select.send(&line.parts);
            }
            // Whether one is ready, is seen by offering again.
            let _ = select.ready_timeout(left.min(tick));
            body.tend();
        }
        self.waited += clock.now().since(begun);
    }

    /// Waits for the answers of all that were not dropped.
    fn hear(
        &mut self,
        body: &mut dyn Body,
        lines: Vec<Line>,
        answers: &Receiver<(usize, Result<Receipt, LinkError>)>,
        ended: bool,
    ) {
        let Terms { clock, patience, tick, .. } = *self.terms;
        let cut: BTreeSet<usize> = lines.iter().filter(|_| !ended).map(|line| line.index).collect();
        // Those that still wait for a part of a body that broke off see its end now.
        drop(lines);
        let span = if ended { patience.receipt } else { patience.stall };
        let deadline: Monotonic = clock.now() + span;
        while self.outcomes.iter().any(Option::is_none) {
            let left = deadline.since(clock.now());
            if left.is_zero() {
                break;
            }
            match answers.recv_timeout(left.min(tick)) {
                Ok((index, _)) if cut.contains(&index) => self.outcomes[index] = Some(Outcome::CutShort),
                Ok((index, answer)) => {
                    if let Some(outcome @ None) = self.outcomes.get_mut(index) {
                        *outcome = Some(Outcome::Answered(answer));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                // All have ended; who has not answered has panicked, or had no thread.
                Err(RecvTimeoutError::Disconnected) => break,
            }
            body.tend();
        }
        for outcome in self.outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
            *outcome = Some(Outcome::TooSlow("it does not answer"));
        }
    }
}

/// Offers a part to a store. False if it takes none any more.
fn offer(line: &Line, part: &Part, waiting: &mut BTreeSet<usize>) -> bool {
    let taken = line.parts.try_send(part.clone());
    if !matches!(taken, Err(TrySendError::Full(_))) {
        waiting.remove(&line.index);
    }
    !matches!(taken, Err(TrySendError::Disconnected(_)))
}

/// The parts as a body. One is empty at its end, and only there. Senders that are gone without it mean that it broke off.
struct PartsBody {
    parts: Receiver<Part>,
    part: Part,
    at: usize,
    ended: bool,
}

impl Read for PartsBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() && !self.ended {
            self.part = Part::default();
            self.part = self.next_part()?.unwrap_or_default();
            self.at = 0;
        }
        let n = buffer.len().min(self.part.len() - self.at);
        buffer[..n].copy_from_slice(&self.part[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Parts for PartsBody {
    fn next_part(&mut self) -> io::Result<Option<Part>> {
        let broke_off = |_| io::Error::new(io::ErrorKind::UnexpectedEof, "the segment was not sent to its end");
        let part = if self.ended { Part::default() } else { self.parts.recv().map_err(broke_off)? };
        self.ended = part.is_empty();
        Ok((!self.ended).then_some(part))
    }
}
