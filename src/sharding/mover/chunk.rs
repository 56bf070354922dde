//! One chunk: ranges that go from one node to another in one transaction.

use std::{sync::Arc, time::Duration};

use super::schedule::Chunk;
use crate::{
    id::TxnId,
    participant::ExecuteError,
    ring::{NodeId, RangeSet},
    sharding::{
        KeeperRefusal, ShardError,
        cluster::{ClusterCore, ClusterError, KEEPER, NamedShard},
        keeper::{Heading, RingState, RingWork},
    },
};

/// Time after which a chunk's transaction is rolled back, if it has not been decided.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for which a chunk waits for transactions with unfinished changes in its ranges. Clients that
/// write to these ranges wait meanwhile.
const PATIENCE: Duration = Duration::from_millis(50);

/// What has moved.
pub(super) struct MovedChunk {
    pub(super) ranges: RangeSet,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Time from the first freeze to the commit; zero if they had moved before.
    pub(super) held_up: Duration,
}

/// Why a chunk did not move. Nothing has changed then.
pub(super) struct ChunkFailure {
    pub(super) error: Box<ClusterError>,
    /// Transactions that were in the way.
    pub(super) by: Vec<TxnId>,
    /// Number of bytes that were exported for nothing.
    pub(super) exported: u64,
}

impl From<ClusterError> for ChunkFailure {
    fn from(error: ClusterError) -> Self {
        Self { error: Box::new(error), by: Vec::new(), exported: 0 }
    }
}

/// Moves as much of the chunk as fits into its budget, to this side of the change.
pub(super) fn move_chunk(core: &ClusterCore, chunk: &Chunk, heading: Heading) -> Result<MovedChunk, ChunkFailure> {
    let (from, to) = (core.directory.shards(&chunk.from)?, core.directory.shards(&chunk.to)?);
    let (ranges, bytes) = fitting(&from, chunk)?;
    // Before anything is frozen.
    for ((_, shard), bytes) in to.iter().zip(bytes) {
        shard.has_room(bytes).map_err(|error| at(&chunk.to, error))?;
    }
    let mut exported = 0;
    let moved = hand_over(core, chunk, heading, (&from, &to), ranges, &mut exported);
    moved.map_err(|failure| ChunkFailure { exported, ..failure })
}

/// Returns the first of the chunk's ranges, as many as fit, and the bytes of their records for each
/// service, at most.
fn fitting(from: &[NamedShard], chunk: &Chunk) -> Result<(RangeSet, Vec<u64>), ClusterError> {
    let (mut ranges, mut bytes) = (chunk.ranges.clone(), Vec::with_capacity(from.len()));
    for (_, shard) in from {
        // What one service does not use, the next ones may.
        let services_left = (from.len() - bytes.len()) as u64;
        let share = chunk.budget.saturating_sub(bytes.iter().sum()) / services_left;
        let (fitting, digest) = shard.measure(&ranges, share).map_err(|error| at(&chunk.from, error))?;
        ranges = fitting;
        bytes.push(digest.bytes);
    }
    Ok((ranges, bytes))
}

/// Moves these ranges in one transaction: from the shards of one node to those of the other, with the
/// keeper's record.
fn hand_over(
    core: &ClusterCore,
    chunk: &Chunk,
    heading: Heading,
    (from, to): (&[NamedShard], &[NamedShard]),
    ranges: RangeSet,
    exported: &mut u64,
) -> Result<MovedChunk, ChunkFailure> {
    let tenure = core.table().next_tenure();
    // Clients may have taken all slots, and wait for these very ranges.
    let mut txn = core.directory.coordinator.begin_beyond_limits(CHUNK_TIMEOUT);
    let branch = txn.branch(KEEPER).map_err(ClusterError::from)?.clone();
    match core.keeper.execute(&branch, RingWork::Moved { ranges: ranges.clone(), heading, tenure }) {
        Ok(()) => {}
        // The outcome of an earlier try was not known. It has moved them.
        Err(ExecuteError::Refused(KeeperRefusal::NotThere))
            if core.state().is_some_and(|state| has_moved(&state, &ranges, heading)) =>
        {
            return Ok(MovedChunk { ranges, records: 0, bytes: 0, held_up: Duration::ZERO });
        }
        Err(ExecuteError::Refused(refusal)) => {
            let by = if let KeeperRefusal::OnTheirWay { txn } = &refusal { vec![txn.clone()] } else { Vec::new() };
            return Err(ChunkFailure { by, ..ClusterError::Keeper(refusal).into() });
        }
        Err(error) => return Err(ClusterError::Work(Arc::new(error)).into()),
    }
    let frozen_at = core.directory.platform.now();
    let mut sent = Vec::with_capacity(from.len());
    for (name, shard) in from {
        let branch = txn.branch(name).map_err(ClusterError::from)?.clone();
        match shard.release(&branch, &ranges, tenure, &chunk.to, PATIENCE) {
            Ok((records, digest)) => {
                *exported += digest.bytes;
                sent.push((records, digest));
            }
            Err(ShardError::Held { by }) => {
                drop(txn);
                if chunk.is_urgent {
                    for txn in &by {
                        // Those that have promised can't be given up. They are shown.
                        let _ = shard.give_up(txn);
                    }
                }
                let failure = ChunkFailure::from(at(&chunk.from, ShardError::Held { by: by.clone() }));
                return Err(ChunkFailure { by, ..failure });
            }
            Err(error) => return Err(at(&chunk.from, error).into()),
        }
    }
    let (mut records_moved, mut bytes_moved) = (0, 0);
    for ((name, shard), (records, digest)) in to.iter().zip(sent) {
        let branch = txn.branch(name).map_err(ClusterError::from)?.clone();
        shard.take(&branch, &ranges, tenure, records, digest).map_err(|error| at(&chunk.to, error))?;
        records_moved += digest.records;
        bytes_moved += digest.bytes;
    }
    txn.commit().wait().map_err(ClusterError::Commit)?;
    let held_up = core.directory.platform.now().saturating_duration_since(frozen_at);
    Ok(MovedChunk { ranges, records: records_moved, bytes: bytes_moved, held_up })
}

/// Whether the change that is under way is still this one, and all of the ranges have moved in it.
fn has_moved(state: &RingState, ranges: &RangeSet, heading: Heading) -> bool {
    let is_own = state.change.as_ref().is_some_and(|change| change.heading() == heading);
    is_own && state.assignment.is_all_on(ranges, heading.side)
}

fn at(node: &NodeId, error: ShardError) -> ClusterError {
    ClusterError::Shard { node: node.clone(), error }
}
