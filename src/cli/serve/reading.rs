//! The routes that read: queries and live streams, of what this node has for other nodes, and of all for people.

use super::joining::Joined;
use super::{Base, Tiers};
use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::query::api as query;
use crate::query::node::Node;
use crate::query::pool::Pool;
use crate::stream::api::Streamer;
use crate::stream::backfill::OwnQuery;
use crate::stream::links::Beyond;
use crate::unit::Bytes;
use crate::world::crew;
use std::io;
use std::sync::Arc;

/// The routes of the tiers that are there. People ask stores; an ingester answers other nodes alone.
pub fn routes(base: &Base, tiers: &Tiers, joined: &Joined) -> io::Result<Vec<Route>> {
    let cluster = joined.cluster.clone();
    let log = tiers.ingest.as_ref().map(|tier| tier.log().clone());
    let forgetful = cluster.clone();
    let node = Node {
        ingest: tiers.ingest.as_ref().map(|tier| tier.snapshot()),
        store: tiers.store.as_ref().map(|tier| tier.snapshot()),
        cluster: cluster.clone(),
        caller: joined.caller.clone(),
        witnesses: Box::new(move || log.as_ref().map(|log| log.witnesses()).unwrap_or_default()),
        forgotten: Box::new(move || forgetful.forgotten()),
        pool: Pool::start(crew::cores(), &base.crew, &base.stop)?,
        clock: base.clock.clone(),
        metrics: base.metrics.clone(),
    };
    let mut routes = query::routes(node);
    let live = tiers.ingest.is_some().then(|| tiers.live.clone());
    let stream = |path, access, beyond| {
        let streamer =
            Streamer { live: live.clone(), beyond, clock: base.clock.clone(), metrics: base.metrics.clone() };
        let handler = move |request: &mut Request, reply: Reply| streamer.serve(request, reply);
        Route { path, methods: &["GET"], lane: Lane::Stream, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    if tiers.ingest.is_some() {
        routes.push(stream(path::INGEST_STREAM, Access::Peers, None));
    }
    if tiers.store.is_some() {
        let backfill = Arc::new(OwnQuery(cluster.clone()));
        let beyond = Beyond::new(cluster, joined.caller.clone(), backfill);
        routes.push(stream(path::STORE_STREAM, Access::Open, Some(beyond)));
    }
    Ok(routes)
}
