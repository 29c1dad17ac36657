//! Carries one request inward and its response outward, on one thread, with no step that blocks.
//!
//! ```text
//!   client  --body, any framing-->  inward buffer  --chunked-->  tiny_http
//!   client  <--raw, or plain for HTTP/1.0--  outward buffer  <--  tiny_http
//! ```
//!
//! Either buffer holds one piece; the next is read when it is empty, so a slow side slows the other and nothing grows.
//! A response that its handler writes to the client's socket itself (see `outlet`) is not seen here: what is left to do is to
//! watch for the client's hang-up. Memory: [`PIECE`] to read into and as much for either buffer, 96 KiB. The final chunk inward is written only when all
//! before it was, and the exchange says "whole" just before: a handler never takes a part for the whole.

use super::chunked::{self, Decoder};
use super::exchange::Exchange;
use super::gate::Limits;
use super::head::{Framing, Head, Refusal};
use super::outlet::PIECE;
use crate::unit::{Bytes, Monotonic};
use crate::world::clock::Clock;
use crate::world::socket::{Interest, wait_two};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;

/// The largest head of a response that is rewritten for an HTTP/1.0 client. Ours are far smaller.
const RESPONSE_HEAD: usize = 64 << 10;

/// How a relayed request ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All that came from the inside is in the kernel's hands. Whether it is whole, its framing says.
    Relayed,
    /// The response is torn and its framing may not show it: the connection is to be reset.
    Torn,
    /// Nothing was answered yet, and this is to be the answer.
    Refused(Refusal),
    /// The client is gone, or does not read.
    Gone,
    /// tiny_http has not so much as looked at the request.
    NotTaken,
}

/// What may come too late.
#[derive(Clone, Copy, Debug)]
enum Late {
    /// The inner server's look at the request.
    Taken,
    /// The client's reading of a piece of the response.
    Piece,
    /// The end of the body.
    Body,
    /// The next bytes of the body.
    BodyBytes,
}

/// How far the request's body is.
#[derive(Debug)]
enum Body {
    /// So much is still to come.
    Length(u64),
    /// Chunks are still to come.
    Chunks(Decoder),
    /// It came whole; what is in the buffer goes inward, then the final chunk.
    Arrived,
    /// It ended, one way or the other; nothing more goes inward.
    Over,
}

struct Buffer {
    bytes: Vec<u8>,
    sent: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.sent >= self.bytes.len()
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Writes what the socket takes at once.
    fn write_to(&mut self, mut socket: impl Write) -> io::Result<()> {
        while let Some(rest) = self.bytes.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match socket.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.clear();
        Ok(())
    }
}

/// One request under way.
pub(super) struct Relay<'a> {
    public: &'a TcpStream,
    inner: UnixStream,
    exchange: &'a Exchange,
    clock: &'a dyn Clock,
    limits: &'a Limits,
    body_limit: Bytes,
    body_bytes: u64,
    body: Body,
    inward: Buffer,
    outward: Buffer,
    plain: Option<Plain>,
    scratch: Vec<u8>,
    /// Whether the client's hang-up was seen and told.
    hang_up_told: bool,
    inner_ended: bool,
    answered: bool,
    began: Monotonic,
    /// When the client was last waited for in vain from: bytes came, or the buffer for them became free.
    body_moved: Monotonic,
    /// When the piece that is going out began to.
    piece_began: Monotonic,
}

