//! Tells datagrams of our cluster from all others, and with a key from forged and repeated ones.
//!
//! A sealed datagram, numbers in big-endian order:
//!
//! ```text
//!  0  4  "oklg"
//!  4  1  lowest version of the body's form that the sender reads
//!  5  1  highest version of it
//!  6  8  which cluster: the first bytes of a SHA-256 over its name and whether it has a key
//! 14 16  the sender's NodeId
//! 30 16  the receiver's NodeId; 0 where the sender does not know it
//! 46  8  counter, which rises with each datagram of the sender
//! 54  n  body
//!  .. 16  tag: HMAC-SHA-256 over all before it, its first 16 bytes (RFC 2104, section 5); not there without a key
//! ```
//!
//! With a key: nobody without it can make a datagram that opens, change one, send one a second time to the same
//! receiver, or send it to another that it names not. What it does not protect: bodies can be read by whoever sees them.
//! A datagram for an unknown receiver (the first to a `-peer`) can be sent once to each node, and one to a receiver that
//! has forgotten its sender ([`MAX_SENDERS`]) once more; the order of claims makes such old words harmless. Whoever has
//! the key can speak for every node. Without a key there is no protection at all: only strays are kept out.

use super::claim::NodeId;
use crate::unit::Monotonic;
use crate::world::secret::{self, SecretError};
use hmac_sha256::{HMAC, Hash};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The fewest bytes of text a key may have: 128 bits if they are random bytes, 64 if they are hexadecimal digits.
pub const SHORTEST_KEY: usize = 16;

/// The most keys a file may hold. Each costs a computation for each datagram that none before it has made.
pub const MAX_KEYS: usize = 8;

/// The longest key file, in bytes.
pub const LONGEST_KEY_FILE: u64 = 64 << 10;

/// How many counters back a late datagram is still told from a repeated one, per sender; older ones are refused.
pub const WINDOW: u64 = 1_024;

/// The most senders whose counters are remembered, at 200 bytes each. Beyond it the one that was heard longest ago is
/// forgotten: what it sent before to this node would then be taken once more.
pub const MAX_SENDERS: usize = 10_000;

/// The length of a tag, in bytes.
pub const TAG: usize = 16;

const MAGIC: &[u8; 4] = b"oklg";
const NAME: &[u8] = b"oklog";
/// The only version of a body's form, so far.
const VERSION: u8 = 1;
const HEAD: usize = 54;

/// The keys of the cluster: the first signs, all verify, so that a new one can go round before an old one is taken away.
#[derive(Clone, Default)]
pub struct Keys {
    /// Each with its key mixed in already.
    prepared: Arc<[HMAC]>,
}

/// Says how many, never what.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.prepared.len())
    }
}

/// Why there are no keys.
#[derive(Debug)]
pub enum KeyError {
    /// The file was not read.
    Unread(SecretError),
    /// No line of it holds a key.
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// A key is shorter than [`SHORTEST_KEY`].
    Short {
        /// Which file.
        path: PathBuf,
        /// The number of its line, from 1.
        line: usize,
    },
    /// There are more than [`MAX_KEYS`].
    Many {
        /// Which file.
        path: PathBuf,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Unread(error) => write!(f, "the cluster's key: {error}"),
            KeyError::Empty { path } => write!(f, "the key file {} holds no key", path.display()),
            KeyError::Short { path, line } => {
                let path = path.display();
                write!(f, "the key in line {line} of {path} is shorter than {SHORTEST_KEY} characters")
            }
            KeyError::Many { path } => write!(f, "the key file {} holds more than {MAX_KEYS} keys", path.display()),
        }
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            KeyError::Unread(error) => Some(error),
            _ => None,
        }
    }
}

impl Keys {
    /// No key: nothing is signed, nothing verified.
    pub fn none() -> Keys {
        Keys::default()
    }

    /// Reads a key file, which only its owner may read.
    pub fn read(path: &Path) -> Result<Keys, KeyError> {
        let text = secret::read(path, LONGEST_KEY_FILE).map_err(KeyError::Unread)?;
        Keys::parse(&text, path)
    }

