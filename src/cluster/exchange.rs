//! How two tables are made equal: hashes of their parts first, then the claims of those parts that differ.
//!
//! One node sends a hash for each bucket of its table, in one datagram. The other answers which of them differ, and both
//! send each other the claims in those, in datagrams each of which is whole. Between equal tables an exchange costs two
//! datagrams, whatever their size. A node that has just joined has almost nothing, so it gets everything.
//!
//! In the hashes are those who live and those whose records are missed. Of others, that left with nothing or were
//! forgotten, not all need to know.

use crate::cluster::auth::Seal;
use crate::cluster::machine::{Event, Machine, Out, part, tell};
use crate::cluster::members::Member;
use crate::cluster::wire::{self, CLAIM_MAX, Head, PACKET};
use crate::cluster::{DataId, Meta, NodeId};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::collections::VecDeque;
use std::time::Duration;

/// So many hashes of four bytes fit into a datagram.
const BUCKETS_MAX: usize = 256;
/// How many members share a bucket where there are few.
const BUCKET: usize = 4;
/// How many tables are sent at a time; those who ask beyond it ask again.
const STREAMS_MAX: usize = 8;
/// A table is sent at most this many datagrams at a time, this long after one another: 1 MB/s.
const STREAM_BURST: usize = 8;
const STREAM_PAUSE: Duration = Duration::from_millis(10);
/// A node that has just joined has this many exchanges, soon after one another, until one finds nothing new.
const EAGER: u32 = 12;
const EAGER_PAUSE: Duration = Duration::from_secs(1);
/// Where tables differed there may be more to be learned, from another.
const AGAIN: Duration = Duration::from_secs(5);
/// After the last sign that a split network has healed it is asked this often, this long later.
const AFTER_REVIVAL: u32 = 4;
const SETTLED: Duration = Duration::from_secs(6);
/// Beyond this many members exchanges become rarer (memberlist: `pushPullScaleThreshold`).
const FEW: f64 = 32.0;

/// What a node has to do with others' tables.
#[derive(Debug)]
pub struct Exchange {
    /// When the next is to begin.
    pub at: Monotonic,
    /// With whom the last was begun, and its salt.
    asked: Option<(NodeId, u64)>,
    eager: u32,
    streams: VecDeque<(NodeId, Vec<NodeId>)>,
    stream_at: Monotonic,
}

impl Exchange {
    /// Somebody who was buried lives: others may do so, too, whose word was missed. Asked when the news has gone round.
    pub fn note_revival(&mut self, now: Monotonic, dice: &mut Dice) {
        self.eager = self.eager.max(AFTER_REVIVAL);
        self.at = now + SETTLED + part(dice, SETTLED);
    }

    /// None yet; the first at `at`, and `eager`ly more until one finds nothing new.
    pub fn new(at: Monotonic, eager: bool) -> Exchange {
        Exchange {
            at,
            asked: None,
            eager: if eager { EAGER } else { 0 },
            streams: VecDeque::new(),
            stream_at: Monotonic::default(),
        }
    }

    /// The first other node has been heard: its table is wanted soon.
    pub fn hurry(&mut self, now: Monotonic) {
        self.at = self.at.min(now + EAGER_PAUSE / 4);
    }

    /// When something is to be done.
    pub fn deadline(&self) -> Monotonic {
        if self.streams.is_empty() { self.at } else { self.at.min(self.stream_at) }
    }
}

impl Machine {
    /// From one exchange to the next.
    pub(super) fn exchange_span(&self) -> Duration {
        let nodes = (self.members.live() + 1) as f64;
        self.timing.exchange.mul_f64((nodes / FEW).log2().ceil().max(0.0) + 1.0)
    }

    pub(super) fn tick_exchange(&mut self, now: Monotonic, out: &mut Out) {
        self.tick_streams(now, out);
        if self.exchange.at > now {
            return;
        }
        self.plan_exchange(now);
        let partner = self.members.any_live(&mut self.dice).map(|member| member.node);
        if let Some(partner) = partner {
            self.ask_for_differences(partner, out);
        }
    }

    fn plan_exchange(&mut self, now: Monotonic) {
        let alone = self.members.live() == 0;
        let span = if self.exchange.eager > 0 || alone { EAGER_PAUSE } else { self.exchange_span() };
        if !alone {
            self.exchange.eager = self.exchange.eager.saturating_sub(1);
        }
        self.exchange.at = now + span.mul_f64(0.9) + part(&mut self.dice, span.mul_f64(0.2));
    }

