//! From argv to the flags of one command, or to one sentence on why not.
//!
//! Go's style and GNU's are both read: `-store.path x`, `-store.path=x`, `--store.path=x`; `-debug`, `-debug=false`. Of a
//! flag that is given twice the last one wins, unless it collects. The first operand ends the flags, as `--` does. Reading
//! stops at the first fault. Arguments must be UTF-8.

use super::address::Address;
use super::flags::{self, COMMANDS, Command, Flag, Kind};
use crate::record::id::Id;
use crate::unit::{Bytes, parse_duration, parse_rfc3339, parse_size, show_duration};
use getopts::{Fail, HasArg, Matches, Occur, Options, ParsingStyle};
use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

/// A value is shown up to this many characters in a refusal: enough to recognize it.
const SHOWN_LEN: usize = 120;

/// Why the arguments cannot be acted on. `Display` is one sentence that names the flag and the value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// Not a single argument.
    NoCommand,
    /// No command of this name.
    UnknownCommand {
        /// As it was given.
        given: String,
        /// The one that was probably meant.
        near: Option<&'static str>,
    },
    /// An argument is not UTF-8.
    NotText {
        /// As nearly as it can be shown.
        given: String,
    },
    /// The command has no such flag.
    UnknownFlag {
        /// The command.
        command: &'static str,
        /// As it was given, without dashes.
        given: String,
        /// The one that was probably meant.
        near: Option<&'static str>,
    },
    /// The last argument is a flag that takes a value.
    NoValue {
        /// The command.
        command: &'static str,
        /// The flag.
        flag: String,
    },
    /// A value that the flag does not take.
    BadValue {
        /// The command.
        command: &'static str,
        /// The flag.
        flag: &'static str,
        /// As it was given.
        value: String,
        /// What would do.
        expected: String,
    },
    /// Fewer operands than the command needs.
    NoOperand {
        /// The command.
        command: &'static str,
        /// What is missing.
        name: &'static str,
    },
    /// More operands than the command takes.
    ExtraOperand {
        /// The command.
        command: &'static str,
        /// The first that is too much.
        given: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NoCommand => write!(f, "oklog: no command given, see 'oklog help'"),
            Refusal::UnknownCommand { given, near: Some(near) } => {
                write!(f, "oklog: unknown command {}, did you mean {near}?", show(given))
            }
            Refusal::UnknownCommand { given, near: None } => {
                write!(f, "oklog: unknown command {}, see 'oklog help'", show(given))
            }
            Refusal::NotText { given } => write!(f, "oklog: the argument {} is not valid UTF-8", show(given)),
            Refusal::UnknownFlag { command, given, near: Some(near) } => {
                write!(f, "oklog {command}: unknown flag {}, did you mean -{near}?", show(&format!("-{given}")))
            }
            Refusal::UnknownFlag { command, given, near: None } => {
                write!(f, "oklog {command}: unknown flag {}, see 'oklog help {command}'", show(&format!("-{given}")))
            }
            Refusal::NoValue { command, flag } => write!(f, "oklog {command}: the flag -{flag} needs a value"),
            Refusal::BadValue { command, flag, value, expected } => {
                write!(f, "oklog {command}: bad value {} for -{flag}, expected {expected}", show(value))
            }
            Refusal::NoOperand { command, name } => {
                write!(f, "oklog {command}: no {name} given, see 'oklog help {command}'")
            }
            Refusal::ExtraOperand { command, given } => {
                write!(f, "oklog {command}: unexpected operand {}, flags come before operands", show(given))
            }
        }
    }
}

impl std::error::Error for Refusal {}

/// Quotes what a person typed: control characters escaped, cut to [`SHOWN_LEN`].
fn show(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_LEN).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    format!("{shown:?}")
}

/// All arguments as text.
pub fn as_text(args: Vec<OsString>) -> Result<Vec<String>, Refusal> {
    let text =
        |arg: OsString| arg.into_string().map_err(|arg| Refusal::NotText { given: arg.to_string_lossy().into_owned() });
    args.into_iter().map(text).collect()
}

/// The command of this name, or a refusal that suggests one.
pub fn command(name: &str) -> Result<&'static Command, Refusal> {
    Command::find(name).ok_or_else(|| Refusal::UnknownCommand {
        given: name.to_string(),
        near: nearest(name, COMMANDS.iter().map(|command| command.name)),
    })
}

/// The flags and operands that one command was given.
pub struct Given {
    command: &'static Command,
    matches: Matches,
}

