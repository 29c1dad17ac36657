use super::*;
use crate::merge::k_way::Merge;
use crate::query::newest::Newest;
use crate::query::pool::Pool;
use crate::record::stored::{records, write};
use crate::segment::handle::Known;
use crate::segment::sealed::SealedWriter;
use crate::world::crew::{Crew, Stop};
use crate::world::entropy::Dice;
use crate::world::fs::memory::MemoryFs;
use crate::world::fs::{File, FileSystem};
use std::path::{Path, PathBuf};

/// How the records of a part are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Open,
    Segment,
    /// In blocks of so many bytes of text.
    Sealed(usize),
}

struct Bench {
    fs: Arc<MemoryFs>,
    crew: Crew,
    stop: Stop,
}

impl Bench {
    fn new() -> Bench {
        let fs = Arc::new(MemoryFs::new());
        fs.create_dir_all(Path::new("/d")).unwrap();
        Bench { fs, crew: Crew::default(), stop: Stop::default() }
    }

    fn pool(&self, threads: usize) -> Arc<Pool> {
        if threads == 0 { Pool::inline() } else { Pool::start(threads, &self.crew, &self.stop).expect("threads") }
    }

    /// A file of records with these ids, as an open file, or as a segment of which only the ends are known.
    fn part(&self, ids: &[u128], kept: Kept, mut text: impl FnMut() -> Vec<u8>) -> (Readable, Vec<u8>) {
        let mut bytes = Vec::new();
        ids.iter().for_each(|id| write(&mut bytes, Id(*id), &text()));
        (self.part_of(ids, kept, &bytes), bytes)
    }

