//! Who listens to the live batches of this node's ingest tier.
//!
//! Publishing never waits for a listener: each has a bounded [`Inbox`], and is told what it missed when that was full.

use super::inbox::{Inbox, Source};
use crate::world::crew::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// All listeners of one ingester.
#[derive(Default)]
pub struct Registry {
    listeners: Mutex<Vec<Weak<Inbox>>>,
    /// Whether anybody listens at all: the only thing a batch costs when nobody does.
    any: AtomicBool,
}

impl Registry {
    /// Brings what is published from now on into this inbox, as from [`Source::OWN`]; ends when the inbox is dropped.
    pub fn listen(&self, inbox: &Arc<Inbox>) {
        let mut listeners = lock(&self.listeners);
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(Arc::downgrade(inbox));
        self.any.store(true, Ordering::Release);
    }

    /// How many listen.
    pub fn listeners(&self) -> usize {
        lock(&self.listeners).iter().filter(|listener| listener.strong_count() > 0).count()
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
            listener.offer(Source::OWN, shared.get_or_insert_with(|| batch.into()), records);
            true
        });
        self.any.store(!listeners.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::super::inbox::QUEUE_LIMIT;
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_slow_listener_is_told_how_much_it_missed_and_a_quick_one_misses_nothing() {
        let registry = Registry::default();
        let (slow, quick) = (Arc::new(Inbox::default()), Arc::new(Inbox::default()));
        registry.listen(&slow);
        registry.listen(&quick);
        let batch = vec![b'x'; QUEUE_LIMIT / 4 - 1_000];
        let mut seen = 0;
        for _ in 0..10 {
            registry.publish(&batch, 7);
            seen += quick.take(Duration::ZERO).items.len();
        }
        assert_eq!(seen, 10);
        let taken = slow.take(Duration::ZERO);
        assert_eq!((taken.items.len(), taken.missed), (4, 42));
        assert_eq!(slow.take(Duration::ZERO).missed, 0);
    }

    #[test]
    fn nobody_listens_after_the_last_one_has_gone() {
        let registry = Registry::default();
        let inbox = Arc::new(Inbox::default());
        registry.listen(&inbox);
        drop(inbox);
        registry.publish(b"x", 1);
        assert!(!registry.any.load(Ordering::Relaxed));
    }
}