impl Given {
    /// Reads the arguments after the command's name. Values are judged when they are asked for.
    pub fn read(command: &'static Command, args: &[String]) -> Result<Given, Refusal> {
        let mut options = Options::new();
        options.long_only(true).parsing_style(ParsingStyle::StopAtFirstFree);
        for flag in command.flags() {
            let has_arg = if flag.kind == Kind::Switch { HasArg::Maybe } else { HasArg::Yes };
            let (short, long) = match flag.name {
                name if name == flags::HELP.name => ("h", name),
                name if name.len() == 1 => (name, ""),
                name => ("", name),
            };
            options.opt(short, long, flag.help, flag.value, has_arg, Occur::Multi);
        }
        let matches = options.parse(args).map_err(|fail| match fail {
            Fail::ArgumentMissing(flag) => Refusal::NoValue { command: command.name, flag },
            Fail::UnrecognizedOption(given)
            | Fail::OptionMissing(given)
            | Fail::OptionDuplicated(given)
            | Fail::UnexpectedArgument(given) => Refusal::UnknownFlag {
                near: nearest(&given, command.flags().map(|flag| flag.name)),
                command: command.name,
                given,
            },
        })?;
        Ok(Given { command, matches })
    }

    /// The command they were given to.
    pub fn command(&self) -> &'static Command {
        self.command
    }

    /// The operands, if there are as many as the command takes.
    pub fn operands(&self) -> Result<&[String], Refusal> {
        let (command, takes) = (self.command.name, self.command.operands);
        match self.matches.free.get(takes.most) {
            Some(given) => Err(Refusal::ExtraOperand { command, given: given.clone() }),
            None if self.matches.free.len() < takes.least => Err(Refusal::NoOperand { command, name: takes.name }),
            None => Ok(&self.matches.free),
        }
    }

    /// Whether the flag was given at all.
    pub fn is_set(&self, flag: &Flag) -> bool {
        self.matches.opt_defined(flag.name) && self.matches.opt_present(flag.name)
    }

    /// Every value that was given, in order.
    fn values(&self, flag: &Flag) -> Vec<String> {
        debug_assert!(self.matches.opt_defined(flag.name), "{} has no flag -{}", self.command.name, flag.name);
        if self.matches.opt_defined(flag.name) { self.matches.opt_strs(flag.name) } else { Vec::new() }
    }

    /// The value that counts: the last one given, else the default.
    fn value(&self, flag: &Flag) -> Option<String> {
        self.values(flag).pop().or_else(|| flag.default.map(str::to_string))
    }

    fn bad(&self, flag: &Flag, value: &str, expected: String) -> Refusal {
        Refusal::BadValue { command: self.command.name, flag: flag.name, value: value.to_string(), expected }
    }

    /// Whether a switch is on.
    pub fn switch(&self, flag: &Flag) -> Result<bool, Refusal> {
        if !self.is_set(flag) {
            return Ok(flag.default == Some("true"));
        }
        let last = self.matches.opt_positions(flag.name).into_iter().max();
        let valued = self.matches.opt_strs_pos(flag.name).into_iter().rfind(|(at, _)| Some(*at) == last);
        match valued.as_ref().map(|(_, text)| text.as_str()) {
            // The words of Go's strconv.ParseBool.
            None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(self.bad(flag, other, "true or false".into())),
        }
    }

    /// A text; empty when it is neither given nor has a default.
    pub fn text(&self, flag: &Flag) -> String {
        self.value(flag).unwrap_or_default()
    }

    /// All texts of a flag that collects.
    pub fn texts(&self, flag: &Flag) -> Vec<String> {
        self.values(flag)
    }

    /// A path, a word of a choice, or a point in time: text that was judged.
    pub fn judged(&self, flag: &Flag) -> Result<String, Refusal> {
        let value = self.text(flag);
        judge(flag, &value).map_err(|expected| self.bad(flag, &value, expected))?;
        Ok(value)
    }

    /// An address; `None` when it is neither given nor has a default.
    pub fn address(&self, flag: &Flag) -> Result<Option<Address>, Refusal> {
        self.address_or(flag, None)
    }

    /// An address, with another port than the flag's own where it names none.
    pub fn address_or(&self, flag: &Flag, port: Option<u16>) -> Result<Option<Address>, Refusal> {
        self.value(flag).map(|value| self.read_address(flag, &value, port)).transpose()
    }

    /// All addresses of a flag that collects.
    pub fn addresses(&self, flag: &Flag) -> Result<Vec<Address>, Refusal> {
        self.values(flag).iter().map(|value| self.read_address(flag, value, None)).collect()
    }

    fn read_address(&self, flag: &Flag, value: &str, port: Option<u16>) -> Result<Address, Refusal> {
        let Kind::Address(used, default_port) = flag.kind else {
            return Err(self.bad(flag, value, "no address".into()));
        };
        let read = Address::parse(value, used, port.unwrap_or(default_port));
        read.map_err(|expected| self.bad(flag, value, expected.to_string()))
    }

    /// A span of time.
    pub fn duration(&self, flag: &Flag) -> Result<Duration, Refusal> {
        let value = self.text(flag);
        judge(flag, &value)
            .and_then(|()| parse_duration(&value).map_err(|expected| expected.to_string()))
            .map_err(|expected| self.bad(flag, &value, expected))
    }

    /// An amount of bytes; `None` when it is neither given nor has a default.
    pub fn size(&self, flag: &Flag) -> Result<Option<Bytes>, Refusal> {
        let read =
            |value: &str| judge(flag, value).and_then(|()| parse_size(value).map_err(|expected| expected.to_string()));
        self.value(flag).map(|value| read(&value).map_err(|expected| self.bad(flag, &value, expected))).transpose()
    }

    /// A whole number; `None` when it is neither given nor has a default.
    pub fn count(&self, flag: &Flag) -> Result<Option<u64>, Refusal> {
        let read =
            |value: &str| judge(flag, value).and_then(|()| value.parse().map_err(|_| "a whole number".to_string()));
        self.value(flag).map(|value| read(&value).map_err(|expected| self.bad(flag, &value, expected))).transpose()
    }
}

