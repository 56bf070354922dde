//! Services with tables: [`SqlxTables`], and [`SqlxTx`], which their services work with.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use crate::SqlxDatabase;

/// A database for a service that keeps its reservations in tables. Made by
/// [`SqlxBuilder::open_tables`](crate::SqlxBuilder::open_tables).
///
/// The service writes SQL for *try*, *confirm* and *cancel* in the transaction that it is handed, and none of them needs to be
/// idempotent: whether a step was done is in the same transaction as the step. PostgreSQL need not allow prepared transactions.
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # mod example {
/// use ringpact::{BranchId, Coordinator, FileLog, ServiceError};
/// use ringpact_sqlx::{AsyncService, SqlxPgParticipant, SqlxPgTx};
/// use sqlx::{PgPool, query};
///
/// /// Table `stock (id bigint PRIMARY KEY, free bigint CHECK (free >= 0), sold bigint)`.
/// struct Stock;
///
/// impl AsyncService<SqlxPgTx> for Stock {
///     /// The article, and how many pieces.
///     type Work = (i64, i64);
///
///     async fn try_reserve(&self, tx: &mut SqlxPgTx, _: &BranchId, (id, pieces): &(i64, i64)) -> Result<(), ServiceError> {
///         let take = query("UPDATE stock SET free = free - $2 WHERE id = $1 AND free >= $2").bind(id).bind(pieces);
///         let taken = take.execute(&mut **tx).await?;
///         if taken.rows_affected() == 1 { Ok(()) } else { Err("sold out".into()) }
///     }
///
///     async fn confirm(&self, tx: &mut SqlxPgTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             let sell = query("UPDATE stock SET sold = sold + $2 WHERE id = $1").bind(id).bind(pieces);
///             sell.execute(&mut **tx).await?;
///         }
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut SqlxPgTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             let give_back = query("UPDATE stock SET free = free + $2 WHERE id = $1").bind(id).bind(pieces);
///             give_back.execute(&mut **tx).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # async fn example(pool: PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// let goods = SqlxPgParticipant::builder("goods").pool(pool).open_tables(Stock).await?;
/// let shop = Coordinator::builder(FileLog::open("shop.log")?)
///     .name("shop")
///     .async_participant("goods", goods.clone(), tokio::runtime::Handle::current())
///     .open()?;
///
/// let mut txn = shop.begin_async().await;
/// goods.execute(&mut txn, (7, 1)).await?;
/// txn.commit().await?;
/// # Ok(())
/// # }
/// # }
/// ```
///
/// For MariaDB and MySQL the same service is an `AsyncService<SqlxMySqlTx>`.
///
/// # What to know
///
/// - PostgreSQL: transactions have the isolation that the role or the database has as its default, usually *read committed*.
///   MariaDB and MySQL: *read committed*. There a read that decides something must lock (`FOR UPDATE`), or be part of the `UPDATE`.
/// - A deadlock, a serialization failure and a lock that did not come free in time are tried again, up to five times: all of the
///   step, in a new transaction.
/// - MariaDB and MySQL: all tables that the service changes must be of InnoDB. A branch's work is one value in a statement, so
///   `max_allowed_packet` must be above twice its length.
/// - Rows of ended branches are deleted once the coordinator needs them no more. `ringpact.branch` has the others, or
///   `ringpact_branch` in MariaDB and MySQL.
/// - A statement waits for its answer as long as sqlx does. The server ends it after
///   [`BranchTimeouts::statement`](crate::BranchTimeouts::statement).
///
/// The tables are those of `ringpact-postgres` and `ringpact-mysql`, so processes over different client libraries can be one
/// participant.
pub type SqlxTables<DB> = <DB as SqlxDatabase>::Tables;

/// A transaction in which a service does its part of a branch: its connection, with the transaction open.
///
/// It derefs to sqlx's connection: `&mut **tx`, of a `tx: &mut SqlxTx<_>`, is the `&mut PgConnection` or `&mut MySqlConnection`
/// that queries and the application's own functions take. The participant sends what begins and ends the transaction. If the service
/// ends it itself, the participant finds out, and answers with an error that says so.
///
/// **`begin` makes a savepoint**, because sqlx knows that a transaction is open. `commit` of what it returns releases the
/// savepoint, and `rollback` goes back to it.
///
/// **After an error** of a statement return it, because the transaction can only be rolled back. A service that goes on is
/// refused when the step is to be committed.
///
/// | a statement fails, and the service goes on | PostgreSQL | MariaDB and MySQL |
/// |---|---|---|
/// | it has opened a table | refused, unless the service has gone back to a savepoint | refused, also after a savepoint, or if a stored routine has handled the error |
/// | it has opened none: bad syntax, no such table, no right to it, `SIGNAL` | as above | **the rest is committed** |
///
/// In MariaDB and MySQL the participant compares the session's `Handler_rollback`, which counts failed statements, before and after
/// the service. Each of the two looks takes about 0.5 ms of the server.
///
/// **A future that is dropped** in the middle of a statement leaves that statement to the server, which carries it out or
/// refuses it. If the server refuses it, or if sqlx can't read the connection's answers any more, the step is not committed.
///
/// If it is dropped, its connection is closed, and the server rolls it back.
pub struct SqlxTx<DB: SqlxDatabase> {
    pub(crate) begun: DB::Begun,
    /// Whether the service has had the connection for statements.
    pub(crate) is_used: bool,
}

impl<DB: SqlxDatabase> SqlxTx<DB> {
    /// Returns the transaction that was begun in this connection.
    #[cfg(any(feature = "postgres", feature = "mysql"))]
    pub(crate) const fn begun(begun: DB::Begun) -> Self {
        Self { begun, is_used: false }
    }
}

impl<DB: SqlxDatabase> Deref for SqlxTx<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &DB::Connection {
        DB::service_connection(&self.begun)
    }
}

impl<DB: SqlxDatabase> DerefMut for SqlxTx<DB> {
    fn deref_mut(&mut self) -> &mut DB::Connection {
        self.is_used = true;
        DB::service_connection_mut(&mut self.begun)
    }
}

impl<DB: SqlxDatabase> fmt::Debug for SqlxTx<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxTx").field("is_used", &self.is_used).finish_non_exhaustive()
    }
}
