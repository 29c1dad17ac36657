//! Waiting for a condition, never for a span of time.

use std::time::{Duration, Instant};

/// How long a condition may take before the test fails: far longer than it should, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer; fails the test after [`SOON`], saying what did not come.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {SOON:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}
