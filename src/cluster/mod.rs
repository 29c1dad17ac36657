//! The address book: who else there is, who lives, and whose records are missed.
//!
//! [`View`] is what the other rooms see of it: a snapshot that is made anew at every change.

pub mod auth;
pub mod claim;
pub mod exchange;
pub mod gossip;
mod hear;
pub mod machine;
pub mod measure;
pub mod members;
pub mod probe;
pub mod simulation;
pub mod suspicion;
pub mod timing;
pub mod wire;

pub use claim::{Claim, DataId, Load, Meta, NodeId, PeerKind, State};

use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::ops::metrics::{self as m, Metrics};
use crate::unit::Bytes;
use std::fmt::Write;
use std::sync::Arc;

/// One member, as this node believes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Which process.
    pub node: NodeId,
    /// What it is. `meta.api` printed is its name, in logs and for operators.
    pub meta: Meta,
    /// Whether it lives.
    pub state: State,
    /// What it last said of its load.
    pub load: Option<Load>,
}

impl Peer {
    /// What it is called: where its API answers.
    pub fn name(&self) -> String {
        self.meta.api.to_string()
    }
}

/// Who is there at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct View {
    /// This node.
    pub me: Peer,
    /// All others that are alive or suspected, by name: they are to be worked with.
    pub others: Vec<Peer>,
    /// Nodes that do not answer and whose records are missed, by name: stores that are not forgotten, unless another
    /// process serves their directory; and ingesters that had not handed over everything, likewise.
    pub silent: Vec<Peer>,
}

impl View {
    /// All that are to be worked with, this node first.
    pub fn members(&self) -> impl Iterator<Item = &Peer> {
        std::iter::once(&self.me).chain(&self.others)
    }

    /// On how many stores every record is: the least R that any member works with, silent ones included; at least 1.
    pub fn replicas(&self) -> u8 {
        let of = |peer: &Peer| peer.meta.replicas;
        self.members().chain(&self.silent).map(of).filter(|replicas| *replicas > 0).min().unwrap_or(1)
    }
}

/// Who is a member at this moment.
pub trait Cluster: Send + Sync {
    /// What this node believes now. Cheap.
    fn view(&self) -> Arc<View>;
}

/// A node that knows only itself; or, in a test, a view that never changes.
pub struct Fixed(pub Arc<View>);

impl Fixed {
    /// A node alone.
    pub fn alone(me: Peer) -> Fixed {
        Fixed(Arc::new(View { me, others: Vec::new(), silent: Vec::new() }))
    }
}

impl Cluster for Fixed {
    fn view(&self) -> Arc<View> {
        self.0.clone()
    }
}

/// The routes that show what this node believes, and the metric that counts it.
pub fn routes(cluster: &Arc<dyn Cluster>, metrics: &Metrics) -> Vec<Route> {
    let counted = cluster.clone();
    metrics
        .refresh_with(move |metrics| metrics.gauge(m::CLUSTER_SIZE, &[]).set(counted.view().members().count() as f64));
    let route = |path, wanted: fn(PeerKind) -> bool| {
        let cluster = cluster.clone();
        let handler = move |_: &mut Request, reply: Reply| {
            let view = cluster.view();
            let peers: Vec<&Peer> = view.members().chain(&view.silent).filter(|peer| wanted(peer.meta.kind)).collect();
            reply.send(200, &[("Content-Type", "application/json".into())], json(&peers).as_bytes())
        };
        let (methods, lane, access) = (&["GET"], Lane::Short, Access::Open);
        Route { path, methods, lane, access, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    vec![route(path::INGEST_CLUSTER_STATE, PeerKind::ingests), route(path::STORE_CLUSTER_STATE, PeerKind::stores)]
}

fn json(peers: &[&Peer]) -> String {
    let mut text = String::from("[");
    for (n, peer) in peers.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let (kind, api) = (peer.meta.kind.name(), peer.meta.api);
        let store_id = peer.meta.store.map(|id| id.to_string()).unwrap_or_default();
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}\n  {{\"type\": \"{kind}\", \"api\": \"{api}\", \"store_id\": \"{store_id}\"}}");
    }
    text.push_str("\n]\n");
    text
}
