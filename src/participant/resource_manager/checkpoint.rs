//! Checkpoints: the service makes durable what it did, and the log forgets what that covers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use super::{ResourceManager, held_lock::HeldGuard};
use crate::{
    error_chain,
    id::TxnId,
    log::{Fact, Record},
    participant::{
        Call, Participant, ParticipantError, Service, ServiceError,
        branch_table::{EndedBranches, SortedBranches, wipe},
    },
};

impl<S: Service> ResourceManager<S> {
    pub(super) fn take_checkpoint(&self, _one_at_a_time: &HeldGuard<'_, ()>) -> Result<(), ServiceError> {
        self.holds_log()?;
        self.mend(|_| false);
        self.roll_back_abandoned();
        // Collected before the service is asked: what the service writes may lack a commit that
        // comes meanwhile.
        let (ended, surplus) = {
            let branches = self.branches.lock();
            self.commits.store(0, Ordering::Relaxed);
            (branches.ended(), branches.surplus())
        };
        let ended: Vec<_> = ended.into_iter().map(EndedBranches::sort_out).collect();
        for txn in ended.iter().flat_map(|ended| &ended.overdue) {
            // If the service can't cancel now, the next checkpoint tries again.
            let _ = self.rollback(&txn.branch(&self.name), &Call::new(self.opening));
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.service.checkpoint()))
            .unwrap_or_else(|_| Err(ParticipantError::Panicked.into()))
            .and_then(|()| {
                let committed = ended.iter().flat_map(|ended| &ended.committed).chain(&surplus);
                let end = |txn: &TxnId| Record { owner: self.name.clone(), fact: Fact::Ended { txn: txn.clone() } };
                let last = self.log.append_all(&mut committed.map(end))?;
                // One wait for all of them. Without it, a crash could bring back branches to be
                // confirmed again, after the service has forgotten that it confirmed them.
                Ok(last.map_or(Ok(()), |last| self.log.wait(last))?)
            });
        // Every call waits for this lock, so what is forgotten is dropped outside of it.
        let mut forgotten = Vec::new();
        let mut branches = self.branches.lock();
        branches.last_checkpoint_error = done.as_ref().err().map(|error| error_chain(&**error).into());
        if done.is_ok() {
            branches.forget(&surplus);
            forgotten.extend(ended.iter().map(|ended| branches.forget_ended(ended)));
        }
        drop(branches);
        let wiped = wipe(forgotten.into_iter().flatten());
        let surplus = self.branches.lock().reuse(wiped);
        drop(surplus);
        if done.is_ok() {
            for (coordinator, below) in ended.iter().filter_map(SortedBranches::settled) {
                // What the service keeps for longer costs only space.
                let _ = catch_unwind(AssertUnwindSafe(|| self.service.forget_below(coordinator, below)));
            }
        }
        done
    }

    pub(super) fn checkpoint_if_due(&self) {
        let due = self.commits.fetch_add(1, Ordering::Relaxed) + 1 >= self.options.checkpoint_every;
        if due && let Some(guard) = self.checkpoint.try_hold(self.options.platform.thread_number()) {
            // The commit that takes the checkpoint has succeeded, whatever comes of the checkpoint.
            // An error is kept for `status`, nothing is forgotten, and a later commit tries again.
            let _ = self.take_checkpoint(&guard);
        }
    }
}
