//! Files damaged at random, in directories that the servers' own code has made: what is whole is found after a start, and
//! nothing is gone.

use oklog::ingest::log::{IngestLog, Limits, Reason};
use oklog::ingest::recover::Ground;
use oklog::ops::metrics::Metrics;
use oklog::record::id::{Id, StreamBits};
use oklog::record::line::{Cut, LineCutter};
use oklog::record::stored;
use oklog::segment::readable::Readable;
use oklog::store::log::StoreLog;
use oklog::unit::{Bytes, UnixNanos};
use oklog::world::clock::VirtualClock;
use oklog::world::entropy::{Dice, SystemEntropy};
use oklog::world::fs::read_full_at;
use oklog::world::fs::real::RealFs;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const NOW: UnixNanos = UnixNanos(1_795_000_000_000_000_000);

/// One of the two tiers, open.
enum Tier {
    Ingest(Box<IngestLog>),
    Store(Arc<StoreLog>),
}

impl Tier {
    fn open(is_ingest: bool, dir: &Path) -> Tier {
        let clock = Arc::new(VirtualClock::at(NOW));
        if !is_ingest {
            let log = StoreLog::open(Arc::new(RealFs), dir, clock, Arc::new(Metrics::default()), &SystemEntropy);
            return Tier::Store(log.expect("a start goes on over whatever lies there"));
        }
        let (entropy, metrics, live) = (Arc::new(SystemEntropy), Arc::default(), Arc::default());
        let ground = Ground { fs: Arc::new(RealFs), clock, entropy, metrics, live };
        let span = Duration::from_secs(3);
        let limits = Limits { flush_size: Bytes(1 << 20), flush_age: span, pending_timeout: span };
        let log = IngestLog::open(ground, dir, limits, 1);
        Tier::Ingest(Box::new(log.expect("a start goes on over whatever lies there")))
    }

    /// Makes one segment of these texts.
    fn put(&self, texts: &[Vec<u8>], number: u64) {
        match self {
            Tier::Ingest(log) => {
                let (mut cutter, mut cut) = (LineCutter::new(1 << 20), Cut::default());
                let lines = [texts.join(&b'\n'), b"\n".to_vec()].concat();
                cutter.finish(&lines, &mut cut);
                log.append(log.durable_slot(), &lines, &cut).expect("room on the disk");
                log.close_all(Reason::Age);
                log.flush_closed();
            }
            Tier::Store(log) => {
                let mut body = Vec::new();
                for (text, n) in texts.iter().zip(0..) {
                    let at = UnixNanos(NOW.0 + number * 1_000_000_000 + u64::from(n) * 1_000);
                    stored::write(&mut body, Id::new(at, StreamBits::from_random(number), n), text);
                }
                log.replicate(&mut &body[..], &|| true).expect("room on the disk");
            }
        }
    }

    /// Every stored record that queries would read.
    fn records(&self) -> BTreeSet<Vec<u8>> {
        let parts: Vec<Readable> = match self {
            Tier::Ingest(log) => log.snapshot(Id::MIN, Id::MAX),
            Tier::Store(log) => log.snapshot(Id::MIN, Id::MAX).into_iter().map(Readable::whole).collect(),
        };
        let mut records = BTreeSet::new();
        for part in parts {
            let mut content = vec![0; part.len.0 as usize];
            let file = part.source.open().expect("there");
            assert_eq!(read_full_at(&*file, &mut content, Bytes(0)).expect("readable"), content.len());
            records.extend(stored::records(&content).map(|record| record.whole.to_vec()));
        }
        records
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_segments = |path: &std::path::PathBuf| !["LOCK", "ballast"].contains(&name(path).as_str());
    paths.filter(of_segments).map(|path| (name(&path), fs::read(&path).expect("readable"))).collect()
}

/// Damages one file's content. Gives what was done.
fn damage(dice: &mut Dice, content: &mut Vec<u8>) -> &'static str {
    let place = |dice: &mut Dice, content: &[u8]| dice.below(content.len().max(1) as u64) as usize;
    match dice.below(7) {
        0 => {
            let at = place(dice, content);
            content.truncate(at);
            "cut off"
        }
        1 => {
            let at = place(dice, content);
            content[at] ^= 1 << dice.below(8);
            "a bit"
        }
        2 => {
            let (from, len) = (place(dice, content), dice.below(6_000) as usize);
            let to = (from + len).min(content.len());
            content[from..to].fill(0);
            "zeroes"
        }
        3 => {
            let page = place(dice, content) / 4096 * 4096;
            let to = (page + 4096).min(content.len());
            content[page..to].fill(0);
            "a page of zeroes"
        }
        4 => {
            let tail: Vec<u8> = (0..dice.below(500)).map(|_| dice.below(256) as u8).collect();
            content.extend(tail);
            "more at the end"
        }
        // Of a long record that is alone out of order the identifier may be what is damaged: it is left out.
        5 if content.len() > 3 * 8_192 && content.split(|byte| *byte == b'\n').all(|line| line.len() < 1_000) => {
            let (one, two) = content.split_at_mut(2 * 8_192);
            one[..8_192].swap_with_slice(&mut two[..8_192]);
            "parts changed places"
        }
        _ => {
            let (from, len) = (place(dice, content), dice.below(300) as usize);
            let to = (from + len).min(content.len());
            content[from..to].fill_with(|| dice.below(256) as u8);
            "noise"
        }
    }
}

