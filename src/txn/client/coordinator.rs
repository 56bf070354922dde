//! [`Coordinator`] and its builder.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crate::{
    id::{Epoch, Name},
    log::{Claim, LogError, TransactionLog},
    participant::{Greeting, Life, ParticipantError},
    txn::{
        BeginError, CoordinatorBuilder, CoordinatorError, CoordinatorStatus, Transaction, VerdictEndpoint,
        engine::{
            coordinator_core::{CoordinatorCore, CoreHandles},
            members::{Member, Slot},
            pause::Pause,
        },
        recovery::RecoveryCounts,
    },
};

/// Begins transactions, decides them, and makes every participant carry the decision out.
///
/// It needs a log and its participants; see the [crate's front page](crate) for a whole program. It
/// is `Send + Sync`: any number of threads and tasks may use it at once, through references or an
/// `Arc`. There is no thread per transaction.
///
/// Dropping it stops its threads and abandons what is under way, exactly as a crash would: the next
/// opening on the same log settles it. The drop blocks until its threads have returned from calls
/// of participants, so do it in a place where blocking is allowed. Call
/// [`shutdown`](Self::shutdown) first to leave nothing to do. A [`Transaction`] or
/// [`Commit`](crate::txn::Commit) that outlives it can decide nothing any more; a client that waits
/// gets an error.
///
/// If another holder [takes its log over](crate::TransactionLog::lost), the coordinator gives up by
/// itself, as if it were dropped: it begins nothing, sends nothing, and its threads end. The new
/// holder settles what was under way. A client that waits is told "committed" if the decision was
/// durable before, "rolled back" ([`Fenced`](crate::txn::RollbackCause::Fenced)) if it surely was not,
/// and "indeterminate" only if no log knows. The [status](Self::status) names the new holder.
pub struct Coordinator {
    pub(in crate::txn) core: Arc<CoordinatorCore>,
    pub(super) handles: CoreHandles,
    pub(super) counts: Arc<RecoveryCounts>,
    /// Given back last, when all threads have ended.
    pub(super) _claim: Claim,
}

impl Coordinator {
    /// Returns a builder for a coordinator that keeps its decisions in `log`. Pass a clone of an
    /// `Arc` to share the log with the resource managers of this process.
    pub fn builder(log: impl TransactionLog) -> CoordinatorBuilder {
        CoordinatorBuilder::new(Arc::new(log))
    }

    /// Begins a transaction. Blocks while the [`Limits`](crate::txn::Limits) are reached; from
    /// async code use [`begin_async`](Self::begin_async). O(log n) in the open transactions; writes
    /// nothing.
    ///
    /// Do not call it in code that this coordinator calls (for example a service's confirm) while
    /// the limits may be reached: the transactions that would free a slot may wait for that very
    /// call. Use [`try_begin`](Self::try_begin) there. Do not call it in a task either: the
    /// transactions that would free a slot may need its thread. Use
    /// [`begin_async`](Self::begin_async) there.
    ///
    /// A transaction that is not committed within the policy's `transaction_timeout` is rolled
    /// back. Once the coordinator is being [shut down](Self::shutdown), a transaction is
    /// [over](crate::txn::BranchError::Over) as soon as it begins; once another holder has taken the
    /// log over, it is [fenced](crate::txn::BranchError::Fenced).
    pub fn begin(&self) -> Transaction {
        self.begin_within(self.core.policy.transaction_timeout)
    }

    /// As [`begin`](Self::begin), with another time-out for this transaction. From async code use
    /// [`begin_within_async`](Self::begin_within_async).
    pub fn begin_within(&self, transaction_timeout: Duration) -> Transaction {
        let admitted = self.core.admission.enter(&self.core.log);
        self.transaction(transaction_timeout, admitted)
    }

    /// As [`begin`](Self::begin), for async code: waits for a slot without blocking the thread. A
    /// dropped future leaves nothing behind.
    pub async fn begin_async(&self) -> Transaction {
        self.begin_within_async(self.core.policy.transaction_timeout).await
    }

