//! Where a server meets the cluster: joining it, whom the consumers work with, leaving it. Nothing else in this room
//! knows how members are found.
//!
//! In this version a node knows itself alone.

use super::{Base, Tiers};
use crate::cli::settings::ServeFlags;
use crate::cluster::{Cluster, Fixed as Alone, Meta, NodeId, Peer, State};
use crate::consume::links::{Fixed, IngestLink, Membership, StoreLink};
use crate::http::Guard;
use crate::ingest::api::LocalIngester;
use crate::world::entropy::random_u128;
use std::net::SocketAddr;
use std::sync::Arc;

/// A node's place in the cluster.
pub struct Joined {
    /// Who is there.
    pub cluster: Arc<dyn Cluster>,
    /// Judges what other nodes ask for; `None` where no key is set.
    pub guard: Option<Arc<dyn Guard>>,
}

/// Joins the cluster. The directories are recovered and the API is bound, to `api`, so that whoever hears of this node can
/// call it; nothing is consumed yet. `api` may be an address of all interfaces, which nobody can call.
pub fn join_cluster(base: &Base, flags: &ServeFlags, tiers: &Tiers, api: SocketAddr) -> Result<Joined, String> {
    if let Some(path) = &flags.server.key_file {
        // Serving without the protection that was asked for would be worse than not serving.
        return Err(format!("-cluster.key-file {} is given, but this version cannot sign", path.display()));
    }
    if !flags.server.peers.is_empty() {
        log::warn!("-peer is given, but this version knows no other nodes: it serves alone");
    }
    let node = NodeId(random_u128());
    let me = Peer { node, meta: meta(base, flags, tiers, api), state: State::Alive, load: None };
    Ok(Joined { cluster: Arc::new(Alone::alone(me)), guard: None })
}

/// What this node says of itself.
fn meta(base: &Base, flags: &ServeFlags, tiers: &Tiers, api: SocketAddr) -> Meta {
    Meta {
        kind: flags.kind(),
        gossip: api,
        api,
        store: tiers.store.as_ref().map(|tier| tier.id()),
        ingest: tiers.ingest.as_ref().map(|tier| tier.id()),
        replicas: flags.replicas().unwrap_or(0),
        start: base.clock.unix_millis().0,
    }
}

/// Whom the consumers take segments from and copy to. This node's own tiers are called directly.
pub fn members(_joined: &Joined, tiers: &Tiers) -> Arc<dyn Membership> {
    let ingest =
        tiers.ingest.iter().map(|tier| -> Arc<dyn IngestLink> { Arc::new(LocalIngester::new(tier.log().clone())) });
    let stores = tiers.store.iter().map(|tier| -> Arc<dyn StoreLink> { tier.log().clone() });
    Arc::new(Fixed { ingesters: ingest.collect(), stores: stores.collect() })
}

impl Joined {
    /// Whether the node has its place: it is alone by its flags, or others know it.
    pub fn is_in(&self) -> bool {
        true
    }

    /// Says good-bye. `drained`: the ingest tier, if there is one, holds nothing that no store has. A store's records are
    /// missed from now on, however it leaves. The API still answers, and consumers are still at work.
    pub fn leave(&self, _drained: bool) {}
}
