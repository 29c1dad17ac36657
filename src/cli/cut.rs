//! Cutting the body of an answer into records, each printed as it is wanted, whatever pieces the body comes in.
//!
//! A record costs a look at its id, a search for its LF and a copy of its text. Only whole records are given out: the
//! beginning of one is held until its end has come.
//!
//! Memory: what was taken last, and one record, of at most [`LONGEST_RECORD`].

use super::client::Shape;
use crate::record::id::{ID_LEN, Id};
use crate::record::key::Key;
use crate::record::stored::PREFIX_LEN;
use crate::segment::reader::LONGEST_RECORD;
use memchr::memchr;
use std::io;

/// Takes a body piece by piece.
pub(super) struct Cutter {
    /// How records are printed; `None`: they are counted alone.
    shape: Option<Shape>,
    /// What has come of the id and the space of the record at hand.
    prefix: [u8; PREFIX_LEN],
    known: usize,
    /// How long the text of the record at hand is so far.
    length: usize,
    out: Vec<u8>,
    /// How much of `out` is whole records.
    whole: usize,
    count: u64,
}

impl Cutter {
    /// A cutter that prints in this shape, or counts alone.
    pub fn new(shape: Option<Shape>) -> Cutter {
        Cutter { shape, prefix: [0; PREFIX_LEN], known: 0, length: 0, out: Vec::new(), whole: 0, count: 0 }
    }

    /// Takes the next piece. After an error nothing more is to be taken; the records before it are there.
    pub fn take(&mut self, mut body: &[u8]) -> io::Result<()> {
        while !body.is_empty() {
            if self.known < PREFIX_LEN {
                body = self.take_prefix(body)?;
                continue;
            }
            let end = memchr(b'\n', body);
            let (text, rest) = body.split_at(end.map_or(body.len(), |lf| lf + 1));
            if self.shape.is_some() {
                self.out.extend_from_slice(text);
            }
            body = rest;
            if end.is_some() {
                (self.known, self.length, self.whole) = (0, 0, self.out.len());
                self.count += 1;
                continue;
            }
            self.length += text.len();
            if self.length > LONGEST_RECORD {
                return Err(invalid("the answer holds a record longer than 64 MiB"));
            }
        }
        Ok(())
    }

