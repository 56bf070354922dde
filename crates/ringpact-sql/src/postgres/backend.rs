//! PostgreSQL as a database that can prepare: [`PgBackend`].

use std::{
    error::Error as StdError,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ringpact::{
    BranchId, Epoch, LogId, Name,
    id::TxnOrdinal,
    participant::{
        Decision, Life,
        xa::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote},
    },
};
use tokio::time::timeout;

use super::{
    client::{PgClient, PgLink, TextRow},
    error::{During, PgFailure, failure, has_changed_nothing, has_lost_presets, is_transient, no_answer},
    names::{coordinator_prefix, gid, gid_prefix, literal, parse_gid, tag, tag_of, tag_of_life, tag_prefix},
    presets::{Marker, begin, promise},
    sessions::{cancel, end_sessions, end_sessions_below},
};
use crate::BranchTimeouts;

/// Number of connections that a branch tries. After a restart of the server all of the pool are dead, and the pool learns it
/// one by one.
const CONNECTIONS_TRIED: usize = 5;

/// Time beyond the statement's own within which a promise must be answered.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// Time for a rollback. A statement that is still under way would hold it up.
const ROLLBACK_WITHIN: Duration = Duration::from_secs(1);

/// One database of PostgreSQL, for one participant.
#[derive(Debug)]
pub struct PgBackend<C> {
    pub(super) participant: Name,
    pub(super) client: C,
    timeouts: BranchTimeouts,
    pub(super) schema: String,
    is_preset: AtomicBool,
}

/// A connection with a branch's transaction open in it. If it is dropped, the connection is closed.
#[derive(Debug)]
pub struct PgWork<L> {
    /// The connection. Its transaction is the branch's: `COMMIT` and `ROLLBACK` are the participant's.
    pub link: L,
    tag: String,
    is_preset: bool,
}

/// What follows the check of a transaction in a message.
#[derive(Clone, Copy)]
pub(super) enum Ending<'a> {
    Prepare(&'a XaPromise),
    Commit,
    /// Of a transaction that has the branch's row, and so needs no marker.
    CommitRow,
}

impl<C: PgClient> PgBackend<C> {
    /// Returns the backend of the participant of this name. The schema's name needs no quotes; see
    /// [`check_schema`](super::check_schema).
    pub const fn new(participant: Name, client: C, timeouts: BranchTimeouts, schema: String) -> Self {
        Self { participant, client, timeouts, schema, is_preset: AtomicBool::new(false) }
    }

    /// Says that all connections of the pool have the [`presets`](super::presets).
    pub fn set_preset(&self) {
        self.is_preset.store(true, Ordering::Relaxed);
    }

    /// Takes a connection and begins a transaction in it, under this tag. `waits` says that the answer is waited for, so that
    /// no dead connection is returned.
    pub(super) async fn begin_work(&self, tag: String, waits: bool) -> Result<PgWork<C::Link>, XaError> {
        let is_preset = self.is_preset.load(Ordering::Relaxed);
        let message = begin(&self.timeouts, &tag, is_preset);
        let mut tried = 0;
        loop {
            let mut link = self.client.connect(self.timeouts.connection).await?;
            tried += 1;
            let begun = if is_preset && !waits {
                link.begin_ahead(message.clone()).await
            } else {
                link.begin(message.clone()).await
            };
            match begun {
                Ok(()) => return Ok(PgWork { link, tag, is_preset }),
                // Nothing was done in it yet, so another connection does as well.
                Err(error) if error.ends_connection && tried < CONNECTIONS_TRIED => {}
                Err(error) => return Err(failure(error, During::Repeatable)),
            }
        }
    }

