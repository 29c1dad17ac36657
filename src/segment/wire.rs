//! What is known of a segment as HTTP headers: how nodes tell each other what a body must turn out to be.
//!
//! ```text
//! X-Oklog-First    id of the first record       X-Oklog-Length   bytes, decimal
//! X-Oklog-Last     id of the last record        X-Oklog-Crc32    CRC-32 (IEEE 802.3) of all bytes, 8 hex digits
//! X-Oklog-Records  how many, decimal
//! X-Oklog-Age      how old the first record is, in milliseconds, decimal
//! X-Oklog-More     0 where a segment that is handed out is the last one, and nothing was written since
//! ```

use crate::record::id::Id;
use crate::record::stored::Digest;
use crate::unit::Bytes;

/// Header: the id of the first record.
pub const FIRST: &str = "X-Oklog-First";
/// Header: the id of the last record.
pub const LAST: &str = "X-Oklog-Last";
/// Header: how many records.
pub const RECORDS: &str = "X-Oklog-Records";
/// Header: how many bytes.
pub const LENGTH: &str = "X-Oklog-Length";
/// Header: how old the first record is, in milliseconds.
pub const AGE: &str = "X-Oklog-Age";
/// Header: whether more is there than the segment that is handed out.
pub const MORE: &str = "X-Oklog-More";
/// Header: the checksum of all bytes.
pub const CRC32: &str = "X-Oklog-Crc32";

/// A digest as headers.
pub fn digest_headers(digest: &Digest) -> Vec<(&'static str, String)> {
    vec![
        (FIRST, digest.first.to_string()),
        (LAST, digest.last.to_string()),
        (RECORDS, digest.records.to_string()),
        (LENGTH, digest.len.0.to_string()),
        (CRC32, crc32_text(digest.crc32)),
    ]
}

/// Reads a digest from headers, which `get` finds by name. `None` if one is missing or malformed.
pub fn read_digest<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Digest> {
    let digest = Digest {
        first: Id::parse(get(FIRST)?.as_bytes())?,
        last: Id::parse(get(LAST)?.as_bytes())?,
        records: parse_decimal(get(RECORDS)?)?,
        len: Bytes(parse_decimal(get(LENGTH)?)?),
        crc32: parse_crc32(get(CRC32)?)?,
    };
    (digest.first <= digest.last).then_some(digest)
}

/// A checksum as it stands in a header.
pub fn crc32_text(crc32: u32) -> String {
    format!("{crc32:08x}")
}

/// Reads a checksum: exactly eight hex digits.
pub fn parse_crc32(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

/// Reads a number: digits only, no sign.
pub fn parse_decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Digest {
        Digest { first: Id(3), last: Id(9), records: 4, len: Bytes(120), crc32: 0x00AB_CDEF }
    }

    #[test]
    fn a_digest_reads_back_as_itself() {
        let headers = digest_headers(&digest());
        let get = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str());
        assert_eq!(read_digest(get), Some(digest()));
    }

    #[test]
    fn a_digest_with_a_missing_or_malformed_part_is_none() {
        let bad = [(LENGTH, "+120"), (LENGTH, ""), (CRC32, "abcdef"), (CRC32, "+0abcdef"), (RECORDS, "-1")];
        for (broken, with) in bad.into_iter().chain([(FIRST, "x"), (LAST, "00000000000000000000000001")]) {
            let headers = digest_headers(&digest());
            let get = |name: &str| {
                if name == broken {
                    return Some(with);
                }
                headers.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_str())
            };
            assert_eq!(read_digest(get), None, "{broken}: {with}");
        }
        assert_eq!(read_digest(|_| None), None);
    }
}
