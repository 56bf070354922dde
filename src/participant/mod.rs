//! RESOURCE MANAGERS. The trait that a transaction's participants implement, and ready-made ones.
//!
//! [`Participant`] is what people implement who already have prepare, commit and rollback (a database, say). Most
//! services have something simpler, a *try*, a *confirm* and a *cancel*: they implement [`Service`], and
//! [`ResourceManager`] turns it into a durable participant.
//!
//! [`Endpoint`] is the seam through which a coordinator reaches participants of all kinds, in completion style; those
//! who write a transport implement it, and have a wire form of everything that goes to and fro, by `serde`.
//!
//! [`conformance`] is the suite that every participant is held to; one of your own should pass it too.

use std::{error::Error as StdError, fmt, sync::Arc, time::Instant};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    exact,
    id::{BranchId, Epoch, Name, TxnOrdinal},
    log::{Heuristic, LogError, LogId},
};

pub mod branch_protocol;
mod caller_span;
pub mod conformance;
mod endpoint;
mod last_resource;
mod life;
mod pool;
mod resource_manager;
mod service;
#[cfg(feature = "tokio")]
mod tokio;
mod twins;
mod wire;

pub use branch_protocol::{
    BranchAction, BranchInput, BranchPhase, BranchProtocol, BranchReply, CommitVerb, LogSharing,
};
pub(crate) use caller_span::CallerSpan;
pub use endpoint::{Endpoint, Inline, Reply, Request, Response, Verb};
pub(crate) use endpoint::{ReplySink, call, call_about};
pub use last_resource::LastResource;
pub(crate) use last_resource::LastResourceParticipant;
pub use life::{Introduction, KnownLife, Life, LifeMismatch, Lives};
pub use pool::{MAX_QUEUED_REQUESTS, Pooled};
pub use resource_manager::{
    BranchRefusal, BranchTrouble, DEFAULT_ABANDON_AFTER, DEFAULT_CHECKPOINT_EVERY, ExecuteError, InDoubtResolution,
    MAX_REMEMBERED_OUTCOMES, MAX_WORK_BYTES, OpenError, ResourceManager, ResourceManagerOptions, ResourceManagerStatus,
};
pub use service::{Effort, Service, ServiceError};
#[cfg(feature = "tokio")]
pub use tokio::{AsyncParticipant, Spawned};

/// What a participant answers to *prepare*.
///
/// Exhaustive on purpose: whoever counts votes must handle all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Vote {
    /// It promises to commit or roll back as it is told, whatever happens in between.
    Yes,
    /// Its branch changed nothing: it needs no second phase and has already forgotten the branch.
    ReadOnly,
    /// It has rolled back its branch and forgotten it; the transaction can't commit. [`ParticipantError::Refused`] is the same
    /// with a reason.
    No,
}

/// What becomes of a transaction. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Decision {
    /// All of it happens.
    Commit,
    /// None of it happens.
    Rollback,
}

/// What a coordinator answers to a participant that asks what became of a branch. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The transaction is committed; the branch may be.
    Commit,
    /// The transaction is rolled back, or nobody knows of it, which comes to the same: *presumed abort*.
    Rollback,
    /// It is being decided; ask again, or wait to be told.
    Undecided,
}

/// Says who a coordinator is, before it sends anything else. It stays in the process: one that came late would have
/// transactions begin after it that have begun before.
#[derive(Clone)]
#[non_exhaustive]
pub struct Greeting {
    /// Its name.
    pub coordinator: Name,
    /// Which opening of which log it is. All transactions of its epoch begin after the greeting.
    pub life: Life,
    /// Where it can be asked for a [`Verdict`], with [`Request::Verdict`].
    pub verdicts: Arc<dyn Endpoint>,
}

impl Greeting {
    /// A coordinator's greeting.
    pub fn new(coordinator: Name, life: Life, verdicts: impl Endpoint) -> Self {
        Self { coordinator, life, verdicts: Arc::new(verdicts) }
    }
}

impl fmt::Debug for Greeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Greeting")
            .field("coordinator", &self.coordinator)
            .field("life", &self.life)
            .finish_non_exhaustive()
    }
}

