//! The protocol as a whole, on simulated networks.

use super::*;
use crate::cluster::measure::{Course, Figures, course, halves};

const LOSSES: [u64; 3] = [0, 10, 25];

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn world(seed: u64, nodes: usize, loss: u64) -> Simulation {
    let mut world = Simulation::settled(seed, nodes, Network::losing(loss), Timing::default());
    world.run(secs(3));
    world
}

/// Runs until all are right about all, at most for so many seconds.
fn agrees_within(world: &mut Simulation, limit: u64) -> bool {
    for _ in 0..limit * 4 {
        if world.agrees() {
            return true;
        }
        world.run(Duration::from_millis(250));
    }
    false
}

fn worst(values: &[Option<Duration>]) -> f64 {
    values.iter().map(|value| value.map_or(f64::INFINITY, |value| value.as_secs_f64())).fold(0.0, f64::max)
}

fn half(values: &[Option<Duration>]) -> f64 {
    let mut all: Vec<f64> =
        values.iter().map(|value| value.map_or(f64::INFINITY, |value| value.as_secs_f64())).collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// First suspicion p50 and worst, known to all, join 99 % and all, leave, bytes at 0, 10, 25 % loss.
type Bounds = ([f64; 6], [f64; 3]);

fn assert_bounds(nodes: usize, seeds: u64, events: usize, bounds: Bounds) {
    let (times, bytes) = bounds;
    for (loss, bytes) in LOSSES.into_iter().zip(bytes) {
        let mut figures = Figures::default();
        let plan = Course { nodes, loss, quiet: secs(60), events, timing: Timing::default() };
        (0..seeds).for_each(|seed| figures.add(course(seed, &plan)));
        let measured = [
            half(&figures.suspected),
            worst(&figures.suspected),
            worst(&figures.dead),
            worst(&figures.joined_most),
            worst(&figures.joined),
            worst(&figures.left),
        ];
        let what = format!("{nodes} nodes, {loss} % loss, seeds 0 to {}", seeds - 1);
        for (measured, bound) in measured.into_iter().zip(times) {
            assert!(measured <= bound, "{what}: {measured} is more than {bound} s: {figures:?}");
        }
        assert_eq!(figures.false_deaths, 0, "{what}");
        assert!(figures.bytes_per_second() <= bytes, "{what}: {} is more than {bytes}", figures.bytes_per_second());
    }
}

#[test]
fn three_nodes_know_of_crashes_joins_and_good_byes_in_time() {
    assert_bounds(3, 20, 1, ([2.6, 5.0, 9.0, 0.5, 0.7, 1.0], [150.0, 200.0, 320.0]));
}

#[test]
fn a_hundred_nodes_know_of_crashes_joins_and_good_byes_in_time() {
    assert_bounds(100, 2, 8, ([2.6, 6.0, 15.0, 0.8, 1.2, 1.5], [150.0, 200.0, 900.0]));
}

#[test]
fn one_seed_gives_one_run_to_the_bit() {
    let run = |seed| {
        let network = Network { loss_percent: 10, twice_percent: 5, late_percent: 5 };
        let mut world = Simulation::settled(seed, 20, network, Timing::default());
        world.run(secs(5));
        world.start(20, vec![Simulation::address(3)], Vec::new());
        world.stop(7);
        world.run(secs(40));
        (world.hash(), world.seen.bytes)
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_process_that_was_stopped_for_half_a_minute_accuses_nobody_and_is_a_member_again() {
    for (nodes, loss) in [(3, 0), (3, 25), (20, 10)] {
        for seed in 0..4 {
            let mut world = world(seed, nodes, loss);
            world.pause(1);
            world.run(secs(30));
            let stopped = world.processes[1].node;
            assert!(world.believers(stopped, Some(State::Dead)) > 0, "seed {seed}: nobody has missed it");
            world.resume(1);
            assert!(agrees_within(&mut world, 15), "{nodes} nodes, {loss} % loss, seed {seed}");
            world.expect(1);
            world.run(secs(60));
            assert!(agrees_within(&mut world, 10), "{nodes} nodes, {loss} % loss, seed {seed}");
            assert_eq!(world.seen.false_deaths, [], "{nodes} nodes, {loss} % loss, seed {seed}");
        }
    }
}

#[test]
fn two_halves_become_one_after_ten_minutes_apart() {
    for (nodes, loss, seeds) in [(3, 0, 4), (3, 25, 4), (40, 10, 1)] {
        for seed in 0..seeds {
            let plan = Course { nodes, loss, quiet: secs(0), events: 0, timing: Timing::default() };
            let figures = halves(seed, &plan, secs(600));
            let what = format!("{nodes} nodes, {loss} % loss, seed {seed}");
            assert!(worst(&figures.healed) <= 60.0, "{what}: {figures:?}");
            assert_eq!(figures.false_deaths, 0, "{what}");
        }
    }
}

#[test]
fn a_link_that_works_one_way_only_kills_nobody() {
    for seed in 0..5 {
        let mut world = world(seed, 5, 0);
        world.block(0, 1);
        world.block(3, 2);
        world.run(secs(120));
        assert_eq!(world.seen.false_deaths, [], "seed {seed}");
    }
}

#[test]
fn datagrams_that_come_twice_late_and_out_of_order_do_no_harm() {
    for seed in 0..3 {
        let network = Network { loss_percent: 10, twice_percent: 30, late_percent: 30 };
        let mut world = Simulation::settled(seed, 30, network, Timing::default());
        world.run(secs(60));
        assert_eq!(world.seen.false_deaths, [], "seed {seed}");
        world.stop(4);
        let gone = world.processes[4].node;
        world.run(secs(30));
        assert_eq!(world.believers(gone, Some(State::Dead)), 29, "seed {seed}");
    }
}

#[test]
fn a_cluster_forms_from_nothing_but_one_address() {
    for loss in LOSSES {
        let mut world = Simulation::new(loss, Network::losing(loss), Timing::default());
        for place in 0..60 {
            world.start(place, vec![Simulation::address(0)], Vec::new());
        }
        assert!(agrees_within(&mut world, 20), "{loss} % loss");
        assert!(world.processes.iter().all(|process| process.machine.is_joined()));
    }
}

#[test]
fn a_newcomer_gets_a_table_that_no_datagram_holds() {
    for loss in LOSSES {
        let mut world = world(loss, 200, loss);
        let newcomer = world.start(200, vec![Simulation::address(17)], Vec::new());
        let limit = if loss == 0 { 1 } else { 12 };
        world.run(secs(limit));
        assert_eq!(world.processes[newcomer].machine.size(), 201, "{loss} % loss");
    }
}

#[test]
fn a_process_that_starts_anew_at_its_address_replaces_the_old_one_at_once() {
    for loss in LOSSES {
        let mut world = world(loss, 20, loss);
        let old = world.processes[6].node;
        let peers = vec![Simulation::address(2), Simulation::address(11)];
        let remembered = world.processes[6].machine.claims().map(|(claim, _)| claim).collect();
        let new = world.start(6, peers, remembered);
        let new = world.processes[new].node;
        world.run(secs(3));
        assert_eq!(world.believers(new, Some(State::Alive)), 20, "{loss} % loss");
        assert_eq!(world.believers(old, None), 20, "{loss} % loss");
        assert!(agrees_within(&mut world, 10), "{loss} % loss");
        assert_eq!(world.seen.false_deaths, [], "{loss} % loss");
    }
}

#[test]
fn one_that_begins_with_empty_directories_at_the_address_of_one_that_is_gone_misses_it_as_all_others_do() {
    for (seed, noticed) in [(41, true), (42, false)] {
        let mut world = world(seed, 6, 0);
        let lost = world.processes[3].node;
        world.stop(3);
        if noticed {
            world.run(secs(30));
            assert_eq!(world.believers(lost, Some(State::Dead)), 5);
        }
        let other = Simulation::meta(40, 9_000_000_000);
        let empty = Meta { store: other.store, ingest: other.ingest, ..Simulation::meta(3, other.start) };
        let new = world.start_as(empty, vec![Simulation::address(1)], Vec::new());
        world.run(secs(3));
        assert_eq!(world.believers(lost, Some(State::Dead)), 6, "noticed before: {noticed}");
        assert_eq!(world.believers(world.processes[new].node, Some(State::Alive)), 6);
        // Also long after: neither is taken for the other.
        world.run(secs(120));
        assert_eq!(world.believers(lost, Some(State::Dead)), 6, "noticed before: {noticed}");
        assert_eq!(world.seen.false_deaths, []);
    }
}

#[test]
fn a_process_whose_clock_was_set_back_replaces_the_old_one_all_the_same() {
    let mut world = world(5, 5, 0);
    let old = world.processes[1].node;
    let new = world.start_as(Simulation::meta(1, 17), vec![Simulation::address(2)], Vec::new());
    assert!(agrees_within(&mut world, 10));
    assert_eq!(world.believers(old, None), 5);
    assert!(world.processes[new].is_running);
}

#[test]
fn a_machine_that_has_lost_its_disk_and_its_time_becomes_a_member_though_its_former_process_is_dead_by_then() {
    let mut world = world(6, 5, 0);
    let old = world.processes[1].node;
    world.stop(1);
    world.run(secs(30));
    assert_eq!(world.believers(old, Some(State::Dead)), 4);
    let Meta { store, ingest, .. } = Simulation::meta(31, 0);
    let empty = Meta { store, ingest, ..Simulation::meta(1, 17) };
    let new = world.start_as(empty, vec![Simulation::address(2)], Vec::new());
    let new = world.processes[new].node;
    world.run(secs(10));
    assert_eq!(world.believers(new, Some(State::Alive)), 5);
    assert_eq!(world.believers(old, Some(State::Dead)), 5, "what was on the lost disk is missed by all");
}

#[test]
fn a_directory_that_is_served_elsewhere_is_not_missed() {
    let mut world = world(8, 10, 0);
    let old = world.processes[3].node;
    world.stop(3);
    let moved = Meta { store: Simulation::meta(3, 0).store, ..Simulation::meta(30, 9_000_000) };
    let moved = Meta { ingest: Simulation::meta(3, 0).ingest, ..moved };
    world.start_as(moved, vec![Simulation::address(0)], Vec::new());
    world.run(secs(90));
    let tables: Vec<bool> =
        world.running().map(|process| process.machine.claims().any(|(claim, _)| claim.node == old)).collect();
    assert_eq!(tables, [false; 10]);
    assert_eq!(world.seen.copies, 0, "a move is no copy");
}

#[test]
fn a_copied_disk_is_told_of_by_all_who_see_both() {
    let mut world = world(9, 6, 0);
    let copy = Meta { store: Simulation::meta(2, 0).store, ..Simulation::meta(50, 9_000_000) };
    world.start_as(copy, vec![Simulation::address(0)], Vec::new());
    world.run(secs(100));
    assert!(world.seen.copies >= 7, "{} have noticed", world.seen.copies);
    assert!(world.agrees(), "both stay members");
}

#[test]
fn a_forgotten_node_is_forgotten_by_all_even_by_who_was_away_and_no_old_table_brings_it_back() {
    let mut world = world(3, 12, 0);
    let gone = world.processes[5].node;
    let before: Vec<Claim> = world.processes[1].machine.claims().map(|(claim, _)| claim).collect();
    world.stop(5);
    world.run(secs(30));
    assert_eq!(world.believers(gone, Some(State::Dead)), 11);
    world.split(|index| u8::from(index == 8));
    world.act(2, |machine, now, out| machine.forget(now, gone, out));
    world.run(secs(60));
    assert_eq!(world.believers(gone, Some(State::Forgotten)), 10);
    world.heal();
    world.run(secs(240));
    assert_eq!(world.believers(gone, Some(State::Forgotten)), 11);
    // One comes back with what its disk says of the time before.
    world.start(1, vec![Simulation::address(0)], before);
    world.run(secs(240));
    assert_eq!(world.believers(gone, Some(State::Dead)), 0);
    assert_eq!(world.believers(gone, Some(State::Alive)), 0);
}

#[test]
fn nobody_forgets_a_node_that_lives() {
    let mut world = world(3, 5, 0);
    let node = world.processes[2].node;
    world.act(0, |machine, now, out| machine.forget(now, node, out));
    world.run(secs(5));
    assert!(world.agrees());
}

#[test]
fn who_says_good_bye_has_left_and_who_has_not_drained_is_dead() {
    let mut world = world(4, 4, 0);
    let drained = Meta { kind: PeerKind::Ingest, store: None, ..Simulation::meta(20, 9_000_000) };
    let hasty = Meta { kind: PeerKind::Ingest, store: None, ..Simulation::meta(21, 9_000_000) };
    let (drained, hasty) = (
        world.start_as(drained, vec![Simulation::address(0)], Vec::new()),
        world.start_as(hasty, vec![Simulation::address(0)], Vec::new()),
    );
    world.run(secs(3));
    let [first, second, store] = [drained, hasty, 3].map(|index| world.processes[index].node);
    world.leave(drained, true);
    world.leave(hasty, false);
    world.leave(3, true);
    world.run(secs(2));
    assert_eq!(world.running().count(), 3);
    assert_eq!(world.believers(first, Some(State::Left)), 3);
    assert_eq!(world.believers(second, Some(State::Dead)), 3);
    assert_eq!(world.believers(store, Some(State::Left)), 3);
}

#[test]
fn tombstones_are_taken_away_after_a_day_but_never_one_whose_records_are_missed() {
    let timing = Timing { tombstone: secs(300), ..Timing::default() };
    let mut world = Simulation::settled(4, 4, Network::losing(0), timing);
    let ingester = Meta { kind: PeerKind::Ingest, store: None, ..Simulation::meta(20, 9_000_000) };
    let ingester = world.start_as(ingester, vec![Simulation::address(0)], Vec::new());
    world.run(secs(3));
    let [left, dead] = [ingester, 3].map(|index| world.processes[index].node);
    world.leave(ingester, true);
    world.stop(3);
    world.run(secs(200));
    assert_eq!(world.believers(left, Some(State::Left)), 3);
    world.run(secs(300));
    assert_eq!(world.believers(left, None), 3);
    assert_eq!(world.believers(dead, Some(State::Dead)), 3);
}

#[test]
fn what_is_remembered_is_missed_until_it_is_heard() {
    let mut world = Simulation::settled(6, 3, Network::losing(0), Timing::default());
    world.run(secs(1));
    let known: Vec<Claim> = world.processes[0].machine.claims().map(|(claim, _)| claim).collect();
    (0..3).for_each(|place| world.stop(place));
    // All start anew: one remembers the others, and no peer was named to it.
    let first = world.start(0, Vec::new(), known);
    assert_eq!(world.processes[first].machine.table_size(), 3);
    assert_eq!(world.processes[first].machine.size(), 1);
    world.start(1, Vec::new(), Vec::new());
    world.start(2, Vec::new(), Vec::new());
    assert!(agrees_within(&mut world, 10), "who is remembered is called");
    assert_eq!(world.processes[first].machine.table_size(), 3);
}
