//! Queries over the whole cluster: ingesters first, then stores, as `query/scatter.rs` does it, with the real merge and the
//! real judgement of what silence means.

use crate::ledger::{Answer, Checked};
use crate::network::{Body, CallNo, Caller, Reply, Request};
use crate::node::Place;
use crate::points::read_parts;
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, SECOND, Ticket};
use oklog::cluster::{DataId, Peer, State, View};
use oklog::merge::k_way::{Merge, MergeError, Source};
use oklog::query::complete::{Missed, StoreKey};
use oklog::query::params::{Order, Params};
use oklog::query::remote::Remote;
use oklog::record::id::Id;
use oklog::segment::readable::Readable;
use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::Arc;

/// Which query.
pub type QueryNo = usize;

/// A query on its way.
pub struct Query {
    asker: Ticket,
    /// What was promised when it began.
    promises: u64,
    from: Id,
    to: Id,
    before: Arc<View>,
    view: Option<Arc<View>>,
    own: Vec<Readable>,
    ingesters: Vec<Asked>,
    stores: Vec<Asked>,
    /// What is missed, once all heads are there.
    missed: Option<Missed>,
    over: bool,
}

/// A node that was asked.
struct Asked {
    peer: Peer,
    place: Place,
    is_store: bool,
    head: Option<Option<Vec<StoreKey>>>,
    part: Option<(Body, bool)>,
}

impl Asked {
    /// It has answered in full, or will not.
    fn is_done(&self) -> bool {
        self.part.is_some() || self.head == Some(None)
    }

    fn is_missed_in(&self, missed: &mut Missed) {
        match self.is_store {
            true => missed.store(StoreKey::of_peer(&self.peer), &self.peer.name()),
            false => missed.ingester(&self.peer.name()),
        }
    }
}

/// How a query ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It called itself complete and came to its good end.
    Complete,
    /// It said that something is missing.
    Partial,
    /// It broke off.
    Broken,
}

/// A part of an answer on a node: what it has found, until it is read.
pub struct Part {
    way: (Place, Place),
    not_before: Nanos,
    life: u64,
    readables: Vec<Readable>,
}

struct Whole(Option<Vec<u8>>, Id);

impl Source for Whole {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let Some(bytes) = self.0.take() else { return Ok(false) };
        block.extend_from_slice(&bytes);
        Ok(true)
    }

    fn low(&self) -> Id {
        self.1
    }
}

/// The bytes of another node's part, which may end too early.
struct Wire {
    bytes: Body,
    at: usize,
    whole: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&self.bytes[self.at..]).read(buffer)?;
        self.at += n;
        if n == 0 && !buffer.is_empty() && !self.whole {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(n)
    }
}

impl Sim {
    /// Asks a node for all there is between two ids.
    pub fn begin_query(&mut self, place: Place, from: Id, to: Id) -> Checked<Option<QueryNo>> {
        let node = &self.nodes[place];
        if node.process.is_none() {
            return Ok(None);
        }
        let asker = node.ticket();
        let before = self.members.view(&self.nodes, place);
        let no = self.queries.len();
        let own = self.snapshot(place, true, from, to);
        let ingesters = self.ask_all(no, place, &before, false, from, to);
        let promises = self.ledger.promises;
        self.queries.push(Query {
            asker,
            promises,
            from,
            to,
            before,
            view: None,
            own,
            ingesters,
            stores: Vec::new(),
            missed: None,
            over: false,
        });
        self.trace(|| format!("query {no} at node {place}"));
        self.query_goes_on(no)?;
        Ok(Some(no))
    }

    fn snapshot(&self, place: Place, ingest: bool, from: Id, to: Id) -> Vec<Readable> {
        let Some(process) = &self.nodes[place].process else { return Vec::new() };
        match ingest {
            true => process.ingest.as_ref().map(|tier| tier.log.snapshot(from, to)).unwrap_or_default(),
            false => {
                let segments = process.store.as_ref().map(|tier| tier.log.snapshot(from, to)).unwrap_or_default();
                segments.into_iter().map(Readable::whole).collect()
            }
        }
    }

    fn ask_all(&mut self, no: QueryNo, place: Place, view: &View, stores: bool, from: Id, to: Id) -> Vec<Asked> {
        let has_tier = |peer: &&Peer| if stores { peer.meta.kind.stores() } else { peer.meta.kind.ingests() };
        let mut asked = Vec::new();
        for peer in view.others.iter().filter(has_tier) {
            let Some(to_place) = self.members.place_of(peer) else { continue };
            let request = if stores { Request::QueryStore(from, to) } else { Request::QueryIngest(from, to) };
            self.call(place, to_place, request, Caller::Query(no, to_place, stores));
            asked.push(Asked { peer: peer.clone(), place: to_place, is_store: stores, head: None, part: None });
        }
        asked
    }

