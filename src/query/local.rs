//! A query over parts that the caller has at hand: scanned and merged as a node does it, without a node.

use super::answer::{Query, Told, pour};
use super::blocks::Wanted;
use super::params::Params;
use super::pool::Line;
use crate::http::Cancel;
use crate::merge::k_way::MergeError;
use crate::ops::metrics::Counter;
use crate::segment::readable::Readable;
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use std::io;

/// A query that was understood, and what it is to read.
pub struct LocalQuery {
    query: Query,
    parts: Vec<Wanted>,
    segments: u64,
    reach: u64,
    skipped: u64,
}

impl LocalQuery {
    /// What these parameters ask of these parts. With `head_only` no record is wanted, and all indexes are asked. An error is
    /// one sentence.
    pub fn new(
        params: Params,
        parts: Vec<Readable>,
        head_only: bool,
        clock: &dyn Clock,
        began: Monotonic,
    ) -> Result<LocalQuery, String> {
        let query = Query::new(params, head_only, Cancel::default(), began)?;
        let (segments, reach) = (parts.len() as u64, parts.iter().map(|part| part.len.0).sum());
        let (parts, skipped) = query.look_ahead(parts, clock);
        Ok(LocalQuery { query, parts, segments, reach, skipped })
    }

    /// What the headers of a node's answer would tell; no node was asked.
    pub fn headers(&self, is_complete: bool, clock: &dyn Clock) -> Vec<(&'static str, String)> {
        let LocalQuery { segments, reach, skipped, .. } = *self;
        let told = Told { nodes: 0, segments, reach, skipped, silent: 0, is_complete };
        self.query.headers(&told, clock.now())
    }

    /// Gives whole records, merged, each id once, and how many they are, to `send`, whose error ends it. `on_break` is told of
    /// a part that is left out from then on.
    pub fn run(
        self,
        line: Line,
        scanned: &Counter,
        send: impl FnMut(&[u8], u64) -> io::Result<()>,
        mut on_break: impl FnMut(MergeError),
    ) -> io::Result<()> {
        let LocalQuery { query, parts, .. } = self;
        let mut merge = query.merge(query.scan(parts, line, scanned.clone()));
        pour(merge.as_mut(), query.params.limit, send, |error| {
            on_break(error);
            Ok(())
        })
    }
}
