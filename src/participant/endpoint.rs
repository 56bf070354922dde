//! [`Endpoint`]: the one seam through which a coordinator reaches participants. A request is sent
//! with the [`Reply`] that its answer goes to.

use std::{
    error::Error as StdError,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Call, Decision, Greeting, Life, Participant, ParticipantError, Verdict, Vote};
use crate::id::{BranchId, Name, TxnOrdinal};

/// What a participant is told to do with a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Verb {
    /// Vote; answered by [`Response::Voted`].
    Prepare,
    /// Carry out the decision to commit; answered by [`Response::Done`].
    Commit,
    /// Undo the work; answered by [`Response::Done`].
    Rollback,
    /// Decide alone; answered by [`Response::Decided`].
    CommitOnePhase,
}

/// A message to a participant; or, of the kind [`Verdict`](Self::Verdict), to a coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Request {
    /// Tells the participant what to do with one branch.
    Branch {
        /// The branch.
        branch: BranchId,
        /// What to do with it.
        verb: Verb,
        /// What the coordinator says along with it.
        call: Call,
    },
    /// Asks which branches of this coordinator are unfinished. Answered by [`Response::InDoubt`].
    InDoubt {
        /// The name of the coordinator that asks.
        coordinator: Name,
        /// The life that asks. The participant [meets](Participant::meet) it before it answers.
        #[serde(default)]
        life: Option<Life>,
    },
    /// Asks what became of a branch. It goes the other way: a participant asks the branch's
    /// coordinator. Answered by [`Response::Verdict`].
    Verdict {
        /// The branch.
        branch: BranchId,
    },
    /// A message that is not the coordinator's: it is for the service, or for a
    /// [shard](crate::sharding), and goes the way that the coordinator's messages go. Answered by
    /// [`Response::Message`]. In a form for people the bytes are a list of numbers, so choose a binary
    /// form for much traffic.
    Message {
        /// What the receiver of the message reads.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Response {
    /// To [`Verb::Prepare`]: the vote.
    Voted(Vote),
    /// To [`Verb::Commit`] and [`Verb::Rollback`]: it is done.
    Done,
    /// To [`Verb::CommitOnePhase`]: what the participant decided.
    Decided(Decision),
    /// To [`Request::InDoubt`]: the unfinished branches.
    InDoubt(Vec<BranchId>),
    /// To [`Request::Verdict`]: how the transaction ended.
    Verdict {
        /// What became of the transaction.
        verdict: Verdict,
        /// All transactions of this coordinator from this one on begin after the answer.
        begun_below: TxnOrdinal,
    },
    /// To [`Request::Message`]: what its receiver answers.
    Message {
        /// What the sender of the message reads.
        #[serde(with = "serde_bytes")]
        body: Vec<u8>,
    },
}

