//! What was sent, what was promised, and who has it: the model that everything the cluster shows is held against.
//!
//! A record is promised when a durable connection's close was decided cleanly, when the flusher has synced what the fast
//! port wrote, or when a process has recovered it. A store's promise is its receipt. What was promised stays due until
//! retention may have taken it.

use crate::node::Place;
use oklog::query::params::{Order, Params};
use oklog::record::id::Id;
use oklog::record::stored::records;
use oklog::unit::UnixMillis;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which.
    pub invariant: &'static str,
    /// How.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// What a check gives.
pub type Checked<T = ()> = Result<T, Violation>;

/// A violation.
pub fn broken<T>(invariant: &'static str, detail: impl Into<String>) -> Checked<T> {
    Err(Violation { invariant, detail: detail.into() })
}

/// Acknowledged on the durable port, synced, or recovered: found again.
pub const KEPT: &str = "what was promised is kept";
/// A complete answer misses nothing.
pub const WHOLE: &str = "a complete answer misses nothing that was promised before it was asked for";
/// No answer shows a record twice.
pub const ONCE: &str = "a record is shown once";
/// Nothing appears that nobody sent.
pub const SENT: &str = "nothing is shown that was never sent";
/// Ids are unique.
pub const UNIQUE: &str = "an id is given once";
/// The records of a connection keep their order.
pub const ORDER: &str = "the records of a connection keep their order";
/// A segment goes after R stores have it.
pub const COMMIT: &str = "a committed segment is on R stores";
/// Recovery ends.
pub const RECOVERY: &str = "recovery ends, and comes to the same result again";
/// All is well in the end.
pub const LIVENESS: &str = "when nothing goes wrong any more everything drains and every node answers completely";

/// Which record, in the order in which they were appended.
pub type RecordNo = usize;

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    /// The connection it came by.
    pub connection: usize,
    /// Its number among the records of that connection.
    pub number: usize,
    /// What was sent.
    pub text: Vec<u8>,
    /// The ingester that took it.
    pub place: Place,
    /// The id it got.
    pub id: Id,
    /// When it was promised, as a number that rises with each promise; `None` if it was not yet.
    pub promised: Option<u64>,
    /// Whether its ingester was told that R stores have it.
    pub released: bool,
    /// Disks whose stores have given a receipt for it, a bit for each.
    pub holders: u64,
}

/// Something that was handed to a log that failed before it said that it had taken it: it may turn up all the same.
#[derive(Clone, Debug)]
struct Attempt {
    connection: usize,
    number: usize,
    text: Vec<u8>,
}

/// The model.
#[derive(Default)]
pub struct Ledger {
    records: Vec<Record>,
    by_id: BTreeMap<Id, RecordNo>,
    by_number: BTreeMap<(usize, usize), RecordNo>,
    attempts: BTreeMap<Place, Vec<Attempt>>,
    /// What an ingester has promised and still has to keep.
    kept_by: BTreeMap<Place, BTreeSet<RecordNo>>,
    /// What a store has given a receipt for, by its disk.
    held_by: BTreeMap<usize, BTreeSet<RecordNo>>,
    /// What was in a segment when it was last read.
    segments: BTreeMap<(Place, Id), Vec<RecordNo>>,
    /// How often a record that was never promised was found with zeroes in it. What is on disk does not tell it from one
    /// that was sent so, unless the zeroes end with a page: a disk that loses single sectors of a page shows it.
    pub damaged: Cell<u64>,
    /// Rises with every promise.
    pub promises: u64,
    /// Retention may have taken records that are older.
    horizon: UnixMillis,
}

impl Ledger {
    /// How many records were appended or recovered.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// A record.
    pub fn record(&self, no: RecordNo) -> &Record {
        &self.records[no]
    }

    /// All of them.
    pub fn records(&self) -> impl Iterator<Item = (RecordNo, &Record)> {
        self.records.iter().enumerate()
    }

    /// Retention may take what is older from now on.
    pub fn may_expire(&mut self, horizon: UnixMillis) {
        self.horizon = self.horizon.max(horizon);
    }

    /// Whether a record may be gone by now.
    pub fn is_expired(&self, record: &Record) -> bool {
        record.id.millis() < self.horizon
    }

