//! What was asked for on the command line.

use crate::Outcome;
use std::path::PathBuf;

/// Below this size spans of time and counts are cut down too: it is then about whether the cases work.
const BRIEF_BELOW: u64 = 256 << 20;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Cases, or beginnings of their names up to a hyphen; all that are not told to wait for being asked when empty.
    pub names: Vec<String>,
    /// Bytes of the corpus.
    pub size: u64,
    /// How many pairs are measured, where it was said.
    runs: Option<usize>,
    /// Also what takes long: 4 and 8 times the size.
    pub large: bool,
    /// Fail when a ratio is worse than its floor.
    pub check: bool,
    /// Only say which cases there are.
    pub list: bool,
    /// The `oklog` that is measured.
    pub binary: PathBuf,
    /// A corpus that is there already, in place of one that is made.
    pub corpus: Option<PathBuf>,
    /// The file of floors.
    pub floors: PathBuf,
    /// Where directories are made.
    pub dir: PathBuf,
}

impl Options {
    /// Reads the arguments. Without `--bench`, which `cargo bench` gives, only the list is printed.
    pub fn parse(args: &[String]) -> Outcome<Options> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let mut options = Options {
            names: Vec::new(),
            size: 1 << 30,
            runs: None,
            large: false,
            check: false,
            list: args.is_empty(),
            binary: env!("CARGO_BIN_EXE_oklog").into(),
            corpus: None,
            floors: root.join("scripts/bench-floors"),
            dir: std::env::var_os("OKLOG_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--size" => options.size = size(value()?)?,
                "--runs" => options.runs = Some(value()?.parse::<usize>().map_err(|_| "--runs needs a number")?.max(1)),
                "--large" => options.large = true,
                "--check" => options.check = true,
                "--list" => options.list = true,
                "--binary" => options.binary = value()?.into(),
                "--corpus" => options.corpus = Some(value()?.into()),
                "--floors" => options.floors = value()?.into(),
                name if !name.starts_with('-') => options.names.push(name.to_string()),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        if let Some(corpus) = &options.corpus {
            options.size = std::fs::metadata(corpus).map_err(|e| format!("{}: {e}", corpus.display()))?.len();
        }
        if options.size < 1 << 20 {
            return Err("--size must be at least 1M".into());
        }
        Ok(options)
    }

    /// How many pairs of a case that takes a second or two.
    pub fn runs(&self) -> usize {
        self.runs.unwrap_or(5)
    }

    /// How many pairs of a case that takes longer.
    pub fn long_runs(&self) -> usize {
        self.runs.unwrap_or(3)
    }

    /// How many of what takes milliseconds, for a quantile.
    pub fn many(&self, usual: usize) -> usize {
        if self.is_brief() { usual / 10 } else { usual }
    }

    /// How long something that takes its time is watched.
    pub fn seconds(&self, usual: u64) -> u64 {
        if self.is_brief() { (usual / 10).max(2) } else { usual }
    }

    /// Whether spans and counts are cut down to a tenth.
    pub fn is_brief(&self) -> bool {
        self.size < BRIEF_BELOW
    }
}

/// A number of bytes with K, M or G behind it, or none.
fn size(text: &str) -> Outcome<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        _ => (text, 0),
    };
    let number = digits.parse::<u64>().ok().filter(|number| *number <= 1 << 20 || shift == 0);
    Ok(number.ok_or_else(|| format!("{text:?} is not a size such as 64M or 1G"))? << shift)
}
