//! Services with tables: [`PgTables`], and [`PgTx`], which their services work with.

use std::ops::Deref;

use deadpool_postgres::ClientWrapper;
use ringpact_sql::postgres::{PgTransaction, PgWork};

use crate::{control::Control, session::PgSession};

/// A database of PostgreSQL, for a service that keeps its reservations in tables. Made by
/// [`PgBuilder::open_tables`](crate::PgBuilder::open_tables).
///
/// The service writes SQL for *try*, *confirm* and *cancel* in the transaction that it is handed, and none of them needs to be
/// idempotent: whether a step was done is in the same transaction as the step. The server need not allow prepared transactions.
///
/// ```no_run
/// use ringpact::{BranchId, Coordinator, FileLog, ServiceError};
/// use ringpact_postgres::{AsyncService, PgParticipant, PgTx};
///
/// /// Table `stock (id bigint PRIMARY KEY, free bigint CHECK (free >= 0), sold bigint)`.
/// struct Stock;
///
/// impl AsyncService<PgTx> for Stock {
///     /// The article, and how many pieces.
///     type Work = (i64, i64);
///
///     async fn try_reserve(&self, tx: &mut PgTx, _: &BranchId, (id, pieces): &(i64, i64)) -> Result<(), ServiceError> {
///         let take = "UPDATE stock SET free = free - $2 WHERE id = $1 AND free >= $2";
///         if tx.execute(take, &[id, pieces]).await? == 1 { Ok(()) } else { Err("sold out".into()) }
///     }
///
///     async fn confirm(&self, tx: &mut PgTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             tx.execute("UPDATE stock SET sold = sold + $2 WHERE id = $1", &[id, pieces]).await?;
///         }
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut PgTx, _: &BranchId, works: &[(i64, i64)]) -> Result<(), ServiceError> {
///         for (id, pieces) in works {
///             tx.execute("UPDATE stock SET free = free + $2 WHERE id = $1", &[id, pieces]).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let config = "host=db1 user=shop dbname=goods".parse()?;
/// let goods = PgParticipant::builder("goods").config(config).open_tables(Stock).await?;
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
/// - Transactions have the isolation that the role or the database has as its default (`default_transaction_isolation`), usually
///   *read committed*: a read that decides something must lock (`FOR UPDATE`), or be part of the `UPDATE`.
/// - A deadlock, a serialization failure and a lock that did not come free in time are tried again, up to five times: all of the
///   step, in a new transaction.
/// - Each article that many branches want is locked for one step at a time, not until the decision. What is set aside in between
///   is in the service's own rows.
/// - Rows of ended branches are deleted once the coordinator needs them no more. `ringpact.branch` has the others.
pub type PgTables = ringpact_sql::postgres::PgTables<Control, PgTx>;

/// A transaction in which a service does its part of a branch: its connection, with the transaction open.
///
/// All methods of the client that take `&self` are there: `query`, `execute`, `prepare_cached`, `copy_in` and so on. `&**tx` is the
/// `tokio_postgres::Client`, which is a `GenericClient`. The participant sends `BEGIN`, and `COMMIT` or `ROLLBACK`; savepoints are
/// the service's. After an error of a statement, PostgreSQL takes no more statements, unless a savepoint came first: return that
/// error. If the service ends the transaction itself, the participant finds out, and answers with an error that says so.
///
/// If it is dropped, its connection is closed, and the server rolls it back.
#[derive(Debug)]
pub struct PgTx(PgWork<PgSession>);

impl Deref for PgTx {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.0.link.client()
    }
}

impl PgTransaction for PgTx {
    type Link = PgSession;

    fn new(work: PgWork<PgSession>) -> Self {
        Self(work)
    }

    fn work(&mut self) -> &mut PgWork<PgSession> {
        &mut self.0
    }

    fn into_work(self) -> PgWork<PgSession> {
        self.0
    }
}
