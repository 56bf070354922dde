//! [`Coordinator`]: where transactions begin.

use std::{
    collections::BTreeMap,
    fmt, io,
    num::NonZeroUsize,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use thiserror::Error;

use super::{
    Policy, Transaction,
    driver::Sweep,
    recovery::{self, Tally},
    shared::{Answers, Member, Shared},
};
use crate::{
    id::{Epoch, IdError, Name},
    log::{Durability, Fact, LogError, LogId, Record, TransactionLog},
    participant::{Endpoint, Inline, Participant, Pooled},
    platform::{Platform, Thread},
};

/// Begins transactions, decides them, and sees to it that every participant carries the decision out.
///
/// It needs a log and its participants; see the [crate's front page](crate) for a whole program. Any number of
/// threads and tasks may use it at once; there is no thread per transaction.
///
/// Dropping it stops its threads and abandons what is under way, exactly as a crash would: the next opening on the
/// same log settles it. Call [`settle`](Self::settle) first for a shutdown that leaves nothing to do. A [`Transaction`]
/// or [`Commit`](super::Commit) that outlives it can decide nothing any more; who waits is told so.
pub struct Coordinator {
    shared: Arc<Shared>,
    tally: Arc<Tally>,
    threads: Vec<Thread>,
}

impl Coordinator {
    /// Starts building a coordinator that keeps its decisions in `log`. Pass a clone of an `Arc` to share the log with
    /// the resource managers of this process.
    pub fn builder(log: impl TransactionLog) -> CoordinatorBuilder {
        CoordinatorBuilder {
            log: Arc::new(log),
            name: None,
            policy: Policy::default(),
            members: Vec::new(),
            platform: Platform::default(),
        }
    }

    /// Begins a transaction. O(log n) in the transactions that are open; writes nothing.
    pub fn begin(&self) -> Transaction {
        Transaction::new(Arc::clone(&self.shared))
    }

    /// Its name, which is part of every transaction's id.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.shared.name
    }

    /// How many times it has been opened on its log, this time included.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.shared.epoch
    }

    /// What recovery has found so far. It goes on in the background while a participant does not answer.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        Recovered {
            committed: self.tally.committed.load(Ordering::Relaxed),
            rolled_back: self.tally.rolled_back.load(Ordering::Relaxed),
            unanswered: self.shared.counts().inquiries,
        }
    }

    /// How many transactions stand where. O(n) in the transactions that are open.
    #[must_use]
    pub fn status(&self) -> CoordinatorStatus {
        let counts = self.shared.counts();
        let indeterminate = self.shared.running_tasks().iter().filter(|task| task.is_indeterminate()).count();
        CoordinatorStatus {
            begun: counts.begun,
            settling: counts.running - indeterminate,
            indeterminate,
            unanswered: counts.inquiries,
        }
    }

    /// Waits until every transaction that was committed or rolled back is settled at all its participants, those of
    /// earlier epochs included, or until `timeout` has passed. Says whether it came to that.
    #[must_use = "what is not settled stays in doubt until it is"]
    pub fn settle(&self, timeout: Duration) -> bool {
        self.shared.settle(timeout)
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.driver.close();
        self.shared.abandon();
        for thread in self.threads.drain(..) {
            // A participant can hold the last handle, and so have it dropped on one of these very threads.
            if thread.id() != self.shared.platform.current() {
                thread.join();
            }
        }
        // What the threads were at while they were being stopped.
        self.shared.abandon();
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
    /// Transactions that the log says are committed: their participants are told again.
    pub committed: usize,
    /// Branches of transactions that the log holds no decision of: they are rolled back.
    pub rolled_back: usize,
    /// Participants that have not yet said which branches they hold; they are asked until they do.
    pub unanswered: usize,
}

/// How many transactions stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoordinatorStatus {
    /// Clients still work under them.
    pub begun: usize,
    /// They are being committed or rolled back, and not yet settled at all their participants.
    pub settling: usize,
    /// The log failed while they were being decided; only opening it anew tells.
    pub indeterminate: usize,
    /// Participants that have not yet said which branches of earlier epochs they hold.
    pub unanswered: usize,
}

