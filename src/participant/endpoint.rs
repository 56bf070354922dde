//! The one seam through which a coordinator reaches participants, in completion style.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Call, Decision, Greeting, Life, Participant, ParticipantError, Verdict, Vote};
use crate::id::{BranchId, Name, TxnOrdinal};

/// What a branch is told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verb {
    /// Vote; answered by [`Response::Voted`].
    Prepare,
    /// Carry the decision out; answered by [`Response::Done`].
    Commit,
    /// Undo; answered by [`Response::Done`].
    Rollback,
    /// Decide alone; answered by [`Response::Decided`].
    CommitOnePhase,
}

/// A message to a participant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// About one branch.
    Branch {
        /// Which.
        branch: BranchId,
        /// What to do.
        verb: Verb,
        /// What the coordinator says along with it.
        call: Call,
    },
    /// Which branches of this coordinator are unfinished? Answered by [`Response::InDoubt`].
    InDoubt {
        /// Name of the coordinator that asks.
        coordinator: Name,
        /// Which life of it asks; the participant [meets](Participant::meet) it before it answers.
        #[serde(default)]
        life: Option<Life>,
    },
    /// What became of this branch? Goes the other way: a participant asks the branch's coordinator. Answered by
    /// [`Response::Verdict`].
    Verdict {
        /// Which.
        branch: BranchId,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To [`Verb::Prepare`].
    Voted(Vote),
    /// To [`Verb::Commit`] and [`Verb::Rollback`].
    Done,
    /// To [`Verb::CommitOnePhase`].
    Decided(Decision),
    /// To [`Request::InDoubt`].
    InDoubt(Vec<BranchId>),
    /// To [`Request::Verdict`].
    Verdict {
        /// What became of it.
        verdict: Verdict,
        /// All transactions of this coordinator from this mark on begin after the answer.
        begun_below: TxnOrdinal,
    },
}

/// Carries requests to a participant, wherever it is; or, of the one kind that goes the other way, to a coordinator.
///
/// `send` must not block for long: it answers at once (an in-process participant) or later from any thread. Dropping
/// the [`Reply`] unanswered says that the request failed; whether it arrived is then not known. Requests may be
/// delivered late, twice, out of order or never; the protocol is made for that.
///
/// # To another process
///
/// A [`Request`] and its answer, a `Result<Response, ParticipantError>`, go over a network in whatever form `serde` can
/// give them. In a form that names things (JSON) no name of a variant or field is ever changed, and a later version may add
/// new ones; in one that counts them (postcard) they keep their places, and only new *variants* can be added, so both
/// sides should be of one version there. What does not fit, be it an unknown variant or a name that is none, is an error
/// of the decoder; drop the reply then.
///
/// ```
/// use ringpact::{Vote, participant::{ParticipantError, Response}};
///
/// let answer: Result<Response, ParticipantError> = Ok(Response::Voted(Vote::Yes));
/// assert_eq!(serde_json::to_string(&answer)?, r#"{"Ok":{"Voted":"Yes"}}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// What a transport has to do beyond that is match answers to requests, and drop the replies that a lost connection
/// leaves unanswered. `examples/remote` has one over TCP. [`Pooled`](super::Pooled) and [`Inline`] answer at the other end.
pub trait Endpoint: Send + Sync + 'static {
    /// Sends the request and sees to it that the reply is used or dropped in the end.
    fn send(&self, request: Request, reply: Reply);

    /// A coordinator has been opened, and says who it is. As provided it does nothing: a participant far away learns of
    /// it from the calls, and is told by whoever opens it where to ask for verdicts.
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }
}

impl<E: Endpoint + ?Sized> Endpoint for Arc<E> {
    fn send(&self, request: Request, reply: Reply) {
        (**self).send(request, reply);
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
}

/// Where replies go to. Implemented by whoever sends requests.
pub(crate) trait ReplySink: Send + Sync {
    /// Takes the answer to the request that `tag` stands for.
    fn deliver(self: Arc<Self>, tag: usize, result: Result<Response, ParticipantError>);

    /// Whether the answer is still of use to anybody.
    fn is_awaited(&self) -> bool {
        true
    }
}

/// The way back for one answer. Dropped unanswered, it reports [`ParticipantError::Unreachable`].
pub struct Reply {
    sink: Option<Arc<dyn ReplySink>>,
    tag: usize,
}

impl Reply {
    pub(crate) fn to(sink: Arc<dyn ReplySink>, tag: usize) -> Self {
        Self { sink: Some(sink), tag }
    }

