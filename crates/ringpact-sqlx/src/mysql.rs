//! MariaDB and MySQL: what `ringpact-sql` needs of sqlx.

use std::{
    error::Error as StdError,
    future::Future,
    panic::AssertUnwindSafe,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use ringpact::Name;
use ringpact_sql::mysql::{
    ByteRow, Demands, MySqlBackend, MySqlClient, MySqlLink, MySqlTables, MySqlTransaction, SETUP_SQL, Session,
    StatementFailure, check, check_for_tables, code_may_pass, control_setup, is_transient, unavailable,
};
use sqlx::{
    Error, Executor as _, MySql, MySqlConnection, MySqlPool, Row as _,
    mysql::{MySqlDatabaseError, MySqlPoolOptions, MySqlRow},
    raw_sql,
};
use tokio::time::timeout;

use crate::{
    SqlxDatabase, SqlxOpenError, SqlxTx,
    database::{Wanted, sealed::Sealed},
    link::{CONTROL_WITHIN, Link},
};

/// Time within which a connection must show that its answers are in step. A statement that a client no longer waits for may
/// still be under way there.
const IN_STEP_WITHIN: Duration = Duration::from_secs(2);

/// The connections of a participant.
#[derive(Debug)]
pub struct MySqlPools {
    work: MySqlPool,
    control: MySqlPool,
}

impl Sealed for MySql {}

impl SqlxDatabase for MySql {
    type Backend = MySqlBackend<MySqlPools>;
    type Begun = Link<Self>;
    type Tables = MySqlTables<MySqlPools, SqlxTx<Self>>;

    const SETUP: &'static str = SETUP_SQL;

    async fn backend(wanted: Wanted<Self>) -> Result<Self::Backend, SqlxOpenError> {
        let Wanted { participant, pool, timeouts, .. } = wanted;
        let setup = control_setup(&timeouts).join(";");
        let control = MySqlPoolOptions::new()
            .max_connections(wanted.control_connections)
            .acquire_timeout(CONTROL_WITHIN)
            .after_connect(move |conn, _| {
                let setup = setup.clone();
                Box::pin(async move { conn.execute(raw_sql(&setup)).await.map(drop) })
            })
            .connect_lazy_with((*pool.connect_options()).clone());
        let demands = Demands {
            pool: pool.options().get_max_connections() as usize,
            control: wanted.control_connections as usize,
            max_promises: wanted.max_promises,
            is_last_resource: wanted.is_last_resource,
            accepts_loss: wanted.accepts_loss,
        };
        let client = MySqlPools { work: pool, control };
        let mut link = client.connect().await.map_err(unavailable)?;
        let found = if wanted.is_for_tables {
            check_for_tables(&mut link, demands).await?
        } else {
            check(&mut link, demands).await?
        };
        link.release();
        Ok(MySqlBackend::new(participant, client, timeouts, &found))
    }

    fn tables(backend: Self::Backend) -> Self::Tables {
        MySqlTables::new(backend)
    }

    async fn run(pool: &MySqlPool, sql: &str) -> Result<(), Error> {
        let mut conn = pool.acquire().await?;
        conn.execute(raw_sql(sql)).await.map(drop)
    }

    fn connection(session: &Session<Link<Self>>) -> &MySqlConnection {
        session.link.conn()
    }

    fn connection_mut(session: &mut Session<Link<Self>>) -> &mut MySqlConnection {
        session.link.conn_mut()
    }

    fn service_connection(begun: &Link<Self>) -> &MySqlConnection {
        begun.conn()
    }

    fn service_connection_mut(begun: &mut Link<Self>) -> &mut MySqlConnection {
        // A future of the service may be dropped again.
        begun.is_in_step = false;
        begun.conn_mut()
    }

    fn knows(backend: &Self::Backend, coordinators: &[Name]) {
        for coordinator in coordinators {
            backend.knows(coordinator);
        }
    }

    fn is_transient(error: &(dyn StdError + 'static)) -> bool {
        is_transient::<MySqlPools>(error)
    }
}

impl MySqlClient for MySqlPools {
    type Link = Link<MySql>;

    const RESETS_CONNECTIONS: bool = false;
    const SEES_STATEMENTS: bool = false;

    async fn connect(&self) -> Result<Link<MySql>, StatementFailure> {
        let mut link = Link::new(self.work.acquire().await.map_err(of_statement)?);
        let rows = link.rows(CONTROL_WITHIN, "SELECT CONNECTION_ID()".to_owned()).await?;
        link.id = rows.first().and_then(|row| row.number(0)).unwrap_or_default();
        Ok(link)
    }

    async fn control(&self) -> Result<Link<MySql>, StatementFailure> {
        self.control.acquire().await.map(Link::new).map_err(of_statement)
    }

    fn may_pass(error: &(dyn StdError + 'static)) -> bool {
        error.downcast_ref::<Error>().is_some_and(may_pass)
    }
}

impl Link<MySql> {
    /// Waits for an answer, within this time. An error that is no answer of the server leaves the link of no more use, and so
    /// does a future that is dropped.
    async fn answer<'c, T, A: Future<Output = Result<T, Error>>>(
        &'c mut self,
        within: Duration,
        statement: impl FnOnce(&'c mut MySqlConnection) -> A,
    ) -> Result<T, StatementFailure> {
        let (Some(conn), true) = (&mut self.conn, self.is_sound) else {
            return Err(StatementFailure::of_connection(true, "the connection was lost"));
        };
        self.is_sound = false;
        // sqlx panics when it reads an answer in the place of another one.
        let answer = match timeout(within, AssertUnwindSafe(statement(conn)).catch_unwind()).await {
            Ok(Ok(answer)) => answer.map_err(of_statement),
            Ok(Err(_)) => Err(out_of_step()),
            Err(_) => {
                let text = format!("the server has not answered within {within:?}");
                Err(StatementFailure::of_connection(true, text))
            }
        };
        self.is_sound = answer.as_ref().err().is_none_or(|error| !error.is_lost());
        answer
    }

    /// Makes sure that the next answer is that of the next statement. sqlx loses count when a future is dropped while a
    /// statement is prepared, and an answer that it takes for that of `XA PREPARE` would be a Yes without a promise.
    async fn come_into_step(&mut self) -> Result<(), StatementFailure> {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        if self.is_in_step {
            return Ok(());
        }
        let word = format!("ringpact {}", ASKED.fetch_add(1, Ordering::Relaxed));
        let rows = match self.rows(IN_STEP_WITHIN, format!("SELECT '{word}'")).await {
            Ok(rows) => rows,
            Err(error) => {
                // The error of a dropped statement, or of this one in a branch that can only be rolled back. All before it was
                // read.
                self.is_in_step = error.code.is_some();
                return Err(error);
            }
        };
        if rows.len() != 1 || rows[0].text(0) != Some(&word) {
            self.is_sound = false;
            return Err(out_of_step());
        }
        self.is_in_step = true;
        Ok(())
    }
}

impl MySqlLink for Link<MySql> {
    fn id(&self) -> u64 {
        self.id
    }

    fn is_sound(&self) -> bool {
        self.is_sound
    }

    async fn run(&mut self, within: Duration, sql: String) -> Result<(), StatementFailure> {
        self.answer(within, |conn| conn.execute(raw_sql(&sql))).await.map(drop)
    }

    async fn rows(&mut self, within: Duration, sql: String) -> Result<Vec<ByteRow>, StatementFailure> {
        let rows = self.answer(within, |conn| conn.fetch_all(raw_sql(&sql))).await?;
        rows.iter().map(bytes).collect::<Result<_, _>>().map_err(of_statement)
    }

    async fn begin(&mut self, within: Duration, sql: String) -> Result<(), StatementFailure> {
        self.is_sound = false;
        match timeout(within, self.begin_with(sql)).await {
            Ok(Ok(())) => {
                self.is_sound = true;
                Ok(())
            }
            Ok(Err(error)) => Err(of_statement(error)),
            Err(_) => Err(StatementFailure::of_connection(true, format!("no branch has begun within {within:?}"))),
        }
    }

    async fn end(&mut self, within: Duration, sql: String) -> Result<(), StatementFailure> {
        self.come_into_step().await?;
        self.run(within, sql).await
    }

    fn release(self) {
        Self::release(self);
    }
}

impl MySqlTransaction for SqlxTx<MySql> {
    type Link = Link<MySql>;

    fn new(link: Link<MySql>, _: Duration) -> Self {
        Self::begun(link)
    }

    fn link(&mut self) -> &mut Link<MySql> {
        &mut self.begun
    }

    fn into_link(self) -> Link<MySql> {
        self.begun
    }

    fn has_failed(&self) -> bool {
        false
    }

    fn hides_statements(&self) -> bool {
        self.is_used
    }
}

/// Returns the values of a row that was sent as text.
fn bytes(row: &MySqlRow) -> Result<ByteRow, Error> {
    (0..row.len()).map(|column| row.try_get_unchecked::<Option<Vec<u8>>, _>(column)).collect()
}

fn out_of_step() -> StatementFailure {
    let text =
        "a future was dropped in the middle of a statement under the branch, so the connection's answers are lost";
    StatementFailure::of_connection(true, text)
}

/// Returns what `ringpact-sql` must know of the error.
fn of_statement(error: Error) -> StatementFailure {
    match code(&error) {
        Some(code) => StatementFailure::of_server(code, error),
        None => StatementFailure::of_connection(may_pass(&error), error),
    }
}

fn code(error: &Error) -> Option<u16> {
    Some(error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>()?.number())
}

fn may_pass(error: &Error) -> bool {
    code(error).map_or(matches!(error, Error::Io(_) | Error::PoolTimedOut), code_may_pass)
}
