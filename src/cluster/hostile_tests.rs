//! What strangers, liars and noise can do to a machine: nothing, within bounds.

use crate::cluster::auth::{Keys, Seal};
use crate::cluster::machine::{Config, Machine, Out};
use crate::cluster::members::MEMBERS_MAX;
use crate::cluster::simulation::Simulation;
use crate::cluster::timing::Timing;
use crate::cluster::wire::{self, Head};
use crate::cluster::{Claim, Load, Meta, NodeId, State};
use crate::unit::Monotonic;
use crate::world::entropy::Dice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const ME: NodeId = NodeId(1 << 100);
const OTHER: NodeId = NodeId(2 << 100);
const STRANGER: NodeId = NodeId(3 << 100);

fn at(ms: u64) -> Monotonic {
    Monotonic(Duration::from_millis(ms))
}

/// How long to go on: `scripts/fuzz` sets it.
fn seeds() -> u64 {
    std::env::var("OKLOG_FUZZ_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

fn machine() -> Machine {
    let meta = Simulation::meta(0, 5);
    let config = Config { node: ME, meta, remembered: Vec::new(), timing: Timing::default() };
    let mut machine = Machine::new(config, Seal::new(Keys::default(), ME, 1), Dice::new(1), at(0));
    machine.acquaint(at(0), &[(OTHER, Arc::new(Simulation::meta(1, 5)))]);
    machine
}

fn sealed(from: NodeId, to: Option<NodeId>, body: &[u8]) -> Vec<u8> {
    Seal::new(Keys::default(), from, 1).seal(to, body)
}

fn claims(words: &[(NodeId, u64, State, Option<&Meta>)]) -> Vec<u8> {
    let mut body = wire::write_head(&Head::Gossip);
    for (node, incarnation, state, meta) in words {
        wire::write_claim(&mut body, *node, (*incarnation, *state, 9), *meta);
    }
    body
}

fn table(machine: &Machine) -> Vec<(Claim, Option<Load>)> {
    machine.claims().collect()
}

/// Hands a datagram over; gives what is sent for it.
fn tell(machine: &mut Machine, from: NodeId, place: usize, body: &[u8]) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Out::default();
    machine.handle(at(1), Simulation::address(place), &sealed(from, Some(ME), body), &mut out);
    out.datagrams
}

#[test]
fn incarnations_far_ahead_are_refused_about_others_and_about_me() {
    let mut machine = machine();
    let before = table(&machine);
    for incarnation in [u64::MAX, u64::MAX - 1, (1 << 20) + 2] {
        for state in [State::Alive, State::Suspect, State::Dead, State::Left] {
            let meta = Simulation::meta(7, 5);
            tell(&mut machine, OTHER, 1, &claims(&[(OTHER, incarnation, state, None)]));
            tell(&mut machine, OTHER, 1, &claims(&[(ME, incarnation, state, None)]));
            tell(&mut machine, OTHER, 1, &claims(&[(STRANGER, incarnation, state, Some(&meta))]));
        }
    }
    assert_eq!(table(&machine), before);
    assert_eq!(machine.counts().poisoned, 36);
}

#[test]
fn the_greatest_lie_that_is_believed_of_me_is_refuted_with_one_that_others_believe() {
    let (mut liar, mut victim) = (machine(), machine());
    let lie = 1 << 20;
    tell(&mut victim, OTHER, 1, &claims(&[(ME, lie, State::Dead, None)]));
    let mine = victim.claims().find(|(claim, _)| claim.node == ME).unwrap().0;
    assert_eq!((mine.incarnation, mine.state), (lie + 1, State::Alive));
    tell(&mut liar, OTHER, 1, &claims(&[(OTHER, 1 + (1 << 20), State::Alive, None)]));
    assert_eq!(liar.counts().poisoned, 0);
}

#[test]
fn of_two_claims_the_later_incarnation_counts_and_then_the_graver_state() {
    let states = [State::Alive, State::Suspect, State::Dead, State::Left];
    for (one, first) in states.iter().flat_map(|state| [(*state, 3), (*state, 4)]) {
        for (other, second) in states.iter().flat_map(|state| [(*state, 3), (*state, 4)]) {
            let mut machine = machine();
            tell(&mut machine, STRANGER, 3, &claims(&[(OTHER, first, one, None)]));
            tell(&mut machine, STRANGER, 3, &claims(&[(OTHER, second, other, None)]));
            let known = machine.claims().find(|(claim, _)| claim.node == OTHER).unwrap().0;
            assert_eq!((known.incarnation, known.state), (first, one).max((second, other)), "{one:?}, then {other:?}");
        }
    }
}

#[test]
fn an_exchange_kills_nobody() {
    let mut machine = machine();
    let mut body = wire::write_head(&Head::Table);
    wire::write_claim(&mut body, OTHER, (1, State::Dead, 0), None);
    tell(&mut machine, STRANGER, 3, &body);
    assert_eq!(machine.state_of(OTHER), Some(State::Suspect));
}

#[test]
fn strangers_get_no_more_bytes_than_they_sent_and_no_news() {
    let (sequence, target, load) = (1, OTHER, Load { waiting: u64::MAX, stored: u64::MAX });
    let heads = [
        Head::Ping { sequence, load },
        Head::Ping { sequence, load: Load::default() },
        Head::Ask { sequence, target },
        Head::Digest { salt: 1, hashes: vec![0] },
        Head::Differ { salt: 1, buckets: 1, bits: vec![1] },
        Head::Reached { sequence, target },
        Head::Gossip,
        Head::Join,
    ];
    for head in heads {
        let mut machine = machine();
        machine.set_load(load);
        let body = wire::write_head(&head);
        let came = sealed(STRANGER, Some(ME), &body).len();
        let mut sent = tell(&mut machine, STRANGER, 3, &body);
        machine.tick(at(2), &mut Out::default());
        sent.extend(tell(&mut machine, STRANGER, 3, &body));
        assert!(sent.iter().all(|(to, _)| *to == Simulation::address(3)), "{head:?}");
        assert!(sent.iter().map(|(_, datagram)| datagram.len()).sum::<usize>() <= 2 * came, "{head:?}");
    }
    // Who takes a member's name but sends from elsewhere is a stranger, too.
    let mut machine = machine();
    tell(&mut machine, STRANGER, 3, &claims(&[(NodeId(9), 1, State::Alive, Some(&Simulation::meta(9, 1)))]));
    let body = wire::write_head(&Head::Ping { sequence, load });
    let sent = tell(&mut machine, OTHER, 3, &body);
    assert!(sent.len() == 1 && sent[0].1.len() <= sealed(OTHER, Some(ME), &body).len());
}

#[test]
fn a_call_is_answered_with_no_more_bytes_than_it_has() {
    for length in [0, 130, 200, 400, 1_100] {
        let mut machine = machine();
        let mut body = wire::write_head(&Head::Join);
        wire::write_claim(&mut body, STRANGER, (1, State::Alive, 0), Some(&Simulation::meta(3, 5)));
        wire::pad(&mut body, length);
        let came = sealed(STRANGER, None, &body).len();
        let sent = tell(&mut machine, STRANGER, 3, &body);
        assert!(sent.iter().map(|(_, datagram)| datagram.len()).sum::<usize>() <= came, "{length}");
        assert_eq!(machine.state_of(STRANGER), Some(State::Alive));
    }
}

#[test]
fn the_table_is_bounded_and_so_are_newcomers_in_a_second() {
    let mut machine = machine();
    let mut dice = Dice::new(4);
    for round in 0..30u64 {
        for place in 0..1_000usize {
            let meta = Simulation::meta(10 + round as usize * 1_000 + place, 1);
            let body = claims(&[(NodeId(u128::from(dice.roll())), 1, State::Alive, Some(&meta))]);
            let mut out = Out::default();
            let now = at(1 + round * 900 + place as u64 / 10);
            machine.handle(now, Simulation::address(1), &sealed(OTHER, Some(ME), &body), &mut out);
            machine.tick(now, &mut out);
        }
    }
    assert!(machine.table_size() <= MEMBERS_MAX + 1, "{}", machine.table_size());
    assert!(machine.counts().crowded > 10_000);
    let packets = claims(&[]);
    for _ in 0..10_000 {
        tell(&mut machine, OTHER, 1, &packets);
    }
    assert!(machine.counts().flooded > 1_000);
}

#[test]
fn noise_and_damaged_datagrams_change_nothing_without_a_key_that_fits() {
    let keys = |text: &str| Keys::parse(text.as_bytes(), std::path::Path::new("key")).unwrap();
    let config = |node, place| Config {
        node,
        meta: Simulation::meta(place, 5),
        remembered: Vec::new(),
        timing: Timing::default(),
    };
    let seal = |node, text: &str| Seal::new(keys(text), node, 1);
    let (right, wrong) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let mut machine = Machine::new(config(ME, 0), seal(ME, right), Dice::new(1), at(0));
    machine.acquaint(at(0), &[(OTHER, Arc::new(Simulation::meta(1, 5)))]);
    let before = table(&machine);
    // Whatever a node without the key says, from its first call on.
    let mut liar = Machine::new(config(STRANGER, 3), seal(STRANGER, wrong), Dice::new(2), at(0));
    liar.acquaint(at(0), &[(ME, Arc::new(Simulation::meta(0, 5)))]);
    let mut lies = Out::default();
    liar.join(at(0), &[Simulation::address(0)], &mut lies);
    (0..400).for_each(|step| liar.tick(at(step * 50), &mut lies));
    let mut honest = seal(OTHER, right);
    let mut dice = Dice::new(seeds());
    for step in 0..1_000 * seeds() {
        let body = claims(&[(OTHER, 2 + step % 7, State::Dead, None), (ME, 3, State::Suspect, None)]);
        let mut datagram = honest.seal(Some(ME), &body);
        match step % 4 {
            0 => datagram = lies.datagrams[step as usize % lies.datagrams.len()].1.clone(),
            1 => datagram.truncate(dice.below(datagram.len() as u64) as usize),
            2 => {
                let place = dice.below(datagram.len() as u64) as usize;
                datagram[place] ^= 1 << dice.below(8);
            }
            _ => datagram = (0..dice.below(1_500)).map(|_| dice.roll() as u8).collect(),
        }
        let mut out = Out::default();
        machine.handle(at(1), Simulation::address(3), &datagram, &mut out);
        assert!(out.datagrams.is_empty() && out.events.is_empty(), "step {step} with seed {}", seeds());
        if step % 1_000 == 0 {
            machine.tick(at(1), &mut Out::default());
        }
    }
    assert_eq!(table(&machine), before);
}

#[test]
fn no_datagram_that_opens_makes_a_machine_panic_or_grow_without_bound() {
    for seed in 0..seeds() {
        let mut dice = Dice::new(seed);
        let mut machine = machine();
        let mut samples: Vec<Vec<u8>> = Vec::new();
        for step in 0..2_000u64 {
            let meta = Simulation::meta(dice.below(40) as usize, dice.below(9));
            let node = NodeId(u128::from(dice.below(40)) << 96 | 1);
            let target = if dice.one_in(4) { ME } else { node };
            let state = [State::Alive, State::Suspect, State::Dead, State::Left, State::Forgotten];
            let (sequence, salt) = (dice.roll() as u32, dice.roll());
            let heads = [
                Head::Ping { sequence, load: Load::default() },
                Head::Ask { sequence, target },
                Head::Digest { salt, hashes: vec![0; 1 << dice.below(10)] },
                Head::Differ { salt, buckets: 8, bits: vec![255] },
                Head::Join,
                Head::Table,
                Head::Who,
            ];
            let mut body = wire::write_head(&heads[dice.below(heads.len() as u64) as usize]);
            let claim = (dice.below(1 << 21), state[dice.below(5) as usize], 7);
            wire::write_claim(&mut body, target, claim, dice.one_in(2).then_some(&meta));
            if dice.one_in(3) {
                let place = dice.below(body.len() as u64) as usize;
                body[place] = dice.roll() as u8;
            }
            samples.push(body);
            let body = samples[dice.below(samples.len() as u64) as usize].clone();
            let from = NodeId(u128::from(dice.below(40)) << 96 | 1);
            let mut out = Out::default();
            let now = at(step * 20 + if step > 1_000 { 60_000 } else { 0 });
            let address = Simulation::address(dice.below(40) as usize);
            machine.handle(now, address, &sealed(from, Some(ME), &body), &mut out);
            machine.tick(now, &mut out);
            assert!(machine.table_size() <= 2_000 && machine.next_deadline() > at(0), "seed {seed}");
            assert!(out.datagrams.len() < 64, "seed {seed}: {} datagrams at once", out.datagrams.len());
        }
    }
}
