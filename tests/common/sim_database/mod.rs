//! A database in memory that can prepare, with sessions that live on when their connection is lost.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::Poll,
};

use fastrand::Rng;
use parking_lot::Mutex;
use ringpact::{
    BranchId, Epoch, Name, TxnOrdinal,
    participant::{
        Decision, Life,
        xa::{Prepared, XaBackend, XaError, XaErrorKind, XaOutcome, XaPromise, XaVote},
    },
};

/// A statement that may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Prepare,
    CommitOnePhase,
    Rollback,
    CommitPrepared,
    RollbackPrepared,
    Fence,
    Ask,
    NoteLife,
    Forget,
}

/// What becomes of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Answered,
    /// The connection is lost before the server has it.
    LostBefore,
    /// It is carried out, and the answer is lost.
    LostAfter,
    /// The connection is lost, and the server still carries it out, some time later.
    Late,
    /// The server refuses it.
    Refused,
    /// It is not carried out, and the caller waits until it gives up.
    Unanswered,
}

/// What the server has of a session.
#[derive(Debug, Default)]
struct Session {
    branch: Option<BranchId>,
    changes: u32,
    /// A statement that it still carries out, though no client waits for the answer.
    late: Option<Late>,
}

#[derive(Debug)]
enum Late {
    Prepare(XaPromise),
    Commit,
}

#[derive(Debug, Default)]
struct Tables {
    next_session: u64,
    sessions: BTreeMap<u64, Session>,
    promises: BTreeMap<BranchId, (XaPromise, u32)>,
    markers: BTreeSet<BranchId>,
    applied: BTreeMap<BranchId, u32>,
    lives: BTreeMap<Name, Life>,
    /// Notes of lives that the server still carries out.
    late_notes: Vec<(Name, Life, Option<Life>)>,
    /// What happens to the next statements of a kind, before chance decides.
    script: VecDeque<(Statement, Fate)>,
    chance: Option<Rng>,
    /// Statements that were carried out, for tests that count them.
    pub carried_out: Vec<Statement>,
    defect: Option<Defect>,
}

/// What is wrong with the database or its backend, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A fence returns before the session is gone.
    FencesNothing,
    /// Earlier lives' sessions are not ended before the promises are listed.
    LetsEarlierLivesGoOn,
    /// A branch leaves no marker.
    LeavesNoMarker,
    /// A lost statement is taken for one that was refused.
    TakesLostForRefused,
    /// A note of a life replaces whatever note is there.
    NotesBlindly,
    /// A last resource looks for the marker, and ends no session.
    AnswersWithoutAFence,
}

/// The database, and a backend for it. Clones share it, as connections share a server.
#[derive(Clone, Default)]
pub struct Database(Arc<Mutex<Tables>>);

/// A connection, with its session.
pub struct Connection {
    number: u64,
    database: Database,
}

impl Drop for Connection {
    /// The server notices that the connection is closed, once the statement under way is carried out.
    fn drop(&mut self) {
        let mut tables = self.database.0.lock();
        if tables.sessions.get(&self.number).is_some_and(|session| session.late.is_none()) {
            tables.sessions.remove(&self.number);
        }
    }
}

impl Connection {
    /// Does work that changes this many rows.
    pub fn change(&self, rows: u32) {
        let mut tables = self.database.0.lock();
        if let Some(session) = tables.sessions.get_mut(&self.number) {
            session.changes += rows;
        }
    }
}

impl Tables {
    fn finish(&mut self, number: u64) {
        let Some(session) = self.sessions.remove(&number) else { return };
        let Some(branch) = session.branch else { return };
        match session.late {
            Some(Late::Prepare(promise)) => drop(self.promises.insert(branch, (promise, session.changes))),
            Some(Late::Commit) => self.apply(branch, session.changes),
            None => {}
        }
    }

    /// Takes the promise out. Its position is part of the id that the database has for it.
    fn take(&mut self, promise: &XaPromise) -> Result<(XaPromise, u32), XaError> {
        match self.promises.get(&promise.branch) {
            Some((held, _)) if held == promise => Ok(self.promises.remove(&promise.branch).expect("it was found")),
            _ => Err(not_there()),
        }
    }

