//! What is made of what is heard: which message is answered how, and which claim is believed.
//!
//! A claim of a higher incarnation is believed, and at the same incarnation the stronger one. Besides:
//! - A claim about this node that it does not share is refuted: with one incarnation more than was heard.
//! - An exchange of tables never kills: who is dead there is suspected here, for the word may be old.
//! - At one address there is one process: the one that began last.
//! - Only those who are not in the table get no more than they have sent.

use crate::cluster::machine::{Event, Machine, Out};
use crate::cluster::members::{Member, is_live};
use crate::cluster::wire::{Head, Message, Word, brief_id};
use crate::cluster::{Claim, NodeId, State};
use crate::unit::Monotonic;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A claim so far ahead of what is known is a lie or a fault: nobody refutes that often.
const INCARNATIONS_AHEAD_MAX: u64 = 1 << 20;
/// Nodes that are taken into the table in a second; others come again with an exchange. A cluster of 5,000 that starts at
/// once has room.
const NEWCOMERS_PER_SECOND_MAX: u32 = 5_000;
/// What a node that has just joined learns from exchanges is no news to others.
const FRESH: Duration = Duration::from_secs(30);

/// How a claim came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Via {
    Gossip,
    Exchange,
}

impl Machine {
    /// Begins with what a former process knew.
    pub(super) fn remember(&mut self, now: Monotonic, claim: Claim) {
        let Claim { node, meta, state, .. } = claim;
        if node == self.me.node || meta.gossip == self.me.meta.gossip && self.serves_all_of(&meta) {
            return;
        }
        let state = if is_live(state) { State::Dead } else { state };
        self.members.insert(now, (node, 0, state), Arc::new(meta), &mut self.dice);
    }

    /// Takes a message that has been opened and read.
    pub(super) fn take(
        &mut self,
        now: Monotonic,
        (sender, address): (NodeId, SocketAddr),
        room: usize,
        message: Message,
        out: &mut Out,
    ) {
        let Some(head) = message.head else { return };
        let via = if matches!(head, Head::Table | Head::Welcome) { Via::Exchange } else { Via::Gossip };
        let was_live = self.members.get(sender).is_some_and(Member::is_live);
        for word in message.words {
            // What somebody says of himself is never second-hand.
            let via = if word.node == sender { Via::Gossip } else { via };
            self.hear(now, word, sender, via, out);
        }
        if self.joined.is_none() {
            self.joined = Some(now);
            self.exchange.hurry(now);
        }
        let is_member = self.members.get(sender).is_some_and(|member| member.meta.gossip == address);
        match head {
            Head::Join => self.welcome(sender, address, room, out),
            Head::Ping { sequence, load } if is_member => {
                self.note_load(sender, load);
                let ack = Head::Ack { sequence, load: self.me.load };
                self.send(sender, &ack, out);
            }
            Head::Ping { .. } | Head::Ask { .. } | Head::Digest { .. } if self.members.get(sender).is_none() => {
                let who = crate::cluster::wire::write_head(&Head::Who);
                self.post(Some(sender), address, &who, out);
            }
            // One that sends from where it does not receive: it may be somebody else who gets the answer.
            Head::Ping { sequence, .. } => {
                let ack = crate::cluster::wire::write_head(&Head::Ack { sequence, load: Default::default() });
                self.post(Some(sender), address, &ack, out);
            }
            Head::Ack { sequence, load } => {
                self.note_load(sender, load);
                self.take_ack(now, sender, sequence, out);
            }
            _ if !is_member => {}
            Head::Ask { sequence, target } => self.do_favour(now, sender, sequence, target, out),
            Head::Reached { sequence, target } => self.settle_probe(target, sequence),
            Head::Missed { sequence, target } => self.take_missed(sender, target, sequence),
            // Whoever was dead or unknown until now may have seen a world of its own.
            Head::Welcome if !was_live => self.begin_exchange(now, sender, out),
            Head::Digest { salt, hashes } => self.compare(now, sender, salt, &hashes, out),
            Head::Differ { salt, buckets, bits } => self.complete(now, sender, salt, buckets, &bits),
            Head::Who => self.introduce(sender, address, out),
            Head::Welcome | Head::Gossip | Head::Table => {}
        }
    }

    fn note_load(&mut self, node: NodeId, load: crate::cluster::Load) {
        if let Some(member) = self.members.get_mut(node) {
            member.load = Some(load);
        }
    }

    fn hear(&mut self, now: Monotonic, word: Word, sender: NodeId, via: Via, out: &mut Out) {
        if word.node == self.me.node {
            return self.hear_of_me(word);
        }
        let Some(member) = self.members.get(word.node) else { return self.meet(now, word, via, out) };
        if word.incarnation > member.incarnation.saturating_add(INCARNATIONS_AHEAD_MAX) {
            self.counts.poisoned += 1;
            return;
        }
        if word.state == State::Forgotten && !member.is_live() && member.state != State::Forgotten {
            // That it will not come back is true of all its incarnations.
            let incarnation = word.incarnation.max(member.incarnation);
            return self.believe(now, word.node, (incarnation, State::Forgotten), out);
        }
        let second_hand = via == Via::Exchange && word.state == State::Dead && word.incarnation > 0;
        let second_hand = second_hand && member.is_live();
        let state = if second_hand { State::Suspect } else { word.state };
        if (word.incarnation, state) < (member.incarnation, member.state) {
            if via == Via::Exchange && member.state == State::Forgotten {
                // The sender was away when it was forgotten, and would miss its records for ever.
                self.news.add(word.node, false);
            }
            return;
        }
        if state == State::Suspect {
            let accuser = if second_hand { brief_id(sender) } else { word.accuser };
            return self.suspect(now, word.node, word.incarnation, accuser, out);
        }
        if (word.incarnation, state) == (member.incarnation, member.state) {
            return;
        }
        let described = word.meta.filter(|meta| word.incarnation > member.incarnation && **meta != *member.meta);
        if let Some(meta) = described {
            self.members.describe(word.node, meta);
        }
        self.believe(now, word.node, (word.incarnation, state), out);
    }