    /// Takes id and space, or what has come of them.
    fn take_prefix<'a>(&mut self, body: &'a [u8]) -> io::Result<&'a [u8]> {
        if let (0, Some((prefix, rest))) = (self.known, body.split_first_chunk()) {
            self.begin(prefix)?;
            return Ok(rest);
        }
        let (now, rest) = body.split_at(body.len().min(PREFIX_LEN - self.known));
        self.prefix.iter_mut().skip(self.known).zip(now).for_each(|(to, from)| *to = *from);
        self.known += now.len();
        if self.known == PREFIX_LEN {
            let prefix = self.prefix;
            self.begin(&prefix)?;
        }
        Ok(rest)
    }

    /// Begins a record.
    fn begin(&mut self, prefix: &[u8; PREFIX_LEN]) -> io::Result<()> {
        if Key::at(prefix).is_none() {
            return Err(invalid("the answer holds a line that is no record"));
        }
        self.known = PREFIX_LEN;
        let Some(shape) = self.shape else { return Ok(()) };
        if let Some(id) = prefix.get(..ID_LEN).and_then(Id::parse).filter(|_| shape.time) {
            self.out.extend_from_slice(id.millis().to_string().as_bytes());
            self.out.push(b' ');
        }
        if shape.ulid {
            self.out.extend_from_slice(prefix);
        }
        Ok(())
    }

    /// The body has ended: an error if that was within a record.
    pub fn end(&self) -> io::Result<()> {
        match self.known {
            0 => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends within a record")),
        }
    }

    /// The whole records that were not dropped yet, as they are printed.
    pub fn printed(&self) -> &[u8] {
        self.out.get(..self.whole).unwrap_or_default()
    }

    /// Drops them.
    pub fn drop_printed(&mut self) {
        self.out.drain(..self.whole);
        self.whole = 0;
    }

    /// How many whole records there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored::{self, Stored};
    use crate::world::entropy::Dice;

    const SHAPES: [Shape; 4] = [
        Shape { ulid: false, time: false },
        Shape { ulid: true, time: false },
        Shape { ulid: false, time: true },
        Shape { ulid: true, time: true },
    ];

    /// What is printed of a body, how many records that are, and whether all of it is records.
    type Cut = (Vec<u8>, u64, bool);

    fn cut<'a>(shape: Shape, pieces: impl Iterator<Item = &'a [u8]>, drops: &mut Dice) -> Cut {
        let (mut cutter, mut printed) = (Cutter::new(Some(shape)), Vec::new());
        let mut give = |cutter: &mut Cutter| {
            printed.extend_from_slice(cutter.printed());
            cutter.drop_printed();
        };
        let mut is_sound = true;
        for piece in pieces {
            is_sound = is_sound && cutter.take(piece).is_ok();
            if drops.below(2) == 0 {
                give(&mut cutter);
            }
        }
        give(&mut cutter);
        let is_sound = is_sound && cutter.end().is_ok();
        (printed, cutter.count(), is_sound)
    }

    /// The same, line by line.
    fn cut_slowly(shape: Shape, body: &[u8]) -> Cut {
        let (mut printed, mut count) = (Vec::new(), 0);
        for whole in body.split_inclusive(|byte| *byte == b'\n') {
            let record = Stored { whole };
            if record.id().is_none() || whole.len() <= PREFIX_LEN || !whole.ends_with(b"\n") {
                return (printed, count, false);
            }
            shape.print(&mut printed, record);
            count += 1;
        }
        (printed, count, true)
    }

    fn body(dice: &mut Dice) -> Vec<u8> {
        let mut body = Vec::new();
        for _ in 0..dice.below(8) {
            let id = Id(u128::from(dice.below(u64::MAX)) << 64 | u128::from(dice.below(u64::MAX)));
            let size = if dice.below(4) == 0 { 400 } else { 40 };
            let text: Vec<u8> = (0..dice.below(size)).map(|_| dice.below(256) as u8).collect();
            stored::write(&mut body, id, &text.into_iter().filter(|byte| *byte != b'\n').collect::<Vec<u8>>());
        }
        body
    }

    #[test]
    fn a_body_is_cut_alike_wherever_its_pieces_end_be_it_sound_or_not() {
        for seed in 0..400 {
            let mut dice = Dice::new(seed);
            let (mut body, shape) = (body(&mut dice), SHAPES[dice.below(4) as usize]);
            if dice.below(2) == 0 && !body.is_empty() {
                let at = dice.below(body.len() as u64) as usize;
                match dice.below(3) {
                    0 => body.truncate(at),
                    1 => body[at] = b"\n IiZ8\0"[dice.below(7) as usize],
                    _ => drop(body.remove(at)),
                }
            }
            let expected = cut_slowly(shape, &body);
            for at in 0..=body.len() {
                let (front, back) = body.split_at(at);
                let found = cut(shape, [front, back].into_iter(), &mut dice);
                assert_eq!(found, expected, "replay with seed {seed}, cut at {at}");
            }
            for size in 1..40 {
                let found = cut(shape, body.chunks(size), &mut dice);
                assert_eq!(found, expected, "replay with seed {seed}, pieces of {size}");
            }
        }
    }

    #[test]
    fn records_are_counted_where_none_is_printed_and_none_is_longer_than_there_is_room() {
        let (mut cutter, mut body) = (Cutter::new(None), Vec::new());
        stored::write(&mut body, Id(7), b"text");
        assert!(cutter.take(&[&body[..], &body[..]].concat()).is_ok() && cutter.end().is_ok());
        assert_eq!((cutter.count(), cutter.printed()), (2, &b""[..]));
        assert!(cutter.take(&body[..30]).is_ok());
        let endless = vec![b'x'; 1 << 20];
        let broken = (0..100).find(|_| cutter.take(&endless).is_err());
        // Three bytes of it have come before.
        assert_eq!(broken, Some((LONGEST_RECORD >> 20) - 1), "of 1 MiB each");
    }
}
