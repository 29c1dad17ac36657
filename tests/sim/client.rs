//! Connections to the fast and durable ports, both ends: what a producer sends, and what the server does with it.
//!
//! The server's end goes as `ingest/connection.rs` does: cuts what has come, hands it to the log, holds while the log is
//! behind or refuses, and at the end of a durable connection waits until its group commit is settled.

use crate::broken::Wrong;
use crate::ledger::{Checked, SENT, broken};
use crate::node::Place;
use crate::run::{Event, Sim};
use crate::world::{MS, Nanos, Ticket};
use oklog::record::line::{Cut, LineCutter};
use oklog::stream::inbox::Item;
use oklog::world::clock::Clock;
use oklog::world::entropy::Dice;
use std::time::Duration;

/// Which connection.
pub type ConnectionNo = usize;

/// How far the server's end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// It takes what comes.
    Taking,
    /// All was taken; it waits for stable storage.
    Settling,
    /// It has ended.
    Over,
}

/// A connection.
pub struct Connection {
    ticket: Ticket,
    is_durable: bool,
    stream: Vec<u8>,
    /// What its records must be, if all of it arrives.
    lines: Vec<Vec<u8>>,
    sent: usize,
    taken: usize,
    /// The client has said that nothing more comes.
    ended: bool,
    /// The server ends before the client has: it must not look like a promise.
    breaks_off: bool,
    serve_due: bool,
    stage: Stage,
    cutter: LineCutter,
    cut: Cut,
    held: Vec<u8>,
    /// A batch waits to be tried again; what is behind it was not read yet.
    is_held: bool,
    finished: bool,
    /// How many records were appended, and when the last of them.
    records: usize,
    appended: Option<Nanos>,
    /// The slot's bytes before its first batch, and after its last.
    unsynced: Option<(u64, u64)>,
}

impl Connection {
    fn new(ticket: Ticket, number: ConnectionNo, max_record: usize, dice: &mut Dice) -> Connection {
        let mut stream = Vec::new();
        let most = if dice.one_in(6) { 40 } else { 8 };
        let lines = 1 + dice.below(most);
        for line in 0..lines {
            if dice.one_in(25) {
                stream.push(b'\n');
                continue;
            }
            stream.extend_from_slice(format!("c{number} l{line} ").as_bytes());
            let longest = if dice.one_in(20) { 900 } else { 40 };
            let filler = dice.below(longest) as usize;
            stream.extend((0..filler).map(|_| b'a' + dice.below(26) as u8));
            if line + 1 < lines || dice.one_in(2) {
                stream.push(b'\n');
            }
        }
        let lines = cut_naively(&stream, max_record);
        Connection {
            ticket,
            is_durable: dice.one_in(2),
            stream,
            lines,
            sent: 0,
            taken: 0,
            ended: false,
            breaks_off: false,
            serve_due: false,
            stage: Stage::Taking,
            cutter: LineCutter::new(max_record),
            cut: Cut::default(),
            held: Vec::new(),
            is_held: false,
            finished: false,
            records: 0,
            appended: None,
            unsynced: None,
        }
    }

    /// What was cut must be what was sent, in order; the last record may be the beginning of a line that was not sent to
    /// its end.
    fn check_cut(&self, number: ConnectionNo, texts: &[Vec<u8>]) -> Checked {
        for (at, text) in (self.records..).zip(texts) {
            let is_right = match self.lines.get(at) {
                Some(line) if self.finished => line.starts_with(text),
                Some(line) => line == text,
                None => false,
            };
            if !is_right {
                return broken(SENT, format!("record {at} of connection {number} was cut wrongly"));
            }
        }
        Ok(())
    }
}

fn texts_of(cut: &Cut, held: &[u8]) -> Vec<Vec<u8>> {
    cut.records.iter().map(|&(from, to)| held[from as usize..to as usize].to_vec()).collect()
}

/// The records of a stream of bytes, cut in the plainest way.
fn cut_naively(stream: &[u8], max_record: usize) -> Vec<Vec<u8>> {
    let lines = stream.split_inclusive(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_suffix(b"\n").unwrap_or(line));
    lines
        .flat_map(|line| match line.is_empty() {
            true => vec![Vec::new()],
            false => line.chunks(max_record).map(<[u8]>::to_vec).collect(),
        })
        .collect()
}

impl Sim {
    /// A producer connects to some ingester that runs.
    pub fn connect(&mut self) {
        self.who_is_back_is_known();
        let open = self.nodes.iter().filter(|node| {
            node.kind.ingests() && node.stopping.is_none() && !node.is_unmissed && self.members.has_open_doors(node)
        });
        let tickets: Vec<Ticket> = open.map(|node| node.ticket()).collect();
        let Some(ticket) = tickets.get(self.dice.below(tickets.len() as u64) as usize) else { return };
        let number = self.connections.len();
        let connection = Connection::new(*ticket, number, self.shape.max_record, &mut self.dice);
        self.trace(|| {
            let port = if connection.is_durable { "durable" } else { "fast" };
            format!(
                "connection {number} to the {port} port of node {}: {} bytes",
                ticket.place,
                connection.stream.len()
            )
        });
        self.connections.push(connection);
        self.time.after(0, Event::Send(number));
    }

