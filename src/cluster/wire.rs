//! What stands in a datagram inside its envelope: one message, and claims that ride along.
//!
//! ```text
//! body  = type u8, length varint, head of that length, part*
//! part  = tag u8, length u8, content of that length
//! tag 0 = padding
//! tag 1 = claim in full:  subject, kind u8, replicas u8, start varint, address, address, id?, id?
//! tag 2 = claim in brief: subject (for those who know the node)
//! subject = node u128, incarnation varint, state u8, accuser u32 if suspect
//! address = 4 or 6 u8, IP, port u16           id? = 0 u8, or 1 u8 and u128
//! varint  = seven bits in a byte, lowest first, the eighth set when more follow
//! ```
//!
//! Numbers are big-endian. Unknown types and tags, and bytes after what is known, are skipped and counted, so that a later
//! version can say more. Anything else that does not read refuses the whole datagram: it is all or nothing.

use crate::cluster::{DataId, Load, Meta, NodeId, PeerKind, State};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Bytes of a datagram, envelope included. Below every path MTU that is met in practice (RFC 8085 section 3.2: 1,280
/// less the headers).
pub const PACKET: usize = 1_200;
/// The longest claim, with its tag and length.
pub const CLAIM_MAX: usize = 2 + (16 + 10 + 1 + 4) + 1 + 1 + 10 + 2 * 19 + 2 * 17;
const _: () = assert!(CLAIM_MAX <= 256, "a claim must fit into a part, and several into a datagram");

const PADDING: u8 = 0;
const FULL: u8 = 1;
const BRIEF: u8 = 2;

/// What a message is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Head {
    /// Do you live?
    Ping {
        /// Comes back in the answer.
        sequence: u32,
        /// The sender's load.
        load: Load,
    },
    /// I do.
    Ack {
        /// That of the ping.
        sequence: u32,
        /// The sender's load.
        load: Load,
    },
    /// Ask that one for me.
    Ask {
        /// Comes back in the answer.
        sequence: u32,
        /// Whom to ask.
        target: NodeId,
    },
    /// I have asked for you, and it lives.
    Reached {
        /// That of the request.
        sequence: u32,
        /// Who lives.
        target: NodeId,
    },
    /// I have asked for you, and there was no answer until now.
    Missed {
        /// That of the request.
        sequence: u32,
        /// Who did not answer.
        target: NodeId,
    },
    /// Let me in. Padded, so that the answer need not be longer.
    Join,
    /// You are in; here is whom I know, as far as it fits.
    Welcome,
    /// Nothing but claims.
    Gossip,
    /// A hash for each bucket of my table.
    Digest {
        /// Goes into the hashes, so that what collides once does not collide always.
        salt: u64,
        /// One for each bucket, a power of two of them.
        hashes: Vec<u32>,
    },
    /// These buckets differ; mine follow, send me yours.
    Differ {
        /// That of the digest.
        salt: u64,
        /// How many buckets the digest had.
        buckets: u16,
        /// A bit for each bucket, lowest first.
        bits: Vec<u8>,
    },
    /// Claims of an exchange.
    Table,
    /// I do not know you: tell me who you are.
    Who,
}

/// A claim as it came: in brief there is no metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Word {
    /// About whom.
    pub node: NodeId,
    /// Of which incarnation.
    pub incarnation: u64,
    /// What is claimed.
    pub state: State,
    /// Who suspects, as [`brief_id`]; 0 in other claims.
    pub accuser: u32,
    /// What it is, if told in full.
    pub meta: Option<Arc<Meta>>,
}

/// A whole message.
#[derive(PartialEq, Eq, Debug)]
pub struct Message {
    /// What it is; `None` for a type that we do not know.
    pub head: Option<Head>,
    /// What rides along.
    pub words: Vec<Word>,
    /// Parts and bytes that we do not know.
    pub skipped: u32,
}

/// Does not read as a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Enough of an id to tell accusers apart.
pub fn brief_id(node: NodeId) -> u32 {
    u32::try_from(node.0 >> 96).unwrap_or_default().max(1)
}

