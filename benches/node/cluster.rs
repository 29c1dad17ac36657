//! Three nodes on one machine, with two copies of everything.

use crate::Outcome;
use crate::bench::Bench;
use crate::consume::settle;
use crate::limits::touch_memory;
use crate::process::{Node, Role, wait_for};
use crate::start;
use crate::table::Row;
use crate::tools::{free_port, pushed};
use std::process::Stdio;
use std::time::Instant;

/// What old OK Log reached here in this setup, MB/s until complete: 22 to 24.
const OLD: f64 = 23.0;

/// Three nodes of both tiers that know each other, on 127.0.0.1 to 127.0.0.3.
fn three(bench: &Bench) -> Outcome<Vec<Node>> {
    let ips = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    let mut clusters = Vec::new();
    for ip in ips {
        clusters.push(format!("{ip}:{}", free_port(ip)?));
    }
    let mut nodes = Vec::new();
    for (number, ip) in ips.iter().enumerate() {
        let mut flags = vec![
            format!("-cluster=tcp://{}", clusters[number]),
            format!("-cluster.advertise-addr={}", clusters[number]),
            "-store.segment-replication-factor=2".to_string(),
        ];
        let others = clusters.iter().enumerate().filter(|(other, _)| *other != number);
        flags.extend(others.map(|(_, address)| format!("-peer={address}")));
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let dir = bench.place.fresh(&format!("node-{number}"))?;
        nodes.push(Node::launch(&bench.place, &bench.options.binary, Role::Both, &dir, ip, &flags)?);
    }
    for node in &mut nodes {
        node.wait_ready()?;
        let mut client = node.client();
        wait_for("the nodes know each other", || {
            (client.metrics().ok()?.sum("oklog_cluster_size", "") == 3.0).then_some(())
        })?;
    }
    Ok(nodes)
}

fn remove(bench: &Bench) {
    (0..3).for_each(|number| bench.place.remove(&format!("node-{number}")));
}

/// A third of the corpus to each node, two connections each, all at the same time, until every node has consumed everything.
pub fn consumed(bench: &mut Bench) -> Outcome<()> {
    let corpus = bench.corpus()?;
    let thirds = corpus.cut(&bench.place.fresh("thirds")?, 3)?;
    let (mut rates, mut cpu, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.options.long_runs() {
        let nodes = three(bench)?;
        touch_memory(4 * bench.options.size);
        let before: f64 = nodes.iter().map(Node::cpu_s).sum();
        let start = Instant::now();
        let mut pushes = Vec::new();
        for (node, third) in nodes.iter().zip(&thirds) {
            let mut command = bench.tools.push_command(node.fast(), third, 2);
            pushes.push(command.stdout(Stdio::piped()).spawn()?);
        }
        for push in pushes {
            pushed(&String::from_utf8_lossy(&push.wait_with_output()?.stdout))?;
        }
        let mut clients: Vec<_> = nodes.iter().map(Node::client).collect();
        let settled = settle(&mut clients, corpus.lines)?;
        rates.push(corpus.mb() / settled.consumed.duration_since(start).as_secs_f64());
        cpu.push((nodes.iter().map(Node::cpu_s).sum::<f64>() - before) / corpus.gb());
        peaks.push(nodes.iter().map(Node::peak).fold(0.0, f64::max));
        drop(nodes);
        remove(bench);
    }
    bench.place.remove("thirds");
    bench.add(Row::against("three-nodes", "MB/s", "old, 23", OLD, rates).cpu(cpu).peak(peaks).note("peak of one node"));
    Ok(())
}

/// One of the three, when there is nothing to do.
pub fn idle(bench: &mut Bench) -> Outcome<()> {
    let nodes = three(bench)?;
    start::watch(bench, "idle-of-three", &nodes[0])?;
    drop(nodes);
    remove(bench);
    Ok(())
}