    /// Checks the transaction, writes its marker and ends it, in one message: `false` if nothing was changed. The connection
    /// goes back to the pool if its transaction is over for certain.
    pub(super) async fn end_work(&self, mut work: PgWork<C::Link>, ending: Ending<'_>) -> Result<bool, XaError> {
        let (statement, marker) = match ending {
            Ending::Prepare(promise) => {
                (format!("PREPARE TRANSACTION {}", literal(&gid(promise))), Marker::BeforePrepare)
            }
            Ending::Commit => ("COMMIT".to_owned(), Marker::BeforeCommit),
            Ending::CommitRow => ("COMMIT".to_owned(), Marker::None),
        };
        if work.link.is_closed() {
            // Nothing can have been sent, so there is no doubt.
            return Err(XaError::new(XaErrorKind::Transient, PgFailure::NoSession));
        }
        let check = promise(&self.schema, &work.tag, marker, work.is_preset);
        // Zero switches the server's own limit off; the coordinator's deadline then ends the call.
        let limit = self.timeouts.statement;
        let within =
            if limit.is_zero() { Duration::MAX } else { limit.saturating_mul(2).saturating_add(ANSWER_MARGIN) };
        let answer = match timeout(within, work.link.end(&check, &statement)).await {
            Ok(answer) => answer,
            Err(_) => return Err(no_answer(within, During::Promise)),
        };
        let Err(error) = answer else {
            work.link.give_back();
            return Ok(true);
        };
        if has_lost_presets(&error) {
            // The session is not the one that was set up: a proxy is in between after all, or the work has discarded them.
            self.is_preset.store(false, Ordering::Relaxed);
        } else if !error.ends_connection {
            self.undo(work).await;
        }
        if marker == Marker::BeforePrepare && has_changed_nothing(&error) {
            Ok(false)
        } else {
            Err(failure(error, During::Promise))
        }
    }

    /// Rolls back, and gives the connection back if that was answered.
    pub(super) async fn undo(&self, mut work: PgWork<C::Link>) {
        match timeout(ROLLBACK_WITHIN, work.link.rollback()).await {
            Ok(Ok(())) => work.link.give_back(),
            Ok(Err(_)) => {}
            // A statement that a client no longer waits for. It would keep its locks until its end.
            Err(_) => drop(end_sessions(&self.client, &work.tag).await),
        }
    }

    /// Ends a promise: as a statement alone, because it can't be part of anything.
    async fn end_promise(&self, how: &str, id: &str) -> Result<(), XaError> {
        self.client.end_promise(&format!("{how} PREPARED {}", literal(id))).await
    }

    async fn promises_beginning(&self, prefix: &str) -> Result<Vec<XaPromise>, XaError> {
        let statement = format!(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, {})",
            literal(prefix)
        );
        let rows = self.client.ask(&statement).await?;
        let own = |promise: &XaPromise| *promise.branch.participant() == self.participant;
        Ok(rows.iter().filter_map(|row| parse_gid(row.get(0)?)).filter(own).collect())
    }
}

impl<C: PgClient> XaBackend for PgBackend<C> {
    type Session = PgWork<C::Link>;
    type Interrupt = String;

    async fn begin(&self, branch: &BranchId) -> Result<PgWork<C::Link>, XaError> {
        self.begin_work(tag(branch), false).await
    }

    fn interrupter(&self, session: &PgWork<C::Link>) -> String {
        session.tag.clone()
    }

    async fn interrupt(&self, tag: String) {
        drop(cancel(&self.client, &tag).await);
    }

    async fn prepare(&self, promise: &XaPromise, session: &mut Option<PgWork<C::Link>>) -> Result<XaVote, XaError> {
        let session = session.take().ok_or_else(|| XaError::new(XaErrorKind::Refused, PgFailure::NoSession))?;
        let is_promised = self.end_work(session, Ending::Prepare(promise)).await?;
        Ok(if is_promised { XaVote::Promised } else { XaVote::ReadOnly })
    }

    async fn commit_one_phase(&self, _: &BranchId, session: &mut Option<PgWork<C::Link>>) -> Result<(), XaError> {
        let session = session.take().ok_or_else(|| XaError::new(XaErrorKind::Refused, PgFailure::NoSession))?;
        self.end_work(session, Ending::Commit).await.map(drop)
    }

    async fn rollback(&self, _: &BranchId, session: PgWork<C::Link>) {
        self.undo(session).await;
    }

