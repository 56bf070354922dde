//! Participants whose methods are asynchronous, on a Tokio runtime. Only with the feature `tokio`.

use std::{
    error::Error as StdError,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ::tokio::runtime::Handle;

use super::{
    Call, Decision, Endpoint, Greeting, Life, MAX_QUEUED_REQUESTS, ParticipantError, Reply, Request, Response, Verb,
    Vote,
    async_last_resource::{AsyncLastResource, AsyncLastResourceParticipant},
    caller_span::CallerSpan,
    last_resource::{CommitQuery, CommitReply},
};
use crate::{
    id::{BranchId, Name},
    platform::Platform,
};

/// A [`Participant`](super::Participant) whose methods are asynchronous. Each call is a task on the
/// user's runtime, and no thread waits for it. Shared by [`Arc`], which is an asynchronous
/// participant itself.
///
/// What [`Participant`](super::Participant) says of each method holds here word for word. One
/// transaction can have participants of both kinds.
/// [`conformance::check_async`](super::conformance::check_async) is the suite.
///
/// Tasks on that runtime `.await` the coordinator's futures. A thread of the runtime that blocks
/// instead (in [`Commit::wait`](crate::Commit::wait),
/// [`Delivered::wait`](crate::txn::Delivered::wait),
/// [`Coordinator::settle`](crate::Coordinator::settle), [`shutdown`](crate::Coordinator::shutdown),
/// or [`begin`](crate::Coordinator::begin) while the limits are reached) runs no task meanwhile, so
/// it may keep the participant from the answer that it waits for. `tokio::task::spawn_blocking` has
/// threads for that.
///
/// ```
/// use ringpact::{
///     BranchId, Coordinator, MemoryLog, Name, ParticipantError, Vote,
///     participant::{AsyncParticipant, Call},
/// };
///
/// /// For example a database behind a connection pool.
/// struct Database;
///
/// impl AsyncParticipant for Database {
///     async fn prepare(&self, branch: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
///         // .. PREPARE TRANSACTION, under the branch's id
/// #       let _ = branch;
///         Ok(Vote::Yes)
///     }
///     async fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
///     async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> { Ok(()) }
///     async fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> { Ok(Vec::new()) }
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let runtime = tokio::runtime::Handle::current();
/// let builder = Coordinator::builder(MemoryLog::new());
/// let coordinator = builder.async_participant("database", Database, runtime).open()?;
/// let mut txn = coordinator.begin_async().await;
/// txn.branch("database")?;
/// txn.commit().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait AsyncParticipant: Send + Sync + 'static {
    /// Asks for the vote; see [`Participant::prepare`](super::Participant::prepare).
    fn prepare(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<Vote, ParticipantError>> + Send;

    /// Carries out the decision to commit; see [`Participant::commit`](super::Participant::commit).
    fn commit(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send;

    /// Undoes the branch; see [`Participant::rollback`](super::Participant::rollback).
    fn rollback(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send;

    /// Decides alone, as the only participant; see
    /// [`Participant::commit_one_phase`](super::Participant::commit_one_phase).
    fn commit_one_phase(
        &self,
        branch: &BranchId,
        call: &Call,
    ) -> impl Future<Output = Result<Decision, ParticipantError>> + Send {
        async move {
            match self.prepare(branch, call).await? {
                Vote::Yes => self.commit(branch, call).await.map(|()| Decision::Commit),
                Vote::ReadOnly => Ok(Decision::Commit),
                Vote::No => Ok(Decision::Rollback),
            }
        }
    }

    /// Returns every unfinished branch; see
    /// [`Participant::in_doubt`](super::Participant::in_doubt).
    fn in_doubt(&self, coordinator: &Name) -> impl Future<Output = Result<Vec<BranchId>, ParticipantError>> + Send;

    /// Checks how a coordinator introduces itself; see
    /// [`Participant::meet`](super::Participant::meet).
    ///
    /// # Errors
    ///
    /// As for [`Participant::meet`](super::Participant::meet).
    fn meet(&self, coordinator: &Name, life: &Life) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        let _ = (coordinator, life);
        async { Ok(()) }
    }

    /// Answers a message that is not the coordinator's; see
    /// [`Participant::message`](super::Participant::message).
    ///
    /// # Errors
    ///
    /// As for [`Participant::message`](super::Participant::message).
    fn message(&self, body: &[u8]) -> impl Future<Output = Result<Vec<u8>, ParticipantError>> + Send {
        let _ = body;
        async { Err(ParticipantError::Misdirected) }
    }

    /// Returns the participant's own name, if it has one; see
    /// [`Participant::own_name`](super::Participant::own_name). Must not block.
    fn own_name(&self) -> Option<Name> {
        None
    }

    /// Whether the participant can promise. If not, no coordinator opens with it, except as a
    /// [last resource](super::AsyncLastResource). The default implementation returns `true`. Must not
    /// block.
    fn can_promise(&self) -> bool {
        true
    }

    /// Takes in that a coordinator of the same process was opened; see
    /// [`Participant::greet`](super::Participant::greet). Must not block.
    fn greet(&self, greeting: &Greeting) {
        let _ = greeting;
    }

    /// Whether this is an error of the participant's own kind that may not come again; see
    /// [`Participant::is_transient`](super::Participant::is_transient). Must not block. The default implementation returns
    /// `false`.
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        let _ = error;
        false
    }
}

impl<P: AsyncParticipant> AsyncParticipant for Arc<P> {
    fn prepare(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<Vote, ParticipantError>> + Send {
        (**self).prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).rollback(branch, call)
    }
    fn commit_one_phase(
        &self,
        branch: &BranchId,
        call: &Call,
    ) -> impl Future<Output = Result<Decision, ParticipantError>> + Send {
        (**self).commit_one_phase(branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> impl Future<Output = Result<Vec<BranchId>, ParticipantError>> + Send {
        (**self).in_doubt(coordinator)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> impl Future<Output = Result<(), ParticipantError>> + Send {
        (**self).meet(coordinator, life)
    }
    fn own_name(&self) -> Option<Name> {
        (**self).own_name()
    }
    fn can_promise(&self) -> bool {
        (**self).can_promise()
    }
    fn greet(&self, greeting: &Greeting) {
        (**self).greet(greeting);
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        (**self).is_transient(error)
    }
}

/// Reaches an asynchronous participant by one task on a runtime for each call. Shared by [`Arc`].
///
/// There are as many tasks as messages that have not been answered. A repeat is a task of its own:
/// the first task may wait for an answer that was lost, and needs no thread meanwhile. If there are
/// [`MAX_QUEUED_REQUESTS`] tasks, the next call fails at once, like one that gets no answer.
///
/// On a runtime that has shut down every call fails. The coordinator repeats it like any other
/// failed call. If the runtime begins no call because its threads are blocked, time-outs say so:
/// [`ParticipantError::NotBegun`].
pub struct Spawned<P> {
    participant: Arc<P>,
    runtime: Runtime,
    unbegun: Arc<UnbegunCalls>,
}

/// The calls that the runtime has not begun yet. Each call changes it twice, so it has no lock.
#[derive(Debug)]
struct UnbegunCalls {
    count: AtomicUsize,
    /// Time at which the first of them came, or a call last began: milliseconds since `made`.
    since_ms: AtomicU64,
    made: Instant,
}

impl UnbegunCalls {
    fn new() -> Self {
        Self { count: AtomicUsize::new(0), since_ms: AtomicU64::new(0), made: Instant::now() }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns for how long no call has begun, if any call waits.
    fn stalled(&self) -> Option<Duration> {
        let waits = self.count.load(Ordering::Acquire) > 0;
        let since = self.since_ms.load(Ordering::Relaxed);
        waits.then(|| Duration::from_millis(self.now_ms().saturating_sub(since)))
    }
}

/// A call that has not begun, until it is dropped.
struct UnbegunCall(Arc<UnbegunCalls>);

impl UnbegunCall {
    fn new(calls: &Arc<UnbegunCalls>) -> Self {
        // The time first: a reader of the count then reads the time of its first call, or a later one.
        if calls.count.load(Ordering::Relaxed) == 0 {
            calls.since_ms.store(calls.now_ms(), Ordering::Relaxed);
        }
        calls.count.fetch_add(1, Ordering::Release);
        Self(Arc::clone(calls))
    }
}

/// The call has begun, or never will.
impl Drop for UnbegunCall {
    fn drop(&mut self) {
        self.0.since_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.count.fetch_sub(1, Ordering::Release);
    }
}

/// The runtime of the tasks.
#[derive(Debug)]
enum Runtime {
    Tokio(Handle),
    Simulated(Platform),
}

impl<P: AsyncParticipant> Spawned<P> {
    /// Returns the endpoint of `participant`. Its calls run on `runtime`.
    pub fn new(participant: P, runtime: Handle) -> Self {
        Self::on(participant, Runtime::Tokio(runtime))
    }

    /// Like [`new`](Self::new), with calls on a simulation's threads.
    #[doc(hidden)]
    pub fn simulated(participant: P, platform: Platform) -> Self {
        Self::on(participant, Runtime::Simulated(platform))
    }

    fn on(participant: P, runtime: Runtime) -> Self {
        Self { participant: Arc::new(participant), runtime, unbegun: Arc::new(UnbegunCalls::new()) }
    }

    /// Counts a call that is to begin. Returns `None` if too many are under way.
    fn begin(&self) -> Option<(Arc<P>, Option<UnbegunCall>)> {
        // One reference for each task, and one for this endpoint.
        if Arc::strong_count(&self.participant) > MAX_QUEUED_REQUESTS {
            return None;
        }
        // A simulated runtime begins each call at once, and its clock is not the system's.
        let unbegun = matches!(self.runtime, Runtime::Tokio(_)).then(|| UnbegunCall::new(&self.unbegun));
        Some((Arc::clone(&self.participant), unbegun))
    }
}

impl Runtime {
    /// Runs a task to its end, or drops it if the runtime has shut down.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        match self {
            Self::Tokio(handle) => drop(handle.spawn(task)),
            Self::Simulated(platform) => {
                let own = platform.clone();
                drop(platform.spawn("ringpact-task", move || run(&own, task)));
            }
        }
    }
}

/// Runs a task on the calling thread, which sleeps while the task waits.
fn run(platform: &Platform, task: impl Future<Output = ()>) {
    let parker = Arc::new(platform.parker());
    let waker = Waker::from(Arc::clone(&parker));
    let mut task = pin!(task);
    while task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
        parker.park();
    }
}

impl<P: AsyncParticipant> Endpoint for Spawned<P> {
    fn send(&self, request: Request, reply: Reply) {
        let Some((participant, unbegun)) = self.begin() else {
            reply.send(Err(ParticipantError::Unreachable));
            return;
        };
        let caller_span = CallerSpan::current();
        // If the runtime drops the task, the task drops the reply, which reports that the call
        // failed.
        self.runtime.spawn(async move {
            drop(unbegun);
            // On the heap: the runtime moves a task several times, and a call of a database client is some kilobytes.
            let result = caught(Box::pin(call(&*participant, &request)), caller_span).await;
            // Before the answer is sent: a client may drop everything and open it again at the last
            // answer.
            drop(participant);
            reply.send_here(result);
        });
    }

    fn own_name(&self) -> Option<Name> {
        self.participant.own_name()
    }

    fn can_promise(&self) -> bool {
        self.participant.can_promise()
    }

    fn greet(&self, greeting: &Greeting) {
        self.participant.greet(greeting);
    }

    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        self.participant.is_transient(error)
    }

    fn sends_at_once(&self) -> bool {
        true
    }

    fn stalled(&self) -> Option<Duration> {
        self.unbegun.stalled()
    }
}

/// Each question is a task, as each call is.
impl<R: AsyncLastResource> CommitQuery for Spawned<AsyncLastResourceParticipant<R>> {
    fn remembers(&self) -> bool {
        self.participant.0.remembers()
    }

    fn ask(&self, branch: BranchId, reply: CommitReply) {
        let Some((participant, unbegun)) = self.begin() else {
            reply.send(Err(ParticipantError::Unreachable));
            return;
        };
        let caller_span = CallerSpan::current();
        self.runtime.spawn(async move {
            drop(unbegun);
            let answer = caught(Box::pin(participant.0.committed(&branch)), caller_span).await;
            drop(participant);
            reply.send(answer);
        });
    }
}

impl<P> std::fmt::Debug for Spawned<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spawned").field("runtime", &self.runtime).finish_non_exhaustive()
    }
}

