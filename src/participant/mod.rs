//! RESOURCE MANAGERS. The trait that a transaction's participants implement, and ready-made ones.
//!
//! Implement [`Participant`] if you already have prepare, commit and rollback, for example in a
//! database. Most services have something simpler: a *try*, a *confirm* and a *cancel*. They
//! implement [`Service`], and [`ResourceManager`] makes a durable participant of them.
//!
//! [`Endpoint`] is the seam through which a coordinator reaches participants of all kinds.
//! Implement it to write a transport: everything that goes through it has a wire form, by `serde`.
//!
//! [`conformance`] is the suite that every participant must pass. Your own should pass it too.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | [`Participant`], what a coordinator says to it ([`Call`], [`Greeting`]), and its errors |
//! | `service.rs` | [`Service`]: try, confirm, cancel |
//! | `branch_protocol.rs` | [`BranchProtocol`]: what a branch does at each message, pure |
//! | `branch_table/` | which branches and coordinators a participant remembers, and for how long |
//! | `answers.rs` | the protocol's replies as a participant's answers |
//! | `resource_manager/` | [`ResourceManager`]: carries out what the protocol decides |
//! | `life.rs` | [`Life`]: which coordinator speaks, and whether it is the one known by that name; pure |
//! | `life_notes.rs` | which lives a participant has noted in its database |
//! | `last_resource.rs` | [`LastResource`]: a resource that can't promise |
//! | `async_last_resource.rs` | the same with asynchronous methods |
//! | `endpoint.rs` | [`Endpoint`], and calls on the sender's own thread |
//! | `pool.rs` | [`Pooled`]: calls on threads of the participant's own |
//! | `tokio.rs` | participants whose methods are asynchronous, each call a task |
//! | `xa/` | participants that keep their data in a database which can prepare |
//! | `tables/` | services that keep their reservations in a database's tables |
//! | `duplicates.rs` | requests for the same as one that is under way |
//! | `wire.rs` | deadlines and errors as they are serialised |
//! | `caller_span.rs` | the caller's `tracing` span on the thread that carries a request out |
//! | `conformance/` | the suite |

#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs, missing_debug_implementations)]

use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    exact,
    id::{BranchId, Epoch, Name, TxnOrdinal},
    log::{Heuristic, LogError, LogId},
};

mod answers;
#[cfg(feature = "tokio")]
mod async_last_resource;
pub mod branch_protocol;
mod branch_table;
mod caller_span;
pub mod conformance;
mod duplicates;
mod endpoint;
mod last_resource;
mod life;
#[cfg(feature = "tokio")]
mod life_notes;
mod pool;
mod resource_manager;
mod service;
#[cfg(feature = "tokio")]
pub mod tables;
#[cfg(feature = "tokio")]
mod tokio;
mod wire;
#[cfg(feature = "tokio")]
pub mod xa;

#[cfg(feature = "tokio")]
pub use async_last_resource::AsyncLastResource;
#[cfg(feature = "tokio")]
pub(crate) use async_last_resource::AsyncLastResourceParticipant;
pub use branch_protocol::{
    BranchAction, BranchInput, BranchPhase, BranchProtocol, BranchReply, CommitVerb, LogSharing,
};
pub use branch_table::MAX_REMEMBERED_OUTCOMES;
pub(crate) use caller_span::CallerSpan;
pub use endpoint::{Endpoint, Inline, Reply, Request, Response, Verb};
pub(crate) use endpoint::{ReplySink, call, call_about};
pub(crate) use last_resource::{CommitAnswer, LastResourceMemory, LastResourceParticipant};
pub use last_resource::{CommitMemory, LastResource, LastResourceAnswer};
#[cfg(feature = "tokio")]
pub(crate) use last_resource::{CommitQuery, CommitReply};
pub use life::{EndedOpening, Introduction, KnownLife, Life, LifeMismatch, Lives};
pub use pool::{MAX_QUEUED_REQUESTS, Pooled};
pub use resource_manager::{
    BranchRefusal, BranchTrouble, DEFAULT_ABANDON_AFTER, DEFAULT_CHECKPOINT_EVERY, ExecuteError, InDoubtResolution,
    MAX_WORK_BYTES, OpenError, ResourceManager, ResourceManagerOptions, ResourceManagerStatus,
};
pub use service::{Effort, Service, ServiceError};
#[cfg(feature = "tokio")]
pub use tokio::{AsyncParticipant, Spawned};
pub use wire::MAX_ERROR_TEXT_BYTES;
pub(crate) use wire::{RefusedForNow, cut};