    /// Reads the text of a key file: a key per line, blanks around it cut off; empty lines and those that begin with
    /// `#` are skipped. `path` is for the errors.
    pub fn parse(text: &[u8], path: &Path) -> Result<Keys, KeyError> {
        let path = || path.to_path_buf();
        let mut prepared = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let key = line.trim_ascii();
            match key {
                [] | [b'#', ..] => continue,
                _ if key.len() < SHORTEST_KEY => return Err(KeyError::Short { path: path(), line: number + 1 }),
                _ if prepared.len() == MAX_KEYS => return Err(KeyError::Many { path: path() }),
                _ => prepared.push(HMAC::new(key)),
            }
        }
        if prepared.is_empty() {
            return Err(KeyError::Empty { path: path() });
        }
        Ok(Keys { prepared: prepared.into() })
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prepared.is_empty()
    }

    /// The tag over some bytes by the key that signs; `None` without a key.
    pub(super) fn tag(&self, parts: &[&[u8]]) -> Option<[u8; TAG]> {
        self.prepared.first().map(|key| tag_by(key, parts))
    }

    /// Whether a tag is that of any key. How long it takes does not depend on how much of the tag is right.
    pub(super) fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.prepared.iter().any(|key| same(&tag_by(key, parts), tag))
    }
}

fn tag_by(key: &HMAC, parts: &[&[u8]]) -> [u8; TAG] {
    let mut mac = key.clone();
    for part in parts {
        mac.update(part);
    }
    let whole = mac.finalize();
    std::array::from_fn(|at| whole[at])
}

/// Compares all bytes, whichever differ.
fn same(a: &[u8; TAG], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0u8, |found, (a, b)| std::hint::black_box(found | (a ^ b)));
    b.len() == TAG && differing == 0
}

/// Where a process begins to count: later than every counter of an earlier start of it, unless that sent more than 2^20
/// datagrams in each millisecond of its life.
pub(super) fn first_counter(unix_ms: u64) -> u64 {
    unix_ms.min((1 << 43) - 1) << 20
}

/// Which counters of each sender were seen.
#[derive(Debug, Default)]
pub(super) struct Windows {
    senders: BTreeMap<u128, Window>,
}

#[derive(Clone, Debug)]
struct Window {
    heard: Monotonic,
    highest: u64,
    /// One bit per counter of the last [`WINDOW`], at the counter's remainder.
    seen: [u64; (WINDOW / 64) as usize],
}

impl Windows {
    /// Whether this counter of this sender was not seen before, nor is too old to tell. From now on it was.
    pub(super) fn admit(&mut self, now: Monotonic, sender: u128, counter: u64) -> bool {
        if let Some(window) = self.senders.get_mut(&sender) {
            let is_new = window.admit(counter);
            if is_new {
                window.heard = now;
            }
            return is_new;
        }
        if self.senders.len() >= MAX_SENDERS {
            let oldest = self.senders.iter().min_by_key(|(_, window)| window.heard).map(|(sender, _)| *sender);
            oldest.and_then(|sender| self.senders.remove(&sender));
        }
        let mut window = Window { heard: now, highest: counter, seen: Default::default() };
        let first = window.admit_at(counter);
        self.senders.insert(sender, window);
        first
    }
}

impl Window {
    fn admit(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            if counter - self.highest >= WINDOW {
                self.seen = Default::default();
            } else {
                for passed in self.highest + 1..=counter {
                    let (word, bit) = place(passed);
                    self.word(word, |seen| seen & !bit);
                }
            }
            self.highest = counter;
        }
        self.highest - counter < WINDOW && self.admit_at(counter)
    }

    fn admit_at(&mut self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.word(word, |seen| seen | bit) & bit == 0
    }

    /// Changes a word and gives what it was.
    fn word(&mut self, at: usize, change: impl FnOnce(u64) -> u64) -> u64 {
        self.seen.get_mut(at).map_or(0, |word| std::mem::replace(word, change(*word)))
    }
}