impl<'a> Relay<'a> {
    /// Begins with the head on its way inward. Both sockets are non-blocking.
    pub fn new(
        public: &'a TcpStream,
        inner: UnixStream,
        exchange: &'a Exchange,
        head: &Head,
        body_limit: Bytes,
        limits: &'a Limits,
        clock: &'a dyn Clock,
    ) -> Relay<'a> {
        let now = clock.now();
        let body = match head.framing {
            Framing::Absent => {
                exchange.set_whole();
                Body::Over
            }
            Framing::Length(length) => Body::Length(length.0),
            Framing::Chunked => Body::Chunks(Decoder::default()),
        };
        Relay {
            public,
            inner,
            exchange,
            clock,
            limits,
            body_limit,
            body_bytes: 0,
            body,
            inward: Buffer { bytes: head.inward(exchange.number), sent: 0 },
            outward: Buffer { bytes: Vec::new(), sent: 0 },
            plain: head.is_http10.then(|| Plain::new(head.method == "HEAD")),
            scratch: vec![0; PIECE],
            hang_up_told: false,
            inner_ended: false,
            answered: false,
            began: now,
            body_moved: now,
            piece_began: now,
        }
    }

    /// Carries on to the end. `rest` is what came behind the head already.
    pub fn run(mut self, rest: &[u8]) -> End {
        let mut going = self.take_body(rest);
        while going.is_ok() {
            going = self.step();
        }
        match going {
            Err(End::Refused(_)) if self.answered => End::Torn,
            Err(end) => end,
            Ok(()) => End::Gone,
        }
    }

    fn is_reading_body(&self) -> bool {
        matches!(self.body, Body::Length(_) | Body::Chunks(_))
    }

    /// One wait and what it brought. An `Err` is how it ended.
    fn step(&mut self) -> Result<(), End> {
        self.write_inward();
        self.write_outward()?;
        if self.inner_ended && self.outward.is_empty() {
            return Err(self.last_word());
        }
        let reads_body = self.is_reading_body() && self.inward.is_empty();
        let wants_public = Interest {
            read: reads_body,
            write: !self.outward.is_empty(),
            hang_up: !self.is_reading_body() && !self.hang_up_told,
        };
        let wants_inner = Interest {
            read: self.outward.is_empty() && !self.inner_ended,
            write: !self.inward.is_empty(),
            hang_up: false,
        };
        let now = self.clock.now();
        let span = self.next_deadline().map(|(at, _)| at.since(now));
        let Ok((public, inner)) = wait_two((self.public, wants_public), (&self.inner, wants_inner), span) else {
            return Err(End::Gone);
        };
        if public.broken {
            self.exchange.cancel.raise();
            return Err(End::Gone);
        }
        if wants_public.hang_up && public.hung_up {
            self.exchange.cancel.raise();
            self.hang_up_told = true;
        }
        if inner.read && wants_inner.read {
            self.read_inner()?;
        }
        if public.read && reads_body {
            self.read_public()?;
        }
        self.give_up()
    }

    /// What is waited for, and until when.
    fn next_deadline(&self) -> Option<(Monotonic, Late)> {
        let reads = self.is_reading_body();
        let waits = [
            (!self.exchange.is_taken()).then_some((self.began + self.limits.taken, Late::Taken)),
            (!self.outward.is_empty()).then_some((self.piece_began + self.limits.write, Late::Piece)),
            reads.then_some((self.began + self.limits.body, Late::Body)),
            (reads && self.inward.is_empty()).then_some((self.body_moved + self.limits.read, Late::BodyBytes)),
        ];
        waits.into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// What has been waited for long enough.
    fn give_up(&self) -> Result<(), End> {
        let Some((at, late)) = self.next_deadline() else { return Ok(()) };
        if self.clock.now() < at {
            return Ok(());
        }
        self.exchange.cancel.raise();
        let slow = |sentence| Err(End::Refused(Refusal::new(408, "timeout", sentence)));
        match late {
            Late::Taken => Err(End::NotTaken),
            Late::Piece => Err(End::Gone),
            Late::Body => slow("the request's body took too long"),
            Late::BodyBytes => slow("the request's body did not go on"),
        }
    }

    /// The inside has nothing more to say.
    fn last_word(&self) -> End {
        let counter = &self.exchange.counter;
        match &self.plain {
            _ if counter.was_given_up() => End::Gone,
            _ if counter.has_begun() => End::Relayed,
            _ if !self.answered => End::Refused(Refusal::new(502, "unanswered", "the request was not answered")),
            Some(plain) if !plain.is_whole() => End::Torn,
            _ => End::Relayed,
        }
    }

    fn read_public(&mut self) -> Result<(), End> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = self.public.read(&mut scratch);
        let done = match read {
            Ok(0) => {
                self.tear_body();
                Ok(())
            }
            Ok(n) => {
                self.body_moved = self.clock.now();
                self.take_body(scratch.get(..n).unwrap_or_default())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(()),
            Err(_) => {
                self.exchange.cancel.raise();
                Err(End::Gone)
            }
        };
        self.scratch = scratch;
        done
    }

    /// The client closed in the middle of its body. The handler shall see that, and may still answer.
    fn tear_body(&mut self) {
        self.exchange.cancel.raise();
        self.hang_up_told = true;
        self.body = Body::Over;
        self.inward.clear();
        // An error means that the inside has closed already.
        let _ = self.inner.shutdown(Shutdown::Write);
    }

    /// Puts a piece of the body into the inward buffer. What is behind the body's end is another request, which nobody
    /// will answer: it is dropped.
    fn take_body(&mut self, piece: &[u8]) -> Result<(), End> {
        let mut data = 0;
        match &mut self.body {
            Body::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                let (piece, _) = piece.split_at(here);
                chunked::encode_into(piece, &mut self.inward.bytes);
                *left -= here as u64;
                data += here as u64;
                if *left == 0 {
                    self.body = Body::Arrived;
                }
            }
            Body::Chunks(decoder) => {
                let mut plain = Vec::with_capacity(piece.len());
                let fed = decoder.feed(piece, |part| plain.extend_from_slice(part));
                if let Err(error) = fed {
                    return Err(End::Refused(Refusal::new(
                        400,
                        "framing",
                        format!("the request's body is torn: {error}"),
                    )));
                }
                chunked::encode_into(&plain, &mut self.inward.bytes);
                data += plain.len() as u64;
                if decoder.is_done() {
                    self.body = Body::Arrived;
                }
            }
            Body::Arrived | Body::Over => {}
        }
        self.body_bytes += data;
        if self.body_bytes > self.body_limit.0 {
            return Err(End::Refused(too_long(self.body_limit)));
        }
        Ok(())
    }

    fn write_inward(&mut self) {
        let was_empty = self.inward.is_empty();
        if self.inward.write_to(&self.inner).is_err() {
            // The handler has answered without reading to the end. Its answer is what counts now.
            self.inward.clear();
            self.body = Body::Over;
        }
        if self.inward.is_empty() {
            if !was_empty {
                self.body_moved = self.clock.now();
            }
            if matches!(self.body, Body::Arrived) {
                self.body = Body::Over;
                self.exchange.set_whole();
                self.inward.bytes.extend_from_slice(chunked::FINAL_CHUNK);
                if self.inward.write_to(&self.inner).is_err() {
                    self.inward.clear();
                }
            }
        }
    }

    fn read_inner(&mut self) -> Result<(), End> {
        match self.inner.read(&mut self.scratch) {
            Ok(0) => self.inner_ended = true,
            Ok(n) => {
                let piece = self.scratch.get(..n).unwrap_or_default();
                match &mut self.plain {
                    None => self.outward.bytes.extend_from_slice(piece),
                    Some(plain) => plain.push(piece, &mut self.outward.bytes).map_err(|()| End::Torn)?,
                }
                self.answered |= !self.outward.is_empty();
                self.piece_began = self.clock.now();
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // A reset on a private socket: what was sent before it has been read.
            Err(_) => self.inner_ended = true,
        }
        Ok(())
    }

    fn write_outward(&mut self) -> Result<(), End> {
        self.outward.write_to(self.public).map_err(|_| {
            self.exchange.cancel.raise();
            End::Gone
        })
    }
}

