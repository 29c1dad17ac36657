//! `oklog cat`: prints the records of segment files, of whatever state, as they are stored.
//!
//! What is whole in a torn or damaged file is printed, and what is not is said; then the next file has its turn. A reader
//! that has gone away (`| head`) ends the command quietly.
//!
//! Exit status as cat's: 0 all was printed, 1 not all of it, or something could not be read.
//!
//! Memory: what `segment::sift` takes, or a block of a sealed segment and its table: 64 bytes for each block.

use crate::segment::sealed::audit::is_sealed;
use crate::segment::sealed::{Sealed, Unpacker, is_packed};
use crate::segment::sift::{Survey, sift};
use crate::unit::Bytes;
use crate::world::crew::lock;
use crate::world::fs::{File, FileSystem, ReadAt, read_full_at};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// All was printed.
pub const PRINTED: u8 = 0;
/// Something was not.
pub const NOT_ALL: u8 = 1;

/// So many bytes tell the form of a stream.
const HEAD: u64 = 4;

/// What standard input is called, as an operand and in sentences.
const STDIN: &str = "-";

/// Prints these files to `out`, in this order; `-`, and no file at all, is `input`. Complains to `err` in whole lines, and
/// gives the exit status.
pub fn run(
    fs: &Arc<dyn FileSystem>,
    files: &[String],
    input: impl Read + Send + 'static,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> u8 {
    let (mut input, mut status) = (Some(input), PRINTED);
    let all = if files.is_empty() { &[STDIN.to_string()][..] } else { files };
    for name in all {
        let printed = match name.as_str() {
            // Whoever names it twice finds it at its end.
            STDIN => input.take().map_or(Ok(()), |input| print_stream(input, out)),
            path => print_file(fs, Path::new(path), out),
        };
        let fault = match printed {
            Ok(()) => continue,
            Err(Broken::Out(e)) if e.kind() == io::ErrorKind::BrokenPipe => return status,
            Err(Broken::Out(e)) => {
                complain(err, "printing records", &e.to_string());
                return NOT_ALL;
            }
            Err(Broken::In(fault)) => fault,
        };
        status = NOT_ALL;
        // What was printed of a file stands before what is said of it.
        match out.flush() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return status,
            // It is met again at the end.
            _ => complain(err, if name == STDIN { "standard input" } else { name }, &fault),
        }
    }
    match out.flush() {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            complain(err, "printing records", &e.to_string());
            NOT_ALL
        }
        _ => status,
    }
}

/// Nobody is left to tell when standard error is gone; the exit status still does.
fn complain(err: &mut dyn Write, what: &str, why: &str) {
    let _ = writeln!(err, "oklog cat: {what}: {why}");
}

/// Why not all was printed.
enum Broken {
    /// What is wrong with what was to be printed, as a sentence. What is whole in it was printed.
    In(String),
    /// `out` takes no more.
    Out(io::Error),
}

impl Broken {
    fn reading(error: &io::Error) -> Broken {
        Broken::In(match error.kind() {
            io::ErrorKind::NotSeekable => "it is a pipe, not a file: give it as standard input".into(),
            _ => error.to_string(),
        })
    }
}

fn print_file(fs: &Arc<dyn FileSystem>, path: &Path, out: &mut dyn Write) -> Result<(), Broken> {
    let file = fs.open(path).map_err(|e| Broken::reading(&e))?;
    // A pipe has no size, and would look empty.
    read_full_at(file.as_ref(), &mut [0; 1], Bytes(0)).map_err(|e| Broken::reading(&e))?;
    if is_sealed(&*file).map_err(|e| Broken::reading(&e))? {
        return print_sealed(file, out);
    }
    let survey = print_whole(file.as_ref(), out)?;
    judge(&survey)
}

