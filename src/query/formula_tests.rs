use super::*;
use crate::query::needle::Matcher;
use crate::world::entropy::Dice;

fn formula(pattern: &str) -> Formula {
    Matcher::new(pattern.as_bytes(), true, false, false).expect("a pattern").formula()
}

/// What a formula says of a text, by looking.
fn is_met(formula: &Formula, folded: &[u8]) -> bool {
    match formula {
        Formula::Any => true,
        Formula::All(parts) => parts.iter().all(|part| is_met(part, folded)),
        Formula::OneOf(parts) => parts.iter().any(|part| is_met(part, folded)),
        Formula::Holds(literal) => literal.is_empty() || folded.windows(literal.len()).any(|at| at == literal),
    }
}

fn literals(formula: &Formula) -> usize {
    match formula {
        Formula::Any => 0,
        Formula::All(parts) | Formula::OneOf(parts) => parts.iter().map(literals).sum(),
        Formula::Holds(_) => 1,
    }
}

/// A formula as people would write it.
fn shown(formula: &Formula) -> String {
    let list = |parts: &[Formula], with: &str| parts.iter().map(shown).collect::<Vec<_>>().join(with);
    match formula {
        Formula::Any => "any".into(),
        Formula::All(parts) => format!("({})", list(parts, " & ")),
        Formula::OneOf(parts) => format!("({})", list(parts, " | ")),
        Formula::Holds(literal) => String::from_utf8_lossy(literal).into_owned(),
    }
}

#[test]
fn what_an_expression_asks_for_is_what_a_person_would_look_for() {
    let table = [
        ("timeout", "timeout"),
        ("TimeOut", "timeout"),
        ("(?i)timeout", "timeout"),
        ("foo", "any"),
        ("error|warning", "(error | warning)"),
        ("error|foo", "any"),
        ("foo(bar|baz)qux", "(foobarqux | foobazqux)"),
        ("status=5[01]", "(status=50 | status=51)"),
        ("error.*timeout", "(error & timeout)"),
        (r"^error\b.*\btimeout$", "(error & timeout)"),
        ("(abcd)+", "abcd"),
        ("(abcd)*", "any"),
        ("(ab){3}", "ababab"),
        ("[a-f]{12}", "any"),
        ("abcd[0-3]+efgh", "(abcd & (abcd0 | abcd1 | abcd2 | abcd3) & (0efgh | 1efgh | 2efgh | 3efgh) & efgh)"),
        ("colou?red", "(colored | coloured)"),
        ("", "any"),
    ];
    for (pattern, expected) in table {
        assert_eq!(shown(&formula(pattern)), expected, "{pattern}");
    }
    // The Kelvin sign and the long s are these letters in another case, and are not ASCII.
    let folded = Matcher::new("maßkes".as_bytes(), false, true, false).expect("a needle").formula();
    assert!(is_met(&folded, "MAßKES".to_ascii_lowercase().as_bytes()));
    assert!(is_met(&folded, "maß\u{212A}e\u{17F}".to_ascii_lowercase().as_bytes()));
}

#[test]
fn an_inverted_needle_asks_for_nothing_and_one_that_never_matches_for_the_impossible() {
    let of = |q: &[u8], invert| Matcher::new(q, false, false, invert).expect("a needle").formula();
    assert_eq!(of(b"timeout", true), Formula::Any);
    assert_eq!(of(b"two\nlines", false), never());
    assert_eq!(of(b"two\nlines", true), Formula::Any);
}

/// An expression over a small alphabet, of all that there is in expressions.
fn some_pattern(dice: &mut Dice, depth: u64) -> String {
    let words =
        ["ab", "abc", "bca", "B", "cab", "aBcA", "k", "s", "é", ".", "[ab]", "[^a]", "\\w", "\\d", "x", "", "[a-c]"];
    if depth == 0 || dice.one_in(4) {
        return words[dice.below(words.len() as u64) as usize].to_string();
    }
    let mut sub = || some_pattern(dice, depth - 1);
    let (one, two, three) = (sub(), sub(), sub());
    match dice.below(9) {
        0 => format!("(?:{one}|{two})"),
        1 => format!("({one}|{two}|{three})"),
        2 => format!("(?:{one}){}", ["*", "+", "?", "{2}", "{2,}", "{1,3}", "{9}", "+?"][dice.below(8) as usize]),
        3 => format!("(?i:{one})"),
        4 => format!("{}{one}{}", ["^", "\\b", ""][dice.below(3) as usize], ["$", "\\B", ""][dice.below(3) as usize]),
        _ => format!("{one}{two}{three}"),
    }
}

