//! [`CoordinatorBuilder`]: configures and opens a [`Coordinator`].

use std::{
    collections::BTreeMap,
    fmt, io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
};

use thiserror::Error;

use crate::{
    id::{IdError, Name},
    log::{Durability, Fact, LogError, LogId, Record, TransactionLog},
    participant::{
        Endpoint, LastResource, LastResourceMemory, LastResourceParticipant, Life, Participant, ParticipantError,
        Pooled,
    },
    platform::Platform,
    txn::{
        Coordinator, Limits, Openings, Policy,
        engine::{
            coordinator_core::{CoordinatorCore, CoreHandles},
            members::{Member, Reach},
            scheduler::{Runner, Sweep},
        },
        recovery,
    },
};

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
    pub(super) fn new(log: Arc<dyn TransactionLog>) -> Self {
        Self {
            log,
            name: None,
            policy: Policy::DEFAULT,
            limits: Limits::default(),
            members: Vec::new(),
            replaces: LogId::NONE,
            platform: Platform::default(),
        }
    }

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
    /// the lost log's coordinator are shown as
    /// [unclaimed](crate::txn::CoordinatorStatus::unclaimed), to be settled by hand, because no log
    /// knows any more what was decided about them. Participants name the lost log's id in the error
    /// with which they refuse.
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
    /// [unclaimed](crate::txn::CoordinatorStatus::unclaimed), to be settled by hand.
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
        self.member(name, Reach::AtOnce(Arc::new(participant)), None)
    }

    /// Adds a participant that is slow or far away. It gets at most `threads` threads of its own,
    /// so that several such participants work in parallel, and slow down only the transactions that
    /// they are in. A commit is answered before they have carried it out; see
    /// [`Commit::delivered`](crate::txn::Commit::delivered).
    pub fn slow_participant(self, name: &str, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let pooled = Pooled::on(self.platform.clone(), participant, threads);
        self.endpoint(name, pooled)
    }

    /// Adds a participant with asynchronous methods: each call is a task on `runtime`, and no
    /// thread waits for it. A commit is answered before it is carried out there; see
    /// [`Commit::delivered`](crate::txn::Commit::delivered).
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
    /// [`Commit::delivered`](crate::txn::Commit::delivered).
    pub fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Self {
        self.member(name, Reach::Later(Arc::new(endpoint)), None)
    }

    /// Adds a resource that cannot promise. A transaction can have at most one of them.
    ///
    /// It commits after all others have promised, and before the decision is logged. If this process
    /// dies between the two, no log knows the outcome. So the next opening asks a resource that
    /// [remembers](crate::participant::CommitMemory) before it rolls the others back, and commits them
    /// if the resource has committed. Until it answers they stay in doubt. **What this cannot
    /// guarantee:** a resource without a memory leaves the transaction torn then. So does an opening
    /// without the resource: register it, under the same name, for as long as transactions with it may
    /// be in doubt. See [failures](crate::docs::failures).
    ///
    /// What a memory costs: participants on the coordinator's log force their promises in transactions
    /// with the resource. And each opening asks about every branch that is in doubt without a decision,
    /// because no record says which transactions had a last resource.
    pub fn last_resource(self, name: &str, resource: impl LastResource) -> Self {
        let resource: Arc<dyn LastResource> = Arc::new(resource);
        let participant = LastResourceParticipant::new(Arc::clone(&resource));
        self.member(name, Reach::AtOnce(Arc::new(participant)), Some(LastResourceMemory::AtOnce(resource)))
    }

    /// Like [`last_resource`](Self::last_resource), for a resource with asynchronous methods: each call
    /// is a task on `runtime`, and no thread waits for it. So is the question at an opening, and the
    /// branches that wait for its answer may be settled after [`open`](Self::open) has returned.
    ///
    /// A database without prepared transactions takes part this way, beside others that can promise:
    /// every [`XaParticipant`](crate::participant::xa::XaParticipant) is such a resource. While it is
    /// one it makes no promises. What it promised as an ordinary participant before is settled.
    #[cfg(feature = "tokio")]
    pub fn async_last_resource(
        self,
        name: &str,
        resource: impl crate::participant::AsyncLastResource,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let participant = crate::participant::AsyncLastResourceParticipant::new(resource);
        let endpoint = Arc::new(crate::participant::Spawned::new(participant, runtime));
        let memory = LastResourceMemory::Later(Arc::clone(&endpoint) as Arc<dyn crate::participant::CommitQuery>);
        self.member(name, Reach::Later(endpoint), Some(memory))
    }

    /// Sets other threads and another clock than the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    fn member(mut self, name: &str, reach: Reach, last_resource: Option<LastResourceMemory>) -> Self {
        self.members.push((name.to_owned(), Member { reach, last_resource }));
        self
    }

    fn coordinator_name(&self) -> Result<Name, CoordinatorError> {
        Ok(match &self.name {
            Some(name) => Name::new(name)?,
            None => default_name(self.log.id())?,
        })
    }

    /// Returns the participants that decisions in the log name: those that may have to be told again.
    pub(crate) fn named_in_log(&self) -> Result<Vec<Name>, CoordinatorError> {
        let decided = self.log.live(&self.coordinator_name()?)?.into_iter().map(|record| record.fact);
        let named = decided.map(|fact| match fact {
            Fact::Decided { participants, .. } => participants,
            _ => Vec::new(),
        });
        Ok(named.flatten().collect())
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
    /// open, it is [`LogError::Claimed`]. If another holder has taken the log over, it is
    /// [`LogError::Fenced`].
    pub fn open(self) -> Result<Coordinator, CoordinatorError> {
        let name = self.coordinator_name()?;
        let mut members = BTreeMap::new();
        for (member_name, member) in self.members {
            let member_name = check(&name, &member_name, &member)?;
            if members.insert(member_name.clone(), member).is_some() {
                return Err(CoordinatorError::DuplicateParticipant { participant: member_name });
            }
        }
        // A new epoch, durable before anything else happens.
        let claim = self.log.claim(&name)?;
        let records = self.log.live(&name)?;
        let openings = Openings::begin(&records, self.log.incarnation()).ok_or(CoordinatorError::EpochsRunOut)?;
        let epoch = openings.current();
        let opened = Record { owner: name.clone(), fact: Fact::Opened { epoch } };
        let lsn = self.log.append(opened, Durability::Forced)?;
        self.log.wait(lsn)?;
        let mut numbers = self.log.openings(&name)?;
        numbers.push((epoch, lsn));
        let openings = openings.numbered(&numbers);
        let life = Life::new(self.log.id(), epoch, lsn.as_u64()).continuing(openings.before());
        let life = Life { replaces: self.replaces, ..life };
        let (policy, limits) = (self.policy.paced(), self.limits);
        let core =
            CoordinatorCore::new(name, (life, openings.told(&life)), self.log, policy, limits, members, self.platform);
        let sweeper: Weak<dyn Sweep> = Arc::downgrade(&(Arc::clone(&core) as Arc<dyn Sweep>));
        core.scheduler.start(&sweeper).map_err(CoordinatorError::Threads)?;
        core.look_for_loss();
        let coordinator = Coordinator { handles: CoreHandles::new(&core), core, counts: Arc::default(), _claim: claim };
        // All participants first hear of this life, before the coordinator settles anything.
        coordinator.introduce()?;
        let found = recovery::find(&coordinator.core, &records, &coordinator.counts);
        // Before anything else is sent, and not before participants can ask about what the log
        // holds.
        for slot in coordinator.core.members.present() {
            slot.member().iter().for_each(|member| coordinator.greet(member));
        }
        found.into_iter().for_each(|found| found.run(Runner::Caller));
        coordinator.still_holds_log()?;
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

/// Returns the participant's name, if the participant may take part under it.
pub(super) fn check(coordinator: &Name, name: &str, member: &Member) -> Result<Name, CoordinatorError> {
    let name = Name::new(name)?;
    if name == *coordinator {
        return Err(CoordinatorError::OwnName { name });
    }
    // A participant that panics over it has not said another name.
    let own_name = catch_unwind(AssertUnwindSafe(|| member.own_name())).unwrap_or(None);
    if let Some(own) = own_name.filter(|own| *own != name) {
        return Err(CoordinatorError::WrongName { registered: name, own });
    }
    if !catch_unwind(AssertUnwindSafe(|| member.may_take_part())).unwrap_or(true) {
        return Err(CoordinatorError::CannotPromise { participant: name });
    }
    Ok(name)
}

/// Returns the first 64 bits of the log's id: short enough to read, and 2^32 logs away from a
/// likely collision.
fn default_name(log: LogId) -> Result<Name, IdError> {
    Name::new(&log.to_string()[..16])
}

/// Reason why a coordinator could not be opened, or a participant could not be added to it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
    /// Two participants were given the same name. When one is added: a participant has the name, or is
    /// being added under it.
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
    /// A participant that cannot promise is registered as one that can. All of its transactions would be
    /// rolled back.
    #[error(
        "participant {participant} cannot promise, because it was opened as a last resource: register it with \
         async_last_resource, or open it as an ordinary participant"
    )]
    CannotPromise {
        /// The participant.
        participant: Name,
    },
    /// A participant cannot be added while one of the same name retires.
    #[error(
        "participant {participant} retires, and its name is taken until it is gone; add the new one when the coordinator's status \
         no longer shows it"
    )]
    Retiring {
        /// The name.
        participant: Name,
    },
    /// A participant cannot be added while the coordinator is being shut down.
    #[error("the coordinator is shutting down; add the participant once it is open again")]
    ShuttingDown,
    /// The log could not be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A participant knows another log under this name, or more of this log than it holds. Nothing
    /// was settled at any participant.
    #[error("participant {participant} refuses this coordinator")]
    Refused {
        /// The participant.
        participant: Name,
        /// The participant's error.
        #[source]
        error: ParticipantError,
    },
    /// The log's last epoch is so large that no other can follow.
    #[error("no epoch is left in this log; another program has written to it: open the coordinator on a new one")]
    EpochsRunOut,
    /// The system gave no thread.
    #[error("can't start the coordinator's threads")]
    Threads(#[source] io::Error),
}
