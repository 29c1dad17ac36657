//! One batch: merged once, sent to some stores at the same time.
//!
//! Each input's length and checksum are held against what its ingester said, at its end; what was sent is held against the
//! receipts. A body that could not be merged to its end breaks off, so no store keeps it.
//!
//! Memory: for each input that is open at most two blocks (512 KiB), so 32 MiB for [`super::machine::MOST_PIECES`]; and
//! [`IN_FLIGHT`] + 2 runs of `buffer` bytes (plus a block each) where there is more than one store.

use super::links::{IngestLink, LinkError, Reading, StoreLink};
use super::machine::{Answer, Event, Fault, Peer, Piece};
use crate::merge::k_way::{Merge, MergeError, Source};
use crate::record::id::Id;
use crate::record::stored::Checker;
use crate::segment::reader::BlockReader;
use crate::store::replicate::Receipt;
use crate::unit::{Bytes, Monotonic};
use crate::world::clock::Clock;
use crate::world::crew::both;
use crossbeam::channel::{Receiver, SendTimeoutError, Sender, bounded};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// How many runs may wait for a store that is slower than the others. At that the others wait too: R copies are needed.
pub const IN_FLIGHT: usize = 2;

/// A segment of the batch, and where to get it.
pub struct Input {
    /// Which one.
    pub piece: Piece,
    /// Its ingester; `None` if that is no member any more.
    pub link: Option<Arc<dyn IngestLink>>,
}

/// What copying needs besides the batch.
pub struct Tools<'a> {
    /// The clock renewals go by.
    pub clock: &'a dyn Clock,
    /// How often the segments are renewed meanwhile.
    pub renew_every: Duration,
    /// How much is merged at a time.
    pub buffer: usize,
}

/// Merges the inputs and sends the result to all stores.
pub fn copy(inputs: &[Input], stores: &[(Peer, Arc<dyn StoreLink>)], tools: &Tools<'_>) -> Event {
    let mut body = MergedBody::new(inputs, tools);
    let answers = match stores {
        [(_, store)] => vec![store.replicate(&mut body)],
        several => fan_out(&mut body, several),
    };
    if let Some((piece, fault)) = body.spoilt {
        return Event::Spoilt { piece, fault };
    }
    let Some(sent) = body.checker.digest().filter(|_| body.ended) else {
        answers.into_iter().for_each(|answer| complain(answer.err()));
        return Event::NotCopied;
    };
    let answers = stores.iter().zip(answers).map(|((peer, _), answer)| match answer {
        Ok(receipt) => {
            if receipt.digest != sent {
                log::error!("{peer} answers that it has {:?}, but it was sent {sent:?}", receipt.digest);
            }
            (peer.clone(), Answer::Has(receipt))
        }
        Err(e) => {
            complain(Some(e));
            (peer.clone(), Answer::HasNot)
        }
    });
    Event::Copied { sent, answers: answers.collect() }
}

fn complain(error: Option<LinkError>) {
    if let Some(e) = error {
        log::warn!("{e}");
    }
}

/// The merge of the inputs as a body to send.
struct MergedBody<'a> {
    merge: Merge<PieceSource<'a>>,
    inputs: &'a [Input],
    tools: &'a Tools<'a>,
    run: Vec<u8>,
    at: usize,
    checker: Checker,
    ended: bool,
    spoilt: Option<(Piece, Fault)>,
    renewed: Monotonic,
}

impl<'a> MergedBody<'a> {
    fn new(inputs: &'a [Input], tools: &'a Tools<'a>) -> MergedBody<'a> {
        let merge = Merge::new(inputs.iter().map(PieceSource::new).collect());
        MergedBody {
            merge,
            inputs,
            tools,
            run: Vec::new(),
            at: 0,
            checker: Checker::default(),
            ended: false,
            spoilt: None,
            renewed: tools.clock.now(),
        }
    }

    /// Replaces `self.run` by the next merged records; false at the end.
    fn next_run(&mut self) -> io::Result<bool> {
        if self.spoilt.is_some() {
            return Err(io::Error::other("the merge has failed"));
        }
        self.renew_if_due();
        self.run.clear();
        self.at = 0;
        match self.merge.next_run(&mut self.run, self.tools.buffer) {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return Ok(false);
            }
            Err(e) => return Err(self.spoil(e)),
        }
        // The merge has looked at every id; this holds the merge itself to it, and counts.
        self.checker.take(&self.run).map_err(io::Error::other)?;
        Ok(true)
    }

    fn spoil(&mut self, error: MergeError) -> io::Error {
        if let Some(input) = self.inputs.get(error.index()) {
            log::warn!("segment {} of {}: {error}", input.piece.offer.id, input.piece.from);
            self.spoilt = Some((input.piece.clone(), fault_of(&error)));
        }
        io::Error::other(error.to_string())
    }

    fn renew_if_due(&mut self) {
        let now = self.tools.clock.now();
        if now.since(self.renewed) < self.tools.renew_every {
            return;
        }
        for Input { piece, link } in self.inputs {
            if let Some(Err(e)) = link.as_ref().map(|link| link.renew(piece.offer.id)) {
                // Too late at worst: then it is copied twice, and a second copy is never wrong.
                log::warn!("{e}");
            }
        }
        self.renewed = self.tools.clock.now();
    }
}

