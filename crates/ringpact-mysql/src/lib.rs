//! MariaDB and MySQL databases as participants of [ringpact]'s two-phase commit, over
//! [`mysql_async`].
//!
//! A [`MySqlParticipant`] stands for one database. Clients carry out their SQL in a
//! [`MySqlBranch`]; the coordinator has the database promise, commit and roll back, by the `XA`
//! statements of the server. No service code, no log and no other process is needed.
//!
//! ```no_run
//! use mysql_async::Pool;
//! use ringpact::{Coordinator, FileLog};
//! use ringpact_mysql::MySqlParticipant;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let payments = MySqlParticipant::builder("payments").pool(Pool::new("mysql://shop@db1/payments")).open().await?;
//! let goods = MySqlParticipant::builder("goods").pool(Pool::new("mysql://shop@db2/goods")).open().await?;
//!
//! let runtime = tokio::runtime::Handle::current();
//! let shop = Coordinator::builder(FileLog::open("/var/lib/shop/log")?)
//!     .name("shop")
//!     .async_participant("payments", payments.clone(), runtime.clone())
//!     .async_participant("goods", goods.clone(), runtime)
//!     .open()?;
//!
//! // Tries again, all of it, after a deadlock and the like.
//! shop.run(async |mut txn| {
//!     let mut branch = payments.branch(&mut txn).await?;
//!     branch.exec_drop("INSERT INTO payment (order_id, cents) VALUES (?, ?)", (7, 4_200)).await?;
//!     drop(branch);
//!     let mut branch = goods.branch(&mut txn).await?;
//!     branch.exec_drop("UPDATE stock SET free = free - ? WHERE id = ?", (1, 42)).await
//! })
//! .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Services with tables
//!
//! [`MySqlBuilder::open_tables`] makes a participant that prepares nothing: the service sets aside what
//! it needs in rows of its own, and confirms or cancels that by the decision. See [`MySqlTables`] for an
//! example, and the page on databases of [ringpact] for which way to take.
//!
//! # Setting up
//!
//! Each participant's database needs four small tables. Carry out
//! [`SETUP_SQL`](MySqlParticipant::SETUP_SQL) there once, or call [`setup`](MySqlParticipant::setup). The participant's user needs `SELECT`, `INSERT`, `UPDATE` and `DELETE` on them, and
//! MySQL also wants `GRANT XA_RECOVER_ADMIN ON *.*` (not for services with tables).
//!
//! The statements are in [`ringpact_sql::mysql::SETUP_SQL`].
//!
//! [`open`](MySqlBuilder::open) checks what else promises depend on, and says what to change:
//!
//! | check | why |
//! |---|---|
//! | MariaDB 10.5 or later, MySQL 8.0.29 or later | older ones lose a promise with its connection |
//! | `innodb_flush_log_at_trx_commit = 1`, and `sync_binlog = 1` with a binary log | otherwise a crash of the server loses promises and commits; see [`accept_loss`](MySqlBuilder::accept_loss) |
//! | `binlog_format` is not `STATEMENT`; the server is writable and not part of a Galera cluster | the statements need it |
//! | the pool has more connections than there may be promises, and the server allows them | each promise holds its connection |
//! | tables, their engine and the privileges | |
//!
//! # A database that makes no promises
//!
//! A participant that is opened with [`last_resource`](MySqlBuilder::last_resource), and registered with
//! `async_last_resource`, commits without a promise, once all others have promised: one in a
//! transaction. Its pool may be small, and MySQL wants no `XA_RECOVER_ADMIN`. Its marker is its memory,
//! by which the coordinator learns after a crash whether it has committed.
//!
//! ```no_run
//! # use mysql_async::Pool;
//! # use ringpact::{Coordinator, FileLog};
//! # use ringpact_mysql::MySqlParticipant;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! # let goods = MySqlParticipant::builder("goods").pool(Pool::new("mysql://shop@db2/goods")).open().await?;
//! let pool = Pool::new("mysql://shop@managed.example/payments");
//! let payments = MySqlParticipant::builder("payments").pool(pool).last_resource().open().await?;
//! let runtime = tokio::runtime::Handle::current();
//! let shop = Coordinator::builder(FileLog::open("/var/lib/shop/log")?)
//!     .name("shop")
//!     .async_participant("goods", goods.clone(), runtime.clone())
//!     .async_last_resource("payments", payments.clone(), runtime)
//!     .open()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What to know
//!
//! - **A promise holds its connection** until the decision is carried out. If the connection is lost,
//!   the promise stays in the server, and a control connection ends it.
//! - **A pool of [`mysql_async`] closes connections above its minimum** (10 by default) when they come
//!   back. Set the minimum to the number of branches that are usually open at once, because the first
//!   branch of a connection costs a row that is synced.
//! - **Isolation**: a transaction is atomic, but its branches do not become visible at the same
//!   moment. The databases find no deadlock that goes through two of them; the lock time-out of
//!   [`BranchTimeouts`] ends it.
//! - **Errors that may pass** (a deadlock, a lock that was not free in time, a lost connection) are
//!   told apart by [`is_transient`](MySqlParticipant::is_transient).
//!   [`Coordinator::run`](ringpact::Coordinator::run) asks it, and does all of the work again.
//! - **A branch that only reads** votes so, and writes nothing. It is one if all its statements begin
//!   with `SELECT`, lock nothing, and the server has counted no written row.
//! - **Tables** must be of an engine that can prepare: InnoDB. What is done in others is not undone.
//! - **Replicas** see a promise as the primary's binary log has it. After a failover to a replica that
//!   lags behind, promises may be gone: use semi-synchronous replication.
//! - **TLS** is a feature of `mysql_async`: depend on it with `rustls-tls` and `ring`, or with
//!   `native-tls-tls`. This crate enables none, so that no C library is needed.
//! - **Tests**: those of this crate run with MariaDB 10.11. They pass with MySQL 9.7, too, if the environment variable
//!   `RINGPACT_MYSQLD` names its `mysqld`; the CI does not do that, because Debian's stable release has no MySQL.
//! - **MySQL** refuses temporary tables in a branch (error 4091), unless `xa_detach_on_prepare` is off.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `lib.rs` | [`MySqlParticipant`] and its builder |
//! | `branch.rs` | [`MySqlBranch`]: what clients call |
//! | `statements.rs` | the query methods of branches and of a service's transactions |
//! | `tables.rs` | services with tables |
//! | `link.rs` | a connection that is closed if anything about it is in doubt |
//! | `error.rs` | errors, and which of them may pass |
//!
//! The SQL, the tables, the checks at opening and the meaning of the server's errors are in the crate [`ringpact_sql`], which has no
//! client library.

