//! The routes of the reading room: `/store/query` for people, `/store/_query` and `/ingest/_query` between nodes.

use super::needle::Matcher;
use super::newest::Newest;
use super::params::{Order, Params};
use super::pool::Pool;
use super::scan::{Direction, Scan, Setup};
use crate::http::{BodyWriter, Cancel, Reply, Request};
use crate::merge::k_way::Merge;
use crate::ops::metrics::{self as m, Metrics};
use crate::record::id::Id;
use crate::segment::readable::Readable;
use crate::unit::{Monotonic, show_duration};
use crate::world::clock::Clock;
use memchr::memchr_iter;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// Where a tier's readable parts come from: a snapshot between two ids, as of the call.
pub type Snapshot = dyn Fn(Id, Id) -> Vec<Readable> + Send + Sync;

/// Answers queries of one node.
pub struct Reader {
    /// The tiers to ask, in this order: the ingest tier before the store, so that a record on its way between the two is
    /// seen in at least one of them.
    pub tiers: Vec<Box<Snapshot>>,
    /// Who scans.
    pub pool: Arc<Pool>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

/// Bytes of an answer that are sent before the next are merged.
const RUN: usize = 64 << 10;

/// The longest time found records wait for more before they are sent.
const LINGER: Duration = Duration::from_millis(5);

/// How an answer ended.
enum End {
    Whole,
    Cancelled,
    Broken(io::Error),
}

impl Reader {
    /// Answers one request.
    pub fn answer(&self, request: &mut Request, reply: Reply) -> io::Result<()> {
        let began = self.clock.now();
        let params = match Params::parse(|name| request.param_bytes(name), self.clock.unix_millis()) {
            Ok(params) => params,
            Err(e) => return self.refuse(reply, &e),
        };
        let matcher = match Matcher::new(&params.q, params.regex, params.ignore_case, params.invert) {
            Ok(matcher) => matcher,
            Err(e) => return self.refuse(reply, &e),
        };
        let parts: Vec<Readable> = self.tiers.iter().flat_map(|tier| tier(params.from, params.to)).collect();
        let reach: u64 = parts.iter().map(|part| part.len.0).sum();
        let headers = self.headers(&params, parts.len(), reach, began);
        if request.method() == "HEAD" {
            self.count("whole");
            return reply.send(200, &headers, b"");
        }
        let scanned = self.metrics.counter(m::QUERY_SCANNED, &[]);
        let own = crate::ops::metrics::Counter::default();
        let setup = Setup {
            parts,
            from: params.from,
            to: params.to,
            direction: if params.order == Order::Asc { Direction::Forward } else { Direction::Backward },
            read_ahead: params.limit.is_none() || !matcher.takes_all(),
            matcher,
            line: self.pool.line(),
            cancel: request.cancel().clone(),
            scanned: own.clone(),
        };
        let mut body = Body::new(reply.stream(200, &headers)?, self.clock.as_ref());
        let end = self.write(setup, &params, &mut body, request.cancel());
        scanned.add(own.get());
        self.metrics.counter(m::QUERY_SKIPPED, &[]).add(reach.saturating_sub(own.get()));
        self.metrics.counter(m::QUERY_RECORDS, &[]).add(body.records);
        match end {
            End::Whole => {
                self.count("whole");
                body.writer.finish()
            }
            End::Cancelled => {
                self.count("cancelled");
                Ok(())
            }
            End::Broken(e) => {
                // The body ends without its final chunk: nobody takes it for whole.
                self.count("error");
                log::error!("a query broke off: {e}");
                Err(e)
            }
        }
    }

    fn write(&self, setup: Setup, params: &Params, body: &mut Body<'_>, cancel: &Cancel) -> End {
        let sources = Scan::sources(setup);
        let result = match params.order {
            Order::Asc => write_oldest(Merge::trusting(sources), params.limit, body),
            Order::Desc => write_newest(Newest::new(sources), params.limit, body),
        };
        match result {
            Ok(()) => End::Whole,
            Err(_) if cancel.is_cancelled() => End::Cancelled,
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => End::Cancelled,
            Err(e) => End::Broken(e),
        }
    }

    fn headers(&self, params: &Params, segments: usize, reach: u64, began: Monotonic) -> Vec<(&'static str, String)> {
        let mut headers = params.headers().to_vec();
        headers.extend([
            ("X-Oklog-Nodes-Queried", "1".to_string()),
            ("X-Oklog-Segments-Queried", segments.to_string()),
            ("X-Oklog-Max-Data-Set-Size", reach.to_string()),
            ("X-Oklog-Error-Count", "0".to_string()),
            ("X-Oklog-Duration", show_duration(self.clock.now().since(began))),
            ("X-Oklog-Complete", "true".to_string()),
        ]);
        headers
    }

    fn refuse(&self, reply: Reply, why: &dyn std::fmt::Display) -> io::Result<()> {
        self.count("refused");
        reply.send(400, &[], format!("{why}\n").as_bytes())
    }

    fn count(&self, outcome: &str) {
        self.metrics.counter(m::QUERIES, &[outcome]).inc();
    }
}

/// A body on its way out, and what of it has left.
struct Body<'a> {
    writer: BodyWriter,
    clock: &'a dyn Clock,
    flushed: Monotonic,
    records: u64,
}

impl<'a> Body<'a> {
    fn new(writer: BodyWriter, clock: &'a dyn Clock) -> Body<'a> {
        Body { writer, clock, flushed: Monotonic::default(), records: 0 }
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
}

fn write_oldest<S: crate::merge::k_way::Source>(
    mut merge: Merge<S>,
    limit: Option<u64>,
    body: &mut Body<'_>,
) -> io::Result<()> {
    let mut run = Vec::with_capacity(2 * RUN);
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        run.clear();
        // One byte is enough to go on with: a hit leaves before the next piece is scanned.
        if !merge.next_run(&mut run, 1).map_err(|e| io::Error::other(e.to_string()))? {
            break;
        }
        let (taken, records) = front(&run, left);
        left -= records;
        body.send(&run[..taken], records)?;
    }
    Ok(())
}

/// At most `limit` records at the front of a block: their bytes, and how many they are.
fn front(block: &[u8], limit: u64) -> (usize, u64) {
    let mut records = 0;
    for lf in memchr_iter(b'\n', block) {
        records += 1;
        if records == limit {
            return (lf + 1, records);
        }
    }
    (block.len(), records)
}

fn write_newest(mut newest: Newest, limit: Option<u64>, body: &mut Body<'_>) -> io::Result<()> {
    let mut record = Vec::new();
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        record.clear();
        if !newest.next_record(&mut record)? {
            break;
        }
        left -= 1;
        body.send(&record, 1)?;
    }
    Ok(())
}
