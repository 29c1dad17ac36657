//! What there is to ask for, and who does the work.

use super::reply::{Reply, Request};
use crate::unit::Bytes;
use std::io;
use std::sync::Arc;

/// Which workers a route runs on. What a full lane cannot take is answered with 503 and `Retry-After`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Calls that end by themselves within milliseconds: 2 workers that do nothing else, 256 may wait.
    Short,
    /// Scans: 16 at once, 64 may wait.
    Query,
    /// Reading for another node, which asks for a client of its own or merges: a thread each, 256 at once, 64 may wait. They wait
    /// for nobody else's workers, and may pause for as long as that client does.
    Part,
    /// Answers without end: a thread each, 256 at once, none waits.
    Stream,
    /// Bodies that are large: 8 at once, 16 may wait.
    Upload,
}

/// Who may call a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Whoever reaches the port.
    Open,
    /// Nodes of the cluster: where a key is set, calls that are signed with it, see [`Guard`]; never web pages.
    Peers,
}

/// Judges calls of routes with [`Access::Peers`].
pub trait Guard: Send + Sync {
    /// Whether a call may pass. `signature` is the value of the header [`SIGNATURE`], if there is one. An error is one
    /// sentence for the caller, who gets it with status 401.
    fn admit(&self, method: &str, target: &str, signature: Option<&str>) -> Result<(), String>;
}

/// The header in which a node proves that it has the cluster's key.
pub const SIGNATURE: &str = "X-Oklog-Signature";

/// What answers a request. It may panic, or drop the reply: the client gets a 500, or a body that is seen to be broken.
pub type Handler = dyn Fn(&mut Request, Reply) -> io::Result<()> + Send + Sync;

/// One path of the API.
#[derive(Clone)]
pub struct Route {
    /// The path, exactly.
    pub path: &'static str,
    /// The methods it knows; `HEAD` only where it is named.
    pub methods: &'static [&'static str],
    /// Who does the work.
    pub lane: Lane,
    /// Who may call it.
    pub access: Access,
    /// The longest body it takes. 0: none.
    pub body_limit: Bytes,
    /// What answers.
    pub handler: Arc<Handler>,
}
