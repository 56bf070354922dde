//! One step of a shard: a transaction of the database, from a thread that blocks.

use std::{error::Error as StdError, fmt, future::Future, time::Duration};

use ringpact::{
    ServiceError,
    participant::{
        tables::{AsyncService, TableBackend as _},
        xa::{XaError, XaErrorKind},
    },
};
use ringpact_sql::postgres::{During, TextRow, no_answer};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
    time::timeout,
};

use super::PgShard;
use crate::{PgTx, error::failure, session::rows};

/// Number of times that a step is tried in which another transaction comes first.
const MAX_TRIES: u32 = 5;

/// Number of statements, of the longest duration, that one step may take. A server that has gone without a word is given up then.
const STATEMENTS: u32 = 3;

/// Time beyond the statements' own.
const MARGIN: Duration = Duration::from_secs(5);

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Failure {
    Database(XaError),
    Service(ServiceError),
}

impl From<XaError> for Failure {
    fn from(error: XaError) -> Self {
        Self::Database(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(failure(error, During::Repeatable))
    }
}

impl From<Failure> for ServiceError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Database(error) => error.into(),
            Failure::Service(error) => error,
        }
    }
}

/// What stays of a transaction in which nothing failed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    All,
    /// It has changed nothing.
    Nothing,
}

/// The thread that called the shard must not block.
#[derive(Debug)]
struct OneThread;

impl fmt::Display for OneThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a shard in a database was called on the only thread of a runtime, which it would block; call it on a thread of \
             your own, or build the runtime with new_multi_thread",
        )
    }
}

impl StdError for OneThread {}

impl<S> PgShard<S> {
    /// Blocks until the future is done.
    pub(super) fn block<T>(&self, future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match Handle::try_current() {
            Err(_) => self.runtime.block_on(future),
            Ok(current) if current.runtime_flavor() == RuntimeFlavor::CurrentThread => {
                Err(XaError::new(XaErrorKind::Misconfigured, OneThread).into())
            }
            // Tasks of this thread go on elsewhere.
            Ok(_) => block_in_place(|| self.runtime.block_on(future)),
        }
    }

    fn limit(&self) -> Duration {
        // Zero switches the server's own limit off.
        let statement = self.timeouts.statement;
        if statement.is_zero() { Duration::MAX } else { statement.saturating_mul(STATEMENTS).saturating_add(MARGIN) }
    }
}

impl<S: AsyncService<PgTx>> PgShard<S> {
    /// Begins a transaction, which an opening of the shard waits for.
    pub(super) async fn begin(&self) -> Result<PgTx, XaError> {
        let tx = self.tables.begin().await?;
        let found = ask(&tx, &self.fence).await?;
        // The first row is that of the lock.
        if found.get(1).and_then(|row| row.get(0)) == Some(&*self.opening) {
            return Ok(tx);
        }
        self.tables.rollback(tx).await;
        let text = format!(
            "shard {} has been opened by another process since; end one of the two, because a shard has one process",
            self.name
        );
        Err(XaError::new(XaErrorKind::Misconfigured, text))
    }

    /// Does something in a transaction of its own. Does it again while another transaction comes first.
    pub(super) async fn step<T>(
        &self,
        mut act: impl AsyncFnMut(&mut PgTx) -> Result<(T, Keep), Failure>,
    ) -> Result<T, Failure> {
        let mut tries = 1;
        loop {
            let tx = self.begin().await?;
            match self.end(tx, &mut act).await {
                Err(Failure::Database(error)) if error.kind() == XaErrorKind::Transient && tries < MAX_TRIES => {
                    tries += 1
                }
                result => return result,
            }
        }
    }

    /// Acts in the transaction, and ends it.
    pub(super) async fn end<T>(
        &self,
        mut tx: PgTx,
        act: &mut impl AsyncFnMut(&mut PgTx) -> Result<(T, Keep), Failure>,
    ) -> Result<T, Failure> {
        let limit = self.limit();
        let Ok(done) = timeout(limit, act(&mut tx)).await else {
            // Dropped, the transaction's connection is closed.
            return Err(no_answer(limit, During::Repeatable).into());
        };
        match done {
            Ok((value, Keep::All)) => self.tables.commit(tx).await.map(|()| value).map_err(Failure::from),
            Ok((value, Keep::Nothing)) => {
                self.tables.rollback(tx).await;
                Ok(value)
            }
            Err(error) => {
                self.tables.rollback(tx).await;
                Err(error)
            }
        }
    }

    /// Tells what passes by itself, as the service returns it, from the rest.
    pub(super) fn of_service(&self, error: ServiceError) -> Failure {
        if self.tables.is_transient(&*error) {
            Failure::Database(XaError::new(XaErrorKind::Transient, error))
        } else {
            Failure::Service(error)
        }
    }
}

/// Carries out statements in the transaction, and returns their rows.
pub(super) async fn ask(tx: &PgTx, statements: &str) -> Result<Vec<TextRow>, XaError> {
    let answer = tx.simple_query(statements).await;
    answer.map(rows).map_err(|error| failure(error, During::Repeatable))
}

/// Returns a text as a literal of SQL.
pub(super) fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if text.contains('\\') { format!(" E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}

/// Returns bytes as an expression of SQL.
pub(super) fn bytes(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(2 * bytes.len() + 16);
    text.push_str("decode('");
    for byte in bytes {
        let _infallible = write!(text, "{byte:02x}");
    }
    text.push_str("', 'hex')");
    text
}

/// Reads hexadecimal digits, and what is encoded in them.
pub(super) fn read<T: serde::de::DeserializeOwned>(digits: Option<&str>) -> Result<T, XaError> {
    let malformed = || {
        XaError::new(
            XaErrorKind::Misconfigured,
            "a row of the shard's own tables can't be read; restore it from a backup",
        )
    };
    let pairs = digits.ok_or_else(malformed)?.as_bytes().chunks(2);
    let bytes =
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect::<Option<Vec<u8>>>();
    postcard::from_bytes(&bytes.ok_or_else(malformed)?).map_err(|_| malformed())
}

/// Encodes what [`read`] reads.
pub(super) fn written<T: serde::Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Failure> {
    postcard::to_allocvec(value).map_err(|error| Failure::Service(error.into()))
}
