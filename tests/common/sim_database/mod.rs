//! A database in memory that can prepare, with sessions that live on when their connection is lost.
//!
//! What becomes of a statement is scripted by a test, drawn by chance, or decided by a [`Way`]: in the
//! simulated world statements take time.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
};

use fastrand::Rng;
use parking_lot::Mutex;
use ringpact::{
    BranchId, Name,
    participant::{
        Life,
        xa::{XaError, XaErrorKind, XaPromise, XaVote},
    },
};

mod backend;

/// A statement that may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statement {
    Begin,
    Work,
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
    /// The server says that there is no such promise, because another session still has it.
    Denied,
}

/// How a process's statements reach the server, and the answers the process.
pub trait Way: Send + Sync {
    /// Takes a statement to the server. Returns what becomes of it there.
    fn go(&self, statement: Statement) -> Step<'_, Fate>;

    /// Takes the answer back. Returns whether it arrives.
    fn come_back(&self, statement: Statement) -> Step<'_, bool>;

    /// Has the server do this some time later.
    fn later(&self, does: Box<dyn FnOnce() + Send>);

    /// Whether the first of two things happens that are as likely as each other.
    fn flip(&self) -> bool;
}

pub type Step<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a branch changes.
pub trait Row: Clone + fmt::Debug + Send + 'static {}

impl<W: Clone + fmt::Debug + Send + 'static> Row for W {}

/// What the server has of a session.
#[derive(Debug)]
struct Session<W> {
    branch: BranchId,
    changes: Vec<W>,
    /// A statement that it still carries out, though no client waits for the answer.
    late: Option<Late>,
    /// Whether no statement came since the server last looked.
    is_idle: bool,
}

#[derive(Clone, Debug)]
enum Late {
    Prepare(XaPromise),
    Commit,
}

#[derive(Debug)]
struct Tables<W> {
    next_session: u64,
    sessions: BTreeMap<u64, Session<W>>,
    promises: BTreeMap<BranchId, (XaPromise, Vec<W>)>,
    /// Promises that the server has, and neither lists nor ends yet.
    unlisted: BTreeSet<BranchId>,
    markers: BTreeSet<BranchId>,
    applied: BTreeMap<BranchId, Vec<W>>,
    lives: BTreeMap<Name, Life>,
    /// Notes of lives that the server still carries out.
    late_notes: Vec<Note>,
    /// What happens to the next statements of a kind, before chance decides.
    script: VecDeque<(Statement, Fate)>,
    chance: Option<Rng>,
    /// Statements that were carried out, for tests that count them.
    carried_out: Vec<Statement>,
    defect: Option<Defect>,
    server: Server,
    /// Number of times that the server was started.
    starts: u64,
}

/// What a server is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Down,
    /// It answers, and does not know all promises yet.
    Recovering,
    Up,
}

/// A coordinator's name, its life, and the life in whose place that is noted.
type Note = (Name, Life, Option<Life>);

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
    /// A promise that is not there to be committed is taken for committed, whether its marker is there or not.
    BelievesWhatIsNotThere,
    /// The promises that a server knows after a restart are taken for all that there are.
    BelievesLateLists,
}

/// The database, and a backend for it. Clones share it, as connections share a server.
pub struct Database<W = u32> {
    tables: Arc<Mutex<Tables<W>>>,
    way: Option<Arc<dyn Way>>,
}

/// A connection, with its session.
pub struct Connection<W = u32> {
    number: u64,
    database: Database<W>,
}

impl<W> Drop for Connection<W> {
    /// The server notices that the connection is closed, once the statement under way is carried out.
    fn drop(&mut self) {
        let mut tables = self.database.tables.lock();
        if tables.sessions.get(&self.number).is_some_and(|session| session.late.is_none()) {
            tables.sessions.remove(&self.number);
        }
    }
}

impl<W: Row> Connection<W> {
    /// Does work that changes this, at once.
    pub fn change(&self, work: W) {
        let mut tables = self.database.tables.lock();
        if let Some(session) = tables.sessions.get_mut(&self.number) {
            session.changes.push(work);
        }
    }

