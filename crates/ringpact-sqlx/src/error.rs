//! Why a participant could not be opened: [`SqlxOpenError`].

use ringpact::{
    IdError,
    participant::xa::{XaError, XaOpenError},
};
use ringpact_sql::{UnsuitableError, postgres::SchemaNameError};
use thiserror::Error;

/// Why a participant could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SqlxOpenError {
    /// The participant's name is malformed.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The builder was given no pool.
    #[error("participant {participant} has no database: give its builder a pool")]
    NoPool {
        /// The participant's name.
        participant: String,
    },
    /// The schema's name would need quotes.
    #[error(transparent)]
    Schema(#[from] SchemaNameError),
    /// The server, the database, its user or the pool can't be used as they are set up.
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
    Participant(#[from] XaOpenError),
}

impl From<UnsuitableError> for SqlxOpenError {
    fn from(error: UnsuitableError) -> Self {
        match error {
            UnsuitableError::SetUp { problem, change } => Self::Unsuitable { problem, change },
            UnsuitableError::Database(error) => Self::Database(error),
            error => Self::Unsuitable { problem: error.to_string(), change: "Open again".to_owned() },
        }
    }
}
