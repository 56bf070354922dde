//! Services with tables: [`PgTables`].

use std::{
    error::Error as StdError,
    fmt::{self, Write as _},
    hash::{BuildHasher as _, RandomState},
    marker::PhantomData,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
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
    backend::{Ending, PgBackend, PgWork},
    client::{PgClient, PgLink, TextRow},
    error::{During, PgFailure, failure, is_transient},
    names::{literal, tables_tag},
};

/// A number of this process that no other has, by chance.
static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("process"));

/// Number of transactions that this process has begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// How a client library hands a transaction to a service: a type that gives the connection's statements to it, and nothing
/// that would give the connection away.
pub trait PgTransaction: Send + 'static {
    /// A connection of the pool.
    type Link: PgLink;

    /// Returns the transaction that was begun in this connection.
    fn new(work: PgWork<Self::Link>) -> Self;

    /// Returns its connection, for statements of the participant.
    fn work(&mut self) -> &mut PgWork<Self::Link>;

    /// Returns its connection, to end it.
    fn into_work(self) -> PgWork<Self::Link>;
}

/// One database of PostgreSQL, for a service that keeps its reservations in tables.
///
/// `ringpact-postgres` has an example, and what to know of it.
pub struct PgTables<C, T> {
    backend: PgBackend<C>,
    handed: PhantomData<fn() -> T>,
}

impl<C, T> fmt::Debug for PgTables<C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgTables").field("participant", &self.backend.participant).finish_non_exhaustive()
    }
}

impl<C: PgClient, T: PgTransaction<Link = C::Link>> PgTables<C, T> {
    /// Returns the tables of this backend's participant.
    #[must_use]
    pub const fn new(backend: PgBackend<C>) -> Self {
        Self { backend, handed: PhantomData }
    }

    fn table(&self) -> String {
        format!("{}.branch", self.backend.schema)
    }

    /// Returns the condition on the rows of this participant about this coordinator.
    fn rows_of(&self, coordinator: &Name) -> String {
        let (participant, coordinator) = (literal(self.backend.participant.as_str()), literal(coordinator.as_str()));
        format!("participant = {participant} AND coordinator = {coordinator}")
    }
}

impl<C: PgClient, T: PgTransaction<Link = C::Link>> TableBackend for PgTables<C, T> {
    type Tx = T;

    async fn begin(&self) -> Result<T, XaError> {
        let tag = tables_tag(*PROCESS, BEGUN.fetch_add(1, Ordering::Relaxed));
        self.backend.begin_work(tag, true).await.map(T::new)
    }

    async fn commit(&self, tx: T) -> Result<(), XaError> {
        // COMMIT succeeds as a rollback after a failed statement, and as nothing if the service has ended the transaction.
        self.backend.end_work(tx.into_work(), Ending::CommitRow).await.map(drop)
    }

    async fn rollback(&self, tx: T) {
        self.backend.undo(tx.into_work()).await;
    }

    async fn row(&self, tx: &mut T, branch: &BranchId) -> Result<Option<BranchRow>, XaError> {
        let statement = format!("SELECT {VALUES} FROM {} WHERE {} FOR UPDATE", self.table(), is_branch(branch));
        let Some(found) = ask(tx, &statement).await?.pop() else { return Ok(None) };
        values_of(&found).map(Some).ok_or_else(|| damaged(branch.to_string()))
    }

    async fn insert(&self, tx: &mut T, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let statement = format!(
            "INSERT INTO {} (participant, coordinator, epoch, sequence, state, position, works, refusal) \
             VALUES ({}, {}) ON CONFLICT DO NOTHING RETURNING 1",
            self.table(),
            key(branch),
            values(row)
        );
        let first = || XaError::new(XaErrorKind::Transient, "another transaction has written the branch's row first");
        if ask(tx, &statement).await?.is_empty() { Err(first()) } else { Ok(()) }
    }

