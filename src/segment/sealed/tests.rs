use super::*;
use crate::record::id::Id;
use crate::record::stored::{self, Digest, records};
use crate::segment::recover::examine;
use crate::unit::Bytes;
use crate::world::entropy::Dice;
use crate::world::fs::memory::MemoryFs;
use crate::world::fs::{File, FileSystem, read_full_at};
use std::io;
use std::path::Path;
use std::sync::Arc;

fn file_with(bytes: &[u8]) -> Arc<dyn File> {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("d")).expect("in memory");
    let file = fs.create_new(Path::new("d/f")).expect("in memory");
    file.append(bytes).expect("in memory");
    file
}

fn content(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; file.size().expect("a size").0 as usize];
    assert_eq!(read_full_at(file, &mut bytes, Bytes(0)).expect("readable"), bytes.len());
    bytes
}

/// Some records: words that come again, a few long ones, bytes that are no text.
fn some_records(dice: &mut Dice, count: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut id = u128::from(dice.roll()) << 60;
    for _ in 0..count {
        id += 1 + (u128::from(dice.below(1 << 20)) << dice.below(70));
        let len = if dice.one_in(50) { dice.below(3_000) } else { dice.below(60) };
        let text: Vec<u8> = (0..len).map(|at| b"error at upstream \x00\xff42"[((at + len) % 22) as usize]).collect();
        stored::write(&mut out, Id(id), &text);
    }
    out
}

fn sealed_file(text: &[u8], block_text: usize, dice: &mut Dice) -> (Arc<dyn File>, Digest) {
    let file = file_with(b"");
    let mut writer = SealedWriter::with_blocks_of(block_text, file.clone()).expect("a writer");
    let mut rest = text;
    while !rest.is_empty() {
        let most = dice.below(2_000) as usize + 1;
        let cut = records(rest).scan(0, |sum, record| {
            *sum += record.whole.len();
            Some(*sum)
        });
        let cut =
            cut.take_while(|end| *end <= most).last().unwrap_or_else(|| records(rest).next().unwrap().whole.len());
        writer.append(&rest[..cut]).expect("in memory");
        rest = &rest[cut..];
    }
    let (digest, disk) = writer.finish().expect("in memory");
    assert_eq!(disk, file.size().expect("a size"));
    (file, digest)
}

fn text_of(sealed: &Arc<Sealed>) -> io::Result<Vec<u8>> {
    let (mut all, mut text, mut unpacker) = (Vec::new(), Vec::new(), Unpacker::new()?);
    for number in 0..sealed.blocks().len() {
        sealed.unpack(number, &mut unpacker, &mut text)?;
        all.extend_from_slice(&text);
    }
    Ok(all)
}

#[test]
fn what_was_sealed_is_read_back_by_blocks_as_a_file_and_by_any_zstd_decoder() {
    for seed in 0..60 {
        let dice = &mut Dice::new(seed);
        let count = 1 + dice.below(400);
        let text = some_records(dice, count);
        let block_text = 1 + dice.below(8_000) as usize;
        let (file, digest) = sealed_file(&text, block_text, dice);
        assert_eq!(form_of(&*file).expect("readable"), Form::Sealed);
        assert_eq!(zstd::decode_all(&content(&*file)[..]).expect("frames"), text, "replay with seed {seed}");
        let sealed = Arc::new(Sealed::open(file.clone()).expect("a sealed segment"));
        assert_eq!((sealed.fault(), sealed.digest()), (None, &digest));
        assert_eq!(glance(&*file).expect("readable"), Glance::Sound(digest));
        assert_eq!(text_of(&sealed).expect("sound"), text, "replay with seed {seed}");
        for block in sealed.blocks() {
            let whole = &text[block.text_at as usize..][..block.text as usize];
            let is_one = records(whole).count() == 1;
            assert!(whole.len() <= block_text || is_one, "replay with seed {seed}: {block:?}");
            assert_eq!(crc32fast::hash(whole), block.crc32);
            assert_eq!(records(whole).count(), block.records as usize);
        }
        let file: Arc<dyn File> = Arc::new(SealedText::new(sealed));
        let examined = examine(&file).expect("readable");
        assert_eq!((examined.digest, examined.fault), (Some(digest), None));
        for _ in 0..50 {
            let (at, len) = (dice.below(text.len() as u64 + 10) as usize, dice.below(9_000) as usize);
            let mut buffer = vec![0; len];
            let n = read_full_at(&*file, &mut buffer, Bytes(at as u64)).expect("readable");
            assert_eq!(buffer[..n], text[at.min(text.len())..(at + len).min(text.len())], "replay with seed {seed}");
        }
    }
}

#[test]
fn minutes_and_streams_are_what_counting_the_records_gives() {
    for seed in 0..20 {
        let dice = &mut Dice::new(seed);
        let text = some_records(dice, 300);
        let (file, _) = sealed_file(&text, 3_000, dice);
        let sealed = Sealed::open(file).expect("a sealed segment");
        let ids: Vec<(Id, u64)> =
            records(&text).map(|record| (record.id().expect("an id"), record.whole.len() as u64)).collect();
        let minutes = sealed.minutes().expect("readable").expect("sound");
        assert!(minutes.is_sorted_by_key(|minute| minute.minute));
        for minute in &minutes {
            let of: Vec<_> = ids.iter().filter(|(id, _)| id.millis().0 / 60_000 == minute.minute).collect();
            assert_eq!((minute.records, minute.text), (of.len() as u64, of.iter().map(|(_, len)| len).sum()));
            let sum = of.iter().rev().fold(0u64, |sum, (id, _)| sum.wrapping_add(layout::digest_of(*id)));
            assert_eq!(minute.ids, sum, "replay with seed {seed}");
        }
        assert_eq!(minutes.iter().map(|minute| minute.records).sum::<u64>(), 300);
        let streams = sealed.streams().expect("readable").expect("sound").expect("few");
        for stream in &streams {
            let of = ids.iter().filter(|(id, _)| id.stream().number() == stream.stream).map(|(id, _)| id.counter());
            let of: Vec<u32> = of.collect();
            let ends = (of.iter().min().copied(), of.iter().max().copied());
            assert_eq!(ends, (Some(stream.first), Some(stream.last)), "replay with seed {seed}");
            assert_eq!(of.len(), stream.records as usize);
        }
        assert_eq!(streams.iter().map(|stream| stream.records).sum::<u32>(), 300);
    }
}

