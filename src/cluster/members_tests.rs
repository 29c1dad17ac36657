use super::*;
use crate::cluster::simulation::Simulation;
use std::collections::BTreeMap;
use std::time::Duration;

fn at(secs: u64) -> Monotonic {
    Monotonic(Duration::from_secs(secs))
}

#[test]
fn the_table_does_what_a_plain_map_does_whatever_comes() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let (mut members, mut model) = (Members::new(NodeId(50)), BTreeMap::new());
        for step in 0..600 {
            let number = dice.below(30);
            let node = NodeId(u128::from(number) * 4 + 1);
            let state = [State::Alive, State::Suspect, State::Dead, State::Left][dice.below(4) as usize];
            match dice.below(4) {
                0 => {
                    let meta = Arc::new(Simulation::meta(number as usize, 1));
                    let is_new = members.insert(at(step), (node, step, state), meta, &mut dice);
                    assert_eq!(is_new, !model.contains_key(&node), "seed {seed}, step {step}");
                    model.entry(node).or_insert((step, state));
                }
                1 => {
                    members.remove(node);
                    model.remove(&node);
                }
                2 => {
                    members.set(at(step), node, (step, state), &mut dice);
                    model.entry(node).and_modify(|known| *known = (step, state));
                }
                _ => drop(members.next_to_probe(&mut dice)),
            }
            let known: BTreeMap<NodeId, (u64, State)> =
                members.iter().map(|member| (member.node, (member.incarnation, member.state))).collect();
            assert_eq!(known, model, "seed {seed}, step {step}");
            let live = |known: &(u64, State)| is_live(known.1);
            assert_eq!(members.live(), model.values().filter(|known| live(known)).count(), "seed {seed}, step {step}");
            assert_eq!(members.gone().count(), model.values().filter(|known| !live(known)).count());
            let alive = model.iter().filter(|(_, known)| known.1 == State::Alive).map(|(node, _)| *node);
            let after = alive.min_by_key(|node| node.0.wrapping_sub(50));
            assert_eq!(members.neighbour(), after, "seed {seed}, step {step}");
        }
    }
}

#[test]
fn each_live_member_is_probed_once_in_a_round() {
    let mut dice = Dice::new(1);
    let mut members = Members::new(NodeId(0));
    for number in 1..=20u128 {
        let meta = Arc::new(Simulation::meta(number as usize, 1));
        members.insert(at(0), (NodeId(number), 1, State::Alive), meta, &mut dice);
    }
    members.set(at(1), NodeId(5), (1, State::Dead), &mut dice);
    while members.turn < members.ring.len() {
        members.next_to_probe(&mut dice);
    }
    for _ in 0..5 {
        let mut round: Vec<u128> =
            (0..19).filter_map(|_| members.next_to_probe(&mut dice)).map(|node| node.0).collect();
        round.sort();
        assert_eq!(round, (1..=20).filter(|number| *number != 5).collect::<Vec<u128>>());
    }
}
