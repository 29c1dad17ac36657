//! A service that does nothing but log: lines at a steady pace, to try things out with.
//!
//! A line is `ID N RANDOM`: who, which in a row from 1, and random characters up to the size asked for. The pace does not
//! drift: line N is due at N / rate seconds after the start, however long the lines before took to write.

use crate::unit::Bytes;
use crate::world::clock::Clock;
use crate::world::crew::Stop;
use crate::world::entropy::Dice;
use std::io::{self, Write};
use std::time::Duration;

/// At high rates lines are written in batches, this often.
const TICK: Duration = Duration::from_millis(20);

/// One write is at most about this long.
const MAX_WRITE: usize = 256 << 10;

/// What to log.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first word of each line.
    pub id: String,
    /// Bytes per line, its LF included. A line is never too short for its id and number.
    pub size: Bytes,
    /// Lines per second, at least 1.
    pub rate: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options { id: "foo".into(), size: Bytes(512), rate: 5 }
    }
}

/// How many lines are due after this long.
fn due(elapsed: Duration, rate: u64) -> u64 {
    u64::try_from(elapsed.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX)
}

/// When line `number` (from 1) is due, after the start, rounded up.
fn due_at(number: u64, rate: u64) -> Duration {
    let ns = (u128::from(number) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// Logs until `stop` is raised, or nobody reads any more, which is a quiet end.
pub fn run(options: &Options, out: &mut dyn Write, clock: &dyn Clock, stop: &Stop, mut dice: Dice) -> io::Result<()> {
    let start = clock.now();
    let mut written: u64 = 0;
    let mut batch = Vec::new();
    while !stop.is_raised() {
        let elapsed = clock.now().since(start);
        batch.clear();
        while written < due(elapsed, options.rate) && batch.len() < MAX_WRITE {
            written += 1;
            push_line(&mut batch, options, written, &mut dice);
        }
        match out.write_all(&batch).and_then(|()| out.flush()) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
        let next = due_at(written.saturating_add(1), options.rate);
        if next > elapsed {
            stop.wait((next - elapsed).max(TICK));
        }
    }
    Ok(())
}

fn push_line(batch: &mut Vec<u8>, options: &Options, number: u64, dice: &mut Dice) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // Whoever asks for longer lines than this wants something else than lines.
    let size = usize::try_from(options.size.0).unwrap_or(usize::MAX).min(16 << 20);
    let begin = batch.len();
    batch.extend_from_slice(format!("{} {number}", options.id).as_bytes());
    if batch.len() - begin + 2 < size {
        batch.push(b' ');
        let mut bits = 0;
        for place in 0..size - 1 - (batch.len() - begin) {
            // Ten characters of six bits in each throw.
            if place % 10 == 0 {
                bits = dice.roll();
            }
            batch.extend(ALPHABET.get((bits & 63) as usize));
            bits >>= 6;
        }
    }
    batch.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::UnixNanos;
    use crate::world::clock::VirtualClock;
    use crate::world::pipe::Gone;

    /// Winds the clock at each write, and stops after so many.
    struct Reader<'a> {
        clock: &'a VirtualClock,
        step: Duration,
        writes_left: u32,
        stop: Stop,
        got: Vec<u8>,
    }

    impl Write for Reader<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.got.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.clock.advance(self.step);
            self.writes_left -= 1;
            if self.writes_left == 0 {
                self.stop.raise();
            }
            Ok(())
        }
    }

    fn log(options: &Options, step: Duration, writes: u32) -> Vec<u8> {
        let clock = VirtualClock::at(UnixNanos(0));
        let stop = Stop::default();
        let mut reader = Reader { clock: &clock, step, writes_left: writes, stop: stop.clone(), got: Vec::new() };
        run(options, &mut reader, &clock, &stop, Dice::new(1)).unwrap();
        reader.got
    }

    #[test]
    fn lines_have_an_id_a_number_and_their_size() {
        let got = log(&Options { rate: 100, ..Options::default() }, Duration::from_millis(10), 4);
        let lines: Vec<&[u8]> = got.split_inclusive(|b| *b == b'\n').collect();
        assert_eq!(lines.len(), 3);
        for (n, line) in lines.iter().enumerate() {
            assert_eq!(line.len(), 512);
            assert!(line.starts_with(format!("foo {} ", n + 1).as_bytes()));
            assert!(
                line[..511].iter().all(u8::is_ascii_graphic) || line[..511].iter().filter(|b| **b == b' ').count() == 2
            );
        }
        assert_eq!(log(&Options { size: Bytes(1), rate: 100, ..Options::default() }, TICK, 2), b"foo 1\nfoo 2\n");
    }

    #[test]
    fn the_pace_does_not_drift_however_late_we_wake() {
        // 7 ms late each time, 1,000 lines a second: all that are due are written.
        let got = log(&Options { size: Bytes(16), rate: 1_000, ..Options::default() }, Duration::from_millis(27), 5);
        assert_eq!(got.iter().filter(|b| **b == b'\n').count(), 4 * 27);
        assert_eq!(due(due_at(12_345, 7), 7), 12_345);
        assert_eq!(due(due_at(12_345, 7) - Duration::from_nanos(1), 7), 12_344);
    }

    #[test]
    fn a_reader_that_goes_away_is_a_quiet_end() {
        let clock = crate::world::clock::SystemClock::default();
        run(&Options { rate: 1_000, ..Options::default() }, &mut Gone, &clock, &Stop::default(), Dice::new(1)).unwrap();
    }
}