async fn call<P: AsyncParticipant>(participant: &P, request: &Request) -> Result<Response, ParticipantError> {
    match request {
        Request::Branch { branch, verb: Verb::Prepare, call } => {
            participant.prepare(branch, call).await.map(Response::Voted)
        }
        Request::Branch { branch, verb: Verb::Commit, call } => {
            participant.commit(branch, call).await.map(|()| Response::Done)
        }
        Request::Branch { branch, verb: Verb::Rollback, call } => {
            participant.rollback(branch, call).await.map(|()| Response::Done)
        }
        Request::Branch { branch, verb: Verb::CommitOnePhase, call } => {
            participant.commit_one_phase(branch, call).await.map(Response::Decided)
        }
        Request::InDoubt { coordinator, life } => {
            if let Some(life) = life {
                participant.meet(coordinator, life).await?;
            }
            participant.in_doubt(coordinator).await.map(Response::InDoubt)
        }
        Request::Message { body } => participant.message(body).await.map(|body| Response::Message { body }),
        Request::Verdict { .. } => Err(ParticipantError::Misdirected),
    }
}

/// Turns a panic into an error, as [`Inline`](super::Inline) does.
async fn caught<T>(
    mut call: Pin<Box<impl Future<Output = Result<T, ParticipantError>>>>,
    caller_span: CallerSpan,
) -> Result<T, ParticipantError> {
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| caller_span.call(|| call.as_mut().poll(context))))
            .unwrap_or(Poll::Ready(Err(ParticipantError::Panicked)))
    })
    .await
}
