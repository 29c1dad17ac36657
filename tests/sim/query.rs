//! Queries over the whole cluster, as `query/scatter.rs` does them: the real plan of whom to ask and of what is missed, the
//! real scan, merge and judgement of what breaks off. Only the waiting is the simulation's.
//!
//! Everything is read over later events, piece by piece, while segments are compacted, committed and removed under it. A
//! node that does not answer in time is given up, and so is one that the asked node holds to be gone.

use crate::broken::Wrong;
use crate::ledger::{Answer, Checked};
use crate::network::{Body, CallNo, Caller, Reply, Request};
use crate::node::Place;
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, SECOND, Ticket};
use oklog::cluster::{DataId, Peer, View};
use oklog::http::Cancel;
use oklog::merge::k_way::{Merge, MergeError, Source};
use oklog::ops::metrics::Counter;
use oklog::query::complete::StoreKey;
use oklog::query::needle::Matcher;
use oklog::query::newest::{Descending, Newest};
use oklog::query::params::{Order, Params};
use oklog::query::plan::{self, Owner, Tier, Verdict};
use oklog::query::pool::Pool;
use oklog::query::remote::Remote;
use oklog::query::scan::{Direction, PartSource, Scan, Setup};
use oklog::record::id::Id;
use oklog::record::stored::records;
use oklog::segment::readable::Readable;
use oklog::segment::sealed::filter::Formula;
use std::io::{self, Read};
use std::sync::Arc;

/// Which query.
pub type QueryNo = usize;

/// From one look at whether nodes that are waited for are members still to the next.
const LOOK: Nanos = 500 * MS;

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

/// A query on its way.
pub struct Query {
    asker: Ticket,
    /// What was promised when it began.
    promises: u64,
    params: Arc<Params>,
    was_informed: bool,
    before: Arc<View>,
    /// Who was there when stores were asked; `None` until then.
    view: Option<Arc<View>>,
    own: Vec<(Tier, Vec<Readable>)>,
    asked: Vec<Asked>,
    /// What the head said, once it has left.
    verdict: Option<Verdict>,
    reading: Option<Reading>,
    over: bool,
}

/// A node that was asked.
struct Asked {
    tier: Tier,
    peer: Peer,
    place: Place,
    head: Head,
    /// What came after the head, and whether that is all.
    part: Option<(Body, bool)>,
}

enum Head {
    Awaited,
    /// Too late, or none of ours.
    Failed,
    /// The stores that it named.
    Came(Vec<StoreKey>),
}

impl Asked {
    fn has_answered(&self) -> bool {
        matches!(self.head, Head::Came(_))
    }

    fn is_awaited(&self) -> bool {
        matches!(self.head, Head::Awaited)
    }

    /// It has answered in full, or will not.
    fn is_done(&self) -> bool {
        self.part.is_some() || matches!(self.head, Head::Failed)
    }

    /// Nothing more comes of it.
    fn breaks_off(&mut self) {
        match self.head {
            Head::Awaited => self.head = Head::Failed,
            Head::Came(_) if self.part.is_none() => self.part = Some((Body::default(), false)),
            _ => {}
        }
    }
}

/// An answer that is being put together.
struct Reading {
    runs: Runs,
    owners: Vec<Owner>,
    body: Vec<u8>,
    left: u64,
}

/// A part of an answer on a node that was asked for it.
pub struct Part {
    /// From the node to who asked.
    way: (Place, Place),
    life: u64,
    /// When its head comes: its body comes no earlier.
    not_before: Nanos,
    runs: Runs,
    body: Vec<u8>,
    left: u64,
}

/// A merge in either order, as in `query/answer.rs`.
enum Runs {
    Ascending(Box<Merge<Piece>>),
    Descending(Box<Newest<Piece>>),
    /// Broken: whatever is found, however often.
    Copies(Vec<Piece>),
}

enum Piece {
    Own(PartSource),
    Remote(Remote),
}

impl Source for Piece {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        match self {
            Piece::Own(part) => part.next_block(block),
            Piece::Remote(remote) => remote.next_block(block),
        }
    }

    fn low(&self) -> Id {
        match self {
            Piece::Own(part) => part.low(),
            Piece::Remote(remote) => remote.low(),
        }
    }
}

