//! The address book: who else there is, who lives, and whose records are missed.
//!
//! [`View`] is what the other rooms see of it: a snapshot that is made anew at every change.

pub mod advertise;
pub mod api;
pub mod auth;
pub mod claim;
pub mod exchange;
pub mod forget;
pub mod gossip;
mod hear;
pub mod machine;
pub mod measure;
pub mod member;
pub mod members;
pub mod probe;
pub mod remembered;
pub mod signature;
pub mod simulation;
pub mod suspicion;
pub mod thread;
pub mod timing;
pub mod view;
pub mod wire;

pub use api::{NODE_HEADER, routes};
pub use claim::{Claim, DataId, Load, Meta, NodeId, PeerKind, State};
pub use forget::ForgetError;

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
    /// process serves their directory; and ingesters that had not handed over everything, likewise. Of a node of both tiers
    /// in the state [`State::Left`] only the store is missed.
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

    /// Says that a silent node will not come back and that its records are not to be missed: of its API's address, or
    /// the id of its directory or a beginning of that. Gives who it was.
    fn forget(&self, name: &str) -> Result<Peer, ForgetError> {
        forget::choose(&self.view(), name).cloned()
    }

    /// Whether this node knows whom to miss. One that has just begun may not have heard yet who joined while it was away.
    fn is_informed(&self) -> bool {
        true
    }

    /// The stores that were forgotten so, as long as that is remembered: nobody is to miss them.
    fn forgotten(&self) -> Vec<DataId> {
        Vec::new()
    }
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
