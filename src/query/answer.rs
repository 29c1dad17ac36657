//! What all answers to queries have in common: how a request is read, and how records leave.

use super::blocks::{Question, Wanted};
use super::needle::Matcher;
use super::newest::{Descending, Newest};
use super::node::Node;
use super::params::{Order, Params};
use super::pool::Line;
use super::scan::{Direction, PartSource, Scan, Setup};
use crate::http::{BodyWriter, Cancel, Reply, Request};
use crate::merge::k_way::{Merge, MergeError, Source};
use crate::ops::metrics::Counter;
use crate::segment::readable::Readable;
use crate::segment::sealed::filter::Formula;
use crate::unit::{Monotonic, UnixMillis, show_duration};
use crate::world::clock::Clock;
use memchr::memchr_iter;
use std::io::{self, Write};
use std::time::Duration;

/// Bytes that are merged at a time, roughly.
const RUN: usize = 64 << 10;

/// The longest time found records wait for more before they are sent.
const LINGER: Duration = Duration::from_millis(5);

/// The longest time that indexes are asked before the head of an answer leaves.
const LONG_LOOK: Duration = Duration::from_millis(20);

/// The same where the first records found may be enough.
const SHORT_LOOK: Duration = Duration::from_millis(2);

/// A request that was understood.
pub(super) struct Query {
    pub params: Params,
    pub matcher: Matcher,
    /// What a text must hold for a match.
    pub formula: Formula,
    pub head_only: bool,
    pub cancel: Cancel,
    pub began: Monotonic,
}

impl Query {
    /// Reads a request. An error is one sentence for a 400.
    pub(super) fn read(request: &Request, now: UnixMillis, began: Monotonic) -> Result<Query, String> {
        let params = Params::parse(|name| request.param_bytes(name), now).map_err(|e| e.to_string())?;
        Query::new(params, request.method() == "HEAD", request.cancel().clone(), began)
    }

    /// What these parameters ask. An error is one sentence.
    pub(super) fn new(params: Params, head_only: bool, cancel: Cancel, began: Monotonic) -> Result<Query, String> {
        let matcher = Matcher::new(&params.q, params.regex, params.ignore_case, params.invert);
        let matcher = matcher.map_err(|e| e.to_string())?;
        let formula = matcher.formula();
        Ok(Query { params, matcher, formula, head_only, cancel, began })
    }

    /// The headers that every answer has. `now` is when they are made.
    pub(super) fn headers(&self, told: &Told, now: Monotonic) -> Vec<(&'static str, String)> {
        let mut headers = self.params.headers().to_vec();
        headers.extend([
            ("X-Oklog-Nodes-Queried", told.nodes.to_string()),
            ("X-Oklog-Segments-Queried", told.segments.to_string()),
            ("X-Oklog-Max-Data-Set-Size", told.reach.to_string()),
            ("X-Oklog-Bytes-Skipped", told.skipped.to_string()),
            ("X-Oklog-Error-Count", told.silent.to_string()),
            ("X-Oklog-Duration", show_duration(now.since(self.began))),
            ("X-Oklog-Complete", told.is_complete.to_string()),
        ]);
        headers
    }

    /// Asks the indexes of sealed parts before the head of the answer leaves, for as long as that may keep it: what is left
    /// then is asked by those who scan. Without records to send, all of them are asked. Gives what is to be read, and how many
    /// bytes of text are excluded.
    pub(super) fn look_ahead(&self, parts: Vec<Readable>, clock: &dyn Clock) -> (Vec<Wanted>, u64) {
        let question = Question { formula: &self.formula, from: self.params.from, to: self.params.to };
        let most = if self.params.limit.is_some() { SHORT_LOOK } else { LONG_LOOK };
        let until = clock.now() + most;
        question.look_ahead(parts, || self.head_only || (!matches!(self.formula, Formula::Any) && clock.now() < until))
    }

    /// Sources that scan these parts for it.
    pub(super) fn scan(&self, parts: Vec<Wanted>, line: Line, scanned: Counter) -> Vec<PartSource> {
        let direction = match self.params.order {
            Order::Asc => Direction::Forward,
            Order::Desc => Direction::Backward,
        };
        Scan::sources(Setup {
            parts,
            formula: self.formula.clone(),
            from: self.params.from,
            to: self.params.to,
            direction,
            read_ahead: self.params.limit.is_none() || !self.matcher.takes_all(),
            matcher: self.matcher.clone(),
            line,
            cancel: self.cancel.clone(),
            scanned,
        })
    }

    /// Merges sources in its order.
    pub(super) fn merge<S: Source + Descending + 'static>(&self, sources: Vec<S>) -> Box<dyn Runs> {
        match self.params.order {
            // Own segments were checked when they were written; what comes from others is checked as it comes.
            Order::Asc => Box::new(Merge::trusting(sources)),
            Order::Desc => Box::new(Newest::new(sources)),
        }
    }
}