impl Descending for Piece {
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Piece::Own(part) => Descending::next_piece(part),
            Piece::Remote(remote) => remote.next_piece(),
        }
    }

    fn high(&self) -> Id {
        match self {
            Piece::Own(part) => Descending::high(part),
            Piece::Remote(remote) => remote.high(),
        }
    }
}

impl Runs {
    fn new(pieces: Vec<Piece>, params: &Params) -> Runs {
        match params.order {
            Order::Asc => Runs::Ascending(Box::new(Merge::trusting(pieces))),
            Order::Desc => Runs::Descending(Box::new(Newest::new(pieces))),
        }
    }

    /// Appends what comes next, of at most `left` records, and counts them down. `None` when more may come, else how it
    /// ended: what breaks behind the last record that is wanted is not missed.
    fn next(&mut self, body: &mut Vec<u8>, left: &mut u64) -> Option<Result<(), MergeError>> {
        let mut run = Vec::new();
        let step = match self {
            Runs::Ascending(merge) => merge.next_run(&mut run, 1),
            Runs::Descending(newest) => newest.next_record(&mut run),
            Runs::Copies(pieces) => all_copies(pieces, &mut run),
        };
        for stored in records(&run).take((*left).min(usize::MAX as u64) as usize) {
            body.extend_from_slice(stored.whole);
            *left -= 1;
        }
        match step {
            _ if *left == 0 => Some(Ok(())),
            Ok(true) => None,
            Ok(false) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        }
    }
}

/// All records of all sources in order, copies too.
fn all_copies(pieces: &mut Vec<Piece>, run: &mut Vec<u8>) -> Result<bool, MergeError> {
    let (mut all, mut block) = (Vec::new(), Vec::new());
    for mut piece in pieces.drain(..) {
        while piece.next_block(&mut block)? {
            all.extend(records(&block).map(|stored| stored.whole.to_vec()));
            block.clear();
        }
    }
    all.sort_unstable();
    run.extend(all.concat());
    Ok(!run.is_empty())
}

