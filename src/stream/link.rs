//! The thread that follows one ingester.
//!
//! Each batch goes into the stream's inbox as it comes, and is missed there when the reader is too slow: the other node
//! never waits for it. A link that breaks is tried again after a wait that doubles from 16 ms to 1 s, until the leash is
//! pulled. Silence for longer than [`SILENCE`](super::wishes::SILENCE) counts as a break, since the other node beats.

use super::backfill::{Leash, into_io};
use super::inbox::{Inbox, Item, Source};
use super::runs::RecordReader;
use crate::forward::backoff::Backoff;
use crate::http::client::{Callee, Caller};
use crate::world::clock::Clock;
use crate::world::entropy::Dice;
use memchr::memchr_iter;
use std::io;
use std::sync::Arc;

/// One link, before it is begun.
pub struct Link {
    /// Under which number its items go into the inbox.
    pub source: Source,
    /// Whom to follow.
    pub to: Callee,
    /// What to ask for.
    pub target: Arc<str>,
    /// Who asks.
    pub caller: Caller,
    /// Where records go.
    pub inbox: Arc<Inbox>,
    /// What ends it.
    pub leash: Leash,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

impl Link {
    /// Follows until the leash is pulled.
    pub fn run(self) {
        let seed = (self.to.node >> 64) as u64 ^ self.source.0;
        let mut backoff = Backoff::new(1, Dice::new(seed));
        while !self.leash.stop.wait(backoff.attempt().wait) {
            let began = self.clock.now();
            let ended = self.follow();
            if self.leash.stop.is_raised() {
                return;
            }
            if let Err(why) = &ended {
                log::debug!("stream: the link to {} broke: {why}", self.to.api);
            }
            backoff.broke(self.clock.now().since(began));
            if !self.inbox.bring(self.source, Item::Down { whole: ended.is_ok() }) {
                return;
            }
        }
    }

    /// One connection. Ok: the other side has ended it, and this was all.
    fn follow(&self) -> io::Result<()> {
        let answer = self.caller.get(&self.leash.agent, &self.to, &self.target);
        if let Err(refused) = &answer
            && refused.status().is_some()
        {
            // Not a matter of waiting: a wrong key, or too many streams there.
            log::warn!("stream: {refused}");
        }
        let answer = answer.map_err(into_io)?;
        if !self.inbox.bring(self.source, Item::Up) {
            return Ok(());
        }
        let mut runs = RecordReader::new(answer.into_reader());
        while let Some(run) = runs.next_run()? {
            let records = memchr_iter(b'\n', run).count() as u64;
            self.inbox.offer(self.source, &run.into(), records);
        }
        Ok(())
    }
}
