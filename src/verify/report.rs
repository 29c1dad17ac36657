//! What was found, as a person reads it: problems by directory, then where the records are, then the verdict.

use super::copies::Copies;
use super::finding::{Finding, Severity, What};
use super::plan::{Part, Planned, Tier};
use super::walk::{Facts, Fault};
use crate::segment::sealed::audit::Flaw;
use crate::unit::Bytes;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nothing is wrong.
pub const SOUND: u8 = 0;
/// There are problems.
pub const PROBLEMS: u8 = 1;
/// Not all could be read.
pub const UNREAD: u8 = 2;

/// What was found in one directory.
#[derive(Clone, Debug)]
pub struct DirReport {
    /// Which.
    pub path: PathBuf,
    /// Whose it is.
    pub tier: Option<Tier>,
    /// Its identity.
    pub id: Option<u128>,
    /// Segments that count: those in the ingest tier, or those that answer queries.
    pub segments: u64,
    /// Sound records in them.
    pub records: u64,
    /// How long they are.
    pub bytes: Bytes,
    /// Findings, in the order in which they were made.
    pub findings: Vec<Finding>,
}

impl DirReport {
    /// Nothing is known of the content yet.
    pub fn new(path: &Path, tier: Option<Tier>, id: Option<u128>) -> DirReport {
        let path = path.to_path_buf();
        DirReport { path, tier, id, segments: 0, records: 0, bytes: Bytes(0), findings: Vec::new() }
    }

    /// Counts a file.
    pub fn take_file(&mut self, file: &Planned, facts: &Facts) {
        if matches!(file.part, Part::Waiting | Part::Live) {
            self.segments += 1;
            self.records += facts.records;
            self.bytes.0 += file.size.0;
        }
    }
}

/// All that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// By directory, in the order in which they were given.
    pub dirs: Vec<DirReport>,
    /// Findings that belong to no directory.
    pub across: Vec<Finding>,
    /// Records by the number of stores that have them, from 1.
    pub by_stores: BTreeMap<u32, u64>,
    /// Records in the ingest tier that are on no store, and those that are on stores too.
    pub waiting: (u64, u64),
    /// Records that are in the trash of stores only.
    pub trashed: u64,
    /// How many streams the records are of.
    pub streams: u64,
    /// How many counters are missing between two that are there.
    pub missing: u64,
    /// How much was read.
    pub bytes: Bytes,
    /// How long it took.
    pub span: Duration,
}

impl Report {
    /// The figures; no directory yet.
    pub fn new(copies: &Copies, streams: u64, missing: u64) -> Report {
        Report {
            by_stores: copies.by_stores().clone(),
            waiting: copies.waiting(),
            trashed: copies.trashed(),
            streams,
            missing,
            ..Report::default()
        }
    }

    /// All findings.
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.dirs.iter().flat_map(|dir| &dir.findings).chain(&self.across)
    }

    /// How many findings are so grave.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings().filter(|finding| finding.what.severity() == severity).count()
    }

    /// What the command ends with: 2 where not all could be read, whatever else was found.
    pub fn exit_status(&self) -> u8 {
        let unread = |finding: &Finding| {
            matches!(finding.what, What::Fault(Fault::Unreadable { .. } | Fault::Sealed(Flaw::Version(_)), _))
        };
        match () {
            () if self.findings().any(unread) => UNREAD,
            () if self.count(Severity::Problem) > 0 => PROBLEMS,
            () => SOUND,
        }
    }

    /// Prints it: problems, and notes too if that is wanted.
    pub fn print(&self, notes: bool, out: &mut dyn Write) -> io::Result<()> {
        for dir in &self.dirs {
            self.print_dir(dir, notes, out)?;
        }
        for finding in &self.across {
            print_finding(finding, notes, out)?;
        }
        self.print_copies(out)?;
        if notes {
            writeln!(
                out,
                "plain segments have no checksums: a change within a record is seen only beside another copy of it"
            )?;
        }
        let (problems, notes) = (self.count(Severity::Problem), self.count(Severity::Note));
        let verdict = match self.exit_status() {
            SOUND => "sound".to_string(),
            UNREAD => format!("{}, and not all could be read", number(problems as u64, "problem")),
            _ => number(problems as u64, "problem"),
        };
        let seconds = self.span.as_secs_f64();
        let dirs = match self.dirs.len() {
            1 => "1 directory".to_string(),
            more => format!("{more} directories"),
        };
        let notes = if notes == 0 { String::new() } else { format!(", {}", number(notes as u64, "note")) };
        writeln!(out, "{dirs}, {} read in {seconds:.1} s: {verdict}{notes}", size(self.bytes))
    }

    fn print_dir(&self, dir: &DirReport, notes: bool, out: &mut dyn Write) -> io::Result<()> {
        let who = match (dir.tier, dir.id) {
            (Some(tier), Some(id)) => format!("{tier} {id:032x}"),
            (Some(tier), None) => format!("{tier}, no identity"),
            (None, _) => "empty".to_string(),
        };
        let (path, segments, records) =
            (dir.path.display(), number(dir.segments, "segment"), number(dir.records, "record"));
        writeln!(out, "{path} ({who}): {segments}, {records}, {}", size(dir.bytes))?;
        // What is said of one file stands together.
        let mut findings: Vec<&Finding> = dir.findings.iter().collect();
        findings.sort_by_key(|finding| (finding.what.severity(), &finding.name));
        findings.into_iter().try_for_each(|finding| print_finding(finding, notes, out))
    }

    fn print_copies(&self, out: &mut dyn Write) -> io::Result<()> {
        for (stores, records) in &self.by_stores {
            let on = if *stores == 1 { "1 store".to_string() } else { format!("{stores} stores") };
            writeln!(out, "{} on {on}", number(*records, "record"))?;
        }
        if self.waiting.0 > 0 {
            writeln!(out, "{} in the ingest tier and on no store yet", number(self.waiting.0, "record"))?;
        }
        if self.waiting.1 > 0 {
            writeln!(out, "{} on stores and still in the ingest tier too", number(self.waiting.1, "record"))?;
        }
        if self.trashed > 0 {
            writeln!(out, "{} in the trash only", number(self.trashed, "record"))?;
        }
        let streams = number(self.streams, "stream");
        match self.missing {
            0 => writeln!(out, "no counter is missing between two of the same stream, of {streams}"),
            missing => {
                writeln!(out, "{} missing between two of the same stream, of {streams}", number(missing, "counter"))
            }
        }
    }
}

fn print_finding(finding: &Finding, notes: bool, out: &mut dyn Write) -> io::Result<()> {
    let severity = match finding.what.severity() {
        Severity::Problem => "problem",
        Severity::Note if notes => "note",
        Severity::Note => return Ok(()),
    };
    let name = if finding.name.is_empty() { String::new() } else { format!("{}: ", shown(&finding.name)) };
    writeln!(out, "  {severity}: {name}{}", finding.what)
}

/// A file's name without what a terminal would obey.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn number(count: u64, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// An amount of bytes to three digits or so, in thousands as disks are sold.
pub fn size(bytes: Bytes) -> String {
    let units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let of =
        |(unit, size): &(&str, f64)| (bytes.0 as f64 >= *size).then(|| format!("{:.1} {unit}", bytes.0 as f64 / size));
    units.iter().find_map(of).unwrap_or_else(|| format!("{} bytes", bytes.0))
}