    /// A node is asked for its part: it looks, says so, and sends what it has found a little later, on the same wire.
    pub fn part_begins(&mut self, no: CallNo, way: (Place, Place), ingest: bool, range: (Id, Id)) -> Option<Reply> {
        let to = way.0;
        let readables = self.snapshot(to, ingest, range.0, range.1);
        let (stores, data) = match ingest {
            true => (self.known_stores(to), self.nodes[to].ingest_id),
            false => (Vec::new(), self.nodes[to].store_id),
        };
        let not_before = self.answer_after(no, way, Reply::Head(stores, data), 0)?;
        self.parts.insert(no, Part { way, not_before, life: self.nodes[to].life, readables });
        let delay = if self.dice.one_in(10) { self.dice.below(2 * SECOND) } else { self.dice.below(5 * MS) };
        self.time.after(MS + delay, Event::Part(no));
        None
    }

    fn known_stores(&self, place: Place) -> Vec<StoreKey> {
        let view = self.members.view(&self.nodes, place);
        let stores = view.members().chain(&view.silent).filter(|peer| peer.meta.kind.stores());
        let mut keys: BTreeSet<StoreKey> = stores.map(StoreKey::of_peer).collect();
        let tier = self.nodes[place].process.as_ref().and_then(|process| process.ingest.as_ref());
        keys.extend(tier.map(|tier| tier.log.witnesses()).unwrap_or_default().into_iter().map(StoreKey::of));
        keys.into_iter().collect()
    }

    /// A node reads what it has found and sends it.
    pub fn part_ends(&mut self, no: CallNo) -> Checked {
        let Some(part) = self.parts.remove(&no) else { return Ok(()) };
        if !self.nodes[part.way.0].runs(part.life) {
            return Ok(());
        }
        let read = self.act(part.way.0, |_| read_parts(&part.readables))?;
        let Some(read) = read else { return Ok(()) };
        let reply = match read {
            Ok(sources) => Reply::Part(Arc::new(merged(sources)), true),
            Err(_) => Reply::Part(Arc::default(), false),
        };
        self.answer_after(no, part.way, reply, part.not_before);
        Ok(())
    }

    /// What a query hears of a node.
    pub fn query_hears(&mut self, no: QueryNo, place: Place, call_is_store: bool, reply: Reply) -> Checked {
        let query = &mut self.queries[no];
        let asked = if call_is_store { &mut query.stores } else { &mut query.ingesters };
        let Some(asked) = asked.iter_mut().find(|asked| asked.place == place) else { return Ok(()) };
        match reply {
            Reply::Head(stores, data) => {
                let wanted = if asked.is_store { asked.peer.meta.store } else { asked.peer.meta.ingest };
                let is_another = |(wanted, found): (DataId, DataId)| wanted != found;
                let head = if wanted.zip(data).is_some_and(is_another) { None } else { Some(stores) };
                asked.head.get_or_insert(head);
            }
            Reply::Part(body, whole) if matches!(asked.head, Some(Some(_))) => asked.part = Some((body, whole)),
            _ => match asked.head {
                Some(Some(_)) => asked.part = Some((Arc::default(), false)),
                _ => asked.head = Some(None),
            },
        }
        self.query_goes_on(no)
    }

    /// Asks the stores when all ingesters have answered; ends when all have.
    fn query_goes_on(&mut self, no: QueryNo) -> Checked {
        let query = &self.queries[no];
        let (asker, from, to) = (query.asker, query.from, query.to);
        if query.over {
            return Ok(());
        }
        if !self.nodes[asker.place].runs(asker.life) {
            self.end_query(no);
            return Ok(());
        }
        if query.view.is_none() {
            if query.ingesters.iter().any(|asked| asked.head.is_none()) {
                return Ok(());
            }
            let view = self.members.view(&self.nodes, asker.place);
            let own = self.snapshot(asker.place, false, from, to);
            let stores = self.ask_all(no, asker.place, &view, true, from, to);
            let query = &mut self.queries[no];
            query.own.extend(own);
            (query.view, query.stores) = (Some(view), stores);
        }
        let query = &self.queries[no];
        if query.missed.is_none() {
            if query.stores.iter().any(|asked| asked.head.is_none()) {
                return Ok(());
            }
            let missed = self.missed_by(query);
            self.queries[no].missed = Some(missed);
        }
        let query = &self.queries[no];
        if query.ingesters.iter().chain(&query.stores).all(Asked::is_done) {
            return self.finish_query(no);
        }
        Ok(())
    }

