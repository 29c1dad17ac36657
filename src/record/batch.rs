//! A batch of records in stored form, made in one pass into memory that is kept from batch to batch.
//!
//! What [`super::stored::write`] does record by record, without a call per record: ids are made of the one before
//! ([`IdTexts`]), and texts are copied by [`copy_over`].

use super::id::{IdRun, IdTexts, TEXT_ROOM};
use super::line::Cut;
use super::stored::PREFIX_LEN;

/// How many bytes are moved at a time: a register of any x86-64.
const STEP: usize = 16;

/// How many bytes [`copy_over`] copies at a time. In four steps: one step of whatever size, in a loop, is made a call of `memcpy`
/// again by the compiler, which knows that loop when it sees it.
const STRIDE: usize = 4 * STEP;

/// From here on a call of `memcpy` costs little beside the bytes.
const LONG: usize = 1024;

/// Copies the first `len` bytes of `from` to the front of `out`, and possibly some more where both have them: those are to be
/// written over by what comes next.
///
/// A line is short, and a `memcpy` of a length that the compiler does not know is a call. With glibc that costs about as
/// much as this; with musl, which the static binary has, five times as much: 50 ns for a line of 190 bytes (measured).
#[inline]
pub fn copy_over(out: &mut [u8], from: &[u8], len: usize) {
    let strides = len.next_multiple_of(STRIDE);
    match (out.get_mut(..strides), from.get(..strides)) {
        (Some(out), Some(from)) if len <= LONG => {
            for (out, from) in out.chunks_exact_mut(STRIDE).zip(from.chunks_exact(STRIDE)) {
                step(out, from, 0);
                step(out, from, STEP);
                step(out, from, 2 * STEP);
                step(out, from, 3 * STEP);
            }
        }
        _ => out[..len].copy_from_slice(&from[..len]),
    }
}

#[inline(always)]
fn step(out: &mut [u8], from: &[u8], at: usize) {
    let out = out.get_mut(at..).and_then(|out| out.first_chunk_mut::<STEP>());
    if let (Some(out), Some(from)) = (out, from.get(at..).and_then(|from| from.first_chunk())) {
        *out = *from;
    }
}

/// Memory for one batch. It grows to the largest so far: at most 28 times a batch of empty lines.
#[derive(Debug, Default)]
pub struct Batch {
    memory: Vec<u8>,
    len: usize,
}

impl Batch {
    /// Makes stored records of what `cut` says of `buffer`. What was in the batch before is gone.
    pub fn form(&mut self, ids: IdRun, buffer: &[u8], cut: &Cut) {
        let needed = cut.text_len + cut.records.len() * (PREFIX_LEN + 1);
        // Beyond it, what the last record's copies may write too much.
        let room = needed + TEXT_ROOM + STRIDE;
        if self.memory.len() < room {
            self.memory = vec![0; room + room / 4];
        }
        let (mut ids, mut at) = (IdTexts::new(ids), 0);
        for &(from, to) in &cut.records {
            let out = &mut self.memory[at..];
            let len = (to - from) as usize;
            if let Some(prefix) = out.first_chunk_mut() {
                ids.write_next(prefix);
            }
            copy_over(&mut out[PREFIX_LEN..], &buffer[from as usize..], len);
            out[PREFIX_LEN + len] = b'\n';
            at += PREFIX_LEN + len + 1;
        }
        self.len = at;
    }

    /// The stored records.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::StreamBits;
    use crate::record::line::LineCutter;
    use crate::record::stored;
    use crate::unit::UnixNanos;
    use crate::world::entropy::Dice;

    /// Lines of all lengths around those at which something changes, with a rest that is no record yet.
    fn lines(dice: &mut Dice) -> Vec<u8> {
        let mut lines = Vec::new();
        for _ in 0..dice.below(60) {
            let len = match dice.below(4) {
                0 => dice.below(4),
                1 => dice.below(300),
                2 => (STRIDE as u64 * (1 + dice.below(3))).saturating_sub(1) + dice.below(3),
                _ => LONG as u64 - 1 + dice.below(3),
            };
            lines.extend((0..len).map(|_| b'a' + dice.below(26) as u8));
            lines.push(b'\n');
        }
        let rest = dice.below(2 * STRIDE as u64);
        lines.extend((0..rest).map(|_| b'z'));
        lines
    }

    #[test]
    fn a_batch_is_what_its_records_are_one_by_one() {
        for seed in 0..2_000 {
            let mut dice = Dice::new(seed);
            let (mut cutter, mut cut) = (LineCutter::new(1 + dice.below(3_000) as usize), Cut::default());
            let mut batch = Batch::default();
            for _ in 0..3 {
                let buffer = lines(&mut dice);
                if dice.one_in(2) {
                    cutter.cut(&buffer, &mut cut)
                } else {
                    cutter.finish(&buffer, &mut cut)
                }
                let first = UnixNanos(dice.below(1 << 60));
                let ids = IdRun::new(first, StreamBits::from_random(dice.roll()), dice.roll() as u32);
                batch.form(ids.clone(), &buffer, &cut);
                let mut expected = Vec::new();
                for (&(from, to), id) in cut.records.iter().zip(ids) {
                    stored::write(&mut expected, id, &buffer[from as usize..to as usize]);
                }
                assert!(batch.bytes() == expected, "replay with seed {seed}");
            }
        }
    }
}
