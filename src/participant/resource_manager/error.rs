//! What can go wrong at [`execute`](super::ResourceManager::execute) and at [`open`](super::ResourceManager::open).

use thiserror::Error;

use crate::{
    id::{BranchId, IdError, Name},
    log::LogError,
    participant::ServiceError,
};

/// Why a piece of work was not done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExecuteError<R> {
    /// The service refused; the transaction can only be rolled back.
    #[error("{0}")]
    Refused(#[source] R),
    /// The branch takes no more work: it was asked to prepare, or is over.
    #[error("branch {branch} takes no more work: its transaction is being committed or is over; begin a new one")]
    Closed {
        /// The branch.
        branch: BranchId,
    },
    /// The branch names another participant.
    #[error("branch {branch} is not for participant {participant}; pass the id that the transaction gave for it")]
    Misrouted {
        /// The branch as it came.
        branch: BranchId,
        /// Who got it.
        participant: Name,
    },
}

/// Why a resource manager could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What the log holds of a branch is not this service's work.
    #[error("the work of branch {branch} can't be read ({error}); open it with the service version that wrote it")]
    Work {
        /// The branch.
        branch: BranchId,
        /// What the decoder said.
        error: ServiceError,
    },
    /// The log says that a branch is committed, and not what that means.
    #[error("the log says that {branch} is committed but not with what work; it was not written by this library")]
    Incomplete {
        /// The branch.
        branch: BranchId,
    },
    /// The service could not take back what it had promised or done.
    #[error("the service could not restore or confirm branch {branch}: {error}; mend it and open again")]
    Service {
        /// The branch.
        branch: BranchId,
        /// What the service said.
        error: ServiceError,
    },
}
