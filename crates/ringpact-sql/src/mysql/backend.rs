//! The database as [`XaBackend`] has it: [`MySqlBackend`].

use std::{collections::BTreeSet, error::Error as StdError, fmt::Write as _, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Epoch, LogId, Name, TxnOrdinal,
    participant::{
        Decision, EndedOpening, Life,
        xa::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote},
    },
};
use tokio::time::timeout;

use super::{
    answer_within,
    check::Found,
    client::{ByteRow, MySqlClient, MySqlLink},
    error::{StatementFailure, code, is_transient, lost, not_begun, refused, unavailable},
    fence::Sessions,
    id::{MarkerId, NameHash, RawXid, Xid},
    session::{Session, Undone},
};
use crate::BranchTimeouts;

/// Maximum number of rows that one message deletes, so that it stays short.
pub(super) const DELETED_AT_ONCE: usize = 500;

/// One participant's database.
#[derive(Debug)]
pub struct MySqlBackend<C> {
    pub(crate) name: Name,
    pub(crate) hash: NameHash,
    /// The database's name, quoted.
    pub(crate) database: String,
    pub(crate) is_mariadb: bool,
    /// Maximum length of a message to the server, in bytes.
    pub(super) max_packet: u64,
    /// Whether the user may list the server's prepared transactions. A last resource has none.
    pub(crate) lists_promises: bool,
    pub(crate) timeouts: BranchTimeouts,
    pub(crate) client: C,
    pub(crate) sessions: Sessions,
    /// Names of coordinators that were met, by which their hashes are recognised.
    pub(crate) coordinators: Mutex<BTreeSet<Name>>,
}

impl<C: MySqlClient> XaBackend for MySqlBackend<C> {
    type Session = Session<C::Link>;
    type Interrupt = Xid;

    async fn begin(&self, branch: &BranchId) -> Result<Session<C::Link>, XaError> {
        let coordinator = branch.txn().coordinator();
        self.knows(coordinator);
        let link = connected(self.timeouts.connection, self.client.connect()).await?;
        let conn = link.id();
        let xid = Xid::of(branch, self.hash);
        let (registration, is_new) = self
            .sessions
            .register(conn, xid.coordinator, xid.ordinal.epoch)
            .ok_or_else(|| XaError::new(XaErrorKind::Unavailable, "the system gives no random numbers"))?;
        let mut session = Session {
            link,
            xid,
            id: registration.id,
            timeouts: self.timeouts,
            database: self.database.clone(),
            is_mariadb: self.is_mariadb,
            puts_back: !C::RESETS_CONNECTIONS,
            only_reads: C::SEES_STATEMENTS,
            written_before: None,
        };
        if let Err(error) = session.begin(is_new.then_some(&registration), coordinator.as_str()).await {
            // The row may be gone, or may not have been written.
            self.sessions.unregister(registration.id);
            return Err(not_begun(error));
        }
        if is_new {
            self.sessions.registered(conn, registration);
        }
        Ok(session)
    }

    fn interrupter(&self, session: &Session<C::Link>) -> Xid {
        session.xid.clone()
    }

    async fn interrupt(&self, branch: Xid) {
        self.interrupt_session_of(&branch).await;
    }

    async fn prepare(&self, promise: &XaPromise, session: &mut Option<Session<C::Link>>) -> Result<XaVote, XaError> {
        let work = sound(session)?;
        if work.has_changed_nothing().await {
            let ended = work.commit_one_phase(false).await;
            return match ended {
                Ok(()) => {
                    give_back(session);
                    Ok(XaVote::ReadOnly)
                }
                Err(error) => Err(self.not_done(session, error).await),
            };
        }
        match work.prepare(promise.position).await {
            Ok(()) => Ok(XaVote::Promised),
            Err(error) => Err(self.not_done(session, error).await),
        }
    }

    async fn commit_one_phase(&self, _: &BranchId, session: &mut Option<Session<C::Link>>) -> Result<(), XaError> {
        let work = sound(session)?;
        let has_marker = !work.has_changed_nothing().await;
        match work.commit_one_phase(has_marker).await {
            Ok(()) => {
                give_back(session);
                Ok(())
            }
            Err(error) => Err(self.not_done(session, error).await),
        }
    }

    async fn rollback(&self, _: &BranchId, mut session: Session<C::Link>) {
        // If this fails, the connection is closed, and the server undoes the work.
        if session.undo().await.is_ok() {
            session.link.release();
        }
    }

    async fn commit_prepared(
        &self,
        promise: &XaPromise,
        session: &mut Option<Session<C::Link>>,
    ) -> Result<(), XaError> {
        self.end_promise("COMMIT", &promise.branch, session).await
    }

