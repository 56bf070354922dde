//! [`Turns`]: keeps what the log has a shard do again after a restart in the log's order, when something fails.
//!
//! The resource manager does not stop at a branch that can't be confirmed or restored at the opening: it goes on with the next, and tries
//! the failed one again later. For a shard that would be wrong at the positions that the branch touches. If the chunk that brought them
//! could not be imported, the work that followed would count as work at positions that have left. If a chunk that took them away
//! came next, the first one would bring them back later. So all that touches the positions of a failed branch, and comes after it,
//! fails as well, until that branch has had its turn.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use thiserror::Error;

use crate::{id::TxnId, participant::ServiceError, ring::RangeSet};

/// The branches that have failed at the opening.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Whether the opening is over and nothing of it is left: the usual case, in which nothing is locked.
    is_settled: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    is_opened: bool,
    /// In the order of the log, each with the positions that it touches.
    branches: Vec<(TxnId, RangeSet)>,
}

/// A branch that comes first has failed.
#[derive(Debug, Error)]
#[error(
    "transaction {first} comes first at these positions, and could not be carried out again since the shard was opened"
)]
pub(super) struct OutOfTurn {
    first: TxnId,
}

impl Turns {
    /// Calls `then`, unless a branch that has failed comes first at the positions that `touched` returns.
    pub(super) fn take(
        &self,
        txn: &TxnId,
        touched: impl FnOnce() -> RangeSet,
        then: impl FnOnce() -> Result<(), ServiceError>,
    ) -> Result<(), ServiceError> {
        if self.is_settled.load(Ordering::Acquire) {
            return then();
        }
        let touched = touched();
        let first = {
            let mut waiting = self.waiting.lock();
            let before = waiting.branches.iter().take_while(|(other, _)| other != txn);
            let in_the_way = |(_, ranges): &&(TxnId, RangeSet)| touched.iter().any(|range| ranges.overlaps(range));
            let first = before.clone().find(in_the_way).map(|(first, _)| first.clone());
            // It waits until it has succeeded, also if it panics. Once the shard is open, the gate holds the
            // positions of what fails.
            if !waiting.is_opened && waiting.branches.iter().all(|(other, _)| other != txn) {
                waiting.branches.push((txn.clone(), touched));
            }
            first
        };
        let result = match first {
            Some(first) => Err(OutOfTurn { first }.into()),
            None => then(),
        };
        if result.is_ok() {
            self.drop_out(txn);
        }
        result
    }

    /// Takes in that the branch needs no turn any more.
    pub(super) fn drop_out(&self, txn: &TxnId) {
        if !self.is_settled.load(Ordering::Acquire) {
            let mut waiting = self.waiting.lock();
            waiting.branches.retain(|(other, _)| other != txn);
            self.look(&waiting);
        }
    }

    /// Returns the positions at which branches wait for their turns, or `None` if none ever waited.
    pub(super) fn late(&self) -> Option<RangeSet> {
        if self.is_settled.load(Ordering::Acquire) {
            return None;
        }
        let waiting = self.waiting.lock();
        Some(waiting.branches.iter().flat_map(|(_, ranges)| ranges.iter()).collect())
    }

    /// Takes in that the opening is over.
    pub(super) fn opened(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_opened = true;
        self.look(&waiting);
    }

    fn look(&self, waiting: &Waiting) {
        self.is_settled.store(waiting.is_opened && waiting.branches.is_empty(), Ordering::Release);
    }
}
