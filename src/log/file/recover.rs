//! The decision that matters at every opening: what in a segment is whole, what is a torn tail, what is damage.
//!
//! Batch N+1 is written only after the sync of batch N has returned. So a bad batch that has a later one of the same
//! segment behind it was durable once, and something has damaged it since: opening must refuse. A bad batch with
//! nothing of the sort behind it is what a crash leaves of a write that nobody was told was durable: it is cut off.
//!
//! A segment is read once from its beginning to its end, through a window that is no larger than its largest batch.

use std::io;

use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, Kind, SegmentHeader, USED_UP, begins_batch, decode_header, decode_payload,
    padded, take_frame,
};
use crate::log::{LiveRecords, Lsn};

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) live: LiveRecords,
    /// The last record that the log has had, live or not.
    pub(super) last: Lsn,
    /// The last whole batch's sequence number.
    pub(super) sequence: u64,
    /// Records read, the carried ones included.
    pub(super) records: u64,
    /// Whole batches.
    pub(super) batches: u64,
    /// Bytes of a torn batch at the end, cut off.
    pub(super) torn_bytes: u64,
}

/// Where and why a segment is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// Who wants to see more of a segment than what is left of it.
pub(super) trait Visitor {
    /// A record of a batch that has matched its checksums, but may still prove not to fit the batches before it.
    fn record(&mut self, lsn: Lsn, encoded: &[u8]);

    /// The batch that these records were of, and where it begins.
    fn batch(&mut self, offset: u64, header: &BatchHeader);
}

/// Opening wants to see nothing more.
impl Visitor for () {
    fn record(&mut self, _: Lsn, _: &[u8]) {}
    fn batch(&mut self, _: u64, _: &BatchHeader) {}
}

/// Why a segment can't be read.
#[derive(Debug)]
pub(super) enum Unreadable {
    Damage(Damage),
    Io(io::Error),
}

/// What a segment is read from, from its beginning to its end.
pub(super) trait Source {
    /// How many bytes there are.
    fn length(&self) -> u64;

    /// Fills the buffer with the bytes at `offset`. Each call goes on where the one before has ended.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// So much is read at a time: few calls, and little more memory than the batch that is looked at.
const CHUNK: usize = 1 << 20;

/// A part of a source. It only moves forward, and reads nothing twice.
struct Window<'a> {
    source: &'a mut dyn Source,
    /// Where it begins.
    begin: u64,
    /// What was read and is still needed lies from `skipped` on.
    buffer: Vec<u8>,
    skipped: usize,
}

impl Window<'_> {
    /// The bytes from `offset` on, which is never before that of an earlier call: so many, or up to the source's end.
    fn bytes(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        self.skipped += (offset - self.begin) as usize; // never beyond what was read
        self.begin = offset;
        let wanted = wanted.min(usize::try_from(self.source.length() - offset).unwrap_or(usize::MAX));
        if self.buffer.len() - self.skipped < wanted {
            self.buffer.drain(..self.skipped);
            self.skipped = 0;
            let had = self.buffer.len();
            let left = self.source.length() - offset - had as u64;
            let more = ((wanted - had).max(CHUNK) as u64).min(left) as usize;
            self.buffer.try_reserve(more).map_err(|_| io::ErrorKind::OutOfMemory)?;
            self.buffer.resize(had + more, 0);
            self.source.read(offset + had as u64, &mut self.buffer[had..])?;
        }
        Ok(&self.buffer[self.skipped..self.skipped + wanted])
    }
}

/// Reads a whole segment.
pub(super) fn recover(
    source: &mut dyn Source,
    header: &SegmentHeader,
    visitor: &mut impl Visitor,
) -> Result<Recovered, Unreadable> {
    let length = source.length();
    let window = Window { source, begin: 0, buffer: Vec::new(), skipped: 0 };
    let mut reader = Reader { window, header, salt: header.salt(), found: Recovered::default(), previous: 0, visitor };
    reader.window.bytes(0, BLOCK as usize).map_err(Unreadable::Io)?;
    let mut offset = BLOCK;
    while offset < length {
        match reader.batch(offset) {
            Ok(length) => offset += length,
            Err(Bad::Misplaced(what)) => return Err(Unreadable::Damage(Damage { offset, what })),
            Err(Bad::Illegible(what)) => {
                let rest = reader.rest(offset).map_err(Unreadable::Io)?;
                // The first batch was synced before the segment got its name: no crash can tear it.
                if reader.found.batches == 0 || rest.was_durable {
                    return Err(Unreadable::Damage(Damage { offset, what }));
                }
                reader.found.torn_bytes = rest.written;
                break;
            }
            Err(Bad::Io(error)) => return Err(Unreadable::Io(error)),
        }
    }
    let found = reader.found;
    if header.number.max(found.sequence).max(found.last.number()) >= USED_UP {
        return Err(Unreadable::Damage(Damage { offset: BLOCK, what: "numbers that no log reaches" }));
    }
    Ok(found)
}

