//! The decision that matters at every opening: what in a segment is whole, what is a torn tail, and
//! what is damage.
//!
//! Batch N+1 is written only after the sync of batch N has returned. So a bad batch that has a
//! later one of the same segment behind it was durable once, and something has damaged it since:
//! opening must refuse. A bad batch without a later one is what a crash leaves of a write that was
//! never reported durable: it is cut off.
//!
//! A segment is read once, from its beginning to its end, through a window that is no larger than
//! its largest batch.

use std::io;

use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, Kind, Rest, SegmentHeader, USED_UP, begins_batch, decode_header, decode_payload,
    padded, take_frame,
};
use crate::log::{LiveRecords, Lsn};

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    pub(super) live: LiveRecords,
    /// The number of the last record that the log has had, live or not.
    pub(super) last: Lsn,
    /// The sequence number of the last whole batch.
    pub(super) sequence: u64,
    /// Number of records read, the carried ones included.
    pub(super) records: u64,
    /// Number of whole batches.
    pub(super) batches: u64,
    /// The offset at which the last whole batch ends.
    pub(super) end: u64,
    /// Number of bytes of a torn batch at the end, which are cut off.
    pub(super) torn_bytes: u64,
}

/// Where and why a segment is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) what: &'static str,
}

/// A reader of a segment that wants to see more than what is left of it.
pub(super) trait Visitor {
    /// Sees a record of a batch that has matched its checksums, but may still prove not to fit the
    /// batches before it.
    fn record(&mut self, lsn: Lsn, encoded: &[u8]);

    /// Sees the batch that these records were in, and the offset at which it begins.
    fn batch(&mut self, offset: u64, header: &BatchHeader);
}

/// Opening needs to see no more.
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
    /// Returns the number of bytes that there are.
    fn length(&self) -> u64;

    /// Fills the buffer with the bytes at `offset`. Each call continues where the one before has
    /// ended.
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// Number of bytes read at a time: few calls, and what was read is still in the processor's cache
/// when it is looked at.
const CHUNK: usize = 256 << 10;

/// A part of a source. It only moves forward, and reads nothing twice.
struct Window<'a> {
    source: &'a mut dyn Source,
    /// Where the bytes that are still needed begin, in the source and in the buffer.
    begin: u64,
    skipped: usize,
    /// The bytes of the source; the first `filled` of them were read.
    buffer: Vec<u8>,
    filled: usize,
}

impl<'a> Window<'a> {
    const fn new(source: &'a mut dyn Source) -> Self {
        Self { source, begin: 0, skipped: 0, buffer: Vec::new(), filled: 0 }
    }

    /// Returns the bytes from `offset` on: `wanted` of them, or as many as there are up to the
    /// source's end. `offset` is never before that of an earlier call.
    fn bytes(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        self.skipped += (offset - self.begin) as usize; // never beyond what was read
        self.begin = offset;
        let left = self.source.length() - offset;
        let wanted = wanted.min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.filled - self.skipped < wanted {
            self.buffer.copy_within(self.skipped..self.filled, 0);
            (self.filled, self.skipped) = (self.filled - self.skipped, 0);
            let end = (wanted.max(CHUNK) as u64).min(left) as usize;
            if self.buffer.len() < end {
                self.buffer.try_reserve(end - self.buffer.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
                self.buffer.resize(end, 0);
            }
            self.source.read(offset + self.filled as u64, &mut self.buffer[self.filled..end])?;
            self.filled = end;
        }
        Ok(&self.buffer[self.skipped..self.skipped + wanted])
    }
}

/// Reads a whole segment, and decides what in it is whole, torn or damaged.
pub(super) fn recover(
    source: &mut dyn Source,
    header: &SegmentHeader,
    visitor: &mut impl Visitor,
) -> Result<Recovered, Unreadable> {
    let length = source.length();
    let window = Window::new(source);
    let mut reader =
        SegmentReader { window, header, salt: header.salt(), found: Recovered::default(), previous: 0, visitor };
    reader.window.bytes(0, BLOCK as usize).map_err(Unreadable::Io)?;
    // Batch after batch, up to the first that is not good.
    let mut offset = BLOCK;
    while offset < length {
        match reader.batch(offset) {
            Ok(length) => {
                offset += length;
                reader.found.end = offset;
            }
            Err(BadBatch::Misplaced(what)) => return Err(Unreadable::Damage(Damage { offset, what })),
            Err(BadBatch::Illegible(what)) => {
                let rest = reader.rest(offset).map_err(Unreadable::Io)?;
                // The first batch was synced before the segment got its name, so no crash can tear
                // it.
                if reader.found.batches == 0 || rest.was_durable {
                    return Err(Unreadable::Damage(Damage { offset, what }));
                }
                reader.found.torn_bytes = rest.written;
                break;
            }
            Err(BadBatch::Io(error)) => return Err(Unreadable::Io(error)),
        }
    }
    // What the log would write next must still be readable.
    let found = reader.found;
    if header.number.max(found.sequence).max(found.last.as_u64()) >= USED_UP {
        return Err(Unreadable::Damage(Damage { offset: BLOCK, what: "numbers that no log reaches" }));
    }
    Ok(found)
}

/// What lies from an unreadable batch on.
struct TornTail {
    /// Whether anything shows that the batch was durable once.
    was_durable: bool,
    /// Number of bytes up to the last one that is not zero; in a segment with leftovers, within the
    /// first block.
    written: u64,
}

struct SegmentReader<'a, V> {
    window: Window<'a>,
    header: &'a SegmentHeader,
    salt: u64,
    found: Recovered,
    previous: u64,
    visitor: &'a mut V,
}

