//! What the tests have in common: a server for all of them, and a database for each.
//!
//! `ringpact-sqlx` has a module of the same name with the same items, and runs the tests of this directory that use nothing
//! of the client library.

use std::{
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

pub use mysql_async::Conn;
use mysql_async::{
    Error, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts,
    prelude::{FromValue, Queryable as _},
};
use ringpact::{
    BranchId, LogId, Name,
    participant::{AsyncParticipant as _, Call, Decision},
};
pub use ringpact_mysql::{
    BranchTimeouts, MySqlBuilder, MySqlParticipant, MySqlTables, TableParticipant, TableWorkError,
};
use ringpact_mysql::{MySqlBranch, MySqlError, MySqlOpenError};
use ringpact_servers::{mariadb::MariaDb, missing};
use tokio::{runtime::Runtime, time::sleep};

/// Maximum duration of what happens soon, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Whether a branch knows its statements, so that one that only reads votes so.
pub const SEES_STATEMENTS: bool = true;

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
        let opts = OptsBuilder::default().user(Some("root")).socket(Some(socket.display().to_string()));
        let mut conn = Conn::new(opts).await.expect("a connection");
        conn.query_drop(format!("CREATE DATABASE {}", database.name)).await.expect("a database");
        conn.disconnect().await.expect("it is closed");
        let pool = database.pool();
        MySqlParticipant::setup(&pool).await.expect("the tables");
        pool.disconnect().await.expect("it is closed");
        database.sql("CREATE TABLE account (id VARCHAR(64) PRIMARY KEY, cents BIGINT NOT NULL) ENGINE = InnoDB").await;
        database
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn opts_as(&self, user: &str) -> OptsBuilder {
        let pool = PoolOpts::default().with_constraints(PoolConstraints::new(12, 12).expect("valid"));
        let socket = Some(self.socket.display().to_string());
        OptsBuilder::default().user(Some(user)).socket(socket).db_name(Some(&self.name)).pool_opts(pool)
    }

    pub fn opts(&self) -> Opts {
        self.opts_as("root").into()
    }

    pub fn pool(&self) -> Pool {
        Pool::new(self.opts())
    }

    /// Returns a pool of this number of connections.
    pub fn pool_of(&self, connections: usize) -> Pool {
        let pool = PoolOpts::default().with_constraints(PoolConstraints::new(connections, connections).expect("valid"));
        Pool::new(OptsBuilder::from_opts(self.opts()).pool_opts(pool))
    }

    /// Returns the options of a service with tables.
    pub fn tables(&self, participant: &str) -> MySqlBuilder {
        tables_by(participant, self.opts())
    }

    /// Like [`tables`](Self::tables), with connections of this user.
    pub fn tables_as(&self, user: &str) -> MySqlBuilder {
        tables_by("payments", self.opts_as(user))
    }

    /// Like [`tables`](Self::tables), with connections through a proxy at this port.
    pub fn tables_at(&self, port: u16) -> MySqlBuilder {
        let opts = OptsBuilder::from_opts(self.opts()).socket(None::<String>).ip_or_hostname("127.0.0.1");
        tables_by("payments", opts.tcp_port(port).prefer_socket(false))
    }

    pub async fn conn(&self) -> Conn {
        Conn::new(self.opts()).await.expect("a connection")
    }

    /// Carries out statements on a connection of their own.
    pub async fn sql(&self, sql: &str) {
        let mut conn = self.conn().await;
        conn.query_drop(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("it is closed");
    }

    /// Returns the value that a query gives.
    pub async fn value<T: FromValue + Send + 'static>(&self, sql: &str) -> Option<T> {
        let mut conn = self.conn().await;
        let value: Option<Option<T>> = conn.query_first(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        conn.disconnect().await.expect("it is closed");
        value.flatten()
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
        let builder = MySqlParticipant::builder("payments").opts(self.opts()).max_promises(8).timeouts(timeouts);
        builder.open().await.expect("a participant")
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
        let pool = PoolOpts::default().with_constraints(PoolConstraints::new(connections, connections).expect("valid"));
        let opts = OptsBuilder::from_opts(self.opts()).pool_opts(pool).setup(first.into_iter().collect::<Vec<_>>());
        let builder = MySqlParticipant::builder(name).opts(opts).max_promises(promises).timeouts(timeouts);
        builder.open().await.expect("a participant")
    }

    /// Returns the numbers of the connections to this database, except that which asks.
    pub async fn connections(&self) -> Vec<u64> {
        let mut conn = self.conn().await;
        let sql = format!(
            "SELECT id FROM information_schema.processlist WHERE db = '{}' AND id <> CONNECTION_ID()",
            self.name
        );
        let ids = conn.query(sql).await.expect("the process list");
        conn.disconnect().await.expect("it is closed");
        ids
    }

    /// Kills all connections to this database, and waits until they are gone.
    pub async fn kill_connections(&self) {
        for id in self.connections().await {
            let mut conn = self.conn().await;
            // It may have ended by itself.
            let _gone = conn.query_drop(format!("KILL {id}")).await;
            conn.disconnect().await.expect("it is closed");
        }
        let deadline = Instant::now() + SOON;
        while !self.connections().await.is_empty() {
            assert!(Instant::now() < deadline, "the connections do not end");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn tables_by(participant: &str, opts: impl Into<Opts>) -> MySqlBuilder {
    let timeouts = BranchTimeouts::default().lock(Duration::from_secs(1));
    MySqlParticipant::builder(participant).opts(opts).timeouts(timeouts)
}

/// Whether a participant was not opened because something must be set up otherwise.
pub fn is_unsuitable(error: &MySqlOpenError) -> bool {
    matches!(error, MySqlOpenError::Misconfigured { .. })
}

/// Takes a connection of a pool.
pub async fn get_conn(pool: &Pool) -> Conn {
    pool.get_conn().await.expect("a connection")
}

/// Carries out statements on a connection.
pub async fn carry_out(conn: &mut Conn, sql: impl AsRef<str>) -> Result<(), Error> {
    conn.query_drop(sql.as_ref()).await
}

/// Returns the first column of a query's rows.
pub async fn strings(conn: &mut Conn, sql: &str) -> Vec<String> {
    conn.query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Carries out a statement under a branch.
pub async fn attempt(branch: &mut MySqlBranch, sql: &str) -> Result<(), MySqlError> {
    branch.query_drop(sql).await
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
    work.exec_drop("INSERT INTO account VALUES (?, 1)", (account,)).await.expect("a row");
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
