//! A participant that gives the answers that the test sets, and remembers the calls.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Name, Participant, ParticipantError, Vote,
    participant::{Call, Decision, LastResource, Verb},
};

/// Votes Yes and accepts every decision, unless the test sets an error.
#[derive(Clone, Default)]
pub struct Scripted(Arc<Script>);

#[derive(Default)]
struct Script {
    /// The error that it answers to a verb, if there is one.
    errors: Mutex<HashMap<Verb, ParticipantError>>,
    told: Mutex<Vec<(Verb, BranchId, Call)>>,
    in_doubt: Mutex<Vec<BranchId>>,
}

impl Scripted {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn failing(verb: Verb, error: ParticipantError) -> Self {
        let scripted = Self::new();
        scripted.fail(verb, error);
        scripted
    }

    pub fn fail(&self, verb: Verb, error: ParticipantError) {
        self.0.errors.lock().insert(verb, error);
    }

    pub fn mend(&self) {
        self.0.errors.lock().clear();
    }

    pub fn holds_in_doubt(&self, branch: BranchId) {
        self.0.in_doubt.lock().push(branch);
    }

    pub fn told(&self) -> Vec<Verb> {
        self.0.told.lock().iter().map(|(verb, ..)| *verb).collect()
    }

    pub fn times_told(&self, verb: Verb) -> usize {
        self.told().iter().filter(|told| **told == verb).count()
    }

    pub fn last_call(&self) -> Call {
        self.0.told.lock().last().expect("it was told something").2.clone()
    }

    fn answer<T>(&self, verb: Verb, branch: &BranchId, call: &Call, answer: T) -> Result<T, ParticipantError> {
        self.0.told.lock().push((verb, branch.clone(), call.clone()));
        match self.0.errors.lock().get(&verb) {
            Some(error) => Err(error.clone()),
            None => {
                self.0.in_doubt.lock().retain(|held| held != branch);
                Ok(answer)
            }
        }
    }
}

impl Participant for Scripted {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.answer(Verb::Prepare, branch, call, Vote::Yes)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.answer(Verb::Commit, branch, call, ())
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.answer(Verb::Rollback, branch, call, ())
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.answer(Verb::CommitOnePhase, branch, call, Decision::Commit)
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(self.0.in_doubt.lock().clone())
    }
}

/// As a resource that cannot promise.
impl LastResource for Scripted {
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.answer(Verb::CommitOnePhase, branch, call, Decision::Commit)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.answer(Verb::Rollback, branch, call, ())
    }
}

pub fn broken() -> ParticipantError {
    ParticipantError::resource("the test wants it broken")
}
