//! The head of a request, as strangers send it: read, bounded, judged.
//!
//! All here is a plain function over bytes. What passes is written anew for the inner side, so nothing that we have not
//! understood goes inward: no hop-by-hop header, no length, no bytes outside of visible ASCII.

use super::exchange::NUMBER_HEADER;
use super::params::{encode_header, encode_target};
use crate::unit::Bytes;
use std::fmt::Write;

/// How large a head may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeadLimits {
    /// The request line.
    pub line: Bytes,
    /// All of it.
    pub total: Bytes,
    /// How many headers.
    pub headers: usize,
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits { line: Bytes(8 << 10), total: Bytes(32 << 10), headers: 100 }
    }
}

/// A request that is turned away at the gate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// What it is counted under.
    pub reason: &'static str,
    /// One sentence for the client.
    pub sentence: String,
    /// A header that goes with it, as a whole line without its end.
    pub header: Option<String>,
}

impl Refusal {
    /// A refusal without a header of its own.
    pub fn new(status: u16, reason: &'static str, sentence: impl Into<String>) -> Refusal {
        Refusal { status, reason, sentence: sentence.into(), header: None }
    }

    /// The response, whole.
    pub fn response(&self, body_wanted: bool) -> Vec<u8> {
        let mut text = format!(
            "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n",
            self.status,
            phrase(self.status),
            self.sentence.len() + 1
        );
        if let Some(header) = &self.header {
            text.push_str(header);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        if body_wanted {
            text.push_str(&self.sentence);
            text.push('\n');
        }
        text.into_bytes()
    }
}

/// How the body is delimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is none.
    Absent,
    /// By its length, which is not zero.
    Length(Bytes),
    /// By chunks.
    Chunked,
}

/// A head that was understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// The method, as it was sent.
    pub method: String,
    /// Path and query, visible ASCII only.
    pub target: String,
    /// Whether the client speaks HTTP/1.0 and knows no chunks.
    pub is_http10: bool,
    /// How the body is delimited.
    pub framing: Framing,
    /// Whether the client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The headers that go inward.
    headers: Vec<(String, String)>,
}

/// What has come so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More is to come.
    Partial,
    /// The head, and how many bytes it took.
    Whole(Head, usize),
}

/// Reads a head from what a client has sent so far. The limits hold for partial heads too, so the caller's buffer needs
/// no other bound than `limits.total` and one read beyond.
pub fn parse(sent: &[u8], limits: HeadLimits) -> Result<Progress, Refusal> {
    // RFC 9112, section 2.2: empty lines before the request line are to be ignored.
    let blank = sent.iter().take_while(|byte| b"\r\n".contains(byte)).count();
    let text = &sent[blank..];
    let line = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    if line as u64 > limits.line.0 {
        return Err(Refusal::new(414, "head", format!("the request line is longer than {} bytes", limits.line.0)));
    }
    let end = end_of_head(text);
    if end.unwrap_or(text.len()) as u64 + blank as u64 > limits.total.0 {
        return Err(Refusal::new(431, "head", format!("the request's head is larger than {} bytes", limits.total.0)));
    }
    let Some(end) = end else { return Ok(Progress::Partial) };
    let mut headers = vec![httparse::EMPTY_HEADER; limits.headers];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&text[..end]) {
        Ok(httparse::Status::Complete(_)) => Ok(Progress::Whole(judge(&request)?, blank + end)),
        Ok(httparse::Status::Partial) => Err(Refusal::new(400, "head", "the request's head ends too early")),
        Err(httparse::Error::TooManyHeaders) => {
            Err(Refusal::new(431, "head", format!("the request has more than {} headers", limits.headers)))
        }
        Err(httparse::Error::Version) => {
            Err(Refusal::new(505, "version", "this server speaks HTTP/1.0 and HTTP/1.1 only"))
        }
        Err(error) => Err(Refusal::new(400, "head", format!("the request's head cannot be read: {error}"))),
    }
}

/// Where the empty line ends, if it has come. A line may end with LF alone (RFC 9112, section 2.2).
fn end_of_head(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(lf) = memchr::memchr(b'\n', text.get(from..)?) {
        let next = from + lf + 1;
        match (text.get(next), text.get(next + 1)) {
            (Some(b'\n'), _) => return Some(next + 1),
            (Some(b'\r'), Some(b'\n')) => return Some(next + 2),
            _ => from = next,
        }
    }
    None
}

