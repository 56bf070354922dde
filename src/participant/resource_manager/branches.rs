//! What a resource manager remembers of its branches, and for how long.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{BranchTrouble, inquiry::Acquaintance};
use crate::{
    id::{Epoch, Mark, Name, TxnId},
    participant::{Branch, BranchProtocol, Call, Greeting},
};

/// How many outcomes are remembered at the most for coordinators that don't say they have ended. Past it the oldest
/// are forgotten, and a commit that is re-delivered for one of them is answered by
/// [`UnknownBranch`](crate::ParticipantError::UnknownBranch). It bounds memory and log under a transaction that never ends.
pub const MAX_REMEMBERED_OUTCOMES: usize = 1 << 16;

/// All branches that are remembered. Its lock is never held while the service or the log is called.
pub(super) struct Branches<W> {
    pub(super) slots: HashMap<TxnId, Arc<Mutex<Slot<W>>>>,
    pub(super) coordinators: HashMap<Name, Acquaintance>,
    /// Commits carried out since the last checkpoint.
    pub(super) commits: usize,
    /// Slots there were left after the last sweep; the next one comes when there are twice as many.
    pub(super) swept_to: usize,
    pub(super) last_checkpoint_error: Option<Arc<str>>,
}

/// One branch. Its lock is held while the service and the log are called for this branch, and so is what makes the
/// calls for one branch come one after the other.
pub(super) struct Slot<W> {
    pub(super) protocol: BranchProtocol,
    pub(super) works: Vec<W>,
    /// What went wrong when the branch was taken back at opening, until it is made good.
    pub(super) trouble: Option<BranchTrouble>,
}

/// Whether a branch may be worked under or talked about.
pub(super) enum Admission<W> {
    /// This is its place, made anew where there was none.
    Open(Arc<Mutex<Slot<W>>>),
    /// Its transaction is known to have ended.
    Ended,
    /// Its coordinator has been opened again since, and it has made no promise: it is as good as rolled back.
    EarlierLife,
}

impl<W> Default for Slot<W> {
    fn default() -> Self {
        Self { protocol: BranchProtocol::new(), works: Vec::new(), trouble: None }
    }
}

impl<W> Branches<W> {
    pub(super) fn known(&self, coordinator: &Name) -> Option<&Acquaintance> {
        self.coordinators.get(coordinator)
    }

    pub(super) fn acquaintance(&mut self, coordinator: &Name) -> &mut Acquaintance {
        self.coordinators.entry(coordinator.clone()).or_default()
    }

    pub(super) fn has_ended(&self, txn: &TxnId) -> bool {
        self.known(txn.coordinator()).is_some_and(|known| txn.mark() < known.ended_below)
    }

    /// Whether the transaction's coordinator has been opened again since it began. Where no promise is held, such a one
    /// can only be rolled back.
    pub(super) fn is_of_an_earlier_life(&self, txn: &TxnId) -> bool {
        self.known(txn.coordinator()).is_some_and(|known| txn.epoch() < known.epoch)
    }

    /// Takes in what a call says of its coordinator. False where it is a message of an earlier life.
    pub(super) fn learn(&mut self, coordinator: &Name, call: &Call) -> bool {
        let known = self.acquaintance(coordinator);
        if call.epoch != Epoch::default() && call.epoch < known.epoch {
            return false;
        }
        known.epoch = known.epoch.max(call.epoch);
        known.ended_below = known.ended_below.max(call.ended_below);
        true
    }

    pub(super) fn meet(&mut self, greeting: &Greeting) {
        let known = self.acquaintance(&greeting.coordinator);
        known.epoch = known.epoch.max(greeting.epoch);
        known.begins_at.get_or_init(|| Mark { epoch: greeting.epoch, sequence: 0 });
        known.inquiries = Some(Arc::clone(&greeting.inquiries));
    }

    pub(super) fn admit(&mut self, txn: &TxnId) -> Admission<W> {
        if let Some(slot) = self.slots.get(txn) {
            return Admission::Open(Arc::clone(slot));
        }
        if self.has_ended(txn) {
            return Admission::Ended;
        }
        if self.is_of_an_earlier_life(txn) {
            return Admission::EarlierLife;
        }
        let slot = Arc::<Mutex<Slot<W>>>::default();
        self.slots.insert(txn.clone(), Arc::clone(&slot));
        self.sweep();
        Admission::Open(slot)
    }

    /// Drops the tombstones that the coordinator's mark makes needless. Amortised O(1) for each new branch.
    pub(super) fn sweep(&mut self) {
        const SMALLEST: usize = 1024;
        if self.slots.len() < SMALLEST.max(2 * self.swept_to) {
            return;
        }
        let coordinators = &self.coordinators;
        self.slots.retain(|txn, slot| {
            let needless = matches!(
                slot.try_lock().map(|slot| slot.protocol.state()),
                Some(Branch::RolledBack | Branch::ReadOnly)
            );
            !(needless && coordinators.get(txn.coordinator()).is_some_and(|known| txn.mark() < known.ended_below))
        });
        self.swept_to = self.slots.len();
    }

    /// A commit for a branch that nobody knows made an empty slot; it goes again unless somebody has come to use it.
    pub(super) fn discard_unknown(&mut self, txn: &TxnId, slot: &Arc<Mutex<Slot<W>>>) {
        // Two hands hold an unused slot: this map and the caller. No third can come while this map is locked.
        if Arc::strong_count(slot) == 2 && slot.try_lock().is_some_and(|s| s.protocol.state() == Branch::Unknown) {
            self.slots.remove(txn);
        }
    }

    /// Branches that somebody works under although their transactions have ended. The work came late, and after a
    /// restart that took the tombstone away; no message will ever come that ends them.
    pub(super) fn overdue(&self) -> Vec<TxnId> {
        let open = |slot: &Mutex<Slot<W>>| {
            let state = slot.try_lock().map(|slot| slot.protocol.state());
            matches!(state, Some(Branch::Active { .. } | Branch::Cancelling { .. }))
        };
        let overdue = self.slots.iter().filter(|(txn, slot)| self.has_ended(txn) && open(slot));
        in_order(overdue.map(|(txn, _)| txn.clone()).collect())
    }

    /// Branches that were not taken back in full at opening, and could be now.
    pub(super) fn troubled(&self) -> Vec<(TxnId, Arc<Mutex<Slot<W>>>)> {
        let troubled = |slot: &Mutex<Slot<W>>| slot.try_lock().is_some_and(|slot| slot.trouble.is_some());
        let all = self.slots.iter().filter(|(_, slot)| troubled(slot));
        all.map(|(txn, slot)| (txn.clone(), Arc::clone(slot))).collect()
    }

    /// The committed branches that need not be remembered once the service has made them durable.
    pub(super) fn forgettable(&self) -> Vec<TxnId> {
        let (mut ended, mut kept) = (Vec::new(), Vec::new());
        for (txn, slot) in &self.slots {
            if slot.try_lock().is_some_and(|slot| slot.protocol.state() == Branch::Committed) {
                if self.has_ended(txn) { ended.push(txn.clone()) } else { kept.push(txn.clone()) }
            }
        }
        if kept.len() > MAX_REMEMBERED_OUTCOMES {
            kept.sort_unstable_by_key(TxnId::mark);
            ended.extend(kept.drain(..kept.len() - MAX_REMEMBERED_OUTCOMES));
        }
        in_order(ended)
    }
}

/// What is logged is logged in an order that depends on nothing but what has happened, so that it can happen again.
fn in_order(mut txns: Vec<TxnId>) -> Vec<TxnId> {
    txns.sort_unstable();
    txns
}
