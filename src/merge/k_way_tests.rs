use super::*;
use crate::record::stored::write;
use crate::world::entropy::Dice;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Blocks in memory; counts how many of its kind are open.
struct Blocks {
    low: Id,
    blocks: std::vec::IntoIter<Vec<u8>>,
    is_open: bool,
    open: Rc<Cell<(usize, usize)>>,
}

impl Source for Blocks {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        if !self.is_open {
            let (now, most) = self.open.get();
            self.open.set((now + 1, most.max(now + 1)));
            self.is_open = true;
        }
        let Some(next) = self.blocks.next() else { return Ok(false) };
        if next == b"break" {
            return Err(io::Error::other("as the test wants").into());
        }
        *block = next;
        Ok(true)
    }

    fn low(&self) -> Id {
        self.low
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let (now, most) = self.open.get();
        self.open.set((now - usize::from(self.is_open), most));
    }
}

type Record = (u128, Vec<u8>);

fn blocks_of(stream: &[Record], mut per_block: impl FnMut() -> usize) -> Vec<Vec<u8>> {
    let (mut blocks, mut rest) = (Vec::new(), stream);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(per_block().min(rest.len()));
        let mut block = Vec::new();
        now.iter().for_each(|(id, text)| write(&mut block, Id(*id), text));
        blocks.push(block);
        rest = later;
    }
    blocks
}

fn source(blocks: Vec<Vec<u8>>, low: u128) -> Blocks {
    Blocks { low: Id(low), blocks: blocks.into_iter(), is_open: false, open: Rc::default() }
}

fn run_all<S: Source>(merge: &mut Merge<S>, at_least: usize) -> Result<Vec<u8>, MergeError> {
    let mut all = Vec::new();
    loop {
        let before = all.len();
        if !merge.next_run(&mut all, at_least)? {
            assert_eq!(all.len(), before);
            return Ok(all);
        }
    }
}

fn sort_and_dedupe(streams: &[Vec<Record>]) -> Vec<u8> {
    let mut by_id = BTreeMap::new();
    for (id, text) in streams.iter().flatten() {
        by_id.entry(*id).or_insert(text);
    }
    let mut all = Vec::new();
    by_id.into_iter().for_each(|(id, text)| write(&mut all, Id(id), text));
    all
}

fn random_stream(dice: &mut Dice, index: usize) -> Vec<Record> {
    let (span, base) = (1 + dice.below(200), dice.below(300));
    let mut ids: Vec<u128> = (0..dice.below(80)).map(|_| u128::from(base + dice.below(span))).collect();
    ids.sort_unstable();
    ids.dedup();
    // Texts differ between sources, so that the test sees whose copy was taken.
    ids.into_iter().map(|id| (id, format!("{index}{}", ".".repeat(dice.below(60) as usize)).into_bytes())).collect()
}

#[test]
fn a_merge_is_the_same_as_sort_and_dedupe() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let streams: Vec<Vec<Record>> = (0..dice.below(7) as usize).map(|i| random_stream(&mut dice, i)).collect();
        let sources = streams
            .iter()
            .map(|stream| {
                let low = stream.first().map_or(7, |(id, _)| id.saturating_sub(u128::from(dice.below(3))));
                let mut blocks = blocks_of(stream, || 1 + dice.below(30) as usize);
                if dice.one_in(4) {
                    blocks.insert(dice.below(blocks.len() as u64 + 1) as usize, Vec::new());
                }
                source(blocks, low)
            })
            .collect();
        let mut merge = if dice.one_in(2) { Merge::new(sources) } else { Merge::trusting(sources) };
        let merged = run_all(&mut merge, dice.below(500) as usize).unwrap();
        let expected = sort_and_dedupe(&streams);
        assert_eq!(merged, expected, "replay with seed {seed}");
        let given = records(&merged).count() as u64;
        let taken: u64 = streams.iter().map(|s| s.len() as u64).sum();
        assert_eq!(merge.duplicates(), taken - given, "replay with seed {seed}");
    }
}

