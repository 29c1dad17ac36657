//! What the matcher finds lies in blocks that the filter leaves, whatever the texts and the needle: the formula and the filter
//! together, against the plain look at every record.

use super::needle::Matcher;
use crate::record::id::Id;
use crate::record::stored;
use crate::segment::sealed::filter::{BlockSet, FilterBuilder, FilterShape, Formula, candidates};
use crate::world::entropy::Dice;

/// Few letters each, so that needles are found: words, numbers, what folds to letters from beyond ASCII, and no text at all.
const ALPHABETS: [&[&[u8]]; 5] = [
    &[b"a", b"b", b"A"],
    &[b"0", b"1", b"9", b"a", b"F", b"f", b"="],
    &[b"k", b"K", "\u{212A}".as_bytes(), b"s", b"S", "\u{17F}".as_bytes(), "é".as_bytes(), "É".as_bytes()],
    &[b"x", b"Y", b" ", b"\xff", b"\xc3", b"\0", b"\r", b"-", b".", b"["],
    &[b"one", b"Two", b" ", b"three", b"4bf92f35", b"=", b"timeout", b"\""],
];

struct Setting {
    alphabet: &'static [&'static [u8]],
    texts: Vec<Vec<Vec<u8>>>,
    blocks: Vec<Vec<u8>>,
}

impl Setting {
    fn new(dice: &mut Dice, alphabet: &'static [&'static [u8]]) -> Setting {
        let most = if dice.one_in(30) { 140 } else { 12 };
        let blocks = 1 + dice.below(most);
        let longest = [6, 30, 300][dice.below(3) as usize];
        let block_of_texts =
            |dice: &mut Dice| (0..1 + dice.below(4)).map(|_| letters(dice, alphabet, longest)).collect();
        let texts: Vec<Vec<Vec<u8>>> = (0..blocks).map(|_| block_of_texts(dice)).collect();
        let block_of = |texts: &Vec<Vec<u8>>| {
            let mut block = Vec::new();
            for text in texts {
                // The ids are of the same letters as some of the texts.
                let id = Id(u128::from(u64::MAX) << 50 | block.len() as u128);
                stored::write(&mut block, id, text);
            }
            block
        };
        Setting { alphabet, blocks: texts.iter().map(block_of).collect(), texts }
    }

    fn filter(&self) -> (FilterShape, Vec<u8>) {
        let mut builder = FilterBuilder::new();
        self.blocks.iter().for_each(|block| builder.add_block(block));
        builder.finish()
    }

    fn some_text(&self, dice: &mut Dice) -> &[u8] {
        let block = &self.texts[dice.below(self.texts.len() as u64) as usize];
        &block[dice.below(block.len() as u64) as usize]
    }

    /// Needle, whether it is an expression, whether in any case.
    fn needle(&self, dice: &mut Dice) -> (Vec<u8>, bool, bool) {
        let ignore_case = dice.one_in(3);
        let text = self.some_text(dice);
        let literal = piece(dice, text, 24).to_vec();
        match dice.below(5) {
            0 => (letters(dice, self.alphabet, 7), false, ignore_case),
            1 if ignore_case => (literal.to_ascii_uppercase(), false, true),
            1 => (literal, false, false),
            2 | 3 => (expression_of(dice, &String::from_utf8_lossy(&literal)).into_bytes(), true, ignore_case),
            _ => (expression(dice, self.alphabet, 3).into_bytes(), true, ignore_case),
        }
    }

    /// A block where the needle is found and that the filter does not leave.
    fn missed(&self, shape: &FilterShape, filter: &[u8], matcher: &Matcher) -> Option<usize> {
        let left = left_by(shape, filter, &matcher.formula());
        let mut found = Vec::new();
        (0..self.blocks.len()).find(|block| {
            matcher.scan(&self.blocks[*block], &mut found);
            !found.is_empty() && !left.contains(*block as u32)
        })
    }
}

fn left_by(shape: &FilterShape, filter: &[u8], formula: &Formula) -> BlockSet {
    let found = candidates(formula, shape, &mut |at, buffer| {
        buffer.copy_from_slice(&filter[at as usize..][..buffer.len()]);
        Ok(())
    });
    found.expect("memory can be read").expect("a sound filter")
}

fn letters(dice: &mut Dice, alphabet: &[&[u8]], most: u64) -> Vec<u8> {
    let letter = |dice: &mut Dice| alphabet[dice.below(alphabet.len() as u64) as usize];
    (0..dice.below(most + 1)).flat_map(|_| letter(dice)).copied().collect()
}

fn piece<'a, T>(dice: &mut Dice, whole: &'a [T], most: u64) -> &'a [T] {
    let from = &whole[dice.below(whole.len() as u64 + 1) as usize..];
    &from[..from.len().min(dice.below(most + 1) as usize)]
}

