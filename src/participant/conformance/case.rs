//! [`Case`]: one check with its participant, and the steps that checks are made of.

use std::{fmt::Debug, sync::Arc};

use super::{Effect, Harness, Worked};
use crate::{
    error_chain,
    id::{BranchId, Epoch, Name, TxnId},
    participant::{Call, Decision, Participant, ParticipantError, Vote},
};

/// One check with its participant. A step that fails panics with the name of the check.
pub(super) struct Case<H> {
    pub(super) name: &'static str,
    pub(super) harness: H,
    pub(super) coordinator: Name,
    last: u64,
}

impl<H: Harness> Case<H> {
    pub(super) fn new(name: &'static str, harness: H) -> Self {
        Self { name, harness, coordinator: named("conformance"), last: 0 }
    }

    /// Returns a new branch, of a new transaction.
    pub(super) fn branch(&mut self) -> BranchId {
        self.last += 1;
        TxnId::new(self.coordinator.clone(), Epoch::new(1), self.last).branch(&self.harness.name())
    }

    /// Returns a branch under which work was done.
    pub(super) fn worked(&mut self) -> BranchId {
        let branch = self.branch();
        self.same("work under a new branch", &self.harness.work(&branch), &Worked::Done);
        branch
    }

    /// Returns a branch that has promised.
    pub(super) fn promised(&mut self) -> BranchId {
        let branch = self.worked();
        self.vote(&branch, Vote::Yes);
        branch
    }

    /// Returns a branch that is committed.
    pub(super) fn committed(&mut self) -> BranchId {
        let branch = self.promised();
        self.harness.coordinator_syncs();
        self.commit(&branch);
        branch
    }

    pub(super) fn call(&self) -> Call {
        Call::new(self.harness.coordinator_log())
    }

    pub(super) fn participant(&self) -> Arc<dyn Participant> {
        self.harness.participant()
    }

    /// Prepares, and checks the vote.
    pub(super) fn vote(&self, branch: &BranchId, expected: Vote) {
        let vote = match self.participant().prepare(branch, &self.call()) {
            Err(ParticipantError::Refused(_)) => Vote::No,
            answer => self.ok("prepare", answer),
        };
        self.same("the vote", &vote, &expected);
    }

    pub(super) fn commit(&self, branch: &BranchId) {
        self.ok("commit", self.participant().commit(branch, &self.call()));
    }

    pub(super) fn rollback(&self, branch: &BranchId) {
        self.ok("rollback", self.participant().rollback(branch, &self.call()));
    }

    pub(super) fn one_phase(&self, branch: &BranchId, expected: Decision) {
        let decision = match self.participant().commit_one_phase(branch, &self.call()) {
            Err(ParticipantError::Refused(_)) => Decision::Rollback,
            answer => self.ok("one-phase commit", answer),
        };
        self.same("the answer to a one-phase commit", &decision, &expected);
    }

    /// Prepares, and checks that the answer is no promise: it may be a No or an error.
    pub(super) fn no_promise(&self, branch: &BranchId) {
        let answer = self.participant().prepare(branch, &self.call());
        self.that(!matches!(answer, Ok(Vote::Yes | Vote::ReadOnly)), || format!("it voted {answer:?}"));
    }

    pub(super) fn effect(&self, branch: &BranchId, expected: Effect) {
        self.same("the branch's effect", &self.harness.effect(branch), &expected);
    }

    pub(super) fn not_applied(&self, branch: &BranchId) {
        let effect = self.harness.effect(branch);
        self.that(!matches!(effect, Effect::Applied { .. }), || format!("the branch's effect is {effect:?}"));
    }

    /// Checks that these are the branches in doubt.
    pub(super) fn in_doubt(&self, expected: &[&BranchId]) {
        let mut listed = self.ok("in_doubt", self.participant().in_doubt(&self.coordinator));
        listed.sort();
        let mut expected: Vec<BranchId> = expected.iter().map(|branch| (*branch).clone()).collect();
        expected.sort();
        self.same("the branches in doubt", &listed, &expected);
    }

    pub(super) fn ok<T>(&self, what: &str, result: Result<T, ParticipantError>) -> T {
        result.unwrap_or_else(|error| self.fail(&format!("{what} failed: {}", error_chain(&error))))
    }

    pub(super) fn same<T: PartialEq + Debug>(&self, what: &str, seen: &T, expected: &T) {
        self.that(seen == expected, || format!("{what} is {seen:?}, should be {expected:?}"));
    }

    pub(super) fn that(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(&what());
        }
    }

    pub(super) fn fail(&self, what: &str) -> ! {
        panic!("participant conformance: \"{}\" does not hold: {what}", self.name)
    }
}

pub(super) fn named(name: &str) -> Name {
    Name::new(name).unwrap_or_else(|error| unreachable!("the suite's own names are valid: {error}"))
}
