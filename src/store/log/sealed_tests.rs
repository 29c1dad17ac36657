//! The same for sealed files, by hand and at random.

use super::*;
use crate::segment::Form;
use crate::segment::sealed::{Block, Sealed, SealedWriter};

/// A sealed file of these records in blocks of about 100 bytes, three records each.
fn sealed(body: &[u8]) -> Vec<u8> {
    parts(body).0
}

/// The same with its blocks.
fn parts(body: &[u8]) -> (Vec<u8>, Vec<Block>) {
    let fs = MemoryFs::new();
    write_file(&fs, "f", b"");
    let path = Path::new(DIR).join("f");
    let file = fs.open_append(&path).expect("there");
    let mut writer = SealedWriter::with_blocks_of(100, file.clone()).expect("a writer");
    writer.append(body).and_then(|()| writer.finish()).expect("in memory");
    let blocks = Sealed::open(file).expect("sound").blocks().to_vec();
    (files(&fs).remove("f").expect("there"), blocks)
}

fn resting(first: u128, last: u128) -> String {
    file_name(first, last, 0, State::Sealed)
}

fn many() -> Vec<u8> {
    body(1..41, "good")
}

fn all_but(lost: std::ops::Range<u128>) -> Vec<u128> {
    (1..41).filter(|id| !lost.contains(id)).collect()
}

/// Damages the middle of a block, and gives its ids.
fn hurt(file: &mut [u8], block: &Block) -> std::ops::Range<u128> {
    file[(block.offset + u64::from(block.packed) / 2) as usize] ^= 0x40;
    block.first.0..block.last.0 + 1
}

#[test]
fn a_sealed_file_is_told_by_its_content_and_rests_under_its_own_name() {
    let packed = sealed(&many());
    let everything: Vec<u128> = (1..41).collect();
    check(&[(&resting(1, 40), &packed)], &[&resting(1, 40)], &everything, 0);
    for n in [0, 3] {
        check(&[(&file_name(1, 40, n, State::Reading), &packed)], &[&resting(1, 40)], &everything, 0);
    }
    check(&[(&flushed(1, 40), &packed)], &[&resting(1, 40)], &everything, 0);
    check(&[(&resting(5, 7), &body(GOOD, "good"))], &[&flushed(5, 7)], &GOOD, 0);
    // Both forms under one name, and both interrupted.
    let twice: Vec<u128> = everything.iter().flat_map(|id| [*id, *id]).collect();
    let (plain, reading) = (file_name(1, 40, 1, State::Reading), file_name(1, 40, 0, State::Reading));
    let after = [resting(1, 40), flushed(1, 40)];
    check(&[(&reading, &packed), (&plain, &many())], &[&after[0], &after[1]], &twice, 0);
    let second = file_name(1, 40, 1, State::Sealed);
    check(&[(&after[1], &packed), (&after[0], &many())], &[&second, &after[1]], &twice, 0);
}

#[test]
fn a_sealed_file_with_a_wrong_name_goes_on_under_the_right_one() {
    let (packed, everything) = (sealed(&many()), (1..41).collect::<Vec<u128>>());
    for name in [resting(1, 39), resting(2, 40), flushed(7, 8), file_name(1, 50, 2, State::Reading)] {
        check(&[(&name, &packed)], &[&resting(1, 40)], &everything, 1);
    }
    for name in ["backup.sealed", "x.flushed", "x.active"] {
        check(&[(name, &packed)], &[&resting(1, 40)], &everything, 0);
    }
    check(&[(&file_name(1, 1, 0, State::Active), &packed)], &[], &[], 0);
}

#[test]
fn a_version_that_is_not_known_is_set_aside_as_it_is() {
    let mut packed = sealed(&many());
    let version = packed.len() - 12;
    packed[version] = 2;
    // What is in its footer, and how that is checked, is another matter too.
    packed[version - 10] ^= 1;
    for name in [resting(1, 40), flushed(1, 40), file_name(1, 40, 0, State::Reading), "x.sealed".to_string()] {
        check(&[(&name, &packed)], &[&format!("{name}.corrupt")], &[], 1);
    }
}

