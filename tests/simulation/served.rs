//! A resource manager as its process serves it to coordinators.

use std::{fmt, sync::Arc};

use ringpact::{
    BranchId, LogId, Name, ParticipantError, Vote,
    participant::{
        Call, Decision, EndedOpening, Greeting, Life as CoordinatorsLife, Participant, Request, Response, Verb,
    },
};

use super::{
    acquaintances::Before,
    host::{Life, Manager},
    mutants::Mutant,
    operator::is_refusal,
};

/// A resource manager as its process serves it to others.
pub struct Served {
    pub life: Arc<Life>,
    pub name: Name,
}

/// A message as it was heard.
pub struct Heard {
    said: CoordinatorsLife,
    before: Before,
    /// What a mutant makes of it.
    pub call: Call,
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
            let heard = self.hears(branch, call)?;
            let served = serve(&manager, &heard.call);
            self.is_answered(branch.txn().coordinator(), &heard, served)
        });
        self.has_served(verb, branch, call, served)
    }

    /// A message comes. Says what a mutant makes of it, and what the oracle knew when it came.
    pub fn hears(&self, branch: &BranchId, call: &Call) -> Result<Heard, ParticipantError> {
        if !self.life.is_alive() {
            return Err(ParticipantError::Unreachable);
        }
        let said = CoordinatorsLife::new(call.identity, call.epoch, call.position);
        let said = said.continuing(call.after);
        let seen = self.seen(branch.txn().coordinator(), &said);
        let mut call = call.clone();
        (call.identity, call.position, call.after) = (seen.log, seen.position, seen.after);
        Ok(Heard { before: self.comes(branch.txn().coordinator(), &said), said, call })
    }

    /// The oracle watches which lives it listens to.
    fn comes(&self, coordinator: &Name, said: &CoordinatorsLife) -> Before {
        self.life.world.acquaintances.comes(&self.name, coordinator, said)
    }

    pub fn is_answered<T>(
        &self,
        coordinator: &Name,
        heard: &Heard,
        served: Result<T, ParticipantError>,
    ) -> Result<T, ParticipantError> {
        let world = &self.life.world;
        match &served {
            Ok(_) if self.life.is_alive() => {
                world.acquaintances.is_answered(world, &self.name, coordinator, heard.before, &heard.said);
            }
            Err(error) if is_refusal(error) => world.count(|counts| counts.refusals += 1),
            _ => {}
        }
        served
    }

    /// The oracle watches what it has done.
    pub fn has_served<T: fmt::Debug>(
        &self,
        verb: Verb,
        branch: &BranchId,
        call: &Call,
        served: Result<T, ParticipantError>,
    ) -> Result<T, ParticipantError> {
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

    /// What a coordinator says when it introduces itself, as [`hears`](Self::hears) has it of a message.
    pub fn is_met_by(&self, coordinator: &Name, life: &CoordinatorsLife) -> (Heard, CoordinatorsLife) {
        let before = self.comes(coordinator, life);
        (Heard { said: *life, before, call: Call::new(LogId::NONE) }, self.seen(coordinator, life))
    }

    /// As it is greeted.
    pub fn is_greeted(&self, greeting: &Greeting) -> Greeting {
        // It gets no answer. But it is heard.
        self.comes(&greeting.coordinator, &greeting.life);
        let life = self.seen(&greeting.coordinator, &greeting.life);
        let mut seen = greeting.clone();
        seen.life = life;
        seen
    }

    /// What a mutant makes of a vote.
    pub fn mutate_vote(&self, vote: Result<Vote, ParticipantError>) -> Result<Vote, ParticipantError> {
        if self.is_mutated(Mutant::AlwaysVotesYes) && matches!(vote, Ok(Vote::No) | Err(ParticipantError::Refused(_))) {
            return Ok(Vote::Yes);
        }
        vote
    }

    /// Whether a mutant acknowledges this without doing it.
    pub fn skips(&self, verb: Verb) -> bool {
        let mutant = match verb {
            Verb::Commit => Mutant::AcknowledgesCommitsUndone,
            _ => Mutant::AcknowledgesRollbacksUndone,
        };
        self.is_mutated(mutant) && self.life.world.clock.once_in(4)
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

    pub fn is_mutated(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }
}

impl Participant for Served {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.mutate_vote(self.on(Verb::Prepare, branch, call, |manager, call| manager.prepare(branch, call)))
    }

    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.skips(Verb::Commit) {
            return Ok(());
        }
        self.on(Verb::Commit, branch, call, |manager, call| manager.commit(branch, call))
    }

    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.skips(Verb::Rollback) {
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
        let (heard, seen) = self.is_met_by(coordinator, life);
        self.is_answered(coordinator, &heard, manager.meet(coordinator, &seen))
    }

    fn greet(&self, greeting: &Greeting) {
        if let Some(manager) = self.life.manager(&self.name) {
            manager.greet(&self.is_greeted(greeting));
        }
    }
}