/// Begins a body.
pub fn write_head(head: &Head) -> Vec<u8> {
    let mut content = Vec::new();
    let kind = match head {
        Head::Ping { sequence, load } | Head::Ack { sequence, load } => {
            content.extend_from_slice(&sequence.to_be_bytes());
            write_varint(&mut content, load.waiting);
            write_varint(&mut content, load.stored);
            if matches!(head, Head::Ping { .. }) { 1 } else { 2 }
        }
        Head::Ask { sequence, target } | Head::Reached { sequence, target } | Head::Missed { sequence, target } => {
            content.extend_from_slice(&sequence.to_be_bytes());
            content.extend_from_slice(&target.0.to_be_bytes());
            match head {
                Head::Ask { .. } => 3,
                Head::Reached { .. } => 4,
                _ => 5,
            }
        }
        Head::Join => 6,
        Head::Welcome => 7,
        Head::Gossip => 8,
        Head::Digest { salt, hashes } => {
            content.extend_from_slice(&salt.to_be_bytes());
            hashes.iter().for_each(|hash| content.extend_from_slice(&hash.to_be_bytes()));
            9
        }
        Head::Differ { salt, buckets, bits } => {
            content.extend_from_slice(&salt.to_be_bytes());
            content.extend_from_slice(&buckets.to_be_bytes());
            content.extend_from_slice(bits);
            10
        }
        Head::Table => 11,
        Head::Who => 12,
    };
    let mut body = Vec::with_capacity(64 + content.len());
    body.push(kind);
    write_varint(&mut body, content.len() as u64);
    body.extend_from_slice(&content);
    body
}

/// Appends a claim; with metadata in full, else in brief.
pub fn write_claim(body: &mut Vec<u8>, node: NodeId, claim: (u64, State, u32), meta: Option<&Meta>) {
    let (incarnation, state, accuser) = claim;
    let start = body.len();
    body.extend_from_slice(&[if meta.is_some() { FULL } else { BRIEF }, 0]);
    body.extend_from_slice(&node.0.to_be_bytes());
    write_varint(body, incarnation);
    body.push(state_code(state));
    if state == State::Suspect {
        body.extend_from_slice(&accuser.to_be_bytes());
    }
    if let Some(meta) = meta {
        body.push(match meta.kind {
            PeerKind::Ingest => 1,
            PeerKind::Store => 2,
            PeerKind::IngestStore => 3,
        });
        body.push(meta.replicas);
        write_varint(body, meta.start);
        write_address(body, meta.gossip);
        write_address(body, meta.api);
        write_id(body, meta.store);
        write_id(body, meta.ingest);
    }
    let content = u8::try_from(body.len() - start - 2).unwrap_or(u8::MAX);
    if let Some(length) = body.get_mut(start + 1) {
        *length = content;
    }
}

/// Fills a body up to `length`, so that an answer of that length is no amplification.
pub fn pad(body: &mut Vec<u8>, length: usize) {
    while body.len() + 2 <= length {
        let content = u8::try_from(length - body.len() - 2).unwrap_or(u8::MAX);
        body.extend_from_slice(&[PADDING, content]);
        body.resize(body.len() + usize::from(content), 0);
    }
}

fn state_code(state: State) -> u8 {
    match state {
        State::Alive => 1,
        State::Suspect => 2,
        State::Dead => 3,
        State::Left => 4,
        State::Forgotten => 5,
    }
}

fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn write_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn write_id(out: &mut Vec<u8>, id: Option<DataId>) {
    out.push(u8::from(id.is_some()));
    if let Some(id) = id {
        out.extend_from_slice(&id.0.to_be_bytes());
    }
}

/// Reads a body.
pub fn read(body: &[u8]) -> Result<Message, Malformed> {
    let mut reader = Reader(body);
    read_message(&mut reader).ok_or(Malformed)
}

