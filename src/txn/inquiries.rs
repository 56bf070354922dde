//! What participants are told that ask what became of a branch.

use std::{fmt, sync::Weak};

use super::shared::Shared;
use crate::{
    id::{BranchId, Epoch, Mark, Name},
    participant::{Endpoint, ParticipantError, Reply, Request, Response, Verdict},
};

/// Where a coordinator is asked for [verdicts](Verdict): an [`Endpoint`] that answers [`Request::Verdict`], for a
/// transport to carry to participants elsewhere. It holds on to nothing: once the coordinator is gone it fails every
/// request.
///
/// What is open is answered by what is decided of it. What isn't was rolled back, or everybody has acknowledged its commit
/// and nobody asks any more: *presumed abort*.
#[derive(Clone)]
pub struct Inquiries {
    coordinator: Name,
    epoch: Epoch,
    shared: Weak<Shared>,
}

impl Inquiries {
    pub(super) const fn new(coordinator: Name, epoch: Epoch, shared: Weak<Shared>) -> Self {
        Self { coordinator, epoch, shared }
    }

    fn answer(&self, branch: &BranchId) -> Result<Response, ParticipantError> {
        let shared = self.shared.upgrade().ok_or(ParticipantError::Unreachable)?;
        let txn = branch.txn();
        let next = shared.next_mark();
        // An id that was never given out stems from another log under the same name. To call it rolled back could tear
        // apart what that log has committed.
        if txn.coordinator() != &self.coordinator || txn.epoch() > self.epoch || txn.mark() >= next {
            return Err(ParticipantError::Misdirected);
        }
        let tasks = shared.tasks_of(txn.mark());
        // A coordinator that goes forgets what is open, and what it has forgotten is not rolled back: asked in this order.
        if shared.is_gone() {
            return Err(ParticipantError::Unreachable);
        }
        let verdict = tasks.iter().map(|task| task.verdict_for_participants()).reduce(strongest);
        for task in tasks.into_iter().filter(|task| task.key().reported_by == 0) {
            // Whoever asks is there again.
            shared.retry(&task);
        }
        let begun_below: Mark = next;
        Ok(Response::Verdict { verdict: verdict.unwrap_or(Verdict::Rollback), begun_below })
    }
}

/// Branches that were reported are settled one by one, and all of them are rolled back; the transaction's own task, where
/// there is one, knows better.
const fn strongest(one: Verdict, other: Verdict) -> Verdict {
    match (one, other) {
        (Verdict::Commit, _) | (_, Verdict::Commit) => Verdict::Commit,
        (Verdict::Undecided, _) | (_, Verdict::Undecided) => Verdict::Undecided,
        (Verdict::Rollback, Verdict::Rollback) => Verdict::Rollback,
    }
}

impl Endpoint for Inquiries {
    fn send(&self, request: Request, reply: Reply) {
        let result = match request {
            Request::Verdict { branch } => self.answer(&branch),
            Request::Branch { .. } | Request::InDoubt { .. } => Err(ParticipantError::Misdirected),
        };
        reply.send(result);
    }
}

impl fmt::Debug for Inquiries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inquiries")
            .field("coordinator", &self.coordinator)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