#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

use std::{error::Error as StdError, future::Future};

use mysql_async::{Conn, Opts, OptsBuilder, Pool, PoolConstraints, PoolOpts, prelude::Queryable as _};
use ringpact::{
    BranchId, Name, Transaction,
    participant::{
        Decision,
        xa::{AsXa, DEFAULT_MAX_PROMISES, Prepared, XaError, XaOptions, XaParticipant, XaStatus},
    },
};

mod branch;
mod error;
mod link;
mod statements;
mod tables;

pub use branch::MySqlBranch;
pub use error::{MySqlError, MySqlOpenError, StatementError};
use link::{Link, Pools};
pub use ringpact::participant::tables::{AsyncService, TableParticipant, TableWorkError};
use ringpact_sql::mysql::{
    Demands, MySqlLink as _, SETUP_SQL, check, check_for_tables, control_setup, is_transient, unavailable,
};
pub use ringpact_sql::{BranchTimeouts, mysql::CONTROL_CONNECTIONS};
pub use tables::{MySqlTables, MySqlTx};

/// The database, by the client library of this crate.
type MySqlBackend = ringpact_sql::mysql::MySqlBackend<link::Pools>;

/// A database's way into transactions. Cheap to clone: clones share one participant.
///
/// Register it with the coordinator by `async_participant`, under its own name, and on the runtime
/// on which it was opened: connections belong to a runtime. With `async_last_resource` instead it
/// commits without a promise, once all others have promised. The runtime needs its timers and I/O
/// enabled. Each process that opens the same database under the same name is the same participant.
#[derive(Clone, Debug)]
pub struct MySqlParticipant(XaParticipant<MySqlBackend>);

