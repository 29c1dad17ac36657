//! The calls of one query to other nodes: started by many threads, ended by one.

use crate::cluster::{Cluster, NodeId};
use crate::http::Cancel;
use crate::http::client::{self, Patience};
use crate::world::crew::{Stop, lock};
use std::sync::Mutex;
use std::time::Duration;
use ureq::Agent;

/// How long nodes are waited for. A body may pause: a store can scan for long between two finds. One that is gone without a
/// word is given up when the cluster has noticed, see [`Calls::watch`]; this is for when nobody does.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(2),
    response: Duration::from_secs(5),
    read: Some(Duration::from_secs(300)),
    ..Patience::NODE
};

/// How often it is looked whether anybody still waits for the answer.
const LOOK: Duration = Duration::from_millis(100);

/// The calls of one query. Each has an agent of its own, so that each can be ended by itself.
#[derive(Default)]
pub(super) struct Calls {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ended: bool,
    agents: Vec<(NodeId, Agent)>,
}

impl Calls {
    /// An agent for a call to this node; `None` when all calls are ended already.
    pub(super) fn agent(&self, node: NodeId) -> Option<Agent> {
        let agent = client::agent(PATIENCE);
        let mut state = lock(&self.state);
        if state.ended {
            return None;
        }
        state.agents.push((node, agent.clone()));
        Some(agent)
    }

    /// Until `over` is raised: ends all calls as soon as nobody waits for the answer, and those to a node as soon as the
    /// cluster holds it to be gone. A connection that is just being made ends by its own time limit.
    pub(super) fn watch(&self, cluster: &dyn Cluster, cancel: &Cancel, over: &Stop) {
        while !over.wait(LOOK) {
            if cancel.is_cancelled() {
                lock(&self.state).ended = true;
                return self.end(|_| true);
            }
            let view = cluster.view();
            self.end(|node| view.others.iter().all(|peer| peer.node != node));
        }
    }

    fn end(&self, is_wanted: impl Fn(NodeId) -> bool) {
        let ended: Vec<_> = lock(&self.state).agents.extract_if(.., |(node, _)| is_wanted(*node)).collect();
        ended.into_iter().for_each(|(_, agent)| agent.shutdown());
    }
}
