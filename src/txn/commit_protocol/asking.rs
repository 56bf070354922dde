//! Asks a last resource whether it has committed: when its answer is missing at the time-out, and when
//! the branches of an earlier life are found without a decision.

use std::time::Instant;

use super::{Action, Cause, CommitProtocol, Outcome, Phase, Role, Step, is_over};
use crate::{
    participant::{Decision, LastResourceAnswer},
    txn::policy::after,
};

impl CommitProtocol {
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