    /// Carries out the note of a life. Returns whether it is there now.
    fn note(&mut self, (coordinator, life, before): (Name, Life, Option<Life>)) -> bool {
        let identity = |life: &Life| (life.log, life.epoch);
        let found = self.lives.get(&coordinator).map(identity);
        let is_due = found == before.as_ref().map(identity) || found == Some(identity(&life));
        if is_due || self.defect == Some(Defect::NotesBlindly) {
            self.lives.insert(coordinator, life);
        }
        is_due
    }

    fn apply(&mut self, branch: BranchId, changes: u32) {
        if self.defect != Some(Defect::LeavesNoMarker) {
            self.markers.insert(branch.clone());
        }
        *self.applied.entry(branch).or_default() += changes;
    }

    fn flip(&mut self) -> bool {
        self.chance.as_mut().is_some_and(Rng::bool)
    }
}

fn lost() -> XaError {
    XaError::new(XaErrorKind::Lost, "the connection is gone")
}

fn unavailable() -> XaError {
    XaError::new(XaErrorKind::Unavailable, "no connection")
}

fn not_there() -> XaError {
    XaError::new(XaErrorKind::NotThere, "no such promise")
}

impl Database {
    pub fn with_defect(self, defect: Defect) -> Self {
        self.0.lock().defect = Some(defect);
        self
    }

    pub fn has(&self, defect: Defect) -> bool {
        self.0.lock().defect == Some(defect)
    }

    /// Lets chance decide what becomes of statements from here on; never with `None`.
    pub fn chance(&self, chance: Option<Rng>) {
        self.0.lock().chance = chance;
    }

    /// Decides what becomes of the next statement of this kind.
    pub fn next(&self, statement: Statement, fate: Fate) {
        self.0.lock().script.push_back((statement, fate));
    }

    pub fn count(&self, statement: Statement) -> usize {
        self.0.lock().carried_out.iter().filter(|carried_out| **carried_out == statement).count()
    }

    /// How often the branch's work was applied.
    pub fn applied(&self, branch: &BranchId) -> u32 {
        self.0.lock().applied.get(branch).copied().unwrap_or_default()
    }

    pub fn is_promised(&self, branch: &BranchId) -> bool {
        self.0.lock().promises.contains_key(branch)
    }

    pub fn has_marker(&self, branch: &BranchId) -> bool {
        self.0.lock().markers.contains(branch)
    }

    /// Whether some session has uncommitted work of the branch.
    pub fn is_worked_on(&self, branch: &BranchId) -> bool {
        let tables = self.0.lock();
        tables.sessions.values().any(|session| session.branch.as_ref() == Some(branch) && session.changes > 0)
    }

    /// All that servers do late is done now.
    pub fn time_passes(&self) {
        let mut tables = self.0.lock();
        let late: Vec<_> =
            tables.sessions.iter().filter(|(_, session)| session.late.is_some()).map(|(n, _)| *n).collect();
        late.into_iter().for_each(|number| tables.finish(number));
        for note in std::mem::take(&mut tables.late_notes) {
            tables.note(note);
        }
    }

    /// The server is stopped at once and started again: sessions are gone, promises stay.
    pub fn restart(&self) {
        self.0.lock().sessions.clear();
    }

    /// An operator ends a promise by hand, and leaves no trace.
    pub fn lose_promise(&self, branch: &BranchId) {
        self.0.lock().promises.remove(branch);
    }

    /// A statement is on its way for some time.
    async fn step(&self, statement: Statement) -> Fate {
        let (pauses, fate) = {
            let mut tables = self.0.lock();
            let scripted = tables.script.iter().position(|(next, _)| *next == statement);
            let scripted = scripted.and_then(|at| tables.script.remove(at)).map(|(_, fate)| fate);
            let drawn = tables.chance.as_mut().map(|chance| {
                let fate = match chance.u32(..40) {
                    0 => Fate::LostBefore,
                    1 | 2 => Fate::LostAfter,
                    3 | 4 => Fate::Late,
                    5 => Fate::Refused,
                    _ => Fate::Answered,
                };
                (chance.u32(..4), fate)
            });
            let (pauses, fate) = drawn.unwrap_or((0, Fate::Answered));
            (pauses, scripted.unwrap_or(fate))
        };
        for _ in 0..pauses {
            pause().await;
        }
        if fate == Fate::Unanswered {
            std::future::pending::<()>().await;
        }
        let mut tables = self.0.lock();
        if tables.chance.as_mut().is_some_and(|chance| chance.u32(..8) == 0) {
            let late = tables.sessions.iter().find(|(_, session)| session.late.is_some()).map(|(number, _)| *number);
            late.into_iter().for_each(|number| tables.finish(number));
            if let Some(note) = tables.late_notes.pop() {
                tables.note(note);
            }
        }
        tables.carried_out.push(statement);
        fate
    }