    /// Somebody claims something of this node.
    fn hear_of_me(&mut self, word: Word) {
        let other = word.state != State::Alive || word.meta.is_some_and(|meta| *meta != *self.me.meta);
        let ahead = word.incarnation > self.me.incarnation;
        if self.me.state != State::Alive || word.incarnation < self.me.incarnation || !(other || ahead) {
            return;
        }
        // One less than what others bear, so that they do not refuse the refutation.
        if word.incarnation >= self.me.incarnation.saturating_add(INCARNATIONS_AHEAD_MAX) {
            self.counts.poisoned += 1;
            return;
        }
        self.me.incarnation = word.incarnation + 1;
        self.news.add(self.me.node, false);
        self.changed = true;
        if matches!(word.state, State::Suspect | State::Dead) {
            self.adjust_health(1);
        }
    }

    /// A claim about a node that is not in the table.
    fn meet(&mut self, now: Monotonic, word: Word, via: Via, out: &mut Out) {
        // In brief it is for those who know the node. An exchange will bring it in full.
        let Some(meta) = word.meta else { return };
        if word.incarnation > INCARNATIONS_AHEAD_MAX {
            self.counts.poisoned += 1;
            return;
        }
        if meta.gossip == self.me.meta.gossip {
            self.meet_double(&meta);
            // Whoever was here before us on our directories is no other. But on a disk that was lost there were other ones,
            // and what they held is missed: we would call answers complete that are not.
            if is_live(word.state) || self.serves_all_of(&meta) {
                return;
            }
        }
        // A tombstone is kept by those who saw the burial; if it were handed on it would never be taken away.
        let missed = word.state.misses(&meta);
        if !is_live(word.state) && !missed {
            return;
        }
        let occupant = self.members.occupant(meta.gossip);
        let occupant = occupant.map(|occupant| (occupant.node, occupant.meta.clone(), occupant.is_live()));
        if let Some((former, known, lives)) = occupant {
            let later = meta.start > known.start;
            if !later && (is_live(word.state) || is_covered(&meta, &known)) {
                return;
            }
            if later && is_covered(&known, &meta) {
                self.suspicions.remove(former);
                self.news.remove(former);
                self.members.remove(former);
            } else if later && lives {
                // Its successor serves other directories: what it had is missed.
                let incarnation = self.members.get(former).map_or(0, |member| member.incarnation);
                self.believe(now, former, (incarnation, State::Dead), out);
            }
        }
        if !self.has_room(now) {
            self.counts.crowded += 1;
            return;
        }
        let state = if is_live(word.state) { State::Alive } else { word.state };
        if !self.members.insert(now, (word.node, word.incarnation, state), meta.clone(), &mut self.dice) {
            self.counts.crowded += 1;
            return;
        }
        self.changed = true;
        out.events.push(Event::Became { node: word.node, meta, state });
        let fresh = self.joined.is_none_or(|joined| now.since(joined) < FRESH);
        if via == Via::Gossip || !fresh {
            self.news.add(word.node, true);
        }
        if word.state == State::Suspect {
            self.suspect(now, word.node, word.incarnation, word.accuser, out);
        }
    }

    /// Another process is said to be, or to have been, at our address: one before us; or, if our clock was set back, one that
    /// began later. Then all would hold us for the older of the two, and a machine whose disk was lost has no former start to
    /// go on from.
    fn meet_double(&mut self, meta: &crate::cluster::Meta) {
        if meta.start >= self.me.meta.start && meta.start < u64::MAX {
            let mut mine = crate::cluster::Meta::clone(&self.me.meta);
            mine.start = meta.start + 1;
            self.me.meta = Arc::new(mine);
            self.me.incarnation += 1;
            self.news.add(self.me.node, true);
            self.changed = true;
        }
    }

    fn has_room(&mut self, now: Monotonic) -> bool {
        if now.since(self.newcomers.0) >= Duration::from_secs(1) {
            self.newcomers = (now, 0);
        }
        self.newcomers.1 += 1;
        self.newcomers.1 <= NEWCOMERS_PER_SECOND_MAX
    }

    /// Changes what is believed of a node in the table, and tells on.
    pub(super) fn believe(&mut self, now: Monotonic, node: NodeId, claim: (u64, State), out: &mut Out) {
        let Some(member) = self.members.get(node) else { return };
        let (meta, before) = (member.meta.clone(), member.state);
        self.members.set(now, node, claim, &mut self.dice);
        self.suspicions.remove(node);
        self.news.add(node, false);
        self.changed = true;
        if !is_live(before) && claim.1 == State::Alive && !self.timing.whole_exchange {
            self.exchange.note_revival(now, &mut self.dice);
        }
        if before != claim.1 {
            out.events.push(Event::Became { node, meta, state: claim.1 });
        }
    }

    fn serves_all_of(&self, meta: &crate::cluster::Meta) -> bool {
        is_covered(meta, &self.me.meta)
    }
}

/// Whether all directories of one are among those of the other.
fn is_covered(one: &crate::cluster::Meta, other: &crate::cluster::Meta) -> bool {
    (one.store.is_none() || one.store == other.store) && (one.ingest.is_none() || one.ingest == other.ingest)
}
