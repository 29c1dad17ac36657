//! From bytes of a connection to records: where one ends and the next begins.
//!
//! A record ends at LF, or at the size limit, or at the end of the connection. No byte is dropped: CR stays, an empty line
//! is a record, a longer line than the limit becomes consecutive records.

use memchr::memchr_iter;

/// The records cut from one buffer, as ranges that leave out the LF. Reused from batch to batch: no allocation once warm.
#[derive(Debug, Default)]
pub struct Cut {
    /// Where each record lies in the buffer, in order.
    pub records: Vec<(u32, u32)>,
    /// How many bytes of the buffer the records, and their LFs, take up: what follows is the beginning of a record.
    pub consumed: usize,
    /// How many records are parts of a longer line, its last part aside.
    pub splits: usize,
    /// Sum of the records' lengths.
    pub text_len: usize,
}

/// Cuts lines at LF and at `max_record`, remembering between buffers whether the line in progress was split already.
#[derive(Debug)]
pub struct LineCutter {
    max_record: usize,
    /// All bytes of the line so far were given away by [`LineCutter::split_here`]: an LF right here only ends that part.
    after_early_split: bool,
    /// How many bytes at the front of the next buffer are known to hold no LF.
    searched: usize,
}

impl LineCutter {
    /// A cutter for one connection. `max_record` is at least 1.
    pub fn new(max_record: usize) -> LineCutter {
        LineCutter { max_record: max_record.max(1), after_early_split: false, searched: 0 }
    }

    /// Cuts all records that end within `buffer`. The caller gives the rest again at the front of the next buffer.
    ///
    /// `buffer` is at most 4 GiB; connections hold far less.
    pub fn cut(&mut self, buffer: &[u8], cut: &mut Cut) {
        *cut = Cut { records: std::mem::take(&mut cut.records), ..Cut::default() };
        cut.records.clear();
        let mut start = 0;
        let searched = self.searched.min(buffer.len());
        for lf in memchr_iter(b'\n', &buffer[searched..]).map(|at| at + searched) {
            start = self.split_long(start, lf, cut);
            if !(self.after_early_split && start == lf) {
                cut.push(start, lf);
            }
            self.after_early_split = false;
            start = lf + 1;
        }
        start = self.split_long(start, buffer.len(), cut);
        cut.consumed = start;
        self.searched = buffer.len() - start;
    }

    /// Cuts what is left when the peer has closed: a last line without LF is a record, nothing is not.
    pub fn finish(&mut self, rest: &[u8], cut: &mut Cut) {
        self.cut(rest, cut);
        if cut.consumed < rest.len() {
            cut.push(cut.consumed, rest.len());
            cut.consumed = rest.len();
        }
        self.after_early_split = false;
        self.searched = 0;
    }

    /// Ends the record in progress here, before its LF has come, because there is no memory to wait for it.
    pub fn split_here(&mut self, rest: &[u8], cut: &mut Cut) {
        self.cut(rest, cut);
        if cut.consumed < rest.len() {
            cut.push(cut.consumed, rest.len());
            cut.consumed = rest.len();
            cut.splits += 1;
            self.after_early_split = true;
        }
        self.searched = 0;
    }

    /// Cuts full-sized parts off the line that starts at `start` and is known up to `end`. Gives the start of the rest,
    /// which is never empty: a part of exactly the limit waits for its next byte, since an LF there makes it a whole line.
    fn split_long(&mut self, mut start: usize, end: usize, cut: &mut Cut) -> usize {
        while end - start > self.max_record {
            cut.push(start, start + self.max_record);
            cut.splits += 1;
            start += self.max_record;
            self.after_early_split = false;
        }
        start
    }
}

impl Cut {
    fn push(&mut self, start: usize, end: usize) {
        debug_assert!(end <= u32::MAX as usize, "a buffer of a connection is far below 4 GiB");
        self.records.push((start as u32, end as u32));
        self.text_len += end - start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    /// Feeds `input` in pieces and gives the records; `early` splits at every so many-th piece.
    fn cut_in_pieces(input: &[u8], max_record: usize, mut piece: impl FnMut() -> usize) -> Vec<Vec<u8>> {
        let (mut cutter, mut cut) = (LineCutter::new(max_record), Cut::default());
        let (mut records, mut held) = (Vec::new(), Vec::new());
        let mut rest = input;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece().clamp(1, rest.len()));
            held.extend_from_slice(now);
            cutter.cut(&held, &mut cut);
            records.extend(cut.records.iter().map(|&(from, to)| held[from as usize..to as usize].to_vec()));
            held.drain(..cut.consumed);
            rest = later;
        }
        cutter.finish(&held, &mut cut);
        records.extend(cut.records.iter().map(|&(from, to)| held[from as usize..to as usize].to_vec()));
        records
    }

    fn cut_whole(input: &[u8], max_record: usize) -> Vec<Vec<u8>> {
        cut_in_pieces(input, max_record, || usize::MAX)
    }

    #[test]
    fn cr_stays_empty_lines_are_records_and_a_last_line_needs_no_lf() {
        assert_eq!(cut_whole(b"a\r\n\n\0\xff\nlast", 100), [&b"a\r"[..], b"", b"\0\xff", b"last"]);
        assert_eq!(cut_whole(b"", 100), Vec::<Vec<u8>>::new());
        assert_eq!(cut_whole(b"\n", 100), [b""]);
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_byte_more_makes_two_records() {
        assert_eq!(cut_whole(b"abcd\n", 4), [b"abcd"]);
        assert_eq!(cut_whole(b"abcd", 4), [b"abcd"]);
        assert_eq!(cut_whole(b"abcde\n", 4), [&b"abcd"[..], b"e"]);
        assert_eq!(cut_whole(b"abcdefgh\nx", 4), [&b"abcd"[..], b"efgh", b"x"]);
    }

    #[test]
    fn an_early_split_keeps_every_byte_and_adds_no_record() {
        let (mut cutter, mut cut) = (LineCutter::new(100), Cut::default());
        cutter.split_here(b"abc", &mut cut);
        assert_eq!((cut.records.as_slice(), cut.splits), (&[(0, 3)][..], 1));
        cutter.cut(b"\n\nd", &mut cut);
        assert_eq!((cut.records.as_slice(), cut.consumed), (&[(1, 1)][..], 2));
        cutter.split_here(b"d", &mut cut);
        cutter.finish(b"", &mut cut);
        assert!(cut.records.is_empty());
    }

    #[test]
    fn how_the_bytes_arrive_changes_nothing() {
        for seed in 0..500 {
            let mut dice = Dice::new(seed);
            let max_record = 1 + dice.below(20) as usize;
            let input: Vec<u8> = (0..dice.below(400))
                .map(|_| if dice.below(8) == 0 { b'\n' } else { b'a' + dice.below(3) as u8 })
                .collect();
            let whole = cut_whole(&input, max_record);
            let pieces = cut_in_pieces(&input, max_record, || 1 + dice.below(30) as usize);
            assert_eq!(pieces, whole, "replay with seed {seed}");
            let naive: Vec<Vec<u8>> = input
                .split_inclusive(|&b| b == b'\n')
                .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
                .flat_map(|line| {
                    if line.is_empty() { vec![vec![]] } else { line.chunks(max_record).map(<[u8]>::to_vec).collect() }
                })
                .collect();
            assert_eq!(whole, naive, "replay with seed {seed}");
        }
    }
}