    /// Has the server do work. `does` looks at all that is changed, committed or not, and says what the work changes.
    ///
    /// # Errors
    ///
    /// Those of the database. The branch has lost its session then, or can only vote No.
    pub async fn work<E: Send>(
        &self,
        does: impl FnOnce(&[W]) -> Result<Option<W>, E> + Send,
    ) -> Result<Result<(), E>, XaError> {
        let worked = match self.database.step(Statement::Work).await {
            Fate::Answered => {
                let mut tables = self.database.tables.lock();
                let taken = tables.all_changes();
                match tables.sessions.get_mut(&self.number) {
                    None => Err(XaError::new(XaErrorKind::Refused, "the session was ended")),
                    Some(session) => {
                        session.is_idle = false;
                        Ok(does(&taken).map(|change| session.changes.extend(change)))
                    }
                }
            }
            Fate::Refused => Err(XaError::new(XaErrorKind::Transient, "a deadlock")),
            // What it has changed is undone with the session.
            _ => {
                self.database.tables.lock().sessions.remove(&self.number);
                Err(lost())
            }
        };
        if !self.database.is_answered(Statement::Work).await {
            self.database.tables.lock().sessions.remove(&self.number);
            return Err(lost());
        }
        worked
    }
}

impl<W: Row> Tables<W> {
    /// Ends the session, with what it still carries out. Returns its vote, if that was a promise or a commit.
    fn finish(&mut self, number: u64) -> Option<XaVote> {
        let Session { branch, changes, late, .. } = self.sessions.remove(&number)?;
        match late? {
            Late::Prepare(_) if changes.is_empty() => return Some(XaVote::ReadOnly),
            Late::Prepare(promise) => drop(self.promises.insert(branch, (promise, changes))),
            Late::Commit => self.apply(branch, changes),
        }
        Some(XaVote::Promised)
    }

    /// Takes the promise out. Its position is part of the id that the database has for it.
    fn take(&mut self, promise: &XaPromise) -> Result<(XaPromise, Vec<W>), XaError> {
        match self.promises.get(&promise.branch) {
            Some((held, _)) if held == promise && !self.unlisted.contains(&promise.branch) => {
                Ok(self.promises.remove(&promise.branch).expect("it was found"))
            }
            _ => Err(not_there()),
        }
    }

    /// Carries out the note of a life. Returns whether it is there now.
    fn note(&mut self, (coordinator, life, before): Note) -> bool {
        let identity = |life: &Life| (life.log, life.epoch);
        let found = self.lives.get(&coordinator).map(identity);
        let is_due = found == before.as_ref().map(identity) || found == Some(identity(&life));
        if is_due || self.defect == Some(Defect::NotesBlindly) {
            self.lives.insert(coordinator, life);
        }
        is_due
    }

    fn apply(&mut self, branch: BranchId, changes: Vec<W>) {
        if self.defect != Some(Defect::LeavesNoMarker) {
            self.markers.insert(branch.clone());
        }
        self.applied.entry(branch).or_default().extend(changes);
    }

    /// Ends sessions: the late statement of one may come first.
    fn end_sessions(&mut self, way: Option<&dyn Way>, which: impl Fn(&BranchId) -> bool) {
        let found = self.sessions.iter().filter(|(_, session)| which(&session.branch)).map(|(number, _)| *number);
        for number in found.collect::<Vec<_>>() {
            let comes_first = match (way, &mut self.chance) {
                (Some(way), _) => way.flip(),
                (None, chance) => chance.as_mut().is_some_and(Rng::bool),
            };
            if comes_first {
                self.finish(number);
            }
            self.sessions.remove(&number);
        }
        // Where a session was torn down, its promise is free now. After a restart it takes more than that.
        if self.server == Server::Up {
            self.unlisted.retain(|branch| !which(branch));
        }
    }

