//! Finds the records of a block whose text matches.
//!
//! Works on blocks, not on lines: the needle is looked for in the whole block, and only around a hit the line. What
//! counts is a match within one record's text. The id in front and the LF behind it are never part of a match, which is
//! seen to in two ways: a hit that begins within an id is looked at again in the text alone, and nothing that is looked
//! for can hold an LF.
//!
//! For a regular expression the block is searched with a *sieve*: the same expression without look-arounds, and with LF
//! taken out of every class. It matches wherever the expression does, maybe elsewhere too, and never across lines.
//! Where the expression has look-arounds, the line is then tried with the expression itself.
//!
//! A matcher is cheap to clone, and each thread should have its own: clones share the program, not the scratch memory.

use super::formula;
use crate::record::stored::{PREFIX_LEN, Stored, records};
use crate::segment::sealed::filter::Formula;
use memchr::{memchr, memmem, memrchr};
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Capture, Class, ClassBytes, ClassBytesRange, ClassUnicode, ClassUnicodeRange};
use regex_syntax::hir::{Hir, HirKind, Repetition};
use regex_syntax::{ParserBuilder, escape};
use std::fmt;
use std::ops::Range;

/// The longest regular expression, in bytes.
pub const LONGEST_PATTERN: usize = 4 << 10;

/// Memory for a compiled expression, in bytes; an expression that needs more is refused.
pub const PROGRAM_LIMIT: usize = 4 << 20;

/// Memory for the states a search works out on its way, in bytes per clone; beyond it they are thrown away and begun anew.
pub const STATES_LIMIT: usize = 4 << 20;

/// Why there is no matcher for a needle. `Display` is one plain sentence for the body of a 400.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MatcherError {
    /// A regular expression longer than [`LONGEST_PATTERN`].
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A regular expression that is not UTF-8. Bytes that are not are written `(?-u:\xFF)`.
    NotUtf8,
    /// Not a regular expression.
    Syntax {
        /// What is wrong with it.
        why: String,
    },
    /// A regular expression that needs more than [`PROGRAM_LIMIT`].
    TooBig,
}

impl fmt::Display for MatcherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MatcherError::TooLong { len } => {
                write!(f, "q is a regular expression of {len} bytes, more than the {LONGEST_PATTERN} allowed")
            }
            MatcherError::NotUtf8 => f.write_str("q is a regular expression but not UTF-8"),
            MatcherError::Syntax { why } => write!(f, "q is not a regular expression: {why}"),
            MatcherError::TooBig => {
                let mib = PROGRAM_LIMIT >> 20;
                write!(f, "q is a regular expression that needs more than the {mib} MiB allowed when it is compiled")
            }
        }
    }
}

impl std::error::Error for MatcherError {}

/// Decides which records match.
#[derive(Clone, Debug)]
pub struct Matcher {
    how: How,
    /// What a text must hold so that `how` finds something.
    formula: Formula,
    invert: bool,
}

#[derive(Clone, Debug)]
enum How {
    /// Every text matches.
    All,
    /// No text matches.
    None,
    Literal(Box<memmem::Finder<'static>>),
    Regex(Pattern),
}

#[derive(Clone, Debug)]
struct Pattern {
    /// The expression itself; knows nothing of lines and is given one text at a time.
    exact: Regex,
    /// Searches blocks; none if it would match the empty string, hence everywhere.
    sieve: Option<Regex>,
    /// Whether a match of the sieve within a text is a match of the expression: there are no look-arounds.
    sieve_is_exact: bool,
}

impl Matcher {
    /// The matcher for a needle, literal or a regular expression in the regex crate's byte syntax. Classes such as `\w`
    /// are ASCII's unless the expression holds something that only Unicode has; likewise what `ignore_case` means.
    pub fn new(q: &[u8], regex: bool, ignore_case: bool, invert: bool) -> Result<Matcher, MatcherError> {
        let (how, formula) = if q.is_empty() {
            (How::All, Formula::Any)
        } else if regex {
            regex_how(q, ignore_case)?
        } else if memchr(b'\n', q).is_some() {
            (How::None, formula::never())
        } else if ignore_case {
            caseless_how(q)?
        } else {
            (How::Literal(Box::new(memmem::Finder::new(q).into_owned())), formula::of_literal(q))
        };
        Ok(Matcher { how, formula, invert })
    }

    /// What a text must hold so that it can match.
    pub fn formula(&self) -> Formula {
        if self.invert { Formula::Any } else { self.formula.clone() }
    }

