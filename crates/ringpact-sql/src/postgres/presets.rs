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

/// Which marker is written when a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// One if anything was changed. Otherwise the statement fails, because there is nothing to prepare.
    BeforePrepare,
    /// One if anything was changed.
    BeforeCommit,
    /// None: the statement only checks the transaction.
    None,
}

impl Marker {
    const ALL: [Self; 3] = [Self::BeforePrepare, Self::BeforeCommit, Self::None];

    /// Name of the prepared statement. It must change when the statement does: a session may outlive the program that
    /// prepared it.
    const fn statement(self) -> &'static str {
        match self {
            Self::BeforePrepare => "ringpact_promise_2",
            Self::BeforeCommit => "ringpact_commit_2",
            Self::None => "ringpact_check_2",
        }
    }

    /// What the schema's function `promise` is told.
    const fn alone(self) -> &'static str {
        match self {
            Self::BeforePrepare => "false",
            Self::BeforeCommit => "true",
            Self::None => "NULL",
        }
    }

    /// Returns the statement of a tag (`$1`), to be prepared. As a rule all is well, and the function `promise`, which checks
    /// the same and says what is wrong, is not called: its expressions are set up again in each transaction, which is a fifth
    /// of a branch's processor time at the server.
    fn prepared(self, schema: &str) -> String {
        const IS_OPEN: &str =
            "current_setting('application_name') = $1 AND current_setting('default_transaction_read_only') = 'on'";
        const IS_SYNCED: &str = "current_setting('synchronous_commit') <> 'off'";
        const HAS_CHANGED: &str = "pg_current_xact_id_if_assigned() IS NOT NULL";
        let (is_well, marks) = match self {
            Self::BeforePrepare => (format!("{IS_OPEN} AND {HAS_CHANGED}"), format!("{schema}.mark($1)")),
            Self::BeforeCommit => {
                let is_last_life = format!(
                    "NOT EXISTS (SELECT FROM {schema}.life AS met WHERE met.tag > $1 \
                     AND left(met.tag, 26) = left($1, 26) AND left(met.tag, 42) <> left($1, 42))"
                );
                (
                    format!("{IS_OPEN} AND {IS_SYNCED} AND {HAS_CHANGED} AND {is_last_life}"),
                    format!("{schema}.mark($1)"),
                )
            }
            Self::None => (format!("{IS_OPEN} AND {IS_SYNCED}"), "NULL".to_owned()),
        };
        let (name, alone) = (self.statement(), self.alone());
        format!(
            "PREPARE {name} (text) AS SELECT CASE WHEN {is_well} THEN {marks} ELSE {schema}.promise($1, {alone}) END"
        )
    }
}

/// Returns the message that sets a connection up when it is made. Outside of branches the connection has these time-outs, and
/// is read-only.
#[must_use]
pub fn presets(timeouts: &BranchTimeouts, schema: &str) -> String {
    format!(
        "SET default_transaction_read_only = on; SET ringpact.read_only = on; SET lock_timeout = {}; SET statement_timeout = {}; \
         SET idle_in_transaction_session_timeout = {}; {}",
        milliseconds(timeouts.lock),
        milliseconds(timeouts.statement),
        milliseconds(timeouts.idle),
        Marker::ALL.map(|marker| marker.prepared(schema)).join("; ")
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
    if is_preset {
        format!("EXECUTE {} ({tag})", marker.statement())
    } else {
        format!("SELECT {schema}.promise({tag}, {})", marker.alone())
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
