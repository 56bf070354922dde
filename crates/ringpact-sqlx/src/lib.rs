//! PostgreSQL, MariaDB and MySQL databases as participants of [ringpact]'s transactions, over [sqlx]: a commit in two
//! databases, or in a database and a service, happens everywhere or nowhere.
//!
//! A branch is a transaction of the database's own. The participant begins it, the caller works in it by sqlx's queries, and
//! the coordinator has it prepared and then committed or rolled back. What the participant must know after a crash is in the
//! database.
//!
//! ```no_run
//! # #[cfg(all(feature = "postgres", feature = "mysql"))]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ringpact::{Coordinator, FileLog};
//! use ringpact_sqlx::{SqlxMySqlParticipant, SqlxPgParticipant};
//! use sqlx::{mysql::MySqlPoolOptions, postgres::PgPoolOptions};
//!
//! let pool = PgPoolOptions::new().max_connections(16).connect("postgres://shop@db1/goods").await?;
//! let goods = SqlxPgParticipant::builder("goods").pool(pool).open().await?;
//! let pool = MySqlPoolOptions::new().max_connections(80).connect("mysql://shop@db2/money").await?;
//! let money = SqlxMySqlParticipant::builder("money").pool(pool).open().await?;
//!
//! let runtime = tokio::runtime::Handle::current();
//! let shop = Coordinator::builder(FileLog::open("shop.log")?)
//!     .name("shop")
//!     .async_participant("goods", goods.clone(), runtime.clone())
//!     .async_participant("money", money.clone(), runtime)
//!     .open()?;
//!
//! let mut txn = shop.begin_async().await;
//! let mut branch = goods.branch(&mut txn).await?;
//! sqlx::query("UPDATE stock SET free = free - 1 WHERE id = $1").bind(7).execute(&mut *branch).await?;
//! drop(branch);
//! let mut branch = money.branch(&mut txn).await?;
//! sqlx::query("INSERT INTO payment (cents) VALUES (?)").bind(995).execute(&mut *branch).await?;
//! drop(branch);
//! txn.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | what it brings |
//! |---|---|
//! | `postgres` | [`SqlxPgParticipant`], [`SqlxPgTables`] |
//! | `mysql` | [`SqlxMySqlParticipant`], [`SqlxMySqlTables`], for MariaDB, too |
//!
//! None is on by default, as in sqlx itself. Runtime Tokio. TLS and macros are sqlx's features: depend on `sqlx` 0.8 with
//! `tls-rustls-ring`, `macros` and what else you need; Cargo adds them up.
//!
//! # Services with tables
//!
//! [`SqlxBuilder::open_tables`] makes a participant that prepares nothing: the service sets aside what it needs in rows of its own,
//! and confirms or cancels that by the decision. See [`SqlxTables`] for an example, and
//! [`docs::databases`](ringpact::docs::databases) for when to take which.
//!
//! # Setting a database up
//!
//! | what | PostgreSQL 13 or later | MariaDB 10.5, MySQL 8.0.29, or later |
//! |---|---|---|
//! | promises (not for services with tables) | `ALTER SYSTEM SET max_prepared_transactions = 64`, then restart the server: at least the builder's `max_promises`, summed over all participants and processes | a pool with more connections than `max_promises`, because each promise holds one |
//! | the participant's tables | run [`SETUP_SQL`](SqlxParticipant::SETUP_SQL), or call [`setup`](SqlxParticipant::setup) | the same |
//! | a user that is not the owner | `GRANT USAGE ON SCHEMA ringpact`, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ringpact`, `GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ringpact` | `GRANT SELECT, INSERT, UPDATE, DELETE` on the four tables; MySQL also wants `GRANT XA_RECOVER_ADMIN ON *.*` (not for services with tables) |
//! | durability | `fsync = on` | `innodb_flush_log_at_trx_commit = 1`, and `sync_binlog = 1` with a binary log |
//! | standbys and replicas | `synchronous_standby_names`, with `synchronous_commit = on` | semi-synchronous replication |
//!
//! [`open`](SqlxBuilder::open) and [`open_tables`](SqlxBuilder::open_tables) check all of this but the last row, and say what to
//! change. The set-up is that of `ringpact-postgres` and `ringpact-mysql`: processes over different client libraries can be one
//! participant.
//!
//! # Transactions of sqlx under a branch
//!
//! sqlx is told that a transaction is open. So `begin` on a branch's connection, also in a function that takes a
//! `&mut PgConnection`, makes a savepoint: its commit releases that savepoint, and the branch stays open.
//!
//! A caller that sends `COMMIT` or `ROLLBACK` as a statement ends the branch's transaction in PostgreSQL. The branch then votes
//! No and says so; what the caller has committed stays. MariaDB and MySQL refuse such statements.
//!
//! # What sqlx does otherwise
//!
//! | | what to know |
//! |---|---|
//! | a statement fails | PostgreSQL: the branch can only be rolled back, unless a savepoint came first. MariaDB and MySQL: only the statement is undone, and **a branch whose caller goes on commits the rest**. Return the error, or call [`doom`](SqlxBranch::doom). `ringpact-mysql` dooms the branch by itself; sqlx hands out its connection, on which this crate sees no errors. A step of a service with tables is refused: see [`SqlxTx`]. |
//! | a future is dropped in the middle of a statement | The server carries the statement out, or refuses it and the branch votes No. In MariaDB and MySQL, sqlx can then lose count of the server's answers, so the participant tries the connection before each promise and closes it if it is out of step. |
//! | a branch only reads | PostgreSQL: it votes read-only. MariaDB and MySQL: it promises, because nothing tells whether it has locked rows. |
//! | connections | One with an open or doubtful transaction is closed, and never comes back to the pool. The pool's `max_connections` can be exceeded for the moment in which it closes. |
//! | the pool's `acquire_timeout` | The shorter of it and of [`BranchTimeouts::connection`] holds. Both end in an error that may pass. |
//! | settings of the session | PostgreSQL: those of the branch are `SET LOCAL`. MariaDB and MySQL: put back when the branch ends. What the work sets in its session goes back to the pool with the connection. |
//! | errors | The cause of an [`XaError`] is the `sqlx::Error`. [`is_transient`](SqlxParticipant::is_transient) says which may pass, and [`Coordinator::run`](ringpact::Coordinator::run) asks it. |
//!
//! The other limits are those of the databases; see [`docs::databases`](ringpact::docs::databases).
//!
//! # Behind pgbouncer
//!
//! Transaction pooling works for what the participant sends: no prepared statements, and nothing that is set outside of
//! transactions. sqlx prepares and names the caller's own queries, also with `statement_cache_capacity(0)`, and the next
//! transaction may meet that name in its session. Call `persistent(false)` on each query, or set `max_prepared_statements` in
//! pgbouncer 1.21 or later. Give pgbouncer more server connections than branches can be at work, because the statements that end
//! promises wait for one, too.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `participant.rs`, `branch.rs` | what applications hold |
//! | `tables.rs` | services with tables |
//! | `builder.rs` | options |
//! | `database.rs` | what differs between the databases |
//! | `link.rs` | a connection that is closed if anything about it is in doubt |
//! | `postgres.rs`, `mysql.rs` | what `ringpact-sql` needs of sqlx |
//! | `error.rs` | errors of opening |
//!
//! The SQL, the set-up, the checks at opening and the meaning of the servers' errors are in the crate [`ringpact_sql`], which has no
//! client library.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]
#![forbid(unsafe_code)]

