//! Taking a segment over from a consumer: what a store answers, and only after the copy is on stable storage.

use crate::record::stored::Digest;
use crate::segment::wire;
use std::fmt;

/// Header: the persistent id of the store that answers.
pub const STORE_ID: &str = "X-Oklog-Store-Id";

/// The persistent identity of a store: 128 bits drawn once for its directory. Copies are counted by it, never by address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub u128);

impl StoreId {
    /// Reads the text form: 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<StoreId> {
        let shaped = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        shaped.then(|| u128::from_str_radix(text, 16).ok().map(StoreId)).flatten()
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A store's word that it has a segment on stable storage, directory entry included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Which store.
    pub store_id: StoreId,
    /// What it has.
    pub digest: Digest,
}

impl Receipt {
    /// The receipt as headers.
    pub fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = wire::digest_headers(&self.digest);
        headers.push((STORE_ID, self.store_id.to_string()));
        headers
    }

    /// Reads a receipt from headers, which `get` finds by name. `None` if one is missing or malformed.
    pub fn from_headers<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Option<Receipt> {
        Some(Receipt { store_id: StoreId::parse(get(STORE_ID)?)?, digest: wire::read_digest(get)? })
    }
}
