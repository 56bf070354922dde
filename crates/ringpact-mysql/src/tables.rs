//! MariaDB and MySQL for services that keep their reservations in tables: [`MySqlTables`], and its
//! transaction [`MySqlTx`].
//!
//! All of it is ordinary transactions of InnoDB: no `XA` statement, and no session is fenced. The lock
//! of the branch's row orders what several connections do to one branch. The row is written in the
//! transaction that does the branch's work, so after a lost connection the row tells what was done.
//!
//! Transactions are at *read committed*. At *repeatable read*, the default of the server, a locking read
//! of a row that is not there locks the gap that the row would be in. Two branches that begin at once
//! then wait for each other's gap, which is a deadlock that has nothing to do with their work. In a trial
//! with 32 tasks of which no two had an article in common, 82 of 256 transactions failed in this way at
//! *repeatable read*, and none at *read committed*.

use std::{error::Error as StdError, fmt::Write as _};

use mysql_async::{
    Conn, DriverError, Error, Params,
    consts::StatusFlags,
    prelude::{AsQuery, FromRow, Queryable as _},
};
use ringpact::{
    BranchId, Epoch, Name, TxnId, TxnOrdinal,
    participant::{
        Life,
        tables::{AsyncService, BranchRow, RowState, TableBackend, TableParticipant},
        xa::{XaBackend as _, XaError, XaErrorKind},
    },
};

use crate::{
    BranchTimeouts, MySqlBuilder,
    backend::MySqlBackend,
    check::Way,
    error::{
        MySqlError, MySqlOpenError, StatementError, chain_may_pass, code, is_lost, lost, not_begun, refused,
        server_code, unavailable,
    },
    link::{Answer, Link},
    session::{is_plain_read, settings},
    statements::query_methods,
};

/// Number of connections that a transaction tries. After a restart of the server all of the pool are
/// dead, and the pool may learn it one by one.
const CONNECTIONS_TRIED: usize = 5;

/// Maximum number of rows that one message deletes, so that it stays short.
const DELETED_AT_ONCE: usize = 500;

/// A row of those that are not ended: epoch, sequence, state, position, works, refusal.
type OpenRow = (u64, u64, u8, u64, Vec<u8>, Option<Vec<u8>>);

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
#[derive(Debug)]
pub struct MySqlTables(MySqlBackend);

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
    timeouts: BranchTimeouts,
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
        let answer = self.carry_out(statement).await;
        answer.map_err(|error| StatementError::new(error).into())
    }

    async fn carry_out<T>(
        &mut self,
        statement: impl for<'c> FnOnce(&'c mut Conn) -> Answer<'c, T>,
    ) -> Result<T, Error> {
        self.has_failed = true;
        let answer = self.link.run(self.timeouts.answer(), statement).await?;
        let flags = self.conn().and_then(Conn::last_ok_packet).map(mysql_async::OkPacket::status_flags);
        if flags.is_some_and(|flags| !flags.contains(StatusFlags::SERVER_STATUS_IN_TRANS)) {
            let text = "the statement has ended the transaction of the branch; what was done before it is not undone: leave \
                        COMMIT, ROLLBACK and statements that commit (CREATE, ALTER, DROP, TRUNCATE, LOCK TABLES) to others";
            return Err(Error::Other(text.into()));
        }
        self.has_failed = false;
        Ok(answer)
    }

    /// Carries out a statement of the participant's own.
    async fn does(&mut self, sql: String) -> Result<(), Error> {
        self.carry_out(|conn| conn.query_drop(sql)).await
    }
}

impl MySqlBuilder {
    /// Opens a participant whose service has its reservations in tables of the database, instead of
    /// `XA` transactions. See [`MySqlTables`] for an example.
    ///
    /// [`max_promises`](Self::max_promises) says nothing here: a promise is a row, and holds neither a
    /// connection nor a lock. The user needs no `XA_RECOVER_ADMIN`. Checks the rest as
    /// [`open`](Self::open) does, and table `ringpact_branch`. Tells the service what is promised
    /// ([`AsyncService::opened`]).
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn open_tables<S: AsyncService<MySqlTx>>(
        self,
        service: S,
    ) -> Result<TableParticipant<MySqlTables, S>, MySqlOpenError> {
        let name = self.name.clone();
        let backend = MySqlTables(self.backend(Way::Tables).await?);
        Ok(TableParticipant::open(name, backend, service).await?)
    }
}

