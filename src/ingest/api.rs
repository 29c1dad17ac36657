//! The routes under `/ingest`, through which a consumer of another process takes segments, and the same for one of this
//! process.

use super::log::IngestLog;
use super::queue::Verdict;
use super::witness;
use crate::cluster::DataId;
use crate::consume::links::{IngestLink, LinkError, Offer, Reading};
use crate::consume::machine::Peer;
use crate::http::{Access, Lane, Reply, Request, Route, path};
use crate::record::id::Id;
use crate::segment::handle::Known;
use crate::segment::reader::FileRange;
use crate::segment::{Segment, wire};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crossbeam::channel::{Sender, TrySendError};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::Arc;

/// How much of a segment is copied at a time.
const COPY: usize = 64 << 10;

/// The routes of an ingester.
pub fn routes(log: &Arc<IngestLog>) -> Vec<Route> {
    let route = |path, methods, lane, access, handler: fn(&IngestLog, &mut Request, Reply) -> io::Result<()>| {
        let log = log.clone();
        let handler = Arc::new(move |request: &mut Request, reply: Reply| handler(&log, request, reply));
        Route { path, methods, lane, access, body_limit: Bytes(0), handler }
    };
    vec![
        route(path::INGEST_NEXT, &["GET"], Lane::Short, Access::Peers, next),
        route(path::INGEST_READ, &["GET"], Lane::Part, Access::Peers, read),
        route(path::INGEST_COMMIT, &["POST"], Lane::Short, Access::Peers, commit),
        route(path::INGEST_FAILED, &["POST"], Lane::Short, Access::Peers, failed),
        route(path::INGEST_RENEW, &["POST"], Lane::Short, Access::Peers, |log, request, reply| {
            on_id(request, reply, |id| log.renew(id))
        }),
        route(path::INGEST_SEGMENT_STATE, &["GET"], Lane::Short, Access::Open, segment_state),
    ]
}

fn next(log: &IngestLog, _request: &mut Request, reply: Reply) -> io::Result<()> {
    match log.offer() {
        Ok(Some(offer)) => {
            let headers = [
                (wire::LENGTH, offer.len.0.to_string()),
                (wire::AGE, offer.age.as_millis().to_string()),
                (wire::MORE, u8::from(!offer.is_last).to_string()),
            ];
            reply.send(200, &headers, offer.id.to_string().as_bytes())
        }
        Ok(None) => reply.send(404, &[], b"no flushed segment\n"),
        Err(e) => reply.send(500, &[], format!("taking the oldest segment: {e}\n").as_bytes()),
    }
}

fn read(log: &IngestLog, request: &mut Request, reply: Reply) -> io::Result<()> {
    let Some(id) = request.param("id").and_then(|text| Id::parse(text.as_bytes())) else {
        return reply.send(400, &[], b"id must be a ULID in upper case\n");
    };
    let Some(segment) = log.read(id) else {
        return reply.send(404, &[], b"no pending segment of that id\n");
    };
    let file = match segment.open() {
        Ok(file) => file,
        Err(e) => return reply.send(500, &[], format!("opening the segment: {e}\n").as_bytes()),
    };
    let len = segment.digest().len;
    let headers = segment.digest().whole().map(|digest| wire::digest_headers(&digest)).unwrap_or_default();
    let mut body = reply.sized(200, &headers, len.0)?;
    let (mut input, mut piece) = (FileRange::new(file, Bytes(0), len), vec![0; COPY]);
    loop {
        // A disk that cannot be read ends the body too early: the consumer sees that, and does not commit.
        let n = input.read(&mut piece)?;
        if n == 0 {
            return body.finish();
        }
        body.write_all(&piece[..n])?;
    }
}

/// Ends a segment's time here. `stores` names those that have it; older consumers do not name them.
fn commit(log: &IngestLog, request: &mut Request, reply: Reply) -> io::Result<()> {
    let Some(stores) = witness::parse_stores(request.param("stores").unwrap_or_default()) else {
        return reply.send(400, &[], b"stores must be ids of 32 hexadecimal digits, separated by commas\n");
    };
    on_id(request, reply, |id| log.commit(id, &stores))
}

/// Gives a segment back; with `corrupt` it is taken out of circulation, since no consumer can merge it.
fn failed(log: &IngestLog, request: &mut Request, reply: Reply) -> io::Result<()> {
    let corrupt = request.has_param("corrupt");
    on_id(request, reply, |id| if corrupt { log.set_aside(id) } else { log.failed(id) })
}

fn on_id(request: &mut Request, reply: Reply, act: impl FnOnce(Id) -> Verdict) -> io::Result<()> {
    let Some(id) = request.param("id").and_then(|text| Id::parse(text.as_bytes())) else {
        return reply.send(400, &[], b"id must be a ULID in upper case\n");
    };
    match act(id) {
        Verdict::Done => reply.send(200, &[], b""),
        Verdict::Unknown => reply.send(404, &[], b"no pending segment of that id\n"),
        Verdict::NeverRead => reply.send(428, &[], b"that segment was never read\n"),
    }
}

