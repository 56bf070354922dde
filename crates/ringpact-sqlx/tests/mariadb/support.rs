//! What the tests have in common: a server for all of them, and a database for each.
//!
//! It has the items of the same module of `ringpact-mysql`, whose tests run here, too.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, LogId, Name,
    participant::{AsyncParticipant as _, Call, Decision},
};
use ringpact_servers::{mariadb::MariaDb, missing};
pub use ringpact_sqlx::{
    BranchTimeouts, SqlxMySqlParticipant as MySqlParticipant, SqlxMySqlTables as MySqlTables, TableParticipant,
    TableWorkError,
};
use ringpact_sqlx::{SqlxBuilder, SqlxMySqlBranch, SqlxOpenError};
use sqlx::{
    Connection as _, Decode, Error, Executor as _, MySql, MySqlConnection, MySqlPool, Row as _,
    mysql::{MySqlConnectOptions, MySqlPoolOptions, MySqlSslMode},
    pool::PoolConnection,
    raw_sql,
};
use tokio::{runtime::Runtime, time::sleep};

pub type MySqlBuilder = SqlxBuilder<MySql>;

/// Maximum duration of what happens soon, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Whether a branch knows its statements, so that one that only reads votes so.
pub const SEES_STATEMENTS: bool = false;

/// The server that tests share if they do not kill it. It ends with the process.
static SERVER: OnceLock<Option<MariaDb>> = OnceLock::new();

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Returns the shared server; `None` if MariaDB is not installed.
pub fn server() -> Option<&'static MariaDb> {
    let server = SERVER.get_or_init(|| MariaDb::start(&[])).as_ref();
    if server.is_none() {
        missing("MariaDB", "mariadbd is not installed");
    }
    server
}

/// Runs a test in a fresh database of the shared server.
pub fn with_database(test: impl AsyncFnOnce(Database)) {
    let Some(server) = server() else { return };
    runtime().block_on(async { test(Database::make(&server.socket()).await).await });
}

/// One database of a server, with a table of accounts and the tables of the participant.
#[derive(Clone, Debug)]
pub struct Database {
    socket: PathBuf,
    pub name: String,
}

