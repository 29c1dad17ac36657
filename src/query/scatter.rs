//! One answer from many nodes: asks all ingesters, then all stores, and merges what they send.
//!
//! ```text
//! own ingest snapshot -> ask ingesters -> all have sent their head, or failed -> own store, ask stores -> merge
//! ```
//!
//! A record moves from an ingester to stores and never back. An ingester sends its head when its snapshot stands, and only
//! then are stores asked: so a record on its way is in the snapshot, or was on R stores before theirs were taken.
//!
//! A node is silent that did not answer in time, or not as one of ours would. Whom to ask and what silence means for the
//! answer is decided in `plan` and `complete`; a node that breaks off later is judged again then. Where the answer can do
//! without it, it goes on; otherwise it ends without its final chunk, so that no client takes it for what its head says.
//!
//! Bounds: [`AT_ONCE`] threads while nodes are asked; then one thread to merge and one to watch. Memory: for each remote
//! answer two blocks (see `remote`) and the two buffers of its connection, 16 KiB each; besides what a scan of the
//! own tiers takes (see `scan`). It does not grow with the result. Left out: asking a second time.

use super::answer::{Body, Query, Told};
use super::blocks::Wanted;
use super::calls::Calls;
use super::complete::StoreKey;
use super::newest::Descending;
use super::node::{DATA_ID, KNOWN_STORES, Node};
use super::plan::{self, Asked, Owner, Tier, Verdict};
use super::remote::Remote;
use super::scan::PartSource;
use crate::cluster::{Peer, View};
use crate::http::client::{Answer, Callee};
use crate::http::{Reply, Request, path};
use crate::merge::k_way::{MergeError, Source};
use crate::ops::metrics::Counter;
use crate::record::id::Id;
use crate::segment::readable::Readable;
use crate::segment::wire::parse_decimal;
use crate::world::crew::{each, watched};
use std::io;
use std::sync::Arc;

/// How many nodes are asked at a time.
pub const AT_ONCE: usize = 64;

/// The longest path and query that is passed on: within the 8 KiB that a node takes as the line of a request. A needle may
/// grow on the way, since more of it is escaped than the client needed to.
const LONGEST_TARGET: usize = 8_000;

/// Answers queries over the whole cluster.
pub struct Scatter {
    node: Arc<Node>,
}

/// What a node's answer begins with.
struct Head {
    segments: u64,
    reach: u64,
    skipped: u64,
    stores: Vec<StoreKey>,
    answer: Answer,
}

/// The own part of an answer.
struct Own {
    tier: Tier,
    /// How many segments are asked.
    segments: u64,
    /// How many bytes are in them.
    reach: u64,
    /// How many of those are known not to be read.
    skipped: u64,
    parts: Vec<Wanted>,
}

/// What there is when all nodes have answered or failed.
struct Gathered {
    own: Vec<Own>,
    heads: Vec<(Owner, Head)>,
    asked: usize,
    verdict: Verdict,
    view: Arc<View>,
}

impl Scatter {
    /// Answers from this node and all that it knows.
    pub fn new(node: Arc<Node>) -> Scatter {
        Scatter { node }
    }

    /// Answers one request.
    pub fn answer(&self, request: &mut Request, reply: Reply) -> io::Result<()> {
        let node = &*self.node;
        let query = match Query::read(request, node.clock.unix_millis(), node.clock.now()) {
            Ok(query) => query,
            Err(sentence) => return node.refuse(reply, &sentence),
        };
        let target = query.params.query_string();
        if target.len() > LONGEST_TARGET && !node.cluster.view().others.is_empty() {
            return node.refuse(reply, "q is too long to be passed on to other nodes");
        }
        let calls = Calls::default();
        watched(
            |over| calls.watch(node.cluster.as_ref(), &query.cancel, over),
            || {
                let gathered = self.gather(&query, &target, &calls);
                if query.cancel.is_cancelled() {
                    node.count("cancelled");
                    return Ok(());
                }
                self.send(&query, gathered, reply)
            },
        )
    }

