//! Which transactions began after the participant was opened: no work of theirs can have been lost with an earlier life of its
//! process, or be a late repeat.

use std::sync::{Arc, OnceLock};

use super::{BranchTable, Cell};
use crate::{
    id::{Epoch, Name, TxnId, TxnOrdinal},
    participant::{Endpoint, Reply, Request, Response},
};

/// What is known of whether a branch has all of its work. Exhaustive on purpose.
pub(in crate::participant) enum HasAllWork {
    /// It has, or has not.
    Known(bool),
    /// The coordinator behind this endpoint knows.
    Asks(Arc<dyn Endpoint>),
}

/// Asks the coordinator which transactions have begun, for [`BranchTable::set_verdicts`]. Does not
/// block.
pub(in crate::participant) fn ask_begun(
    own: &Name,
    coordinator: Name,
    endpoint: &dyn Endpoint,
    known_below: Arc<OnceLock<TxnOrdinal>>,
) {
    // No transaction has epoch 0. Its id stands for the question which transactions have begun.
    let branch = TxnId::new(coordinator, Epoch::default(), 0).branch(own);
    let learn = move |answer| {
        if let Ok(Response::Verdict { begun_below, .. }) = answer {
            known_below.get_or_init(|| begun_below);
        }
    };
    endpoint.send(Request::Verdict { branch }, Reply::new(learn));
}

impl<C: Cell> BranchTable<C> {
    /// Sets the endpoint at which the coordinator answers for verdicts. Returns where the answer goes to
    /// which of its transactions have begun.
    pub(in crate::participant) fn set_verdicts(
        &mut self,
        coordinator: &Name,
        endpoint: Arc<dyn Endpoint>,
    ) -> Arc<OnceLock<TxnOrdinal>> {
        let known = self.coordinator_mut(coordinator);
        known.verdicts = Some(endpoint);
        Arc::clone(&known.begun_below)
    }

    /// Whether no work of the branch can have been lost, or be a late repeat: its transaction
    /// certainly began after this opening. Without an endpoint there is no way to tell, and it is
    /// assumed.
    pub(in crate::participant) fn has_all_work(&self, txn: &TxnId) -> HasAllWork {
        let Some(known) = self.coordinator(txn.coordinator()) else { return HasAllWork::Known(true) };
        match (known.begins_at(txn.epoch()), &known.verdicts) {
            (Some(first), _) => HasAllWork::Known(first <= txn.ordinal()),
            (None, Some(endpoint)) => HasAllWork::Asks(Arc::clone(endpoint)),
            (None, None) => HasAllWork::Known(true),
        }
    }

    /// Takes in the coordinator's answer: its next transaction. Returns whether the branch has all of
    /// its work.
    pub(in crate::participant) fn learn_begun_below(&mut self, txn: &TxnId, begun_below: TxnOrdinal) -> bool {
        // A later opening of the coordinator has answered, which rolls the transaction back; or one
        // on another log, which knows nothing of it.
        if begun_below.epoch != txn.epoch() {
            return false;
        }
        // The answer is later than the opening, so transactions from here on certainly began after
        // the opening. Those before it may have begun earlier.
        let known = self.coordinator_mut(txn.coordinator());
        known.begins_at_least(begun_below);
        known.begins_at(txn.epoch()).is_some_and(|first| first <= txn.ordinal())
    }
}
