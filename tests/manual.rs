//! Holds the flag table, the help text, the metrics, the routes and the manual equal.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by a panic

use oklog::cli::flags::{COMMANDS, Command, Flag, Kind};
use oklog::cli::help;
use oklog::ops::metrics::{self, Spec, TABLE};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root().join("man"))
        .expect("the directory man")
        .map(|entry| entry.expect("an entry of man").path())
        .collect();
    pages.sort();
    pages
}

fn page(name: &str) -> String {
    std::fs::read_to_string(root().join("man").join(name)).unwrap_or_else(|e| panic!("man/{name}: {e}"))
}

/// The head of a list's entry, and the lines below it.
type Entry = (String, Vec<String>);

/// The `.It` entries of a page, nested ones too: the head, and the lines up to the next entry or the end of its list.
fn entries(page: &str) -> Vec<Entry> {
    let (mut done, mut open): (Vec<Entry>, Vec<Option<Entry>>) = (Vec::new(), Vec::new());
    for line in page.lines() {
        if line.starts_with(".Bl") {
            open.push(None);
        } else if line.starts_with(".El") {
            done.extend(open.pop().flatten());
        } else if let (Some(head), Some(top)) = (line.strip_prefix(".It "), open.last_mut()) {
            done.extend(top.replace((head.to_string(), Vec::new())));
        } else if let Some(Some((_, body))) = open.last_mut() {
            body.push(line.to_string());
        }
    }
    done
}

/// The value that follows "The default is" in an entry.
fn default_in(body: &[String]) -> Option<&str> {
    let at = body.iter().position(|line| line.ends_with("he default is"))?;
    body.get(at + 1)?.strip_prefix(".Ql ")?.split(' ').next()
}

fn head_of(flag: &Flag) -> String {
    match (flag.name, flag.value) {
        ("help", _) => "Fl h , Fl help".into(),
        (name, "") => format!("Fl {name}"),
        (name, value) => format!("Fl {name} Ar {value}"),
    }
}

#[test]
fn every_flag_is_in_its_page_with_its_value_and_its_default() {
    for command in COMMANDS {
        let entries = entries(&page(command.page));
        for flag in command.flags() {
            let found: Vec<_> = entries.iter().filter(|(head, _)| *head == head_of(flag)).collect();
            assert_eq!(found.len(), 1, "{} must have one entry \".It {}\"", command.page, head_of(flag));
            assert_eq!(default_in(&found[0].1), flag.default, "{}: default of -{}", command.page, flag.name);
            if flag.repeats {
                let said = found[0].1.join(" ").contains("It may be repeated");
                assert!(said, "{}: -{} may be repeated", command.page, flag.name);
            }
            if let Kind::Choice(words) = flag.kind {
                let body = found[0].1.join("\n");
                let nested = |word: &&&str| entries.iter().any(|(head, _)| head == &format!("Cm {word}"));
                let missing: Vec<_> =
                    words.iter().filter(|word| !body.contains(&format!(".Cm {word}")) && !nested(word)).collect();
                assert!(missing.is_empty(), "{}: -{} takes {missing:?} too", command.page, flag.name);
            }
        }
    }
}

#[test]
fn every_flag_of_a_client_is_in_the_synopsis_of_its_page() {
    for command in COMMANDS.iter().filter(|command| command.page.ends_with(".1") && command.page != "oklog.1") {
        let page = page(command.page);
        let synopsis = page.split(".Sh ").find(|part| part.starts_with("SYNOPSIS")).expect("a synopsis");
        for flag in command.flags().filter(|flag| flag.name != "help") {
            let repeats = if flag.repeats { " ..." } else { "" };
            let expected = format!(".Op {}{repeats}", head_of(flag));
            assert!(synopsis.lines().any(|line| line == expected), "{}: {expected}", command.page);
        }
    }
}

#[test]
fn no_page_has_a_flag_that_is_not_in_the_table() {
    let all: BTreeSet<&str> = COMMANDS.iter().flat_map(Command::flags).map(|flag| flag.name).collect();
    for path in pages() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = page(&name);
        let own: BTreeSet<&str> = COMMANDS
            .iter()
            .filter(|command| command.page == name)
            .flat_map(Command::flags)
            .map(|flag| flag.name)
            .collect();
        let in_heads: Vec<String> = entries(&text).into_iter().map(|(head, _)| head).collect();
        for flag in in_heads.iter().flat_map(|head| flags_in(head)) {
            assert!(own.contains(flag) || flag == "h", "{name} has an entry for -{flag}, its commands do not");
        }
        for flag in text.lines().filter(|line| line.starts_with('.')).flat_map(flags_in) {
            let known = all.contains(flag) || matches!(flag, "h" | "flag");
            assert!(known, "{name} speaks of -{flag}, which no command has");
        }
    }
}

