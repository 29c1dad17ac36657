use super::*;
use crate::record::id::Id;
use crate::record::stored;
use crate::world::entropy::Dice;

/// A block of records with these texts.
fn block_of(texts: &[&[u8]]) -> Vec<u8> {
    let mut block = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        stored::write(&mut block, Id(n as u128 + 1), text);
    }
    block
}

fn filter_of(blocks: &[Vec<u8>]) -> (FilterShape, Vec<u8>) {
    let mut builder = FilterBuilder::new();
    for block in blocks {
        builder.add_block(block);
    }
    builder.finish()
}

/// The candidates, with how many reads it took.
fn look(formula: &Formula, shape: &FilterShape, filter: &[u8]) -> (Option<BlockSet>, usize) {
    let mut reads = 0;
    let found = candidates(formula, shape, &mut |at, buffer| {
        reads += 1;
        let from = usize::try_from(at).expect("a place in memory");
        buffer.copy_from_slice(&filter[from..from + buffer.len()]);
        Ok(())
    });
    (found.expect("memory can be read"), reads)
}

fn found(formula: &Formula, shape: &FilterShape, filter: &[u8]) -> Vec<u32> {
    look(formula, shape, filter).0.expect("a sound filter").iter().collect()
}

fn holds(literal: &str) -> Formula {
    Formula::Holds(literal.as_bytes().to_vec())
}

#[test]
fn a_literal_is_looked_for_in_any_case_and_within_one_text_only() {
    let blocks =
        [block_of(&[b"Hello World", b"nothing"]), block_of(&[b"hel", b"lo w", b"orld"]), block_of(&[b"x hELLO wORLD"])];
    let (shape, filter) = filter_of(&blocks);
    assert_eq!(shape.len(), filter.len() as u64);
    assert_eq!(found(&holds("hello world"), &shape, &filter), [0, 2]);
    assert_eq!(found(&holds("HELLO"), &shape, &filter), [0, 2]);
    assert_eq!(found(&holds("lo w"), &shape, &filter), [0, 1, 2]);
    assert_eq!(found(&holds("001 hello"), &shape, &filter), [0; 0], "ids are not in it");
}

#[test]
fn a_formula_joins_and_parts_what_its_literals_find() {
    let (shape, filter) =
        filter_of(&[block_of(&[b"alpha beta"]), block_of(&[b"alpha"]), block_of(&[b"beta"]), block_of(&[b"gamma"])]);
    let (alpha, beta, gamma) = (holds("alpha"), holds("beta"), holds("gamma"));
    let found = |formula: Formula| found(&formula, &shape, &filter);
    assert_eq!(found(Formula::Any), [0, 1, 2, 3]);
    assert_eq!(found(holds("abc")), [0, 1, 2, 3], "shorter than a sequence");
    assert_eq!(found(Formula::All(vec![alpha.clone(), beta.clone()])), [0]);
    assert_eq!(found(Formula::OneOf(vec![alpha.clone(), gamma.clone()])), [0, 1, 3]);
    assert_eq!(found(Formula::All(vec![Formula::OneOf(vec![beta, gamma]), alpha])), [0]);
    assert_eq!(found(Formula::All(vec![])), [0, 1, 2, 3]);
    assert_eq!(found(Formula::OneOf(vec![])), [0; 0]);
}

#[test]
fn a_number_is_looked_for_from_its_second_sequence_on() {
    let texts: [&[u8]; 4] = [b"id=4BF92f3577b34da6", b"4bf92f3577b34da6", b"x4bf9 2f35 77b3", b"4bf"];
    let (shape, filter) = filter_of(&texts.map(|text| block_of(&[text])));
    let found = |literal| found(&holds(literal), &shape, &filter);
    assert_eq!(found("4bf92f3577b34da6"), [0, 1]);
    assert_eq!(found("=4bf92f3577b34da6"), [0]);
    assert_eq!(found("F92F3577B34D"), [0, 1]);
    assert_eq!(found("4bf9"), [0, 1, 2, 3], "what is in front may be a digit");
    assert_eq!(found("x4bf9"), [2]);
}

#[test]
fn small_blocks_make_a_small_filter_and_varied_ones_a_large_one() {
    let (shape, filter) = filter_of(&[block_of(&[b"few words"])]);
    assert_eq!((shape.rows_log2(), filter.len()), (6, 12));
    let mut dice = Dice::new(1);
    let text: Vec<u8> = (0..200_000).map(|_| b'a' + dice.below(26) as u8).collect();
    let (shape, filter) = filter_of(&[block_of(&[&text])]);
    assert_eq!((shape.rows_log2(), filter.len()), (16, 2 * (4096 + 4)));
    assert_eq!(found(&Formula::Holds(text[70_000..70_050].to_vec()), &shape, &filter), [0]);
}

