//! One chunk: ranges that go from one node to another in one transaction.

use std::{sync::Arc, time::Duration};

use super::schedule::Chunk;
use crate::{
    id::TxnId,
    participant::ExecuteError,
    ring::RangeSet,
    sharding::{
        KeeperRefusal, ShardError, Side,
        cluster::{ClusterCore, ClusterError, Ends, KEEPER},
        keeper::RingWork,
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
    /// Time from the first freeze to the commit.
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
pub(super) fn move_chunk(core: &ClusterCore, chunk: &Chunk, side: Side) -> Result<MovedChunk, ChunkFailure> {
    let ends = core.directory.ends(&chunk.from, &chunk.to)?;
    let (ranges, bytes) = fitting(&ends, chunk)?;
    // Before anything is frozen.
    for end in &ends {
        end.to.1.has_room(bytes).map_err(|error| at(&chunk.to, error))?;
    }
    let mut exported = 0;
    hand_over(core, chunk, side, &ends, ranges, &mut exported).map_err(|(error, by)| ChunkFailure {
        error,
        by,
        exported,
    })
}

/// Returns the first of the chunk's ranges, as many as fit, and the bytes of their records.
fn fitting(ends: &[Ends], chunk: &Chunk) -> Result<(RangeSet, u64), ClusterError> {
    let (mut ranges, mut bytes) = (chunk.ranges.clone(), 0);
    for (end, services_left) in ends.iter().zip((1..=ends.len() as u64).rev()) {
        // What one service does not use, the next ones may.
        let share = chunk.budget.saturating_sub(bytes) / services_left;
        let (fitting, digest) = end.from.1.measure(&ranges, share).map_err(|error| at(&chunk.from, error))?;
        ranges = fitting;
        bytes += digest.bytes;
    }
    Ok((ranges, bytes))
}

fn hand_over(
    core: &ClusterCore,
    chunk: &Chunk,
    side: Side,
    ends: &[Ends],
    ranges: RangeSet,
    exported: &mut u64,
) -> Result<MovedChunk, (Box<ClusterError>, Vec<TxnId>)> {
    let simply = |error: ClusterError| (Box::new(error), Vec::new());
    let tenure = core.table().next_tenure();
    let mut txn = core.directory.coordinator.begin_within(CHUNK_TIMEOUT);
    let branch = txn.branch(KEEPER).map_err(|error| simply(error.into()))?.clone();
    let moved = RingWork::Moved { ranges: ranges.clone(), side, tenure };
    match core.keeper.execute(&branch, moved) {
        Ok(()) => {}
        Err(ExecuteError::Refused(KeeperRefusal::NotThere)) => {
            drop(txn);
            // The outcome of an earlier try was not known. It has moved them.
            let there = core.state().is_some_and(|state| state.assignment.is_all_on(&ranges, side));
            return if there {
                Ok(MovedChunk { ranges, records: 0, bytes: 0, held_up: Duration::ZERO })
            } else {
                Err(simply(ClusterError::Keeper(KeeperRefusal::NotThere)))
            };
        }
        Err(error) => return Err(simply(ClusterError::Work(Arc::new(error)))),
    }
    let frozen_at = core.directory.platform.now();
    let mut sent = Vec::with_capacity(ends.len());
    for end in ends {
        let branch = txn.branch(&end.from.0).map_err(|error| simply(error.into()))?.clone();
        match end.from.1.release(&branch, &ranges, tenure, &chunk.to, PATIENCE) {
            Ok((records, digest)) => {
                *exported += digest.bytes;
                sent.push((records, digest));
            }
            Err(ShardError::Pinned { by }) => {
                drop(txn);
                if chunk.is_urgent {
                    for txn in &by {
                        // Those that have promised can't be given up. They are shown.
                        let _ = end.from.1.give_up(txn);
                    }
                }
                return Err((Box::new(at(&chunk.from, ShardError::Pinned { by: by.clone() })), by));
            }
            Err(error) => return Err(simply(at(&chunk.from, error))),
        }
    }
    let (mut records_moved, mut bytes_moved) = (0, 0);
    for (end, (records, digest)) in ends.iter().zip(sent) {
        let branch = txn.branch(&end.to.0).map_err(|error| simply(error.into()))?.clone();
        end.to.1.take(&branch, &ranges, tenure, records, digest).map_err(|error| simply(at(&chunk.to, error)))?;
        records_moved += digest.records;
        bytes_moved += digest.bytes;
    }
    txn.commit().wait().map_err(|error| simply(ClusterError::Commit(error)))?;
    *exported = 0;
    let held_up = core.directory.platform.now().saturating_duration_since(frozen_at);
    Ok(MovedChunk { ranges, records: records_moved, bytes: bytes_moved, held_up })
}

fn at(node: &crate::ring::NodeId, error: ShardError) -> ClusterError {
    ClusterError::Shard { node: node.clone(), error }
}
