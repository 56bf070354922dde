//! A resource manager as its process serves it to coordinators.

use std::{fmt, sync::Arc};

use ringpact::{
    BranchId, LogId, Name, ParticipantError, Vote,
    participant::{
        Call, Decision, EndedOpening, Greeting, Life as CoordinatorsLife, Participant, Request, Response, Verb,
    },
};

use super::{
    host::{Life, Manager},
    mutants::Mutant,
    operator::is_refusal,
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
        call: &Call,
        serve: impl FnOnce(&Manager, &Call) -> Result<T, ParticipantError>,
    ) -> Result<T, ParticipantError> {
        let manager = self.life.manager(&self.name).ok_or(ParticipantError::Unreachable)?;
        let served = self.life.tell_branch(branch, || {
            if !self.life.is_alive() {
                return Err(ParticipantError::Unreachable);
            }
            let said = CoordinatorsLife::new(call.identity, call.epoch, call.position);
            let said = said.continuing(call.after);
            let seen = self.seen(branch.txn().coordinator(), &said);
            let mut call = call.clone();
            (call.identity, call.position, call.after) = (seen.log, seen.position, seen.after);
            self.watched(branch.txn().coordinator(), &said, || serve(&manager, &call))
        });
        if !self.life.is_alive() {
            return Err(ParticipantError::Unreachable);
        }
        if served.is_ok() && matches!(verb, Verb::Commit | Verb::CommitOnePhase) {
            self.life.world.ledger.lock().acknowledged(branch.txn());
        }
        if served.is_ok() && verb == Verb::Rollback {
            let absent = self.life.world.absences.of(&self.life.world, branch.txn(), call);
            if !absent.is_empty() {
                self.life.world.clock.note(format_args!("{branch} is rolled back without {absent:?}"));
                self.life.world.ledger.lock().is_rolled_back_without(branch.txn(), absent);
            }
        }
        match &served {
            Ok(answer) => self.life.world.clock.note(format_args!("{verb:?} {branch}: {answer:?}")),
            Err(error) => self.life.world.clock.note(format_args!("{verb:?} {branch}: {error}")),
        }
        served
    }

    /// The oracle watches which lives it listens to.
    fn watched<T>(
        &self,
        coordinator: &Name,
        said: &CoordinatorsLife,
        serve: impl FnOnce() -> Result<T, ParticipantError>,
    ) -> Result<T, ParticipantError> {
        let world = &self.life.world;
        let before = world.acquaintances.comes(&self.name, coordinator, said);
        let served = serve();
        match &served {
            Ok(_) if self.life.is_alive() => {
                world.acquaintances.is_answered(world, &self.name, coordinator, before, said);
            }
            Err(error) if is_refusal(error) => world.count(|counts| counts.refusals += 1),
            _ => {}
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

    /// What a mutant makes of what it is told of a coordinator's life.
    fn seen(&self, coordinator: &Name, life: &CoordinatorsLife) -> CoordinatorsLife {
        let mut seen = *life;
        if life.log == LogId::NONE {
            return seen;
        }
        if self.is_mutated(Mutant::HearsAnyLog) {
            (seen.log, seen.replaces) = (LogId::from_bytes([1; 16]), LogId::NONE);
        }
        if self.is_mutated(Mutant::HearsAnyLog) || self.is_mutated(Mutant::TakesCopiesForTheLog) {
            // A later epoch is all that it takes.
            let known = self.life.world.acquaintances.known(&self.name, coordinator);
            seen.after =
                EndedOpening { epoch: known.map_or(life.after.epoch, |known| known.epoch), position: u64::MAX };
        }
        seen
    }

    fn is_mutated(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }
}

impl Participant for Served {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        let vote = self.on(Verb::Prepare, branch, call, |manager, call| manager.prepare(branch, call));
        if self.is_mutated(Mutant::AlwaysVotesYes) && matches!(vote, Ok(Vote::No) | Err(ParticipantError::Refused(_))) {
            return Ok(Vote::Yes);
        }
        vote
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.is_mutated(Mutant::AcknowledgesCommitsUndone) && self.life.world.clock.once_in(4) {
            return Ok(());
        }
        self.on(Verb::Commit, branch, call, |manager, call| manager.commit(branch, call))
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.is_mutated(Mutant::AcknowledgesRollbacksUndone) && self.life.world.clock.once_in(4) {
            return Ok(());
        }
        self.on(Verb::Rollback, branch, call, |manager, call| manager.rollback(branch, call))
    }

    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.on(Verb::CommitOnePhase, branch, call, |manager, call| manager.commit_one_phase(branch, call))
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
        self.watched(coordinator, life, || manager.meet(coordinator, &self.seen(coordinator, life)))
    }

    fn greet(&self, greeting: &Greeting) {
        if let Some(manager) = self.life.manager(&self.name) {
            // It gets no answer. But it is heard.
            self.life.world.acquaintances.comes(&self.name, &greeting.coordinator, &greeting.life);
            let life = self.seen(&greeting.coordinator, &greeting.life);
            let mut seen = greeting.clone();
            seen.life = life;
            manager.greet(&seen);
        }
    }
}
