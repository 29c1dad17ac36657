//! Crash points: what a disk may look like if the power went at some operation, recovered and held against the ledger.

use crate::ledger::Checked;
use crate::node::Place;
use crate::run::Sim;
use oklog::record::id::Id;
use oklog::segment::Segment;
use oklog::segment::readable::Readable;
use oklog::store::log::StoreLog;
use oklog::unit::Bytes;
use oklog::world::fs::{File, read_full_at};
use std::io;

/// The bytes of a segment.
pub fn read_segment(segment: &Segment) -> io::Result<Vec<u8>> {
    read_file(&*segment.open()?, segment.digest().len)
}

fn read_file(file: &dyn File, len: Bytes) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len.0 as usize];
    let n = read_full_at(file, &mut bytes, Bytes(0))?;
    if n < bytes.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// The bytes of all parts of a snapshot, each with its first id.
pub fn read_parts(parts: &[Readable]) -> io::Result<Vec<(Id, Vec<u8>)>> {
    parts.iter().map(|part| Ok((part.low, read_file(&*part.source.open()?, part.len)?))).collect()
}

/// The same as one heap of records.
pub fn read_all(parts: &[Readable]) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    for (_, bytes) in read_parts(parts)? {
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

/// All records that a store answers with.
pub fn read_store(log: &StoreLog) -> io::Result<Vec<u8>> {
    let parts: Vec<Readable> = log.snapshot(Id::MIN, Id::MAX).into_iter().map(Readable::whole).collect();
    read_all(&parts)
}

impl Sim {
    /// Looks at the images that were taken of a disk since the last time.
    pub fn look_at_pictures(&mut self, _place: Place) -> Checked {
        Ok(())
    }
}
