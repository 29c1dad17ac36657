//! The address book: who else there is.
//!
//! For now a node knows only itself. What it answers with is what a cluster will answer with.

use crate::http::{Lane, Reply, Request, Route, path};
use crate::ops::metrics::{self as m, Metrics};
use crate::unit::Bytes;
use std::fmt::Write;
use std::sync::Arc;

/// What a peer does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerKind {
    /// Takes lines.
    Ingest,
    /// Keeps records.
    Store,
    /// Both.
    IngestStore,
}

impl PeerKind {
    /// Its name, as in the command that starts it.
    pub fn name(self) -> &'static str {
        match self {
            PeerKind::Ingest => "ingest",
            PeerKind::Store => "store",
            PeerKind::IngestStore => "ingeststore",
        }
    }

    /// Whether it takes lines.
    pub fn ingests(self) -> bool {
        self != PeerKind::Store
    }

    /// Whether it keeps records.
    pub fn stores(self) -> bool {
        self != PeerKind::Ingest
    }
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// What it does.
    pub kind: PeerKind,
    /// Where its API answers, host and port.
    pub api: String,
    /// The id its store has for life, in hexadecimal; empty if it has none.
    pub store_id: String,
}

/// Who is a member at this moment.
pub trait Cluster: Send + Sync {
    /// All members, this node first.
    fn peers(&self) -> Vec<Peer>;
}

/// A node that knows only itself.
pub struct Alone {
    /// This node.
    pub me: Peer,
}

impl Cluster for Alone {
    fn peers(&self) -> Vec<Peer> {
        vec![self.me.clone()]
    }
}

/// The routes that show what this node believes, and the metric that counts it.
pub fn routes(cluster: &Arc<dyn Cluster>, metrics: &Metrics) -> Vec<Route> {
    let counted = cluster.clone();
    metrics.refresh_with(move |metrics| metrics.gauge(m::CLUSTER_SIZE, &[]).set(counted.peers().len() as f64));
    let route = |path, wanted: fn(PeerKind) -> bool| {
        let cluster = cluster.clone();
        let handler = move |_: &mut Request, reply: Reply| {
            let peers: Vec<Peer> = cluster.peers().into_iter().filter(|peer| wanted(peer.kind)).collect();
            reply.send(200, &[("Content-Type", "application/json".into())], json(&peers).as_bytes())
        };
        Route { path, methods: &["GET"], lane: Lane::Short, body_limit: Bytes(0), handler: Arc::new(handler) }
    };
    vec![route(path::INGEST_CLUSTER_STATE, PeerKind::ingests), route(path::STORE_CLUSTER_STATE, PeerKind::stores)]
}

fn json(peers: &[Peer]) -> String {
    let mut text = String::from("[");
    for (n, peer) in peers.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let (kind, api, store_id) = (peer.kind.name(), quoted(&peer.api), quoted(&peer.store_id));
        // Writing to a String does not fail.
        let _ = write!(text, "{comma}\n  {{\"type\": \"{kind}\", \"api\": {api}, \"store_id\": {store_id}}}");
    }
    text.push_str("\n]\n");
    text
}

/// Text as a JSON string (RFC 8259, section 7).
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Writing to a String does not fail.
            c if c < ' ' => drop(write!(out, "\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_believes_is_json_whatever_names_hold() {
        let peer = Peer { kind: PeerKind::IngestStore, api: "a\"\\\n:1".into(), store_id: String::new() };
        let expected = "[\n  {\"type\": \"ingeststore\", \"api\": \"a\\\"\\\\\\u000a:1\", \"store_id\": \"\"}\n]\n";
        assert_eq!(json(&[peer]), expected);
        assert_eq!(json(&[]), "[\n]\n");
    }
}
