//! The format on the medium, byte for byte as `src/docs/media.md` has it: bytes in, bytes out,
//! nothing else.
//!
//! All numbers are little-endian. A segment is a header block followed by batches, each padded to
//! whole blocks.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::log::{LogId, Lsn, MAX_RECORD_BYTES};

/// The version that this library writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// Size of a block in bytes: the unit in which a segment is laid out. No block of a batch is
/// written again before the segment was replaced, so a torn write can't hurt what was acknowledged.
/// 4 KiB is the largest sector, and the smallest page, in common use.
pub(super) const BLOCK: u64 = 4096;

/// Number of bytes in front of each batch's payload.
pub(super) const BATCH_HEADER: usize = 72;

/// Number of bytes in front of each record: its length (4) and its number (8).
pub(super) const FRAME_HEADER: usize = 12;

/// Maximum number of a segment, batch or record; at a billion a second that takes 292 years. So
/// counting on from a number that was read can't overflow.
const MAX_NUMBER: u64 = u64::MAX >> 1;

/// Number from which on a log is not opened, because what it would write next must still be
/// readable. No process counts from here to [`MAX_NUMBER`] in its lifetime, and only made-up bytes
/// ever get here.
pub(super) const USED_UP: u64 = MAX_NUMBER >> 1;

const SEGMENT_MAGIC: [u8; 8] = *b"ringpact";
const BATCH_MAGIC: [u8; 8] = *b"rp-batch";

/// Number of bytes of a segment's header that its checksum covers.
const SEGMENT_CHECKED: usize = 48;

/// Offset in the header, after that checksum, of what is behind the batches.
const SEGMENT_REST: usize = SEGMENT_CHECKED + 8;

/// Rounds up to whole blocks.
pub(super) const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// The content of the first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) log: LogId,
    /// 1 for a log's first segment, one more for each later one.
    pub(super) number: u64,
    /// The length of the whole file. The file has it before the segment gets its name, so another
    /// length is damage.
    pub(super) bytes: u64,
    /// What the file held before, which is still there beyond what was written since.
    pub(super) rest: Rest,
}

/// What is in a segment behind its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Zeros only.
    Zeros,
    /// A block of zeros, which the next batch overwrites, and behind it what an earlier segment has
    /// left.
    Leftovers,
}

/// Why a block is not a segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadSegment {
    Damaged { offset: u64, what: &'static str },
    UnknownVersion { version: u32 },
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK as usize);
        block.extend(SEGMENT_MAGIC);
        block.extend(VERSION.to_le_bytes());
        block.extend((BLOCK as u32).to_le_bytes());
        block.extend(self.log.to_bytes());
        block.extend(self.number.to_le_bytes());
        block.extend(self.bytes.to_le_bytes());
        debug_assert_eq!(block.len(), SEGMENT_CHECKED);
        block.extend(xxh3_64(&block).to_le_bytes());
        debug_assert_eq!(block.len(), SEGMENT_REST);
        if self.rest == Rest::Leftovers {
            block.extend(leftovers_mark(&block).to_le_bytes());
        }
        block.resize(BLOCK as usize, 0);
        block
    }

    /// Reads a header back. The version comes before the checksum, because another version may keep
    /// its checksum elsewhere.
    pub(super) fn decode(block: &[u8]) -> Result<Self, BadSegment> {
        let damaged = |offset, what| BadSegment::Damaged { offset, what };
        if block.get(..8) != Some(&SEGMENT_MAGIC) {
            return Err(damaged(0, "the file does not begin as a segment of a log does"));
        }
        if block.len() < SEGMENT_REST + 8 {
            return Err(damaged(block.len() as u64, "the file ends within the segment's header"));
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Err(BadSegment::UnknownVersion { version });
        }
        if u64_at(block, SEGMENT_CHECKED) != xxh3_64(&block[..SEGMENT_CHECKED]) {
            return Err(damaged(8, "the segment's header does not match its checksum"));
        }
        let rest = match u64_at(block, SEGMENT_REST) {
            0 => Rest::Zeros,
            mark if mark == leftovers_mark(&block[..SEGMENT_REST]) => Rest::Leftovers,
            _ => return Err(damaged(SEGMENT_REST as u64, "the segment's header does not match its checksum")),
        };
        let mut log = [0; 16];
        log.copy_from_slice(&block[16..32]);
        let header = Self { log: LogId::from_bytes(log), number: u64_at(block, 32), bytes: u64_at(block, 40), rest };
        let possible = u64::from(u32_at(block, 12)) == BLOCK
            && header.bytes.is_multiple_of(BLOCK)
            && header.bytes >= 2 * BLOCK
            && header.number <= MAX_NUMBER;
        if !possible {
            return Err(damaged(12, "the segment's header states impossible sizes or numbers"));
        }
        Ok(header)
    }

    /// Returns the salt of all checksums of the segment's batches. A writer of records that does
    /// not know the log's random id can't make up bytes that would pass for a batch. So a record's
    /// content is never mistaken for one.
    pub(super) fn salt(&self) -> u64 {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.log.to_bytes());
        bytes[16..].copy_from_slice(&self.number.to_le_bytes());
        xxh3_64(&bytes)
    }
}

