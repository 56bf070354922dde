//! [`Detachable`]: a shard of this process that can be let go of while its coordinator is open.

use std::{error::Error as StdError, sync::Arc};

use arc_swap::ArcSwapOption;

use crate::{
    id::{BranchId, Name},
    participant::{Call, Decision, Greeting, Life, Participant, ParticipantError, Vote},
};

/// Passes all calls on, until it is detached. A coordinator keeps a participant that it was opened with for as long as
/// it lives; a shard whose node has left must go before that, so that it can be opened again.
pub(super) struct Detachable(ArcSwapOption<Arc<dyn Participant>>);

impl Detachable {
    pub(super) fn new(participant: Arc<dyn Participant>) -> Arc<Self> {
        Arc::new(Self(ArcSwapOption::from_pointee(participant)))
    }

    /// Lets the participant go. Later calls get no answer.
    pub(super) fn detach(&self) {
        self.0.store(None);
    }

    fn call<R>(
        &self,
        call: impl FnOnce(&dyn Participant) -> Result<R, ParticipantError>,
    ) -> Result<R, ParticipantError> {
        self.0.load().as_ref().map_or(Err(ParticipantError::Unreachable), |participant| call(&***participant))
    }
}

impl Participant for Detachable {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.call(|participant| participant.prepare(branch, call))
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.call(|participant| participant.commit(branch, call))
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.call(|participant| participant.rollback(branch, call))
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.call(|participant| participant.commit_one_phase(branch, call))
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.call(|participant| participant.in_doubt(coordinator))
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.call(|participant| participant.meet(coordinator, life))
    }
    fn own_name(&self) -> Option<Name> {
        self.0.load().as_ref().and_then(|participant| participant.own_name())
    }
    fn greet(&self, greeting: &Greeting) {
        if let Some(participant) = &*self.0.load() {
            participant.greet(greeting);
        }
    }
    fn message(&self, body: &[u8]) -> Result<Vec<u8>, ParticipantError> {
        self.call(|participant| participant.message(body))
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.load().as_ref().is_some_and(|participant| participant.is_transient(error))
    }
}
