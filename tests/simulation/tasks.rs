//! A resource manager whose methods are asynchronous, reached by production's adapter for such ones: a task for each call.

use std::{
    future::poll_fn,
    panic::resume_unwind,
    sync::Arc,
    task::{Poll, Waker},
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Name, ParticipantError, Vote,
    participant::{
        AsyncParticipant, Call, Decision, Endpoint, Greeting, Life as CoordinatorsLife, Participant, Reply, Request,
        Response, Spawned, Verb,
    },
};

use super::{host::Life, mutants::Mutant, network::Wire, scheduler::Scheduler, served::Served};

/// How a coordinator reaches it.
pub fn endpoint(life: &Arc<Life>, host: usize, name: Name) -> impl Endpoint {
    let near = (host == life.host).then(|| Served { life: Arc::clone(life), name: name.clone() });
    let far = Wire { from: Arc::clone(life), to: host, name };
    let remote = Remote { life: Arc::clone(life), near, far, met: Mutex::default() };
    let adapter = Spawned::simulated(remote, life.world.clock.platform());
    Adapter { life: Arc::clone(life), adapter }
}

/// A resource manager at the other end of something slow: in the same process, or at the other end of the network.
struct Remote {
    life: Arc<Life>,
    near: Option<Served>,
    far: Wire,
    /// Which life of the coordinator asks; it goes along with the question.
    met: Mutex<Option<CoordinatorsLife>>,
}

impl Remote {
    async fn ask(&self, request: Request) -> Result<Response, ParticipantError> {
        self.panic_now_and_then();
        let answer = match &self.near {
            Some(near) => {
                self.travel().await;
                near.answer(&request)
            }
            None => {
                let answer = Arc::new(Awaited::default());
                let told = Arc::clone(&answer);
                let lost = self.life.world.is_mutated(Mutant::LosesWakeUps) && self.life.world.clock.once_in(4);
                self.far.send(request, Reply::new(move |result| told.give(result, lost)));
                answer.come().await
            }
        };
        self.panic_now_and_then();
        answer
    }

    async fn travel(&self) {
        let (there, clock) = (Arc::new(Awaited::default()), Arc::clone(&self.life.world.clock));
        let lost = self.life.world.is_mutated(Mutant::LosesWakeUps) && clock.once_in(4);
        let (told, pause) = (Arc::clone(&there), self.life.world.plan.network.fastest);
        self.life.world.clock.start(move || {
            clock.sleep(pause);
            told.give((), lost);
        });
        there.come().await;
    }

    fn panic_now_and_then(&self) {
        let world = &self.life.world;
        if world.faulty() && world.clock.once_in(world.plan.task_panics) {
            world.clock.note(format_args!("{} panics in a task", self.life));
            world.count(|counts| counts.panics += 1);
            resume_unwind(Box::new("a panic, on purpose"));
        }
    }

    async fn about(&self, branch: &BranchId, verb: Verb, call: &Call) -> Result<Response, ParticipantError> {
        self.ask(Request::Branch { branch: branch.clone(), verb, call: call.clone() }).await
    }
}

impl AsyncParticipant for Remote {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        match self.about(branch, Verb::Prepare, call).await? {
            Response::Voted(vote) => Ok(vote),
            other => unreachable!("no vote: {other:?}"),
        }
    }

    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.about(branch, Verb::Commit, call).await.map(drop)
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.about(branch, Verb::Rollback, call).await.map(drop)
    }

    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        match self.about(branch, Verb::CommitOnePhase, call).await? {
            Response::Decided(decision) => Ok(decision),
            other => unreachable!("no decision: {other:?}"),
        }
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let life = *self.met.lock();
        match self.ask(Request::InDoubt { coordinator: coordinator.clone(), life }).await? {
            Response::InDoubt(branches) => Ok(branches),
            other => unreachable!("no report: {other:?}"),
        }
    }

    async fn meet(&self, _: &Name, life: &CoordinatorsLife) -> Result<(), ParticipantError> {
        *self.met.lock() = Some(*life);
        Ok(())
    }

    fn greet(&self, greeting: &Greeting) {
        if let Some(near) = &self.near {
            near.greet(greeting);
        }
    }
}

/// Lets a task sleep.
pub async fn sleep(clock: &Arc<Scheduler>, pause: Duration) {
    let (over, clock) = (Arc::new(Awaited::default()), Arc::clone(clock));
    let told = Arc::clone(&over);
    clock.clone().start(move || {
        clock.sleep(pause);
        told.give((), false);
    });
    over.come().await;
}

/// Something that comes once, and the task that waits for it.
struct Awaited<T>(Mutex<(Option<T>, Option<Waker>)>);

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Self(Mutex::new((None, None)))
    }
}

impl<T> Awaited<T> {
    /// A mutant does not wake the task that waits for it.
    fn give(&self, what: T, loses_wake_up: bool) {
        let waker = {
            let mut awaited = self.0.lock();
            awaited.0 = Some(what);
            awaited.1.take()
        };
        if let Some(waker) = waker.filter(|_| !loses_wake_up) {
            waker.wake();
        }
    }

    async fn come(&self) -> T {
        poll_fn(|context| {
            let mut awaited = self.0.lock();
            match awaited.0.take() {
                Some(what) => Poll::Ready(what),
                None => {
                    awaited.1 = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Production's adapter, and what a mutant makes of it.
struct Adapter<E> {
    life: Arc<Life>,
    adapter: E,
}

impl<E: Endpoint> Endpoint for Adapter<E> {
    fn send(&self, request: Request, reply: Reply) {
        let is = |mutant| self.life.world.is_mutated(mutant);
        let carries_out = matches!(request, Request::Branch { verb: Verb::Commit | Verb::Rollback, .. });
        if carries_out && is(Mutant::AnswersForTasks) {
            reply.send(Ok(Response::Done));
            return self.adapter.send(request, Reply::new(|_| {}));
        }
        if carries_out && is(Mutant::TakesPanicsForSuccess) {
            let hides_panic = |result| match result {
                Err(ParticipantError::Panicked) => Ok(Response::Done),
                result => result,
            };
            return self.adapter.send(request, Reply::new(move |result| reply.send(hides_panic(result))));
        }
        self.adapter.send(request, reply);
    }

    fn greet(&self, greeting: &Greeting) {
        self.adapter.greet(greeting);
    }
}