#[test]
fn copies_of_streams_on_several_sources_are_given_once_wherever_their_blocks_end() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let streams: Vec<Vec<Record>> = (0..1 + dice.below(3) as usize).map(|i| random_stream(&mut dice, i)).collect();
        let mut given: Vec<Vec<Record>> = Vec::new();
        for stream in &streams {
            for _ in 0..1 + dice.below(3) {
                // A copy that lacks a record here and there, and where now and then a text is another one.
                let mut copy: Vec<Record> = stream.iter().filter(|_| !dice.one_in(20)).cloned().collect();
                if dice.one_in(3) {
                    copy.iter_mut().filter(|_| dice.one_in(9)).for_each(|record| record.1.push(b'!'));
                }
                given.push(copy);
            }
        }
        let mut sources = Vec::new();
        for stream in &given {
            let low = stream.first().map_or(0, |record| record.0);
            sources.push(source(blocks_of(stream, || 1 + dice.below(40) as usize), low));
        }
        let mut merge = if dice.one_in(2) { Merge::new(sources) } else { Merge::trusting(sources) };
        let merged = run_all(&mut merge, dice.below(500) as usize).unwrap();
        assert_eq!(merged, sort_and_dedupe(&given), "replay with seed {seed}");
        let taken: u64 = given.iter().map(|s| s.len() as u64).sum();
        assert_eq!(merge.duplicates(), taken - records(&merged).count() as u64, "replay with seed {seed}");
    }
}

#[test]
fn a_copy_that_breaks_is_named_and_what_the_other_has_comes_whole() {
    let stream: Vec<Record> = (0..50).map(|n| (n, b"same".to_vec())).collect();
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let mut faulty = 0;
        let mut sources = vec![source(blocks_of(&stream, || 1 + dice.below(9) as usize), 0)];
        for _ in 0..2 {
            let mut blocks = blocks_of(&stream, || 1 + dice.below(9) as usize);
            if dice.one_in(2) {
                let at = dice.below(blocks.len() as u64) as usize;
                match dice.below(3) {
                    0 => blocks[at] = b"break".to_vec(),
                    1 => blocks[at].extend_from_slice(b"not an id\n"),
                    _ => drop(blocks[at].pop()),
                }
                faulty += 1;
            }
            sources.insert(dice.below(sources.len() as u64 + 1) as usize, source(blocks, 0));
        }
        let mut merge = if dice.one_in(2) { Merge::new(sources) } else { Merge::trusting(sources) };
        let (mut out, mut errors) = (Vec::new(), 0);
        loop {
            match merge.next_run(&mut out, 64) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) => errors += 1,
            }
        }
        assert_eq!((errors, out == sort_and_dedupe(std::slice::from_ref(&stream))), (faulty, true), "seed {seed}");
    }
}

#[test]
fn nothing_merges_to_nothing() {
    assert_eq!(run_all(&mut Merge::<Blocks>::new(vec![]), 1).unwrap(), b"");
    assert_eq!(run_all(&mut Merge::new(vec![source(vec![], 3), source(vec![vec![]], 0)]), 1).unwrap(), b"");
}

#[test]
fn a_stream_of_a_million_records_merges_with_small_ones() {
    let mut dice = Dice::new(1);
    let long: Vec<Record> = (0..1_000_000).map(|n| (n * 3, b"x".to_vec())).collect();
    let short: Vec<Record> = (0..500).map(|n| (n * 6_001, b"y".to_vec())).collect();
    let streams = [long, short, vec![]];
    let sources = streams.iter().map(|s| source(blocks_of(s, || 1 + dice.below(2_000) as usize), 0)).collect();
    assert!(run_all(&mut Merge::new(sources), 1 << 16).unwrap() == sort_and_dedupe(&streams));
}

#[test]
fn a_source_is_open_only_while_the_merge_is_within_it() {
    let open = Rc::new(Cell::new((0, 0)));
    let sources: Vec<Blocks> = (0..50u128)
        .map(|n| {
            let stream: Vec<Record> = (0..20).map(|r| (n * 10 + r, vec![b'z'; 9])).collect();
            let blocks = blocks_of(&stream, || 3).into_iter();
            Blocks { low: Id(n * 10), blocks, is_open: false, open: open.clone() }
        })
        .collect();
    let mut merge = Merge::new(sources);
    assert_eq!(open.get(), (0, 0));
    run_all(&mut merge, 1).unwrap();
    let (now, most) = open.get();
    assert_eq!(now, 0);
    assert!(most <= 3, "{most} were open at once, of which two overlap");
}

#[test]
fn a_run_is_not_much_longer_than_was_asked_for() {
    let stream: Vec<Record> = (0..100).map(|n| (n, vec![b'z'; 9])).collect();
    let mut merge = Merge::new(vec![source(blocks_of(&stream, || 2), 0)]);
    let mut out = Vec::new();
    assert!(merge.next_run(&mut out, 100).unwrap());
    assert!((100..100 + 2 * 37).contains(&out.len()), "{}", out.len());
}

