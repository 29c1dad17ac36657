//! The routes of the open window: `/store/stream` for people, `/ingest/_stream` between nodes.

use super::registry::Registry;
use super::window::Window;
use crate::http::{Reply, Request};
use crate::ops::metrics::{self as m, Metrics};
use crate::query::needle::Matcher;
use crate::record::id::{Id, StreamBits};
use crate::record::stored;
use crate::unit::parse_duration;
use crate::world::clock::Clock;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

/// How long records wait for earlier ones, unless the client says otherwise.
const DEFAULT_WINDOW: Duration = Duration::from_secs(1);

/// The longest window: more than a minute late is not live.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// How long a wait for records lasts before it looks whether the client is still there.
const GLANCE: Duration = Duration::from_millis(200);

/// Serves live streams of one node.
pub struct Streamer {
    /// Where batches come from.
    pub live: Arc<Registry>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where numbers go.
    pub metrics: Arc<Metrics>,
}

impl Streamer {
    /// Serves one stream until its client has gone or the process ends.
    pub fn serve(&self, request: &mut Request, reply: Reply) -> io::Result<()> {
        let (matcher, window) = match wishes(request) {
            Ok(wishes) => wishes,
            Err(sentence) => return reply.send(400, &[], format!("{sentence}\n").as_bytes()),
        };
        let _open = self.metrics.gauge(m::STREAMS, &[]).hold();
        let missed = self.metrics.counter(m::STREAM_MISSED, &[]);
        // Listening begins before the head is sent: what comes after the client has seen the head is in the stream.
        let listener = self.live.listen();
        let mut body = reply.stream(200, &[])?;
        body.flush()?;
        let mut window = Window::new(window);
        let (mut found, mut out) = (Vec::new(), Vec::new());
        while !request.cancel().is_cancelled() {
            let now = self.clock.now();
            let wait = window.next_due().map_or(GLANCE, |due| due.since(now).min(GLANCE));
            let taken = listener.take(wait);
            let now = self.clock.now();
            for batch in &taken.batches {
                matcher.scan(batch, &mut found);
                for range in &found {
                    for record in stored::records(&batch[range.clone()]) {
                        window.take(now, record.id().unwrap_or(Id::MIN), record.whole);
                    }
                }
            }
            window.give(now, &mut out);
            if taken.missed > 0 {
                missed.add(taken.missed);
                self.notice(&mut out, taken.missed);
            }
            if !out.is_empty() {
                body.write_all(&out)?;
                body.flush()?;
                out.clear();
            }
        }
        body.finish()
    }

    /// Tells the reader, in a record of its own, how many records it was too slow for.
    fn notice(&self, out: &mut Vec<u8>, missed: u64) {
        let id = Id::new(self.clock.unix(), StreamBits::NOTICE, 0);
        let text = format!("oklog: {missed} records missed, this reader is slower than the stream");
        stored::write(out, id, text.as_bytes());
    }
}

fn wishes(request: &Request) -> Result<(Matcher, Duration), String> {
    let flag = |name: &'static str| match request.param(name) {
        None if !request.has_param(name) => Ok(false),
        None | Some("" | "true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("{name} is {other:?}, but must be true or false")),
    };
    let window = match request.param("window") {
        None | Some("") => DEFAULT_WINDOW,
        Some(text) => parse_duration(text).map_err(|e| format!("window is {text:?}, but must be {e}"))?,
    };
    if window > LONGEST_WINDOW {
        return Err(format!("window is {window:?}, but must be at most {LONGEST_WINDOW:?}"));
    }
    let q = request.param_bytes("q").unwrap_or_default();
    let matcher = Matcher::new(q, flag("regex")?, flag("ignore_case")?, flag("invert")?).map_err(|e| e.to_string())?;
    Ok((matcher, window))
}