mod branch;
mod builder;
mod database;
mod error;
#[cfg(any(feature = "postgres", feature = "mysql"))]
mod link;
#[cfg(feature = "mysql")]
mod mysql;
mod participant;
#[cfg(feature = "postgres")]
mod postgres;
mod tables;

pub use branch::SqlxBranch;
pub use builder::SqlxBuilder;
pub use database::SqlxDatabase;
pub use error::SqlxOpenError;
pub use participant::SqlxParticipant;
pub use ringpact::participant::{
    tables::{AsyncService, TableParticipant, TableWorkError},
    xa::{DEFAULT_MAX_PROMISES, Prepared, XaError, XaErrorKind, XaStatus, XaWorkError},
};
pub use ringpact_sql::{BranchTimeouts, postgres::SchemaNameError};
pub use sqlx;
pub use tables::{SqlxTables, SqlxTx};

/// A database of PostgreSQL as a participant.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgParticipant = SqlxParticipant<sqlx::Postgres>;

/// A database of MariaDB or MySQL as a participant.
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlParticipant = SqlxParticipant<sqlx::MySql>;

/// A branch of [`SqlxPgParticipant`].
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgBranch = SqlxBranch<sqlx::Postgres>;

/// A branch of [`SqlxMySqlParticipant`].
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlBranch = SqlxBranch<sqlx::MySql>;

/// A database of PostgreSQL, for a service that keeps its reservations in tables.
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgTables = SqlxTables<sqlx::Postgres>;

/// A database of MariaDB or MySQL, for a service that keeps its reservations in tables.
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlTables = SqlxTables<sqlx::MySql>;

/// A transaction of a service of [`SqlxPgTables`].
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub type SqlxPgTx = SqlxTx<sqlx::Postgres>;

/// A transaction of a service of [`SqlxMySqlTables`].
#[cfg(feature = "mysql")]
#[cfg_attr(docsrs, doc(cfg(feature = "mysql")))]
pub type SqlxMySqlTx = SqlxTx<sqlx::MySql>;