#[test]
fn a_bad_source_is_named_and_the_others_go_on() {
    let good: Vec<Record> = (0..9).map(|n| (n, b"good".to_vec())).collect();
    let sound = |id: u128| blocks_of(&[(id, b"x".to_vec())], || 1).remove(0);
    let cases: Vec<(Vec<Vec<u8>>, u128, &str)> = vec![
        (vec![sound(4), b"break".to_vec()], 0, "reading source 1 of a merge: as the test wants"),
        (vec![sound(4), sound(3)], 0, "is not larger than"),
        (vec![sound(4), sound(4)], 0, "is not larger than"),
        (vec![[sound(4), sound(2), sound(7)].concat()], 0, "is not larger than"),
        (vec![[sound(4), sound(4)].concat()], 0, "is not larger than"),
        (vec![sound(4), b"not an id\n".to_vec()], 0, "no id where a record must begin, at byte 29"),
        (vec![[&sound(4)[..], b"not an id\n", &sound(5)].concat()], 0, "at byte 29"),
        (vec![[&sound(4)[..], &sound(5)[..28]].concat()], 0, "has no LF"),
        (vec![sound(4)], 5, "is below its bound"),
    ];
    for (blocks, low, message) in cases {
        let mut merge = Merge::new(vec![source(blocks_of(&good, || 2), 0), source(blocks, low)]);
        let mut out = Vec::new();
        let error = loop {
            match merge.next_run(&mut out, 1) {
                Ok(more) => assert!(more, "{message}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.index(), 1, "{message}");
        assert!(error.to_string().contains(message), "{error}, not {message}");
        out.extend(run_all(&mut merge, 1).unwrap());
        assert_eq!(out, sort_and_dedupe(std::slice::from_ref(&good)), "{message}");
    }
}

/// Copies of one stream, which lack and change records here and there, and a stream of their own.
fn copies(dice: &mut Dice) -> Vec<Vec<Record>> {
    let original = random_stream(dice, 9);
    let mut streams: Vec<Vec<Record>> = (0..2 + dice.below(3))
        .map(|_| {
            let (lack, change) = (dice.below(4), dice.below(4));
            let mut copy = original.clone();
            copy.retain(|_| lack == 0 || dice.below(20) > 0);
            for (_, text) in &mut copy {
                if change == 0 && dice.below(20) == 0 {
                    text.push(b'!');
                }
            }
            copy
        })
        .collect();
    streams.push(random_stream(dice, 1));
    streams
}

#[test]
fn copies_of_the_same_records_are_merged_as_if_each_were_looked_at_by_itself() {
    for seed in 0..2_000 {
        let mut dice = Dice::new(seed);
        let streams = copies(&mut dice);
        let mut sources = Vec::new();
        for stream in &streams {
            let blocks = blocks_of(stream, || 1 + dice.below(30) as usize);
            sources.push(source(blocks, stream.first().map_or(7, |one| one.0)));
        }
        let mut merge = if dice.one_in(2) { Merge::new(sources) } else { Merge::trusting(sources) };
        let merged = run_all(&mut merge, 1 + dice.below(2_000) as usize).unwrap();
        assert!(merged == sort_and_dedupe(&streams), "replay with seed {seed}");
        let all: usize = streams.iter().map(Vec::len).sum();
        assert_eq!(merge.duplicates() as usize, all - records(&merged).count(), "replay with seed {seed}");
    }
}

#[test]
fn a_copy_that_breaks_is_told_of_and_costs_nothing_that_another_has() {
    for seed in 0..500 {
        let mut dice = Dice::new(seed);
        let stream = random_stream(&mut dice, 1);
        let mut blocks = |breaks: bool| {
            let mut blocks = blocks_of(&stream, || 1 + dice.below(30) as usize);
            let at = dice.below(blocks.len() as u64 + 1) as usize;
            if breaks {
                blocks.insert(at, b"break".to_vec());
            }
            blocks
        };
        let low = stream.first().map_or(7, |one| one.0);
        let broken = [false, true, true].map(|breaks| source(blocks(breaks), low));
        let mut merge = Merge::new(broken.into());
        let (mut merged, mut told) = (Vec::new(), Vec::new());
        loop {
            match merge.next_run(&mut merged, 1) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => told.push(error.index()),
            }
        }
        told.sort_unstable();
        assert_eq!(told, [1, 2], "replay with seed {seed}");
        assert!(merged == sort_and_dedupe(&[stream]), "replay with seed {seed}");
    }
}
