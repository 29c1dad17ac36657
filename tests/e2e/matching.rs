//! What a query finds is what `grep` finds, and what the regex crate finds line by line.

use crate::harness::command::{bash, has_tool};
use crate::harness::logs::{all_lines, assert_same_lines, files};
use crate::harness::{Node, Port};
use regex::bytes::RegexBuilder;

const NEEDLES: &[&str] = &[
    "",
    "error",
    "ERROR",
    "[",
    "]",
    "(",
    "*",
    ".",
    ".*",
    "\\",
    "$",
    "^",
    "a.b",
    "INFO",
    " ",
    "  ",
    "user=root",
    "/",
    "%",
    "\r",
    "sshd[",
    "not anywhere in these files",
    ":",
    "081109",
    "\t",
    "ü",
    "blk_-",
    "+",
    "\"",
    "&",
    "=",
];

const PATTERNS: &[&str] = &[
    "",
    "error",
    "(?i)error",
    "^",
    "$",
    "^$",
    "^Jun",
    "^\\[",
    "\\]$",
    "\\r$",
    "[0-9]$",
    "^.*$",
    "error|warn|fail",
    "(error|INFO).*[0-9]{3}",
    "\\b[0-9]{1,3}(\\.[0-9]{1,3}){3}\\b",
    "[a-f]{6}",
    "\\d{5}",
    "\\w+\\[\\d+\\]:",
    "[^a-zA-Z0-9]{5}",
    "x*",
    "(?i)^jun 1[45]",
    "\\Auser",
    "root\\z",
    "(?s).*",
    "(?s)a.b",
    "[^q]{200}",
    "\\s\\s",
    "[\\x80-\\xff]",
    "(?m)^d",
    "a|",
    "not anywhere in these files",
];

/// Patterns that could match from one record into the next, or into the id, but must not.
const CROSSING: &[&str] =
    &["\\n", "[^x]*\\n[^x]*", "\\s+$", "(?s)e.+e", "[^0-9]+", "\\W+\\d", "^[0-9A-HJKMNP-TV-Z]{26} ", "[\\s\\S]{400}"];

fn node_with_files(consumed: bool) -> Node {
    let node = if consumed { Node::start_quick(&[]) } else { Node::start_unconsumed(&[]) };
    files().iter().for_each(|file| node.send(Port::Fast, &file.bytes));
    if consumed {
        node.wait_consumed();
    }
    node
}

fn matching(pattern: &str, ignore_case: bool, invert: bool) -> Vec<u8> {
    let regex = RegexBuilder::new(pattern).unicode(false).case_insensitive(ignore_case).build();
    let regex = regex.or_else(|_| RegexBuilder::new(pattern).case_insensitive(ignore_case).build());
    let regex = regex.unwrap_or_else(|e| panic!("{pattern}: {e}"));
    let all = all_lines();
    let lines = all.split_inclusive(|&b| b == b'\n');
    lines.filter(|line| regex.is_match(&line[..line.len() - 1]) != invert).collect::<Vec<_>>().concat()
}

#[test]
fn a_substring_query_finds_what_grep_f_finds() {
    if !has_tool("grep", "grep") {
        return;
    }
    let node = node_with_files(true);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.log");
    std::fs::write(&path, all_lines()).unwrap();
    for needle in NEEDLES {
        for (flags, params) in [("", &[][..]), ("-v", &[("invert", "")]), ("-i", &[("ignore_case", "")])] {
            let quoted = needle.replace('\'', "'\\''");
            let expected = bash(&format!("LC_ALL=C grep -F -a {flags} -e '{quoted}' {}", path.display())).stdout;
            let answer = node.query(&[&[("q", *needle)], params].concat());
            assert_same_lines(&answer.lines(), &expected, &format!("{needle:?} with {params:?}"));
        }
    }
}

#[test]
fn a_regex_query_finds_what_the_regex_crate_finds_line_by_line() {
    for node in [node_with_files(true), node_with_files(false)] {
        for pattern in PATTERNS.iter().chain(CROSSING) {
            let answer = node.query(&[("q", pattern), ("regex", "")]);
            assert_same_lines(&answer.lines(), &matching(pattern, false, false), &format!("regex {pattern:?}"));
        }
    }
}

#[test]
fn a_regex_query_may_ignore_case_and_may_be_inverted() {
    let node = node_with_files(true);
    for pattern in PATTERNS {
        let answer = node.query(&[("q", pattern), ("regex", ""), ("ignore_case", "")]);
        assert_same_lines(&answer.lines(), &matching(pattern, true, false), &format!("{pattern:?}, any case"));
        let answer = node.query(&[("q", pattern), ("regex", ""), ("invert", "")]);
        assert_same_lines(&answer.lines(), &matching(pattern, false, true), &format!("all but {pattern:?}"));
    }
}

#[test]
fn neither_kind_of_query_matches_the_id() {
    let node = Node::start_quick(&[]);
    node.send(Port::Fast, b"abc\n");
    let id = node.query(&[]).ids().remove(0);
    for q in [&id[..], &id[..4], &format!("{id} abc"), " abc"] {
        assert_eq!(node.query(&[("q", q)]).lines(), b"", "{q:?}");
        assert_eq!(node.query(&[("q", q), ("regex", "")]).lines(), b"", "{q:?}");
    }
}

#[test]
fn a_needle_of_several_kilobytes_is_found_and_one_beyond_the_request_s_limit_is_refused() {
    let node = Node::start_quick(&[]);
    let long: String = (0..400_000u64).map(|n| char::from(b'a' + (n * n / 7 % 26) as u8)).collect();
    node.send(Port::Fast, format!("before\nx{long}y\nafter\n").as_bytes());
    for moment in ["at once", "consumed"] {
        let found = node.query(&[("q", &long[..7_000])]);
        assert_eq!(found.lines(), format!("x{long}y\n").as_bytes(), "{moment}");
        assert_eq!(node.query(&[("q", &format!("{}!", &long[..7_000]))]).lines(), b"", "{moment}");
        node.wait_consumed();
    }
    let too_long = node.get(&crate::harness::node::query_target(&[("q", &long)]));
    assert!([400, 413, 414, 431].contains(&too_long.status), "{}", too_long.status);
    assert_eq!(node.get("/ready").status, 200);
}

#[test]
fn a_needle_over_the_border_of_two_blocks_is_found() {
    let node = Node::start_quick(&[]);
    // Around 256 KiB, where one block ends, wherever exactly the records end.
    let filler = vec![b'.'; 256 * 1024 - 100];
    let mut lines = Vec::new();
    for number in 0..40 {
        lines.extend_from_slice(&filler[..filler.len() - number]);
        lines.extend_from_slice(format!("needle{number}\nnext{number}\n").as_bytes());
    }
    node.send(Port::Fast, &lines);
    node.wait_consumed();
    for number in 0..40 {
        assert_eq!(node.query(&[("q", &format!("needle{number}")), ("limit", "1")]).stored().count(), 1);
        assert_eq!(node.query(&[("q", &format!("^next{number}$")), ("regex", "")]).stored().count(), 1);
    }
}