/// Prints every block of a sealed segment that can be unpacked.
fn print_sealed(file: Arc<dyn File>, out: &mut dyn Write) -> Result<(), Broken> {
    let sealed = Sealed::open(file).map_err(|e| Broken::reading(&e))?;
    let mut unpacker = Unpacker::new().map_err(|e| Broken::reading(&e))?;
    let (mut text, mut printed, mut left, mut first) = (Vec::new(), 0, 0, None);
    for (number, block) in sealed.blocks().iter().enumerate() {
        match sealed.unpack(number, &mut unpacker, &mut text) {
            Ok(()) => {
                out.write_all(&text).map_err(Broken::Out)?;
                printed += u64::from(block.records);
            }
            Err(e) => {
                left += u64::from(block.records);
                first.get_or_insert_with(|| format!("{e}, with the records from {} to {}", block.first, block.last));
            }
        }
    }
    let printed = printed_records(printed);
    if let Some(first) = first {
        return Err(Broken::In(format!("{first}; {printed}, {left} cannot be unpacked and were not")));
    }
    // Only the index knows of what follows the last block.
    let lost: u64 = sealed.lost().iter().map(|range| range.end - range.start).sum();
    let Some(why) = sealed.fault() else { return Ok(()) };
    Err(Broken::In(match lost {
        0 => format!("{why}; {printed}, there may have been more behind them"),
        lost => format!("{why}; {printed}, {lost} bytes cannot be unpacked and were not"),
    }))
}

fn printed_records(records: u64) -> String {
    if records == 1 { "1 record was printed".into() } else { format!("{records} records were printed") }
}

fn print_stream(mut input: impl Read + Send + 'static, out: &mut dyn Write) -> Result<(), Broken> {
    let mut head = Vec::new();
    input.by_ref().take(HEAD).read_to_end(&mut head).map_err(|e| Broken::reading(&e))?;
    if is_packed(&head) {
        return Err(Broken::In(
            "it is a sealed segment, which is read from its end: give its file, or use zstdcat".into(),
        ));
    }
    let input = io::Cursor::new(head).chain(input);
    let stream = Stream { input: Mutex::new(input), state: Mutex::default() };
    let mut survey = print_whole(&stream, out)?;
    let mut state = lock(&stream.state);
    if let Some(error) = state.error.take() {
        return Err(Broken::reading(&error));
    }
    survey.size = Bytes(state.at);
    judge(&survey)
}

/// Prints what is whole in a file of stored records.
fn print_whole(file: &dyn File, out: &mut dyn Write) -> Result<Survey, Broken> {
    let mut unwritten = None;
    let sifted = sift(file, &|_| true, &mut |_, records| {
        out.write_all(records).map_err(|e| {
            unwritten = Some(e);
            io::ErrorKind::Other.into()
        })
    });
    match unwritten {
        Some(error) => Err(Broken::Out(error)),
        None => sifted.map_err(|e| Broken::reading(&e)),
    }
}

/// What keeps a file from being whole, ascending records, and how much of it was left out.
fn judge(survey: &Survey) -> Result<(), Broken> {
    let Some(fault) = survey.fault() else { return Ok(()) };
    let printed: u64 = survey.runs.iter().map(|run| run.len.0).sum();
    let records = printed_records(survey.records());
    Err(Broken::In(match survey.size.0.saturating_sub(printed) {
        0 => format!("{fault}; all of its {records}"),
        left => format!("{fault}; {records}, {left} bytes are not whole records in their place and were not"),
    }))
}

/// A stream as a file that is read once from front to back. One that cannot be read on looks as if it ended there.
struct Stream<R> {
    input: Mutex<R>,
    state: Mutex<StreamState>,
}

#[derive(Default)]
struct StreamState {
    at: u64,
    error: Option<io::Error>,
}

impl<R: Read + Send> ReadAt for Stream<R> {
    fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
        let mut state = lock(&self.state);
        if offset.0 != state.at || state.error.is_some() {
            return Ok(0);
        }
        match lock(&self.input).read(buffer) {
            Ok(n) => {
                state.at += n as u64;
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                state.error = Some(e);
                Ok(0)
            }
        }
    }

    fn size(&self) -> io::Result<Bytes> {
        // It is known at the end.
        Ok(Bytes(u64::MAX))
    }
}

#[cfg(test)]
#[path = "cat_tests.rs"]
mod tests;
