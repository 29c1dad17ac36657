use super::*;
use crate::record::id::Id;
use crate::record::stored::write;
use crate::world::entropy::Dice;

fn block_of(texts: &[&[u8]]) -> Vec<u8> {
    let mut block = Vec::new();
    texts.iter().enumerate().for_each(|(n, text)| write(&mut block, Id(n as u128 * 0x1357_9BDF), text));
    block
}

/// Record by record, joined as `scan` joins them.
fn naive(block: &[u8], mut matches: impl FnMut(&[u8]) -> bool) -> Vec<Range<usize>> {
    let (mut found, mut start) = (Vec::new(), 0);
    for record in records(block) {
        let end = start + record.whole.len();
        if matches(record.text()) {
            push(&mut found, start..end);
        }
        start = end;
    }
    found
}

fn scan(matcher: &Matcher, block: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::from([1..2, 3..4]);
    matcher.scan(block, &mut found);
    found
}

fn texts_found<'a>(matcher: &Matcher, block: &'a [u8]) -> Vec<&'a [u8]> {
    scan(matcher, block).into_iter().flat_map(|range| records(&block[range]).map(Stored::text)).collect()
}

/// Few different bytes, so that short needles are found; some of them as in ids, some odd.
const LETTERS: &[u8] = b"aaabbbc0013 \tAB\r\0\xff\xc3\xa4-.";

fn random_text(dice: &mut Dice, longest: u64) -> Vec<u8> {
    (0..dice.below(longest + 1)).map(|_| LETTERS[dice.below(LETTERS.len() as u64) as usize]).collect()
}

fn random_block(dice: &mut Dice) -> Vec<u8> {
    let texts: Vec<Vec<u8>> = (0..dice.below(9)).map(|_| random_text(dice, 14)).collect();
    block_of(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

#[test]
fn a_literal_finds_what_a_look_at_every_record_finds() {
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let block = random_block(&mut dice);
        let mut q = random_text(&mut dice, 3);
        if dice.one_in(10) {
            q.push(b'\n');
            q.extend(random_text(&mut dice, 1));
        }
        let invert = dice.one_in(3);
        let matcher = Matcher::new(&q, false, false, invert).unwrap();
        let expected =
            naive(&block, |text| (q.is_empty() || text.windows(q.len()).any(|window| window == q)) != invert);
        assert_eq!(scan(&matcher, &block), expected, "replay with seed {seed}");
        assert_eq!(naive(&block, |text| matcher.matches(text)), expected, "replay with seed {seed}");
    }
}

#[test]
fn a_literal_in_any_case_finds_what_a_look_at_every_record_finds() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let q = random_text(&mut dice, 3);
        let invert = dice.one_in(3);
        let matcher = Matcher::new(&q, false, true, invert).unwrap();
        for _ in 0..4 {
            let block = random_block(&mut dice);
            let expected = naive(&block, |text| {
                (q.is_empty() || text.windows(q.len()).any(|window| window.eq_ignore_ascii_case(&q))) != invert
            });
            assert_eq!(scan(&matcher, &block), expected, "replay with seed {seed}");
        }
    }
}

