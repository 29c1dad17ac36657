//! Quantities that must not be mixed up: points in time, spans of time, amounts of bytes.
//!
//! Durations are read as Go writes them (`1h30m`, `100ms`, `1.5h`) with `d` for a day of 24 hours besides; sizes as a
//! number of bytes or with a unit (`128MiB`). Times of day are RFC 3339, always printed in UTC.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds in one millisecond.
pub const NANOS_PER_MILLI: u64 = 1_000_000;

/// Milliseconds since 1970, UTC, at most 48 bits in an id. Orders records. Never measures a delay: it may step back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMillis(pub u64);

/// Nanoseconds since 1970, UTC (good until the year 2554). What ids are made of. May step back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixNanos(pub u64);

/// Time since this process began. Measures delays. Never leaves the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Monotonic(pub Duration);

/// An amount of bytes, or an offset in a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Bytes(pub u64);

impl UnixNanos {
    /// The millisecond this nanosecond lies in.
    pub fn millis(self) -> UnixMillis {
        UnixMillis(self.0 / NANOS_PER_MILLI)
    }
}

impl UnixMillis {
    /// The largest time that fits into an id: 48 bits, the year 10889.
    pub const MAX: UnixMillis = UnixMillis((1 << 48) - 1);

    /// The first nanosecond of this millisecond, or the last one a [`UnixNanos`] can hold.
    pub fn nanos(self) -> UnixNanos {
        UnixNanos(self.0.saturating_mul(NANOS_PER_MILLI))
    }

    /// `span` earlier, but not before 1970.
    pub fn before(self, span: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_sub(millis_of(span)))
    }

    /// `span` later, but not after [`UnixMillis::MAX`].
    pub fn after(self, span: Duration) -> UnixMillis {
        UnixMillis(self.0.saturating_add(millis_of(span))).min(Self::MAX)
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: UnixMillis) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Monotonic {
    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Monotonic) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Monotonic {
    type Output = Monotonic;
    fn add(self, span: Duration) -> Monotonic {
        Monotonic(self.0.saturating_add(span))
    }
}

impl Sub<Duration> for Monotonic {
    type Output = Monotonic;
    fn sub(self, span: Duration) -> Monotonic {
        Monotonic(self.0.saturating_sub(span))
    }
}

fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Why a quantity could not be read. `Display` is half a sentence: what was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitError {
    /// Not a duration.
    Duration,
    /// Not a size.
    Size,
    /// Not a time of day.
    Time,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UnitError::Duration => "a duration such as 300ms, 15m, 1h30m or 7d",
            UnitError::Size => "a number of bytes, or a size such as 128MiB",
            UnitError::Time => "a time such as 2026-11-23T09:30:00Z or 2026-11-23T10:30:00.25+01:00",
        })
    }
}

impl std::error::Error for UnitError {}

/// Reads a number of exactly so many hexadecimal digits in lower case: neither sign nor space, one spelling for each.
pub fn parse_hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u128::from_str_radix(text, 16).ok())?
}

/// Reads a duration in Go's notation (package time, `ParseDuration`), with `d` for 24 hours besides.
///
/// Negative spans are refused: none of our settings has a meaning for them.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(UnitError::Duration);
    }
    let mut total_ns: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail.bytes().take_while(|b| !b.is_ascii_digit() && *b != b'.').count();
        let (unit, next) = tail.split_at(unit_len);
        let unit_ns: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(UnitError::Duration),
        };
        total_ns = decimal_times(number, unit_ns).and_then(|ns| total_ns.checked_add(ns)).ok_or(UnitError::Duration)?;
        rest = next;
    }
    u64::try_from(total_ns).map(Duration::from_nanos).map_err(|_| UnitError::Duration)
}

/// `number` (digits with at most one point) times `unit`, cut to a whole number.
fn decimal_times(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 18 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut result = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        result = result.checked_add(fraction.parse::<u128>().ok()?.checked_mul(unit)? / scale)?;
    }
    Some(result)
}