    async fn rollback_prepared(
        &self,
        promise: &XaPromise,
        session: &mut Option<Session<C::Link>>,
    ) -> Result<(), XaError> {
        self.end_promise("ROLLBACK", &promise.branch, session).await
    }

    async fn fence(&self, branch: &BranchId) -> Result<(), XaError> {
        self.end_session_of(&Xid::of(branch, self.hash)).await
    }

    async fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        self.end_earlier_sessions(coordinator, before).await
    }

    async fn outcome(&self, branch: &BranchId) -> Result<XaOutcome, XaError> {
        self.knows(branch.txn().coordinator());
        // Promises first: one that becomes a commit in between leaves its marker.
        let mut control = self.control().await?;
        let promises = self.promises_in(&mut control, branch.txn().coordinator()).await?;
        if let Some(promise) = promises.into_iter().find(|promise| &promise.branch == branch) {
            control.release();
            return Ok(XaOutcome::Promised(promise));
        }
        let marker = Xid::of(branch, self.hash).marker();
        let sql = format!("SELECT 1 FROM {}.ringpact_marker WHERE id = {marker}", self.database);
        let found = self.rows(&mut control, sql).await.map_err(unavailable)?;
        control.release();
        Ok(if found.is_empty() { XaOutcome::Unknown } else { XaOutcome::Committed })
    }

    async fn promises(&self, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        self.knows(coordinator);
        let mut control = self.control().await?;
        let promises = self.promises_in(&mut control, coordinator).await?;
        control.release();
        Ok(promises)
    }

    async fn prepared(&self) -> Result<Vec<Prepared>, XaError> {
        let mut control = self.control().await?;
        let found = self.recover(&mut control).await?;
        control.release();
        let coordinators = self.coordinators.lock();
        let prepared = |raw: &RawXid| {
            let own = raw.own().filter(|xid| xid.participant == self.hash);
            let mut prepared = Prepared::new(raw.to_string());
            prepared.is_own = own.is_some();
            prepared.branch = own.and_then(|xid| coordinators.iter().find_map(|name| xid.branch_of(name, &self.name)));
            prepared
        };
        let mut all: Vec<Prepared> = found.iter().map(prepared).collect();
        all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Ok(all)
    }

    async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        let raw: RawXid = id.parse().map_err(|error| XaError::new(XaErrorKind::Refused, error))?;
        let verb = match decision {
            Decision::Commit => "COMMIT",
            Decision::Rollback => "ROLLBACK",
        };
        self.end_from_control(verb, &raw).await
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        let sql = format!(
            "SELECT name, log, epoch, position, replaces, after_epoch, after_position \
             FROM {}.ringpact_coordinator WHERE participant = {}",
            self.database, self.hash
        );
        let mut control = self.control().await?;
        let rows = self.rows(&mut control, sql).await.map_err(unavailable)?;
        control.release();
        let mut lives = Vec::with_capacity(rows.len());
        for row in &rows {
            let (coordinator, life) = life(row).ok_or_else(|| {
                let name = row.text(0).unwrap_or_default();
                let text = format!("the row of \"{name}\" in ringpact_coordinator is damaged");
                XaError::new(XaErrorKind::Misconfigured, text)
            })?;
            self.knows(&coordinator);
            lives.push((coordinator, life));
        }
        Ok(lives)
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        self.knows(coordinator);
        let hex = |log: LogId| format!("X'{:032X}'", u128::from_be_bytes(log.to_bytes()));
        let table = format!("{}.ringpact_coordinator", self.database);
        let row = format!("participant = {} AND name = '{coordinator}'", self.hash);
        let is = |life: &Life| format!("(log = {} AND epoch = {})", hex(life.log), life.epoch);
        let (log, replaces) = (hex(life.log), hex(life.replaces));
        let (epoch, position) = (life.epoch, life.position);
        let (after_epoch, after_position) = (life.after.epoch, life.after.position);
        let sql = match before {
            None => format!(
                "INSERT IGNORE INTO {table} \
                 (participant, name, log, epoch, position, replaces, after_epoch, after_position) \
                 VALUES ({}, '{coordinator}', {log}, {epoch}, {position}, {replaces}, {after_epoch}, {after_position})",
                self.hash
            ),
            Some(before) => format!(
                "UPDATE {table} SET log = {log}, epoch = {epoch}, position = {position}, replaces = {replaces}, \
                 after_epoch = {after_epoch}, after_position = {after_position} WHERE {row} AND {}",
                is(before)
            ),
        };
        let mut control = self.control().await?;
        self.run(&mut control, sql).await.map_err(unavailable)?;
        let sql = format!("SELECT 1 FROM {table} WHERE {row} AND {}", is(life));
        let found = self.rows(&mut control, sql).await.map_err(unavailable)?;
        control.release();
        Ok(!found.is_empty())
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        let first = MarkerId::new(self.hash, NameHash::of(coordinator), TxnOrdinal::default());
        let end = MarkerId::new(self.hash, NameHash::of(coordinator), below);
        let table = format!("{}.ringpact_marker", self.database);
        let list =
            format!("SELECT id FROM {table} WHERE id >= {first} AND id < {end} ORDER BY id LIMIT {DELETED_AT_ONCE}");
        let mut control = self.control().await?;
        loop {
            let ids = self.rows(&mut control, list.clone()).await.map_err(unavailable)?;
            if ids.is_empty() {
                break;
            }
            // Row by row: a scan also locks the rows that it passes, among them those of promises.
            let mut delete = "START TRANSACTION;".to_owned();
            for id in ids.iter().filter_map(|row| MarkerId::from_bytes(row.bytes(0)?)) {
                let _infallible = write!(delete, "DELETE FROM {table} WHERE id = {id};");
            }
            delete.push_str("COMMIT");
            self.run(&mut control, delete).await.map_err(unavailable)?;
        }
        control.release();
        Ok(())
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        is_transient::<C>(error)
    }
}

