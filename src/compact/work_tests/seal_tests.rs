//! Sealing, as a store lives through it.

use super::*;
use crate::segment::Form;
use crate::segment::sealed::{Block, Sealed, SealedWriter};
use std::path::PathBuf;

const AGE: Duration = Duration::from_secs(600);

/// Ends the current time of a bench so much later than what [`ids`] gives.
fn pass(bench: &Bench, span: Duration) {
    bench.clock.advance(span);
}

fn sealed(store: &StoreLog) -> Vec<Arc<Segment>> {
    store.catalogue().live().into_iter().filter(|segment| segment.form() == Form::Sealed).collect()
}

/// Puts a file with other content in the place of one.
fn replace(fs: &MemoryFs, path: &Path, content: &[u8]) {
    fs.remove(path).expect("there");
    fs.create_new(path).and_then(|file| file.append(content).and_then(|()| file.sync_data())).expect("room");
}

fn content(fs: &MemoryFs, path: &Path) -> Vec<u8> {
    let file = fs.open(path).expect("there");
    let mut content = vec![0; file.size().expect("open").0 as usize];
    file.read_at(&mut content, Bytes(0)).expect("readable");
    content
}

/// Brings a sealed segment of these records, in blocks of 1 KiB, into a store that is closed. Gives its bytes.
fn lay_in(fs: &MemoryFs, ids: &[Id]) -> Vec<u8> {
    let mut body = Vec::new();
    ids.iter().for_each(|id| stored::write(&mut body, *id, b"some text"));
    let path = Path::new("store").join(name_of(ids, State::Sealed));
    let file = fs.create_new(&path).expect("free");
    let mut writer = SealedWriter::with_blocks_of(1 << 10, file.clone()).expect("a writer");
    writer.append(&body).and_then(|()| writer.finish()).expect("room");
    file.sync_data().and_then(|()| fs.sync_dir(Path::new("store"))).expect("synced");
    content(fs, &path)
}

fn name_of(ids: &[Id], state: State) -> String {
    crate::segment::Bounds::Range(ids[0], ids[ids.len() - 1], 0).file_name(state)
}

#[test]
fn what_is_full_or_old_is_sealed_and_gives_the_same_records() {
    let bench = Bench::new();
    let store = bench.open();
    let (full, small, new) = (ids(0, 1, 0..1_500), ids(2, 2, 0..20), ids(700, 3, 0..10));
    assert!(put(&store, &full) && put(&store, &small));
    let mut keeper = keeper_that_seals(&store, None, Some(AGE));
    pass(&bench, Duration::from_secs(3));
    keeper.tick(&Stop::default());
    assert_eq!((bench.names(State::Sealed), bench.names(State::Flushed)), (1, 1), "the full one, since it is settled");
    pass(&bench, AGE);
    let held = store.snapshot(Id(0), Id::MAX);
    assert!(put(&store, &new));
    keeper.tick(&Stop::default());
    assert_eq!((bench.names(State::Sealed), bench.names(State::Flushed)), (2, 1), "what is new stays plain");
    let expected = [&full[..], &small, &new].concat();
    assert_eq!((all(&store), read(&held)), (expected.clone(), expected[..1_520].to_vec()));
    drop(held);
    keeper.tick(&Stop::default());
    assert_eq!((bench.names(State::Reading), bench.names(State::Active)), (0, 0));
    for segment in sealed(&store) {
        let (known, size) = (*segment.digest(), content(&bench.fs, &segment.path()).len() as u64);
        assert!(known.disk == Bytes(size) && known.len > known.disk, "{known:?}");
        assert!(segment.path().extension().is_some_and(|extension| extension == "sealed"));
    }
    let count = |kind| store.metrics().counter(metrics::COMPACT_BYTES, &[kind]).get();
    let disk: u64 = sealed(&store).iter().map(|segment| segment.digest().disk.0).sum();
    assert_eq!((count("seal"), count("join")), (disk, 0));
    let known: Vec<_> = store.catalogue().live().iter().map(|segment| segment.digest().ends()).collect();
    drop((keeper, store));
    let store = bench.open();
    assert_eq!(store.catalogue().live().iter().map(|segment| segment.digest().ends()).collect::<Vec<_>>(), known);
    assert_eq!((sealed(&store).len(), all(&store)), (2, expected));
    assert_eq!(store.corrupt().get(), 0);
}