/// A participant's answer to *prepare*.
///
/// Exhaustive on purpose: code that counts votes must handle each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "the protocol has these votes and no others")]
pub enum Vote {
    /// The participant promises to commit or roll back as it is told, whatever happens in between.
    Yes,
    /// The branch changed nothing: it needs no second phase, and the participant has forgotten it.
    ReadOnly,
    /// The participant has rolled its branch back and forgotten it; the transaction can't commit.
    /// [`ParticipantError::Refused`] is the same with a reason.
    No,
}

/// What becomes of a transaction. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "a transaction ends in one of two ways")]
pub enum Decision {
    /// All of it happens.
    Commit,
    /// None of it happens.
    Rollback,
}

/// A coordinator's answer to a participant that asks what became of a branch. Exhaustive on
/// purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "a participant must act on each of them")]
pub enum Verdict {
    /// The transaction is committed, so the branch is to commit.
    Commit,
    /// The transaction is rolled back. The coordinator says the same of a transaction that it does
    /// not know: *presumed abort*.
    Rollback,
    /// The transaction is being decided: ask again later, or wait to be told.
    Undecided,
}

/// A coordinator's introduction to the participants of its own process, sent before anything else.
/// Clones share the endpoint.
///
/// It never leaves the process. A greeting that came late over a network would let the participant
/// take older transactions for new ones.
#[derive(Clone)]
#[non_exhaustive]
pub struct Greeting {
    /// The coordinator's name.
    pub coordinator: Name,
    /// The opening of its log. All transactions of the epoch begin after the greeting.
    pub life: Life,
    /// The endpoint that answers [`Request::Verdict`] for this coordinator.
    pub verdicts: Arc<dyn Endpoint>,
    /// The earlier openings of its log, in the order of their epochs.
    earlier: Vec<EndedOpening>,
}

impl Greeting {
    /// A greeting of the coordinator of this name and life, which answers questions at `verdicts`.
    pub fn new(coordinator: Name, life: Life, verdicts: impl Endpoint) -> Self {
        Self { coordinator, life, verdicts: Arc::new(verdicts), earlier: Vec::new() }
    }

    /// Returns this greeting, of a coordinator whose log had these openings before, in the order of
    /// their epochs.
    #[must_use]
    pub(crate) fn with_earlier(self, earlier: Vec<EndedOpening>) -> Self {
        Self { earlier, ..self }
    }

