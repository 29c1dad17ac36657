//! How the carrier reaches ingesters and stores: two traits, and their HTTP side.
//!
//! What lies in the same process is called directly; the others are asked over HTTP. A call may fail after the peer has
//! acted on it, so each one may be made again: commit, failed, renew and replicate are idempotent.

use crate::http::path;
use crate::record::id::Id;
use crate::segment::wire;
use crate::store::log::StoreLog;
use crate::store::replicate::{Receipt, ReplicateError};
use crate::unit::Bytes;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

/// A segment that an ingester has handed out: pending until commit, failed, set_aside, or the ingester's deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its name: the id of its first record.
    pub id: Id,
    /// Its length, so that a consumer knows when it has gathered enough.
    pub len: Bytes,
}

/// The bytes of a segment, and what they must turn out to be.
pub struct Reading {
    /// How many bytes must come.
    pub len: Bytes,
    /// Their CRC-32 (IEEE 802.3).
    pub crc32: u32,
    /// The bytes. An error, or an end before `len`, means that the segment was not read.
    pub body: Box<dyn Read + Send>,
}

/// An ingester, as seen by a consumer.
pub trait IngestLink: Send + Sync {
    /// What to call it in a log.
    fn name(&self) -> &str;

    /// Takes the oldest flushed segment, which is pending from now on. `None`: there is none.
    fn next(&self) -> Result<Option<Offer>, LinkError>;

    /// Opens a pending segment for reading from its start; may be done again.
    fn read(&self, id: Id) -> Result<Reading, LinkError>;

    /// R stores have it: it may be deleted.
    fn commit(&self, id: Id) -> Result<(), LinkError>;

    /// It was not copied: it is flushed again.
    fn failed(&self, id: Id) -> Result<(), LinkError>;

    /// It is still being worked on: its deadline begins anew.
    fn renew(&self, id: Id) -> Result<(), LinkError>;

    /// It cannot be read or merged, tried three times: the ingester takes it out of circulation as `.corrupt`, recovers
    /// what is whole in it, and never hands it out again.
    fn set_aside(&self, id: Id) -> Result<(), LinkError>;
}

/// A store, as seen by a consumer.
pub trait StoreLink: Send + Sync {
    /// What to call it in a log.
    fn name(&self) -> &str;

    /// Sends a segment, `body` to its end. The receipt means: on stable storage. If `body` fails, the store keeps nothing.
    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError>;
}

/// Whom a consumer works with at this moment.
pub trait Membership: Send + Sync {
    /// All ingesters known.
    fn ingesters(&self) -> Vec<Arc<dyn IngestLink>>;

    /// All stores known.
    fn stores(&self) -> Vec<Arc<dyn StoreLink>>;
}

/// A membership that never changes: a node alone, or the fixed cast of a test.
#[derive(Clone, Default)]
pub struct Fixed {
    /// All ingesters.
    pub ingesters: Vec<Arc<dyn IngestLink>>,
    /// All stores.
    pub stores: Vec<Arc<dyn StoreLink>>,
}

impl Membership for Fixed {
    fn ingesters(&self) -> Vec<Arc<dyn IngestLink>> {
        self.ingesters.clone()
    }

    fn stores(&self) -> Vec<Arc<dyn StoreLink>> {
        self.stores.clone()
    }
}

/// Why a peer did not do what it was asked.
#[derive(Debug)]
pub enum LinkError {
    /// No connection, a broken one, or out of time. Whether the peer has acted is not known.
    Broken {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
        /// What happened.
        source: io::Error,
    },
    /// The store has no room; it has kept nothing.
    Full {
        /// Who was asked.
        peer: String,
    },
    /// The peer answered, and the answer is no. Nothing has changed there.
    Refused {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
        /// What it said, cut to 200 characters.
        said: String,
    },
    /// The answer was not one of this protocol. Whether the peer has acted is not known.
    Garbled {
        /// What was being done.
        doing: &'static str,
        /// Who was asked.
        peer: String,
    },
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkError::Broken { doing, peer, source } => write!(f, "{doing} {peer}: {source}"),
            LinkError::Full { peer } => write!(f, "replicating to {peer}: no space left there"),
            LinkError::Refused { doing, peer, said } => write!(f, "{doing} {peer}: refused: {said}"),
            LinkError::Garbled { doing, peer } => write!(f, "{doing} {peer}: the answer was not understood"),
        }
    }
}

impl std::error::Error for LinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            LinkError::Broken { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A peer that is reached over HTTP. The agent brings the time limits.
#[derive(Clone)]
pub struct HttpPeer {
    agent: Agent,
    host: String,
}

impl HttpPeer {
    /// The peer whose API answers at `host` (`address:port`). `agent` must give answers of any status as answers.
    pub fn new(agent: Agent, host: impl Into<String>) -> HttpPeer {
        HttpPeer { agent, host: host.into() }
    }

    fn url(&self, path: &str, id: Option<Id>) -> String {
        match id {
            Some(id) => format!("http://{}{path}?id={id}", self.host),
            None => format!("http://{}{path}", self.host),
        }
    }

    fn broken(&self, doing: &'static str, error: ureq::Error) -> LinkError {
        LinkError::Broken { doing, peer: self.host.clone(), source: error.into_io() }
    }

