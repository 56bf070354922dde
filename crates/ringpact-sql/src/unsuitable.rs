//! What is wrong with a database that a participant is to open on: [`UnsuitableError`].

use ringpact::participant::xa::XaError;
use thiserror::Error;

/// Why a database can't take part as it is set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnsuitableError {
    /// The server, the database or its user can't be used as they are set up.
    #[error("{problem}. {change}")]
    SetUp {
        /// What is wrong.
        problem: String,
        /// What to change, with the statement or the setting.
        change: String,
    },
    /// The database could not be asked.
    #[error("the database could not be asked how it is set up; mend that and open again")]
    Database(#[from] XaError),
}

impl UnsuitableError {
    /// Returns the error of this problem, as a result.
    pub(crate) fn of<T>(problem: impl Into<String>, change: impl Into<String>) -> Result<T, Self> {
        Err(Self::SetUp { problem: problem.into(), change: change.into() })
    }
}