/// Writes a duration as Go would, with days left as hours: `168h`, `1h30m`, `100ms`.
pub fn show_duration(span: Duration) -> String {
    let ns = span.as_nanos();
    let units: [(&str, u128); 6] = [
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    let mut rest = ns;
    let mut text = String::new();
    for (unit, size) in units {
        if rest >= size {
            text.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// Reads an amount of bytes: `4096`, `64KiB`, `128MiB`, `1GiB`, `2TiB`; also `k`, `M`, `G`, `T` with or without `B`,
/// which count in thousands as in SI.
pub fn parse_size(text: &str) -> Result<Bytes, UnitError> {
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit {
        "" | "B" => 1,
        "k" | "kB" | "K" | "KB" => 1_000,
        "M" | "MB" => 1_000_000,
        "G" | "GB" => 1_000_000_000,
        "T" | "TB" => 1_000_000_000_000,
        "Ki" | "KiB" => 1 << 10,
        "Mi" | "MiB" => 1 << 20,
        "Gi" | "GiB" => 1 << 30,
        "Ti" | "TiB" => 1 << 40,
        _ => return Err(UnitError::Size),
    };
    if unit == 1 && number.contains('.') {
        return Err(UnitError::Size);
    }
    let bytes = decimal_times(number, unit).ok_or(UnitError::Size)?;
    u64::try_from(bytes).map(Bytes).map_err(|_| UnitError::Size)
}

/// Reads an RFC 3339 date and time, with or without a fraction, in any zone.
///
/// Precision is the nanosecond; further digits are cut. A leap second (`:60`) is the first instant of the next minute.
pub fn parse_rfc3339(text: &str) -> Result<UnixNanos, UnitError> {
    read_rfc3339(text.as_bytes()).ok_or(UnitError::Time)
}

fn read_rfc3339(text: &[u8]) -> Option<UnixNanos> {
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = text.get(from..to)?;
        digits.iter().try_fold(0i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))
    };
    let is = |at: usize, any_of: &[u8]| text.get(at).is_some_and(|b| any_of.contains(b));
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let shaped = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let in_range = (1..=12).contains(&month) && day >= 1 && day <= days_in_month(year, month);
    if !shaped || !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut fraction_ns: i64 = 0;
    if is(at, b".,") {
        let digits = text[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..9 {
            let digit = if place < digits { i64::from(text[at + 1 + place] - b'0') } else { 0 };
            fraction_ns = fraction_ns * 10 + digit;
        }
        at += 1 + digits;
    }
    let offset_minutes = if is(at, b"Zz") && text.len() == at + 1 {
        0
    } else if is(at, b"+-") && is(at + 3, b":") && text.len() == at + 6 {
        let (h, m) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
        if h > 23 || m > 59 {
            return None;
        }
        (h * 60 + m) * if text[at] == b'-' { -1 } else { 1 }
    } else {
        return None;
    };
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset_minutes) * 60 + second;
    let ns = seconds.checked_mul(1_000_000_000)?.checked_add(fraction_ns)?;
    u64::try_from(ns).ok().map(UnixNanos)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
///
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms" (years start in March, eras of 400 years).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`]: year, month, day.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days - era * 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Prints RFC 3339 in UTC to the millisecond: `2026-11-23T09:30:00.250Z`.
impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0 / 1_000).unwrap_or(i64::MAX);
        let (year, month, day) = civil_from_days(seconds / 86_400);
        let of_day = seconds % 86_400;
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        let millis = self.0 % 1_000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them_and_days_besides() {
        let cases = [
            ("0", 0),
            ("100ms", 100_000_000),
            ("3s", 3_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("7d", 604_800_000_000_000),
            ("2us3ns", 2_003),
            ("+1m", 60_000_000_000),
        ];
        for (text, ns) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(ns)), "{text}");
        }
        for text in ["", "5", "-3s", "3 s", "s", ".s", "1..5s", "1h-3m", "99999999999d", "5w", "∞"] {
            assert_eq!(parse_duration(text), Err(UnitError::Duration), "{text}");
        }
    }

    #[test]
    fn a_shown_duration_reads_back_as_itself() {
        for ns in [0, 1, 1_500, 100_000_000, 5_400_000_000_000, 604_800_000_000_000] {
            let span = Duration::from_nanos(ns);
            assert_eq!(parse_duration(&show_duration(span)), Ok(span));
        }
        assert_eq!(show_duration(Duration::from_secs(604_800)), "168h");
    }

    #[test]
    fn sizes_are_bytes_or_carry_a_unit() {
        let cases =
            [("0", 0), ("16777216", 16_777_216), ("128MiB", 128 << 20), ("1.5KiB", 1_536), ("2GB", 2_000_000_000)];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "MiB", "1.5", "-1", "1 MiB", "12x", "99999999999999TiB"] {
            assert_eq!(parse_size(text), Err(UnitError::Size), "{text}");
        }
    }

    #[test]
    fn rfc3339_is_read_with_fractions_and_zones() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000_000_000),
            ("2026-11-23T09:30:00.25Z", 1_795_426_200_250_000_000),
            ("2026-11-23T10:30:00.250000000+01:00", 1_795_426_200_250_000_000),
            ("2026-11-23t00:30:00,25-09:00", 1_795_426_200_250_000_000),
            ("2026-11-23 09:30:00.2500000001z", 1_795_426_200_250_000_000),
        ];
        for (text, ns) in cases {
            assert_eq!(parse_rfc3339(text), Ok(UnixNanos(ns)), "{text}");
        }
        let refused = [
            "",
            "now",
            "2026-11-23",
            "2026-11-23T09:30:00",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-23T24:00:00Z",
            "2026-11-23T09:30:00.Z",
            "2026-11-23T09:30:00+1:00",
            "1969-12-31T23:59:59Z",
            "2026-11-23T09:30:00Zjunk",
            "2026-11-23T09:30:00ü",
            "9999-12-31T23:59:59Z",
        ];
        for text in refused {
            assert_eq!(parse_rfc3339(text), Err(UnitError::Time), "{text}");
        }
    }

    #[test]
    fn a_printed_time_reads_back_as_itself_on_every_day_of_400_years() {
        for day in 0..146_097u64 {
            let time = UnixMillis(day * 86_400_000 + day % 86_400_000);
            let ns = parse_rfc3339(&time.to_string());
            if time.nanos().0 < i64::MAX as u64 {
                assert_eq!(ns, Ok(time.nanos()), "{time}");
            }
        }
    }
}
