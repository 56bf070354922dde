//! PostgreSQL for services that keep their reservations in tables: [`PgTables`], and its transaction [`PgTx`].
//!
//! All of it is ordinary transactions of the database: nothing is prepared, and no session is fenced. The lock of the branch's row
//! orders what several connections do to one branch. The row is written in the transaction that does the branch's work, so after a
//! lost connection the row tells what was done.

use std::{
    error::Error as StdError,
    fmt,
    hash::{BuildHasher as _, RandomState},
    ops::Deref,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use deadpool_postgres::ClientWrapper;
use ringpact::{
    BranchId, Epoch, Name, TxnId, TxnOrdinal,
    participant::{
        Life,
        tables::{BranchRow, RowState, TableBackend},
        xa::{XaBackend as _, XaError, XaErrorKind},
    },
};
use tokio::time::timeout;
use tokio_postgres::{
    Row, SimpleQueryRow,
    types::{ToSql, Type},
};

use crate::{
    backend::PgBackend,
    check::{Wanted, one_row, text, unsuitable},
    control::Control,
    error::{During, PgFailure, PgOpenError, ends_connection, failure, is_transient, no_answer},
    names::{literal, tables_tag},
    session::PgSession,
};

/// A number of this process that no other has, by chance.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("process"));

/// Number of transactions that this process has begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

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
pub struct PgTables(PgBackend);

impl PgTables {
    pub(crate) const fn new(backend: PgBackend) -> Self {
        Self(backend)
    }

    /// Returns the branch's key as a condition.
    fn is_branch(&self, branch: &BranchId) -> String {
        format!("(participant, coordinator, epoch, sequence) = ({})", self.0.key(branch))
    }
}

impl fmt::Debug for PgTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTables").field("participant", &self.0.participant).finish_non_exhaustive()
    }
}

/// A transaction in which a service does its part of a branch: its connection, with the transaction open.
///
/// All methods of the client that take `&self` are there: `query`, `execute`, `prepare_cached`, `copy_in` and so on. `&**tx` is the
/// `tokio_postgres::Client`, which is a `GenericClient`. The participant sends `BEGIN`, and `COMMIT` or `ROLLBACK`; savepoints are
/// the service's. After an error of a statement, PostgreSQL takes no more statements, unless a savepoint came first: return that
/// error. If the service ends the transaction itself, the participant finds out, and answers with an error that says so.
///
/// If it is dropped, its connection is closed, and the server rolls it back.
#[derive(Debug)]
pub struct PgTx(PgSession);

impl Deref for PgTx {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.0.client()
    }
}

impl PgTx {
    /// Carries out one statement in one message, without a prepared statement.
    async fn ask(&self, statement: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, XaError> {
        self.0.client().query_typed(statement, params).await.map_err(|error| failure(error, During::Repeatable))
    }

    /// Carries out a statement that writes the branch's row. Returns whether it has written it.
    async fn write(&self, statement: &str, row: &BranchRow) -> Result<bool, XaError> {
        // Bytes take any text: the server's encoding may lack characters, and its texts have no zero byte.
        let refusal = row.refusal.as_ref().map(|reason| reason.as_bytes());
        let written = self.ask(statement, &[(&row.works, Type::BYTEA), (&refusal, Type::BYTEA)]).await?;
        Ok(!written.is_empty())
    }
}

impl TableBackend for PgTables {
    type Tx = PgTx;

    async fn begin(&self) -> Result<PgTx, XaError> {
        let tag = tables_tag(*PROCESS, BEGUN.fetch_add(1, Ordering::Relaxed));
        PgSession::begin_tagged(&self.0.pool, tag, &self.0.timeouts).await.map(PgTx)
    }

    async fn commit(&self, PgTx(session): PgTx) -> Result<(), XaError> {
        if session.client().is_closed() {
            // Nothing can have been sent, so there is no doubt.
            return Err(XaError::new(XaErrorKind::Transient, PgFailure::NoSession));
        }
        // COMMIT succeeds as a rollback after a failed statement, and as nothing if the service has ended the transaction.
        let message = format!("SELECT {}.same_transaction({}); COMMIT", self.0.schema, literal(session.tag()));
        let within = self.0.answer_within();
        match timeout(within, session.client().batch_execute(&message)).await {
            Ok(Ok(())) => {
                session.give_back();
                Ok(())
            }
            Ok(Err(error)) => {
                if !ends_connection(&error) {
                    self.0.undo(session).await;
                }
                Err(failure(error, During::Promise))
            }
            Err(_) => Err(no_answer(within, During::Promise)),
        }
    }

    async fn rollback(&self, PgTx(session): PgTx) {
        if !session.client().is_closed() {
            self.0.undo(session).await;
        }
    }

    async fn row(&self, tx: &mut PgTx, branch: &BranchId) -> Result<Option<BranchRow>, XaError> {
        let statement = format!(
            "SELECT state, works, position::text, refusal FROM {}.branch WHERE {} FOR UPDATE",
            self.0.schema,
            self.is_branch(branch)
        );
        let Some(found) = tx.ask(&statement, &[]).await?.pop() else { return Ok(None) };
        let read = || {
            let state = RowState::from_number(u8::try_from(found.try_get::<_, i16>(0).ok()?).ok()?)?;
            let position = found.try_get::<_, String>(2).ok()?.parse().ok()?;
            let mut row = BranchRow::new(state, found.try_get(1).ok()?, position);
            row.refusal = found.try_get::<_, Option<Vec<u8>>>(3).ok()?.map(lossy);
            Some(row)
        };
        read().map(Some).ok_or_else(|| damaged(branch.to_string()))
    }

