//! [`Commit`]: waits for the outcome of a transaction.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    id::{Name, TxnId},
    log::{Heuristic, LogError, holder_in_words},
    participant::ParticipantError,
    txn::{
        Cause, Delivered, Outcome,
        engine::{
            scheduler::Runner,
            transaction_driver::{ExplainedOutcome, Progress, Reasons, TransactionDriver, Waiting, Wakeable},
        },
    },
};

/// A transaction that is being committed. Block on it with [`wait`](Self::wait), or `.await` it on
/// any executor.
///
/// It is *cancel-safe*: dropping it loses the answer, never the transaction, which goes on to its
/// end. One thread or task waits for it. The commit has begun before this value exists. So start
/// many and then wait for one after the other, which is much faster than a wait after each start,
/// because they share the log's syncs.
///
/// The answer comes when the decision is durable and every branch has been told for the first time.
/// The thread or task that waits calls participants that answer at once
/// ([`participant`](crate::txn::CoordinatorBuilder::participant)), so they have carried it out by
/// then. There are three exceptions: they failed, another holder has taken the log over, or the
/// coordinator's own threads went on with the
/// transaction, because a rollback came before a thread or task waited, the `Commit` was not
/// polled, or a [`Delivered`] waits beside it. All other participants (slow, asynchronous, at an
/// endpoint) may still be at work. To read the write at any participant, wait for
/// [`delivered`](Self::delivered).
#[must_use = "dropping it loses the answer; wait for it or await it"]
pub struct Commit {
    driver: Arc<TransactionDriver>,
    /// Progress of the last drive from here, if the next step starts from it.
    progress: Option<Progress>,
    /// Whether nothing is left to drive.
    over: bool,
}

impl Commit {
    pub(in crate::txn) const fn new(driver: Arc<TransactionDriver>, progress: Progress) -> Self {
        Self { driver, progress: Some(progress), over: false }
    }

    /// Returns the transaction's id.
    #[must_use]
    pub fn txn(&self) -> &TxnId {
        self.driver.txn()
    }

    /// Returns a value that waits, beyond the outcome, until every branch has acknowledged it. Then
    /// the writes of a committed transaction can be read at every participant. It costs nothing if
    /// it is not called. Use it beside the `Commit` or instead of it; it lives on without it. Does
    /// not block.
    ///
    /// ```
    /// # use ringpact::{Coordinator, MemoryLog};
    /// # let coordinator = Coordinator::builder(MemoryLog::new()).open()?;
    /// let commit = coordinator.begin().commit();
    /// let delivered = commit.delivered();
    /// commit.wait()?; // it is decided
    /// delivered.wait()?; // and carried out everywhere
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn delivered(&self) -> Delivered {
        Delivered::of(Arc::clone(&self.driver))
    }

    /// Blocks until the outcome is known. From async code `.await` the `Commit` instead: on a
    /// thread of the runtime of an [asynchronous participant](crate::Coordinator::builder) this
    /// call would keep that participant from answering, and the error at the time-out is
    /// [`ParticipantError::NotBegun`].
    ///
    /// # Errors
    ///
    /// [`CommitError`]: rolled back, with the cause; indeterminate; or heuristic.
    pub fn wait(mut self) -> Result<(), CommitError> {
        let mut parker = None;
        loop {
            let waiting = match self.go_on() {
                Ok(explained) => return tell(&self.driver, explained),
                Err(waiting) => waiting,
            };
            if let Waiting::Durable(lsn) = waiting {
                let result = self.driver.core().log.wait(lsn);
                self.progress = Some(self.driver.durable(lsn, result, Runner::Caller));
                continue;
            }
            let (parker, waker) = parker.get_or_insert_with(|| {
                let parker = Arc::new(self.driver.core().platform.parker());
                (Arc::clone(&parker), Waker::from(parker))
            });
            if self.driver.wake_later(waker, waiting) == Wakeable::Later {
                parker.park();
            }
        }
    }

    /// Returns the outcome; or, as an error, what the transaction waits for.
    fn go_on(&mut self) -> Result<ExplainedOutcome, Waiting> {
        let Progress { waiting, explained } =
            self.progress.take().unwrap_or_else(|| self.driver.progress(Runner::Caller));
        self.over = waiting == Waiting::Nothing;
        explained.ok_or(waiting)
    }
}