    /// Returns the life to tell a participant that has last heard of this epoch.
    pub(crate) fn life_after(&self, epoch: Epoch) -> Life {
        if self.life.replaces == self.life.log && self.life.epoch != epoch {
            // An operator said so: it takes the place of whichever opening is known.
            return self.life.continuing(EndedOpening { epoch, position: 0 });
        }
        let place = self.earlier.binary_search_by_key(&epoch, |ended| ended.epoch);
        place.map_or(self.life, |place| self.life.continuing(self.earlier[place]))
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
    /// The [opening](crate::TransactionLog::opening) of the log in which the coordinator keeps its
    /// decisions.
    ///
    /// A participant whose own log is the same opening need not force its records: the decision
    /// follows them in that log and takes them along. [`LogId::NONE`] if it is not certain that the
    /// decision is in any log; each participant then forces its own records. That is so once the
    /// coordinator had to follow a last resource.
    pub log: LogId,
    /// The coordinator's epoch, or zero if the call does not say. A participant that has heard of a
    /// later epoch refuses the call as a message of an earlier life.
    pub epoch: Epoch,
    /// All of this coordinator's transactions below this one have ended for this participant.
    ///
    /// The participant may forget their outcomes. It refuses work and prepares that arrive for
    /// them, because these are late.
    pub ended_below: TxnOrdinal,
    /// The moment at which the coordinator stops waiting for the answer, if there is one, by this
    /// machine's own clock. A vote that comes later does not count; everything else is sent again.
    ///
    /// Serialised, it is the time that is left at that moment; the time runs again from
    /// deserialisation on. So clocks need not agree. Nothing measures the time on the way, so the
    /// deadline is later by that time.
    #[serde(with = "wire::time_left")]
    pub deadline: Option<Instant>,
    /// The id of the coordinator's log, or [`LogId::NONE`] if the call does not say. Together with
    /// the epoch it tells which coordinator speaks, whatever its name; see [`Life`].
    #[serde(default)]
    pub identity: LogId,
    /// Number of records of the coordinator's log that are durable, at least; see
    /// [`Life::position`].
    #[serde(default, with = "exact::counter")]
    pub position: u64,
    /// The earlier opening of its log that the coordinator continues; see [`Life::after`].
    #[serde(default)]
    pub after: EndedOpening,
}

impl Call {
    /// A call by a coordinator that keeps its decisions in this opening of a log. It says of no
    /// transaction that it has ended, has no deadline, and does not name its life.
    #[must_use]
    pub const fn new(log: LogId) -> Self {
        let epoch = Epoch::new(0);
        let ended_below = TxnOrdinal { epoch, sequence: 0 };
        Self {
            log,
            epoch,
            ended_below,
            deadline: None,
            identity: LogId::NONE,
            position: 0,
            after: Life::new(log, epoch, 0).after,
        }
    }
}

impl Call {
    /// Returns the life that the call names. Its log is [`LogId::NONE`] if the call names none.
    #[must_use]
    pub const fn life(&self) -> Life {
        Life { after: self.after, ..Life::new(self.identity, self.epoch, self.position) }
    }
}

/// Takes part in transactions: a database, a queue, a service with a [`ResourceManager`]. Shared by
/// [`Arc`], which is a participant itself.
///
/// The coordinator calls. Each method may block, except [`greet`](Self::greet). Several threads may call at once, also for one branch: a commit may be
/// delivered again while the first one is under way. Every call may be *repeated*; it then has the
/// same answer and no second effect. A panic counts as [`ParticipantError::Panicked`].
///
/// If the methods are asynchronous, implement `AsyncParticipant` instead (feature `tokio`).
pub trait Participant: Send + Sync + 'static {
    /// Asks for the vote.
    ///
    /// Before [`Vote::Yes`], all that is needed to commit must be durable, unless the participant
    /// writes to the coordinator's own log (see [`Call::log`]). A branch that the participant does
    /// not know gets [`Vote::No`], because its work may have been lost in a crash.
    ///
    /// # Errors
    ///
    /// Any error counts as a No and brings a rollback. [`ParticipantError::Refused`] is a No with
    /// its reason, which the client is told. Like [`Vote::No`] it says that the branch is rolled
    /// back and forgotten.
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError>;

    /// Carries out the decision to commit; called only after a [`Vote::Yes`].
    ///
    /// When it returns, the effect, or the duty to bring it about, is durable. The coordinator may
    /// then forget the transaction.
    ///
    /// # Errors
    ///
    /// [`UnknownBranch`](ParticipantError::UnknownBranch),
    /// [`AlreadyRolledBack`](ParticipantError::AlreadyRolledBack) and
    /// [`Heuristic`](ParticipantError::Heuristic) say that the branch has ended otherwise; the
    /// coordinator keeps that for an operator. After any other error the coordinator repeats the
    /// call, with back-off, until it succeeds or the [`Policy`](crate::Policy) parks the
    /// transaction.
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// Undoes the branch.
    ///
    /// It may come before a prepare, instead of one, or while one is under way; and for a branch
    /// that the participant has never seen. The participant must then refuse whatever comes later
    /// for the branch. When it returns, a promise in the participant's own log must be *durably*
    /// void: the coordinator ends the transaction, and asks again what is in doubt only when it
    /// next opens.
    ///
    /// # Errors
    ///
    /// [`UnknownBranch`](ParticipantError::UnknownBranch) counts as done.
    /// [`AlreadyCommitted`](ParticipantError::AlreadyCommitted) and
    /// [`Heuristic`](ParticipantError::Heuristic) say that the branch has ended otherwise. After
    /// any other error the coordinator repeats the call, as for [`commit`](Self::commit).
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError>;