impl MySqlTables {
    fn table(&self) -> String {
        format!("{}.ringpact_branch", self.0.database)
    }

    /// Returns the branch's key, with this between its parts. Names have no character that SQL would read.
    fn key(branch: &BranchId, between: &str) -> String {
        let (participant, txn) = (branch.participant(), branch.txn());
        let (coordinator, epoch, sequence) = (txn.coordinator(), txn.epoch(), txn.sequence());
        format!(
            "participant = '{participant}'{between}coordinator = '{coordinator}'{between}epoch = {epoch}{between}\
             sequence = {sequence}"
        )
    }

    /// Returns the condition on the branch's row.
    fn is_branch(branch: &BranchId) -> String {
        Self::key(branch, " AND ")
    }

    /// Returns what a row says beside its key, as assignments.
    fn values(row: &BranchRow) -> String {
        let refusal = row.refusal.as_ref().map_or_else(|| "NULL".to_owned(), |reason| hex(reason.as_bytes()));
        let (state, position, works) = (row.state.number(), row.position, hex(&row.works));
        format!("state = {state}, position = {position}, works = {works}, refusal = {refusal}")
    }

    /// Checks that the server takes a statement of this length. It would close the connection.
    fn fits(&self, sql: &str, branch: &BranchId) -> Result<(), XaError> {
        /// Room for what the protocol adds to a statement.
        const HEAD: u64 = 64;
        let needed = sql.len() as u64 + HEAD;
        if needed <= self.0.max_packet {
            return Ok(());
        }
        let text = format!(
            "the row of branch {branch} takes a statement of {needed} bytes, and the server's max_allowed_packet is {}: SET \
             GLOBAL max_allowed_packet = {} (also in the server's configuration file) and open the participant again, or name \
             large data in the work and keep it elsewhere",
            self.0.max_packet,
            needed.next_power_of_two()
        );
        Err(XaError::new(XaErrorKind::Misconfigured, text))
    }
}

impl TableBackend for MySqlTables {
    type Tx = MySqlTx;

    async fn begin(&self) -> Result<MySqlTx, XaError> {
        let timeouts = self.0.timeouts;
        let sql = format!(
            "{}SET TRANSACTION ISOLATION LEVEL READ COMMITTED;START TRANSACTION READ WRITE",
            settings(&timeouts, self.0.is_mariadb)
        );
        let mut tried = 0;
        loop {
            let mut tx = MySqlTx { link: self.0.connect(&self.0.work).await?, timeouts, has_failed: false };
            tried += 1;
            match tx.does(sql.clone()).await {
                Ok(()) => return Ok(tx),
                // Nothing was done yet, so another connection does as well.
                Err(error) if is_lost(&error) && tried < CONNECTIONS_TRIED => {}
                Err(error) => return Err(not_begun(error)),
            }
        }
    }

    async fn commit(&self, mut tx: MySqlTx) -> Result<(), XaError> {
        if !tx.link.is_sound() {
            // COMMIT was not sent, so there is no doubt.
            return Err(XaError::new(XaErrorKind::Transient, Error::Driver(DriverError::ConnectionClosed)));
        }
        if tx.has_failed {
            self.rollback(tx).await;
            let text = "a statement of the service has failed, so that its transaction can only be rolled back: return that \
                        statement's error";
            return Err(XaError::new(XaErrorKind::Refused, text));
        }
        match tx.link.run(tx.timeouts.answer(), |conn| conn.query_drop("COMMIT")).await {
            Ok(()) => {
                tx.link.release();
                Ok(())
            }
            Err(error) if server_code(&error) == Some(code::LOCK_DEADLOCK) => Err(refused(error)),
            // What became of it is in the row.
            Err(error) => Err(lost(error)),
        }
    }

    async fn rollback(&self, mut tx: MySqlTx) {
        // If this fails, the connection is closed, and the server undoes the work.
        if tx.link.run(tx.timeouts.answer(), |conn| conn.query_drop("ROLLBACK")).await.is_ok() {
            tx.link.release();
        }
    }

