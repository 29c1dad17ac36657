//! The shell of a consumer in virtual time: does what `consume::machine` says, as `consume::thread` does with threads.
//!
//! One thing at a time: a step of the machine gives actions, which are done in order; copying and telling take time, and
//! what ingesters answer meanwhile waits. Renewing goes on beside all else.

use crate::broken::Wrong;
use crate::ledger::Checked;
use crate::network::{Body, CallNo, Caller, Reply, Request};
use crate::node::Place;
use crate::run::{Event, Sim};
use crate::shape::Shape;
use crate::world::Ticket;
use oklog::consume::machine::{Action, Answer, Consumer, Event as Told, Fault, Peer, Piece, Settings};
use oklog::ingest::queue::Verdict;
use oklog::merge::k_way::{Merge, MergeError, Source};
use oklog::record::id::Id;
use oklog::record::stored::{Checker, Digest};
use oklog::store::replicate::{Receipt, StoreId};
use oklog::unit::Monotonic;
use oklog::world::clock::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What the tier of a consumer's own process is called.
pub const OWN: &str = "this node";

/// Why a consumer has called somebody.
#[derive(Clone, Debug)]
pub enum Errand {
    /// For a segment.
    Ask(Peer),
    /// For the bytes of the n-th piece.
    Read(usize),
    /// Whether the n-th piece, which broke off, is still pending.
    Doubt(usize),
    /// To give the n-th store the batch.
    Send(usize),
    /// To tell the n-th group something.
    Tell(usize),
    /// To renew.
    Renew,
}

/// A consumer, and what its shell remembers.
pub struct Carrier {
    consumer: Consumer,
    settings: Settings,
    todo: VecDeque<Action>,
    events: VecDeque<Told>,
    heard: VecDeque<Told>,
    ingesters: BTreeMap<Peer, Place>,
    stores: BTreeMap<Peer, Place>,
    until: Monotonic,
    looked: bool,
    work: Work,
    /// Renewals on their way.
    renewing: usize,
    renewed: Monotonic,
    /// When it is to look again, if nothing happens before.
    wake_at: Option<u64>,
}

/// What it is busy with.
enum Work {
    Nothing,
    Copying(Copying),
    Telling(Vec<Group>),
}

struct Copying {
    pieces: Vec<Piece>,
    to: Vec<Peer>,
    spare: usize,
    /// What each piece turned out to be.
    contents: Vec<Option<Result<Body, Fault>>>,
    sent: Option<Digest>,
    answers: Vec<Option<Answer>>,
    calls: Vec<CallNo>,
}

/// What one ingester is told, piece by piece.
struct Group {
    peer: Peer,
    left: VecDeque<Request>,
    tries: usize,
    tried: usize,
}

/// The bytes of a piece as a source of the merge.
struct Bytes {
    low: Id,
    bytes: Option<Body>,
}

impl Source for Bytes {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        match self.bytes.take() {
            Some(bytes) => {
                block.extend_from_slice(&bytes);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn low(&self) -> Id {
        self.low
    }
}

impl Carrier {
    /// A consumer that begins.
    pub fn new(place: Place, shape: &Shape) -> Carrier {
        let settings = Settings { turn: place, ..shape.consume };
        Carrier {
            consumer: Consumer::new(settings),
            settings,
            todo: VecDeque::new(),
            events: VecDeque::new(),
            heard: VecDeque::new(),
            ingesters: BTreeMap::new(),
            stores: BTreeMap::new(),
            until: Monotonic::default(),
            looked: false,
            work: Work::Nothing,
            renewing: 0,
            renewed: Monotonic::default(),
            wake_at: None,
        }
    }
}

impl Copying {
    fn new(pieces: Vec<Piece>, to: Vec<Peer>, spare: usize) -> Copying {
        let (contents, answers) = (vec![None; pieces.len()], vec![None; to.len()]);
        Copying { pieces, to, spare, contents, sent: None, answers, calls: Vec::new() }
    }

