//! Which blocks of a sealed segment a query reads, and reading them.
//!
//! What is outside the time range, and what the filter excludes, is never unpacked. The filter may let a block through in
//! which nothing is found; it never keeps one back.

use super::needle::Matcher;
use super::pool::Scratch;
use crate::http::Cancel;
use crate::ops::metrics::Counter;
use crate::record::id::Id;
use crate::record::stored::records;
use crate::segment::handle::Content;
use crate::segment::readable::{Readable, Source};
use crate::segment::sealed::filter::Formula;
use crate::segment::sealed::{Form, Sealed, Unpacker};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A part that a query is to read.
pub struct Wanted {
    /// The part.
    pub part: Readable,
    /// The blocks to read, in order, where that is known already.
    pub blocks: Option<Arc<[u32]>>,
}

impl From<Readable> for Wanted {
    fn from(part: Readable) -> Wanted {
        Wanted { part, blocks: None }
    }
}

/// What a query asks of an index.
pub(super) struct Question<'a> {
    /// What a text must hold.
    pub formula: &'a Formula,
    /// The smallest id wanted.
    pub from: Id,
    /// The largest id wanted.
    pub to: Id,
}

impl Question<'_> {
    /// The blocks that may hold an answer, in order. That none is missing was seen to when the segment was opened.
    pub fn choose(&self, sealed: &Sealed) -> io::Result<Arc<[u32]>> {
        let near = sealed.between(self.from, self.to);
        let numbers = near.filter_map(|number| u32::try_from(number).ok());
        Ok(match sealed.candidates(self.formula)? {
            Some(candidates) => numbers.filter(|number| candidates.contains(*number)).collect(),
            None => numbers.collect(),
        })
    }

    /// Asks the indexes of these parts, one after the other, as long as `go_on` says so. Parts of which nothing need be read
    /// are left out. Gives also how many bytes of text are excluded by what was looked at.
    pub fn look_ahead(&self, parts: Vec<Readable>, go_on: impl Fn() -> bool) -> (Vec<Wanted>, u64) {
        let (mut wanted, mut skipped) = (Vec::with_capacity(parts.len()), 0);
        for part in parts {
            // What cannot be opened says so when it is read.
            let sealed = match &part.source {
                Source::Segment(segment) if segment.form() == Form::Sealed && go_on() => {
                    segment.content().ok().and_then(Content::sealed)
                }
                _ => None,
            };
            let chosen = sealed.and_then(|sealed| {
                let blocks = self.choose(&sealed).ok()?;
                part.source.note_index(&sealed);
                Some((blocks, sealed))
            });
            let Some((blocks, sealed)) = chosen else {
                wanted.push(Wanted::from(part));
                continue;
            };
            let table = sealed.blocks();
            let read: u64 =
                blocks.iter().filter_map(|n| table.get(*n as usize)).map(|block| u64::from(block.text)).sum();
            skipped += part.len.0.saturating_sub(read);
            if !blocks.is_empty() {
                wanted.push(Wanted { part, blocks: Some(blocks) });
            }
        }
        (wanted, skipped)
    }
}

/// Who reads blocks of one sealed segment, for one query.
pub(super) struct Unpacking<'a> {
    pub sealed: &'a Sealed,
    pub from: Id,
    pub to: Id,
    pub matcher: &'a Matcher,
    pub cancel: &'a Cancel,
    pub scanned: &'a Counter,
}

impl Unpacking<'_> {
    /// Appends the matching records of these blocks to `out`.
    pub fn find(&self, numbers: &[u32], scratch: &mut Scratch, out: &mut Vec<u8>) -> io::Result<()> {
        let Scratch { block, found, unpacker, .. } = scratch;
        let unpacker = match unpacker {
            Some(unpacker) => unpacker,
            none => none.insert(Unpacker::new()?),
        };
        for number in numbers {
            if self.cancel.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let number = *number as usize;
            // Where every record matches, what is unpacked goes on without a copy.
            let goes_on = self.matcher.takes_all() && out.is_empty();
            let text = if goes_on { &mut *out } else { &mut *block };
            self.sealed.unpack(number, unpacker, text)?;
            self.scanned.add(text.len() as u64);
            let within = self.within(number, text);
            if goes_on {
                out.truncate(within.end);
                out.drain(..within.start);
                continue;
            }
            let text = block.get(within).unwrap_or_default();
            if self.matcher.takes_all() {
                out.extend_from_slice(text);
                continue;
            }
            self.matcher.scan(text, found);
            for range in found.drain(..) {
                out.extend_from_slice(&text[range]);
            }
        }
        Ok(())
    }

    /// Which part of a block's text lies in the time range.
    fn within(&self, number: usize, text: &[u8]) -> Range<usize> {
        let ends = self.sealed.blocks().get(number).map(|block| (block.first, block.last));
        if ends.is_some_and(|(first, last)| first >= self.from && last <= self.to) {
            return 0..text.len();
        }
        let (mut start, mut end) = (0, 0);
        for stored in records(text) {
            let id = stored.id();
            if id < Some(self.from) {
                start += stored.whole.len();
            }
            if id <= Some(self.to) {
                end += stored.whole.len();
            }
        }
        start.min(end)..end
    }
}