fn judge(request: &httparse::Request<'_, '_>) -> Result<Head, Refusal> {
    let is_http10 = request.version == Some(0);
    let framing = framing(request.headers, is_http10)?;
    let mut expects_continue = false;
    for header in named(request.headers, "Expect") {
        if !header.value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::new(417, "expect", "the only expectation this server knows is 100-continue"));
        }
        // RFC 9110, section 10.1.1: to be ignored from an HTTP/1.0 client, and where there is no body to wait for.
        expects_continue = !is_http10 && framing != Framing::Absent;
    }
    if named(request.headers, "Host").count() > 1 {
        return Err(Refusal::new(400, "head", "the request has more than one Host header"));
    }
    Ok(Head {
        method: request.method.unwrap_or_default().to_string(),
        target: origin_form(request.path.unwrap_or_default())?,
        is_http10,
        framing,
        expects_continue,
        headers: inward(request.headers),
    })
}

fn named<'a>(headers: &'a [httparse::Header<'a>], name: &str) -> impl Iterator<Item = &'a httparse::Header<'a>> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name))
}

/// How the body is delimited. Whatever two readers could understand in two ways is refused (RFC 9112, section 6.3).
fn framing(headers: &[httparse::Header<'_>], is_http10: bool) -> Result<Framing, Refusal> {
    let bad = |sentence: &str| Refusal::new(400, "framing", sentence);
    let (mut lengths, mut codings) = (named(headers, "Content-Length"), named(headers, "Transfer-Encoding"));
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() {
        return Err(bad("the request has more than one Content-Length"));
    }
    if length.is_some() && coding.is_some() {
        return Err(bad("the request has both a Content-Length and a Transfer-Encoding"));
    }
    if let Some(coding) = coding {
        if is_http10 || codings.next().is_some() {
            return Err(bad("the request's Transfer-Encoding is not to be relied on"));
        }
        if !coding.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::new(501, "framing", "the only transfer coding this server knows is chunked"));
        }
        return Ok(Framing::Chunked);
    }
    let Some(length) = length else { return Ok(Framing::Absent) };
    if length.value.is_empty() || !length.value.iter().all(u8::is_ascii_digit) {
        return Err(bad("the request's Content-Length is not a number"));
    }
    let digits = String::from_utf8_lossy(length.value);
    match digits.parse() {
        Ok(0) => Ok(Framing::Absent),
        Ok(bytes) => Ok(Framing::Length(Bytes(bytes))),
        Err(_) => Err(Refusal::new(413, "length", "the request's body is too long")),
    }
}

/// Path and query of a request target, which may be a whole URL (RFC 9112, section 3.2.2).
fn origin_form(target: &str) -> Result<String, Refusal> {
    let bytes = encode_target(target.as_bytes());
    if bytes.starts_with('/') {
        return Ok(bytes);
    }
    let authority = bytes.strip_prefix("http://").or_else(|| bytes.strip_prefix("https://"));
    match authority.map(|rest| rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())).1) {
        Some(path) if path.starts_with('/') => Ok(path.to_string()),
        Some(query) => Ok(format!("/{query}")),
        None => Err(Refusal::new(400, "head", "the request's target is neither a path nor an http URL")),
    }
}

/// What concerns one connection only (RFC 9110, section 7.6.1), what the gate has dealt with, and what would forge.
const STAYS_OUTSIDE: [&str; 12] = [
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
    "Expect",
    NUMBER_HEADER,
];

