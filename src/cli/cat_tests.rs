use super::*;
use crate::record::id::Id;
use crate::record::stored::write;
use crate::segment::sealed::SealedWriter;
use crate::world::entropy::Dice;
use crate::world::fs::memory::MemoryFs;

/// So many records with ascending ids.
fn content(records: u128) -> Vec<u8> {
    let mut content = Vec::new();
    (0..records).for_each(|n| write(&mut content, Id(n * 10 + 5), format!("text {n}").as_bytes()));
    content
}

fn cat(files: &[(&str, &[u8])], names: &[&str], input: &[u8]) -> (u8, Vec<u8>, String) {
    let fs = MemoryFs::default();
    for (name, content) in files {
        fs.create_new(Path::new(name)).and_then(|file| file.append(content)).expect("in memory");
    }
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    let status = run(&fs, &names, io::Cursor::new(input.to_vec()), &mut out, &mut err);
    (status, out, String::from_utf8(err).expect("sentences"))
}

#[test]
fn files_are_printed_as_they_are_stored_in_the_order_of_the_arguments() {
    let (one, other, input) = (content(3), content(2), content(1));
    let files = [("one.flushed", &one[..]), ("other.trashed", &other), ("empty.active", b"")];
    let names = ["other.trashed", "-", "one.flushed", "empty.active", "other.trashed", "-"];
    let expected = [&other[..], &input, &one, &other].concat();
    assert_eq!(cat(&files, &names, &input), (PRINTED, expected, String::new()));
    assert_eq!(cat(&files, &[], &input), (PRINTED, input, String::new()));
    assert_eq!(cat(&files, &[], b""), (PRINTED, Vec::new(), String::new()));
}

#[test]
fn what_cannot_be_read_is_named_and_the_next_file_is_printed() {
    let one = content(2);
    let (status, out, err) = cat(&[("one", &one)], &["none", "one"], b"");
    assert_eq!((status, out), (NOT_ALL, one));
    assert!(err.starts_with("oklog cat: none: ") && err.lines().count() == 1, "{err}");
}

#[test]
fn of_a_torn_file_the_whole_records_are_printed_from_a_file_and_from_a_stream() {
    let whole = content(3);
    let torn = [&whole[..], b"00000000000000000000000ZZZ te"].concat();
    for (names, input, called) in [(["f"], &b""[..], "f"), (["-"], &torn[..], "standard input")] {
        let (status, out, err) = cat(&[("f", &torn)], &names, input);
        assert_eq!((status, &out), (NOT_ALL, &whole));
        let expected = format!(
            "oklog cat: {called}: the record at byte {} has no LF; 3 records were printed, 29 bytes are not whole \
             records in their place and were not\n",
            whole.len()
        );
        assert_eq!(err, expected);
    }
}

#[test]
fn of_a_damaged_file_every_line_that_is_a_record_is_printed() {
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let sound = content(40);
        let mut lines: Vec<&[u8]> = sound.split_inclusive(|byte| *byte == b'\n').collect();
        let bad: &[u8] = if dice.one_in(2) { b"no record\n" } else { b"\n" };
        let at = dice.below(40) as usize;
        lines.insert(at, bad);
        let damaged = lines.concat();
        let (status, out, err) = cat(&[("f", &damaged)], &["f"], b"");
        assert_eq!((status, &out), (NOT_ALL, &sound), "replay with seed {seed}");
        let part = format!("40 records were printed, {} bytes are not", bad.len());
        assert!(err.contains(&part) && err.lines().count() == 1, "replay with seed {seed}: {err}");
    }
}

#[test]
fn records_out_of_order_are_all_printed_and_that_is_said() {
    let sound = content(4);
    let mut lines: Vec<&[u8]> = sound.split_inclusive(|byte| *byte == b'\n').collect();
    lines.rotate_left(2);
    let (status, out, err) = cat(&[("f", &lines.concat())], &["f"], b"");
    assert_eq!((status, out.len()), (NOT_ALL, sound.len()));
    assert!(lines.iter().all(|line| out.windows(line.len()).any(|part| part == *line)));
    assert!(err.contains("is not larger than") && err.contains("all of its 4 records were printed"), "{err}");
}

/// Takes so many bytes, then fails so.
struct Full(usize, io::ErrorKind);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.min(bytes.len()) {
            0 => Err(self.1.into()),
            n => {
                self.0 -= n;
                Ok(n)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly_and_a_full_disk_does_not() {
    let fs = MemoryFs::default();
    fs.create_new(Path::new("f")).and_then(|file| file.append(&content(5_000))).expect("in memory");
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let files = ["f".to_string(), "none".to_string()];
    let cat = |kind| {
        let mut err = Vec::new();
        let status = run(&fs, &files, io::empty(), &mut Full(10, kind), &mut err);
        (status, String::from_utf8(err).expect("sentences"))
    };
    assert_eq!(cat(io::ErrorKind::BrokenPipe), (PRINTED, String::new()));
    let (status, err) = cat(io::ErrorKind::StorageFull);
    assert!(status == NOT_ALL && err.starts_with("oklog cat: printing records: "), "{err}");
    assert_eq!(err.lines().count(), 1);
}

/// The same records sealed, in blocks of about 600 bytes.
fn sealed(text: &[u8]) -> Vec<u8> {
    let fs = MemoryFs::default();
    let file = fs.create_new(Path::new("f")).expect("in memory");
    let mut writer = SealedWriter::with_blocks_of(600, file.clone()).expect("a writer");
    writer.append(text).and_then(|()| writer.finish()).expect("in memory");
    let mut bytes = vec![0; file.size().expect("a size").0 as usize];
    read_full_at(&*file, &mut bytes, Bytes(0)).expect("readable");
    bytes
}

#[test]
fn a_sealed_segment_is_printed_whatever_it_is_called_and_not_from_a_stream() {
    let text = content(200);
    let packed = sealed(&text);
    assert_eq!(cat(&[("f.flushed", &packed)], &["f.flushed"], b""), (PRINTED, text, String::new()), "as it was");
    let (status, out, err) = cat(&[], &[], &packed);
    assert_eq!((status, out.len(), err.lines().count()), (NOT_ALL, 0, 1));
    assert!(err.starts_with("oklog cat: standard input: it is a sealed segment"), "{err}");
}

#[test]
fn of_a_damaged_sealed_segment_every_other_block_is_printed() {
    let text = content(200);
    let packed = sealed(&text);
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let mut damaged = packed.clone();
        let at = dice.below(damaged.len() as u64) as usize;
        damaged[at] ^= 1 << dice.below(8);
        let (status, out, err) = cat(&[("f", &damaged)], &["f"], b"");
        // What is printed is sound: records of the text, in their order.
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let is_part = out.split_inclusive(|byte| *byte == b'\n').all(|line| lines.any(|other| other == line));
        assert!(is_part && out.len() + 700 >= text.len(), "replay with seed {seed}: {} bytes", out.len());
        // A damaged filter costs nothing here, and is not looked at.
        assert!(status == NOT_ALL || out == text, "replay with seed {seed}: {err}");
        assert_eq!(err.lines().count(), usize::from(status == NOT_ALL), "replay with seed {seed}: {err}");
    }
}
