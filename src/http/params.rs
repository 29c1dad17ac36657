//! Text in URLs and headers: percent-encoding, both ways.

use std::fmt;

/// The one parameter whose value may be any bytes: needles and regexes are bytes. All others are UTF-8.
const BYTES_PARAMETER: &[u8] = b"q";

/// Why a query string was refused. `Display` is a sentence for the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ParamError {
    /// `%` without two hexadecimal digits behind it.
    BadEscape {
        /// The `name=value` it stands in, as it was sent.
        within: String,
    },
    /// The value is not UTF-8, and is not one that may be any bytes.
    NotUtf8 {
        /// The parameter.
        name: String,
    },
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ParamError::BadEscape { within } => {
                write!(f, "a % without two hexadecimal digits in the parameter {within:?}")
            }
            ParamError::NotUtf8 { name } => write!(f, "the parameter {name:?} is not UTF-8"),
        }
    }
}

impl std::error::Error for ParamError {}

/// The parameters of a query string, in the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Params(Vec<(Vec<u8>, Vec<u8>)>);

impl Params {
    /// Reads what stands behind `?`. `+` is a space, `%XX` a byte; a name without `=` has the empty value.
    pub fn parse(query: &str) -> Result<Params, ParamError> {
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = (decode(name), decode(value));
            let (Some(name), Some(value)) = decoded else {
                return Err(ParamError::BadEscape { within: pair.to_string() });
            };
            if name != BYTES_PARAMETER && std::str::from_utf8(&value).is_err() {
                return Err(ParamError::NotUtf8 { name: String::from_utf8_lossy(&name).into_owned() });
            }
            pairs.push((name, value));
        }
        Ok(Params(pairs))
    }

    /// The first value of a parameter, as bytes.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value.as_slice())
    }

    /// The first value of a parameter, if it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.bytes(name).and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1) and the `+` of HTML forms. `None` if an escape is not one.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    Some(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A value for a query string: all but the unreserved characters of RFC 3986 is escaped.
pub fn encode_param(value: &[u8]) -> String {
    encode(value, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
}

/// A value that is safe in a header line: CR, LF, other control characters and non-ASCII bytes are escaped. `%` is not: a
/// value that must be read back to the byte comes escaped already (see `query::params::header_value`).
pub fn encode_header(value: &[u8]) -> String {
    encode(value, |byte| (b' '..=b'~').contains(&byte))
}

/// A request target as it goes inward: visible ASCII stays as it is, escapes included.
pub(super) fn encode_target(target: &[u8]) -> String {
    encode(target, |byte| byte.is_ascii_graphic())
}

/// Writes bytes as text: those that are not `plain` as `%` and two digits (RFC 3986, section 2.1).
pub fn encode(value: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(value.len());
    for &byte in value {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    #[test]
    fn a_bad_escape_is_refused_wherever_it_stands() {
        for query in ["q=%", "q=%1", "q=%zz", "a=1&%4=b", "q=%+1", "q=% 1"] {
            assert!(matches!(Params::parse(query), Err(ParamError::BadEscape { .. })), "{query}");
        }
    }

    #[test]
    fn only_the_needle_may_be_any_bytes() {
        let params = Params::parse("q=%FF%00a").unwrap();
        assert_eq!((params.bytes("q"), params.text("q")), (Some(&b"\xff\0a"[..]), None));
        assert_eq!(Params::parse("from=%FF"), Err(ParamError::NotUtf8 { name: "from".into() }));
    }

    #[test]
    fn the_first_value_counts_and_a_bare_name_is_there() {
        let params = Params::parse("q=a+b&&q=c&regex&x=1=2&%66rom=now").unwrap();
        assert_eq!(params.text("q"), Some("a b"));
        assert_eq!(params.text("regex"), Some(""));
        assert_eq!(params.text("x"), Some("1=2"));
        assert_eq!(params.text("from"), Some("now"));
        assert_eq!(params.text("to"), None);
    }

    #[test]
    fn any_bytes_come_back_from_an_encoded_parameter() {
        for seed in 0..200 {
            let mut dice = Dice::new(seed);
            let value: Vec<u8> = (0..dice.below(40)).map(|_| dice.below(256) as u8).collect();
            let params = Params::parse(&format!("q={}", encode_param(&value))).unwrap();
            assert_eq!(params.bytes("q"), Some(value.as_slice()), "seed {seed}");
        }
    }

    #[test]
    fn a_header_value_holds_no_line_end_and_no_foreign_byte() {
        assert_eq!(encode_header(b"a b\r\nSet-Cookie: \xc3\xbc\x7f100%"), "a b%0D%0ASet-Cookie: %C3%BC%7F100%");
    }
}
