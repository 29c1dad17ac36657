//! Chance: from the operating system where it must not be guessed or repeated, from a seed where it must be.

use std::sync::Mutex;

/// 64 random bits from the operating system.
///
/// Falls back to the hasher keys of the standard library, which are random per process, where `getrandom(2)` is refused.
pub fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => {
            use std::hash::{BuildHasher, Hasher};
            std::hash::RandomState::new().build_hasher().finish()
        }
    }
}

/// 128 random bits from the operating system.
pub fn random_u128() -> u128 {
    u128::from(random_u64()) << 64 | u128::from(random_u64())
}

/// Where ids that nobody else may draw come from: the operating system, or a seed where a run is to be repeated.
pub trait Entropy: Send + Sync {
    /// 64 bits.
    fn bits_64(&self) -> u64;

    /// 128 bits.
    fn bits_128(&self) -> u128 {
        u128::from(self.bits_64()) << 64 | u128::from(self.bits_64())
    }
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn bits_64(&self) -> u64 {
        random_u64()
    }
}

/// What a seed gives.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<Dice>);

impl SeededEntropy {
    /// Of this seed.
    pub fn new(seed: u64) -> SeededEntropy {
        SeededEntropy(Mutex::new(Dice::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn bits_64(&self) -> u64 {
        super::crew::lock(&self.0).roll()
    }
}

/// A seeded generator: the same seed gives the same throws, in tests and wherever a decision needs chance.
///
/// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number from 0 to `bound - 1`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.roll()) * u128::from(bound)) >> 64) as u64
    }

    /// True once in `n` throws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Brings a slice into random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