impl Read for MergedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.run.len() {
            if self.ended || !self.next_run()? {
                return Ok(0);
            }
        }
        let n = buffer.len().min(self.run.len() - self.at);
        buffer[..n].copy_from_slice(&self.run[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Sends one body to several stores, each in a thread of its own. Gives their answers in the same order.
fn fan_out(body: &mut MergedBody<'_>, stores: &[(Peer, Arc<dyn StoreLink>)]) -> Vec<Result<Receipt, LinkError>> {
    let (senders, receivers): (Vec<_>, Vec<_>) = stores.iter().map(|_| bounded(IN_FLIGHT)).unzip();
    let work: Vec<_> = stores.iter().map(|(_, store)| &**store).zip(receivers).collect();
    both(|| pump(body, senders), || send_all(work)).1
}

/// One after the other is started beside those before it: a thread for each store but the last.
fn send_all(mut work: Vec<(&dyn StoreLink, Receiver<Part>)>) -> Vec<Result<Receipt, LinkError>> {
    let Some((store, parts)) = work.pop() else { return Vec::new() };
    let send = move || store.replicate(&mut PartsBody { parts, part: Arc::default(), at: 0, ended: false });
    if work.is_empty() {
        return vec![send()];
    }
    let (mut answers, last) = both(|| send_all(work), send);
    answers.push(last);
    answers
}

/// A part of a body: empty at its end, and only there. Senders that are gone without it mean that it broke off.
type Part = Arc<Vec<u8>>;

/// Merges and hands every part to every store that still takes them, until none does.
fn pump(body: &mut MergedBody<'_>, mut senders: Vec<Sender<Part>>) {
    loop {
        let part = match body.next_run() {
            Ok(true) => Arc::new(std::mem::take(&mut body.run)),
            Ok(false) => Part::default(),
            // The senders go without an end.
            Err(_) => return,
        };
        senders.retain(|sender| hand_over(body, sender, &part));
        if part.is_empty() || senders.is_empty() {
            return;
        }
    }
}

/// Waits until the store takes the part, renewing meanwhile. False if it takes none any more.
fn hand_over(body: &mut MergedBody<'_>, sender: &Sender<Part>, part: &Part) -> bool {
    let mut part = part.clone();
    loop {
        match sender.send_timeout(part, body.tools.renew_every) {
            Ok(()) => return true,
            Err(SendTimeoutError::Disconnected(_)) => return false,
            Err(SendTimeoutError::Timeout(again)) => {
                body.renew_if_due();
                part = again;
            }
        }
    }
}

/// The parts as a body.
struct PartsBody {
    parts: Receiver<Part>,
    part: Part,
    at: usize,
    ended: bool,
}

impl Read for PartsBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() && !self.ended {
            let broke_off = |_| io::Error::new(io::ErrorKind::UnexpectedEof, "the merge has failed");
            self.part = self.parts.recv().map_err(broke_off)?;
            self.at = 0;
            self.ended = self.part.is_empty();
        }
        let n = buffer.len().min(self.part.len() - self.at);
        buffer[..n].copy_from_slice(&self.part[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// A segment as a source of the merge: opened when the merge comes to it.
struct PieceSource<'a> {
    input: &'a Input,
    open: Option<BlockReader<Verified>>,
}

impl PieceSource<'_> {
    fn new(input: &Input) -> PieceSource<'_> {
        PieceSource { input, open: None }
    }
}

impl Source for PieceSource<'_> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<bool, MergeError> {
        let blocks = match &mut self.open {
            Some(blocks) => blocks,
            closed => {
                let gone = || fault(Fault::Unreachable, "it is no member any more".into());
                let link = self.input.link.as_ref().ok_or_else(gone)?;
                let reading = link.read(self.input.piece.offer.id).map_err(|e| match e {
                    LinkError::Refused { .. } => fault(Fault::Gone, e.to_string()),
                    _ => fault(Fault::Unreachable, e.to_string()),
                })?;
                closed.insert(BlockReader::new(Verified { reading, seen: Bytes(0), crc32: Default::default() }))
            }
        };
        Ok(blocks.next_block(block)?)
    }

    fn low(&self) -> Id {
        self.input.piece.offer.id
    }
}

/// A fault on its way through the merge, which knows only I/O errors.
#[derive(Debug)]
struct Faulty(Fault, String);

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Faulty {}

fn fault(fault: Fault, why: String) -> io::Error {
    io::Error::other(Faulty(fault, why))
}

fn fault_of(error: &MergeError) -> Fault {
    match error {
        MergeError::Read { source, .. } => {
            let faulty = source.get_ref().and_then(|inner| inner.downcast_ref::<Faulty>());
            faulty.map_or(Fault::Unreadable, |faulty| faulty.0)
        }
        MergeError::NotStored { .. } | MergeError::BelowBound { .. } => Fault::Unreadable,
    }
}

/// The bytes of a segment. The end comes only if they were what the ingester said.
struct Verified {
    reading: Reading,
    seen: Bytes,
    crc32: crc32fast::Hasher,
}

impl Read for Verified {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reading.body.read(buffer)?;
        if n == 0 && !buffer.is_empty() {
            let crc32 = self.crc32.clone().finalize();
            if (self.seen, crc32) != (self.reading.len, self.reading.crc32) {
                let (seen, len) = (self.seen.0, self.reading.len.0);
                let why = format!(
                    "{seen} bytes with checksum {crc32:08x} have come, not {len} with {:08x}",
                    self.reading.crc32
                );
                return Err(fault(Fault::Unreadable, why));
            }
        }
        self.crc32.update(&buffer[..n]);
        self.seen.0 += n as u64;
        Ok(n)
    }
}
