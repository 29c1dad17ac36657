//! The routes that read: queries and live streams, of what this node has for other nodes, and of all for people.

use super::{Base, Tiers};
use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::query::api::{Reader, Snapshot};
use crate::query::pool::Pool;
use crate::stream::api::Streamer;
use crate::unit::Bytes;
use crate::world::crew;
use std::io;
use std::sync::Arc;

/// The routes of the tiers that are there. People ask stores; an ingester answers other nodes alone.
pub fn routes(base: &Base, tiers: &Tiers) -> io::Result<Vec<Route>> {
    let pool = Pool::start(crew::cores(), &base.crew, &base.stop)?;
    let query = |path, access, tiers: Vec<Box<Snapshot>>| {
        let (pool, clock, metrics) = (pool.clone(), base.clock.clone(), base.metrics.clone());
        let reader = Reader { tiers, pool, clock, metrics };
        let handler = move |request: &mut Request, reply: Reply| reader.answer(request, reply);
        let (methods, lane) = (&["GET", "HEAD"], Lane::Query);
        Route { path, methods, lane, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    let stream = |path, access| {
        let streamer = Streamer { live: tiers.live.clone(), clock: base.clock.clone(), metrics: base.metrics.clone() };
        let handler = move |request: &mut Request, reply: Reply| streamer.serve(request, reply);
        Route { path, methods: &["GET"], lane: Lane::Stream, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    let mut routes = Vec::new();
    if let Some(ingest) = &tiers.ingest {
        routes.push(query(path::INGEST_QUERY, Access::Peers, vec![ingest.snapshot()]));
        routes.push(stream(path::INGEST_STREAM, Access::Peers));
    }
    if let Some(store) = &tiers.store {
        // The ingest tier first: see [`Reader::tiers`].
        let both = tiers.ingest.iter().map(|ingest| ingest.snapshot()).chain([store.snapshot()]).collect();
        routes.push(query(path::STORE_QUERY, Access::Open, both));
        routes.push(query(path::STORE_OWN_QUERY, Access::Peers, vec![store.snapshot()]));
        routes.push(stream(path::STORE_STREAM, Access::Open));
    }
    Ok(routes)
}