    async fn update(&self, tx: &mut T, branch: &BranchId, row: &BranchRow) -> Result<(), XaError> {
        let statement = format!(
            "UPDATE {} SET (state, position, works, refusal) = ROW ({}) WHERE {} RETURNING 1",
            self.table(),
            values(row),
            is_branch(branch)
        );
        let gone = || XaError::new(XaErrorKind::Refused, "the service has deleted the branch's row, or hides it");
        if ask(tx, &statement).await?.is_empty() { Err(gone()) } else { Ok(()) }
    }

    async fn open_rows(&self, coordinator: &Name) -> Result<Vec<(BranchId, BranchRow)>, XaError> {
        let statement = format!(
            "SELECT {VALUES}, epoch, sequence FROM {} WHERE {} AND state < {} ORDER BY epoch, sequence",
            self.table(),
            self.rows_of(coordinator),
            RowState::Confirmed.number()
        );
        let read = |row: &TextRow| {
            let (epoch, sequence) = (row.get(4)?.parse().ok()?, row.get(5)?.parse().ok()?);
            let branch = TxnId::new(coordinator.clone(), Epoch::new(epoch), sequence).branch(&self.backend.participant);
            Some((branch, values_of(row)?))
        };
        let rows = self.backend.client.ask(&statement).await?;
        rows.iter().map(|row| read(row).ok_or_else(|| damaged(format!("one of {coordinator}'s")))).collect()
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
        let statement = format!(
            "DELETE FROM {} WHERE {} AND (epoch, sequence) < ({}, {}) AND state >= {}",
            self.table(),
            self.rows_of(coordinator),
            below.epoch.as_u64(),
            below.sequence,
            RowState::Confirmed.number()
        );
        self.backend.client.ask(&statement).await.map(drop)
    }
}

/// What a row says beside its key. Bytes take any text: the server's encoding may lack characters, and its texts have no zero
/// byte.
const VALUES: &str = "state, position, encode(works, 'hex'), encode(refusal, 'hex')";

/// Reads [`VALUES`].
fn values_of(row: &TextRow) -> Option<BranchRow> {
    let state = RowState::from_number(row.get(0)?.parse().ok()?)?;
    let mut found = BranchRow::new(state, bytes(row.get(2)?)?, row.get(1)?.parse().ok()?);
    if let Some(reason) = row.get(3) {
        found.refusal = Some(String::from_utf8_lossy(&bytes(reason)?).into_owned());
    }
    Some(found)
}

/// Returns what a row says beside its key, as expressions.
fn values(row: &BranchRow) -> String {
    let refusal = row.refusal.as_ref().map_or_else(|| "NULL".to_owned(), |reason| decoded(reason.as_bytes()));
    format!("{}, {}, {}, {refusal}", row.state.number(), row.position, decoded(&row.works))
}

/// Returns the branch's key, as values of a row.
fn key(branch: &BranchId) -> String {
    let (participant, txn) = (literal(branch.participant().as_str()), branch.txn());
    let coordinator = literal(txn.coordinator().as_str());
    format!("{participant}, {coordinator}, {}, {}", txn.epoch().as_u64(), txn.sequence())
}

/// Returns the condition on the branch's row.
fn is_branch(branch: &BranchId) -> String {
    format!("(participant, coordinator, epoch, sequence) = ({})", key(branch))
}

/// Carries out a statement in the transaction.
async fn ask<T: PgTransaction>(tx: &mut T, statement: &str) -> Result<Vec<TextRow>, XaError> {
    tx.work().link.ask(statement).await.map_err(|error| failure(error, During::Repeatable))
}

/// Returns bytes as an expression of SQL, however the server is set up.
fn decoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len() + 16);
    text.push_str("decode('");
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text.push_str("', 'hex')");
    text
}

/// Reads hexadecimal digits.
fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits = digits.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn damaged(row: String) -> XaError {
    XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(format!("a row of table branch ({row})")))
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
    fn bytes_are_written_and_read() {
        assert_eq!(decoded(&[0, 255, 16]), "decode('00ff10', 'hex')");
        assert_eq!(bytes("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!(bytes(""), Some(Vec::new()));
        assert_eq!(bytes("zz"), None);
    }
}
