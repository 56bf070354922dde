//! PostgreSQL as a database that can prepare: [`PgBackend`].

use std::{error::Error as StdError, time::Duration};

use deadpool_postgres::Pool;
use ringpact::{
    BranchId, Epoch, LogId, Name,
    id::TxnOrdinal,
    participant::{
        Decision, Life,
        xa::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote},
    },
};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryRow;

use crate::{
    control::Control,
    error::{During, PgFailure, ends_connection, failure, has_changed_nothing, is_transient, no_answer},
    names::{coordinator_prefix, gid, gid_prefix, literal, parse_gid, tag, tag_prefix},
    session::{BranchTimeouts, PgSession},
};

/// Time beyond the statement's own within which a promise must be answered.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Time for a rollback. A statement that is still under way would hold it up.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(1);

/// One database of PostgreSQL, for one participant.
pub(crate) struct PgBackend {
    pub(crate) participant: Name,
    pub(crate) pool: Pool,
    pub(crate) control: Control,
    pub(crate) timeouts: BranchTimeouts,
    pub(crate) schema: String,
}

/// What follows the marker in a message.
enum Ending<'a> {
    Prepare(&'a XaPromise),
    Commit(&'a BranchId),
}

impl PgBackend {
    /// Writes the marker and ends the transaction with it, in one message: `false` if nothing was changed. The connection
    /// goes back to the pool if its transaction is over for certain.
    async fn end_work(&self, session: PgSession, ending: Ending<'_>) -> Result<bool, XaError> {
        let (branch, statement, alone) = match ending {
            Ending::Prepare(promise) => {
                (&promise.branch, format!("PREPARE TRANSACTION {}", literal(&gid(promise))), false)
            }
            Ending::Commit(branch) => (branch, "COMMIT".to_owned(), true),
        };
        if session.client().is_closed() {
            // Nothing can have been sent, so there is no doubt.
            return Err(XaError::new(XaErrorKind::Transient, PgFailure::NoSession));
        }
        let (key, tag) = (self.key(branch), literal(session.tag()));
        let message = format!("SELECT {}.promise({tag}, {key}, {alone}); {statement}", self.schema);
        let within = self.answer_within();
        let answer = match timeout(within, session.client().batch_execute(&message)).await {
            Ok(answer) => answer,
            Err(_) => return Err(no_answer(within, During::Promise)),
        };
        let Err(error) = answer else {
            session.give_back();
            return Ok(true);
        };
        if !ends_connection(&error) {
            self.undo(session).await;
        }
        if !alone && has_changed_nothing(&error) { Ok(false) } else { Err(failure(error, During::Promise)) }
    }

    /// Returns for how long the answer to a message of two statements is waited for.
    pub(crate) fn answer_within(&self) -> Duration {
        // Zero switches the server's own limit off; the coordinator's deadline then ends the call.
        let limit = self.timeouts.statement;
        if limit.is_zero() { Duration::MAX } else { limit.saturating_mul(2).saturating_add(ANSWER_MARGIN) }
    }

    /// Rolls back, and gives the connection back if that was answered.
    pub(crate) async fn undo(&self, session: PgSession) {
        match timeout(ROLLBACK_WITHIN, session.client().batch_execute("ROLLBACK")).await {
            Ok(Ok(())) => session.give_back(),
            Ok(Err(_)) => {}
            // A statement that a client no longer waits for. It would keep its locks until its end.
            Err(_) => drop(self.control.end_sessions(session.tag()).await),
        }
    }

    /// Ends a promise: as a statement alone, because it can't be part of anything.
    async fn end_promise(&self, how: &str, id: &str) -> Result<(), XaError> {
        self.control.end_promise(&format!("{how} PREPARED {}", literal(id))).await
    }

    /// Returns the branch's key, as arguments of the promise's function and as values of a row.
    pub(crate) fn key(&self, branch: &BranchId) -> String {
        let (participant, txn) = (literal(branch.participant().as_str()), branch.txn());
        let coordinator = literal(txn.coordinator().as_str());
        format!("{participant}, {coordinator}, {}, {}", txn.epoch().as_u64(), txn.sequence())
    }

    /// Returns the condition on the rows of this participant about this coordinator.
    pub(crate) fn rows_of(&self, coordinator: &Name) -> String {
        let (participant, coordinator) = (literal(self.participant.as_str()), literal(coordinator.as_str()));
        format!("participant = {participant} AND coordinator = {coordinator}")
    }

    async fn promises_beginning(&self, prefix: &str) -> Result<Vec<XaPromise>, XaError> {
        let statement = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, {})",
            literal(prefix)
        );
        let rows = self.control.ask(&statement).await?;
        let own = |promise: &XaPromise| *promise.branch.participant() == self.participant;
        Ok(rows.iter().filter_map(|row| parse_gid(row.get(0)?)).filter(own).collect())
    }
}

impl XaBackend for PgBackend {
    type Session = PgSession;
    type Interrupt = String;

    async fn begin(&self, branch: &BranchId) -> Result<PgSession, XaError> {
        PgSession::begin(&self.pool, branch, &self.timeouts).await
    }

    fn interrupter(&self, session: &PgSession) -> String {
        session.tag().to_owned()
    }

    async fn interrupt(&self, tag: String) {
        drop(self.control.cancel(&tag).await);
    }

