//! What an operator can do about a transaction that has come to a stop.

use std::sync::Arc;

use thiserror::Error;

use super::{
    Coordinator, Input, TransactionState,
    driver::{By, Driven},
};
use crate::{
    id::{Name, TxnId},
    participant::Decision,
};

/// For operators: what [`status`](Coordinator::status) shows, and what can be done about it.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, txn::TransactionState};
///
/// let coordinator = Coordinator::builder(MemoryLog::new()).open()?;
/// // .. some time later, on an operator's page:
/// for transaction in coordinator.status().transactions {
///     match transaction.state {
///         // Try again what has been given up for now;
///         TransactionState::Parked(_) => coordinator.retry(&transaction.txn)?,
///         // and say that somebody has seen to the data of what did not end alike everywhere.
///         TransactionState::Heuristic(..) => coordinator.forget(&transaction.txn)?,
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Coordinator {
    /// Delivers a transaction's decision again: at once where it is waiting for the next attempt, and from the beginning,
    /// with as many attempts as the policy allows, where it is parked. Branches that once knew nothing of themselves are
    /// told again, too; their log may have been found meanwhile. It is nothing to a transaction that is not decided yet.
    ///
    /// # Errors
    /// [`OperatorError::Unknown`].
    pub fn retry(&self, txn: &TxnId) -> Result<(), OperatorError> {
        let tasks = self.shared.tasks_of(txn.ordinal());
        if tasks.is_empty() || txn.coordinator() != self.name() {
            return Err(OperatorError::Unknown { txn: txn.clone() });
        }
        tasks.iter().for_each(|task| self.shared.retry_now(task));
        Ok(())
    }

    /// Retries everything that is parked, and says how many transactions that were.
    pub fn retry_all(&self) -> usize {
        let tasks = self.shared.parked_tasks();
        tasks.iter().for_each(|task| self.shared.retry_now(task));
        tasks.len()
    }

    /// Parks a transaction's decision now, instead of after the policy's `park_after`: nobody is told it any more. It can be
    /// [forced](Self::force) then, where its participants are known to be gone for good.
    ///
    /// # Errors
    /// [`OperatorError::Unknown`]; [`OperatorError::NotDecided`], of one that is not being committed or rolled back.
    pub fn park(&self, txn: &TxnId) -> Result<(), OperatorError> {
        self.shared.act(txn, Input::Park, |state| match state {
            TransactionState::Committing | TransactionState::RollingBack | TransactionState::Parked(_) => Ok(()),
            state => Err(OperatorError::NotDecided { txn: txn.clone(), state }),
        })
    }

    /// Parks every decision that this participant has not acknowledged, and says how many that were. What its
    /// transactions owe to others is told on. O(n) in the transactions that are open.
    pub fn give_up(&self, participant: &str) -> usize {
        let Ok(participant) = Name::new(participant) else { return 0 };
        let owing = self.shared.tasks().into_iter().filter_map(|task| Some((task.owing_of(&participant)?, task)));
        let owing: Vec<_> = owing.collect();
        let given_up = owing.len();
        for (index, task) in owing {
            task.push(Input::GiveUp(index));
            (task as Arc<dyn Driven>).run(By::Worker);
        }
        given_up
    }

    /// Takes an operator's word for how the parked branches of a transaction have ended: he has looked at them and settled
    /// them by hand, or has given them up. Nothing more is said to them.
    ///
    /// Where his word is what was decided, the transaction ends. Where it isn't, it is [heuristic](crate::log::Heuristic)
    /// from here on, and stays to be seen until it is [forgotten](Self::forget).
    ///
    /// # Errors
    /// [`OperatorError::NotParked`]: the coordinator is still at it, and a decision that is made by hand meanwhile might
    /// tear the transaction apart for nothing.
    pub fn force(&self, txn: &TxnId, ended_as: Decision) -> Result<(), OperatorError> {
        self.shared.act(txn, Input::Force(ended_as), |state| match state {
            TransactionState::Parked(_) => Ok(()),
            state => Err(OperatorError::NotParked { txn: txn.clone(), state }),
        })
    }

    /// Ends an [unclaimed](super::UnclaimedBranch) transaction as an operator says, at all participants that have reported a
    /// branch of it. Before a commit is told to anybody it is made durable, as a decision of this coordinator's own is.
    ///
    /// The operator has found out how the other branches of the transaction have ended: if one of them is committed, all of
    /// them are; otherwise all are rolled back. Blocks for one write of the log at most.
    ///
    /// # Errors
    /// [`OperatorError::Unknown`]: no participant has reported a branch of it. [`OperatorError::Log`]: the decision could not
    /// be made durable; nobody was told, and the branches stay unclaimed.
    pub fn settle_unclaimed(&self, txn: &TxnId, decision: Decision) -> Result<(), OperatorError> {
        self.shared.settle_unclaimed(txn, decision)
    }

    /// Forgets a heuristic outcome that an operator has seen and dealt with.
    ///
    /// # Errors
    /// [`OperatorError::NotHeuristic`]: it has none. A transaction that is parked is forced first, so that nobody forgets
    /// a branch that has promised and still waits.
    pub fn forget(&self, txn: &TxnId) -> Result<(), OperatorError> {
        self.shared.act(txn, Input::Forget, |state| match state {
            TransactionState::Heuristic(..) => Ok(()),
            state => Err(OperatorError::NotHeuristic { txn: txn.clone(), state }),
        })
    }
}

/// Why an operator's wish was not carried out. Nothing has changed then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperatorError {
    /// No such transaction is open.
    #[error("no transaction {txn} is open here; it has ended, or is another coordinator's")]
    Unknown {
        /// What was asked for.
        txn: TxnId,
    },
    /// The log could not take what the operator has decided.
    #[error("the decision about transaction {txn} could not be logged: {error}; nothing was told to any participant")]
    Log {
        /// The transaction.
        txn: TxnId,
        /// What the log said.
        error: String,
    },
    /// The transaction is not parked.
    #[error("transaction {txn} is {state}, not parked; retry it, or park it first")]
    NotParked {
        /// The transaction.
        txn: TxnId,
        /// Where it stands.
        state: TransactionState,
    },
    /// The transaction's decision is not being delivered.
    #[error("transaction {txn} is {state}, and there is no decision to park; only what is delivered can be")]
    NotDecided {
        /// The transaction.
        txn: TxnId,
        /// Where it stands.
        state: TransactionState,
    },
    /// The transaction has no heuristic outcome.
    #[error(
        "transaction {txn} is {state} and has no heuristic outcome to forget; where it is parked, retry or force it"
    )]
    NotHeuristic {
        /// The transaction.
        txn: TxnId,
        /// Where it stands.
        state: TransactionState,
    },
}