    /// A batch is handed to a log, which may or may not take it.
    pub fn attempt(&mut self, place: Place, connection: usize, first: usize, texts: &[Vec<u8>]) {
        let attempts = self.attempts.entry(place).or_default();
        for (number, text) in (first..).zip(texts) {
            attempts.push(Attempt { connection, number, text: text.clone() });
        }
    }

    /// The last batch of so many records was taken.
    pub fn attempt_is_over(&mut self, place: Place, records: usize) {
        let attempts = self.attempts.entry(place).or_default();
        attempts.truncate(attempts.len() - records);
    }

    /// A batch was taken: these are its records as stored. `may_step_back`: the clock was set back far.
    pub fn appended(
        &mut self,
        place: Place,
        connection: usize,
        first: usize,
        stored: &[u8],
        may_step_back: bool,
    ) -> Checked<Vec<RecordNo>> {
        let mut taken = Vec::new();
        for (number, stored) in (first..).zip(records(stored)) {
            let Some(id) = stored.id() else { return broken(SENT, "a record was appended without an id") };
            taken.push(self.add(place, connection, number, stored.text().to_vec(), id)?);
            let before = number.checked_sub(1).and_then(|before| self.by_number.get(&(connection, before)));
            if let Some(before) = before.map(|no| &self.records[*no])
                && before.id >= id
                && !may_step_back
            {
                return broken(
                    ORDER,
                    format!("connection {connection}: record {number} has {id}, the one before it {}", before.id),
                );
            }
        }
        Ok(taken)
    }

    fn add(&mut self, place: Place, connection: usize, number: usize, text: Vec<u8>, id: Id) -> Checked<RecordNo> {
        if let Some(other) = self.by_id.get(&id) {
            let other = &self.records[*other];
            return broken(
                UNIQUE,
                format!(
                    "{id} is record {number} of connection {connection} and was {} of {}",
                    other.number, other.connection
                ),
            );
        }
        let no = self.records.len();
        if let Some(other) = self.by_number.insert((connection, number), no) {
            let other = self.records[other].id;
            return broken(
                ONCE,
                format!("record {number} of connection {connection} at node {place} is there as {other} and as {id}"),
            );
        }
        self.by_id.insert(id, no);
        let (promised, released, holders) = (None, false, 0);
        self.records.push(Record { connection, number, text, place, id, promised, released, holders });
        Ok(no)
    }

    /// Records are promised from now on.
    pub fn promise(&mut self, promised: impl IntoIterator<Item = RecordNo>) {
        self.promises += 1;
        for no in promised {
            let record = &mut self.records[no];
            if record.promised.is_none() {
                record.promised = Some(self.promises);
                if !record.released {
                    self.kept_by.entry(record.place).or_default().insert(no);
                }
            }
        }
    }

    /// Looks up what was found. An id that is not known must be an attempt at `place` (if one is given).
    fn look_up(&self, place: Option<Place>, id: Id, text: &[u8]) -> Checked<Option<RecordNo>> {
        if let Some(no) = self.by_id.get(&id) {
            let record = &self.records[*no];
            if record.text != text && record.promised.is_none() && is_torn(&record.text, text) {
                self.damaged.set(self.damaged.get() + 1);
                return Ok(None);
            }
            if record.text != text {
                let (sent, shown) = (show(&record.text), show(text));
                return broken(SENT, format!("{id} is {shown}, but {sent} was sent"));
            }
            return Ok(Some(*no));
        }
        let attempts = || place.and_then(|place| self.attempts.get(&place)).into_iter().flatten();
        if attempts().any(|attempt| attempt.text == text) {
            return Ok(None);
        }
        if attempts().any(|attempt| is_torn(&attempt.text, text)) {
            self.damaged.set(self.damaged.get() + 1);
            return Ok(None);
        }
        broken(SENT, format!("{id} {} was never sent", show(text)))
    }

    /// What is found in an ingest directory: all that its node has promised and was not told to forget. `may_be_more`: what
    /// was attempted and not answered for may be there too.
    pub fn check_ingest(&self, place: Place, found: &[u8]) -> Checked<Vec<RecordNo>> {
        let mut seen = self.check_known(Some(place), found)?;
        seen.sort_unstable();
        let due = self.kept_by.get(&place).into_iter().flatten();
        self.check_due(due, &seen, |record| format!("node {place} has lost it from its ingest tier: {record}"))?;
        Ok(seen)
    }

