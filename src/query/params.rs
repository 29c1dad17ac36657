//! What a query asks for: parameters of a URL into values, values back into a URL and into headers.
//!
//! Both ends of the time range are inclusive, to the millisecond, or to the very record where an id is given. Without
//! `from` a query reaches back one hour; without `to` it ends now. A parameter without a value counts as not given, save
//! for the flags, where `regex` alone means `regex=true`. Names that are not ours are passed over, as in the old one.

use crate::http::params::encode;
use crate::record::id::Id;
use crate::unit::{UnixMillis, parse_duration, parse_rfc3339};
use std::fmt;
use std::time::Duration;

/// How far back a query goes that does not say so.
pub const DEFAULT_SPAN: Duration = Duration::from_secs(3600);

/// At most this much of a bad value is repeated in the sentence that refuses it, in bytes.
const SHOWN_VALUE: usize = 80;

/// In which order records are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// What a query asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Params {
    /// The smallest id that is wanted.
    pub from: Id,
    /// The largest id that is wanted; not below `from`.
    pub to: Id,
    /// The needle, any bytes; empty matches every record.
    pub q: Vec<u8>,
    /// Whether `q` is a regular expression.
    pub regex: bool,
    /// Whether the records that do not match are wanted.
    pub invert: bool,
    /// Whether case is ignored.
    pub ignore_case: bool,
    /// How many records are wanted at most; at least 1.
    pub limit: Option<u64>,
    /// In which order.
    pub order: Order,
}

/// Why parameters were refused. `Display` is one plain sentence for the body of a 400.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParamError {
    /// A value that its parameter cannot have.
    Bad {
        /// The parameter.
        name: &'static str,
        /// Its value, cut to a length that can be shown.
        value: String,
        /// What is wanted, as half a sentence.
        wanted: &'static str,
    },
    /// The range ends before it begins.
    Reversed {
        /// Where it begins.
        from: Id,
        /// Where it ends.
        to: Id,
    },
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParamError::Bad { name, value, wanted } => write!(f, "{name} must be {wanted}, not \"{value}\""),
            ParamError::Reversed { from, to } if from.millis() == to.millis() => {
                write!(f, "from, {from}, is after to, {to}")
            }
            ParamError::Reversed { from, to } => write!(f, "from, {}, is after to, {}", from.millis(), to.millis()),
        }
    }
}

impl std::error::Error for ParamError {}

const WANTED_TIME: &str =
    "a time such as 2026-11-23T09:30:00Z, an id of 26 characters, a span before now such as 15m, or now";
const WANTED_FLAG: &str = "true or false";

impl Params {
    /// Reads parameters, each through `param`, which gives the first value under a name, percent-decoded. `now` is the
    /// time that relative ones are counted from.
    pub fn parse<'a>(param: impl Fn(&str) -> Option<&'a [u8]>, now: UnixMillis) -> Result<Params, ParamError> {
        let given = |name: &str| param(name).filter(|value| !value.is_empty());
        let flag = |name: &'static str| match param(name) {
            None | Some(b"false" | b"0") => Ok(false),
            Some(b"" | b"true" | b"1") => Ok(true),
            Some(value) => Err(bad(name, value, WANTED_FLAG)),
        };
        let from = match given("from") {
            None => Id::first_of(now.before(DEFAULT_SPAN)),
            Some(value) => moment(value, now).ok_or_else(|| bad("from", value, WANTED_TIME))?.first(),
        };
        let to = match given("to") {
            None => Id::last_of(now),
            Some(value) => moment(value, now).ok_or_else(|| bad("to", value, WANTED_TIME))?.last(),
        };
        let limit = match given("limit") {
            None => None,
            Some(value) => Some(count(value).ok_or_else(|| bad("limit", value, "a number of records, 1 or more"))?),
        };
        let order = match given("order") {
            None | Some(b"asc") => Order::Asc,
            Some(b"desc") => Order::Desc,
            Some(value) => return Err(bad("order", value, "asc or desc")),
        };
        let (regex, invert, ignore_case) = (flag("regex")?, flag("invert")?, flag("ignore_case")?);
        if from > to {
            return Err(ParamError::Reversed { from, to });
        }
        let q = param("q").unwrap_or_default().to_vec();
        Ok(Params { from, to, q, regex, invert, ignore_case, limit, order })
    }

    /// As [`Params::parse`], from pairs of name and value; the first of several with one name counts.
    pub fn from_pairs(pairs: &[(String, Vec<u8>)], now: UnixMillis) -> Result<Params, ParamError> {
        Params::parse(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.as_slice()), now)
    }

    /// Whether an id lies within the range.
    pub fn covers(&self, id: Id) -> bool {
        (self.from..=self.to).contains(&id)
    }

    /// The query part of a URL that says the same to another node, whatever its clock shows: the range is given as ids.
    pub fn query_string(&self) -> String {
        let mut query = QueryString::default();
        query.add("from", &self.from.text());
        query.add("to", &self.to.text());
        query.add("q", &self.q);
        for (name, is_set) in [("regex", self.regex), ("invert", self.invert), ("ignore_case", self.ignore_case)] {
            if is_set {
                query.add(name, b"true");
            }
        }
        if let Some(limit) = self.limit {
            query.add("limit", limit.to_string().as_bytes());
        }
        if self.order == Order::Desc {
            query.add("order", b"desc");
        }
        query.into_string()
    }

    /// The headers that repeat a query in its answer.
    pub fn headers(&self) -> [(&'static str, String); 4] {
        [
            ("X-Oklog-From", self.from.millis().to_string()),
            ("X-Oklog-To", self.to.millis().to_string()),
            ("X-Oklog-Q", header_value(&self.q)),
            ("X-Oklog-Regex", self.regex.to_string()),
        ]
    }
}

