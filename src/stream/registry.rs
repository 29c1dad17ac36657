//! Who listens to live batches: each listener has a bounded queue, and is told what it missed when that was full.

use crate::world::crew::{lock, wait_for};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

/// Bytes of batches that wait for one listener. Beyond it, batches are passed over and their records counted as missed.
pub const QUEUE_LIMIT: usize = 4 << 20;

/// All listeners of one ingester.
#[derive(Default)]
pub struct Registry {
    listeners: Mutex<Vec<Weak<Listener>>>,
    /// Whether anybody listens at all: the only thing a batch costs when nobody does.
    any: AtomicBool,
}

/// One listener's queue.
#[derive(Default)]
pub struct Listener {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    batches: VecDeque<Arc<[u8]>>,
    bytes: usize,
    missed: u64,
}

/// What a listener takes away.
#[derive(Debug, Default)]
pub struct Taken {
    /// Blocks of whole stored records, each ascending.
    pub batches: VecDeque<Arc<[u8]>>,
    /// Records that were passed over since the last time.
    pub missed: u64,
}

impl Registry {
    /// Begins to listen; ends when the listener is dropped.
    pub fn listen(&self) -> Arc<Listener> {
        let listener = Arc::new(Listener::default());
        let mut listeners = lock(&self.listeners);
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(Arc::downgrade(&listener));
        self.any.store(true, Ordering::Release);
        listener
    }

    /// Hands a batch of `records` stored records to all listeners. Never waits for one.
    pub fn publish(&self, batch: &[u8], records: u64) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut listeners = lock(&self.listeners);
        let mut shared: Option<Arc<[u8]>> = None;
        listeners.retain(|listener| {
            let Some(listener) = listener.upgrade() else { return false };
            listener.offer(shared.get_or_insert_with(|| batch.into()), records);
            true
        });
        self.any.store(!listeners.is_empty(), Ordering::Release);
    }
}

impl Listener {
    fn offer(&self, batch: &Arc<[u8]>, records: u64) {
        let mut waiting = lock(&self.waiting);
        if waiting.bytes + batch.len() > QUEUE_LIMIT && waiting.bytes > 0 {
            waiting.missed += records;
        } else {
            waiting.bytes += batch.len();
            waiting.batches.push_back(batch.clone());
        }
        self.arrived.notify_one();
    }

    /// Takes all there is; waits up to `span` if there is nothing.
    pub fn take(&self, span: Duration) -> Taken {
        let mut waiting = lock(&self.waiting);
        if waiting.batches.is_empty() && waiting.missed == 0 {
            waiting = wait_for(&self.arrived, waiting, span);
        }
        waiting.bytes = 0;
        Taken { batches: std::mem::take(&mut waiting.batches), missed: std::mem::take(&mut waiting.missed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_listener_is_told_how_much_it_missed_and_a_quick_one_misses_nothing() {
        let registry = Registry::default();
        let (slow, quick) = (registry.listen(), registry.listen());
        let batch = vec![b'x'; QUEUE_LIMIT / 4];
        let mut seen = 0;
        for _ in 0..10 {
            registry.publish(&batch, 7);
            seen += quick.take(Duration::ZERO).batches.len();
        }
        assert_eq!(seen, 10);
        let taken = slow.take(Duration::ZERO);
        assert_eq!((taken.batches.len(), taken.missed), (4, 42));
        assert_eq!(slow.take(Duration::ZERO).missed, 0);
    }

    #[test]
    fn nobody_listens_after_the_last_one_has_gone() {
        let registry = Registry::default();
        drop(registry.listen());
        registry.publish(b"x", 1);
        assert!(!registry.any.load(Ordering::Relaxed));
    }
}
