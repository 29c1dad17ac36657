//! The lines that are sent: made once a run, from seed 1.

use crate::Outcome;
use crate::options::Options;
use crate::place::Place;
use crate::tools::Tools;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file of lines.
#[derive(Clone, Debug)]
pub struct Corpus {
    pub path: PathBuf,
    pub bytes: u64,
    pub lines: u64,
    /// Where its real lines come from.
    pub says: String,
}

impl Corpus {
    /// The one that was given, or a new one.
    pub fn get(options: &Options, tools: &Tools, place: &Place) -> Outcome<Corpus> {
        match &options.corpus {
            Some(path) => Corpus::count(path.clone(), format!("{} as it is", path.display())),
            None => Corpus::make(tools, place, "corpus.log", options.size),
        }
    }

    /// Makes one of a size. A larger one begins with the lines of a smaller one.
    pub fn make(tools: &Tools, place: &Place, name: &str, size: u64) -> Outcome<Corpus> {
        let path = place.path(name);
        let templates = templates();
        let mut command = Command::new(&tools.gen_corpus);
        command.args(["--seed", "1", "--bytes", &size.to_string()]).stdout(File::create(&path)?);
        let says = match &templates {
            Some(dir) => format!("seed 1, templates {}", dir.display()),
            None => "seed 1, built-in templates".to_string(),
        };
        if let Some(dir) = &templates {
            command.arg("--templates").arg(dir);
        }
        let said = command.output()?;
        if !said.status.success() {
            return Err(format!("the corpus: {}", String::from_utf8_lossy(&said.stderr)).into());
        }
        // What is still on its way to the disk would disturb what is measured next.
        File::open(&path)?.sync_all()?;
        Corpus::count(path, says)
    }

    fn count(path: PathBuf, says: String) -> Outcome<Corpus> {
        let (mut input, mut block) = (File::open(&path)?, vec![0; 1 << 20]);
        let (mut bytes, mut lines) = (0, 0);
        loop {
            let len = input.read(&mut block)?;
            if len == 0 {
                return Ok(Corpus { path, bytes, lines, says });
            }
            bytes += len as u64;
            lines += memchr_count(&block[..len]);
        }
    }

    /// MB of it.
    pub fn mb(&self) -> f64 {
        self.bytes as f64 / 1e6
    }

    /// GB of it.
    pub fn gb(&self) -> f64 {
        self.bytes as f64 / 1e9
    }

    /// The same lines in so many files of about one size, in a directory.
    pub fn cut(&self, dir: &Path, parts: u64) -> Outcome<Vec<PathBuf>> {
        let mut input = BufReader::with_capacity(1 << 20, File::open(&self.path)?);
        let mut paths = Vec::new();
        for part in 0..parts {
            let path = dir.join(format!("part-{part:02}.log"));
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&path)?);
            let share = self.bytes * (part + 1) / parts - self.bytes * part / parts;
            std::io::copy(&mut (&mut input).take(share), &mut out)?;
            let mut rest = Vec::new();
            std::io::BufRead::read_until(&mut input, b'\n', &mut rest)?;
            out.write_all(&rest)?;
            out.into_inner().map_err(|e| e.into_error())?.sync_all()?;
            paths.push(path);
        }
        Ok(paths)
    }
}

fn memchr_count(block: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', block).count() as u64
}

/// Real log files, where the generator finds some: in `OKLOG_TEST_DATA`, or beside the repository.
fn templates() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loghub");
    let dir = std::env::var_os("OKLOG_TEST_DATA").map_or(beside, PathBuf::from);
    holds_templates(&dir).then_some(dir)
}

fn holds_templates(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| if path.is_dir() { holds_templates(&path) } else { path.to_string_lossy().ends_with("_2k.log") })
}
