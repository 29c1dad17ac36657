//! Sealed segments are sound as they are written, and one random damage to one is found exactly when a naive look finds it.

use super::{Options, Report, check};
use crate::record::id::{Id, StreamBits};
use crate::record::stored::write;
use crate::segment::sealed::{Block, Sealed, SealedWriter};
use crate::unit::{Bytes, UnixNanos};
use crate::world::clock::VirtualClock;
use crate::world::entropy::Dice;
use crate::world::fs::memory::MemoryFs;
use crate::world::fs::{FileSystem, read_full_at};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const START: u64 = 1_800_000_000_000_000_000;

/// A sealed segment of some streams: its name, its bytes, its blocks.
struct Sample {
    name: String,
    bytes: Vec<u8>,
    blocks: Vec<Block>,
    text: Vec<u8>,
}

fn sample(dice: &mut Dice) -> Sample {
    let mut ids = Vec::new();
    for stream in 0..1 + dice.below(4) {
        let count = 1 + dice.below(60) as u32;
        let id = |n| Id::new(UnixNanos(START + u64::from(n) * 7_000_000), StreamBits::from_random(stream), n);
        ids.extend((0..count).map(id));
    }
    ids.sort_unstable();
    let mut text = Vec::new();
    for id in &ids {
        let len = dice.below(70) as usize;
        write(&mut text, *id, &b"some words that come again and again, then others, and so on to the end "[..len]);
    }
    let name = format!("{}-{}.sealed", ids[0], ids[ids.len() - 1]);
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("d")).expect("in memory");
    let file = fs.create_new(Path::new("d/f")).expect("in memory");
    let mut writer = SealedWriter::with_blocks_of(600, file.clone()).expect("a writer");
    writer.append(&text).and_then(|()| writer.finish()).expect("in memory");
    let mut bytes = vec![0; file.size().expect("a size").0 as usize];
    read_full_at(&*file, &mut bytes, Bytes(0)).expect("readable");
    let blocks = Sealed::open(file).expect("sealed").blocks().to_vec();
    Sample { name, bytes, blocks, text }
}

/// What is said of a store that has this file alone, with notes, and the exit status.
fn verify(name: &str, bytes: &[u8]) -> (u8, String) {
    let fs = MemoryFs::new();
    fs.create_dir_all(Path::new("s")).expect("in memory");
    let put = |name: &str, bytes: &[u8]| {
        fs.create_new(&Path::new("s").join(name)).and_then(|file| file.append(bytes)).expect("in memory");
    };
    put(&format!("{:032x}.store", 7), b"");
    put(name, bytes);
    let fs: Arc<dyn FileSystem> = Arc::new(fs);
    let clock = VirtualClock::at(UnixNanos(START + 3_600_000_000_000));
    let options = Options { dirs: vec![PathBuf::from("s")], copies: None };
    let report: Report = check(&fs, &clock, &options, &mut |_| {}).expect("readable");
    let mut out = Vec::new();
    report.print(true, &mut out).expect("in memory");
    (report.exit_status(), String::from_utf8(out).expect("text"))
}

#[test]
fn a_sealed_segment_is_sound_as_it_is_written() {
    for seed in 0..40 {
        let sample = sample(&mut Dice::new(seed));
        let (status, said) = verify(&sample.name, &sample.bytes);
        assert!(status == 0 && !said.contains("problem: "), "replay with seed {seed}: {said}");
        let count = sample.text.iter().filter(|byte| **byte == b'\n').count();
        assert!(said.contains(&format!("1 segment, {count} record")), "replay with seed {seed}: {said}");
    }
}

/// Whether something is wrong, by decoding every frame where it was and comparing all else.
fn is_wrong(sample: &Sample, bytes: &[u8]) -> bool {
    if bytes.len() != sample.bytes.len() {
        return true;
    }
    let mut end = 0;
    for block in &sample.blocks {
        let from = block.offset as usize;
        end = from + block.packed as usize;
        let text = &sample.text[block.text_at as usize..][..block.text as usize];
        if zstd::bulk::decompress(&bytes[from..end], text.len()).ok().as_deref() != Some(text) {
            return true;
        }
    }
    bytes[end..] != sample.bytes[end..]
}