    /// As [`begin_within`](Self::begin_within), for async code: waits for a slot without blocking
    /// the thread, and then begins a transaction with this time-out. A dropped future leaves
    /// nothing behind.
    pub async fn begin_within_async(&self, transaction_timeout: Duration) -> Transaction {
        let admitted = self.core.admission.enter_async(&self.core.log).await;
        self.transaction(transaction_timeout, admitted)
    }

    /// As [`begin`](Self::begin), but refuses if the [`Limits`](crate::txn::Limits) are reached.
    /// Does not block.
    ///
    /// # Errors
    ///
    /// [`BeginError`] says which limit is reached.
    pub fn try_begin(&self) -> Result<Transaction, BeginError> {
        self.core.admission.try_enter(&self.core.log)?;
        Ok(self.transaction(self.core.policy.transaction_timeout, true))
    }

    /// As [`begin_within`](Self::begin_within), and does not wait for a slot: for steps of an operator, which may
    /// want to end just what keeps the slots taken.
    pub(crate) fn begin_beyond_limits(&self, transaction_timeout: Duration) -> Transaction {
        let admitted = self.core.admission.enter_beyond();
        self.transaction(transaction_timeout, admitted)
    }

    /// Introduces the coordinator to participants that answer at once, before anything is settled
    /// at any of them. Others hear it when they are asked what is in doubt.
    pub(super) fn introduce(&self) -> Result<(), CoordinatorError> {
        let met = |slot: &Slot| {
            let member = slot.member();
            member.as_ref().map_or(Ok(()), |member| self.introduce_to(&slot.name, member))
        };
        self.core.members.present().try_for_each(met)
    }

    /// Introduces the coordinator to a participant, if it answers at once.
    pub(super) fn introduce_to(&self, name: &Name, member: &Member) -> Result<(), CoordinatorError> {
        // One that panics is introduced again when it is asked, like participants that answer later.
        let meet = |life: &Life| catch_unwind(AssertUnwindSafe(|| member.meet(self.name(), life)));
        let mut met = meet(&self.core.life);
        if let Some(life) = met.as_ref().ok().and_then(|met| self.core.continuing(met.as_ref().err()?)) {
            met = meet(&life);
        }
        let refused = met
            .ok()
            .and_then(Result::err)
            .filter(|error| matches!(error, ParticipantError::OtherLog(_) | ParticipantError::Superseded(_)));
        refused.map_or(Ok(()), |error| Err(CoordinatorError::Refused { participant: name.clone(), error }))
    }

    /// Greets a participant. One that panics misses only the greeting.
    pub(super) fn greet(&self, member: &Member) {
        let greeting = Greeting::new(self.name().clone(), self.core.life, self.verdict_endpoint())
            .with_earlier(self.core.openings.earlier());
        let _ = catch_unwind(AssertUnwindSafe(|| member.greet(&greeting)));
    }

    /// Returns a future that is ready after this time, by the coordinator's clock.
    pub(crate) fn pause(&self, time: Duration) -> impl Future<Output = ()> + Send + Unpin {
        Pause::new(&self.core, time)
    }

    /// Returns an error if another holder has taken the log over.
    pub(super) fn still_holds_log(&self) -> Result<(), CoordinatorError> {
        self.core.still_holds_log();
        self.core.takeover().cloned().map_or(Ok(()), |takeover| Err(LogError::from(takeover).into()))
    }

    fn transaction(&self, timeout: Duration, admitted: bool) -> Transaction {
        if !admitted {
            self.core.look_for_loss(); // it may be the reason
        }
        Transaction::new(self.core.begin(self.handles.own(), timeout, admitted))
    }

    /// Returns an endpoint at which participants of other processes can ask how a branch ended.
    /// Participants of this process know it already.
    #[must_use]
    pub fn verdict_endpoint(&self) -> VerdictEndpoint {
        VerdictEndpoint::new(self.core.name.clone(), self.core.epoch, Arc::downgrade(&self.core))
    }

