//! What `oklog help` prints: made from the flag table alone.

use super::flags::{COMMANDS, Command, Flag, Kind};
use std::fmt::Write;

/// All commands, each with its line.
pub fn overview() -> String {
    let mut out =
        String::from("usage: oklog command [flags]\n\nTakes log lines, keeps them, greps them by time range.\n\n");
    for command in COMMANDS {
        // Writing to a String does not fail.
        let _ = writeln!(out, "  {:<12} {}", command.name, command.summary);
    }
    out.push_str("\nSee 'oklog help command' for the flags of a command, oklog(1) for the manual.\n");
    out
}

/// One command and its flags.
pub fn of(command: &Command) -> String {
    let mut out = format!("usage: oklog {} [flags]", command.name);
    let operands = command.operands;
    for at in 0..operands.most.min(operands.least + 1) {
        let (open, close) = if at < operands.least { ("", "") } else { ("[", "]") };
        let more = if at >= operands.least && operands.most > at + 1 { " ..." } else { "" };
        // Writing to a String does not fail.
        let _ = write!(out, " {open}{}{more}{close}", operands.name);
    }
    let _ = write!(out, "\n\n{}.\n\n", command.summary);
    for flag in command.flags() {
        out.push_str(&entry(flag));
    }
    let (name, section) = command.page.split_once('.').unwrap_or((command.page, "1"));
    let _ = writeln!(out, "\nThe manual is in {name}({section}).");
    out
}

/// A flag in help: its head, and below it what it does.
fn entry(flag: &Flag) -> String {
    let space = if flag.value.is_empty() { "" } else { " " };
    let choice = if let Kind::Choice(words) = flag.kind { format!(" ({})", words.join(", ")) } else { String::new() };
    let default = flag.default.map(|default| format!(" (default {default})")).unwrap_or_default();
    let repeats = if flag.repeats { " (may be repeated)" } else { "" };
    format!("  -{}{space}{}\n        {}{choice}{default}{repeats}\n", flag.name, flag.value, flag.help)
}
