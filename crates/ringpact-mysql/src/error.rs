//! What can go wrong: the errors of work and of opening, and what the participant makes of an error
//! of the database.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use mysql_async::{DriverError, Error, IoError, ServerError};
use ringpact::{
    IdError,
    participant::xa::{XaError, XaOpenError, XaWorkError},
};
use ringpact_sql::{
    UnsuitableError,
    mysql::{StatementFailure, code_may_pass},
};
use thiserror::Error;

/// An error of the client library. Cheap to clone. Its cause is the [`mysql_async::Error`].
#[derive(Clone, Debug, Error)]
#[error("the database did not carry out a statement")]
pub struct StatementError(#[source] Arc<Error>);

impl StatementError {
    pub(crate) fn new(error: Error) -> Self {
        Self(Arc::new(error))
    }

    /// Returns the client library's error.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.0
    }
}

/// Why work under a branch failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MySqlError {
    /// The branch can't be worked under.
    #[error("no work can be done under the branch")]
    Work(#[from] XaWorkError),
    /// A statement failed. The branch will vote No, because a failed statement does not undo the
    /// statements before it.
    #[error("a statement failed under the branch, which can only be rolled back")]
    Statement(#[from] StatementError),
    /// An earlier statement failed, or the transaction was rolled back meanwhile.
    #[error("the branch can only be rolled back: a statement failed, or the transaction was rolled back meanwhile")]
    Over,
}

/// Why a participant could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MySqlOpenError {
    /// The name is malformed.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The builder was given no database.
    #[error("the participant has no database: call `pool` or `opts` before `open`")]
    NoDatabase,
    /// The database could not be asked.
    #[error("the database could not be asked; see the cause, mend it and open again")]
    Database(#[from] XaError),
    /// The database, or the builder, is set up in a way in which promises would not hold.
    #[error("{problem}. {remedy}")]
    Misconfigured {
        /// What was found.
        problem: String,
        /// What to change, with the statement if one does it.
        remedy: String,
    },
    /// The participant's own opening failed.
    #[error(transparent)]
    Participant(#[from] XaOpenError),
}

impl From<UnsuitableError> for MySqlOpenError {
    fn from(error: UnsuitableError) -> Self {
        match error {
            UnsuitableError::SetUp { problem, change } => Self::Misconfigured { problem, remedy: change },
            UnsuitableError::Database(error) => Self::Database(error),
            error => Self::Misconfigured { problem: error.to_string(), remedy: "Open again".to_owned() },
        }
    }
}

/// Returns the error of a statement that got no answer in this time.
pub(crate) fn no_answer(within: Duration) -> Error {
    let text = format!("the server has not answered within {within:?}");
    Error::Io(IoError::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
}

/// Returns what `ringpact-sql` must know of the error.
pub(crate) fn of_statement(error: Error) -> StatementFailure {
    match &error {
        Error::Server(refusal) => StatementFailure::of_server(refusal.code, error),
        _ => StatementFailure::of_connection(may_pass(&error), error),
    }
}

/// Whether the connection is of no more use, or the answer is not to be believed.
pub(crate) fn is_lost(error: &Error) -> bool {
    match error {
        Error::Server(refusal) => StatementFailure::of_server(refusal.code, "").is_lost(),
        _ => true,
    }
}

/// Whether the whole transaction may succeed if it is tried again.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Server(ServerError { code, .. }) => code_may_pass(*code),
        Error::Io(_) | Error::Driver(DriverError::ConnectionClosed) => true,
        Error::Driver(_) | Error::Other(_) | Error::Url(_) => false,
    }
}

/// Like [`may_pass`], for an error that may be one of this crate's or of the client library.
pub(crate) fn cause_may_pass(cause: &(dyn StdError + 'static)) -> bool {
    cause.downcast_ref::<Error>().is_some_and(may_pass)
        || cause.downcast_ref::<StatementError>().is_some_and(|error| may_pass(error.error()))
        || cause.downcast_ref::<ServerError>().is_some_and(|error| code_may_pass(error.code))
        || matches!(cause.downcast_ref(), Some(MySqlError::Work(XaWorkError::TooManyPromises { .. })))
}

#[cfg(test)]
mod tests {
    use ringpact::{Epoch, Name, TxnId, causes, txn::BranchError};

    use super::*;

    /// A bug: it was hidden, so clients spun at the error while their database was down.
    #[test]
    fn a_refusal_of_the_branch_is_among_the_causes() {
        let txn = TxnId::new(Name::from_static("shop"), Epoch::new(1), 1);
        let error = MySqlError::from(XaWorkError::from(BranchError::Over { txn }));
        assert!(causes(&error).any(<dyn std::error::Error>::is::<BranchError>));
    }
}