fn read_message(reader: &mut Reader<'_>) -> Option<Message> {
    let kind = reader.u8()?;
    let length = usize::try_from(reader.varint()?).ok()?;
    let mut content = Reader(reader.take(length)?);
    let head = read_head(kind, &mut content)?;
    let mut skipped = u32::from(head.is_none() || !content.0.is_empty());
    let mut words = Vec::new();
    while !reader.0.is_empty() {
        words.extend(read_part(reader, &mut skipped)?);
    }
    Some(Message { head, words, skipped })
}

/// `Some(None)` is a type that we do not know.
fn read_head(kind: u8, content: &mut Reader<'_>) -> Option<Option<Head>> {
    let head = match kind {
        1 | 2 => {
            let sequence = content.u32()?;
            let load = Load { waiting: content.varint()?, stored: content.varint()? };
            if kind == 1 { Head::Ping { sequence, load } } else { Head::Ack { sequence, load } }
        }
        3..=5 => {
            let (sequence, target) = (content.u32()?, NodeId(content.u128()?));
            match kind {
                3 => Head::Ask { sequence, target },
                4 => Head::Reached { sequence, target },
                _ => Head::Missed { sequence, target },
            }
        }
        6 => Head::Join,
        7 => Head::Welcome,
        8 => Head::Gossip,
        9 => {
            let salt = content.u64()?;
            let mut hashes = Vec::with_capacity(content.0.len() / 4);
            while !content.0.is_empty() {
                hashes.push(content.u32()?);
            }
            hashes.len().is_power_of_two().then_some(Head::Digest { salt, hashes })?
        }
        10 => {
            let (salt, buckets) = (content.u64()?, content.u16()?);
            let bits = content.take(usize::from(buckets).div_ceil(8))?.to_vec();
            buckets.is_power_of_two().then_some(())?;
            Head::Differ { salt, buckets, bits }
        }
        11 => Head::Table,
        12 => Head::Who,
        _ => {
            return Some(None);
        }
    };
    Some(Some(head))
}

/// `Some(None)` is a part that we do not know.
fn read_part(reader: &mut Reader<'_>, skipped: &mut u32) -> Option<Option<Word>> {
    let (tag, length) = (reader.u8()?, reader.u8()?);
    let mut content = Reader(reader.take(usize::from(length))?);
    if tag != FULL && tag != BRIEF {
        *skipped = skipped.saturating_add(u32::from(tag != PADDING));
        return Some(None);
    }
    let node = NodeId(content.u128()?);
    let incarnation = content.varint()?;
    let state = match content.u8()? {
        1 => State::Alive,
        2 => State::Suspect,
        3 => State::Dead,
        4 => State::Left,
        5 => State::Forgotten,
        _ => return None,
    };
    let accuser = if state == State::Suspect { content.u32()? } else { 0 };
    let meta = if tag == FULL { Some(Arc::new(read_meta(&mut content)?)) } else { None };
    *skipped = skipped.saturating_add(u32::from(!content.0.is_empty()));
    Some(Some(Word { node, incarnation, state, accuser, meta }))
}

fn read_meta(content: &mut Reader<'_>) -> Option<Meta> {
    let kind = match content.u8()? {
        1 => PeerKind::Ingest,
        2 => PeerKind::Store,
        3 => PeerKind::IngestStore,
        _ => return None,
    };
    let (replicas, start) = (content.u8()?, content.varint()?);
    let (gossip, api) = (content.address()?, content.address()?);
    let (store, ingest) = (content.id()?, content.id()?);
    (is_unicast(gossip) && is_unicast(api)).then_some(Meta { kind, gossip, api, store, ingest, replicas, start })
}

/// Whether one host can be meant by it. Nobody shall be made to call a whole network.
fn is_unicast(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_be_bytes)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn address(&mut self) -> Option<SocketAddr> {
        let ip = match self.u8()? {
            4 => IpAddr::from(self.array::<4>()?),
            6 => IpAddr::from(self.array::<16>()?),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }

    fn id(&mut self) -> Option<Option<DataId>> {
        match self.u8()? {
            0 => Some(None),
            1 => self.u128().map(|id| Some(DataId(id))),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
