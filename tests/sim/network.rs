//! Calls between nodes: each a request and an answer, which may be late, lost, repeated, cut in the middle, or kept apart by
//! a partition. Who does not hear in time does not know whether the other has acted.

use crate::carrier::Errand;
use crate::ledger::Checked;
use crate::node::Place;
use crate::query::QueryNo;
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, SECOND, Ticket};
use oklog::cluster::DataId;
use oklog::consume::links::Offer;
use oklog::ingest::queue::Verdict;
use oklog::query::complete::StoreKey;
use oklog::query::params::Params;
use oklog::query::plan::Tier;
use oklog::record::id::Id;
use oklog::store::replicate::{Receipt, ReplicateError};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::sync::Arc;

/// Which call.
pub type CallNo = u64;

/// Bytes that are passed on.
pub type Body = Arc<Vec<u8>>;

/// What is asked of a node.
#[derive(Clone, Debug)]
pub enum Request {
    /// The next segment.
    Next,
    /// The bytes of one.
    Read(Id),
    /// More time for one.
    Renew(Id),
    /// R stores have it.
    Commit(Id, Vec<DataId>),
    /// It was not copied.
    Failed(Id),
    /// It cannot be merged.
    SetAside(Id),
    /// Take this segment; `Some` where the body is cut after so many bytes.
    Replicate(Body, Option<usize>),
    /// A part of an answer, of a tier.
    Query(Tier, Arc<Params>),
}

/// What a node answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A segment, or none.
    Offer(Option<Offer>),
    /// The bytes of a segment: what they should be, and those that came.
    Bytes {
        /// How many there should be.
        len: u64,
        /// Their checksum.
        crc32: u32,
        /// Those that came.
        bytes: Body,
    },
    /// What has become of a verb.
    Verdict(Verdict),
    /// A store has it.
    Receipt(Receipt),
    /// It has no room.
    Full,
    /// It says no, in another way.
    Refused,
    /// The head of a part of an answer: the stores it knows, and whose data it reads.
    Head(Vec<StoreKey>, Option<DataId>),
    /// The rest of it; false if it broke off.
    Part(Body, bool),
    /// No connection, or a broken one.
    Broken,
}

/// Who waits for an answer.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A consumer.
    Carrier(Ticket, Errand),
    /// A query: of this place, which tier.
    Query(QueryNo, Place, Tier),
}

/// A call on its way.
struct Call {
    to: Place,
    caller: Caller,
}

/// A request on its way: it is acted upon even where nobody waits for the answer any more.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Which call.
    pub call: CallNo,
    /// Who asks.
    pub from: Place,
    /// Who is asked.
    pub to: Place,
    /// What.
    pub request: Request,
}

/// The wires.
#[derive(Default)]
pub struct Network {
    calls: BTreeMap<CallNo, Call>,
    last: CallNo,
    /// Directions in which nothing gets through.
    pub cut: BTreeSet<(Place, Place)>,
    /// Of so many messages one is lost.
    pub loss_one_in: u64,
    /// Messages that were lost, repeated, or cut.
    pub faults: u64,
}

impl Network {
    /// Whole wires that lose one message of so many.
    pub fn losing(loss_one_in: u64) -> Network {
        Network { loss_one_in, ..Network::default() }
    }

    /// Whether messages get from one node to another.
    pub fn passes(&self, from: Place, to: Place) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }
}

/// A body that ends too early.
struct Broken<'a> {
    bytes: &'a [u8],
}

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.bytes.read(buffer)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            n => Ok(n),
        }
    }
}

impl Request {
    /// How long an answer is waited for.
    fn patience(&self) -> Nanos {
        match self {
            Request::Read(_) => 6 * SECOND,
            Request::Replicate(..) => 12 * SECOND,
            Request::Query(..) => 8 * SECOND,
            _ => 3 * SECOND,
        }
    }
}

