//! What time it is: the machine's clock, or one that tests wind by hand.

use crate::unit::{Monotonic, UnixMillis, UnixNanos};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Two clocks: one for records, which people set and which may step; one for delays, which only goes forward.
pub trait Clock: Send + Sync {
    /// The time of day.
    fn unix(&self) -> UnixNanos;

    /// Time since this process began.
    fn now(&self) -> Monotonic;

    /// The time of day, to the millisecond.
    fn unix_millis(&self) -> UnixMillis {
        self.unix().millis()
    }
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn unix(&self) -> UnixNanos {
        // A clock before 1970 reads as 1970: ids cannot say otherwise.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    fn now(&self) -> Monotonic {
        Monotonic(self.start.elapsed())
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub struct VirtualClock {
    times: Mutex<(UnixNanos, Monotonic)>,
}

impl VirtualClock {
    /// A clock that reads `unix`, in a process that has just begun.
    pub fn at(unix: UnixNanos) -> VirtualClock {
        VirtualClock { times: Mutex::new((unix, Monotonic::default())) }
    }

    /// Lets time pass: both clocks go forward.
    pub fn advance(&self, span: Duration) {
        let mut times = super::crew::lock(&self.times);
        times.0.0 = times.0.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        times.1 = times.1 + span;
    }

    /// Sets the time of day alone, as a person or NTP would.
    pub fn set_unix(&self, unix: UnixNanos) {
        super::crew::lock(&self.times).0 = unix;
    }
}

impl Clock for VirtualClock {
    fn unix(&self) -> UnixNanos {
        super::crew::lock(&self.times).0
    }

    fn now(&self) -> Monotonic {
        super::crew::lock(&self.times).1
    }
}
