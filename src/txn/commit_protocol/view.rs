//! What can be seen of a transaction from outside.

use std::{fmt, time::Instant};

use super::{CommitProtocol, Phase, Role, Step};
use crate::{
    id::{Name, TxnId},
    log::{Heuristic, Lsn},
    participant::Decision,
};

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransactionState {
    /// A client works under it.
    Active,
    /// Votes are being collected.
    Preparing,
    /// The only participant, or the last resource, was asked to decide.
    Delegated,
    /// All have agreed; the decision is on its way to the disk.
    Deciding,
    /// It is decided to commit; not everybody has acknowledged.
    Committing,
    /// It is decided to roll back; not everybody has acknowledged.
    RollingBack,
    /// Everybody was told often enough, and somebody has not acknowledged. An operator is to look: see
    /// [`Coordinator::retry`](crate::Coordinator::retry) and [`Coordinator::force`](crate::Coordinator::force).
    Parked(Decision),
    /// Somebody has ended otherwise than was decided. Kept until an operator
    /// [forgets](crate::Coordinator::forget) it.
    Heuristic(Decision, Heuristic),
    /// The log failed while it was being decided; only opening it anew tells.
    Indeterminate,
    /// It is over.
    Ended,
}

impl fmt::Display for TransactionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Preparing => f.write_str("preparing"),
            Self::Delegated => f.write_str("delegated"),
            Self::Deciding => f.write_str("deciding"),
            Self::Committing => f.write_str("committing"),
            Self::RollingBack => f.write_str("rolling back"),
            Self::Parked(Decision::Commit) => f.write_str("parked while committing"),
            Self::Parked(Decision::Rollback) => f.write_str("parked while rolling back"),
            Self::Heuristic(Decision::Commit, how) => write!(f, "decided to commit, heuristic: {how}"),
            Self::Heuristic(Decision::Rollback, how) => write!(f, "decided to roll back, heuristic: {how}"),
            Self::Indeterminate => f.write_str("indeterminate"),
            Self::Ended => f.write_str("ended"),
        }
    }
}

/// Where a branch stands, as its coordinator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BranchState {
    /// It takes part; nothing was asked of it yet.
    Enlisted,
    /// It was asked for its vote.
    Asked,
    /// It has promised.
    Promised,
    /// It was told what is decided, or to decide, and has not answered yet.
    Told,
    /// The last telling failed; the next one is due.
    Failing,
    /// It is to be told once its participant answers again.
    KeptBack,
    /// It was told often enough.
    Parked,
    /// It has ended otherwise than was decided.
    Heuristic(Heuristic),
    /// Nothing more is to be said to it.
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
    /// The transaction's id.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        &self.txn
    }

    /// The participant behind a branch's index.
    ///
    /// `None` where no branch has this index.
    #[must_use]
    pub fn participant(&self, branch: usize) -> Option<&Name> {
        self.branches.get(branch).map(|branch| &branch.participant)
    }

    /// The branch of a participant that is already enlisted.
    #[must_use]
    pub fn branch_of(&self, participant: &Name) -> Option<usize> {
        self.branches.iter().position(|branch| branch.participant == *participant)
    }

    /// The record that must become durable before anything else can happen, if that is so.
    #[must_use]
    pub const fn awaits_durable(&self) -> Option<Lsn> {
        match self.phase {
            Phase::Deciding { lsn, .. } => lsn,
            _ => None,
        }
    }

    /// When to feed in the next [`Input::Tick`](super::Input::Tick), if nothing else happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Active => self.expires,
            Phase::Preparing { until } => Some(until),
            Phase::Alone { until } | Phase::LastResource { until } => {
                Some(self.branches.deadline().map_or(until, |at| at.min(until)))
            }
            Phase::Committing { .. } | Phase::RollingBack { .. } => self.branches.deadline(),
            _ => None,
        }
    }

    /// Until when the answer to what a branch was told last is waited for, before it is told again or something else is
    /// done about it.
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

    /// Whether the client has neither asked to commit nor to roll back, and its time is not over.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Active)
    }

    /// Whether [`Action::Finish`](super::Action::Finish) has come out.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// Whether the log failed while the decision was in flight. Only reopening the log tells what was decided.
    #[must_use]
    pub const fn is_indeterminate(&self) -> bool {
        matches!(self.phase, Phase::Indeterminate)
    }

    /// The decision that is being carried out, or is known at all.
    #[must_use]
    pub const fn decision(&self) -> Option<Decision> {
        match self.phase {
            Phase::Committing { .. } => Some(Decision::Commit),
            Phase::RollingBack { .. } => Some(Decision::Rollback),
            _ => None,
        }
    }

    /// Whether what is carried out is a decision to commit of which no record is known to be durable: a last resource has
    /// committed, and the log has not taken the decision. So nothing takes along what participants write, even those who share
    /// the coordinator's log, and they are to be told so: by a [`Call`](crate::participant::Call) that names no log.
    #[must_use]
    pub const fn is_unrecorded(&self) -> bool {
        self.unrecorded
    }

    /// Whether [`Action::Park`](super::Action::Park) has come out, and no operator has acted since.
    #[must_use]
    pub const fn lies_still(&self) -> bool {
        self.lies_still
    }

    /// How often a branch was told in vain since the decision or the last retry.
    #[must_use]
    pub fn failures(&self, branch: usize) -> u32 {
        self.branches.get(branch).map_or(0, |branch| branch.failures)
    }

    /// Who is told no more and has not acknowledged. O(n) in the branches.
    pub fn owed(&self) -> impl Iterator<Item = &Name> {
        self.branches.iter().filter(|branch| branch.step == Step::Parked).map(|branch| &branch.participant)
    }

    /// Who has not acknowledged the decision, be it told again or not. O(n) in the branches.
    pub fn owing(&self) -> impl Iterator<Item = &Name> {
        self.branches.iter().filter(|branch| branch.step.owes_answer()).map(|branch| &branch.participant)
    }

    /// What all branches are together where any has ended otherwise than decided.
    #[must_use]
    pub fn heuristic(&self) -> Option<Heuristic> {
        let decided = match self.decision()? {
            Decision::Commit => Heuristic::Committed,
            Decision::Rollback => Heuristic::RolledBack,
        };
        let own = self.branches.heuristic()?;
        Some(if self.branches.any(|some| some.as_decided) { own.and(decided) } else { own })
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> TransactionState {
        match self.phase {
            Phase::Active => TransactionState::Active,
            Phase::Preparing { .. } => TransactionState::Preparing,
            Phase::Alone { .. } | Phase::LastResource { .. } => TransactionState::Delegated,
            Phase::Deciding { .. } => TransactionState::Deciding,
            Phase::Ended | Phase::Finished => TransactionState::Ended,
            Phase::Indeterminate => TransactionState::Indeterminate,
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

    /// Every branch: whose it is, where it stands, and how often it was told in vain since the decision or the last
    /// retry.
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

    /// Whether a branch is that of a last resource.
    #[must_use]
    pub fn is_last_resource(&self, participant: &Name) -> bool {
        let last =
            |branch: &super::BranchProgress| branch.role == Role::LastResource && branch.participant == *participant;
        self.branches.iter().any(last)
    }
}
