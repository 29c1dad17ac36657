//! Lines poured into a cluster over the durable ports, and the ledger of what was confirmed.
//!
//! Each connection has a tag of its own in front of each of its lines, so an answer can be taken apart again. A connection
//! that is cut is not counted as sent: its lines go once more, over a new connection under a new tag.

use crate::harness::Node;
use crate::harness::http::Answer;
use crate::harness::logs;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// One connection.
struct Sent {
    /// All its lines, each with its tag and an LF.
    lines: Vec<u8>,
    /// Whether it was closed cleanly: all is on stable storage.
    confirmed: bool,
}

/// What was sent, by tag.
#[derive(Default)]
pub struct Ledger {
    sent: Mutex<BTreeMap<String, Sent>>,
}

/// How many lines each confirmed connection has, at a moment.
pub type Confirmed = BTreeMap<String, usize>;

impl Ledger {
    /// What is confirmed by now.
    pub fn confirmed(&self) -> Confirmed {
        let sent = self.sent.lock().unwrap();
        let confirmed = sent.iter().filter(|(_, sent)| sent.confirmed);
        confirmed.map(|(tag, sent)| (tag.clone(), count_lines(&sent.lines))).collect()
    }

    /// Sends these lines over one connection. Gives whether they were confirmed.
    pub fn send(&self, address: &str, tag: &str, lines: &[u8]) -> bool {
        let tagged: Vec<u8> =
            lines.split_inclusive(|&b| b == b'\n').flat_map(|line| [tag.as_bytes(), b" ", line].concat()).collect();
        // Noted before: lines of a connection that is cut may be found too.
        self.sent.lock().unwrap().insert(tag.into(), Sent { lines: tagged.clone(), confirmed: false });
        let confirmed = send_durably(address, &tagged).is_ok();
        if let (true, Some(sent)) = (confirmed, self.sent.lock().unwrap().get_mut(tag)) {
            sent.confirmed = true;
        }
        confirmed
    }

    /// Fails the test unless the answer holds every confirmed connection whole, once and in order, and of every other one
    /// nothing but a beginning, once and in order.
    pub fn assert_held_by(&self, answer: &Answer, what: &str) {
        let found = by_tag(answer, what);
        let sent = self.sent.lock().unwrap();
        let lost: usize = sent
            .iter()
            .filter(|(_, sent)| sent.confirmed)
            .map(|(tag, sent)| {
                count_lines(&sent.lines).saturating_sub(found.get(tag).map_or(0, |lines| count_lines(lines)))
            })
            .sum();
        let all: usize = sent.values().filter(|sent| sent.confirmed).map(|sent| count_lines(&sent.lines)).sum();
        println!("{what}: {} connections, {all} confirmed lines, {lost} of them missed", sent.len());
        for (tag, lines) in &found {
            let sent = sent.get(tag).unwrap_or_else(|| panic!("{what}: nobody sent {tag:?}"));
            if !sent.confirmed {
                let part = &sent.lines[..lines.len().min(sent.lines.len())];
                logs::assert_same_lines(lines, part, &format!("{what}: the beginning of {tag}, which was cut"));
            }
        }
        for (tag, sent) in sent.iter().filter(|(_, sent)| sent.confirmed) {
            let lines = found.get(tag).map_or(&[][..], Vec::as_slice);
            logs::assert_same_lines(
                lines,
                &sent.lines,
                &format!("{what}: {tag}, which was confirmed ({lost} lines missed in all)"),
            );
        }
    }
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&b| b == b'\n').count()
}

/// The lines of an answer, by their tags. Fails the test where ids do not ascend strictly.
fn by_tag(answer: &Answer, what: &str) -> BTreeMap<String, Vec<u8>> {
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut last: &[u8] = b"";
    for (id, line) in answer.stored() {
        assert!(last < id, "{what}: {} after {}", String::from_utf8_lossy(id), String::from_utf8_lossy(last));
        last = id;
        let tag = String::from_utf8_lossy(line.split(|&b| b == b' ').next().unwrap_or_default()).into_owned();
        found.entry(tag).or_default().extend_from_slice(line);
    }
    found
}

/// The confirmed connections of which an answer lacks lines, each with how many.
pub fn missed(answer: &Answer, confirmed: &Confirmed, what: &str) -> Confirmed {
    let found = by_tag(answer, what);
    let lacks = |tag: &str, count: usize| count.saturating_sub(found.get(tag).map_or(0, |lines| count_lines(lines)));
    let missed = confirmed.iter().map(|(tag, count)| (tag.clone(), lacks(tag, *count)));
    missed.filter(|(_, lines)| *lines > 0).collect()
}

/// One connection to a durable port: an error unless it was closed cleanly after all was sent.
fn send_durably(address: &str, lines: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    // A node that does not answer for so long has lost the connection, as far as the sender is concerned.
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(lines)?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0; 16])? {
        0 => Ok(()),
        n => panic!("{address} wrote {n} bytes to a client that does not read"),
    }
}

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