impl Sim {
    /// Calls a node. The caller hears exactly one answer, be it that there was none; of a query's part a head and a body.
    pub fn call(&mut self, from: Place, to: Place, request: Request, caller: Caller) -> CallNo {
        self.network.last += 1;
        let no = self.network.last;
        self.time.after(request.patience(), Event::Answer(no, Reply::Broken));
        self.network.calls.insert(no, Call { to, caller });
        // A query is never asked again on its own: head and body are of one snapshot.
        let may_repeat = from != to && !matches!(request, Request::Query(..));
        let letter = Letter { call: no, from, to, request };
        let times = if may_repeat && self.dice.one_in(self.shape.loss_one_in.saturating_mul(2)) { 2 } else { 1 };
        for _ in 0..times {
            if let Some(delay) = self.delay(from, to) {
                self.time.after(delay, Event::Arrive(letter.clone()));
            }
        }
        no
    }

    /// How long a message takes; `None` if it does not come.
    pub fn delay(&mut self, from: Place, to: Place) -> Option<Nanos> {
        if from == to {
            return Some(1);
        }
        if !self.network.passes(from, to) || self.dice.one_in(self.network.loss_one_in) {
            self.network.faults += 1;
            return None;
        }
        let slow = self.dice.one_in(self.shape.loss_one_in);
        Some(MS / 5 + self.dice.below(if slow { 5 * SECOND } else { 3 * MS }))
    }

    /// A request has come to a node.
    pub fn arrive(&mut self, letter: Letter) -> Checked {
        let Letter { call: no, from, to, request } = letter;
        if self.nodes[to].process.is_none() {
            // Its machine refuses the connection, or is off: then nothing comes back.
            if self.dice.one_in(2) {
                self.answer_after(no, (to, from), Reply::Broken, 0);
            }
            return Ok(());
        }
        if let Some(reply) = self.handle(no, from, to, request)? {
            self.answer_after(no, (to, from), reply, 0);
        }
        Ok(())
    }

    /// Sends an answer back, if the wire lets it through; not before another one that went the same way. Gives when it comes.
    pub fn answer_after(
        &mut self,
        no: CallNo,
        (from, to): (Place, Place),
        reply: Reply,
        not_before: Nanos,
    ) -> Option<Nanos> {
        let reply = self.cut_short(from == to, reply);
        let at = (self.time.now() + self.delay(from, to)?).max(not_before);
        self.time.at(at, Event::Answer(no, reply));
        Some(at)
    }

    fn cut_short(&mut self, is_local: bool, reply: Reply) -> Reply {
        if is_local || !self.dice.one_in(self.shape.loss_one_in) {
            return reply;
        }
        self.network.faults += 1;
        let cut = |bytes: &Body, dice: &mut oklog::world::entropy::Dice| {
            let n = dice.below(bytes.len() as u64 + 1) as usize;
            Arc::new(bytes[..n].to_vec())
        };
        match reply {
            Reply::Bytes { len, crc32, bytes } => Reply::Bytes { len, crc32, bytes: cut(&bytes, &mut self.dice) },
            Reply::Part(bytes, _) => Reply::Part(cut(&bytes, &mut self.dice), false),
            _ => Reply::Broken,
        }
    }

    /// An answer has come, or is not waited for any longer.
    pub fn answered(&mut self, no: CallNo, reply: Reply) -> Checked {
        let goes_on = matches!(reply, Reply::Head(..));
        let call = match goes_on {
            true => self.network.calls.get(&no).map(|call| (call.to, call.caller.clone())),
            false => self.network.calls.remove(&no).map(|call| (call.to, call.caller)),
        };
        match call {
            Some((_, Caller::Carrier(ticket, errand))) if self.nodes[ticket.place].runs(ticket.life) => {
                self.carrier_hears(ticket, no, errand, reply)
            }
            Some((_, Caller::Query(query, place, store))) => self.query_hears(query, place, store, reply),
            _ => Ok(()),
        }
    }

