//! [`Coordinator`] and its builder.

use std::{
    collections::BTreeMap,
    fmt, io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use thiserror::Error;

use super::{
    BeginError, CoordinatorStatus, Limits, Openings, Policy, Transaction, VerdictEndpoint,
    coordinator_core::{CoordinatorCore, CoreHandles},
    members::{Member, Members, Promises, Reach},
    recovery::{self, RecoveryCounts},
    scheduler::{Runner, Sweep},
};
use crate::{
    error_chain,
    id::{Epoch, IdError, Name},
    log::{Claim, Durability, Fact, LogError, LogId, Record, TransactionLog},
    participant::{
        Endpoint, Greeting, LastResource, LastResourceParticipant, Life, Participant, ParticipantError, Pooled,
    },
    platform::Platform,
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
/// [`Commit`](super::Commit) that outlives it can decide nothing any more; a client that waits gets
/// an error.
pub struct Coordinator {
    pub(super) core: Arc<CoordinatorCore>,
    handles: CoreHandles,
    counts: Arc<RecoveryCounts>,
    /// Given back last, when all threads have ended.
    _claim: Claim,
}

impl Coordinator {
    /// Returns a builder for a coordinator that keeps its decisions in `log`. Pass a clone of an
    /// `Arc` to share the log with the resource managers of this process.
    pub fn builder(log: impl TransactionLog) -> CoordinatorBuilder {
        CoordinatorBuilder {
            log: Arc::new(log),
            name: None,
            policy: Policy::DEFAULT,
            limits: Limits::default(),
            members: Vec::new(),
            replaces: LogId::NONE,
            platform: Platform::default(),
        }
    }

    /// Begins a transaction. Blocks while the [`Limits`] are reached; from async code use
    /// [`begin_async`](Self::begin_async). Amortised O(1); writes nothing.
    ///
    /// Do not call it in code that this coordinator calls (for example a service's confirm) while
    /// the limits may be reached: the transactions that would free a slot may wait for that very
    /// call. Use [`try_begin`](Self::try_begin) there. Do not call it in a task either: the
    /// transactions that would free a slot may need its thread. Use
    /// [`begin_async`](Self::begin_async) there.
    ///
    /// A transaction that is not committed within the policy's `transaction_timeout` is rolled
    /// back. Once the coordinator is being [shut down](Self::shutdown), a transaction is
    /// [over](super::BranchError::Over) as soon as it begins.
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

    /// As [`begin`](Self::begin), but refuses if the [`Limits`] are reached. Does not block.
    ///
    /// # Errors
    ///
    /// [`BeginError`] says which limit is reached.
    pub fn try_begin(&self) -> Result<Transaction, BeginError> {
        self.core.admission.try_enter(&self.core.log)?;
        Ok(self.transaction(self.core.policy.transaction_timeout, true))
    }

    /// Introduces the coordinator to participants that answer at once, before anything is settled
    /// at any of them. Others hear it when they are asked what is in doubt.
    fn introduce(&self) -> Result<(), CoordinatorError> {
        for (name, member) in self.core.members.iter() {
            // One that panics is introduced again when it is asked, like participants that answer
            // later.
            let met = catch_unwind(AssertUnwindSafe(|| member.meet(self.name(), &self.core.life)));
            let refused = met
                .ok()
                .and_then(Result::err)
                .filter(|error| matches!(error, ParticipantError::OtherLog(_) | ParticipantError::Superseded(_)));
            if let Some(error) = refused {
                return Err(CoordinatorError::Refused { participant: name.clone(), error });
            }
        }
        Ok(())
    }

    fn transaction(&self, timeout: Duration, admitted: bool) -> Transaction {
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
        let mut threads: Vec<_> = self.core.lanes.iter().flat_map(|lane| lane.close()).collect();
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

/// Builds a [`Coordinator`].
#[must_use = "a builder does nothing until `open`"]
pub struct CoordinatorBuilder {
    log: Arc<dyn TransactionLog>,
    name: Option<String>,
    policy: Policy,
    limits: Limits,
    members: Vec<(String, Member)>,
    replaces: LogId,
    platform: Platform,
}

impl CoordinatorBuilder {
    /// Names the coordinator. Needed if two coordinators share a log, or if participants in other
    /// processes must know which coordinator to ask for verdicts. Without it, the name comes from
    /// the log's id: it is the same at every opening, and every log has another one.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// For operators: says that this log replaces `lost`, the log that the coordinator of this name
    /// had before, which is gone for good. Participants remember in which log a coordinator
    /// decides, and refuse another one under its name; with this they accept it. Their promises to
    /// the lost log's coordinator are shown as [unclaimed](super::CoordinatorStatus::unclaimed), to
    /// be settled by hand, because no log knows any more what was decided about them. Participants
    /// name the lost log's id in the error with which they refuse.
    ///
    /// Use it for one opening: leave it out again when all participants have answered once.
    pub const fn replaces_log(mut self, lost: LogId) -> Self {
        self.replaces = lost;
        self
    }

    /// For operators: says that the log was restored from an older copy, because the newest one is
    /// gone for good. Participants that have heard more than the copy holds refuse it; with this
    /// they accept it. The copy may lack decisions, so a missing one means nothing: the coordinator
    /// rolls back no branch of an earlier epoch by itself. All of them are
    /// [unclaimed](super::CoordinatorStatus::unclaimed), to be settled by hand.
    ///
    /// Use it for one opening: leave it out again when all participants have answered once and
    /// nothing is unclaimed.
    pub fn log_was_restored(mut self) -> Self {
        self.replaces = self.log.id();
        self
    }

    /// Sets time-outs and back-off.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets limits on what may be under way at once.
    pub const fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a participant of this process that answers quickly and never blocks. The coordinator
    /// calls it on the thread that commits.
    pub fn participant(self, name: &str, participant: impl Participant) -> Self {
        self.member(name, Reach::AtOnce(Arc::new(participant)), Promises::Can)
    }

    /// Adds a participant that is slow or far away. It gets at most `threads` threads of its own,
    /// so that several such participants work in parallel, and slow down only the transactions that
    /// they are in. A commit is answered before they have carried it out; see
    /// [`Commit::delivered`](super::Commit::delivered).
    pub fn slow_participant(self, name: &str, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let pooled = Pooled::on(self.platform.clone(), participant, threads);
        self.endpoint(name, pooled)
    }

    /// Adds a participant with asynchronous methods: each call is a task on `runtime`, and no
    /// thread waits for it. A commit is answered before it is carried out there; see
    /// [`Commit::delivered`](super::Commit::delivered).
    #[cfg(feature = "tokio")]
    pub fn async_participant(
        self,
        name: &str,
        participant: impl crate::participant::AsyncParticipant,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        self.endpoint(name, crate::participant::Spawned::new(participant, runtime))
    }

    /// Adds a participant that is reached in another way, such as over a network. A commit is
    /// answered before it is carried out there; see
    /// [`Commit::delivered`](super::Commit::delivered).
    pub fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Self {
        self.member(name, Reach::Later(Arc::new(endpoint)), Promises::Can)
    }

    /// Adds a resource that cannot promise. A transaction can have at most one of them.
    ///
    /// It commits after all others have promised, and before the decision is logged. **What this
    /// cannot guarantee:** if this process dies after the resource has committed and before the
    /// decision is durable, the others are rolled back at the next opening, and no log knows that
    /// the resource has committed. See [failures](crate::docs::failures).
    pub fn last_resource(self, name: &str, resource: impl LastResource) -> Self {
        self.member(name, Reach::AtOnce(Arc::new(LastResourceParticipant::new(resource))), Promises::Cannot)
    }

    /// Sets other threads and another clock than the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    fn member(mut self, name: &str, reach: Reach, promises: Promises) -> Self {
        self.members.push((name.to_owned(), Member { reach, promises }));
        self
    }

    /// Opens the coordinator: begins a new epoch, replays the log, and settles what an earlier life
    /// left in doubt. With participants that answer at once all of it is settled when this returns;
    /// the rest goes on in the background. Blocks while it reads the log, for one forced write, and
    /// for calls of participants that answer at once. From async code use a thread for blocking
    /// work.
    ///
    /// Drop a coordinator of this name that is still open on this log first: the new one would take
    /// it for dead, and roll back what it has not decided yet.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError`]; nothing is lost, and it can be opened again. If the name is already
    /// open, it is [`LogError::Claimed`].
    pub fn open(self) -> Result<Coordinator, CoordinatorError> {
        let name = match &self.name {
            Some(name) => Name::new(name)?,
            None => default_name(self.log.id())?,
        };
        let mut members = BTreeMap::new();
        for (member_name, member) in self.members {
            let member_name = Name::new(&member_name)?;
            if member_name == name {
                return Err(CoordinatorError::OwnName { name });
            }
            // A participant that panics over it has not said another name.
            let own_name = catch_unwind(AssertUnwindSafe(|| member.own_name())).unwrap_or(None);
            if let Some(own) = own_name.filter(|own| *own != member_name) {
                return Err(CoordinatorError::WrongName { registered: member_name, own });
            }
            if members.insert(member_name.clone(), member).is_some() {
                return Err(CoordinatorError::DuplicateParticipant { participant: member_name });
            }
        }
        let claim = self.log.claim(&name)?;
        let records = self.log.live(&name)?;
        let openings = Openings::begin(&records, self.log.incarnation()).ok_or(CoordinatorError::EpochsRunOut)?;
        let epoch = openings.current();
        let opened = Record { owner: name.clone(), fact: Fact::Opened { epoch } };
        let lsn = self.log.append(opened, Durability::Forced)?;
        self.log.wait(lsn)?;
        let life = Life { replaces: self.replaces, ..Life::new(self.log.id(), epoch, lsn.number()) };
        let (policy, limits) = (self.policy.paced(), self.limits);
        let core = CoordinatorCore::new(
            name,
            (life, openings.told(&life)),
            self.log,
            policy,
            limits,
            Members::new(members),
            self.platform,
        );
        let core = Arc::new(core);
        let sweeper: Weak<dyn Sweep> = Arc::downgrade(&(Arc::clone(&core) as Arc<dyn Sweep>));
        core.scheduler.start(&sweeper).map_err(CoordinatorError::Threads)?;
        let coordinator = Coordinator { handles: CoreHandles::new(&core), core, counts: Arc::default(), _claim: claim };
        coordinator.introduce()?;
        let found = recovery::find(&coordinator.core, &records, &coordinator.counts);
        // Before anything else is sent, and not before participants can ask about what the log
        // holds.
        let greeting = Greeting::new(coordinator.name().clone(), life, coordinator.verdict_endpoint());
        for (_, member) in coordinator.core.members.iter() {
            // A participant that panics here misses only the greeting.
            let _ = catch_unwind(AssertUnwindSafe(|| member.greet(&greeting)));
        }
        found.into_iter().for_each(|found| found.run(Runner::Caller));
        Ok(coordinator)
    }
}

impl fmt::Debug for CoordinatorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members: Vec<_> = self.members.iter().map(|(name, _)| name).collect();
        f.debug_struct("CoordinatorBuilder")
            .field("name", &self.name)
            .field("participants", &members)
            .finish_non_exhaustive()
    }
}

/// Returns the first 64 bits of the log's id: short enough to read, and 2^32 logs away from a
/// likely collision.
fn default_name(log: LogId) -> Result<Name, IdError> {
    Name::new(&log.to_string()[..16])
}

/// Reason why a coordinator could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
    /// Two participants were given the same name.
    #[error("two participants are named {participant}; each needs a name of its own")]
    DuplicateParticipant {
        /// The name.
        participant: Name,
    },
    /// A participant was given the coordinator's own name. In a shared log each would end the
    /// other's records.
    #[error("the coordinator and one of its participants are both named {name}; give one of them another name")]
    OwnName {
        /// The name.
        name: Name,
    },
    /// A participant has another name than the one under which it is registered. It would refuse
    /// all of its branches.
    #[error("the participant that is registered as {registered} is named {own}; register it as {own}")]
    WrongName {
        /// The name under which it is registered.
        registered: Name,
        /// The name that it knows itself by.
        own: Name,
    },
    /// The log could not be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A participant knows another log under this name, or more of this log than it holds. Nothing
    /// was settled at any participant.
    #[error("participant {participant} refuses this coordinator: {}", error_chain(.error))]
    Refused {
        /// The participant.
        participant: Name,
        /// The participant's error.
        error: ParticipantError,
    },
    /// The log's last epoch is so large that no other can follow.
    #[error("no epoch is left in this log; another program has written to it: open the coordinator on a new one")]
    EpochsRunOut,
    /// The system gave no thread.
    #[error("can't start the coordinator's threads")]
    Threads(#[source] io::Error),
}
