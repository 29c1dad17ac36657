//! The envelope of every datagram: from whom, to whom, of which cluster. A stand-in that does not authenticate.

use crate::cluster::NodeId;
use crate::unit::Monotonic;

/// What nodes of one cluster share.
#[derive(Clone, Debug, Default)]
pub struct Keys;

/// Makes and judges envelopes for one node.
#[derive(Clone, Debug)]
pub struct Seal {
    me: NodeId,
}

/// What an envelope held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    /// Who sent it.
    pub from: NodeId,
    /// For whom it is; `None` if the sender did not know who takes it.
    pub to: Option<NodeId>,
    /// The content.
    pub body: &'a [u8],
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Not ours.
    Foreign,
}

impl Seal {
    /// Bytes that the envelope adds.
    pub const OVERHEAD: usize = 36;

    /// The seal of node `me`, whose process began at `unix_ms`.
    pub fn new(_keys: Keys, me: NodeId, _unix_ms: u64) -> Seal {
        Seal { me }
    }

    /// A datagram with this content.
    pub fn seal(&mut self, to: Option<NodeId>, body: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(Seal::OVERHEAD + body.len());
        datagram.extend_from_slice(b"OKL\x01");
        datagram.extend_from_slice(&self.me.0.to_be_bytes());
        datagram.extend_from_slice(&to.unwrap_or_default().0.to_be_bytes());
        datagram.extend_from_slice(body);
        datagram
    }

    /// What is in a datagram.
    pub fn open<'a>(&mut self, _now: Monotonic, datagram: &'a [u8]) -> Result<Opened<'a>, Refused> {
        let (head, body) = datagram.split_first_chunk::<{ Seal::OVERHEAD }>().ok_or(Refused::Foreign)?;
        let rest = head.strip_prefix(b"OKL\x01").ok_or(Refused::Foreign)?;
        let (from, to) = rest.split_first_chunk::<16>().ok_or(Refused::Foreign)?;
        let to = NodeId(u128::from_be_bytes(to.try_into().map_err(|_| Refused::Foreign)?));
        let from = NodeId(u128::from_be_bytes(*from));
        Ok(Opened { from, to: (to != NodeId::default()).then_some(to), body })
    }
}