/// A random expression. Not every one is valid; those that are not are passed over and counted.
fn random_pattern(dice: &mut Dice, depth: u32) -> String {
    const ATOMS: &[&str] = &[
        "a",
        "b",
        "c",
        "0",
        "A",
        "ab",
        "aa",
        "00",
        " ",
        "ä",
        ".",
        r"\s",
        r"\S",
        r"\d",
        r"\D",
        r"\w",
        r"\W",
        r"\n",
        r"\r",
        r"\t",
        "[ab]",
        "[^a]",
        "[^ab0]",
        r"[^\n]",
        r"[\n a]",
        r"[\s\S]",
        "[0-9A-Z]",
        "[[:^alpha:]]",
        "^",
        "$",
        r"\A",
        r"\z",
        r"\b",
        r"\B",
        r"\b{start}",
        r"\b{end}",
        r"\b{start-half}",
        r"(?-u:\xFF)",
        r"(?-u:[\x80-\xff])",
        "(?s:.)",
        "(?m:^)",
        "(?m:$)",
        "(?mR:^)",
        "(?mR:$)",
        "(?R:.)",
        "",
        r"\.",
        r"\x00",
        r"\pL",
        "a\n",
        "(?u:\\W)",
    ];
    if depth == 0 || dice.one_in(4) {
        return ATOMS[dice.below(ATOMS.len() as u64) as usize].to_string();
    }
    let sub = |dice: &mut Dice| random_pattern(dice, depth - 1);
    match dice.below(10) {
        0..=3 => (0..2 + dice.below(2)).map(|_| sub(dice)).collect(),
        4 | 5 => format!("(?:{}|{})", sub(dice), sub(dice)),
        6 => format!("({})", sub(dice)),
        7 => {
            let flags = ["i", "s", "m", "R", "mR", "U", "is", "-u", "x"];
            format!("(?{}:{})", flags[dice.below(flags.len() as u64) as usize], sub(dice))
        }
        _ => {
            let times = ["*", "+", "?", "*?", "+?", "{2}", "{1,2}", "{0}", "{2,}", "{0,1}?"];
            format!("(?:{}){}", sub(dice), times[dice.below(times.len() as u64) as usize])
        }
    }
}

/// What the regex crate itself says of each text, with none of our machinery.
fn reference(pattern: &str, ignore_case: bool) -> Option<Regex> {
    let build = |unicode| RegexBuilder::new(pattern).unicode(unicode).case_insensitive(ignore_case).build().ok();
    let unicode = !pattern.is_ascii();
    build(unicode).or_else(|| build(!unicode))
}

#[test]
fn an_expression_finds_what_a_look_at_every_record_finds() {
    let (mut valid, mut sieved) = (0, 0);
    for seed in 0..6_000 {
        let mut dice = Dice::new(seed);
        let pattern = random_pattern(&mut dice, 4);
        let (ignore_case, invert) = (dice.one_in(4), dice.one_in(4));
        let Some(expected) = reference(&pattern, ignore_case) else {
            assert!(Matcher::new(pattern.as_bytes(), true, ignore_case, invert).is_err(), "{pattern:?}, seed {seed}");
            continue;
        };
        valid += 1;
        let matcher = Matcher::new(pattern.as_bytes(), true, ignore_case, invert).unwrap();
        sieved += usize::from(matches!(&matcher.how, How::Regex(Pattern { sieve: Some(_), .. })));
        for _ in 0..5 {
            let block = random_block(&mut dice);
            let expected = naive(&block, |text| expected.is_match(text) != invert);
            let shown = block.escape_ascii();
            assert_eq!(scan(&matcher, &block), expected, "{pattern:?} on {shown}, replay with seed {seed}");
        }
    }
    assert!(valid > 4_000 && sieved > 1_500, "{valid} valid, {sieved} of them with a sieve: too few to tell");
}

#[test]
fn ids_and_line_ends_are_never_part_of_a_match() {
    let block = block_of(&[b"foo", b"bar 0", b"", b"00000000000000000000000000"]);
    let found = |q: &[u8], regex| texts_found(&Matcher::new(q, regex, false, false).unwrap(), &block);
    assert_eq!(found(b"0", false), [&b"bar 0"[..], b"00000000000000000000000000"]);
    assert_eq!(found(b" foo", false), Vec::<&[u8]>::new());
    assert_eq!(found(b"^foo$", true), [b"foo"]);
    assert_eq!(found(br"foo\s", true), Vec::<&[u8]>::new());
    assert_eq!(found(br"foo[^x]", true), Vec::<&[u8]>::new());
    assert_eq!(found(br"(?s)o.*b", true), Vec::<&[u8]>::new());
    assert_eq!(found(b"^$", true), [b""]);
    assert_eq!(found(br"\Abar|foo\z", true), [&b"foo"[..], b"bar 0"]);
    assert_eq!(found(b"foo\n", false), Vec::<&[u8]>::new());
    assert_eq!(found(b"[0-9A-Z]{26}", true), [b"00000000000000000000000000"]);
}