/// The words after `Fl`, except for the bare dashes of `Fl Fl`.
fn flags_in(line: &str) -> impl Iterator<Item = &str> {
    let words = line.trim_start_matches('.').split(' ');
    let next = words.clone().skip(1);
    let flags = words.zip(next).filter(|(word, next)| *word == "Fl" && !matches!(*next, "Fl" | "." | ","));
    flags.map(|(_, next)| next)
}

#[test]
fn help_has_every_command_and_every_flag_with_its_default() {
    let overview = help::overview();
    for command in COMMANDS {
        assert!(overview.contains(&format!("  {:<12} {}\n", command.name, command.summary)), "{}", command.name);
        let text = help::of(command);
        for flag in command.flags() {
            let head = format!("  -{} {}", flag.name, flag.value);
            let at = text.lines().position(|line| line == head.trim_end()).unwrap_or_else(|| panic!("{head}: {text}"));
            let line = text.lines().nth(at + 1).expect("a line below the flag");
            assert!(line.contains(flag.help), "{line}");
            let default = flag.default.map(|default| format!("(default {default})"));
            assert_eq!(line.contains("(default"), default.is_some(), "{line}");
            assert!(line.contains(&default.unwrap_or_default()), "{line}");
        }
    }
}

fn metric_head(spec: &Spec) -> String {
    let labels = spec.labels.join(" , ");
    if labels.is_empty() { format!("Ic {}", spec.name) } else { format!("Ic {} Ns Brq {labels}", spec.name) }
}

#[test]
fn every_metric_is_in_its_page_with_kind_labels_and_meaning() {
    let page = page("oklog-metrics.7");
    let entries = entries(&page);
    let mut left: BTreeSet<&str> =
        entries.iter().map(|(head, _)| head.as_str()).filter(|head| head.starts_with("Ic ")).collect();
    for spec in TABLE {
        let head = metric_head(spec);
        let (_, body) = entries.iter().find(|(found, _)| *found == head).unwrap_or_else(|| panic!("no \".It {head}\""));
        let kind = match spec.kind {
            metrics::Kind::Counter => "Counter.",
            metrics::Kind::Gauge => "Gauge.",
            metrics::Kind::Histogram(_) => "Histogram.",
        };
        assert_eq!(body.first().map(String::as_str), Some(kind), "{}", spec.name);
        assert!(body[1..].join(" ").starts_with(spec.help), "{}: {}", spec.name, spec.help);
        left.remove(head.as_str());
        for label in spec.labels {
            let explained = entries.iter().any(|(head, _)| head.split([' ', ',']).any(|word| word == *label));
            assert!(explained, "the label {label} of {}", spec.name);
        }
    }
    assert!(left.is_empty(), "not in the table: {left:?}");
}

/// Every route's path, read from the module that has them all once.
fn paths() -> BTreeSet<String> {
    let source = std::fs::read_to_string(root().join("src/http/path.rs")).unwrap_or_default();
    let quoted = |line: &str| line.split("&str = \"").nth(1)?.split('"').next().map(str::to_string);
    source.lines().filter(|line| line.starts_with("pub const")).filter_map(quoted).collect()
}

#[test]
fn every_route_is_in_its_page_and_no_other() {
    let page = page("oklog-api.7");
    let path = |(head, _): &Entry| {
        let path = head.split("Pa ").nth(1)?;
        path.split(['?', ' ']).next().map(str::to_string)
    };
    let described: BTreeSet<String> = entries(&page).iter().filter_map(path).collect();
    let routes = paths();
    if routes.is_empty() {
        println!("there is no src/http/path.rs yet: routes are not compared");
        return;
    }
    assert_eq!(described, routes);
}

#[test]
fn pages_are_well_formed_mdoc() {
    for path in pages() {
        let file = path.file_name().expect("a name");
        // In the directory of the pages, so that references among them are found.
        let mut mandoc = process::Command::new("mandoc");
        mandoc.args(["-T", "lint", "-W", "style"]).arg(file).current_dir(root().join("man"));
        let Some(output) = mandoc_output(&mut mandoc) else {
            println!("mandoc is not installed: the pages are not checked");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
}

fn mandoc_output(mandoc: &mut process::Command) -> Option<process::Output> {
    match mandoc.output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => panic!("running mandoc: {e}"),
    }
}

#[test]
fn every_page_has_the_sections_a_reader_looks_for() {
    let everywhere = ["NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO", "CAVEATS"];
    let of_commands = ["SYNOPSIS", "OPTIONS", "FILES", "EXIT STATUS"];
    for path in pages() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = page(&name);
        let command = COMMANDS.iter().any(|command| command.page == name);
        let also: &[&str] = if command { &of_commands } else { &[] };
        for section in everywhere.iter().chain(also) {
            assert!(text.lines().any(|line| line == format!(".Sh {section}")), "{name} has no section {section}");
        }
    }
}
