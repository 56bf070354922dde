//! How records travel: [`Export`], into which a shard puts them; [`Records`], from which a shard
//! takes them; and the [`Digest`] that both sides compare.
//!
//! On the way a record is its position (8 bytes, little-endian), its length (4 bytes,
//! little-endian), and its bytes, which only the service reads. Records of one range are together,
//! in the order of their positions from the start of the range.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    participant::MAX_WORK_BYTES,
    ring::{Position, PositionRange, RangeSet},
};

/// Maximum number of bytes of a chunk's records: what fits into one log record, less the room for
/// what stands beside the records there.
///
/// So all records of one position together may have at most this many bytes: a chunk never divides
/// a position.
pub const MAX_CHUNK_BYTES: usize = MAX_WORK_BYTES - CHUNK_HEAD_BYTES;

/// Room for all else in the work that takes a chunk, in bytes: tenure, digest, lengths and tags, and
/// [`MAX_CHUNK_RANGES`] ranges of at most 20 bytes.
const CHUNK_HEAD_BYTES: usize = 128 + MAX_CHUNK_RANGES * 20;

/// Maximum number of ranges of a chunk. Enough for a node's virtual nodes on a small ring to move in
/// a few chunks; few enough to be a small part of a chunk.
pub const MAX_CHUNK_RANGES: usize = 256;

/// Number of bytes of a record's position and length.
const RECORD_HEAD_BYTES: usize = 8 + 4;

/// A digest of records that does not depend on their order: their number, their bytes, and the sum
/// of their hashes. A small value that is copied.
///
/// It finds what goes wrong by mistake. It does not protect against a forger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Digest {
    /// Number of records.
    pub records: u64,
    /// Number of bytes of the records, each with its position and length.
    pub bytes: u64,
    sum: u64,
}

impl Digest {
    /// Counts a record without its content.
    const fn count(&mut self, record: &[u8]) {
        self.records += 1;
        self.bytes += (RECORD_HEAD_BYTES + record.len()) as u64;
    }

    fn add(&mut self, position: Position, record: &[u8]) {
        self.count(record);
        self.sum = self.sum.wrapping_add(xxh3_64_with_seed(record, position.as_u64()));
    }
}

/// Takes the records of a shard; see [`Shard::export`](crate::sharding::Shard::export).
#[derive(Debug)]
pub struct Export {
    kind: Kind,
    range: PositionRange,
    digest: Digest,
    bytes: Vec<u8>,
    /// The position of the last record of this range, and the one before that position.
    last: Option<Position>,
    before: Option<Position>,
    /// Whether a position is complete, of this range or of an earlier one.
    has_complete: bool,
    /// What was counted when the last position began.
    complete: Digest,
    is_cut: bool,
    /// Number of records that came although no more were wanted.
    unwanted: u64,
    error: Option<ExportError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Counts, and stops behind the last position that fits into this many bytes.
    Measure { budget: u64 },
    /// Keeps the records.
    Collect,
    /// Only makes the digest.
    Digest,
}

/// Reason why records can't be exported.
#[derive(Clone, Debug, Error, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExportError {
    /// The shard gave a record outside of the range, or not in the order of positions.
    #[error(
        "the shard exported a record at position {} out of order or out of range; `Shard::export` passes the records of \
         the range in the order of their positions from the range's start",
        position.as_u64()
    )]
    OutOfOrder {
        /// The position of the record.
        position: Position,
    },
    /// The records of one position are too large for a chunk.
    #[error(
        "the records of position {} have more than {limit} bytes, and a chunk must fit into one log record; keep large values \
         elsewhere and store their names",
        position.as_u64()
    )]
    TooLarge {
        /// The position.
        position: Position,
        /// The limit in bytes, [`MAX_CHUNK_BYTES`].
        limit: usize,
    },
    /// The records of several positions are too large for a chunk: they have grown since the mover measured
    /// them.
    #[error(
        "the records of the chunk have grown to more than {limit} bytes, and it must fit into one log record; the mover \
         makes a smaller one"
    )]
    Grown {
        /// The limit in bytes, [`MAX_CHUNK_BYTES`].
        limit: usize,
    },
}

impl Export {
    fn new(kind: Kind) -> Self {
        let range = PositionRange { start: Position::MAX, end: Position::MAX };
        Self {
            kind,
            range,
            digest: Digest::default(),
            bytes: Vec::new(),
            last: None,
            before: None,
            has_complete: false,
            complete: Digest::default(),
            is_cut: false,
            unwanted: 0,
            error: None,
        }
    }

