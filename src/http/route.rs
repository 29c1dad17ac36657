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
    /// Answers without end: a thread each, 256 at once, none waits.
    Stream,
    /// Bodies that are large: 8 at once, 16 may wait.
    Upload,
}

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
    /// The longest body it takes. 0: none.
    pub body_limit: Bytes,
    /// What answers.
    pub handler: Arc<Handler>,
}
