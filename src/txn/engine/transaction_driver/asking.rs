//! Asks a last resource whether it has committed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{MemberBranch, TransactionDriver};
use crate::{
    id::BranchId,
    participant::{LastResourceAnswer, ParticipantError},
    txn::engine::scheduler::Runner,
};

type Answer = Result<LastResourceAnswer, ParticipantError>;

impl TransactionDriver {
    /// Asks on this thread, or from a worker on the resource's lane. Returns the answer, if it is there
    /// already. No lock is held.
    pub(super) fn ask_last_resource(
        self: &Arc<Self>,
        index: usize,
        member_branch: &MemberBranch,
        by: Runner,
    ) -> Option<Answer> {
        let Some(number) = member_branch.member else { return Some(Err(ParticipantError::NotRegistered)) };
        if by == Runner::Caller {
            return Some(self.ask_now(number, &member_branch.branch));
        }
        let (driver, branch) = (Arc::clone(self), member_branch.branch.clone());
        let ask = move |over: &dyn Fn()| {
            let answer = driver.ask_now(number, &branch);
            over();
            let mut state = driver.state.lock();
            let input = state.hears_last_resource(index, answer);
            driver.take_in(state, input, None);
        };
        self.core.lanes[number].run(Some((self.key, index, None)), ask);
        None
    }

    fn ask_now(&self, number: usize, branch: &BranchId) -> Answer {
        let ask = || {
            let memory = self.core.members[number].1.last_resource.as_ref().and_then(|resource| resource.memory());
            // It had a memory when the coordinator was opened.
            memory.map_or(Ok(LastResourceAnswer::Unknown), |memory| memory.committed(branch))
        };
        catch_unwind(AssertUnwindSafe(ask)).unwrap_or(Err(ParticipantError::Panicked))
    }
}
