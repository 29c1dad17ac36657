//! Where the sources of a merge stand, smallest first: a binary heap whose top is replaced in one go down.
//!
//! The library's heap takes the top out, sifts another one all the way down and back up, and then does the same to put the
//! source in again; most of the time it belongs near the top.

use crate::record::key::Key;

/// Where a source stands. The order is that of the output: by id, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Head {
    /// The id of its next record.
    pub key: Key,
    /// Which source.
    pub index: usize,
}

/// The heads of all sources that are not at their end.
#[derive(Debug)]
pub struct Heads(Vec<Head>);

impl Heads {
    /// These, which are in no order.
    pub fn of(heads: Vec<Head>) -> Heads {
        let mut heads = Heads(heads);
        (0..heads.0.len() / 2).rev().for_each(|at| heads.sift_down(at));
        heads
    }

    /// The smallest.
    pub fn first(&self) -> Option<Head> {
        self.0.first().copied()
    }

    /// The smallest but one.
    pub fn second(&self) -> Option<Head> {
        match (self.0.get(1), self.0.get(2)) {
            (Some(one), Some(other)) => Some(*one.min(other)),
            (one, _) => one.copied(),
        }
    }

    /// Puts another one in the place of the smallest.
    pub fn replace_first(&mut self, head: Head) {
        if let Some(first) = self.0.first_mut() {
            *first = head;
            self.sift_down(0);
        }
    }

    /// Takes the smallest out.
    pub fn pop(&mut self) -> Option<Head> {
        let first = self.first()?;
        let last = self.0.pop()?;
        self.replace_first(last);
        Some(first)
    }

    /// Puts one in.
    pub fn push(&mut self, head: Head) {
        let mut at = self.0.len();
        self.0.push(head);
        while at > 0 && self.0[at] < self.0[(at - 1) / 2] {
            self.0.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sift_down(&mut self, mut at: usize) {
        let heads = self.0.as_mut_slice();
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let Some(mut least) = heads.get(left).map(|_| left) else { return };
            if right < heads.len() && heads[right] < heads[left] {
                least = right;
            }
            if heads[at] <= heads[least] {
                return;
            }
            heads.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::id::Id;
    use crate::world::entropy::Dice;

    #[test]
    fn heads_come_out_as_from_a_sorted_list() {
        for seed in 0..2_000 {
            let mut dice = Dice::new(seed);
            let mut index = 0;
            let mut head = |dice: &mut Dice| {
                index += 1;
                Head { key: Id(dice.below(8).into()).into(), index: index % 5 }
            };
            let mut naive: Vec<Head> = (0..dice.below(9)).map(|_| head(&mut dice)).collect();
            let mut heads = Heads::of(naive.clone());
            for _ in 0..40 {
                naive.sort();
                assert_eq!((heads.first(), heads.second()), (naive.first().copied(), naive.get(1).copied()), "{seed}");
                match dice.below(3) {
                    0 => {
                        let new = head(&mut dice);
                        heads.push(new);
                        naive.push(new);
                    }
                    1 => {
                        let expected = (!naive.is_empty()).then(|| naive.remove(0));
                        assert_eq!(heads.pop(), expected, "replay with seed {seed}");
                    }
                    _ => {
                        let new = head(&mut dice);
                        heads.replace_first(new);
                        naive.first_mut().into_iter().for_each(|first| *first = new);
                    }
                }
            }
        }
    }
}