    /// The producer sends some more, or ends, or breaks off.
    pub fn send(&mut self, number: ConnectionNo) {
        let breaks_off = self.dice.one_in(60);
        let connection = &mut self.connections[number];
        if connection.ended {
            return;
        }
        let left = connection.stream.len() - connection.sent;
        let most = if self.dice.one_in(3) { left } else { left.min(1 + self.dice.below(400) as usize) };
        connection.sent += most;
        if connection.sent == connection.stream.len() || breaks_off {
            connection.ended = true;
        } else {
            let gap = if self.dice.one_in(5) { 2_000 * MS } else { 60 * MS };
            self.time.after(self.dice.below(gap), Event::Send(number));
        }
        let delay = self.dice.below(5 * MS);
        self.serve_after(number, delay);
    }

    fn serve_after(&mut self, number: ConnectionNo, delay: u64) {
        let connection = &mut self.connections[number];
        if !connection.serve_due {
            connection.serve_due = true;
            self.time.after(delay, Event::Serve(connection.ticket, number));
        }
    }

    /// The server's end does what it can do now.
    pub fn serve(&mut self, number: ConnectionNo) -> Checked {
        self.connections[number].serve_due = false;
        while self.connections[number].stage == Stage::Taking {
            if self.connections[number].is_held {
                if !self.write(number)? {
                    return Ok(());
                }
                continue;
            }
            if self.connections[number].finished {
                self.all_taken(number);
                break;
            }
            let place = self.connections[number].ticket.place;
            let Some(tier) = self.ingest_tier(place) else { return Ok(()) };
            if tier.log.is_behind() {
                self.serve_after(number, 20 * MS);
                return Ok(());
            }
            let connection = &mut self.connections[number];
            let there = connection.sent - connection.taken;
            if there == 0 {
                if !connection.ended {
                    return Ok(());
                }
                connection.finished = true;
                connection.cutter.finish(&connection.held, &mut connection.cut);
            } else {
                let n = if self.dice.one_in(4) { 1 + self.dice.below(there as u64) as usize } else { there };
                let from = connection.taken;
                connection.held.extend_from_slice(&connection.stream[from..from + n]);
                connection.taken += n;
                connection.cutter.cut(&connection.held, &mut connection.cut);
            }
            connection.is_held = true;
        }
        Ok(())
    }

    /// Hands what was cut to the log. False if it has to be tried again, or the process is gone.
    fn write(&mut self, number: ConnectionNo) -> Checked<bool> {
        let connection = &mut self.connections[number];
        let (ticket, is_durable) = (connection.ticket, connection.is_durable);
        let (cut, held) = (std::mem::take(&mut connection.cut), std::mem::take(&mut connection.held));
        let may_step_back = self.reads_clock(ticket.place, number);
        let connection = &self.connections[number];
        let texts = texts_of(&cut, &held);
        connection.check_cut(number, &texts)?;
        let first = connection.records;
        self.ledger.attempt(ticket.place, number, first, &texts);
        let appended = self.act(ticket.place, |process| {
            let tier = process.ingest.as_ref().expect("an ingester");
            let slot = if is_durable { tier.log.durable_slot() } else { tier.log.fast_slot(number as u64) };
            tier.log.append(slot, &held, &cut)
        })?;
        let connection = &mut self.connections[number];
        (connection.cut, connection.held) = (cut, held);
        match appended {
            Some(Ok(mark)) => {
                connection.held.drain(..connection.cut.consumed);
                connection.is_held = false;
                connection.records += texts.len();
                if is_durable && !texts.is_empty() {
                    let stored = (connection.cut.text_len + 28 * texts.len()) as u64;
                    let from = connection.unsynced.map_or(mark - stored, |(from, _)| from);
                    connection.unsynced = Some((from, mark));
                }
                self.ledger.attempt_is_over(ticket.place, texts.len());
                if !texts.is_empty() {
                    self.was_appended(ticket.place, number, first, &texts, may_step_back)?;
                    if is_durable {
                        self.want_commit(ticket, mark);
                    }
                }
                Ok(true)
            }
            Some(Err(e)) => {
                self.trace(|| format!("node {}: connection {number} is held: {e}", ticket.place));
                self.serve_after(number, 100 * MS);
                Ok(false)
            }
            None => Ok(false),
        }
    }

