//! What a client library of MariaDB and MySQL must do: [`MySqlClient`], and [`MySqlLink`] for one connection.

use std::{error::Error as StdError, future::Future, str::FromStr, time::Duration};

use super::error::StatementFailure;

/// One database, by a client library: a pool for branches, and [`CONTROL_CONNECTIONS`](super::CONTROL_CONNECTIONS) connections
/// beside it, which have carried out [`control_setup`](super::control_setup).
pub trait MySqlClient: Send + Sync + 'static {
    /// A connection of the pool, or of control.
    type Link: MySqlLink;

    /// Whether the pool resets a connection before it is used again. If it does not, a branch puts back what it has set.
    const RESETS_CONNECTIONS: bool;

    /// Whether the crate sees the statements of the work, and clears [`Session::only_reads`](super::Session) for those that do
    /// not only read. If it does not, each branch promises, and a service's transaction asks the server whether a statement has
    /// failed.
    const SEES_STATEMENTS: bool;

    /// Takes a connection of the pool. The caller has a limit for how long that takes.
    fn connect(&self) -> impl Future<Output = Result<Self::Link, StatementFailure>> + Send;

    /// Takes a connection of control. The caller has a limit for how long that takes.
    fn control(&self) -> impl Future<Output = Result<Self::Link, StatementFailure>> + Send;

    /// Whether this error, without its causes, is one of the client library that may pass if the transaction is tried again.
    /// See [`code_may_pass`](super::code_may_pass).
    fn may_pass(error: &(dyn StdError + 'static)) -> bool;
}

/// A connection. If it is dropped, it is closed; only [`release`](Self::release) gives it back.
///
/// All statements are sent as text, several of them in one message. An error that is no answer of the server leaves the link
/// of no more use, and so does a future that is dropped.
pub trait MySqlLink: Send + 'static {
    /// Returns the server's number of the connection; any number for a connection of control.
    fn id(&self) -> u64;

    /// Whether all statements were answered.
    fn is_sound(&self) -> bool;

    /// Carries out statements, within this time.
    fn run(&mut self, within: Duration, sql: String) -> impl Future<Output = Result<(), StatementFailure>> + Send;

    /// Carries out a query, and returns the rows of its first result.
    fn rows(
        &mut self,
        within: Duration,
        sql: String,
    ) -> impl Future<Output = Result<Vec<ByteRow>, StatementFailure>> + Send;

    /// Carries out the message that begins a branch.
    fn begin(&mut self, within: Duration, sql: String) -> impl Future<Output = Result<(), StatementFailure>> + Send {
        self.run(within, sql)
    }

    /// Carries out a message that follows the work of a branch, and mostly ends it. The work may have left the connection with an
    /// answer that is not read.
    fn end(&mut self, within: Duration, sql: String) -> impl Future<Output = Result<(), StatementFailure>> + Send {
        self.run(within, sql)
    }

    /// Gives the connection back to its pool, if it is sound. No transaction may be open in it.
    fn release(self);
}

/// A row of a query that was sent as text: each value as the server prints it, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByteRow(Vec<Option<Vec<u8>>>);

impl ByteRow {
    /// Returns the value of this column; `None` if it is null, or if there is no such column.
    #[must_use]
    pub fn bytes(&self, column: usize) -> Option<&[u8]> {
        self.0.get(column)?.as_deref()
    }

    /// Like [`bytes`](Self::bytes), if it is text.
    #[must_use]
    pub fn text(&self, column: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes(column)?).ok()
    }

    /// Like [`bytes`](Self::bytes), if it is a number.
    #[must_use]
    pub fn number<N: FromStr>(&self, column: usize) -> Option<N> {
        self.text(column)?.parse().ok()
    }
}

impl FromIterator<Option<Vec<u8>>> for ByteRow {
    fn from_iter<T: IntoIterator<Item = Option<Vec<u8>>>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}