    /// Takes one record at `position`. Returns [`ControlFlow::Break`] if it wants no more: then the
    /// shard returns at once.
    ///
    /// The records of a range must come in the order of their positions, clockwise from the range's
    /// start. Those of one position may come in any order. The bytes are the service's own; it gets
    /// them back in [`Shard::import`](crate::sharding::Shard::import). O(length of the record).
    #[must_use = "a shard goes on exporting only on `Continue`"]
    pub fn push(&mut self, position: Position, record: &[u8]) -> ControlFlow<()> {
        if self.error.is_some() || self.is_cut {
            self.unwanted += 1;
            return ControlFlow::Break(());
        }
        let way = |position: Position| position.as_u64().wrapping_sub(self.range.start.as_u64()).wrapping_sub(1);
        if !self.range.contains(position) || self.last.is_some_and(|last| way(last) > way(position)) {
            self.error = Some(ExportError::OutOfOrder { position });
            return ControlFlow::Break(());
        }
        if self.last != Some(position) {
            self.has_complete |= self.digest.records > 0;
            (self.before, self.last, self.complete) = (self.last, Some(position), self.digest);
        }
        let bytes = self.digest.bytes + (RECORD_HEAD_BYTES + record.len()) as u64;
        match self.kind {
            // One position goes into a chunk, however large it is. Otherwise no chunk would have it.
            Kind::Measure { budget } if bytes > budget && self.has_complete => {
                self.is_cut = true;
                return ControlFlow::Break(());
            }
            Kind::Collect if bytes > MAX_CHUNK_BYTES as u64 => {
                let (limit, of_others) = (MAX_CHUNK_BYTES, self.complete.bytes);
                self.error = Some(match bytes - of_others > limit as u64 {
                    true => ExportError::TooLarge { position, limit },
                    false => ExportError::Grown { limit },
                });
                return ControlFlow::Break(());
            }
            Kind::Measure { .. } => self.digest.count(record),
            Kind::Collect => {
                self.bytes.extend_from_slice(&position.as_u64().to_le_bytes());
                self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
                self.bytes.extend_from_slice(record);
                self.digest.add(position, record);
            }
            Kind::Digest => self.digest.add(position, record),
        }
        ControlFlow::Continue(())
    }

    /// Passes each range to the shard's `export`. Returns which ranges the shard has passed through
    /// in full, the last of them perhaps cut.
    fn run<E: From<ExportError>>(
        &mut self,
        ranges: impl IntoIterator<Item = PositionRange>,
        mut export: impl FnMut(PositionRange, &mut Self) -> Result<(), E>,
    ) -> Result<RangeSet, E> {
        let mut passed = RangeSet::new();
        for range in ranges {
            (self.range, self.last, self.before) = (range, None, None);
            export(range, self)?;
            if let Some(error) = self.error.take() {
                return Err(error.into());
            }
            if self.is_cut {
                passed.extend(self.before.map(|end| PositionRange { start: range.start, end }));
                break;
            }
            passed.insert(range);
        }
        Ok(passed)
    }
}

/// Returns the first of these ranges whose records fit into `budget` bytes, the last of them cut if
/// need be, and how many records and bytes they have. They have at least one position.
pub(super) fn measure<E: From<ExportError>>(
    ranges: &RangeSet,
    budget: u64,
    export: impl FnMut(PositionRange, &mut Export) -> Result<(), E>,
) -> Result<(RangeSet, Digest), E> {
    let mut sink = Export::new(Kind::Measure { budget });
    let passed = sink.run(ranges.iter().take(MAX_CHUNK_RANGES), export)?;
    Ok((passed, if sink.is_cut { sink.complete } else { sink.digest }))
}

/// Returns the records of these ranges as they travel, and their digest.
pub(super) fn collect<E: From<ExportError>>(
    ranges: &RangeSet,
    export: impl FnMut(PositionRange, &mut Export) -> Result<(), E>,
) -> Result<(Vec<u8>, Digest), E> {
    let mut sink = Export::new(Kind::Collect);
    sink.run(ranges.iter(), export)?;
    Ok((sink.bytes, sink.digest))
}

