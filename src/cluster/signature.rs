//! Signs calls from node to node with the cluster's key, and judges them.
//!
//! The header's value is `v1 SENDER COUNTER TAG`: the caller's id for this start in 32 hexadecimal digits, its counter in
//! 16, and 32 of an HMAC-SHA-256, its first 16 bytes, over
//!
//! ```text
//! "oklog-http-v1" LF method LF target LF receiver LF SENDER LF COUNTER
//! ```
//!
//! where the receiver is its NodeId in 32 digits. So a call can be made only with a key, once, to one start of one node,
//! for one thing. What it does not protect: bodies and answers against somebody on the path, who may change them, and
//! read them; and an answer proves nothing about who gave it. Whoever has the key can call as any node.

use super::auth::{Keys, TAG, Windows, first_counter};
use super::claim::NodeId;
use crate::http::{Guard, client::Sign};
use crate::unit::parse_hex;
use crate::world::clock::Clock;
use crate::world::crew::lock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What is said when no signature came.
pub const MISSING: &str = "this call is for nodes of the cluster, and bears no signature";

/// What is said of any signature that is not right, whatever is wrong with it.
pub const NOT_VALID: &str = "this call is for nodes of the cluster, and its signature is not valid";

const VERSION: &str = "v1";

/// Signs what this node calls.
#[derive(Debug)]
pub struct HttpSigner {
    keys: Keys,
    me: NodeId,
    counter: AtomicU64,
}

impl HttpSigner {
    /// A signer for one start of a node; `None` without a key. `unix_ms` is the time of day at its start: counters begin
    /// there, so that they rise over all starts.
    pub fn new(keys: Keys, me: NodeId, unix_ms: u64) -> Option<HttpSigner> {
        let counter = AtomicU64::new(first_counter(unix_ms));
        (!keys.is_empty()).then_some(HttpSigner { keys, me, counter })
    }
}

impl Sign for HttpSigner {
    fn sign(&self, method: &str, target: &str, to: u128) -> String {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let signed = text(method, target, NodeId(to), self.me, counter);
        // There is a key, or there were no signer.
        let tag = self.keys.tag(&[signed.as_bytes()]).unwrap_or_default();
        format!("{VERSION} {} {counter:016x} {:032x}", self.me, u128::from_be_bytes(tag))
    }
}

fn text(method: &str, target: &str, to: NodeId, from: NodeId, counter: u64) -> String {
    format!("oklog-http-v1\n{method}\n{target}\n{to}\n{from}\n{counter:016x}")
}

/// Judges calls to this node. Callers' counters are remembered as those of datagrams are, and within the same bounds.
pub struct HttpGuard {
    keys: Keys,
    me: NodeId,
    clock: Arc<dyn Clock>,
    windows: Mutex<Windows>,
}

impl HttpGuard {
    /// A guard for one start of a node; `None` without a key: then whoever reaches the port may call.
    pub fn new(keys: Keys, me: NodeId, clock: Arc<dyn Clock>) -> Option<HttpGuard> {
        (!keys.is_empty()).then(|| HttpGuard { keys, me, clock, windows: Mutex::default() })
    }

    fn is_valid(&self, method: &str, target: &str, signature: &str) -> Option<bool> {
        let mut words = signature.split(' ');
        let version = words.next()?;
        let (from, counter, tag) =
            (parse_hex(words.next()?, 32)?, parse_hex(words.next()?, 16)?, parse_hex(words.next()?, 2 * TAG)?);
        if version != VERSION || words.next().is_some() {
            return None;
        }
        let counter = u64::try_from(counter).ok()?;
        let signed = text(method, target, self.me, NodeId(from), counter);
        let known = self.keys.verify(&[signed.as_bytes()], &tag.to_be_bytes());
        Some(known && lock(&self.windows).admit(self.clock.now(), from, counter))
    }
}