    /// Decides alone, as the only participant of the transaction. The default implementation
    /// prepares and, on a Yes, commits.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::Refused`] is a [`Decision::Rollback`] with its reason: nothing happened
    /// and nothing will. After any other error the coordinator repeats the call.
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.prepare(branch, call)? {
            Vote::Yes => self.commit(branch, call).map(|()| Decision::Commit),
            Vote::ReadOnly => Ok(Decision::Commit),
            Vote::No => Ok(Decision::Rollback),
        }
    }

    /// Returns every branch of this coordinator's transactions that the participant has not
    /// finished: the prepared ones, and those still active.
    ///
    /// A coordinator asks when it opens, and settles the branches of earlier epochs.
    ///
    /// # Errors
    ///
    /// After any error the coordinator repeats the call, with back-off, until it succeeds.
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError>;

    /// Checks how a coordinator introduces itself, before it asks what is [in
    /// doubt](Self::in_doubt). May block for one write: a participant with durable promises stores the
    /// life before this returns. The default implementation accepts everything.
    ///
    /// A participant refuses if it has heard of another log under this name, or of more records
    /// than this log holds. Otherwise the coordinator would take promises for its own, or for
    /// undecided, that are not. The participant checks each [`Call`] in the same way. [`Lives`]
    /// does both.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::OtherLog`] and [`ParticipantError::Superseded`]. The coordinator then
    /// does not open if the participant was registered with `participant`. With all other
    /// registrations it opens, shows the error in its status, and settles nothing at this
    /// participant.
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        let _ = (coordinator, life);
        Ok(())
    }

    /// Returns the participant's own name, if it has one. Must not block.
    ///
    /// A coordinator does not open if the participant is registered under another name. The default
    /// implementation returns `None`: the participant answers under any name.
    fn own_name(&self) -> Option<Name> {
        None
    }

    /// Takes in that a coordinator of the same process was opened. Must not block. The default
    /// implementation does nothing.
    ///
    /// From here on, transactions of the coordinator's earlier epochs that the participant has not
    /// promised to can only be rolled back.
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }

    /// Answers a message that is not the coordinator's; see [`Request::Message`]. May block. The default
    /// implementation refuses it.
    ///
    /// # Errors
    ///
    /// [`ParticipantError::Misdirected`] if the participant takes no such messages.
    fn message(&self, body: &[u8]) -> Result<Vec<u8>, ParticipantError> {
        let _ = body;
        Err(ParticipantError::Misdirected)
    }

    /// Whether this is an error of the participant's own kind that may not come again: a deadlock, or a
    /// serialisation failure of a database. Must not block. [`Coordinator::run`](crate::Coordinator::run)
    /// asks, and then tries the whole transaction again. The default implementation returns `false`.
    ///
    /// It asks about one error at a time: about the error of the work, or the reason of a
    /// [`Refused`](ParticipantError::Refused), and about each of its sources. So look at this error only, by
    /// `downcast_ref`, and return `false` for errors of other kinds. All participants of the coordinator are
    /// asked. The transaction is rolled back by then, so a repeat does nothing twice.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
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
    fn own_name(&self) -> Option<Name> {
        (**self).own_name()
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
    fn message(&self, body: &[u8]) -> Result<Vec<u8>, ParticipantError> {
        (**self).message(body)
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        (**self).is_transient(error)
    }
}

