//! What the errors of MariaDB and MySQL mean.

use std::error::Error as StdError;

use ringpact::{
    causes,
    participant::xa::{XaError, XaErrorKind},
};

use crate::transient;

/// Codes of the server that this crate acts on.
pub(crate) mod code {
    /// Too many connections.
    pub(crate) const CON_COUNT_ERROR: u16 = 1040;
    pub(crate) const SERVER_SHUTDOWN: u16 = 1053;
    /// A row with this key is there.
    pub(crate) const DUP_ENTRY: u16 = 1062;
    pub(crate) const NO_SUCH_THREAD: u16 = 1094;
    pub(crate) const LOCK_WAIT_TIMEOUT: u16 = 1205;
    pub(crate) const USER_LIMIT_REACHED: u16 = 1203;
    pub(crate) const LOCK_DEADLOCK: u16 = 1213;
    pub(crate) const RESOURCE_LIMIT: u16 = 1226;
    /// A check of this crate has failed; see `fails_unless`.
    pub(crate) const SUBQUERY_NO_1_ROW: u16 = 1242;
    /// "SAVEPOINT does not exist".
    pub(crate) const SP_DOES_NOT_EXIST: u16 = 1305;
    pub(crate) const QUERY_INTERRUPTED: u16 = 1317;
    /// "Unknown XID": of another session, or of none.
    pub(crate) const XAER_NOTA: u16 = 1397;
    /// The state of the branch does not allow the statement.
    pub(crate) const XAER_RMFAIL: u16 = 1399;
    /// The server could not carry out an `XA` statement, which is to be repeated.
    pub(crate) const XAER_RMERR: u16 = 1401;
    pub(crate) const XA_RBROLLBACK: u16 = 1402;
    pub(crate) const XA_RBTIMEOUT: u16 = 1613;
    pub(crate) const XA_RBDEADLOCK: u16 = 1614;
    /// MariaDB: "Record has changed since last read", under snapshot isolation.
    pub(crate) const CHECKREAD: u16 = 1020;
    pub(crate) const CONNECTION_KILLED: u16 = 1927;
    /// MySQL: the server has closed the connection, which was idle for too long.
    pub(crate) const CLIENT_INTERACTION_TIMEOUT: u16 = 4031;
}

/// An error of a client library, with what this crate must know of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct StatementFailure {
    /// The server's code; `None` if the error is not an answer of the server. The connection is then of no more use.
    pub code: Option<u16>,
    /// Whether the whole transaction may succeed if it is tried again.
    pub may_pass: bool,
    /// The client library's error.
    pub source: Box<dyn StdError + Send + Sync>,
}

impl StatementFailure {
    /// Returns the error of a server's answer.
    pub fn of_server(code: u16, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { code: Some(code), may_pass: code_may_pass(code), source: source.into() }
    }

    /// Returns the error of a connection from which no answer came. `may_pass` is `false` for errors that come again, such as
    /// those of a wrong password.
    pub fn of_connection(may_pass: bool, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { code: None, may_pass, source: source.into() }
    }

    /// Whether the connection is of no more use, or the answer is not to be believed.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.code.is_none_or(|code| {
            matches!(code, code::SERVER_SHUTDOWN | code::CONNECTION_KILLED | code::CLIENT_INTERACTION_TIMEOUT)
        })
    }
}

/// Whether the whole transaction may succeed if it is tried again after an error of the server with this code.
#[must_use]
pub const fn code_may_pass(code: u16) -> bool {
    matches!(
        code,
        code::LOCK_DEADLOCK
            | code::LOCK_WAIT_TIMEOUT
            | code::XA_RBTIMEOUT
            | code::XA_RBDEADLOCK
            | code::CHECKREAD
            | code::CON_COUNT_ERROR
            | code::USER_LIMIT_REACHED
            | code::RESOURCE_LIMIT
            | code::SERVER_SHUTDOWN
            | code::CONNECTION_KILLED
            | code::CLIENT_INTERACTION_TIMEOUT
    )
}

/// Whether the error, or one that it comes from, may pass if the whole transaction is tried again.
#[must_use]
pub fn is_transient<C: super::MySqlClient>(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| C::may_pass(cause) || transient::may_pass(cause))
}

/// An error after which there is certainly no promise and no commit.
pub(crate) fn refused(error: StatementFailure) -> XaError {
    if error.code == Some(code::SUBQUERY_NO_1_ROW) {
        let text = "the session has lost its locks or its row in ringpact_session: the coordinator was opened again \
                    meanwhile, or the branch's own SQL has freed all locks";
        return XaError::new(XaErrorKind::Refused, text);
    }
    let may_pass = error.may_pass || is_victim(&error);
    let kind = if may_pass { XaErrorKind::Transient } else { XaErrorKind::Refused };
    XaError::new(kind, error.source)
}

/// Whether the branch was the victim of a deadlock before. Other states of a branch have the same code and come again.
fn is_victim(error: &StatementFailure) -> bool {
    error.code == Some(code::XAER_RMFAIL) && error.source.to_string().contains("ROLLBACK ONLY")
}

/// An error after which a branch has not begun.
pub(crate) fn not_begun(error: StatementFailure) -> XaError {
    match error.code {
        Some(code) if is_setting(code) => XaError::new(XaErrorKind::Misconfigured, error.source),
        Some(_) => refused(error),
        None => unavailable(error),
    }
}

/// An error after which a promise or a commit may exist.
pub(crate) fn lost(error: StatementFailure) -> XaError {
    XaError::new(XaErrorKind::Lost, error.source)
}

/// Returns the error of a statement that has no effect if it fails, or may be repeated.
#[must_use]
pub fn unavailable(error: StatementFailure) -> XaError {
    let kind = match error.code {
        Some(code::LOCK_DEADLOCK | code::LOCK_WAIT_TIMEOUT | code::QUERY_INTERRUPTED) => XaErrorKind::Busy,
        Some(code) if is_setting(code) => XaErrorKind::Misconfigured,
        _ => XaErrorKind::Unavailable,
    };
    XaError::new(kind, error.source)
}

/// Whether the server refuses because of its tables, its privileges or its mode, so that an operator
/// must act.
fn is_setting(code: u16) -> bool {
    const DB_ACCESS_DENIED: u16 = 1044;
    const ACCESS_DENIED: u16 = 1045;
    const BAD_DB: u16 = 1049;
    const TABLE_ACCESS_DENIED: u16 = 1142;
    const NO_SUCH_TABLE: u16 = 1146;
    const SPECIFIC_ACCESS_DENIED: u16 = 1227;
    const READ_ONLY: u16 = 1290;
    [DB_ACCESS_DENIED, ACCESS_DENIED, BAD_DB, TABLE_ACCESS_DENIED, NO_SUCH_TABLE, SPECIFIC_ACCESS_DENIED, READ_ONLY]
        .contains(&code)
}
