//! One server for all tests, and a database for each.
//!
//! It has the items of the same module of `ringpact-postgres`, whose tests run here, too.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, Call, Epoch, LogId, Name, ParticipantError, TxnId, Vote, error_chain, participant::AsyncParticipant,
};
use ringpact_servers::postgres::{Options, Postgres};
pub(crate) use ringpact_sqlx::{
    BranchTimeouts, SqlxOpenError as PgOpenError, SqlxPgParticipant as PgParticipant, SqlxPgTables as PgTables,
    TableParticipant, TableWorkError,
};
use ringpact_sqlx::{SqlxBuilder, SqlxPgBranch};
use sqlx::{
    Connection as _, Error, Executor as _, PgConnection, PgPool, Postgres as Pg,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
    raw_sql,
};
use tokio::{sync::Mutex, time::sleep};

pub(crate) type PgBuilder = SqlxBuilder<Pg>;

/// Name of the participant of most tests.
pub(crate) const GOODS: &str = "goods";

/// Time after which a test gives a condition up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the server that all tests of this binary share.
pub(crate) fn server() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(Options::default())).as_ref()
}

/// Returns a shared server without prepared transactions.
pub(crate) fn unprepared() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let options = Options { max_prepared_transactions: 0, ..Options::default() };
    SERVER.get_or_init(|| Postgres::start(options)).as_ref()
}

/// A database of a test's own, set up, with the table `stock (id, free)` and a hundred pieces of each of ten goods.
pub(crate) struct Db {
    pub(crate) url: PgConnectOptions,
    pub(crate) admin: Client,
    /// Ids of prepared transactions are unique in a server, so each database has a coordinator of its own.
    pub(crate) shop: Name,
}

impl Db {
    /// Creates a database on the shared server; `None` if there is no server.
    pub(crate) async fn new() -> Option<Self> {
        Some(Self::on(server()?).await)
    }

    pub(crate) async fn on(server: &Postgres) -> Self {
        static CREATED: AtomicUsize = AtomicUsize::new(0);
        let number = CREATED.fetch_add(1, Ordering::SeqCst);
        let name = format!("test_{number}");
        let postgres = client(&options(server, "postgres")).await;
        postgres.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let url = options(server, &name);
        let admin = client(&url).await;
        admin.batch_execute(PgParticipant::SETUP_SQL).await.expect("the set-up");
        let stock = "CREATE TABLE stock (id bigint PRIMARY KEY, free bigint NOT NULL CHECK (free >= 0)); \
                     INSERT INTO stock SELECT id, 100 FROM generate_series(0, 9) AS id";
        admin.batch_execute(stock).await.expect("a table");
        Self { url, admin, shop: Name::new(&format!("shop-{number}")).expect("a name") }
    }

    /// Returns the options of the participant of most tests, with short time-outs.
    pub(crate) fn builder(&self) -> PgBuilder {
        self.builder_of(GOODS)
    }

    pub(crate) fn builder_of(&self, participant: &str) -> PgBuilder {
        let timeouts = BranchTimeouts::default().lock(Duration::from_millis(500));
        PgParticipant::builder(participant).pool(self.pool(16)).timeouts(timeouts).accept_loss()
    }

    /// Returns the options of most tests, with this number of connections.
    pub(crate) fn builder_with(&self, connections: usize) -> PgBuilder {
        self.builder().pool(self.pool(u32::try_from(connections).expect("a few")))
    }

    /// Returns the options of most tests, with this number of connections through a proxy at this port.
    pub(crate) fn builder_at(&self, port: u16, connections: usize) -> PgBuilder {
        let options = PgPoolOptions::new().max_connections(u32::try_from(connections).expect("a few"));
        self.builder().pool(options.connect_lazy_with(self.url.clone().port(port)))
    }

    /// Returns options that do not accept a server which does not sync.
    pub(crate) fn builder_that_syncs(&self, participant: &str) -> PgBuilder {
        PgParticipant::builder(participant).pool(self.pool(16))
    }

    /// Returns options that do not accept a server which does not sync, with connections of this role.
    pub(crate) fn builder_as(&self, role: &str) -> PgBuilder {
        PgParticipant::builder(GOODS).pool(PgPoolOptions::new().connect_lazy_with(self.url.clone().username(role)))
    }

    /// Returns a pool of at most this number of connections.
    pub(crate) fn pool(&self, connections: u32) -> PgPool {
        PgPoolOptions::new().max_connections(connections).connect_lazy_with(self.url.clone())
    }