fn inward(headers: &[httparse::Header<'_>]) -> Vec<(String, String)> {
    let connection: Vec<String> = named(headers, "Connection")
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .map(|name| String::from_utf8_lossy(name.trim_ascii()).into_owned())
        .collect();
    let stays = |name: &str| {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        STAYS_OUTSIDE.iter().any(|known| same(known)) || connection.iter().any(|named| same(named))
    };
    let plain = |value: &[u8]| value.iter().all(|byte| (b' '..=b'~').contains(byte));
    let passes = headers.iter().filter(|header| !header.name.is_empty() && !stays(header.name));
    passes
        .map(|header| {
            let value = if plain(header.value) {
                String::from_utf8_lossy(header.value).into_owned()
            } else {
                encode_header(header.value)
            };
            (header.name.to_string(), value)
        })
        .collect()
}

impl Head {
    /// The first header of this name among those that go inward.
    pub fn header(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.headers.iter().find(same).map(|(_, value)| value.as_str())
    }

    /// The path alone.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// Whether there is a body.
    pub fn has_body(&self) -> bool {
        self.framing != Framing::Absent
    }

    /// The head as it goes inward, under this number.
    pub fn inward(&self, number: u64) -> Vec<u8> {
        let mut text =
            format!("{} {} HTTP/1.1\r\n{NUMBER_HEADER}: {number}\r\nConnection: close\r\n", self.method, self.target);
        if self.has_body() {
            text.push_str("Transfer-Encoding: chunked\r\n");
        }
        if self.expects_continue {
            text.push_str("Expect: 100-continue\r\n");
        }
        for (name, value) in &self.headers {
            // Writing to a String does not fail.
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        text.into_bytes()
    }
}

/// The reason phrase of a status (RFC 9110, section 15; 428 and 431 from RFC 6585; 507 from RFC 4918).
pub(super) fn phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        428 => "Precondition Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    fn status(sent: &str) -> u16 {
        match parse(sent.as_bytes(), HeadLimits::default()) {
            Err(refusal) => refusal.status,
            Ok(Progress::Whole(..)) => 200,
            Ok(Progress::Partial) => 100,
        }
    }

    fn head(sent: &str) -> Head {
        match parse(sent.as_bytes(), HeadLimits::default()) {
            Ok(Progress::Whole(head, used)) if used == sent.len() => head,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn heads_that_two_readers_could_understand_in_two_ways_are_refused() {
        let cases = [
            ("Content-Length: 5\r\nContent-Length: 5\r\n", 400),
            ("Content-Length: 5, 5\r\n", 400),
            ("Content-Length: +5\r\n", 400),
            ("Content-Length: \r\n", 400),
            ("Content-Length: 0x5\r\n", 400),
            ("Content-Length: 99999999999999999999\r\n", 413),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400),
            ("Transfer-Encoding: gzip, chunked\r\n", 501),
            ("Content-Length : 5\r\n", 400),
            ("Host: a\r\n Content-Length: 5\r\n", 400),
            ("Host: a\r\nHost: b\r\n", 400),
            ("Expect: the unexpected\r\n", 417),
            ("no colon\r\n", 400),
        ];
        for (headers, expected) in cases {
            assert_eq!(status(&format!("POST / HTTP/1.1\r\n{headers}\r\n")), expected, "{headers:?}");
        }
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn other_versions_and_other_protocols_are_refused() {
        for (line, expected) in
            [("GET / HTTP/2.0", 505), ("GET / HTTP/1.2", 505), ("GET x HTTP/1.1", 400), ("\u{16}\u{3}\u{1}", 400)]
        {
            assert_eq!(status(&format!("{line}\r\n\r\n")), expected, "{line:?}");
        }
    }

    #[test]
    fn limits_hold_before_the_head_has_ended() {
        assert_eq!(status(&"x".repeat(8 << 10)), 100);
        assert_eq!(status(&"x".repeat((8 << 10) + 1)), 414);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(32 << 10))), 431);
        assert_eq!(status(&"\r\n".repeat(20 << 10)), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(100))), 200);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(101))), 431);
    }

    #[test]
    fn a_head_goes_inward_without_what_concerns_the_outside() {
        let sent = "\r\nPOST http://host/p?q=\u{fc} HTTP/1.1\nHost: a\r\nx-oklog-gate-number: 7\r\nContent-Length: 12\r\n\
                    Connection: close, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nExpect: 100-Continue\r\nX-Ok: a\u{fc}\r\n\r\n";
        let head = head(sent);
        assert_eq!((head.path(), head.framing), ("/p", Framing::Length(Bytes(12))));
        let inward = "POST /p?q=%C3%BC HTTP/1.1\r\nX-Oklog-Gate-Number: 9\r\nConnection: close\r\n\
                      Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nHost: a\r\nX-Ok: a%C3%BC\r\n\r\n";
        assert_eq!(String::from_utf8(head.inward(9)).unwrap(), inward);
    }

    #[test]
    fn a_body_behind_the_head_is_left_alone() {
        let sent = b"POST / HTTP/1.0\nContent-Length: 3\nExpect: 100-continue\n\nabc";
        let Ok(Progress::Whole(head, used)) = parse(sent, HeadLimits::default()) else { panic!("no head") };
        assert_eq!((&sent[used..], head.is_http10, head.expects_continue), (&b"abc"[..], true, false));
    }

    #[test]
    fn whatever_passes_is_one_clean_request_inward() {
        let seeds = ["GET /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"];
        for seed in 0..20_000 {
            let mut dice = Dice::new(seed);
            let mut sent = seeds[0].as_bytes().to_vec();
            for _ in 0..1 + dice.below(4) {
                let at = dice.below(sent.len() as u64) as usize;
                match dice.below(3) {
                    0 => sent[at] = dice.below(256) as u8,
                    1 => sent.insert(at, b"\r\n :;,/%\0\xff"[dice.below(10) as usize]),
                    _ => drop(sent.remove(at)),
                }
            }
            if let Ok(Progress::Whole(head, _)) = parse(&sent, HeadLimits::default()) {
                let inward = head.inward(1);
                let text = String::from_utf8(inward).unwrap();
                assert!(text.is_ascii() && text.ends_with("\r\n\r\n"), "seed {seed}: {text:?}");
                assert_eq!(text.matches("\r\n\r\n").count(), 1, "seed {seed}: {text:?}");
                assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "seed {seed}: {text:?}");
                let lines = text.split("\r\n").next().unwrap_or_default();
                assert_eq!(lines.split(' ').count(), 3, "seed {seed}: {text:?}");
                assert!(!text.to_ascii_lowercase().contains("\r\ncontent-length:"), "seed {seed}: {text:?}");
            }
        }
    }
}
