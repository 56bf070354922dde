//! PostgreSQL: what `ringpact-sql` needs of sqlx.

use std::{error::Error as StdError, time::Duration};

use futures_util::TryStreamExt as _;
use ringpact::{
    Name,
    participant::xa::{XaError, XaErrorKind},
};
use ringpact_sql::postgres::{
    ANSWER_WITHIN, During, PgBackend, PgClient, PgLink, PgTables, PgTransaction, PgWork, SETUP_SQL, StatementFailure,
    TextRow, check, check_for_tables, check_schema, failure, is_transient, no_answer, no_free_connection,
    no_pool_connection,
};
use sqlx::{
    Either, Error, Executor as _, PgConnection, PgPool, Postgres, Row as _,
    postgres::{PgDatabaseError, PgPoolOptions, PgRow, PgSeverity},
    raw_sql,
};
use tokio::time::timeout;

use crate::{
    SqlxDatabase, SqlxOpenError, SqlxTx,
    database::{Wanted, sealed::Sealed},
    link::{CONTROL_WITHIN, Link},
};

/// The connections of a participant.
#[derive(Debug)]
pub struct PgPools {
    work: PgPool,
    control: PgPool,
}

impl Sealed for Postgres {}

impl SqlxDatabase for Postgres {
    type Backend = PgBackend<PgPools>;
    type Begun = PgWork<Link<Self>>;
    type Tables = PgTables<PgPools, SqlxTx<Self>>;

    const SETUP: &'static str = SETUP_SQL;

    async fn backend(wanted: Wanted<Self>) -> Result<Self::Backend, SqlxOpenError> {
        let Wanted { participant, pool, timeouts, schema, .. } = wanted;
        check_schema(&schema)?;
        let control = PgPoolOptions::new()
            .max_connections(wanted.control_connections)
            .acquire_timeout(CONTROL_WITHIN)
            .connect_lazy_with((*pool.connect_options()).clone());
        let client = PgPools { work: pool, control };
        let demands = ringpact_sql::postgres::Wanted {
            schema: &schema,
            max_promises: wanted.max_promises,
            is_last_resource: wanted.is_last_resource,
            may_lose_promises: wanted.accepts_loss,
            connection: timeouts.connection,
        };
        if wanted.is_for_tables {
            check_for_tables(&client, &demands).await?;
        } else {
            check(&client, &demands).await?;
        }
        Ok(PgBackend::new(participant, client, timeouts, schema))
    }

    fn tables(backend: Self::Backend) -> Self::Tables {
        PgTables::new(backend)
    }

    async fn run(pool: &PgPool, sql: &str) -> Result<(), Error> {
        let mut conn = pool.acquire().await?;
        conn.execute(raw_sql(sql)).await.map(drop)
    }

    fn connection(session: &PgWork<Link<Self>>) -> &PgConnection {
        session.link.conn()
    }

    fn connection_mut(session: &mut PgWork<Link<Self>>) -> &mut PgConnection {
        session.link.conn_mut()
    }

    fn service_connection(begun: &PgWork<Link<Self>>) -> &PgConnection {
        begun.link.conn()
    }

    fn service_connection_mut(begun: &mut PgWork<Link<Self>>) -> &mut PgConnection {
        begun.link.conn_mut()
    }

    fn knows(_: &Self::Backend, _: &[Name]) {}

    fn is_transient(error: &(dyn StdError + 'static)) -> bool {
        is_transient::<PgPools>(error)
    }
}

impl PgPools {
    async fn ask_once(&self, statement: &str) -> Result<Vec<TextRow>, XaError> {
        let answer = async {
            // If this future is dropped, a statement may be under way on the connection.
            let mut link = Link::new(self.control.acquire().await.map_err(|error| self.no_connection(error))?);
            let answer = link.ask(statement).await;
            if answer.as_ref().err().is_none_or(|error| !error.ends_connection) {
                link.release();
            }
            answer.map_err(|error| failure(error, During::Repeatable))
        };
        timeout(ANSWER_WITHIN, answer).await.unwrap_or_else(|_| Err(no_answer(ANSWER_WITHIN, During::Repeatable)))
    }

    fn no_connection(&self, error: Error) -> XaError {
        let options = self.work.options();
        match error {
            Error::PoolTimedOut => {
                no_free_connection(options.get_acquire_timeout(), options.get_max_connections() as usize)
            }
            Error::PoolClosed => no_pool_connection(error),
            error => failure(of_statement(error), During::Repeatable),
        }
    }
}

impl PgClient for PgPools {
    type Link = Link<Postgres>;

