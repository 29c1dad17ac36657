//! `oklog query`: asks a store and prints the records that it gives, while they come.
//!
//! Exit status as grep's: 0 found, 1 nothing found, 2 error, and 3 when the answer may lack something; what came is printed
//! then all the same. A reader that has seen enough (`| head`) ends the command quietly.
//!
//! Memory: bounded by one record (see the `cut` module), save with `newest`, where the records asked for are held to
//! be printed in the order in which they came in: as much as N records take.

use super::client::{self, Answer, Method, Shape};
use super::cut::Cutter;
use crate::query::params::QueryString;
use crate::record::stored::records;
use std::io::{self, Read, Write};

/// What is taken of a body at once, in bytes.
const BLOCK: usize = 256 << 10;

/// Records were found, or statistics printed.
pub const FOUND: u8 = 0;
/// The answer is whole and empty.
pub const NOT_FOUND: u8 = 1;
/// There is no answer.
pub const FAILED: u8 = 2;
/// The answer may lack something.
pub const INCOMPLETE: u8 = 3;

/// What is asked for, and how it is printed.
#[derive(Clone, Debug, Default)]
pub struct QueryOptions {
    /// Stores, `host:port`; tried in this order until one answers.
    pub stores: Vec<String>,
    /// Where the range begins, as the store reads it; empty for one hour ago.
    pub from: String,
    /// Where the range ends, as the store reads it; empty for now.
    pub to: String,
    /// The needle.
    pub q: Vec<u8>,
    /// Whether it is a regular expression.
    pub regex: bool,
    /// Whether records that do not match are wanted.
    pub invert: bool,
    /// Whether case is ignored.
    pub ignore_case: bool,
    /// Only the newest so many.
    pub newest: Option<u64>,
    /// Statistics in place of records.
    pub stats: bool,
    /// Fetch records but do not print them.
    pub nocopy: bool,
    /// How records are printed.
    pub shape: Shape,
    /// Tell on `err` what is asked and answered.
    pub verbose: bool,
}

/// Why printing ended early.
enum Broken {
    /// The answer broke off.
    Answer(io::Error),
    /// `out` takes no more.
    Out(io::Error),
}

/// Asks, prints to `out`, complains to `err` in whole lines, and gives the exit status.
pub fn run(options: &QueryOptions, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let stores = client::stores(&options.stores);
    let target = format!("/store/query?{}", query_string(options));
    if options.verbose {
        say(err, &format!("asking {} for {target}", stores.join(", ")));
    }
    let method = if options.stats { Method::Head } else { Method::Get };
    let answer = match client::call(&client::agent(), method, &stores, &target) {
        Ok(answer) => answer,
        Err(error) => {
            say(err, &format!("oklog query: {error}"));
            return FAILED;
        }
    };
    if options.verbose {
        say(err, &format!("{} answers {}", answer.store, answer.status));
        answer.our_headers().iter().for_each(|(name, value)| say(err, &format!("{name}: {value}")));
    }
    let missing = missing(&answer);
    let printed = match options.stats {
        true => print_headers(&answer.our_headers(), out).map(|()| 1).map_err(Broken::Out),
        false => print(options, answer, out),
    };
    let printed = printed.and_then(|count| out.flush().map(|()| count).map_err(Broken::Out));
    if let (true, Ok(count)) = (options.verbose && !options.stats, &printed) {
        say(err, &format!("{count} records"));
    }
    match (printed, missing) {
        (Err(Broken::Out(error)), _) if error.kind() == io::ErrorKind::BrokenPipe => FOUND,
        (Err(Broken::Out(error)), _) => {
            say(err, &format!("oklog query: printing records: {error}"));
            FAILED
        }
        (Err(Broken::Answer(error)), missing) => {
            let also = missing.map(|missing| format!("; {missing}")).unwrap_or_default();
            say(err, &format!("oklog query: the answer broke off, more may exist: {error}{also}"));
            INCOMPLETE
        }
        (Ok(_), Some(missing)) => {
            say(err, &format!("oklog query: the answer may be incomplete: {missing}"));
            INCOMPLETE
        }
        (Ok(0), None) => NOT_FOUND,
        (Ok(_), None) => FOUND,
    }
}

