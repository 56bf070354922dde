//! [`Transaction`]: what a client works under until it commits.

use std::{fmt, sync::Arc};

use thiserror::Error;

use super::{Commit, Input, driver::Driven, task::Task};
use crate::id::{BranchId, IdError, Name, TxnId};

/// A transaction that has begun. Do work at the participants under its [branches](Self::branch), then
/// [`commit`](Self::commit). Dropping it rolls it back.
#[must_use = "dropping a transaction rolls it back"]
pub struct Transaction {
    task: Arc<Task>,
    txn: TxnId,
    branches: Vec<BranchId>,
    handed_over: bool,
}

impl Transaction {
    pub(super) const fn new(task: Arc<Task>, txn: TxnId) -> Self {
        Self { task, txn, branches: Vec::new(), handed_over: false }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> &TxnId {
        &self.txn
    }

    /// The branch id under which to work at `participant`; from the first call on, the participant takes part in
    /// the transaction. Give the id to the participant along with the work, in a header if it is elsewhere.
    ///
    /// # Errors
    /// [`BranchError::UnknownParticipant`] where the coordinator was built without it; [`BranchError::Over`] where the
    /// transaction's time has run out; [`BranchError::SecondLastResource`].
    pub fn branch(&mut self, participant: impl AsRef<str>) -> Result<&BranchId, BranchError> {
        let participant = participant.as_ref();
        if let Some(index) = self.branches.iter().position(|branch| branch.participant().as_str() == participant) {
            return Ok(&self.branches[index]);
        }
        let name = Name::new(participant)?;
        let Some((name, member)) = self.task.shared().members.get_key_value(&name) else {
            return Err(BranchError::UnknownParticipant { participant: name });
        };
        self.task.enlist(name, member)?;
        self.branches.push(self.txn.branch(name));
        Ok(&self.branches[self.branches.len() - 1])
    }

    /// Commits. The participants of this process are asked for their votes, and the decision is handed to the log,
    /// before this returns; the [`Commit`] tells the outcome.
    pub fn commit(mut self) -> Commit {
        let task = self.hand_over(Input::Commit);
        task.attend();
        task.drive();
        Commit::new(self.txn.clone(), task)
    }

    /// Rolls back: nothing of it happens. The participants of this process have undone their work when this returns.
    pub fn rollback(self) {
        drop(self);
    }

    fn hand_over(&mut self, input: Input) -> Arc<Task> {
        self.handed_over = true;
        self.task.push(input);
        self.task.shared().running(&self.task);
        Arc::clone(&self.task)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.handed_over {
            (self.hand_over(Input::Rollback) as Arc<dyn Driven>).run();
        }
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("txn", &self.txn).field("branches", &self.branches).finish_non_exhaustive()
    }
}

/// Why there is no such branch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchError {
    /// The coordinator does not know the participant.
    #[error("the coordinator knows no participant {participant}; name it to the builder before opening")]
    UnknownParticipant {
        /// Who was asked for.
        participant: Name,
    },
    /// The transaction takes no more branches.
    #[error("transaction {txn} is over: its time has run out, or its coordinator is shutting down; begin a new one")]
    Over {
        /// The transaction.
        txn: TxnId,
    },
    /// The transaction has a last resource already.
    #[error(
        "{participant} can't promise, and the transaction has one such participant already; two can't be made sure of"
    )]
    SecondLastResource {
        /// Who was asked for.
        participant: Name,
    },
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
}