#[test]
fn one_damage_is_found_exactly_when_a_naive_look_finds_it() {
    let (mut found, mut harmless) = (0, 0);
    let seeds = 3_000 * if std::env::var_os("OKLOG_TEST_LONG").is_some() { 20 } else { 1 };
    for seed in 0..seeds {
        let dice = &mut Dice::new(seed);
        let sample = sample(dice);
        let mut bytes = sample.bytes.clone();
        let at = dice.below(bytes.len() as u64) as usize;
        let what = match dice.below(8) {
            0..5 => {
                bytes[at] ^= 1 << dice.below(8);
                "a bit flipped in byte"
            }
            5 => {
                bytes.truncate(at.max(1));
                "cut at byte"
            }
            6 => {
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill(0);
                "zeroes from byte"
            }
            _ => {
                let from = dice.below(bytes.len() as u64) as usize;
                let len = (1 + dice.below(300) as usize).min(bytes.len() - from.max(at));
                bytes.copy_within(from..from + len, at);
                "other bytes of it at byte"
            }
        };
        let (status, said) = verify(&sample.name, &bytes);
        let wrong = is_wrong(&sample, &bytes);
        assert_eq!(status != 0, wrong, "replay with seed {seed}: {what} {at} of {}: {said}", sample.bytes.len());
        (found, harmless) = (found + u64::from(wrong), harmless + u64::from(!wrong));
    }
    assert!(found > seeds / 2 && harmless > 3, "{found} found, {harmless} harmless");
}

#[test]
fn a_damaged_block_is_named_by_its_records_and_the_others_are_counted() {
    let sample = sample(&mut Dice::new(5));
    let block = sample.blocks[1];
    let mut bytes = sample.bytes.clone();
    bytes[(block.offset + u64::from(block.packed) / 2) as usize] ^= 0x10;
    let (status, said) = verify(&sample.name, &bytes);
    assert_eq!(status, 1);
    let expected = format!(
        "problem: {}: {} records are lost: the block from byte {} to {} is damaged, from {} at ",
        sample.name,
        block.records,
        block.offset,
        block.offset + u64::from(block.packed),
        block.first
    );
    assert!(said.contains(&expected), "{expected} in {said}");
    let left = sample.blocks.iter().map(|block| block.records).sum::<u32>() - block.records;
    assert!(said.contains(&format!("1 segment, {left} records")), "{said}");
}

#[test]
fn a_damaged_index_costs_speed_and_an_unknown_version_all() {
    let sample = sample(&mut Dice::new(6));
    let count = sample.blocks.iter().map(|block| block.records).sum::<u32>();
    let last = sample.blocks.last().expect("blocks");
    let end = (last.offset + u64::from(last.packed)) as usize;
    // In the table, in the filter, in a frame's header, in the footer.
    for (at, part) in [
        (end + 20, "the block table is damaged"),
        (sample.bytes.len() - 200, "called filter is damaged"),
        (end + 1, "the frame around its block table is damaged"),
        (sample.bytes.len() - 100, "the footer is damaged"),
    ] {
        let mut bytes = sample.bytes.clone();
        bytes[at] ^= 1;
        let (status, said) = verify(&sample.name, &bytes);
        assert!(status == 1 && said.contains("which costs speed alone") && said.contains(part), "{part}: {said}");
        assert!(said.contains(&format!("1 segment, {count} records")), "{said}");
        assert_eq!(said.matches("problem: ").count(), 1, "{said}");
    }
    // A version that is one of ours, with its own checksum, would be needed to be believed.
    let mut bytes = sample.bytes.clone();
    let len = bytes.len();
    bytes[len - 12..len - 8].copy_from_slice(&9u32.to_le_bytes());
    bytes[len - 100] ^= 1;
    let (status, said) = verify(&sample.name, &bytes);
    assert!(status == 2 && said.contains("is sealed in version 9"), "{said}");
    assert_eq!(said.matches("problem: ").count(), 1, "{said}");
}

#[test]
fn what_lies_between_blocks_without_an_index_is_told_by_its_neighbours() {
    let sample = sample(&mut Dice::new(8));
    let block = sample.blocks[1];
    let mut bytes = sample.bytes.clone();
    bytes[block.offset as usize + 9] ^= 0xFF;
    bytes.truncate(bytes.len() - 20);
    let (status, said) = verify(&sample.name, &bytes);
    let between = format!("records between {} and {} are lost", sample.blocks[0].last, sample.blocks[2].first);
    assert!(status == 1 && said.contains(&between), "{between} in {said}");
    assert!(said.contains("which costs speed alone"), "{said}");
}
