//! The routes that show what this node believes of the cluster, and that let an operator forget a node.

use super::{Cluster, DataId, ForgetError, Meta, NodeId, PeerKind, State, View, forget};
use crate::http::{Access, Handler, Lane, Reply, Request, Route, path};
use crate::ops::metrics::{self as m, Metrics};
use crate::unit::Bytes;
use std::fmt::Write;
use std::sync::Arc;

/// The header of an answer about the cluster that says which process gives it: who signs a call must know.
pub const NODE_HEADER: &str = "X-Oklog-Node";

/// The routes that show what this node believes and let an operator forget a silent node, and the metrics that count it.
pub fn routes(cluster: &Arc<dyn Cluster>, metrics: &Metrics) -> Vec<Route> {
    let counted = cluster.clone();
    metrics.refresh_with(move |metrics| {
        let view = counted.view();
        metrics.gauge(m::CLUSTER_SIZE, &[]).set(view.members().count() as f64);
        metrics.gauge(m::CLUSTER_SILENT, &[]).set(view.silent.len() as f64);
    });
    let state = |path, wanted: fn(PeerKind) -> bool| {
        let cluster = cluster.clone();
        let handler = move |_: &mut Request, reply: Reply| {
            let view = cluster.view();
            let headers = [("Content-Type", "application/json".into()), (NODE_HEADER, view.me.node.to_string())];
            reply.send(200, &headers, json(&view, wanted).as_bytes())
        };
        route(path, &["GET"], Access::Open, Arc::new(handler))
    };
    let forgetful = cluster.clone();
    let forget = move |request: &mut Request, reply: Reply| {
        let name = request.param("name").unwrap_or_default();
        let (status, sentence) = match forgetful.forget(name) {
            Ok(peer) => (200, forget::said(&peer, forgetful.view().replicas())),
            Err(error @ ForgetError::NotFound { .. }) => (404, error.to_string()),
            Err(error) => (409, error.to_string()),
        };
        let headers = [("Content-Type", "text/plain; charset=utf-8".into())];
        reply.send(status, &headers, format!("{sentence}\n").as_bytes())
    };
    vec![
        state(path::INGEST_CLUSTER_STATE, PeerKind::ingests),
        state(path::STORE_CLUSTER_STATE, PeerKind::stores),
        route(path::CLUSTER_FORGET, &["POST"], Access::Peers, Arc::new(forget)),
    ]
}

fn route(path: &'static str, methods: &'static [&'static str], access: Access, handler: Arc<Handler>) -> Route {
    Route { path, methods, lane: Lane::Short, access, body_limit: Bytes(0), handler }
}

/// The peers of one tier, this node first, then members, then the silent ones. Nothing in it needs escaping.
fn json(view: &View, wanted: fn(PeerKind) -> bool) -> String {
    let mut text = String::from("[");
    let silent: Vec<NodeId> = view.silent.iter().map(|peer| peer.node).collect();
    let mut comma = "";
    for peer in view.members().chain(&view.silent).filter(|peer| wanted(peer.meta.kind)) {
        let Meta { kind, gossip, api, store, ingest, replicas, .. } = &peer.meta;
        let id = |id: &Option<DataId>| id.map(|id| id.to_string()).unwrap_or_default();
        let (kind, store, ingest, node) = (kind.name(), id(store), id(ingest), peer.node);
        let state = match peer.state {
            _ if silent.contains(&peer.node) => "silent",
            State::Suspect => "suspect",
            _ => "alive",
        };
        let load = match peer.load {
            Some(load) => format!("{{\"waiting\": {}, \"stored\": {}}}", load.waiting, load.stored),
            None => "null".into(),
        };
        let me = peer.node == view.me.node;
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "{comma}\n  {{\"type\": \"{kind}\", \"api\": \"{api}\", \"store_id\": \"{store}\", \"ingest_id\": \"{ingest}\", \
             \"state\": \"{state}\", \"me\": {me}, \"gossip\": \"{gossip}\", \"node\": \"{node}\", \
             \"replicas\": {replicas}, \"load\": {load}}}"
        );
        comma = ",";
    }
    text.push_str("\n]\n");
    text
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
