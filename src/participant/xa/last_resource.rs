//! The participant as a last resource: it commits without a promise, and its marker is its memory.
//!
//! The answer *not committed* is binding, because it is a rollback. What could still commit the branch:
//!
//! | what | why it cannot |
//! |---|---|
//! | a commit that is under way in this process | the question ends its session, and then looks for the marker |
//! | a session whose connection was lost, or of another process | it is ended, and waited for, before the marker is looked for |
//! | a session that begins later in this process | the branch has a tombstone, or is one of an earlier life |
//! | a session that begins later in a process of an earlier life | the life that asks is noted first; then the database takes no one-phase commit of an earlier one |

use std::sync::Arc;

use super::{AsXa, Inner, XaBackend, cell::XaCell};
use crate::{
    id::{BranchId, Name},
    participant::{
        AsyncLastResource, AsyncParticipant, BranchInput, BranchPhase, BranchReply, Call, Decision, Greeting,
        LastResourceAnswer, Life, LogSharing, ParticipantError, branch_table::BranchLookup,
    },
};

impl<P: AsXa> AsyncLastResource for P {
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.commit_one_phase(branch, call).await
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        AsyncParticipant::rollback(self, branch, call).await
    }

    async fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        self.as_xa().0.committed(branch).await
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        AsyncParticipant::in_doubt(self, coordinator).await
    }

    async fn commit_promised(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        AsyncParticipant::commit(self, branch, call).await
    }

    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        AsyncParticipant::meet(self, coordinator, life).await
    }

    fn own_name(&self) -> Option<Name> {
        AsyncParticipant::own_name(self)
    }

    fn greet(&self, greeting: &Greeting) {
        AsyncParticipant::greet(self, greeting);
    }

    fn is_transient(&self, error: &(dyn std::error::Error + 'static)) -> bool {
        AsyncParticipant::is_transient(self, error)
    }
}

impl<B: XaBackend> Inner<B> {
    /// Returns whether the branch is committed. If it is not, it is rolled back for good.
    async fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        self.check_name(branch)?;
        let (txn, coordinator) = (branch.txn(), branch.txn().coordinator());
        let (lookup, life) = {
            let mut branches = self.branches.lock();
            (branches.admit(txn), branches.life_of(coordinator))
        };
        if let Some(life) = life {
            // First, so that the database takes nothing of an earlier life from here on.
            self.note_life(coordinator, life).await?;
            if txn.epoch() < life.epoch {
                self.backend.fence_earlier(coordinator, life.epoch).await.map_err(ParticipantError::resource)?;
            }
        }
        // Below `ended_below` a marker may be deleted, so its absence says nothing.
        let is_forgotten = matches!(lookup, BranchLookup::Ended { .. });
        let (cell, is_remembered) = match lookup {
            BranchLookup::Found(cell) => (cell, true),
            BranchLookup::Ended { .. } | BranchLookup::EarlierLife { .. } => (Arc::default(), false),
            // Work of a life that this participant has not met yet could begin after the answer.
            BranchLookup::UnknownLife { .. } => return Err(ParticipantError::Stale),
        };
        let result = self.give_up(branch, &cell).await;
        if is_remembered {
            self.count(&cell);
        }
        if cell.phase_now() == BranchPhase::Unknown {
            self.branches.lock().discard_unknown(txn, cell);
        }
        match result {
            Err(ParticipantError::AlreadyCommitted) => Ok(LastResourceAnswer::Committed),
            Err(error) => Err(error),
            Ok(_) if is_forgotten => Ok(LastResourceAnswer::Unknown),
            Ok(_) => Ok(LastResourceAnswer::NotCommitted),
        }
    }

    /// Rolls the branch back, unless it is committed. Does not wait for the answer to a commit that is
    /// under way: it may never come.
    async fn give_up(&self, branch: &BranchId, cell: &Arc<XaCell<B>>) -> Result<BranchReply, ParticipantError> {
        let message = BranchInput::Rollback(LogSharing::OwnLog);
        let mut session = match cell.try_hold() {
            Some(session) => session,
            None if cell.is_at_work() => return self.deliver_at_work(branch, cell, message).await,
            None => {
                // The commit then finds its session lost, and looks for its marker itself.
                self.backend.fence(branch).await.map_err(ParticipantError::resource)?;
                cell.hold().await
            }
        };
        self.deliver_held(branch, cell, &mut session, 0, message).await
    }
}
