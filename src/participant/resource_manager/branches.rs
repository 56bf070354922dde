//! [`Branches`]: the table of a resource manager's branches, and which of them wait to be mended.

use std::{
    mem,
    ops::{Deref, DerefMut},
    sync::Arc,
};

use super::entry::{BranchCell, BranchEntry, BranchRef};
use crate::{id::TxnId, participant::branch_table::BranchTable};

/// All branches that are remembered. The lock around it is never held while the service or the log
/// is called.
pub(super) struct Branches<W> {
    table: BranchTable<BranchCell<W>>,
    /// Branches that could not be restored in full at opening, and are not mended yet.
    troubled: Vec<TxnId>,
    pub(super) last_checkpoint_error: Option<Arc<str>>,
}

impl<W> Branches<W> {
    /// Takes in what the log holds at opening.
    pub(super) fn found(entries: impl IntoIterator<Item = (TxnId, BranchEntry<W>)>) -> Self {
        let mut troubled = Vec::new();
        let table = BranchTable::found(entries.into_iter().map(|(txn, entry)| {
            if entry.trouble.is_some() {
                troubled.push(txn.clone());
            }
            (txn, BranchCell::new(entry))
        }));
        troubled.sort_unstable();
        Self { table, troubled, last_checkpoint_error: None }
    }

    /// Returns the branches that could not be restored in full at opening and are not locked now, and
    /// whether any branch is left that can still be mended. O(n) in the troubled branches.
    pub(super) fn troubled(&mut self) -> (Vec<(TxnId, BranchRef<W>)>, bool) {
        let (mut found, mut is_any_left) = (Vec::new(), false);
        let mut troubled = mem::take(&mut self.troubled);
        troubled.retain(|txn| {
            let Some(entry) = self.table.get(txn) else { return false };
            let Some(guard) = entry.try_lock() else {
                is_any_left = true;
                return true;
            };
            let Some(trouble) = &guard.trouble else { return false };
            if !trouble.is_final() {
                is_any_left = true;
                found.push((txn.clone(), Arc::clone(entry)));
            }
            true
        });
        self.troubled = troubled;
        (found, is_any_left)
    }

    /// Puts a troubled branch behind the others, so that it does not keep them from being mended.
    pub(super) fn put_last(&mut self, txn: &TxnId) {
        if let Some(index) = self.troubled.iter().position(|troubled| troubled == txn) {
            self.troubled[index..].rotate_left(1);
        }
    }
}

impl<W> Deref for Branches<W> {
    type Target = BranchTable<BranchCell<W>>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl<W> DerefMut for Branches<W> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.table
    }
}
