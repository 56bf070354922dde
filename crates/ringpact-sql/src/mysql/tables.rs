//! Services with tables: [`MySqlTables`].
//!
//! All of it is ordinary transactions of InnoDB: no `XA` statement, and no session is fenced. The lock of the branch's row orders
//! what several connections do to one branch. The row is written in the transaction that does the branch's work, so after a lost
//! connection the row tells what was done.
//!
//! Transactions are at *read committed*. At *repeatable read*, the default of the server, a locking read of a row that is not there
//! locks the gap that the row would be in. Two branches that begin at once then wait for each other's gap, which is a deadlock that
//! has nothing to do with their work. In a trial with 32 tasks of which no two had an article in common, 82 of 256 transactions
//! failed in this way at *repeatable read*, and none at *read committed*.

use std::{
    error::Error as StdError,
    fmt::{self, Write as _},
    marker::PhantomData,
    time::Duration,
};

use ringpact::{
    BranchId, Epoch, Name, TxnId, TxnOrdinal,
    participant::{
        Life,
        tables::{BranchRow, RowState, TableBackend},
        xa::{XaBackend as _, XaError, XaErrorKind},
    },
};

use super::{
    answer_within,
    backend::{DELETED_AT_ONCE, MySqlBackend, connected},
    client::{ByteRow, MySqlClient, MySqlLink},
    error::{StatementFailure, code, is_transient, lost, not_begun, refused, unavailable},
    session::{fails_unless, put_back, settings},
};

/// Number of connections that a transaction tries. After a restart of the server all of the pool are dead, and the pool learns
/// it one by one.
const CONNECTIONS_TRIED: usize = 5;

/// Fails unless the transaction is the one that was begun: a savepoint ends with its transaction. Without one, the statements
/// after it would be committed one by one.
const SAME_TRANSACTION: &str = "RELEASE SAVEPOINT ringpact_tables;";

/// Sets the savepoint that [`SAME_TRANSACTION`] looks for.
const MARK: &str = "SAVEPOINT ringpact_tables;";

/// Number of statements that the session had undone when the transaction began, as a variable of the session.
const UNDONE: &str = "@ringpact_undone";

/// What to answer if the transaction is not the one that was begun.
pub const TRANSACTION_OVER: &str = "the service has ended the transaction of the branch, or has gone on after a deadlock; what \
     was committed is not undone: leave COMMIT, ROLLBACK and statements that commit (CREATE, ALTER, DROP, TRUNCATE, LOCK TABLES) \
     to others";

/// What to answer if a statement of the service has failed.
const STATEMENT_FAILED: &str = "a statement of the service has failed, so that its transaction can only be rolled back: return \
     that statement's error";

/// How a client library hands a transaction to a service: a type that gives the connection's statements to it, and nothing
/// that would give the connection away.
pub trait MySqlTransaction: Send + 'static {
    /// A connection of the pool.
    type Link: MySqlLink;

    /// Returns the transaction that was begun in this connection. Answers are waited for for this time.
    fn new(link: Self::Link, within: Duration) -> Self;

    /// Returns its connection, for statements of the participant.
    fn link(&mut self) -> &mut Self::Link;

    /// Returns its connection, to end it.
    fn into_link(self) -> Self::Link;

    /// Whether a statement of the service has failed. It has undone itself alone, so the rest must not be committed. `false` if
    /// the client library does not say.
    fn has_failed(&self) -> bool;

    /// Whether the service may have carried out statements that [`has_failed`](Self::has_failed) does not know of. Then the server
    /// is asked. `true` only if the client has no [`SEES_STATEMENTS`](MySqlClient::SEES_STATEMENTS).
    fn hides_statements(&self) -> bool {
        false
    }
}

/// One database of MariaDB or MySQL, for a service that keeps its reservations in tables.
///
/// `ringpact-mysql` has an example, and what to know of it.
pub struct MySqlTables<C, T> {
    backend: MySqlBackend<C>,
    handed: PhantomData<fn() -> T>,
}

impl<C, T> fmt::Debug for MySqlTables<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MySqlTables").field("participant", &self.backend.name).finish_non_exhaustive()
    }
}

impl<C: MySqlClient, T: MySqlTransaction<Link = C::Link>> MySqlTables<C, T> {
    /// Returns the tables of this backend's participant.
    #[must_use]
    pub const fn new(backend: MySqlBackend<C>) -> Self {
        Self { backend, handed: PhantomData }
    }

    fn within(&self) -> Duration {
        answer_within(&self.backend.timeouts)
    }

    fn table(&self) -> String {
        format!("{}.ringpact_branch", self.backend.database)
    }

    /// Returns the condition on the rows of this participant about this coordinator. Names have no character that SQL would
    /// read.
    fn rows_of(&self, coordinator: &Name) -> String {
        format!("participant = '{}' AND coordinator = '{coordinator}'", self.backend.name)
    }

