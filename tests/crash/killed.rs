//! Processes that are killed at random moments, also while they recover.

use crate::harness::node::{Role, query_target};
use crate::harness::{Node, Port, wait_until};
use crate::ledger::Ledger;
use crate::load::{Load, Target, prefix};
use crate::places::{address, assert_sound, flags_at, seed, short_or_long};
use oklog::world::entropy::Dice;
use std::time::{Duration, Instant};

/// Nodes under load that are killed again and again.
struct Scene {
    name: &'static str,
    seed: u64,
    dice: Dice,
    nodes: Vec<Node>,
    roles: Vec<Role>,
    replicas: u8,
    load: Load,
    counts: Counts,
}

#[derive(Default, Debug)]
struct Counts {
    kills: usize,
    of_them_within_recovery: usize,
    whole_answers: usize,
    partial_answers: usize,
    no_answers: usize,
}

impl Scene {
    /// Starts nodes of these roles, with so many copies of each record, and load on all that ingest. `net` is the
    /// scene's own.
    fn start(name: &'static str, net: u8, roles: &[Role], replicas: u8) -> Scene {
        let seed = seed();
        println!("{name}: seed {seed}");
        let addresses: Vec<String> = (0..roles.len()).map(|n| address(net, n)).collect();
        let launch = |(role, at): (&Role, &String)| {
            let flags = flags_at(*role, at, replicas, &addresses);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            Node::launch(*role, &flags, None, &std::env::temp_dir())
        };
        let mut nodes: Vec<Node> = roles.iter().zip(&addresses).map(launch).collect();
        nodes.iter_mut().for_each(Node::wait_ready);
        let ingesters = nodes.iter().zip(roles).filter(|(_, role)| **role != Role::Store);
        let target = |node: &Node| Target {
            durable: node.address(Port::Durable).to_string(),
            fast: node.address(Port::Fast).to_string(),
        };
        let targets: Vec<Target> = ingesters.map(|(node, _)| target(node)).collect();
        let load = Load::start(Ledger::default(), seed, &targets);
        let (roles, dice, counts) = (roles.to_vec(), Dice::new(seed), Counts::default());
        Scene { name, seed, dice, nodes, roles, replicas, load, counts }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.dice.below(bound as u64) as usize
    }

    /// A moment at random: not a wait for anything.
    fn some_time(&mut self, at_most: Duration) {
        std::thread::sleep(Duration::from_micros(self.dice.below(at_most.as_micros() as u64)));
    }

    /// Kills until there were so many.
    fn kill(&mut self, kills: usize) {
        while self.counts.kills < kills {
            let epoch = self.load.next_epoch();
            self.some_time(Duration::from_millis(250));
            if self.dice.one_in(2) {
                self.look(epoch, "before a kill");
            }
            let one = self.below(self.nodes.len());
            let all_at_once = self.nodes.len() > 1 && self.dice.one_in(4);
            let victims = if all_at_once { (0..self.nodes.len()).collect() } else { vec![one] };
            for &n in &victims {
                self.nodes[n].kill9();
            }
            victims.iter().for_each(|&n| self.nodes[n].launch_again());
            self.counts.kills += victims.len();
            while self.dice.one_in(3) {
                self.some_time(Duration::from_millis(40));
                let n = victims[self.below(victims.len())];
                self.nodes[n].kill9();
                self.nodes[n].launch_again();
                self.counts.kills += 1;
                self.counts.of_them_within_recovery += 1;
            }
            victims.iter().for_each(|&n| self.nodes[n].wait_ready());
            self.look(epoch, "after a kill");
        }
    }