    /// Whether every record matches, so that nothing need be searched.
    pub fn takes_all(&self) -> bool {
        matches!((&self.how, self.invert), (How::All, false) | (How::None, true))
    }

    /// Whether a record with this text matches. The text holds no LF.
    pub fn matches(&self, text: &[u8]) -> bool {
        let found = match &self.how {
            How::All => true,
            How::None => false,
            How::Literal(finder) => finder.find(text).is_some(),
            How::Regex(pattern) => pattern.exact.is_match(text),
        };
        found != self.invert
    }

    /// Replaces `found` by where in `block`, a block of whole stored records, matching records lie: ranges of whole
    /// records, ascending, no two of which touch.
    pub fn scan(&self, block: &[u8], found: &mut Vec<Range<usize>>) {
        found.clear();
        match &self.how {
            How::All => push(found, 0..block.len()),
            How::None => {}
            How::Literal(finder) => scan_literal(finder, block, found),
            How::Regex(pattern) => pattern.scan(block, found),
        }
        if self.invert {
            turn_over(found, block.len());
        }
    }
}

/// Adds a range, joined to the one before it where they touch.
fn push(found: &mut Vec<Range<usize>>, range: Range<usize>) {
    match found.last_mut() {
        _ if range.is_empty() => {}
        Some(before) if before.end == range.start => before.end = range.end,
        _ => found.push(range),
    }
}

/// Replaces ranges by the gaps between them.
fn turn_over(found: &mut Vec<Range<usize>>, len: usize) {
    let mut gap_start = 0;
    for range in found.iter_mut() {
        let gap = gap_start..range.start;
        gap_start = range.end;
        *range = gap;
    }
    found.push(gap_start..len);
    found.retain(|range| !range.is_empty());
}

/// The stored record around the byte at `at`, and where it begins.
fn record_around(block: &[u8], at: usize) -> (usize, Stored<'_>) {
    let (before, from) = block.split_at(at.min(block.len()));
    let start = memrchr(b'\n', before).map_or(0, |lf| lf + 1);
    let end = memchr(b'\n', from).map_or(block.len(), |lf| before.len() + lf + 1);
    (start, Stored { whole: block.get(start..end).unwrap_or_default() })
}

fn scan_literal(finder: &memmem::Finder<'_>, block: &[u8], found: &mut Vec<Range<usize>>) {
    let mut from = PREFIX_LEN;
    while let Some(hit) = block.get(from..).and_then(|rest| finder.find(rest)) {
        let hit = from + hit;
        let (start, record) = record_around(block, hit);
        let end = start + record.whole.len();
        if hit >= start + PREFIX_LEN || finder.find(record.text()).is_some() {
            push(found, start..end);
        }
        from = end + PREFIX_LEN;
    }
}

impl Pattern {
    fn scan(&self, block: &[u8], found: &mut Vec<Range<usize>>) {
        let Some(sieve) = &self.sieve else { return self.scan_lines(block, found) };
        let mut from = PREFIX_LEN;
        // `find_at` keeps what is before `from` as context, which a sieve without look-arounds does not heed.
        while let Some(hit) = (from < block.len()).then(|| sieve.find_at(block, from)).flatten() {
            let (start, record) = record_around(block, hit.start());
            let end = start + record.whole.len();
            let is_match =
                self.sieve_is_exact && hit.start() >= start + PREFIX_LEN || self.exact.is_match(record.text());
            if is_match {
                push(found, start..end);
            }
            from = end + PREFIX_LEN;
        }
    }

