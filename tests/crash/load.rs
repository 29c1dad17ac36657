//! Load on ingesters that may end at any moment: senders to their durable and their fast ports, and the ledger they keep.
//!
//! The tags of connections begin with the number of the epoch in which they were opened, so that one query finds those of
//! an epoch alone.

use crate::ledger::Ledger;
use oklog::world::entropy::Dice;
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The ports of one ingester.
#[derive(Clone)]
pub struct Target {
    pub durable: String,
    pub fast: String,
}

/// Senders at work until they are told to end: for each target two to the durable port, one to the fast one.
pub struct Load {
    pub ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    senders: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    epoch: AtomicUsize,
    stop: AtomicBool,
}

/// How the tags of an epoch begin.
pub fn prefix(epoch: usize) -> String {
    format!("k{epoch:04}-")
}

impl Load {
    pub fn start(seed: u64, targets: &[Target]) -> Load {
        let (ledger, shared) = (Arc::<Ledger>::default(), Arc::<Shared>::default());
        let mut dice = Dice::new(seed);
        let mut senders = Vec::new();
        for (n, target) in targets.iter().enumerate() {
            for kind in ["a", "b", "fast"] {
                let address = if kind == "fast" { &target.fast } else { &target.durable };
                let (ledger, shared, address, dice) =
                    (ledger.clone(), shared.clone(), address.clone(), Dice::new(dice.roll()));
                let name = format!("{n}{kind}");
                senders.push(std::thread::spawn(move || {
                    Sender { name, address, ledger, shared, dice }.run(kind == "fast")
                }));
            }
        }
        Load { ledger, shared, senders }
    }

    /// Begins the next epoch and gives its number. Connections that are open now keep theirs.
    pub fn next_epoch(&self) -> usize {
        self.shared.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Ends it, when what is being sent is sent. Gives the ledger.
    pub fn finish(self) -> Arc<Ledger> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.senders.into_iter().for_each(|sender| sender.join().expect("a sender does not panic"));
        self.ledger
    }
}

struct Sender {
    name: String,
    address: String,
    ledger: Arc<Ledger>,
    shared: Arc<Shared>,
    dice: Dice,
}

impl Sender {
    fn run(mut self, fast: bool) {
        for connection in 0.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let tag = format!("{}{}.{connection}", prefix(self.shared.epoch.load(Ordering::Relaxed)), self.name);
            if fast {
                self.send_fast(&tag);
            } else {
                let lines = self.lines();
                self.ledger.send(&self.address, &tag, &lines);
            }
            // The rate of the load, not a wait for anything.
            std::thread::sleep(Duration::from_millis(1 + self.dice.below(8)));
        }
    }

    /// Lines for one durable connection: mostly few, now and then many, or a long one among them.
    fn lines(&mut self) -> Vec<u8> {
        let count = if self.dice.one_in(20) { 1_500 } else { 1 + self.dice.below(60) };
        let long = self.dice.one_in(30);
        let mut lines = Vec::new();
        for number in 0..count {
            self.line(number, &mut lines);
        }
        if long {
            lines.extend(std::iter::repeat_n(b'x', 300_000));
            lines.extend_from_slice(b" and on\n");
        }
        lines
    }

    fn line(&mut self, number: u64, lines: &mut Vec<u8>) {
        let length = self.dice.below(160) as usize;
        // Writing to memory does not fail.
        let _ = write!(lines, "line {number} {:x} ", self.dice.roll());
        lines.extend(std::iter::repeat_n(b'.', length));
        lines.push(b'\n');
    }

    /// One connection that lives for a while, on which lines come a few at a time.
    fn send_fast(&mut self, tag: &str) {
        let Ok(mut stream) = TcpStream::connect(&self.address) else { return };
        stream.set_nodelay(true).expect("a socket takes options");
        stream.set_write_timeout(Some(Duration::from_secs(30))).expect("a socket takes options");
        let mut lines = Vec::new();
        (0..1 + self.dice.below(400)).for_each(|number| self.line(number, &mut lines));
        let tagged = self.ledger.note(tag, &lines);
        let each: Vec<&[u8]> = tagged.split_inclusive(|&b| b == b'\n').collect();
        for portion in each.chunks(1 + self.dice.below(12) as usize) {
            if self.shared.stop.load(Ordering::Relaxed) || stream.write_all(&portion.concat()).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Whoever cut the connection has closed it already.
        let _ = stream.shutdown(Shutdown::Write);
    }
}