    async fn connect(&self, within: Duration) -> Result<Link<Postgres>, XaError> {
        match timeout(within, self.work.acquire()).await {
            Ok(Ok(conn)) => Ok(Link::new(conn)),
            Ok(Err(error)) => Err(self.no_connection(error)),
            Err(_) => Err(no_free_connection(within, self.work.options().get_max_connections() as usize)),
        }
    }

    async fn ask(&self, statement: &str) -> Result<Vec<TextRow>, XaError> {
        match self.ask_once(statement).await {
            Err(error) if error.kind() == XaErrorKind::Unavailable => self.ask_once(statement).await,
            answer => answer,
        }
    }

    /// It goes to a connection of the branches' pool if one is idle: the syncs of many commits are then shared. A branch's locks
    /// come free by it, so it comes before new branches.
    async fn end_promise(&self, statement: &str) -> Result<(), XaError> {
        if let Some(idle) = self.work.try_acquire() {
            let mut link = Link::new(idle);
            if timeout(ANSWER_WITHIN, link.ask(statement)).await.is_ok_and(|answer| answer.is_ok()) {
                link.release();
                return Ok(());
            }
            // What the work has set in that session may be in the way. The others have nothing set.
        }
        self.ask(statement).await.map(drop)
    }

    fn sqlstate(error: &(dyn StdError + 'static)) -> Option<String> {
        let error = error.downcast_ref::<Error>()?.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
        Some(error.code().to_owned())
    }

    fn is_of_connection(error: &(dyn StdError + 'static)) -> bool {
        matches!(error.downcast_ref(), Some(Error::Io(_) | Error::PoolTimedOut))
    }
}

impl PgLink for Link<Postgres> {
    fn is_closed(&self) -> bool {
        false
    }

    async fn begin(&mut self, message: String) -> Result<(), StatementFailure> {
        self.begin_with(message).await.map_err(of_statement)
    }

    /// sqlx takes the branch's transaction for open until it ends one itself. So the message begins another one, which
    /// [`Link::release`] has sqlx roll back: without it, PostgreSQL would log a warning for each branch.
    async fn end(&mut self, check: &str, ending: &str) -> Result<(), StatementFailure> {
        let message = format!("{check}; {ending}; BEGIN");
        let mut results = self.conn_mut().fetch_many(raw_sql(&message));
        let mut completed = 0;
        loop {
            match results.try_next().await {
                Ok(Some(Either::Left(_))) => completed += 1,
                Ok(Some(Either::Right(_))) => {}
                Ok(None) => return Ok(()),
                // The ending was carried out, and an interrupt came after it. The connection must not be used again.
                Err(_) if completed >= 2 => break,
                Err(error) => return Err(of_statement(error)),
            }
        }
        drop(results);
        self.is_sound = false;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), StatementFailure> {
        // Savepoints of sqlx may be open, if the work has forgotten them. Then the connection is closed afterwards.
        self.conn_mut().execute(raw_sql("ROLLBACK; BEGIN")).await.map(drop).map_err(of_statement)
    }

    async fn ask(&mut self, statement: &str) -> Result<Vec<TextRow>, StatementFailure> {
        let rows = self.conn_mut().fetch_all(raw_sql(statement)).await.map_err(of_statement)?;
        rows.iter().map(text).collect::<Result<_, _>>().map_err(of_statement)
    }

    fn give_back(self) {
        self.release();
    }
}

impl PgTransaction for SqlxTx<Postgres> {
    type Link = Link<Postgres>;

    fn new(work: PgWork<Link<Postgres>>) -> Self {
        Self::begun(work)
    }

    fn work(&mut self) -> &mut PgWork<Link<Postgres>> {
        &mut self.begun
    }

    fn into_work(self) -> PgWork<Link<Postgres>> {
        self.begun
    }
}

/// Returns the values of a row that was sent as text.
fn text(row: &PgRow) -> Result<TextRow, Error> {
    (0..row.len()).map(|column| row.try_get_unchecked::<Option<String>, _>(column)).collect()
}

/// Returns what `ringpact-sql` must know of the error.
fn of_statement(error: Error) -> StatementFailure {
    let answer = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    let Some(answer) = answer else { return StatementFailure::of_connection(error) };
    let (code, is_error) = (answer.code().to_owned(), matches!(answer.severity(), PgSeverity::Error));
    StatementFailure::of_server(&code, is_error, error)
}
