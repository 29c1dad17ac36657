//! Which ingester to try next, and how long to wait before.
//!
//! Values in, decisions out: no clock, no socket. Ingesters take their turn in a ring that starts where the dice say, so
//! that a thousand forwarders with the same list do not all go to its first. Each failure in a row doubles the wait, from
//! [`FIRST_WAIT`] to [`LONGEST_WAIT`]; half of each wait is drawn by lot, so that those who failed together do not come
//! back together.

use crate::world::entropy::Dice;
use std::time::Duration;

/// The longest possible wait after the first failure.
pub const FIRST_WAIT: Duration = Duration::from_millis(16);

/// No wait is longer.
pub const LONGEST_WAIT: Duration = Duration::from_millis(1024);

/// A connection that has lived this long was a success. One that broke sooner is a failure like one refused: a server that
/// takes connections only to close them must not be met with a storm of them.
pub const STEADY: Duration = Duration::from_secs(1);

/// The ring of ingesters and the run of failures.
#[derive(Clone, Debug)]
pub struct Backoff {
    addresses: usize,
    next: usize,
    failures: u32,
    dice: Dice,
}

/// One attempt to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Which address, by its place in the list.
    pub address: usize,
    /// How long to wait first.
    pub wait: Duration,
}

impl Backoff {
    /// A ring of `addresses` places, at least one.
    pub fn new(addresses: usize, mut dice: Dice) -> Backoff {
        let addresses = addresses.max(1);
        let next = usize::try_from(dice.below(addresses as u64)).unwrap_or(0);
        Backoff { addresses, next, failures: 0, dice }
    }

    /// What to try now. Tell afterwards how it went, by [`Backoff::failed`] or [`Backoff::broke`].
    pub fn attempt(&mut self) -> Attempt {
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => {
                let longest = FIRST_WAIT.saturating_mul(1 << (n - 1).min(16)).min(LONGEST_WAIT);
                let half_ns = u64::try_from(longest.as_nanos() / 2).unwrap_or(u64::MAX);
                Duration::from_nanos(half_ns.saturating_add(self.dice.below(half_ns.saturating_add(1))))
            }
        };
        Attempt { address: self.next, wait }
    }

    /// The attempt did not make a connection, or the server did not take a window: the next one's turn.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.next = (self.next + 1) % self.addresses;
    }

    /// A connection that had lived for `lived` has ended without our wish: the next one's turn.
    pub fn broke(&mut self, lived: Duration) {
        if lived >= STEADY {
            self.failures = 0;
        }
        self.failed();
    }

    /// What was sent is known to have arrived: the failures are forgotten, the ingester stays the same.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_does_not_wait_and_its_place_is_drawn_by_lot() {
        let starts: std::collections::BTreeSet<usize> = (0..100)
            .map(|seed| {
                let attempt = Backoff::new(3, Dice::new(seed)).attempt();
                assert_eq!(attempt.wait, Duration::ZERO);
                attempt.address
            })
            .collect();
        assert_eq!(starts.len(), 3);
    }

    #[test]
    fn waits_double_with_jitter_up_to_a_second_and_addresses_take_turns() {
        for seed in 0..100 {
            let mut backoff = Backoff::new(3, Dice::new(seed));
            let mut longest_ms = 16;
            let mut last = backoff.attempt().address;
            for _ in 0..50 {
                backoff.failed();
                let attempt = backoff.attempt();
                let longest = Duration::from_millis(longest_ms);
                assert!(attempt.wait <= longest && attempt.wait >= longest / 2, "{attempt:?}, replay with seed {seed}");
                assert_eq!(attempt.address, (last + 1) % 3, "replay with seed {seed}");
                last = attempt.address;
                longest_ms = (longest_ms * 2).min(1024);
            }
        }
    }

    #[test]
    fn a_steady_connection_forgets_failures_and_a_short_one_does_not() {
        let mut backoff = Backoff::new(1, Dice::new(1));
        (0..10).for_each(|_| backoff.broke(Duration::from_millis(10)));
        assert_eq!(backoff.failures(), 10);
        backoff.broke(STEADY);
        assert_eq!(backoff.failures(), 1);
        assert!(backoff.attempt().wait <= FIRST_WAIT);
        backoff.succeeded();
        assert_eq!(backoff.attempt(), Attempt { address: 0, wait: Duration::ZERO });
    }
}
