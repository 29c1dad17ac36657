use super::*;
use crate::cli::client::Shape;
use crate::record::id::Id;
use crate::record::stored::{records, write};
use crate::segment::sealed::SealedWriter;
use crate::unit::UnixNanos;
use crate::world::clock::VirtualClock;
use crate::world::entropy::Dice;
use crate::world::fs::memory::MemoryFs;
use crate::world::pipe::Gone;
use std::collections::BTreeMap;

const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

fn ask(fs: &MemoryFs, options: &QueryOptions) -> (u8, Vec<u8>, String) {
    let (fs, clock) = (Arc::new(fs.clone()), Arc::new(VirtualClock::at(NOW)));
    let ground = Ground { fs, clock, pool: Pool::inline(), most_open: 1_000 };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = run(&ground, options, Path::new("s"), &mut out, &mut err);
    (status, out, String::from_utf8(err).expect("sentences"))
}

/// Options that print what is stored, of all times.
fn ever() -> QueryOptions {
    let (from, to) = (Id::MIN.to_string(), Id::MAX.to_string());
    QueryOptions { from, to, shape: Shape { ulid: true, time: false }, ..QueryOptions::default() }
}

fn put(fs: &MemoryFs, name: &str, content: &[u8], is_sealed: bool) {
    fs.create_dir_all(Path::new("s")).expect("in memory");
    let file = fs.create_new(&Path::new("s").join(name)).expect("in memory");
    if !is_sealed {
        return file.append(content).expect("in memory");
    }
    let mut writer = SealedWriter::with_blocks_of(700, file).expect("a writer");
    writer.append(content).and_then(|()| writer.finish()).map(drop).expect("in memory");
}

/// Segments of both forms that overlap, with copies of some records; and all there is, by id.
fn store(dice: &mut Dice) -> (MemoryFs, BTreeMap<Id, Vec<u8>>) {
    let (fs, mut all) = (MemoryFs::new(), BTreeMap::new());
    for n in 0..1 + dice.below(6) {
        let (mut ids, mut content) = (BTreeMap::new(), Vec::new());
        for _ in 0..1 + dice.below(80) {
            let id = Id(u128::from(1_799_999_999_000 + dice.below(999)) << 80 | u128::from(dice.below(3)));
            let word = ["alpha", "beta", "Gamma 7"][(id.0 >> 80) as usize % 3];
            ids.insert(id, format!("{word} {id:?}").into_bytes());
        }
        for (id, text) in &ids {
            write(&mut content, *id, text);
        }
        let ends = ids.first_key_value().zip(ids.last_key_value()).expect("not empty");
        let state = if dice.one_in(3) { "reading" } else { "flushed" };
        let number = if n == 0 { String::new() } else { format!("-{n}") };
        put(&fs, &format!("{}-{}{number}.{state}", ends.0.0, ends.1.0), &content, dice.one_in(2));
        all.extend(ids);
    }
    (fs, all)
}

#[test]
fn a_directory_gives_what_a_look_at_every_record_gives_whatever_the_form_of_its_files() {
    for seed in 0..150 {
        let dice = &mut Dice::new(seed);
        let (fs, all) = store(dice);
        let (q, regex) =
            [("", false), ("beta", false), ("mma 7", false), ("^(alpha|Gamma \\d)", true), ("nowhere", false)]
                [dice.below(5) as usize];
        let (low, high) = (dice.below(1_100), dice.below(1_100));
        let id = |at: u64| Id(u128::from(1_799_999_999_000 + at) << 80 | 1);
        let (from, to) = (id(low.min(high)), id(low.max(high)));
        let newest = dice.one_in(3).then(|| 1 + dice.below(40));
        let options = QueryOptions {
            q: q.as_bytes().to_vec(),
            regex,
            from: from.to_string(),
            to: to.to_string(),
            newest,
            ..ever()
        };
        let pattern = regex::bytes::Regex::new(&if regex { q.to_string() } else { regex::escape(q) }).expect("sound");
        let found = all.range(from..=to).filter(|(_, text)| pattern.is_match(text));
        let found: Vec<_> = found.collect();
        let skipped = newest.map_or(0, |newest| found.len().saturating_sub(newest as usize));
        let mut expected = Vec::new();
        found.iter().skip(skipped).for_each(|(id, text)| write(&mut expected, **id, text));
        let (status, out, err) = ask(&fs, &options);
        let wanted = if expected.is_empty() { NOT_FOUND } else { FOUND };
        assert_eq!((status, err.as_str()), (wanted, ""), "replay with seed {seed}");
        assert_eq!(out, expected, "replay with seed {seed}: {options:?}");
    }
}