/// What a coordinator says along with every call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Call {
    /// The [opening](crate::TransactionLog::opening) of the log in which the coordinator keeps its decisions. A participant
    /// whose own log is the same opening need not force its records: the decision, which follows them in that log, takes
    /// them along. [`LogId::NONE`] if the decision is in no log for certain, so that each participant forces its own
    /// records: that is so after a last resource had to be followed.
    pub log: LogId,
    /// The coordinator's epoch; zero where it does not say. A participant that has heard from a later one refuses the
    /// call: it is a message of an earlier life.
    pub epoch: Epoch,
    /// All of this coordinator's transactions before this mark have ended for this participant. It may forget their
    /// outcomes, and refuses work and prepares that arrive for them: they are stale.
    pub ended_below: TxnOrdinal,
    /// When the coordinator stops waiting for the answer, where it does: votes that come later count for nothing, and
    /// everything else is sent again. By this machine's own clock. Serialised, it is how much of the time is left just then,
    /// which begins to run when it is deserialised: so clocks need not agree, and the way between, where nobody measures,
    /// makes the time longer by as much as it takes.
    #[serde(with = "wire::time_left")]
    pub deadline: Option<Instant>,
    /// The id of the coordinator's log: together with the epoch it says which coordinator speaks, whatever its name.
    /// [`LogId::NONE`] if the call does not say. See [`Life`].
    #[serde(default)]
    pub identity: LogId,
    /// How far the coordinator's log is durable, at least; see [`Life::position`].
    #[serde(default, with = "exact::counter")]
    pub position: u64,
}

impl Call {
    /// A call by a coordinator that keeps its decisions in this opening of a log, knows nothing to be ended, waits forever,
    /// and does not say which life it is.
    #[must_use]
    pub const fn new(log: LogId) -> Self {
        let epoch = Epoch::new(0);
        let ended_below = TxnOrdinal { epoch, sequence: 0 };
        Self { log, epoch, ended_below, deadline: None, identity: LogId::NONE, position: 0 }
    }
}

/// Takes part in transactions: a database, a queue, a service with a [`ResourceManager`].
///
/// The coordinator calls; each method may block, and may be called from several threads at once, for one branch too
/// (a re-delivered commit while the first is still under way). Every call may be *repeated*, and must then have the
/// same answer and no second effect. A panic counts as [`ParticipantError::Panicked`].
pub trait Participant: Send + Sync + 'static {
    /// Asks for the vote. On [`Vote::Yes`] all that is needed to commit must be durable, unless the participant
    /// writes to the coordinator's own log (see [`Call::log`]). A branch that it does not know gets [`Vote::No`]: the
    /// work may have been lost in a crash.
    ///
    /// # Errors
    /// Any error counts as a No and brings a rollback. [`ParticipantError::Refused`] is a No with its reason, which the
    /// client is told: like [`Vote::No`] it says that the branch is rolled back and forgotten.
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError>;

    /// Carries out the decision to commit; called only after a [`Vote::Yes`]. On return the effect, or the duty to
    /// bring it about, is durable; the coordinator may then forget the transaction.
    ///
    /// # Errors
    /// [`UnknownBranch`](ParticipantError::UnknownBranch), [`AlreadyRolledBack`](ParticipantError::AlreadyRolledBack) and
    /// [`Heuristic`](ParticipantError::Heuristic) say that the branch has ended otherwise; the coordinator keeps that for
    /// an operator. Any other error has the call repeated, with back-off, until it succeeds or the
    /// [`Policy`](crate::Policy) parks the transaction.
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// Undoes the branch. May come before, instead of or while a prepare is under way, and for a branch that was
    /// never seen: it must then refuse whatever comes late for it. On return a promise in a log of its own must be
    /// *durably* void: the coordinator ends the transaction, and asks again what is in doubt only when it next opens.
    ///
    /// # Errors
    /// [`UnknownBranch`](ParticipantError::UnknownBranch) counts as done. [`AlreadyCommitted`](ParticipantError::AlreadyCommitted)
    /// and [`Heuristic`](ParticipantError::Heuristic) say that the branch has ended otherwise. Any other error has the call
    /// repeated, as for [`commit`](Self::commit).
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// The only participant of a transaction decides by itself. The default prepares and, on a yes, commits.
    ///
    /// # Errors
    /// [`ParticipantError::Refused`] is a [`Decision::Rollback`] with its reason: nothing happened and nothing will. Any other
    /// error has the call repeated.
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.prepare(branch, call)? {
            Vote::Yes => self.commit(branch, call).map(|()| Decision::Commit),
            Vote::ReadOnly => Ok(Decision::Commit),
            Vote::No => Ok(Decision::Rollback),
        }
    }

    /// Every branch of this coordinator's transactions that it has not finished: the prepared ones, and those still
    /// active. A coordinator that opens asks for them and settles those of earlier epochs.
    ///
    /// # Errors
    /// Any error has the call repeated, with back-off, until it succeeds.
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError>;

    /// A coordinator introduces itself, before it asks what is [in doubt](Self::in_doubt). A participant that has heard of
    /// another log under this name, or of more than this log holds, refuses: the coordinator would take promises for its
    /// own, or for undecided, that are not. It checks each [`Call`] likewise. [`Lives`] does both. Must not block. The
    /// default implementation accepts everything.
    ///
    /// # Errors
    /// [`ParticipantError::OtherLog`] and [`ParticipantError::Superseded`]: the coordinator does not open, or, if the
    /// participant is far away, shows the error in its status and settles nothing at this participant.
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        let _ = (coordinator, life);
        Ok(())
    }

    /// A coordinator of the same process has been opened, and says who it is. Transactions of its earlier epochs that the
    /// participant has not promised to can only be rolled back from here on. As provided it does nothing.
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }
}

