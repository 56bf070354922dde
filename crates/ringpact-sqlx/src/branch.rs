//! Work under a branch: [`SqlxBranch`].

use std::{
    error::Error as StdError,
    fmt,
    ops::{Deref, DerefMut},
};

use ringpact::participant::xa::XaBranch;

use crate::SqlxDatabase;

/// A branch at work: its connection, with the branch's transaction open.
///
/// It derefs to sqlx's connection: `&mut *branch` is the `&mut PgConnection` or `&mut MySqlConnection` that queries and the
/// application's own functions take. The participant sends what begins and ends the transaction.
///
/// Drop it before the transaction commits: while it lives, the branch votes No. If it is dropped in a panic, the branch can
/// only be rolled back.
///
/// **`begin` makes a savepoint**, because sqlx knows that a transaction is open. `commit` of what it returns releases the
/// savepoint, and `rollback` goes back to it: the branch stays open.
///
/// **After an error** return it, so that the transaction is rolled back. In PostgreSQL the branch can then do nothing else,
/// unless a savepoint came first. MariaDB and MySQL undo only the statement that failed, and *a branch whose caller goes on
/// commits the rest*: sqlx's connection does not show this crate which statements failed. Call [`doom`](Self::doom) if an
/// error can't be returned.
///
/// **A future that is dropped** in the middle of a statement leaves that statement to the server, which carries it out or
/// refuses it. If the server refuses it, or if sqlx can't read the connection's answers any more, the branch votes No.
pub struct SqlxBranch<DB: SqlxDatabase>(pub(crate) XaBranch<DB::Backend>);

impl<DB: SqlxDatabase> SqlxBranch<DB> {
    /// Has the branch vote No, for this reason. The first reason stays.
    pub fn doom(&self, reason: impl Into<Box<dyn StdError + Send + Sync>>) {
        self.0.doom(reason);
    }
}

impl<DB: SqlxDatabase> Deref for SqlxBranch<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        match self.0.session() {
            Some(session) => DB::connection(session),
            None => unreachable!("only the drop of the branch takes its session"),
        }
    }
}

impl<DB: SqlxDatabase> DerefMut for SqlxBranch<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        match self.0.session_mut() {
            Some(session) => DB::connection_mut(session),
            None => unreachable!("only the drop of the branch takes its session"),
        }
    }
}

impl<DB: SqlxDatabase> fmt::Debug for SqlxBranch<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxBranch").finish_non_exhaustive()
    }
}
