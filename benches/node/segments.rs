//! Store segments that no node wrote: many small ones, or some that lie over each other.
//!
//! They are valid, and but for those that are made to be joined, compaction finds nothing to do with them: a node that is started on the small ones gets
//! `-store.segment-target-size=1`, beside which each of them is full; the others reach over more time than compaction
//! joins or pulls apart.

use crate::Outcome;
use oklog::record::id::{Id, StreamBits};
use oklog::record::stored::write;
use oklog::segment::name::{Bounds, State};
use oklog::unit::UnixNanos;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Keeps the segments as they are.
pub const AS_THEY_ARE: &[&str] = &["-store.segment-target-size=1", "-store.seal=false"];

const SECOND: u64 = 1_000_000_000;

/// Records in a small segment.
const SMALL: u64 = 10;

/// Many small segments, one for each second.
pub struct Small {
    first: u64,
    count: u64,
}

impl Small {
    /// Makes `dir/store` with so many of them, the last of which ends ten minutes ago.
    pub fn make(dir: &Path, count: u64) -> Outcome<Small> {
        let store = dir.join("store");
        std::fs::create_dir_all(&store)?;
        let small = Small { first: unix_nanos()?.saturating_sub((count + 600) * SECOND), count };
        let text = "s".repeat(160);
        for number in 0..count {
            let ids: Vec<Id> = (0..SMALL)
                .map(|record| {
                    let at = UnixNanos(small.first + number * SECOND + record * SECOND / SMALL);
                    Id::new(at, StreamBits::from_random(number), record as u32)
                })
                .collect();
            let mut content = Vec::with_capacity(4096);
            ids.iter().for_each(|id| write(&mut content, *id, format!("{number} {text}").as_bytes()));
            let name = Bounds::Range(ids[0], ids[ids.len() - 1], 0).file_name(State::Flushed);
            std::fs::write(store.join(name), content)?;
        }
        Ok(small)
    }

    /// A range that three segments from the middle lie in, as parameters of a query, and how many records they have.
    pub fn three(&self) -> (String, u64) {
        let from = self.first + self.count / 2 * SECOND;
        let id = |nanos: u64| {
            String::from_utf8_lossy(&Id::new(UnixNanos(nanos), StreamBits::from_random(0), 0).text()).into_owned()
        };
        (format!("from={}&to={}", id(from - SECOND / 20), id(from + 3 * SECOND - SECOND / 20)), 3 * SMALL)
    }
}

/// Adds segments of about 1 MiB each to a store that is stopped, one for each second, the last of which ends before the last
/// `before_s` seconds: small ones, which compaction joins.
pub fn joinable(dir: &Path, count: u64, before_s: u64) -> Outcome<()> {
    let store = dir.join("store");
    let text = "j".repeat(162);
    let records = (1 << 20) / (27 + text.len() as u64 + 1);
    let first = unix_nanos()?.saturating_sub((count + before_s) * SECOND);
    for number in 0..count {
        let mut content = Vec::with_capacity(1 << 20);
        let at = |record: u64| UnixNanos(first + number * SECOND + record * SECOND / (records + 1));
        let id = |record: u64| Id::new(at(record), StreamBits::from_random(number), record as u32);
        (0..records).for_each(|record| write(&mut content, id(record), text.as_bytes()));
        let name = Bounds::Range(id(0), id(records - 1), 0).file_name(State::Flushed);
        std::fs::write(store.join(name), content)?;
    }
    Ok(())
}

/// Makes `dir/store` with so many segments that lie over each other from end to end, record by record, all together of so
/// many bytes.
pub fn overlapping(dir: &Path, count: u64, bytes: u64) -> Outcome<()> {
    let store = dir.join("store");
    std::fs::create_dir_all(&store)?;
    let text = "o".repeat(161);
    let records = bytes / (27 + text.len() as u64 + 1);
    // Two days: more than a tenth of what is retained.
    let span = 48 * 3_600 * SECOND;
    let (first, step) = (unix_nanos()?.saturating_sub(span), span / records);
    for number in 0..count {
        let ids = (number..records).step_by(count as usize).enumerate().map(|(counter, record)| {
            Id::new(UnixNanos(first + record * step), StreamBits::from_random(number), counter as u32)
        });
        let mut content = Vec::with_capacity((bytes / count + 1024) as usize);
        let (mut low, mut high) = (None, Id::MIN);
        for id in ids {
            low.get_or_insert(id);
            high = id;
            write(&mut content, id, text.as_bytes());
        }
        let name = Bounds::Range(low.ok_or("no records")?, high, 0).file_name(State::Flushed);
        std::fs::write(store.join(name), content)?;
    }
    Ok(())
}

fn unix_nanos() -> Outcome<u64> {
    let now: Duration = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_nanos())?)
}