    fn garbled(&self, doing: &'static str) -> LinkError {
        LinkError::Garbled { doing, peer: self.host.clone() }
    }

    fn get(&self, doing: &'static str, path: &str, id: Option<Id>) -> Result<Response<Body>, LinkError> {
        self.agent.get(self.url(path, id)).call().map_err(|e| self.broken(doing, e))
    }

    /// A call without a body whose answer is only yes or no.
    fn tell(&self, doing: &'static str, url: String) -> Result<(), LinkError> {
        let answer = self.agent.post(url).send_empty().map_err(|e| self.broken(doing, e))?;
        let status = answer.status().as_u16();
        let said = first_words(answer);
        if status == 200 { Ok(()) } else { Err(self.refusal(doing, status, said)) }
    }

    fn refusal(&self, doing: &'static str, status: u16, said: String) -> LinkError {
        let peer = self.host.clone();
        match status {
            507 => LinkError::Full { peer },
            _ => LinkError::Refused { doing, peer, said: format!("status {status}: {said}") },
        }
    }
}

/// How much of an answer is read where only a sentence is expected; more costs the connection, nothing else.
const SENTENCE: u64 = 4096;

/// Reads a short answer to its end, so that the connection can be used again; gives the start of it.
fn first_words(answer: Response<Body>) -> String {
    let mut said = Vec::new();
    // What could not be read is missing from a log line; the status has decided already.
    let _ = answer.into_body().into_reader().take(SENTENCE).read_to_end(&mut said);
    String::from_utf8_lossy(&said).trim().chars().take(200).collect()
}

fn header<'a>(answer: &'a Response<Body>, name: &str) -> Option<&'a str> {
    answer.headers().get(name)?.to_str().ok()
}

impl IngestLink for HttpPeer {
    fn name(&self) -> &str {
        &self.host
    }

    fn next(&self) -> Result<Option<Offer>, LinkError> {
        let doing = "asking for the next segment of";
        let answer = self.get(doing, path::INGEST_NEXT, None)?;
        let status = answer.status().as_u16();
        let len = header(&answer, wire::LENGTH).and_then(wire::parse_decimal);
        let said = first_words(answer);
        match status {
            200 => {
                let id = Id::parse(said.as_bytes()).ok_or_else(|| self.garbled(doing))?;
                // An ingester that does not tell the length: its segment counts as one of the usual size.
                Ok(Some(Offer { id, len: Bytes(len.unwrap_or(16 << 20)) }))
            }
            404 => Ok(None),
            _ => Err(self.refusal(doing, status, said)),
        }
    }

    fn read(&self, id: Id) -> Result<Reading, LinkError> {
        let doing = "reading a segment of";
        let answer = self.get(doing, path::INGEST_READ, Some(id))?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(self.refusal(doing, status, first_words(answer)));
        }
        let len = header(&answer, wire::LENGTH).and_then(wire::parse_decimal);
        let crc32 = header(&answer, wire::CRC32).and_then(wire::parse_crc32);
        let (Some(len), Some(crc32)) = (len, crc32) else {
            return Err(self.garbled(doing));
        };
        Ok(Reading { len: Bytes(len), crc32, body: Box::new(answer.into_body().into_reader()) })
    }

    fn commit(&self, id: Id) -> Result<(), LinkError> {
        self.tell("committing a segment of", self.url(path::INGEST_COMMIT, Some(id)))
    }

    fn failed(&self, id: Id) -> Result<(), LinkError> {
        self.tell("giving back a segment of", self.url(path::INGEST_FAILED, Some(id)))
    }

    fn renew(&self, id: Id) -> Result<(), LinkError> {
        self.tell("renewing a segment of", self.url(path::INGEST_RENEW, Some(id)))
    }

    fn set_aside(&self, id: Id) -> Result<(), LinkError> {
        self.tell("setting a segment aside at", self.url(path::INGEST_FAILED, Some(id)) + "&corrupt")
    }
}

impl StoreLink for HttpPeer {
    fn name(&self) -> &str {
        &self.host
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        let doing = "replicating to";
        let request = self.agent.post(self.url(path::STORE_REPLICATE, None));
        let answer = request.send(SendBody::from_reader(body)).map_err(|e| self.broken(doing, e))?;
        let status = answer.status().as_u16();
        let receipt = Receipt::from_headers(|name| header(&answer, name));
        let said = first_words(answer);
        match (status, receipt) {
            (200, Some(receipt)) => Ok(receipt),
            (200, None) => Err(self.garbled(doing)),
            _ => Err(self.refusal(doing, status, said)),
        }
    }
}

/// The store of the same process: no wire between.
impl StoreLink for StoreLog {
    fn name(&self) -> &str {
        "this node"
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        let (doing, peer) = ("replicating to", "this node".to_string());
        // A body of this process that ends without an error is whole.
        StoreLog::replicate(self, body, &|| true).map_err(|e| match e {
            ReplicateError::Full(_) => LinkError::Full { peer },
            ReplicateError::Body(source) | ReplicateError::Io { source, .. } => {
                LinkError::Broken { doing, peer, source }
            }
            ReplicateError::Empty | ReplicateError::NotStored(_) => {
                LinkError::Refused { doing, peer, said: e.to_string() }
            }
        })
    }
}
