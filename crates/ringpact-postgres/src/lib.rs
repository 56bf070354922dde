//! PostgreSQL databases as participants of [ringpact]'s transactions: a commit in two databases, or in a database and
//! a service, happens everywhere or nowhere.
//!
//! A branch is a transaction of the database's own. The participant begins it, the caller works in it with the methods of
//! `tokio_postgres`, and the coordinator has it prepared (`PREPARE TRANSACTION`) and then committed or rolled back. What the
//! participant must know after a crash is in the database.
//!
//! ```no_run
//! use ringpact::{Coordinator, FileLog};
//! use ringpact_postgres::PgParticipant;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let goods = PgParticipant::builder("goods").config("host=db1 user=shop dbname=goods".parse()?).open().await?;
//! let money = PgParticipant::builder("money").config("host=db2 user=shop dbname=money".parse()?).open().await?;
//! let runtime = tokio::runtime::Handle::current();
//! let shop = Coordinator::builder(FileLog::open("shop.log")?)
//!     .name("shop")
//!     .async_participant("goods", goods.clone(), runtime.clone())
//!     .async_participant("money", money.clone(), runtime)
//!     .open()?;
//!
//! let mut txn = shop.begin_async().await;
//! goods.branch(&mut txn).await?.execute("UPDATE stock SET free = free - 1 WHERE id = $1", &[&7_i64]).await?;
//! money.branch(&mut txn).await?.execute("INSERT INTO payment (cents) VALUES ($1)", &[&995_i64]).await?;
//! txn.commit().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Services with tables
//!
//! [`PgBuilder::open_tables`] makes a participant that prepares nothing: the service sets aside what it needs in rows of its own,
//! and confirms or cancels that by the decision. See [`PgTables`] for an example, and the page on databases of [ringpact] for
//! which way to take.
//!
//! # Shards
//!
//! [`PgBuilder::open_shard`] makes a shard of [`ringpact::sharding`] whose records are rows of tables. A cluster moves them from one
//! database to another while clients write. See [`PgShard`] for an example.
//!
//! # Setting a database up
//!
//! | what | how |
//! |---|---|
//! | prepared transactions (not for services with tables) | `ALTER SYSTEM SET max_prepared_transactions = 64`, then restart the server: at least the builder's `max_promises`, summed over all participants and processes |
//! | the tables of shards | run [`PgShard::setup_sql`], which has all of the next line, too, or call [`set_up_shards`] |
//! | the participant's tables | run [`PgParticipant::SETUP_SQL`] in each database, or call [`PgParticipant::setup`] |
//! | a role that is not the owner | `GRANT USAGE ON SCHEMA ringpact`, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ringpact`, `GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ringpact` |
//! | standbys | `synchronous_standby_names`, with `synchronous_commit = on`: else a failover loses promises |
//! | durability | `fsync = on`, and `synchronous_commit` not `off` for the role and the database: else a crash loses commits |
//!
//! PostgreSQL 13 or later. [`PgBuilder::open`] and [`PgBuilder::open_tables`] check all of this but the standbys.
//!
//! # A database without prepared transactions
//!
//! A managed database with `max_prepared_transactions = 0` takes part as the *last resource*, one in a transaction. It commits,
//! with its marker, once all others have promised, and the coordinator asks it after a crash:
//!
//! ```no_run
//! # use ringpact::{Coordinator, FileLog};
//! # use ringpact_postgres::PgParticipant;
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let goods = PgParticipant::builder("goods").config("host=db1 user=shop dbname=goods".parse()?).open().await?;
//! let managed = "host=managed.example user=shop dbname=money".parse()?;
//! let money = PgParticipant::builder("money").config(managed).last_resource().open().await?;
//! let runtime = tokio::runtime::Handle::current();
//! let shop = Coordinator::builder(FileLog::open("shop.log")?)
//!     .name("shop")
//!     .async_participant("goods", goods.clone(), runtime.clone())
//!     .async_last_resource("money", money.clone(), runtime)
//!     .open()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What PostgreSQL does not do
//!
//! - **Isolation across databases.** For milliseconds a reader can see one database committed and the other not yet.
//! - **Deadlocks across databases** are not detected. The time-out for locks ends them; it is 2 s, see [`BranchTimeouts`].
//! - **Temporary tables, `NOTIFY`, `WITH HOLD` cursors, exported snapshots** can't be prepared: the branch votes No and says why.
//!   Instead of `NOTIFY` write a row to a table that a job reads. A branch that does nothing but `NOTIFY` counts as read-only
//!   and its notification is dropped.
//! - **Session-level state** (`SET` without `LOCAL`, `pg_advisory_lock`) outlives the branch and goes back to the pool with the
//!   connection. Use `SET LOCAL` and `pg_advisory_xact_lock`.
//!
//! A branch that has changed nothing votes read-only: PostgreSQL logs that as an error with SQLSTATE `RP002`. A *serializable*
//! branch always promises, because what it has read must be certified.
//!
//! # Behind pgbouncer
//!
//! Transaction pooling works, for services with tables, too: the participant sends no prepared statements and sets nothing
//! outside of transactions. The caller's own statements must keep to pgbouncer's rules. Give pgbouncer more server connections
//! than branches can be at work, because the statements that end promises wait for one, too.
//!
//! # Several processes
//!
//! Processes that open the same participant's name on the same database are one participant; each has a coordinator of its own
//! name. Two participants in one database need two names.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `participant.rs`, `branch.rs` | what applications hold |
//! | `builder.rs` | options |
//! | `session.rs`, `control.rs` | a branch's connection, and those that end promises and sessions |
//! | `tables.rs` | services with tables |
//! | `shard` | shards whose records are rows, and move to other databases |
//! | `error.rs` | errors of opening, and the client library's |
//!
//! The SQL, the set-up, the checks at opening and the meaning of SQLSTATEs are in the crate [`ringpact_sql`], which has no client
//! library.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]
#![forbid(unsafe_code)]

mod branch;
mod builder;
mod control;
mod error;
mod participant;
mod session;
mod shard;
mod tables;

pub use branch::PgBranch;
pub use builder::PgBuilder;
pub use deadpool_postgres;
pub use error::PgOpenError;
pub use participant::PgParticipant;
pub use ringpact::participant::tables::{AsyncService, TableParticipant, TableWorkError};
pub use ringpact::participant::xa::{DEFAULT_MAX_PROMISES, Prepared, XaError, XaErrorKind, XaStatus, XaWorkError};
pub use ringpact_sql::{BranchTimeouts, postgres::SchemaNameError};
pub use shard::{PgShard, PgShardRefusal, ShardTable, column_of, position_of, set_up_shards};
pub use tables::{PgTables, PgTx};
pub use tokio_postgres;

/// The database, by the client library of this crate.
pub(crate) type PgBackend = ringpact_sql::postgres::PgBackend<control::Control>;
