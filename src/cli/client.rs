//! What the client commands share: calling a store, and printing the records of its answer.

use crate::http::PAUSES;
use crate::http::client::{self, Patience};
use crate::query::params::percent_decode;
use crate::record::stored::{self, PREFIX_LEN};
use crate::stream::runs::RecordReader;
use std::fmt;
use std::io::Read;
use std::time::Duration;
use ureq::http::Response;
use ureq::{Agent, Body};

/// Where a store listens when no port is given.
const DEFAULT_PORT: u16 = 7650;

/// The most of a refusal's body that is repeated, in bytes.
const LONGEST_SENTENCE: u64 = 4 << 10;

/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(2);

/// How long a store may take to begin its answer: it asks all others first.
const ANSWER: Duration = Duration::from_secs(60);

/// How long an answer may pause. A store that is gone without a word is noticed by this alone.
pub const PAUSE: Duration = Duration::from_secs(300);

/// What is read off the connection at once, in bytes. There is only one.
const BUFFER: usize = 256 << 10;

/// An agent for one command. Proxies are taken from the environment, as by other programs that people run.
pub fn agent() -> Agent {
    agent_for(PAUSE)
}

/// As [`agent`], for answers that pause for `pause` at most.
pub fn agent_for(pause: Duration) -> Agent {
    client::agent(Patience { connect: CONNECT, response: ANSWER, read: Some(pause), proxy: true, buffer: BUFFER })
}

/// The stores in a list of addresses, each of which may be several with commas between: `host`, `host:port`, or either
/// after `tcp://` or `http://`.
pub fn stores(given: &[String]) -> Vec<String> {
    given.iter().flat_map(|list| list.split(',')).map(str::trim).filter(|one| !one.is_empty()).map(authority).collect()
}

fn authority(address: &str) -> String {
    let bare = ["tcp://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address);
    let bare = bare.trim_end_matches('/');
    let has_port = bare.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    match (has_port, bare.contains(':') && !bare.starts_with('[')) {
        (true, _) => bare.to_string(),
        (false, true) => format!("[{bare}]:{DEFAULT_PORT}"),
        (false, false) => format!("{bare}:{DEFAULT_PORT}"),
    }
}

/// How an answer is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// With a body.
    Get,
    /// Headers alone.
    Head,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum CallError {
    /// No store could be reached, or those reached were not ready. What each of them said.
    Unreachable {
        /// Store and reason.
        tried: Vec<(String, String)>,
    },
    /// A store refused: trying again would be the same.
    Refused {
        /// Which store.
        store: String,
        /// The status of its answer.
        status: u16,
        /// What it said.
        sentence: String,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Unreachable { tried } if tried.is_empty() => f.write_str("no store is given"),
            CallError::Unreachable { tried } => {
                f.write_str("no store answers")?;
                for (n, (store, why)) in tried.iter().enumerate() {
                    write!(f, "{} {store}: {why}", if n == 0 { ":" } else { ";" })?;
                }
                Ok(())
            }
            CallError::Refused { store, status, sentence } if sentence.is_empty() => {
                write!(f, "{store} answers with status {status}")
            }
            CallError::Refused { store, status, sentence } => write!(f, "{store} answers {status}: {sentence}"),
        }
    }
}

impl std::error::Error for CallError {}

/// An answer that carries what was asked for, whole (200) or in part (206).
pub struct Answer {
    /// Which store gave it.
    pub store: String,
    /// 200 or 206.
    pub status: u16,
    response: Response<Body>,
}

impl Answer {
    /// A header, if it is there and plain text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The headers of ours, percent-encoding taken off, control characters made visible.
    pub fn our_headers(&self) -> Vec<(String, String)> {
        let ours = self.response.headers().iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-oklog-")?;
            Some((name.to_string(), shown(value.to_str().ok()?)))
        });
        ours.collect()
    }

    /// The body, as it comes.
    pub fn body(self) -> impl Read {
        self.response.into_body().into_reader()
    }

    /// The stored records of the body.
    pub fn records(self) -> RecordReader<impl Read> {
        RecordReader::new(self.body())
    }
}

/// The value of a header for people: percent-encoding taken off, control characters made visible.
pub(super) fn shown(value: &str) -> String {
    String::from_utf8_lossy(&percent_decode(value)).chars().flat_map(show_control).collect()
}

fn show_control(c: char) -> Vec<char> {
    if c.is_control() { c.escape_default().collect() } else { vec![c] }
}

/// Asks one store after the other until one answers. A 503 counts as not answering.
pub fn call(agent: &Agent, method: Method, stores: &[String], target: &str) -> Result<Answer, CallError> {
    let mut tried = Vec::new();
    for store in stores {
        let url = format!("http://{store}{target}");
        let result = match method {
            // Whoever reads what is printed may take a time over it.
            Method::Get => agent.get(&url).header(PAUSES, "true").call(),
            Method::Head => agent.head(&url).call(),
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                tried.push((store.clone(), error.to_string()));
                continue;
            }
        };
        match response.status().as_u16() {
            status @ (200 | 206) => return Ok(Answer { store: store.clone(), status, response }),
            503 => tried.push((store.clone(), format!("status 503, {}", sentence(response)))),
            status => {
                // The answer to HEAD has no body that could say why; the same request with GET is refused likewise.
                let response = match method {
                    Method::Head => agent.get(&url).call().unwrap_or(response),
                    Method::Get => response,
                };
                return Err(CallError::Refused { store: store.clone(), status, sentence: sentence(response) });
            }
        }
    }
    Err(CallError::Unreachable { tried })
}

fn sentence(response: Response<Body>) -> String {
    let mut body = Vec::new();
    // A refusal whose sentence does not come through is still a refusal: what came of it is shown.
    let _ = response.into_body().into_reader().take(LONGEST_SENTENCE).read_to_end(&mut body);
    let text = String::from_utf8_lossy(&body);
    text.lines().next().unwrap_or_default().trim().chars().flat_map(show_control).collect()
}

/// How a record is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// With its id in front.
    pub ulid: bool,
    /// With its time in front, before the id if there is one.
    pub time: bool,
}

impl Shape {
    /// Appends one record as it is printed, with an LF.
    pub fn print(self, out: &mut Vec<u8>, record: stored::Stored<'_>) {
        if let Some(id) = record.id().filter(|_| self.time) {
            out.extend_from_slice(id.millis().to_string().as_bytes());
            out.push(b' ');
        }
        let from = if self.ulid { 0 } else { PREFIX_LEN };
        out.extend_from_slice(record.whole.get(from..).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_with_or_without_scheme_and_port_and_in_lists() {
        let given =
            ["a,b:1 , tcp://c:2".to_string(), "http://d/".into(), "[::1]:3".into(), "::1".into(), "[::1]".into()];
        let expected = ["a:7650", "b:1", "c:2", "d:7650", "[::1]:3", "[::1]:7650", "[::1]:7650"];
        assert_eq!(stores(&given), expected);
    }
}