/// Why a participant could not do what it was asked.
///
/// Serialised, a [`Log`](Self::Log) or [`Resource`](Self::Resource) error becomes the text of
/// itself and [its causes](crate::error_chain), and arrives as a `Resource` error that says the
/// same: a coordinator treats both alike. So does the reason of a [`Refused`](Self::Refused). Such a
/// text is cut to [`MAX_ERROR_TEXT_BYTES`]. All others arrive as they were.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ParticipantError {
    /// No answer came: the participant is down, a message was lost, or the reply was dropped.
    #[error("the participant did not answer; the call is repeated until it does")]
    Unreachable,
    /// The participant panicked.
    #[error("the participant panicked; see its panic message, the call is repeated")]
    Panicked,
    /// The participant was told to commit a branch that it has never prepared, or has lost the
    /// records of.
    #[error(
        "the participant knows of no such prepared branch: it was opened on another log, its database was restored, or \
         an operator has ended the branch"
    )]
    UnknownBranch,
    /// The participant was told to commit a branch that it has rolled back.
    #[error("the participant has already rolled this branch back")]
    AlreadyRolledBack,
    /// The participant was told to roll back a branch that it has committed.
    #[error("the participant has already committed this branch")]
    AlreadyCommitted,
    /// The branch ended in this way without the coordinator: the participant, or its operator,
    /// decided alone. A participant that reports this reports it again each time it is told.
    #[error("the branch has ended by itself, outcome: {0}")]
    Heuristic(Heuristic),
    /// The request came to the wrong place: one about a branch to a coordinator; a question for a
    /// verdict to a participant, or to a coordinator that did not begin the transaction.
    #[error(
        "the request came to the wrong place; route branches' requests to their participant, and questions for a verdict \
         to the coordinator that has their name and log"
    )]
    Misdirected,
    /// A piece of work or an earlier message is under way for this branch. The request is not
    /// carried out. A rollback is remembered all the same: from here on the branch takes no more
    /// work and promises nothing.
    #[error("the participant is in the middle of something else for this branch; the call is repeated")]
    Busy,
    /// The coordinator did not send the request, because the participant does not answer others
    /// either. Only a coordinator says so.
    #[error("the participant does not answer, so it was not asked; see its circuit in the coordinator's status")]
    CircuitOpen,
    /// The coordinator was opened without this participant, and its log has a decision for it. Only a
    /// coordinator says so.
    #[error(
        "the coordinator was opened without this participant, so it was not called; open the coordinator with a participant \
         of this name, or, if that is gone for good, park and force what it owes"
    )]
    NotRegistered,
    /// The coordinator sent the request, and no call has begun in time: the runtime of an
    /// asynchronous participant has no free thread. Most likely a task waits for the transaction on
    /// one of them. Only a coordinator says so.
    #[error(
        "the participant's runtime has begun no call for {waited:.1?}: its threads are blocked or busy. A task that waits \
         for a transaction on such a thread (`wait`, `settle`, `shutdown`) keeps the participant from answering; `.await` \
         it there, or wait on another thread"
    )]
    NotBegun {
        /// How long the oldest call has waited.
        waited: Duration,
    },
    /// The request no longer fits the branch's state: it is late, or came twice.
    #[error("a late message: the branch has moved on")]
    Stale,
    /// The branch names another participant.
    #[error("branch {branch} is not for this participant, {participant}; register it under its own name")]
    Misrouted {
        /// The branch as it came.
        branch: Box<BranchId>,
        /// The participant that got it.
        participant: Name,
    },
    /// The coordinator decides in another log than the one that the participant knows under its
    /// name: another coordinator has the same name, or the coordinator has lost its log.
    #[error(
        "coordinator {} decides in log {}, but this participant knows that name by log {}; give one of the two coordinators \
         another name, or, if log {} is gone for good, open the coordinator with `replaces_log`",
        .0.coordinator, .0.came.log, .0.known.log, .0.known.log
    )]
    OtherLog(Box<LifeMismatch>),
    /// The participant has heard more of the coordinator's log than this message knows of: the
    /// message comes from an earlier opening, or the log is an older copy.
    #[error(
        "this participant has heard from coordinator {} in {}, and this message is of {}; if the coordinator was opened \
         again elsewhere while it was still open, drop the older one; if it was just opened, it has an older copy of its \
         log: open the newest log, or, if that is gone for good, open this one with `log_was_restored`",
        .0.coordinator, .0.known, .0.came
    )]
    Superseded(Box<LifeMismatch>),
    /// The participant's log failed.
    #[error("the participant's log failed")]
    Log(#[from] LogError),
    /// The resource behind the participant failed.
    #[error("the participant's resource failed")]
    Resource(#[source] Arc<dyn StdError + Send + Sync>),
    /// The participant votes No, for this reason. Only as an answer to *prepare* and to a one-phase
    /// commit. The branch is rolled back and needs no further message. The reason that a
    /// [`ResourceManager`] gives is a [`BranchRefusal`].
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
