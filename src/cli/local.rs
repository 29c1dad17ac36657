//! `oklog query -path`: greps the segments in a directory, without a server.
//!
//! Output and exit status are those of a query through a server: 0 found, 1 nothing found, 2 error, and 3 when something may be
//! missing, because a file is damaged or cannot be read. What is whole is printed then all the same.

use super::client::shown;
use super::cut::Cutter;
use super::query::{self, FAILED, FOUND, INCOMPLETE, NOT_FOUND, QueryOptions, print_headers, print_reversed, say};
use super::snapshot::{Photographer, Snapshot};
use crate::merge::k_way::MergeError;
use crate::ops::metrics::Counter;
use crate::query::local::LocalQuery;
use crate::query::params::{Order, Params};
use crate::query::pool::Pool;
use crate::segment::readable::{Readable, Source};
use crate::unit::Monotonic;
use crate::world::clock::Clock;
use crate::world::fs::FileSystem;
use std::cmp::Reverse;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest time found records wait for more before they are printed.
const LINGER: Duration = Duration::from_millis(5);

/// So many files are named of those in which something is wrong; the others are counted.
const MOST_NAMED: usize = 20;

/// What a query without a server works with.
pub struct Ground {
    /// Where files are.
    pub fs: Arc<dyn FileSystem>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Who scans.
    pub pool: Arc<Pool>,
    /// So many files may be open.
    pub most_open: usize,
}

/// Reads, prints to `out`, complains to `err` in whole lines, and gives the exit status.
pub fn run(ground: &Ground, options: &QueryOptions, dir: &Path, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let began = ground.clock.now();
    let mut prepared = match prepare(ground, options, dir, began) {
        Ok(prepared) => prepared,
        Err(sentence) => {
            say(err, &format!("oklog query: {sentence}"));
            return FAILED;
        }
    };
    prepared.notes.iter().for_each(|note| say(err, &format!("oklog query: {note}")));
    let headers = |is_complete| -> Vec<(String, String)> {
        let headers = prepared.query.headers(is_complete, &*ground.clock);
        let name = |name: &str| name.strip_prefix("X-Oklog-").unwrap_or(name).to_ascii_lowercase();
        headers.iter().map(|(header, value)| (name(header), shown(value))).collect()
    };
    let headers = headers(prepared.missing.is_empty());
    if options.verbose {
        say(err, &format!("reading {}", dir.display()));
        headers.iter().for_each(|(name, value)| say(err, &format!("{name}: {value}")));
    }
    let printed = match options.stats {
        true => print_headers(&headers, out).map(|()| 1),
        false => {
            let (scanned, printing) = (Counter::default(), Printing::new(options, out, &*ground.clock));
            let printed = printing.run(ground, prepared.query, &prepared.paths, &scanned, &mut prepared.missing);
            if let (true, Ok(count)) = (options.verbose, &printed) {
                say(err, &format!("{count} records, {} bytes read", scanned.get()));
            }
            printed
        }
    };
    let printed = printed.and_then(|count| out.flush().map(|()| count));
    match printed {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => FOUND,
        Err(error) => {
            say(err, &format!("oklog query: printing records: {error}"));
            FAILED
        }
        Ok(count) => judge(count, &prepared.missing, err),
    }
}

fn judge(count: u64, missing: &[String], err: &mut dyn Write) -> u8 {
    missing.iter().take(MOST_NAMED).for_each(|what| say(err, &format!("oklog query: records may be missing: {what}")));
    if let Some(more) = missing.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        say(err, &format!("oklog query: records may be missing: {more} more files like these"));
    }
    match (missing.is_empty(), count) {
        (false, _) => INCOMPLETE,
        (true, 0) => NOT_FOUND,
        (true, _) => FOUND,
    }
}

/// What is known before anything is read.
struct Prepared {
    query: LocalQuery,
    /// Which file each part is, in the order of the merge.
    paths: Vec<PathBuf>,
    missing: Vec<String>,
    notes: Vec<String>,
    /// What keeps the files open.
    _snapshot: Snapshot,
}