    /// Returns the coordinator's name, which is part of every transaction's id.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.core.name
    }

    /// Returns the epoch, the number of this opening. It is later than those of all earlier
    /// openings on this log, and no other opening has it.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.core.epoch
    }

    /// Returns what recovery has found so far. Recovery goes on in the background while a
    /// participant does not answer. Does not block.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        Recovered {
            committed: self.counts.committed.load(Ordering::Relaxed),
            rolled_back: self.counts.rolled_back.load(Ordering::Relaxed),
            unanswered: self.core.in_doubt_queries().iter().filter(|query| !query.is_answered()).count(),
        }
    }

    /// Returns every open transaction and its state. Never blocks: a branch that hangs in a service
    /// is shown as it is. O(n log n) in the open transactions.
    #[must_use]
    pub fn status(&self) -> CoordinatorStatus {
        self.core.status()
    }

    /// Blocks until every transaction that was committed or rolled back is settled at all its
    /// participants, including those of earlier epochs, or until `timeout` has passed. Returns
    /// whether all are settled. Returns `false`, without waiting longer, if only transactions are
    /// left that need an operator; see [`status`](Self::status).
    ///
    /// From async code use [`settle_async`](Self::settle_async). On a thread of the runtime of an
    /// asynchronous participant this call waits without success, and the status shows
    /// [`NotBegun`](ParticipantError::NotBegun) for that participant.
    #[must_use = "what is not settled stays in doubt until it is"]
    pub fn settle(&self, timeout: Duration) -> bool {
        self.core.settle(timeout)
    }

    /// As [`settle`](Self::settle), for async code: no thread is blocked. It works on any executor,
    /// because the coordinator's own clock wakes the task at the time-out, which counts from the
    /// first poll. A dropped future leaves nothing behind.
    #[must_use = "what is not settled stays in doubt until it is"]
    pub async fn settle_async(&self, timeout: Duration) -> bool {
        self.core.settle_async(timeout).await
    }

    /// Shuts down cleanly: lets no more transactions begin, rolls back those that no client has
    /// asked to commit, and finishes the others. Blocks for at most `timeout`, as
    /// [`settle`](Self::settle) does; from async code use [`shutdown_async`](Self::shutdown_async).
    /// Returns what is left; the next opening settles it.
    ///
    /// ```
    /// # use ringpact::{Coordinator, MemoryLog};
    /// # let coordinator = Coordinator::builder(MemoryLog::new()).open()?;
    /// let left = coordinator.shutdown(std::time::Duration::from_secs(10));
    /// if left.in_doubt() > 0 {
    ///     eprint!("left for the next opening:\n{left}");
    /// }
    /// # Ok::<(), ringpact::txn::CoordinatorError>(())
    /// ```
    pub fn shutdown(&self, timeout: Duration) -> CoordinatorStatus {
        self.core.admission.close();
        self.core.roll_back_begun();
        let _all = self.core.settle(timeout);
        self.status()
    }

    /// As [`shutdown`](Self::shutdown), for async code: no thread is blocked, and the coordinator's
    /// own clock wakes the task at the time-out, which counts from the first poll. The future does
    /// nothing until it is polled. If it is dropped after that, only the wait ends: the coordinator
    /// begins no more transactions, and goes on finishing the open ones.
    ///
    /// Dropping a coordinator joins its threads. Do that in a place where blocking is allowed.
    pub async fn shutdown_async(&self, timeout: Duration) -> CoordinatorStatus {
        self.core.admission.close();
        self.core.roll_back_begun();
        let _all = self.core.settle_async(timeout).await;
        self.status()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.core.close();
        self.core.scheduler.close();
        self.core.abandon();
        let mut threads: Vec<_> = self.core.members.all().flat_map(|slot| slot.lane.close()).collect();
        threads.extend(self.core.scheduler.take_threads());
        for thread in threads {
            // A participant can hold the last handle, and so drop it on one of these threads.
            if thread.id() != self.core.platform.current() {
                thread.join();
            }
        }
        // Transactions that the threads still worked on while they were being stopped.
        self.core.abandon();
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("name", self.name()).field("epoch", &self.epoch()).finish_non_exhaustive()
    }
}

/// What a coordinator found when it opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Number of transactions that the log says are committed: their participants are told again.
    pub committed: usize,
    /// Number of branches of transactions without a decision in the log: they are rolled back.
    pub rolled_back: usize,
    /// Number of participants that have not yet said which branches they hold; they are asked until
    /// they do.
    pub unanswered: usize,
}
