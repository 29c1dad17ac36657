//! Where a server meets the cluster: joining it, whom the consumers work with, leaving it. Nothing else in this room
//! knows how members are found.

use super::{Base, Tiers, resolve};
use crate::cli::address::Address;
use crate::cli::settings::ServeFlags;
use crate::cluster::auth::Keys;
use crate::cluster::signature::{HttpGuard, HttpSigner};
use crate::cluster::thread::{Named, Node, Setup};
use crate::cluster::timing::Timing;
use crate::cluster::{Cluster, Load, Meta, NodeId, advertise};
use crate::consume::clustered::Clustered;
use crate::consume::links::{IngestLink, Membership, StoreLink};
use crate::http::Guard;
use crate::http::client::{Caller, Sign};
use crate::ingest::api::LocalIngester;
use crate::segment::names::Names;
use crate::world::entropy::{Dice, random_u64, random_u128};
use crate::world::socket;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long saying good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// A node's place in the cluster.
pub struct Joined {
    /// Who is there.
    pub cluster: Arc<dyn Cluster>,
    /// Judges what other nodes ask for; `None` where no key is set.
    pub guard: Option<Arc<dyn Guard>>,
    /// Calls other nodes.
    pub caller: Caller,
    node: Arc<Node>,
    has_peers: bool,
}

/// Joins the cluster. The directories are recovered and the API is bound, to `api`, so that whoever hears of this node can
/// call it; nothing is consumed yet. `api` may be an address of all interfaces, which nobody can call.
pub fn join_cluster(base: &Base, flags: &ServeFlags, tiers: &Tiers, api: SocketAddr) -> Result<Joined, String> {
    let server = &flags.server;
    let keys = match &server.key_file {
        Some(path) => Keys::read(path).map_err(|e| e.to_string())?,
        None => Keys::none(),
    };
    let failed = |e| format!("listening on {} (UDP): {e}", server.cluster);
    let socket = socket::datagrams(resolve(&server.cluster)?).map_err(failed)?;
    let gossip = socket.local_addr().map_err(failed)?;
    log::info!(port = "cluster", address = gossip.to_string(); "listening");
    let (node, unix_ms) = (NodeId(random_u128()), base.clock.unix_millis().0);
    let sign = HttpSigner::new(keys.clone(), node, unix_ms).map(|signer| Arc::new(signer) as Arc<dyn Sign>);
    let guard = HttpGuard::new(keys.clone(), node, base.clock.clone()).map(|guard| Arc::new(guard) as Arc<dyn Guard>);
    let names = directory(tiers)?;
    let setup = Setup {
        socket,
        node,
        meta: meta(flags, tiers, gossip, api)?,
        timing: Timing::default(),
        keys,
        peers: server.peers.iter().cloned().map(named).collect(),
        load: load(tiers),
        dir: names.dir().to_path_buf(),
        dice: Dice::new(random_u64()),
        is_new: tiers.ingest.as_ref().is_some_and(|tier| tier.log().began_empty()),
        fs: names,
        clock: base.clock.clone(),
        metrics: base.metrics.clone(),
        crew: base.crew.clone(),
        stop: base.stop.clone(),
    };
    let node = Node::start(setup).map_err(|e| format!("taking part in the cluster: {e}"))?;
    let has_peers = !server.peers.is_empty();
    Ok(Joined { cluster: node.clone(), guard, caller: Caller::new(sign), node, has_peers })
}

/// Where the table of members is kept: beside the store, or beside the ingest tier of a node without one.
fn directory(tiers: &Tiers) -> Result<Arc<Names>, String> {
    let store = tiers.store.as_ref().map(|store| store.log().names().clone());
    let ingest = tiers.ingest.as_ref().map(|ingest| ingest.log().names().clone());
    store.or(ingest).ok_or_else(|| "a server has at least one tier".to_string())
}

fn named(address: Address) -> Named {
    Named { name: address.to_string(), resolve: Box::new(move || address.resolve()) }
}