/// Returns the mark in the header of a segment with leftovers. It is a checksum, so that damage
/// does not pass for it.
fn leftovers_mark(before: &[u8]) -> u64 {
    xxh3_64(before)
}

/// What a batch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records as they were appended, with consecutive numbers.
    Records = 1,
    /// The first batch of a segment: all records that were live then, under their own numbers.
    Carry = 2,
    /// No records: it shows that the batch before it was durable.
    Seal = 3,
}

/// What stands in front of a batch's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) kind: Kind,
    pub(super) segment: u64,
    /// One more than that of the batch before it, across segments too.
    pub(super) sequence: u64,
    /// The checksum of the batch before it in the segment; 0 in the first one.
    pub(super) previous: u64,
    /// The number of the last record that the log holds up to and with this batch.
    pub(super) last: Lsn,
    pub(super) count: u32,
    pub(super) payload: u64,
    /// The checksum of the payload.
    pub(super) payload_checksum: u64,
    /// The checksum of the header, with the payload's checksum in it. So it stands for the batch as
    /// a whole.
    pub(super) checksum: u64,
}

/// What the writer knows about a batch. The rest of its header follows from the payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct BatchStart {
    pub(super) kind: Kind,
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) previous: u64,
    pub(super) last: Lsn,
    pub(super) count: u32,
}

/// Empties a buffer into which records can be framed, with room for the header in front.
pub(super) fn clear_batch(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.resize(BATCH_HEADER, 0);
}

