//! A small HTTP/1.1 client that sees what is on the wire: whether the final chunk came, and bytes as they come.

use super::wait::SOON;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// One request whose head was answered; the body is still to be read.
pub struct Exchange {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    method: String,
    input: BufReader<TcpStream>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Whether the body ended as its framing says: with the final chunk, or at its length.
    pub complete: bool,
}

impl Exchange {
    /// Sends a request without a body and reads the head of the answer.
    pub fn open(address: &str, method: &str, target: &str) -> io::Result<Exchange> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}\r\n");
        stream.write_all(head.as_bytes())?;
        Exchange::answer_on(stream, method)
    }

    /// Reads the head of the answer to whatever was sent on `stream`.
    pub fn answer_on(stream: TcpStream, method: &str) -> io::Result<Exchange> {
        let mut input = BufReader::new(stream);
        let broken = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_string());
        let status_line = read_line(&mut input)?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(&format!("not a status line: {status_line:?}")))?;
        let mut headers = BTreeMap::new();
        loop {
            let line = read_line(&mut input)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| broken("a header without a colon"))?;
            headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
        }
        Ok(Exchange { status, headers, method: method.to_string(), input })
    }

    /// The next piece of a chunked body as it comes; `None` after the final chunk, an error where it breaks off.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size_line = read_line(&mut self.input)?;
        let size = usize::from_str_radix(size_line.split(';').next().unwrap_or_default().trim(), 16)
            .map_err(|_| io::Error::new(io::ErrorKind::UnexpectedEof, format!("not a chunk size: {size_line:?}")))?;
        let mut chunk = vec![0; size];
        self.input.read_exact(&mut chunk)?;
        read_line(&mut self.input)?;
        Ok((size > 0).then_some(chunk))
    }

    /// Reads the body to its end.
    pub fn finish(mut self) -> Answer {
        let mut body = Vec::new();
        let chunked = self.headers.get("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let length = self.headers.get("content-length").and_then(|value| value.parse::<u64>().ok());
        let complete = if self.method == "HEAD" {
            self.input.read_to_end(&mut body).is_ok()
        } else if chunked {
            loop {
                match self.next_chunk() {
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            }
        } else if let Some(length) = length {
            self.input.by_ref().take(length).read_to_end(&mut body).is_ok() && body.len() as u64 == length
        } else {
            self.input.read_to_end(&mut body).is_ok()
        };
        Answer { status: self.status, headers: self.headers, body, complete }
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if input.read_until(b'\n', &mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended where a line must begin"));
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_string())
}

impl Answer {
    /// A header by its name in lower case; fails the test where it is missing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    /// The body as text, for messages to people.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The ids of the stored records in the body.
    pub fn ids(&self) -> Vec<String> {
        self.stored().map(|(id, _)| String::from_utf8(id.to_vec()).unwrap()).collect()
    }

    /// The records in the body, each with an LF: what the lines were that had been sent.
    pub fn lines(&self) -> Vec<u8> {
        let mut lines = Vec::with_capacity(self.body.len());
        for (_, text) in self.stored() {
            lines.extend_from_slice(text);
        }
        lines
    }

    /// Ids, and texts with their LF. Fails the test where the body is anything but whole stored records.
    pub fn stored(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        assert!(self.body.is_empty() || self.body.ends_with(b"\n"), "the body ends within a record");
        self.body.split_inclusive(|&b| b == b'\n').map(|stored| {
            let shaped =
                stored.len() > 27 && stored[26] == b' ' && oklog::record::id::Id::parse(&stored[..26]).is_some();
            assert!(shaped, "not a stored record: {:?}", String::from_utf8_lossy(&stored[..stored.len().min(80)]));
            (&stored[..26], &stored[27..])
        })
    }

    /// Fails the test unless this is a refusal of the client's fault: the status, and one plain sentence.
    pub fn assert_refused(&self, status: u16) {
        assert_eq!(self.status, status, "{}", self.text());
        let text = self.text();
        let sentence = text.trim_end();
        let one_line = !sentence.is_empty() && !sentence.contains('\n');
        assert!(one_line && sentence.len() < 1_000 && !sentence.contains('<'), "not one plain sentence: {text:?}");
    }
}

/// Percent-encodes a query parameter's value, byte for byte.
pub fn encode(value: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~".contains(b);
    value.iter().map(|b| if plain(b) { (*b as char).to_string() } else { format!("%{b:02X}") }).collect()
}
