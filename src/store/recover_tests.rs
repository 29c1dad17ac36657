use super::*;
use crate::world::entropy::Dice;
use crate::world::fs::real::RealFs;

/// The ends of a file, from all of its bytes.
fn naive_ends(bytes: &[u8]) -> Option<(Id, Id)> {
    let lines: Vec<&[u8]> = bytes.strip_suffix(b"\n")?.split(|byte| *byte == b'\n').collect();
    Some((stored::id_at(lines.first()?)?, stored::id_at(lines.last()?)?))
}

#[test]
fn the_ends_that_are_read_alone_are_those_that_a_look_at_every_byte_finds() {
    let dir = tempfile::tempdir().expect("a directory");
    for seed in 0..300 {
        let mut dice = Dice::new(seed);
        let mut bytes = Vec::new();
        for n in 0..dice.below(12) {
            let longest = if dice.one_in(4) { 3 * TAIL as u64 } else { 400 };
            stored::write(&mut bytes, Id(u128::from(n) + 1), &vec![b'x'; dice.below(longest) as usize]);
        }
        // Whole, exactly as long as what is read at once, garbled, torn.
        match dice.below(4) {
            0 if bytes.len() > TAIL => bytes = bytes.split_off(bytes.len() - TAIL),
            1 if !bytes.is_empty() => {
                let at = dice.below(bytes.len() as u64) as usize;
                bytes[at] = b"\n#\0"[dice.below(3) as usize];
            }
            2 => bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize),
            _ => {}
        }
        let file = RealFs.create_new(&dir.path().join(format!("{seed}"))).expect("a file");
        file.append(&bytes).expect("room");
        let found = ends(&*file, Bytes(bytes.len() as u64)).expect("readable");
        assert_eq!(found, naive_ends(&bytes), "replay with seed {seed}");
    }
}

#[test]
fn a_file_that_is_shorter_than_it_was_has_no_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = RealFs.create_new(&dir.path().join("f")).expect("a file");
    let mut bytes = Vec::new();
    stored::write(&mut bytes, Id(1), b"text");
    file.append(&bytes).expect("room");
    for len in [bytes.len() + 1, TAIL, TAIL + 1, 10 * TAIL] {
        assert_eq!(ends(&*file, Bytes(len as u64)).expect("readable"), None);
    }
}
