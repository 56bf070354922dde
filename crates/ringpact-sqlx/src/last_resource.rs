//! The participant as a last resource.

use std::error::Error as StdError;

use ringpact::{
    BranchId, Name, ParticipantError,
    participant::{AsyncLastResource, Call, Decision, Greeting, LastResourceAnswer, Life},
};

use crate::{SqlxDatabase, SqlxParticipant};

/// Commits without a promise, once all others have promised. The marker row, written in the branch's own transaction, is its
/// memory.
impl<DB: SqlxDatabase> AsyncLastResource for SqlxParticipant<DB> {
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.0.commit(branch, call).await
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.rollback(branch, call).await
    }

    async fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        self.0.committed(branch).await
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.0.in_doubt(coordinator).await
    }

    async fn commit_promised(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.0.commit_promised(branch, call).await
    }

    async fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.0.meet(coordinator, life).await
    }

    fn own_name(&self) -> Option<Name> {
        self.0.own_name()
    }

    fn greet(&self, greeting: &Greeting) {
        self.0.greet(greeting);
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.is_transient(error)
    }
}