/// Carries requests to a participant, wherever it is; or questions for a verdict to a coordinator.
/// Shared by [`Arc`], which is an endpoint itself.
///
/// Dropping the [`Reply`] unanswered says that the request failed; whether it arrived is then not
/// known. Requests may be delivered late, twice, out of order or never: the protocol is made for
/// that.
///
/// # To another process
///
/// A [`Request`] and its answer, a `Result<Response, ParticipantError>`, go over a network in any
/// form that `serde` has. In a form that names things (JSON), the name of a variant or field never
/// changes, and a later version may add new ones. In a form that counts them (postcard) they keep
/// their places, and only new *variants* can be added; so both sides should be of one version
/// there. The decoder gives an error for what does not fit, be it an unknown variant or a malformed
/// name. Drop the reply then.
///
/// ```
/// use ringpact::{Vote, participant::{ParticipantError, Response}};
///
/// let answer: Result<Response, ParticipantError> = Ok(Response::Voted(Vote::Yes));
/// assert_eq!(serde_json::to_string(&answer)?, r#"{"Ok":{"Voted":"Yes"}}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// Beyond that a transport must match answers to requests, and drop the replies that a lost
/// connection leaves unanswered. `examples/remote` has a transport over TCP.
/// [`Pooled`](super::Pooled) and [`Inline`] answer at the other end.
pub trait Endpoint: Send + Sync + 'static {
    /// Sends the request, and later uses or drops the reply, from any thread.
    ///
    /// Must not block for long. A participant of this process may be called at once, before this
    /// returns.
    fn send(&self, request: Request, reply: Reply);

    /// Returns the participant's [own name](Participant::own_name), if this end knows it. The
    /// default implementation returns `None`.
    fn own_name(&self) -> Option<Name> {
        None
    }

    /// Whether the participant can promise. If not, no coordinator opens with it, except as a last
    /// resource. The default implementation returns `true`.
    fn can_promise(&self) -> bool {
        true
    }

    /// Whether [`send`](Self::send) only hands the request on, and never waits. A coordinator calls such an endpoint on any of
    /// its threads, and others on threads that the participant has to itself. The default implementation returns `false`.
    fn sends_at_once(&self) -> bool {
        false
    }

    /// Takes in that a coordinator was opened.
    ///
    /// The default implementation does nothing. A participant far away learns of the coordinator
    /// from its calls; the program that opens the participant sets the endpoint that answers for
    /// verdicts ([`set_verdict_endpoint`](super::ResourceManager::set_verdict_endpoint)).
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }

    /// Returns for how long requests have waited while none began, if any wait. The coordinator
    /// asks when an answer is late, to say so. Must not block. The default implementation returns
    /// `None`, which means unknown.
    fn stalled(&self) -> Option<Duration> {
        None
    }

    /// Whether this is an error of the participant's own kind that may not come again; see
    /// [`Participant::is_transient`]. Must not block. The default implementation returns `false`: errors that
    /// come from another process are text.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }
}

impl<E: Endpoint + ?Sized> Endpoint for Arc<E> {
    fn send(&self, request: Request, reply: Reply) {
        (**self).send(request, reply);
    }
    fn own_name(&self) -> Option<Name> {
        (**self).own_name()
    }
    fn sends_at_once(&self) -> bool {
        (**self).sends_at_once()
    }
    fn can_promise(&self) -> bool {
        (**self).can_promise()
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
    fn stalled(&self) -> Option<Duration> {
        (**self).stalled()
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        (**self).is_transient(error)
    }
}

/// Where replies go to. Implemented by the parts that send requests.
pub(crate) trait ReplySink: Send + Sync {
    /// Takes in the answer to the request that `tag` stands for.
    fn deliver(self: Arc<Self>, tag: usize, result: Result<Response, ParticipantError>);

    /// Takes in the answer, and does what follows from it on this thread, where [`deliver`](Self::deliver) may leave it to
    /// another one. For threads that belong to no caller.
    #[cfg(feature = "tokio")]
    fn deliver_here(self: Arc<Self>, tag: usize, result: Result<Response, ParticipantError>) {
        self.deliver(tag, result);
    }

    /// Whether the sender still waits for the answer.
    fn is_awaited(&self) -> bool {
        true
    }
}

/// The way back for one answer. Dropped unanswered, it reports [`ParticipantError::Unreachable`].
/// It is used once, so it is moved and never shared.
pub struct Reply {
    sink: Option<Arc<dyn ReplySink>>,
    tag: usize,
}

impl Reply {
    pub(crate) fn to(sink: Arc<dyn ReplySink>, tag: usize) -> Self {
        Self { sink: Some(sink), tag }
    }

    /// A reply that calls `then` with the answer, on the thread that sends it. For endpoints that
    /// wrap another one (a transport, a fault injector), and for tests.
    pub fn new(then: impl FnOnce(Result<Response, ParticipantError>) + Send + 'static) -> Self {
        Self::new_while(|| true, then)
    }

