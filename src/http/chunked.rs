//! The chunked transfer coding (RFC 9112, section 7.1): taken apart strictly, put together in one place.

use std::fmt;

/// The longest size line, extensions included. Nobody needs extensions; 16 hexadecimal digits are a `u64`.
const MAX_SIZE_LINE: usize = 256;

/// All trailer lines together. They are read and dropped.
const MAX_TRAILERS: usize = 8 << 10;

/// What ends a chunked body that is whole.
pub const FINAL_CHUNK: &[u8] = b"0\r\n\r\n";

/// Appends one chunk. Nothing for no bytes: an empty chunk would be the final one.
pub fn encode_into(data: &[u8], out: &mut Vec<u8>) {
    if data.is_empty() {
        return;
    }
    out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

/// Why a chunked body was refused. The body cannot be read any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChunkError {
    /// A size line that holds no hexadecimal number, or one beyond 64 bits.
    BadSize,
    /// A size line or trailers beyond their limit.
    TooLong,
    /// A chunk is not followed by CR LF.
    BadEnd,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChunkError::BadSize => "a chunk's size is not a hexadecimal number",
            ChunkError::TooLong => "a chunk's size line or the trailers are too long",
            ChunkError::BadEnd => "a chunk does not end with CR LF",
        })
    }
}

impl std::error::Error for ChunkError {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// In a size line: the number so far, how many digits it has, whether the digits are over, how long the line is.
    Size { size: u64, digits: usize, over: bool, length: usize },
    /// In a chunk's data.
    Data { left: u64 },
    /// Behind a chunk's data, CR seen or not.
    DataEnd { cr: bool },
    /// In the trailers: their length in all, and that of this line without its CR.
    Trailer { length: usize, line: usize },
    /// Behind the final chunk.
    Done,
}

const SIZE_LINE: State = State::Size { size: 0, digits: 0, over: false, length: 0 };

/// Takes a chunked body apart as it comes, in pieces of any size. Holds no bytes itself.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { state: SIZE_LINE }
    }
}

impl Decoder {
    /// Whether the final chunk was seen, trailers included. What comes after it is not of this body.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads coded bytes and hands the data in them to `take`, in order. Gives how many bytes were used: all of them, or
    /// fewer if the body ended.
    pub fn feed(&mut self, input: &[u8], mut take: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                take(&input[at..at + here]);
                at += here;
                let left = left - here as u64;
                self.state = if left == 0 { State::DataEnd { cr: false } } else { State::Data { left } };
            } else {
                self.state = step(self.state, input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }
}

/// One byte outside of data.
fn step(state: State, byte: u8) -> Result<State, ChunkError> {
    match state {
        State::Size { length, .. } if length >= MAX_SIZE_LINE => Err(ChunkError::TooLong),
        State::Size { digits: 0, .. } if byte == b'\n' => Err(ChunkError::BadSize),
        State::Size { size: 0, .. } if byte == b'\n' => Ok(State::Trailer { length: 0, line: 0 }),
        State::Size { size, .. } if byte == b'\n' => Ok(State::Data { left: size }),
        State::Size { size, digits, over, length } => {
            let length = length + 1;
            match char::from(byte).to_digit(16) {
                Some(digit) if !over => {
                    let size = size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                    Ok(State::Size { size: size.ok_or(ChunkError::BadSize)?, digits: digits + 1, over, length })
                }
                // Behind `;` comes an extension, which is skipped; CR and blanks end the digits.
                _ if over || (digits > 0 && b"; \t\r".contains(&byte)) => {
                    Ok(State::Size { size, digits, over: true, length })
                }
                _ => Err(ChunkError::BadSize),
            }
        }
        State::DataEnd { cr: false } if byte == b'\r' => Ok(State::DataEnd { cr: true }),
        State::DataEnd { cr: true } if byte == b'\n' => Ok(SIZE_LINE),
        State::DataEnd { .. } => Err(ChunkError::BadEnd),
        State::Trailer { length, .. } if length >= MAX_TRAILERS => Err(ChunkError::TooLong),
        State::Trailer { line: 0, .. } if byte == b'\n' => Ok(State::Done),
        State::Trailer { length, .. } if byte == b'\n' => Ok(State::Trailer { length: length + 1, line: 0 }),
        State::Trailer { length, line } if byte == b'\r' => Ok(State::Trailer { length: length + 1, line }),
        State::Trailer { length, line } => Ok(State::Trailer { length: length + 1, line: line + 1 }),
        State::Data { .. } | State::Done => Ok(state),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    fn decode(input: &[u8]) -> Result<(Vec<u8>, usize, bool), ChunkError> {
        let (mut decoder, mut data) = (Decoder::default(), Vec::new());
        let used = decoder.feed(input, |piece| data.extend_from_slice(piece))?;
        Ok((data, used, decoder.is_done()))
    }

    #[test]
    fn what_is_not_chunked_is_refused() {
        let cases: [(&[u8], ChunkError); 7] = [
            (b"\r\n", ChunkError::BadSize),
            (b"x\r\n", ChunkError::BadSize),
            (b"-1\r\n", ChunkError::BadSize),
            (b"0x5\r\nhello", ChunkError::BadSize),
            (b"10000000000000000\r\n", ChunkError::BadSize),
            (b"3\r\nabcd\r\n", ChunkError::BadEnd),
            (b"3\r\nabc\n0\r\n\r\n", ChunkError::BadEnd),
        ];
        for (input, error) in cases {
            assert_eq!(decode(input), Err(error), "{}", String::from_utf8_lossy(input));
        }
        assert_eq!(decode(&[b"1;".as_slice(), &[b'x'; 300]].concat()), Err(ChunkError::TooLong));
        assert_eq!(decode(&[b"0\r\n".as_slice(), &[b'x'; 9_000]].concat()), Err(ChunkError::TooLong));
    }

    #[test]
    fn extensions_and_trailers_are_skipped_and_the_rest_is_left() {
        let input = b"5;name=value\r\nhello\r\n1 \r\n!\r\n0\r\nA: b\r\n\r\nGET /";
        assert_eq!(decode(input), Ok((b"hello!".to_vec(), input.len() - 5, true)));
    }

    #[test]
    fn a_body_without_its_final_chunk_is_not_done() {
        for cut in 0..b"5\r\nhello\r\n0\r\n\r\n".len() {
            let (data, used, done) = decode(&b"5\r\nhello\r\n0\r\n\r\n"[..cut]).unwrap();
            assert!(!done && used == cut && b"hello".starts_with(&data), "cut at {cut}");
        }
    }

    #[test]
    fn any_body_in_any_pieces_comes_back() {
        for seed in 0..300 {
            let mut dice = Dice::new(seed);
            let (mut coded, mut body) = (Vec::new(), Vec::new());
            for _ in 0..dice.below(6) {
                let piece: Vec<u8> = (0..dice.below(70)).map(|_| dice.below(256) as u8).collect();
                encode_into(&piece, &mut coded);
                body.extend_from_slice(&piece);
            }
            coded.extend_from_slice(FINAL_CHUNK);
            let (mut decoder, mut data, mut rest) = (Decoder::default(), Vec::new(), coded.as_slice());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(1 + dice.below(rest.len() as u64) as usize);
                assert_eq!(decoder.feed(now, |piece| data.extend_from_slice(piece)), Ok(now.len()), "seed {seed}");
                rest = later;
            }
            assert!(decoder.is_done() && data == body, "seed {seed}");
        }
    }
}
