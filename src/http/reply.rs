//! A request as its handler sees it, and the one reply it gives.
//!
//! The chunks of a response are framed here, not by tiny_http, whose encoder ends a body that broke as if it were whole.
//! They go to the client's own socket where the gate has lent it (see `outlet`), and else the way the request came.
//! A [`BodyWriter`] that is dropped without [`BodyWriter::finish`], by an error or a panic, leaves the body broken, and the
//! gate cuts the connection.

use super::chunked;
use super::exchange::{Cancel, Exchange};
use super::head::phrase;
use super::outlet::Outlet;
use super::params::{Params, encode_header};
use crate::world::crew::lock;
use std::fmt::Write as _;
use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};

/// How much is held back for a chunk, to be sent with what comes next. What is larger goes out as it is.
pub const MAX_HELD: usize = 64 << 10;

/// tiny_http's request, which holds both the body's reader and the reply's writer, until the reply begins.
type Slot = Arc<Mutex<Option<tiny_http::Request>>>;

/// A request.
pub struct Request {
    method: &'static str,
    path: &'static str,
    params: Params,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Request {
    /// Request and reply of what tiny_http has read. `status` is set when the reply begins.
    pub(super) fn split(
        inner: tiny_http::Request,
        exchange: Arc<Exchange>,
        (method, path): (&'static str, &'static str),
        params: Params,
        status: Arc<AtomicU16>,
    ) -> (Request, Reply) {
        let text = |header: &tiny_http::Header| (header.field.to_string(), header.value.to_string());
        let headers = inner.headers().iter().map(text).collect();
        let slot: Slot = Arc::new(Mutex::new(Some(inner)));
        let body = Body { slot: slot.clone(), exchange: exchange.clone() };
        let reply = Reply { slot, exchange, head_only: method == "HEAD", status };
        (Request { method, path, params, headers, body }, reply)
    }

    /// The method, one of its route's.
    pub fn method(&self) -> &str {
        self.method
    }

    /// The path, its route's.
    pub fn path(&self) -> &str {
        self.path
    }

    /// The first value of a parameter. Values that are not UTF-8 were answered with 400, but for that of `q`: see
    /// [`Request::param_bytes`].
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.text(name)
    }

    /// The first value of a parameter, as bytes.
    pub fn param_bytes(&self, name: &str) -> Option<&[u8]> {
        self.params.bytes(name)
    }

    /// Whether a parameter is there, with or without a value.
    pub fn has_param(&self, name: &str) -> bool {
        self.params.bytes(name).is_some()
    }

    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body. Its end is its real end: where the client or the gate gave up in the middle, reading fails with
    /// [`io::ErrorKind::UnexpectedEof`]. Read it before the reply begins; afterwards there is none.
    pub fn body(&mut self) -> &mut dyn Read {
        &mut self.body
    }

    /// Whether the client has sent its body to the end. Means something once that end was read.
    pub fn body_is_whole(&self) -> bool {
        self.body.exchange.is_whole()
    }

    /// Tells when nobody waits for the reply any more.
    pub fn cancel(&self) -> &Cancel {
        &self.body.exchange.cancel
    }
}

struct Body {
    slot: Slot,
    exchange: Arc<Exchange>,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        // The lock is only for the type's sake: request and reply are in one handler's hands.
        match lock(&self.slot).as_mut() {
            // A cut is an early end to tiny_http's decoder, or an error, depending on where in a chunk it was.
            Some(request) => match request.as_reader().read(buffer) {
                Ok(0) | Err(_) if !self.exchange.is_whole() => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the request's body ended before its end: the client went away, or was too slow",
                )),
                other => other,
            },
            None => Err(io::Error::other("the request's body was read after the reply had begun")),
        }
    }
}

/// The right to answer, once. Dropped unused it answers 500.
pub struct Reply {
    slot: Slot,
    exchange: Arc<Exchange>,
    head_only: bool,
    status: Arc<AtomicU16>,
}