    fn part_of(&self, ids: &[u128], kept: Kept, bytes: &[u8]) -> Readable {
        let path = PathBuf::from(format!("/d/{}", self.fs.list(Path::new("/d")).unwrap().len()));
        let file = self.fs.create_new(&path).unwrap();
        let (first, last, len) = (Id(ids[0]), Id(ids[ids.len() - 1]), Bytes(bytes.len() as u64));
        let mut known = Known::by_ends(first, last, len);
        if let Kept::Sealed(block_text) = kept {
            let mut writer = SealedWriter::with_blocks_of(block_text, file.clone()).unwrap();
            writer.append(bytes).unwrap();
            known = known.sealed(writer.finish().unwrap().1);
        } else {
            file.append(bytes).unwrap();
        }
        let source = match kept {
            Kept::Open => Place::Open(file),
            _ => Place::Segment(Arc::new(Segment::new(self.fs.clone(), path, known))),
        };
        Readable { source, low: first, high: last, len }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

fn setup(parts: Vec<Readable>, matcher: Matcher, pool: &Arc<Pool>) -> Setup {
    Setup {
        parts: parts.into_iter().map(Wanted::from).collect(),
        formula: Formula::Any,
        from: Id::MIN,
        to: Id::MAX,
        direction: Direction::Forward,
        read_ahead: true,
        matcher,
        line: pool.line(),
        cancel: Cancel::default(),
        scanned: Counter::default(),
    }
}

fn all(setup: Setup) -> io::Result<Vec<u8>> {
    let (direction, mut out) = (setup.direction, Vec::new());
    let sources = Scan::sources(setup);
    let failed = |error: MergeError| io::Error::other(error.to_string());
    match direction {
        Direction::Forward => {
            let mut merge = Merge::trusting(sources);
            while merge.next_run(&mut out, 1).map_err(failed)? {}
        }
        Direction::Backward => {
            let mut newest = Newest::new(sources);
            while newest.next_record(&mut out).map_err(failed)? {}
        }
    }
    Ok(out)
}

#[test]
fn a_scan_finds_what_a_look_at_every_record_finds_in_either_order() {
    let bench = Bench::new();
    for seed in 0..60 {
        let mut dice = Dice::new(seed);
        let (mut parts, mut every) = (Vec::new(), Vec::new());
        let mut low = 10;
        // Ids differ from part to part: one that is the same in two is the same record.
        for nth in 0..1 + u128::from(dice.below(6)) {
            let (mut id, mut ids) = (low, Vec::new());
            // Long records make several pieces; one in a while is longer than a piece.
            for _ in 0..1 + dice.below(400) {
                ids.push(id * 8 + nth);
                id += 1 + u128::from(dice.below(9));
            }
            low = if dice.one_in(3) { low + 1 } else { id };
            let longest = if dice.one_in(2) { 60 } else { 6_000 };
            let kept = [Kept::Open, Kept::Segment, Kept::Sealed(1 + dice.below(50_000) as usize)];
            let (part, bytes) = bench.part(&ids, kept[dice.below(3) as usize], || {
                let longest = if dice.one_in(150) { 1_500_000 } else { longest };
                let mut text = vec![b'x'; dice.below(longest) as usize];
                let place = dice.below(text.len() as u64 + 1) as usize;
                let word: &[u8] = [&b"one"[..], b"two", b""][dice.below(3) as usize];
                text.splice(place..place, word.iter().copied());
                text
            });
            every.extend(records(&bytes).map(|stored| stored.whole.to_vec()));
            parts.push(part);
        }
        every.sort();
        let (q, invert) = ([&b"one"[..], b"", b"x*two|none", b"xonex"][dice.below(4) as usize], dice.one_in(4));
        let formula = if q == b"xonex" && !invert { Formula::Holds(q.to_vec()) } else { Formula::Any };
        let matcher = Matcher::new(q, q.contains(&b'|'), false, invert).expect("a needle");
        let (mut from, mut to) = (Id(u128::from(dice.below(16_000))), Id(u128::from(dice.below(48_000))));
        if dice.one_in(3) {
            (from, to) = (Id::MIN, Id::MAX);
        }
        let is_wanted = |record: &&Vec<u8>| {
            let stored = crate::record::stored::Stored { whole: record };
            stored.id().is_some_and(|id| from <= id && id <= to) && matcher.matches(stored.text())
        };
        let mut wanted: Vec<&Vec<u8>> = every.iter().filter(is_wanted).collect();
        let direction = if dice.one_in(2) { Direction::Forward } else { Direction::Backward };
        if direction == Direction::Backward {
            wanted.reverse();
        }
        let wanted: Vec<u8> = wanted.into_iter().flatten().copied().collect();
        let pool = bench.pool(dice.below(4) as usize);
        let parts = parts.into_iter().filter(|part| part.high >= from && part.low <= to).collect();
        let mut setup = Setup { formula: formula.clone(), ..setup(Vec::new(), matcher, &pool) };
        let looks = std::cell::Cell::new(dice.below(8));
        let question = Question { formula: &formula, from, to };
        setup.parts = question.look_ahead(parts, || looks.replace(looks.get().saturating_sub(1)) > 0).0;
        let found = all(Setup { from, to, direction, read_ahead: dice.one_in(2), ..setup }).expect("readable");
        assert!(found == wanted, "replay with seed {seed}: {} bytes, not {}", found.len(), wanted.len());
    }
}

#[test]
fn damage_in_a_part_is_an_error_and_never_left_out() {
    let bench = Bench::new();
    for threads in [0, 2] {
        for backward in [false, true] {
            let (ids, pool): (Vec<u128>, _) = ((1..=20_000).collect(), bench.pool(threads));
            let (_, mut bytes) = bench.part(&ids, Kept::Segment, || vec![b'x'; 100]);
            let place = bytes.len() / 128 / 2 * 128;
            bytes[place] = b'!';
            let parts = vec![bench.part_of(&ids, Kept::Segment, &bytes)];
            let direction = if backward { Direction::Backward } else { Direction::Forward };
            let matcher = Matcher::new(b"none", false, false, false).expect("a needle");
            let error = all(Setup { direction, ..setup(parts, matcher, &pool) }).expect_err("damaged");
            assert!(error.to_string().contains("is damaged"), "{error}");
        }
    }
}

#[test]
fn a_block_that_cannot_be_unpacked_is_an_error_and_its_segment_is_known_to_be_damaged() {
    let bench = Bench::new();
    for threads in [0, 2] {
        let ids: Vec<u128> = (1..=2_000).collect();
        let (part, _) = bench.part(&ids, Kept::Sealed(10_000), || vec![b'x'; 100]);
        let Place::Segment(segment) = &part.source else { panic!("a segment") };
        let path = segment.path();
        let size = bench.fs.open(&path).unwrap().size().unwrap().0 as usize;
        let mut bytes = vec![0; size];
        assert_eq!(
            crate::world::fs::read_full_at(&*bench.fs.open(&path).unwrap(), &mut bytes, Bytes(0)).unwrap(),
            size
        );
        bytes[200] ^= 0x55;
        let path = PathBuf::from(format!("/d/damaged-{threads}"));
        bench.fs.create_new(&path).unwrap().append(&bytes).unwrap();
        let damaged = Arc::new(Segment::new(bench.fs.clone(), path, *segment.digest()));
        let matcher = Matcher::new(b"y", false, false, false).expect("a needle");
        let parts = vec![Readable::whole(damaged.clone())];
        let error = all(setup(parts, matcher, &bench.pool(threads))).expect_err("damaged");
        assert!(error.to_string().contains("is damaged: block "), "{error}");
        assert!(damaged.take_damaged());
    }
}

#[test]
fn many_small_parts_are_gone_through_with_few_of_them_in_memory() {
    let bench = Bench::new();
    let pool = bench.pool(2);
    let parts = (0..3_000).map(|n| bench.part(&[n * 10, n * 10 + 1], Kept::Segment, || b"text".to_vec()).0).collect();
    let matcher = Matcher::new(b"none", false, false, false).expect("a needle");
    let sources = Scan::sources(setup(parts, matcher, &pool));
    let scan = sources[0].scan.clone();
    let mut merge = Merge::trusting(sources);
    assert!(!merge.next_run(&mut Vec::new(), 1).expect("readable"));
    let state = lock(&scan.state);
    assert_eq!((state.in_work, state.open.len(), state.next), (0, 0, 3_000));
}

#[test]
fn what_waits_for_the_merge_is_bounded_however_far_the_threads_could_go() {
    let bench = Bench::new();
    let pool = bench.pool(2);
    let ids: Vec<u128> = (1..=100_000).collect();
    let (part, _) = bench.part(&ids, Kept::Open, || vec![b'x'; 100]);
    let sources = Scan::sources(setup(vec![part], Matcher::new(b"", false, false, false).expect("all"), &pool));
    sources[0].next_piece().expect("readable").expect("a piece");
    let state = lock(&sources[0].scan.state);
    let tasks = state.open.values().map(|part| part.tasks.len()).sum::<usize>();
    assert_eq!((state.in_work, tasks), (AHEAD, AHEAD));
}

#[test]
fn a_search_that_panics_breaks_its_query_and_no_other() {
    struct Panics;
    impl File for Panics {
        fn append(&self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn read_at(&self, _: &mut [u8], _: Bytes) -> io::Result<usize> {
            panic!("on purpose")
        }
        fn size(&self) -> io::Result<Bytes> {
            Ok(Bytes(100))
        }
        fn truncate(&self, _: Bytes) -> io::Result<()> {
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
    }
    let bench = Bench::new();
    let pool = bench.pool(1);
    let part = Readable { source: Place::Open(Arc::new(Panics)), low: Id(1), high: Id(2), len: Bytes(100) };
    let matcher = Matcher::new(b"text", false, false, false).expect("a needle");
    assert!(all(setup(vec![part], matcher.clone(), &pool)).is_err());
    let (part, bytes) = bench.part(&[1], Kept::Open, || b"text".to_vec());
    assert_eq!(all(setup(vec![part], matcher, &pool)).expect("readable"), bytes);
}

#[test]
fn a_cancelled_query_ends() {
    let bench = Bench::new();
    for threads in [0, 2] {
        let pool = bench.pool(threads);
        let (part, _) = bench.part(&[1], Kept::Open, || b"text".to_vec());
        let setup = setup(vec![part], Matcher::new(b"", false, false, false).expect("all"), &pool);
        setup.cancel.raise();
        assert!(all(setup).is_err());
    }
}