/// The records of `originals` that stand whole in a content: at its beginning, or behind an LF.
fn whole_in(content: &[u8], originals: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
    content
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| originals.contains(*line))
        .map(<[u8]>::to_vec)
        .collect()
}

fn run(seed: u64, is_ingest: bool) {
    let (mut dice, dir) = (Dice::new(seed), tempfile::tempdir().expect("a directory"));
    let tier = Tier::open(is_ingest, dir.path());
    for number in 0..4 {
        let count = 1 + dice.below(400);
        let text = |dice: &mut Dice| {
            vec![b'a' + dice.below(26) as u8; dice.below(if number == 3 { 9_000 } else { 150 }) as usize]
        };
        tier.put(&(0..count).map(|_| text(&mut dice)).collect::<Vec<_>>(), number);
    }
    let originals = tier.records();
    drop(tier);
    let (mut done, mut expected) = (Vec::new(), BTreeSet::new());
    let segments = files(dir.path()).into_iter().filter(|(name, _)| name.ends_with(".flushed"));
    for (name, mut content) in segments.collect::<Vec<_>>() {
        let path = dir.path().join(&name);
        if dice.one_in(2) {
            let what = damage(&mut dice, &mut content);
            fs::write(&path, &content).expect("written");
            done.push((name.clone(), what));
        }
        expected.extend(whole_in(&content, &originals));
        if dice.one_in(5) {
            let other = [name.to_lowercase(), format!("{seed:08x}-aa.flushed"), format!("0{}", &name[1..])];
            let other = &other[dice.below(3) as usize];
            if !dir.path().join(other).exists() {
                fs::rename(&path, dir.path().join(other)).expect("renamed");
                done.push((name, "another name"));
            }
        }
    }
    let before = files(dir.path());
    let replay = format!("replay with seed {seed}, ingest {is_ingest}: {done:?}");
    let mut last = None;
    for round in 0..3 {
        let tier = Tier::open(is_ingest, dir.path());
        let found = tier.records();
        let missing = expected.difference(&found).next();
        assert_eq!(missing.map(|record| String::from_utf8_lossy(record).into_owned()), None, "round {round}, {replay}");
        let now = files(dir.path());
        for record in found.difference(&originals) {
            let is_there = before.values().any(|content| content.windows(record.len()).any(|part| part == record));
            assert!(is_there, "a record that no file held: {:?}, {replay}", String::from_utf8_lossy(record));
        }
        for (name, content) in &before {
            assert!(now.values().any(|other| other == content), "{name} is gone or changed, round {round}, {replay}");
        }
        let state = (found, now);
        assert!(last.is_none_or(|last| last == state), "a later start found something to do, {replay}");
        last = Some(state);
    }
}

#[test]
fn whatever_happened_to_files_what_is_whole_is_found_and_nothing_is_gone() {
    let seeds = if std::env::var_os("OKLOG_TEST_LONG").is_some() { 0..3_000 } else { 0..40 };
    for seed in seeds {
        run(seed, seed % 2 == 0);
    }
}
