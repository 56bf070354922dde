//! Requests that ask for the same: while one of them waits or is under way, its twins wait for its answer.

use std::collections::HashMap;

use super::{Life, MAX_QUEUED_REQUESTS, ParticipantError, Reply, Request, Response, Verb};
use crate::id::{BranchId, Epoch, Name};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    /// Of one life of the coordinator: what a participant refuses one life, it may do for another.
    Branch(BranchId, Verb, Epoch),
    InDoubt(Name, Option<Life>),
    /// A question that is not for participants.
    Verdict(BranchId),
}

impl What {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Branch { branch, verb, call } => Self::Branch(branch.clone(), *verb, call.epoch),
            Request::InDoubt { coordinator, life } => Self::InDoubt(coordinator.clone(), *life),
            Request::Verdict { branch } => Self::Verdict(branch.clone()),
        }
    }

    /// Whether it comes before votes: what has been decided makes room, and what is asked for adds to it.
    pub(super) const fn is_urgent(&self) -> bool {
        !matches!(self, Self::Branch(_, Verb::Prepare | Verb::CommitOnePhase, _))
    }
}

/// All replies that are owed.
#[derive(Default)]
pub(super) struct Twins {
    waiting: HashMap<What, Waiting>,
    replies: usize,
}

#[derive(Default)]
struct Waiting {
    replies: Vec<Reply>,
    is_under_way: bool,
}

/// What became of a request.
pub(super) enum Joined {
    /// It is the first that asks for this, and is to be carried out.
    First,
    /// It waits for the answer to the first.
    Twin,
    /// There are too many.
    Refused(Reply),
}

impl Twins {
    pub(super) fn join(&mut self, what: &What, reply: Reply) -> Joined {
        if self.replies >= MAX_QUEUED_REQUESTS {
            return Joined::Refused(reply);
        }
        self.replies += 1;
        if let Some(waiting) = self.waiting.get_mut(what) {
            waiting.replies.push(reply);
            return Joined::Twin;
        }
        self.waiting.insert(what.clone(), Waiting { replies: vec![reply], is_under_way: false });
        Joined::First
    }

    /// It is about to be carried out. False where it has been taken out meanwhile.
    pub(super) fn begins(&mut self, what: &What) -> bool {
        self.waiting.get_mut(what).is_some_and(|waiting| !std::mem::replace(&mut waiting.is_under_way, true))
    }

    /// Whether anybody still wants to know.
    pub(super) fn is_awaited(&self, what: &What) -> bool {
        self.waiting.get(what).is_some_and(|waiting| waiting.replies.iter().any(Reply::is_awaited))
    }

    /// Those that wait for the answer.
    pub(super) fn take(&mut self, what: &What) -> Vec<Reply> {
        let taken = self.waiting.remove(what).map_or_else(Vec::new, |waiting| waiting.replies);
        self.replies -= taken.len();
        taken
    }

    /// The same, of one that is not under way yet.
    pub(super) fn take_queued(&mut self, what: &What) -> Vec<Reply> {
        if self.waiting.get(what).is_some_and(|waiting| waiting.is_under_way) { Vec::new() } else { self.take(what) }
    }
}

/// Gives all of them the answer. Where it goes is not ours: one that panics keeps it from none of the others.
pub(super) fn answer(replies: Vec<Reply>, result: &Result<Response, ParticipantError>) {
    for reply in replies {
        let result = result.clone();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reply.send(result)));
    }
}
