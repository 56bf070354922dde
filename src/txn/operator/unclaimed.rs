//! Branches that participants hold under this coordinator's name, and that the coordinator never
//! gave out.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::id::{BranchId, Name, TxnId};

/// Maximum number of unclaimed branches that a coordinator keeps for its status. More of them are
/// only counted, because a participant can report any number, and ten thousand show an operator
/// what has happened.
pub const MAX_UNCLAIMED: usize = 10_000;

/// A branch that a participant holds under the coordinator's name, and that none of the openings in
/// the coordinator's log has given out. It belongs to a log that was lost or replaced, to a copy of
/// this one, or to another coordinator of the same name. Or the log was
/// [restored](crate::txn::CoordinatorBuilder::log_was_restored), and may have forgotten what was
/// decided about it. Only an operator can decide how it ends; see
/// [`settle_unclaimed`](crate::Coordinator::settle_unclaimed).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnclaimedBranch {
    /// The branch.
    pub branch: BranchId,
    /// Time since the participant reported it.
    pub reported: Duration,
}

/// All unclaimed branches that participants have reported.
#[derive(Default)]
pub(in crate::txn) struct Unclaimed(Mutex<Reported>);

#[derive(Default)]
struct Reported {
    branches: BTreeMap<TxnId, Vec<(Name, Instant)>>,
    kept: usize,
    left_out: usize,
}

impl Unclaimed {
    pub(in crate::txn) fn report(&self, branch: &BranchId, now: Instant) {
        let mut reported = self.0.lock();
        if reported.kept == MAX_UNCLAIMED {
            reported.left_out += 1;
            return;
        }
        let holders = reported.branches.entry(branch.txn().clone()).or_default();
        if holders.iter().all(|(name, _)| name != branch.participant()) {
            holders.push((branch.participant().clone(), now));
            reported.kept += 1;
        }
    }

    /// Takes a transaction's branches out. Returns the participants that hold them.
    pub(in crate::txn) fn take(&self, txn: &TxnId) -> Vec<Name> {
        let mut reported = self.0.lock();
        let holders = reported.branches.remove(txn).unwrap_or_default();
        reported.kept -= holders.len();
        holders.into_iter().map(|(name, _)| name).collect()
    }

    /// Whether a branch of the transaction is unclaimed.
    pub(in crate::txn) fn holds(&self, txn: &TxnId) -> bool {
        self.0.lock().branches.contains_key(txn)
    }

    pub(in crate::txn) fn count(&self) -> usize {
        let reported = self.0.lock();
        reported.kept + reported.left_out
    }

    /// Returns the branches that are kept, in the order of their transactions.
    pub(in crate::txn) fn list(&self, now: Instant) -> Vec<UnclaimedBranch> {
        let reported = self.0.lock();
        let of = |(txn, holders): (&TxnId, &Vec<(Name, Instant)>)| {
            let branch = |(name, at): &(Name, Instant)| UnclaimedBranch {
                branch: txn.branch(name),
                reported: now.saturating_duration_since(*at),
            };
            holders.iter().map(branch).collect::<Vec<_>>()
        };
        reported.branches.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    #[test]
    fn memory_is_bounded_and_every_branch_is_counted() {
        let (unclaimed, now) = (Unclaimed::default(), Instant::now());
        let txn = |sequence| TxnId::new(Name::from_static("shop"), Epoch::new(3), sequence);
        for sequence in 0..2 * MAX_UNCLAIMED as u64 {
            unclaimed.report(&txn(sequence).branch(&Name::from_static("goods")), now);
        }
        assert_eq!((unclaimed.list(now).len(), unclaimed.count()), (MAX_UNCLAIMED, 2 * MAX_UNCLAIMED));
        assert_eq!(unclaimed.take(&txn(7)), [Name::from_static("goods")]);
        assert_eq!(unclaimed.list(now).len(), MAX_UNCLAIMED - 1);
    }
}
