//! Branches of earlier lives without a decision in the log, at a coordinator with last resources that
//! remember. One of them may have committed the transaction, so nothing is presumed before they were
//! asked, and none may forget before all such branches have ended.

use std::sync::Arc;

use crate::{
    id::{BranchId, Name},
    participant::Verdict,
    txn::{
        CommitProtocol,
        engine::{
            coordinator_core::{CoordinatorCore, Table},
            transaction_driver::TransactionDriver,
        },
        table::key::TxnKey,
    },
};

impl CoordinatorCore {
    /// Returns the driver of a branch without a decision in the log, of an earlier life: it asks the
    /// last resources that remember, if there are any, and else rolls the branch back. `number` is
    /// the participant's.
    pub(super) fn undecided(self: &Arc<Self>, branch: &BranchId, number: usize) -> Arc<TransactionDriver> {
        let now = self.platform.now();
        let (participants, last_resources) = ([branch.participant().clone()], self.members.remembering());
        let protocol = CommitProtocol::undecided(branch.txn().clone(), &participants, last_resources, self.policy, now);
        let key = TxnKey { ordinal: branch.txn().ordinal(), reported_by: number + 1 };
        TransactionDriver::resumed(Arc::clone(self), protocol, key, now)
    }

    /// Returns the participants that must remember the transaction of such a branch until its driver
    /// ends: the holder, and each last resource, which may have committed it.
    pub(super) fn must_remember(&self, participant: &Name) -> Vec<Name> {
        let mut all = self.members.remembering().to_vec();
        all.push(participant.clone());
        all
    }

    /// Returns the verdict about a branch of an earlier life for which there is neither a decision
    /// nor a driver. If there are last resources that remember, nothing is presumed: they are asked,
    /// and the participant is told.
    pub(super) fn presumed_verdict(self: &Arc<Self>, branch: &BranchId) -> Verdict {
        if self.members.remembering().is_empty() {
            return Verdict::Rollback;
        }
        let member = self.members.find(branch.participant().as_str());
        // A participant that has not reported yet will report the branch.
        let is_reported = !self.table.lock().in_doubt_queries.contains_key(branch.participant());
        // If it was reported too late for a last resource to be asked, an operator has to settle it.
        let is_unclaimed = self.unclaimed.holds(branch.txn());
        if let Some(number) = member.filter(|_| is_reported && !is_unclaimed) {
            let driver = self.undecided(branch, number);
            if self.resumed_once(&driver, self.must_remember(branch.participant())) {
                self.scheduler.enqueue(driver);
            }
        }
        Verdict::Undecided
    }

    /// As [`resumed`](Self::resumed), unless the transaction has a driver of this key already. Returns
    /// whether it was added.
    fn resumed_once(&self, driver: &Arc<TransactionDriver>, owed: Vec<Name>) -> bool {
        let mut table = self.table.lock();
        let is_known = table.parked.of(driver.key().ordinal).any(|other| other.key() == driver.key());
        if table.abandoned || is_known {
            return false;
        }
        table.are_needed_by(self, driver.key(), &owed);
        let changed = table.parked.put(Arc::clone(driver), owed, false);
        self.hold_back(&mut table, &changed);
        true
    }

    /// A last resource may be asked about any branch that is not reported yet.
    pub(in crate::txn) fn hold_back_last_resources(&self, table: &mut Table) {
        for resource in self.members.present().filter(|slot| slot.is_last_resource) {
            self.hold_back(table, std::slice::from_ref(&resource.name));
        }
    }
}