/// One end of a range.
enum Moment {
    Record(Id),
    Time(UnixMillis),
}

impl Moment {
    fn first(self) -> Id {
        match self {
            Moment::Record(id) => id,
            Moment::Time(ms) => Id::first_of(ms),
        }
    }

    fn last(self) -> Id {
        match self {
            Moment::Record(id) => id,
            Moment::Time(ms) => Id::last_of(ms),
        }
    }
}

fn moment(value: &[u8], now: UnixMillis) -> Option<Moment> {
    let text = std::str::from_utf8(value).ok()?;
    if text == "now" {
        return Some(Moment::Time(now));
    }
    if let Some(id) = Id::parse_lenient(text) {
        return Some(Moment::Record(id));
    }
    if let Ok(span) = parse_duration(text) {
        return Some(Moment::Time(now.before(span)));
    }
    parse_rfc3339(&with_plus(text)).ok().map(|at| Moment::Time(at.millis()))
}

/// A `+` that somebody forgot to percent-encode arrives as a space: put it back where a zone begins.
fn with_plus(text: &str) -> String {
    let zone = text.len().checked_sub(6).filter(|at| *at >= 19 && text.is_char_boundary(*at));
    match zone.map(|at| text.split_at(at)) {
        Some((time, zone)) if zone.starts_with(' ') => format!("{time}+{}", &zone[1..]),
        _ => text.to_string(),
    }
}

fn count(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok().filter(|count| *count > 0)
}

fn bad(name: &'static str, value: &[u8], wanted: &'static str) -> ParamError {
    let shown = value.get(..SHOWN_VALUE).unwrap_or(value);
    let dots = if shown.len() < value.len() { "..." } else { "" };
    ParamError::Bad { name, value: format!("{}{dots}", shown.escape_ascii()), wanted }
}

/// The part of a URL after the question mark, in the making.
#[derive(Clone, Debug, Default)]
pub struct QueryString(String);

impl QueryString {
    /// Adds a parameter; its value may be any bytes.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        self.0.push_str(name);
        self.0.push('=');
        self.0.push_str(&encode(value, |b| b.is_ascii_alphanumeric() || b"-._~:".contains(&b)));
    }

    /// What was made.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A value in a header, with whatever a header cannot hold percent-encoded: control characters, bytes that are not
/// ASCII, spaces at its ends, and `%` itself so that it can be read back.
pub fn header_value(value: &[u8]) -> String {
    let inner = value.trim_ascii();
    let start = value.len() - value.trim_ascii_start().len();
    let mut text = encode(&value[..start], |_| false);
    text.push_str(&encode(inner, |b| (b' '..=b'~').contains(&b) && b != b'%'));
    text.push_str(&encode(value.get(start + inner.len()..).unwrap_or_default(), |_| false));
    text
}