    /// Begins an exchange with a node that may know more than we do.
    pub(super) fn begin_exchange(&mut self, now: Monotonic, partner: NodeId, out: &mut Out) {
        self.plan_exchange(now);
        self.ask_for_differences(partner, out);
    }

    fn ask_for_differences(&mut self, partner: NodeId, out: &mut Out) {
        let salt = self.dice.roll();
        self.exchange.asked = Some((partner, salt));
        let mut hashes = if self.timing.whole_exchange {
            vec![0]
        } else {
            let buckets = ((self.members.count() + 1) / BUCKET).next_power_of_two().clamp(1, BUCKETS_MAX);
            self.hashes(salt, buckets)
        };
        if hashes.is_empty() {
            hashes.push(0);
        }
        let body = wire::write_head(&Head::Digest { salt, hashes });
        if let Some(address) = self.members.get(partner).map(|member| member.meta.gossip) {
            self.post(Some(partner), address, &body, out);
        }
    }

    /// A hash for each bucket: the sum of those of its claims, so that their order does not matter.
    fn hashes(&self, salt: u64, buckets: usize) -> Vec<u32> {
        let mut sums = vec![0u64; buckets];
        let mut add = |node: NodeId, incarnation: u64, class: u64| {
            let folded = (node.0 >> 64) as u64 ^ node.0 as u64;
            let mut mixed = Dice::new(folded ^ salt ^ incarnation.rotate_left(32) ^ class.rotate_left(8));
            if let Some(sum) = sums.get_mut(bucket_of(node, buckets)) {
                *sum = sum.wrapping_add(mixed.roll());
            }
        };
        add(self.me.node, self.me.incarnation, 1);
        for member in self.members.iter().filter(|member| member.is_live() || member.is_missed()) {
            add(member.node, member.incarnation, u64::from(member.is_live()));
        }
        sums.into_iter().map(|sum| (sum >> 32) as u32).collect()
    }

    /// Another has sent its hashes.
    pub(super) fn compare(&mut self, now: Monotonic, from: NodeId, salt: u64, hashes: &[u32], out: &mut Out) {
        let buckets = hashes.len();
        if buckets > BUCKETS_MAX || self.exchange.streams.len() >= STREAMS_MAX {
            return;
        }
        let ours = self.hashes(salt, buckets);
        let mut bits = vec![0u8; buckets.div_ceil(8)];
        for (bucket, (our, their)) in ours.iter().zip(hashes).enumerate() {
            if let Some(byte) = bits.get_mut(bucket / 8).filter(|_| our != their) {
                *byte |= 1 << (bucket % 8);
            }
        }
        self.stream(now, from, buckets, &bits);
        let head = Head::Differ { salt, buckets: u16::try_from(buckets).unwrap_or(u16::MAX), bits };
        self.send(from, &head, out);
    }

    /// Another has said where our tables differ.
    pub(super) fn complete(&mut self, now: Monotonic, from: NodeId, salt: u64, buckets: u16, bits: &[u8]) {
        if self.exchange.asked != Some((from, salt)) {
            return;
        }
        self.exchange.asked = None;
        let are_alike = bits.iter().all(|byte| *byte == 0);
        self.informed |= are_alike || self.exchange.eager == 0;
        if are_alike {
            if self.exchange.eager > 0 {
                self.exchange.eager = 0;
                let span = self.exchange_span();
                self.exchange.at = now + part(&mut self.dice, span);
            }
            return;
        }
        if self.exchange.streams.len() < STREAMS_MAX {
            self.stream(now, from, usize::from(buckets), bits);
        }
        if !self.timing.whole_exchange {
            let again = now + AGAIN.mul_f64(0.5) + part(&mut self.dice, AGAIN);
            // Until it is known that nothing more is to be learned, answers to queries cannot be called complete.
            let again = if self.informed { again } else { now + EAGER_PAUSE / 8 };
            self.exchange.at = self.exchange.at.min(again);
        }
    }

    /// Lets another have all claims of these buckets.
    fn stream(&mut self, now: Monotonic, to: NodeId, buckets: usize, bits: &[u8]) {
        let wanted = |node: NodeId| {
            let bucket = bucket_of(node, buckets);
            bits.get(bucket / 8).is_some_and(|byte| byte >> (bucket % 8) & 1 == 1)
        };
        let all = self.members.iter().map(|member| member.node).chain([self.me.node]);
        let nodes: Vec<NodeId> = all.filter(|node| wanted(*node)).collect();
        if !nodes.is_empty() {
            if self.exchange.streams.is_empty() {
                self.exchange.stream_at = now;
            }
            self.exchange.streams.push_back((to, nodes));
        }
    }