/// Whether a flag takes this value; the error says what it takes.
pub fn judge(flag: &Flag, value: &str) -> Result<(), String> {
    match flag.kind {
        Kind::Switch | Kind::Text => Ok(()),
        Kind::Path if value.is_empty() || value.contains('\0') => Err("a path".into()),
        Kind::Path => Ok(()),
        Kind::Choice(words) if words.contains(&value) => Ok(()),
        Kind::Choice(words) => Err(words.join(" or ")),
        Kind::Address(used, port) => Address::parse(value, used, port).map(drop).map_err(|e| e.to_string()),
        Kind::Time if is_time(value) => Ok(()),
        Kind::Time => Err("a time such as 2026-11-23T09:30:00Z, how long ago such as 15m, an id, or now".into()),
        Kind::Duration(least) => match parse_duration(value) {
            Ok(span) if span < least => Err(format!("at least {}", show_duration(least))),
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        },
        Kind::Size(least, most) => match parse_size(value) {
            Ok(size) => in_bounds(size.0, least, most),
            Err(e) => Err(e.to_string()),
        },
        Kind::Count(least, most) => {
            let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
            match value.parse() {
                Ok(count) if plain => in_bounds(count, least, most),
                _ => Err("a whole number".into()),
            }
        }
    }
}

fn in_bounds(value: u64, least: u64, most: u64) -> Result<(), String> {
    match (value < least, value > most, most == u64::MAX) {
        (false, false, _) => Ok(()),
        (_, _, true) => Err(format!("at least {least}")),
        _ => Err(format!("{least} to {most}")),
    }
}

fn is_time(text: &str) -> bool {
    let ago = text.strip_prefix('-').unwrap_or(text);
    text == "now" || parse_duration(ago).is_ok() || parse_rfc3339(text).is_ok() || Id::parse_lenient(text).is_some()
}

/// The name that was probably meant: one within a third of its length in edits, or one that continues what was typed.
fn nearest(given: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let given: Vec<u8> = given.trim_start_matches('-').bytes().take(64).collect();
    if given.len() < 2 {
        return None;
    }
    let far = |name: &str| match name.strip_prefix(std::str::from_utf8(&given).unwrap_or("\0")) {
        Some(_) => 1,
        None => distance(&given, name.as_bytes()),
    };
    let judged = names.map(|name| (far(name), name)).filter(|(far, name)| *far <= name.len().div_ceil(3));
    judged.min_by_key(|(far, name)| (*far, name.len())).map(|(_, name)| name)
}

/// How many bytes must be put in, taken out or changed to make one from the other (V. Levenshtein, 1965).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let above = *cell;
            *cell = (diagonal + usize::from(x != y)).min(left + 1).min(above + 1);
            (diagonal, left) = (above, *cell);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
