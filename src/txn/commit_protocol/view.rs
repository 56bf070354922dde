//! The public view of a transaction: its state, its branches and its deadlines.

use std::{fmt, time::Instant};

use super::{CommitProtocol, Phase, Role, Step};
use crate::{
    id::{Name, TxnId},
    log::{Heuristic, Lsn},
    participant::Decision,
};

/// State of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionState {
    /// A client works under it.
    Active,
    /// Votes are being collected.
    Preparing,
    /// The only participant, or the last resource, was asked to decide.
    Delegated,
    /// A last resource is asked whether it has committed, because its answer got lost or an earlier
    /// life has left branches in doubt. The other branches stay in doubt until it answers.
    AskingLastResource,
    /// All participants have agreed; the decision is on its way to the disk.
    Deciding,
    /// It commits, and not all participants have acknowledged.
    Committing,
    /// It rolls back, and not all participants have acknowledged.
    RollingBack,
    /// The coordinator no longer delivers it, and a participant has not acknowledged. An operator
    /// must look: see [`Coordinator::retry`](crate::Coordinator::retry) and
    /// [`Coordinator::force`](crate::Coordinator::force).
    Parked(Decision),
    /// A branch has ended otherwise than decided. Kept until an operator
    /// [forgets](crate::Coordinator::forget) it.
    Heuristic(Decision, Heuristic),
    /// The log failed while it was being decided. Only opening the log again tells the outcome.
    Indeterminate,
    /// Another holder has taken the log over, and settles it.
    Fenced,
    /// It has ended.
    Ended,
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Preparing => f.write_str("preparing"),
            Self::Delegated => f.write_str("delegated"),
            Self::AskingLastResource => f.write_str("asking the last resource whether it has committed"),
            Self::Deciding => f.write_str("deciding"),
            Self::Committing => f.write_str("committing"),
            Self::RollingBack => f.write_str("rolling back"),
            Self::Parked(Decision::Commit) => f.write_str("parked while committing"),
            Self::Parked(Decision::Rollback) => f.write_str("parked while rolling back"),
            Self::Heuristic(Decision::Commit, how) => write!(f, "decided to commit, heuristic: {how}"),
            Self::Heuristic(Decision::Rollback, how) => write!(f, "decided to roll back, heuristic: {how}"),
            Self::Indeterminate => f.write_str("indeterminate"),
            Self::Fenced => f.write_str("fenced: left to the new holder of the log"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

/// State of a branch, as its coordinator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BranchState {
    /// It takes part, and was not asked for its vote yet.
    Enlisted,
    /// It was asked for its vote.
    Asked,
    /// It has promised.
    Promised,
    /// It was sent the decision, or the question to decide, and has not answered yet.
    Told,
    /// The last attempt failed; the next one is due.
    Failing,
    /// It is told once its participant answers again.
    KeptBack,
    /// The coordinator no longer tells it; an operator must look.
    Parked,
    /// It has ended otherwise than decided.
    Heuristic(Heuristic),
    /// It gets no more messages.
    Done,
}

impl fmt::Display for BranchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enlisted => f.write_str("enlisted"),
            Self::Asked => f.write_str("asked"),
            Self::Promised => f.write_str("promised"),
            Self::Told => f.write_str("told"),
            Self::Failing => f.write_str("failing"),
            Self::KeptBack => f.write_str("kept back until the participant answers"),
            Self::Parked => f.write_str("parked"),
            Self::Heuristic(how) => write!(f, "heuristic: {how}"),
            Self::Done => f.write_str("done"),
        }
    }
}

impl CommitProtocol {
    /// Returns the transaction's id.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// Returns the participant of the branch with this index; `None` if there is no such branch.
    #[must_use]
    pub fn participant(&self, branch: usize) -> Option<&Name> {
        self.branches.get(branch).map(|branch| &branch.participant)
    }

