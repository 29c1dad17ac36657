//! From input as it comes to batches of whole lines with their prefixes.
//!
//! Bytes are passed on untouched: CR, NUL, `%`, invalid UTF-8. A line is held until its LF has come, up to [`LONG_LINE`];
//! a longer one goes on in pieces. A last line without LF is passed on as it is: a server takes it when we close.

use memchr::{memchr, memchr_iter, memrchr};

/// A batch is given out at the latest when it has come to this many bytes and a line has ended.
pub const BATCH: usize = 64 << 10;

/// A line that is longer than this, prefixes included, is passed on in pieces. It is what a server takes as one record by
/// default, so a line that stays one record there stays in one piece here.
pub const LONG_LINE: usize = 1 << 20;

/// All prefixes and their spaces together are at most this long, in bytes.
pub const MAX_PREFIX: usize = 64 << 10;

/// Bytes on their way to a server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// What to send.
    pub bytes: Vec<u8>,
    /// How many lines end in it.
    pub records: u64,
    /// It begins within a line, whose first pieces are in the batches before.
    pub continues: bool,
    /// It ends within a line, which goes on in the next batch.
    pub open: bool,
}

/// Puts prefixes before lines and cuts the input into batches.
#[derive(Debug)]
pub struct Framer {
    prefix: Vec<u8>,
    /// Bytes not given out yet, in which `ended` bytes are `records` whole lines.
    pending: Vec<u8>,
    ended: usize,
    records: u64,
    /// The next byte of input belongs to a line that has begun.
    in_line: bool,
    /// The last batch given out ended within a line.
    continues: bool,
}

impl Framer {
    /// A framer that writes each of `prefixes` and a space before each line. `None` if one has an LF in it, or all of them
    /// are longer than [`MAX_PREFIX`].
    pub fn new(prefixes: &[Vec<u8>]) -> Option<Framer> {
        let mut prefix = Vec::new();
        for part in prefixes {
            prefix.extend_from_slice(part);
            prefix.push(b' ');
        }
        if memchr(b'\n', &prefix).is_some() || prefix.len() > MAX_PREFIX {
            return None;
        }
        Some(Framer { prefix, pending: Vec::new(), ended: 0, records: 0, in_line: false, continues: false })
    }

    /// Takes some of `input`, at least one byte unless it is empty. Gives how much it took, and a batch if one is whole.
    /// Call it until all is taken: only then has everything that can be sent been given out.
    pub fn feed(&mut self, input: &[u8]) -> (usize, Option<Batch>) {
        let taken = if self.prefix.is_empty() { self.take_block(input) } else { self.take_lines(input) };
        let batch = if self.ended > 0 {
            Some(self.give(self.ended))
        } else if self.pending.len() >= LONG_LINE {
            Some(self.give(self.pending.len()))
        } else {
            None
        };
        (taken, batch)
    }

    /// Gives out what is held back: the beginning of a line whose LF has not come.
    pub fn finish(&mut self) -> Option<Batch> {
        // A line given out in pieces whose LF never came is a line all the same.
        if self.pending.is_empty() && !self.continues {
            return None;
        }
        let mut batch = self.give(self.pending.len());
        (batch.records, batch.open) = (1, false);
        (self.in_line, self.continues) = (false, false);
        Some(batch)
    }

    /// How many bytes are held back.
    pub fn held(&self) -> usize {
        self.pending.len()
    }

    /// Without a prefix the input is what is sent.
    fn take_block(&mut self, input: &[u8]) -> usize {
        let block = input.get(..BATCH).unwrap_or(input);
        if let Some(last) = memrchr(b'\n', block) {
            self.ended = self.pending.len() + last + 1;
            self.records += memchr_iter(b'\n', block).count() as u64;
        }
        self.pending.extend_from_slice(block);
        block.len()
    }

    fn take_lines(&mut self, input: &[u8]) -> usize {
        let mut rest = input;
        while !rest.is_empty() {
            if !self.in_line {
                self.pending.extend_from_slice(&self.prefix);
            }
            let lf = memchr(b'\n', rest);
            let (piece, later) = rest.split_at(lf.map_or(rest.len(), |at| at + 1).min(BATCH));
            self.pending.extend_from_slice(piece);
            self.in_line = !piece.ends_with(b"\n");
            if !self.in_line {
                (self.ended, self.records) = (self.pending.len(), self.records + 1);
            }
            rest = later;
            if self.pending.len() >= BATCH {
                break;
            }
        }
        input.len() - rest.len()
    }

    fn give(&mut self, len: usize) -> Batch {
        let rest = self.pending.split_off(len);
        let bytes = std::mem::replace(&mut self.pending, rest);
        let open = self.ended == 0;
        let batch = Batch { bytes, records: self.records, continues: self.continues, open };
        (self.ended, self.records, self.continues) = (0, 0, open);
        batch
    }
}

