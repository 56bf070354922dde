//! The decision that matters at every opening: what in a segment is whole, what is a torn tail, what is damage.
//!
//! Batch N+1 is written only after the sync of batch N has returned. So a bad batch that has a later one of the same
//! segment behind it was durable once, and something has damaged it since: opening must refuse. A bad batch with
//! nothing of the sort behind it is what a crash leaves of a write that nobody was told was durable: it is cut off.

use super::format::{
    BATCH_HEADER, BLOCK, BatchHeader, Kind, SegmentHeader, USED_UP, begins_batch, decode_header, decode_payload,
    padded, take_frame,
};
use crate::log::{LiveRecords, Lsn, Record};

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
    fn record(&mut self, lsn: Lsn, record: &Record);

    /// The batch that these records were of, and where it begins.
    fn batch(&mut self, offset: u64, header: &BatchHeader);
}

/// Opening wants to see nothing more.
impl Visitor for () {
    fn record(&mut self, _: Lsn, _: &Record) {}
    fn batch(&mut self, _: u64, _: &BatchHeader) {}
}

/// Reads a whole segment, given as all the bytes of its file.
pub(super) fn recover(bytes: &[u8], header: &SegmentHeader, visitor: &mut impl Visitor) -> Result<Recovered, Damage> {
    let mut reader = Reader { bytes, header, salt: header.salt(), found: Recovered::default(), previous: 0, visitor };
    let mut offset = BLOCK as usize;
    while offset < bytes.len() {
        match reader.batch(offset) {
            Ok(length) => offset += length,
            Err(Bad::Misplaced(what)) => return Err(Damage { offset: offset as u64, what }),
            Err(Bad::Illegible(what)) => {
                // The first batch was synced before the segment got its name: no crash can tear it.
                if reader.found.batches == 0 || reader.was_durable(offset) {
                    return Err(Damage { offset: offset as u64, what });
                }
                reader.found.torn_bytes = written(&bytes[offset..]);
                break;
            }
        }
    }
    let found = reader.found;
    if header.number.max(found.sequence).max(found.last.number()) >= USED_UP {
        return Err(Damage { offset: BLOCK, what: "numbers that no log reaches" });
    }
    Ok(found)
}

struct Reader<'a, V> {
    bytes: &'a [u8],
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
}

impl<V: Visitor> Reader<'_, V> {
    /// Takes in the batch at `offset` and gives its padded length.
    fn batch(&mut self, offset: usize) -> Result<usize, Bad> {
        let bytes = &self.bytes[offset..];
        let header = decode_header(bytes, self.salt).map_err(Bad::Illegible)?;
        self.check_place(&header).map_err(Bad::Misplaced)?;
        let payload = decode_payload(bytes, &header, self.salt).map_err(Bad::Illegible)?;
        self.records(&header, payload).map_err(Bad::Misplaced)?;
        self.previous = header.checksum;
        self.found.sequence = header.sequence;
        self.found.last = header.last;
        self.found.batches += 1;
        self.visitor.batch(offset as u64, &header);
        // The padded length may reach beyond a file of odd size, which only a caller's test can make up.
        Ok((padded((BATCH_HEADER + payload.len()) as u64) as usize).min(bytes.len()))
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

    fn records(&mut self, header: &BatchHeader, mut payload: &[u8]) -> Result<(), &'static str> {
        let mut last = if header.kind == Kind::Carry { Lsn::NONE } else { self.found.last };
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
            if !self.found.live.apply_encoded(lsn, encoded) {
                return Err("a record can't be decoded");
            }
            self.visitor.record(lsn, encoded);
            last = lsn;
            count = count.saturating_add(1);
        }
        let ends_well = if header.kind == Kind::Carry { last <= header.last } else { last == header.last };
        if count != header.count || !ends_well {
            return Err("a batch with more or fewer records than it states");
        }
        self.found.records += u64::from(count);
        Ok(())
    }

    /// Whether anything shows that the batch at `offset`, which is bad now, was durable once: a later batch's header.
    /// A good header is enough. Its records may be bad too, but it would not be there at all had the sync of the batch
    /// before it not returned.
    fn was_durable(&self, offset: usize) -> bool {
        self.bytes[offset..].chunks(BLOCK as usize).skip(1).enumerate().any(|(block, bytes)| {
            begins_batch(bytes) && {
                let bytes = &self.bytes[offset + (block + 1) * BLOCK as usize..];
                decode_header(bytes, self.salt).is_ok_and(|header| {
                    header.segment == self.header.number && header.sequence > self.found.sequence.wrapping_add(1)
                })
            }
        })
    }
}

/// How far into these bytes anything but zeros was written.
fn written(bytes: &[u8]) -> u64 {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1)
}
