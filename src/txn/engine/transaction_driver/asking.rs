//! Asks a last resource whether it has committed.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Driving, MemberBranch, TransactionDriver};
#[cfg(feature = "tokio")]
use crate::participant::{CommitQuery, CommitReply};
use crate::{
    id::BranchId,
    participant::{CommitAnswer, LastResource, LastResourceAnswer, LastResourceMemory, ParticipantError},
    txn::engine::scheduler::Runner,
};

impl TransactionDriver {
    /// Asks on this thread, or from a worker on the resource's lane. Returns the answer, if it is there
    /// already. No lock is held.
    pub(super) fn ask_last_resource(
        self: &Arc<Self>,
        index: usize,
        member_branch: &MemberBranch,
        by: Runner,
    ) -> Option<CommitAnswer> {
        let Some(number) = member_branch.member else { return Some(Err(ParticipantError::NotRegistered)) };
        if by == Runner::Caller {
            return self.ask_now(index, number, &member_branch.branch);
        }
        let (driver, branch) = (Arc::clone(self), member_branch.branch.clone());
        let ask = move |over: &dyn Fn()| {
            if !driver.core.members.answers_at_once(Some(number)) {
                over(); // it may answer before this returns
            }
            let answer = driver.ask_now(index, number, &branch);
            over();
            if let Some(answer) = answer {
                driver.hear_last_resource(index, answer);
            }
        };
        self.core.members[number].lane.run(Some((self.key, index, None)), ask);
        None
    }

    /// Returns the answer, if it is there when the call returns.
    #[cfg_attr(
        not(feature = "tokio"),
        expect(unused_variables, clippy::unnecessary_wraps, reason = "asynchronous resources answer later")
    )]
    fn ask_now(self: &Arc<Self>, index: usize, number: usize, branch: &BranchId) -> Option<CommitAnswer> {
        if self.core.is_fenced() {
            return Some(Err(ParticipantError::Unreachable));
        }
        // A participant without a memory had one when the coordinator was opened.
        let member = self.core.members[number].member();
        let Some(member) = member.as_ref() else { return Some(Err(ParticipantError::NotRegistered)) };
        match member.last_resource.as_ref() {
            None => Some(Ok(LastResourceAnswer::Unknown)),
            Some(LastResourceMemory::AtOnce(resource)) => Some(ask_at_once(&**resource, branch)),
            #[cfg(feature = "tokio")]
            Some(LastResourceMemory::Later(query)) => {
                self.ask_later(index, &**query, branch);
                None
            }
        }
    }

    #[cfg(feature = "tokio")]
    fn ask_later(self: &Arc<Self>, index: usize, query: &dyn CommitQuery, branch: &BranchId) {
        let driver = Arc::clone(self);
        let reply = CommitReply::to(move |answer| {
            if !driver.core.is_gone() {
                driver.hear_last_resource(index, answer);
            }
        });
        // One that panics drops the reply, which counts as a failure.
        let _ = catch_unwind(AssertUnwindSafe(|| query.ask(branch.clone(), reply)));
    }

    /// Takes in an answer that came on another thread.
    fn hear_last_resource(self: &Arc<Self>, index: usize, answer: CommitAnswer) {
        let mut state = self.state.lock();
        let input = state.hears_last_resource(index, answer);
        self.take_in(state, input, None, Driving::Elsewhere);
    }
}

fn ask_at_once(resource: &dyn LastResource, branch: &BranchId) -> CommitAnswer {
    let ask = || resource.memory().map_or(Ok(LastResourceAnswer::Unknown), |memory| memory.committed(branch));
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or(Err(ParticipantError::Panicked))
}
