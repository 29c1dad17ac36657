//! The id of a record: a ULID whose 128 bits are filled in here.
//!
//! ```text
//!  127            80 79         60 59              32 31               0
//! +-----------------+-------------+------------------+------------------+
//! | Unix ms (48)    | ns in ms(20)| stream (28)      | counter (32)     |
//! +-----------------+-------------+------------------+------------------+
//! ```
//!
//! A *stream* is one writer of ids from its start to its end. It draws its 28 bits at random; within it the nanosecond
//! rises with every record, the counter goes 0, 1, 2, ... without gaps. Nanoseconds are handed out by one [`IdClock`]
//! per process, so they rise across all streams of a process too: what one connection sends keeps its order even where
//! a new segment, and with it a new stream, begins.
//!
//! The text form is Crockford's base32 as in the ULID specification: 26 characters, upper case, whose byte order is
//! the order of the numbers.

use crate::unit::{NANOS_PER_MILLI, UnixMillis, UnixNanos};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Characters in the text form of an id.
pub const ID_LEN: usize = 26;

/// A clock that is behind the last id by no more than this is waited for; one that is further behind was corrected.
pub const LARGEST_STEP_BACK: Duration = Duration::from_secs(10);

/// The identifier of a record. Ordered by time, then by stream and counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id(pub u128);

/// The 28 random bits that tell one writer of ids from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StreamBits(u32);

impl StreamBits {
    /// Set aside: no writer of records draws it. Notices in a live stream carry it (see the `stream` room).
    pub const NOTICE: StreamBits = StreamBits((1 << 28) - 1);

    /// The stream a random draw stands for; never [`StreamBits::NOTICE`].
    pub fn from_random(random: u64) -> StreamBits {
        StreamBits((random % u64::from(Self::NOTICE.0)) as u32)
    }

    /// The bits as a number below 2^28.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl Id {
    /// The smallest id.
    pub const MIN: Id = Id(0);
    /// The largest id.
    pub const MAX: Id = Id(u128::MAX);

    /// Puts an id together. `at` is cut to 48 bits of milliseconds (the year 10889), which a [`UnixNanos`] cannot exceed.
    pub fn new(at: UnixNanos, stream: StreamBits, counter: u32) -> Id {
        let ms = u128::from(at.0 / NANOS_PER_MILLI) << 80;
        let ns = u128::from(at.0 % NANOS_PER_MILLI) << 60;
        Id(ms | ns | u128::from(stream.0) << 32 | u128::from(counter))
    }

    /// The first id of a millisecond: every record of that millisecond has this id or a larger one.
    pub fn first_of(ms: UnixMillis) -> Id {
        Id(u128::from(ms.0.min(UnixMillis::MAX.0)) << 80)
    }

    /// The last id of a millisecond: every record of that millisecond has this id or a smaller one.
    pub fn last_of(ms: UnixMillis) -> Id {
        Id(Id::first_of(ms).0 | ((1 << 80) - 1))
    }

    /// When the record came in, to the millisecond.
    pub fn millis(self) -> UnixMillis {
        UnixMillis((self.0 >> 80) as u64)
    }

    /// When the record came in, to the nanosecond. Ids that are not ours may hold more than 999,999 ns in a millisecond;
    /// the excess is carried.
    pub fn nanos(self) -> UnixNanos {
        let ns_in_ms = (self.0 >> 60) as u64 & ((1 << 20) - 1);
        UnixNanos(self.millis().nanos().0.saturating_add(ns_in_ms))
    }

    /// Which writer gave this id.
    pub fn stream(self) -> StreamBits {
        StreamBits((self.0 >> 32) as u32 & ((1 << 28) - 1))
    }

    /// The number of this record within its stream.
    pub fn counter(self) -> u32 {
        self.0 as u32
    }

