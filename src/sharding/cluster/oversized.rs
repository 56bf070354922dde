//! [`Oversized`]: positions that no chunk can have.

use crate::{
    id::Name,
    ring::{NodeId, Position, PositionRange, RangeSet},
    sharding::{MAX_CHUNK_BYTES, ShardError, ShardMoves},
};

/// A position whose records don't fit into a chunk, so that it can't move; see
/// [`Plan::oversized`](super::Plan::oversized).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Oversized {
    /// The node that has it.
    pub node: NodeId,
    /// The shard there, by its [name](crate::sharding::shard_name).
    pub shard: Name,
    /// The position.
    pub position: Position,
    /// Number of bytes of its records, as they would travel.
    pub bytes: u64,
}

/// Adds the oversized positions of these ranges of a shard. Records may be written meanwhile.
pub(super) fn find(
    node: &NodeId,
    name: &Name,
    shard: &dyn ShardMoves,
    mut ranges: RangeSet,
    found: &mut Vec<Oversized>,
) -> Result<(), ShardError> {
    while !ranges.is_empty() {
        // More than fits is one position, whose range may be wider: no other position has records there.
        let (part, digest) = shard.measure(&ranges, MAX_CHUNK_BYTES as u64)?;
        if digest.bytes > MAX_CHUNK_BYTES as u64
            && let Some(position) = first_with_records(shard, &part)?
        {
            found.push(Oversized { node: node.clone(), shard: name.clone(), position, bytes: digest.bytes });
        }
        if part.is_empty() {
            break;
        }
        part.iter().for_each(|range| ranges.remove(range));
    }
    Ok(())
}

/// Returns the first position of the ranges that has records. Asks the shard about each range, and 64 times at
/// most about halves of one.
fn first_with_records(shard: &dyn ShardMoves, ranges: &RangeSet) -> Result<Option<Position>, ShardError> {
    let has_records = |range| shard.measure(&RangeSet::from_iter([range]), 0).map(|(_, digest)| digest.records > 0);
    for range in ranges.iter() {
        if !has_records(range)? {
            continue;
        }
        let (mut start, mut width) = (range.start.as_u64(), range.width());
        while width > 1 {
            let half = width / 2;
            let middle = start.wrapping_add(half as u64);
            let first_half = PositionRange { start: Position::new(start), end: Position::new(middle) };
            if has_records(first_half)? {
                width = half;
            } else {
                (start, width) = (middle, width - half);
            }
        }
        return Ok(Some(Position::new(start.wrapping_add(1))));
    }
    Ok(None)
}
