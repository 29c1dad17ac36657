//! How the carrier reaches ingesters and stores: two traits, and who implements them.
//!
//! What lies in the same process is called directly; the others are asked over HTTP. A call may fail after the peer has
//! acted on it, so each one may be made again: commit, failed, renew and replicate are idempotent.

pub use super::clustered::Clustered;
pub use super::http_peer::{Agents, HttpPeer};

use super::machine::Peer;
use crate::cluster::DataId;
use crate::record::id::Id;
use crate::store::log::StoreLog;
use crate::store::replicate::{Receipt, ReplicateError};
use crate::unit::Bytes;
use crossbeam::channel::Sender;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// A segment that an ingester has handed out: pending until commit, failed, set_aside, or the ingester's deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its name: the id of its first record.
    pub id: Id,
    /// Its length, so that a consumer knows when it has gathered enough.
    pub len: Bytes,
    /// How old its first record is, by the clock of its ingester.
    pub age: Duration,
    /// Nothing else is left at its ingester, and nothing has been written there since: more need not be waited for.
    pub is_last: bool,
}

/// The bytes of a segment, and what they must turn out to be.
pub struct Reading {
    /// How many bytes must come.
    pub len: Bytes,
    /// Their CRC-32 (IEEE 802.3).
    pub crc32: u32,
    /// The bytes. An error, or an end before `len`, means that the segment was not read.
    pub body: Box<dyn Read + Send>,
}

/// An ingester, as seen by a consumer.
pub trait IngestLink: Send + Sync {
    /// What to call it in a log.
    fn name(&self) -> &str;

    /// Takes the oldest flushed segment, which is pending from now on. `None`: there is none.
    fn next(&self) -> Result<Option<Offer>, LinkError>;

    /// From now on puts its name into `bell` when there may be a segment to take, if it can tell without being asked. A bell that
    /// is full already rings.
    fn watch(&self, _bell: &Sender<Peer>) {}

    /// Opens a pending segment for reading from its start; may be done again.
    fn read(&self, id: Id) -> Result<Reading, LinkError>;

    /// R stores have it, which are named: it may be deleted.
    fn commit(&self, id: Id, stores: &[DataId]) -> Result<(), LinkError>;

    /// It was not copied: it is flushed again.
    fn failed(&self, id: Id) -> Result<(), LinkError>;

    /// It is still being worked on: its deadline begins anew.
    fn renew(&self, id: Id) -> Result<(), LinkError>;

    /// It cannot be read or merged, tried three times: the ingester takes it out of circulation as `.corrupt`, recovers
    /// what is whole in it, and never hands it out again.
    fn set_aside(&self, id: Id) -> Result<(), LinkError>;
}

/// A store, as seen by a consumer.
pub trait StoreLink: Send + Sync {
    /// What to call it in a log.
    fn name(&self) -> &str;

    /// Sends a segment, `body` to its end. The receipt means: on stable storage. If `body` fails, the store keeps nothing.
    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError>;

    /// The same for one that comes in parts, which a store of this process takes as they are.
    fn replicate_parts(&self, parts: &mut dyn Parts) -> Result<Receipt, LinkError> {
        self.replicate(parts)
    }
}

/// A run of whole records, shared by all who send it.
pub type Part = Arc<Vec<u8>>;

/// A segment on its way: to be read, or to be taken part by part. Whoever takes it does one or the other.
pub trait Parts: Read {
    /// The next part, not empty; `None` at the end. An error: it has broken off.
    fn next_part(&mut self) -> io::Result<Option<Part>>;
}

/// Whom a consumer works with at this moment.
pub trait Membership: Send + Sync {
    /// All ingesters known.
    fn ingesters(&self) -> Vec<Arc<dyn IngestLink>>;

    /// All stores known.
    fn stores(&self) -> Vec<Arc<dyn StoreLink>>;
}

/// A membership that never changes: a node alone, or the fixed cast of a test.
#[derive(Clone, Default)]
pub struct Fixed {
    /// All ingesters.
    pub ingesters: Vec<Arc<dyn IngestLink>>,
    /// All stores.
    pub stores: Vec<Arc<dyn StoreLink>>,
}

impl Membership for Fixed {
    fn ingesters(&self) -> Vec<Arc<dyn IngestLink>> {
        self.ingesters.clone()
    }

    fn stores(&self) -> Vec<Arc<dyn StoreLink>> {
        self.stores.clone()
    }
}

/// Why a peer did not do what it was asked.
#[derive(Debug)]
pub enum LinkError {
    /// No connection, a broken one, or out of time. Whether the peer has acted is not known.
    Broken {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
        /// What happened.
        source: io::Error,
    },
    /// The store has no room; it has kept nothing.
    Full {
        /// Who was asked.
        peer: String,
    },
    /// The peer answered, and the answer is no. Nothing has changed there.
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
        /// What it said, cut to 200 characters.
        said: String,
    },
    /// The answer was not one of this protocol. Whether the peer has acted is not known.
    Garbled {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
    },
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Broken { doing, peer, source } => write!(f, "{doing} {peer}: {source}"),
            LinkError::Full { peer } => write!(f, "replicating to {peer}: no space left there"),
            LinkError::Refused { doing, peer, said } => write!(f, "{doing} {peer}: refused: {said}"),
            LinkError::Garbled { doing, peer } => write!(f, "{doing} {peer}: the answer was not understood"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LinkError::Broken { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The store of the same process: no wire between.
impl StoreLink for StoreLog {
    fn name(&self) -> &str {
        "this node"
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        // A body of this process that ends without an error is whole.
        StoreLog::replicate(self, body, &|| true).map_err(refused_here)
    }

    fn replicate_parts(&self, parts: &mut dyn Parts) -> Result<Receipt, LinkError> {
        self.take_parts(&mut || parts.next_part()).map_err(refused_here)
    }
}

fn refused_here(error: ReplicateError) -> LinkError {
    let (doing, peer) = ("replicating to", "this node".to_string());
    match error {
        ReplicateError::Full(_) => LinkError::Full { peer },
        ReplicateError::Body(source) | ReplicateError::Io { source, .. } => LinkError::Broken { doing, peer, source },
        ReplicateError::Empty | ReplicateError::NotStored(_) => {
            LinkError::Refused { doing, peer, said: error.to_string() }
        }
    }
}