#[test]
fn records_are_printed_counted_and_summed_up_as_a_server_would_have_it() {
    let (fs, mut content) = (MemoryFs::new(), Vec::new());
    let id = |n: u128| Id(1_799_999_999_000 << 80 | n);
    (0..3).for_each(|n| write(&mut content, id(n), format!("text {n} 100%").as_bytes()));
    put(&fs, &format!("{}-{}.flushed", id(0), id(2)), &content, false);
    // The last hour, as through a server.
    let hour = QueryOptions::default();
    assert_eq!(ask(&fs, &hour), (FOUND, b"text 0 100%\ntext 1 100%\ntext 2 100%\n".to_vec(), String::new()));
    let earlier = QueryOptions { to: "1h".into(), from: "2h".into(), ..hour.clone() };
    assert_eq!(ask(&fs, &earlier), (NOT_FOUND, Vec::new(), String::new()));
    let timed = QueryOptions { shape: Shape { ulid: false, time: true }, newest: Some(1), ..hour.clone() };
    assert_eq!(ask(&fs, &timed).1, b"2027-01-15T07:59:59.000Z text 2 100%\n");
    assert_eq!(ask(&fs, &QueryOptions { nocopy: true, ..hour.clone() }), (FOUND, Vec::new(), String::new()));
    let stats = QueryOptions { stats: true, q: b"100%".to_vec(), ..hour.clone() };
    let (status, out, err) = ask(&fs, &stats);
    let out = String::from_utf8(out).expect("text");
    assert_eq!((status, err.as_str()), (FOUND, ""));
    for line in ["complete", "segments-queried", "q "] {
        assert!(out.lines().any(|found| found.starts_with(line)), "{line} in {out}");
    }
    assert!(out.contains("100%\n") && !out.contains("text"), "{out}");
    let (_, out, err) = ask(&fs, &QueryOptions { verbose: true, ..hour });
    assert_eq!(records(&out).count(), 3);
    assert!(err.contains("reading s\n") && err.contains("\n3 records, "), "{err}");
}

#[test]
fn what_is_asked_wrongly_is_refused_in_one_sentence() {
    let fs = MemoryFs::new();
    let bad = QueryOptions { q: b"(".to_vec(), regex: true, ..ever() };
    let (status, out, err) = ask(&fs, &bad);
    assert_eq!((status, out.len(), err.lines().count()), (FAILED, 0, 1), "{err}");
    assert!(err.contains("q is not a regular expression"), "{err}");
    let (status, _, err) = ask(&fs, &QueryOptions { from: "now".into(), to: "1h".into(), ..ever() });
    assert!(status == FAILED && err.contains("is after to"), "{err}");
    let (status, _, err) = ask(&fs, &ever());
    assert!(status == FAILED && err.starts_with("oklog query: cannot read s: ") && err.lines().count() == 1, "{err}");
    fs.create_dir_all(Path::new("s")).expect("in memory");
    let (status, _, err) = ask(&fs, &ever());
    assert_eq!((status, err.as_str()), (FAILED, "oklog query: s is no data directory of a server\n"));
}

#[test]
fn of_a_damaged_file_what_comes_before_is_printed_and_all_of_the_others() {
    let (fs, mut content) = (MemoryFs::new(), Vec::new());
    let id = |n: u128| Id(1_799_999_999_000 << 80 | n);
    (0..20_000).for_each(|n| write(&mut content, id(2 * n), format!("text {n}").as_bytes()));
    let sound = content.clone();
    let middle = records(&content).take(15_000).map(|record| record.whole.len()).sum::<usize>();
    content[middle] = b'x';
    put(&fs, &format!("{}-{}.flushed", id(0), id(39_998)), &content, false);
    let mut other = Vec::new();
    write(&mut other, id(39_997), b"other");
    put(&fs, &format!("{}-{}.flushed", id(39_997), id(39_997)), &other, false);
    let (status, out, err) = ask(&fs, &ever());
    assert_eq!((status, err.lines().count()), (INCOMPLETE, 1), "{err}");
    assert!(
        err.starts_with("oklog query: records may be missing: s/") && err.contains(".flushed is damaged: "),
        "{err}"
    );
    let (front, rest) = out.split_at(out.len() - other.len());
    assert!(sound.starts_with(front) && front.len() > 200_000 && rest == other, "{} bytes", out.len());
    let (status, _, err) = ask(&fs, &QueryOptions { newest: Some(1), q: b"text 3".to_vec(), ..ever() });
    assert_eq!((status, err.lines().count()), (INCOMPLETE, 1), "{err}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let (fs, _) = store(&mut Dice::new(1));
    let (fs, clock) = (Arc::new(fs), Arc::new(VirtualClock::at(NOW)));
    let ground = Ground { fs, clock, pool: Pool::inline(), most_open: 0 };
    let mut err = Vec::new();
    assert_eq!(run(&ground, &ever(), Path::new("s"), &mut Gone, &mut err), FOUND);
    assert_eq!(err, b"");
}