    /// What a node does when it is asked. `None`: it has died over it, or answers later.
    fn handle(&mut self, no: CallNo, asker: Place, to: Place, request: Request) -> Checked<Option<Reply>> {
        let Some(process) = &self.nodes[to].process else { return Ok(None) };
        let is_wrong = match request {
            Request::Replicate(..) | Request::Query(Tier::Store, _) => process.store.is_none(),
            _ => process.ingest.is_none(),
        };
        if is_wrong {
            return Ok(Some(Reply::Refused));
        }
        match request {
            Request::Next => self.handle_next(to),
            Request::Read(id) => self.handle_read(to, id),
            Request::Replicate(body, cut) => self.handle_replicate(to, &body, cut),
            Request::Query(tier, params) => Ok(self.part_begins(no, (to, asker), tier, &params)),
            Request::Commit(id, stores) => {
                let verdict = self.on_log(to, |log| log.commit(id, &stores))?;
                if verdict == Some(Verdict::Done) {
                    self.ledger.committed(to, id, self.shape.replicas)?;
                    self.trace(|| format!("node {to} has committed {id}"));
                }
                Ok(verdict.map(Reply::Verdict))
            }
            Request::Renew(id) => Ok(self.on_log(to, |log| log.renew(id))?.map(Reply::Verdict)),
            Request::Failed(id) => Ok(self.on_log(to, |log| log.failed(id))?.map(Reply::Verdict)),
            Request::SetAside(id) => {
                self.trace(|| format!("node {to} sets {id} aside"));
                Ok(self.on_log(to, |log| log.set_aside(id))?.map(Reply::Verdict))
            }
        }
    }

    fn on_log<R>(&mut self, to: Place, what: impl FnOnce(&oklog::ingest::log::IngestLog) -> R) -> Checked<Option<R>> {
        self.act(to, |process| what(&process.ingest.as_ref().expect("an ingester").log))
    }

    fn handle_next(&mut self, to: Place) -> Checked<Option<Reply>> {
        let next = self.on_log(to, |log| log.offer())?;
        Ok(next.map(|next| match next {
            Ok(offer) => Reply::Offer(offer),
            Err(_) => Reply::Refused,
        }))
    }

    fn handle_read(&mut self, to: Place, id: Id) -> Checked<Option<Reply>> {
        let read = self.on_log(to, |log| {
            let segment = log.read(id)?;
            let known = *segment.digest();
            let bytes = crate::points::read_segment(&segment);
            Some((known, bytes))
        })?;
        let Some(read) = read else { return Ok(None) };
        let Some((known, bytes)) = read else { return Ok(Some(Reply::Verdict(Verdict::Unknown))) };
        // A disk that cannot be read ends the body too early.
        let bytes = bytes.unwrap_or_default();
        if bytes.len() as u64 == known.len.0 {
            self.ledger.was_read(to, id, &bytes)?;
        }
        Ok(Some(Reply::Bytes { len: known.len.0, crc32: known.crc32.unwrap_or_default(), bytes: Arc::new(bytes) }))
    }

    fn handle_replicate(&mut self, to: Place, body: &Body, cut: Option<usize>) -> Checked<Option<Reply>> {
        let result = self.act(to, |process| {
            let log = &process.store.as_ref().expect("a store").log;
            match cut {
                Some(at) => log.replicate(&mut Broken { bytes: &body[..at.min(body.len())] }, &|| false),
                None => log.replicate(&mut &body[..], &|| true),
            }
        })?;
        let Some(result) = result else { return Ok(None) };
        self.trace(|| match &result {
            Ok(receipt) => format!("node {to} has taken {}..{}", receipt.digest.first, receipt.digest.last),
            Err(e) => format!("node {to} takes no segment: {e}"),
        });
        Ok(Some(match result {
            Ok(receipt) => {
                self.ledger.receipt(self.nodes[to].disk_no, body)?;
                Reply::Receipt(receipt)
            }
            Err(ReplicateError::Full(_)) => Reply::Full,
            Err(_) => Reply::Refused,
        }))
    }
}
