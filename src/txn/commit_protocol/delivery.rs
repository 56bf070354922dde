//! The second phase: a decision is delivered until everybody has acknowledged it, or an operator has to look.

use std::time::Instant;

use super::{
    super::policy::after, Action, BranchProgress, Cause, CommitProtocol, Narrowed, OnRecord, Outcome, Phase, Step,
    is_over,
};
use crate::{
    log::{Durability, Fact, Heuristic},
    participant::{Decision, Verb},
};

/// After so many failures a branch is taken to be stuck. The first may be a lost message, which is no reason to write a record.
pub(super) const STUCK_AFTER: u32 = 2;

impl Step {
    /// It was told, or is about to be.
    pub(super) const fn awaits_answer(self) -> bool {
        matches!(self, Self::Due(_) | Self::Sent(_) | Self::Kept)
    }

    /// It was told, or is about to be, or would be if an operator wanted.
    pub(super) const fn owes_answer(self) -> bool {
        self.awaits_answer() || matches!(self, Self::Parked)
    }
}

impl CommitProtocol {
    /// What is to be said and noted next while a decision is carried out.
    pub(super) fn settle(&mut self, now: Instant, verb: Verb) -> Option<Action> {
        self.send_due(now, verb)
            .or_else(|| self.note_heuristic())
            .or_else(|| self.take_answer())
            .or_else(|| self.narrow())
            .or_else(|| self.park())
    }

    pub(super) fn send_due(&mut self, now: Instant, verb: Verb) -> Option<Action> {
        let again = after(now, self.policy.delivery_timeout);
        let branch = self.branches.first(|some| is_over(some.due, now))?;
        self.branches.change(branch, |branch| branch.step = Step::Sent(again));
        Some(Action::Send(branch, verb))
    }

    /// What the log says already is not said again, however often it is tried.
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

    /// Once there is nobody left to be told, and yet somebody who has not ended as decided, it is an operator's turn.
    fn park(&mut self) -> Option<Action> {
        if self.lies_still || self.branches.any(|some| some.awaits) {
            return None;
        }
        // After the record of it, those who have acknowledged are not told again by a later life, and may forget. A
        // rollback needs none: what is in no log is told to nobody but those who ask.
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

    /// Once all that are left are stuck, those who have acknowledged need not wait for them; nor anybody who does not take part.
    /// Again when half of them have acknowledged.
    fn narrow(&mut self) -> Option<Action> {
        if let Narrowed::Written(owing) = self.narrowed {
            self.narrowed = Narrowed::To(owing);
            return Some(Action::Narrow);
        }
        if !self.is_stuck || self.unrecorded {
            return None;
        }
        self.is_stuck = false; // until the next failure
        let owing = self.branches.owing();
        let is_news = match self.narrowed {
            Narrowed::Not => true,
            Narrowed::To(before) => owing <= before / 2,
            Narrowed::Writing(_) | Narrowed::Written(_) => false,
        };
        if owing == 0 || !is_news || self.branches.any(|some| some.is_slow) {
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

    /// Who owes an acknowledgement; and those whose outcome the log does not know: told again by the next life, they say it again.
    fn next_life_tells(&self) -> Vec<crate::id::Name> {
        let is_told = |branch: &&BranchProgress| {
            branch.step.owes_answer()
                || matches!((branch.step, branch.on_record), (Step::Heuristic(_), OnRecord::Unwritten(_)))
        };
        self.branches.iter().filter(is_told).map(|branch| branch.participant.clone()).collect()
    }

    /// Whether the log names exactly those as owed that are.
    fn is_parked_on_record(&self) -> bool {
        let fits = |branch: &BranchProgress| (branch.step == Step::Parked) == (branch.on_record == OnRecord::Owed);
        self.parked_on_record && self.branches.iter().all(fits)
    }

    pub(super) fn done(&mut self, index: usize) {
        if self.decision().is_some() && self.branches.step(index, Step::owes_answer, Step::Out) {
            self.end_if_all_out();
        }
    }

    /// A branch says that there is no such branch.
    pub(super) fn unknown(&mut self, now: Instant, branch: usize) {
        match self.decision() {
            Some(Decision::Commit) => self.ended_by_itself(now, branch, Heuristic::Hazard),
            // What nobody knows is as good as undone.
            Some(Decision::Rollback) => self.done(branch),
            None => self.failed(now, branch),
        }
    }

    /// A branch refuses what it was told, because it has done the other thing.
    pub(super) fn already(&mut self, now: Instant, branch: usize, did: Decision) {
        match (self.decision(), did) {
            // A branch that decides alone can be ahead of its coordinator; there is nobody it could differ from, and the
            // client was told that nobody knows.
            (Some(Decision::Rollback), Decision::Commit) if self.branches.len() == 1 => self.done(branch),
            (Some(_), Decision::Commit) => self.ended_by_itself(now, branch, Heuristic::Committed),
            (Some(_), Decision::Rollback) => self.ended_by_itself(now, branch, Heuristic::RolledBack),
            (None, _) => self.failed(now, branch),
        }
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
        self.branches.step(index, Step::owes_answer, Step::Heuristic(outcome));
    }

    pub(super) fn failed(&mut self, now: Instant, branch: usize) {
        match self.phase {
            Phase::Preparing { .. } if self.branches.get(branch).is_some_and(|branch| branch.step == Step::Asked) => {
                self.roll_back(now, Cause::Failed(branch));
            }
            Phase::Alone { .. } | Phase::LastResource { .. } | Phase::Committing { .. } | Phase::RollingBack { .. } => {
                self.back_off(now, branch)
            }
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

    /// Only decisions are kept back; and so is what a branch is told, which was told to decide alone, once that is decided for it.
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

    /// Has every branch told that is not out of the transaction. Those that were asked for a vote and have not
    /// answered are told too: they may have promised.
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
        self.answer = Some(answer);
        self.end_if_all_out();
    }

    pub(super) fn end_if_all_out(&mut self) {
        if !self.branches.any(|some| some.is_in) {
            self.phase = Phase::Ended;
        }
    }

    /// Tells again whoever is parked, and whoever once knew nothing of his branch and may have found his log meanwhile.
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
