//! Who is left alone for a while after a failure, twice as long each time until it does its work again.

use super::machine::Peer;
use crate::unit::Monotonic;
use std::collections::BTreeMap;
use std::time::Duration;

/// Why a peer rests. The greater is the better reason to try somebody else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Why {
    /// It did not answer, or was too slow, or broke off.
    Failed,
    /// It has no room: that lasts longer.
    Full,
}

impl Why {
    /// The first rest.
    pub fn shortest(self) -> Duration {
        match self {
            Why::Failed => Duration::from_secs(1),
            Why::Full => Duration::from_secs(10),
        }
    }

    /// What it doubles up to.
    pub fn longest(self) -> Duration {
        match self {
            Why::Failed => Duration::from_secs(30),
            Why::Full => Duration::from_secs(60),
        }
    }
}

/// How long a store that is full is left alone at least, however much it is needed. Nobody tells when there is room again.
pub const FULL_AT_LEAST: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
struct Rest {
    why: Why,
    span: Duration,
    since: Monotonic,
    until: Monotonic,
}

/// The peers that have failed since they last did their work. At most as many as there are members.
#[derive(Debug, Default)]
pub struct Rests(BTreeMap<Peer, Rest>);

impl Rests {
    /// It failed: it rests from now on.
    pub fn failed(&mut self, now: Monotonic, peer: &Peer, why: Why) {
        let before = self.0.get(peer).filter(|rest| rest.why == why);
        let span = doubled(before.map_or(Duration::ZERO, |rest| rest.span), why.shortest(), why.longest());
        self.0.insert(peer.clone(), Rest { why, span, since: now, until: now + span });
    }

    /// It did its work: its next rest is a short one again.
    pub fn worked(&mut self, peer: &Peer) {
        self.0.remove(peer);
    }

    /// Why it is to be left alone at this moment; `None` if it is not.
    pub fn why(&self, now: Monotonic, peer: &Peer) -> Option<Why> {
        self.0.get(peer).filter(|rest| now < rest.until).map(|rest| rest.why)
    }

    /// Whether it is awake, or is full and was left alone for [`FULL_AT_LEAST`]: enough, where nobody else is to be had.
    pub fn may_be_asked(&self, now: Monotonic, peer: &Peer) -> bool {
        self.0
            .get(peer)
            .is_none_or(|rest| now >= rest.until || (rest.why == Why::Full && now.since(rest.since) >= FULL_AT_LEAST))
    }

    /// Forgets those that are no members any more. `members` is in order.
    pub fn keep(&mut self, members: &[Peer]) {
        self.0.retain(|peer, _| members.binary_search(peer).is_ok());
    }
}

/// The span after `last`: twice as long, but from `shortest` to `longest`.
pub fn doubled(last: Duration, shortest: Duration, longest: Duration) -> Duration {
    last.saturating_mul(2).clamp(shortest, longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_doubles_up_to_its_limit_and_is_short_again_after_work() {
        let (mut rests, peer) = (Rests::default(), Peer::from("a"));
        let second = |n| Monotonic(Duration::from_secs(n));
        let mut now = Monotonic::default();
        for (why, spans) in [(Why::Failed, [1, 2, 4, 8, 16, 30, 30]), (Why::Full, [10, 20, 40, 60, 60, 60, 60])] {
            for span in spans {
                rests.failed(now, &peer, why);
                now = now + Duration::from_secs(span);
                assert_eq!(rests.why(now - Duration::from_millis(1), &peer), Some(why), "{why:?} {span}");
                assert_eq!(rests.why(now, &peer), None, "{why:?} {span}");
            }
        }
        rests.failed(now, &peer, Why::Full);
        assert!(!rests.may_be_asked(now + FULL_AT_LEAST - Duration::from_millis(1), &peer));
        assert!(rests.may_be_asked(now + FULL_AT_LEAST, &peer), "there may be room again");
        rests.worked(&peer);
        rests.failed(second(1000), &peer, Why::Failed);
        assert_eq!(rests.why(second(1001), &peer), None);
        rests.failed(second(1001), &peer, Why::Failed);
        rests.keep(&["b".into()]);
        assert_eq!(rests.why(second(1001), &peer), None, "it is no member any more");
    }
}
