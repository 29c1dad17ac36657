use super::*;
use crate::record::stored::{self, records};
use crate::world::entropy::Dice;
use crate::world::fs::FileSystem;
use crate::world::fs::memory::{MemoryFs, Op};
use std::path::Path;
use std::sync::Arc;

fn file_with(bytes: &[u8]) -> (MemoryFs, Arc<dyn File>) {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("d")).expect("in memory");
    let file = fs.create_new(Path::new("d/f")).expect("in memory");
    file.append(bytes).expect("in memory");
    (fs, file)
}

fn body(ids: &[u128]) -> Vec<u8> {
    let mut bytes = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut bytes, Id(*id), b"text"));
    bytes
}

/// The runs of a file, by the numbers of their ids, and what was found.
fn sifted(bytes: &[u8]) -> (Vec<Vec<u128>>, Survey) {
    let (_fs, file) = file_with(bytes);
    let mut runs: Vec<Vec<u128>> = Vec::new();
    let mut keep = |run: usize, kept: &[u8]| {
        runs.resize(runs.len().max(run + 1), Vec::new());
        runs[run].extend(records(kept).map(|record| record.id().expect("a record").0));
        Ok(())
    };
    let survey = sift(&*file, &|_| true, &mut keep).expect("readable");
    assert_eq!(survey.records(), runs.iter().map(|run| run.len() as u64).sum::<u64>());
    (runs, survey)
}

fn runs(ids: &[u128]) -> Vec<Vec<u128>> {
    sifted(&body(ids)).0
}

#[test]
fn what_is_whole_on_both_sides_of_damage_is_kept() {
    for (spoilt, left) in [(vec![1], vec![1, 3, 4]), (vec![0, 3], vec![2, 3]), (vec![0, 1, 2, 3], vec![])] {
        let mut bytes = body(&[1, 2, 3, 4]);
        let len = bytes.len() / 4;
        spoilt.iter().for_each(|n| bytes[n * len + 3] = b'!');
        let (runs, survey) = sifted(&bytes);
        assert_eq!(runs.concat(), left);
        assert_eq!(survey.flaw, Some(Flaw::NotStored(NotStored::BadId { at: Bytes((spoilt[0] * len) as u64) })));
        assert_eq!(survey.sound(), None);
    }
}

#[test]
fn one_id_that_is_far_too_large_or_too_small_costs_only_its_own_record() {
    assert_eq!(runs(&[1, 2, 900, 3, 4]), [[1, 2, 3, 4]]);
    assert_eq!(runs(&[5, 6, 1, 7, 8]), [[5, 6, 7, 8]]);
    assert_eq!(runs(&[900, 1, 2]), [[1, 2]]);
    assert_eq!(runs(&[1, 2, 2, 3]), [[1, 2, 3]]);
    assert_eq!(runs(&[1, 2, 3, 0]), [[1, 2, 3]]);
    assert_eq!(runs(&[7]), [[7]]);
}

#[test]
fn blocks_that_changed_places_cost_nothing() {
    assert_eq!(runs(&[1, 2, 50, 51, 3, 4]), [vec![1, 2, 50, 51], vec![3, 4]]);
    assert_eq!(runs(&[50, 51, 1, 2, 60, 3, 4]), [vec![50, 51], vec![1, 2, 3, 4]]);
    let many: Vec<u128> = (0..40).rev().flat_map(|n| [n * 10, n * 10 + 1]).collect();
    assert_eq!(runs(&many).len(), MOST_RUNS, "and no more than so many files come of one");
}

#[test]
fn the_first_flaw_is_named_with_its_place() {
    let len = body(&[1]).len() as u64;
    let flaw = |ids: &[u128]| sifted(&body(ids)).1.flaw;
    let descends = |n: u64, id, after| {
        Some(Flaw::NotStored(NotStored::Descends { at: Bytes(n * len), id: Id(id), after: Id(after) }))
    };
    assert_eq!(flaw(&[1, 2, 3]), None);
    assert_eq!(flaw(&[1, 2, 900, 3, 4]), descends(3, 3, 900));
    assert_eq!(flaw(&[5, 6, 1, 7]), descends(2, 1, 6));
    assert_eq!(flaw(&[1, 2, 50, 51, 3, 4]), descends(4, 3, 51));
}

#[test]
fn a_page_of_zeroes_costs_the_records_it_covers_and_none_behind_it() {
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        while bytes.len() < 30_000 {
            let start = bytes.len();
            let longest = if dice.one_in(10) { 9_000 } else { 60 };
            let text = vec![b'x'; dice.below(longest) as usize];
            stored::write(&mut bytes, Id(spans.len() as u128 + 1), &text);
            spans.push(start..bytes.len());
        }
        let (page, sectors) = (dice.below(bytes.len() as u64 / PAGE), 1 + dice.below(8));
        let hole = ((page + 1) * PAGE - sectors * SECTOR) as usize..((page + 1) * PAGE) as usize;
        bytes[hole.clone()].fill(0);
        let whole = |span: &std::ops::Range<usize>| span.end <= hole.start || span.start >= hole.end;
        let expected: Vec<u128> =
            spans.iter().zip(1..).filter(|(span, _)| whole(span)).map(|(_, number)| number).collect();
        let (runs, survey) = sifted(&bytes);
        assert_eq!(runs.concat(), expected, "replay with seed {seed}");
        assert!(survey.fault().is_some(), "replay with seed {seed}");
        let (_fs, file) = file_with(&bytes);
        let looked = crate::segment::recover::look(&file).expect("readable");
        assert_eq!((looked.runs, looked.flaw), (survey.runs, survey.flaw), "replay with seed {seed}");
    }
}

