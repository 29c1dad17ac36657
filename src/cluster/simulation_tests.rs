//! The protocol as a whole, on simulated networks.

use super::*;

const LOSSES: [u64; 3] = [0, 10, 25];

fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_crash_is_known_to_all_in_time_and_nobody_else_is_declared_dead() {
    for (nodes, bound, seeds) in [(3, 9, 20), (100, 15, 3)] {
        for loss in LOSSES {
            for seed in 0..seeds {
                let mut world = Simulation::settled(seed, nodes, Network::losing(loss), Timing::default());
                world.run(secs(5));
                let victim = world.processes[0].node;
                world.stop(0);
                let crashed = world.now();
                let all = world
                    .run_until(crashed + secs(60), |world| world.believers(victim, Some(State::Dead)) == nodes - 1);
                let first = world
                    .seen
                    .log
                    .iter()
                    .find(|(at, _, node, state)| *at >= crashed && *node == victim && *state == State::Suspect);
                eprintln!(
                    "{nodes} {loss} {seed}: {:?} {:?} {:?}",
                    first.map(|f| f.0 - crashed),
                    all.map(|all| all - crashed),
                    world.seen.false_deaths
                );
                let bytes = world.seen.bytes as f64 / nodes as f64 / world.now().as_secs_f64();
                eprintln!("   {bytes} B/s {} false suspicions", world.seen.false_suspicions);
            }
        }
    }
}
