//! What nodes say about nodes: identities, what a node is, and claims about whether it lives.
//!
//! All claims about one node are ordered, so it does not matter in which order they arrive: the greater one wins. Only the
//! node itself raises its incarnation, and with it overrules whatever was said about it before.

use std::fmt;
use std::net::SocketAddr;

/// Who a process is, from its start to its end: 128 bits drawn at random when it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct NodeId(pub u128);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Which records a directory holds: 128 bits drawn once for it, whatever process serves it and at whatever address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DataId(pub u128);

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a peer does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
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

/// What a node says of itself. It stays the same from its start to its end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Meta {
    /// What it does.
    pub kind: PeerKind,
    /// Where it takes datagrams.
    pub gossip: SocketAddr,
    /// Where its API answers.
    pub api: SocketAddr,
    /// The store it keeps; `None` if it keeps none.
    pub store: Option<DataId>,
    /// The ingest directory it keeps; `None` if it takes no lines.
    pub ingest: Option<DataId>,
    /// R, as it was told; 0 for a node that does not consume.
    pub replicas: u8,
    /// Tells later starts at one address from earlier ones: Unix milliseconds by the node's own clock, or one more than its
    /// last, whichever is greater. Never compared between different addresses and different data.
    pub start: u64,
}

/// What is claimed of a node, weakest first: at the same incarnation the stronger wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// It answers, or says so itself.
    Alive,
    /// It did not answer, and may still refute.
    Suspect,
    /// It did not answer for long. What records it holds are missed.
    Dead,
    /// It said good-bye, and nothing waits in its ingest tier that no store has. Of a store that left, the records are
    /// missed all the same.
    Left,
    /// An operator has said that it will not come back, nor its records be missed.
    Forgotten,
}

impl State {
    /// Whether records of a store are missed while the node that keeps it is in this state.
    pub fn misses_store(self) -> bool {
        matches!(self, State::Dead | State::Left)
    }

    /// Whether records that wait in an ingest tier are missed while the node that keeps it is in this state.
    pub fn misses_ingest(self) -> bool {
        self == State::Dead
    }

    /// Whether any records of such a node are missed while it is in this state.
    pub fn misses(self, meta: &Meta) -> bool {
        (self.misses_store() && meta.store.is_some()) || (self.misses_ingest() && meta.ingest.is_some())
    }
}

/// A claim about one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Claim {
    /// About whom.
    pub node: NodeId,
    /// What it is. The same in all claims about a node.
    pub meta: Meta,
    /// Raised by the node itself only. At least 1 when it says so itself; 0 is what is remembered from a former time, which
    /// any word of the node itself overrules.
    pub incarnation: u64,
    /// What is claimed.
    pub state: State,
}

/// How much a node has to do and to keep, as it says itself now and then.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Load {
    /// Bytes that wait in its ingest tier.
    pub waiting: u64,
    /// Bytes that its store holds.
    pub stored: u64,
}