    /// A reply that calls `then`: for endpoints that wrap another one (a transport, a fault injector), and for tests.
    pub fn new(then: impl FnOnce(Result<Response, ParticipantError>) + Send + 'static) -> Self {
        Self::to(Arc::new(Callback(Mutex::new(Some(then)))), 0)
    }

    /// Whether the answer is still of use to anybody: `false` once the coordinator that asked is gone.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.is_awaited())
    }

    /// Answers.
    pub fn send(mut self, result: Result<Response, ParticipantError>) {
        if let Some(sink) = self.sink.take() {
            sink.deliver(self.tag, result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(sink) = self.sink.take() {
            sink.deliver(self.tag, Err(ParticipantError::Unreachable));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("answered", &self.sink.is_none()).finish_non_exhaustive()
    }
}

struct Callback<F>(Mutex<Option<F>>);

impl<F: FnOnce(Result<Response, ParticipantError>) + Send> ReplySink for Callback<F> {
    fn deliver(self: Arc<Self>, _tag: usize, result: Result<Response, ParticipantError>) {
        let then = self.0.lock().take();
        if let Some(then) = then {
            then(result);
        }
    }
}

/// Reaches a participant of the same process by calling it on the sender's thread. For participants that are quick;
/// slow ones go on a [`Pooled`](super::Pooled) endpoint.
#[derive(Debug)]
pub struct Inline<P>(P);

impl<P: Participant> Inline<P> {
    /// The endpoint of `participant`.
    pub const fn new(participant: P) -> Self {
        Self(participant)
    }
}

impl<P: Participant> Endpoint for Inline<P> {
    fn send(&self, request: Request, reply: Reply) {
        let result = call(&self.0, &request);
        reply.send(result);
    }

    fn greet(&self, greeting: &Greeting) {
        self.0.greet(greeting);
    }
}

/// Calls the method that the request names; a panic is an error like any other.
pub(crate) fn call(participant: &dyn Participant, request: &Request) -> Result<Response, ParticipantError> {
    match request {
        Request::Branch { branch, verb, call } => call_about(participant, branch, *verb, call),
        Request::InDoubt { coordinator, life } => guarded(|| {
            if let Some(life) = life {
                participant.meet(coordinator, life)?;
            }
            participant.in_doubt(coordinator).map(Response::InDoubt)
        }),
        Request::Verdict { .. } => Err(ParticipantError::Misdirected),
    }
}

/// Calls the method that the verb names.
pub(crate) fn call_about(
    participant: &dyn Participant,
    branch: &BranchId,
    verb: Verb,
    call: &Call,
) -> Result<Response, ParticipantError> {
    guarded(|| match verb {
        Verb::Prepare => participant.prepare(branch, call).map(Response::Voted),
        Verb::Commit => participant.commit(branch, call).map(|()| Response::Done),
        Verb::Rollback => participant.rollback(branch, call).map(|()| Response::Done),
        Verb::CommitOnePhase => participant.commit_one_phase(branch, call).map(Response::Decided),
    })
}

/// The participant's state is its own to keep sound: every method may be called again after a panic, as after any other
/// failure, so nothing of ours is left half-changed by unwinding through here.
fn guarded(call: impl FnOnce() -> Result<Response, ParticipantError>) -> Result<Response, ParticipantError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(ParticipantError::Panicked))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counts {
        sent: AtomicUsize,
        greeted: AtomicUsize,
    }

    impl Endpoint for Counts {
        fn send(&self, _: Request, _: Reply) {
            self.sent.fetch_add(1, Ordering::Relaxed);
        }
        fn greet(&self, _: &Greeting) {
            self.greeted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The provided `greet` does nothing, and would keep the greeting from whoever the endpoint is shared with.
    #[test]
    fn a_shared_endpoint_hears_all_that_is_said_to_it() {
        let counts = Arc::new(Counts::default());
        let shared: Arc<dyn Endpoint> = counts.clone();
        let name = Name::from_static("shop");
        shared.greet(&Greeting::new(name.clone(), Life::default(), Arc::clone(&shared)));
        Endpoint::send(&shared, Request::InDoubt { coordinator: name, life: None }, Reply::new(|_| {}));
        assert_eq!((counts.sent.load(Ordering::Relaxed), counts.greeted.load(Ordering::Relaxed)), (1, 1));
    }
}
