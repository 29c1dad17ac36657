//! What an answer calls itself: whole, or not, and then who is missed.

use crate::harness::command::{oklog, run};
use crate::harness::http::{Answer, Exchange};
use crate::harness::logs::{assert_same_lines, numbered};
use crate::harness::{Cluster, DEATH, JOIN, Node, Role, short_or_long, within};
use crate::ledger::{Ledger, missed};
use crate::pour::Pour;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TIERS: [Role; 6] = [Role::Ingest, Role::Ingest, Role::Ingest, Role::Store, Role::Store, Role::Store];

/// Asks one node, again and again, while two others are killed in turn and lines are poured in. No answer that calls itself
/// whole lacks a line that was confirmed before it was asked for. Gives how many answers were whole.
fn ask_while_others_are_killed(net: u8, roles: &[Role], asked: usize) -> usize {
    let mut cluster = Cluster::start(net, roles, &[]);
    let pour = Pour::start(cluster.nodes.iter().filter(|node| node.role.ingests()), 5);
    let asked = cluster.nodes.remove(asked);
    let names: Vec<String> = cluster.nodes.iter().chain([&asked]).map(Node::api).collect();
    let end = Instant::now() + short_or_long(Duration::from_secs(15), Duration::from_secs(90));
    let (stop, ledger) = (AtomicBool::new(false), pour.ledger.clone());
    let (mut whole, mut partial, mut broken, mut wrong) = (0, 0, 0, None);
    std::thread::scope(|scope| {
        let victims = cluster.nodes.iter_mut().filter(|node| node.role.stores()).take(2).collect();
        scope.spawn(|| kill_in_turn(victims, &stop));
        while Instant::now() < end && wrong.is_none() {
            let confirmed = ledger.confirmed();
            // A query that cannot be asked has no answer that could be wrong.
            let Ok(answer) = asked.get(crate::harness::EVERYTHING) else { continue };
            match (answer.status, answer.complete) {
                (200, true) => {
                    whole += 1;
                    let missed = missed(&answer, &confirmed, "an answer that calls itself whole");
                    if !missed.is_empty() {
                        let places = missed.keys().take(3).map(|tag| places_of(tag, &names)).collect::<Vec<_>>();
                        wrong = Some(format!("it misses {missed:?}: {:?}; now: {places:#?}", answer.headers));
                    }
                }
                (206, _) => partial += 1,
                (200 | 500 | 502 | 503, _) => broken += 1,
                (status, _) => wrong = Some(format!("status {status}: {}", answer.text())),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{whole} whole answers, {partial} partial ones, {broken} broken ones");
    let ledger = pour.finish();
    cluster.nodes.push(asked);
    cluster.wait_agreement(JOIN, "the last kill");
    for store in running_stores(&cluster) {
        cluster.wait_complete(store, Duration::from_secs(60));
        ledger.assert_held_by(&store.everything(), &format!("{} at the end; before: {wrong:?}", store.api()));
    }
    assert_eq!(wrong, None);
    whole
}

/// Where the lines with this tag are, for whoever has to find out why they were missed: in which tier of which node how
/// many of them.
fn places_of(tag: &str, names: &[String]) -> Vec<String> {
    let tiers = names.iter().flat_map(|name| ["ingest", "store"].map(|tier| (name, tier)));
    let count = |(name, tier): (&String, &str)| {
        let range = "from=00000000000000000000000000&to=7ZZZZZZZZZZZZZZZZZZZZZZZZZ";
        let asked = Exchange::open(name, "GET", &format!("/{tier}/_query?{range}&q={tag}+"));
        let found = asked.map(|exchange| match exchange.finish() {
            answer if answer.status == 200 => answer.ids(),
            other => vec![format!("status {}", other.status)],
        });
        format!("{tag}: {name} {tier}: {:?}", found.map(|ids| (ids.len(), ids.first().cloned(), ids.last().cloned())))
    };
    tiers.map(count).collect()
}

fn kill_in_turn(mut victims: Vec<&mut Node>, stop: &AtomicBool) {
    let mut kills = 0;
    while !stop.load(Ordering::Relaxed) {
        let n = kills % victims.len();
        std::thread::sleep(Duration::from_millis(500 + 130 * (kills as u64 % 5)));
        victims[n].kill9();
        victims[n].restart();
        kills += 1;
    }
    println!("{kills} kills");
}

#[test]
fn a_query_while_a_store_is_killed_is_never_short_and_called_whole() {
    let roles = [Role::Ingest, Role::Ingest, Role::Store, Role::Store, Role::Store];
    let whole = ask_while_others_are_killed(30, &roles, 4);
    assert!(whole > 0, "with two of three stores there, answers are whole");
}

#[test]
fn a_query_while_a_combined_node_is_killed_is_never_short_and_called_whole() {
    ask_while_others_are_killed(37, &[Role::IngestStore; 3], 2);
}

/// 3 ingesters, 3 stores, and lines that all stores' answers must hold.
fn tiers_with_lines(net: u8) -> (Cluster, Ledger) {
    let cluster = Cluster::start(net, &TIERS, &[]);
    let ledger = Ledger::default();
    for (n, ingester) in cluster.nodes.iter().take(3).enumerate() {
        let confirmed = ledger.send(&ingester.durable(), &format!("i{n}"), &numbered("line", 3_000));
        assert!(confirmed, "{} did not confirm", ingester.api());
    }
    (cluster, ledger)
}

fn running_stores(cluster: &Cluster) -> impl Iterator<Item = &Node> {
    cluster.nodes.iter().filter(|node| node.role.stores() && node.is_running())
}

/// Every store's answer is whole and holds the ledger; `oklog query` says 0.
fn assert_whole(cluster: &Cluster, ledger: &Ledger, when: &str) {
    for store in running_stores(cluster) {
        let answer = store.everything();
        assert_eq!((answer.status, answer.complete), (200, true), "{} {when}: {:?}", store.api(), answer.headers);
        assert_eq!(answer.header("x-oklog-complete"), "true", "{when}");
        ledger.assert_held_by(&answer, &format!("{} {when}", store.api()));
        let asked = store.oklog_query();
        assert_eq!(asked.status, Some(0), "{when}: {}", asked.stderr);
        assert_same_lines(&asked.stdout, &answer.body, when);
    }
}

/// Every store's answer says that it may not be whole, and names these; `oklog query` prints it and says 3.
fn assert_partial(cluster: &Cluster, silent: &[String], when: &str) {
    for store in running_stores(cluster) {
        let answer = store.everything();
        assert_eq!((answer.status, answer.complete), (206, true), "{} {when}: {:?}", store.api(), answer.headers);
        assert_ne!(answer.headers.get("x-oklog-complete").map(String::as_str), Some("true"), "{when}");
        let asked = store.oklog_query();
        assert_eq!(asked.status, Some(3), "{when}: {}", asked.stderr);
        // It may be nothing: two stores that are gone may have been those of all records.
        assert_same_lines(&asked.stdout, &answer.body, when);
        for name in silent {
            assert!(names(&answer, name), "{when}: {name} is not named in {:?}", answer.headers);
            assert!(asked.stderr.contains(name.as_str()), "{when}: {name} is not named in {:?}", asked.stderr);
        }
        assert_eq!(asked.stderr.trim_end().lines().count(), 1, "{when}: not one line: {:?}", asked.stderr);
    }
}

fn names(answer: &Answer, name: &str) -> bool {
    answer.headers.iter().any(|(header, value)| header.starts_with("x-oklog-") && value.contains(name))
}

#[test]
fn one_store_may_be_down_and_two_are_missed_by_name() {
    let (mut cluster, ledger) = tiers_with_lines(31);
    assert_whole(&cluster, &ledger, "while all are there");
    cluster.wait_consumed();
    assert_whole(&cluster, &ledger, "after all was consumed");

    for n in 3..6 {
        cluster.nodes[n].kill9();
        let stores: Vec<&Node> = running_stores(&cluster).collect();
        // Not only when the death is known: a store that does not answer now is one that is missed.
        let answer = stores[0].everything();
        assert_eq!(
            (answer.status, answer.complete),
            (200, true),
            "right after a store was killed: {:?}",
            answer.headers
        );
        cluster.wait_agreement(DEATH, &format!("store {n} was killed"));
        assert_whole(&cluster, &ledger, &format!("without store {n}"));
        cluster.nodes[n].restart();
        cluster.wait_agreement(JOIN, &format!("store {n} is back"));
    }

    cluster.nodes[4].kill9();
    cluster.nodes[5].kill9();
    let both = [cluster.nodes[4].api(), cluster.nodes[5].api()];
    assert_partial(&cluster, &both, "right after two stores were killed");
    cluster.wait_agreement(DEATH, "two stores were killed");
    assert_partial(&cluster, &both, "without two stores");
    cluster.nodes[4].restart();
    cluster.wait_agreement(JOIN, "one of them is back");
    assert_whole(&cluster, &ledger, "with one of the two back");
    // A store that was stopped in order is missed like any other: it has records.
    cluster.nodes[4].stop();
    cluster.wait_agreement(JOIN, "it was stopped in order");
    assert_partial(&cluster, &both, "with one killed and one stopped");
    cluster.nodes[4].restart();
    cluster.nodes[5].restart();
    cluster.wait_agreement(JOIN, "both are back");
    assert_whole(&cluster, &ledger, "with all back");
}

#[test]
fn an_ingester_that_drained_is_not_missed() {
    let (mut cluster, ledger) = tiers_with_lines(32);
    cluster.nodes[0].stop();
    cluster.wait_agreement(JOIN, "an ingester has drained and left");
    assert_whole(&cluster, &ledger, "without the ingester that drained");
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "it is back");
    assert_whole(&cluster, &ledger, "with it back");
}

#[test]
fn a_combined_node_that_drained_is_missed_as_a_store_alone() {
    let mut cluster = Cluster::start(36, &[Role::IngestStore; 3], &[]);
    let ledger = Ledger::default();
    for (n, node) in cluster.nodes.iter().enumerate() {
        assert!(ledger.send(&node.durable(), &format!("i{n}"), &numbered("line", 1_000)), "{}", node.api());
    }
    cluster.nodes[0].stop();
    cluster.wait_agreement(JOIN, "a combined node has drained and left");
    assert_whole(&cluster, &ledger, "with two of three stores");
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "it is back");
    assert_whole(&cluster, &ledger, "with all three");
}

#[test]
fn a_killed_ingester_is_missed_until_it_is_back_or_forgotten() {
    let (mut cluster, ledger) = tiers_with_lines(33);
    cluster.wait_consumed();
    cluster.nodes[0].kill9();
    let killed = [cluster.nodes[0].api()];
    assert_partial(&cluster, &killed, "right after the ingester was killed");
    cluster.wait_agreement(DEATH, "an ingester was killed");
    assert_partial(&cluster, &killed, "without the killed ingester");
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "it is back");
    assert_whole(&cluster, &ledger, "with it back");

    cluster.nodes[0].kill9();
    cluster.wait_agreement(DEATH, "it was killed again");
    assert_partial(&cluster, &killed, "without it again");
    // Nobody is forgotten who lives, nor anybody whom nobody knows.
    for name in [cluster.nodes[1].api(), "127.0.33.99:7650".into()] {
        let refused = forget(&cluster.nodes[3], &name);
        refused.assert_one_sentence(refused.status.filter(|status| *status != 0).expect("refused"), &[&name]);
    }
    let said = forget(&cluster.nodes[3], &killed[0]);
    assert_eq!(said.status, Some(0), "{said:?}");
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), said.stderr);
    assert!(text.contains(&killed[0]) && text.contains("lost"), "it says what may be lost: {text:?}");
    for store in running_stores(&cluster) {
        cluster.wait_complete(store, JOIN);
    }
    assert_whole(&cluster, &ledger, "with the ingester forgotten");
    // It may come back all the same.
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "the forgotten one is back");
    let again = ledger.send(&cluster.nodes[0].durable(), "back", &numbered("line", 100));
    assert!(again, "{} takes lines again", cluster.nodes[0].api());
    assert_whole(&cluster, &ledger, "with the forgotten one back");
}