    async fn prepare(&self, promise: &XaPromise, session: &mut Option<PgSession>) -> Result<XaVote, XaError> {
        let session = session.take().ok_or_else(|| XaError::new(XaErrorKind::Refused, PgFailure::NoSession))?;
        let is_promised = self.end_work(session, Ending::Prepare(promise)).await?;
        Ok(if is_promised { XaVote::Promised } else { XaVote::ReadOnly })
    }

    async fn commit_one_phase(&self, branch: &BranchId, session: &mut Option<PgSession>) -> Result<(), XaError> {
        let session = session.take().ok_or_else(|| XaError::new(XaErrorKind::Refused, PgFailure::NoSession))?;
        self.end_work(session, Ending::Commit(branch)).await.map(drop)
    }

    async fn rollback(&self, _: &BranchId, session: PgSession) {
        self.undo(session).await;
    }

    async fn commit_prepared(&self, promise: &XaPromise, _: &mut Option<PgSession>) -> Result<(), XaError> {
        self.end_promise("COMMIT", &gid(promise)).await
    }

    async fn rollback_prepared(&self, promise: &XaPromise, _: &mut Option<PgSession>) -> Result<(), XaError> {
        self.end_promise("ROLLBACK", &gid(promise)).await
    }

    async fn fence(&self, branch: &BranchId) -> Result<(), XaError> {
        self.control.end_sessions(&tag(branch)).await
    }

    async fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        let prefix = tag_prefix(&self.participant, coordinator);
        self.control.end_sessions_below(&prefix, &format!("{prefix}{:016x}", before.as_u64())).await
    }

    async fn outcome(&self, branch: &BranchId) -> Result<XaOutcome, XaError> {
        // The promises first, and the markers in a statement with a later snapshot: a promise that is gone by then has its
        // marker visible, if it was committed.
        if let Some(promise) = self.promises_beginning(&gid_prefix(branch)).await?.pop() {
            return Ok(XaOutcome::Promised(promise));
        }
        let statement = format!(
            "SELECT FROM {}.marker WHERE (participant, coordinator, epoch, sequence) = ({})",
            self.schema,
            self.key(branch)
        );
        let is_committed = !self.control.ask(&statement).await?.is_empty();
        Ok(if is_committed { XaOutcome::Committed } else { XaOutcome::Unknown })
    }

    async fn promises(&self, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        self.promises_beginning(&coordinator_prefix(coordinator)).await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>, XaError> {
        let statement = "SELECT gid, greatest(0, extract(epoch FROM clock_timestamp() - prepared)) \
                         FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";
        let rows = self.control.ask(statement).await?;
        let prepared = rows.iter().filter_map(|row| {
            let mut prepared = Prepared::new(row.get(0)?.to_owned());
            let seconds = row.get(1).and_then(|age| age.parse().ok());
            prepared.age = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            prepared.branch = parse_gid(&prepared.id).map(|promise| promise.branch);
            prepared.is_own = prepared.branch.as_ref().is_some_and(|of| *of.participant() == self.participant);
            Some(prepared)
        });
        Ok(prepared.collect())
    }

    async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        let how = if decision == Decision::Commit { "COMMIT" } else { "ROLLBACK" };
        self.end_promise(how, id).await
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        let statement = format!(
            "SELECT coordinator, encode(log, 'hex'), epoch, position FROM {}.life WHERE participant = {}",
            self.schema,
            literal(self.participant.as_str())
        );
        let rows = self.control.ask(&statement).await?;
        let malformed =
            |row| XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(format!("a life: {row:?}")));
        rows.iter().map(|row| life(row).ok_or_else(|| malformed(row))).collect()
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        let decoded = |life: &Life| format!("decode('{:032x}', 'hex')", u128::from_be_bytes(life.log.to_bytes()));
        let log = decoded(life);
        let (participant, name) = (literal(self.participant.as_str()), literal(coordinator.as_str()));
        let (epoch, position) = (life.epoch.as_u64(), life.position);
        let expected = before.map_or_else(
            || "false".to_owned(),
            |before| format!("(met.log, met.epoch) = ({}, {})", decoded(before), before.epoch.as_u64()),
        );
        let statement = format!(
            "INSERT INTO {}.life AS met VALUES ({participant}, {name}, {log}, {epoch}, {position}) \
             ON CONFLICT (participant, coordinator) DO UPDATE SET log = excluded.log, epoch = excluded.epoch, \
             position = excluded.position \
             WHERE {expected} OR (met.log, met.epoch) = (excluded.log, excluded.epoch) RETURNING 1",
            self.schema
        );
        self.control.ask(&statement).await.map(|rows| !rows.is_empty())
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let statement = format!(
            "DELETE FROM {}.marker WHERE {} AND (epoch, sequence) < ({}, {})",
            self.schema,
            self.rows_of(coordinator),
            below.epoch.as_u64(),
            below.sequence
        );
        self.control.ask(&statement).await.map(drop)
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient(error)
    }
}

/// Reads a row of the lives.
fn life(row: &SimpleQueryRow) -> Option<(Name, Life)> {
    let coordinator = Name::new(row.get(0)?).ok()?;
    let hexadecimal = row.get(1)?;
    let log = u128::from_str_radix(hexadecimal, 16).ok().filter(|_| hexadecimal.len() == 32)?;
    let (epoch, position) = (row.get(2)?.parse().ok()?, row.get(3)?.parse().ok()?);
    Some((coordinator, Life::new(LogId::from_bytes(log.to_be_bytes()), Epoch::new(epoch), position)))
}