fn some_text(dice: &mut Dice) -> Vec<u8> {
    let parts =
        ["a", "b", "c", "A", "B", "C", "ab", "abc", "k", "K", "\u{212A}", "s", "\u{17F}", "é", "É", "1", "x", " "];
    let mut text = Vec::new();
    for _ in 0..dice.below(30) {
        text.extend_from_slice(parts[dice.below(parts.len() as u64) as usize].as_bytes());
    }
    if dice.one_in(5) && !text.is_empty() {
        let at = dice.below(text.len() as u64) as usize;
        text[at] = 0xff;
    }
    text
}

/// An expression that matches somewhere in this text: pieces of it, some of them told less exactly.
fn pattern_of(text: &str, dice: &mut Dice) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut rest = &letters[dice.below(letters.len() as u64 + 1) as usize..];
    let mut pattern = String::new();
    for _ in 0..1 + dice.below(5) {
        let (piece, later) = rest.split_at(rest.len().min(dice.below(9) as usize));
        let exact = regex_syntax::escape(&piece.iter().collect::<String>());
        rest = later;
        pattern += &match dice.below(7) {
            0 => format!("(?:{exact}|zebra)"),
            1 => format!("(?:{exact}){}", ["+", "{1,2}", "*", "?"][dice.below(4) as usize]),
            2 => ".*?".to_string(),
            3 => piece.iter().map(|letter| format!("[{}z]", regex_syntax::escape(&letter.to_string()))).collect(),
            _ => exact,
        };
    }
    pattern
}

/// `OKLOG_TEST_CASES` sets how many texts are tried.
#[test]
fn what_matches_meets_the_formula_whatever_expression_and_text() {
    let cases = std::env::var("OKLOG_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60_000u64);
    let (mut tried, mut matched, mut told, mut seed) = (0, 0, 0, 0);
    while tried < cases {
        seed += 1;
        let dice = &mut Dice::new(seed);
        let (depth, ignore_case) = (1 + dice.below(4), dice.one_in(4));
        let sample = String::from_utf8_lossy(&some_text(dice)).into_owned();
        let pattern = if dice.one_in(2) { some_pattern(dice, depth) } else { pattern_of(&sample, dice) };
        let Ok(matcher) = Matcher::new(pattern.as_bytes(), !dice.one_in(8), ignore_case, false) else { continue };
        let formula = matcher.formula();
        assert!(literals(&formula) <= 2 * MOST_LITERALS, "{pattern}: {}", literals(&formula));
        for nth in 0..20 {
            let text = if nth == 0 { sample.clone().into_bytes() } else { some_text(dice) };
            tried += 1;
            if matcher.matches(&text) {
                matched += 1;
                told += u64::from(formula != Formula::Any);
                let folded = text.to_ascii_lowercase();
                assert!(
                    is_met(&formula, &folded),
                    "replay with seed {seed}: {pattern} matches {:?}, not so {}",
                    String::from_utf8_lossy(&text),
                    shown(&formula)
                );
            }
        }
    }
    assert!(matched > cases / 20 && told > cases / 500, "{matched} of {tried} match, {told} of them with a formula");
}

#[test]
fn a_large_expression_makes_no_large_formula() {
    for unit in ["[abc][def]", "(ab|cd|ef)x?", "[a-z]", "(?i)abcdefgh", "a{1,8}b"] {
        let pattern = unit.repeat(4_000 / unit.len());
        let Ok(matcher) = Matcher::new(pattern.as_bytes(), true, false, false) else { continue };
        assert!(literals(&matcher.formula()) <= 2 * MOST_LITERALS, "{unit}");
    }
    let nested = (0..5).fold("[ab]".to_string(), |inner, _| format!("(?:{inner}){{8}}"));
    assert!(literals(&formula(&nested)) <= 2 * MOST_LITERALS, "{nested}");
}
