//! Forgetting: the service writes down what it did, and the log drops what that covers.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::Ordering,
};

use parking_lot::MutexGuard;

use super::{
    ResourceManager,
    branches::{Ended, wipe},
};
use crate::{
    error_chain,
    id::TxnId,
    log::{Fact, Record},
    participant::{Call, Participant, ParticipantError, Service, ServiceError},
};

impl<S: Service> ResourceManager<S> {
    pub(super) fn take_checkpoint(&self, _one_at_a_time: &MutexGuard<'_, ()>) -> Result<(), ServiceError> {
        self.mend();
        self.roll_back_abandoned();
        // Collected before the service is asked: a commit carried out meanwhile may not be in what it writes down.
        let (ended, surplus) = {
            let branches = self.branches.lock();
            self.commits.store(0, Ordering::Relaxed);
            (branches.ended(), branches.surplus())
        };
        let ended: Vec<_> = ended.into_iter().map(Ended::sort_out).collect();
        for txn in ended.iter().flat_map(|ended| &ended.overdue) {
            // Where the service can't cancel now, the next checkpoint tries again.
            let _ = self.rollback(&txn.branch(&self.name), &Call::new(self.opening));
        }
        let done = catch_unwind(AssertUnwindSafe(|| self.service.checkpoint()))
            .unwrap_or_else(|_| Err(ParticipantError::Panicked.into()))
            .and_then(|()| {
                let committed = ended.iter().flat_map(|ended| &ended.committed).chain(&surplus);
                let end = |txn: &TxnId| Record { owner: self.name.clone(), fact: Fact::Ended { txn: txn.clone() } };
                let last = self.log.append_all(&mut committed.map(end))?;
                // Once for all of them: else a crash would bring back, and have confirmed again, what the service may
                // no longer know that it has done.
                Ok(last.map_or(Ok(()), |last| self.log.wait(last))?)
            });
        // Whoever has a branch under way waits for this lock, so what is forgotten is dropped without it.
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
        done
    }

    pub(super) fn checkpoint_if_due(&self) {
        let due = self.commits.fetch_add(1, Ordering::Relaxed) + 1 >= self.options.checkpoint_every;
        if due && let Some(guard) = self.checkpoint.try_lock() {
            // The commit that happens to be the n-th has succeeded whatever becomes of this; the error is kept for
            // `status`, nothing is forgotten, and the next n-th commit tries again.
            let _ = self.take_checkpoint(&guard);
        }
    }
}
