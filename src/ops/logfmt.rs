//! The log of servers and of the forwarder: logfmt on standard error, behind the `log` facade.
//!
//! ```text
//! ts=2026-11-23T09:30:00.250Z level=info room=ingest msg="listening" port=7651
//! ```
//!
//! One line is one write, so lines of several threads do not mix. Under journald there is no `ts`: it adds its own. What
//! was said too often at one place is held back and counted: after [`SAME_LIMIT`] equal texts, or [`SITE_LIMIT`] texts of
//! any kind, in [`WINDOW`]; the count follows as `repeated=` once the window is over. A text is cut at [`TEXT_LIMIT`].
//!
//! A logger never ends the thread that calls it, also when standard error is gone. It does wait when standard error is a
//! pipe that nobody empties: a server whose log cannot be written is stopped by that, as it would be by any other disk.

use crate::unit::{Monotonic, UnixMillis};
use crate::world::clock::Clock;
use crate::world::crew::lock;
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long one place's messages are counted together.
pub const WINDOW: Duration = Duration::from_secs(10);

/// Equal texts from one place that are printed within a window.
pub const SAME_LIMIT: u32 = 10;

/// Texts of any kind from one place that are printed within a window: a text with a peer's address in it is never the
/// same twice.
pub const SITE_LIMIT: usize = 200;

/// Bytes of one text or value that are printed.
pub const TEXT_LIMIT: usize = 8 << 10;

/// Other people's crates that speak of every byte: from these, warnings and errors only.
const CHATTY: [&str; 4] = ["ureq", "ureq_proto", "tiny_http", "rustls"];

/// Makes this the process's logger. An error means that there is one already.
pub fn start(clock: Arc<dyn Clock>, debug: bool) -> Result<(), log::SetLoggerError> {
    let level = if debug { LevelFilter::Debug } else { LevelFilter::Info };
    let logger = Logger { clock, level, stamped: !stderr_is_the_journal(), repeats: Mutex::default() };
    log::set_boxed_logger(Box::new(logger))?;
    log::set_max_level(level);
    Ok(())
}

/// Whether standard error goes to journald by itself (systemd.exec(5), `JOURNAL_STREAM`).
fn stderr_is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    match rustix::fs::fstat(std::io::stderr()) {
        Ok(stat) => is_journal(&named, stat.st_dev, stat.st_ino),
        Err(_) => false,
    }
}

/// Whether `DEVICE:INODE`, both decimal, names this file. A process inherits the variable also when it writes elsewhere.
fn is_journal(named: &str, device: u64, inode: u64) -> bool {
    let Some((dev, ino)) = named.split_once(':') else { return false };
    dev.parse() == Ok(device) && ino.parse() == Ok(inode)
}

struct Logger {
    clock: Arc<dyn Clock>,
    level: LevelFilter,
    stamped: bool,
    repeats: Mutex<Repeats>,
}

impl Logger {
    fn print(&self, level: Level, room: &str, text: &str, pairs: &[(String, String)]) {
        let at = self.stamped.then(|| self.clock.unix_millis());
        // Standard error is gone or full: there is no other place to say so.
        let _ = std::io::stderr().write_all(line(at, level, room, text, pairs).as_bytes());
    }

    fn print_held_back(&self, over: Vec<HeldBack>) {
        for held in over {
            let repeated = [("repeated".to_string(), held.count.to_string())];
            self.print(held.level, &held.room, &held.text, &repeated);
        }
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let root = metadata.target().split("::").next().unwrap_or_default();
        let limit = if CHATTY.contains(&root) { LevelFilter::Warn.min(self.level) } else { self.level };
        metadata.level() <= limit
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (room, text) = (room(record.target()), record.args().to_string());
        let site =
            Site { file: record.file().unwrap_or_default().to_string(), line: record.line().unwrap_or_default() };
        let now = self.clock.now();
        let (over, admitted) = {
            let mut repeats = lock(&self.repeats);
            (repeats.over(now), repeats.admit(now, site, record.level(), room, &text))
        };
        self.print_held_back(over);
        if admitted {
            self.print(record.level(), room, &text, &pairs_of(record));
        }
    }

    /// Says what is still held back. Called when the process ends.
    fn flush(&self) {
        let rest = lock(&self.repeats).all();
        self.print_held_back(rest);
    }
}