impl Database {
    pub async fn make(socket: &Path) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let name = format!("test_{}", MADE.fetch_add(1, Ordering::SeqCst));
        let database = Self { socket: socket.to_owned(), name };
        let opts = MySqlConnectOptions::new().username("root").socket(socket).ssl_mode(MySqlSslMode::Disabled);
        let mut conn = MySqlConnection::connect_with(&opts).await.expect("a connection");
        conn.execute(raw_sql(&format!("CREATE DATABASE {}", database.name))).await.expect("a database");
        conn.close().await.expect("it is closed");
        let pool = database.pool(1);
        MySqlParticipant::setup(&pool).await.expect("the tables");
        pool.close().await;
        database.sql("CREATE TABLE account (id VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL) ENGINE = InnoDB").await;
        database
    }

    pub fn opts(&self) -> MySqlConnectOptions {
        let opts = MySqlConnectOptions::new().username("root").socket(&self.socket).database(&self.name);
        opts.ssl_mode(MySqlSslMode::Disabled)
    }

    pub fn pool(&self, connections: u32) -> MySqlPool {
        MySqlPoolOptions::new().max_connections(connections).connect_lazy_with(self.opts())
    }

    /// Returns a pool of this number of connections.
    pub fn pool_of(&self, connections: usize) -> MySqlPool {
        self.pool(u32::try_from(connections).expect("a few"))
    }

    /// Returns the options of a service with tables.
    pub fn tables(&self, participant: &str) -> MySqlBuilder {
        tables_by(participant, self.opts())
    }

    /// Like [`tables`](Self::tables), with connections of this user.
    pub fn tables_as(&self, user: &str) -> MySqlBuilder {
        tables_by("payments", self.opts().username(user))
    }

    /// Like [`tables`](Self::tables), with connections through a proxy at this port.
    pub fn tables_at(&self, port: u16) -> MySqlBuilder {
        let opts = MySqlConnectOptions::new().username("root").host("127.0.0.1").port(port).database(&self.name);
        tables_by("payments", opts.ssl_mode(MySqlSslMode::Disabled))
    }

    pub async fn conn(&self) -> Conn {
        Conn(MySqlConnection::connect_with(&self.opts()).await.expect("a connection"))
    }

    /// Carries out statements on a connection of their own.
    pub async fn sql(&self, sql: &str) {
        let mut conn = self.conn().await;
        carry_out(&mut conn, sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("it is closed");
    }

    /// Returns the value that a query gives.
    pub async fn value<T>(&self, sql: &str) -> Option<T>
    where
        T: for<'r> Decode<'r, MySql> + Send + Unpin,
    {
        let mut conn = self.conn().await;
        let row = conn.0.fetch_optional(raw_sql(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("it is closed");
        row.and_then(|row| row.try_get_unchecked::<Option<T>, _>(0).expect("a value"))
    }

    /// Returns how often this account is in the table, as other transactions see it.
    pub async fn committed(&self, account: &str) -> u64 {
        self.value(&format!("SELECT COUNT(*) FROM account WHERE id = '{account}'")).await.expect("a count")
    }

    /// Returns the number of prepared transactions of the participant in this database.
    pub async fn prepared(&self, participant: &MySqlParticipant) -> usize {
        let _ = self;
        participant.orphans(&[]).await.expect("the prepared transactions").len()
    }

    pub async fn open(&self) -> MySqlParticipant {
        self.open_with(BranchTimeouts::default()).await
    }

    pub async fn open_with(&self, timeouts: BranchTimeouts) -> MySqlParticipant {
        self.open_as("payments", 12, 8, timeouts, None).await
    }

    /// Opens a participant of this name with this number of connections and promises, each connection after this statement.
    pub async fn open_as(
        &self,
        name: &str,
        connections: usize,
        promises: usize,
        timeouts: BranchTimeouts,
        first: Option<&str>,
    ) -> MySqlParticipant {
        let first = first.unwrap_or("DO 0").to_owned();
        let pool = MySqlPoolOptions::new()
            .max_connections(u32::try_from(connections).expect("a few"))
            .after_connect(move |conn, _| {
                let first = first.clone();
                Box::pin(async move { conn.execute(raw_sql(&first)).await.map(drop) })
            })
            .connect_lazy_with(self.opts());
        let builder = MySqlParticipant::builder(name).pool(pool).max_promises(promises).timeouts(timeouts);
        builder.open().await.expect("a participant")
    }

    /// Returns the numbers of the connections to this database, except that which asks.
    pub async fn connections(&self) -> Vec<u64> {
        let mut conn = self.conn().await;
        let sql = format!(
            "SELECT id FROM information_schema.processlist WHERE db = '{}' AND id <> CONNECTION_ID()",
            self.name
        );
        let ids = strings(&mut conn, &sql).await.iter().map(|id| id.parse().expect("a number")).collect();
        conn.disconnect().await.expect("it is closed");
        ids
    }

    /// Kills all connections to this database, and waits until they are gone.
    pub async fn kill_connections(&self) {
        for id in self.connections().await {
            let mut conn = self.conn().await;
            // It may have ended by itself.
            let _gone = carry_out(&mut conn, format!("KILL {id}")).await;
            conn.disconnect().await.expect("it is closed");
        }
        let deadline = Instant::now() + SOON;
        while !self.connections().await.is_empty() {
            assert!(Instant::now() < deadline, "the connections do not end");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A connection of a test's own.
pub struct Conn(pub MySqlConnection);

impl Conn {
    pub async fn disconnect(self) -> Result<(), Error> {
        self.0.close().await
    }
}

fn tables_by(participant: &str, opts: MySqlConnectOptions) -> MySqlBuilder {
    let timeouts = BranchTimeouts::default().lock(Duration::from_secs(1));
    let pool = MySqlPoolOptions::new().max_connections(12).connect_lazy_with(opts);
    MySqlParticipant::builder(participant).pool(pool).timeouts(timeouts)
}

/// Whether a participant was not opened because something must be set up otherwise.
pub fn is_unsuitable(error: &SqlxOpenError) -> bool {
    matches!(error, SqlxOpenError::Unsuitable { .. })
}

/// Takes a connection of a pool.
pub async fn get_conn(pool: &MySqlPool) -> PoolConnection<MySql> {
    pool.acquire().await.expect("a connection")
}

/// Carries out statements on a connection.
pub async fn carry_out(conn: &mut Conn, sql: impl AsRef<str>) -> Result<(), Error> {
    conn.0.execute(raw_sql(sql.as_ref())).await.map(drop)
}

/// Returns the first column of a query's rows.
pub async fn strings(conn: &mut Conn, sql: &str) -> Vec<String> {
    let rows = conn.0.fetch_all(raw_sql(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.iter().map(|row| row.try_get_unchecked(0).expect("a value")).collect()
}

/// Carries out a statement under a branch.
pub async fn attempt(branch: &mut SqlxMySqlBranch, sql: &str) -> Result<(), Error> {
    branch.execute(raw_sql(sql)).await.map(drop)
}

/// Returns a branch of a transaction of coordinator "shop".
pub fn branch(sequence: u64) -> BranchId {
    branch_of("shop", 1, sequence)
}

pub fn branch_of(coordinator: &str, epoch: u64, sequence: u64) -> BranchId {
    format!("{coordinator}:{epoch}:{sequence}:payments").parse().expect("a branch id")
}

pub fn shop() -> Name {
    Name::from_static("shop")
}

pub fn call() -> Call {
    Call::new(LogId::NONE)
}

/// Puts one account into the table under the branch.
pub async fn insert(participant: &MySqlParticipant, branch: &BranchId, account: &str) {
    let mut work = participant.work(branch).await.expect("a branch");
    sqlx::query("INSERT INTO account VALUES (?, 1)").bind(account).execute(&mut *work).await.expect("a row");
}

/// Has the branch put one account into the table, and promise.
pub async fn promise(participant: &MySqlParticipant, branch: &BranchId, account: &str) {
    insert(participant, branch, account).await;
    let vote = participant.prepare(branch, &call()).await.expect("a vote");
    assert_eq!(vote, ringpact::Vote::Yes);
}

/// Repeats a call that may be refused for a while, as a coordinator does.
pub async fn repeated<T>(
    mut call: impl AsyncFnMut() -> Result<T, ringpact::ParticipantError>,
) -> Result<T, ringpact::ParticipantError> {
    let deadline = Instant::now() + SOON;
    loop {
        match call().await {
            Err(
                error @ (ringpact::ParticipantError::Busy
                | ringpact::ParticipantError::Stale
                | ringpact::ParticipantError::Resource(_)),
            ) => {
                assert!(Instant::now() < deadline, "{error:?}");
                sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

pub async fn commit(participant: &MySqlParticipant, branch: &BranchId) {
    repeated(async || participant.commit(branch, &call()).await).await.expect("committed");
}

pub async fn roll_back(participant: &MySqlParticipant, branch: &BranchId) {
    repeated(async || participant.rollback(branch, &call()).await).await.expect("rolled back");
}

pub async fn commit_alone(participant: &MySqlParticipant, branch: &BranchId) -> Decision {
    match repeated(async || participant.commit_one_phase(branch, &call()).await).await {
        Err(ringpact::ParticipantError::Refused(_)) => Decision::Rollback,
        answer => answer.expect("decided"),
    }
}

/// Returns the texts of an error and its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Polls a future at most this number of times, drops it then, and returns its output if it had one. Polls are the steps of a
/// statement; how far it comes in a time depends on the machine.
pub async fn polled<F: Future>(times: u64, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut left = times;
    std::future::poll_fn(|context| {
        if left == 0 {
            return std::task::Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            std::task::Poll::Pending if left > 0 => std::task::Poll::Pending,
            std::task::Poll::Pending => std::task::Poll::Ready(None),
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        }
    })
    .await
}