/// Takes percent-encoding off again. What is no encoding stays as it is.
pub fn percent_decode(text: &str) -> Vec<u8> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while let Some(&byte) = bytes.get(at) {
        match (byte, hex(bytes.get(at + 1)), hex(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    const NOW: UnixMillis = UnixMillis(1_795_426_200_250);

    fn parse(pairs: &[(&str, &str)]) -> Result<Params, ParamError> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect();
        Params::from_pairs(&pairs, NOW)
    }

    fn range(from: &str, to: &str) -> (Id, Id) {
        let params = parse(&[("from", from), ("to", to)]).unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
        (params.from, params.to)
    }

    #[test]
    fn without_parameters_the_last_hour_is_asked_for_in_ascending_order() {
        let expected = Params {
            from: Id::first_of(UnixMillis(NOW.0 - 3_600_000)),
            to: Id::last_of(NOW),
            q: vec![],
            regex: false,
            invert: false,
            ignore_case: false,
            limit: None,
            order: Order::Asc,
        };
        assert_eq!(parse(&[]), Ok(expected.clone()));
        assert_eq!(parse(&[("from", ""), ("to", ""), ("q", ""), ("limit", ""), ("unknown", "x")]), Ok(expected));
    }

    #[test]
    fn both_ends_are_inclusive_to_the_millisecond_however_they_are_written() {
        let whole = (Id::first_of(NOW), Id::last_of(NOW));
        assert_eq!(range("now", "now"), whole);
        assert_eq!(range("2026-11-23T09:30:00.25Z", "2026-11-23T10:30:00.250999999+01:00"), whole);
        assert_eq!(range("2026-11-23T10:30:00.25 01:00", "0s"), whole);
        let ago = UnixMillis(NOW.0 - 900_000);
        assert_eq!(range("15m", "now").0, Id::first_of(ago));
        assert_eq!(range("1d", "15m").1, Id::last_of(ago));
        assert_eq!(range("99999d", "now").0, Id::MIN);
    }

    #[test]
    fn an_id_is_inclusive_at_that_very_record_in_either_case() {
        let id = Id(NOW.0 as u128 * (1 << 80) + 12_345);
        assert_eq!(range(&id.to_string(), &id.to_string().to_lowercase()), (id, id));
    }

    #[test]
    fn flags_stand_alone_or_say_true_or_false() {
        for (value, expected) in [("", true), ("true", true), ("1", true), ("false", false), ("0", false)] {
            let params = parse(&[("regex", value), ("invert", value), ("ignore_case", value)]).unwrap();
            assert_eq!((params.regex, params.invert, params.ignore_case), (expected, expected, expected), "{value}");
        }
    }

    #[test]
    fn the_first_of_several_values_counts() {
        assert_eq!(parse(&[("limit", "3"), ("limit", "bad")]).unwrap().limit, Some(3));
    }

    #[test]
    fn every_bad_value_gets_one_sentence_that_names_parameter_and_value() {
        let long = "x".repeat(500);
        let cases = [
            ("from", "yesterday"),
            ("to", "2026-02-30T00:00:00Z"),
            ("from", "-5m"),
            ("to", "81ARZ3NDEKTSV4RRFFQ69G5FAV"),
            ("from", "ü5Z"),
            ("limit", "0"),
            ("limit", "+5"),
            ("limit", "99999999999999999999"),
            ("order", "newest"),
            ("regex", "yes"),
            ("invert", "TRUE"),
            ("ignore_case", "\n"),
            ("to", &long),
        ];
        for (name, value) in cases {
            let sentence = parse(&[(name, value)]).unwrap_err().to_string();
            assert!(sentence.starts_with(&format!("{name} must be ")), "{sentence}");
            assert!(!sentence.contains('\n') && sentence.len() < 300, "{sentence}");
        }
        let sentence = parse(&[("limit", "many")]).unwrap_err().to_string();
        assert_eq!(sentence, "limit must be a number of records, 1 or more, not \"many\"");
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let sentence = parse(&[("from", "5m"), ("to", "15m")]).unwrap_err().to_string();
        assert_eq!(sentence, "from, 2026-11-23T09:25:00.250Z, is after to, 2026-11-23T09:15:00.250Z");
        let (a, b) = (Id(NOW.0 as u128 * (1 << 80) + 2).to_string(), Id(NOW.0 as u128 * (1 << 80) + 1).to_string());
        let sentence = parse(&[("from", &a), ("to", &b)]).unwrap_err().to_string();
        assert_eq!(sentence, format!("from, {a}, is after to, {b}"));
    }

    #[test]
    fn a_query_string_says_the_same_again_on_any_clock() {
        for seed in 0..500 {
            let mut dice = Dice::new(seed);
            let (a, b) = (dice.roll(), dice.roll());
            let params = Params {
                from: Id(a.min(b).into()),
                to: Id(u128::from(a.max(b)) << 64),
                q: (0..dice.below(20)).map(|_| dice.roll() as u8).collect(),
                regex: dice.one_in(2),
                invert: dice.one_in(2),
                ignore_case: dice.one_in(2),
                limit: dice.one_in(2).then(|| 1 + dice.below(9)),
                order: if dice.one_in(2) { Order::Asc } else { Order::Desc },
            };
            let pairs: Vec<(String, Vec<u8>)> = params
                .query_string()
                .split('&')
                .filter_map(|pair| pair.split_once('='))
                .map(|(name, value)| (name.to_string(), percent_decode(value)))
                .collect();
            assert_eq!(Params::from_pairs(&pairs, UnixMillis(seed)), Ok(params), "replay with seed {seed}");
        }
    }

    #[test]
    fn a_header_value_is_printable_ascii_and_reads_back() {
        assert_eq!(header_value(b"plain words, a=b"), "plain words, a=b");
        assert_eq!(header_value(b" 100%\r\nX: y\xff "), "%20100%25%0D%0AX: y%FF%20");
        for seed in 0..500 {
            let mut dice = Dice::new(seed);
            let value: Vec<u8> = (0..dice.below(20)).map(|_| dice.below(140) as u8).collect();
            let text = header_value(&value);
            assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)) && text.trim() == text, "{text}");
            assert_eq!(percent_decode(&text), value, "replay with seed {seed}");
        }
    }
}