#[test]
fn small_ones_that_were_sealed_are_joined_and_sealed_again_until_nothing_is_left_to_do() {
    let bench = Bench::new();
    let store = bench.open();
    let mut keeper = keeper_that_seals(&store, None, Some(Duration::ZERO));
    let mut expected = Vec::new();
    for n in 0..40 {
        let ids = ids(n, 1, 0..50);
        assert!(put(&store, &ids));
        expected.extend(ids);
        pass(&bench, Duration::from_secs(1));
        keeper.tick(&Stop::default());
    }
    pass(&bench, HOUR);
    keeper.tick(&Stop::default());
    assert_eq!((bench.names(State::Flushed), all(&store)), (0, expected), "all of them are sealed");
    assert!(store.catalogue().live().len() < 12, "{}", store.catalogue().live().len());
    let changes = store.catalogue().changes();
    (0..5).for_each(|_| keeper.tick(&Stop::default()));
    assert_eq!(store.catalogue().changes(), changes);
    let count = |kind| store.metrics().counter(metrics::COMPACT_BYTES, &[kind]).get();
    assert!(count("join") > 0 && count("seal") > 0);
}

#[test]
fn nothing_is_sealed_where_that_is_turned_off_and_what_is_sealed_is_read_and_joined() {
    let bench = Bench::new();
    let store = bench.open();
    (0..3).for_each(|n| assert!(put(&store, &ids(n, 1, 0..50))));
    pass(&bench, HOUR);
    keeper_that_seals(&store, None, Some(AGE)).tick(&Stop::default());
    assert_eq!(bench.names(State::Sealed), 3);
    assert!(put(&store, &ids(3, 1, 0..50)));
    let before = all(&store);
    keeper(&store, None).tick(&Stop::default());
    assert_eq!((bench.names(State::Sealed), bench.names(State::Flushed)), (0, 1), "four as large are joined, plain");
    assert_eq!((before.len(), all(&store)), (200, before));
}

#[test]
fn a_failure_while_sealing_leaves_the_input_as_it_was_and_it_is_tried_again_later() {
    for (op, n) in [(Op::Rename, 1), (Op::Open, 1), (Op::Write, 1), (Op::Sync, 1), (Op::Read, 3), (Op::Sync, 2)] {
        let bench = Bench::new();
        let store = bench.open();
        assert!(put(&store, &ids(0, 1, 0..500)));
        let before = all(&store);
        pass(&bench, HOUR);
        let mut keeper = keeper_that_seals(&store, None, Some(AGE));
        bench.fs.fail_nth(op, n, std::io::ErrorKind::Other);
        keeper.tick(&Stop::default());
        let counts = (bench.names(State::Flushed), bench.names(State::Sealed), bench.names(State::Active));
        assert_eq!((counts, all(&store)), ((1, 0, 0), before.clone()), "{op:?} {n}");
        pass(&bench, Duration::from_secs(2));
        keeper.tick(&Stop::default());
        assert_eq!((bench.names(State::Sealed), all(&store)), (1, before), "{op:?} {n}");
    }
}

#[test]
fn retention_by_size_counts_what_is_on_the_disk() {
    let bench = Bench::new();
    let store = bench.open();
    (0..6).for_each(|n| assert!(put(&store, &ids(n * 10_000, n, 0..1_500))));
    let text: u64 = store.catalogue().live().iter().map(|segment| segment.digest().len.0).sum();
    pass(&bench, 20 * HOUR);
    keeper_that_seals(&store, None, Some(AGE)).tick(&Stop::default());
    let disk = store.catalogue().live_bytes();
    assert!(bench.names(State::Sealed) == 6 && disk.0 < text / 2, "{disk:?} of {text}");
    keeper(&store, Some(Bytes(text / 2))).tick(&Stop::default());
    assert_eq!(store.catalogue().live().len(), 6, "it fits, since it is compressed");
    keeper(&store, Some(Bytes(disk.0 - 1))).tick(&Stop::default());
    assert_eq!(store.catalogue().live().len(), 5);
}

#[test]
fn where_the_room_is_too_little_for_a_join_what_fits_is_sealed() {
    let bench = Bench::new();
    bench.fs.set_capacity(Bytes(4 << 20));
    let store = bench.open();
    (0..4).for_each(|n| assert!(put(&store, &ids(n, n, 0..600))));
    let one = store.catalogue().live()[0].digest().len.0;
    let free = bench.fs.space(Path::new("store")).expect("in memory").available.0;
    bench.fs.reserve(Path::new("store/a.corrupt"), Bytes(free - (4 << 20) / 16 - 2 * one)).expect("room");
    pass(&bench, HOUR);
    let before = all(&store);
    keeper_that_seals(&store, None, Some(AGE)).tick(&Stop::default());
    assert!(bench.names(State::Sealed) > 0, "{}", bench.names(State::Flushed));
    assert_eq!(all(&store).len(), before.len());
}

