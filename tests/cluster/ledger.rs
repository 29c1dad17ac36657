//! The ledger: what was sent, and what of it has to be found from now on.
//!
//! Each connection has a tag of its own in front of each of its lines, so an answer can be taken apart again. What must be
//! found of a connection is a number of its first lines: all of them once a durable port has closed it cleanly, and on any
//! port those that a whole answer has shown.

use crate::harness::http::Answer;
use crate::harness::logs;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One connection.
struct Sent {
    /// All its lines, each with its tag and an LF.
    lines: Arc<Vec<u8>>,
    /// Whether it was closed cleanly: all is on stable storage.
    confirmed: bool,
    /// How many lines a whole answer has shown.
    shown: usize,
}

impl Sent {
    /// How many lines must be found.
    fn owed(&self) -> usize {
        if self.confirmed { count_lines(&self.lines) } else { self.shown }
    }
}

/// What was sent, by tag.
#[derive(Default)]
pub struct Ledger {
    sent: Mutex<BTreeMap<String, Sent>>,
    /// Whether nodes are asked to stop: they keep what came of a line that they cut off.
    torn_ends: bool,
}

/// How many lines of each connection must be found, at a moment.
pub type Owed = BTreeMap<String, usize>;

impl Ledger {
    /// A ledger for nodes that are asked to stop: a connection that was cut may end with the beginning of a line.
    pub fn with_torn_ends() -> Ledger {
        Ledger { torn_ends: true, ..Ledger::default() }
    }

    /// A test that has failed elsewhere is not to fail here too.
    fn sent(&self) -> MutexGuard<'_, BTreeMap<String, Sent>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is confirmed by now.
    pub fn confirmed(&self) -> Owed {
        let sent = self.sent();
        let confirmed = sent.iter().filter(|(_, sent)| sent.confirmed);
        confirmed.map(|(tag, sent)| (tag.clone(), sent.owed())).collect()
    }

    /// What must be found by now of the connections whose tags begin so.
    pub fn owed(&self, prefix: &str) -> Owed {
        let sent = self.sent();
        let owed = sent.iter().filter(|(tag, sent)| tag.starts_with(prefix) && sent.owed() > 0);
        owed.map(|(tag, sent)| (tag.clone(), sent.owed())).collect()
    }

    /// Notes that these lines are about to be sent over one connection. Gives them with their tags.
    pub fn note(&self, tag: &str, lines: &[u8]) -> Arc<Vec<u8>> {
        let tagged: Vec<u8> =
            lines.split_inclusive(|&b| b == b'\n').flat_map(|line| [tag.as_bytes(), b" ", line].concat()).collect();
        let lines = Arc::new(tagged);
        let sent = Sent { lines: lines.clone(), confirmed: false, shown: 0 };
        assert!(self.sent().insert(tag.into(), sent).is_none(), "the tag {tag} was given twice");
        lines
    }

    /// Sends these lines over one connection. Gives whether they were confirmed. What was refused is not noted.
    pub fn send(&self, address: &str, tag: &str, lines: &[u8]) -> bool {
        let Ok(stream) = TcpStream::connect(address) else { return false };
        // Noted before: lines of a connection that is cut may be found too.
        let tagged = self.note(tag, lines);
        let confirmed = send_durably(stream, address, &tagged).is_ok();
        if let (true, Some(sent)) = (confirmed, self.sent().get_mut(tag)) {
            sent.confirmed = true;
        }
        confirmed
    }

    /// Fails the test unless the answer holds every confirmed connection whole, once and in order, and of every other one
    /// nothing but a beginning, once and in order.
    pub fn assert_held_by(&self, answer: &Answer, what: &str) {
        let found = self.assert_shown(answer, &self.owed(""), what);
        println!("{what}: {} connections, {found} lines", self.sent().len());
    }

    /// Fails the test unless this answer, which calls itself whole, holds what was owed before it was asked for, and
    /// beyond that nothing but beginnings of connections, once and in order. What it has shown is owed from now on. Gives
    /// how many lines it has.
    pub fn assert_shown(&self, answer: &Answer, owed: &Owed, what: &str) -> usize {
        let found = by_tag(answer, what);
        let mut sent = self.sent();
        for (tag, lines) in &found {
            if self.torn_ends && is_torn_tag(&sent, tag, lines) {
                continue;
            }
            let sent = sent.get_mut(tag).unwrap_or_else(|| panic!("{what}: nobody sent {tag:?}"));
            let torn = self.torn_ends && !sent.confirmed && sent.lines.starts_with(&lines[..lines.len() - 1]);
            if !torn && !sent.lines.starts_with(lines) {
                let part = &sent.lines[..lines.len().min(sent.lines.len())];
                logs::assert_same_lines(lines, part, &format!("{what}: the beginning of {tag}"));
            }
            sent.shown = sent.shown.max(count_lines(lines) - usize::from(!sent.lines.starts_with(lines)));
        }
        let lacks = lacking(&found, owed);
        let all: usize = owed.values().sum();
        let lost: usize = lacks.values().sum();
        let some: Vec<_> = lacks.iter().take(5).collect();
        assert!(lacks.is_empty(), "{what}: {lost} of {all} owed lines are missed, among them of {some:?}");
        found.values().map(|lines| count_lines(lines)).sum()
    }

    /// Fails the test where an answer that does not call itself whole shows what nobody sent, or shows it twice, or out
    /// of order.
    pub fn assert_part(&self, answer: &Answer, what: &str) {
        let sent = self.sent();
        for (tag, lines) in by_tag(answer, what) {
            let sent = sent.get(&tag).unwrap_or_else(|| panic!("{what}: nobody sent {tag:?}"));
            let mut rest = sent.lines.split_inclusive(|&b| b == b'\n');
            for line in lines.split_inclusive(|&b| b == b'\n') {
                let start = String::from_utf8_lossy(&line[..line.len().min(200)]);
                assert!(rest.any(|other| other == line), "{what}: {tag}: {start:?} is not in its turn");
            }
        }
    }
}

/// Whether that is a line that was cut off within its tag, once, of a connection that was not confirmed.
fn is_torn_tag(sent: &BTreeMap<String, Sent>, tag: &str, lines: &[u8]) -> bool {
    let Some(torn) = tag.strip_suffix('\n').filter(|_| count_lines(lines) == 1) else { return false };
    sent.range(torn.to_string()..).take_while(|(tag, _)| tag.starts_with(torn)).any(|(_, sent)| !sent.confirmed)
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

fn lacking(found: &BTreeMap<String, Vec<u8>>, owed: &Owed) -> Owed {
    let lacks = |tag: &str, count: usize| count.saturating_sub(found.get(tag).map_or(0, |lines| count_lines(lines)));
    let lacking = owed.iter().map(|(tag, count)| (tag.clone(), lacks(tag, *count)));
    lacking.filter(|(_, lines)| *lines > 0).collect()
}

/// The connections of which an answer lacks lines, each with how many.
pub fn missed(answer: &Answer, owed: &Owed, what: &str) -> Owed {
    lacking(&by_tag(answer, what), owed)
}

/// Sends over a connection to a durable port: an error unless it was closed cleanly after all was sent.
fn send_durably(mut stream: TcpStream, address: &str, lines: &[u8]) -> io::Result<()> {
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