#[test]
fn zeroes_that_somebody_sent_are_part_of_their_record() {
    for lead in [1usize, 77, 511, 512, 600] {
        let mut bytes = Vec::new();
        stored::write(&mut bytes, Id(1), &vec![b'x'; lead]);
        stored::write(&mut bytes, Id(2), &vec![0; 5_000]);
        stored::write(&mut bytes, Id(3), b"after");
        assert_eq!(sifted(&bytes).0, [[1, 2, 3]], "{lead}");
    }
}

#[test]
fn what_an_append_leaves_that_was_cut_off_is_told_from_damage() {
    let whole = body(&[1, 2]);
    let long = [&b"00000000000000000000000009 text "[..], &[b'x'; 70_000]].concat();
    let zeroes = [&b"00000000000000000000000009 te"[..], &[0; 9_000]].concat();
    for tail in
        [&b""[..], b"0", b"0000000000000000000000000", b"00000000000000000000000009 t", &[0; 100], &long, &zeroes]
    {
        let (_, survey) = sifted(&[&whole[..], tail].concat());
        assert!(survey.ends_as_cut_off && survey.flaw.is_none(), "{:?}", &tail[..tail.len().min(40)]);
        assert_eq!((survey.end.0, survey.records()), (whole.len() as u64, 2));
    }
    for tail in [&b"9"[..], b"garbage", b"00000000000000000000000009+"] {
        assert!(!sifted(&[&whole[..], tail].concat()).1.ends_as_cut_off, "{tail:?}");
    }
}

#[test]
fn a_line_without_end_is_passed_over_and_what_lies_behind_it_is_kept() {
    let mut bytes = body(&[1, 2]);
    bytes.resize(bytes.len() + LONGEST_RECORD + 3_000_000, 0);
    bytes.extend(body(&[3, 4]));
    let (runs, survey) = sifted(&bytes);
    assert_eq!(runs.concat(), [1, 2, 3, 4]);
    assert!(survey.flaw.is_some());
}

#[test]
fn a_page_that_cannot_be_read_costs_the_records_in_it() {
    struct Bad(Arc<dyn File>, std::ops::Range<u64>);
    impl File for Bad {
        fn append(&self, _: &[u8]) -> io::Result<()> {
            unreachable!("only read")
        }
        fn read_at(&self, buffer: &mut [u8], offset: Bytes) -> io::Result<usize> {
            let end = offset.0 + buffer.len() as u64;
            if offset.0 < self.1.end && end > self.1.start {
                return Err(io::Error::from_raw_os_error(5));
            }
            self.0.read_at(buffer, offset)
        }
        fn size(&self) -> io::Result<Bytes> {
            self.0.size()
        }
        fn truncate(&self, _: Bytes) -> io::Result<()> {
            unreachable!("only read")
        }
        fn sync_data(&self) -> io::Result<()> {
            unreachable!("only read")
        }
    }
    let ids: Vec<u128> = (1..2_000).collect();
    let bytes = body(&ids);
    let len = bytes.len() as u64 / 1_999;
    let (_fs, file) = file_with(&bytes);
    let bad = Bad(file, 8_192..12_288);
    let mut found = Vec::new();
    let mut keep = |_: usize, kept: &[u8]| {
        found.extend(records(kept).map(|record| record.id().expect("a record").0));
        Ok(())
    };
    let survey = sift(&bad, &|_| true, &mut keep).expect("readable around it");
    let whole = |id: &u128| *id as u64 * len <= 8_192 || (*id as u64 - 1) * len >= 12_288;
    assert_eq!(found, ids.into_iter().filter(whole).collect::<Vec<_>>());
    assert!(matches!(survey.flaw, Some(Flaw::Unreadable { at: Bytes(8_192), .. })), "{:?}", survey.flaw);
}

#[test]
fn an_error_that_does_not_come_again_costs_nothing() {
    let bytes = body(&(1..500).collect::<Vec<_>>());
    let (fs, file) = file_with(&bytes);
    fs.fail_nth(Op::Read, 1, io::ErrorKind::Other);
    let looked = crate::segment::recover::look(&file).expect("readable the second time");
    assert_eq!(looked.sound().map(|digest| digest.records), Some(499));
}

#[test]
fn a_record_that_may_not_begin_a_run_is_left_out_and_the_next_one_begins_it() {
    let (_fs, file) = file_with(&body(&[1, 2, 3]));
    let survey = sift(&*file, &|id| id != Id(1), &mut |_, _| Ok(())).expect("readable");
    assert_eq!(survey.runs.iter().map(|run| (run.first, run.records)).collect::<Vec<_>>(), [(Id(2), 2)]);
}
