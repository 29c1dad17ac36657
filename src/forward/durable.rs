//! Durable mode: windows of lines, each sent again until a server has confirmed it.
//!
//! A window is at most [`WINDOW`] bytes and [`WINDOW_AGE`] old. It has a connection of its own, which ends by our
//! half-close and the server's clean close: the server's word that all of it is on stable storage. A reset, a close before
//! ours, or [`CLOSE_PATIENCE`] without an answer mean that this is not known, and the whole window goes to the next
//! ingester. So a line arrives at least once, in order, and may arrive twice when an answer was lost. A line longer than
//! a window is cut where windows meet.

use super::buffer::{Queue, Taken};
use super::thread::{Left, Postman};
use crate::unit::Monotonic;
use std::time::Duration;

/// A window is closed at this size, give or take one batch.
pub const WINDOW: usize = 4 << 20;

/// A window is closed when its first byte has waited this long.
pub const WINDOW_AGE: Duration = Duration::from_secs(1);

/// How long a server may take to bring a window to stable storage. One whose disk is full holds the connection; then
/// another server may have room.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

/// How long one wait for input lasts while no window is open.
const IDLE_LOOK: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    records: u64,
    since: Option<Monotonic>,
    /// It ends within a line.
    open: bool,
    /// Nothing comes after it.
    last: bool,
}

/// Sends what the queue gives until its end.
pub fn send_all(postman: &mut Postman<'_>, queue: &Queue) -> Result<(), Left> {
    let mut window = Window::default();
    loop {
        fill(&mut window, postman, queue);
        if !window.bytes.is_empty() {
            confirm(postman, &window)?;
        }
        postman.count(window.bytes.len() as u64, window.records);
        if window.last {
            return Ok(());
        }
        window.bytes.clear();
        window = Window { bytes: window.bytes, ..Window::default() };
    }
}

/// Fills a window until it is large enough, old enough, or the last.
fn fill(window: &mut Window, postman: &Postman<'_>, queue: &Queue) {
    while window.bytes.len() < WINDOW {
        let age = window.since.map_or(Duration::ZERO, |since| postman.now().since(since));
        // Within a long line we wait for its end: a window's end would cut it.
        if age >= WINDOW_AGE && !window.open {
            return;
        }
        let young = window.since.is_some() && age < WINDOW_AGE;
        match queue.take(if young { WINDOW_AGE - age } else { IDLE_LOOK }) {
            Taken::Batch(batch) => {
                window.since.get_or_insert(postman.now());
                window.bytes.extend_from_slice(&batch.bytes);
                window.records += batch.records;
                window.open = batch.open;
            }
            Taken::Idle => {}
            Taken::End => {
                window.last = true;
                return;
            }
        }
    }
}

/// Sends a window again and again until a server has it on stable storage.
fn confirm(postman: &mut Postman<'_>, window: &Window) -> Result<(), Left> {
    let left = Left { records: window.records, bytes: window.bytes.len() as u64 };
    loop {
        let mut link = postman.connect().ok_or(left)?;
        let sent = postman.write(&mut link, &window.bytes).map_err(|(_, e)| e);
        match sent.and_then(|()| postman.finish(&mut link, CLOSE_PATIENCE)) {
            Ok(()) => {
                postman.arrived();
                return Ok(());
            }
            Err(e) => postman.broke(link, &e),
        }
    }
}