impl Reply {
    /// Answers with a body that is there. Header values are percent-encoded where they hold control characters or what is not
    /// ASCII; `Content-Type` is plain text unless it is given. To a `HEAD` the body is not sent.
    pub fn send(mut self, status: u16, headers: &[(&str, String)], body: &[u8]) -> io::Result<()> {
        let mut writer = self.begin(status, headers, Framing::Sized(body.len() as u64))?;
        writer.write_all(body)?;
        writer.finish()
    }

    /// Begins an answer whose body has a known length.
    pub fn sized(mut self, status: u16, headers: &[(&str, String)], length: u64) -> io::Result<BodyWriter> {
        self.begin(status, headers, Framing::Sized(length))
    }

    /// Begins an answer whose body's length nobody knows yet.
    pub fn stream(mut self, status: u16, headers: &[(&str, String)]) -> io::Result<BodyWriter> {
        self.begin(status, headers, Framing::Chunked)
    }

    fn begin(&mut self, status: u16, headers: &[(&str, String)], framing: Framing) -> io::Result<BodyWriter> {
        let Some(request) = lock(&self.slot).take() else { return Err(io::Error::other("a second reply")) };
        self.status.store(status, Ordering::Relaxed);
        let inner = request.into_writer();
        let out = match self.exchange.counter.take_up() {
            Some(outlet) => Out::Lent { outlet, _inner: inner },
            None => Out::Inner(inner),
        };
        let bodiless = matches!(status, 100..=199 | 204 | 304);
        let head = head(status, headers, (!bodiless).then_some(framing)).into_bytes();
        let framing = if self.head_only || bodiless { Framing::Swallowed } else { framing };
        Ok(BodyWriter { out, head, framing, held: Vec::new(), broken: false })
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let sentence = b"the server failed to answer this request\n";
        let unanswered = lock(&self.slot).is_some();
        if unanswered && let Ok(mut writer) = self.begin(500, &[], Framing::Sized(sentence.len() as u64)) {
            // The client may be gone; then nobody misses the answer.
            let _ = writer.write_all(sentence).and_then(|()| writer.finish());
        }
    }
}

fn head(status: u16, headers: &[(&str, String)], framing: Option<Framing>) -> String {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", phrase(status));
    // Log lines must not be taken for HTML by a browser that guesses.
    text.push_str("X-Content-Type-Options: nosniff\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Content-Type")) {
        text.push_str("Content-Type: text/plain; charset=utf-8\r\n");
    }
    for (name, value) in headers {
        // Writing to a String does not fail.
        let _ = write!(text, "{name}: {}\r\n", encode_header(value.as_bytes()));
    }
    let _ = match framing {
        Some(Framing::Sized(length)) => write!(text, "Content-Length: {length}\r\n"),
        Some(Framing::Chunked) => write!(text, "Transfer-Encoding: chunked\r\n"),
        Some(Framing::Swallowed) | None => Ok(()),
    };
    text.push_str("\r\n");
    text
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Framing {
    /// So much is still to be given.
    Sized(u64),
    /// As it comes.
    Chunked,
    /// Nothing is sent: the answer to a `HEAD`, or a status without a body.
    Swallowed,
}

/// Where a response goes.
enum Out {
    /// To the client.
    Lent {
        outlet: Outlet,
        /// The gate holds the response to be over when this is dropped: so it comes behind the outlet.
        _inner: Box<dyn Write + Send>,
    },
    /// The way the request came.
    Inner(Box<dyn Write + Send>),
}

impl Out {
    fn send(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        match self {
            Out::Lent { outlet, .. } => outlet.write_all(parts),
            Out::Inner(writer) => {
                parts.iter().try_for_each(|part| writer.write_all(part))?;
                writer.flush()
            }
        }
    }
}

/// Writes the body of a reply. Holds the head and at most [`MAX_HELD`] back until [`Write::flush`], which sends all.
pub struct BodyWriter {
    out: Out,
    /// Until it is sent, with what comes first.
    head: Vec<u8>,
    framing: Framing,
    held: Vec<u8>,
    broken: bool,
}

