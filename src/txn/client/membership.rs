//! Participants that are added, or retire, while the coordinator is open.

use std::{num::NonZeroUsize, sync::Arc};

use thiserror::Error;

use crate::{
    id::{IdError, Name},
    participant::{Endpoint, Participant, Pooled},
    txn::{
        Coordinator, CoordinatorError,
        client::builder::check,
        engine::{
            members::{Member, MemberStanding, Reach, Slot, Taken},
            scheduler::{Runnable, Runner},
        },
        recovery::Asked,
    },
};

/// Participants that come and go. A participant that is added takes part as if it had been named to the
/// [builder](crate::txn::CoordinatorBuilder). The coordinator introduces itself, asks what the participant
/// holds of earlier epochs, and delivers decisions that could not be delivered because the participant was not
/// there, parked ones included.
///
/// A coordinator does not remember which participants were added: after it was opened again, add them
/// again. Until then, transactions of the log that name them wait, and what they hold stays in doubt.
///
/// Last resources are named to the builder only, and do not retire: an opening asks them about every branch
/// in doubt. If there are some that remember, a participant that is added so late that they may have forgotten gets
/// no answer about branches of earlier epochs without a decision. These are
/// [unclaimed](crate::txn::CoordinatorStatus::unclaimed). Name such a participant to the builder instead.
///
/// ```
/// use ringpact::{Coordinator, MemoryLog, txn::BranchError};
///
/// let coordinator = Coordinator::builder(MemoryLog::new()).name("shop").open()?;
/// coordinator.add_participant("goods", Yes)?;
/// let mut txn = coordinator.begin();
/// txn.branch("goods")?;
/// coordinator.retire("goods")?;
/// assert!(matches!(coordinator.begin().branch("goods"), Err(BranchError::Retiring { .. })));
/// txn.commit().wait()?; // the last one with a branch of it
/// # for _ in 0..5_000 {
/// #     if coordinator.status().retiring.is_empty() { break; }
/// #     std::thread::sleep(std::time::Duration::from_millis(1));
/// # }
/// assert!(coordinator.status().retiring.is_empty(), "a moment later it is dropped");
/// # use ringpact::{BranchId, Name, Participant, ParticipantError, Vote, participant::Call};
/// # struct Yes;
/// # impl Participant for Yes {
/// #     fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> { Ok(Vote::Yes) }
/// #     fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
/// #     fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
/// #     fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> { Ok(Vec::new()) }
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
impl Coordinator {
    /// Adds a participant of this process that answers quickly and never blocks; see
    /// [`CoordinatorBuilder::participant`](crate::txn::CoordinatorBuilder::participant). What it holds in
    /// doubt is settled when this returns, if all participants have answered by then. Blocks for calls of
    /// the participant; from async code use a thread for blocking work. O(n) in the participants and the open
    /// transactions.
    ///
    /// # Errors
    ///
    /// [`CoordinatorError`]: of the name, of a participant that may not take part or refuses the coordinator;
    /// [`Retiring`](CoordinatorError::Retiring) while one of the same name retires;
    /// [`ShuttingDown`](CoordinatorError::ShuttingDown); of a log that was taken over. Then the participant is
    /// dropped, and nothing has changed.
    pub fn add_participant(&self, name: &str, participant: impl Participant) -> Result<(), CoordinatorError> {
        self.add(name, Reach::AtOnce(Arc::new(participant)))
    }

    /// Adds a participant that is slow or far away; see
    /// [`CoordinatorBuilder::slow_participant`](crate::txn::CoordinatorBuilder::slow_participant). What it
    /// holds in doubt is settled in the background. Does not block. O(n) in the participants and the open
    /// transactions.
    ///
    /// # Errors
    ///
    /// As for [`add_participant`](Self::add_participant). One that refuses the coordinator says so in the
    /// background: see [`CoordinatorStatus::unanswered_by`](crate::txn::CoordinatorStatus::unanswered_by).
    pub fn add_slow_participant(
        &self,
        name: &str,
        participant: impl Participant,
        threads: NonZeroUsize,
    ) -> Result<(), CoordinatorError> {
        self.add_endpoint(name, Pooled::on(self.core.platform.clone(), participant, threads))
    }

    /// Adds a participant with asynchronous methods; see
    /// [`CoordinatorBuilder::async_participant`](crate::txn::CoordinatorBuilder::async_participant). What it
    /// holds in doubt is settled in the background. Does not block. O(n) in the participants and the open
    /// transactions.
    ///
    /// # Errors
    ///
    /// As for [`add_slow_participant`](Self::add_slow_participant).
    #[cfg(feature = "tokio")]
    pub fn add_async_participant(
        &self,
        name: &str,
        participant: impl crate::participant::AsyncParticipant,
        runtime: tokio::runtime::Handle,
    ) -> Result<(), CoordinatorError> {
        self.add_endpoint(name, crate::participant::Spawned::new(participant, runtime))
    }

