//! PostgreSQL: [`PgBackend`] over any client library that is a [`PgClient`].
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `client.rs` | what a client library must do |
//! | `check.rs` | what is checked at opening |
//! | `setup.rs`, `setup.sql` | the participant's tables, and the function that makes promises |
//! | `backend.rs` | each step of the protocol as SQL |
//! | `tables.rs` | services with tables: the branch's row, and the transactions that keep it |
//! | `presets.rs` | what is set once for each connection |
//! | `sessions.rs` | how sessions are interrupted and ended |
//! | `names.rs` | ids of prepared transactions, and tags of sessions |
//! | `error.rs` | what SQLSTATEs mean |

mod backend;
mod check;
mod client;
mod error;
mod names;
mod presets;
mod sessions;
mod setup;
mod tables;

pub use backend::{PgBackend, PgWork};
pub use check::{Wanted, check, check_for_tables};
pub use client::{ANSWER_WITHIN, PgClient, PgLink, TextRow};
pub use error::{During, StatementFailure, failure, is_transient, no_answer, no_free_connection, no_pool_connection};
pub use presets::{leads_to_one_session, presets};
pub use setup::{DEFAULT_SCHEMA, SETUP_SQL, SchemaNameError, check_schema, setup_sql};
pub use tables::{PgTables, PgTransaction};
