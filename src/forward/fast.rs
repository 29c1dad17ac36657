//! Fast mode: one connection as long as it lives, each batch sent as soon as it is there.

use super::buffer::{Queue, Taken};
use super::lines::{Batch, resume_at};
use super::thread::{Left, Link, Postman};
use std::time::Duration;

/// How often an idle connection is looked at. Before each batch it is looked at anyway.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// How long we wait at the end for the server to close, which says that it has read everything.
const CLOSE_PATIENCE: Duration = Duration::from_secs(30);

/// Sends what the queue gives until its end.
pub fn send_all(postman: &mut Postman<'_>, queue: &Queue) -> Result<(), Left> {
    let mut link: Option<Link> = None;
    loop {
        match queue.take(IDLE_LOOK) {
            Taken::Batch(batch) => send(postman, &mut link, batch)?,
            Taken::Idle => drop_if_dead(postman, &mut link),
            Taken::End => break,
        }
    }
    if let Some(mut link) = link
        && let Err(e) = postman.finish(&mut link, CLOSE_PATIENCE)
    {
        postman.summary.end_in_doubt = true;
        postman.broke(link, &e);
    }
    Ok(())
}

/// Hands one batch to the kernel, over as many connections as it takes.
fn send(postman: &mut Postman<'_>, link: &mut Option<Link>, batch: Batch) -> Result<(), Left> {
    let mut rest = batch.bytes.as_slice();
    while !rest.is_empty() {
        drop_if_dead(postman, link);
        let left = Left { records: lines_in(rest, &batch), bytes: rest.len() as u64 };
        let mut open = match link.take() {
            Some(open) => open,
            None => postman.connect().ok_or(left)?,
        };
        match postman.write(&mut open, rest) {
            Ok(()) => {
                postman.count(left.bytes, left.records);
                *link = Some(open);
                return Ok(());
            }
            Err((taken, e)) => {
                let (sent, unsent) = rest.split_at(resume_at(rest, taken));
                let again = Left { records: lines_in(unsent, &batch), bytes: unsent.len() as u64 };
                postman.count(sent.len() as u64, left.records.saturating_sub(again.records));
                rest = unsent;
                postman.broke(open, &e);
            }
        }
    }
    Ok(())
}

/// Lines in the last bytes of a batch. One without LF counts if the batch says so.
fn lines_in(rest: &[u8], batch: &Batch) -> u64 {
    let line_feeds = |bytes| memchr::memchr_iter(b'\n', bytes).count() as u64;
    if rest.len() == batch.bytes.len() { batch.records } else { line_feeds(rest) + u64::from(!rest.ends_with(b"\n")) }
}

fn drop_if_dead(postman: &mut Postman<'_>, link: &mut Option<Link>) {
    if let Some(open) = link.take() {
        match open.check() {
            Ok(()) => *link = Some(open),
            Err(e) => postman.broke(open, &e),
        }
    }
}