impl<C: MySqlClient> MySqlBackend<C> {
    /// Returns the backend of the participant of this name, in the database that [`check`](super::check()) has found.
    pub fn new(name: Name, client: C, timeouts: BranchTimeouts, found: &Found) -> Self {
        Self {
            hash: NameHash::of_participant(&name, &found.database),
            name,
            database: super::check::quoted(&found.database),
            is_mariadb: found.is_mariadb,
            max_packet: found.max_packet,
            lists_promises: found.lists_promises,
            timeouts,
            client,
            sessions: Sessions::default(),
            coordinators: Mutex::default(),
        }
    }

    /// Takes in that there is a coordinator of this name.
    pub fn knows(&self, coordinator: &Name) {
        let mut coordinators = self.coordinators.lock();
        if !coordinators.contains(coordinator) {
            coordinators.insert(coordinator.clone());
        }
    }

    /// Returns a control connection.
    pub(crate) async fn control(&self) -> Result<C::Link, XaError> {
        connected(self.timeouts.statement, self.client.control()).await
    }

    /// Carries out a statement on a control connection.
    pub(crate) async fn run(&self, control: &mut C::Link, sql: String) -> Result<(), StatementFailure> {
        control.run(answer_within(&self.timeouts), sql).await
    }

    /// Carries out a query on a control connection.
    pub(crate) async fn rows(&self, control: &mut C::Link, sql: String) -> Result<Vec<ByteRow>, StatementFailure> {
        control.rows(answer_within(&self.timeouts), sql).await
    }

    /// Makes sure that a promise or a commit which the server has refused does not exist, and returns
    /// what to answer.
    async fn not_done(&self, session: &mut Option<Session<C::Link>>, error: StatementFailure) -> XaError {
        let Some(mut work) = session.take() else { return lost(error) };
        if error.is_lost() {
            return lost(error);
        }
        match work.undo().await {
            Ok(Undone::RolledBack) => {
                work.link.release();
                refused(error)
            }
            // Rolled back by the server, or ended by the statement in spite of its error.
            Ok(Undone::WasGone) if is_rolled_back(&error) => {
                work.link.release();
                refused(error)
            }
            Ok(Undone::WasGone) | Err(_) => lost(error),
        }
    }

    /// Ends a promise, on its own session if there is one.
    async fn end_promise(
        &self,
        verb: &str,
        branch: &BranchId,
        session: &mut Option<Session<C::Link>>,
    ) -> Result<(), XaError> {
        if let Some(work) = session.as_mut() {
            match work.end_promise(verb).await {
                Ok(()) => {
                    give_back(session);
                    return Ok(());
                }
                Err(error) if error.code == Some(code::XAER_RMERR) => {
                    return Err(XaError::new(XaErrorKind::Busy, error.source));
                }
                // What became of it is seen from outside.
                Err(_) => drop(session.take()),
            }
        }
        self.end_from_control(verb, &Xid::of(branch, self.hash).raw()).await
    }