/// Why there is no good batch.
enum BadBatch {
    /// The batch can't be read: it was never written, is torn, or is damaged.
    Illegible(&'static str),
    /// The batch reads well but does not belong here, which no crash can bring about.
    Misplaced(&'static str),
    /// The medium refused.
    Io(io::Error),
}

impl<V: Visitor> SegmentReader<'_, V> {
    /// Takes in the batch at `offset`, and returns its padded length.
    fn batch(&mut self, offset: u64) -> Result<u64, BadBatch> {
        let (salt, left) = (self.salt, self.window.source.length() - offset);
        let head = self.window.bytes(offset, BATCH_HEADER).map_err(BadBatch::Io)?;
        let header = decode_header(head, left, salt).map_err(BadBatch::Illegible)?;
        self.check_place(&header).map_err(BadBatch::Misplaced)?;
        // The padded length may reach beyond a file of odd size, which only a caller's test can
        // make up.
        let length = padded(BATCH_HEADER as u64 + header.payload).min(left);
        let bytes = self.window.bytes(offset, length as usize).map_err(BadBatch::Io)?; // read as a whole, so it fits
        let payload = decode_payload(bytes, &header, salt).map_err(BadBatch::Illegible)?;
        records(&mut self.found, self.visitor, &header, payload).map_err(BadBatch::Misplaced)?;
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
            Err("a segment must begin with its carried records, and must not have them elsewhere")
        } else if header.previous != self.previous || !first && header.sequence != self.found.sequence.wrapping_add(1) {
            Err("a batch that does not follow the one before it")
        } else {
            Ok(())
        }
    }

    /// Looks through everything from the batch at `offset` on, which is bad, for anything that
    /// shows that it was durable once: the header of a later batch. A good header is enough. Its
    /// records may be bad too, but the header would not be there if the sync of the batch before it
    /// had not returned.
    fn rest(&mut self, offset: u64) -> io::Result<TornTail> {
        let length = self.window.source.length();
        let mut rest = TornTail { was_durable: false, written: 0 };
        // In leftovers it can't be told what the crash has torn, and what was there before.
        let leaves_zeros = self.header.rest == Rest::Zeros;
        let (salt, number, after) = (self.salt, self.header.number, self.found.sequence.wrapping_add(1));
        for at in (offset..length).step_by(BLOCK as usize) {
            let block = self.window.bytes(at, BLOCK as usize)?;
            if at == offset || leaves_zeros {
                rest.written = last_written(block).map_or(rest.written, |last| at - offset + last);
            }
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
            Kind::Records => last.as_u64().checked_add(1) == Some(lsn.as_u64()),
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

/// Returns the number of bytes of this block up to the last one that is not zero; `None` if all are
/// zero.
fn last_written(block: &[u8]) -> Option<u64> {
    // Most blocks are empty. Comparing them as a whole makes it cheap to look at all of them.
    const EMPTY: [u8; BLOCK as usize] = [0; BLOCK as usize];
    if *block == EMPTY[..block.len()] {
        return None;
    }
    block.iter().rposition(|byte| *byte != 0).map(|last| last as u64 + 1)
}
