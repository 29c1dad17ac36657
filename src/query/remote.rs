//! Another node's part of an answer, as a source of a merge.
//!
//! What comes is checked to the record before it is merged: ids in the asked order, within the range, nothing torn. Memory:
//! two blocks, one that is merged and one for the beginning of the next, each of at most 64 KiB, or as long as one record
//! where that is longer.

use super::newest::Descending;
use super::params::{Order, Params};
use crate::merge::k_way::{MergeError, Source};
use crate::record::id::Id;
use crate::record::stored::{id_at, last, records};
use crate::segment::checked::are_in_order;
use crate::segment::reader::BlockReader;
use std::io::{self, Read};

/// The body of another node's answer.
pub struct Remote {
    blocks: BlockReader<Box<dyn Read + Send>>,
    from: Id,
    to: Id,
    order: Order,
    last: Option<Id>,
}

impl Remote {
    /// What `body` brings of what `params` asks for.
    pub fn new(body: Box<dyn Read + Send>, params: &Params) -> Remote {
        let Params { from, to, order, .. } = *params;
        Remote { blocks: BlockReader::eager(body), from, to, order, last: None }
    }

    /// The next records, in the order in which they come; `false` at the end.
    fn next(&mut self, block: &mut Vec<u8>) -> io::Result<bool> {
        if !self.blocks.next_block(block)? {
            return Ok(false);
        }
        // Without a look at each id as a number, as long as there is no fault to be named.
        let ends = (id_at(block), last(block).and_then(|last| last.id()));
        if let (Some(low), Some(high), Order::Asc) = (ends.0, ends.1, self.order)
            && self.from <= low
            && high <= self.to
            && self.last.is_none_or(|last| last < low)
            && are_in_order(block)
        {
            self.last = Some(high);
            return Ok(true);
        }
        let mut whole = 0;
        for stored in records(block) {
            let id = stored.id().ok_or_else(|| invalid("no id where a record must begin".into()))?;
            if !(self.from..=self.to).contains(&id) {
                return Err(invalid(format!("the record {id} was not asked for")));
            }
            let is_in_order = self.last.is_none_or(|last| match self.order {
                Order::Asc => last < id,
                Order::Desc => last > id,
            });
            if !is_in_order {
                return Err(invalid(format!("the record {id} is out of order")));
            }
            self.last = Some(id);
            whole += stored.whole.len();
        }
        if whole < block.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends within a record"));
        }
        Ok(true)
    }
}

impl Source for Remote {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        Ok(self.next(block)?)
    }

    fn low(&self) -> Id {
        self.from
    }
}

impl Descending for Remote {
    fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut block = Vec::new();
        if !self.next(&mut block)? {
            return Ok(None);
        }
        let descending: Vec<_> = records(&block).collect();
        let mut piece = Vec::with_capacity(block.len());
        descending.iter().rev().for_each(|stored| piece.extend_from_slice(stored.whole));
        Ok(Some(piece))
    }

    fn high(&self) -> Id {
        self.to
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored::write;
    use crate::unit::UnixMillis;

    fn remote(ids: &[u128], tail: &[u8], order: &str) -> Remote {
        let mut body = Vec::new();
        ids.iter().for_each(|id| write(&mut body, Id(*id), b"text"));
        body.extend_from_slice(tail);
        let text = |id: u128| Id(id).to_string().into_bytes();
        let pairs = [("from".into(), text(10)), ("to".into(), text(20)), ("order".into(), order.into())];
        let params = Params::from_pairs(&pairs, UnixMillis(0)).expect("good ones");
        Remote::new(Box::new(io::Cursor::new(body)), &params)
    }

    #[test]
    fn what_is_out_of_order_out_of_range_or_torn_is_an_error() {
        let cases: [(&[u128], &[u8], &str); 8] = [
            (&[11, 10], b"", "asc"),
            (&[11, 11], b"", "asc"),
            (&[11, 12], b"", "desc"),
            (&[9], b"", "asc"),
            (&[21], b"", "desc"),
            (&[11], b"no id\n", "asc"),
            (&[11], b"\n", "asc"),
            (&[11], b"0000", "asc"),
        ];
        for (ids, tail, order) in cases {
            let mut remote = remote(ids, tail, order);
            let mut block = Vec::new();
            let broken = (0..3).any(|_| remote.next(&mut block).is_err());
            assert!(broken, "{ids:?} {order}");
        }
    }

    #[test]
    fn descending_records_come_as_ascending_pieces() {
        let mut remote = remote(&[20, 15, 10], b"", "desc");
        let piece = remote.next_piece().expect("in memory").expect("a piece");
        let ids: Vec<u128> = records(&piece).map(|stored| stored.id().expect("an id").0).collect();
        assert_eq!(ids, [10, 15, 20]);
        assert!(remote.next_piece().expect("in memory").is_none());
    }
}
