//! What a text must hold so that an expression can match it: the question that is put to the filter of a sealed segment.
//!
//! An expression is looked at from the leaves up, as Cox describes it for trigrams (Regular Expression Matching with a Trigram
//! Index, 2012). Of each part is known either every string that it matches, while those are few, or with what strings a match
//! begins and ends, and what it holds besides. Where two parts meet, the ends of the one and the beginnings of the other
//! make strings that no part has by itself.
//!
//! All strings are in lower case as far as ASCII goes, as the filter's are. A letter that folds to ASCII from beyond it, such
//! as the Kelvin sign, is a string of its own.
//!
//! Bounds: [`MOST_STRINGS`] strings for each part, [`MOST_LITERALS`] in a formula; what goes beyond is left out, which only lets
//! more through.

use crate::segment::sealed::filter::{Formula, GRAM};
use regex_syntax::hir::{Capture, Class, Hir, HirKind, Repetition};
use std::collections::BTreeSet;

/// The most strings that are told apart for one part.
const MOST_STRINGS: usize = 32;

/// The longest string that is kept of a beginning or an end.
const LONGEST_END: usize = 16;

/// The most copies of a repeated part that are looked at.
const MOST_COPIES: u32 = 8;

/// The most literals in a formula.
const MOST_LITERALS: usize = 512;

/// What a literal asks for.
pub fn of_literal(literal: &[u8]) -> Formula {
    if literal.len() < GRAM { Formula::Any } else { Formula::Holds(literal.to_ascii_lowercase()) }
}

/// What nothing can meet.
pub fn never() -> Formula {
    Formula::OneOf(Vec::new())
}

/// What an expression asks for that is a match within one text, whatever lies around it.
pub fn of_expression(hir: &Hir) -> Formula {
    let mut maker = Maker { literals: 0 };
    let Open { begins, ends, holds } = maker.part(hir).open(&mut maker);
    let (begins, ends) = (maker.one_of(&begins), maker.one_of(&ends));
    both(both(holds, begins), ends)
}

type Strings = BTreeSet<Vec<u8>>;

/// What is known of a part of an expression.
enum Part {
    /// Every string that it matches.
    Exact(Strings),
    /// Less than that.
    Open(Open),
}

/// What is known of a part that matches too many strings.
struct Open {
    /// A match begins with one of these.
    begins: Strings,
    /// A match ends with one of these.
    ends: Strings,
    /// What it holds besides.
    holds: Formula,
}

impl Part {
    fn empty() -> Part {
        Part::Exact(Strings::from([Vec::new()]))
    }

    fn anything() -> Part {
        let nothing = || Strings::from([Vec::new()]);
        Part::Open(Open { begins: nothing(), ends: nothing(), holds: Formula::Any })
    }

    fn open(self, maker: &mut Maker) -> Open {
        match self {
            Part::Open(open) => open,
            Part::Exact(strings) => Open {
                holds: maker.one_of(&strings),
                begins: shortened(strings.clone(), |string, len| string.truncate(len)),
                ends: shortened(strings, keep_last),
            },
        }
    }
}

struct Maker {
    /// How many literals there are so far.
    literals: usize,
}

impl Maker {
    /// Depth is bounded by the parser's own limit on nesting.
    fn part(&mut self, hir: &Hir) -> Part {
        match hir.kind() {
            HirKind::Empty | HirKind::Look(_) => Part::empty(),
            HirKind::Literal(literal) => Part::Exact(Strings::from([literal.0.to_ascii_lowercase()])),
            HirKind::Class(class) => strings_of(class).map_or_else(Part::anything, Part::Exact),
            HirKind::Capture(Capture { sub, .. }) => self.part(sub),
            HirKind::Repetition(repetition) => self.repeated(repetition),
            HirKind::Concat(parts) => {
                let mut whole = Part::empty();
                for part in parts {
                    let next = self.part(part);
                    whole = self.joined(whole, next);
                }
                whole
            }
            HirKind::Alternation(parts) => {
                let mut parts = parts.iter();
                let Some(first) = parts.next() else { return Part::empty() };
                let mut either = self.part(first);
                for part in parts {
                    let other = self.part(part);
                    either = self.either(either, other);
                }
                either
            }
        }
    }

    fn repeated(&mut self, repetition: &Repetition) -> Part {
        let Repetition { min, max, sub, .. } = repetition;
        if (*min, *max) == (0, Some(1)) {
            let part = self.part(sub);
            return self.either(part, Part::empty());
        }
        if *min == 0 {
            return Part::anything();
        }
        // Looked at once, or nested repetitions would multiply.
        let once = match self.part(sub) {
            Part::Exact(strings) => strings,
            // Many of it begin as the first, end as the last, and hold what one holds.
            open => return open,
        };
        let copies = (*min).min(MOST_COPIES);
        let mut whole = Part::Exact(once.clone());
        for _ in 1..copies {
            whole = self.joined(whole, Part::Exact(once.clone()));
        }
        // With more copies in the middle it begins and ends as it does without.
        if *max == Some(copies) { whole } else { Part::Open(whole.open(self)) }
    }