    /// Carries out a statement that has no session to lose.
    async fn plain<T>(
        &self,
        statement: Statement,
        does: impl FnOnce(&mut Tables) -> Result<T, XaError>,
    ) -> Result<T, XaError> {
        match self.step(statement).await {
            Fate::Answered => does(&mut self.0.lock()),
            Fate::Late | Fate::LostAfter => {
                // What it returns locks the tables when it is dropped.
                let unheard = does(&mut self.0.lock());
                drop(unheard);
                Err(XaError::new(XaErrorKind::Unavailable, "the answer is lost"))
            }
            Fate::LostBefore | Fate::Refused | Fate::Unanswered => {
                Err(XaError::new(XaErrorKind::Unavailable, "no connection"))
            }
        }
    }

    /// Ends what a session carries out: its late statement may come first.
    fn end_sessions(&self, which: impl Fn(&BranchId) -> bool) {
        let mut tables = self.0.lock();
        let found: Vec<_> = tables
            .sessions
            .iter()
            .filter(|(_, session)| session.branch.as_ref().is_some_and(&which))
            .map(|(number, _)| *number)
            .collect();
        for number in found {
            if tables.flip() {
                tables.finish(number);
            }
            tables.sessions.remove(&number);
        }
    }

    fn lost(&self) -> XaError {
        match self.0.lock().defect {
            Some(Defect::TakesLostForRefused) => XaError::new(XaErrorKind::Refused, "the connection is gone"),
            _ => lost(),
        }
    }

    /// Carries out a statement of a session, which may be lost with it.
    async fn of_session(
        &self,
        statement: Statement,
        session: &mut Option<Connection>,
        late: Late,
    ) -> Result<(), XaError> {
        let Some(connection) = session.take() else { return Err(XaError::new(XaErrorKind::Refused, "no session")) };
        let number = connection.number;
        match self.step(statement).await {
            Fate::Refused => {
                *session = Some(connection);
                Err(XaError::new(XaErrorKind::Refused, "a constraint is violated"))
            }
            Fate::LostBefore | Fate::Unanswered => Err(self.lost()),
            fate => {
                {
                    let mut tables = self.0.lock();
                    match tables.sessions.get_mut(&number) {
                        Some(session) => session.late = Some(late),
                        None => return Err(XaError::new(XaErrorKind::Refused, "the session was ended")),
                    }
                    if fate != Fate::Late {
                        tables.finish(number);
                    }
                }
                if fate == Fate::Answered { Ok(()) } else { Err(self.lost()) }
            }
        }
    }
}

/// Lets others run.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

impl XaBackend for Database {
    type Session = Connection;
    type Interrupt = ();

    async fn begin(&self, branch: &BranchId) -> Result<Connection, XaError> {
        self.plain(Statement::Begin, |tables| {
            tables.next_session += 1;
            let number = tables.next_session;
            tables.sessions.insert(number, Session { branch: Some(branch.clone()), ..Session::default() });
            Ok(Connection { number, database: self.clone() })
        })
        .await
    }

    fn interrupter(&self, _: &Connection) {}

    async fn interrupt(&self, (): ()) {}

    async fn prepare(&self, promise: &XaPromise, session: &mut Option<Connection>) -> Result<XaVote, XaError> {
        let number = session.as_ref().map(|connection| connection.number);
        let has_changed =
            number.is_some_and(|number| self.0.lock().sessions.get(&number).is_some_and(|session| session.changes > 0));
        if number.is_some() && !has_changed {
            *session = None;
            return Ok(XaVote::ReadOnly);
        }
        self.of_session(Statement::Prepare, session, Late::Prepare(promise.clone())).await?;
        Ok(XaVote::Promised)
    }