/// Returns the digest of the records of these ranges.
pub(super) fn digest<E: From<ExportError>>(
    ranges: &RangeSet,
    export: impl FnMut(PositionRange, &mut Export) -> Result<(), E>,
) -> Result<Digest, E> {
    let mut sink = Export::new(Kind::Digest);
    sink.run(ranges.iter(), export)?;
    Ok(sink.digest)
}

/// Returns the records of one range as they travel, also of a whole circle that begins anywhere.
pub(super) fn of_range<E: From<ExportError>>(
    range: PositionRange,
    export: impl FnMut(PositionRange, &mut Export) -> Result<(), E>,
) -> Result<(Vec<u8>, Digest), E> {
    let mut sink = Export::new(Kind::Collect);
    sink.run([range], export)?;
    Ok((sink.bytes, sink.digest))
}

/// Returns how many records are passed after the first position, when no more are wanted.
pub(super) fn unwanted<E: From<ExportError>>(
    range: PositionRange,
    export: impl FnMut(PositionRange, &mut Export) -> Result<(), E>,
) -> Result<u64, E> {
    let mut sink = Export::new(Kind::Measure { budget: 0 });
    sink.run([range], export)?;
    Ok(sink.unwanted)
}

/// Records that arrive at a shard: an iterator over positions and bytes, in the order in which they
/// were exported. It borrows the bytes; a clone starts at the same place.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    bytes: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (record, rest) = split(self.bytes)?;
        self.bytes = rest;
        Some(record)
    }
}

/// Records that came from another shard could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("the records of the chunk are malformed, or lie outside of its ranges; both shards must run the same version")]
#[non_exhaustive]
pub struct MalformedRecords;

/// Returns the records of each range. All of them are checked before this returns.
pub(super) fn by_range<'a>(
    ranges: &RangeSet,
    bytes: &'a [u8],
) -> Result<Vec<(PositionRange, Records<'a>)>, MalformedRecords> {
    let mut rest = bytes;
    let mut parts = Vec::new();
    for range in ranges.iter() {
        let begun = rest;
        while let Some(((position, _), after)) = split(rest)
            && range.contains(position)
        {
            rest = after;
        }
        parts.push((range, Records { bytes: &begun[..begun.len() - rest.len()] }));
    }
    if rest.is_empty() { Ok(parts) } else { Err(MalformedRecords) }
}

/// Returns the records that travel as these bytes, unchecked.
pub(super) const fn as_records(bytes: &[u8]) -> Records<'_> {
    Records { bytes }
}

/// One record: its position, and its bytes.
type Record<'a> = (Position, &'a [u8]);

