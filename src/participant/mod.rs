//! RESOURCE MANAGERS. The trait that a transaction's participants implement, and ready-made ones.
//!
//! [`Participant`] is what people implement who already have prepare, commit and rollback (a database, say). Most
//! services have something simpler, a *try*, a *confirm* and a *cancel*: they implement [`Service`], and
//! [`ResourceManager`] turns it into a durable participant.
//!
//! [`Endpoint`] is the seam through which a coordinator reaches participants of all kinds, in completion style; those
//! who write a transport implement it.
//!
//! [`conformance`] is the suite that every participant is held to; one of your own should pass it too.

use std::{error::Error as StdError, sync::Arc, time::Instant};

use thiserror::Error;

use crate::{
    id::{BranchId, Mark, Name},
    log::{LogError, LogId},
};

pub mod branch_protocol;
pub mod conformance;
mod endpoint;
mod pool;
mod resource_manager;
mod service;

pub use branch_protocol::{Branch, BranchAction, BranchInput, BranchProtocol, BranchReply, CommitVerb, Gate};
pub(crate) use endpoint::ReplySink;
pub use endpoint::{Endpoint, Inline, Reply, Request, Response, Verb};
pub use pool::Pooled;
pub use resource_manager::{
    DEFAULT_CHECKPOINT_EVERY, ExecuteError, MAX_REMEMBERED_OUTCOMES, OpenError, ResourceManager,
    ResourceManagerOptions, ResourceManagerStatus,
};
pub use service::{Effort, Service, ServiceError};

/// What a participant answers to *prepare*.
///
/// Exhaustive on purpose: whoever counts votes must handle all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vote {
    /// It promises to commit or roll back as it is told, whatever happens in between.
    Yes,
    /// Its branch changed nothing: it needs no second phase and has already forgotten the branch.
    ReadOnly,
    /// It has rolled back its branch and forgotten it; the transaction can't commit.
    No,
}

/// What becomes of a transaction. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decision {
    /// All of it happens.
    Commit,
    /// None of it happens.
    Rollback,
}

/// What a coordinator says along with every call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// The log in which the coordinator keeps its decisions. A participant whose own log is the same one need not
    /// force its records: the decision, which follows them in that log, takes them along.
    pub log: LogId,
    /// All of this coordinator's transactions before this mark have ended. A participant may forget their outcomes,
    /// and refuses work and prepares that arrive for them: they are stale.
    pub ended_below: Mark,
    /// When the coordinator stops waiting for the answer, where it does.
    pub deadline: Option<Instant>,
}

impl Call {
    /// A call by a coordinator that keeps its decisions in `log`, knows nothing to be ended, and waits for ever.
    #[must_use]
    pub const fn new(log: LogId) -> Self {
        Self { log, ended_below: Mark { epoch: crate::id::Epoch::new(0), sequence: 0 }, deadline: None }
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
    /// Any error counts as a No and brings a rollback.
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError>;

    /// Carries out the decision to commit; called only after a [`Vote::Yes`]. On return the effect, or the duty to
    /// bring it about, is durable; the coordinator may then forget the transaction.
    ///
    /// # Errors
    /// Any error has the call repeated, with back-off, until it succeeds.
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// Undoes the branch. May come before, instead of or while a prepare is under way, and for a branch that was
    /// never seen: it must then refuse whatever comes late for it. On return a promise in a log of its own must be
    /// *durably* void: the coordinator ends the transaction, and asks again what is in doubt only when it next opens.
    ///
    /// # Errors
    /// Any error has the call repeated, with back-off, until it succeeds.
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// The only participant of a transaction decides by itself. The default prepares and, on a yes, commits.
    ///
    /// # Errors
    /// Any error has the call repeated. An answer of [`Decision::Rollback`] says that nothing happened and nothing will.
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
}

/// Why a participant could not do what it was asked.
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
    /// The call can't apply to the branch's state any more: a late or duplicated message.
    #[error("a late message: the branch has moved on")]
    Stale,
    /// The branch names another participant.
    #[error("branch {branch} is not for this participant, {participant}; register it under its own name")]
    Misrouted {
        /// The branch as it came.
        branch: BranchId,
        /// Who got it.
        participant: Name,
    },
    /// Its log failed.
    #[error("the participant's log failed: {0}")]
    Log(#[from] LogError),
    /// The resource behind it failed.
    #[error("the participant's resource failed: {0}")]
    Resource(#[source] Arc<dyn StdError + Send + Sync>),
}

impl ParticipantError {
    /// Wraps the error of the resource behind a participant.
    pub fn resource(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Resource(Arc::from(error.into()))
    }
}
