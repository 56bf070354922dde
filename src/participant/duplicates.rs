//! Requests for the same: while one of them waits or is under way, the others wait for its answer.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Life, MAX_QUEUED_REQUESTS, ParticipantError, Reply, Request, Response, Verb};
use crate::id::{BranchId, Epoch, Name};

/// What a request asks for: equal for requests for the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum RequestKey {
    /// The epoch is part of it, because a participant may refuse one life of a coordinator and serve
    /// another.
    Branch(BranchId, Verb, Epoch),
    InDoubt(Name, Option<Life>),
    /// Not a question for participants; they refuse it.
    Verdict(BranchId),
    /// Messages that are not the coordinator's are never duplicates: a client may do the same work
    /// twice. Each has a number of its own.
    Message(u64),
}

impl RequestKey {
    pub(super) fn of(request: &Request) -> Self {
        match request {
            Request::Branch { branch, verb, call } => Self::Branch(branch.clone(), *verb, call.epoch),
            Request::InDoubt { coordinator, life } => Self::InDoubt(coordinator.clone(), *life),
            Request::Verdict { branch } => Self::Verdict(branch.clone()),
            Request::Message { .. } => {
                static LAST: AtomicU64 = AtomicU64::new(0);
                Self::Message(LAST.fetch_add(1, Ordering::Relaxed))
            }
        }
    }

    /// Whether the request is served before votes: decisions finish transactions and make room,
    /// votes and clients' messages do not.
    pub(super) const fn is_urgent(&self) -> bool {
        !matches!(self, Self::Branch(_, Verb::Prepare | Verb::CommitOnePhase, _) | Self::Message(_))
    }
}

/// All replies that are owed, by what their requests ask for.
#[derive(Default)]
pub(super) struct PendingReplies {
    waiting: HashMap<RequestKey, Waiting>,
    replies: usize,
}

/// The replies to requests for one thing.
#[derive(Default)]
struct Waiting {
    replies: Vec<Reply>,
    is_under_way: bool,
}

/// The result of [`PendingReplies::join`].
pub(super) enum Joined {
    /// The request is the first for this, and must be carried out.
    First,
    /// The request waits for the answer to the first.
    Duplicate,
    /// Too many requests wait; this is the reply.
    Refused(Reply),
}

impl PendingReplies {
    /// Takes in the reply of a request.
    pub(super) fn join(&mut self, key: &RequestKey, reply: Reply) -> Joined {
        if self.replies >= MAX_QUEUED_REQUESTS {
            return Joined::Refused(reply);
        }
        self.replies += 1;
        if let Some(waiting) = self.waiting.get_mut(key) {
            waiting.replies.push(reply);
            return Joined::Duplicate;
        }
        self.waiting.insert(key.clone(), Waiting { replies: vec![reply], is_under_way: false });
        Joined::First
    }

    /// Notes that the request is about to be carried out. Returns `false` if it was taken out
    /// meanwhile.
    pub(super) fn begins(&mut self, key: &RequestKey) -> bool {
        self.waiting.get_mut(key).is_some_and(|waiting| !std::mem::replace(&mut waiting.is_under_way, true))
    }

    /// Whether a sender still waits for the answer.
    pub(super) fn is_awaited(&self, key: &RequestKey) -> bool {
        self.waiting.get(key).is_some_and(|waiting| waiting.replies.iter().any(Reply::is_awaited))
    }

    /// Takes out the replies that wait for the answer.
    pub(super) fn take(&mut self, key: &RequestKey) -> Vec<Reply> {
        let taken = self.waiting.remove(key).map_or_else(Vec::new, |waiting| waiting.replies);
        self.replies -= taken.len();
        taken
    }

    /// Like [`take`](Self::take), but only if the request is not under way yet.
    pub(super) fn take_queued(&mut self, key: &RequestKey) -> Vec<Reply> {
        if self.waiting.get(key).is_some_and(|waiting| waiting.is_under_way) { Vec::new() } else { self.take(key) }
    }
}

/// Sends the answer to all replies. What takes it in is foreign code: a panic there does not keep
/// it from the others.
pub(super) fn answer(replies: Vec<Reply>, result: &Result<Response, ParticipantError>) {
    for reply in replies {
        let result = result.clone();
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| reply.send(result)));
    }
}
