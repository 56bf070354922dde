//! Errors of opening, and what `ringpact-sql` must know of the client library's errors.

use std::error::Error as StdError;

use deadpool_postgres::PoolError;
use ringpact::{
    IdError,
    participant::xa::{XaError, XaOpenError},
};
use ringpact_sql::{
    UnsuitableError,
    postgres::{During, SchemaNameError, StatementFailure, no_pool_connection},
};
use thiserror::Error;
use tokio_postgres::{Error, error::Severity};

/// Why a participant could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PgOpenError {
    /// The participant's name is malformed.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The builder was given no way to the database.
    #[error("participant {participant} has no database: give its builder a pool, or a configuration")]
    NoDatabase {
        /// The participant's name.
        participant: String,
    },
    /// The schema's name would need quotes.
    #[error(transparent)]
    Schema(#[from] SchemaNameError),
    /// The pool could not be built.
    #[error("the pool of connections could not be built")]
    Pool(#[source] Box<dyn StdError + Send + Sync>),
    /// The server, the database or the role can't be used as it is set up.
    #[error("{problem}. {change}")]
    Unsuitable {
        /// What is wrong.
        problem: String,
        /// What to change, with the statement or the setting.
        change: String,
    },
    /// The database could not be asked.
    #[error("the database could not be asked how it is set up; mend that and open again")]
    Database(#[from] XaError),
    /// The participant could not be opened on the database.
    #[error(transparent)]
    Participant(XaOpenError),
}

impl From<UnsuitableError> for PgOpenError {
    fn from(error: UnsuitableError) -> Self {
        match error {
            UnsuitableError::SetUp { problem, change } => Self::Unsuitable { problem, change },
            UnsuitableError::Database(error) => Self::Database(error),
            error => Self::Unsuitable { problem: error.to_string(), change: "Open again".to_owned() },
        }
    }
}

/// Returns what `ringpact-sql` must know of the error.
pub(crate) fn of_statement(error: Error) -> StatementFailure {
    let Some(answer) = error.as_db_error() else { return StatementFailure::of_connection(error) };
    let (code, is_error) = (answer.code().clone(), matches!(answer.parsed_severity(), Some(Severity::Error)));
    StatementFailure::of_server(code.code(), is_error, error)
}

/// Returns the error with its kind.
pub(crate) fn failure(error: Error, during: During) -> XaError {
    ringpact_sql::postgres::failure(of_statement(error), during)
}

/// Returns the error of a pool that gave no connection.
pub(crate) fn no_connection(error: PoolError) -> XaError {
    match error {
        PoolError::Backend(error) => failure(error, During::Repeatable),
        error => no_pool_connection(error),
    }
}

/// Whether the connection is of no more use after this error.
pub(crate) fn ends_connection(error: &Error) -> bool {
    error.as_db_error().is_none_or(|error| {
        !matches!(error.parsed_severity(), Some(Severity::Error)) || error.code().code().starts_with("57P")
    })
}