    /// Ends the transaction, in one message with what is before its end. The connection goes back to the pool if that was
    /// answered.
    async fn end(&self, link: &mut C::Link, how: &str) -> Result<(), StatementFailure> {
        let end = format!("{how}{}", put_back(self.backend.is_mariadb, !C::RESETS_CONNECTIONS));
        link.end(self.within(), end).await
    }

    /// Rolls back. If this fails, the connection is closed, and the server undoes the work.
    async fn undo(&self, mut link: C::Link) {
        if self.end(&mut link, "ROLLBACK").await.is_ok() {
            link.release();
        }
    }

    /// Returns the number of statements that the session has undone, as an expression.
    ///
    /// The server counts one for each failed statement that has opened a table, whether it has changed a row or not; within stored
    /// routines, too. It counts none for `ROLLBACK TO SAVEPOINT`.
    fn statements_undone(&self) -> String {
        let schema = if self.backend.is_mariadb { "information_schema" } else { "performance_schema" };
        format!(
            "(SELECT CAST(VARIABLE_VALUE AS UNSIGNED) FROM {schema}.session_status WHERE VARIABLE_NAME = 'Handler_rollback')"
        )
    }

    /// Writes the branch's row, in the transaction that was begun.
    async fn write(&self, tx: &mut T, branch: &BranchId, statement: String) -> Result<(), XaError> {
        let sql = format!("{SAME_TRANSACTION}{MARK}{statement}");
        self.fits(&sql, branch)?;
        tx.link().end(self.within(), sql).await.map_err(|error| match error.code {
            Some(code::DUP_ENTRY) => XaError::new(XaErrorKind::Transient, error.source),
            Some(code::SP_DOES_NOT_EXIST) => XaError::new(XaErrorKind::Refused, TRANSACTION_OVER),
            _ => not_begun(error),
        })
    }

    /// Checks that the server takes a statement of this length. It would close the connection.
    fn fits(&self, sql: &str, branch: &BranchId) -> Result<(), XaError> {
        /// Room for what the protocol adds to a statement.
        const HEAD: u64 = 64;
        let (needed, limit) = (sql.len() as u64 + HEAD, self.backend.max_packet);
        if needed <= limit {
            return Ok(());
        }
        let text = format!(
            "the row of branch {branch} takes a statement of {needed} bytes, and the server's max_allowed_packet is {limit}: SET \
             GLOBAL max_allowed_packet = {} (also in the server's configuration file) and open the participant again, or name \
             large data in the work and keep it elsewhere",
            needed.next_power_of_two()
        );
        Err(XaError::new(XaErrorKind::Misconfigured, text))
    }
}

impl<C: MySqlClient, T: MySqlTransaction<Link = C::Link>> TableBackend for MySqlTables<C, T> {
    type Tx = T;

    async fn begin(&self) -> Result<T, XaError> {
        let MySqlBackend { timeouts, is_mariadb, client, .. } = &self.backend;
        let count =
            if C::SEES_STATEMENTS { String::new() } else { format!("SET {UNDONE} = {};", self.statements_undone()) };
        let sql = format!(
            "{}{count}SET TRANSACTION ISOLATION LEVEL READ COMMITTED;START TRANSACTION READ WRITE;{MARK}",
            settings(timeouts, *is_mariadb, !C::RESETS_CONNECTIONS)
        );
        let sql = sql.trim_end_matches(';');
        let mut tried = 0;
        loop {
            let mut link = connected(timeouts.connection, client.connect()).await?;
            tried += 1;
            match link.begin(self.within(), sql.to_owned()).await {
                Ok(()) => return Ok(T::new(link, self.within())),
                // Nothing was done yet, so another connection does as well.
                Err(error) if error.is_lost() && tried < CONNECTIONS_TRIED => {}
                Err(error) => return Err(not_begun(error)),
            }
        }
    }

    async fn commit(&self, mut tx: T) -> Result<(), XaError> {
        if !tx.link().is_sound() {
            // COMMIT was not sent, so there is no doubt.
            let text = "the connection was lost before the commit";
            return Err(XaError::new(XaErrorKind::Transient, text));
        }
        if tx.has_failed() {
            self.rollback(tx).await;
            return Err(XaError::new(XaErrorKind::Refused, STATEMENT_FAILED));
        }
        // No count, if the server has none, is no reason to refuse.
        let check = if tx.hides_statements() {
            fails_unless(&format!("{UNDONE} <=> {}", self.statements_undone()))
        } else {
            String::new()
        };
        let mut link = tx.into_link();
        match self.end(&mut link, &format!("{SAME_TRANSACTION}{check}COMMIT")).await {
            Ok(()) => {
                link.release();
                Ok(())
            }
            Err(error) if error.code == Some(code::LOCK_DEADLOCK) => Err(refused(error)),
            Err(error) if error.code == Some(code::SP_DOES_NOT_EXIST) => {
                Err(XaError::new(XaErrorKind::Refused, TRANSACTION_OVER))
            }
            Err(error) if error.code == Some(code::SUBQUERY_NO_1_ROW) => {
                self.undo(link).await;
                Err(XaError::new(XaErrorKind::Refused, STATEMENT_FAILED))
            }
            // What became of it is in the row.
            Err(error) => Err(lost(error)),
        }
    }