/// Where to go on after `handed` of these bytes were taken and the connection broke: at the first line that was not wholly
/// taken, or at the beginning if no line was.
pub fn resume_at(bytes: &[u8], handed: usize) -> usize {
    memrchr(b'\n', bytes.get(..handed).unwrap_or(bytes)).map_or(0, |lf| lf + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    fn frame(prefixes: &[&str], input: &[u8], mut piece: impl FnMut() -> usize) -> Vec<Batch> {
        let prefixes: Vec<Vec<u8>> = prefixes.iter().map(|p| p.as_bytes().to_vec()).collect();
        let mut framer = Framer::new(&prefixes).unwrap();
        let (mut batches, mut rest) = (Vec::new(), input);
        while !rest.is_empty() {
            let (mut now, later) = rest.split_at(piece().clamp(1, rest.len()));
            while !now.is_empty() {
                let (taken, batch) = framer.feed(now);
                assert!(taken > 0);
                batches.extend(batch);
                now = &now[taken..];
            }
            rest = later;
        }
        batches.extend(framer.finish());
        assert_eq!(framer.held(), 0);
        batches
    }

    fn joined(batches: &[Batch]) -> Vec<u8> {
        batches.iter().flat_map(|batch| batch.bytes.clone()).collect()
    }

    #[test]
    fn each_prefix_and_a_space_stand_before_each_line_and_bytes_pass_untouched() {
        let batches = frame(&["a", "%s"], b"100% done\r\n\n\0\xff\nlast", || usize::MAX);
        assert_eq!(joined(&batches), b"a %s 100% done\r\na %s \na %s \0\xff\na %s last");
        assert_eq!(batches.iter().map(|b| b.records).sum::<u64>(), 4);
        assert_eq!(joined(&frame(&[], b"x %d\n\ny", || usize::MAX)), b"x %d\n\ny");
        assert_eq!(joined(&frame(&[""], b"x\n", || usize::MAX)), b" x\n");
    }

    #[test]
    fn a_prefix_with_a_line_feed_or_too_long_is_refused() {
        assert!(Framer::new(&[b"a\nb".to_vec()]).is_none());
        assert!(Framer::new(&[vec![b'x'; MAX_PREFIX]]).is_none());
    }

    #[test]
    fn whole_lines_are_given_at_once_and_an_unfinished_one_waits() {
        let mut framer = Framer::new(&[]).unwrap();
        let (taken, batch) = framer.feed(b"one\ntwo\nthr");
        assert_eq!((taken, batch.unwrap().bytes), (11, b"one\ntwo\n".to_vec()));
        assert_eq!(framer.held(), 3);
        let batch = framer.feed(b"ee\n").1.unwrap();
        assert_eq!((batch.bytes, batch.records, batch.continues, batch.open), (b"three\n".to_vec(), 1, false, false));
    }

    #[test]
    fn a_long_line_goes_in_pieces_and_memory_stays_bounded() {
        for prefixes in [&[][..], &["p"][..]] {
            let mut input = vec![b'x'; 5 * LONG_LINE];
            input.extend_from_slice(b"\nshort\n");
            let batches = frame(prefixes, &input, || 64 << 10);
            assert!(batches.len() >= 5);
            assert!(batches.iter().all(|batch| batch.bytes.len() <= LONG_LINE + 2 * BATCH + MAX_PREFIX));
            assert!(batches.windows(2).all(|pair| pair[0].open == pair[1].continues));
            assert!(batches[0].open && !batches[0].continues && batches[0].records == 0);
            assert_eq!(batches.iter().map(|batch| batch.records).sum::<u64>(), 2);
            let bare = joined(&batches).iter().filter(|b| **b == b'x').count();
            assert_eq!(bare, 5 * LONG_LINE);
        }
    }

    #[test]
    fn many_empty_lines_with_a_long_prefix_do_not_make_one_huge_batch() {
        let prefix = "p".repeat(10_000);
        let batches = frame(&[&prefix], &vec![b'\n'; 1_000], || usize::MAX);
        assert!(batches.iter().all(|batch| batch.bytes.len() <= 2 * BATCH));
        assert_eq!(joined(&batches).len(), 1_000 * 10_002);
    }

    #[test]
    fn how_the_bytes_arrive_changes_nothing() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let input: Vec<u8> =
                (0..dice.below(300)).map(|_| if dice.one_in(6) { b'\n' } else { b'a' + dice.below(3) as u8 }).collect();
            let prefixes: &[&str] = if dice.one_in(2) { &[] } else { &["p", "q"] };
            let batches = frame(prefixes, &input, || 1 + dice.below(40) as usize);
            let mut naive = Vec::new();
            for line in input.split_inclusive(|b| *b == b'\n') {
                prefixes.iter().for_each(|p| naive.extend(format!("{p} ").bytes()));
                naive.extend_from_slice(line);
            }
            assert_eq!(joined(&batches), naive, "replay with seed {seed}");
            let lines = input.split_inclusive(|b| *b == b'\n').count() as u64;
            assert_eq!(batches.iter().map(|b| b.records).sum::<u64>(), lines, "replay with seed {seed}");
            assert!(batches.iter().rev().skip(1).all(|b| b.bytes.ends_with(b"\n")), "replay with seed {seed}");
        }
    }

    #[test]
    fn sending_resumes_at_the_first_line_that_was_not_wholly_taken() {
        let bytes = b"one\ntwo\nthree";
        let cases = [(0, 0), (3, 0), (4, 4), (5, 4), (8, 8), (13, 8), (99, 8)];
        for (handed, resume) in cases {
            assert_eq!(resume_at(bytes, handed), resume, "{handed} bytes were taken");
        }
    }
}