    /// Returns a reply that is [awaited](Self::is_awaited) only while `is_awaited` returns `true`:
    /// for a transport, which knows whether the connection that the answer goes back by still
    /// exists. `is_awaited` must not block.
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicBool, Ordering}};
    /// use ringpact::participant::Reply;
    ///
    /// let connected = Arc::new(AtomicBool::new(true));
    /// let is_connected = Arc::clone(&connected);
    /// let reply = Reply::new_while(move || is_connected.load(Ordering::Relaxed), |_| {});
    /// assert!(reply.is_awaited());
    /// connected.store(false, Ordering::Relaxed);
    /// assert!(!reply.is_awaited());
    /// ```
    pub fn new_while(
        is_awaited: impl Fn() -> bool + Send + Sync + 'static,
        then: impl FnOnce(Result<Response, ParticipantError>) + Send + 'static,
    ) -> Self {
        Self::to(Arc::new(Callback { is_awaited, then: Mutex::new(Some(then)) }), 0)
    }

    /// Whether the sender still waits for the answer: `false` once the coordinator that asked, or
    /// the connection to it, is gone.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.sink.as_ref().is_some_and(|sink| sink.is_awaited())
    }

    /// Sends the answer. What takes it in runs on this thread, and blocks for no longer than a
    /// queue does.
    pub fn send(mut self, result: Result<Response, ParticipantError>) {
        if let Some(sink) = self.sink.take() {
            sink.deliver(self.tag, result);
        }
    }

    /// Sends the answer from a task that has nothing else to do; see [`ReplySink::deliver_here`].
    #[cfg(feature = "tokio")]
    pub(crate) fn send_here(mut self, result: Result<Response, ParticipantError>) {
        if let Some(sink) = self.sink.take() {
            sink.deliver_here(self.tag, result);
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

struct Callback<A, F> {
    is_awaited: A,
    then: Mutex<Option<F>>,
}

impl<A, F> ReplySink for Callback<A, F>
where
    A: Fn() -> bool + Send + Sync,
    F: FnOnce(Result<Response, ParticipantError>) + Send,
{
    fn is_awaited(&self) -> bool {
        (self.is_awaited)()
    }

    fn deliver(self: Arc<Self>, _tag: usize, result: Result<Response, ParticipantError>) {
        let then = self.then.lock().take();
        if let Some(then) = then {
            then(result);
        }
    }
}

/// Reaches a participant of the same process by calling it on the sender's thread. Only for
/// participants that are quick: a slow one needs a [`Pooled`](super::Pooled) endpoint. Shared by
/// [`Arc`].
pub struct Inline<P>(P);

impl<P: Participant> Inline<P> {
    /// Returns the endpoint of `participant`.
    pub const fn new(participant: P) -> Self {
        Self(participant)
    }
}

impl<P: Participant> Endpoint for Inline<P> {
    fn send(&self, request: Request, reply: Reply) {
        let result = call(&self.0, &request);
        reply.send(result);
    }

    fn own_name(&self) -> Option<Name> {
        self.0.own_name()
    }

    fn greet(&self, greeting: &Greeting) {
        self.0.greet(greeting);
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.0.is_transient(error)
    }
}

impl<P> fmt::Debug for Inline<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inline").finish_non_exhaustive()
    }
}

/// Calls the method that the request names. A panic becomes an error.
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
        Request::Message { body } => guarded(|| participant.message(body).map(|body| Response::Message { body })),
    }
}

/// Calls the method that the verb names. A panic becomes an error.
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

/// Calls the participant, and turns a panic into an error.
///
/// The participant must keep its own state sound: every method may be called again after a panic,
/// as after any other failure. Nothing of this crate is half-changed while it runs.
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

    /// The default `greet` does nothing: an `Arc` that used it would drop the greeting.
    #[test]
    fn an_arc_passes_every_call_on() {
        let counts = Arc::new(Counts::default());
        let shared: Arc<dyn Endpoint> = counts.clone();
        let name = Name::from_static("shop");
        shared.greet(&Greeting::new(name.clone(), Life::default(), Arc::clone(&shared)));
        Endpoint::send(&shared, Request::InDoubt { coordinator: name, life: None }, Reply::new(|_| {}));
        assert_eq!((counts.sent.load(Ordering::Relaxed), counts.greeted.load(Ordering::Relaxed)), (1, 1));
    }
}