    /// Adds a participant that is reached in another way; see
    /// [`CoordinatorBuilder::endpoint`](crate::txn::CoordinatorBuilder::endpoint). What it holds in doubt is
    /// settled in the background. Blocks only for calls of the endpoint. O(n) in the participants and the
    /// open transactions.
    ///
    /// # Errors
    ///
    /// As for [`add_slow_participant`](Self::add_slow_participant).
    pub fn add_endpoint(&self, name: &str, endpoint: impl Endpoint) -> Result<(), CoordinatorError> {
        self.add(name, Reach::Later(Arc::new(endpoint)))
    }

    fn add(&self, name: &str, reach: Reach) -> Result<(), CoordinatorError> {
        let (core, member) = (&self.core, Member { reach, last_resource: None });
        let name = check(self.name(), name, &member)?;
        let joining = core.members.reserve(&name).map_err(|taken| match taken {
            Taken::ByMember => CoordinatorError::DuplicateParticipant { participant: name.clone() },
            Taken::ByRetiring => CoordinatorError::Retiring { participant: name.clone() },
        })?;
        self.still_holds_log()?;
        if core.admission.is_closed() {
            return Err(CoordinatorError::ShuttingDown);
        }
        // The participant hears of this life, and where to ask for verdicts, before anything is settled or
        // begun there.
        self.introduce_to(&name, &member)?;
        self.greet(&member);
        let slot = Slot::new(name.clone(), member, core.settings, &core.platform);
        let Some(recovery) = core.recovery.get() else { return Err(CoordinatorError::ShuttingDown) };
        recovery.introductions.one_more();
        let query = core.joins(joining, slot, |number, slot| recovery.query(core, number, &slot.name, Asked::Later));
        if let Some(query) = &query {
            core.retry_at(&name);
            Arc::clone(query).run(Runner::Caller);
        }
        recovery.introductions.one_more_is_added();
        query.map_or(Err(CoordinatorError::ShuttingDown), |_| Ok(()))
    }

    /// Has a participant retire: from now on it gets no new branches. It is dropped as soon as no open
    /// transaction has a branch of it that has not ended there; parked transactions, and those with a
    /// heuristic outcome there, count as open. If there are none, it is dropped when this returns; else a
    /// thread of its own drops it. Until then [`CoordinatorStatus::retiring`](crate::txn::CoordinatorStatus)
    /// shows it. Then its name is free, and another participant, or the same one, can be added under it.
    ///
    /// A participant that has not yet said what it holds of earlier epochs is not waited for. What it holds
    /// stays in doubt there until it is added again. For a participant that does not answer any more, also
    /// [park](Self::give_up) what it owes, and [force](Self::force) that by hand.
    ///
    /// A participant that was named to the builder and answers at once gets no more messages then, but is
    /// kept in memory until the coordinator is dropped. To drop it earlier, add it instead: that costs each
    /// message some 20 ns.
    ///
    /// Does not block, except for the drop of the participant. O(n) in the open transactions.
    ///
    /// # Errors
    ///
    /// [`RetireError`]: there is no such participant, it retires already, or it is a last resource.
    pub fn retire(&self, name: &str) -> Result<(), RetireError> {
        let participant = Name::new(name)?;
        let number = self.core.members.find(name);
        if number.is_some_and(|number| self.core.members[number].is_last_resource) {
            return Err(RetireError::LastResource { participant });
        }
        self.core.retire(&participant).map_err(|standing| match standing {
            Some(MemberStanding::Retires) => RetireError::Retiring { participant },
            _ => RetireError::Unknown { participant },
        })
    }
}

/// Reason why a participant cannot retire. Nothing has changed then.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetireError {
    /// The coordinator has no such participant.
    #[error("the coordinator has no participant {participant} that could retire")]
    Unknown {
        /// The name.
        participant: Name,
    },
    /// The participant retires already.
    #[error("{participant} retires already; the coordinator's status shows for how many transactions it waits")]
    Retiring {
        /// The participant.
        participant: Name,
    },
    /// The participant is a last resource, which is asked about branches in doubt for as long as the
    /// coordinator is open.
    #[error("{participant} is a last resource, and cannot retire; open the coordinator without it")]
    LastResource {
        /// The participant.
        participant: Name,
    },
    /// The name is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
}
