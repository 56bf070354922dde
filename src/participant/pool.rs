//! Slow participants: a bounded number of threads of their own, so that one slow participant slows only the
//! transactions that it takes part in.

use std::{
    collections::VecDeque,
    io,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    Endpoint, Greeting, Participant, ParticipantError, Reply, Request, Response, Verb, endpoint::call, sent_in::SentIn,
};
use crate::platform::{Condvar, Platform};

/// How many requests may wait for a thread, or be under way as tasks: as many as there are transactions in flight at the
/// most, unless configured. What is repeated to a participant that hangs counts like any other, so without a limit an hour
/// of it would fill the memory.
pub const MAX_QUEUED_REQUESTS: usize = 1 << 17;

/// Reaches a blocking participant through threads of its own: requests to several such participants run side by side,
/// and the coordinator's threads never wait for them.
///
/// Threads are started when first needed, up to the limit, and end when the endpoint is dropped; requests over the
/// limit queue in order. Where [`MAX_QUEUED_REQUESTS`] wait already, a request fails at once, as one that gets no answer: a
/// prepare brings a rollback, and everything else is sent again later. A prepare whose deadline has passed while it waited is not
/// carried out: its rollback comes behind it.
pub struct Pooled {
    shared: Arc<Shared>,
    limit: usize,
}

struct Shared {
    participant: Box<dyn Participant>,
    state: Mutex<State>,
    work: Condvar,
    platform: Platform,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(Request, Reply, SentIn)>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl Pooled {
    /// The endpoint of `participant`, with at most `threads` calls under way at once.
    pub fn new(participant: impl Participant, threads: NonZeroUsize) -> Self {
        Self::on(Platform::default(), participant, threads)
    }

    pub(crate) fn on(platform: Platform, participant: impl Participant, threads: NonZeroUsize) -> Self {
        let work = platform.condvar();
        let shared = Shared { participant: Box::new(participant), state: Mutex::default(), work, platform };
        Self { shared: Arc::new(shared), limit: threads.get() }
    }

    fn start_thread(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.shared.platform.spawn("ringpact-participant", move || shared.serve()).map(drop)
    }
}

impl Shared {
    /// The span is let go before anybody hears of the answer.
    #[expect(clippy::needless_pass_by_value, reason = "it is let go")]
    fn answer(&self, request: &Request, sent_in: SentIn) -> Result<Response, ParticipantError> {
        sent_in.call(|| call(&*self.participant, request))
    }

    /// Whether nobody waits for the answer any more. Of votes only: everything else is to be done, late or not.
    fn comes_too_late(&self, request: &Request) -> bool {
        let Request::Branch { verb: Verb::Prepare, call, .. } = request else { return false };
        call.deadline.is_some_and(|deadline| deadline <= self.platform.now())
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some((request, reply, sent_in)) = state.queue.pop_front() {
                drop(state);
                let result = if self.comes_too_late(&request) {
                    Err(ParticipantError::Unreachable)
                } else {
                    self.answer(&request, sent_in)
                };
                // Where the answer goes is not ours; a panic there has printed its message, and must not cost a thread.
                let _ = catch_unwind(AssertUnwindSafe(|| reply.send(result)));
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
        let mut state = self.shared.state.lock();
        if state.queue.len() >= MAX_QUEUED_REQUESTS {
            drop(state);
            reply.send(Err(ParticipantError::Unreachable));
            return;
        }
        state.queue.push_back((request, reply, SentIn::current()));
        if state.idle >= state.queue.len() || state.threads == self.limit {
            self.shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        if self.start_thread().is_err() {
            let mut state = self.shared.state.lock();
            state.threads -= 1;
            // With no thread at all nobody would ever answer; the caller is told so and tries again later.
            let stranded = if state.threads == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() };
            drop(state);
            for (_, reply, _) in stranded {
                reply.send(Err(ParticipantError::Unreachable));
            }
        }
    }

    fn greet(&self, greeting: &Greeting) {
        self.shared.participant.greet(greeting);
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let unsent = std::mem::take(&mut state.queue);
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