    async fn commit_prepared(&self, promise: &XaPromise, _: &mut Option<PgWork<C::Link>>) -> Result<(), XaError> {
        self.end_promise("COMMIT", &gid(promise)).await
    }

    async fn rollback_prepared(&self, promise: &XaPromise, _: &mut Option<PgWork<C::Link>>) -> Result<(), XaError> {
        self.end_promise("ROLLBACK", &gid(promise)).await
    }

    async fn fence(&self, branch: &BranchId) -> Result<(), XaError> {
        end_sessions(&self.client, &tag(branch)).await
    }

    async fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        let prefix = tag_prefix(&self.participant, coordinator);
        end_sessions_below(&self.client, &prefix, &tag_of_life(&self.participant, coordinator, before)).await
    }

    async fn outcome(&self, branch: &BranchId) -> Result<XaOutcome, XaError> {
        // The promises first, and the markers in a statement with a later snapshot: a promise that is gone by then has its
        // marker visible, if it was committed.
        if let Some(promise) = self.promises_beginning(&gid_prefix(branch)).await?.pop() {
            return Ok(XaOutcome::Promised(promise));
        }
        let statement = format!("SELECT FROM {}.marker WHERE branch = {}", self.schema, literal(&tag(branch)));
        let is_committed = !self.client.ask(&statement).await?.is_empty();
        Ok(if is_committed { XaOutcome::Committed } else { XaOutcome::Unknown })
    }

    async fn promises(&self, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        self.promises_beginning(&coordinator_prefix(coordinator)).await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>, XaError> {
        let statement = "SELECT gid, greatest(0, extract(epoch FROM clock_timestamp() - prepared)) \
                         FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared";
        let rows = self.client.ask(statement).await?;
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
        let rows = self.client.ask(&statement).await?;
        let malformed =
            |row| XaError::new(XaErrorKind::Misconfigured, PgFailure::Malformed(format!("a life: {row:?}")));
        rows.iter().map(|row| life(row).ok_or_else(|| malformed(row))).collect()
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        let decoded = |life: &Life| format!("decode('{:032x}', 'hex')", u128::from_be_bytes(life.log.to_bytes()));
        let log = decoded(life);
        let (participant, name) = (literal(self.participant.as_str()), literal(coordinator.as_str()));
        let (epoch, position) = (life.epoch.as_u64(), life.position);
        let tag = literal(&tag_of_life(&self.participant, coordinator, life.epoch));
        let expected = before.map_or_else(
            || "false".to_owned(),
            |before| format!("(met.log, met.epoch) = ({}, {})", decoded(before), before.epoch.as_u64()),
        );
        let statement = format!(
            "INSERT INTO {}.life AS met VALUES ({participant}, {name}, {log}, {epoch}, {position}, {tag}) \
             ON CONFLICT (participant, coordinator) DO UPDATE SET log = excluded.log, epoch = excluded.epoch, \
             position = excluded.position, tag = excluded.tag \
             WHERE {expected} OR (met.log, met.epoch) = (excluded.log, excluded.epoch) RETURNING 1",
            self.schema
        );
        self.client.ask(&statement).await.map(|rows| !rows.is_empty())
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        // Tags sort as their numbers do.
        let (first, end) = (tag_prefix(&self.participant, coordinator), tag_of(&self.participant, coordinator, below));
        let statement = format!(
            "DELETE FROM {}.marker WHERE branch >= {} AND branch < {}",
            self.schema,
            literal(&first),
            literal(&end)
        );
        self.client.ask(&statement).await.map(drop)
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient::<C>(error)
    }
}

/// Reads a row of the lives.
fn life(row: &TextRow) -> Option<(Name, Life)> {
    let coordinator = Name::new(row.get(0)?).ok()?;
    let hexadecimal = row.get(1)?;
    let log = u128::from_str_radix(hexadecimal, 16).ok().filter(|_| hexadecimal.len() == 32)?;
    let (epoch, position) = (row.get(2)?.parse().ok()?, row.get(3)?.parse().ok()?);
    Some((coordinator, Life::new(LogId::from_bytes(log.to_be_bytes()), Epoch::new(epoch), position)))
}