    /// Returns the index of a participant's branch, if it is enlisted. O(n) in the branches.
    #[must_use]
    pub fn branch_of(&self, participant: &Name) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }

    /// Returns the record that must become durable before the transaction can go on, if it waits
    /// for one.
    #[must_use]
    pub const fn awaits_durable(&self) -> Option<Lsn> {
        match self.phase {
            Phase::Deciding { lsn, .. } => lsn,
            _ => None,
        }
    }

    /// Returns the time of the next [`Input::Tick`](super::Input::Tick), if nothing else happens
    /// before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Active => self.expires,
            Phase::Preparing { until } => Some(until),
            Phase::Alone { until } | Phase::LastResource { until } => {
                Some(self.branches.deadline().map_or(until, |at| at.min(until)))
            }
            Phase::Committing { .. } | Phase::RollingBack { .. } | Phase::Asking => self.branches.deadline(),
            _ => None,
        }
    }

    /// Returns the time until which the protocol waits for a branch's answer, before it sends the
    /// message again or acts otherwise.
    #[must_use]
    pub fn answer_by(&self, branch: usize) -> Option<Instant> {
        let again = match self.branches.get(branch)?.step {
            Step::Sent(at) => Some(at),
            _ => None,
        };
        match self.phase {
            Phase::Preparing { until } => Some(until),
            Phase::Alone { until } | Phase::LastResource { until } => Some(again.map_or(until, |at| at.min(until))),
            _ => again,
        }
    }

    /// Whether the client has neither asked to commit nor to roll back, and its time-out has not
    /// come.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active)
    }

    /// Whether [`Action::Finish`](super::Action::Finish) has come out.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Whether the log failed while the decision was in flight. Only reopening the log tells what
    /// was decided.
    #[must_use]
    pub const fn is_indeterminate(&self) -> bool {
        matches!(self.phase, Phase::Indeterminate)
    }

    /// Whether another holder has taken the log over, and settles the transaction. Nothing more comes
    /// out but the answer to the client, if it has none.
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        matches!(self.phase, Phase::Fenced)
    }

    /// Returns the decision that is being carried out.
    #[must_use]
    pub const fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Committing { .. } => Some(Decision::Commit),
            Phase::RollingBack { .. } => Some(Decision::Rollback),
            _ => None,
        }
    }

    /// Whether it commits while no record of the decision is known to be durable: a last resource
    /// has committed, and the log has not taken the decision. So no forced record makes the
    /// participants' records durable, even on the coordinator's log. They must be told so, by a
    /// [`Call`](crate::participant::Call) that names no log.
    #[must_use]
    pub const fn is_unrecorded(&self) -> bool {
        self.unrecorded
    }

    /// Whether participants must make their promises durable by themselves, even on the coordinator's
    /// log, because a last resource that remembers commits before the decision is in that log. They
    /// must be told so, by a [`Call`](crate::participant::Call) that names no log.
    #[must_use]
    pub const fn forces_promises(&self) -> bool {
        self.remembers
    }

    /// Whether [`Action::Park`](super::Action::Park) has come out, and no operator has acted since.
    #[must_use]
    pub const fn lies_still(&self) -> bool {
        self.lies_still
    }

    /// Returns the number of failed attempts to tell a branch, since the decision or the last
    /// retry.
    #[must_use]
    pub fn failures(&self, branch: usize) -> u32 {
        self.branches.get(branch).map_or(0, |branch| branch.failures)
    }

    /// Returns the participants of parked branches. O(n) in the branches.
    pub fn owed(&self) -> impl Iterator<Item = &Name> {
        self.branches.iter().filter(|branch| branch.step == Step::Parked).map(|branch| &branch.participant)
    }

    /// Returns the participants that have not acknowledged the decision, parked ones included. O(n)
    /// in the branches.
    pub fn owing(&self) -> impl Iterator<Item = &Name> {
        self.branches.iter().filter(|branch| branch.step.owes_answer()).map(|branch| &branch.participant)
    }

    /// Returns the heuristic outcome over all branches, if any has ended otherwise than decided.
    #[must_use]
    pub fn heuristic(&self) -> Option<Heuristic> {
        let decided = match self.decision()? {
            Decision::Commit => Heuristic::Committed,
            Decision::Rollback => Heuristic::RolledBack,
        };
        let own = self.branches.heuristic()?;
        Some(if self.branches.any(|some| some.as_decided) { own.and(decided) } else { own })
    }

    /// Returns the transaction's state.
    #[must_use]
    pub fn state(&self) -> TransactionState {
        match self.phase {
            Phase::Active => TransactionState::Active,
            Phase::Preparing { .. } => TransactionState::Preparing,
            Phase::Alone { .. } | Phase::LastResource { .. } => TransactionState::Delegated,
            Phase::Asking => TransactionState::AskingLastResource,
            Phase::Deciding { .. } => TransactionState::Deciding,
            Phase::Ended | Phase::Finished => TransactionState::Ended,
            Phase::Indeterminate => TransactionState::Indeterminate,
            Phase::Fenced => TransactionState::Fenced,
            Phase::Committing { .. } => self.settling(Decision::Commit),
            Phase::RollingBack { .. } => self.settling(Decision::Rollback),
        }
    }

    fn settling(&self, decision: Decision) -> TransactionState {
        if self.branches.any(|some| some.awaits) {
            return match decision {
                Decision::Commit => TransactionState::Committing,
                Decision::Rollback => TransactionState::RollingBack,
            };
        }
        if self.branches.any(|some| some.is_parked) {
            return TransactionState::Parked(decision);
        }
        self.heuristic().map_or(TransactionState::Ended, |how| TransactionState::Heuristic(decision, how))
    }

    /// Returns every branch: its participant, its state, and the number of failed attempts since
    /// the decision or the last retry.
    #[must_use]
    pub fn branches(&self) -> impl ExactSizeIterator<Item = (&Name, BranchState, u32)> {
        self.branches.iter().map(|branch| {
            let state = match branch.step {
                Step::Idle => BranchState::Enlisted,
                Step::Asked => BranchState::Asked,
                Step::Yes => BranchState::Promised,
                Step::Due(_) if branch.failures > 0 => BranchState::Failing,
                Step::Due(_) | Step::Sent(_) => BranchState::Told,
                Step::Kept => BranchState::KeptBack,
                Step::Parked => BranchState::Parked,
                Step::Heuristic(outcome) => BranchState::Heuristic(outcome),
                Step::Out => BranchState::Done,
            };
            (&branch.participant, state, branch.failures)
        })
    }

    /// Whether the branch is asked and told before those of the other voters.
    #[must_use]
    pub fn is_early(&self, branch: usize) -> bool {
        self.branches.get(branch).is_some_and(|branch| branch.role == Role::EarlyVoter)
    }

    /// Whether the participant's branch is that of a last resource.
    #[must_use]
    pub fn is_last_resource(&self, participant: &Name) -> bool {
        let last =
            |branch: &super::BranchProgress| branch.role == Role::LastResource && branch.participant == *participant;
        self.branches.iter().any(last)
    }
}