/// Returns the answer to the client.
pub(in crate::txn) fn tell(driver: &TransactionDriver, explained: ExplainedOutcome) -> Result<(), CommitError> {
    let txn = driver.txn();
    let name = |branch| driver.participant(branch).unwrap_or_else(|| txn.coordinator().clone());
    if let Some(outcome) = explained.heuristic {
        return Err(CommitError::Heuristic { txn: txn.clone(), outcome });
    }
    let Reasons { participant_error, refusal, not_begun, log_error } =
        explained.reasons.map(|reasons| *reasons).unwrap_or_default();
    let cause = match explained.outcome {
        Outcome::Committed => return Ok(()),
        Outcome::Indeterminate => {
            let participant_error =
                not_begun.map(|(_, error)| error).or(participant_error).filter(|_| log_error.is_none());
            let takeover = driver.core().takeover().filter(|_| driver.is_fenced()).cloned();
            let error = log_error.or_else(|| takeover.map(LogError::from));
            let participant_error = participant_error.map(Box::new);
            return Err(CommitError::Indeterminate { txn: txn.clone(), error, participant_error });
        }
        Outcome::RolledBack(Cause::Requested) => RollbackCause::Requested,
        Outcome::RolledBack(Cause::TimedOut) => match not_begun {
            Some((branch, error)) => RollbackCause::Failed { participant: name(branch), error },
            None => RollbackCause::TimedOut,
        },
        Outcome::RolledBack(Cause::Expired) => RollbackCause::Expired,
        Outcome::RolledBack(Cause::VotedNo(branch)) => {
            let reason = refusal.filter(|(of, _)| *of == branch).map(|(_, reason)| reason);
            RollbackCause::VotedNo { participant: name(branch), reason }
        }
        Outcome::RolledBack(Cause::Failed(branch)) => RollbackCause::Failed {
            participant: name(branch),
            error: participant_error.unwrap_or(ParticipantError::Unreachable),
        },
        Outcome::RolledBack(Cause::Fenced) => {
            RollbackCause::Fenced { holder: driver.core().takeover().and_then(|takeover| takeover.holder.clone()) }
        }
        Outcome::RolledBack(Cause::LogRefused) => {
            RollbackCause::LogRefused { error: log_error.unwrap_or(LogError::Closed) }
        }
    };
    Err(CommitError::RolledBack { txn: txn.clone(), cause })
}

impl Future for Commit {
    type Output = Result<(), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let waiting = match self.go_on() {
                Ok(explained) => return Poll::Ready(tell(&self.driver, explained)),
                Err(waiting) => waiting,
            };
            if let Waiting::Durable(lsn) = waiting {
                // One wake-up for the record and for the outcome. It comes whatever else happens
                // meanwhile.
                match self.driver.core().log.poll_durable(lsn, context) {
                    Poll::Ready(result) => self.progress = Some(self.driver.durable(lsn, result, Runner::Caller)),
                    Poll::Pending => {
                        self.progress = Some(Progress { waiting, explained: None });
                        return Poll::Pending;
                    }
                }
            } else if self.driver.wake_later(context.waker(), waiting) == Wakeable::Later {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Commit {
    fn drop(&mut self) {
        if !self.over {
            self.driver.leave();
        }
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("txn", self.txn()).finish_non_exhaustive()
    }
}

/// Reason why a transaction did not commit, or why that is uncertain. The text never repeats the
/// [`source`](StdError::source); [`error_chain`](crate::error_chain) prints the whole chain in one
/// line.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CommitError {
    /// No part of it has happened or will happen. It can be tried again, as a new transaction.
    RolledBack {
        /// The transaction.
        txn: TxnId,
        /// The cause.
        cause: RollbackCause,
    },
    /// It is not known yet whether it committed: the log failed while the decision was being
    /// written, the only participant did not say what it decided, or the coordinator was dropped
    /// meanwhile. Do not try again blindly. Open the coordinator again, which settles the
    /// transaction, and look at the data. If `error` is [`LogError::Fenced`], the new holder of the
    /// log settles it instead.
    Indeterminate {
        /// The transaction.
        txn: TxnId,
        /// The log's error, if the log failed.
        error: Option<LogError>,
        /// The participant's error, if the log did not fail and the participant returned one.
        participant_error: Option<Box<ParticipantError>>,
    },
    /// It was decided, and a participant has already answered that its branch ended otherwise. Look
    /// at the data, and at [`Coordinator::status`](crate::Coordinator::status), which names the
    /// branch until an operator [forgets](crate::Coordinator::forget) it. (A branch that differs
    /// after this answer is only in the status.)
    Heuristic {
        /// The transaction.
        txn: TxnId,
        /// How it ended, over all branches.
        outcome: Heuristic,
    },
}

impl CommitError {
    /// Returns the transaction's id.
    #[must_use]
    pub const fn txn(&self) -> &TxnId {
        match self {
            Self::RolledBack { txn, .. } | Self::Indeterminate { txn, .. } | Self::Heuristic { txn, .. } => txn,
        }
    }
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolledBack { txn, cause } => write!(f, "transaction {txn} was rolled back: {cause}"),
            Self::Indeterminate { txn, error: Some(LogError::Fenced { .. }), .. } => write!(
                f,
                "transaction {txn} is indeterminate: the new holder of the coordinator's log settles it; look at the data then"
            ),
            Self::Indeterminate { txn, .. } => write!(
                f,
                "transaction {txn} is indeterminate: open the coordinator again to settle it, then look at the data"
            ),
            Self::Heuristic { txn, outcome } => write!(
                f,
                "transaction {txn} did not end the same everywhere, outcome: {outcome}; see the coordinator's status and \
                 the data"
            ),
        }
    }
}

