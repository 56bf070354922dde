//! What PostgreSQL's errors mean: SQLSTATE to [`XaErrorKind`].

use std::{error::Error as StdError, time::Duration};

use ringpact::{
    causes,
    participant::xa::{XaError, XaErrorKind},
};
use thiserror::Error;

use super::{
    client::PgClient,
    setup::{CHANGED_NOTHING, LATER_LIFE, OTHER_TRANSACTION, SERIALIZABLE_READ_ONLY, WRITABLE_SESSION},
};
use crate::transient;

/// An error of a client library, with what this crate must know of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct StatementFailure {
    /// The server's SQLSTATE; `None` if the error is not an answer of the server.
    pub code: Option<String>,
    /// Whether the connection is of no more use.
    pub ends_connection: bool,
    /// The client library's error.
    pub source: Box<dyn StdError + Send + Sync>,
}

impl StatementFailure {
    /// Returns the error of a server's answer, with its SQLSTATE. `is_error` says whether its severity is `ERROR`; a higher
    /// one ends the connection.
    pub fn of_server(code: &str, is_error: bool, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let ends_connection = !is_error || code.starts_with("57P");
        Self { code: Some(code.to_owned()), ends_connection, source: source.into() }
    }

    /// Returns the error of a connection from which no answer came.
    pub fn of_connection(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { code: None, ends_connection: true, source: source.into() }
    }
}

/// Why a branch without a session can't promise.
const NO_SESSION: &str =
    "the branch's session was lost before the promise: its server or its time-out for idle transactions has ended it";

/// The cause of an [`XaError`].
#[derive(Debug, Error)]
pub(crate) enum PgFailure {
    #[error("{advice}")]
    Advised {
        advice: &'static str,
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    #[error("no answer came within {0:?}")]
    NoAnswer(Duration),
    #[error(
        "no connection of the pool was free within {waited:?}: raise the pool's size of {size}, or end branches sooner"
    )]
    NoConnection { waited: Duration, size: usize },
    #[error("no connection could be had from the pool")]
    Pool(#[source] Box<dyn StdError + Send + Sync>),
    #[error("{sessions} sessions that work for earlier branches have not ended within {waited:?}")]
    SessionsLeft { sessions: usize, waited: Duration },
    #[error("{NO_SESSION}")]
    NoSession,
    #[error("the database answered in a form that was not expected: {0}")]
    Malformed(String),
}

/// What was under way when an error came. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a statement may be repeated or may not")]
pub enum During {
    /// Nothing that could take effect, or something that may be repeated.
    Repeatable,
    /// A promise or a one-phase commit: if no answer comes, it may have been made.
    Promise,
}

/// Returns the error with its kind.
#[must_use]
pub fn failure(error: StatementFailure, during: During) -> XaError {
    let kind = kind_of(&error, during);
    match advice(&error) {
        Some(advice) => XaError::new(kind, PgFailure::Advised { advice, source: error.source }),
        None => XaError::new(kind, error.source),
    }
}

/// Returns the error of a connection that did not answer in time.
#[must_use]
pub fn no_answer(waited: Duration, during: During) -> XaError {
    let kind = if during == During::Promise { XaErrorKind::Lost } else { XaErrorKind::Unavailable };
    XaError::new(kind, PgFailure::NoAnswer(waited))
}

/// Returns the error of a pool of this size of which no connection came free in time.
#[must_use]
pub fn no_free_connection(waited: Duration, size: usize) -> XaError {
    XaError::new(XaErrorKind::Transient, PgFailure::NoConnection { waited, size })
}

/// Returns the error of a pool that gave no connection for another reason than the server's.
#[must_use]
pub fn no_pool_connection(error: impl Into<Box<dyn StdError + Send + Sync>>) -> XaError {
    XaError::new(XaErrorKind::Unavailable, PgFailure::Pool(error.into()))
}

/// Whether the error, or one that it comes from, may pass if the whole transaction is tried again.
#[must_use]
pub fn is_transient<C: PgClient>(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        let passes = |code: String| may_pass(&code) || is_of_connection(&code);
        transient::may_pass(cause) || C::is_of_connection(cause) || C::sqlstate(cause).is_some_and(passes)
    })
}

fn kind_of(error: &StatementFailure, during: During) -> XaErrorKind {
    let code = error.code.as_deref();
    if error.ends_connection {
        return match (during, code) {
            // The session was ended while it was idle, so the message came too late to have an effect.
            (_, Some(code::IDLE_IN_TRANSACTION_TIMEOUT)) => XaErrorKind::Transient,
            (During::Promise, _) => XaErrorKind::Lost,
            // Raised while a connection is made, and no repeat helps.
            (_, Some(code)) if is_set_up_wrongly(code) => XaErrorKind::Misconfigured,
            (_, Some(code)) if may_pass(code) => XaErrorKind::Transient,
            _ => XaErrorKind::Unavailable,
        };
    }
    match code {
        Some(code) if may_pass(code) => XaErrorKind::Transient,
        Some(code::UNDEFINED_OBJECT) => XaErrorKind::NotThere,
        Some(code::OBJECT_NOT_IN_PREREQUISITE_STATE) if during == During::Promise => XaErrorKind::Misconfigured,
        Some(code::OBJECT_NOT_IN_PREREQUISITE_STATE) => XaErrorKind::Busy,
        Some(code) if is_set_up_wrongly(code) => XaErrorKind::Misconfigured,
        _ => XaErrorKind::Refused,
    }
}

