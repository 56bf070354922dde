//! What a client library of PostgreSQL must do: [`PgClient`], and [`PgLink`] for one connection.

use std::{error::Error as StdError, future::Future, time::Duration};

use ringpact::participant::xa::XaError;

use super::error::StatementFailure;

/// Time for one statement on a control connection, with its connection. Above a sync, below the patience of a coordinator's
/// caller.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One database, by a client library: a pool for branches, and a few connections of *control* beside it.
///
/// Branches may have all connections of their pool, and wait for one another there. What ends them must not wait behind them,
/// so control has connections of its own.
///
/// All statements are sent as simple queries: some are several statements in one message, and a proxy may stand between.
pub trait PgClient: Send + Sync + 'static {
    /// A connection of the pool.
    type Link: PgLink;

    /// Takes a connection of the pool, or gives up after this time.
    ///
    /// # Errors
    ///
    /// As [`no_free_connection`](super::no_free_connection) and [`no_pool_connection`](super::no_pool_connection) make them.
    fn connect(&self, within: Duration) -> impl Future<Output = Result<Self::Link, XaError>> + Send;

    /// Carries out one statement that may be repeated on a control connection, within [`ANSWER_WITHIN`]. Returns its rows.
    /// Repeats it once if the connection was dead.
    fn ask(&self, statement: &str) -> impl Future<Output = Result<Vec<TextRow>, XaError>> + Send;

    /// Ends a promise, by a statement that may be repeated. May take an idle connection of the pool, because the syncs of many
    /// commits are then shared.
    fn end_promise(&self, statement: &str) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Returns the SQLSTATE if this error, without its causes, is one of the client library that has one.
    fn sqlstate(error: &(dyn StdError + 'static)) -> Option<String>;

    /// Whether this error, without its causes, is one of the client library that says that the connection was lost, or
    /// that none could be made in time. Errors that have an SQLSTATE need not be known here.
    fn is_of_connection(error: &(dyn StdError + 'static)) -> bool;
}

/// A connection of the pool. If it is dropped, it is closed; only [`give_back`](Self::give_back) gives it back.
pub trait PgLink: Send + 'static {
    /// Whether the client library knows that the connection is closed. `false` is always right.
    fn is_closed(&self) -> bool;

    /// Carries out the message that begins a transaction.
    fn begin(&mut self, message: String) -> impl Future<Output = Result<(), StatementFailure>> + Send;

    /// Sends the message that begins a transaction, on a connection with [`presets`](super::presets). May return before it is
    /// answered: then [`end`](Self::end) waits for the answer before it sends anything, and fails if that answer is an error.
    fn begin_ahead(&mut self, message: String) -> impl Future<Output = Result<(), StatementFailure>> + Send {
        self.begin(message)
    }

    /// Carries out both statements in one message. The second ends the transaction.
    fn end(&mut self, check: &str, ending: &str) -> impl Future<Output = Result<(), StatementFailure>> + Send;

    /// Rolls the transaction back.
    fn rollback(&mut self) -> impl Future<Output = Result<(), StatementFailure>> + Send;

    /// Carries out one statement, and returns its rows.
    fn ask(&mut self, statement: &str) -> impl Future<Output = Result<Vec<TextRow>, StatementFailure>> + Send;

    /// Gives the connection back to its pool, because no transaction is open in it.
    fn give_back(self);
}

/// A row of a simple query: each value as text, or null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextRow(Vec<Option<String>>);

impl TextRow {
    /// Returns the value of this column; `None` if it is null, or if there is no such column.
    #[must_use]
    pub fn get(&self, column: usize) -> Option<&str> {
        self.0.get(column)?.as_deref()
    }
}

impl FromIterator<Option<String>> for TextRow {
    fn from_iter<T: IntoIterator<Item = Option<String>>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}