    /// What the log has published is what it was given, each record with its id.
    fn was_appended(
        &mut self,
        place: Place,
        number: ConnectionNo,
        first: usize,
        texts: &[Vec<u8>],
        may_step_back: bool,
    ) -> Checked {
        let Some(tier) = self.ingest_tier(place) else { return Ok(()) };
        let mut stored = Vec::new();
        for (_, item) in tier.inbox.take(Duration::ZERO).items {
            if let Item::Batch(batch) = item {
                stored.extend_from_slice(&batch);
            }
        }
        let published: Vec<&[u8]> = oklog::record::stored::records(&stored).map(|stored| stored.text()).collect();
        if published != *texts {
            return broken(SENT, format!("connection {number}: the log has not appended what it was given"));
        }
        let taken = self.ledger.appended(place, number, first, &stored, may_step_back)?;
        self.totals.records += taken.len() as u64;
        if let Some(last) = taken.last() {
            let last = self.ledger.record(*last).id.nanos();
            self.id_clocks.entry(place).or_default().highest = last;
            self.connections[number].appended = Some(self.time.now());
        }
        if !self.connections[number].is_durable {
            self.unsynced.entry(place).or_default().extend(taken);
        } else {
            self.unsettled.entry(number).or_default().extend(taken);
        }
        Ok(())
    }

    /// A batch is about to get its ids. Gives whether they may be smaller than those of this connection's last batch: the
    /// clock was set back far since then.
    fn reads_clock(&mut self, place: Place, number: ConnectionNo) -> bool {
        let (now, unix) = (self.time.now(), self.nodes[place].clock.unix());
        let ids = self.id_clocks.entry(place).or_default();
        if unix.0 + STEP.as_nanos() as u64 <= ids.highest.0 {
            (ids.highest, ids.stepped_back) = (unix, Some(now));
        }
        let last = self.connections[number].appended;
        ids.stepped_back.is_some_and(|at| last.is_none_or(|last| last <= at))
    }

    fn want_commit(&mut self, ticket: Ticket, mark: u64) {
        let delay = self.dice.below(4 * MS);
        let Some(tier) = self.ingest_tier(ticket.place) else { return };
        tier.log.durable_slot().group.want(mark);
        if !std::mem::replace(&mut tier.commit_due, true) {
            self.time.after(delay, Event::GroupCommit(ticket));
        }
    }

    fn all_taken(&mut self, number: ConnectionNo) {
        let connection = &mut self.connections[number];
        connection.stage = if connection.is_durable { Stage::Settling } else { Stage::Over };
        self.settle(number);
    }

    /// Looks whether a durable connection may be closed, and how.
    fn settle(&mut self, number: ConnectionNo) {
        let connection = &mut self.connections[number];
        if connection.stage != Stage::Settling {
            return;
        }
        let (place, unsynced) = (connection.ticket.place, connection.unsynced);
        let outcome = match (unsynced, self.ingest_tier(place)) {
            (None, _) => Some(Ok(())),
            (Some((from, mark)), Some(tier)) => tier.log.durable_slot().group.outcome(from, mark),
            (Some(_), None) => None,
        };
        let outcome = if self.shape.wrong == Some(Wrong::ConfirmedUnsynced) { Some(Ok(())) } else { outcome };
        let Some(outcome) = outcome else { return };
        self.connections[number].stage = Stage::Over;
        let records = self.unsettled.remove(&number).unwrap_or_default();
        self.trace(|| match &outcome {
            Ok(()) => format!("connection {number} is closed cleanly: {} records are promised", records.len()),
            Err(e) => format!("connection {number} is reset: {e}"),
        });
        match outcome {
            Ok(()) if self.connections[number].breaks_off => {}
            Ok(()) => self.ledger.promise(records),
            Err(_) => self.nodes[place].is_suspect = true,
        }
    }

    /// One sync for all durable connections of a node.
    pub fn group_commit(&mut self, place: Place) -> Checked {
        let Some(tier) = self.ingest_tier(place) else { return Ok(()) };
        tier.commit_due = false;
        let done = self.act(place, |process| {
            let tier = process.ingest.as_ref().expect("an ingester");
            oklog::ingest::durable::sync_once(&tier.log, tier.log.durable_slot());
        })?;
        if done.is_none() {
            return Ok(());
        }
        let life = self.nodes[place].life;
        let mine = |c: &Connection| c.stage == Stage::Settling && c.ticket == Ticket { place, life };
        let settling: Vec<ConnectionNo> = (0..self.connections.len()).filter(|n| mine(&self.connections[*n])).collect();
        settling.into_iter().for_each(|number| self.settle(number));
        Ok(())
    }

    /// The server takes what has come, and no more.
    pub fn hang_up(&mut self, ticket: Ticket) -> Checked {
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            if connection.ticket == ticket && connection.stage == Stage::Taking && !connection.ended {
                (connection.ended, connection.breaks_off) = (true, true);
                self.serve_after(number, 0);
            }
        }
        Ok(())
    }

    /// Whether all connections to a process are over.
    pub fn have_hung_up(&self, ticket: Ticket) -> bool {
        self.connections.iter().all(|c| c.stage == Stage::Over || c.ticket != ticket)
    }

    /// Whether every connection has ended, one way or the other.
    pub fn producers_are_done(&self) -> bool {
        let runs = |ticket: Ticket| self.nodes[ticket.place].runs(ticket.life);
        self.connections.iter().all(|c| c.stage == Stage::Over || !runs(c.ticket))
    }
}

/// A clock that is behind by more than this was corrected: ids go back to the true time.
const STEP: Duration = oklog::record::id::LARGEST_STEP_BACK;