    async fn row(&self, tx: &mut MySqlTx, branch: &BranchId) -> Result<Option<BranchRow>, XaError> {
        type Row = (u8, u64, Vec<u8>, Option<Vec<u8>>);
        let sql = format!(
            "SELECT state, position, works, refusal FROM {} WHERE {} FOR UPDATE",
            self.table(),
            Self::is_branch(branch)
        );
        let found: Option<Row> = tx.carry_out(|conn| conn.query_first(sql)).await.map_err(not_begun)?;
        let Some((state, position, works, refusal)) = found else { return Ok(None) };
        row_of(state, position, works, refusal).map(Some).ok_or_else(|| damaged(branch))
    }

    async fn insert(&self, tx: &mut MySqlTx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let key = Self::key(branch, ", ");
        let sql = format!("INSERT INTO {} SET {key}, {}", self.table(), Self::values(row));
        self.fits(&sql, branch)?;
        tx.does(sql).await.map_err(|error| match server_code(&error) {
            Some(code::DUP_ENTRY) => XaError::new(XaErrorKind::Transient, error),
            _ => not_begun(error),
        })
    }

    async fn update(&self, tx: &mut MySqlTx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let sql = format!("UPDATE {} SET {} WHERE {}", self.table(), Self::values(row), Self::is_branch(branch));
        self.fits(&sql, branch)?;
        tx.does(sql).await.map_err(not_begun)
    }

    async fn open_rows(&self, coordinator: &Name) -> Result<Vec<(BranchId, BranchRow)>, XaError> {
        let sql = format!(
            "SELECT epoch, sequence, state, position, works, refusal FROM {} \
             WHERE participant = '{}' AND coordinator = '{coordinator}' AND state < {} ORDER BY epoch, sequence",
            self.table(),
            self.0.name,
            RowState::Confirmed.number()
        );
        let mut control = self.0.control().await?;
        let rows: Vec<OpenRow> = self.0.rows(&mut control, sql).await.map_err(unavailable)?;
        control.release();
        let read = |(epoch, sequence, state, position, works, refusal)| {
            let branch = TxnId::new(coordinator.clone(), Epoch::new(epoch), sequence).branch(&self.0.name);
            let row = row_of(state, position, works, refusal).ok_or_else(|| damaged(&branch))?;
            Ok((branch, row))
        };
        rows.into_iter().map(read).collect()
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        self.0.lives().await
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        self.0.note_life(coordinator, life, before).await
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        chain_may_pass(error)
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let table = self.table();
        let ended = format!("state >= {}", RowState::Confirmed.number());
        let of = format!("participant = '{}' AND coordinator = '{coordinator}'", self.0.name);
        let (epoch, sequence) = (below.epoch, below.sequence);
        let list = format!(
            "SELECT epoch, sequence FROM {table} WHERE {of} AND {ended} \
             AND (epoch < {epoch} OR (epoch = {epoch} AND sequence < {sequence})) LIMIT {DELETED_AT_ONCE}"
        );
        let mut control = self.0.control().await?;
        loop {
            let keys: Vec<(u64, u64)> = self.0.rows(&mut control, list.clone()).await.map_err(unavailable)?;
            if keys.is_empty() {
                break;
            }
            // Row by row: a scan also locks the rows that it passes, among them those of branches at work.
            let mut delete = "START TRANSACTION;".to_owned();
            for (epoch, sequence) in keys {
                let key = format!("{of} AND epoch = {epoch} AND sequence = {sequence}");
                let _infallible = write!(delete, "DELETE FROM {table} WHERE {key} AND {ended};");
            }
            delete.push_str("COMMIT");
            self.0.run(&mut control, delete).await.map_err(unavailable)?;
        }
        control.release();
        Ok(())
    }
}

fn row_of(state: u8, position: u64, works: Vec<u8>, refusal: Option<Vec<u8>>) -> Option<BranchRow> {
    let mut row = BranchRow::new(RowState::from_number(state)?, works, position);
    row.refusal = refusal.map(|reason| String::from_utf8_lossy(&reason).into_owned());
    Some(row)
}

fn damaged(branch: &BranchId) -> XaError {
    XaError::new(XaErrorKind::Misconfigured, format!("the row of branch {branch} in ringpact_branch is damaged"))
}

/// Returns bytes as a literal of SQL, whatever is in them and however the server is set up.
fn hex(bytes: &[u8]) -> String {
    let mut literal = String::with_capacity(2 * bytes.len() + 3);
    literal.push_str("X'");
    for byte in bytes {
        let _infallible = write!(literal, "{byte:02X}");
    }
    literal.push('\'');
    literal
}