impl<P: Participant + ?Sized> Participant for Arc<P> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        (**self).prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        (**self).commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        (**self).rollback(branch, call)
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        (**self).commit_one_phase(branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        (**self).in_doubt(coordinator)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        (**self).meet(coordinator, life)
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
}

/// Why a participant could not do what it was asked.
///
/// Serialised, what a [`Log`](Self::Log) or [`Resource`](Self::Resource) error and [its causes](crate::error_chain) have to
/// say goes as text, and arrives as a `Resource` error that says the same: a coordinator treats both alike. So does the
/// reason of a [`Refused`](Self::Refused). All others arrive as they were.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ParticipantError {
    /// No answer came: the participant is down, the message was lost, or the reply was dropped.
    #[error("the participant did not answer; the call is repeated until it does")]
    Unreachable,
    /// The participant panicked.
    #[error("the participant panicked; see its panic message, the call is repeated")]
    Panicked,
    /// It was told to commit a branch that it has never prepared, or whose records it has lost.
    #[error("the participant knows of no such prepared branch; check that it opened the log it promised in")]
    UnknownBranch,
    /// It was told to commit a branch that it has rolled back.
    #[error("the participant has already rolled this branch back")]
    AlreadyRolledBack,
    /// It was told to roll back a branch that it has committed.
    #[error("the participant has already committed this branch")]
    AlreadyCommitted,
    /// The branch has ended by itself, in this way: somebody has decided at the participant, without waiting for the
    /// coordinator. A participant that reports this goes on doing so each time it is told.
    #[error("the branch has ended by itself, outcome: {0}")]
    Heuristic(Heuristic),
    /// The request is for somebody else: one about a branch has come to a coordinator, or a question for a verdict to a
    /// participant, or to a coordinator that did not begin the transaction.
    #[error(
        "the request has come to the wrong place; route branches' requests to their participant, and questions for a verdict to the coordinator whose name and log they stem from"
    )]
    Misdirected,
    /// Something else is at this branch just now: a piece of work, or a message that came before. What was asked is not done.
    /// A rollback is remembered all the same: the branch takes no more work from here on, and promises nothing.
    #[error("the participant is in the middle of something else for this branch; the call is repeated")]
    Busy,
    /// It was not asked, because it does not answer others either. Only a coordinator says so, of what it has not sent.
    #[error("the participant does not answer, so it was not asked; see its circuit in the coordinator's status")]
    CircuitOpen,
    /// The call can't apply to the branch's state any more: a late or duplicated message.
    #[error("a late message: the branch has moved on")]
    Stale,
    /// The branch names another participant.
    #[error("branch {branch} is not for this participant, {participant}; register it under its own name")]
    Misrouted {
        /// The branch as it came.
        branch: Box<BranchId>,
        /// Who got it.
        participant: Name,
    },
    /// The coordinator decides in another log than the one that the participant knows under its name: another
    /// coordinator has the same name, or the coordinator has lost its log.
    #[error(
        "coordinator {} decides in log {}, but this participant knows that name by log {}; give one of the two coordinators \
         another name, or, if log {} is gone for good, open the coordinator with `replaces_log`",
        .0.coordinator, .0.came.log, .0.known.log, .0.known.log
    )]
    OtherLog(Box<LifeMismatch>),
    /// The participant has heard more of the coordinator's log than this message knows of: it comes from an earlier opening,
    /// or the log is an older copy.
    #[error(
        "this participant has heard from coordinator {} in {}, and this message is of {}; a coordinator that is still open \
         was opened again elsewhere: drop it; one that was just opened has an older copy of its log: open the newest log, \
         or, if that is gone for good, open this one with `log_was_restored`",
        .0.coordinator, .0.known, .0.came
    )]
    Superseded(Box<LifeMismatch>),
    /// Its log failed.
    #[error("the participant's log failed")]
    Log(#[from] LogError),
    /// The resource behind it failed.
    #[error("the participant's resource failed")]
    Resource(#[source] Arc<dyn StdError + Send + Sync>),
    /// It votes no, and this is why. Only for an answer to *prepare* and to a one-phase commit. The branch is rolled back
    /// and needs no further message. Of a [`ResourceManager`] the reason is a [`BranchRefusal`].
    #[error("the participant votes no and has rolled the branch back")]
    Refused(#[source] Arc<dyn StdError + Send + Sync>),
}

impl ParticipantError {
    /// Wraps the error of the resource behind a participant.
    pub fn resource(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Resource(Arc::from(error.into()))
    }

    /// A No with its reason; see [`Refused`](Self::Refused).
    pub fn refused(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Refused(Arc::from(reason.into()))
    }
}
