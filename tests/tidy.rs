//! Keeps the habits of the code true: lengths, what each room may name, what a panic may come from.
//!
//! Reads the sources as text. What stands in comments, in strings and in `#[cfg(test)]` parts does not count.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may panic, its helpers too

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a file of `src` may have, its tests included. Only tightens.
const LONGEST_FILE: usize = 600;
/// Lines a function of `src` may have from its signature to its closing brace, tests aside. Only tightens.
const LONGEST_FUNCTION: usize = 80;

/// One source file, and the same without comments, strings and tests.
struct Source {
    path: PathBuf,
    text: String,
    code: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    collect(&root().join("src"), &mut paths);
    paths.sort();
    paths.into_iter().map(Source::read).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.path().is_dir() {
            collect(&entry.path(), paths);
        } else if entry.path().extension().is_some_and(|extension| extension == "rs") {
            paths.push(entry.path());
        }
    }
}

impl Source {
    fn read(path: PathBuf) -> Source {
        let text = fs::read_to_string(&path).unwrap();
        let path = path.strip_prefix(root()).unwrap().to_path_buf();
        let code = if is_test_file(&path) { Vec::new() } else { without_tests(&bare(&text)) };
        Source { path, text, code }
    }

    fn is_in(&self, room: &str) -> bool {
        self.path.starts_with(Path::new("src").join(room))
    }

    /// The places, as `path:line: text`, of code lines in which one of these stands.
    fn lines_with(&self, wanted: &[&str]) -> Vec<String> {
        let hits = self.code.iter().enumerate().filter(|(_, line)| wanted.iter().any(|word| line.contains(word)));
        hits.map(|(number, line)| format!("{}:{}: {}", self.path.display(), number + 1, line.trim())).collect()
    }
}

/// Files that hold nothing but tests: `tests.rs` and `something_tests.rs`.
fn is_test_file(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests") || path.components().any(|part| part.as_os_str() == "tests")
}

/// The text with comments and the contents of strings and characters blanked out; lines stay where they are.
fn bare(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = token_end(bytes, at);
        if end == at + 1 {
            out.push(bytes[at]);
        } else {
            out.extend(bytes[at..end].iter().map(|&b| if b == b'\n' { b'\n' } else { b' ' }));
        }
        at = end;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Where the comment, string or character that starts at `at` ends; one byte further if there is none.
fn token_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |pattern: &[u8], from: usize| {
        let found = rest.get(from..).and_then(|rest| rest.windows(pattern.len()).position(|window| window == pattern));
        found.map_or(bytes.len(), |found| at + from + found + pattern.len())
    };
    let in_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return find(b"\n", 0) - usize::from(find(b"\n", 0) < bytes.len());
    }
    if rest.starts_with(b"/*") {
        return find(b"*/", 2);
    }
    let raw = if rest.starts_with(b"r") && !in_word { 1 } else { usize::from(rest.starts_with(b"br") && !in_word) * 2 };
    if raw > 0 {
        let hashes = rest[raw..].iter().take_while(|&&b| b == b'#').count();
        if rest.get(raw + hashes) == Some(&b'"') {
            let closing = [&b"\""[..], &b"#".repeat(hashes)].concat();
            return find(&closing, raw + hashes + 1);
        }
    }
    match rest {
        [b'"', ..] => quoted_end(bytes, at, b'"'),
        [b'\'', b'\\', ..] => quoted_end(bytes, at, b'\''),
        [b'\'', _, b'\'', ..] => at + 3,
        _ => at + 1,
    }
}

fn quoted_end(bytes: &[u8], at: usize, quote: u8) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// The lines, with every item under `#[cfg(test)]` blanked out.
fn without_tests(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
    let mut number = 0;
    while number < lines.len() {
        if !lines[number].trim_start().starts_with("#[cfg(test)]") {
            number += 1;
            continue;
        }
        let end = item_end(&lines, number);
        lines[number..=end].iter_mut().for_each(String::clear);
        number = end + 1;
    }
    lines
}

/// The last line of the item that starts at `start`: where its braces close, or its semicolon.
fn item_end(lines: &[String], start: usize) -> usize {
    let mut depth = 0i32;
    for (number, line) in lines.iter().enumerate().skip(start) {
        for byte in line.bytes() {
            depth += match byte {
                b'{' | b'(' | b'[' => 1,
                b'}' | b')' | b']' => -1,
                _ => 0,
            };
            if depth == 0 && (byte == b'}' || byte == b';') {
                return number;
            }
        }
    }
    lines.len() - 1
}