/// Returns the first record, and the bytes behind it.
fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (position, rest) = bytes.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some(((Position::new(u64::from_le_bytes(*position)), record), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PositionRange {
        PositionRange { start: Position::new(start), end: Position::new(end) }
    }

    /// A shard with these records, in the order of their positions.
    fn exporter(
        records: &[(u64, &'static [u8])],
    ) -> impl FnMut(PositionRange, &mut Export) -> Result<(), ExportError> + Clone {
        let records = records.to_vec();
        move |range, into| {
            let way = |position: &u64| position.wrapping_sub(range.start.as_u64()).wrapping_sub(1);
            let mut inside: Vec<_> =
                records.iter().filter(|(position, _)| range.contains(Position::new(*position))).collect();
            inside.sort_by_key(|(position, _)| way(position));
            for (position, record) in inside {
                if into.push(Position::new(*position), record).is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    #[test]
    fn a_chunk_is_cut_between_positions_and_has_at_least_one() {
        let export = exporter(&[(1, b"aaaa"), (2, b"bbbb"), (2, b"cccc"), (9, b"d"), (u64::MAX, b"zz")]);
        let all = RangeSet::from_iter([range(u64::MAX - 5, 3), range(8, 10)]);
        let cut = |budget| measure(&all, budget, export.clone()).unwrap();
        // 14 bytes of the last position before 0, 16 of position 1, 32 of position 2, 13 of 9.
        assert_eq!(cut(1).0, RangeSet::from_iter([range(u64::MAX - 5, u64::MAX)]), "one position, whatever its size");
        assert_eq!(cut(30).0, RangeSet::from_iter([range(u64::MAX - 5, 1)]));
        assert_eq!(cut(30).1.bytes, 30);
        assert_eq!(cut(61).0, RangeSet::from_iter([range(u64::MAX - 5, 1)]), "the two of position 2 stay together");
        assert_eq!(cut(62).0, RangeSet::from_iter([range(u64::MAX - 5, 3)]), "and what is empty comes along");
        assert_eq!(cut(75).0, all);
        assert_eq!((cut(75).1.records, cut(75).1.bytes), (5, 75));
    }

    #[test]
    fn what_is_exported_is_what_arrives() {
        let export = exporter(&[(1, b""), (2, b"bbbb"), (2, b"cccc"), (9, b"d"), (u64::MAX, b"zz")]);
        let ranges = RangeSet::from_iter([range(u64::MAX - 5, 3), range(8, 10)]);
        let (bytes, sent) = collect(&ranges, export.clone()).unwrap();
        assert_eq!(digest(&ranges, export).unwrap(), sent);
        let parts = by_range(&ranges, &bytes).unwrap();
        let arrived: Vec<Vec<_>> =
            parts.into_iter().map(|(_, records)| records.map(|(at, record)| (at.as_u64(), record)).collect()).collect();
        let first: Vec<(u64, &[u8])> = vec![(u64::MAX, b"zz"), (1, b""), (2, b"bbbb"), (2, b"cccc")];
        assert_eq!(arrived, [first, vec![(9, b"d")]]);
    }

    #[test]
    fn a_digest_tells_a_record_from_another_and_from_none() {
        let of = |records: &[(u64, &'static [u8])]| digest(&RangeSet::full(), exporter(records)).unwrap();
        let usual = of(&[(1, b"a"), (2, b"b")]);
        for other in
            [of(&[(1, b"a")]), of(&[(1, b"b"), (2, b"a")]), of(&[(1, b"a"), (3, b"b")]), of(&[(1, b"a"), (2, b"bb")])]
        {
            assert_ne!(usual, other);
        }
        assert_eq!(of(&[(1, b"a"), (1, b"b")]), of(&[(1, b"b"), (1, b"a")]), "in any order");
    }

    #[test]
    fn malformed_records_are_refused() {
        let ranges = RangeSet::from_iter([range(0, 5)]);
        let (bytes, _) = collect(&ranges, exporter(&[(1, b"abc"), (2, b"")])).unwrap();
        assert!(by_range(&ranges, &bytes).is_ok());
        for end in 1..bytes.len() {
            let whole = 8 + 4 + 3;
            assert_eq!(by_range(&ranges, &bytes[..end]).is_ok(), end == whole, "cut at {end}");
        }
        assert_eq!(
            by_range(&RangeSet::from_iter([range(1, 5)]), &bytes).unwrap_err(),
            MalformedRecords,
            "out of range"
        );
        let mut huge = bytes;
        huge[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(by_range(&ranges, &huge).is_err());
    }

    #[test]
    fn a_shard_that_exports_out_of_order_is_told() {
        let disorder = |_, into: &mut Export| {
            let _ = into.push(Position::new(5), b"");
            let _ = into.push(Position::new(4), b"");
            Ok::<(), ExportError>(())
        };
        let ranges = RangeSet::from_iter([range(0, 9)]);
        let error = collect(&ranges, disorder).unwrap_err();
        assert_eq!(error, ExportError::OutOfOrder { position: Position::new(4) });
        let outside = |_, into: &mut Export| {
            let _ = into.push(Position::new(0), b"");
            Ok::<(), ExportError>(())
        };
        assert_eq!(collect(&ranges, outside).unwrap_err(), ExportError::OutOfOrder { position: Position::new(0) });
    }

    #[test]
    fn more_than_a_log_record_holds_is_refused() {
        let large = vec![0; MAX_CHUNK_BYTES - RECORD_HEAD_BYTES];
        let ranges = RangeSet::full();
        let fits = |_, into: &mut Export| {
            let _ = into.push(Position::new(1), &large);
            Ok::<(), ExportError>(())
        };
        assert!(collect(&ranges, fits).is_ok());
        let too_large = |_, into: &mut Export| {
            let _ = into.push(Position::new(1), &large);
            let _ = into.push(Position::new(1), b"");
            Ok::<(), ExportError>(())
        };
        let (position, limit) = (Position::new(1), MAX_CHUNK_BYTES);
        assert_eq!(collect(&ranges, too_large).unwrap_err(), ExportError::TooLarge { position, limit });
        let grown = |_, into: &mut Export| {
            let _ = into.push(Position::new(1), &large);
            let _ = into.push(Position::new(2), b"");
            Ok::<(), ExportError>(())
        };
        assert_eq!(collect(&ranges, grown).unwrap_err(), ExportError::Grown { limit });
    }
}
