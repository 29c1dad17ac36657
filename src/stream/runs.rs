//! Reading stored records off a body while it comes.
//!
//! Memory: [`READ`] bytes, or one record where that is longer, up to [`LONGEST_RECORD`].

use crate::record::stored::{self, PREFIX_LEN};
use crate::segment::reader::LONGEST_RECORD;
use std::io::{self, Read};

/// How much is read at once, in bytes.
const READ: usize = 64 << 10;

/// Cuts a body into runs of whole stored records.
pub struct RecordReader<R> {
    inner: R,
    buffer: Vec<u8>,
    /// What was given out and can go.
    given: usize,
    filled: usize,
}

impl<R: Read> RecordReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> RecordReader<R> {
        RecordReader { inner, buffer: vec![0; READ], given: 0, filled: 0 }
    }

    /// The next whole records, as soon as there are any; None at the end. An end within a record, a record without an
    /// id, one beyond [`LONGEST_RECORD`] and a body that breaks are errors; all records before were given then.
    pub fn next_run(&mut self) -> io::Result<Option<&[u8]>> {
        self.buffer.copy_within(self.given..self.filled, 0);
        self.filled -= self.given;
        self.given = 0;
        if self.filled < READ && self.buffer.len() > READ {
            // A long record has passed: a stream without end does not keep its room for ever.
            self.buffer.truncate(READ);
            self.buffer.shrink_to_fit();
        }
        loop {
            if self.filled == self.buffer.len() {
                if self.filled > LONGEST_RECORD {
                    return Err(invalid("the answer holds a record longer than 64 MiB"));
                }
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let room = self.buffer.get_mut(self.filled..).unwrap_or_default();
            let count = match self.inner.read(room) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if count == 0 && self.filled == 0 {
                return Ok(None);
            }
            if count == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends within a record"));
            }
            // Only what is new can hold the LF that was waited for.
            let new = self.buffer.get(self.filled..self.filled + count).unwrap_or_default();
            let whole = stored::whole_len(new);
            self.filled += count;
            if whole > 0 {
                self.given = self.filled - count + whole;
                break;
            }
        }
        let run = self.buffer.get(..self.given).unwrap_or_default();
        if stored::records(run).any(|record| record.whole.len() <= PREFIX_LEN || record.id().is_none()) {
            return Err(invalid("the answer holds a line that is no record"));
        }
        Ok(Some(run))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::Id;
    use crate::world::entropy::Dice;

    /// Gives a few bytes at a time, then ends or breaks.
    struct Drip<'a>(&'a [u8], Dice, Option<io::ErrorKind>);

    impl Read for Drip<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = (1 + self.1.below(99) as usize).min(buffer.len()).min(self.0.len());
            if let (0, Some(kind)) = (count, self.2) {
                return Err(kind.into());
            }
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read_all(body: &[u8], seed: u64, end: Option<io::ErrorKind>) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut reader = RecordReader::new(Drip(body, Dice::new(seed), end));
        let mut all = Vec::new();
        loop {
            match reader.next_run() {
                Ok(Some(run)) => all.extend_from_slice(run),
                Ok(None) => return (all, None),
                Err(error) => return (all, Some(error.kind())),
            }
        }
    }

    #[test]
    fn records_come_whole_however_they_arrive_and_a_broken_end_is_told() {
        let mut body = Vec::new();
        for n in 0..200u128 {
            stored::write(&mut body, Id(n), &vec![b'x'; (n as usize * 37) % 300]);
        }
        stored::write(&mut body, Id(200), &vec![b'y'; 200_000]);
        stored::write(&mut body, Id(201), &vec![b'z'; 300]);
        for seed in 0..10 {
            assert_eq!(read_all(&body, seed, None), (body.clone(), None), "replay with seed {seed}");
            let torn = [&body[..], b"0000"].concat();
            assert_eq!(read_all(&torn, seed, None), (body.clone(), Some(io::ErrorKind::UnexpectedEof)));
            let broken = io::ErrorKind::ConnectionReset;
            assert_eq!(read_all(&torn, seed, Some(broken)), (body.clone(), Some(broken)));
        }
        assert_eq!(read_all(b"no record\n", 0, None), (vec![], Some(io::ErrorKind::InvalidData)));
    }
}
