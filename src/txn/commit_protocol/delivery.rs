//! The second phase: a decision is delivered until all participants have acknowledged it, or an
//! operator has to look.

use std::time::Instant;

use super::{
    super::policy::after, Action, BranchProgress, Cause, CommitProtocol, Narrowed, OnRecord, Outcome, Phase, Role,
    Step, is_over,
};
use crate::{
    log::{Durability, Fact, Heuristic},
    participant::{Decision, Verb},
};

/// Number of failures after which a branch counts as stuck. The first may be a lost message, which
/// is no reason to write a record.
pub(super) const STUCK_AFTER: u32 = 2;

impl Step {
    /// Whether it was told, or is about to be.
    pub(super) const fn awaits_answer(self) -> bool {
        matches!(self, Self::Due(_) | Self::Sent(_) | Self::Kept)
    }

    /// Whether it was told, or is about to be, or would be told if an operator retried.
    pub(super) const fn owes_answer(self) -> bool {
        self.awaits_answer() || matches!(self, Self::Parked)
    }
}

impl CommitProtocol {
    /// Returns the next action while a decision is carried out.
    pub(super) fn settle(&mut self, now: Instant, verb: Verb) -> Option<Action> {
        self.send_due(now, verb)
            .or_else(|| self.note_heuristic())
            .or_else(|| self.take_answer())
            .or_else(|| self.narrow())
            .or_else(|| self.park())
    }

    pub(super) fn send_due(&mut self, now: Instant, verb: Verb) -> Option<Action> {
        let again = after(now, self.policy.delivery_timeout);
        let branch = self.branches.next(|some| is_over(some.due_early, now), |some| is_over(some.due, now))?;
        self.branches.change(branch, |branch| branch.step = Step::Sent(again));
        Some(Action::Send(branch, verb))
    }

    /// Returns the record of a heuristic outcome that the log does not hold yet. What the log holds
    /// is not written again, however often the branch is retried.
    fn note_heuristic(&mut self) -> Option<Action> {
        let index = self.branches.first(|some| some.unnoted)?;
        let BranchProgress { step: Step::Heuristic(outcome), participant, .. } = &self.branches[index] else {
            return None;
        };
        let (outcome, participant) = (*outcome, participant.clone());
        self.branches.change(index, |branch| branch.on_record = OnRecord::Writing(outcome));
        self.logged = true;
        Some(Action::Append(Fact::Heuristic { txn: self.txn.clone(), participant, outcome }, Durability::Forced))
    }

    pub(super) fn outcome_is_written(&mut self) {
        while let Some(index) = self.branches.first(|some| some.writing) {
            self.branches.change(index, |branch| {
                if let OnRecord::Writing(outcome) = branch.on_record {
                    branch.on_record = OnRecord::Heuristic(outcome);
                }
            });
        }
    }

    pub(super) fn outcome_is_unwritten(&mut self, now: Instant) {
        while let Some(index) = self.branches.first(|some| some.writing) {
            let failures = self.branches[index].failures.saturating_add(1);
            let again = after(now, self.policy.backoff(&self.txn, index, failures));
            let counted = self.policy.counted(failures);
            self.branches.change(index, |branch| {
                (branch.on_record, branch.failures) = (OnRecord::Unwritten(again), counted);
            });
        }
    }

    /// Parks the transaction, once no branch is left to be told, and yet one has not ended as
    /// decided.
    fn park(&mut self) -> Option<Action> {
        if self.lies_still || self.branches.any(|some| some.awaits) {
            return None;
        }
        // After this record a later life does not tell participants that have acknowledged, so they
        // may forget. A rollback needs none: what is in no log is told only to participants that
        // ask.
        if self.decision() == Some(Decision::Commit) && self.logged && !self.is_parked_on_record() {
            self.parked_on_record = true;
            self.branches.change_all(|branch| match (branch.step, branch.on_record) {
                (Step::Parked, _) => branch.on_record = OnRecord::Owed,
                (_, OnRecord::Owed) => branch.on_record = OnRecord::Nothing,
                _ => {}
            });
            let participants = self.next_life_tells();
            return Some(Action::Append(Fact::Parked { txn: self.txn.clone(), participants }, Durability::Forced));
        }
        self.lies_still = true;
        Some(Action::Park)
    }

