//! Another holder has taken the log over. It settles the transaction by what it finds there, so
//! nothing is sent or decided here any more, and the client is told what is certain.
//!
//! A decision is in the log or it is not, and a log that was taken over says which. So a client hears
//! "committed" if the record is durable, and "rolled back" if it surely is not: the new holder then
//! finds no decision, and presumes abort. "Indeterminate" is left for what no log tells: a branch
//! that was asked to decide has not answered, or a last resource has committed without a decision.

use super::{Cause, CommitProtocol, Outcome, Phase, Step};

impl CommitProtocol {
    /// Takes in that the log was taken over.
    pub(super) fn fence(&mut self) {
        self.fenced = true;
        let outcome = match self.phase {
            // Over, or as good as over: the answer, if one is left, is known.
            Phase::Ended | Phase::Finished | Phase::Fenced | Phase::Indeterminate => return,
            // The driver has given the record to the log, and is going to hear what became of it.
            Phase::Deciding { appended: true, .. } => return,
            Phase::Deciding { appended: false, .. } => self.without_decision(),
            Phase::Active | Phase::Preparing { .. } => Outcome::RolledBack(Cause::Fenced),
            Phase::Alone { .. } | Phase::LastResource { .. } => {
                let is_unasked = |step| matches!(step, Step::Due(_));
                let is_certain = self.branches.iter().any(|branch| is_unasked(branch.step) && branch.failures == 0);
                if is_certain { Outcome::RolledBack(Cause::Fenced) } else { Outcome::Indeterminate }
            }
            // In the first case the last resource does not say whether it has committed. In the others
            // the client has its answer, or is about to get it, and this one changes nothing.
            Phase::Asking | Phase::Committing { .. } | Phase::RollingBack { .. } => Outcome::Indeterminate,
        };
        self.leave_to_holder(outcome);
    }

    /// Takes in that the record is surely not in the log, because the log was taken over.
    pub(super) fn not_durable(&mut self) {
        if let Phase::Deciding { .. } = self.phase {
            self.leave_to_holder(self.without_decision());
        }
        self.fence();
    }

    /// Returns the outcome if all have agreed and no decision is in the log, nor ever will be.
    pub(super) fn without_decision(&self) -> Outcome {
        if self.last_resource_has_committed() {
            // The new holder asks it, if it remembers, and commits the others.
            return Outcome::Indeterminate;
        }
        Outcome::RolledBack(Cause::Fenced)
    }

    /// Ends this side's part in the transaction. The client gets this answer, unless it has one.
    pub(super) fn leave_to_holder(&mut self, answer: Outcome) {
        self.fenced = true;
        self.tell(answer);
        self.phase = Phase::Fenced;
    }
}

#[cfg(test)]
mod tests;