impl StdError for CommitError {
    /// Returns the source of the rollback's cause, because the text includes the cause itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::RolledBack { cause, .. } => cause.source(),
            Self::Indeterminate { error: Some(error), .. } => Some(error),
            Self::Indeterminate { participant_error, .. } => participant_error.as_deref().map(|error| error as _),
            Self::Heuristic { .. } => None,
        }
    }
}

/// Reason why a transaction was rolled back. The text never repeats the
/// [`source`](StdError::source).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RollbackCause {
    /// The client asked for it.
    Requested,
    /// A participant voted No: it refused some of the work, or has lost it in a crash.
    VotedNo {
        /// The participant.
        participant: Name,
        /// The participant's reason, if it gave one: a
        /// [`BranchRefusal`](crate::participant::BranchRefusal) from a
        /// [`ResourceManager`](crate::ResourceManager) in this process, its text from another
        /// process.
        reason: Option<Arc<dyn StdError + Send + Sync>>,
    },
    /// A participant could not be asked for its vote.
    Failed {
        /// The participant.
        participant: Name,
        /// The participant's error.
        error: ParticipantError,
    },
    /// Not all votes came in time.
    TimedOut,
    /// The client had not committed it before its time-out.
    Expired,
    /// The decision could not be logged.
    LogRefused {
        /// The log's error.
        error: LogError,
    },
    /// Another holder has taken the coordinator's log over, and no decision was durable before. It can
    /// be tried again, as a new transaction, at the coordinator there.
    Fenced {
        /// The new holder, as it names itself, if that is known.
        holder: Option<Arc<str>>,
    },
}

impl fmt::Display for RollbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested => f.write_str("the client asked for it"),
            Self::VotedNo { participant, .. } => write!(f, "{participant} voted no"),
            Self::Failed { participant, error } => write!(f, "{participant} failed to vote: {error}"),
            Self::TimedOut => f.write_str("not all participants voted in time"),
            Self::Expired => f.write_str("it was not committed before its time-out"),
            Self::LogRefused { error } => write!(f, "the decision could not be logged: {error}"),
            Self::Fenced { holder } => write!(
                f,
                "the coordinator's log was taken over by {} before a decision was durable; try again as a new transaction at \
                 the coordinator there",
                holder_in_words(holder.as_deref())
            ),
        }
    }
}

impl StdError for RollbackCause {
    /// Returns the source of this crate's own error, because the text includes that error itself.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::VotedNo { reason, .. } => reason.as_ref().map(|reason| &**reason as _),
            Self::Failed { error, .. } => error.source(),
            Self::LogRefused { error } => error.source(),
            Self::Requested | Self::TimedOut | Self::Expired | Self::Fenced { .. } => None,
        }
    }
}
