//! How a node finds out whether others live: it asks one after the other, some through helpers, and suspects once more.
//!
//! Most probes go to the next live member in the order of ids, and the others to one chosen by chance. Chance alone leaves
//! some members without a question for long (with 5,000 members and a probe a second each, one in a hundred waits
//! 4.6 s and longer); a neighbour alone would be blind when it dies together with its charge, and slow to confirm. Both
//! together find a crash sooner with fewer probes.

use crate::cluster::machine::{Machine, Out, part};
use crate::cluster::members::is_live;
use crate::cluster::suspicion::Suspicion;
use crate::cluster::wire::{Head, brief_id};
use crate::cluster::{NodeId, State};
use crate::unit::Monotonic;

/// Probes that are made for others at a time; further requests are not followed, which costs only the requester's hope.
const FAVOURS_MAX: usize = 256;

/// A helper says after this part of a period that it has had no answer.
const ANSWER_WITHIN: f64 = 0.2;

/// The probe of this period.
#[derive(Debug)]
pub struct Probe {
    target: NodeId,
    sequence: u32,
    started: Monotonic,
    ends: Monotonic,
    pinged: usize,
    helped: usize,
    helpers: Vec<NodeId>,
    answered: Vec<NodeId>,
}

/// A probe for another.
#[derive(Debug)]
pub struct Favour {
    requester: NodeId,
    /// The requester's.
    theirs: u32,
    target: NodeId,
    /// Ours.
    sequence: u32,
    reached: bool,
    /// When the requester is to learn that there was no answer.
    pub answer_at: Monotonic,
}

impl Machine {
    /// When the running probe goes on, or the next begins.
    pub(super) fn probe_deadline(&self) -> Monotonic {
        let Some(probe) = &self.probe else { return self.next_probe };
        let ping = self.timing.pings.get(probe.pinged).map(|after| probe.started + *after);
        let help = self.timing.helps.get(probe.helped).map(|after| probe.started + *after);
        [ping, help].into_iter().flatten().fold(self.next_probe.min(probe.ends), Monotonic::min)
    }

    pub(super) fn tick_probe(&mut self, now: Monotonic, out: &mut Out) {
        if let Some(failed) = self.probe.take_if(|probe| probe.ends <= now || self.next_probe <= now) {
            self.fail(now, failed, out);
        }
        if self.next_probe <= now {
            self.begin_probe(now);
        }
        let Some(probe) = &mut self.probe else { return };
        let (target, sequence) = (probe.target, probe.sequence);
        if self.timing.pings.get(probe.pinged).is_some_and(|after| probe.started + *after <= now) {
            probe.pinged += 1;
            let ping = Head::Ping { sequence, load: self.me.load };
            self.send(target, &ping, out);
        }
        let Some(probe) = &mut self.probe else { return };
        if self.timing.helps.get(probe.helped).is_some_and(|after| probe.started + *after <= now) {
            probe.helped += 1;
            if probe.helpers.is_empty() {
                let able = |member: &super::members::Member| member.state == State::Alive && member.node != target;
                probe.helpers = self.members.some_live(&mut self.dice, self.timing.helpers, able);
            }
            let ask = Head::Ask { sequence, target };
            probe.helpers.clone().into_iter().for_each(|helper| self.send(helper, &ask, out));
        }
    }

    fn begin_probe(&mut self, now: Monotonic) {
        let slowness = self.slowness();
        // Waking a little late must not make the rhythm slower, nor lead to two probes at once.
        let span = self.timing.probe.mul_f64(slowness);
        self.next_probe = (self.next_probe + span).max(now + span.mul_f64(0.5));
        self.probe = self.choose_target().map(|target| {
            self.sequence = self.sequence.wrapping_add(1);
            Probe {
                target,
                sequence: self.sequence,
                started: now,
                ends: now + self.timing.within.mul_f64(slowness),
                pinged: 0,
                helped: 0,
                helpers: Vec::new(),
                answered: Vec::new(),
            }
        });
    }

    /// How much longer this node waits because it has reason to believe that it is slow itself: up to three times. Lifeguard
    /// has up to nine times, which at 25 % loss makes three nodes miss the time in which a crash is to be known.
    fn slowness(&self) -> f64 {
        1.0 + f64::from(self.health) / 4.0
    }

    fn choose_target(&mut self) -> Option<NodeId> {
        if let Some(again) = self.ask_again.take().filter(|node| self.suspicions.get(*node).is_some()) {
            return Some(again);
        }
        self.probes = self.probes.wrapping_add(1);
        let by_chance = self.probes.is_multiple_of(self.timing.by_chance.max(1));
        let neighbour = if by_chance { None } else { self.members.neighbour() };
        neighbour.or_else(|| self.members.next_to_probe(&mut self.dice))
    }

    /// Nobody has reached it.
    fn fail(&mut self, now: Monotonic, probe: Probe, out: &mut Out) {
        // Those helpers that did not even say that they had tried: perhaps it is we who are cut off.
        if probe.answered.len() < probe.helpers.len() || probe.helpers.is_empty() {
            self.adjust_health(1);
        }
        let Some(member) = self.members.get(probe.target).filter(|member| member.is_live()) else { return };
        let (node, incarnation, is_new) = (member.node, member.incarnation, member.state == State::Alive);
        self.suspect(now, node, incarnation, brief_id(self.me.node), out);
        self.suspicions.own(node);
        // A helper that had no answer either suspects it as we do.
        for helper in &probe.answered {
            self.suspicions.confirm(node, brief_id(*helper));
        }
        if is_new && self.suspicions.get(node).is_some_and(|suspicion| !suspicion.is_confirmed()) {
            self.ask_again = Some(node);
        }
    }