    /// All pieces merged, as one body; the place of the piece that cannot be.
    fn merge(&self) -> Result<(Vec<u8>, Option<Digest>), usize> {
        let bytes = |content: &Option<Result<Body, Fault>>| content.clone().and_then(Result::ok);
        let pieces = self.pieces.iter().zip(&self.contents);
        let sources = pieces.map(|(piece, content)| Bytes { low: piece.offer.id, bytes: bytes(content) }).collect();
        let (mut merge, mut body, mut checker) = (Merge::new(sources), Vec::new(), Checker::default());
        loop {
            let at = body.len();
            if !merge.next_run(&mut body, 4_096).map_err(|e| e.index())? {
                return Ok((body, checker.digest()));
            }
            checker.take(&body[at..]).expect("a merge gives sound records");
        }
    }
}

impl Sim {
    fn take_carrier(&mut self, ticket: Ticket) -> Option<Carrier> {
        let node = &mut self.nodes[ticket.place];
        if !node.runs(ticket.life) {
            return None;
        }
        node.process.as_mut()?.carrier.take()
    }

    fn put_carrier(&mut self, ticket: Ticket, carrier: Carrier) {
        if let Some(process) = &mut self.nodes[ticket.place].process {
            process.carrier = Some(carrier);
        }
    }

    fn go_on(&mut self, ticket: Ticket, carrier: &mut Carrier) {
        let clock = self.nodes[ticket.place].clock.clone();
        while matches!(carrier.work, Work::Nothing) {
            if let Some(action) = carrier.todo.pop_front() {
                self.perform(ticket, carrier, action);
                continue;
            }
            let event = match carrier.events.pop_front() {
                Some(event) => event,
                None => match self.next_event(ticket, carrier) {
                    Some(event) => event,
                    None => return,
                },
            };
            carrier.until = Monotonic::default();
            carrier.todo.extend(carrier.consumer.step(clock.now(), event));
        }
    }

    /// An answer, or a look around when it is time for one; `None` while there is nothing to do but to wait.
    fn next_event(&mut self, ticket: Ticket, carrier: &mut Carrier) -> Option<Told> {
        let now = self.nodes[ticket.place].clock.now();
        let due = now >= carrier.until;
        if due && !carrier.looked {
            return Some(self.look_around(ticket, carrier));
        }
        if let Some(answer) = carrier.heard.pop_front() {
            carrier.looked = false;
            return Some(answer);
        }
        if due {
            return Some(self.look_around(ticket, carrier));
        }
        let wait = carrier.until.since(now).as_nanos() as u64;
        let at = self.time.now() + wait;
        if carrier.wake_at != Some(at) {
            carrier.wake_at = Some(at);
            self.time.at(at, Event::Carry(ticket));
        }
        None
    }

    fn look_around(&mut self, ticket: Ticket, carrier: &mut Carrier) -> Told {
        carrier.looked = true;
        let view = self.members.view(&self.nodes, ticket.place);
        let name =
            |place: Place, name: String| -> Peer { if place == ticket.place { OWN.into() } else { name.into() } };
        let members = || view.members().filter_map(|peer| Some((self.members.place_of(peer)?, peer)));
        let ingesters = members().filter(|(_, peer)| peer.meta.kind.ingests());
        carrier.ingesters = ingesters.map(|(place, peer)| (name(place, peer.name()), place)).collect();
        let stores = members().filter(|(_, peer)| peer.meta.kind.stores());
        carrier.stores = stores.map(|(place, peer)| (name(place, peer.name()), place)).collect();
        if self.shape.wrong == Some(Wrong::CopiesCountedByAddress) {
            let others =
                carrier.stores.iter().map(|(name, place)| (format!("{name}, by its other address").into(), *place));
            carrier.stores.extend(others.collect::<Vec<_>>());
        }
        Told::Woke {
            ingesters: carrier.ingesters.keys().cloned().collect(),
            stores: carrier.stores.keys().cloned().collect(),
        }
    }