    /// Ends a promise from a control connection. The session that has made it may have to be ended
    /// first: the promise stays.
    async fn end_from_control(&self, verb: &str, raw: &RawXid) -> Result<(), XaError> {
        let mut control = self.control().await?;
        let mut to_end = raw.own();
        loop {
            let Err(error) = self.run(&mut control, format!("XA {verb} {raw}")).await else { break };
            if error.code == Some(code::XAER_NOTA) {
                // That may mean that another session has it.
                if !self.recover(&mut control).await?.contains(raw) {
                    control.release();
                    return Err(XaError::new(XaErrorKind::NotThere, error.source));
                }
                let Some(xid) = to_end.take() else {
                    control.release();
                    return Err(XaError::new(XaErrorKind::Busy, error.source));
                };
                self.end_session(&mut control, &xid.lock()).await?;
            } else if is_rolled_back(&error) {
                control.release();
                return Err(XaError::new(XaErrorKind::NotThere, error.source));
            } else {
                return Err(unavailable(error));
            }
        }
        control.release();
        Ok(())
    }

    /// Returns all prepared transactions of the server.
    async fn recover(&self, control: &mut C::Link) -> Result<Vec<RawXid>, XaError> {
        if !self.lists_promises {
            return Ok(Vec::new());
        }
        let rows = self.rows(control, "XA RECOVER".to_owned()).await.map_err(unavailable)?;
        let raw =
            |row: &ByteRow| RawXid::of_row((row.number(0)?, row.number(1)?, row.number(2)?, row.bytes(3)?.to_vec()));
        Ok(rows.iter().filter_map(raw).collect())
    }

    async fn promises_in(&self, control: &mut C::Link, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        let found = self.recover(control).await?;
        let own = |raw: &RawXid| {
            let xid = raw.own().filter(|xid| xid.participant == self.hash)?;
            Some((xid.branch_of(coordinator, &self.name)?, xid.marker()))
        };
        let own: Vec<(BranchId, MarkerId)> = found.iter().filter_map(own).collect();
        if own.is_empty() {
            return Ok(Vec::new());
        }
        // The position is in the marker, which is not committed.
        let literals: Vec<String> = own.iter().map(|(_, marker)| marker.to_string()).collect();
        let dirty = "SET TRANSACTION ISOLATION LEVEL READ UNCOMMITTED".to_owned();
        self.run(control, dirty).await.map_err(unavailable)?;
        let sql =
            format!("SELECT id, position FROM {}.ringpact_marker WHERE id IN ({})", self.database, literals.join(","));
        let positions = self.rows(control, sql).await.map_err(unavailable)?;
        let promise = |(branch, marker): (BranchId, MarkerId)| {
            let row = positions.iter().find(|row| row.bytes(0) == Some(marker.as_bytes()));
            XaPromise::new(branch, row.and_then(|row| row.number(1)).unwrap_or(0))
        };
        Ok(own.into_iter().map(promise).collect())
    }
}

/// Waits for a connection, and gives up after this time.
pub(super) async fn connected<L>(
    within: Duration,
    connection: impl Future<Output = Result<L, StatementFailure>>,
) -> Result<L, XaError> {
    match timeout(within, connection).await {
        Ok(Ok(link)) => Ok(link),
        Ok(Err(error)) => Err(XaError::new(XaErrorKind::Unavailable, error.source)),
        Err(_) => {
            let text = format!(
                "no connection was free within {within:?}: branches have them, or the server does not answer; \
                 allow the pool more connections, or begin fewer transactions at once"
            );
            Err(XaError::new(XaErrorKind::Unavailable, text))
        }
    }
}

/// Reads a row of the coordinators.
fn life(row: &ByteRow) -> Option<(Name, Life)> {
    let log_id = |column| row.bytes(column)?.try_into().ok().map(LogId::from_bytes);
    let mut life = Life::new(log_id(1)?, Epoch::new(row.number(2)?), row.number(3)?);
    life.replaces = log_id(4)?;
    life.after = EndedOpening { epoch: Epoch::new(row.number(5)?), position: row.number(6)? };
    Some((Name::new(row.text(0)?).ok()?, life))
}

/// Returns the session, if all its statements were answered. Otherwise drops it: it has promised
/// nothing, and never will.
fn sound<L: MySqlLink>(session: &mut Option<Session<L>>) -> Result<&mut Session<L>, XaError> {
    if session.as_ref().is_some_and(|session| !session.link.is_sound()) {
        drop(session.take());
    }
    let closed = || XaError::new(XaErrorKind::Transient, "the branch's connection was lost before the promise");
    session.as_mut().ok_or_else(closed)
}

/// Gives a session back whose branch has ended.
fn give_back<L: MySqlLink>(session: &mut Option<Session<L>>) {
    if let Some(session) = session.take() {
        session.link.release();
    }
}

/// Whether the server says that it has rolled the branch back.
const fn is_rolled_back(error: &StatementFailure) -> bool {
    matches!(error.code, Some(code::XA_RBROLLBACK | code::XA_RBTIMEOUT | code::XA_RBDEADLOCK | code::LOCK_DEADLOCK))
}
