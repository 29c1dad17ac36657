//! Lines poured into a cluster over the durable ports.
//!
//! A connection that is cut is not counted as sent: its lines go once more, over a new connection under a new tag.

use crate::harness::Node;
use crate::harness::logs;
use crate::ledger::Ledger;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Senders at work, one for each node, until they are told to end.
pub struct Pour {
    pub ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    cut: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<()>>,
}

impl Pour {
    /// Starts a sender for each of these nodes. Each sends portions of the log files, over and over, `portions` a second
    /// at most.
    pub fn start<'a>(nodes: impl Iterator<Item = &'a Node>, portions_per_second: u32) -> Pour {
        let (ledger, stop, cut) =
            (Arc::<Ledger>::default(), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = |(n, node): (usize, &Node)| {
            let (ledger, stop, cut, address) = (ledger.clone(), stop.clone(), cut.clone(), node.durable());
            std::thread::spawn(move || {
                pour(n, &address, &ledger, &stop, &cut, Duration::from_secs(1) / portions_per_second)
            })
        };
        let senders = nodes.enumerate().map(start).collect();
        Pour { ledger, stop, cut, senders }
    }

    /// Ends it, when what is being sent is sent. Gives the ledger.
    pub fn finish(self) -> Arc<Ledger> {
        self.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("a sender does not panic"));
        println!("{} connections were cut or refused", self.cut.load(Ordering::Relaxed));
        self.ledger
    }
}

/// Lines of a portion.
const PORTION: usize = 400;

fn pour(n: usize, address: &str, ledger: &Ledger, stop: &AtomicBool, cut: &AtomicUsize, pause: Duration) {
    let all = logs::all_lines();
    let lines: Vec<&[u8]> = all.split_inclusive(|&b| b == b'\n').collect();
    let portions: Vec<Vec<u8>> = lines.chunks(PORTION).map(<[&[u8]]>::concat).collect();
    // Each sender begins elsewhere.
    let mut turn = n * portions.len() / 3;
    let mut connection = 0;
    while !stop.load(Ordering::Relaxed) {
        connection += 1;
        if ledger.send(address, &format!("n{n}c{connection}"), &portions[turn % portions.len()]) {
            turn += 1;
        } else {
            cut.fetch_add(1, Ordering::Relaxed);
        }
        // The rate of the load, not a wait for anything.
        std::thread::sleep(pause);
    }
}