    fn perform(&mut self, ticket: Ticket, carrier: &mut Carrier, action: Action) {
        match action {
            Action::Ask { from } => {
                for peer in from {
                    match carrier.ingesters.get(&peer) {
                        Some(place) => {
                            let caller = Caller::Carrier(ticket, Errand::Ask(peer.clone()));
                            self.call(ticket.place, *place, Request::Next, caller);
                        }
                        None => carrier.heard.push_back(Told::Silent { from: peer }),
                    }
                }
            }
            Action::Copy { pieces, to, spare } => self.begin_copy(ticket, carrier, pieces, to, spare),
            Action::Commit { pieces, stores } => {
                self.trace(|| format!("consumer of node {}: commits {}", ticket.place, names(&pieces)));
                self.tell(ticket, carrier, pieces, 2, |id| Request::Commit(id, stores.clone()));
            }
            Action::FailBack(pieces) => {
                self.trace(|| format!("consumer of node {}: gives back {}", ticket.place, names(&pieces)));
                self.tell(ticket, carrier, pieces, 1, Request::Failed);
            }
            Action::SetAside(piece) => self.tell(ticket, carrier, vec![piece], 1, Request::SetAside),
            Action::Renew(pieces) => self.renew(ticket, carrier, &pieces),
            Action::WaitUntil(until) => carrier.until = until,
        }
    }

    fn renew(&mut self, ticket: Ticket, carrier: &mut Carrier, pieces: &[Piece]) {
        if carrier.renewing > 0 {
            return;
        }
        for piece in pieces {
            let Some(place) = carrier.ingesters.get(&piece.from) else { continue };
            carrier.renewing += 1;
            self.call(ticket.place, *place, Request::Renew(piece.offer.id), Caller::Carrier(ticket, Errand::Renew));
        }
    }

    fn tell(
        &mut self,
        ticket: Ticket,
        carrier: &mut Carrier,
        pieces: Vec<Piece>,
        tries: usize,
        what: impl Fn(Id) -> Request,
    ) {
        let mut groups: BTreeMap<Peer, VecDeque<Request>> = BTreeMap::new();
        for piece in pieces.into_iter().filter(|piece| carrier.ingesters.contains_key(&piece.from)) {
            groups.entry(piece.from).or_default().push_back(what(piece.offer.id));
        }
        let groups = groups.into_iter().map(|(peer, left)| Group { peer, left, tries, tried: 0 });
        let mut groups: Vec<Group> = groups.collect();
        for (n, group) in groups.iter_mut().enumerate() {
            self.tell_next(ticket, &carrier.ingesters, n, group);
        }
        if !groups.is_empty() {
            carrier.work = Work::Telling(groups);
        }
    }

    fn tell_next(&mut self, ticket: Ticket, ingesters: &BTreeMap<Peer, Place>, n: usize, group: &mut Group) {
        if let (Some(request), Some(place)) = (group.left.front(), ingesters.get(&group.peer)) {
            group.tried += 1;
            self.call(ticket.place, *place, request.clone(), Caller::Carrier(ticket, Errand::Tell(n)));
        }
    }

    fn begin_copy(&mut self, ticket: Ticket, carrier: &mut Carrier, pieces: Vec<Piece>, to: Vec<Peer>, spare: usize) {
        self.trace(|| format!("consumer of node {}: copies {} to {to:?}", ticket.place, names(&pieces)));
        let mut copying = Copying::new(pieces, to, spare);
        for (n, piece) in copying.pieces.iter().enumerate() {
            match carrier.ingesters.get(&piece.from) {
                Some(place) => {
                    let caller = Caller::Carrier(ticket, Errand::Read(n));
                    self.call(ticket.place, *place, Request::Read(piece.offer.id), caller);
                }
                None => copying.contents[n] = Some(Err(Fault::Unreachable)),
            }
        }
        carrier.renewed = self.nodes[ticket.place].clock.now();
        carrier.work = Work::Copying(copying);
        self.time.after(carrier.settings.renew_every.as_nanos() as u64, Event::Carry(ticket));
        self.copy_on(ticket, carrier);
    }

