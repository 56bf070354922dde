//! What is set once for each connection instead of once for each branch.
//!
//! Of a branch's processor time at the server, three time-outs set by `SET LOCAL` and a promise that is parsed again are
//! about a fifth. A connection that leads to one session of the server keeps both. Behind a proxy that gives each transaction
//! another session it does not, so [`leads_to_one_session`] finds out.
//!
//! Such a connection is also read-only outside of branches. So a statement of the work can be sent before `BEGIN` is
//! answered: if `BEGIN` has failed, that statement fails as well, and is not committed alone. The same holds for statements
//! that come after a `COMMIT` of the work's own.

use std::time::Duration;

use super::{client::PgLink, error::StatementFailure, names::literal};
use crate::BranchTimeouts;

/// Name of the prepared statement that makes promises. It must change when the statement does: a session may outlive the
/// program that prepared it.
pub(super) const PROMISE_STATEMENT: &str = "ringpact_promise_1";

/// Which marker the promise's function writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// One if anything was changed. Otherwise the function fails, because there is nothing to prepare.
    BeforePrepare,
    /// One if anything was changed.
    BeforeCommit,
    /// None: the function only checks the transaction.
    None,
}

/// Returns the message that sets a connection up when it is made. Outside of branches the connection has these time-outs, and
/// is read-only.
#[must_use]
pub fn presets(timeouts: &BranchTimeouts, schema: &str) -> String {
    format!(
        "SET default_transaction_read_only = on; SET lock_timeout = {}; SET statement_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; \
         PREPARE {PROMISE_STATEMENT} (text, boolean) AS SELECT {schema}.promise($1, $2)",
        milliseconds(timeouts.lock),
        milliseconds(timeouts.statement),
        milliseconds(timeouts.idle)
    )
}

/// Returns the message that begins a branch's transaction, on a connection with presets or without. One with presets may
/// have lost some of them, so both forms say `READ WRITE`.
///
/// `SET LOCAL` takes no snapshot, so the work may still choose its isolation level.
pub(super) fn begin(timeouts: &BranchTimeouts, tag: &str, is_preset: bool) -> String {
    let tag = literal(tag);
    if is_preset {
        return format!("BEGIN READ WRITE; SET LOCAL application_name = {tag}");
    }
    format!(
        "BEGIN READ WRITE; SET LOCAL application_name = {tag}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        milliseconds(timeouts.lock),
        milliseconds(timeouts.statement),
        milliseconds(timeouts.idle)
    )
}

/// Returns the statement that checks a branch's transaction and writes its marker.
pub(super) fn promise(schema: &str, tag: &str, marker: Marker, is_preset: bool) -> String {
    let tag = literal(tag);
    let alone = match marker {
        Marker::BeforePrepare => "false",
        Marker::BeforeCommit => "true",
        Marker::None => "NULL",
    };
    if is_preset {
        format!("EXECUTE {PROMISE_STATEMENT} ({tag}, {alone})")
    } else {
        format!("SELECT {schema}.promise({tag}, {alone})")
    }
}

fn milliseconds(time: Duration) -> u128 {
    time.as_millis().min(i32::MAX as u128)
}

/// Whether each of these connections has a session of the server to itself. Neither may have presets yet.
///
/// A proxy that pools transactions gives the second connection the session that the first has just left; or, if it has
/// several, gives the first one another while the second keeps its own.
///
/// # Errors
///
/// As the statements say. A caller takes that for a no.
pub async fn leads_to_one_session<L: PgLink>(first: &mut L, second: &mut L) -> Result<bool, StatementFailure> {
    // A setting of no meaning, which does no harm to other users of a shared session.
    const LEAVE: &str = "SET ringpact.probe = '1'";
    const LOOK: &str = "SELECT coalesce(current_setting('ringpact.probe', true), '')";
    first.ask(LEAVE).await?;
    second.begin("BEGIN".to_owned()).await?;
    let seen_by_second = second.ask(LOOK).await?;
    let seen_by_first = first.ask(LOOK).await?;
    second.rollback().await?;
    first.ask("RESET ringpact.probe").await?;
    let is_left = |rows: &[super::TextRow]| rows.first().and_then(|row| row.get(0)) == Some("1");
    Ok(is_left(&seen_by_first) && !is_left(&seen_by_second))
}
