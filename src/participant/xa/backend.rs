//! What a database must be able to do: [`XaBackend`], and how its answers and errors are told apart.

use std::{error::Error as StdError, fmt, future::Future, sync::Arc, time::Duration};

use crate::{
    causes,
    id::{BranchId, Epoch, Name, TxnOrdinal},
    participant::{Decision, Life},
};

/// A database that can prepare. Implemented for a client library; [`XaParticipant`](super::XaParticipant) calls it and
/// does the rest.
///
/// Each method is one step, and may fail at any moment. The participant repeats the steps that it
/// must; so all of them but [`prepare`](Self::prepare) and
/// [`commit_one_phase`](Self::commit_one_phase) may be repeated, with the same effect. A future that
/// is dropped counts as lost on the way.
///
/// # The marker
///
/// A branch that changed something leaves a *marker*: a row that it writes in its own database
/// transaction, under the branch's id. The row exists exactly if the branch is committed. Only by it
/// can a repeated commit tell "committed already" from "lost". Markers are deleted by
/// [`forget_below`](Self::forget_below).
///
/// # The fence
///
/// A session whose connection is lost may live on in the server, with a statement under way. If that
/// statement is a *prepare*, a promise appears after the coordinator was told that there is none.
/// [`fence`](Self::fence) ends such sessions for certain, and returns when they are gone. For this
/// the server must know which session works for which branch, before [`prepare`](Self::prepare) or
/// [`commit_one_phase`](Self::commit_one_phase) sends anything to it. A session that it does not know yet
/// has promised nothing.
pub trait XaBackend: Send + Sync + 'static {
    /// A connection with the branch's transaction open in it, or its promise tied to it.
    ///
    /// If it is dropped, the connection must not be used for anything else, because the transaction
    /// may still be open.
    type Session: Send + 'static;

    /// What interrupts the statement that a session carries out.
    type Interrupt: Send + 'static;

    /// Takes a connection and begins the branch's transaction.
    fn begin(&self, branch: &BranchId) -> impl Future<Output = Result<Self::Session, XaError>> + Send;

    /// Returns what interrupts the session's statements while another task has the session.
    fn interrupter(&self, session: &Self::Session) -> Self::Interrupt;

    /// Interrupts the statement under way, if there is one. The best effort is enough.
    fn interrupt(&self, interrupt: Self::Interrupt) -> impl Future<Output = ()> + Send;

    /// Writes the marker and makes the promise, both durably. A branch that has changed nothing is
    /// ended instead, with [`XaVote::ReadOnly`].
    ///
    /// The session stays in `session` only if the promise is tied to it, or if nothing has happened
    /// and [`rollback`](Self::rollback) is to undo the work.
    ///
    /// # Errors
    ///
    /// [`XaErrorKind::Lost`] if the promise may exist, or may yet come into being. With all other
    /// kinds there is none and there never will be.
    fn prepare(
        &self,
        promise: &XaPromise,
        session: &mut Option<Self::Session>,
    ) -> impl Future<Output = Result<XaVote, XaError>> + Send;

    /// Writes the marker and commits, as the only branch of its transaction.
    ///
    /// # Errors
    ///
    /// As for [`prepare`](Self::prepare), about the commit.
    fn commit_one_phase(
        &self,
        branch: &BranchId,
        session: &mut Option<Self::Session>,
    ) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Undoes the work of a branch that has promised nothing. If that fails, the session is dropped,
    /// and the server undoes the work when it sees that the connection is closed.
    fn rollback(&self, branch: &BranchId, session: Self::Session) -> impl Future<Output = ()> + Send;

    /// Commits a promised branch, through the session that it is tied to, if there is one.
    ///
    /// # Errors
    ///
    /// [`XaErrorKind::NotThere`] if there is no such promise; [`XaErrorKind::Busy`] if another
    /// session has it.
    fn commit_prepared(
        &self,
        promise: &XaPromise,
        session: &mut Option<Self::Session>,
    ) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Rolls back a promised branch, through the session that it is tied to, if there is one.
    ///
    /// # Errors
    ///
    /// As for [`commit_prepared`](Self::commit_prepared).
    fn rollback_prepared(
        &self,
        promise: &XaPromise,
        session: &mut Option<Self::Session>,
    ) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Ends the session that works for the branch, also one of another process, and returns when it is
    /// gone.
    fn fence(&self, branch: &BranchId) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Ends all sessions that work for the coordinator's branches of earlier epochs, and returns when
    /// they are gone.
    fn fence_earlier(&self, coordinator: &Name, before: Epoch) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Returns what the database knows of the branch. A session that works for it may still change
    /// that; see [`fence`](Self::fence).
    fn outcome(&self, branch: &BranchId) -> impl Future<Output = Result<XaOutcome, XaError>> + Send;

    /// Returns the promises to this coordinator.
    fn promises(&self, coordinator: &Name) -> impl Future<Output = Result<Vec<XaPromise>, XaError>> + Send;

    /// Returns every prepared transaction in the database, also those of other programs.
    fn prepared(&self) -> impl Future<Output = Result<Vec<Prepared>, XaError>> + Send;

    /// Ends a prepared transaction by the id that the database has for it.
    fn settle(&self, id: &str, decision: Decision) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Returns the last life of each coordinator that was noted.
    fn lives(&self) -> impl Future<Output = Result<Vec<(Name, Life)>, XaError>> + Send;

    /// Notes durably which life of a coordinator was met, in the place of `before`, which has the same
    /// log id and epoch as the note that is there; `None` if there is none. Returns whether the life is
    /// noted now. If another note is there, the statement has no effect: it may come late, and other
    /// processes note lives, too. May be repeated.
    fn note_life(
        &self,
        coordinator: &Name,
        life: &Life,
        before: Option<&Life>,
    ) -> impl Future<Output = Result<bool, XaError>> + Send;

    /// Deletes the markers of the coordinator's branches below this transaction.
    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) -> impl Future<Output = Result<(), XaError>> + Send;

    /// Whether an error of the client library, or of this backend, may pass if the whole transaction
    /// is tried again: a deadlock, a serialization failure, a wait for a lock that took too long. The
    /// error may be a cause of the one that is passed.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        causes(error)
            .any(|cause| cause.downcast_ref::<XaError>().is_some_and(|error| error.kind() == XaErrorKind::Transient))
    }
}