impl BodyWriter {
    /// Ends the body. Without this the client sees a broken one. An error also if a body of known length is too short.
    pub fn finish(mut self) -> io::Result<()> {
        if let Framing::Sized(left @ 1..) = self.framing {
            self.send(&[], b"")?;
            return Err(io::Error::other(format!("the body is {left} bytes shorter than was announced")));
        }
        let end = if self.framing == Framing::Chunked { chunked::FINAL_CHUNK } else { b"" };
        self.send(&[], end)
    }

    /// Sends the head, if that was not done, all that is held back and `more` as one chunk, and what comes behind it.
    fn send(&mut self, more: &[u8], behind: &[u8]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the body broke before"));
        }
        let length = self.held.len() + more.len();
        let is_chunk = self.framing == Framing::Chunked && length > 0;
        let (size, end) = if is_chunk { (format!("{length:x}\r\n"), "\r\n") } else { Default::default() };
        let parts = [&self.head, size.as_bytes(), &self.held, more, end.as_bytes(), behind];
        if parts.iter().all(|part| part.is_empty()) {
            return Ok(());
        }
        // Until it is known to be sent: nothing goes out behind a torn chunk.
        self.broken = true;
        self.out.send(&mut parts.map(IoSlice::new))?;
        self.broken = false;
        self.head.clear();
        self.held.clear();
        Ok(())
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.framing {
            Framing::Swallowed => return Ok(bytes.len()),
            Framing::Sized(left) => {
                let after = left.checked_sub(bytes.len() as u64);
                *left = after.ok_or_else(|| io::Error::other("the body is longer than was announced"))?;
            }
            Framing::Chunked => {}
        }
        if self.held.len() + bytes.len() < MAX_HELD {
            self.held.extend_from_slice(bytes);
        } else {
            self.send(bytes, b"")?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send(&[], b"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Wire(Sender<Vec<u8>>);

    impl Write for Wire {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn sent(framing: Framing, act: impl FnOnce(BodyWriter)) -> Vec<u8> {
        let (sender, sent) = channel();
        let out = Out::Inner(Box::new(Wire(sender)));
        act(BodyWriter { out, head: Vec::new(), framing, held: Vec::new(), broken: false });
        sent.try_iter().flatten().collect()
    }

    #[test]
    fn a_body_that_is_dropped_has_no_final_chunk() {
        let text = sent(Framing::Chunked, |mut body| {
            body.write_all(b"hello").unwrap();
            body.flush().unwrap();
            body.write_all(b"unsent").unwrap();
        });
        assert_eq!(text, b"5\r\nhello\r\n");
    }

    #[test]
    fn a_flush_sends_what_is_there_and_no_more_is_held_back_than_has_room() {
        let text = sent(Framing::Chunked, |mut body| {
            body.flush().unwrap();
            body.write_all(b"a").unwrap();
            body.write_all(&[b'x'; MAX_HELD]).unwrap();
            body.write_all(b"b").unwrap();
            body.finish().unwrap();
        });
        let expected = [b"10001\r\na".as_slice(), &[b'x'; MAX_HELD], b"\r\n1\r\nb\r\n0\r\n\r\n"].concat();
        assert_eq!(text, expected);
    }

    #[test]
    fn a_body_of_known_length_is_neither_longer_nor_shorter() {
        let text = sent(Framing::Sized(5), |mut body| {
            body.write_all(b"abc").unwrap();
            assert!(body.finish().is_err());
        });
        assert_eq!(text, b"abc");
        let text = sent(Framing::Sized(5), |mut body| {
            assert!(body.write_all(b"abcdef").is_err());
        });
        assert_eq!(text, b"");
    }

    #[test]
    fn a_header_value_cannot_end_its_line() {
        let text = head(200, &[("X-Oklog-Q", "a\r\nB: c".into())], Some(Framing::Sized(1)));
        assert!(text.contains("\r\nX-Oklog-Q: a%0D%0AB: c\r\n") && !text.contains("\r\nB:"), "{text}");
    }
}