    fn all_changes(&self) -> Vec<W> {
        let promised = self.promises.values().flat_map(|(_, changes)| changes);
        let changed = self.sessions.values().flat_map(|session| &session.changes);
        self.applied.values().flatten().chain(promised).chain(changed).cloned().collect()
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

impl<W: Row> Default for Database<W> {
    fn default() -> Self {
        let tables = Tables {
            next_session: 0,
            sessions: BTreeMap::new(),
            promises: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            markers: BTreeSet::new(),
            applied: BTreeMap::new(),
            lives: BTreeMap::new(),
            late_notes: Vec::new(),
            script: VecDeque::new(),
            chance: None,
            carried_out: Vec::new(),
            defect: None,
            server: Server::Up,
            starts: 0,
        };
        Self { tables: Arc::new(Mutex::new(tables)), way: None }
    }
}

impl<W> Clone for Database<W> {
    fn clone(&self) -> Self {
        Self { tables: Arc::clone(&self.tables), way: self.way.clone() }
    }
}

/// What tests and the world do to the database, and see of it.
impl<W: Row> Database<W> {
    /// The same database, as it is reached this way.
    pub fn reached_by(&self, way: impl Way + 'static) -> Self {
        Self { way: Some(Arc::new(way)), ..self.clone() }
    }

    pub fn with_defect(self, defect: Defect) -> Self {
        self.tables.lock().defect = Some(defect);
        self
    }

    pub fn has(&self, defect: Defect) -> bool {
        self.tables.lock().defect == Some(defect)
    }

    /// Lets chance decide what becomes of statements from here on; never with `None`.
    pub fn chance(&self, chance: Option<Rng>) {
        self.tables.lock().chance = chance;
    }

    /// Decides what becomes of the next statement of this kind.
    pub fn next(&self, statement: Statement, fate: Fate) {
        self.tables.lock().script.push_back((statement, fate));
    }

    pub fn count(&self, statement: Statement) -> usize {
        self.tables.lock().carried_out.iter().filter(|carried_out| **carried_out == statement).count()
    }

    /// How many changes of the branch were applied.
    pub fn applied(&self, branch: &BranchId) -> u32 {
        self.tables.lock().applied.get(branch).map_or(0, |changes| changes.len() as u32)
    }

    /// All changes that were applied.
    pub fn all_applied(&self) -> BTreeMap<BranchId, Vec<W>> {
        let applied = self.tables.lock().applied.clone();
        applied.into_iter().filter(|(_, changes)| !changes.is_empty()).collect()
    }

    pub fn is_promised(&self, branch: &BranchId) -> bool {
        self.tables.lock().promises.contains_key(branch)
    }

    /// The branches that have promised.
    pub fn promised(&self) -> Vec<BranchId> {
        self.tables.lock().promises.keys().cloned().collect()
    }

    pub fn has_marker(&self, branch: &BranchId) -> bool {
        self.tables.lock().markers.contains(branch)
    }

    /// Whether some session has uncommitted work of the branch.
    pub fn is_worked_on(&self, branch: &BranchId) -> bool {
        self.worked_on().contains(branch)
    }

    /// The branches of which some session has uncommitted work.
    pub fn worked_on(&self) -> BTreeSet<BranchId> {
        let tables = self.tables.lock();
        let at_work = tables.sessions.values().filter(|session| !session.changes.is_empty());
        at_work.map(|session| session.branch.clone()).collect()
    }

    /// All that servers do late is done now.
    pub fn time_passes(&self) {
        let mut tables = self.tables.lock();
        let late: Vec<_> =
            tables.sessions.iter().filter(|(_, session)| session.late.is_some()).map(|(n, _)| *n).collect();
        for number in late {
            tables.finish(number);
        }
        for note in std::mem::take(&mut tables.late_notes) {
            tables.note(note);
        }
    }

    /// The server is stopped at once and started again: sessions are gone, promises stay.
    pub fn restart(&self) {
        self.tables.lock().sessions.clear();
    }

    /// The server is stopped at once.
    pub fn stop(&self) {
        let mut tables = self.tables.lock();
        tables.sessions.clear();
        tables.server = Server::Down;
    }

    /// The server is started again. It finds only some of the promises at first: those that `finds` says.
    pub fn start(&self, finds: impl Fn() -> bool) {
        let mut tables = self.tables.lock();
        let unlisted = tables.promises.keys().filter(|_| !finds()).cloned().collect();
        (tables.unlisted, tables.server) = (unlisted, Server::Recovering);
        tables.starts += 1;
    }

    /// The server has found all promises.
    pub fn recover(&self) {
        let mut tables = self.tables.lock();
        if tables.server == Server::Recovering {
            tables.unlisted.clear();
            tables.server = Server::Up;
        }
    }

    pub fn is_down(&self) -> bool {
        self.tables.lock().server == Server::Down
    }

    /// The server ends sessions of which it has heard nothing since it did this last: its time-out for idle transactions.
    pub fn end_idle(&self) {
        let mut tables = self.tables.lock();
        tables.sessions.retain(|_, session| session.late.is_some() || !std::mem::replace(&mut session.is_idle, true));
    }

    /// An operator ends a promise by hand, and leaves no trace.
    pub fn lose_promise(&self, branch: &BranchId) {
        self.tables.lock().promises.remove(branch);
    }
}