fn assert_none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

#[test]
fn files_are_short_enough_to_be_read_at_once() {
    let long = sources().into_iter().filter(|source| source.text.lines().count() > LONGEST_FILE);
    let long = long.map(|source| format!("{}: {} lines", source.path.display(), source.text.lines().count()));
    assert_none(long.collect(), &format!("longer than {LONGEST_FILE} lines"));
}

#[test]
fn functions_are_short_enough_to_be_read_at_once() {
    let mut long = Vec::new();
    for source in sources() {
        for (number, line) in source.code.iter().enumerate() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_function = words.iter().take_while(|word| **word != "fn").all(|word| {
                word.starts_with("pub") || ["const", "async", "extern", "in", "crate)", "super)"].contains(word)
            }) && words.contains(&"fn");
            let lines = if is_function { item_end(&source.code, number) - number + 1 } else { 0 };
            if lines > LONGEST_FUNCTION {
                long.push(format!("{}:{}: {lines} lines", source.path.display(), number + 1));
            }
        }
    }
    assert_none(long, &format!("longer than {LONGEST_FUNCTION} lines"));
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent = sources().into_iter().filter(|source| !is_test_file(&source.path) && !source.text.starts_with("//! "));
    assert_none(silent.map(|source| source.path.display().to_string()).collect(), "does not begin with //!");
}

#[test]
fn only_the_world_room_starts_threads_reads_clocks_and_names_files() {
    let words = [
        "thread::spawn",
        "thread::Builder",
        "Builder::new().spawn",
        "thread::scope",
        "thread::sleep",
        "Instant::now",
        "SystemTime::now",
        "std::fs",
        "fs::File::",
        "fs::read",
        "fs::write",
        "OpenOptions",
    ];
    let found =
        sources().into_iter().filter(|source| !source.is_in("world")).flat_map(|source| source.lines_with(&words));
    assert_none(found.collect(), "only src/world may name this");
}

#[test]
fn nothing_outside_tests_unwraps_or_expects() {
    let words = [".unwrap()", ".expect(", ".unwrap_err()", "panic!(", "todo!(", "unimplemented!(", "dbg!("];
    assert_none(sources().iter().flat_map(|source| source.lines_with(&words)).collect(), "outside tests");
}

#[test]
fn the_two_tiers_meet_on_the_wire_alone() {
    let crossing = sources().into_iter().flat_map(|source| match () {
        () if source.is_in("ingest") => source.lines_with(&["crate::store", "store::log", "store::catalogue"]),
        () if source.is_in("store") => source.lines_with(&["crate::ingest", "ingest::log", "ingest::connection"]),
        () => Vec::new(),
    });
    assert_none(crossing.collect(), "ingest and store do not import each other");
}

#[test]
fn nothing_reads_the_room_of_the_commands_but_main() {
    let others = sources().into_iter().filter(|source| !source.is_in("cli") && source.path != Path::new("src/main.rs"));
    assert_none(
        others.flat_map(|source| source.lines_with(&["crate::cli", "oklog::cli"])).collect(),
        "cli is the outermost room",
    );
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    let allowed = BTreeSet::from([
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "benches",
        "scripts",
        "man",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE",
    ]);
    // What is made here, by building and by running a node, is in .gitignore.
    let made = BTreeSet::from(["target", "data"]);
    let names = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let strange = names.filter(|name| {
        let name = name.as_str();
        !name.starts_with('.') && !allowed.contains(name) && !made.contains(name)
    });
    assert_none(strange.collect(), "does not belong at the top level");
}

#[test]
fn comments_strings_and_tests_are_told_from_code() {
    let text = "fn a() { \"x.unwrap()\"; } // .unwrap()\n#[cfg(test)]\nmod tests {\n  fn b() { c.unwrap() }\n}\nlet d = '\"'; e.unwrap();\n";
    let lines = without_tests(&bare(text));
    let with: Vec<usize> = (0..lines.len()).filter(|&number| lines[number].contains(".unwrap()")).collect();
    assert_eq!(with, [5]);
    assert_eq!(bare("r#\"a\"b\"# c"), format!("{:9}c", ""));
}
