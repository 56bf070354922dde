//! What can go wrong: the errors of work and of opening, and what the participant makes of an error
//! of the database.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use mysql_async::{DriverError, Error, IoError, ServerError};
use ringpact::{
    IdError, causes,
    participant::xa::{XaError, XaErrorKind, XaOpenError, XaWorkError},
};
use thiserror::Error;

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
    pub(crate) const QUERY_INTERRUPTED: u16 = 1317;
    /// "Unknown XID": of another session, or of none.
    pub(crate) const XAER_NOTA: u16 = 1397;
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
    #[error(transparent)]
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
    Database(#[from] StatementError),
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

impl From<Error> for MySqlOpenError {
    fn from(error: Error) -> Self {
        Self::Database(StatementError::new(error))
    }
}

/// Returns the error of a statement that got no answer in this time.
pub(crate) fn no_answer(within: Duration) -> Error {
    let text = format!("the server has not answered within {within:?}");
    Error::Io(IoError::Io(io::Error::new(io::ErrorKind::TimedOut, text)))
}

/// Returns the server's code, if the error comes from the server.
pub(crate) fn server_code(error: &Error) -> Option<u16> {
    match error {
        Error::Server(ServerError { code, .. }) => Some(*code),
        _ => None,
    }
}

/// Whether the connection is of no more use, or the answer is not to be believed.
pub(crate) fn is_lost(error: &Error) -> bool {
    server_code(error).is_none_or(|code| {
        matches!(code, code::SERVER_SHUTDOWN | code::CONNECTION_KILLED | code::CLIENT_INTERACTION_TIMEOUT)
    })
}

/// Whether the whole transaction may succeed if it is tried again.
pub(crate) fn may_pass(error: &Error) -> bool {
    match error {
        Error::Server(ServerError { code, .. }) => matches!(
            *code,
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
        ),
        Error::Io(_) | Error::Driver(DriverError::ConnectionClosed) => true,
        Error::Driver(_) | Error::Other(_) | Error::Url(_) => false,
    }
}

/// Like [`may_pass`], for an error that may have the database's as a cause.
pub(crate) fn chain_may_pass(error: &(dyn StdError + 'static)) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<Error>().is_some_and(may_pass)
            || cause.downcast_ref::<StatementError>().is_some_and(|error| may_pass(error.error()))
            || cause.downcast_ref::<ServerError>().is_some_and(|error| may_pass(&Error::Server(error.clone())))
            || cause.downcast_ref::<XaError>().is_some_and(database_may_pass)
            || matches!(cause.downcast_ref(), Some(XaWorkError::TooManyPromises { .. }))
            || matches!(cause.downcast_ref(), Some(MySqlError::Work(XaWorkError::TooManyPromises { .. })))
    })
}

fn database_may_pass(error: &XaError) -> bool {
    matches!(error.kind(), XaErrorKind::Transient | XaErrorKind::Unavailable)
}

/// An error after which there is certainly no promise and no commit.
pub(crate) fn refused(error: Error) -> XaError {
    if server_code(&error) == Some(code::SUBQUERY_NO_1_ROW) {
        let text = "the session has lost its locks or its row in ringpact_session: the coordinator was opened again \
                    meanwhile, or the branch's own SQL has freed all locks";
        return XaError::new(XaErrorKind::Refused, text);
    }
    let kind = if may_pass(&error) { XaErrorKind::Transient } else { XaErrorKind::Refused };
    XaError::new(kind, error)
}

/// An error after which a branch has not begun.
pub(crate) fn not_begun(error: Error) -> XaError {
    match server_code(&error) {
        Some(code) if is_setting(code) => XaError::new(XaErrorKind::Misconfigured, error),
        Some(_) => refused(error),
        None => unavailable(error),
    }
}

/// An error after which a promise or a commit may exist.
pub(crate) fn lost(error: Error) -> XaError {
    XaError::new(XaErrorKind::Lost, error)
}

/// An error of a statement that has no effect if it fails, or may be repeated.
pub(crate) fn unavailable(error: Error) -> XaError {
    let kind = match server_code(&error) {
        Some(code::LOCK_DEADLOCK | code::LOCK_WAIT_TIMEOUT | code::QUERY_INTERRUPTED) => XaErrorKind::Busy,
        Some(code) if is_setting(code) => XaErrorKind::Misconfigured,
        _ => XaErrorKind::Unavailable,
    };
    XaError::new(kind, error)
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
