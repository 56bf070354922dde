//! A resource manager as its process serves it to coordinators.

use std::{fmt, sync::Arc};

use ringpact::{
    BranchId, Name, ParticipantError, Vote,
    participant::{Call, Decision, Greeting, Life as CoordinatorsLife, Participant, Request, Response, Verb},
};

use super::{
    host::{Life, Manager},
    mutants::Mutant,
};

/// A resource manager as its process serves it to others.
pub struct Served {
    pub life: Arc<Life>,
    pub name: Name,
}

impl Served {
    fn on<T: fmt::Debug>(
        &self,
        verb: Verb,
        branch: &BranchId,
        serve: impl FnOnce(&Manager) -> Result<T, ParticipantError>,
    ) -> Result<T, ParticipantError> {
        let manager = self.life.manager(&self.name).ok_or(ParticipantError::Unreachable)?;
        let served = self.life.tell_branch(branch, || {
            if self.life.is_alive() { serve(&manager) } else { Err(ParticipantError::Unreachable) }
        });
        if !self.life.is_alive() {
            return Err(ParticipantError::Unreachable);
        }
        match &served {
            Ok(answer) => self.life.world.clock.note(format_args!("{verb:?} {branch}: {answer:?}")),
            Err(error) => self.life.world.clock.note(format_args!("{verb:?} {branch}: {error}")),
        }
        served
    }

    /// Puts a request that has come over the network.
    pub fn answer(&self, request: &Request) -> Result<Response, ParticipantError> {
        match request {
            Request::Branch { branch, verb, call } => match verb {
                Verb::Prepare => self.prepare(branch, call).map(Response::Voted),
                Verb::Commit => self.commit(branch, call).map(|()| Response::Done),
                Verb::Rollback => self.rollback(branch, call).map(|()| Response::Done),
                Verb::CommitOnePhase => self.commit_one_phase(branch, call).map(Response::Decided),
                other => unreachable!("a verb that is not simulated: {other:?}"),
            },
            Request::InDoubt { coordinator, life } => {
                life.map_or(Ok(()), |life| self.meet(coordinator, &life))?;
                self.in_doubt(coordinator).map(Response::InDoubt)
            }
            other => unreachable!("no participant is asked {other:?}"),
        }
    }

    fn is_mutated(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }
}

impl Participant for Served {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        let vote = self.on(Verb::Prepare, branch, |manager| manager.prepare(branch, call));
        if self.is_mutated(Mutant::AlwaysVotesYes) && matches!(vote, Ok(Vote::No) | Err(ParticipantError::Refused(_))) {
            return Ok(Vote::Yes);
        }
        vote
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.is_mutated(Mutant::AcknowledgesCommitsUndone) && self.life.world.clock.once_in(4) {
            return Ok(());
        }
        self.on(Verb::Commit, branch, |manager| manager.commit(branch, call))
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.is_mutated(Mutant::AcknowledgesRollbacksUndone) && self.life.world.clock.once_in(4) {
            return Ok(());
        }
        self.on(Verb::Rollback, branch, |manager| manager.rollback(branch, call))
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.on(Verb::CommitOnePhase, branch, |manager| manager.commit_one_phase(branch, call))
    }

    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let manager = self.life.manager(&self.name).ok_or(ParticipantError::Unreachable)?;
        if self.is_mutated(Mutant::ReportsNothingInDoubt) {
            return Ok(Vec::new());
        }
        self.life.with_all(|| manager.in_doubt(coordinator))
    }

    fn meet(&self, coordinator: &Name, life: &CoordinatorsLife) -> Result<(), ParticipantError> {
        let manager = self.life.manager(&self.name).ok_or(ParticipantError::Unreachable)?;
        manager.meet(coordinator, life)
    }

    fn greet(&self, greeting: &Greeting) {
        if let Some(manager) = self.life.manager(&self.name) {
            manager.greet(greeting);
        }
    }
}