/// A body over its route's limit.
pub(super) fn too_long(limit: Bytes) -> Refusal {
    Refusal::new(413, "length", format!("the request's body is longer than {} bytes", limit.0))
}

/// A response made plain for HTTP/1.0: no chunks, the end of the connection is the end of the body.
struct Plain {
    head_only: bool,
    state: PlainState,
}

enum PlainState {
    Head(Vec<u8>),
    AsItIs,
    Chunks(Decoder),
}

impl Plain {
    fn new(head_only: bool) -> Plain {
        Plain { head_only, state: PlainState::Head(Vec::new()) }
    }

    fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), ()> {
        match &mut self.state {
            PlainState::AsItIs => out.extend_from_slice(piece),
            PlainState::Chunks(decoder) => {
                decoder.feed(piece, |part| out.extend_from_slice(part)).map_err(|_| ())?;
            }
            PlainState::Head(head) => {
                head.extend_from_slice(piece);
                let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else {
                    return if head.len() > RESPONSE_HEAD { Err(()) } else { Ok(()) };
                };
                let head = std::mem::take(head);
                let (head, rest) = head.split_at(end + 4);
                let chunked = without_coding(head, out);
                self.state = if chunked && !self.head_only {
                    PlainState::Chunks(Decoder::default())
                } else {
                    PlainState::AsItIs
                };
                return self.push(rest, out);
            }
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        match &self.state {
            PlainState::Head(_) => false,
            PlainState::AsItIs => true,
            PlainState::Chunks(decoder) => decoder.is_done(),
        }
    }
}

/// Copies a response's head without its Transfer-Encoding. Gives whether there was one.
fn without_coding(head: &[u8], out: &mut Vec<u8>) -> bool {
    const NAME: &[u8] = b"transfer-encoding:";
    let mut found = false;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)) {
            found = true;
        } else {
            out.extend_from_slice(line);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n5\r\nhello\r\n0\r\n\r\n";

    #[test]
    fn a_chunked_response_is_made_plain_in_pieces_of_any_size() {
        for size in 1..CHUNKED.len() {
            let (mut plain, mut out) = (Plain::new(false), Vec::new());
            for piece in CHUNKED.chunks(size) {
                assert!(!plain.is_whole());
                plain.push(piece, &mut out).unwrap();
            }
            assert!(plain.is_whole(), "pieces of {size}");
            assert_eq!(String::from_utf8(out).unwrap(), "HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello");
        }
    }

    #[test]
    fn a_chunked_response_without_its_final_chunk_is_not_whole() {
        let (mut plain, mut out) = (Plain::new(false), Vec::new());
        plain.push(&CHUNKED[..CHUNKED.len() - 2], &mut out).unwrap();
        assert!(!plain.is_whole());
    }
}
