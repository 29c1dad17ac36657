use super::*;
use crate::record::stored::write;
use crate::unit::UnixNanos;
use crate::world::clock::VirtualClock;
use crate::world::crew::lock;
use crate::world::fs::memory::MemoryFs;
use crate::world::fs::{Entry, Space};
use std::sync::Mutex;

const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

/// The records with these ids.
fn content(ids: impl IntoIterator<Item = u128>) -> Vec<u8> {
    let mut content = Vec::new();
    ids.into_iter().for_each(|id| write(&mut content, Id(id), b"text"));
    content
}

fn put(fs: &dyn FileSystem, path: &str, content: &[u8]) {
    fs.create_dir_all(Path::new(path).parent().expect("a directory")).expect("in memory");
    fs.create_new(Path::new(path)).and_then(|file| file.append(content)).expect("in memory");
}

fn name(low: u128, high: u128, extension: &str) -> String {
    format!("s/{}-{}.{extension}", Id(low), Id(high))
}

fn take(fs: Arc<dyn FileSystem>, dir: &str, range: (u128, u128)) -> Result<Snapshot, Refusal> {
    let clock = VirtualClock::at(NOW);
    let range = (Id(range.0), Id(range.1));
    Photographer { fs: &fs, clock: &clock, range, most_open: 1_000 }.take(Path::new(dir))
}

/// First and last id of each part.
fn ends(snapshot: &Snapshot) -> Vec<(u128, u128)> {
    snapshot.parts.iter().map(|part| (part.low.0, part.high.0)).collect()
}

#[test]
fn what_answers_queries_is_taken_and_nothing_else() {
    let fs = MemoryFs::new();
    for (low, extension) in [(10, "flushed"), (20, "reading"), (30, "trashed"), (40, "active"), (50, "corrupt")] {
        put(&fs, &name(low, low, extension), &content([low]));
    }
    put(&fs, "s/notes.txt", b"no segment");
    put(&fs, "s/LOCK", b"process 1\n");
    put(&fs, &name(60, 69, "flushed"), &content(60..70));
    let snapshot = take(Arc::new(fs.clone()), "s", (0, 65)).expect("readable");
    assert_eq!(ends(&snapshot), [(10, 10), (20, 20), (60, 69)]);
    assert_eq!((snapshot.missing.len(), snapshot.notes.len()), (0, 0), "{:?}", snapshot.missing);
    assert_eq!(ends(&take(Arc::new(fs.clone()), "s", (11, 59)).expect("readable")), [(20, 20)]);
    assert!(matches!(take(Arc::new(fs.clone()), "t", (0, 9)), Err(Refusal::Unreadable { .. })));
    fs.create_dir_all(Path::new("t")).expect("in memory");
    assert!(matches!(take(Arc::new(fs), "t", (0, 9)), Err(Refusal::Strange { .. })));
}

#[test]
fn both_tiers_are_taken_where_a_directory_holds_both_and_torn_ends_of_active_files_are_nobodys() {
    let fs = MemoryFs::new();
    put(&fs, &format!("d/store/{}-{}.flushed", Id(1), Id(5)), &content(1..6));
    put(&fs, &format!("d/ingest/{}.active", Id(6)), &[&content(6..8)[..], b"00000000000000000000000008 te"].concat());
    put(&fs, &format!("d/ingest/{}.active", Id(8)), b"");
    put(&fs, &format!("d/ingest/{}.pending", Id(9)), &content(9..12));
    let snapshot = take(Arc::new(fs), "d", (0, 100)).expect("readable");
    assert_eq!(ends(&snapshot), [(6, 7), (9, 11), (1, 5)]);
    assert_eq!(snapshot.missing, Vec::<String>::new());
    assert_eq!(snapshot.parts[0].len, Bytes(content(6..8).len() as u64));
}

#[test]
fn the_ends_are_those_of_the_content_however_long_a_record_is() {
    for len in [0, 4_000, 4_068, 4_069, 4_070, 70_000, 1_100_000] {
        let (fs, mut content) = (MemoryFs::new(), content([1]));
        write(&mut content, Id(7), &vec![b'x'; len]);
        put(&fs, &name(1, 7, "flushed"), &content);
        let snapshot = take(Arc::new(fs), "s", (0, 100)).expect("readable");
        assert_eq!((ends(&snapshot), &snapshot.missing), (vec![(1, 7)], &vec![]), "{len}");
    }
}

#[test]
fn what_is_damaged_is_said_and_the_rest_is_taken() {
    let fs = MemoryFs::new();
    put(&fs, &name(10, 19, "flushed"), &content(10..20));
    put(&fs, &name(20, 29, "flushed"), b"no record at all\n");
    put(&fs, &name(30, 39, "flushed"), b"no record at all");
    put(&fs, &name(40, 49, "flushed"), &[&content(40..49)[..], b"0000"].concat());
    put(&fs, &name(50, 59, "sealed"), &[0x28, 0xB5, 0x2F, 0xFD, 1, 2, 3]);
    let snapshot = take(Arc::new(fs), "s", (0, 100)).expect("readable");
    assert_eq!(ends(&snapshot), [(10, 19), (40, 48)]);
    let said = snapshot.missing.join("\n");
    for (n, part) in ["no id at byte 0", "has no whole record", "not what its name says", "no block"].iter().enumerate()
    {
        assert!(snapshot.missing[n].contains(part), "{part:?} in {said}");
    }
}