/// An expression that matches this text, told more or less exactly.
fn expression_of(dice: &mut Dice, text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut rest = &letters[..];
    let mut expression = String::new();
    while !rest.is_empty() {
        let (some, later) = rest.split_at(rest.len().min(1 + dice.below(7) as usize));
        rest = later;
        let exact = regex_syntax::escape(&some.iter().collect::<String>());
        expression += &match dice.below(9) {
            0 => format!("(?:zebra|{exact}|q)"),
            1 => format!("({exact}){}", ["+", "{1,3}", "*", "?", "{1}"][dice.below(5) as usize]),
            2 => some.iter().map(|letter| format!("[{}z]", regex_syntax::escape(&letter.to_string()))).collect(),
            3 => some.iter().map(|_| '.').collect(),
            4 => format!("(?i:{})", exact.to_lowercase()),
            5 => ".*".to_string(),
            _ => exact,
        };
    }
    expression
}

fn expression(dice: &mut Dice, alphabet: &[&[u8]], depth: u64) -> String {
    if depth == 0 || dice.one_in(5) {
        let odd = [".", r"\w", r"\d", r"\s", "[0-9a-f]", "[^a]", "[a-k]", r"\x00", r"(?-u:\xff)", "^", "$", r"\b", ""];
        return match dice.below(3) {
            0 => odd[dice.below(odd.len() as u64) as usize].to_string(),
            _ => regex_syntax::escape(&String::from_utf8_lossy(&letters(dice, alphabet, 4))),
        };
    }
    let mut sub = || expression(dice, alphabet, depth - 1);
    let (one, two, three) = (sub(), sub(), sub());
    match dice.below(8) {
        0 => format!("(?:{one}|{two})"),
        1 => format!("({one}|{two}|{three})"),
        2 => format!("(?:{one}){}", ["*", "+", "?", "{2}", "{2,}", "{1,3}", "{9}"][dice.below(7) as usize]),
        3 => format!("(?i:{one})"),
        _ => format!("{one}{two}{three}"),
    }
}

#[test]
fn what_is_found_lies_in_blocks_that_the_filter_leaves() {
    let least = if std::env::var_os("OKLOG_TEST_LONG").is_some() { 5_000_000 } else { 200_000 };
    let (mut tried, mut hits, mut spared, mut seed) = (0, 0, 0, 0);
    while tried < least {
        let mut dice = Dice::new(seed);
        let setting = Setting::new(&mut dice, ALPHABETS[seed as usize % ALPHABETS.len()]);
        let (shape, filter) = setting.filter();
        for _ in 0..30 {
            let (q, regex, ignore_case) = setting.needle(&mut dice);
            let Ok(matcher) = Matcher::new(&q, regex, ignore_case, dice.one_in(20)) else { continue };
            tried += setting.texts.iter().map(Vec::len).sum::<usize>();
            hits += setting.texts.iter().flatten().filter(|text| matcher.matches(text)).count();
            spared += setting.blocks.len() - left_by(&shape, &filter, &matcher.formula()).count() as usize;
            let missed = setting.missed(&shape, &filter, &matcher);
            let needle = String::from_utf8_lossy(&q);
            assert_eq!(
                missed,
                None,
                "replay with seed {seed}: {needle:?}, {regex} {ignore_case}, {:?}",
                matcher.formula()
            );
        }
        seed += 1;
    }
    // Otherwise nothing was tried.
    assert!(hits > least / 10 && spared > least / 50, "{hits} of {tried} found, {spared} blocks spared");
}

#[test]
fn a_filter_that_forgets_one_row_is_caught() {
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        // None that are digits: what is in front of a number at the start of a needle is not known.
        let setting = Setting::new(&mut dice, &[b"k", b"l", b"m", b"n", b"o", b"p", b" "]);
        let (shape, sound) = setting.filter();
        let texts = || setting.texts.iter().flatten();
        let needles: Vec<Matcher> = texts()
            .flat_map(|text| text.windows(4))
            .map(|needle| Matcher::new(needle, false, false, false).expect("a needle"))
            .collect();
        let is_caught = |filter: &[u8]| needles.iter().any(|needle| setting.missed(&shape, filter, needle).is_some());
        assert!(!is_caught(&sound), "replay with seed {seed}");
        let rows: Vec<usize> =
            (0..1 << shape.rows_log2()).filter(|row| forget(&shape, &mut sound.clone(), *row)).collect();
        assert_eq!(rows.is_empty(), needles.is_empty(), "replay with seed {seed}");
        if let Some(row) = rows.get(dice.below(rows.len() as u64) as usize) {
            let mut filter = sound.clone();
            forget(&shape, &mut filter, *row);
            assert!(is_caught(&filter), "replay with seed {seed}: row {row}");
        }
    }
}

/// Takes all blocks out of a row, and makes the checksum right. Whether any was in it.
fn forget(shape: &FilterShape, filter: &mut [u8], row: usize) -> bool {
    let (rows, blocks) = (1 << shape.group_log2(), shape.blocks() as usize);
    let len = rows * blocks / 8;
    let (bits, checksum) = filter[row / rows * (len + 4)..][..len + 4].split_at_mut(len);
    let mut was_in = false;
    for bit in row % rows * blocks..(row % rows + 1) * blocks {
        was_in |= bits[bit / 8] >> (bit % 8) & 1 == 1;
        bits[bit / 8] &= !(1 << (bit % 8));
    }
    checksum.copy_from_slice(&crc32fast::hash(bits).to_le_bytes());
    was_in
}
