//! A connection that is closed if anything about it is in doubt: [`Link`].

use std::{fmt, time::Duration};

use sqlx::{Database, TransactionManager, pool::PoolConnection};

/// Time for which a control connection is waited for.
pub(crate) const CONTROL_WITHIN: Duration = Duration::from_secs(10);

/// A connection of a pool. If it is dropped, it is closed; only [`release`](Self::release) gives it back.
///
/// sqlx gives a dropped connection back to its pool. There a branch's transaction could still be open in it, or a dropped future
/// could have left an answer unread.
pub struct Link<DB: Database> {
    /// `None` only while it is dropped, or given back.
    pub(crate) conn: Option<PoolConnection<DB>>,
    /// The server's number of the connection, if this crate must know it.
    pub(crate) id: u64,
    /// Whether all statements of this crate were answered.
    pub(crate) is_sound: bool,
    /// Whether the answers come in step with the statements, which the work may have changed.
    pub(crate) is_in_step: bool,
}

impl<DB: Database> Link<DB> {
    pub(crate) const fn new(conn: PoolConnection<DB>) -> Self {
        Self { conn: Some(conn), id: 0, is_sound: true, is_in_step: true }
    }

    /// Returns the connection.
    pub(crate) fn conn(&self) -> &DB::Connection {
        match &self.conn {
            Some(conn) => conn,
            None => unreachable!("a link has its connection until it is dropped"),
        }
    }

    /// As [`conn`](Self::conn).
    pub(crate) fn conn_mut(&mut self) -> &mut DB::Connection {
        match &mut self.conn {
            Some(conn) => conn,
            None => unreachable!("a link has its connection until it is dropped"),
        }
    }

    /// Begins a transaction by this message. sqlx then knows that there is one, so `begin` under the branch makes a savepoint,
    /// and the end of that leaves the branch open.
    ///
    /// `TransactionManager` is public and not on sqlx's pages. `Connection::begin_with` does the same, but what it returns
    /// borrows the connection and rolls back when it is dropped.
    pub(crate) async fn begin_with(&mut self, message: String) -> Result<(), sqlx::Error> {
        self.is_in_step = false;
        DB::TransactionManager::begin(self.conn_mut(), Some(message.into())).await
    }

    /// Returns the number of transactions and savepoints that sqlx takes for open.
    pub(crate) fn depth(&self) -> usize {
        DB::TransactionManager::get_transaction_depth(self.conn())
    }

    /// Gives the connection back to its pool. The branch's transaction is over, and sqlx may not know that yet.
    pub(crate) fn release(mut self) {
        match self.depth() {
            _ if !self.is_sound => {}
            0 => drop(self.conn.take()),
            1 => {
                // Only sent, with what the pool sends to test the connection.
                DB::TransactionManager::start_rollback(self.conn_mut());
                drop(self.conn.take());
            }
            // A savepoint was forgotten. The connection is closed.
            _ => {}
        }
    }
}

impl<DB: Database> Drop for Link<DB> {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

impl<DB: Database> fmt::Debug for Link<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("id", &self.id).field("is_sound", &self.is_sound).finish_non_exhaustive()
    }
}