    fn stores(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|n| self.roles[*n] != Role::Ingest).collect()
    }

    /// Asks one store for an epoch's lines.
    fn look(&mut self, epoch: usize, when: &str) {
        let stores = self.stores();
        let store = stores[self.below(stores.len())];
        let owed = self.load.ledger.owed(&prefix(epoch));
        let what = format!("{}, seed {}, epoch {epoch}, {when}, after {:?}", self.name, self.seed, self.counts);
        match self.nodes[store].try_get(&query_target(&[("q", &prefix(epoch))])) {
            Some(answer) if (answer.status, answer.complete) == (200, true) => {
                self.load.ledger.assert_shown(&answer, &owed, &what);
                self.counts.whole_answers += 1;
            }
            Some(answer) if (answer.status, answer.complete) == (206, true) => {
                self.load.ledger.assert_part(&answer, &what);
                self.counts.partial_answers += 1;
            }
            // An answer that broke off, or none, promises nothing.
            _ => self.counts.no_answers += 1,
        }
    }

    /// Ends the load and holds all stores' answers against the ledger, before and after all was consumed; stops the nodes
    /// in order, and looks at what is on their disks.
    fn check(mut self) {
        let ledger = self.load.finish();
        let look = |nodes: &[Node], n: usize, when: &str| {
            let target = query_target(&[]);
            let whole = || nodes[n].try_get(&target).filter(|answer| (answer.status, answer.complete) == (200, true));
            let answer = crate::harness::wait_for(&format!("a whole answer {when}"), whole);
            ledger.assert_held_by(&answer, &format!("{}, seed {}, store {n}, {when}", self.name, self.seed));
        };
        let stores: Vec<usize> = (0..self.nodes.len()).filter(|n| self.roles[*n] != Role::Ingest).collect();
        stores.iter().for_each(|&n| look(&self.nodes, n, "at the end"));
        for (node, _) in self.nodes.iter().zip(&self.roles).filter(|(_, role)| **role != Role::Store) {
            wait_until("all segments are consumed", || node.metric("oklog_ingest_segments", &[]) == 0.0);
        }
        stores.iter().for_each(|&n| look(&self.nodes, n, "after all was consumed"));
        // Ingesters first: they say good-bye while there are stores.
        for role in [Role::Ingest, Role::Both, Role::Store] {
            let those = self.nodes.iter_mut().zip(&self.roles).filter(|(_, other)| **other == role);
            those.for_each(|(node, _)| node.stop());
        }
        println!("{}, seed {}: {:?}", self.name, self.seed, self.counts);
        assert!(self.counts.whole_answers > 0, "nothing was checked on the way");
        let what = format!("{}, seed {}", self.name, self.seed);
        assert_sound(&self.nodes.iter().collect::<Vec<_>>(), self.replicas, &what);
    }
}

/// On new directories after so many kills, so that answers can be held in memory.
const KILLS_PER_SCENE: usize = 60;

fn kill_and_check(name: &'static str, net: u8, roles: &[Role], replicas: u8, kills: usize) {
    let (begin, mut done) = (Instant::now(), 0);
    while done < kills {
        let mut scene = Scene::start(name, net, roles, replicas);
        scene.kill(KILLS_PER_SCENE.min(kills - done));
        done += scene.counts.kills;
        scene.check();
    }
    println!("{name}: {done} kills in {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_node_of_both_tiers_alone() {
    kill_and_check("one node of both tiers", 1, &[Role::Both], 1, short_or_long(50, 300));
}

#[test]
fn an_ingester_and_a_store() {
    kill_and_check("an ingester and a store", 2, &[Role::Ingest, Role::Store], 1, short_or_long(30, 250));
}

#[test]
fn three_nodes_of_both_tiers_and_two_copies() {
    kill_and_check("three nodes of both tiers", 3, &[Role::Both; 3], 2, short_or_long(30, 250));
}

#[test]
fn two_ingesters_and_three_stores_and_two_copies() {
    let roles = [Role::Ingest, Role::Ingest, Role::Store, Role::Store, Role::Store];
    kill_and_check("two ingesters and three stores", 4, &roles, 2, short_or_long(30, 250));
}