    /// Once all remaining branches are stuck, frees all other participants from remembering the
    /// transaction: those that have acknowledged, and those that take no part. It does so again
    /// when half of the remaining ones have acknowledged.
    fn narrow(&mut self) -> Option<Action> {
        let before = match self.narrowed {
            Narrowed::Written(owing) => {
                self.narrowed = Narrowed::To(owing);
                return Some(Action::Narrow);
            }
            Narrowed::Writing(_) => return None,
            Narrowed::Not => None,
            Narrowed::To(before) => Some(before),
        };
        // While a branch is slow, the next event looks again: that may be the branch's acknowledgement,
        // and the last event for long. A decision that is kept back fails only once it is the probe.
        // What lies still has been handed over, for those that owe.
        if !self.is_stuck || self.unrecorded || self.lies_still || self.branches.any(|some| some.is_slow) {
            return None;
        }
        self.is_stuck = false; // until the next failure or acknowledgement
        let owing = self.branches.owing();
        if owing == 0 || before.is_some_and(|before| owing > before / 2) {
            return None;
        }
        if self.decision() == Some(Decision::Commit) {
            self.narrowed = Narrowed::Writing(owing);
            let participants = self.next_life_tells();
            return Some(Action::Append(Fact::Decided { txn: self.txn.clone(), participants }, Durability::Lazy));
        }
        self.narrowed = Narrowed::To(owing);
        Some(Action::Narrow)
    }

    pub(super) fn narrowing_is_written(&mut self) {
        if let Narrowed::Writing(owing) = self.narrowed {
            self.narrowed = Narrowed::Written(owing);
        }
    }

    pub(super) fn narrowing_is_unwritten(&mut self) {
        if let Narrowed::Writing(_) = self.narrowed {
            self.narrowed = Narrowed::Not;
        }
    }

    /// Returns the participants that owe an acknowledgement, and those with an outcome that the log
    /// does not hold: the next life tells them again, and they repeat the outcome.
    fn next_life_tells(&self) -> Vec<crate::id::Name> {
        let is_told = |branch: &&BranchProgress| {
            branch.step.owes_answer()
                || matches!((branch.step, branch.on_record), (Step::Heuristic(_), OnRecord::Unwritten(_)))
        };
        self.branches.iter().filter(is_told).map(|branch| branch.participant.clone()).collect()
    }

    /// Whether the log names exactly the participants that owe.
    fn is_parked_on_record(&self) -> bool {
        let fits = |branch: &BranchProgress| (branch.step == Step::Parked) == (branch.on_record == OnRecord::Owed);
        self.parked_on_record && self.branches.iter().all(fits)
    }

    pub(super) fn done(&mut self, index: usize) {
        if self.decision().is_some() && self.branches.step(index, Step::owes_answer, Step::Out) {
            self.looks_for_fewer();
            self.end_if_all_out();
        }
    }

    /// Has it looked whether fewer participants need to remember the transaction than before.
    fn looks_for_fewer(&mut self) {
        self.is_stuck |= self.narrowed != Narrowed::Not;
    }

    /// Takes in that a participant does not know the branch.
    pub(super) fn unknown(&mut self, now: Instant, branch: usize) {
        match self.decision() {
            Some(Decision::Commit) => self.ended_by_itself(now, branch, Heuristic::Hazard),
            // An unknown branch is as good as undone.
            Some(Decision::Rollback) => self.done(branch),
            None => self.failed(now, branch),
        }
    }

    /// Takes in that a branch refuses the decision, because it has done the opposite.
    pub(super) fn already(&mut self, now: Instant, branch: usize, did: Decision) {
        match (self.decision(), did) {
            // A branch that decides alone can be ahead of its coordinator. There is no other branch
            // to differ from, and the client was told "indeterminate".
            (Some(Decision::Rollback), Decision::Commit) if self.is_of_one_branch() => self.done(branch),
            (Some(_), Decision::Commit) => self.ended_by_itself(now, branch, Heuristic::Committed),
            (Some(_), Decision::Rollback) => self.ended_by_itself(now, branch, Heuristic::RolledBack),
            (None, _) => self.failed(now, branch),
        }
    }

    /// Whether only one branch is known. The last resources that were asked about a branch that was
    /// found in doubt need not have taken part.
    fn is_of_one_branch(&self) -> bool {
        let is_known = |branch: &&BranchProgress| self.has_client || branch.role != Role::LastResource;
        self.branches.iter().filter(is_known).count() == 1
    }

    pub(super) fn ended_by_itself(&mut self, now: Instant, index: usize, outcome: Heuristic) {
        let agrees = match self.decision() {
            None => return self.failed(now, index),
            Some(Decision::Commit) => outcome == Heuristic::Committed,
            Some(Decision::Rollback) => outcome == Heuristic::RolledBack,
        };
        if agrees {
            return self.done(index);
        }
        if self.branches.step(index, Step::owes_answer, Step::Heuristic(outcome)) {
            self.looks_for_fewer();
        }
    }