impl Guard for HttpGuard {
    fn admit(&self, method: &str, target: &str, signature: Option<&str>) -> Result<(), String> {
        match signature.map(|signature| self.is_valid(method, target, signature)) {
            Some(Some(true)) => Ok(()),
            Some(_) => Err(NOT_VALID.into()),
            None => Err(MISSING.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::UnixNanos;
    use crate::world::clock::VirtualClock;
    use crate::world::entropy::Dice;
    use std::path::Path;

    const CALLER: NodeId = NodeId(0xca11);
    const CALLED: NodeId = NodeId(0xca11ed);

    fn keys(text: &str) -> Keys {
        Keys::parse(text.as_bytes(), Path::new("keys")).unwrap()
    }

    fn guard(text: &str) -> HttpGuard {
        HttpGuard::new(keys(text), CALLED, Arc::new(VirtualClock::at(UnixNanos(0)))).unwrap()
    }

    fn signer(text: &str) -> HttpSigner {
        HttpSigner::new(keys(text), CALLER, 1_795_426_200_250).unwrap()
    }

    const KEY: &str = "an old key of the cluster";

    #[test]
    fn a_signed_call_passes_once_and_only_as_what_it_was_signed_for() {
        let (guard, signer) = (guard(KEY), signer(KEY));
        let call = |signature: &str| guard.admit("GET", "/a?b=%20", Some(signature));
        let signature = signer.sign("GET", "/a?b=%20", CALLED.0);
        let refused = Err(NOT_VALID.to_string());
        assert_eq!(guard.admit("POST", "/a?b=%20", Some(&signature)), refused);
        assert_eq!(guard.admit("GET", "/a?b=%21", Some(&signature)), refused);
        assert_eq!(call(&signature), Ok(()));
        assert_eq!(call(&signature), refused, "a second time");
        assert_eq!(call(&signer.sign("GET", "/a?b=%20", CALLED.0 + 1)), refused, "for another node");
        assert_eq!(call(&signer.sign("GET", "/a?b=%20", 0)), refused, "for whomever it may concern");
        assert_eq!(call(&signer.sign("GET", "/a?b=%20", CALLED.0)), Ok(()), "the next one");
        assert_eq!(guard.admit("GET", "/a", None), Err(MISSING.to_string()));
    }

    #[test]
    fn a_call_signed_with_any_key_of_the_file_passes_and_with_another_does_not() {
        let new_and_old = guard(&format!("# rotated\nthe new key of the cluster\n{KEY}\n"));
        let call = |guard: &HttpGuard, key: &str| {
            guard.admit("GET", "/", Some(&signer(key).sign("GET", "/", CALLED.0))).is_ok()
        };
        assert!(call(&new_and_old, KEY));
        assert!(!call(&guard("the new key of the cluster"), KEY));
        assert!(!call(&new_and_old, "a key of another cluster"));
    }

    #[test]
    fn signatures_that_are_garbled_do_not_pass() {
        let (guard, signer) = (guard(KEY), signer(KEY));
        for seed in 0..2_000 {
            let mut dice = Dice::new(seed);
            let mut garbled = signer.sign("GET", "/", CALLED.0).into_bytes();
            let at = dice.below(garbled.len() as u64) as usize;
            let before = garbled.clone();
            match dice.below(4) {
                0 => garbled[at] = b' ' + dice.below(95) as u8,
                1 => garbled.insert(at, b"0 a"[dice.below(3) as usize]),
                2 => garbled.truncate(at),
                _ => drop(garbled.remove(at)),
            }
            let garbled = String::from_utf8(garbled).unwrap();
            let passed = guard.admit("GET", "/", Some(&garbled)).is_ok();
            assert_eq!(passed, garbled.as_bytes() == before, "replay with seed {seed}: {garbled}");
        }
        for odd in ["", " ", "v1", "v1   ", "v2 0 0 0", "ü"] {
            assert_eq!(guard.admit("GET", "/", Some(odd)), Err(NOT_VALID.into()), "{odd}");
        }
    }

    #[test]
    fn without_a_key_there_is_neither_signer_nor_guard() {
        assert!(HttpSigner::new(Keys::none(), CALLER, 0).is_none());
        assert!(HttpGuard::new(Keys::none(), CALLED, Arc::new(VirtualClock::at(UnixNanos(0)))).is_none());
    }
}
