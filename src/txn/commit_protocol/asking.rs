//! Asks a last resource whether it has committed: when its answer is missing at the time-out, and when
//! the branches of an earlier life are found without a decision.

use std::time::Instant;

use super::{Action, BranchProgress, Branches, Cause, CommitProtocol, Outcome, Phase, Role, Step, is_over};
use crate::{
    id::{Name, TxnId},
    participant::{Decision, LastResourceAnswer},
    txn::{Policy, policy::after},
};

impl CommitProtocol {
    /// Returns a transaction of which participants hold branches and the log holds nothing, at a
    /// coordinator with last resources: they are asked first whether they have committed it. Without
    /// any, it is [presumed aborted](Self::presumed_abort).
    #[must_use]
    pub fn undecided(txn: TxnId, participants: &[Name], last_resources: &[Name], policy: Policy, now: Instant) -> Self {
        if last_resources.is_empty() {
            return Self::presumed_abort(txn, participants, policy, now);
        }
        let mut protocol = Self::new(txn, policy);
        let voter = |name: &Name| BranchProgress::new(name.clone(), Role::Voter, Step::Yes);
        let last = |name: &Name| BranchProgress::new(name.clone(), Role::LastResource, Step::Due(now));
        protocol.branches = Branches::of(participants.iter().map(voter).chain(last_resources.iter().map(last)));
        protocol.phase = Phase::Asking;
        protocol.has_client = false;
        protocol
    }

    /// As [`enlist_last_resource`](Self::enlist_last_resource), for one that remembers what it has
    /// committed. It is asked about that before the outcome is called indeterminate, and after a crash.
    /// So the others must [force](Self::forces_promises) their promises.
    pub fn enlist_remembering_last_resource(&mut self, participant: Name) -> Option<usize> {
        let index = self.enlist_last_resource(participant)?;
        self.remembers = true;
        Some(index)
    }

    /// Begins to ask the last resource, because its answer is missing.
    pub(super) fn ask_last_resource(&mut self, now: Instant) {
        self.branches.change_all(|branch| {
            if branch.role == Role::LastResource {
                branch.step = Step::Due(now);
                branch.failures = 0;
            }
        });
        self.phase = Phase::Asking;
    }

    pub(super) fn ask_due(&mut self, now: Instant) -> Option<Action> {
        let branch = self.branches.first(|some| is_over(some.due, now))?;
        let again = after(now, self.policy.delivery_timeout);
        self.branches.change(branch, |branch| branch.step = Step::Sent(again));
        Some(Action::AskLastResource(branch))
    }

    pub(super) fn last_resource_says(&mut self, now: Instant, index: usize, answer: LastResourceAnswer) {
        // A branch that awaits an answer in this phase is a last resource.
        if self.phase != Phase::Asking || !self.branches.get(index).is_some_and(|branch| branch.step.awaits_answer()) {
            return;
        }
        let is_found = !self.has_client;
        match answer {
            LastResourceAnswer::Committed if is_found => {
                self.branches.change_all(|branch| {
                    if branch.role == Role::LastResource {
                        branch.step = Step::Out;
                    }
                });
                self.unrecorded = true;
                self.carry_out(now, Decision::Commit, Outcome::Committed);
            }
            LastResourceAnswer::Committed => {
                self.branches.change(index, |branch| branch.step = Step::Out);
                self.all_agree();
            }
            // Another last resource may have been that of the transaction.
            LastResourceAnswer::NotCommitted | LastResourceAnswer::Unknown if is_found => {
                self.branches.change(index, |branch| branch.step = Step::Out);
                if !self.branches.any(|some| some.awaits) {
                    self.roll_back(now, Cause::Requested);
                }
            }
            LastResourceAnswer::NotCommitted => {
                self.branches.change(index, |branch| branch.step = Step::Out);
                self.roll_back(now, Cause::TimedOut);
            }
            // The rollback makes sure that it commits nothing later.
            LastResourceAnswer::Unknown => self.carry_out(now, Decision::Rollback, Outcome::Indeterminate),
        }
    }

    /// Takes in that the last resource did not answer the question. Its client waits no longer.
    pub(super) fn is_not_told(&mut self, now: Instant, branch: usize) {
        self.back_off(now, branch);
        self.tell(Outcome::Indeterminate);
    }

    pub(super) fn tick_while_asking(&mut self, now: Instant) {
        while let Some(branch) = self.branches.first(|some| is_over(some.lapses, now)) {
            self.is_not_told(now, branch);
        }
    }
}