/// What this node says of itself.
fn meta(flags: &ServeFlags, tiers: &Tiers, gossip: SocketAddr, api: SocketAddr) -> Result<Meta, String> {
    let explicit = match &flags.server.advertise {
        // Port 0 was chosen by the kernel meanwhile.
        Some(address) => {
            let found = resolve(address)?;
            let port = if flags.server.cluster.port() == 0 { gossip.port() } else { found.port() };
            Some(SocketAddr::new(found.ip(), port))
        }
        None => None,
    };
    // Names are looked up only where the choice rests on them: it may take seconds.
    let wants_names = explicit.is_none() && gossip.ip().is_unspecified();
    let may_ask = |peer: &&Address| wants_names || peer.host().parse::<IpAddr>().is_ok();
    let known = flags.server.peers.iter().filter(may_ask).flat_map(|peer| peer.resolve().unwrap_or_default());
    let advertised = advertise::find(explicit, gossip, api, &known.collect::<Vec<_>>());
    if let Some(warning) = &advertised.warning {
        log::warn!("{warning}");
    }
    log::info!(cluster = advertised.gossip.to_string(), api = advertised.api.to_string(); "other nodes call this one");
    Ok(Meta {
        kind: flags.kind(),
        gossip: advertised.gossip,
        api: advertised.api,
        store: tiers.store.as_ref().map(|tier| tier.id()),
        ingest: tiers.ingest.as_ref().map(|tier| tier.id()),
        replicas: flags.replicas().unwrap_or(0),
        start: 0,
    })
}

fn load(tiers: &Tiers) -> Box<dyn Fn() -> Load + Send + Sync> {
    let ingest = tiers.ingest.as_ref().map(|tier| tier.log().clone());
    let store = tiers.store.as_ref().map(|tier| tier.log().clone());
    Box::new(move || Load {
        waiting: ingest.iter().flat_map(|log| log.states()).map(|(_, _, bytes)| bytes).sum(),
        stored: store.iter().map(|log| log.catalogue().live_bytes().0).sum(),
    })
}

/// Whom the consumers take segments from and copy to. This node's own tiers are called directly.
pub fn members(joined: &Joined, tiers: &Tiers) -> Arc<dyn Membership> {
    let ingester = |log| -> Arc<dyn IngestLink> { Arc::new(LocalIngester::new(log)) };
    let ingester = tiers.ingest.as_ref().map(|tier| ingester(tier.log().clone()));
    let store = tiers.store.as_ref().map(|tier| -> Arc<dyn StoreLink> { tier.log().clone() });
    Arc::new(Clustered::new(joined.cluster.clone(), joined.caller.clone(), ingester, store))
}

impl Joined {
    /// Where this node's turn among the stores begins, so that nodes that start together do not all send to the same one.
    pub fn turn(&self) -> usize {
        usize::try_from(self.node.view().me.node.0 & 0xffff).unwrap_or(0)
    }

    /// Waits, before lines are taken, until this node is known; not for ever: lines are taken alone, too.
    pub fn settle(&self) {
        if !self.node.wait_for_doors() {
            log::warn!("no peer has answered yet: they are called until one does");
        }
    }

    /// Whether the node has its place: it is alone by its flags, or others know it.
    pub fn is_in(&self) -> bool {
        !self.has_peers || self.node.is_informed()
    }

    /// What keeps stores from taking segments, as a part of a sentence, if there are not as many as there are to be copies.
    pub fn too_few_stores(&self) -> Option<String> {
        let view = self.cluster.view();
        let stores = view.members().filter(|peer| peer.meta.kind.stores()).count();
        match (stores, view.replicas()) {
            (0, _) => Some("no store is in the cluster".into()),
            (n, replicas) if n < usize::from(replicas) => {
                Some(format!("of {replicas} stores only {n} are in the cluster"))
            }
            _ => None,
        }
    }

    /// Says good-bye. `drained`: the ingest tier, if there is one, holds nothing that no store has. A store's records are
    /// missed from now on, however it leaves. The API still answers, and consumers are still at work.
    pub fn leave(&self, drained: bool) {
        if !self.node.leave(drained, GOOD_BYE) {
            log::debug!("good-bye was not said in full: it will be seen that this node is gone");
        }
    }
}