    /// Who is missed when all heads are there.
    fn missed_by(&self, query: &Query) -> Missed {
        let view = query.view.as_ref().expect("stores were asked");
        let mut missed = missed_ingesters(&query.before, view, &query.ingesters);
        for peer in view.silent.iter().filter(|peer| peer.meta.kind.stores()) {
            missed.store(StoreKey::of_peer(peer), &peer.name());
        }
        query.stores.iter().filter(|asked| asked.head == Some(None)).for_each(|asked| asked.is_missed_in(&mut missed));
        let stores = view.members().chain(&view.silent).filter(|peer| peer.meta.kind.stores());
        let known: BTreeSet<StoreKey> = stores.map(StoreKey::of_peer).collect();
        let named = query.ingesters.iter().filter_map(|asked| asked.head.clone().flatten()).flatten();
        let own = self.known_stores(query.asker.place);
        for key in named.chain(own).filter(|key| !known.contains(key)) {
            missed.store(key, &key.text());
        }
        missed
    }

    /// Merges what has come and judges it.
    fn finish_query(&mut self, no: QueryNo) -> Checked {
        let own = std::mem::take(&mut self.queries[no].own);
        let place = self.queries[no].asker.place;
        let Some(read) = self.act(place, |_| read_parts(&own))? else {
            self.end_query(no);
            return Ok(());
        };
        let query = &self.queries[no];
        let view = query.view.as_ref().expect("stores were asked");
        let missed = query.missed.clone().expect("judged");
        let replicas = view.replicas();
        let mut now = missed.clone();
        let mut goes_on = true;
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        let mut owners: Vec<Option<&Asked>> = Vec::new();
        match read {
            Ok(read) => {
                for (low, bytes) in read {
                    sources.push(Box::new(Whole(Some(bytes), low)));
                    owners.push(None);
                }
            }
            // Its own disk cannot be read: nothing it says is whole.
            Err(_) => goes_on = false,
        }
        let params = params(query.from, query.to);
        for asked in query.ingesters.iter().chain(&query.stores) {
            if let Some((bytes, whole)) = &asked.part {
                let wire = Wire { bytes: bytes.clone(), at: 0, whole: *whole };
                sources.push(Box::new(Remote::new(Box::new(wire), &params)));
                owners.push(Some(asked));
            }
        }
        let (mut merge, mut body) = (Merge::trusting(sources), Vec::new());
        while goes_on {
            match merge.next_run(&mut body, 4_096) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => match owners[error.index()] {
                    Some(asked) => {
                        asked.is_missed_in(&mut now);
                        goes_on = missed.may_become(&now, &asked.peer.name(), replicas);
                    }
                    None => goes_on = false,
                },
            }
        }
        let ending = match (goes_on, missed.is_harmless(replicas)) {
            (false, _) => Ending::Broken,
            (true, true) => Ending::Complete,
            (true, false) => Ending::Partial,
        };
        let is_complete = ending == Ending::Complete;
        let (promises, from, to) = (query.promises, query.from, query.to);
        let answer = Answer { place, promises, from, to, is_complete, body: &body };
        self.trace(|| format!("query {no}: {ending:?}, missed {}", missed.names()));
        self.ledger.check_answer(&answer)?;
        self.totals.queries[ending as usize] += 1;
        self.endings.insert(no, ending);
        self.end_query(no);
        Ok(())
    }

    fn end_query(&mut self, no: QueryNo) {
        let query = &mut self.queries[no];
        query.over = true;
        (query.own, query.ingesters, query.stores) = (Vec::new(), Vec::new(), Vec::new());
    }
}

fn params(from: Id, to: Id) -> Params {
    let (q, regex, invert, ignore_case) = (Vec::new(), false, false, false);
    Params { from, to, q, regex, invert, ignore_case, limit: None, order: Order::Asc }
}

fn merged(sources: Vec<(Id, Vec<u8>)>) -> Vec<u8> {
    let sources = sources.into_iter().map(|(low, bytes)| Whole(Some(bytes), low)).collect();
    let (mut merge, mut body) = (Merge::trusting(sources), Vec::new());
    while let Ok(true) = merge.next_run(&mut body, 4_096) {}
    body
}

/// As in `query/scatter.rs`: the ingesters whose records are missed.
fn missed_ingesters(before: &View, now: &View, asked: &[Asked]) -> Missed {
    let answered: BTreeSet<_> =
        asked.iter().filter(|asked| matches!(asked.head, Some(Some(_)))).map(|asked| asked.peer.node).collect();
    let is_gone = |peer: &Peer| {
        let same = |other: &Peer| {
            other.node == peer.node || (peer.meta.ingest.is_some() && other.meta.ingest == peer.meta.ingest)
        };
        !now.members().chain(silent_ingesters(now)).any(same)
    };
    let failed = asked.iter().map(|asked| &asked.peer);
    let candidates = failed.chain(silent_ingesters(before)).filter(|peer| !is_gone(peer)).chain(silent_ingesters(now));
    let mut missed = Missed::default();
    for peer in candidates.filter(|peer| peer.meta.kind.ingests() && !answered.contains(&peer.node)) {
        missed.ingester(&peer.name());
    }
    missed
}

fn silent_ingesters(view: &View) -> impl Iterator<Item = &Peer> {
    view.silent.iter().filter(|peer| peer.meta.kind.ingests() && peer.state != State::Left)
}
