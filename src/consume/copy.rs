//! One batch: merged once, sent to some stores at the same time.
//!
//! Each input's length and checksum are held against what its ingester said, at its end; what was sent is held against the
//! receipts. A body that could not be merged to its end breaks off, so no store keeps it.
//!
//! Memory: for each input that is open at most two blocks (512 KiB), so 32 MiB for [`super::machine::MOST_PIECES`]; and
//! [`IN_FLIGHT`](super::courier::IN_FLIGHT) + 2 runs of `buffer` bytes (plus a block each). How long it may take:
//! [`super::courier`].

use super::courier::{Body, Couriers, Outcome, Terms};
use super::links::{IngestLink, LinkError, Part, Parts, Reading, StoreLink};
use super::machine::{Answer, Event, Fault, Peer, Piece};
use crate::merge::k_way::{Merge, MergeError, Source};
use crate::record::id::Id;
use crate::record::stored::{Checker, Digest};
use crate::segment::reader::BlockReader;
use crate::unit::{Bytes, Monotonic};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

/// An ingester hangs up on a reader that does not listen for 30 s (the gate's time limit for writing). What breaks off before
/// this was not for that reason.
const NOT_LISTENED: Duration = Duration::from_secs(25);

/// A segment of the batch, and where to get it.
pub struct Input {
    /// Which one.
    pub piece: Piece,
    /// Its ingester; `None` if that is no member any more.
    pub link: Option<Arc<dyn IngestLink>>,
}

/// What copying needs besides the batch.
pub struct Tools<'a> {
    /// Who serves the stores.
    pub couriers: &'a Couriers,
    /// How long they may take.
    pub terms: Terms<'a>,
    /// How often the segments are renewed meanwhile.
    pub renew_every: Duration,
    /// Renews them. Must not block.
    pub renew: &'a dyn Fn(),
    /// How much is merged at a time.
    pub buffer: usize,
}

/// Merges the inputs and sends the result to all stores.
pub fn copy(inputs: &[Input], stores: &[(Peer, Arc<dyn StoreLink>)], tools: &Tools<'_>) -> Event {
    let mut body = MergedBody::new(inputs, tools);
    let (outcomes, _) = tools.couriers.send(&mut body, stores, &tools.terms);
    let sent = body.checker.digest().filter(|_| body.ended);
    let answers = stores.iter().zip(outcomes);
    let answers: Vec<_> = answers.map(|((peer, _), outcome)| (peer.clone(), answer(peer, outcome, sent))).collect();
    match (body.spoilt, sent) {
        (Some((piece, fault)), _) => Event::Spoilt { piece, fault },
        (None, Some(sent)) => Event::Copied { sent, answers },
        (None, None) => Event::NotCopied { answers },
    }
}

fn answer(peer: &Peer, outcome: Outcome, sent: Option<Digest>) -> Answer {
    match outcome {
        Outcome::Answered(Ok(receipt)) => {
            if sent.is_some_and(|sent| receipt.digest != sent) {
                log::error!("{peer} answers that it has {:?}, but it was sent {sent:?}", receipt.digest);
            }
            Answer::Has(receipt)
        }
        Outcome::Answered(Err(e)) => {
            if matches!(e, LinkError::Full { .. }) {
                // The store says it where it begins. This would say it for each batch.
                log::debug!("{e}");
                return Answer::Full;
            }
            log::warn!("{e}");
            Answer::HasNot
        }
        Outcome::TooSlow(why) => {
            log::warn!("replicating to {peer}: {why}");
            Answer::HasNot
        }
        Outcome::CutShort => Answer::CutShort,
    }
}

/// The merge of the inputs as a body to send.
struct MergedBody<'a> {
    merge: Merge<PieceSource<'a>>,
    inputs: &'a [Input],
    tools: &'a Tools<'a>,
    /// The run that is read from, where the body is read and not taken run by run.
    run: Vec<u8>,
    at: usize,
    checker: Checker,
    ended: bool,
    spoilt: Option<(Piece, Fault)>,
    begun: Monotonic,
    renewed: Monotonic,
}

impl<'a> MergedBody<'a> {
    fn new(inputs: &'a [Input], tools: &'a Tools<'a>) -> MergedBody<'a> {
        let begun = tools.terms.clock.now();
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
            begun,
            renewed: begun,
        }
    }

    fn spoil(&mut self, error: MergeError) -> io::Error {
        if let Some(input) = self.inputs.get(error.index()) {
            log::warn!("segment {} of {}: {error}", input.piece.offer.id, input.piece.from);
            let fault = fault_of(&error).unwrap_or_else(|| self.why_it_broke_off(input));
            self.spoilt = Some((input.piece.clone(), fault));
        }
        io::Error::other(error.to_string())
    }

    /// A body ends too early where the ingester cannot read its disk, but also where it was killed, or where it hung up
    /// because stores were slow and so it was not listened to for long. Only the first is the segment's fault.
    fn why_it_broke_off(&self, input: &Input) -> Fault {
        if self.tools.terms.clock.now().since(self.begun) >= NOT_LISTENED {
            return Fault::Interrupted;
        }
        match input.link.as_ref().map(|link| link.renew(input.piece.offer.id)) {
            Some(Ok(())) => Fault::Unreadable,
            Some(Err(LinkError::Broken { .. })) | None => Fault::Unreachable,
            // It was started again, and offers the segment again.
            Some(Err(_)) => Fault::Gone,
        }
    }
}

impl Body for MergedBody<'_> {
    fn next_run(&mut self, run: &mut Vec<u8>) -> io::Result<bool> {
        if self.spoilt.is_some() {
            return Err(io::Error::other("the merge has failed"));
        }
        self.tend();
        run.clear();
        match self.merge.next_run(run, self.tools.buffer) {
            Ok(true) => {}
            Ok(false) => {
                self.ended = true;
                return Ok(false);
            }
            Err(e) => return Err(self.spoil(e)),
        }
        // The merge has looked at every id, and each store will; this counts.
        self.checker.take_seen(run).map_err(io::Error::other)?;
        Ok(true)
    }

    fn tend(&mut self) {
        let now = self.tools.terms.clock.now();
        if now.since(self.renewed) >= self.tools.renew_every {
            self.renewed = now;
            (self.tools.renew)();
        }
    }
}

impl Read for MergedBody<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.run.len() && !self.ended {
            let mut run = std::mem::take(&mut self.run);
            let more = self.next_run(&mut run)?;
            (self.run, self.at) = (if more { run } else { Vec::new() }, 0);
        }
        let n = buffer.len().min(self.run.len() - self.at);
        buffer[..n].copy_from_slice(&self.run[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

impl Parts for MergedBody<'_> {
    fn next_part(&mut self) -> io::Result<Option<Part>> {
        let mut run = Vec::new();
        Ok(self.next_run(&mut run)?.then(|| Part::new(run)))
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

/// What is wrong, if the error says it: `None` where the bytes broke off.
fn fault_of(error: &MergeError) -> Option<Fault> {
    match error {
        MergeError::Read { source, .. } => {
            let faulty = source.get_ref().and_then(|inner| inner.downcast_ref::<Faulty>());
            faulty.map(|faulty| faulty.0)
        }
        MergeError::NotStored { .. } | MergeError::BelowBound { .. } => Some(Fault::Unreadable),
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