/// Complaints go where they can: without a standard error there is nobody to tell.
pub(super) fn say(err: &mut dyn Write, line: &str) {
    let _ = writeln!(err, "{line}");
}

/// The parameters of a query that ask for it.
pub(super) fn params(options: &QueryOptions) -> Vec<(String, Vec<u8>)> {
    let text = |name: &str, value: &[u8]| (name.to_string(), value.to_vec());
    let mut params =
        vec![text("from", options.from.as_bytes()), text("to", options.to.as_bytes()), text("q", &options.q)];
    let flags = [("regex", options.regex), ("invert", options.invert), ("ignore_case", options.ignore_case)];
    params.extend(flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| text(name, b"true")));
    if let Some(newest) = options.newest {
        params.push(text("order", b"desc"));
        params.push(text("limit", newest.to_string().as_bytes()));
    }
    params
}

fn query_string(options: &QueryOptions) -> String {
    let mut query = QueryString::default();
    params(options).iter().for_each(|(name, value)| query.add(name, value));
    query.into_string()
}

/// Half a sentence on what an answer may lack; None if it is known to be whole.
fn missing(answer: &Answer) -> Option<String> {
    if answer.status == 200 && answer.header("X-Oklog-Complete") == Some("true") {
        return None;
    }
    let silent = answer.header("X-Oklog-Silent-Nodes").filter(|nodes| !nodes.is_empty());
    Some(match silent {
        Some(nodes) => format!("silent: {nodes}"),
        None => format!("{} does not say that it is whole", answer.store),
    })
}

/// Prints headers without what all their names begin with.
pub(super) fn print_headers(headers: &[(String, String)], out: &mut dyn Write) -> io::Result<()> {
    let width = headers.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    headers.iter().try_for_each(|(name, value)| writeln!(out, "{name:<width$}  {value}"))
}

/// Prints the records of an answer and counts them. What has come is printed before more is waited for.
fn print(options: &QueryOptions, answer: Answer, out: &mut dyn Write) -> Result<u64, Broken> {
    if options.newest.is_some() && !options.nocopy {
        return print_newest(options.shape, answer, out);
    }
    let (mut body, mut block) = (answer.body(), vec![0; BLOCK]);
    let mut cutter = Cutter::new((!options.nocopy).then_some(options.shape));
    loop {
        let taken = match body.read(&mut block) {
            Ok(0) => return cutter.end().map(|()| cutter.count()).map_err(Broken::Answer),
            Ok(count) => cutter.take(block.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
        if !cutter.printed().is_empty() {
            out.write_all(cutter.printed()).and_then(|()| out.flush()).map_err(Broken::Out)?;
            cutter.drop_printed();
        }
        taken.map_err(Broken::Answer)?;
    }
}

/// The same for records that come newest first: all are held, and printed oldest first.
fn print_newest(shape: Shape, answer: Answer, out: &mut dyn Write) -> Result<u64, Broken> {
    let (mut reader, mut held) = (answer.records(), Vec::new());
    let ended = loop {
        match reader.next_run() {
            Ok(Some(run)) => held.extend_from_slice(run),
            Ok(None) => break Ok(()),
            Err(error) => break Err(Broken::Answer(error)),
        }
    };
    let count = print_reversed(shape, &held, out).map_err(Broken::Out)?;
    ended.map(|()| count)
}

/// Prints records that came newest first, oldest first.
pub(super) fn print_reversed(shape: Shape, held: &[u8], out: &mut dyn Write) -> io::Result<u64> {
    let newest_first: Vec<_> = records(held).collect();
    let count = newest_first.len() as u64;
    let mut shown = Vec::new();
    for record in newest_first.into_iter().rev() {
        shown.clear();
        shape.print(&mut shown, record);
        out.write_all(&shown)?;
    }
    Ok(count)
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
