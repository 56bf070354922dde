//! One server for all tests, and a database for each.
//!
//! `ringpact-sqlx` has a module of the same name with the same items, and runs the tests of this directory that use nothing
//! of the client library.

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
pub(crate) use ringpact_postgres::{
    BranchTimeouts, PgBuilder, PgOpenError, PgParticipant, PgTables, TableParticipant, TableWorkError,
    tokio_postgres::Client,
};
use ringpact_postgres::{
    PgBranch,
    tokio_postgres::{Error, NoTls, connect},
};
use ringpact_servers::postgres::{Options, Postgres};
use tokio::{spawn, time::sleep};

/// Name of the participant of most tests.
pub(crate) const GOODS: &str = "goods";

/// Time after which a test gives a condition up.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the server that all tests of this binary share.
pub(crate) fn server() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    SERVER.get_or_init(|| Postgres::start(Options::default())).as_ref()
}

/// Returns the server that tests of last resources share: it can't prepare.
pub(crate) fn unprepared() -> Option<&'static Postgres> {
    static SERVER: OnceLock<Option<Postgres>> = OnceLock::new();
    let options = Options { max_prepared_transactions: 0, ..Options::default() };
    SERVER.get_or_init(|| Postgres::start(options)).as_ref()
}

/// A database of a test's own, set up, with the table `stock (id, free)` and a hundred pieces of each of ten goods.
pub(crate) struct Db {
    pub(crate) url: String,
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
        let postgres = client(&server.url("postgres")).await;
        postgres.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let url = server.url(&name);
        let admin = client(&url).await;
        PgParticipant::setup(&admin).await.expect("the set-up");
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
        PgParticipant::builder(participant)
            .config(self.url.parse().expect("a configuration"))
            .timeouts(timeouts)
            .accept_fsync_off()
    }

    /// Returns the options of most tests, with this number of connections.
    pub(crate) fn builder_with(&self, connections: usize) -> PgBuilder {
        self.builder().connections(connections)
    }

    /// Returns the options of most tests, with this number of connections through a proxy at this port.
    pub(crate) fn builder_at(&self, port: u16, connections: usize) -> PgBuilder {
        let own = server().expect("a server").port();
        let url = self.url.replace(&format!("port={own}"), &format!("port={port}"));
        self.builder_with(connections).config(url.parse().expect("a configuration"))
    }

    /// Returns options that do not accept a server which does not sync.
    pub(crate) fn builder_that_syncs(&self, participant: &str) -> PgBuilder {
        PgParticipant::builder(participant).config(self.url.parse().expect("a configuration"))
    }

    /// Returns options that do not accept a server which does not sync, with connections of this role.
    pub(crate) fn builder_as(&self, role: &str) -> PgBuilder {
        let url = self.url.replace("user=postgres", &format!("user={role}"));
        PgParticipant::builder(GOODS).config(url.parse().expect("a configuration"))
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
        self.admin.query_one(query, &[]).await.expect("a row").get(0)
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

/// Has a participant accept a server that does not sync.
pub(crate) fn accepting_loss(builder: PgBuilder) -> PgBuilder {
    builder.accept_fsync_off()
}

/// Returns a client of a server's own database.
pub(crate) async fn admin_of(server: &Postgres) -> Client {
    client(&server.url("postgres")).await
}

/// Returns the first column of a query's rows.
pub(crate) async fn strings(client: &Client, query: &str) -> Vec<String> {
    client.query(query, &[]).await.expect("rows").iter().map(|row| row.get(0)).collect()
}

pub(crate) async fn client(url: &str) -> Client {
    let (client, connection) = connect(url, NoTls).await.expect("a connection");
    spawn(connection);
    client
}

/// Carries out statements under a branch.
pub(crate) async fn attempt(branch: &mut PgBranch, sql: &str) -> Result<(), Error> {
    branch.batch_execute(sql).await
}

/// Returns the SQLSTATE of an error.
pub(crate) fn sqlstate(error: &Error) -> Option<String> {
    error.code().map(|code| code.code().to_owned())
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
    goods.work(branch).await.expect("the branch takes work").batch_execute(sql).await.expect("the statement succeeds");
}

/// Prepares, and returns the reason of the No that comes.
pub(crate) async fn no(goods: &PgParticipant, branch: &BranchId) -> String {
    match goods.prepare(branch, &call()).await {
        Err(error @ ParticipantError::Refused(_)) => error_chain(&error).to_string(),
        answer => panic!("a No was expected, and {answer:?} came"),
    }
}
