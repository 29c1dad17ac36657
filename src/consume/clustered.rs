//! Whom a consumer works with, as the cluster's view has it: other nodes over HTTP, this node's own tiers directly.
//!
//! A link is made once for each node and kept as long as the node is a member. Two members that say they keep the same
//! store are one store, the first by name: a second copy there would be none.

use super::http_peer::{Agents, HttpPeer};
use super::links::{IngestLink, Membership, StoreLink};
use crate::cluster::{Cluster, DataId, NodeId, View};
use crate::http::client::{Callee, Caller};
use crate::world::crew::lock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

/// The members of the cluster, as links.
pub struct Clustered {
    cluster: Arc<dyn Cluster>,
    caller: Caller,
    agents: Agents,
    own_ingester: Option<Arc<dyn IngestLink>>,
    own_store: Option<Arc<dyn StoreLink>>,
    /// Made anew when the view is another. Nothing is asked of anybody under this lock.
    cast: Mutex<Cast>,
}

#[derive(Default)]
struct Cast {
    view: Option<Arc<View>>,
    peers: BTreeMap<NodeId, Arc<HttpPeer>>,
    ingesters: Vec<Arc<dyn IngestLink>>,
    stores: Vec<Arc<dyn StoreLink>>,
    /// Stores that two members say they keep: said once, until it is so no more.
    doubled: BTreeSet<DataId>,
}

impl Clustered {
    /// All that live, as `cluster` has it. This node's own tiers are in it as they are given here.
    pub fn new(
        cluster: Arc<dyn Cluster>,
        caller: Caller,
        own_ingester: Option<Arc<dyn IngestLink>>,
        own_store: Option<Arc<dyn StoreLink>>,
    ) -> Clustered {
        Clustered { cluster, caller, agents: Agents::default(), own_ingester, own_store, cast: Mutex::default() }
    }

    fn cast<T>(&self, get: impl FnOnce(&Cast) -> T) -> T {
        let view = self.cluster.view();
        let mut cast = lock(&self.cast);
        if !cast.view.as_ref().is_some_and(|known| Arc::ptr_eq(known, &view)) {
            self.recast(&mut cast, view);
        }
        get(&cast)
    }

    fn recast(&self, cast: &mut Cast, view: Arc<View>) {
        let mut kept = std::mem::take(&mut cast.peers);
        for peer in view.others.iter().filter(|peer| peer.node != view.me.node) {
            let link = kept.remove(&peer.node).unwrap_or_else(|| {
                let callee = Callee { api: peer.name(), node: peer.node.0 };
                Arc::new(HttpPeer::new(self.caller.clone(), self.agents.clone(), callee))
            });
            cast.peers.insert(peer.node, link);
        }
        cast.ingesters = self.own_ingester.iter().cloned().collect();
        cast.stores = Vec::new();
        let mut members: Vec<_> = view.members().collect();
        members.sort_by_key(|peer| peer.name());
        let (mut seen, mut doubled) = (BTreeSet::new(), BTreeSet::new());
        for member in members {
            let link = cast.peers.get(&member.node);
            let own = member.node == view.me.node;
            if let Some(link) = link.filter(|_| member.meta.kind.ingests()) {
                cast.ingesters.push(link.clone());
            }
            let store: Option<Arc<dyn StoreLink>> = match link {
                Some(link) => member.meta.kind.stores().then(|| link.clone() as Arc<dyn StoreLink>),
                None => self.own_store.clone().filter(|_| own),
            };
            let Some(store) = store else { continue };
            if member.meta.store.is_none_or(|id| seen.insert(id)) {
                cast.stores.push(store);
            } else if let Some(id) = member.meta.store.filter(|id| doubled.insert(*id)) {
                if !cast.doubled.contains(&id) {
                    log::error!(
                        "{} says it keeps the store {id}, as another member does: it gets no copies",
                        member.name()
                    );
                }
            }
        }
        cast.doubled = doubled;
        cast.view = Some(view);
    }
}

impl Membership for Clustered {
    fn ingesters(&self) -> Vec<Arc<dyn IngestLink>> {
        self.cast(|cast| cast.ingesters.clone())
    }

    fn stores(&self) -> Vec<Arc<dyn StoreLink>> {
        self.cast(|cast| cast.stores.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Meta, Peer, PeerKind, State};
    use crate::store::log::StoreLog;
    use crate::world::clock::SystemClock;
    use crate::world::entropy::SystemEntropy;
    use crate::world::fs::memory::MemoryFs;
    use std::net::SocketAddr;

    struct Changing(Mutex<Arc<View>>);

    impl Cluster for Changing {
        fn view(&self) -> Arc<View> {
            lock(&self.0).clone()
        }
    }

    fn peer(node: u128, kind: PeerKind, store: Option<u128>) -> Peer {
        let api = SocketAddr::from(([127, 0, 0, node as u8], 7650));
        let store = store.map(DataId);
        let meta = Meta { kind, gossip: api, api, store, ingest: None, replicas: 2, start: 1 };
        Peer { node: NodeId(node), meta, state: State::Alive, load: None }
    }

    fn names(members: &Clustered) -> (Vec<String>, Vec<String>) {
        let ingesters = members.ingesters().iter().map(|link| link.name().to_string()).collect();
        (ingesters, members.stores().iter().map(|link| link.name().to_string()).collect())
    }

    #[test]
    fn others_are_links_by_kind_and_own_tiers_are_called_directly_and_links_are_kept() {
        let others = vec![
            peer(1, PeerKind::Ingest, None),
            peer(2, PeerKind::Store, Some(12)),
            peer(4, PeerKind::IngestStore, Some(14)),
            // A copied disk: the first by name is the store.
            peer(5, PeerKind::Store, Some(12)),
            peer(6, PeerKind::Store, Some(13)),
        ];
        let view = View { me: peer(3, PeerKind::Store, Some(13)), others, silent: Vec::new() };
        let cluster = Arc::new(Changing(Mutex::new(Arc::new(view.clone()))));
        let own = StoreLog::open(
            Arc::new(MemoryFs::new()),
            "s",
            Arc::new(SystemClock::default()),
            Arc::default(),
            &SystemEntropy,
        );
        let members = Clustered::new(cluster.clone(), Caller::default(), None, Some(own.expect("opens")));
        let (ingesters, stores) = names(&members);
        assert_eq!(ingesters, ["127.0.0.1:7650", "127.0.0.4:7650"]);
        assert_eq!(stores, ["127.0.0.2:7650", "this node", "127.0.0.4:7650"]);

        let before = members.ingesters();
        let fewer = View { others: view.others[2..].to_vec(), ..view };
        *lock(&cluster.0) = Arc::new(fewer);
        assert!(Arc::ptr_eq(&members.ingesters()[0], &before[1]), "the link of a member that stays is the same");
        assert_eq!(names(&members).1, ["this node", "127.0.0.4:7650", "127.0.0.5:7650"]);
    }
}
