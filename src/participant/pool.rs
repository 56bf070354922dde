//! Slow participants: a bounded number of threads of their own, so that one slow participant slows only the
//! transactions that it takes part in.

use std::{collections::VecDeque, io, num::NonZeroUsize, sync::Arc};

use parking_lot::Mutex;

use super::{
    Endpoint, Greeting, Participant, ParticipantError, Reply, Request, Verb,
    caller_span::CallerSpan,
    endpoint::call,
    twins::{Joined, Twins, What, answer},
};
use crate::{
    id::Name,
    platform::{Condvar, Platform},
};

/// How many requests may wait for a thread, or be under way as tasks: as many as there are transactions in flight at the
/// most, unless configured. What is repeated to a participant that hangs counts like any other, so without a limit an hour
/// of it would fill the memory.
pub const MAX_QUEUED_REQUESTS: usize = 1 << 17;

/// Reaches a blocking participant through threads of its own: requests to several such participants run side by side,
/// and the coordinator's threads never wait for them.
///
/// Threads are started when first needed, up to the limit, and end when the endpoint is dropped; requests over the
/// limit queue in order, decisions before votes: what is finished makes room. Where [`MAX_QUEUED_REQUESTS`] wait already, a
/// request fails at once, as one that gets no answer: a prepare brings a rollback, and everything else is sent again later.
///
/// Nothing is done twice for want of a thread: a request whose twin (the same verb for the same branch) is queued or under way
/// gets that one's answer. A prepare whose deadline has passed while it waited, whose rollback has come, or whose coordinator
/// is gone (of one elsewhere, the connection to it: see [`Reply::new_while`]) is not carried out. It keeps its place in the queue until
/// its turn comes. Everything else is carried out whether its answer is awaited or not: what was decided stays decided.
pub struct Pooled {
    /// The calls that are queued or under way have it, too, and nobody else: an idle thread would keep it, and the log that
    /// it has open, beyond the drop of this.
    participant: Arc<dyn Participant>,
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    platform: Platform,
}

#[derive(Default)]
struct State {
    urgent: VecDeque<Job>,
    votes: VecDeque<Job>,
    twins: Twins,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Job {
    participant: Arc<dyn Participant>,
    request: Request,
    what: What,
    caller_span: CallerSpan,
}

impl State {
    fn queued(&self) -> usize {
        self.urgent.len() + self.votes.len()
    }

    /// Empties the queue, and gives all who wait for what was in it.
    fn take_all(&mut self) -> Vec<Reply> {
        let (urgent, votes) = (std::mem::take(&mut self.urgent), std::mem::take(&mut self.votes));
        urgent.into_iter().chain(votes).flat_map(|job| self.twins.take_queued(&job.what)).collect()
    }

    fn next(&mut self) -> Option<Job> {
        while let Some(job) = self.urgent.pop_front().or_else(|| self.votes.pop_front()) {
            if self.twins.begins(&job.what) {
                return Some(job);
            }
        }
        None
    }
}

impl Pooled {
    /// The endpoint of `participant`, with at most `threads` calls under way at once.
    pub fn new(participant: impl Participant, threads: NonZeroUsize) -> Self {
        Self::on(Platform::default(), participant, threads)
    }

    pub(crate) fn on(platform: Platform, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let work = platform.condvar();
        let shared = Arc::new(Shared { state: Mutex::default(), work, platform });
        Self { participant: Arc::new(participant), shared, limit: threads.get() }
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.platform.spawn("ringpact-participant", move || shared.serve()).map(drop)
    }
}

impl Shared {
    /// Whether nobody waits for the answer any more. Of votes only: everything else is to be done, late or not.
    fn comes_too_late(&self, request: &Request) -> bool {
        let Request::Branch { verb: Verb::Prepare, call, .. } = request else { return false };
        call.deadline.is_some_and(|deadline| deadline <= self.platform.now())
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(Job { participant, request, what, caller_span }) = state.next() {
                let is_vote = matches!(what, What::Branch(_, Verb::Prepare, _));
                let is_awaited = !is_vote || state.twins.is_awaited(&what);
                drop(state);
                let result = if !is_awaited || self.comes_too_late(&request) {
                    Err(ParticipantError::Unreachable)
                } else {
                    caller_span.call(|| call(&*participant, &request))
                };
                // Before anybody hears of the answer: whoever hears the last one may drop everything and open it again.
                drop((participant, caller_span));
                let replies = self.state.lock().twins.take(&what);
                // A panic there has printed its message, and must not cost a thread.
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
        let what = What::of(&request);
        let mut state = self.shared.state.lock();
        // Its prepare, if it has not begun, need not begin any more.
        let prepare = match &what {
            What::Branch(branch, Verb::Rollback, epoch) => {
                state.twins.take_queued(&What::Branch(branch.clone(), Verb::Prepare, *epoch))
            }
            _ => Vec::new(),
        };
        let joined = state.twins.join(&what, reply);
        if let Joined::First = joined {
            let participant = Arc::clone(&self.participant);
            let job = Job { participant, request, what, caller_span: CallerSpan::current() };
            let queue = if job.what.is_urgent() { &mut state.urgent } else { &mut state.votes };
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
            // With no thread at all nobody would ever answer; the caller is told so and tries again later.
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
