//! What PostgreSQL's errors mean: SQLSTATE to [`XaErrorKind`].

use std::{error::Error as StdError, time::Duration};

use deadpool_postgres::PoolError;
use ringpact::{
    IdError, causes,
    participant::xa::{XaError, XaErrorKind, XaOpenError, XaWorkError},
};
use thiserror::Error;
use tokio_postgres::{Error, error::Severity, error::SqlState};

use crate::setup::{CHANGED_NOTHING, LATER_LIFE, OTHER_TRANSACTION, SCHEMA_NAME_RULE, SERIALIZABLE_READ_ONLY};

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
    #[error("{name:?} can't be the name of the schema: {SCHEMA_NAME_RULE}")]
    Schema {
        /// The name as given.
        name: String,
    },
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

/// The cause of an [`XaError`].
#[derive(Debug, Error)]
pub(crate) enum PgFailure {
    #[error("{advice}")]
    Advised {
        advice: &'static str,
        #[source]
        source: Error,
    },
    #[error("no answer came within {0:?}")]
    NoAnswer(Duration),
    #[error(
        "no connection of the pool was free within {waited:?}: raise the pool's size of {size}, or end branches sooner"
    )]
    NoConnection { waited: Duration, size: usize },
    #[error("no connection could be had from the pool")]
    Pool(#[source] PoolError),
    #[error("{sessions} sessions that work for earlier branches have not ended within {waited:?}")]
    SessionsLeft { sessions: usize, waited: Duration },
    #[error(
        "the branch's session was lost before the promise: its server or its time-out for idle transactions has ended it"
    )]
    NoSession,
    #[error("the database answered in a form that was not expected: {0}")]
    Malformed(String),
}

/// What was under way when an error came.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum During {
    /// Nothing that could take effect, or something that may be repeated.
    Repeatable,
    /// A promise or a one-phase commit: if no answer comes, it may have been made.
    Promise,
}

/// Returns the error with its kind.
pub(crate) fn failure(error: Error, during: During) -> XaError {
    let kind = kind_of(&error, during);
    match advice(&error) {
        Some(advice) => XaError::new(kind, PgFailure::Advised { advice, source: error }),
        None => XaError::new(kind, error),
    }
}

/// Returns the error of a connection that did not answer in time.
pub(crate) fn no_answer(waited: Duration, during: During) -> XaError {
    let kind = if during == During::Promise { XaErrorKind::Lost } else { XaErrorKind::Unavailable };
    XaError::new(kind, PgFailure::NoAnswer(waited))
}

/// Returns the error of a pool that gave no connection.
pub(crate) fn no_connection(error: PoolError) -> XaError {
    match error {
        PoolError::Backend(error) => failure(error, During::Repeatable),
        error => XaError::new(XaErrorKind::Unavailable, PgFailure::Pool(error)),
    }
}

/// Whether the connection is of no more use after this error.
pub(crate) fn ends_connection(error: &Error) -> bool {
    error.as_db_error().is_none_or(|error| {
        !matches!(error.parsed_severity(), Some(Severity::Error)) || error.code().code().starts_with("57P")
    })
}

/// Whether the error, or one that it comes from, may pass if the whole transaction is tried again.
pub(crate) fn is_transient(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        let of_backend = cause.downcast_ref::<XaError>().is_some_and(|error| error.kind() == XaErrorKind::Transient);
        let is_full = matches!(cause.downcast_ref(), Some(XaWorkError::TooManyPromises { .. }));
        of_backend || is_full || cause.downcast_ref::<Error>().and_then(Error::code).is_some_and(may_pass)
    })
}

/// Whether the error has this SQLSTATE.
pub(crate) fn has_code(error: &Error, code: &str) -> bool {
    error.code().is_some_and(|found| found.code() == code)
}

fn kind_of(error: &Error, during: During) -> XaErrorKind {
    if ends_connection(error) {
        return match (during, error.code()) {
            (During::Promise, _) => XaErrorKind::Lost,
            // Raised while a connection is made, and no repeat helps.
            (_, Some(code)) if is_set_up_wrongly(code) => XaErrorKind::Misconfigured,
            (_, Some(code)) if may_pass(code) => XaErrorKind::Transient,
            _ => XaErrorKind::Unavailable,
        };
    }
    let Some(code) = error.code() else { return XaErrorKind::Refused };
    if may_pass(code) {
        XaErrorKind::Transient
    } else if *code == SqlState::UNDEFINED_OBJECT {
        XaErrorKind::NotThere
    } else if *code == SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE {
        if during == During::Promise { XaErrorKind::Misconfigured } else { XaErrorKind::Busy }
    } else if is_set_up_wrongly(code) {
        XaErrorKind::Misconfigured
    } else {
        XaErrorKind::Refused
    }
}

/// A conflict with others, or a lack of room that others make.
fn may_pass(code: &SqlState) -> bool {
    [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::OUT_OF_MEMORY,
        SqlState::TOO_MANY_CONNECTIONS,
    ]
    .contains(code)
}

fn is_set_up_wrongly(code: &SqlState) -> bool {
    [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::INVALID_SCHEMA_NAME,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
    ]
    .contains(code)
}

/// Returns what to do, if the server's own text does not say it.
fn advice(error: &Error) -> Option<&'static str> {
    Some(match error.code().map(SqlState::code) {
        Some(OTHER_TRANSACTION) => {
            "the work under the branch has ended the branch's transaction by itself, or has changed application_name; what \
             it did is committed or lost without the other branches"
        }
        Some("25P02") => {
            "a statement under the branch has failed, so that its transaction can only be rolled back; return that \
             statement's error instead of committing"
        }
        Some(SERIALIZABLE_READ_ONLY) => "leave READ ONLY out of the branch's isolation level",
        Some(LATER_LIFE) => {
            "the branch's coordinator was opened again since, and has rolled the branch back; end the process of its earlier \
             life"
        }
        Some("53200") => {
            "the server has no room for another prepared transaction: raise max_prepared_transactions, or see why decisions \
             are not delivered"
        }
        Some("55000") => "prepared transactions are switched off, or another session has this one",
        Some("42P01" | "42883" | "3F000") => "the database lacks what PgParticipant::SETUP_SQL sets up",
        Some("42501") => {
            "the role lacks a right: the promises of a branch can only be ended by the role that made them"
        }
        _ => return None,
    })
}

/// Whether the branch has changed nothing, as the promise's function says.
pub(crate) fn has_changed_nothing(error: &Error) -> bool {
    has_code(error, CHANGED_NOTHING)
}
