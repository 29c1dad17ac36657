//! A small HTTP/1.1 client that keeps its connection where the server does, and counts what it reads.

use crate::Outcome;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The first id of all, and the last: a query between them leaves nothing out.
pub const EVER: &str = "from=00000000000000000000000000&to=7ZZZZZZZZZZZZZZZZZZZZZZZZZ";

/// A client of one server.
pub struct Client {
    address: String,
    input: Option<BufReader<TcpStream>>,
    line: String,
}

impl Client {
    pub fn new(address: &str) -> Client {
        Client { address: address.to_string(), input: None, line: String::new() }
    }

    /// Only the status; the body is passed over.
    pub fn status(&mut self, target: &str) -> Outcome<u16> {
        Ok(self.read(target, &mut |_| {})?.0)
    }

    /// The body of an answer that must be 200.
    pub fn get(&mut self, target: &str) -> Outcome<Vec<u8>> {
        let mut body = Vec::new();
        match self.read(target, &mut |piece| body.extend_from_slice(piece))? {
            (200, _) => Ok(body),
            (status, _) => Err(format!("{target}: {status}: {}", String::from_utf8_lossy(&body)).into()),
        }
    }

    /// How long the body of an answer is that must be 200.
    pub fn drain(&mut self, target: &str) -> Outcome<u64> {
        match self.read(target, &mut |_| {})? {
            (200, length) => Ok(length),
            (status, _) => Err(format!("{target}: {status}").into()),
        }
    }

    /// How many lines there are in the body of an answer that must be 200.
    pub fn count_lines(&mut self, target: &str) -> Outcome<u64> {
        let mut lines = 0;
        match self.read(target, &mut |piece| lines += memchr::memchr_iter(b'\n', piece).count() as u64)? {
            (200, _) => Ok(lines),
            (status, _) => Err(format!("{target}: {status}").into()),
        }
    }

    /// The metrics of a node, by name with labels.
    pub fn metrics(&mut self) -> Outcome<Metrics> {
        Ok(Metrics(String::from_utf8(self.get("/metrics")?)?))
    }

    fn read(&mut self, target: &str, take: &mut dyn FnMut(&[u8])) -> Outcome<(u16, u64)> {
        let kept = self.input.is_some();
        match self.exchange(target, take) {
            // A kept connection may have been closed meanwhile: that shows before the first byte of an answer.
            Err(_) if kept && self.input.is_none() => self.exchange(target, take),
            other => other,
        }
    }

    fn exchange(&mut self, target: &str, take: &mut dyn FnMut(&[u8])) -> Outcome<(u16, u64)> {
        let mut input = match self.input.take() {
            Some(input) => input,
            None => {
                let stream = TcpStream::connect(&self.address)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(Duration::from_secs(120)))?;
                BufReader::with_capacity(256 << 10, stream)
            }
        };
        input.get_mut().write_all(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).as_bytes())?;
        self.next_line(&mut input)?;
        let status = self.line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status line")?;
        let (mut length, mut chunked, mut close) = (None, false, false);
        loop {
            self.next_line(&mut input)?;
            let header = self.line.to_ascii_lowercase();
            match header.split_once(':').map(|(name, value)| (name, value.trim())) {
                None => break,
                Some(("content-length", value)) => length = value.parse::<u64>().ok(),
                Some(("transfer-encoding", value)) => chunked = value.contains("chunked"),
                Some(("connection", value)) => close = value.contains("close"),
                Some(_) => {}
            }
        }
        let mut total = 0;
        if chunked {
            loop {
                self.next_line(&mut input)?;
                let size = u64::from_str_radix(self.line.trim(), 16)?;
                pass(&mut input, size, take)?;
                self.next_line(&mut input)?;
                total += size;
                if size == 0 {
                    break;
                }
            }
        } else {
            total = length.ok_or("an answer without a length")?;
            pass(&mut input, total, take)?;
        }
        self.input = (!close).then_some(input);
        Ok((status, total))
    }

    fn next_line(&mut self, input: &mut BufReader<TcpStream>) -> Outcome<()> {
        self.line.clear();
        if input.read_line(&mut self.line)? == 0 {
            return Err("the connection ended where a line must begin".into());
        }
        self.line.truncate(self.line.trim_end().len());
        Ok(())
    }
}

/// Hands on the next bytes, so many.
fn pass(input: &mut BufReader<TcpStream>, mut left: u64, take: &mut dyn FnMut(&[u8])) -> Outcome<()> {
    while left > 0 {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            return Err("the answer breaks off".into());
        }
        let len = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        take(&piece[..len]);
        input.consume(len);
        left -= len as u64;
    }
    Ok(())
}

/// Opens a connection that only sends, as producers do.
pub fn producer(address: &str) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    Ok(stream)
}

/// Half-closes a connection and waits until the other side has closed it too.
pub fn end(mut stream: TcpStream) -> Outcome<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Percent-encodes a value, byte for byte.
pub fn encode(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What `/metrics` said.
pub struct Metrics(String);

impl Metrics {
    /// The sum of a metric's values over all its labels that hold `label`.
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let of = |line: &&str| {
            let key = line.rsplit_once(' ').map_or("", |(key, _)| key);
            key.split('{').next() == Some(name) && key.contains(label)
        };
        self.0.lines().filter(of).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}