    pub(crate) async fn goods(&self) -> PgParticipant {
        self.builder().open().await.expect("a participant")
    }

    /// Returns the branch of most tests' participant in the transaction of this number.
    pub(crate) fn branch(&self, sequence: u64) -> BranchId {
        self.branch_of(GOODS, sequence)
    }

    pub(crate) fn branch_of(&self, participant: &str, sequence: u64) -> BranchId {
        TxnId::new(self.shop.clone(), Epoch::new(1), sequence).branch(&Name::new(participant).expect("a name"))
    }

    /// Returns a branch that has taken a piece and promised.
    pub(crate) async fn promised(&self, goods: &PgParticipant, sequence: u64) -> BranchId {
        let branch = self.branch(sequence);
        work(goods, &branch, TAKE).await;
        assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
        branch
    }

    /// Returns the same database, with another client.
    pub(crate) async fn again(&self) -> Self {
        Self { url: self.url.clone(), admin: self.client().await, shop: self.shop.clone() }
    }

    /// Opens another client of the database.
    pub(crate) async fn client(&self) -> Client {
        client(&self.url).await
    }

    pub(crate) async fn number(&self, query: &str) -> i64 {
        sqlx::query_scalar(query).persistent(false).fetch_one(&mut *self.admin.0.lock().await).await.expect("a row")
    }

    pub(crate) async fn free(&self, id: i64) -> i64 {
        self.number(&format!("SELECT free FROM stock WHERE id = {id}")).await
    }

    /// Returns the number of prepared transactions in this database.
    pub(crate) async fn prepared(&self) -> i64 {
        self.number("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()").await
    }

    /// Returns the number of markers.
    pub(crate) async fn markers(&self) -> i64 {
        self.number("SELECT count(*) FROM ringpact.marker").await
    }

    /// Waits until a query counts this number.
    pub(crate) async fn until(&self, query: &str, expected: i64) {
        let begun = Instant::now();
        loop {
            let found = self.number(query).await;
            if found == expected {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{query} stays {found}, should become {expected}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The SQL that takes one piece of the first of the goods.
pub(crate) const TAKE: &str = "UPDATE stock SET free = free - 1 WHERE id = 0";

/// A connection of a test's own.
pub(crate) struct Client(pub(crate) Mutex<PgConnection>);

impl Client {
    pub(crate) async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.0.lock().await.execute(raw_sql(sql)).await.map(drop)
    }
}

/// Has a participant accept a server that does not sync.
pub(crate) fn accepting_loss(builder: PgBuilder) -> PgBuilder {
    builder.accept_loss()
}

/// Returns a client of a server's own database.
pub(crate) async fn admin_of(server: &Postgres) -> Client {
    client(&options(server, "postgres")).await
}

/// Returns the first column of a query's rows.
pub(crate) async fn strings(client: &Client, query: &str) -> Vec<String> {
    sqlx::query_scalar(query).persistent(false).fetch_all(&mut *client.0.lock().await).await.expect("rows")
}

pub(crate) async fn client(url: &PgConnectOptions) -> Client {
    Client(Mutex::new(PgConnection::connect_with(url).await.expect("a connection")))
}

fn options(server: &Postgres, database: &str) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(server.port()).username("postgres");
    options.database(database).ssl_mode(PgSslMode::Disable)
}

/// Carries out statements under a branch.
pub(crate) async fn attempt(branch: &mut SqlxPgBranch, sql: &str) -> Result<(), Error> {
    branch.execute(raw_sql(sql)).await.map(drop)
}

/// Returns the SQLSTATE of an error.
pub(crate) fn sqlstate(error: &Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// A coordinator's call that says nothing of its life.
pub(crate) fn call() -> Call {
    Call::new(LogId::NONE)
}

/// The same call with this changed.
pub(crate) fn call_with(change: impl FnOnce(&mut Call)) -> Call {
    let mut call = call();
    change(&mut call);
    call
}

/// Works under a branch with one statement.
pub(crate) async fn work(goods: &PgParticipant, branch: &BranchId, sql: &str) {
    let mut at_work = goods.work(branch).await.expect("the branch takes work");
    attempt(&mut at_work, sql).await.expect("the statement succeeds");
}

/// Prepares, and returns the reason of the No that comes.
pub(crate) async fn no(goods: &PgParticipant, branch: &BranchId) -> String {
    match goods.prepare(branch, &call()).await {
        Err(error @ ParticipantError::Refused(_)) => error_chain(&error).to_string(),
        answer => panic!("a No was expected, and {answer:?} came"),
    }
}