    fn scan_lines(&self, block: &[u8], found: &mut Vec<Range<usize>>) {
        let mut start = 0;
        for record in records(block) {
            let end = start + record.whole.len();
            if self.exact.is_match(record.text()) {
                push(found, start..end);
            }
            start = end;
        }
    }
}

fn regex_how(q: &[u8], ignore_case: bool) -> Result<(How, Formula), MatcherError> {
    if q.len() > LONGEST_PATTERN {
        return Err(MatcherError::TooLong { len: q.len() });
    }
    let pattern = std::str::from_utf8(q).map_err(|_| MatcherError::NotUtf8)?;
    compile_either(pattern, ignore_case)
}

/// A literal in any case is an expression of escaped characters.
fn caseless_how(q: &[u8]) -> Result<(How, Formula), MatcherError> {
    if q.len() > LONGEST_PATTERN {
        return Err(MatcherError::TooLong { len: q.len() });
    }
    match std::str::from_utf8(q) {
        Ok(text) => compile_either(&escape(text), true),
        Err(_) => {
            let bytes: String = q.iter().map(|byte| format!("\\x{byte:02X}")).collect();
            compile(&bytes, true, false)
        }
    }
}

/// Most expressions do not need Unicode and are searched several times faster without. One that does is refused at
/// first. One that holds letters beyond ASCII means them: without Unicode their case would be silently heeded.
fn compile_either(pattern: &str, ignore_case: bool) -> Result<(How, Formula), MatcherError> {
    let unicode = !pattern.is_ascii();
    compile(pattern, ignore_case, unicode).or_else(|error| {
        // The first refusal tells more where both attempts fail, save that it may be about the lack of Unicode.
        compile(pattern, ignore_case, !unicode).map_err(|second| if unicode { error } else { second })
    })
}

fn compile(pattern: &str, ignore_case: bool, unicode: bool) -> Result<(How, Formula), MatcherError> {
    let exact = RegexBuilder::new(pattern)
        .unicode(unicode)
        .case_insensitive(ignore_case)
        .size_limit(PROGRAM_LIMIT)
        .dfa_size_limit(STATES_LIMIT)
        .build()
        .map_err(refused)?;
    let hir = ParserBuilder::new()
        .utf8(false)
        .unicode(unicode)
        .case_insensitive(ignore_case)
        .build()
        .parse(pattern)
        .map_err(|error| MatcherError::Syntax { why: last_line(&error.to_string()) })?;
    let has_looks = !hir.properties().look_set().is_empty();
    let Some(coarse) = without_looks_and_lf(&hir) else { return Ok((How::None, formula::never())) };
    if coarse.properties().minimum_len() == Some(0) {
        // The sieve would let everything through.
        let each_line = How::Regex(Pattern { exact, sieve: None, sieve_is_exact: false });
        return Ok((if has_looks { each_line } else { How::All }, Formula::Any));
    }
    // The printed form is an expression in default syntax. Should it be refused where the original was not, then lines
    // are tried one by one: slower, but right.
    let sieve =
        RegexBuilder::new(&coarse.to_string()).size_limit(PROGRAM_LIMIT).dfa_size_limit(STATES_LIMIT).build().ok();
    let formula = formula::of_expression(&coarse);
    Ok((How::Regex(Pattern { exact, sieve, sieve_is_exact: !has_looks }), formula))
}

fn refused(error: regex::Error) -> MatcherError {
    match error {
        regex::Error::CompiledTooBig(_) => MatcherError::TooBig,
        other => MatcherError::Syntax { why: last_line(&other.to_string()) },
    }
}

/// The parser draws the place under the pattern; the last line alone says what is wrong.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

/// An expression that matches every string without LF that `hir` matches, in whatever surroundings, and none with LF.
/// None if there is no such string.
///
/// Depth is bounded by the parser's own limit on nesting.
fn without_looks_and_lf(hir: &Hir) -> Option<Hir> {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Some(Hir::empty()),
        HirKind::Literal(literal) => (!literal.0.contains(&b'\n')).then(|| Hir::literal(literal.0.clone())),
        HirKind::Class(class) => without_lf(class).map(Hir::class),
        HirKind::Repetition(repetition) => match without_looks_and_lf(&repetition.sub) {
            Some(sub) => Some(Hir::repetition(Repetition { sub: Box::new(sub), ..repetition.clone() })),
            None => (repetition.min == 0).then(Hir::empty),
        },
        HirKind::Capture(Capture { sub, .. }) => without_looks_and_lf(sub),
        HirKind::Concat(parts) => parts.iter().map(without_looks_and_lf).collect::<Option<_>>().map(Hir::concat),
        HirKind::Alternation(parts) => {
            let possible: Vec<Hir> = parts.iter().filter_map(without_looks_and_lf).collect();
            (!possible.is_empty()).then(|| Hir::alternation(possible))
        }
    }
}

fn without_lf(class: &Class) -> Option<Class> {
    let class = match class {
        Class::Unicode(class) => {
            let mut class = class.clone();
            class.difference(&ClassUnicode::new([ClassUnicodeRange::new('\n', '\n')]));
            Class::Unicode(class)
        }
        Class::Bytes(class) => {
            let mut class = class.clone();
            class.difference(&ClassBytes::new([ClassBytesRange::new(b'\n', b'\n')]));
            Class::Bytes(class)
        }
    };
    (!class.is_empty()).then_some(class)
}

#[cfg(test)]
#[path = "needle_tests.rs"]
mod tests;