fn place(counter: u64) -> (usize, u64) {
    let at = counter % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

/// Why a datagram was not opened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refused {
    /// It is none of ours, or torn.
    NotOurs,
    /// It is in a form that this version does not read.
    Version,
    /// It comes from another cluster.
    Cluster,
    /// It bears a tag, and this node has no key.
    Keyed,
    /// It bears no tag, and this node has a key.
    Unkeyed,
    /// It was not made with one of our keys, or was changed on its way.
    Signature,
    /// It is for another node; or for an earlier start of this one.
    Misdirected,
    /// This node has sent it.
    Mirrored,
    /// It was seen before, or is so old that this cannot be told.
    Replayed,
}

impl Refused {
    /// All of them, in the order of the checks.
    pub const ALL: [Refused; 9] = [
        Refused::NotOurs,
        Refused::Version,
        Refused::Cluster,
        Refused::Keyed,
        Refused::Unkeyed,
        Refused::Signature,
        Refused::Mirrored,
        Refused::Misdirected,
        Refused::Replayed,
    ];

    /// Whether it is nothing to tell an operator: what a node gets that was restarted, or is among its own peers.
    pub fn is_ordinary(self) -> bool {
        matches!(self, Refused::Misdirected | Refused::Mirrored)
    }

    /// Its name as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Refused::NotOurs => "foreign",
            Refused::Version => "version",
            Refused::Cluster => "cluster",
            Refused::Keyed => "keyed",
            Refused::Unkeyed => "unkeyed",
            Refused::Signature => "signature",
            Refused::Misdirected => "misdirected",
            Refused::Mirrored => "mirrored",
            Refused::Replayed => "replayed",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::NotOurs => "it is no datagram of this program",
            Refused::Version => "it is in a form that this version does not read",
            Refused::Cluster => "it comes from another cluster",
            Refused::Keyed => "its sender has a -cluster.key-file, this node has none",
            Refused::Unkeyed => "its sender has no -cluster.key-file, this node has one",
            Refused::Signature => "it was not made with a key of this cluster",
            Refused::Misdirected => "it is for another node, or for an earlier start of this one",
            Refused::Mirrored => "this node has sent it itself",
            Refused::Replayed => "it was seen before",
        })
    }
}

/// How many datagrams were refused, by reason. Clones count together, so that whoever counts need not hold the seal.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    counts: Arc<[AtomicU64; Refused::ALL.len()]>,
}

impl Refusals {
    fn add(&self, why: Refused) {
        let place = Refused::ALL.iter().position(|known| *known == why);
        if let Some(count) = place.and_then(|at| self.counts.get(at)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Each reason with its number since the start.
    pub fn counts(&self) -> [(Refused, u64); Refused::ALL.len()] {
        let mut counts = Refused::ALL.map(|why| (why, 0));
        for ((_, count), counted) in counts.iter_mut().zip(self.counts.iter()) {
            *count = counted.load(Ordering::Relaxed);
        }
        counts
    }
}

/// A datagram that may be acted on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened<'a> {
    /// Who sent it: certain with a key, claimed without.
    pub from: NodeId,
    /// For whom it is: this node; `None` if the sender did not know.
    pub to: Option<NodeId>,
    /// What is in it.
    pub body: &'a [u8],
}

/// Seals what this node sends and opens what it receives.
#[derive(Debug)]
pub struct Seal {
    keys: Keys,
    me: NodeId,
    /// The cluster with a key, or without one, as this node is; and the other of the two.
    cluster: [u8; 8],
    other_cluster: [u8; 8],
    counter: u64,
    windows: Windows,
    refusals: Refusals,
}

impl Seal {
    /// What a seal adds to a body, in bytes; 16 less without a key.
    pub const OVERHEAD: usize = HEAD + TAG;