/// A disk on which something happens when its files are listed or opened.
struct Moving {
    fs: MemoryFs,
    /// What happens, the last one first; `true` before a list is made, `false` when it is made and nothing is opened yet.
    events: Mutex<Vec<(bool, Event)>>,
    changes: Mutex<u64>,
}

type Event = Box<dyn Fn(&MemoryFs) + Send>;

impl Moving {
    fn happen(&self, before_list: bool) {
        let mut events = lock(&self.events);
        if events.last().is_some_and(|(when, _)| *when == before_list)
            && let Some((_, event)) = events.pop()
        {
            event(&self.fs);
            *lock(&self.changes) += 1;
        }
    }
}

impl FileSystem for Moving {
    fn names_changed(&self, _: &Path) -> io::Result<Option<UnixMillis>> {
        Ok(Some(UnixMillis(*lock(&self.changes))))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut listed = self.fs.list(dir)?;
        let known = *lock(&self.changes);
        self.happen(true);
        if *lock(&self.changes) != known {
            // What was renamed is missed under both its names.
            let now = self.fs.list(dir)?;
            listed.retain(|entry| now.contains(entry));
        }
        Ok(listed)
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        self.happen(false);
        self.fs.open(path)
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.fs.create_dir_all(dir)
    }

    fn open_append(&self, _: &Path) -> io::Result<Arc<dyn File>> {
        panic!("nothing is written")
    }

    fn create_new(&self, _: &Path) -> io::Result<Arc<dyn File>> {
        panic!("nothing is written")
    }

    fn rename_new(&self, _: &Path, _: &Path) -> io::Result<()> {
        panic!("nothing is renamed")
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        panic!("nothing is removed")
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        panic!("nothing is synced")
    }

    fn set_modified(&self, _: &Path, _: UnixMillis) -> io::Result<()> {
        panic!("nothing is changed")
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.fs.space(dir)
    }

    fn reserve(&self, _: &Path, _: Bytes) -> io::Result<()> {
        panic!("nothing is written")
    }

    fn lock_dir(&self, _: &Path) -> io::Result<Box<dyn Send + Sync>> {
        panic!("nothing is locked")
    }
}

fn rename(from: (u128, u128, &'static str), to: &'static str) -> Event {
    let (from, to) = (name(from.0, from.1, from.2), name(from.0, from.1, to));
    Box::new(move |fs| fs.rename_new(Path::new(&from), Path::new(&to)).expect("in memory"))
}

#[test]
fn a_file_that_is_renamed_while_names_are_read_is_not_missed() {
    let fs = MemoryFs::new();
    put(&fs, &name(10, 19, "flushed"), &content(10..20));
    put(&fs, &name(20, 29, "flushed"), &content(20..30));
    let events: Vec<(bool, Event)> = vec![
        (true, rename((10, 19, "reading"), "flushed")),
        (true, rename((20, 29, "flushed"), "reading")),
        (true, rename((10, 19, "flushed"), "reading")),
    ];
    let moving = Moving { fs, events: Mutex::new(events), changes: Mutex::default() };
    // The first list tells whose directory it is; the first event comes with it.
    let snapshot = take(Arc::new(moving), "s", (0, 100)).expect("readable");
    let mut found = ends(&snapshot);
    found.sort_unstable();
    assert_eq!((found, snapshot.missing), (vec![(10, 19), (20, 29)], vec![]));
}

#[test]
fn a_file_that_is_gone_before_it_is_opened_makes_it_begin_anew_with_what_replaced_it() {
    let fs = MemoryFs::new();
    put(&fs, &name(10, 19, "reading"), &content(10..20));
    put(&fs, &name(20, 29, "reading"), &content(20..30));
    let compacted: Event = Box::new(|fs| {
        put(fs, &name(10, 29, "flushed"), &content(10..30));
        fs.remove(Path::new(&name(10, 19, "reading"))).expect("in memory");
        fs.remove(Path::new(&name(20, 29, "reading"))).expect("in memory");
    });
    let events = vec![(false, rename((10, 29, "flushed"), "sealed")), (false, compacted)];
    let moving = Moving { fs, events: Mutex::new(events), changes: Mutex::default() };
    let snapshot = take(Arc::new(moving), "s", (0, 100)).expect("readable");
    assert_eq!((ends(&snapshot), snapshot.missing), (vec![(10, 29)], vec![]));
}

#[test]
fn what_is_open_stays_readable_when_it_is_removed_and_only_so_many_are_held() {
    let dir = tempfile::tempdir().expect("a directory");
    let fs: Arc<dyn FileSystem> = Arc::new(crate::world::fs::real::RealFs);
    let path = |low: u128| dir.path().join(format!("{}-{}.flushed", Id(low), Id(low)));
    (1..4).for_each(|low| put(&*fs, &path(low).to_string_lossy(), &content([low])));
    let clock = crate::world::clock::SystemClock::default();
    let snapshot = Photographer { fs: &fs, clock: &clock, range: (Id::MIN, Id::MAX), most_open: 2 };
    let snapshot = snapshot.take(dir.path()).expect("readable");
    (1..4).for_each(|low| fs.remove(&path(low)).expect("there"));
    let readable = snapshot.parts.iter().filter(|part| part.source.open().is_ok()).count();
    assert_eq!((snapshot.parts.len(), readable), (3, 2));
}
