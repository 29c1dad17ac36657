//! The routes of the open window: `/store/stream` for people, `/ingest/_stream` between nodes.

use super::inbox::{Inbox, Item, Source, Taken};
use super::links::{Beyond, Links};
use super::registry::Registry;
use super::window::Window;
use super::wishes::{BEAT_COUNTER, Wishes, is_beat};
use crate::http::{BodyWriter, Reply, Request};
use crate::ops::metrics::{self as m, Metrics};
use crate::query::needle::Matcher;
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::unit::{Monotonic, UnixNanos};
use crate::world::clock::Clock;
use crate::world::crew::Crew;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// How long a wait for records lasts before it looks whether the client is still there.
const GLANCE: Duration = Duration::from_millis(200);

/// How many runs of ids a stream of the whole cluster remembers, so that a gap that is filled brings nothing twice: 9 MiB
/// when all are there.
pub const REMEMBERED: usize = 131_072;

/// Serves live streams.
pub struct Streamer {
    /// Where this node's own batches come from; `None` if it takes no lines.
    pub live: Option<Arc<Registry>>,
    /// The others, whose streams are merged with this node's own; `None`: this node's own alone.
    pub beyond: Option<Beyond>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

impl Streamer {
    /// Serves one stream until its client has gone or the process ends.
    pub fn serve(&self, request: &mut Request, reply: Reply) -> io::Result<()> {
        self.serve_with(request, reply, Crew::default())
    }

    /// As [`Streamer::serve`]; the threads of this stream are of `crew`, which is empty again at the end.
    pub(super) fn serve_with(&self, request: &mut Request, reply: Reply, crew: Crew) -> io::Result<()> {
        let wishes = Wishes::read(request).and_then(|wishes| wishes.matcher().map(|matcher| (wishes, matcher)));
        let (wishes, matcher) = match wishes {
            Ok(wishes) => wishes,
            Err(sentence) => return reply.send(400, &[], format!("{sentence}\n").as_bytes()),
        };
        let _open = self.metrics.gauge(m::STREAMS, &[]).hold();
        let missed = self.metrics.counter(m::STREAM_MISSED, &[]);
        let inbox = Arc::new(Inbox::default());
        // Listening begins before the head is sent: what comes here after the client has seen the head is in the stream.
        // What came elsewhere before a link stood is filled.
        if let Some(live) = &self.live {
            live.listen(&inbox);
        }
        let mut stream = Stream::new(self, &wishes, matcher, &inbox, crew);
        let mut body = reply.stream(200, &[])?;
        body.flush()?;
        loop {
            let is_last = request.cancel().is_cancelled();
            stream.tend();
            // Read before the inbox is emptied: all that was published until then is in it.
            let as_of = self.clock.unix();
            let taken = inbox.take(if is_last { Duration::ZERO } else { stream.patience() });
            missed.add(taken.missed);
            stream.digest(taken);
            stream.send(&mut body, as_of, is_last)?;
            if is_last {
                return body.finish();
            }
        }
    }
}

/// One stream while it is served.
struct Stream<'a> {
    clock: &'a dyn Clock,
    matcher: Matcher,
    window: Window,
    links: Option<Links>,
    /// What the reader is to be told besides records.
    say: Vec<String>,
    said: u32,
    span: Duration,
    beat: Option<Duration>,
    beaten: Monotonic,
    found: Vec<Range<usize>>,
    out: Vec<u8>,
}

impl<'a> Stream<'a> {
    fn new(streamer: &'a Streamer, wishes: &Wishes, matcher: Matcher, inbox: &Arc<Inbox>, crew: Crew) -> Stream<'a> {
        let clock = &streamer.clock;
        let links =
            streamer.beyond.clone().map(|beyond| Links::new(beyond, wishes, inbox.clone(), clock.clone(), crew));
        Stream {
            matcher,
            window: Window::new(wishes.window, if links.is_some() { REMEMBERED } else { 0 }),
            links,
            say: Vec::new(),
            said: 0,
            span: wishes.window,
            beat: wishes.beat,
            beaten: clock.now(),
            clock: clock.as_ref(),
            found: Vec::new(),
            out: Vec::new(),
        }
    }

    fn tend(&mut self) {
        if let Some(links) = &mut self.links {
            links.tend(&mut self.say);
        }
    }

    /// How long to wait for more.
    fn patience(&self) -> Duration {
        let now = self.clock.now();
        let of_window = self.window.next_due();
        let of_beat = self.beat.map(|beat| self.beaten + beat);
        of_window.into_iter().chain(of_beat).min().map_or(GLANCE, |due| due.since(now).min(GLANCE))
    }

    fn digest(&mut self, taken: Taken) {
        let now = self.clock.now();
        for (source, item) in taken.items {
            match item {
                Item::Batch(batch) if source == Source::OWN => self.search(now, &batch),
                Item::Batch(batch) => self.pass(now, source, &batch),
                Item::Say(text) => self.say.push(text),
                Item::Up => {
                    if let Some(links) = &mut self.links {
                        links.up(source, &mut self.say);
                    }
                }
                Item::Down { whole } => {
                    if let Some(links) = &mut self.links {
                        links.down(source, whole);
                    }
                }
            }
        }
        if taken.missed > 0 {
            let missed = taken.missed;
            self.say.push(format!("oklog: {missed} records missed, this reader is slower than the stream"));
        }
    }

    /// Takes what matches of a batch of this node's own.
    fn search(&mut self, now: Monotonic, batch: &[u8]) {
        self.matcher.scan(batch, &mut self.found);
        for range in &self.found {
            for record in stored::records(batch.get(range.clone()).unwrap_or_default()) {
                self.window.take(now, record.id().unwrap_or(Id::MIN), record.whole);
            }
        }
    }

    /// Takes records that were found to match elsewhere.
    fn pass(&mut self, now: Monotonic, source: Source, batch: &[u8]) {
        let mut last = None;
        for record in stored::records(batch) {
            let Some(id) = record.id() else { continue };
            last = Some(id);
            if !is_beat(id) {
                self.window.take(now, id, record.whole);
            }
        }
        if let (Some(links), Some(last)) = (&mut self.links, last) {
            links.mark(source, last);
        }
    }

    /// Sends what is due; at the end, all there is. `as_of`: up to when all that was published here has been taken.
    fn send(&mut self, body: &mut BodyWriter, as_of: UnixNanos, is_last: bool) -> io::Result<()> {
        let now = self.clock.now();
        if is_last {
            self.window.give_all(&mut self.out);
        } else {
            self.window.give(now, &mut self.out);
        }
        for text in self.say.drain(..) {
            let id = Id::new(self.clock.unix(), StreamBits::NOTICE, self.said);
            self.said = (self.said + 1) % BEAT_COUNTER;
            stored::write(&mut self.out, id, text.as_bytes());
        }
        if self.beat.is_some_and(|beat| now.since(self.beaten) >= beat) {
            self.beaten = now;
            let as_of = as_of.millis().before(self.span).nanos();
            stored::write(&mut self.out, Id::new(as_of, StreamBits::NOTICE, BEAT_COUNTER), b"oklog: all until here");
        }
        if !self.out.is_empty() {
            body.write_all(&self.out)?;
            body.flush()?;
            self.out.clear();
        }
        Ok(())
    }
}