/// A branch as it promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct XaPromise {
    /// The branch.
    pub branch: BranchId,
    /// How far the coordinator's log had come, as far as the participant had heard: see
    /// [`Life::position`]. The database keeps it with the promise, so that after a restart an older
    /// copy of that log is recognised.
    pub position: u64,
}

impl XaPromise {
    /// The promise of this branch at this position.
    #[must_use]
    pub const fn new(branch: BranchId, position: u64) -> Self {
        Self { branch, position }
    }
}

/// A database's answer to *prepare*. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a branch that can promise has changed something or has not")]
pub enum XaVote {
    /// The promise is durable.
    Promised,
    /// The branch has changed nothing, and is over.
    ReadOnly,
}

/// What a database knows of a branch. Exhaustive on purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the participant must act on each of them")]
pub enum XaOutcome {
    /// It has promised.
    Promised(XaPromise),
    /// Its marker is there.
    Committed,
    /// There is neither a promise nor a marker.
    Unknown,
}

/// A prepared transaction in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Prepared {
    /// The id that the database has for it.
    pub id: String,
    /// The branch, if the id is one of this library's and tells which.
    pub branch: Option<BranchId>,
    /// Whether it is one of this participant's branches.
    pub is_own: bool,
    /// Time since it was prepared, by the database's clock; `None` if the database does not say.
    pub age: Option<Duration>,
}

impl Prepared {
    /// A prepared transaction with this id, of which nothing else is known.
    #[must_use]
    pub const fn new(id: String) -> Self {
        Self { id, branch: None, is_own: false, age: None }
    }
}

/// The kind of a database's error: what the participant makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum XaErrorKind {
    /// The database refuses, and would refuse again: a violated constraint, something that can't be
    /// prepared.
    Refused,
    /// The database refuses, and may accept if all of the transaction is tried again.
    Transient,
    /// The connection was lost while the statement was under way. It may have its effect, or may
    /// still get it.
    Lost,
    /// There is no such promise.
    NotThere,
    /// Another session has the promise. The call is repeated.
    Busy,
    /// The database can't be reached; nothing was done. The call is repeated.
    Unavailable,
    /// The database, or the program, is set up in a way that can't work. The text says what to
    /// change.
    Misconfigured,
}

/// An error of a database, with its kind. Cheap to clone.
#[derive(Clone, Debug)]
pub struct XaError {
    kind: XaErrorKind,
    cause: Arc<dyn StdError + Send + Sync>,
}

impl XaError {
    /// An error of this kind, because of this cause.
    pub fn new(kind: XaErrorKind, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { kind, cause: Arc::from(cause.into()) }
    }

    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> XaErrorKind {
        self.kind
    }
}

impl fmt::Display for XaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            XaErrorKind::Refused => "the database refuses the branch",
            XaErrorKind::Transient => "the database refuses the branch now; the transaction may be tried again",
            XaErrorKind::Lost => "the connection to the database was lost in the middle of a statement",
            XaErrorKind::NotThere => "the database has no such prepared transaction",
            XaErrorKind::Busy => "another session has the prepared transaction; the call is repeated",
            XaErrorKind::Unavailable => "the database can't be reached",
            XaErrorKind::Misconfigured => "the database can't be used as it is set up",
        })
    }
}

impl StdError for XaError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.cause)
    }
}