fn prepare(ground: &Ground, options: &QueryOptions, dir: &Path, began: Monotonic) -> Result<Prepared, String> {
    let params = query::params(options);
    let params = Params::from_pairs(&params, ground.clock.unix_millis()).map_err(|e| e.to_string())?;
    let (clock, params_of_it) = (&*ground.clock, params.clone());
    let query = |parts| LocalQuery::new(params_of_it.clone(), parts, options.stats, clock, began);
    // What is asked is judged before a directory is read for it.
    query(Vec::new())?;
    let range = (params.from, params.to);
    let photographer = Photographer { fs: &ground.fs, clock: &*ground.clock, range, most_open: ground.most_open };
    let mut snapshot = photographer.take(dir).map_err(|refusal| refusal.to_string())?;
    let mut parts = std::mem::take(&mut snapshot.parts);
    // As the scan puts them, so that it is known of which file an error tells.
    match params.order {
        Order::Asc => parts.sort_by_key(|part| part.low),
        Order::Desc => parts.sort_by_key(|part| Reverse(part.high)),
    }
    let paths = parts.iter().map(path_of).collect();
    let (missing, notes) = (std::mem::take(&mut snapshot.missing), std::mem::take(&mut snapshot.notes));
    Ok(Prepared { query: query(parts)?, paths, missing, notes, _snapshot: snapshot })
}

fn path_of(part: &Readable) -> PathBuf {
    match &part.source {
        Source::Segment(segment) => segment.path(),
        Source::Open(_) => PathBuf::new(),
    }
}

/// Records on their way out.
struct Printing<'a> {
    options: &'a QueryOptions,
    out: &'a mut dyn Write,
    clock: &'a dyn Clock,
    flushed: Monotonic,
    cutter: Cutter,
    /// Records that come newest first, to be printed when all are there.
    held: Vec<u8>,
}

impl<'a> Printing<'a> {
    fn new(options: &'a QueryOptions, out: &'a mut dyn Write, clock: &'a dyn Clock) -> Printing<'a> {
        let cutter = Cutter::new((!options.nocopy).then_some(options.shape));
        Printing { options, out, clock, flushed: clock.now(), cutter, held: Vec::new() }
    }

    /// Prints what is found, and gives how many records that is. What breaks off is added to `missing`.
    fn run(
        mut self,
        ground: &Ground,
        query: LocalQuery,
        paths: &[PathBuf],
        scanned: &Counter,
        missing: &mut Vec<String>,
    ) -> io::Result<u64> {
        let is_reversed = self.options.newest.is_some() && !self.options.nocopy;
        let mut count = 0;
        let broken = |error: MergeError| missing.push(what_broke(&error, paths));
        let send = |run: &[u8], records: u64| {
            count += records;
            if is_reversed {
                self.held.extend_from_slice(run);
                return Ok(());
            }
            self.print(run)
        };
        query.run(ground.pool.line(), scanned, send, broken)?;
        if is_reversed {
            print_reversed(self.options.shape, &self.held, self.out)?;
        }
        Ok(count)
    }

    fn print(&mut self, run: &[u8]) -> io::Result<()> {
        // A run is whole records that were looked at.
        self.cutter.take(run)?;
        self.out.write_all(self.cutter.printed())?;
        self.cutter.drop_printed();
        let now = self.clock.now();
        if now.since(self.flushed) >= LINGER {
            self.flushed = now;
            self.out.flush()?;
        }
        Ok(())
    }
}

/// A part that is left out from some place on, as a sentence that names its file.
fn what_broke(error: &MergeError, paths: &[PathBuf]) -> String {
    let path = paths.get(error.index()).map(|path| path.display().to_string()).unwrap_or_default();
    let why = match error {
        MergeError::Read { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    let why = why.strip_prefix(&path).map_or(format!(": {why}"), str::to_string);
    format!("{path}{why}; what follows in it was not searched")
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