#[test]
fn an_empty_needle_takes_the_whole_block_and_its_inverse_nothing() {
    let block = block_of(&[b"a", b"", b"c"]);
    let all = Matcher::new(b"", false, false, false).unwrap();
    assert!(all.takes_all());
    assert_eq!(texts_found(&all, &block), [&b"a"[..], b"", b"c"]);
    assert_eq!(scan(&all, &block).len(), 1);
    assert!(scan(&all, b"").is_empty());
    assert!(scan(&Matcher::new(b"", true, true, true).unwrap(), &block).is_empty());
    let inverted_lf = Matcher::new(b"\n", false, false, true).unwrap();
    assert!(inverted_lf.takes_all());
    assert_eq!(scan(&inverted_lf, &block).len(), 1);
}

#[test]
fn a_needle_longer_than_a_block_is_found_where_it_is() {
    let long = vec![b'x'; 300_000];
    let matcher = Matcher::new(&long, false, false, false).unwrap();
    assert!(scan(&matcher, &block_of(&[b"xxx"])).is_empty());
    assert_eq!(texts_found(&matcher, &block_of(&[b"a", &long, b"b"])), [&long[..]]);
}

#[test]
fn unicode_is_there_for_those_who_need_it() {
    let block = block_of(&["Straße ÄPFEL".as_bytes(), b"\xff\xe4"]);
    let found =
        |q: &[u8], regex, ignore_case| texts_found(&Matcher::new(q, regex, ignore_case, false).unwrap(), &block);
    assert_eq!(found("äpfel".as_bytes(), false, true).len(), 1);
    assert_eq!(found("stra.e".as_bytes(), true, true).len(), 0);
    assert_eq!(found("stra(ß|ss)e".as_bytes(), true, true).len(), 1);
    assert_eq!(found(br"\p{Lu}{3}", true, false).len(), 1);
    assert_eq!(found(b"\xff", false, true), [b"\xff\xe4"]);
}

#[test]
fn what_is_no_expression_or_too_much_of_one_is_refused_in_one_sentence() {
    let long = "a".repeat(LONGEST_PATTERN + 1);
    let cases: [(&[u8], &str); 5] = [
        (b"(", "q is not a regular expression: unclosed group"),
        (b"a{2,1}", "q is not a regular expression: invalid repetition count range"),
        (b"\xff", "q is a regular expression but not UTF-8"),
        (long.as_bytes(), "q is a regular expression of 4097 bytes, more than the 4096 allowed"),
        (br"(\w{500}){500}", "more than the 4 MiB allowed"),
    ];
    for (q, expected) in cases {
        let sentence = Matcher::new(q, true, false, false).unwrap_err().to_string();
        assert!(sentence.contains(expected) && !sentence.contains('\n'), "{sentence}");
        assert!(q.len() > LONGEST_PATTERN || Matcher::new(q, false, true, false).is_ok());
    }
}

#[test]
fn bytes_that_are_no_stored_records_do_no_harm() {
    for seed in 0..3_000 {
        let mut dice = Dice::new(seed);
        let mut junk = random_text(&mut dice, 90);
        junk.iter_mut().for_each(|b| *b = if *b == b'c' { b'\n' } else { *b });
        for (q, regex) in [(&b"a"[..], false), (b"a", true), (b"^b|0$", true), (b"x*", true)] {
            let matcher = Matcher::new(q, regex, dice.one_in(2), dice.one_in(2)).unwrap();
            assert!(scan(&matcher, &junk).iter().all(|range| range.end <= junk.len()), "replay with seed {seed}");
        }
    }
}
