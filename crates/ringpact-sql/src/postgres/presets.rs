//! What is set once for each connection instead of once for each branch.
//!
//! Of a branch's processor time at the server, three time-outs set by `SET LOCAL` and a promise that is parsed again are
//! about a fifth. A connection that leads to one session of the server keeps both. Behind a proxy that gives each transaction
//! another session it does not, so [`leads_to_one_session`] finds out.

use std::time::Duration;

use super::{client::PgLink, error::StatementFailure, names::literal};
use crate::BranchTimeouts;

/// Name of the prepared statement that makes promises. It must change when the statement does: a session may outlive the
/// program that prepared it.
pub(super) const PROMISE_STATEMENT: &str = "ringpact_promise_1";

/// Returns the message that sets a connection up when it is made. It does not change what the connection does outside of
/// branches, but for these time-outs.
#[must_use]
pub fn presets(timeouts: &BranchTimeouts, schema: &str) -> String {
    format!(
        "SET lock_timeout = {}; SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; \
         PREPARE {PROMISE_STATEMENT} (text, boolean) AS SELECT {schema}.promise($1, $2)",
        milliseconds(timeouts.lock),
        milliseconds(timeouts.statement),
        milliseconds(timeouts.idle)
    )
}

/// Returns the message that begins a branch's transaction, on a connection with presets or without.
///
/// `SET LOCAL` takes no snapshot, so the work may still choose its isolation level.
pub(super) fn begin(timeouts: &BranchTimeouts, tag: &str, is_preset: bool) -> String {
    let tag = literal(tag);
    if is_preset {
        return format!("BEGIN; SET LOCAL application_name = {tag}");
    }
    format!(
        "BEGIN; SET LOCAL application_name = {tag}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        milliseconds(timeouts.lock),
        milliseconds(timeouts.statement),
        milliseconds(timeouts.idle)
    )
}

/// Returns the statement that checks a branch's transaction and writes its marker.
pub(super) fn promise(schema: &str, tag: &str, alone: bool, is_preset: bool) -> String {
    let tag = literal(tag);
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
