//! MariaDB and MySQL: [`MySqlBackend`] over any client library that is a [`MySqlClient`].
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `client.rs` | what a client library must do |
//! | `check.rs` | what is checked at opening |
//! | `setup.sql` | the tables of a participant |
//! | `backend.rs` | the steps of the protocol, and what each error of the server means in them |
//! | `session.rs` | the statements that begin, promise and end a branch |
//! | `tables.rs` | services with tables: the branch's row, and the transactions that keep it |
//! | `fence.rs` | which session works for which branch, and how it is ended for certain |
//! | `id.rs` | how a branch is named in the database |
//! | `error.rs` | errors, and which of them may pass |

use std::time::Duration;

mod backend;
mod check;
mod client;
mod error;
mod fence;
mod id;
mod session;
mod tables;

pub use backend::MySqlBackend;
pub use check::{Demands, Found, check, check_for_tables};
pub use client::{ByteRow, MySqlClient, MySqlLink};
pub use error::{StatementFailure, code_may_pass, is_transient, unavailable};
pub use id::Xid;
pub use session::Session;
pub use tables::{MySqlTables, MySqlTransaction, TRANSACTION_OVER};

/// The statements that make the tables of a participant's database. They change nothing if the tables are there.
///
#[doc = concat!("```sql\n", include_str!("setup.sql"), "```")]
pub const SETUP_SQL: &str = include_str!("setup.sql");

/// Number of connections beside the pool's, on which promises are ended whose own connection was lost, sessions are ended,
/// and markers are deleted.
pub const CONTROL_CONNECTIONS: usize = 4;

/// Time beyond the limit of a statement for which its answer is waited for: the server ends the statement itself, and its error
/// says why.
const GRACE: Duration = Duration::from_secs(5);

/// Returns the statements that a control connection carries out first, without the last semicolon.
///
/// Under `READ COMMITTED` a deletion of markers locks no gaps, into which branches insert.
#[must_use]
pub fn control_setup(timeouts: &crate::BranchTimeouts) -> [String; 2] {
    let lock = timeouts.lock.as_secs().max(1);
    [
        format!("SET SESSION autocommit = 1, innodb_lock_wait_timeout = {lock}, lock_wait_timeout = {lock}"),
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
    ]
}

/// Returns for how long the answer to a statement is waited for.
pub(crate) const fn answer_within(timeouts: &crate::BranchTimeouts) -> Duration {
    timeouts.statement.saturating_add(GRACE)
}