/// Adds one encoded record to a batch. (It would not help to put the header before the record and
/// copy both as one: what was written a moment ago in small pieces can't be read at once in large
/// ones, and this is under the queue's lock.)
pub(super) fn push_frame(buffer: &mut Vec<u8>, lsn: Lsn, encoded: &[u8]) {
    debug_assert!(encoded.len() <= MAX_RECORD_BYTES, "refused before it gets here");
    let mut head = [0; FRAME_HEADER];
    head[..4].copy_from_slice(&(encoded.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&lsn.as_u64().to_le_bytes());
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(encoded);
}

/// Fills in the header, pads the batch to whole blocks, and returns its checksum.
pub(super) fn finish_batch(buffer: &mut Vec<u8>, start: BatchStart, salt: u64) -> u64 {
    let payload = &buffer[BATCH_HEADER..];
    let (length, payload_checksum) = (payload.len() as u64, xxh3_64_with_seed(payload, salt));
    buffer[..8].copy_from_slice(&BATCH_MAGIC);
    buffer[16..24].copy_from_slice(&payload_checksum.to_le_bytes());
    buffer[24..32].copy_from_slice(&start.segment.to_le_bytes());
    buffer[32..40].copy_from_slice(&start.sequence.to_le_bytes());
    buffer[40..48].copy_from_slice(&start.previous.to_le_bytes());
    buffer[48..56].copy_from_slice(&start.last.as_u64().to_le_bytes());
    buffer[56..64].copy_from_slice(&length.to_le_bytes());
    buffer[64..68].copy_from_slice(&start.count.to_le_bytes());
    buffer[68..72].copy_from_slice(&(start.kind as u32).to_le_bytes());
    let checksum = xxh3_64_with_seed(&buffer[16..BATCH_HEADER], salt);
    buffer[8..16].copy_from_slice(&checksum.to_le_bytes());
    buffer.resize(padded(buffer.len() as u64) as usize, 0);
    checksum
}

/// Whether a batch's header may begin here. It is cheap, for scanning.
pub(super) fn begins_batch(bytes: &[u8]) -> bool {
    bytes.starts_with(&BATCH_MAGIC)
}

/// Reads the header of the batch that begins with these bytes. `left` is the number of bytes from
/// there to the segment's end.
pub(super) fn decode_header(bytes: &[u8], left: u64, salt: u64) -> Result<BatchHeader, &'static str> {
    if bytes.len() < BATCH_HEADER || !begins_batch(bytes) {
        return Err("no batch begins here");
    }
    let checksum = u64_at(bytes, 8);
    if checksum != xxh3_64_with_seed(&bytes[16..BATCH_HEADER], salt) {
        return Err("a batch's header does not match its checksum");
    }
    let header = BatchHeader {
        kind: match u32_at(bytes, 68) {
            1 => Kind::Records,
            2 => Kind::Carry,
            3 => Kind::Seal,
            _ => return Err("a batch of unknown kind"),
        },
        segment: u64_at(bytes, 24),
        sequence: u64_at(bytes, 32),
        previous: u64_at(bytes, 40),
        last: Lsn::new(u64_at(bytes, 48)),
        count: u32_at(bytes, 64),
        payload: u64_at(bytes, 56),
        payload_checksum: u64_at(bytes, 16),
        checksum,
    };
    if header.payload > left - BATCH_HEADER as u64 {
        return Err("a batch reaches beyond its segment");
    }
    if header.sequence > MAX_NUMBER || header.last.as_u64() > MAX_NUMBER {
        return Err("a batch with numbers that no log reaches");
    }
    Ok(header)
}

/// Returns the payload that belongs to a header read from the same bytes.
pub(super) fn decode_payload<'a>(bytes: &'a [u8], header: &BatchHeader, salt: u64) -> Result<&'a [u8], &'static str> {
    let payload = usize::try_from(header.payload)
        .ok()
        .and_then(|length| bytes.get(BATCH_HEADER..)?.get(..length))
        .ok_or("a batch reaches beyond its segment")?;
    if xxh3_64_with_seed(payload, salt) != header.payload_checksum {
        return Err("a batch's records do not match their checksum");
    }
    Ok(payload)
}

/// Takes the first record off a payload, still encoded. Returns `None` at the payload's end.
pub(super) fn take_frame<'a>(payload: &mut &'a [u8]) -> Result<Option<(Lsn, &'a [u8])>, &'static str> {
    if payload.is_empty() {
        return Ok(None);
    }
    let (head, rest) = payload.split_at_checked(FRAME_HEADER).ok_or("a record's frame is cut short")?;
    let length = u32_at(head, 0) as usize;
    let lsn = Lsn::new(u64_at(head, 4));
    let (encoded, rest) = rest.split_at_checked(length).ok_or("a record reaches beyond its batch")?;
    *payload = rest;
    Ok(Some((lsn, encoded)))
}

/// Iterates over the frames of a payload that this process has made.
pub(super) fn frames(mut payload: &[u8]) -> impl Iterator<Item = (Lsn, &[u8])> {
    std::iter::from_fn(move || take_frame(&mut payload).ok().flatten())
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(array)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(array)
}