    async fn insert(&self, tx: &mut PgTx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let statement = format!(
            "INSERT INTO {}.branch (participant, coordinator, epoch, sequence, state, position, works, refusal) \
             VALUES ({}, {}, {}, $1, $2) ON CONFLICT DO NOTHING RETURNING 1",
            self.0.schema,
            self.0.key(branch),
            row.state.number(),
            row.position
        );
        let is_written = tx.write(&statement, row).await?;
        let first = || XaError::new(XaErrorKind::Transient, "another transaction has written the branch's row first");
        if is_written { Ok(()) } else { Err(first()) }
    }

    async fn update(&self, tx: &mut PgTx, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let statement = format!(
            "UPDATE {}.branch SET state = {}, position = {}, works = $1, refusal = $2 WHERE {} RETURNING 1",
            self.0.schema,
            row.state.number(),
            row.position,
            self.is_branch(branch)
        );
        let is_written = tx.write(&statement, row).await?;
        let gone = || XaError::new(XaErrorKind::Refused, "the service has deleted the branch's row, or hides it");
        if is_written { Ok(()) } else { Err(gone()) }
    }

    async fn open_rows(&self, coordinator: &Name) -> Result<Vec<(BranchId, BranchRow)>, XaError> {
        let statement = format!(
            "SELECT epoch, sequence, state, encode(works, 'hex'), position, encode(refusal, 'hex') FROM {}.branch \
             WHERE {} AND state < {} ORDER BY epoch, sequence",
            self.0.schema,
            self.0.rows_of(coordinator),
            RowState::Confirmed.number()
        );
        let rows = self.0.control.ask(&statement).await?;
        let read = |row| {
            open_row(row, coordinator, &self.0.participant).ok_or_else(|| damaged(format!("one of {coordinator}'s")))
        };
        rows.iter().map(read).collect()
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        self.0.lives().await
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        self.0.note_life(coordinator, life, before).await
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient(error)
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let statement = format!(
            "DELETE FROM {}.branch WHERE {} AND (epoch, sequence) < ({}, {}) AND state >= {}",
            self.0.schema,
            self.0.rows_of(coordinator),
            below.epoch.as_u64(),
            below.sequence,
            RowState::Confirmed.number()
        );
        self.0.control.ask(&statement).await.map(drop)
    }
}

/// Reads a row of those that are not ended.
fn open_row(row: &SimpleQueryRow, coordinator: &Name, participant: &Name) -> Option<(BranchId, BranchRow)> {
    let (epoch, sequence) = (row.get(0)?.parse().ok()?, row.get(1)?.parse().ok()?);
    let branch = TxnId::new(coordinator.clone(), Epoch::new(epoch), sequence).branch(participant);
    let state = RowState::from_number(row.get(2)?.parse().ok()?)?;
    let mut found = BranchRow::new(state, bytes(row.get(3)?)?, row.get(4)?.parse().ok()?);
    if let Some(reason) = row.get(5) {
        found.refusal = Some(lossy(bytes(reason)?));
    }
    Some((branch, found))
}

/// Reads hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn damaged(row: String) -> XaError {
    XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(format!("a row of table branch ({row})")))
}

/// Checks what only services with tables need. The rest is checked for all participants.
pub(crate) async fn check(control: &Control, wanted: &Wanted<'_>) -> Result<(), PgOpenError> {
    let schema = wanted.schema;
    let row = one_row(
        control,
        &format!(
            "SELECT current_setting('synchronous_commit'), to_regclass('{schema}.branch') IS NOT NULL, \
             to_regprocedure('{schema}.same_transaction(text)') IS NOT NULL, current_user"
        ),
    )
    .await?;
    if text(&row, 0)? == "off" && !wanted.may_lose_promises {
        let problem = "synchronous_commit is off, so a crash of the server loses promises and commits".to_owned();
        let change = "Run ALTER ROLE .. SET synchronous_commit = on (or ALTER DATABASE, or ALTER SYSTEM and pg_reload_conf()), \
                      and connect again";
        return unsuitable(problem, change);
    }
    if text(&row, 1)? != "t" || text(&row, 2)? != "t" {
        let run = "Run PgParticipant::SETUP_SQL in the database as its owner, or call PgParticipant::setup";
        return unsuitable(format!("schema {schema} is incomplete: it lacks what services with tables need"), run);
    }
    let rights = format!(
        "SELECT has_table_privilege('{schema}.branch', 'SELECT') AND has_table_privilege('{schema}.branch', 'INSERT') \
         AND has_table_privilege('{schema}.branch', 'UPDATE') AND has_table_privilege('{schema}.branch', 'DELETE') \
         AND has_function_privilege('{schema}.same_transaction(text)', 'EXECUTE')"
    );
    if text(&one_row(control, &rights).await?, 0)? != "t" {
        let role = text(&row, 3)?;
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        let grant = format!(
            "As its owner, run GRANT SELECT, INSERT, UPDATE, DELETE ON {schema}.branch TO {quoted}; GRANT EXECUTE ON FUNCTION \
             {schema}.same_transaction(text) TO {quoted}"
        );
        return unsuitable(format!("role {role} may not use table {schema}.branch"), &grant);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_fits_and_is_no_branchs() {
        let tag = tables_tag(u64::MAX, u64::MAX);
        assert!(tag.len() <= 63, "{} bytes", tag.len());
    }

    #[test]
    fn hexadecimal_digits_are_read() {
        assert_eq!(bytes("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(bytes(""), Some(Vec::new()));
        assert_eq!(bytes("0"), Some(vec![0]));
        assert_eq!(bytes("zz"), None);
    }
}
