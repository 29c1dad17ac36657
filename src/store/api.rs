//! The store's own routes.
//!
//! `POST /store/replicate`, a segment as body: 200 with a receipt as headers ([`Receipt::headers`]) when it is on stable
//! storage; 400 where the body is no segment or broke off; 507 where there is no room; 500 where the disk refused.

use super::log::StoreLog;
use super::replicate::{Receipt, ReplicateError};
use crate::http::path::STORE_REPLICATE;
use crate::http::{Access, Lane, Reply, Request, Route};
use crate::unit::Bytes;
use std::io::{self, Read};
use std::sync::Arc;

/// The routes. `longest` is the longest body that is taken: the target size of a batch and one segment more, at least.
pub fn routes(store: &Arc<StoreLog>, longest: Bytes) -> Vec<Route> {
    let store = store.clone();
    vec![Route {
        path: STORE_REPLICATE,
        methods: &["POST"],
        lane: Lane::Upload,
        access: Access::Peers,
        body_limit: longest,
        handler: Arc::new(move |request, reply| replicate(&store, request, reply)),
    }]
}

fn replicate(store: &StoreLog, request: &mut Request, reply: Reply) -> io::Result<()> {
    match store.replicate(&mut WholeBody(request), &|| true) {
        Ok(receipt) => reply.send(200, &Receipt::headers(&receipt), b""),
        Err(e) => {
            if !matches!(e, ReplicateError::Full(_)) {
                log::warn!("a segment was not taken: {e}");
            } else {
                // That there is no room is said once, where it begins.
                log::debug!("a segment was not taken: {e}");
                // A sender listens when it has sent all. Before, it would find the connection broken, and not that there is
                // no room. One that goes away meanwhile needs no answer.
                let _ = io::copy(request.body(), &mut io::sink());
            }
            reply.send(e.status(), &[], format!("{e}\n").as_bytes())
        }
    }
}

/// A request's body, which ends without an error only if the client really finished it.
struct WholeBody<'a>(&'a mut Request);

impl Read for WholeBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.0.body().read(buffer)?;
        if n == 0 && !buffer.is_empty() && !self.0.body_is_whole() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the client has not finished it"));
        }
        Ok(n)
    }
}
