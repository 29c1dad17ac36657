//! Log files to send: real ones where there are any, generated ones otherwise.

use oklog::world::entropy::Dice;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// One file, whole.
#[derive(Clone)]
pub struct LogFile {
    pub name: String,
    pub bytes: Vec<u8>,
}

impl LogFile {
    /// The lines it holds, each with an LF, also the last.
    pub fn lines(&self) -> Vec<u8> {
        let mut lines = self.bytes.clone();
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            lines.push(b'\n');
        }
        lines
    }
}

/// The files to test with, read once.
pub fn files() -> &'static [LogFile] {
    static FILES: OnceLock<Vec<LogFile>> = OnceLock::new();
    FILES.get_or_init(|| {
        let (dir, files) = read_real();
        if files.is_empty() {
            println!("no real logs in {}: these tests run with generated lines", dir.display());
            return generated();
        }
        files
    })
}

/// All files after each other, as they come back when they were sent one after another.
pub fn all_lines() -> Vec<u8> {
    files().iter().flat_map(LogFile::lines).collect()
}

/// Where real logs are looked for: `OKLOG_TEST_DATA`, else beside the repository.
fn read_real() -> (PathBuf, Vec<LogFile>) {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/loghub");
    let dir = std::env::var_os("OKLOG_TEST_DATA").map_or(beside, PathBuf::from);
    let mut files: Vec<LogFile> = std::fs::read_dir(&dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .map(|path| {
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            LogFile { name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(), bytes }
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    (dir, files)
}

/// Eight files as different as real ones: with CRLF and without, with a last LF and without, with bytes that are no UTF-8.
fn generated() -> Vec<LogFile> {
    let mut dice = Dice::new(2026);
    let file = |number: u64| {
        let mut bytes = lines(&mut dice, 1_500 + 100 * number, if number.is_multiple_of(2) { b"\r\n" } else { b"\n" });
        match number % 3 {
            0 => bytes.truncate(bytes.len() - 2),
            1 => bytes.extend_from_slice(b"\xff\xfe not UTF-8 \x80\n"),
            _ => {}
        }
        LogFile { name: format!("generated {number}"), bytes }
    };
    (0..8).map(file).collect()
}

fn lines(dice: &mut Dice, count: u64, ending: &[u8]) -> Vec<u8> {
    let words =
        ["error", "ERROR", "[warn]", "sshd[24200]:", "Failed", "user=root", "10.0.3.7", "(took", "ms)", "a.b*c"];
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend_from_slice(
            format!("Jun 14 15:{:02}:{:02} line {number}", number / 60 % 60, number % 60).as_bytes(),
        );
        for _ in 0..dice.below(12) {
            bytes.push(b' ');
            bytes.extend_from_slice(words[dice.below(words.len() as u64) as usize].as_bytes());
        }
        bytes.extend_from_slice(ending);
    }
    bytes
}

/// `count` lines that say which they are, after a prefix.
pub fn numbered(prefix: &str, count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| format!("{prefix} {number}\n").into_bytes()).collect()
}

/// Fails the test, naming the first difference, unless both are the same lines.
pub fn assert_same_lines(got: &[u8], expected: &[u8], what: &str) {
    if got == expected {
        return;
    }
    let (mut got_lines, mut expected_lines) = (got.split(|&b| b == b'\n'), expected.split(|&b| b == b'\n'));
    for number in 1.. {
        let (got_line, expected_line) = (got_lines.next(), expected_lines.next());
        if got_line != expected_line {
            let show = |line: Option<&[u8]>| {
                line.map_or("nothing".into(), |line| {
                    format!("{:?}", String::from_utf8_lossy(&line[..line.len().min(200)]))
                })
            };
            panic!(
                "{what}: {} bytes came, {} expected; they differ first in line {number}: got {}, expected {}",
                got.len(),
                expected.len(),
                show(got_line),
                show(expected_line)
            );
        }
    }
}