    /// Asks everybody.
    fn gather(&self, query: &Query, target: &str, calls: &Calls) -> Gathered {
        let node = &*self.node;
        let snapshot = |tier| Some((tier, node.tier(tier).map(|tier| tier(query.params.from, query.params.to))?));
        let was_informed = node.cluster.is_informed();
        let before = node.cluster.view();
        let own_ingest = snapshot(Tier::Ingest);
        let ingesters = self.ask(query, Tier::Ingest, target, calls, &before);
        let view = node.cluster.view();
        let own_store = snapshot(Tier::Store);
        let stores = self.ask(query, Tier::Store, target, calls, &view);

        let named = ingesters.iter().filter_map(|(_, head)| head.as_ref()).flat_map(|head| &head.stores).copied();
        let asked = Asked {
            was_informed,
            before: &before,
            now: &view,
            ingesters: outcomes(&ingesters),
            stores: outcomes(&stores),
            named: named.collect(),
            witnesses: &(node.witnesses)(),
            forgotten: &(node.forgotten)(),
        };
        let (verdict, asked) = (Verdict::new(asked.missed(), view.replicas()), asked.count());

        let of = |tier| move |(peer, head): (Peer, Option<Head>)| head.map(|head| (Owner::new(tier, &peer), head));
        let heads = ingesters.into_iter().filter_map(of(Tier::Ingest));
        let heads = heads.chain(stores.into_iter().filter_map(of(Tier::Store))).collect();
        let own = own_ingest.into_iter().chain(own_store).map(|(tier, parts)| self.own(query, tier, parts)).collect();
        Gathered { own, heads, asked, verdict, view }
    }

    fn own(&self, query: &Query, tier: Tier, parts: Vec<Readable>) -> Own {
        let (segments, reach) = (parts.len() as u64, parts.iter().map(|part| part.len.0).sum());
        let (parts, skipped) = query.look_ahead(parts, self.node.clock.as_ref());
        Own { tier, segments, reach, skipped, parts }
    }

    /// Asks one tier of all others in a view. `None` for each that did not answer.
    fn ask(&self, query: &Query, tier: Tier, target: &str, calls: &Calls, view: &View) -> Vec<(Peer, Option<Head>)> {
        let path = match tier {
            Tier::Ingest => path::INGEST_QUERY,
            Tier::Store => path::STORE_OWN_QUERY,
        };
        let target = format!("{path}?{target}");
        each(&plan::ask(tier, view), AT_ONCE, |peer| {
            let head = self.ask_one(query, tier, &target, calls, peer);
            if let Err(why) = &head
                && !query.cancel.is_cancelled()
            {
                log::warn!("query: {} is silent: {why}", peer.name());
            }
            ((*peer).clone(), head.ok())
        })
    }

    fn ask_one(&self, query: &Query, tier: Tier, target: &str, calls: &Calls, peer: &Peer) -> Result<Head, String> {
        let agent = calls.agent(peer.node).ok_or("nobody waits for the answer")?;
        let (caller, callee) = (&self.node.caller, Callee { api: peer.name(), node: peer.node.0 });
        let answer = match query.head_only {
            true => caller.head(&agent, &callee, target),
            false => caller.get(&agent, &callee, target),
        };
        let answer = answer.map_err(|e| e.to_string())?;
        if answer.status() != 200 {
            return Err(format!("status {}", answer.status()));
        }
        if let Some(found) = answer.header(DATA_ID)
            && tier.is_anothers(peer, found)
        {
            return Err(format!("another node has its address by now, which keeps {found}"));
        }
        Head::read(answer).ok_or_else(|| "its answer has not the headers of one".to_string())
    }

    /// Sends head and body.
    fn send(&self, query: &Query, gathered: Gathered, reply: Reply) -> io::Result<()> {
        let node = &*self.node;
        let is_complete = gathered.verdict.is_complete();
        let status = if is_complete { 200 } else { 206 };
        let headers = self.headers(query, &gathered);
        let good_end = if is_complete { "whole" } else { "partial" };
        if query.head_only {
            node.count(good_end);
            return reply.send(status, &headers, b"");
        }
        let begun = Body::begin(reply, status, &headers, node.clock.as_ref());
        let mut body = begun.inspect_err(|_| node.count("cancelled"))?;
        let reach = gathered.own_reach();
        let scanned = Counter::default();
        let Gathered { own, heads, mut verdict, view, .. } = gathered;
        let (sources, owners) = self.sources(query, own, heads, &view, &scanned);
        let mut merge = query.merge(sources);
        let ended = body.write(merge.as_mut(), query.params.limit, |error| {
            if query.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let Some(owner) = owners.get(error.index()) else { return Err(io::Error::other(error.to_string())) };
            log::warn!("query: the answer of {} broke off: {error}", owner.name());
            if verdict.goes_on_without(owner) {
                return Ok(());
            }
            Err(io::Error::other(format!("the answer cannot do without {}: {error}", owner.name())))
        });
        node.count_work(&scanned, reach, body.records);
        body.end(node, ended, &query.cancel, (good_end, "broken"))
    }