/// SQLSTATEs that this crate acts on, by PostgreSQL's names of them.
mod code {
    /// The class of these.
    pub(super) const CONNECTION_EXCEPTION: &str = "08";
    /// `ADMIN_SHUTDOWN`, `CRASH_SHUTDOWN`, `CANNOT_CONNECT_NOW`; not a statement that was cancelled.
    pub(super) const OPERATOR_INTERVENTION: &str = "57P0";
    pub(super) const INVALID_AUTHORIZATION_SPECIFICATION: &str = "28000";
    pub(super) const INVALID_PASSWORD: &str = "28P01";
    pub(super) const INVALID_CATALOG_NAME: &str = "3D000";
    pub(super) const INVALID_SCHEMA_NAME: &str = "3F000";
    pub(super) const SERIALIZATION_FAILURE: &str = "40001";
    pub(super) const DEADLOCK_DETECTED: &str = "40P01";
    pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";
    pub(super) const UNDEFINED_OBJECT: &str = "42704";
    pub(super) const UNDEFINED_FUNCTION: &str = "42883";
    pub(super) const UNDEFINED_TABLE: &str = "42P01";
    pub(super) const UNDEFINED_PSTATEMENT: &str = "26000";
    pub(super) const IN_FAILED_TRANSACTION: &str = "25P02";
    pub(super) const IDLE_IN_TRANSACTION_TIMEOUT: &str = "25P03";
    pub(super) const OUT_OF_MEMORY: &str = "53200";
    pub(super) const TOO_MANY_CONNECTIONS: &str = "53300";
    pub(super) const OBJECT_NOT_IN_PREREQUISITE_STATE: &str = "55000";
    pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";
}

/// A conflict with others, or a lack of room that others make.
fn may_pass(code: &str) -> bool {
    [
        code::SERIALIZATION_FAILURE,
        code::DEADLOCK_DETECTED,
        code::LOCK_NOT_AVAILABLE,
        code::OUT_OF_MEMORY,
        code::TOO_MANY_CONNECTIONS,
        // The next branch does without the statement that was missing.
        code::UNDEFINED_PSTATEMENT,
    ]
    .contains(&code)
}

/// The connection is lost, or the server is being stopped or started. What was not committed is undone.
fn is_of_connection(code: &str) -> bool {
    code.starts_with(code::CONNECTION_EXCEPTION) || code.starts_with(code::OPERATOR_INTERVENTION)
}

fn is_set_up_wrongly(code: &str) -> bool {
    [
        code::INSUFFICIENT_PRIVILEGE,
        code::INVALID_SCHEMA_NAME,
        code::INVALID_CATALOG_NAME,
        code::UNDEFINED_TABLE,
        code::UNDEFINED_FUNCTION,
        code::INVALID_PASSWORD,
        code::INVALID_AUTHORIZATION_SPECIFICATION,
    ]
    .contains(&code)
}

/// Returns what to do, if the server's own text does not say it.
fn advice(error: &StatementFailure) -> Option<&'static str> {
    Some(match error.code.as_deref()? {
        OTHER_TRANSACTION => {
            "the work under the branch has ended the branch's transaction by itself, or has changed application_name; what \
             it did is committed or lost without the other branches"
        }
        code::IN_FAILED_TRANSACTION => {
            "a statement under the branch has failed, so that its transaction can only be rolled back; return that \
             statement's error instead of committing"
        }
        code::UNDEFINED_PSTATEMENT => {
            "the session lacks what was set up in it: a proxy pools transactions, or the work has run DEALLOCATE or DISCARD"
        }
        LATER_LIFE => {
            "the branch's coordinator was opened again since, and has rolled the branch back; end the process of its earlier \
             life"
        }
        WRITABLE_SESSION => {
            "the work under the branch has set default_transaction_read_only for its session: use SET TRANSACTION, which holds \
             for one transaction"
        }
        code::IDLE_IN_TRANSACTION_TIMEOUT => NO_SESSION,
        SERIALIZABLE_READ_ONLY => "leave READ ONLY out of the branch's isolation level",
        code::OUT_OF_MEMORY => {
            "the server has no room for another prepared transaction: raise max_prepared_transactions, or see why decisions \
             are not delivered"
        }
        code::OBJECT_NOT_IN_PREREQUISITE_STATE => {
            "prepared transactions are switched off, or another session has this one"
        }
        code::UNDEFINED_TABLE | code::UNDEFINED_FUNCTION | code::INVALID_SCHEMA_NAME => {
            "the database lacks what the participant's SETUP_SQL sets up"
        }
        code::INSUFFICIENT_PRIVILEGE => {
            "the role lacks a right: grant it what the set-up's page lists; and a promise can only be ended by the role that \
             made it"
        }
        _ => return None,
    })
}

/// Whether the session has not, or no longer, what was set up in it.
pub(crate) fn has_lost_presets(error: &StatementFailure) -> bool {
    error.code.as_deref() == Some(code::UNDEFINED_PSTATEMENT)
}

/// Whether the branch has changed nothing, as the promise's function says.
pub(crate) fn has_changed_nothing(error: &StatementFailure) -> bool {
    error.code.as_deref() == Some(CHANGED_NOTHING)
}
