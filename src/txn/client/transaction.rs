//! [`Transaction`]: a transaction under which its client works.

use std::{collections::BTreeMap, fmt, mem, sync::Arc, time::Duration};

use thiserror::Error;

use crate::{
    id::{BranchId, IdError, Name, TxnId},
    log::holder_in_words,
    txn::{
        Commit, Input, Refusal,
        engine::{
            circuit::Admitted,
            members::MemberStanding,
            scheduler::{Runnable, Runner},
            transaction_driver::{MemberBranch, TransactionDriver},
        },
    },
};

/// Number of branches up to which a linear search finds one.
const FEW: usize = 8;

/// A transaction that has begun. Do work at the participants under its [branches](Self::branch),
/// then [`commit`](Self::commit). Dropping it rolls it back. One thread or task owns it; it can be
/// moved to another.
#[must_use = "dropping a transaction rolls it back"]
pub struct Transaction {
    driver: Arc<TransactionDriver>,
    member_branches: Vec<MemberBranch>,
    /// Index of each participant's branch, by the participant's number, once there are more than a
    /// [`FEW`].
    indices: BTreeMap<usize, usize>,
    is_committed: bool,
}

impl Transaction {
    pub(in crate::txn) const fn new(driver: Arc<TransactionDriver>) -> Self {
        Self { driver, member_branches: Vec::new(), indices: BTreeMap::new(), is_committed: false }
    }

    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &TxnId {
        self.driver.txn()
    }

    /// Returns the branch id under which to work at `participant`. From the first call on, the
    /// participant takes part in the transaction. Give the id to the participant with the work, in
    /// a header if it is in another process. Does not block and calls no participant. O(log n) in
    /// the coordinator's participants.
    ///
    /// # Errors
    ///
    /// [`BranchError::UnknownParticipant`] if the coordinator does not have it;
    /// [`BranchError::Retiring`] if it is being dropped;
    /// [`BranchError::Over`] if the transaction's time has run out; [`BranchError::Fenced`] if the
    /// coordinator has lost its log; [`BranchError::SecondLastResource`]; [`BranchError::Refused`] if the participant does not
    /// answer, or has more work than it can do in time.
    pub fn branch(&mut self, participant: impl AsRef<str>) -> Result<&BranchId, BranchError> {
        let participant = participant.as_ref();
        let index = match self.find(participant) {
            Some(index) => index,
            None => self.enlist(participant)?,
        };
        Ok(&self.member_branches[index].branch)
    }

    /// Whether the participant takes part in the transaction.
    #[must_use]
    pub fn has_branch(&self, participant: impl AsRef<str>) -> bool {
        self.find(participant.as_ref()).is_some()
    }

    fn find(&self, participant: &str) -> Option<usize> {
        if self.indices.is_empty() {
            return self
                .member_branches
                .iter()
                .position(|member_branch| member_branch.branch.participant().as_str() == participant);
        }
        self.indices.get(&self.driver.core().members.find(participant)?).copied()
    }

    fn enlist(&mut self, participant: &str) -> Result<usize, BranchError> {
        let members = &self.driver.core().members;
        let Some(number) = members.find(participant) else {
            return Err(BranchError::UnknownParticipant { participant: Name::new(participant)? });
        };
        let is_trial = self.driver.core().admits(number)? == Admitted::AsTrial;
        let index = match self.driver.enlist(number) {
            Ok(index) => index,
            Err(error) => {
                if is_trial {
                    self.driver.core().withdraws_trial(number);
                }
                return Err(error);
            }
        };
        let branch = self.id().branch(&members[number].name);
        debug_assert_eq!(index, self.member_branches.len(), "branches have the indices of the protocol");
        self.member_branches.push(MemberBranch { branch, member: Some(number), is_trial });
        if index >= FEW {
            // All of them, when there are too many for the first time.
            let unindexed = if self.indices.is_empty() { 0 } else { index };
            let numbers = self.member_branches.iter().enumerate().skip(unindexed);
            self.indices.extend(numbers.filter_map(|(index, at)| Some((at.member?, index))));
        }
        Ok(index)
    }

