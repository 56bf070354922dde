//! Branches whose transactions have ended: which of them can be forgotten, and what to do about the others.

use std::sync::Arc;

use super::{BranchTable, Cell, KnownCoordinator, MAX_REMEMBERED_OUTCOMES, MAX_SPARE, is_used, txn};
use crate::{
    id::{Name, TxnId, TxnOrdinal},
    participant::BranchPhase,
};

/// Returns `ended_below` if it is due to delete what lies below it: `swept` is up to where that was
/// done.
#[cfg(feature = "tokio")]
pub(in crate::participant) fn sweep_due(ended_below: TxnOrdinal, swept: TxnOrdinal, every: u64) -> Option<TxnOrdinal> {
    let is_due = ended_below.epoch > swept.epoch || ended_below.sequence >= swept.sequence.saturating_add(every);
    (ended_below > swept && is_due).then_some(ended_below)
}

/// Makes cells for new branches of forgotten ones, except those to which another thread has a
/// reference.
pub(in crate::participant) fn wipe<C: Cell>(forgotten: impl IntoIterator<Item = Arc<C>>) -> Vec<Arc<C>> {
    let wiped = |mut branch: Arc<C>| {
        Arc::get_mut(&mut branch)?.wipe();
        Some(branch)
    };
    forgotten.into_iter().filter_map(wiped).take(MAX_SPARE).collect()
}

/// The branches of one coordinator whose transactions have ended.
pub(in crate::participant) struct EndedBranches<C> {
    coordinator: Name,
    below: TxnOrdinal,
    entries: Vec<(TxnOrdinal, Arc<C>)>,
}

/// The branches of one coordinator whose transactions have ended, by what to do about them, each
/// list in their order.
pub(in crate::participant) struct SortedBranches {
    pub(in crate::participant) coordinator: Name,
    below: TxnOrdinal,
    /// Committed branches: the log can forget them once the service has made that durable.
    pub(in crate::participant) committed: Vec<TxnId>,
    /// Branches under which work was done. It came late, after a restart had lost the tombstone, so
    /// no message will ever end them.
    pub(in crate::participant) overdue: Vec<TxnId>,
    /// The committed branches, and tombstones.
    forgettable: Vec<TxnOrdinal>,
    /// All branches before this transaction are forgettable.
    settled_below: TxnOrdinal,
    /// Branches under which nothing has happened. Usually they are gone as soon as no thread uses them;
    /// these were in use then.
    unused: Vec<TxnId>,
}

impl<C: Cell> EndedBranches<C> {
    pub(in crate::participant) fn sort_out(self) -> SortedBranches {
        let (coordinator, below) = (self.coordinator, self.below);
        let (mut committed, mut overdue, mut forgettable) = (Vec::new(), Vec::new(), Vec::new());
        let (mut unused, mut settled_below) = (Vec::new(), below);
        for (ordinal, entry) in self.entries {
            match entry.phase() {
                Some(BranchPhase::Committed) => {
                    committed.push(txn(&coordinator, ordinal));
                    forgettable.push(ordinal);
                }
                Some(BranchPhase::RolledBack | BranchPhase::ReadOnly) => forgettable.push(ordinal),
                Some(BranchPhase::Active { .. } | BranchPhase::Cancelling { .. }) => {
                    overdue.push(txn(&coordinator, ordinal));
                    settled_below = settled_below.min(ordinal);
                }
                Some(BranchPhase::Unknown) if entry.is_empty() => unused.push(txn(&coordinator, ordinal)),
                // It is not finished, or is locked.
                _ => settled_below = settled_below.min(ordinal),
            }
        }
        SortedBranches { coordinator, below, committed, overdue, forgettable, settled_below, unused }
    }
}

impl SortedBranches {
    /// Returns the coordinator and the transaction before which all branches are forgettable, if any is.
    pub(in crate::participant) fn settled(&self) -> Option<(&Name, TxnOrdinal)> {
        (!self.forgettable.is_empty()).then_some((&self.coordinator, self.settled_below))
    }
}

impl<C: Cell> BranchTable<C> {
    /// Returns the branches whose transactions have ended. O(n) in them. The caller looks at their
    /// phases without this lock.
    pub(in crate::participant) fn ended(&self) -> Vec<EndedBranches<C>> {
        let ended = |(name, known): &(Name, KnownCoordinator<C>)| {
            let entries = known.branches.below(known.ended_below).map(|(ordinal, entry)| (ordinal, Arc::clone(entry)));
            EndedBranches { coordinator: name.clone(), below: known.ended_below, entries: entries.collect() }
        };
        self.coordinators.iter().map(ended).collect()
    }

    /// Returns the surplus over the limit of committed branches whose transactions have not ended:
    /// the oldest ones.
    pub(in crate::participant) fn surplus(&self) -> Vec<TxnId> {
        if self.count <= MAX_REMEMBERED_OUTCOMES {
            return Vec::new();
        }
        let committed = |entry: &Arc<C>| entry.phase() == Some(BranchPhase::Committed);
        let kept = self.all().filter(|(txn, known, entry)| txn.ordinal() >= known.ended_below && committed(entry));
        let mut kept: Vec<_> = kept.map(|(txn, ..)| txn).collect();
        kept.sort_unstable_by_key(TxnId::ordinal);
        kept.truncate(kept.len().saturating_sub(MAX_REMEMBERED_OUTCOMES));
        kept
    }

    /// Forgets the branches that need not be remembered, and returns them. [`wipe`] them without
    /// this lock.
    pub(in crate::participant) fn forget_ended(&mut self, sorted: &SortedBranches) -> Vec<Arc<C>> {
        let known = self.coordinator_mut(&sorted.coordinator);
        let mut forgettable = sorted.forgettable.iter().peekable();
        let forgotten = known.branches.take_below(sorted.below, |ordinal, _| {
            // Both are in order; but some that are to be forgotten may be gone already.
            while forgettable.next_if(|first| **first < ordinal).is_some() {}
            forgettable.next_if_eq(&&ordinal).is_some()
        });
        self.count -= forgotten.len();
        self.forget_unused(sorted);
        forgotten
    }

    /// Forgets the branches of ended transactions under which nothing has happened, unless a thread uses
    /// them by now.
    fn forget_unused(&mut self, sorted: &SortedBranches) {
        for txn in &sorted.unused {
            if self.get(txn).is_some_and(|entry| !is_used(entry) && entry.is_empty()) {
                self.forget([txn]);
            }
        }
    }
}