#[test]
fn one_wrong_byte_costs_a_block_or_speed_but_never_shows_a_record_that_is_not_there() {
    let (mut of_blocks, mut of_index) = (0, 0);
    for seed in 0..2_000 {
        let dice = &mut Dice::new(seed);
        let text = some_records(dice, 40);
        let (file, digest) = sealed_file(&text, 600, dice);
        let blocks = Sealed::open(file.clone()).expect("a sealed segment").blocks().to_vec();
        let mut bytes = content(&*file);
        let end_of_blocks = blocks.last().map_or(0, |block| block.offset + u64::from(block.packed));
        let at = dice.below(bytes.len() as u64);
        bytes[at as usize] ^= 1 << dice.below(8);
        if at < 4 {
            continue;
        }
        let broken = file_with(&bytes);
        let opened = Sealed::open(broken.clone());
        if at >= end_of_blocks {
            of_index += 1;
            match opened {
                Ok(sealed) => {
                    let sealed = Arc::new(sealed);
                    assert_eq!(text_of(&sealed).expect("blocks are sound"), text, "replay with seed {seed}");
                    assert_eq!(*sealed.digest(), digest);
                }
                // The one number that says that all others mean something else.
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::Unsupported, "replay with seed {seed}: {e}"),
            }
            continue;
        }
        of_blocks += 1;
        let sealed = Arc::new(opened.expect("the index is sound"));
        let hit = blocks.iter().position(|block| at < block.offset + u64::from(block.packed)).expect("in a block");
        let (mut unpacker, mut out) = (Unpacker::new().expect("memory"), Vec::new());
        for (number, block) in blocks.iter().enumerate() {
            let unpacked = sealed.unpack(number, &mut unpacker, &mut out);
            let same = out == text[block.text_at as usize..][..block.text as usize];
            // A bit of a frame's header that no decoder looks at changes nothing.
            assert!(if number == hit { unpacked.is_err() || same } else { unpacked.is_ok() && same }, "seed {seed}");
        }
        let left: Vec<u8> = match Sealed::salvage(broken) {
            Ok(salvaged) => text_of(&Arc::new(salvaged)).expect("only what can be unpacked"),
            Err(_) => Vec::new(),
        };
        let block = blocks[hit];
        let mut rest = text.clone();
        rest.drain(block.text_at as usize..block.text_at as usize + block.text as usize);
        assert!(left == rest || left == text, "replay with seed {seed}: {} of {} bytes", left.len(), rest.len());
    }
    assert!(of_blocks > 500 && of_index > 300, "{of_blocks} in blocks, {of_index} in the index");
}

#[test]
fn a_file_that_was_cut_gives_the_blocks_that_are_whole() {
    for seed in 0..300 {
        let dice = &mut Dice::new(seed);
        let text = some_records(dice, 40);
        let (file, _) = sealed_file(&text, 600, dice);
        let blocks = Sealed::open(file.clone()).expect("a sealed segment").blocks().to_vec();
        let bytes = content(&*file);
        let cut = 4 + dice.below(bytes.len() as u64 - 4) as usize;
        let whole = blocks.iter().take_while(|block| block.offset + u64::from(block.packed) <= cut as u64);
        let wanted: u64 = whole.map(|block| u64::from(block.text)).sum();
        match Sealed::open(file_with(&bytes[..cut])) {
            Ok(sealed) => {
                assert!(sealed.fault().is_some());
                assert_eq!(text_of(&Arc::new(sealed)).expect("sound"), text[..wanted as usize], "seed {seed}");
            }
            Err(e) => assert!(wanted == 0 && e.kind() == io::ErrorKind::InvalidData, "seed {seed}: {e}"),
        }
    }
}

#[test]
fn another_version_is_refused_with_a_sentence() {
    let dice = &mut Dice::new(1);
    let (file, _) = sealed_file(&some_records(dice, 10), 600, dice);
    let mut bytes = content(&*file);
    let at = bytes.len() - 12;
    bytes[at] = 7;
    assert!(matches!(glance(&*file_with(&bytes)), Ok(Glance::Damaged(_))), "one of ours, but for its number");
    bytes[at - 20] ^= 1;
    let file = file_with(&bytes);
    let error = Sealed::open(file.clone()).err().expect("refused");
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert_eq!(error.to_string(), "it is a sealed segment of version 7, and this oklog reads version 1");
    assert_eq!(glance(&*file).expect("readable"), Glance::Version(7));
}

#[test]
fn records_out_of_order_are_not_sealed() {
    let mut text = Vec::new();
    [5u128, 4].iter().for_each(|id| stored::write(&mut text, Id(*id), b"text"));
    let mut writer = SealedWriter::new(file_with(b"")).expect("a writer");
    writer.append(&text).expect("held");
    assert_eq!(writer.finish().expect_err("refused").kind(), io::ErrorKind::InvalidData);
    let nothing = SealedWriter::new(file_with(b"")).expect("a writer").finish();
    assert_eq!(nothing.expect_err("refused").kind(), io::ErrorKind::InvalidData);
}
