//! An ingester or a store of another process, asked over HTTP.

use super::links::{IngestLink, LinkError, Offer, Reading, StoreLink};
use crate::cluster::DataId;
use crate::http::client::{Answer, Callee, Caller, ClientError, Patience, agent};
use crate::http::path;
use crate::record::id::Id;
use crate::segment::wire;
use crate::store::replicate::Receipt;
use crate::unit::Bytes;
use std::io::Read;
use std::time::Duration;
use ureq::Agent;

/// How long an ingester may take: 2 s to connect, 5 s to answer, 5 s without a byte of a segment. What is asked of it is
/// small, and while one is waited for its segments are nobody else's.
const QUICK: Patience =
    Patience { response: Duration::from_secs(5), read: Some(Duration::from_secs(5)), ..Patience::NODE };

/// How much of an answer is read where only a sentence is expected.
const SENTENCE: u64 = 4096;

/// The time limits of calls: one pair serves any number of peers.
#[derive(Clone)]
pub struct Agents {
    /// For what ingesters are asked.
    pub quick: Agent,
    /// For sending segments to stores.
    pub carry: Agent,
}

impl Default for Agents {
    fn default() -> Agents {
        Agents { quick: agent(QUICK), carry: agent(Patience::NODE) }
    }
}

/// A peer that is reached over HTTP.
#[derive(Clone)]
pub struct HttpPeer {
    caller: Caller,
    agents: Agents,
    callee: Callee,
}

impl HttpPeer {
    /// The peer that is called so. The agents bring the time limits, the caller the signature.
    pub fn new(caller: Caller, agents: Agents, callee: Callee) -> HttpPeer {
        HttpPeer { caller, agents, callee }
    }

    fn garbled(&self, doing: &'static str) -> LinkError {
        LinkError::Garbled { doing, peer: self.callee.api.clone() }
    }

    fn failure(&self, doing: &'static str, error: ClientError) -> LinkError {
        let peer = self.callee.api.clone();
        match error {
            ClientError::NoAnswer { source, .. } => LinkError::Broken { doing, peer, source: source.into_io() },
            ClientError::Broken { source, .. } => LinkError::Broken { doing, peer, source },
            ClientError::Refused { status: 507, .. } => LinkError::Full { peer },
            ClientError::Refused { status, sentence, .. } => {
                let sentence: String = sentence.chars().take(200).collect();
                LinkError::Refused { doing, peer, said: format!("status {status}: {sentence}") }
            }
        }
    }

    fn get(&self, target: &str) -> Result<Answer, ClientError> {
        self.caller.get(&self.agents.quick, &self.callee, target)
    }

    /// A call without a body whose answer is only yes or no.
    fn tell(&self, doing: &'static str, target: &str) -> Result<(), LinkError> {
        let answer = self.caller.post_empty(&self.agents.quick, &self.callee, target);
        answer.map(drop).map_err(|e| self.failure(doing, e))
    }
}

impl IngestLink for HttpPeer {
    fn name(&self) -> &str {
        &self.callee.api
    }

    fn next(&self) -> Result<Option<Offer>, LinkError> {
        let doing = "asking for the next segment of";
        let answer = match self.get(path::INGEST_NEXT) {
            Ok(answer) => answer,
            Err(e) if e.status() == Some(404) => return Ok(None),
            Err(e) => return Err(self.failure(doing, e)),
        };
        let len = answer.header(wire::LENGTH).and_then(wire::parse_decimal);
        let age = answer.header(wire::AGE).and_then(wire::parse_decimal).map(Duration::from_millis);
        let is_last = answer.header(wire::MORE) == Some("0");
        let said = answer.text(SENTENCE).map_err(|e| self.failure(doing, e))?;
        let id = Id::parse(said.trim().as_bytes()).ok_or_else(|| self.garbled(doing))?;
        // An ingester that does not tell the length: its segment counts as one of the usual size.
        let len = Bytes(len.unwrap_or(16 << 20));
        Ok(Some(Offer { id, len, age: age.unwrap_or_default(), is_last }))
    }

    fn read(&self, id: Id) -> Result<Reading, LinkError> {
        let doing = "reading a segment of";
        let answer = self.get(&format!("{}?id={id}", path::INGEST_READ)).map_err(|e| self.failure(doing, e))?;
        let len = answer.header(wire::LENGTH).and_then(wire::parse_decimal);
        let crc32 = answer.header(wire::CRC32).and_then(wire::parse_crc32);
        let (Some(len), Some(crc32)) = (len, crc32) else {
            return Err(self.garbled(doing));
        };
        Ok(Reading { len: Bytes(len), crc32, body: Box::new(answer.into_reader()) })
    }

    fn commit(&self, id: Id, stores: &[DataId]) -> Result<(), LinkError> {
        let stores: Vec<String> = stores.iter().map(DataId::to_string).collect();
        let target = format!("{}?id={id}&stores={}", path::INGEST_COMMIT, stores.join(","));
        self.tell("committing a segment of", &target)
    }

    fn failed(&self, id: Id) -> Result<(), LinkError> {
        self.tell("giving back a segment of", &format!("{}?id={id}", path::INGEST_FAILED))
    }

    fn renew(&self, id: Id) -> Result<(), LinkError> {
        self.tell("renewing a segment of", &format!("{}?id={id}", path::INGEST_RENEW))
    }

    fn set_aside(&self, id: Id) -> Result<(), LinkError> {
        self.tell("setting a segment aside at", &format!("{}?id={id}&corrupt", path::INGEST_FAILED))
    }
}

impl StoreLink for HttpPeer {
    fn name(&self) -> &str {
        &self.callee.api
    }

    fn replicate(&self, body: &mut dyn Read) -> Result<Receipt, LinkError> {
        let doing = "replicating to";
        let answer = self
            .caller
            .post_reader(&self.agents.carry, &self.callee, path::STORE_REPLICATE, body)
            .map_err(|e| self.failure(doing, e))?;
        Receipt::from_headers(|name| answer.header(name)).ok_or_else(|| self.garbled(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_there_is_broken_and_one_that_refuses_says_why() {
        let peer = HttpPeer::new(Caller::default(), Agents::default(), Callee { api: "127.0.0.1:1".into(), node: 0 });
        assert!(matches!(peer.next(), Err(LinkError::Broken { .. })));
        let refused = |status| ClientError::Refused { url: String::new(), status, sentence: "no".into() };
        assert!(matches!(peer.failure("asking", refused(507)), LinkError::Full { .. }));
        assert_eq!(peer.failure("asking", refused(428)).to_string(), "asking 127.0.0.1:1: refused: status 428: no");
        let broken = ClientError::Broken { url: String::new(), source: std::io::ErrorKind::UnexpectedEof.into() };
        assert!(matches!(peer.failure("asking", broken), LinkError::Broken { .. }));
    }
}