/// Sources that scan what a node has found.
fn scan(parts: Vec<Readable>, params: &Params, pool: &Arc<Pool>) -> Vec<Piece> {
    let matcher = Matcher::new(&params.q, false, false, params.invert).expect("no pattern");
    let direction = match params.order {
        Order::Asc => Direction::Forward,
        Order::Desc => Direction::Backward,
    };
    let formula = if params.invert { Formula::Any } else { Formula::Holds(params.q.to_ascii_lowercase()) };
    let setup = Setup {
        parts: parts.into_iter().map(Into::into).collect(),
        formula,
        from: params.from,
        to: params.to,
        direction,
        read_ahead: false,
        matcher,
        line: pool.line(),
        cancel: Cancel::default(),
        scanned: Counter::default(),
    };
    Scan::sources(setup).into_iter().map(Piece::Own).collect()
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
    /// A client asks some node that runs for something.
    pub fn ask(&mut self) -> Checked {
        let place = self.dice.below(self.nodes.len() as u64) as usize;
        let params = self.some_params();
        self.begin_query(place, params)?;
        Ok(())
    }

    /// All there is, or a part of it.
    fn some_params(&mut self) -> Params {
        let mut params = everything();
        if self.dice.one_in(3) && self.ledger.len() > 0 {
            let n = self.ledger.len() as u64;
            let end = |dice: &mut oklog::world::entropy::Dice| self.ledger.record(dice.below(n) as usize).id;
            let (one, other) = (end(&mut self.dice), end(&mut self.dice));
            (params.from, params.to) = (one.min(other), one.max(other));
        }
        if self.dice.one_in(4) {
            params.limit = Some(1 + self.dice.below(30));
        }
        if self.dice.one_in(4) {
            params.order = Order::Desc;
        }
        if self.dice.one_in(6) {
            (params.q, params.invert) = (self.some_needle(), self.dice.one_in(2));
        }
        params
    }

    /// What many records hold, or the text of one, which is long enough for a filter to know of it.
    fn some_needle(&mut self) -> Vec<u8> {
        let n = self.dice.below(2 * self.ledger.len().max(1) as u64) as usize;
        let text = if n < self.ledger.len() { &self.ledger.record(n).text[..] } else { b"" };
        if text.is_empty() { b"l1".to_vec() } else { text[..text.len().min(20)].to_vec() }
    }

    /// Asks a node.
    pub fn begin_query(&mut self, place: Place, params: Params) -> Checked<Option<QueryNo>> {
        let node = &self.nodes[place];
        if node.process.is_none() || !node.kind.stores() || node.busy_until > self.time.now() {
            return Ok(None);
        }
        let (asker, no) = (node.ticket(), self.queries.len());
        let before = self.members.view(&self.nodes, place);
        let params = Arc::new(params);
        self.trace(|| format!("query {no} at node {place}"));
        let (first, _) = self.order_of_tiers();
        self.queries.push(Query {
            asker,
            promises: self.ledger.promises,
            params: params.clone(),
            was_informed: self.members.is_informed(place),
            before,
            view: None,
            own: vec![(first, self.snapshot(place, first, &params))],
            asked: Vec::new(),
            verdict: None,
            reading: None,
            over: false,
        });
        self.ask_all(no, first);
        self.time.after(LOOK, Event::Look(no));
        self.query_goes_on(no)?;
        Ok(Some(no))
    }

    /// Ingesters before stores: a record goes that way.
    fn order_of_tiers(&self) -> (Tier, Tier) {
        match self.shape.wrong {
            Some(Wrong::StoresAskedFirst) => (Tier::Store, Tier::Ingest),
            _ => (Tier::Ingest, Tier::Store),
        }
    }

    fn snapshot(&self, place: Place, tier: Tier, params: &Params) -> Vec<Readable> {
        let Some(process) = &self.nodes[place].process else { return Vec::new() };
        let (from, to) = (params.from, params.to);
        match tier {
            Tier::Ingest => process.ingest.as_ref().map(|tier| tier.log.snapshot(from, to)).unwrap_or_default(),
            Tier::Store => {
                let segments = process.store.as_ref().map(|tier| tier.log.snapshot(from, to)).unwrap_or_default();
                segments.into_iter().map(Readable::whole).collect()
            }
        }
    }

    fn ask_all(&mut self, no: QueryNo, tier: Tier) {
        let query = &self.queries[no];
        let (place, params) = (query.asker.place, query.params.clone());
        let view = query.view.clone().unwrap_or_else(|| query.before.clone());
        for peer in plan::ask(tier, &view) {
            let Some(to) = self.members.place_of(peer) else { continue };
            self.call(place, to, Request::Query(tier, params.clone()), Caller::Query(no, to, tier));
            let asked = Asked { tier, peer: peer.clone(), place: to, head: Head::Awaited, part: None };
            self.queries[no].asked.push(asked);
        }
    }

    /// A node is asked for its part: it looks, says so, and sends what it has found a little later.
    pub fn part_begins(&mut self, no: CallNo, way: (Place, Place), tier: Tier, params: &Params) -> Option<Reply> {
        let place = way.0;
        let readables = self.snapshot(place, tier, params);
        let (stores, data) = match tier {
            Tier::Ingest => {
                let view = self.members.view(&self.nodes, place);
                let named = plan::named_by(&view, &self.witnesses(place), &self.members.forgotten(place));
                (named.into_iter().collect(), self.nodes[place].ingest_id)
            }
            Tier::Store => (Vec::new(), self.nodes[place].store_id),
        };
        let not_before = self.answer_after(no, way, Reply::Head(stores, data), 0)?;
        let (runs, life) = (Runs::new(scan(readables, params, &self.pool), params), self.nodes[place].life);
        let left = params.limit.unwrap_or(u64::MAX);
        self.parts.insert(no, Part { way, life, not_before, runs, body: Vec::new(), left });
        let wait = MS + self.between_pieces();
        self.time.after(wait, Event::Part(no));
        None
    }

    fn witnesses(&self, place: Place) -> Vec<DataId> {
        let tier = self.nodes[place].process.as_ref().and_then(|process| process.ingest.as_ref());
        tier.map(|tier| tier.log.witnesses()).unwrap_or_default()
    }

    /// From one piece of a part to the next.
    fn between_pieces(&mut self) -> Nanos {
        let longest = if self.dice.one_in(25) { 2 * SECOND } else { 5 * MS };
        self.dice.below(longest)
    }

    /// A node goes on with its part.
    pub fn part_goes_on(&mut self, no: CallNo) {
        let Some(mut part) = self.parts.remove(&no) else { return };
        if !self.nodes[part.way.0].runs(part.life) {
            return;
        }
        for _ in 0..1 + self.dice.below(20) {
            if let Some(end) = part.runs.next(&mut part.body, &mut part.left) {
                let reply = Reply::Part(Arc::new(part.body), end.is_ok());
                self.answer_after(no, part.way, reply, part.not_before);
                return;
            }
        }
        let wait = self.between_pieces();
        self.parts.insert(no, part);
        self.time.after(wait, Event::Part(no));
    }

    /// What a query hears of a node.
    pub fn query_hears(&mut self, no: QueryNo, place: Place, tier: Tier, reply: Reply) -> Checked {
        let query = &mut self.queries[no];
        let Some(asked) = query.asked.iter_mut().find(|asked| asked.place == place && asked.tier == tier) else {
            return Ok(());
        };
        match reply {
            Reply::Head(stores, data) if asked.is_awaited() => {
                let is_anothers = data.is_some_and(|data| tier.is_anothers(&asked.peer, &data.to_string()));
                asked.head = if is_anothers { Head::Failed } else { Head::Came(stores) };
            }
            Reply::Head(..) => {}
            Reply::Part(body, whole) if asked.has_answered() && asked.part.is_none() => {
                asked.part = Some((body, whole));
            }
            _ => asked.breaks_off(),
        }
        self.query_goes_on(no)
    }

    /// Those that the asked node holds to be gone are not waited for.
    pub fn look(&mut self, no: QueryNo) -> Checked {
        let query = &self.queries[no];
        if query.over {
            return Ok(());
        }
        let view = self.members.view(&self.nodes, query.asker.place);
        let is_gone = |asked: &&mut Asked| view.others.iter().all(|peer| peer.node != asked.peer.node);
        self.queries[no].asked.iter_mut().filter(is_gone).for_each(Asked::breaks_off);
        self.time.after(LOOK, Event::Look(no));
        self.query_goes_on(no)
    }

    /// Asks the stores when all ingesters have answered; says what is missed when all stores have; reads when all is there.
    fn query_goes_on(&mut self, no: QueryNo) -> Checked {
        let query = &self.queries[no];
        let asker = query.asker;
        if query.over || query.reading.is_some() {
            return Ok(());
        }
        if !self.nodes[asker.place].runs(asker.life) {
            self.end_query(no);
            return Ok(());
        }
        if query.asked.iter().any(Asked::is_awaited) {
            return Ok(());
        }
        if query.view.is_none() {
            let view = self.members.view(&self.nodes, asker.place);
            let (_, second) = self.order_of_tiers();
            let own = self.snapshot(asker.place, second, &query.params);
            let query = &mut self.queries[no];
            query.own.push((second, own));
            query.view = Some(view);
            self.ask_all(no, second);
            return self.query_goes_on(no);
        }
        if query.verdict.is_none() {
            let verdict = self.judge(query);
            self.trace(|| format!("query {no} has all heads and misses {:?}", verdict.missed().names()));
            self.queries[no].verdict = Some(verdict);
        }
        if self.queries[no].asked.iter().all(Asked::is_done) {
            self.begin_reading(no);
        }
        Ok(())
    }

    fn judge(&self, query: &Query) -> Verdict {
        let place = query.asker.place;
        let now = query.view.as_ref().expect("stores were asked");
        let of = |tier: Tier| {
            let asked = query.asked.iter().filter(move |asked| asked.tier == tier);
            asked.map(|asked| (&asked.peer, asked.has_answered())).collect()
        };
        let named = query.asked.iter().filter_map(|asked| match &asked.head {
            Head::Came(stores) => Some(stores),
            _ => None,
        });
        let wrong = self.shape.wrong;
        let nobody_silent = |view: &View| View { silent: Vec::new(), ..view.clone() };
        let views = (wrong == Some(Wrong::SilentNotMissed)).then(|| (nobody_silent(&query.before), nobody_silent(now)));
        let (before, now) = views.as_ref().map_or((&*query.before, &**now), |(before, now)| (before, now));
        let asked = plan::Asked {
            was_informed: query.was_informed,
            before,
            now,
            ingesters: of(Tier::Ingest),
            stores: of(Tier::Store),
            named: named.flatten().copied().collect(),
            witnesses: &self.witnesses(place),
            forgotten: &self.members.forgotten(place),
        };
        let one_more = u8::from(wrong == Some(Wrong::RStoresMissed));
        Verdict::new(asked.missed(), now.replicas() + one_more)
    }

    fn begin_reading(&mut self, no: QueryNo) {
        let query = &mut self.queries[no];
        let (params, me) = (query.params.clone(), &query.before.me);
        let (mut pieces, mut owners) = (Vec::new(), Vec::new());
        for (tier, parts) in query.own.drain(..) {
            let own = scan(parts, &params, &self.pool);
            owners.resize(owners.len() + own.len(), Owner::new(tier, me));
            pieces.extend(own);
        }
        for asked in query.asked.drain(..) {
            let Some((bytes, whole)) = asked.part else { continue };
            pieces.push(Piece::Remote(Remote::new(Box::new(Wire { bytes, at: 0, whole }), &params)));
            owners.push(Owner::new(asked.tier, &asked.peer));
        }
        let left = params.limit.unwrap_or(u64::MAX);
        let runs = match self.shape.wrong {
            Some(Wrong::CopiesShown) if params.order == Order::Asc => Runs::Copies(pieces),
            _ => Runs::new(pieces, &params),
        };
        query.reading = Some(Reading { runs, owners, body: Vec::new(), left });
        self.time.after(0, Event::Merge(no));
    }

    /// Reads a little more, and ends where there is no more or the answer cannot do without what broke off.
    pub fn query_reads(&mut self, no: QueryNo) -> Checked {
        let query = &mut self.queries[no];
        let (Some(reading), Some(verdict)) = (&mut query.reading, &mut query.verdict) else { return Ok(()) };
        if !self.nodes[query.asker.place].runs(query.asker.life) {
            self.end_query(no);
            return Ok(());
        }
        for _ in 0..1 + self.dice.below(40) {
            match reading.runs.next(&mut reading.body, &mut reading.left) {
                None => {}
                Some(Ok(())) => {
                    let ending = if verdict.is_complete() { Ending::Complete } else { Ending::Partial };
                    return self.finish_query(no, ending);
                }
                Some(Err(_)) if self.shape.wrong == Some(Wrong::BreaksTakenForEnds) => {}
                Some(Err(error)) if !verdict.goes_on_without(&reading.owners[error.index()]) => {
                    return self.finish_query(no, Ending::Broken);
                }
                Some(Err(_)) => {}
            }
        }
        let wait = self.between_pieces();
        self.time.after(wait, Event::Merge(no));
        Ok(())
    }

    fn finish_query(&mut self, no: QueryNo, ending: Ending) -> Checked {
        self.trace(|| format!("query {no}: {ending:?}"));
        let query = &self.queries[no];
        let body = query.reading.as_ref().map_or(&[][..], |reading| &reading.body);
        let answer = Answer {
            place: query.asker.place,
            promises: query.promises,
            params: &query.params,
            is_complete: ending == Ending::Complete,
            body,
        };
        self.ledger.check_answer(&answer)?;
        self.totals.queries[ending as usize] += 1;
        self.endings.insert(no, ending);
        self.end_query(no);
        Ok(())
    }

    fn end_query(&mut self, no: QueryNo) {
        let query = &mut self.queries[no];
        query.over = true;
        (query.own, query.asked, query.reading) = (Vec::new(), Vec::new(), None);
    }
}

/// All there is.
pub fn everything() -> Params {
    let (q, regex, invert, ignore_case) = (Vec::new(), false, false, false);
    Params { from: Id::MIN, to: Id::MAX, q, regex, invert, ignore_case, limit: None, order: Order::Asc }
}
