//! What the reader of a stream asks for: parameters of a URL into values, and values into the URLs of other nodes.

use crate::http::{Request, path};
use crate::query::needle::Matcher;
use crate::query::params::QueryString;
use crate::record::id::{Id, StreamBits};
use crate::unit::{parse_duration, show_duration};
use std::time::Duration;

/// How long records wait for earlier ones, unless the client says otherwise.
const DEFAULT_WINDOW: Duration = Duration::from_secs(1);

/// The longest window: more than a minute late is not live.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// How often those who follow a stream are to be told that it still stands.
pub const BEAT: Duration = Duration::from_secs(5);

/// After so long without a beat the other side is taken to be gone.
pub const SILENCE: Duration = BEAT.saturating_mul(3);

/// The counter in the id of a beat.
pub(super) const BEAT_COUNTER: u32 = u32::MAX;

/// Whether an id is not a record's but a beat's: all that its sender took in up to this time has been sent.
pub fn is_beat(id: Id) -> bool {
    id.stream() == StreamBits::NOTICE && id.counter() == BEAT_COUNTER
}

/// The shortest time between two beats that may be asked for.
const SHORTEST_BEAT: Duration = Duration::from_millis(100);

/// What is wanted of a stream.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wishes {
    /// The needle, any bytes; empty matches every record.
    pub q: Vec<u8>,
    /// Whether `q` is a regular expression.
    pub regex: bool,
    /// Whether case is ignored.
    pub ignore_case: bool,
    /// Whether the records that do not match are wanted.
    pub invert: bool,
    /// How long records are held back, to put them in order.
    pub window: Duration,
    /// How often the reader is sent a beat, from which it knows that the stream still stands.
    pub beat: Option<Duration>,
}

impl Wishes {
    /// Reads the parameters of a request. An error is one sentence for the client.
    pub fn read(request: &Request) -> Result<Wishes, String> {
        let flag = |name: &'static str| match request.param(name) {
            None if !request.has_param(name) => Ok(false),
            None | Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(format!("{name} is {other:?}, but must be true or false")),
        };
        let span = |name: &'static str| match request.param(name) {
            None | Some("") => Ok(None),
            Some(text) => parse_duration(text).map(Some).map_err(|e| format!("{name} is {text:?}, but must be {e}")),
        };
        let window = span("window")?.unwrap_or(DEFAULT_WINDOW);
        if window > LONGEST_WINDOW {
            return Err(format!("window is {window:?}, but must be at most {LONGEST_WINDOW:?}"));
        }
        Ok(Wishes {
            q: request.param_bytes("q").unwrap_or_default().to_vec(),
            regex: flag("regex")?,
            ignore_case: flag("ignore_case")?,
            invert: flag("invert")?,
            window,
            beat: span("beat")?.map(|beat| beat.max(SHORTEST_BEAT)),
        })
    }

    /// What decides whether a record is wanted. An error is one sentence for the client.
    pub fn matcher(&self) -> Result<Matcher, String> {
        Matcher::new(&self.q, self.regex, self.ignore_case, self.invert).map_err(|e| e.to_string())
    }

    /// The target under which another node streams what is wanted of what it takes in: at once, and with beats.
    pub fn link_target(&self) -> String {
        let mut query = self.needle();
        query.add("window", b"0");
        query.add("beat", show_duration(BEAT).as_bytes());
        format!("{}?{}", path::INGEST_STREAM, query.into_string())
    }

    /// The target under which a store gives what is wanted of the past of the whole cluster, from an id on. Without an end:
    /// the clocks of other nodes may be ahead.
    pub fn gap_target(&self, from: Id) -> String {
        let mut query = self.needle();
        query.add("from", &from.text());
        query.add("to", &Id::MAX.text());
        format!("{}?{}", path::STORE_QUERY, query.into_string())
    }

    fn needle(&self) -> QueryString {
        let mut query = QueryString::default();
        query.add("q", &self.q);
        for (name, is_set) in [("regex", self.regex), ("ignore_case", self.ignore_case), ("invert", self.invert)] {
            if is_set {
                query.add(name, b"true");
            }
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_nodes_are_asked_for_the_same() {
        let wishes = Wishes { q: b"a b\xff".to_vec(), regex: true, invert: true, ..Wishes::default() };
        let expected = "/ingest/_stream?q=a%20b%FF&regex=true&invert=true&window=0&beat=5s";
        assert_eq!(wishes.link_target(), expected);
        let expected = format!("/store/query?q=a%20b%FF&regex=true&invert=true&from={}&to={}", Id(5), Id::MAX);
        assert_eq!(wishes.gap_target(Id(5)), expected);
    }
}
