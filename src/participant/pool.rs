//! [`Pooled`]: a bounded number of threads for one slow participant, so that it slows only the
//! transactions that it takes part in.

use std::{collections::VecDeque, error::Error as StdError, io, num::NonZeroUsize, sync::Arc};

use parking_lot::Mutex;

use super::{
    Endpoint, Greeting, Participant, ParticipantError, Reply, Request, Verb,
    caller_span::CallerSpan,
    duplicates::{Joined, PendingReplies, RequestKey, answer},
    endpoint::call,
};
use crate::{
    id::Name,
    platform::{Condvar, Platform},
};

/// Maximum number of requests of one participant that wait for a thread, or are under way as tasks.
///
/// It is the default limit of transactions in flight. Repeats to a participant that hangs count
/// too: without a limit, an hour of them would fill the memory.
pub const MAX_QUEUED_REQUESTS: usize = 1 << 17;

/// Reaches a blocking participant through threads of its own. Requests to several such participants
/// run side by side, and the coordinator's threads never wait for them. Shared by [`Arc`].
///
/// Threads are started when first needed, up to the limit, and end when the endpoint is dropped.
/// Requests over the limit wait in order, decisions before votes, because finished transactions
/// make room. If [`MAX_QUEUED_REQUESTS`] wait already, a request fails at once, like one that gets
/// no answer: a prepare brings a rollback, and everything else is sent again later.
///
/// Nothing is done twice for lack of a thread: if a request for the same (the same verb for the
/// same branch) is queued or under way, the later one gets its answer. A prepare is not carried out
/// if its deadline passed while it waited, if its rollback has come, or if its coordinator is gone.
/// A coordinator in another process is gone when the connection to it is; see [`Reply::new_while`].
/// Such a prepare keeps its place in the queue until its turn comes. Everything else is carried out
/// whether its answer is awaited or not: what was decided stays decided.
pub struct Pooled {
    /// Jobs have references too, but idle threads have none: they would keep the participant, and
    /// the log that it has open, after this endpoint is dropped.
    participant: Arc<dyn Participant>,
    shared: Arc<PoolShared>,
    limit: usize,
}

/// What the endpoint and its threads share.
struct PoolShared {
    state: Mutex<PoolState>,
    work: Condvar,
    platform: Platform,
}

/// The queues, and how many threads there are.
#[derive(Default)]
struct PoolState {
    urgent: VecDeque<Job>,
    votes: VecDeque<Job>,
    pending: PendingReplies,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// A request that waits for a thread.
struct Job {
    participant: Arc<dyn Participant>,
    request: Request,
    key: RequestKey,
    caller_span: CallerSpan,
}

impl PoolState {
    fn queued(&self) -> usize {
        self.urgent.len() + self.votes.len()
    }

    /// Empties the queues, and returns the replies that wait for what was in them.
    fn take_all(&mut self) -> Vec<Reply> {
        let (urgent, votes) = (std::mem::take(&mut self.urgent), std::mem::take(&mut self.votes));
        urgent.into_iter().chain(votes).flat_map(|job| self.pending.take_queued(&job.key)).collect()
    }

    /// Takes the next job that is still to be carried out.
    fn next(&mut self) -> Option<Job> {
        while let Some(job) = self.urgent.pop_front().or_else(|| self.votes.pop_front()) {
            if self.pending.begins(&job.key) {
                return Some(job);
            }
        }
        None
    }
}

impl Pooled {
    /// Returns the endpoint of `participant`, with at most `threads` calls under way at once.
    pub fn new(participant: impl Participant, threads: NonZeroUsize) -> Self {
        Self::on(Platform::default(), participant, threads)
    }

    pub(crate) fn on(platform: Platform, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let work = platform.condvar();
        let shared = Arc::new(PoolShared { state: Mutex::default(), work, platform });
        Self { participant: Arc::new(participant), shared, limit: threads.get() }
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.platform.spawn("ringpact-participant", move || shared.serve()).map(drop)
    }
}

impl PoolShared {
    /// Whether the deadline of a prepare has passed. Everything else must be carried out, late or
    /// not.
    fn comes_too_late(&self, request: &Request) -> bool {
        let Request::Branch { verb: Verb::Prepare, call, .. } = request else { return false };
        call.deadline.is_some_and(|deadline| deadline <= self.platform.now())
    }

    /// Carries out jobs until the endpoint is dropped and the queues are empty.
    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(Job { participant, request, key, caller_span }) = state.next() {
                let is_vote = matches!(key, RequestKey::Branch(_, Verb::Prepare, _));
                let is_awaited = !is_vote || state.pending.is_awaited(&key);
                drop(state);
                let result = if !is_awaited || self.comes_too_late(&request) {
                    Err(ParticipantError::Unreachable)
                } else {
                    caller_span.call(|| call(&*participant, &request))
                };
                // Before the answer is sent: a client may drop everything and open it again at the
                // last answer.
                drop((participant, caller_span));
                let replies = self.state.lock().pending.take(&key);
                // A reply that panics has printed its message, and must not cost a thread.
                answer(replies, &result);
                state = self.state.lock();
            } else if state.closed {
                return;
            } else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
            }
        }
    }
}

impl Endpoint for Pooled {
    fn send(&self, request: Request, reply: Reply) {
        let key = RequestKey::of(&request);
        let mut state = self.shared.state.lock();
        // A rollback takes its prepare out of the queue, if that has not begun.
        let prepare = match &key {
            RequestKey::Branch(branch, Verb::Rollback, epoch) => {
                state.pending.take_queued(&RequestKey::Branch(branch.clone(), Verb::Prepare, *epoch))
            }
            _ => Vec::new(),
        };
        let joined = state.pending.join(&key, reply);
        if let Joined::First = joined {
            let participant = Arc::clone(&self.participant);
            let job = Job { participant, request, key, caller_span: CallerSpan::current() };
            let queue = if job.key.is_urgent() { &mut state.urgent } else { &mut state.votes };
            queue.push_back(job);
        }
        let starts = matches!(joined, Joined::First) && state.idle < state.queued() && state.threads < self.limit;
        state.threads += usize::from(starts);
        drop(state);
        match joined {
            Joined::First if !starts => self.shared.work.notify_one(),
            Joined::Refused(reply) => reply.send(Err(ParticipantError::Unreachable)),
            _ => {}
        }
        drop(prepare);
        if starts && self.start_thread().is_err() {
            let mut state = self.shared.state.lock();
            state.threads -= 1;
            // Without any thread no request would be answered, so all fail; the coordinator tries
            // again later.
            let stranded = if state.threads == 0 { state.take_all() } else { Vec::new() };
            drop(state);
            answer(stranded, &Err(ParticipantError::Unreachable));
        }
    }

    fn own_name(&self) -> Option<Name> {
        self.participant.own_name()
    }

    fn greet(&self, greeting: &Greeting) {
        self.participant.greet(greeting);
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.participant.is_transient(error)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let unsent = state.take_all();
        drop(state);
        self.shared.work.notify_all();
        drop(unsent);
    }
}

impl std::fmt::Debug for Pooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pooled").field("limit", &self.limit).finish_non_exhaustive()
    }
}