    fn tick_streams(&mut self, now: Monotonic, out: &mut Out) {
        if self.exchange.streams.is_empty() || self.exchange.stream_at > now {
            return;
        }
        self.exchange.stream_at = now + STREAM_PAUSE;
        for _ in 0..STREAM_BURST {
            let Some((to, mut nodes)) = self.exchange.streams.pop_front() else { break };
            let Some(address) = self.members.get(to).map(|member| member.meta.gossip) else { continue };
            let mut body = wire::write_head(&Head::Table);
            while body.len() + CLAIM_MAX <= PACKET - Seal::OVERHEAD {
                let Some(node) = nodes.pop() else { break };
                tell(&self.me, &self.members, &self.suspicions, &mut body, node, true);
            }
            self.post(Some(to), address, &body, out);
            if !nodes.is_empty() {
                self.exchange.streams.push_front((to, nodes));
            }
        }
    }

    /// Now and then, over the whole table: takes tombstones away, and looks for directories that are served twice.
    pub(super) fn tick_survey(&mut self, now: Monotonic, out: &mut Out) {
        if self.survey_at > now {
            return;
        }
        self.survey_at = now + self.timing.rejoin;
        let old = |member: &Member| now.since(member.since) >= self.timing.tombstone;
        let is_over = |member: &Member| old(member) && (member.replaced || !member.state.misses(&member.meta));
        let over: Vec<NodeId> =
            self.members.gone().filter(|member| is_over(member)).map(|member| member.node).collect();
        for node in over {
            self.news.remove(node);
            self.members.remove(node);
        }
        if self.surveyed != self.members.changes() || !self.copies.is_empty() {
            self.surveyed = self.members.changes();
            self.survey_directories(out);
        }
    }

    fn survey_directories(&mut self, out: &mut Out) {
        let directories = |node: NodeId, meta: &Meta| {
            meta.store.into_iter().chain(meta.ingest).map(move |id| (id, node)).collect::<Vec<(DataId, NodeId)>>()
        };
        let live = self.members.iter().filter(|member| member.is_live());
        let mut served: Vec<(DataId, NodeId)> =
            live.flat_map(|member| directories(member.node, &member.meta)).collect();
        served.extend(directories(self.me.node, &self.me.meta));
        served.sort();
        let is_served = |id: Option<DataId>| {
            id.is_none_or(|id| {
                served.get(served.partition_point(|(other, _)| *other < id)).is_some_and(|at| at.0 == id)
            })
        };
        let is_replaced = |member: &Member| {
            member.state.misses(&member.meta) && is_served(member.meta.store) && is_served(member.meta.ingest)
        };
        let gone: Vec<(NodeId, bool)> = self.members.gone().map(|member| (member.node, is_replaced(member))).collect();
        for (node, replaced) in gone {
            if let Some(member) = self.members.get_mut(node).filter(|member| member.replaced != replaced) {
                member.replaced = replaced;
                self.changed = true;
            }
        }
        let twice = served.iter().zip(served.iter().skip(1)).filter(|(one, other)| one.0 == other.0);
        let mut pairs: Vec<(NodeId, NodeId)> = twice.map(|(one, other)| (one.1, other.1)).collect();
        pairs.sort();
        pairs.dedup();
        self.note_copies(pairs, out);
    }

    /// Two that serve one directory are a process and its successor, until the one is found to be dead; if both still live
    /// at the next look, one is a copy.
    fn note_copies(&mut self, pairs: Vec<(NodeId, NodeId)>, out: &mut Out) {
        let meta_of = |node: NodeId| {
            if node == self.me.node { Some(&self.me.meta) } else { self.members.get(node).map(|member| &member.meta) }
        };
        for (one, other) in pairs.iter().filter(|pair| self.copies.contains(pair)) {
            if let (Some(one), Some(other)) = (meta_of(*one), meta_of(*other)) {
                let (one, other) = if one.start <= other.start { (one, other) } else { (other, one) };
                out.events.push(Event::Copied { one: one.clone(), other: other.clone() });
            }
        }
        self.copies = pairs;
    }
}

/// Ids are drawn at random: their first bits spread them well.
fn bucket_of(node: NodeId, buckets: usize) -> usize {
    (node.0 >> 120) as usize * buckets / 256
}