    /// A node is suspected, by us or by another.
    pub(super) fn suspect(&mut self, now: Monotonic, node: NodeId, incarnation: u64, accuser: u32, out: &mut Out) {
        let known = self.suspicions.get(node).is_some_and(|suspicion| suspicion.incarnation == incarnation);
        if known {
            if self.suspicions.confirm(node, accuser) {
                self.news.add(node, false);
            }
            return;
        }
        let nodes = (self.members.live() + 1) as f64;
        let slowness = if accuser == brief_id(self.me.node) { f64::midpoint(1.0, self.slowness()) } else { 1.0 };
        let shortest = self.timing.period.mul_f64(self.timing.suspicion * nodes.log10().max(1.0) * slowness);
        let longest = shortest.mul_f64(self.timing.patience.max(1.0));
        // With too few others to confirm it, none is waited for.
        let enough = self.members.live() > self.timing.confirmations as usize + 1;
        let needed = if enough { self.timing.confirmations } else { 0 };
        self.believe(now, node, (incarnation, State::Suspect), out);
        self.suspicions.put(node, Suspicion::new(now, incarnation, accuser, (shortest, longest), needed));
    }

    pub(super) fn tick_suspicions(&mut self, now: Monotonic, out: &mut Out) {
        while let Some((node, mut suspicion)) = self.suspicions.take_due(now) {
            if suspicion.asked >= self.timing.verify {
                let incarnation = suspicion.incarnation;
                self.believe(now, node, (incarnation, State::Dead), out);
            } else if !suspicion.own && !suspicion.waited {
                // Those that have found out themselves ask now: the suspect is not to be asked by everybody at once.
                suspicion.waited = true;
                let wait = self.timing.period * 2 + part(&mut self.dice, self.timing.period * 2);
                self.suspicions.postpone(node, suspicion, now + wait);
            } else {
                suspicion.asked += 1;
                let again = now + self.timing.period / self.timing.verify.max(1);
                self.suspicions.postpone(node, suspicion, again);
                self.sequence = self.sequence.wrapping_add(1);
                let ping = Head::Ping { sequence: self.sequence, load: self.me.load };
                self.send(node, &ping, out);
            }
        }
    }

    /// A node has answered a ping.
    pub(super) fn take_ack(&mut self, now: Monotonic, from: NodeId, sequence: u32, out: &mut Out) {
        self.suspicions.answered(now, from);
        self.settle_probe(from, sequence);
        let favour = self.favours.iter_mut().find(|favour| favour.sequence == sequence && favour.target == from);
        if let Some(favour) = favour {
            favour.reached = true;
            let (requester, theirs) = (favour.requester, favour.theirs);
            let reached = Head::Reached { sequence: theirs, target: from };
            self.send(requester, &reached, out);
        }
    }

    /// The target of the running probe lives.
    pub(super) fn settle_probe(&mut self, target: NodeId, sequence: u32) {
        if self.probe.as_ref().is_some_and(|probe| probe.target == target && probe.sequence == sequence) {
            self.probe = None;
            self.adjust_health(-1);
        }
    }

    /// A helper has tried.
    pub(super) fn take_missed(&mut self, from: NodeId, target: NodeId, sequence: u32) {
        let Some(probe) = &mut self.probe else { return };
        let asked = probe.target == target && probe.sequence == sequence && probe.helpers.contains(&from);
        if asked && !probe.answered.contains(&from) {
            probe.answered.push(from);
        }
    }

    /// A member wants us to ask another for it.
    pub(super) fn do_favour(&mut self, now: Monotonic, requester: NodeId, theirs: u32, target: NodeId, out: &mut Out) {
        let known = self.members.get(target).is_some_and(|member| is_live(member.state));
        if !known || self.favours.len() >= FAVOURS_MAX {
            self.send(requester, &Head::Missed { sequence: theirs, target }, out);
            return;
        }
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let answer_at = now + self.timing.period.mul_f64(ANSWER_WITHIN);
        self.favours.push(Favour { requester, theirs, target, sequence, reached: false, answer_at });
        let ping = Head::Ping { sequence, load: self.me.load };
        // Four datagrams have to arrive for an answer: those after the first go twice.
        (0..2).for_each(|_| self.send(target, &ping, out));
    }

    pub(super) fn tick_favours(&mut self, now: Monotonic, out: &mut Out) {
        if self.favours.iter().all(|favour| favour.answer_at > now) {
            return;
        }
        let all = std::mem::take(&mut self.favours);
        let (due, rest): (Vec<Favour>, Vec<Favour>) = all.into_iter().partition(|favour| favour.answer_at <= now);
        self.favours = rest;
        for favour in due.into_iter().filter(|favour| !favour.reached) {
            self.send(favour.requester, &Head::Missed { sequence: favour.theirs, target: favour.target }, out);
        }
    }
}