    async fn rollback(&self, tx: T) {
        self.undo(tx.into_link()).await;
    }

    async fn row(&self, tx: &mut T, branch: &BranchId) -> Result<Option<BranchRow>, XaError> {
        let sql = format!("SELECT {VALUES} FROM {} WHERE {} FOR UPDATE", self.table(), key(branch, " AND "));
        let found = tx.link().rows(self.within(), sql).await.map_err(not_begun)?;
        let Some(found) = found.first() else { return Ok(None) };
        values_of(found).map(Some).ok_or_else(|| damaged(branch))
    }

    async fn insert(&self, tx: &mut T, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let sql = format!("INSERT INTO {} SET {}, {}", self.table(), key(branch, ", "), values(row));
        self.write(tx, branch, sql).await
    }

    async fn update(&self, tx: &mut T, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let sql = format!("UPDATE {} SET {} WHERE {}", self.table(), values(row), key(branch, " AND "));
        self.write(tx, branch, sql).await
    }

    async fn open_rows(&self, coordinator: &Name) -> Result<Vec<(BranchId, BranchRow)>, XaError> {
        let sql = format!(
            "SELECT {VALUES}, epoch, sequence FROM {} WHERE {} AND state < {} ORDER BY epoch, sequence",
            self.table(),
            self.rows_of(coordinator),
            RowState::Confirmed.number()
        );
        let mut control = self.backend.control().await?;
        let rows = self.backend.rows(&mut control, sql).await.map_err(unavailable)?;
        control.release();
        let read = |row: &ByteRow| {
            let (epoch, sequence) = (Epoch::new(row.number(4).unwrap_or(0)), row.number(5).unwrap_or(0));
            let branch = TxnId::new(coordinator.clone(), epoch, sequence).branch(&self.backend.name);
            let row = values_of(row).ok_or_else(|| damaged(&branch))?;
            Ok((branch, row))
        };
        rows.iter().map(read).collect()
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        self.backend.lives().await
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        self.backend.note_life(coordinator, life, before).await
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient::<C>(error)
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let (table, of) = (self.table(), self.rows_of(coordinator));
        let ended = format!("state >= {}", RowState::Confirmed.number());
        let (epoch, sequence) = (below.epoch, below.sequence);
        let list = format!(
            "SELECT epoch, sequence FROM {table} WHERE {of} AND {ended} \
             AND (epoch < {epoch} OR (epoch = {epoch} AND sequence < {sequence})) LIMIT {DELETED_AT_ONCE}"
        );
        let mut control = self.backend.control().await?;
        loop {
            let keys = self.backend.rows(&mut control, list.clone()).await.map_err(unavailable)?;
            if keys.is_empty() {
                break;
            }
            // Row by row: a scan also locks the rows that it passes, among them those of branches at work.
            let mut delete = "START TRANSACTION;".to_owned();
            for (epoch, sequence) in keys.iter().filter_map(|row| Some((row.text(0)?, row.text(1)?))) {
                let key = format!("{of} AND epoch = {epoch} AND sequence = {sequence}");
                let _infallible = write!(delete, "DELETE FROM {table} WHERE {key} AND {ended};");
            }
            delete.push_str("COMMIT");
            self.backend.run(&mut control, delete).await.map_err(unavailable)?;
        }
        control.release();
        Ok(())
    }
}

/// What a row says beside its key.
const VALUES: &str = "state, position, works, refusal";

/// Reads [`VALUES`].
fn values_of(row: &ByteRow) -> Option<BranchRow> {
    let state = RowState::from_number(row.number(0)?)?;
    let mut found = BranchRow::new(state, row.bytes(2)?.to_vec(), row.number(1)?);
    found.refusal = row.bytes(3).map(|reason| String::from_utf8_lossy(reason).into_owned());
    Some(found)
}

/// Returns what a row says beside its key, as assignments.
fn values(row: &BranchRow) -> String {
    let refusal = row.refusal.as_ref().map_or_else(|| "NULL".to_owned(), |reason| hex(reason.as_bytes()));
    let (state, position, works) = (row.state.number(), row.position, hex(&row.works));
    format!("state = {state}, position = {position}, works = {works}, refusal = {refusal}")
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