/// The room a target belongs to: `oklog::ingest::listener` and `ingest` are both `ingest`.
fn room(target: &str) -> &str {
    let inner = target.strip_prefix("oklog::").unwrap_or(target);
    inner.split("::").next().unwrap_or(inner)
}

fn pairs_of(record: &Record<'_>) -> Vec<(String, String)> {
    struct Collect(Vec<(String, String)>);
    impl<'kvs> log::kv::VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: log::kv::Key<'kvs>, value: log::kv::Value<'kvs>) -> Result<(), log::kv::Error> {
            self.0.push((key.to_string(), value.to_string()));
            Ok(())
        }
    }
    let mut pairs = Collect(Vec::new());
    // The visitor never refuses; a source that breaks off has given what it could.
    let _ = record.key_values().visit(&mut pairs);
    pairs.0
}

/// One line of the log, its LF included.
pub fn line(at: Option<UnixMillis>, level: Level, room: &str, text: &str, pairs: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len().min(TEXT_LIMIT) + 96);
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    };
    if let Some(at) = at {
        // Writing to a String does not fail.
        let _ = write!(out, "ts={at} ");
    }
    let _ = write!(out, "level={level} room=");
    push_value(&mut out, room);
    out.push_str(" msg=");
    push_quoted(&mut out, text);
    for (key, value) in pairs {
        out.push(' ');
        out.extend(key.chars().map(|c| if c.is_ascii_graphic() && c != '=' && c != '"' { c } else { '_' }));
        out.push('=');
        push_value(&mut out, value);
    }
    out.push('\n');
    out
}

/// A value, bare where every logfmt reader takes it as one word.
fn push_value(out: &mut String, value: &str) {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'=' | b'\\');
    if !value.is_empty() && value.len() <= TEXT_LIMIT && value.bytes().all(plain) {
        out.push_str(value);
    } else {
        push_quoted(out, value);
    }
}

/// A text in quotes, with JSON's escapes (RFC 8259, section 7). Control characters, also those of Unicode that reorder or
/// break lines, cannot reach a terminal.
fn push_quoted(out: &mut String, text: &str) {
    let front = front(text);
    out.push('"');
    for c in front.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push_str(if front.len() < text.len() { "...\"" } else { "\"" });
}

/// As many whole characters as fit into [`TEXT_LIMIT`].
fn front(text: &str) -> &str {
    let mut end = TEXT_LIMIT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// A place in the code that logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Site {
    file: String,
    line: u32,
}

/// What was not printed.
#[derive(Clone, PartialEq, Eq, Debug)]
struct HeldBack {
    level: Level,
    room: String,
    /// The last text held back at this place, cut at [`TEXT_LIMIT`].
    text: String,
    count: u64,
}

/// Counts what each place says. As large as there are places in the code, times [`SITE_LIMIT`] numbers.
#[derive(Debug, Default)]
struct Repeats {
    sites: BTreeMap<Site, Count>,
}

#[derive(Debug)]
struct Count {
    since: Monotonic,
    /// Fingerprints of what was printed, and how often.
    texts: Vec<(u64, u32)>,
    printed: usize,
    held: Option<HeldBack>,
}

impl Repeats {
    /// Whether a message may be printed; if not, it is counted.
    fn admit(&mut self, now: Monotonic, site: Site, level: Level, room: &str, text: &str) -> bool {
        let fresh = || Count { since: now, texts: Vec::new(), printed: 0, held: None };
        let count = self.sites.entry(site).or_insert_with(fresh);
        let print = fingerprint(text);
        let known = count.texts.iter().position(|(other, _)| *other == print);
        let said = known.and_then(|at| count.texts.get_mut(at));
        let often = said.as_ref().is_some_and(|(_, times)| *times >= SAME_LIMIT);
        if often || count.printed >= SITE_LIMIT {
            let before = count.held.as_ref().map_or(0, |held| held.count);
            let (room, text) = (room.to_string(), front(text).to_string());
            count.held = Some(HeldBack { level, room, text, count: before + 1 });
            return false;
        }
        count.printed += 1;
        match said {
            Some((_, times)) => *times += 1,
            None => count.texts.push((print, 1)),
        }
        true
    }