/// The place of a participant's connections.
#[derive(Debug)]
enum Database {
    Pool(Pool),
    Opts(Box<Opts>),
}

/// Options of a participant; see [`MySqlParticipant::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `open`"]
pub struct MySqlBuilder {
    name: String,
    database: Option<Database>,
    max_promises: usize,
    is_last_resource: bool,
    timeouts: BranchTimeouts,
    accepts_loss: bool,
}

impl MySqlBuilder {
    /// Sets the pool whose connections branches use. Each has a default database, which is the
    /// participant's. The pool may be used for other things, too.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.database = Some(Database::Pool(pool));
        self
    }

    /// Sets how to connect. The participant makes a pool of its own.
    pub fn opts(mut self, opts: impl Into<Opts>) -> Self {
        self.database = Some(Database::Opts(Box::new(opts.into())));
        self
    }

    /// Sets the maximum number of promises that wait for their decision:
    /// [`DEFAULT_MAX_PROMISES`] if nothing is said. Each of them holds a connection of the pool,
    /// which must have more. Above the limit no branch begins, with an error that may pass.
    pub const fn max_promises(mut self, promises: usize) -> Self {
        self.max_promises = promises;
        self
    }

    /// Opens the participant as a last resource only, which makes no promises. Its pool may be small,
    /// and MySQL does not want the privilege `XA_RECOVER_ADMIN`. A transaction can have one such
    /// participant. Register it with `async_last_resource`; a coordinator does not open with it as an
    /// ordinary participant, and it votes No on each prepare.
    pub const fn last_resource(mut self) -> Self {
        self.is_last_resource = true;
        self
    }

    /// Sets for how long branches may wait.
    pub const fn timeouts(mut self, timeouts: BranchTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Accepts a server that may lose promises and commits in a crash, because it does not write them
    /// to disk at once. Transactions can then be torn: use it for tests only.
    pub const fn accept_loss(mut self) -> Self {
        self.accepts_loss = true;
        self
    }

    /// Opens the participant: checks the database, and reads which coordinators it knows.
    ///
    /// # Errors
    ///
    /// [`MySqlOpenError::Misconfigured`] says what to change; the others say what failed.
    pub async fn open(self) -> Result<MySqlParticipant, MySqlOpenError> {
        let name = self.name.clone();
        let options = XaOptions::default().max_promises(self.max_promises);
        let options = if self.is_last_resource { options.last_resource() } else { options };
        let backend = self.backend(false).await?;
        Ok(MySqlParticipant(XaParticipant::open(name, backend, options).await?))
    }

    /// Connects, and checks the database.
    async fn backend(self, is_for_tables: bool) -> Result<MySqlBackend, MySqlOpenError> {
        let name = Name::new(&self.name)?;
        let work = match self.database.ok_or(MySqlOpenError::NoDatabase)? {
            Database::Pool(pool) => pool,
            Database::Opts(opts) => Pool::new(*opts),
        };
        let conn = work.get_conn().await.map_err(|error| unavailable(error::of_statement(error)))?;
        let demands = Demands {
            pool: conn.opts().pool_opts().constraints().max(),
            control: CONTROL_CONNECTIONS,
            max_promises: self.max_promises,
            is_last_resource: self.is_last_resource,
            accepts_loss: self.accepts_loss,
        };
        let control = control_pool(&conn, self.timeouts);
        let mut link = Link::new(conn);
        let found =
            if is_for_tables { check_for_tables(&mut link, demands).await? } else { check(&mut link, demands).await? };
        link.release();
        Ok(MySqlBackend::new(name, Pools { work, control }, self.timeouts, &found))
    }
}