    /// A seal for one start of a node. `unix_ms` is the time of day at its start, see [`first_counter`].
    pub fn new(keys: Keys, me: NodeId, unix_ms: u64) -> Seal {
        let keyed = !keys.is_empty();
        let (cluster, other_cluster) = (cluster(keyed), cluster(!keyed));
        let (counter, windows, refusals) = (first_counter(unix_ms), Windows::default(), Refusals::default());
        Seal { keys, me, cluster, other_cluster, counter, windows, refusals }
    }

    /// Seals a body for a node; `None` where it is not known who will receive it.
    pub fn seal(&mut self, to: Option<NodeId>, body: &[u8]) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(body.len() + Seal::OVERHEAD);
        datagram.extend_from_slice(MAGIC);
        datagram.extend_from_slice(&[VERSION, VERSION]);
        datagram.extend_from_slice(&self.cluster);
        datagram.extend_from_slice(&self.me.0.to_be_bytes());
        datagram.extend_from_slice(&to.unwrap_or_default().0.to_be_bytes());
        datagram.extend_from_slice(&self.counter.to_be_bytes());
        datagram.extend_from_slice(body);
        self.counter = self.counter.saturating_add(1);
        if let Some(tag) = self.keys.tag(&[&datagram]) {
            datagram.extend_from_slice(&tag);
        }
        datagram
    }

    /// The count of what is refused from now on.
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// Judges a datagram. One that is refused is counted, and has changed nothing else here.
    pub fn open<'a>(&mut self, now: Monotonic, datagram: &'a [u8]) -> Result<Opened<'a>, Refused> {
        self.judge(now, datagram).inspect_err(|why| self.refusals.add(*why))
    }

    fn judge<'a>(&mut self, now: Monotonic, datagram: &'a [u8]) -> Result<Opened<'a>, Refused> {
        let head = Head::read(datagram).ok_or(Refused::NotOurs)?;
        if head.lowest > VERSION || head.highest < VERSION {
            return Err(Refused::Version);
        }
        let keyed = !self.keys.is_empty();
        if head.cluster != self.cluster {
            return Err(match head.cluster == self.other_cluster {
                true if keyed => Refused::Unkeyed,
                true => Refused::Keyed,
                false => Refused::Cluster,
            });
        }
        let mut body = head.rest;
        if keyed {
            let signed = datagram.len().saturating_sub(TAG);
            let (signed, tag) = datagram.split_at_checked(signed).ok_or(Refused::NotOurs)?;
            body = signed.get(HEAD..).ok_or(Refused::NotOurs)?;
            if !self.keys.verify(&[signed], tag) {
                return Err(Refused::Signature);
            }
        }
        let to = (head.to != NodeId::default()).then_some(head.to);
        if head.from == self.me {
            return Err(Refused::Mirrored);
        }
        if to.is_some_and(|to| to != self.me) {
            return Err(Refused::Misdirected);
        }
        if keyed && !self.windows.admit(now, head.from.0, head.counter) {
            return Err(Refused::Replayed);
        }
        Ok(Opened { from: head.from, to, body })
    }
}

/// Which cluster a datagram belongs to.
fn cluster(keyed: bool) -> [u8; 8] {
    let mut hash = Hash::new();
    hash.update(NAME);
    hash.update([u8::from(keyed)]);
    let whole = hash.finalize();
    std::array::from_fn(|at| whole[at])
}

struct Head<'a> {
    lowest: u8,
    highest: u8,
    cluster: [u8; 8],
    from: NodeId,
    to: NodeId,
    counter: u64,
    rest: &'a [u8],
}

impl Head<'_> {
    fn read(datagram: &[u8]) -> Option<Head<'_>> {
        let rest = datagram.strip_prefix(MAGIC)?;
        let ([lowest, highest], rest) = rest.split_first_chunk()?;
        let (cluster, rest) = rest.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (counter, rest) = rest.split_first_chunk()?;
        Some(Head {
            lowest: *lowest,
            highest: *highest,
            cluster: *cluster,
            from: NodeId(u128::from_be_bytes(*from)),
            to: NodeId(u128::from_be_bytes(*to)),
            counter: u64::from_be_bytes(*counter),
            rest,
        })
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
