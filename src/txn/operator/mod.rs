//! The operator's calls: retry, park, force, settle and forget transactions.
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | the operator's calls |
//! | `status.rs` | what an operator sees |
//! | `unclaimed.rs` | branches that the coordinator never gave out |

pub(super) mod status;
pub(super) mod unclaimed;

use std::sync::Arc;

use thiserror::Error;

use crate::{
    id::{Name, TxnId},
    log::LogError,
    participant::Decision,
    txn::{
        Coordinator, Input, TransactionState,
        engine::scheduler::{Runnable, Runner},
    },
};

/// For operators: what to do about transactions that [`status`](Coordinator::status) shows. None of
/// these calls waits for a participant.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, txn::TransactionState};
///
/// let coordinator = Coordinator::builder(MemoryLog::new()).open()?;
/// // .. some time later, on an operator's page:
/// for transaction in coordinator.status().transactions {
///     match transaction.state {
///         // Deliver a parked decision again, after its participant was repaired;
///         TransactionState::Parked(_) => coordinator.retry(&transaction.txn)?,
///         // and forget a heuristic outcome, after its data was repaired.
///         TransactionState::Heuristic(..) => coordinator.forget(&transaction.txn)?,
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Coordinator {
    /// Delivers a transaction's decision again. If it waits for its next attempt, the attempt comes
    /// at once. If it is parked, delivery starts from the beginning, with as many attempts as the
    /// policy allows. Branches that were unknown to their participant are told again, too, because
    /// the participant's log may have been found meanwhile. The call changes nothing for a
    /// transaction that is not decided yet.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Unknown`]: no such transaction is open.
    pub fn retry(&self, txn: &TxnId) -> Result<(), OperatorError> {
        let drivers = self.core.drivers_of(txn.ordinal());
        if drivers.is_empty() || txn.coordinator() != self.name() {
            return Err(OperatorError::Unknown { txn: txn.clone() });
        }
        drivers.iter().for_each(|driver| self.core.retry_now(driver));
        Ok(())
    }

    /// Retries all parked transactions, and returns their number. O(n) in them.
    pub fn retry_all(&self) -> usize {
        let drivers = self.core.parked_drivers();
        drivers.iter().for_each(|driver| self.core.retry_now(driver));
        drivers.len()
    }

    /// Parks a transaction's decision now, instead of after the policy's `park_after`: the
    /// coordinator no longer delivers it. It can then be [forced](Self::force), if its participants
    /// are known to be gone for good.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Unknown`]: no such transaction is open. [`OperatorError::NotDecided`]: it
    /// is not being committed or rolled back.
    pub fn park(&self, txn: &TxnId) -> Result<(), OperatorError> {
        self.core.act(txn, Input::Park, |state| match state {
            TransactionState::Committing | TransactionState::RollingBack | TransactionState::Parked(_) => Ok(()),
            state => Err(OperatorError::NotDecided { txn: txn.clone(), state }),
        })
    }

    /// Parks every decision that this participant has not acknowledged, and returns their number.
    /// Other participants of these transactions are still told. O(n) in the open transactions.
    pub fn give_up(&self, participant: &str) -> usize {
        let Ok(participant) = Name::new(participant) else { return 0 };
        let owing = self.core.drivers().into_iter().filter_map(|driver| Some((driver.owing_of(&participant)?, driver)));
        let owing: Vec<_> = owing.collect();
        let given_up = owing.len();
        for (index, driver) in owing {
            driver.push(Input::GiveUp(index));
            (driver as Arc<dyn Runnable>).run(Runner::Worker);
        }
        given_up
    }

    /// Records how the parked branches of a transaction ended, after an operator resolved them by
    /// hand or gave them up. The coordinator sends them nothing more.
    ///
    /// If they ended as decided, the transaction ends. If not, it is
    /// [heuristic](crate::log::Heuristic) from then on, and stays in the status until it is
    /// [forgotten](Self::forget).
    ///
    /// # Errors
    ///
    /// [`OperatorError::Unknown`]: no such transaction is open. [`OperatorError::NotParked`]: the
    /// coordinator still delivers the decision, and an end by hand meanwhile might tear the
    /// transaction apart without need.
    pub fn force(&self, txn: &TxnId, ended_as: Decision) -> Result<(), OperatorError> {
        self.core.act(txn, Input::Force(ended_as), |state| match state {
            TransactionState::Parked(_) => Ok(()),
            state => Err(OperatorError::NotParked { txn: txn.clone(), state }),
        })
    }

    /// Ends an [unclaimed](crate::txn::UnclaimedBranch) transaction with the operator's decision,
    /// at all participants that have reported a branch of it. A commit is durable before a
    /// participant is told, like the coordinator's own decisions.
    ///
    /// First find out how the other branches of the transaction ended: if one of them is committed,
    /// commit; otherwise roll back. Blocks for at most one write of the log; from async code use a
    /// thread for blocking work.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Unknown`]: no participant has reported a branch of it.
    /// [`OperatorError::Log`]: the decision could not be made durable; no participant was told, and
    /// the branches stay unclaimed.
    pub fn settle_unclaimed(&self, txn: &TxnId, decision: Decision) -> Result<(), OperatorError> {
        self.core.settle_unclaimed(txn, decision)
    }

    /// Forgets a heuristic outcome that an operator has seen and dealt with.
    ///
    /// # Errors
    ///
    /// [`OperatorError::Unknown`]: no such transaction is open. [`OperatorError::NotHeuristic`]: it
    /// has no heuristic outcome. Force a parked transaction first, so that no branch that has
    /// promised and still waits is forgotten.
    pub fn forget(&self, txn: &TxnId) -> Result<(), OperatorError> {
        self.core.act(txn, Input::Forget, |state| match state {
            TransactionState::Heuristic(..) => Ok(()),
            state => Err(OperatorError::NotHeuristic { txn: txn.clone(), state }),
        })
    }
}

/// Reason why an operator's call was refused. Nothing has changed then.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// No such transaction is open.
    #[error("no transaction {txn} is open here; it has ended, or is another coordinator's")]
    Unknown {
        /// The transaction that the operator named.
        txn: TxnId,
    },
    /// The log could not take the operator's decision.
    #[error("the decision about transaction {txn} could not be logged; no participant was told")]
    Log {
        /// The transaction.
        txn: TxnId,
        /// The log's error.
        #[source]
        error: LogError,
    },
    /// The transaction is not parked.
    #[error("transaction {txn} is {state}, not parked; retry it, or park it first")]
    NotParked {
        /// The transaction.
        txn: TxnId,
        /// State of the transaction.
        state: TransactionState,
    },
    /// The transaction's decision is not being delivered.
    #[error(
        "transaction {txn} is {state}, and has no decision to park; only a decision that is being delivered can be parked"
    )]
    NotDecided {
        /// The transaction.
        txn: TxnId,
        /// State of the transaction.
        state: TransactionState,
    },
    /// The transaction has no heuristic outcome.
    #[error("transaction {txn} is {state} and has no heuristic outcome to forget; if it is parked, retry or force it")]
    NotHeuristic {
        /// The transaction.
        txn: TxnId,
        /// State of the transaction.
        state: TransactionState,
    },
}