#[test]
fn what_begins_as_a_sealed_file_and_is_none_is_set_aside() {
    let magic = [0x28, 0xB5, 0x2F, 0xFD];
    let foreign = zstd::encode_all(&b"what a person has compressed\n"[..], 3).expect("in memory");
    for content in [&magic[..], &[&magic[..], &[0; 900]].concat(), &foreign] {
        check(&[(&resting(1, 40), content)], &[&format!("{}.corrupt", resting(1, 40))], &[], 1);
    }
}

#[test]
fn a_damaged_index_costs_no_record_and_no_start() {
    let (packed, blocks) = parts(&many());
    let index = blocks.iter().map(|block| (block.offset + u64::from(block.packed)) as usize).max().expect("blocks");
    let end = packed.len();
    type Damage = Box<dyn Fn(&mut Vec<u8>)>;
    let damages: [(&str, Damage); 7] = [
        ("the table", Box::new(move |file| file[index + 10] ^= 1)),
        ("a frame header of the index", Box::new(move |file| file[index] ^= 1)),
        ("the footer", Box::new(move |file| file[end - 40] ^= 1)),
        ("the end tag", Box::new(move |file| file[end - 1] ^= 1)),
        ("the footer is cut off", Box::new(move |file| file.truncate(end - 100))),
        ("the index is cut off", Box::new(move |file| file.truncate(index))),
        ("something was appended", Box::new(|file| file.extend(b"something"))),
    ];
    for (what, damage) in damages {
        let fs = MemoryFs::new();
        let mut file = packed.clone();
        damage(&mut file);
        write_file(&fs, &resting(1, 40), &file);
        for round in 0..2 {
            let log = open(&fs);
            assert_eq!(found(&log), (1..41).collect::<Vec<_>>(), "{what}, round {round}");
            assert_eq!(names(&fs), [resting(1, 40)], "{what}, round {round}");
            let segment = log.snapshot(Id(0), Id::MAX).pop().expect("one");
            assert_eq!((segment.form(), segment.take_damaged()), (Form::Sealed, false), "{what}");
            assert_eq!(segment.has_damaged_index(), what != "a frame header of the index", "{what}");
        }
    }
}

#[test]
fn of_a_damaged_file_each_block_that_is_whole_goes_on() {
    let (packed, blocks) = parts(&many());
    let index = blocks.iter().map(|block| (block.offset + u64::from(block.packed)) as usize).max().expect("blocks");
    let (name, aside) = (resting(1, 40), format!("{}.corrupt", resting(1, 40)));
    // The footer is damaged too: the start sees it.
    let mut file = packed.clone();
    let lost = hurt(&mut file, &blocks[4]);
    file[index + 10] ^= 1;
    let end = file.len();
    file[end - 1] ^= 1;
    check(&[(&name, &file)], &[&flushed(1, 40), &aside], &all_but(lost), 1);
    // Cut off within a block.
    let cut = &packed[..(blocks[9].offset + 20) as usize];
    let last = blocks[8].last.0;
    let fs = MemoryFs::new();
    write_file(&fs, &name, cut);
    for round in 0..2 {
        let log = open(&fs);
        assert_eq!((found(&log), names(&fs)), (all_but(last + 1..41), vec![resting(1, last)]), "round {round}");
        assert_eq!(log.corrupt().get(), 1, "round {round}: that records are gone, then that it has no index");
    }
    // Its first block, or its last one: its ends are those in its footer, so it is found by whoever reads it.
    for block in [&blocks[0], &blocks[blocks.len() - 1], &blocks[7]] {
        let fs = MemoryFs::new();
        let mut file = packed.clone();
        let lost = hurt(&mut file, block);
        write_file(&fs, &name, &file);
        let log = open(&fs);
        let segment = log.snapshot(Id(0), Id::MAX).pop().expect("its footer is sound");
        assert_eq!(log.corrupt().get(), 0);
        let text = segment.open().expect("its index is sound");
        assert!(crate::world::fs::read_full_at(&*text, &mut [0; 4_000], Bytes(0)).is_err());
        assert!(segment.take_damaged());
        log.set_aside(&segment).expect("room");
        assert_eq!(found(&log), all_but(lost.clone()));
        assert_eq!((log.corrupt().get(), files(&fs)[&aside] == file), (1, true));
        drop((text, segment, log));
        assert_eq!(found(&open(&fs)), all_but(lost));
    }
}