    /// The 26 characters.
    pub fn text(self) -> [u8; ID_LEN] {
        let mut text = [0; ID_LEN];
        text[0] = ALPHABET[(self.0 >> 125) as usize];
        for (pair, out) in text[1..25].chunks_exact_mut(2).enumerate() {
            let ten_bits = (self.0 >> (115 - 10 * pair)) as usize & 1023;
            out.copy_from_slice(&PAIRS[ten_bits]);
        }
        text[25] = ALPHABET[self.0 as usize & 31];
        text
    }

    /// Reads the canonical text form: exactly 26 characters of the upper-case alphabet, of which the first is 0 to 7.
    ///
    /// Anything else is refused, since ids are compared as bytes: lower case or an overflowing first digit would sort
    /// differently from what they mean.
    pub fn parse(text: &[u8]) -> Option<Id> {
        let text: &[u8; ID_LEN] = text.try_into().ok()?;
        if text[0] > b'7' {
            return None;
        }
        let mut id = 0u128;
        let mut bad = 0u8;
        for &byte in text {
            let digit = DIGITS[byte as usize];
            bad |= digit;
            id = id << 5 | u128::from(digit & 31);
        }
        (bad & NOT_A_DIGIT == 0).then_some(Id(id))
    }

    /// Reads what a person may type: as [`Id::parse`], but in either case and with the look-alikes of Crockford's
    /// base32 (`i`, `l` for 1, `o` for 0) as the ulid package takes them.
    pub fn parse_lenient(text: &str) -> Option<Id> {
        let in_range = text.as_bytes().first().is_some_and(|b| (b'0'..=b'7').contains(b));
        if !in_range || text.len() != ID_LEN {
            return None;
        }
        ulid::Ulid::from_string(text).ok().map(|ulid| Id(ulid.0))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const NOT_A_DIGIT: u8 = 0x80;

static DIGITS: [u8; 256] = {
    let mut digits = [NOT_A_DIGIT; 256];
    let mut value = 0;
    while value < 32 {
        digits[ALPHABET[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// Two characters for every ten bits: half the look-ups of one character for five.
static PAIRS: [[u8; 2]; 1024] = {
    let mut pairs = [[0; 2]; 1024];
    let mut value = 0;
    while value < 1024 {
        pairs[value] = [ALPHABET[value >> 5], ALPHABET[value & 31]];
        value += 1;
    }
    pairs
};

/// Hands out nanoseconds, each one once, in rising order: the part of an id that all streams of a process share.
///
/// One atomic exchange per batch of records. The clock's reading comes from the caller, so tests decide what time it is.
#[derive(Debug)]
pub struct IdClock {
    last_ns: AtomicU64,
}

/// A run of nanoseconds that belongs to the caller alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserved {
    /// The first of them; the others follow without a gap.
    pub first: UnixNanos,
    /// Set when the clock was behind the last id by more than [`LARGEST_STEP_BACK`]: by how much. Ids go back to the true
    /// time then; whoever sees this says so in the log.
    pub stepped_back: Option<Duration>,
}

impl IdClock {
    /// Starts above `mark`, the highest nanosecond that an earlier process of this node is known to have used.
    pub fn resume(mark: UnixNanos) -> IdClock {
        IdClock { last_ns: AtomicU64::new(mark.0) }
    }

    /// Takes `count` nanoseconds from `now` on, or from the last one given out where that is ahead by up to 10 s.
    pub fn reserve(&self, now: UnixNanos, count: u64) -> Reserved {
        let mut last_ns = self.last_ns.load(Ordering::Relaxed);
        loop {
            let ahead = Duration::from_nanos(last_ns.saturating_sub(now.0));
            let stepped_back = (ahead > LARGEST_STEP_BACK).then_some(ahead);
            let first = if stepped_back.is_some() { now.0 } else { now.0.max(last_ns.saturating_add(1)) };
            let end = first.saturating_add(count.max(1) - 1);
            match self.last_ns.compare_exchange_weak(last_ns, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Reserved { first: UnixNanos(first), stepped_back },
                Err(other) => last_ns = other,
            }
        }
    }

    /// The highest nanosecond given out so far, or the mark it started from.
    pub fn last(&self) -> UnixNanos {
        UnixNanos(self.last_ns.load(Ordering::Relaxed))
    }
}

/// The ids of one batch: consecutive nanoseconds, consecutive counters, one stream.
#[derive(Clone, Debug)]
pub struct IdRun {
    ms: u64,
    ns_in_ms: u64,
    stream: StreamBits,
    counter: u32,
}

impl IdRun {
    /// The run that begins at `first` with number `counter`. The caller has reserved as many nanoseconds as it will take.
    pub fn new(first: UnixNanos, stream: StreamBits, counter: u32) -> IdRun {
        IdRun { ms: first.0 / NANOS_PER_MILLI, ns_in_ms: first.0 % NANOS_PER_MILLI, stream, counter }
    }

    fn here(&self) -> Id {
        let high = self.ms << 16 | self.ns_in_ms >> 4;
        let low = self.ns_in_ms << 60 | u64::from(self.stream.0) << 32 | u64::from(self.counter);
        Id(u128::from(high) << 64 | u128::from(low))
    }

    fn step(&mut self) {
        self.ns_in_ms += 1;
        if self.ns_in_ms == NANOS_PER_MILLI {
            self.ns_in_ms = 0;
            self.ms += 1;
        }
        self.counter = self.counter.wrapping_add(1);
    }
}

impl Iterator for IdRun {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        let id = self.here();
        self.step();
        Some(id)
    }
}

/// How many bytes [`IdTexts::write_next`] writes: an id, a space, and what the caller writes over.
pub const TEXT_ROOM: usize = 32;

/// The ids of a run as text. Neighbours differ in few characters, so one is made of the other: the last ten bits of the
/// nanosecond and of the counter are put in anew for each id, all other characters only where one of them changes.
pub struct IdTexts {
    run: IdRun,
    /// The id that was looked at last, and a space.
    template: [u8; TEXT_ROOM],
    /// How many ids from here on differ from it in nothing but those ten bits.
    alike: u64,
}

impl IdTexts {
    /// The texts of a run.
    pub fn new(run: IdRun) -> IdTexts {
        IdTexts { run, template: [b' '; TEXT_ROOM], alike: 0 }
    }

    /// Writes the next id, a space, and five bytes that mean nothing.
    #[inline]
    pub fn write_next(&mut self, out: &mut [u8; TEXT_ROOM]) {
        if self.alike == 0 {
            self.look();
        }
        self.alike -= 1;
        *out = self.template;
        out[12..14].copy_from_slice(&PAIRS[self.run.ns_in_ms as usize & 1023]);
        out[24..26].copy_from_slice(&PAIRS[self.run.counter as usize & 1023]);
        self.run.step();
    }

    fn look(&mut self) {
        let run = &self.run;
        self.template[..ID_LEN].copy_from_slice(&run.here().text());
        let in_ns = 1024 - (run.ns_in_ms & 1023);
        let in_counter = 1024 - (u64::from(run.counter) & 1023);
        self.alike = in_ns.min(in_counter).min(NANOS_PER_MILLI - run.ns_in_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    const S: u64 = 1_000_000_000;

    #[test]
    fn an_id_keeps_its_parts() {
        let stream = StreamBits::from_random(0xABC_DEF1);
        let id = Id::new(UnixNanos(1_795_426_200_250_999_999), stream, 77);
        assert_eq!(id.millis(), UnixMillis(1_795_426_200_250));
        assert_eq!(id.nanos(), UnixNanos(1_795_426_200_250_999_999));
        assert_eq!(id.stream(), stream);
        assert_eq!(id.counter(), 77);
    }

    #[test]
    fn the_text_form_is_the_ulid_specification_s() {
        for id in [0, 1, 31, 32, u128::MAX, u128::MAX / 3, 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF] {
            let text = Id(id).to_string();
            assert_eq!(text, ulid::Ulid(id).to_string());
            assert_eq!(Id::parse(text.as_bytes()), Some(Id(id)));
            assert_eq!(Id::parse_lenient(&text.to_lowercase()), Some(Id(id)));
        }
    }

    #[test]
    fn text_that_is_not_canonical_is_refused() {
        let good = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        assert!(Id::parse(good.as_bytes()).is_some());
        for bad in [
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FAVX",
            "",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
        ] {
            assert_eq!(Id::parse(bad.as_bytes()), None, "{bad}");
            assert_eq!(Id::parse_lenient(bad), None, "{bad}");
        }
        assert_eq!(Id::parse(good.to_lowercase().as_bytes()), None);
        assert_eq!(Id::parse_lenient("é1ARZ3NDEKTSV4RRFFQ69G5FA"), None);
    }

    #[test]
    fn the_order_of_texts_is_the_order_of_ids() {
        let mut ids: Vec<Id> =
            (0..2_000u128).map(|n| Id(n.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835))).collect();
        ids.sort();
        assert!(ids.windows(2).all(|pair| pair[0].text() < pair[1].text()));
    }

    #[test]
    fn a_run_gives_consecutive_nanoseconds_and_counters_across_a_millisecond() {
        let stream = StreamBits::from_random(5);
        let first = UnixNanos(7 * NANOS_PER_MILLI - 2);
        let run: Vec<Id> = IdRun::new(first, stream, 9).take(4).collect();
        let expected: Vec<Id> = (0..4).map(|n| Id::new(UnixNanos(first.0 + n), stream, 9 + n as u32)).collect();
        assert_eq!(run, expected);
    }

    #[test]
    fn the_texts_of_a_run_are_those_of_its_ids() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            // Near where a millisecond, ten bits, or the counter run over.
            let ns_in_ms = [0, 1024 * dice.below(976), NANOS_PER_MILLI][dice.below(3) as usize];
            let first = UnixNanos(dice.below(1 << 40) * NANOS_PER_MILLI + ns_in_ms.saturating_sub(dice.below(2_000)));
            let counter = (dice.below(3) as u32).wrapping_mul(1 << 31).wrapping_sub(dice.below(3_000) as u32);
            let run = IdRun::new(first, StreamBits::from_random(dice.roll()), counter);
            let mut texts = IdTexts::new(run.clone());
            for id in run.take(4_000) {
                let mut out = [0; TEXT_ROOM];
                texts.write_next(&mut out);
                assert_eq!((&out[..ID_LEN], out[ID_LEN]), (&id.text()[..], b' '), "replay with seed {seed}");
            }
        }
    }

    #[test]
    fn no_nanosecond_is_given_twice_while_the_clock_stands_still_or_steps_back_a_little() {
        let clock = IdClock::resume(UnixNanos(100 * S));
        assert_eq!(clock.reserve(UnixNanos(99 * S), 10).first, UnixNanos(100 * S + 1));
        assert_eq!(clock.reserve(UnixNanos(90 * S + 11), 1).first, UnixNanos(100 * S + 11));
        assert_eq!(clock.reserve(UnixNanos(200 * S), 1).first, UnixNanos(200 * S));
        assert_eq!(clock.last(), UnixNanos(200 * S));
    }

    #[test]
    fn a_large_step_back_is_taken_as_the_correction_of_a_wrong_clock() {
        let clock = IdClock::resume(UnixNanos(1_000 * S));
        let reserved = clock.reserve(UnixNanos(900 * S), 5);
        assert_eq!(reserved, Reserved { first: UnixNanos(900 * S), stepped_back: Some(Duration::from_secs(100)) });
        assert_eq!(clock.reserve(UnixNanos(900 * S), 1).first, UnixNanos(900 * S + 5));
    }

    #[test]
    fn threads_never_share_a_nanosecond() {
        let clock = IdClock::resume(UnixNanos(0));
        let mut all: Vec<u64> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..2_000).map(|n| clock.reserve(UnixNanos(n), 3).first.0).collect::<Vec<_>>()))
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
        });
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[1] >= pair[0] + 3));
    }

    #[test]
    fn the_notice_stream_is_never_drawn() {
        assert_ne!(StreamBits::from_random(u64::from(StreamBits::NOTICE.0)), StreamBits::NOTICE);
    }
}