    /// What a consumer's call has come to.
    pub fn carrier_hears(&mut self, ticket: Ticket, call: CallNo, errand: Errand, reply: Reply) -> Checked {
        let Some(mut carrier) = self.take_carrier(ticket) else { return Ok(()) };
        match errand {
            Errand::Ask(from) => carrier.heard.push_back(match reply {
                Reply::Offer(Some(offer)) => Told::Offered(Piece { from, offer }),
                Reply::Offer(None) => Told::Nothing { from },
                _ => Told::Silent { from },
            }),
            Errand::Renew => carrier.renewing = carrier.renewing.saturating_sub(1),
            Errand::Tell(n) => self.was_told(ticket, &mut carrier, n, &reply),
            Errand::Read(n) => self.has_read(ticket, &mut carrier, n, reply),
            Errand::Doubt(n) => {
                if let Work::Copying(copying) = &mut carrier.work {
                    copying.contents[n] = Some(Err(match reply {
                        Reply::Verdict(Verdict::Done) => Fault::Unreadable,
                        Reply::Broken => Fault::Unreachable,
                        _ => Fault::Gone,
                    }));
                }
                self.copy_on(ticket, &mut carrier);
            }
            Errand::Send(n) => {
                let is_by_address = self.shape.wrong == Some(Wrong::CopiesCountedByAddress);
                if let Work::Copying(copying) = &mut carrier.work
                    && copying.calls.contains(&call)
                {
                    copying.answers[n] = Some(match reply {
                        Reply::Receipt(receipt) if is_by_address => {
                            let name = u128::from(crc32fast::hash(copying.to[n].as_bytes()));
                            Answer::Has(Receipt { store_id: StoreId(name), ..receipt })
                        }
                        Reply::Receipt(receipt) => Answer::Has(receipt),
                        Reply::Full => Answer::Full,
                        _ => Answer::HasNot,
                    });
                }
                self.copy_on(ticket, &mut carrier);
            }
        }
        self.go_on(ticket, &mut carrier);
        self.put_carrier(ticket, carrier);
        Ok(())
    }

    fn was_told(&mut self, ticket: Ticket, carrier: &mut Carrier, n: usize, reply: &Reply) {
        let Work::Telling(groups) = &mut carrier.work else { return };
        let group = &mut groups[n];
        if !matches!(reply, Reply::Broken) {
            group.left.pop_front();
            group.tried = 0;
        } else if group.tried >= group.tries {
            // It is told nothing more.
            group.left.clear();
        }
        let mut group = Group { left: std::mem::take(&mut group.left), peer: group.peer.clone(), ..*group };
        self.tell_next(ticket, &carrier.ingesters, n, &mut group);
        groups[n] = group;
        if groups.iter().all(|group| group.left.is_empty()) {
            carrier.work = Work::Nothing;
        }
    }

    fn has_read(&mut self, ticket: Ticket, carrier: &mut Carrier, n: usize, reply: Reply) {
        let Work::Copying(copying) = &mut carrier.work else { return };
        let content = match reply {
            Reply::Bytes { len, crc32, bytes } if bytes.len() as u64 == len => {
                Some(if crc32fast::hash(&bytes) == crc32 { Ok(bytes) } else { Err(Fault::Unreadable) })
            }
            Reply::Bytes { bytes, .. } if self.shape.wrong == Some(Wrong::BrokenReadTakenForTheEnd) => {
                let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |lf| lf + 1);
                Some(Ok(Arc::new(bytes[..whole].to_vec())))
            }
            Reply::Bytes { .. } => None,
            Reply::Broken => Some(Err(Fault::Unreachable)),
            _ => Some(Err(Fault::Gone)),
        };
        match (content, carrier.ingesters.get(&copying.pieces[n].from)) {
            (Some(content), _) => copying.contents[n] = Some(content),
            // It broke off: whether the segment is at fault is seen by asking for more time.
            (None, Some(place)) => {
                let id = copying.pieces[n].offer.id;
                self.call(ticket.place, *place, Request::Renew(id), Caller::Carrier(ticket, Errand::Doubt(n)));
            }
            (None, None) => copying.contents[n] = Some(Err(Fault::Unreachable)),
        }
        self.copy_on(ticket, carrier);
    }

    /// Goes on with a copy: all read, then all sent, then all answered.
    fn copy_on(&mut self, ticket: Ticket, carrier: &mut Carrier) {
        self.renew_meanwhile(ticket, carrier);
        let Work::Copying(copying) = &mut carrier.work else { return };
        if copying.contents.iter().any(Option::is_none) {
            return;
        }
        if copying.calls.is_empty() {
            let spoilt = copying.contents.iter().position(|content| matches!(content, Some(Err(_))));
            let merged = match spoilt {
                Some(n) => Err((
                    n,
                    match &copying.contents[n] {
                        Some(Err(fault)) => *fault,
                        _ => Fault::Unreadable,
                    },
                )),
                None => copying.merge().map_err(|n| (n, Fault::Unreadable)),
            };
            match merged {
                Err((n, fault)) => {
                    let piece = copying.pieces[n].clone();
                    self.trace(|| format!("consumer of node {}: {} is {fault:?}", ticket.place, piece.offer.id));
                    self.send_in_vain(ticket, carrier);
                    carrier.events.push_back(Told::Spoilt { piece, fault });
                    carrier.work = Work::Nothing;
                }
                Ok((body, sent)) => {
                    copying.sent = sent;
                    self.send_batch(ticket, carrier, Arc::new(body));
                }
            }
            return;
        }
        if copying.answers.iter().all(Option::is_some) {
            let answers = copying.to.iter().cloned().zip(copying.answers.drain(..).flatten()).collect();
            carrier.events.push_back(match copying.sent {
                Some(sent) => Told::Copied { sent, answers },
                None => Told::NotCopied { answers },
            });
            carrier.work = Work::Nothing;
        }
    }