    pub(super) fn failed(&mut self, now: Instant, branch: usize) {
        match self.phase {
            Phase::Preparing { .. } if self.branches.get(branch).is_some_and(|branch| branch.step == Step::Asked) => {
                self.roll_back(now, Cause::Failed(branch));
            }
            Phase::Alone { .. } | Phase::LastResource { .. } | Phase::Committing { .. } | Phase::RollingBack { .. } => {
                self.back_off(now, branch)
            }
            Phase::Asking => self.is_not_told(now, branch),
            _ => {}
        }
    }

    pub(super) fn back_off(&mut self, now: Instant, index: usize) {
        let gives_up = |failures| match self.phase {
            Phase::Committing { since } | Phase::RollingBack { since } => {
                self.told_once_more || self.policy.parks_after(failures, now.saturating_duration_since(since))
            }
            // These have time-outs of their own.
            _ => false,
        };
        let Some(branch) = self.branches.get(index) else { return };
        let Step::Sent(_) = branch.step else { return };
        let failures = branch.failures.saturating_add(1);
        let step = if gives_up(failures) {
            Step::Parked
        } else {
            Step::Due(after(now, self.policy.backoff(&self.txn, index, failures)))
        };
        let counted = self.policy.counted(failures);
        self.is_stuck |= counted >= STUCK_AFTER && self.decision().is_some();
        self.branches.change(index, |branch| (branch.step, branch.failures) = (step, counted));
    }

    /// Keeps a decision back. That includes the decision for a branch that was asked to decide
    /// alone, once the coordinator has decided for it.
    pub(super) fn keep(&mut self, index: usize) {
        let decided = self.decision().is_some();
        self.is_stuck |= self.branches.step(index, |step| matches!(step, Step::Sent(_)) && decided, Step::Kept);
    }

    pub(super) fn let_out(&mut self, now: Instant, index: usize) {
        self.branches.step(index, |step| step == Step::Kept, Step::Due(now));
    }

    pub(super) fn give_up(&mut self, index: usize) {
        let decided = self.decision().is_some();
        self.branches.step(index, |step| step.awaits_answer() && decided, Step::Parked);
    }

    /// Makes the decision due at every branch that is not out of the transaction. Those that were
    /// asked for a vote and have not answered are told, too, because they may have promised.
    pub(super) fn carry_out(&mut self, now: Instant, decision: Decision, answer: Outcome) {
        self.branches.change_all(|branch| {
            if branch.step != Step::Out {
                branch.step = Step::Due(now);
                branch.failures = 0;
            }
        });
        self.phase = match decision {
            Decision::Commit => Phase::Committing { since: now },
            Decision::Rollback => Phase::RollingBack { since: now },
        };
        self.tell(answer);
        self.end_if_all_out();
    }

    pub(super) fn end_if_all_out(&mut self) {
        if !self.branches.any(|some| some.is_in) {
            self.phase = Phase::Ended;
        }
    }

    /// Makes the decision due again at parked branches, and at those that were unknown to their
    /// participant, which may have found its log meanwhile.
    pub(super) fn retry(&mut self, now: Instant) {
        let (Phase::Committing { since } | Phase::RollingBack { since }) = &mut self.phase else { return };
        *since = now;
        let lies_still = &mut self.lies_still;
        self.branches.change_all(|branch| {
            if matches!(branch.step, Step::Parked | Step::Heuristic(Heuristic::Hazard)) {
                branch.step = Step::Due(now);
                branch.failures = 0;
                *lies_still = false;
            } else if let Step::Due(at) = &mut branch.step {
                *at = now;
            }
        });
        self.told_once_more = false;
    }

    pub(super) fn force(&mut self, ended_as: Decision) {
        let Some(decision) = self.decision() else { return };
        let lies_still = &mut self.lies_still;
        self.branches.change_all(|branch| {
            if branch.step == Step::Parked {
                branch.step = match ended_as {
                    _ if ended_as == decision => Step::Out,
                    Decision::Commit => Step::Heuristic(Heuristic::Committed),
                    Decision::Rollback => Step::Heuristic(Heuristic::RolledBack),
                };
                *lies_still = false;
            }
        });
        self.end_if_all_out();
    }

    pub(super) fn forget(&mut self) {
        let lies_still = &mut self.lies_still;
        self.branches.change_all(|branch| {
            if let Step::Heuristic(_) = branch.step {
                branch.step = Step::Out;
                *lies_still = false;
            }
        });
        if self.decision().is_some() {
            self.end_if_all_out();
        }
    }
}