fn segment_state(log: &IngestLog, _request: &mut Request, reply: Reply) -> io::Result<()> {
    let mut text = String::from("{\n");
    let states = log.states();
    for (n, (state, segments, bytes)) in states.iter().enumerate() {
        let comma = if n + 1 < states.len() { "," } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(text, "  \"{state}\": {{\"segments\": {segments}, \"bytes\": {bytes}}}{comma}");
    }
    text.push_str("}\n");
    reply.send(200, &[("Content-Type", "application/json".into())], text.as_bytes())
}

impl IngestLog {
    /// How many segments, and how many bytes in them, are in each state.
    pub fn states(&self) -> [(&'static str, u64, u64); 3] {
        let written =
            self.slots.iter().filter_map(|slot| lock(&slot.writer).active.as_ref().map(super::log::Active::len));
        let (mut active, mut active_bytes) = written.fold((0, 0), |(n, bytes), len| (n + 1, bytes + len));
        let queue = lock(&self.queue);
        for closed in &queue.closing {
            active += 1;
            active_bytes += closed.segment.digest().len.0;
        }
        let sum = |segments: &mut dyn Iterator<Item = &Arc<Segment>>| {
            segments.fold((0, 0), |(n, bytes), segment| (n + 1, bytes + segment.digest().len.0))
        };
        let flushed = sum(&mut queue.flushed.values());
        let pending = sum(&mut queue.pending.values().map(|pending| &pending.segment));
        [("active", active, active_bytes), ("flushed", flushed.0, flushed.1), ("pending", pending.0, pending.1)]
    }

    /// Makes the oldest flushed segment pending, and says what a consumer is to know of it.
    pub fn offer(&self) -> io::Result<Option<Offer>> {
        let Some(segment) = self.next()? else { return Ok(None) };
        let Known { first, len, .. } = *segment.digest();
        let age = self.clock.unix_millis().since(first.millis());
        let is_written = self.slots.iter().any(|slot| lock(&slot.writer).active.is_some());
        let is_last = !is_written && lock(&self.queue).has_none_to_offer();
        Ok(Some(Offer { id: first, len, age, is_last }))
    }

    /// The oldest record that no store has taken over yet.
    pub fn oldest(&self) -> Option<Id> {
        self.snapshot(Id::MIN, Id::MAX).into_iter().map(|readable| readable.low).min()
    }
}

/// The ingester of this process, as a consumer of this process sees it: the same verbs, called directly.
pub struct LocalIngester {
    log: Arc<IngestLog>,
}

impl LocalIngester {
    /// The ingester that this log belongs to.
    pub fn new(log: Arc<IngestLog>) -> LocalIngester {
        LocalIngester { log }
    }

    fn judge(&self, doing: &'static str, verdict: Verdict) -> Result<(), LinkError> {
        let said = match verdict {
            Verdict::Done => return Ok(()),
            Verdict::Unknown => "no pending segment of that id",
            Verdict::NeverRead => "that segment was never read",
        };
        Err(LinkError::Refused { doing, peer: self.name().into(), said: said.into() })
    }

    fn broken(&self, doing: &'static str) -> impl Fn(io::Error) -> LinkError {
        let peer = self.name().to_string();
        move |source| LinkError::Broken { doing, peer: peer.clone(), source }
    }
}

impl IngestLink for LocalIngester {
    fn name(&self) -> &str {
        "this node"
    }

    fn next(&self) -> Result<Option<Offer>, LinkError> {
        self.log.offer().map_err(self.broken("asking for a segment of"))
    }

    fn watch(&self, bell: &Sender<Peer>) {
        let (bell, name) = (bell.clone(), Peer::from(self.name()));
        // Full is as good: then it rings already.
        let ring = move || !matches!(bell.try_send(name.clone()), Err(TrySendError::Disconnected(_)));
        lock(&self.log.queue).bells.push(Box::new(ring));
    }

    fn read(&self, id: Id) -> Result<Reading, LinkError> {
        let Some(segment) = self.log.read(id) else {
            return Err(self
                .judge("reading a segment of", Verdict::Unknown)
                .err()
                .unwrap_or(LinkError::Garbled { doing: "reading a segment of", peer: self.name().into() }));
        };
        let known = *segment.digest();
        let file = segment.open().map_err(self.broken("reading a segment of"))?;
        let crc32 = known.crc32.unwrap_or_default();
        Ok(Reading { len: known.len, crc32, body: Box::new(FileRange::new(file, Bytes(0), known.len)) })
    }

    fn commit(&self, id: Id, stores: &[DataId]) -> Result<(), LinkError> {
        self.judge("committing a segment of", self.log.commit(id, stores))
    }

    fn failed(&self, id: Id) -> Result<(), LinkError> {
        self.judge("giving a segment back to", self.log.failed(id))
    }

    fn renew(&self, id: Id) -> Result<(), LinkError> {
        self.judge("renewing a segment of", self.log.renew(id))
    }

    fn set_aside(&self, id: Id) -> Result<(), LinkError> {
        self.judge("setting a segment aside at", self.log.set_aside(id))
    }
}
