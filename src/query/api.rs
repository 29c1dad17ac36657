//! The routes of the reading room: `/store/query` for people, `/store/_query` and `/ingest/_query` between nodes.

use super::answer::{Body, Query, Told};
use super::node::{DATA_ID, KNOWN_STORES, Node};
use super::plan::Tier;
use super::scatter::Scatter;
use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::ops::metrics::Counter;
use crate::unit::Bytes;
use std::io;
use std::sync::Arc;

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
        let segments = parts.len();
        let (parts, skipped) = query.look_ahead(parts, node.clock.as_ref());
        let headers = self.headers(&query, segments, reach, skipped);
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
        body.end(node, ended, &query.cancel, ("whole", "error"))
    }

    fn headers(&self, query: &Query, segments: usize, reach: u64, skipped: u64) -> Vec<(&'static str, String)> {
        let told = Told { nodes: 1, segments: segments as u64, reach, skipped, silent: 0, is_complete: true };
        let mut headers = query.headers(&told, self.node.clock.now());
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