/// What lies from a batch on that can't be read.
struct Rest {
    /// Whether anything shows that the batch was durable once.
    was_durable: bool,
    /// How far anything but zeros was written.
    written: u64,
}

struct Reader<'a, V> {
    window: Window<'a>,
    header: &'a SegmentHeader,
    salt: u64,
    found: Recovered,
    previous: u64,
    visitor: &'a mut V,
}

/// Why there is no good batch.
enum Bad {
    /// It can't be read: never written, torn, or damaged.
    Illegible(&'static str),
    /// It reads well but does not belong here, which no crash can bring about.
    Misplaced(&'static str),
    /// The medium refused.
    Io(io::Error),
}

impl<V: Visitor> Reader<'_, V> {
    /// Takes in the batch at `offset` and gives its padded length.
    fn batch(&mut self, offset: u64) -> Result<u64, Bad> {
        let (salt, left) = (self.salt, self.window.source.length() - offset);
        let head = self.window.bytes(offset, BATCH_HEADER).map_err(Bad::Io)?;
        let header = decode_header(head, left, salt).map_err(Bad::Illegible)?;
        self.check_place(&header).map_err(Bad::Misplaced)?;
        // The padded length may reach beyond a file of odd size, which only a caller's test can make up.
        let length = padded(BATCH_HEADER as u64 + header.payload).min(left);
        let bytes = self.window.bytes(offset, length as usize).map_err(Bad::Io)?; // read as a whole, so it fits
        let payload = decode_payload(bytes, &header, salt).map_err(Bad::Illegible)?;
        records(&mut self.found, self.visitor, &header, payload).map_err(Bad::Misplaced)?;
        self.previous = header.checksum;
        self.found.sequence = header.sequence;
        self.found.last = header.last;
        self.found.batches += 1;
        self.visitor.batch(offset, &header);
        Ok(length)
    }

    fn check_place(&self, header: &BatchHeader) -> Result<(), &'static str> {
        let first = self.found.batches == 0;
        if header.segment != self.header.number {
            Err("a batch of another segment")
        } else if first != (header.kind == Kind::Carry) {
            Err("a segment must begin with its carried records, and only begin so")
        } else if header.previous != self.previous || !first && header.sequence != self.found.sequence.wrapping_add(1) {
            Err("a batch that does not follow the one before it")
        } else {
            Ok(())
        }
    }

    /// Looks through everything from the batch at `offset` on, which is bad now, for anything that shows that it was
    /// durable once: a later batch's header. A good header is enough. Its records may be bad too, but it would not be
    /// there at all had the sync of the batch before it not returned.
    fn rest(&mut self, offset: u64) -> io::Result<Rest> {
        let length = self.window.source.length();
        let mut rest = Rest { was_durable: false, written: 0 };
        let (salt, number, after) = (self.salt, self.header.number, self.found.sequence.wrapping_add(1));
        for at in (offset..length).step_by(BLOCK as usize) {
            let block = self.window.bytes(at, BLOCK as usize)?;
            rest.written = if let Some(last) = last_written(block) { at - offset + last } else { rest.written };
            rest.was_durable |= at > offset
                && begins_batch(block)
                && decode_header(block, length - at, salt)
                    .is_ok_and(|header| header.segment == number && header.sequence > after);
        }
        Ok(rest)
    }
}

fn records(
    found: &mut Recovered,
    visitor: &mut impl Visitor,
    header: &BatchHeader,
    mut payload: &[u8],
) -> Result<(), &'static str> {
    let mut last = if header.kind == Kind::Carry { Lsn::NONE } else { found.last };
    let mut count = 0_u32;
    while let Some((lsn, encoded)) = take_frame(&mut payload)? {
        let in_order = match header.kind {
            Kind::Records => last.number().checked_add(1) == Some(lsn.number()),
            Kind::Carry => last < lsn,
            Kind::Seal => false,
        };
        if !in_order {
            return Err("a record out of order");
        }
        if !found.live.apply_encoded(lsn, encoded) {
            return Err("a record can't be decoded");
        }
        visitor.record(lsn, encoded);
        last = lsn;
        count = count.saturating_add(1);
    }
    let ends_well = if header.kind == Kind::Carry { last <= header.last } else { last == header.last };
    if count != header.count || !ends_well {
        return Err("a batch with more or fewer records than it states");
    }
    found.records += u64::from(count);
    Ok(())
}

/// How far into this block anything but zeros was written.
fn last_written(block: &[u8]) -> Option<u64> {
    // Most are empty; comparing them as a whole is what makes a look at all of them cheap.
    const EMPTY: [u8; BLOCK as usize] = [0; BLOCK as usize];
    if *block == EMPTY[..block.len()] {
        return None;
    }
    block.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
}