    /// Takes a participant out of the transaction again, which then goes on without it: the
    /// coordinator sends it nothing, and no record names it. If one other participant is left, that one
    /// decides alone; if it was the last resource, the transaction can have another one.
    /// [`branch`](Self::branch) enlists it again, under the same branch id. Does not block and calls no
    /// participant. O(n) in the branches.
    ///
    /// **Only for a participant that has answered, definitely, that it did nothing under the branch**:
    /// it refused the only work and keeps no trace of it, as a [`Service`](crate::Service) with a
    /// refusal that [does not doom](crate::Service::dooms). After an error that leaves open whether
    /// something was done, roll back. Work that the participant holds all the same is lost without an
    /// error if the transaction commits: the participant rolls it back by itself, some time after the
    /// transaction has ended.
    ///
    /// # Errors
    ///
    /// [`BranchError::NotEnlisted`] if the participant is not in the transaction;
    /// [`BranchError::Over`] if the transaction's time has run out.
    pub fn withdraw(&mut self, participant: impl AsRef<str>) -> Result<(), BranchError> {
        let participant = participant.as_ref();
        let Some(index) = self.find(participant) else {
            return Err(BranchError::NotEnlisted { participant: Name::new(participant)? });
        };
        self.driver.withdraw(index)?;
        let withdrawn = self.member_branches.remove(index);
        if self.member_branches.len() <= FEW {
            self.indices.clear();
        }
        self.indices.retain(|number, _| Some(*number) != withdrawn.member);
        self.indices.values_mut().filter(|later| **later > index).for_each(|later| *later -= 1);
        let core = self.driver.core();
        if let Some(number) = withdrawn.member {
            if withdrawn.is_trial {
                core.withdraws_trial(number);
            }
            if core.members[number].standing() != MemberStanding::Takes {
                core.may_let_go(&self.driver);
            }
        }
        Ok(())
    }

    /// Moves the transaction out of a place that still has a drop to come. What is left does nothing.
    pub(super) fn move_out(&mut self) -> Self {
        let moved = Self {
            driver: Arc::clone(&self.driver),
            member_branches: mem::take(&mut self.member_branches),
            indices: mem::take(&mut self.indices),
            is_committed: self.is_committed,
        };
        self.is_committed = true;
        moved
    }

    /// Commits. Before this returns, it calls participants that answer at once for their votes, and
    /// appends the decision to the log. So it takes as long as these calls; it does not wait for
    /// the disk or for other participants. The [`Commit`] waits for the outcome.
    pub fn commit(mut self) -> Commit {
        self.is_committed = true;
        self.driver.take_from_client();
        let progress = self.driver.commit(mem::take(&mut self.member_branches));
        Commit::new(Arc::clone(&self.driver), progress)
    }

    /// Rolls back: no part of it happens. Participants that answer at once have undone their work
    /// when this returns.
    pub fn rollback(self) {
        drop(self);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.is_committed {
            // In this order: no other thread drives a transaction that its client owns.
            self.driver.take_from_client();
            self.driver.push(Input::Rollback);
            (Arc::clone(&self.driver) as Arc<dyn Runnable>).run(Runner::Caller);
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches: Vec<_> = self.member_branches.iter().map(|member_branch| &member_branch.branch).collect();
        f.debug_struct("Transaction").field("txn", self.id()).field("branches", &branches).finish_non_exhaustive()
    }
}

/// Reason why a transaction has no such branch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchError {
    /// The coordinator does not know the participant.
    #[error("the coordinator knows no participant {participant}; add it, or name it to the builder before opening")]
    UnknownParticipant {
        /// The participant.
        participant: Name,
    },
    /// The participant [retires](crate::Coordinator::retire): it gets no new branches, and is dropped when
    /// the open transactions with a branch of it have ended.
    #[error("{participant} retires, and takes no new branches; work elsewhere, or add it again when it is gone")]
    Retiring {
        /// The participant.
        participant: Name,
    },
    /// A participant that is not in the transaction cannot be withdrawn from it.
    #[error("{participant} is not in the transaction, so it cannot be withdrawn from it")]
    NotEnlisted {
        /// The participant.
        participant: Name,
    },
    /// The transaction takes no more branches.
    #[error("transaction {txn} is over: its time has run out, or its coordinator is shutting down; begin a new one")]
    Over {
        /// The transaction.
        txn: TxnId,
    },
    /// Another holder has taken the coordinator's log over, and the transaction is rolled back.
    #[error(
        "transaction {txn} is rolled back: the coordinator's log was taken over by {}; begin a new one at the coordinator there",
        holder_in_words(.holder.as_deref())
    )]
    Fenced {
        /// The transaction.
        txn: TxnId,
        /// The new holder, as it names itself, if that is known.
        holder: Option<Arc<str>>,
    },
    /// The transaction has a last resource already.
    #[error(
        "{participant} is a last resource, and the transaction already has one; with two of them no outcome could be guaranteed"
    )]
    SecondLastResource {
        /// The participant.
        participant: Name,
    },
    /// The participant gets no new branches for now, because it could not finish them in time. The
    /// transaction can go on without it, or be tried again as a new one. See
    /// [`CoordinatorStatus::circuits`](crate::txn::CoordinatorStatus::circuits).
    #[error(
        "{participant} takes no new branches: {why}, {outstanding} outstanding, for {since:.1?}; try again later, and see the coordinator's status"
    )]
    Refused {
        /// The participant.
        participant: Name,
        /// The reason.
        why: Refusal,
        /// Number of votes and acknowledgements that it owes.
        outstanding: usize,
        /// Time since which it gets no new branches.
        since: Duration,
    },
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
}
