//! Services with tables: [`MySqlTables`], and [`MySqlTx`], which their services work with.

use std::time::Duration;

use mysql_async::{
    Conn, Error, Params,
    consts::StatusFlags,
    prelude::{AsQuery, FromRow, Queryable as _},
};
use ringpact::participant::tables::{AsyncService, TableParticipant};
use ringpact_sql::mysql::{MySqlTransaction, TRANSACTION_OVER};

use crate::{
    MySqlBuilder,
    error::{MySqlError, MySqlOpenError, StatementError},
    link::{Answer, Link, Pools},
    statements::{is_plain_read, query_methods},
};

/// A database of MariaDB or MySQL, for a service that keeps its reservations in tables. Made by
/// [`MySqlBuilder::open_tables`].
///
/// The service writes SQL for *try*, *confirm* and *cancel* in the transaction that it is handed, and
/// none of them needs to be idempotent: whether a step was done is in the same transaction as the step.
///
/// ```no_run
/// use mysql_async::Pool;
/// use ringpact::{BranchId, Coordinator, FileLog, ServiceError};
/// use ringpact_mysql::{AsyncService, MySqlParticipant, MySqlTx};
///
/// /// Table `stock (id BIGINT PRIMARY KEY, free BIGINT NOT NULL, sold BIGINT NOT NULL)`.
/// struct Stock;
///
/// impl AsyncService<MySqlTx> for Stock {
///     /// The article, and how many pieces.
///     type Work = (i64, i64);
///
///     async fn try_reserve(&self, tx: &mut MySqlTx, _: &BranchId, (id, pieces): &(i64, i64)) -> Result<(), ServiceError> {
///         let take = "UPDATE stock SET free = free - ? WHERE id = ? AND free >= ?";
///         tx.exec_drop(take, (pieces, id, pieces)).await?;
///         if tx.affected_rows() == 1 { Ok(()) } else { Err("sold out".into()) }
///     }
///
///     async fn confirm(&self, tx: &mut MySqlTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             tx.exec_drop("UPDATE stock SET sold = sold + ? WHERE id = ?", (pieces, id)).await?;
///         }
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut MySqlTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             tx.exec_drop("UPDATE stock SET free = free + ? WHERE id = ?", (pieces, id)).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = Pool::new("mysql://shop@db2/goods");
/// let goods = MySqlParticipant::builder("goods").pool(pool).open_tables(Stock).await?;
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
/// ```
///
/// # What to know
///
/// - Transactions are at *read committed*: a read that decides something must lock (`FOR UPDATE`), or be
///   part of the `UPDATE`.
/// - A deadlock and a lock that did not come free in time are tried again, up to five times: all of the
///   step, in a new transaction.
/// - All tables that the service changes must be of InnoDB. What is done in others is not undone.
/// - A branch's work is one value in a statement, so `max_allowed_packet` must be above twice its length.
/// - Rows of ended branches are deleted once the coordinator needs them no more. `ringpact_branch` has the
///   others.
pub type MySqlTables = ringpact_sql::mysql::MySqlTables<Pools, MySqlTx>;

/// A transaction in which a service does its part of a branch.
///
/// The methods are those of [`mysql_async::prelude::Queryable`]. `query` is for statements without
/// parameters, `exec` prepares the statement and sends parameters apart from it. There is no commit
/// and no rollback, because the participant sends them.
///
/// After an error, the transaction takes no more statements and can only be rolled back: return the
/// error. A failed statement undoes only itself, or ends the transaction, so what comes after it would be
/// committed without the rest. The same is so after a statement that has ended the transaction: `COMMIT`,
/// or one that commits without being asked, like `CREATE TABLE`. What came before that stays.
///
/// If it is dropped, its connection is closed, and the server rolls it back.
#[derive(Debug)]
pub struct MySqlTx {
    link: Link,
    within: Duration,
    has_failed: bool,
}

impl MySqlTx {
    query_methods!();

    const fn conn(&self) -> Option<&Conn> {
        self.link.conn()
    }

    async fn run<T>(
        &mut self,
        _: bool,
        statement: impl for<'c> FnOnce(&'c mut Conn) -> Answer<'c, T>,
    ) -> Result<T, MySqlError> {
        if self.has_failed {
            return Err(MySqlError::Over);
        }
        self.has_failed = true;
        let answer = self.link.carry_out(self.within, statement).await.map_err(StatementError::new)?;
        // The next statement would be committed alone.
        let flags = self.conn().and_then(Conn::last_ok_packet).map(mysql_async::OkPacket::status_flags);
        if flags.is_some_and(|flags| !flags.contains(StatusFlags::SERVER_STATUS_IN_TRANS)) {
            return Err(StatementError::new(Error::Other(TRANSACTION_OVER.into())).into());
        }
        self.has_failed = false;
        Ok(answer)
    }
}

impl MySqlTransaction for MySqlTx {
    type Link = Link;

    fn new(link: Link, within: Duration) -> Self {
        Self { link, within, has_failed: false }
    }

    fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    fn into_link(self) -> Link {
        self.link
    }

    fn has_failed(&self) -> bool {
        self.has_failed
    }
}

impl MySqlBuilder {
    /// Opens a participant whose service has its reservations in tables of the database, instead of
    /// `XA` transactions. See [`MySqlTables`] for an example.
    ///
    /// [`max_promises`](Self::max_promises) and [`last_resource`](Self::last_resource) say nothing here: a
    /// promise is a row, and holds neither a connection nor a lock. The user needs no
    /// `XA_RECOVER_ADMIN`. Checks the rest as [`open`](Self::open) does, and table `ringpact_branch`. Tells
    /// the service what is promised ([`AsyncService::opened`]).
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn open_tables<S: AsyncService<MySqlTx>>(
        self,
        service: S,
    ) -> Result<TableParticipant<MySqlTables, S>, MySqlOpenError> {
        let name = self.name.clone();
        let backend = self.backend(true).await?;
        Ok(TableParticipant::open(name, MySqlTables::new(backend), service).await?)
    }
}
