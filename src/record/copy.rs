//! Copies of short pieces of bytes, such as records, without a call.
//!
//! With musl a call of `memcpy` costs 40 ns, however little there is to copy: it copies by `rep movs` (measured; 7 ns with
//! glibc, and here). Where one is made for each record, that is more than all else that is done with the record.

/// Pieces above this are left to `memcpy`, which is as fast with them anywhere.
const SHORT: usize = 1024;

/// How much is moved at a time: a register of any x86-64.
const STEP: usize = 16;

/// Four steps. One step alone, in a loop, would be made a `memcpy` again by the compiler.
const STRIDE: usize = 4 * STEP;

/// Copies all of `from` over `to`, which is as long.
///
/// # Panics
/// Where it is not as long.
pub fn over(to: &mut [u8], from: &[u8]) {
    let len = from.len();
    match len {
        _ if len > SHORT || to.len() != len => to.copy_from_slice(from),
        STEP.. => {
            let mut done = 0;
            while done + STRIDE <= len {
                part::<STEP>(to, from, done);
                part::<STEP>(to, from, done + STEP);
                part::<STEP>(to, from, done + 2 * STEP);
                part::<STEP>(to, from, done + 3 * STEP);
                done += STRIDE;
            }
            let left = len - done;
            if left > STEP {
                part::<STEP>(to, from, done);
            }
            if left > 2 * STEP {
                part::<STEP>(to, from, done + STEP);
            }
            if left > 3 * STEP {
                part::<STEP>(to, from, done + 2 * STEP);
            }
            // The last step may lie over what is there already.
            part::<STEP>(to, from, len - STEP);
        }
        8.. => both_ends::<8>(to, from),
        4.. => both_ends::<4>(to, from),
        2.. => both_ends::<2>(to, from),
        1 => part::<1>(to, from, 0),
        0 => {}
    }
}

fn both_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    part::<N>(to, from, 0);
    part::<N>(to, from, from.len() - N);
}

/// Moves so many bytes that the compiler knows how, as one array: no call, however little it optimizes.
#[inline(always)]
fn part<const N: usize>(to: &mut [u8], from: &[u8], at: usize) {
    let to = to.get_mut(at..).and_then(|to| to.first_chunk_mut::<N>());
    let from = from.get(at..).and_then(|from| from.first_chunk::<N>());
    if let (Some(to), Some(from)) = (to, from) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::entropy::Dice;

    #[test]
    fn a_copy_is_what_the_standard_library_makes_of_it_and_nothing_around_it_changes() {
        let mut dice = Dice::new(1);
        for len in (0..3 * STRIDE).chain(SHORT - STRIDE..SHORT + STRIDE) {
            let from: Vec<u8> = (0..len).map(|_| dice.below(256) as u8).collect();
            let mut all = vec![0xa5; len + 40];
            over(&mut all[20..20 + len], &from);
            let expected = [vec![0xa5; 20], from, vec![0xa5; 20]].concat();
            assert_eq!(all, expected, "{len} bytes");
        }
    }
}
