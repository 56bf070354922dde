//! [`RunError`]: why `run` gave up.

use std::{error::Error as StdError, fmt, time::Duration};

use crate::{id::TxnId, txn::CommitError};

/// An error of the work that [`Coordinator::run`](crate::Coordinator::run) is given, of any type.
/// Every error type, `anyhow::Error` and boxed errors become one by `?`.
pub type WorkError = Box<dyn StdError + Send + Sync>;

/// Reason why [`Coordinator::run`](crate::Coordinator::run) gave up. The text never repeats the
/// [`source`](StdError::source); [`error_chain`](crate::error_chain) prints the whole chain in one
/// line.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The work returned an error that is not transient. The transaction was rolled back.
    Work(WorkError),
    /// The transaction was rolled back when it was to commit, for a reason that another attempt would
    /// not change.
    RolledBack(Box<CommitError>),
    /// What failed was transient each time, and the number of attempts or the time is used up. All
    /// attempts were rolled back.
    GaveUp {
        /// Number of attempts.
        attempts: u32,
        /// Time from the call to the end of the last attempt.
        elapsed: Duration,
        /// How the last attempt failed: [`Work`](Self::Work) or [`RolledBack`](Self::RolledBack).
        last: Box<Self>,
    },
    /// It is not known whether the transaction committed; see [`CommitError::Indeterminate`]. It was
    /// not tried again, because it may have taken effect.
    Indeterminate(Box<CommitError>),
    /// The transaction ended differently at its participants; see [`CommitError::Heuristic`]. It was
    /// not tried again.
    Heuristic(Box<CommitError>),
    /// The work returned a value and kept its [`Attempt`](crate::txn::Attempt), so there was nothing to
    /// commit. The transaction is rolled back when the attempt is dropped.
    Kept {
        /// The transaction.
        txn: TxnId,
    },
}

impl RunError {
    /// Whether it is certain that no part of the transaction has happened or will happen.
    #[must_use]
    pub const fn is_rolled_back(&self) -> bool {
        !matches!(self, Self::Indeterminate(_) | Self::Heuristic(_))
    }

    /// Rolls back the transaction of work that has failed.
    pub(super) fn of_work(error: impl Into<WorkError>, txn: impl Sized) -> Self {
        drop(txn);
        Self::Work(error.into())
    }

    pub(super) fn of_commit(error: CommitError) -> Self {
        match error {
            CommitError::RolledBack { .. } => Self::RolledBack(Box::new(error)),
            CommitError::Indeterminate { .. } => Self::Indeterminate(Box::new(error)),
            CommitError::Heuristic { .. } => Self::Heuristic(Box::new(error)),
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(_) => f.write_str(
                "the work failed, and its transaction was rolled back; remove the cause, then run it again",
            ),
            Self::RolledBack(_) => f.write_str(
                "the transaction could not commit, and no part of it has happened; remove the cause, then run it again",
            ),
            Self::GaveUp { attempts, elapsed, .. } => write!(
                f,
                "gave up after {attempts} attempts in {elapsed:.1?}, and no part of the transaction has happened; run it \
                 again later, or give it more attempts or time"
            ),
            Self::Indeterminate(_) => f.write_str(
                "it is not known whether the transaction has happened, so it was not tried again, and to run it again could \
                 do it twice; look at the data first",
            ),
            Self::Heuristic(_) => f.write_str(
                "the transaction has not ended the same everywhere, so it was not tried again; an operator must mend the \
                 data first",
            ),
            Self::Kept { txn } => write!(
                f,
                "the work has returned and kept transaction {txn}, which can therefore not commit; let the work drop its \
                 attempt before it returns"
            ),
        }
    }
}

impl StdError for RunError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Work(error) => Some(&**error),
            Self::RolledBack(error) | Self::Indeterminate(error) | Self::Heuristic(error) => Some(&**error),
            Self::GaveUp { last, .. } => Some(&**last),
            Self::Kept { .. } => None,
        }
    }
}
