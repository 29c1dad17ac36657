//! The routes of the reading room: `/store/query` for people, `/store/_query` and `/ingest/_query` between nodes.

use super::answer::{Body, End, Query};
use super::complete::StoreKey;
use super::pool::Pool;
use super::scatter::Scatter;
use crate::cluster::{Cluster, DataId, Peer, View};
use crate::http::client::Caller;
use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::ops::metrics::{self as m, Counter, Metrics};
use crate::record::id::Id;
use crate::segment::readable::Readable;
use crate::unit::{Bytes, show_duration};
use crate::world::clock::Clock;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

/// Where a tier's readable parts come from: a snapshot between two ids, as of the call.
pub type Snapshot = dyn Fn(Id, Id) -> Vec<Readable> + Send + Sync;

/// Names of stores, as of the call.
pub type Stores = dyn Fn() -> Vec<DataId> + Send + Sync;

/// What a node answers queries from.
pub struct Node {
    /// Its ingest tier, if it takes lines.
    pub ingest: Option<Box<Snapshot>>,
    /// Its store, if it keeps one.
    pub store: Option<Box<Snapshot>>,
    /// Who else there is.
    pub cluster: Arc<dyn Cluster>,
    /// How others are called.
    pub caller: Caller,
    /// The stores that are known to have taken over segments of its ingest tier.
    pub witnesses: Box<Stores>,
    /// The stores that an operator has said will not come back.
    pub forgotten: Box<Stores>,
    /// Who scans.
    pub pool: Arc<Pool>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

/// The two places in which a record can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tier {
    /// Not taken over by stores yet.
    Ingest,
    /// Taken over.
    Store,
}

/// Header: the persistent identity of what a part was read from, 32 hexadecimal digits. Who asks knows by it that nobody
/// else has the address by now.
pub const DATA_ID: &str = "X-Oklog-Data-Id";

/// Header: which stores an ingester knows of. The first 16 hexadecimal digits of each one's id, with spaces between; at
/// most [`MAX_STORES`], and `more` behind them if there are more.
pub const KNOWN_STORES: &str = "X-Oklog-Stores";

/// 5 KiB of names: together with a needle of 8 KiB the head stays within the 16 KiB that our client takes.
pub const MAX_STORES: usize = 300;

impl Tier {
    /// What a peer keeps in this tier.
    pub(super) fn data_of(self, peer: &Peer) -> Option<DataId> {
        match self {
            Tier::Ingest => peer.meta.ingest,
            Tier::Store => peer.meta.store,
        }
    }
}

impl Node {
    pub(super) fn tier(&self, tier: Tier) -> Option<&Snapshot> {
        match tier {
            Tier::Ingest => self.ingest.as_deref(),
            Tier::Store => self.store.as_deref(),
        }
    }

    /// The stores in a view, living and silent.
    pub(super) fn stores_in(view: &View) -> BTreeSet<StoreKey> {
        let stores = view.members().chain(&view.silent).filter(|peer| peer.meta.kind.stores());
        stores.map(StoreKey::of_peer).collect()
    }

    /// The stores that this node's own ingest tier has reason to know.
    fn known_stores(&self) -> String {
        let mut keys = Node::stores_in(&self.cluster.view());
        keys.extend((self.witnesses)().into_iter().map(StoreKey::of));
        for id in (self.forgotten)() {
            keys.remove(&StoreKey::of(id));
        }
        let mut names: Vec<String> = keys.iter().take(MAX_STORES).map(|key| key.text()).collect();
        if keys.len() > MAX_STORES {
            names.push("more".into());
        }
        names.join(" ")
    }

    pub(super) fn refuse(&self, reply: Reply, why: &str) -> io::Result<()> {
        self.count("refused");
        reply.send(400, &[], format!("{why}\n").as_bytes())
    }

    pub(super) fn count(&self, outcome: &str) {
        self.metrics.counter(m::QUERIES, &[outcome]).inc();
    }

    /// Counts what was read of `reach` bytes, and the records that were sent.
    pub(super) fn count_work(&self, scanned: &Counter, reach: u64, records: u64) {
        self.metrics.counter(m::QUERY_SCANNED, &[]).add(scanned.get());
        self.metrics.counter(m::QUERY_SKIPPED, &[]).add(reach.saturating_sub(scanned.get()));
        self.metrics.counter(m::QUERY_RECORDS, &[]).add(records);
    }
}