    fn renew_meanwhile(&mut self, ticket: Ticket, carrier: &mut Carrier) {
        let now = self.nodes[ticket.place].clock.now();
        let Work::Copying(copying) = &carrier.work else { return };
        if now.since(carrier.renewed) < carrier.settings.renew_every {
            return;
        }
        carrier.renewed = now;
        let waiting = carrier.heard.iter().filter_map(|event| match event {
            Told::Offered(piece) => Some(piece),
            _ => None,
        });
        let all: Vec<Piece> = copying.pieces.iter().chain(waiting).cloned().collect();
        self.renew(ticket, carrier, &all);
        self.time.after(carrier.settings.renew_every.as_nanos() as u64, Event::Carry(ticket));
    }

    fn send_batch(&mut self, ticket: Ticket, carrier: &mut Carrier, body: Body) {
        let Work::Copying(copying) = &mut carrier.work else { return };
        // Now and then the stores stop taking it in the middle, and the round is broken off.
        let is_broken_off = copying.spare > 0 && self.dice.one_in(self.shape.loss_one_in);
        for (n, peer) in copying.to.iter().enumerate() {
            let cut = is_broken_off || self.dice.one_in(self.shape.loss_one_in);
            let cut = cut.then(|| self.dice.below(body.len() as u64 + 1) as usize);
            let request = Request::Replicate(body.clone(), cut);
            match carrier.stores.get(peer) {
                Some(place) => {
                    let caller = Caller::Carrier(ticket, Errand::Send(n));
                    let call = self.call(ticket.place, *place, request, caller);
                    copying.calls.push(call);
                }
                None => copying.answers[n] = Some(Answer::HasNot),
            }
            if is_broken_off {
                copying.answers[n] = Some(if n == 0 { Answer::HasNot } else { Answer::CutShort });
            }
        }
        if is_broken_off {
            copying.sent = None;
        }
        if copying.calls.is_empty() || is_broken_off {
            copying.calls.push(0);
            self.copy_on(ticket, carrier);
        }
    }

    /// A batch that could not be merged to its end: stores have seen the beginning of what was sound.
    fn send_in_vain(&mut self, ticket: Ticket, carrier: &Carrier) {
        let Work::Copying(copying) = &carrier.work else { return };
        let Some(Ok(front)) = copying.contents.iter().flatten().find(|content| content.is_ok()) else { return };
        if !self.dice.one_in(2) {
            return;
        }
        for place in copying.to.iter().filter_map(|peer| carrier.stores.get(peer)) {
            let cut = Some(self.dice.below(front.len() as u64 + 1) as usize);
            let caller = Caller::Carrier(ticket, Errand::Send(usize::MAX));
            self.call(ticket.place, *place, Request::Replicate(front.clone(), cut), caller);
        }
    }

    /// Lets a consumer go on, as far as it can without waiting; one that copies renews what it has in hand.
    pub fn carry(&mut self, ticket: Ticket) {
        let Some(mut carrier) = self.take_carrier(ticket) else { return };
        carrier.wake_at = carrier.wake_at.filter(|at| *at > self.time.now());
        self.renew_meanwhile(ticket, &mut carrier);
        self.go_on(ticket, &mut carrier);
        self.put_carrier(ticket, carrier);
    }
}

fn names(pieces: &[Piece]) -> String {
    let names: Vec<String> = pieces.iter().map(|piece| format!("{} of {}", piece.offer.id, piece.from)).collect();
    names.join(", ")
}