/// What the head of an answer tells.
pub(super) struct Told {
    /// How many nodes were asked.
    pub nodes: usize,
    /// How many segments they read.
    pub segments: u64,
    /// How many bytes are in those.
    pub reach: u64,
    /// How many of them the indexes of sealed segments are known to exclude.
    pub skipped: u64,
    /// How many nodes are silent.
    pub silent: usize,
    /// Whether nothing can be missing.
    pub is_complete: bool,
}

/// A merge in either order.
pub(super) trait Runs {
    /// Appends whole records, at least one. `false` at the end. After an error what was appended is sound, and the source
    /// at fault is left out from then on.
    fn next_run(&mut self, out: &mut Vec<u8>) -> Result<bool, MergeError>;
}

impl<S: Source> Runs for Merge<S> {
    fn next_run(&mut self, out: &mut Vec<u8>) -> Result<bool, MergeError> {
        // One byte is enough to go on with: a hit leaves before the next piece is scanned.
        Merge::next_run(self, out, 1)
    }
}

impl<S: Descending> Runs for Newest<S> {
    fn next_run(&mut self, out: &mut Vec<u8>) -> Result<bool, MergeError> {
        self.next_record(out)
    }
}

/// A body on its way out, and what of it has left.
pub(super) struct Body<'a> {
    writer: BodyWriter,
    clock: &'a dyn Clock,
    flushed: Monotonic,
    /// How many records have been sent.
    pub records: u64,
}

impl<'a> Body<'a> {
    /// Sends the head, at once: who scatters a query waits for heads, and a scan may be long before it finds anything.
    pub(super) fn begin(
        reply: Reply,
        status: u16,
        headers: &[(&str, String)],
        clock: &'a dyn Clock,
    ) -> io::Result<Body<'a>> {
        let mut writer = reply.stream(status, headers)?;
        writer.flush()?;
        Ok(Body { writer, clock, flushed: Monotonic::default(), records: 0 })
    }

    /// Sends what is merged, at most `limit` records. `on_break` is told of a source that is left out from then on, and
    /// says by an error that the answer cannot go on without it.
    pub(super) fn write(
        &mut self,
        runs: &mut dyn Runs,
        limit: Option<u64>,
        on_break: impl FnMut(MergeError) -> io::Result<()>,
    ) -> io::Result<()> {
        pour(runs, limit, |run, records| self.send(run, records), on_break)
    }

    fn send(&mut self, run: &[u8], records: u64) -> io::Result<()> {
        self.records += records;
        self.writer.write_all(run)?;
        let now = self.clock.now();
        if now.since(self.flushed) >= LINGER {
            self.flushed = now;
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Ends the body as `written` says, and counts it: under the first name if it is what its head says, under the second if
    /// its rest cannot be had. Then, and where the client is gone, it ends without its final chunk, so that nobody takes a
    /// part for the whole.
    pub(super) fn end(
        self,
        node: &Node,
        written: io::Result<()>,
        cancel: &Cancel,
        (good, bad): (&str, &str),
    ) -> io::Result<()> {
        match written {
            Ok(()) => {
                node.count(good);
                self.writer.finish()
            }
            Err(e) if cancel.is_cancelled() || is_gone(&e) => {
                node.count("cancelled");
                Ok(())
            }
            Err(e) => {
                node.count(bad);
                log::error!("a query broke off: {e}");
                Err(e)
            }
        }
    }
}

/// Gives what is merged to `send`, at most `limit` records, in runs of whole ones with their number. `on_break` is told of a
/// source that is left out from then on, and says by an error that it cannot go on without it.
pub(super) fn pour(
    runs: &mut dyn Runs,
    limit: Option<u64>,
    mut send: impl FnMut(&[u8], u64) -> io::Result<()>,
    mut on_break: impl FnMut(MergeError) -> io::Result<()>,
) -> io::Result<()> {
    let mut run = Vec::with_capacity(2 * RUN);
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        run.clear();
        let step = runs.next_run(&mut run);
        let (taken, records) = front(&run, left);
        left -= records;
        if taken > 0 {
            send(&run[..taken], records)?;
        }
        match step {
            Ok(true) => {}
            Ok(false) => break,
            // What broke after the last record that is wanted is not missed.
            Err(_) if left == 0 => {}
            Err(error) => on_break(error)?,
        }
    }
    Ok(())
}

/// Whether it was the client's going away that broke the writing. A source's break never looks so: it comes as another
/// kind of error.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// At most `limit` records at the front of a block: their bytes, and how many they are.
fn front(block: &[u8], limit: u64) -> (usize, u64) {
    // Counting alone is many times faster than looking at each.
    let records = memchr_iter(b'\n', block).count() as u64;
    if records <= limit {
        return (block.len(), records);
    }
    let end = usize::try_from(limit.saturating_sub(1)).ok().and_then(|before| memchr_iter(b'\n', block).nth(before));
    (end.map_or(0, |lf| lf + 1), limit)
}