#[test]
fn a_sealed_file_whose_table_and_one_block_are_damaged_is_found_damaged_by_whoever_opens_it() {
    let (mut file, blocks) = parts(&many());
    let index = blocks.iter().map(|block| (block.offset + u64::from(block.packed)) as usize).max().expect("blocks");
    let lost = hurt(&mut file, &blocks[3]);
    file[index + 10] ^= 1;
    let fs = MemoryFs::new();
    write_file(&fs, &resting(1, 40), &file);
    let log = open(&fs);
    let segment = log.snapshot(Id(0), Id::MAX).pop().expect("its footer is sound");
    let refused = segment.open().map(drop).expect_err("records are missing").to_string();
    assert!(refused.contains("is damaged") && refused.contains("bytes of records are found"), "{refused}");
    assert!(segment.take_damaged());
    log.set_aside(&segment).expect("room");
    assert_eq!(found(&log), all_but(lost));
}

#[test]
fn wherever_one_byte_is_wrong_what_is_lost_is_one_block_at_most() {
    let (packed, blocks) = parts(&many());
    let most = blocks.iter().map(|block| block.records).max().expect("blocks") as usize;
    for seed in 0..600 {
        let mut dice = Dice::new(seed);
        let mut file = packed.clone();
        let at = dice.below(file.len() as u64) as usize;
        file[at] ^= 1 << dice.below(8);
        let fs = MemoryFs::new();
        write_file(&fs, &resting(1, 40), &file);
        let place = format!("byte {at} of {}, replay with seed {seed}", file.len());
        let log = open(&fs);
        // What a reader meets is set aside, as the housekeeper does.
        for segment in log.snapshot(Id(0), Id::MAX) {
            let read = segment.open().and_then(|text| {
                let mut all = vec![0; segment.digest().len.0 as usize];
                crate::world::fs::read_full_at(&*text, &mut all, Bytes(0))
            });
            assert_eq!(read.is_err(), segment.take_damaged(), "{place}");
            if read.is_err() {
                log.set_aside(&segment).unwrap_or_else(|e| panic!("{place}: {e}"));
            }
        }
        let left = found(&log);
        assert!(left.len() + most >= 40, "{place}: {} records are left", left.len());
        assert!(left.windows(2).all(|pair| pair[0] < pair[1]), "{place}: {left:?}");
        let kept = files(&fs).values().any(|content| *content == file);
        assert!(kept, "{place}: nothing is removed: {:?}", names(&fs));
        drop(log);
        assert_eq!(found(&open(&fs)), left, "{place}");
    }
}

#[test]
fn a_crash_at_any_operation_of_a_recovery_of_sealed_files_costs_nothing() {
    let build = |fs: &MemoryFs| {
        let (mut file, blocks) = parts(&many());
        hurt(&mut file, &blocks[4]);
        let end = file.len();
        file[end - 1] ^= 1;
        write_file(fs, &resting(1, 40), &file);
        write_file(fs, &flushed(50, 59), &sealed(&body(50..60, "good")));
        write_file(fs, &file_name(60, 69, 0, State::Reading), &sealed(&body(60..70, "good")));
        write_file(fs, &resting(70, 77), &sealed(&body(70..80, "good")));
        write_file(fs, &resting(80, 89), &body(80..90, "good"));
    };
    let expected = {
        let fs = MemoryFs::new();
        build(&fs);
        found(&open(&fs)).into_iter().collect::<BTreeSet<_>>()
    };
    assert!(expected.len() >= 77 && expected.contains(&89), "{expected:?}");
    for crash in 0.. {
        let mut ended = false;
        for again in 0..3 {
            let fs = MemoryFs::new();
            build(&fs);
            fs.crash_at(fs.operations() + crash);
            ended = try_open(&fs).is_ok();
            let seed = crash * 3 + again;
            fs.crash(&mut Dice::new(seed));
            fs.recover();
            let log = open(&fs);
            let now = found(&log).into_iter().collect::<BTreeSet<_>>();
            assert_eq!(now, expected, "crash at operation {crash}, replay with seed {seed}");
        }
        if ended {
            assert!(crash > 10, "the recovery is too small to show anything: {crash}");
            return;
        }
    }
}