impl CoordinatorStatus {
    /// Everything whose end is not known to all who take part in it.
    #[must_use]
    pub const fn in_doubt(&self) -> usize {
        self.settling + self.indeterminate + self.unanswered
    }
}

/// Builds a [`Coordinator`].
#[must_use = "a builder does nothing until `open`"]
pub struct CoordinatorBuilder {
    log: Arc<dyn TransactionLog>,
    name: Option<String>,
    policy: Policy,
    members: Vec<(String, Member)>,
    platform: Platform,
}

impl CoordinatorBuilder {
    /// Names the coordinator. Only needed where two of them share a log: left alone, its name is drawn from the log's
    /// own id, and so is the same at every opening and another one for every log.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets time-outs and back-off.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Adds a participant of this process that answers quickly. It is called on the thread that commits.
    pub fn participant(self, name: &str, participant: impl Participant) -> Self {
        self.member(name, Arc::new(Inline::new(participant)), Answers::AtOnce)
    }

    /// Adds a participant that is slow or far away. It gets at most `threads` threads of its own, so that several such
    /// participants work side by side, and slow down only the transactions that they are in.
    pub fn slow_participant(self, name: &str, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let pooled = Pooled::on(self.platform.clone(), participant, threads);
        self.endpoint(name, pooled)
    }

    /// Adds a participant that is reached in some other way.
    pub fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Self {
        self.member(name, Arc::new(endpoint), Answers::Later)
    }

    /// Has it live on other threads and another clock than the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    fn member(mut self, name: &str, endpoint: Arc<dyn Endpoint>, answers: Answers) -> Self {
        self.members.push((name.to_owned(), Member { endpoint, answers }));
        self
    }

    /// Opens the coordinator: begins a new epoch, replays the log, and settles what an earlier life left in doubt.
    /// With participants that answer at once all of it is settled when this returns; the rest goes on in the
    /// background. Costs one forced write.
    ///
    /// # Errors
    /// [`CoordinatorError`]; nothing is lost, it can be opened again.
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
            if members.insert(member_name.clone(), member).is_some() {
                return Err(CoordinatorError::DuplicateParticipant { participant: member_name });
            }
        }
        let records = self.log.live(&name)?;
        let last = records.iter().filter_map(|record| record.fact.epoch()).max().unwrap_or_default();
        let opened = Record { owner: name.clone(), fact: Fact::Opened { epoch: last.next() } };
        let lsn = self.log.append(opened, Durability::Forced)?;
        self.log.wait(lsn)?;
        let shared = Arc::new(Shared::new(name, last.next(), self.log, self.policy.paced(), members, self.platform));
        let sweeper: Weak<dyn Sweep> = Arc::downgrade(&(Arc::clone(&shared) as Arc<dyn Sweep>));
        let threads = shared.driver.start(&sweeper).map_err(CoordinatorError::Threads)?;
        let coordinator = Coordinator { shared, tally: Arc::default(), threads };
        recovery::recover(&coordinator.shared, &records, &coordinator.tally);
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

/// The first 64 bits of the log's id: short enough to read, and 2^32 logs away from a likely collision.
fn default_name(log: LogId) -> Result<Name, IdError> {
    Name::new(&log.to_string()[..16])
}

/// Why a coordinator could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// A name is not one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// Two participants were given the same name.
    #[error("two participants are named {participant}; each needs a name of its own")]
    DuplicateParticipant {
        /// The name.
        participant: Name,
    },
    /// A participant was given the coordinator's own name. In a log that they share each would end the other's
    /// records.
    #[error("the coordinator and one of its participants are both named {name}; give one of them another name")]
    OwnName {
        /// The name.
        name: Name,
    },
    /// The log could not be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The system gave no thread.
    #[error("can't start the coordinator's threads: {0}")]
    Threads(#[source] io::Error),
}