/// All routes that this node has tiers for.
///
/// Nodes ask each other on a lane of their own: if the workers of `/store/query` did both, nodes whose workers all wait
/// for each other's would wait in vain.
pub fn routes(node: Node) -> Vec<Route> {
    let node = Arc::new(node);
    let route = |path, lane, access, handler| Route {
        path,
        methods: &["GET", "HEAD"],
        lane,
        access,
        body_limit: Bytes(0),
        handler,
    };
    let mut routes = Vec::new();
    for (tier, path) in [(Tier::Ingest, path::INGEST_QUERY), (Tier::Store, path::STORE_OWN_QUERY)] {
        if node.tier(tier).is_some() {
            let reader = Reader { node: node.clone(), tier };
            let answer = move |request: &mut Request, reply: Reply| reader.answer(request, reply);
            routes.push(route(path, Lane::Part, Access::Peers, Arc::new(answer)));
        }
    }
    if node.store.is_some() {
        let scatter = Scatter::new(node.clone());
        let answer = move |request: &mut Request, reply: Reply| scatter.answer(request, reply);
        routes.push(route(path::STORE_QUERY, Lane::Query, Access::Open, Arc::new(answer)));
    }
    routes
}

/// Answers queries over one tier of one node.
///
/// The head leaves after the snapshot was taken, and before anything is scanned: who has it knows that what is handed
/// over from then on is still seen here.
pub struct Reader {
    node: Arc<Node>,
    tier: Tier,
}

impl Reader {
    /// Answers one request.
    pub fn answer(&self, request: &mut Request, reply: Reply) -> io::Result<()> {
        let node = &*self.node;
        let query = match Query::read(request, node.clock.unix_millis(), node.clock.now()) {
            Ok(query) => query,
            Err(sentence) => return node.refuse(reply, &sentence),
        };
        let parts = node.tier(self.tier).map(|tier| tier(query.params.from, query.params.to)).unwrap_or_default();
        let reach: u64 = parts.iter().map(|part| part.len.0).sum();
        let headers = self.headers(&query, parts.len(), reach);
        if query.head_only {
            node.count("whole");
            return reply.send(200, &headers, b"");
        }
        let begun = Body::begin(reply, 200, &headers, node.clock.as_ref());
        let mut body = begun.inspect_err(|_| node.count("cancelled"))?;
        let scanned = Counter::default();
        let mut merge = query.merge(query.scan(parts, node.pool.line(), scanned.clone()));
        let ended = body.write(merge.as_mut(), query.params.limit, |e| Err(io::Error::other(e.to_string())));
        node.count_work(&scanned, reach, body.records);
        match End::of(ended, &query.cancel) {
            End::Whole => {
                node.count("whole");
                body.finish()
            }
            End::Cancelled => {
                node.count("cancelled");
                Ok(())
            }
            End::Broken(e) => {
                // The body ends without its final chunk: nobody takes it for whole.
                node.count("error");
                log::error!("a query broke off: {e}");
                Err(e)
            }
        }
    }

    fn headers(&self, query: &Query, segments: usize, reach: u64) -> Vec<(&'static str, String)> {
        let mut headers = query.params.headers().to_vec();
        headers.extend([
            ("X-Oklog-Nodes-Queried", "1".to_string()),
            ("X-Oklog-Segments-Queried", segments.to_string()),
            ("X-Oklog-Max-Data-Set-Size", reach.to_string()),
            ("X-Oklog-Error-Count", "0".to_string()),
            ("X-Oklog-Duration", show_duration(self.node.clock.now().since(query.began))),
            ("X-Oklog-Complete", "true".to_string()),
        ]);
        if let Some(id) = self.tier.data_of(&self.node.cluster.view().me) {
            headers.push((DATA_ID, id.to_string()));
        }
        if self.tier == Tier::Ingest {
            // After the snapshot: whatever left it before is on stores that are known by now.
            headers.push((KNOWN_STORES, self.node.known_stores()));
        }
        headers
    }
}