/// A sealed segment of 400 records in a store that is not open.
struct LaidIn {
    all_ids: Vec<Id>,
    bytes: Vec<u8>,
    path: PathBuf,
    blocks: Vec<Block>,
}

impl LaidIn {
    fn of(bench: &Bench) -> LaidIn {
        drop(bench.open());
        let all_ids = ids(0, 1, 0..400);
        let bytes = lay_in(&bench.fs, &all_ids);
        let path = Path::new("store").join(name_of(&all_ids, State::Sealed));
        let blocks = Sealed::open(bench.fs.open(&path).expect("there")).expect("sound").blocks().to_vec();
        LaidIn { all_ids, bytes, path, blocks }
    }
}

#[test]
fn a_damaged_block_costs_its_own_records_once_a_reader_has_met_it() {
    let bench = Bench::new();
    let LaidIn { all_ids, mut bytes, path, blocks } = LaidIn::of(&bench);
    let bad = blocks[5];
    bytes[(bad.offset + u64::from(bad.packed) / 2) as usize] ^= 0x10;
    replace(&bench.fs, &path, &bytes);
    let store = bench.open();
    let mut keeper = keeper_that_seals(&store, None, Some(Duration::from_secs(1_000_000)));
    keeper.tick(&Stop::default());
    assert_eq!(store.corrupt().get(), 0, "nobody has read it");
    let segment = store.catalogue().live().pop().expect("one");
    let file = segment.open().expect("its index is sound");
    let mut buffer = [0; 10];
    assert!(file.read_at(&mut buffer, Bytes(bad.text_at + 10)).is_err());
    drop((segment, file));
    keeper.tick(&Stop::default());
    let expected: Vec<Id> = all_ids.iter().copied().filter(|id| *id < bad.first || *id > bad.last).collect();
    assert_eq!((store.corrupt().get(), all(&store)), (1, expected.clone()), "all other blocks are whole");
    assert_eq!((bench.names(State::Corrupt), bench.names(State::Flushed)), (1, 1));
    assert_eq!(content(&bench.fs, &path.with_extension("sealed.corrupt")), bytes, "the file is as it was");
    drop((keeper, store));
    assert_eq!(all(&bench.open()), expected);
}

#[test]
fn a_compaction_that_meets_a_damaged_block_sets_the_segment_aside_in_the_end() {
    let bench = Bench::new();
    drop(bench.open());
    let mut expected = BTreeSet::new();
    for n in 0..4 {
        let ids = ids(n, 1, 0..400);
        let mut bytes = lay_in(&bench.fs, &ids);
        let path = Path::new("store").join(name_of(&ids, State::Sealed));
        if n == 2 {
            let blocks = Sealed::open(bench.fs.open(&path).expect("there")).expect("sound").blocks().to_vec();
            let bad = blocks[3];
            bytes[(bad.offset + u64::from(bad.packed) / 2) as usize] ^= 0x10;
            replace(&bench.fs, &path, &bytes);
            expected.extend(ids.into_iter().filter(|id| *id < bad.first || *id > bad.last));
        } else {
            expected.extend(ids);
        }
    }
    let store = bench.open();
    let mut keeper = keeper(&store, None);
    for _ in 0..4 {
        keeper.tick(&Stop::default());
        pass(&bench, Duration::from_secs(10));
    }
    assert_eq!((store.corrupt().get(), bench.names(State::Corrupt)), (1, 1));
    assert_eq!(all(&store).into_iter().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_damaged_index_is_made_anew_when_its_segment_is_sealed_again() {
    let bench = Bench::new();
    let LaidIn { all_ids, mut bytes, path, blocks } = LaidIn::of(&bench);
    let last = blocks[blocks.len() - 1];
    // In the block table, behind the last block and a header of 8 bytes.
    bytes[(last.offset + u64::from(last.packed)) as usize + 20] ^= 1;
    replace(&bench.fs, &path, &bytes);
    let store = bench.open();
    pass(&bench, HOUR);
    let mut keeper = keeper_that_seals(&store, None, Some(AGE));
    keeper.tick(&Stop::default());
    assert!(content(&bench.fs, &path) == bytes, "nobody has opened it");
    assert_eq!(all(&store), all_ids, "without its index all is there");
    assert!(store.catalogue().live()[0].has_damaged_index());
    keeper.tick(&Stop::default());
    let again = store.catalogue().live().remove(0);
    let file = bench.fs.open(&again.path()).expect("there");
    assert_eq!(Sealed::open(file).expect("readable").fault(), None);
    assert!(!again.has_damaged_index() && again.form() == Form::Sealed);
    assert_eq!((all(&store), store.corrupt().get()), (all_ids, 0));
}