    fn joined(&mut self, one: Part, next: Part) -> Part {
        let (one, next) = match (one, next) {
            (Part::Exact(one), Part::Exact(next)) if one.len() * next.len() <= MOST_STRINGS => {
                return Part::Exact(product(&one, &next));
            }
            other => other,
        };
        // Where one side is known wholly, what the other begins or ends with is reached through it.
        let (exact_one, exact_next) = (exact(&one), exact(&next));
        let (one, next) = (one.open(self), next.open(self));
        let begins = match exact_one {
            Some(strings) if strings.len() * next.begins.len() <= MOST_STRINGS => product(&strings, &next.begins),
            _ => one.begins,
        };
        let ends = match exact_next {
            Some(strings) if strings.len() * one.ends.len() <= MOST_STRINGS => product(&one.ends, &strings),
            _ => next.ends,
        };
        let seam = match one.ends.len() * next.begins.len() {
            0..=MOST_STRINGS => self.one_of(&product(&one.ends, &next.begins)),
            _ => Formula::Any,
        };
        Part::Open(Open {
            begins: shortened(begins, |string, len| string.truncate(len)),
            ends: shortened(ends, keep_last),
            holds: both(both(one.holds, seam), next.holds),
        })
    }

    fn either(&mut self, one: Part, other: Part) -> Part {
        let (one, other) = match (one, other) {
            (Part::Exact(mut one), Part::Exact(mut other)) if one.len() + other.len() <= MOST_STRINGS => {
                one.append(&mut other);
                return Part::Exact(one);
            }
            parts => parts,
        };
        let (mut one, mut other) = (one.open(self), other.open(self));
        one.begins.append(&mut other.begins);
        one.ends.append(&mut other.ends);
        Part::Open(Open {
            begins: shortened(one.begins, |string, len| string.truncate(len)),
            ends: shortened(one.ends, keep_last),
            holds: match (one.holds, other.holds) {
                (Formula::Any, _) | (_, Formula::Any) => Formula::Any,
                (Formula::OneOf(mut one), other) => {
                    one.push(other);
                    Formula::OneOf(one)
                }
                (one, other) => Formula::OneOf(vec![one, other]),
            },
        })
    }

    /// That one of these is there. Asks for nothing if one of them is too short to be looked for.
    fn one_of(&mut self, strings: &Strings) -> Formula {
        let is_too_many = self.literals + strings.len() > MOST_LITERALS;
        if is_too_many || strings.iter().any(|string| string.len() < GRAM) {
            return Formula::Any;
        }
        self.literals += strings.len();
        let mut literals = strings.iter().map(|string| Formula::Holds(string.clone()));
        match (literals.next(), strings.len()) {
            (Some(only), 1) => only,
            (first, _) => Formula::OneOf(first.into_iter().chain(literals).collect()),
        }
    }
}

fn exact(part: &Part) -> Option<Strings> {
    match part {
        Part::Exact(strings) => Some(strings.clone()),
        Part::Open(_) => None,
    }
}

fn both(one: Formula, other: Formula) -> Formula {
    match (one, other) {
        (Formula::Any, formula) | (formula, Formula::Any) => formula,
        (Formula::All(mut parts), Formula::All(more)) => {
            parts.extend(more);
            Formula::All(parts)
        }
        (Formula::All(mut parts), formula) => {
            if !parts.contains(&formula) {
                parts.push(formula);
            }
            Formula::All(parts)
        }
        (one, other) if one == other => one,
        (one, other) => Formula::All(vec![one, other]),
    }
}

fn product(one: &Strings, next: &Strings) -> Strings {
    one.iter().flat_map(|front| next.iter().map(move |back| [front.as_slice(), back.as_slice()].concat())).collect()
}

/// At most [`MOST_STRINGS`] strings, each cut to at most [`LONGEST_END`] bytes, to fewer if they are too many.
fn shortened(strings: Strings, cut: impl Fn(&mut Vec<u8>, usize)) -> Strings {
    let mut strings = strings;
    for len in (0..=LONGEST_END).rev() {
        let fits = strings.len() <= MOST_STRINGS;
        if fits && strings.iter().all(|string| string.len() <= len) {
            break;
        }
        if fits && len < LONGEST_END {
            break;
        }
        let cut_to = |mut string: Vec<u8>| {
            cut(&mut string, len);
            string
        };
        strings = strings.into_iter().map(cut_to).collect();
    }
    strings
}

fn keep_last(string: &mut Vec<u8>, len: usize) {
    string.drain(..string.len().saturating_sub(len));
}

/// The strings of a class, in lower case; `None` if they are too many.
fn strings_of(class: &Class) -> Option<Strings> {
    // In both cases they may be twice as many.
    let most = 2 * MOST_STRINGS;
    let mut strings = Strings::new();
    match class {
        Class::Bytes(class) => {
            let len: usize = class.iter().map(|range| range.len()).sum();
            (len <= most).then_some(())?;
            let bytes = class.iter().flat_map(|range| range.start()..=range.end());
            strings.extend(bytes.map(|byte| vec![byte.to_ascii_lowercase()]));
        }
        Class::Unicode(class) => {
            let len: usize = class.iter().map(|range| range.len()).sum();
            (len <= most).then_some(())?;
            let letters = class.iter().flat_map(|range| range.start()..=range.end());
            strings.extend(letters.map(|letter| letter.to_ascii_lowercase().to_string().into_bytes()));
        }
    }
    (strings.len() <= MOST_STRINGS).then_some(strings)
}

#[cfg(test)]
#[path = "formula_tests.rs"]
mod tests;