    fn sources(
        &self,
        query: &Query,
        own: Vec<Own>,
        heads: Vec<(Owner, Head)>,
        view: &View,
        scanned: &Counter,
    ) -> (Vec<Part>, Vec<Owner>) {
        let (mut sources, mut owners) = (Vec::new(), Vec::new());
        for Own { tier, parts, .. } in own {
            let scan = query.scan(parts, self.node.pool.line(), scanned.clone());
            owners.resize(owners.len() + scan.len(), Owner::new(tier, &view.me));
            sources.extend(scan.into_iter().map(Part::Own));
        }
        for (owner, head) in heads {
            let body = Box::new(head.answer.into_reader());
            sources.push(Part::Remote(Remote::new(body, &query.params)));
            owners.push(owner);
        }
        (sources, owners)
    }

    fn headers(&self, query: &Query, gathered: &Gathered) -> Vec<(&'static str, String)> {
        let heads = || gathered.heads.iter().map(|(_, head)| head);
        let own_segments: u64 = gathered.own.iter().map(|own| own.segments).sum();
        let segments = heads().fold(own_segments, |sum, head| sum.saturating_add(head.segments));
        let own_skipped: u64 = gathered.own.iter().map(|own| own.skipped).sum();
        let skipped = heads().fold(own_skipped, |sum, head| sum.saturating_add(head.skipped));
        let reach = heads().fold(gathered.own_reach(), |sum, head| sum.saturating_add(head.reach));
        let silent = gathered.verdict.missed().count();
        let is_complete = gathered.verdict.is_complete();
        let told = Told { nodes: gathered.asked, segments, reach, skipped, silent, is_complete };
        let mut headers = query.headers(&told, self.node.clock.now());
        if silent > 0 {
            headers.push(("X-Oklog-Silent-Nodes", gathered.verdict.missed().names()));
        }
        headers
    }
}

impl Gathered {
    /// Bytes that this node itself may have to scan.
    fn own_reach(&self) -> u64 {
        self.own.iter().map(|own| own.reach).sum()
    }
}

impl Head {
    fn read(answer: Answer) -> Option<Head> {
        let segments = parse_decimal(answer.header("X-Oklog-Segments-Queried")?)?;
        let reach = parse_decimal(answer.header("X-Oklog-Max-Data-Set-Size")?)?;
        // A node of before sealed segments does not say it.
        let skipped = answer.header("X-Oklog-Bytes-Skipped").map_or(Some(0), parse_decimal)?;
        let names = answer.header(KNOWN_STORES).unwrap_or_default().split_ascii_whitespace();
        let stores = names.filter(|name| *name != "more").map(StoreKey::parse).collect::<Option<_>>()?;
        Some(Head { segments, reach, skipped, stores, answer })
    }
}

/// Whether each has answered.
fn outcomes(asked: &[(Peer, Option<Head>)]) -> Vec<(&Peer, bool)> {
    asked.iter().map(|(peer, head)| (peer, head.is_some())).collect()
}

/// A source of the merge.
enum Part {
    Own(PartSource),
    Remote(Remote),
}

impl Source for Part {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        match self {
            Part::Own(part) => part.next_block(block),
            Part::Remote(remote) => remote.next_block(block),
        }
    }

    fn low(&self) -> Id {
        match self {
            Part::Own(part) => part.low(),
            Part::Remote(remote) => remote.low(),
        }
    }
}

impl Descending for Part {
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Part::Own(part) => Descending::next_piece(part),
            Part::Remote(remote) => remote.next_piece(),
        }
    }

    fn high(&self) -> Id {
        match self {
            Part::Own(part) => Descending::high(part),
            Part::Remote(remote) => remote.high(),
        }
    }
}

#[cfg(test)]
#[path = "scatter_tests.rs"]
mod tests;
