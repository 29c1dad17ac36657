//! Where the past comes from when a gap is to be filled.

use super::wishes::Wishes;
use crate::cluster::Cluster;
use crate::http::client::{Callee, Caller, ClientError, Patience, agent};
use crate::record::id::Id;
use crate::world::crew::Stop;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use ureq::Agent;

/// How long the calls of a stream may take to connect: short, since the stream's end waits for it. A packet that is
/// lost costs one more try.
const CONNECT: Duration = Duration::from_millis(500);

/// What ends a call before its time.
#[derive(Clone)]
pub struct Leash {
    /// Raised when nobody waits any more.
    pub stop: Stop,
    /// What calls over HTTP are made with: shut down at the same moment, which breaks them off.
    pub agent: Agent,
}

impl Leash {
    /// For calls whose body may pause for `pause`; `None`: for ever.
    pub fn new(pause: Option<Duration>) -> Leash {
        let patience = Patience { connect: CONNECT, read: pause, ..Patience::STREAM };
        Leash { stop: Stop::default(), agent: agent(patience) }
    }

    /// Ends the calls.
    pub fn pull(&self) {
        self.stop.raise();
        self.agent.clone().shutdown();
    }
}

/// What a gap is filled with.
pub struct Past {
    /// Stored records that match, ascending. An error, or an end within a record, means that it is not all.
    pub body: Box<dyn Read + Send>,
    /// Whether all nodes that may have records did answer.
    pub whole: bool,
}

/// Gives the past of the whole cluster.
pub trait Backfill: Send + Sync {
    /// All records with this id or a larger one that match and can be read when this is called, wherever they are.
    /// Both the call and the reading end early when the leash is pulled.
    fn since(&self, from: Id, wishes: &Wishes, leash: &Leash) -> io::Result<Past>;
}

/// The past by a query to this very node, which asks all others.
pub struct OwnQuery(pub Arc<dyn Cluster>);

impl Backfill for OwnQuery {
    fn since(&self, from: Id, wishes: &Wishes, leash: &Leash) -> io::Result<Past> {
        let me = self.0.view().me.clone();
        let to = Callee { api: me.name(), node: me.node.0 };
        // Queries are open to all: there is nothing to sign.
        let answer = Caller::default().get(&leash.agent, &to, &wishes.gap_target(from)).map_err(into_io)?;
        let whole = answer.status() == 200 && answer.header("X-Oklog-Complete") == Some("true");
        Ok(Past { body: Box::new(answer.into_reader()), whole })
    }
}

/// As an error of reading, with the whole of what was said.
pub(super) fn into_io(error: ClientError) -> io::Error {
    io::Error::other(error)
}