#[test]
fn a_filter_of_many_blocks_is_what_the_blocks_alone_say() {
    let mut dice = Dice::new(7);
    for blocks in [1, 2, 7, 8, 63, 64, 65, 100, 129, 513] {
        let texts: Vec<Vec<u8>> =
            (0..blocks).map(|_| (0..200).map(|_| b'g' + dice.below(20) as u8).collect()).collect();
        let (shape, filter) = filter_of(&texts.iter().map(|text| block_of(&[text])).collect::<Vec<_>>());
        assert_eq!(shape.len(), filter.len() as u64);
        let rows: Vec<Vec<usize>> = texts
            .iter()
            .map(|text| {
                text.windows(4).map(|gram| row_of(hash(gram.try_into().expect("four"), 0), shape.rows_log2())).collect()
            })
            .collect();
        for _ in 0..100 {
            let gram: [u8; 4] = std::array::from_fn(|_| b'g' + dice.below(20) as u8);
            let row = row_of(hash(gram, 0), shape.rows_log2());
            let expected: Vec<u32> = (0..blocks).filter(|block| rows[*block as usize].contains(&row)).collect();
            assert_eq!(found(&Formula::Holds(gram.to_vec()), &shape, &filter), expected, "{blocks} blocks, {gram:?}");
        }
    }
}

#[test]
fn a_group_is_read_once_and_nothing_is_read_for_what_asks_for_nothing() {
    let (shape, filter) = filter_of(&[block_of(&[b"zzzzzzzzzzzzzzz"])]);
    assert_eq!(shape.rows_log2(), shape.group_log2());
    assert_eq!(look(&holds("zzzzzzzzzzzzzzz"), &shape, &filter).1, 1);
    assert_eq!(look(&Formula::Any, &shape, &filter).1, 0);
    assert_eq!(look(&holds("abc"), &shape, &filter).1, 0);
}

#[test]
fn a_damaged_group_is_noticed_where_it_is_read_and_only_there() {
    let mut dice = Dice::new(3);
    let texts: Vec<Vec<u8>> = (0..64).map(|_| (0..20_000).map(|_| dice.roll() as u8 | 0x80).collect()).collect();
    let (shape, sound) = filter_of(&texts.iter().map(|text| block_of(&[text])).collect::<Vec<_>>());
    let groups = 1u32 << (shape.rows_log2() - shape.group_log2());
    assert!(groups > 4, "{shape:?}");
    let needle = Formula::Holds(texts[9][500..504].to_vec());
    let noticed = |at: usize| {
        let mut filter = sound.clone();
        filter[at] ^= 1 << (at % 8);
        look(&needle, &shape, &filter).0.is_none()
    };
    let group_len = sound.len() / groups as usize;
    let seen = (0..groups as usize).filter(|group| noticed(group * group_len + 11)).count();
    assert_eq!(seen, 1, "one row, one group");
    let seen = (0..groups as usize).filter(|group| noticed((group + 1) * group_len - 1)).count();
    assert_eq!(seen, 1, "in its checksum");
}

#[test]
fn an_error_of_the_file_is_handed_on() {
    let (shape, _) = filter_of(&[block_of(&[b"some text"])]);
    let refused = candidates(&holds("text"), &shape, &mut |_, _| Err(io::ErrorKind::NotFound.into()));
    assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
}

#[test]
fn numbers_that_no_filter_has_are_refused() {
    for (blocks, rows_log2, group_log2) in
        [(0, 15, 6), (1, 5, 5), (1, 21, 6), (1, 15, 5), (1, 15, 16), (7, 255, 255), (7, 0, 0), (1, 64, 6)]
    {
        assert_eq!(FilterShape::new(blocks, rows_log2, group_log2), None, "{blocks} {rows_log2} {group_log2}");
    }
    let largest = FilterShape::new(u32::MAX, 20, 6).expect("a shape, though no disk has it");
    assert!(largest.len() > 1 << 48 && largest.len() < 1 << 50);
    let (made, _) = filter_of(&[block_of(&[b"some text"])]);
    assert_eq!(FilterShape::new(made.blocks(), made.rows_log2(), made.group_log2()), Some(made));
    let (none, filter) = FilterBuilder::new().finish();
    assert!(none.is_empty() && filter.is_empty());
}

#[test]
fn a_set_of_blocks_is_a_set() {
    let mut dice = Dice::new(11);
    for blocks in [1, 5, 63, 64, 65, 200] {
        let (mut one, mut other) = (BlockSet::none(blocks), BlockSet::none(blocks));
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        for block in 0..blocks {
            if dice.one_in(2) {
                one.insert(block);
                ones.push(block);
            }
            if dice.one_in(3) {
                other.insert(block);
                others.push(block);
            }
        }
        one.insert(blocks);
        assert!(one.iter().eq(ones.iter().copied()) && one.count() as usize == ones.len() && !one.contains(blocks));
        assert!(one.iter().rev().eq(ones.iter().rev().copied()));
        let with = |change: fn(&mut BlockSet, &BlockSet)| {
            let mut set = one.clone();
            change(&mut set, &other);
            set.iter().collect::<Vec<_>>()
        };
        let expect = |take: fn(bool, bool) -> bool| {
            (0..blocks).filter(|block| take(ones.contains(block), others.contains(block))).collect::<Vec<_>>()
        };
        assert_eq!(with(BlockSet::and), expect(|a, b| a && b));
        assert_eq!(with(BlockSet::or), expect(|a, b| a || b));
        assert_eq!(with(BlockSet::minus), expect(|a, b| a && !b));
        let all = BlockSet::all(blocks);
        assert!(all.count() == blocks && all.iter().eq(0..blocks) && !all.is_empty() && all.blocks() == blocks);
        assert!(BlockSet::none(blocks).is_empty());
    }
}