    /// What is found in a store: all that it has given receipts for, unless retention may have taken it.
    pub fn check_store(&self, disk: usize, found: &[u8]) -> Checked {
        let mut seen = self.check_known(None, found)?;
        seen.sort_unstable();
        let due = self.held_by.get(&disk).into_iter().flatten();
        self.check_due(due, &seen, |record| format!("the store on disk {disk} has lost it: {record}"))
    }

    fn check_known(&self, place: Option<Place>, found: &[u8]) -> Checked<Vec<RecordNo>> {
        let mut seen = Vec::with_capacity(64);
        for stored in records(found) {
            let Some(id) = stored.id() else { return broken(SENT, format!("{} is no record", show(stored.whole))) };
            seen.extend(self.look_up(place, id, stored.text())?);
        }
        Ok(seen)
    }

    fn check_due<'a>(
        &self,
        due: impl Iterator<Item = &'a RecordNo>,
        seen: &[RecordNo],
        lost: impl Fn(String) -> String,
    ) -> Checked {
        for no in due {
            let record = &self.records[*no];
            if seen.binary_search(no).is_err() && !self.is_expired(record) {
                return broken(KEPT, lost(self.describe(*no)));
            }
        }
        Ok(())
    }

    /// A process has recovered its ingest tier. What it has found is promised from now on, attempts that turned up too; not
    /// on a disk whose syncs have failed since the machine was started: what is read there may still never get to the disk.
    pub fn recovered(&mut self, place: Place, found: &[u8], is_promised: bool) -> Checked {
        let mut seen = self.check_ingest(place, found)?;
        let mut attempts = self.attempts.remove(&place).unwrap_or_default();
        for stored in records(found) {
            let Some(id) = stored.id() else { continue };
            let text = stored.text();
            if let Some(no) = self.by_id.get(&id) {
                let record = &mut self.records[*no];
                if record.text != text {
                    // It was never promised, and goes on as it is now.
                    record.text = text.to_vec();
                    seen.push(*no);
                }
                continue;
            }
            let is = |attempt: &Attempt| attempt.text == text;
            let may_be = |attempt: &Attempt| is_torn(&attempt.text, text);
            // A refused batch that was tried again leaves attempts that cannot turn up any more. Short texts are alike: one
            // that is not there yet explains what was found better than one that would then be there twice.
            let is_new = |attempt: &Attempt| !self.by_number.contains_key(&(attempt.connection, attempt.number));
            let at = (attempts.iter().position(|attempt| is(attempt) && is_new(attempt)))
                .or_else(|| attempts.iter().position(is))
                .or_else(|| attempts.iter().position(|attempt| may_be(attempt) && is_new(attempt)))
                .or_else(|| attempts.iter().position(may_be));
            let Some(attempt) = at.map(|at| attempts.remove(at)) else { continue };
            seen.push(self.add(place, attempt.connection, attempt.number, text.to_vec(), id)?);
        }
        if is_promised {
            self.promise(seen);
        }
        Ok(())
    }

    /// A segment was read by a consumer.
    pub fn was_read(&mut self, place: Place, segment: Id, content: &[u8]) -> Checked {
        let known = self.check_known(Some(place), content)?;
        self.segments.insert((place, segment), known);
        Ok(())
    }

    /// A store has given its receipt for a segment.
    pub fn receipt(&mut self, disk: usize, content: &[u8]) -> Checked {
        for no in self.check_known(None, content)? {
            self.records[no].holders |= 1 << disk;
            self.held_by.entry(disk).or_default().insert(no);
        }
        Ok(())
    }

    /// An ingester has agreed to forget a segment.
    pub fn committed(&mut self, place: Place, segment: Id, replicas: usize) -> Checked {
        let Some(content) = self.segments.get(&(place, segment)) else {
            return broken(COMMIT, format!("{segment} of node {place} was never read"));
        };
        for no in content.clone() {
            let record = &mut self.records[no];
            if (record.holders.count_ones() as usize) < replicas {
                let detail = format!("{segment} of node {place}: {}", self.describe(no));
                return broken(COMMIT, detail);
            }
            record.released = true;
            if let Some(kept) = self.kept_by.get_mut(&place) {
                kept.remove(&no);
            }
        }
        Ok(())
    }

    /// A store's disk is gone for good.
    pub fn lose(&mut self, disk: usize) {
        self.held_by.remove(&disk);
    }

    /// An answer that came to its good end, or to none. `promises` is what was promised when it was asked for.
    pub fn check_answer(&self, answer: &Answer<'_>) -> Checked<usize> {
        let Params { from, to, q, invert, limit, order, .. } = answer.params;
        let is_wanted = |id: Id, text: &[u8]| {
            (*from..=*to).contains(&id) && (q.is_empty() || memchr::memmem::find(text, q).is_some() != *invert)
        };
        let mut seen = vec![false; self.records.len()];
        let (mut last, mut count) = (None, 0);
        for stored in records(answer.body) {
            let Some(id) = stored.id() else { return broken(SENT, format!("{} is no record", show(stored.whole))) };
            let is_in_order = last.is_none_or(|last| if *order == Order::Asc { last < id } else { last > id });
            if !is_in_order {
                return broken(ONCE, format!("{id} comes after {last:?}"));
            }
            if !is_wanted(id, stored.text()) {
                return broken(SENT, format!("{id} was not asked for"));
            }
            last = Some(id);
            count += 1;
            if let Some(no) = self.look_up(None, id, stored.text())? {
                seen[no] = true;
            }
        }
        let due = |record: &Record| record.promised.is_some_and(|promised| promised <= answer.promises);
        if limit.is_some_and(|limit| count as u64 > limit) {
            return broken(ONCE, format!("{count} records are shown, but only {limit:?} were wanted"));
        }
        // Where there are as many as were wanted, what lies behind the last one is not missed.
        let last = last.filter(|_| *limit == Some(count as u64));
        let reached = |id: Id| last.is_none_or(|last| if *order == Order::Asc { id < last } else { id > last });
        let wanted = |record: &Record| is_wanted(record.id, &record.text) && reached(record.id);
        for (no, record) in self.records().filter(|_| answer.is_complete) {
            if !seen[no] && due(record) && wanted(record) && !self.is_expired(record) {
                return broken(WHOLE, format!("node {} does not show {}", answer.place, self.describe(no)));
            }
        }
        Ok(count)
    }

    /// Promised records that are not on so many of the stores that are left, given what each of those holds.
    pub fn not_on(&self, replicas: usize, lost: u64, contents: &BTreeMap<Place, BTreeSet<Id>>) -> Vec<RecordNo> {
        let copies = |record: &Record| {
            let gone = (record.holders & lost).count_ones() as usize;
            gone + contents.values().filter(|content| content.contains(&record.id)).count()
        };
        let due = |record: &Record| record.promised.is_some() && !self.is_expired(record);
        self.records().filter(|(_, record)| due(record) && copies(record) < replicas).map(|(no, _)| no).collect()
    }

    /// A record in words.
    pub fn describe(&self, no: RecordNo) -> String {
        let Record { connection, number, place, id, promised, released, holders, text } = &self.records[no];
        let promised = promised.map_or("never".to_string(), |at| format!("as no. {at}"));
        format!(
            "{id} (record {number} of connection {connection} to node {place}, {}; promised {promised}, released: \
             {released}, receipts of {holders:#b})",
            show(text)
        )
    }
}

/// An answer to a query, as its client sees it.
pub struct Answer<'a> {
    /// Who was asked.
    pub place: Place,
    /// What was promised when it was asked.
    pub promises: u64,
    /// What was asked for.
    pub params: &'a Params,
    /// Whether it called itself complete and came to its good end.
    pub is_complete: bool,
    /// What came.
    pub body: &'a [u8],
}

/// Whether what was found is what was sent up to where zeroes begin.
fn is_torn(sent: &[u8], found: &[u8]) -> bool {
    let same = sent.iter().zip(found).take_while(|(sent, found)| sent == found).count();
    found.get(same) == Some(&0) && sent.get(same) != Some(&0)
}

fn show(text: &[u8]) -> String {
    let shown: String = String::from_utf8_lossy(text).chars().take(24).collect();
    format!("{shown:?} of {} bytes", text.len())
}