    /// Takes out the places whose window is over, and gives what they held back.
    fn over(&mut self, now: Monotonic) -> Vec<HeldBack> {
        let mut held = Vec::new();
        self.sites.retain(|_, count| {
            let over = now.since(count.since) >= WINDOW;
            if over {
                held.extend(count.held.take());
            }
            !over
        });
        held
    }

    /// Gives all that is held back, now.
    fn all(&mut self) -> Vec<HeldBack> {
        self.sites.values_mut().filter_map(|count| count.held.take()).collect()
    }
}

/// FNV-1a, 64 bits (G. Fowler, L. C. Noll, K.-P. Vo). Equal by accident: one line fewer in the log.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn site(line: u32) -> Site {
        Site { file: "a.rs".into(), line }
    }

    #[test]
    fn a_line_has_time_level_room_text_and_pairs() {
        let pairs = [("port", "7651"), ("path", "a b"), ("odd key", ""), ("q", "x=1")];
        let pairs = pairs.map(|(key, value)| (key.to_string(), value.to_string()));
        let full = line(Some(UnixMillis(250)), Level::Info, "ingest", "listening", &pairs);
        let expected = "ts=1970-01-01T00:00:00.250Z level=info room=ingest msg=\"listening\" \
                        port=7651 path=\"a b\" odd_key=\"\" q=\"x=1\"\n";
        assert_eq!(full, expected);
        assert_eq!(line(None, Level::Warn, "store", "ü", &[]), "level=warn room=store msg=\"ü\"\n");
    }

    #[test]
    fn nothing_in_a_text_can_break_the_line_or_the_terminal() {
        let text = "a\"b\\c\nd\re\tf\u{1b}[2J\u{9b}\u{2028}\u{202e}";
        let expected = r#"msg="a\"b\\c\nd\re\tf\u001b[2J\u009b\u2028\u202e""#;
        assert_eq!(line(None, Level::Info, "x", text, &[]), format!("level=info room=x {expected}\n"));
        let long = "é".repeat(TEXT_LIMIT);
        let cut = line(None, Level::Info, "x", &long, &[]);
        assert!(cut.len() < TEXT_LIMIT + 100 && cut.ends_with("é...\"\n"), "{}", cut.len());
    }

    #[test]
    fn the_room_is_the_first_word_of_the_target_within_this_crate() {
        assert_eq!(room("oklog::ingest::listener"), "ingest");
        assert_eq!(room("ingest"), "ingest");
        assert_eq!(room("ureq::pool"), "ureq");
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_journal("8:4711", 8, 4711));
        for other in ["8:4712", "9:4711", "8", "", ":", "8:4711:1", "x:4711"] {
            assert!(!is_journal(other, 8, 4711), "{other}");
        }
    }

    #[test]
    fn equal_texts_of_one_place_are_held_back_and_counted() {
        let mut repeats = Repeats::default();
        let mut say = |seconds, line, text: &str| repeats.admit(at(seconds), site(line), Level::Warn, "store", text);
        let printed = (0..25).filter(|_| say(0, 1, "disk full")).count();
        assert_eq!(printed, SAME_LIMIT as usize);
        assert!(say(1, 1, "disk empty"), "another text");
        assert!(say(1, 2, "disk full"), "another place");
        assert_eq!(repeats.over(at(9)), []);
        let held = HeldBack { level: Level::Warn, room: "store".into(), text: "disk full".into(), count: 15 };
        assert_eq!(repeats.over(at(10)), [held]);
        assert!(repeats.admit(at(10), site(1), Level::Warn, "store", "disk full"), "a new window");
    }

    #[test]
    fn a_place_whose_text_always_differs_is_bounded_too() {
        let mut repeats = Repeats::default();
        let say = |n: usize| format!("refused 10.0.0.1:{n}");
        let printed = (0..1_000).filter(|n| repeats.admit(at(0), site(1), Level::Warn, "ingest", &say(*n))).count();
        assert_eq!(printed, SITE_LIMIT);
        let held = repeats.all();
        assert_eq!(
            held.iter().map(|held| (held.count, held.text.as_str())).collect::<Vec<_>>(),
            [(800, "refused 10.0.0.1:999")]
        );
        assert_eq!(repeats.all(), []);
    }
}