/// Returns the pool of control connections, to the server of this connection.
fn control_pool(conn: &Conn, timeouts: BranchTimeouts) -> Pool {
    let opts = conn.opts().clone();
    let mut setup = opts.setup().to_vec();
    setup.extend(control_setup(&timeouts));
    // These connections carry out nothing of the user's, so there is no need to reset them. The pool
    // keeps as many as its minimum.
    let pool = PoolOpts::default().with_reset_connection(false);
    let pool = match PoolConstraints::new(CONTROL_CONNECTIONS, CONTROL_CONNECTIONS) {
        Some(constraints) => pool.with_constraints(constraints),
        None => pool,
    };
    Pool::new(OptsBuilder::from_opts(opts).setup(setup).pool_opts(pool))
}

impl MySqlParticipant {
    /// The statements that make the tables of a participant's database. They change nothing if the
    /// tables are there.
    pub const SETUP_SQL: &str = SETUP_SQL;

    /// Makes the tables of a participant's database, if they are not there. Needs a user that may
    /// create tables.
    ///
    /// # Errors
    ///
    /// The database's.
    pub async fn setup(pool: &Pool) -> Result<(), StatementError> {
        let made = async { pool.get_conn().await?.query_drop(Self::SETUP_SQL).await };
        made.await.map_err(StatementError::new)
    }

    /// Whether an error may pass if all of the transaction is tried again: a deadlock, a lock that was
    /// not free in time, a lost connection, no free connection. Looks at its causes, too.
    #[must_use]
    pub fn is_transient(error: &(dyn StdError + 'static)) -> bool {
        is_transient::<Pools>(error)
    }

    /// Begins to make a participant of this name. The name is stable: a database that comes back
    /// under another name is another participant.
    pub fn builder(name: impl Into<String>) -> MySqlBuilder {
        MySqlBuilder {
            name: name.into(),
            database: None,
            max_promises: DEFAULT_MAX_PROMISES,
            is_last_resource: false,
            timeouts: BranchTimeouts::default(),
            accepts_loss: false,
        }
    }

    /// Returns the participant's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// Lets this participant take part in the transaction, and begins its branch in the database, or
    /// continues it. Waits while another task has the branch.
    ///
    /// Drop what is returned before the transaction commits: with it the branch is at work, and votes
    /// No.
    ///
    /// # Errors
    ///
    /// [`MySqlError::Work`]. An error of the database leaves the transaction as it can only be rolled
    /// back.
    pub fn branch(
        &self,
        txn: &mut Transaction,
    ) -> impl Future<Output = Result<MySqlBranch, MySqlError>> + Send + use<> {
        let branch = self.0.branch(txn);
        async move { Ok(MySqlBranch::new(branch.await?)) }
    }

    /// Like [`branch`](Self::branch), for the branch of a transaction whose coordinator is in another
    /// process.
    ///
    /// # Errors
    ///
    /// As for [`branch`](Self::branch).
    pub async fn work(&self, branch: &BranchId) -> Result<MySqlBranch, MySqlError> {
        Ok(MySqlBranch::new(self.0.work(branch).await?))
    }

    /// Returns what this participant is doing, as far as this process knows. Does not ask the
    /// database.
    #[must_use]
    pub fn status(&self) -> XaStatus {
        self.0.status()
    }

    /// Returns the prepared transactions of this participant in the database that none of these
    /// coordinators has made: promises that only a lost coordinator, or an operator, can end.
    ///
    /// # Errors
    ///
    /// The database could not be asked.
    pub async fn orphans(&self, coordinators: &[Name]) -> Result<Vec<Prepared>, XaError> {
        for coordinator in coordinators {
            self.0.backend().knows(coordinator);
        }
        self.0.orphans(coordinators).await
    }

    /// Ends a prepared transaction by an operator's decision, by the id that
    /// [`orphans`](Self::orphans) has for it. The coordinator, if there still is one, hears of a
    /// heuristic outcome when it decides otherwise.
    ///
    /// # Errors
    ///
    /// `NotThere` if there is none with this id. `Busy` if a session of another program has it: close
    /// that session first.
    pub async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        self.0.settle(id, decision).await
    }

    /// Begins no more branches, and rolls back those that have promised nothing, except those that a
    /// client works under. Promises stay in the database, and the next opening settles them.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl AsXa for MySqlParticipant {
    type Backend = MySqlBackend;

    fn as_xa(&self) -> &XaParticipant<MySqlBackend> {
        &self.0
    }
}
