//! The participants, as a coordinator knows them.

use std::{collections::BTreeMap, ops::Index, sync::Arc};

use crate::{
    id::Name,
    participant::{self, Endpoint, Greeting, Life, Participant, ParticipantError, Reply, Request},
};

/// One participant.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) reach: Reach,
    pub(super) promises: Promises,
}

/// How a participant is reached.
#[derive(Clone)]
pub(super) enum Reach {
    /// It is called by whoever drives a transaction, and has answered when the call returns.
    AtOnce(Arc<dyn Participant>),
    /// It is sent messages. Such participants are asked first, and work on it while the others are asked.
    Later(Arc<dyn Endpoint>),
}

/// Whether a participant can promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Promises {
    Can,
    /// It is a last resource.
    Cannot,
}

impl Member {
    /// Sends the request. Neither of both kinds may be trusted not to panic; dropping the reply is answer enough then.
    pub(super) fn send(&self, request: Request, reply: Reply) {
        match &self.reach {
            Reach::AtOnce(participant) => reply.send(participant::call(&**participant, &request)),
            Reach::Later(endpoint) => endpoint.send(request, reply),
        }
    }

    /// Introduces a coordinator to a participant that answers at once; nothing is said to others.
    pub(super) fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.meet(coordinator, life),
            Reach::Later(_) => Ok(()),
        }
    }

    /// The name that the participant knows itself by, if it says so.
    pub(super) fn own_name(&self) -> Option<Name> {
        match &self.reach {
            Reach::AtOnce(participant) => participant.own_name(),
            Reach::Later(endpoint) => endpoint.own_name(),
        }
    }

    pub(super) fn greet(&self, greeting: &Greeting) {
        match &self.reach {
            Reach::AtOnce(participant) => participant.greet(greeting),
            Reach::Later(endpoint) => endpoint.greet(greeting),
        }
    }
}

/// All participants, in the order of their names. Each has a number, so that a name need be looked up only once.
pub(super) struct Members(Box<[(Name, Member)]>);

impl Members {
    pub(super) fn new(members: BTreeMap<Name, Member>) -> Self {
        Self(members.into_iter().collect())
    }

    /// The number of the participant with this name. O(log n) in the participants.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.0.binary_search_by(|(other, _)| other.as_str().cmp(name)).ok()
    }

    /// Whether whoever calls the participant with this number has its answer when the call returns. So has he of one that
    /// there is none of: it can't be reached.
    pub(super) fn answers_at_once(&self, number: Option<usize>) -> bool {
        number.is_none_or(|number| matches!(self[number].1.reach, Reach::AtOnce(_)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Name, Member)> {
        self.0.iter()
    }
}

impl Index<usize> for Members {
    type Output = (Name, Member);

    fn index(&self, number: usize) -> &(Name, Member) {
        &self.0[number]
    }
}