#[test]
fn what_is_known_to_be_missed_survives_a_restart_of_those_who_know_it() {
    let (mut cluster, ledger) = tiers_with_lines(34);
    cluster.wait_consumed();
    cluster.nodes[0].kill9();
    cluster.wait_agreement(DEATH, "an ingester was killed");
    let killed = [cluster.nodes[0].api()];
    // All at once, so that nobody who stays could tell them.
    (1..6).for_each(|n| cluster.nodes[n].kill9());
    (1..6).for_each(|n| cluster.nodes[n].start());
    (1..6).for_each(|n| cluster.nodes[n].wait_ready());
    cluster.wait_agreement(JOIN, "all others were killed and started again");
    assert_partial(&cluster, &killed, "after all others have restarted");
    cluster.nodes[0].restart();
    cluster.wait_agreement(JOIN, "it is back");
    for store in running_stores(&cluster) {
        cluster.wait_complete(store, Duration::from_secs(10));
    }
    assert_whole(&cluster, &ledger, "with it back");
}

fn forget(store: &Node, name: &str) -> crate::harness::command::Finished {
    run(oklog(["forget", "-store", &store.api(), name]), b"")
}

#[test]
fn lines_reach_two_stores_each_and_no_more() {
    let (cluster, ledger) = tiers_with_lines(35);
    cluster.wait_consumed();
    let own = "/store/_query?from=00000000000000000000000000&to=7ZZZZZZZZZZZZZZZZZZZZZZZZZ&q=";
    let lines = ledger.confirmed().values().sum::<usize>();
    within(Duration::from_secs(10), "two stores have each line", || {
        let held: usize = running_stores(&cluster).map(|store| store.get(own).unwrap().stored().count()).sum();
        if held == 2 * lines { Ok(()) } else { Err(format!("{held} copies of {lines} lines")) }
    });
}
