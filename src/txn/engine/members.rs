//! The participants of a coordinator, and how it reaches each of them.

use std::{
    collections::BTreeMap,
    error::Error as StdError,
    ops::Index,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crate::{
    id::Name,
    participant::{self, Endpoint, Greeting, LastResourceMemory, Life, Participant, ParticipantError, Reply, Request},
};

/// One participant.
#[derive(Clone)]
pub(in crate::txn) struct Member {
    pub(in crate::txn) reach: Reach,
    /// The participant as a last resource, if it is one: it commits once all others have promised.
    pub(in crate::txn) last_resource: Option<LastResourceMemory>,
}

/// How a participant is reached.
#[derive(Clone)]
pub(in crate::txn) enum Reach {
    /// The thread that drives a transaction calls it, and has the answer when the call returns.
    AtOnce(Arc<dyn Participant>),
    /// The coordinator sends it messages. Such participants are asked first, and work while the
    /// others are asked.
    Later(Arc<dyn Endpoint>),
}

impl Member {
    /// Sends the request. Either kind may panic; then the dropped reply is the answer.
    pub(in crate::txn) fn send(&self, request: Request, reply: Reply) {
        match &self.reach {
            Reach::AtOnce(participant) => reply.send(participant::call(&**participant, &request)),
            Reach::Later(endpoint) => endpoint.send(request, reply),
        }
    }

    /// Introduces a coordinator to a participant that answers at once. Does nothing for others.
    pub(in crate::txn) fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.meet(coordinator, life),
            Reach::Later(_) => Ok(()),
        }
    }

    /// The name that the participant knows itself by, if it says so.
    pub(in crate::txn) fn own_name(&self) -> Option<Name> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.own_name(),
            Reach::Later(endpoint) => endpoint.own_name(),
        }
    }

    /// Whether the participant can promise, or need not: a last resource is never asked to.
    pub(in crate::txn) fn may_take_part(&self) -> bool {
        match &self.reach {
            Reach::Later(endpoint) if self.last_resource.is_none() => endpoint.can_promise(),
            Reach::Later(_) | Reach::AtOnce(_) => true,
        }
    }

    /// Whether the participant says of an error that it may not come again.
    pub(in crate::txn) fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        match &self.reach {
            Reach::AtOnce(participant) => participant.is_transient(error),
            Reach::Later(endpoint) => endpoint.is_transient(error),
        }
    }

    pub(in crate::txn) fn greet(&self, greeting: &Greeting) {
        match &self.reach {
            Reach::AtOnce(participant) => participant.greet(greeting),
            Reach::Later(endpoint) => endpoint.greet(greeting),
        }
    }
}

/// All participants, in the order of their names. Each has a number, so that a name is looked up
/// only once.
pub(in crate::txn) struct Members {
    all: Box<[(Name, Member)]>,
    /// The last resources that remember what they have committed. They were asked once, because the
    /// question is foreign code.
    remembering: Box<[Name]>,
}

impl Members {
    pub(in crate::txn) fn new(members: BTreeMap<Name, Member>) -> Self {
        // One that panics over the question does not remember.
        let has_memory =
            |resource: &LastResourceMemory| catch_unwind(AssertUnwindSafe(|| resource.remembers())).unwrap_or(false);
        let remembers = |member: &Member| member.last_resource.as_ref().is_some_and(has_memory);
        let remembering =
            members.iter().filter(|(_, member)| remembers(member)).map(|(name, _)| name.clone()).collect();
        Self { all: members.into_iter().collect(), remembering }
    }

    /// Returns the number of the participant with this name. O(log n) in the participants.
    pub(in crate::txn) fn find(&self, name: &str) -> Option<usize> {
        self.all.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()
    }

    /// Whether the caller of the participant with this number has its answer when the call returns.
    /// `None` is a participant that does not exist: it cannot be reached, which is known at once.
    pub(in crate::txn) fn answers_at_once(&self, number: Option<usize>) -> bool {
        number.is_none_or(|number| matches!(self[number].1.reach, Reach::AtOnce(_)))
    }

    /// Returns the names of the last resources that remember what they have committed.
    pub(in crate::txn) const fn remembering(&self) -> &[Name] {
        &self.remembering
    }

    pub(in crate::txn) fn iter(&self) -> impl Iterator<Item = &(Name, Member)> {
        self.all.iter()
    }
}

impl Index<usize> for Members {
    type Output = (Name, Member);

    fn index(&self, number: usize) -> &(Name, Member) {
        &self.all[number]
    }
}
