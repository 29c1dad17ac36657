//! The id of a stored record as it stands there, compared without reading it as a number.
//!
//! The digits of Crockford's base32 are in the order of their bytes, so canonical ids are in the order of their texts: two loads
//! and one comparison in place of 26 look-ups and shifts.

use super::id::{ID_LEN, Id};
use super::stored::PREFIX_LEN;

/// An id in canonical form. The order is that of ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// Two windows of 16 bytes, big endian, that together are the 26 of the text.
    front: u128,
    back: u128,
}

impl Key {
    /// The id at the start of a stored record; `None` if there is none in canonical form, followed by a space.
    #[inline]
    pub fn at(stored: &[u8]) -> Option<Key> {
        let prefix = stored.first_chunk::<PREFIX_LEN>()?;
        let (front, back) = (prefix.first_chunk::<16>()?, prefix.get(ID_LEN - 16..)?.first_chunk::<16>()?);
        let is_id = prefix[0] <= b'7' && prefix[ID_LEN] == b' ' && are_digits(front) && are_digits(back);
        is_id.then(|| Key { front: u128::from_be_bytes(*front), back: u128::from_be_bytes(*back) })
    }

    /// The same where the record was looked at before: its id is not checked. `None` if it is too short for one.
    pub fn known(stored: &[u8]) -> Option<Key> {
        let front = stored.first_chunk()?;
        let back = stored.get(ID_LEN - 16..)?.first_chunk()?;
        Some(Key { front: u128::from_be_bytes(*front), back: u128::from_be_bytes(*back) })
    }

    /// The id as a number; `None` where it was [`Key::known`] and is none.
    pub fn id(self) -> Option<Id> {
        let mut text = [0; ID_LEN];
        text[..16].copy_from_slice(&self.front.to_be_bytes());
        text[ID_LEN - 16..].copy_from_slice(&self.back.to_be_bytes());
        Id::parse(&text)
    }
}

impl From<Id> for Key {
    fn from(id: Id) -> Key {
        let text = id.text();
        let window = |from: usize| text[from..].iter().take(16).fold(0, |all, byte| all << 8 | u128::from(*byte));
        Key { front: window(0), back: window(ID_LEN - 16) }
    }
}

/// Whether all are digits of Crockford's base32, upper case. Without branches, so that the compiler looks at them side by side.
fn are_digits(bytes: &[u8; 16]) -> bool {
    let all = bytes.iter().fold(1, |all, byte| {
        let is_used = (byte != &b'I') & (byte != &b'L') & (byte != &b'O') & (byte != &b'U');
        let is_letter = u8::from(byte.wrapping_sub(b'A') < 26) & u8::from(is_used);
        all & (u8::from(byte.wrapping_sub(b'0') < 10) | is_letter)
    });
    all != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::stored::{id_at, write};
    use crate::world::entropy::Dice;

    #[test]
    fn a_key_is_found_where_an_id_is_and_nowhere_else() {
        for byte in 0..=u8::MAX {
            for at in 0..PREFIX_LEN {
                let mut stored = b"01ARZ3NDEKTSV4RRFFQ69G5FAV text\n".to_vec();
                stored[at] = byte;
                assert_eq!(Key::at(&stored).and_then(Key::id), id_at(&stored), "byte {byte} at {at}");
            }
        }
        assert_eq!(Key::at(b"01ARZ3NDEKTSV4RRFFQ69G5FAV"), None);
    }

    #[test]
    fn keys_are_in_the_order_of_their_ids() {
        for seed in 0..20_000 {
            let mut dice = Dice::new(seed);
            let mut id = || Id((u128::from(dice.roll()) << 64 | u128::from(dice.roll())) >> dice.below(128));
            let (one, mut other) = (id(), id());
            if seed % 2 == 0 {
                other = Id(one.0 ^ 1 << (seed / 2 % 128));
            }
            assert_eq!(Key::from(one).cmp(&Key::from(other)), one.cmp(&other), "replay with seed {seed}");
            let mut stored = Vec::new();
            write(&mut stored, one, b"text");
            assert_eq!(Key::at(&stored), Some(Key::from(one)), "replay with seed {seed}");
            assert_eq!(Key::from(one).id(), Some(one), "replay with seed {seed}");
        }
    }
}
