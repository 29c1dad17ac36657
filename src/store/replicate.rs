//! Taking a segment over from a consumer: what a store answers, and only after the copy is on stable storage.
//!
//! ```text
//! body -> check, append to .active -> sync -> LOW-HIGH[-N].flushed -> sync the directory -> catalogue -> receipt
//! ```
//!
//! Memory: one block (256 KiB, or one record if that is longer, at most 65 MiB) for each segment on its way.

use super::log::StoreLog;
use super::writer::{WriteError, Writer};
use crate::ops::metrics;
use crate::record::stored::{self, Digest, NotStored};
use crate::segment::reader::BlockReader;
use crate::segment::recover::examine;
use crate::segment::{Form, Segment, identity, wire};
use crate::unit::Bytes;
use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

/// Header: the persistent id of the store that answers.
pub const STORE_ID: &str = "X-Oklog-Store-Id";

/// The persistent identity of a store: 128 bits drawn once for its directory. Copies are counted by it, never by address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreId(pub u128);

impl StoreId {
    /// Reads the text form: 32 lower-case hex digits.
    pub fn parse(text: &str) -> Option<StoreId> {
        identity::parse(text).map(StoreId)
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

/// Why a segment was not taken. No file is left of it.
#[derive(Debug)]
pub enum ReplicateError {
    /// The body holds not a single record.
    Empty,
    /// The body is not stored records in ascending order.
    NotStored(NotStored),
    /// The body broke off: its sender failed, or went away.
    Body(io::Error),
    /// No room for it.
    Full(io::Error),
    /// The disk refused. What was synced unsuccessfully is not tried again.
    Io {
        /// What was being done.
        doing: &'static str,
        /// What was said.
        source: io::Error,
    },
}

impl ReplicateError {
    /// The HTTP status that says the same.
    pub fn status(&self) -> u16 {
        match self {
            ReplicateError::Empty | ReplicateError::NotStored(_) | ReplicateError::Body(_) => 400,
            ReplicateError::Full(_) => 507,
            ReplicateError::Io { .. } => 500,
        }
    }

    fn io(doing: &'static str) -> impl Fn(io::Error) -> ReplicateError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ReplicateError::Full(source),
            _ => ReplicateError::Io { doing, source },
        }
    }
}

impl fmt::Display for ReplicateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplicateError::Empty => f.write_str("a segment without records"),
            ReplicateError::NotStored(fault) => write!(f, "not a segment: {fault}"),
            ReplicateError::Body(e) => write!(f, "reading the segment: {e}"),
            ReplicateError::Full(e) => write!(f, "no room for the segment: {e}"),
            ReplicateError::Io { doing, source } => write!(f, "{doing} the segment: {source}"),
        }
    }
}

impl std::error::Error for ReplicateError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ReplicateError::Empty => None,
            ReplicateError::NotStored(fault) => Some(fault),
            ReplicateError::Body(e) | ReplicateError::Full(e) | ReplicateError::Io { source: e, .. } => Some(e),
        }
    }
}

impl StoreLog {
    /// Takes a segment: `body` to its end, after which `whole` says whether the sender really finished it. The receipt
    /// means that it is on stable storage. The same content again is answered by a receipt, and kept once. What would leave less
    /// than the reserve free is [`ReplicateError::Full`], at the block that would.
    pub fn replicate(&self, body: &mut dyn Read, whole: &dyn Fn() -> bool) -> Result<Receipt, ReplicateError> {
        self.take(|store| {
            let writer = store.copy_in(body)?;
            if whole() { Ok(writer) } else { Err(ReplicateError::Body(io::ErrorKind::UnexpectedEof.into())) }
        })
    }

    /// The same for a segment that comes in runs of whole records from this process, `next` giving them up to the end: they are
    /// checked like any others, and written without being cut anew.
    pub fn take_parts(
        &self,
        next: &mut dyn FnMut() -> io::Result<Option<Arc<Vec<u8>>>>,
    ) -> Result<Receipt, ReplicateError> {
        self.take(|store| {
            let mut writer = None;
            while let Some(part) = next().map_err(ReplicateError::Body)? {
                store.write_on(&mut writer, &part)?;
            }
            writer.ok_or(ReplicateError::Empty)
        })
    }

    fn take(&self, copy: impl FnOnce(&StoreLog) -> Result<Writer, ReplicateError>) -> Result<Receipt, ReplicateError> {
        let taken = copy(self).and_then(|writer| self.keep(writer));
        match &taken {
            Ok(_) => self.note_disk(None),
            Err(ReplicateError::Full(e) | ReplicateError::Io { source: e, .. }) => self.note_disk(Some(e)),
            Err(ReplicateError::Empty | ReplicateError::NotStored(_) | ReplicateError::Body(_)) => {}
        }
        taken
    }

    fn keep(&self, writer: Writer) -> Result<Receipt, ReplicateError> {
        let synced = self.sync(writer).map_err(ReplicateError::io("syncing"))?;
        let receipt = Receipt { store_id: self.id(), digest: *synced.digest() };
        if self.has(&receipt.digest).map_err(ReplicateError::io("comparing"))? {
            return Ok(receipt);
        }
        let segments = self.name_all(vec![synced]).map_err(ReplicateError::io("naming"))?;
        if self.fs().keeps() {
            self.catalogue().replace(&[], segments);
        }
        self.metrics().counter(metrics::REPLICATED, &["ingress"]).inc();
        self.metrics().counter(metrics::REPLICATED_BYTES, &["ingress"]).add(receipt.digest.len.0);
        Ok(receipt)
    }

    fn copy_in(&self, body: &mut dyn Read) -> Result<Writer, ReplicateError> {
        let mut blocks = BlockReader::new(body);
        let mut block = Vec::new();
        let mut writer: Option<Writer> = None;
        while blocks.next_block(&mut block).map_err(ReplicateError::Body)? {
            self.write_on(&mut writer, &block)?;
        }
        writer.ok_or(ReplicateError::Empty)
    }

    /// Adds a block to a segment, which begins with the first one.
    fn write_on(&self, writer: &mut Option<Writer>, block: &[u8]) -> Result<(), ReplicateError> {
        // Before anything is written: what makes room needs some, and an error of the disk comes too late for it.
        self.room()
            .admit(Bytes(block.len() as u64), self.clock.now())
            .map_err(ReplicateError::io("asking for the room of"))?;
        let open = match writer {
            Some(open) => open,
            empty => {
                let at = Bytes(0);
                let first = stored::id_at(block).ok_or(ReplicateError::NotStored(NotStored::BadId { at }))?;
                empty.insert(self.begin(first, Form::Plain).map_err(ReplicateError::io("creating"))?)
            }
        };
        open.append(block).map_err(|e| match e {
            WriteError::NotStored(fault) => ReplicateError::NotStored(fault),
            WriteError::Io(e) => ReplicateError::io("writing")(e),
        })
    }

    /// Whether a live segment holds just this. Two that have both ends and the length in common are read, if nobody has
    /// counted their bytes yet.
    fn has(&self, digest: &Digest) -> io::Result<bool> {
        for segment in self.snapshot(digest.first, digest.first) {
            let known = segment.digest();
            if (known.first, known.last, known.len) == (digest.first, digest.last, digest.len)
                && digest_of(&segment)? == Some(*digest)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn digest_of(segment: &Segment) -> io::Result<Option<Digest>> {
    match segment.digest().whole() {
        Some(digest) => Ok(Some(digest)),
        None => Ok(examine(&segment.open()?)?.digest),
    }
}