    async fn commit_one_phase(&self, _: &BranchId, session: &mut Option<Connection>) -> Result<(), XaError> {
        self.of_session(Statement::CommitOnePhase, session, Late::Commit).await
    }

    async fn rollback(&self, _: &BranchId, session: Connection) {
        if self.step(Statement::Rollback).await == Fate::Answered {
            self.0.lock().sessions.remove(&session.number);
        }
    }

    async fn commit_prepared(&self, promise: &XaPromise, _: &mut Option<Connection>) -> Result<(), XaError> {
        self.plain(Statement::CommitPrepared, |tables| {
            let (_, changes) = tables.take(promise)?;
            tables.apply(promise.branch.clone(), changes);
            Ok(())
        })
        .await
    }

    async fn rollback_prepared(&self, promise: &XaPromise, _: &mut Option<Connection>) -> Result<(), XaError> {
        self.plain(Statement::RollbackPrepared, |tables| tables.take(promise).map(drop)).await
    }

    async fn fence(&self, branch: &BranchId) -> Result<(), XaError> {
        self.plain(Statement::Fence, |_| Ok(())).await?;
        if self.0.lock().defect != Some(Defect::FencesNothing) {
            self.end_sessions(|other| other == branch);
        }
        Ok(())
    }

    async fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> Result<(), XaError> {
        self.plain(Statement::Fence, |_| Ok(())).await?;
        if self.0.lock().defect != Some(Defect::LetsEarlierLivesGoOn) {
            self.end_sessions(|other| other.txn().coordinator() == coordinator && other.txn().epoch() < before);
        }
        Ok(())
    }

    async fn outcome(&self, branch: &BranchId) -> Result<XaOutcome, XaError> {
        self.plain(Statement::Ask, |tables| {
            Ok(match tables.promises.get(branch) {
                Some((promise, _)) => XaOutcome::Promised(promise.clone()),
                None if tables.markers.contains(branch) => XaOutcome::Committed,
                None => XaOutcome::Unknown,
            })
        })
        .await
    }

    async fn promises(&self, coordinator: &Name) -> Result<Vec<XaPromise>, XaError> {
        self.plain(Statement::Ask, |tables| {
            let all = tables.promises.values().map(|(promise, _)| promise.clone());
            Ok(all.filter(|promise| promise.branch.txn().coordinator() == coordinator).collect())
        })
        .await
    }

    async fn prepared(&self) -> Result<Vec<Prepared>, XaError> {
        self.plain(Statement::Ask, |tables| {
            let as_listed = |branch: &BranchId| {
                let mut prepared = Prepared::new(branch.to_string());
                (prepared.branch, prepared.is_own) = (Some(branch.clone()), true);
                prepared
            };
            Ok(tables.promises.keys().map(as_listed).collect())
        })
        .await
    }

    async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        self.plain(Statement::CommitPrepared, |tables| {
            let branch: BranchId = id.parse().map_err(|_| not_there())?;
            let (_, changes) = tables.promises.remove(&branch).ok_or_else(not_there)?;
            if decision == Decision::Commit {
                tables.apply(branch, changes);
            }
            Ok(())
        })
        .await
    }

    async fn lives(&self) -> Result<Vec<(Name, Life)>, XaError> {
        self.plain(Statement::Ask, |tables| Ok(tables.lives.clone().into_iter().collect())).await
    }

    async fn note_life(&self, coordinator: &Name, life: &Life, before: Option<&Life>) -> Result<bool, XaError> {
        let note = (coordinator.clone(), *life, before.copied());
        match self.step(Statement::NoteLife).await {
            Fate::LostBefore | Fate::Refused => Err(unavailable()),
            Fate::Late => {
                self.0.lock().late_notes.push(note);
                Err(unavailable())
            }
            fate => {
                let is_noted = self.0.lock().note(note);
                if fate == Fate::Answered { Ok(is_noted) } else { Err(unavailable()) }
            }
        }
    }

    async fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> Result<(), XaError> {
        self.plain(Statement::Forget, |tables| {
            tables
                .markers
                .retain(|branch| branch.txn().coordinator() != coordinator || branch.txn().ordinal() >= below);
            Ok(())
        })
        .await
    }
}
