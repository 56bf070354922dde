//! A shard of a service: a resource manager that can crash and come back, and the wire to it.

use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use ringpact::{
    BranchId, ResourceManager, Service, Vote,
    participant::{Endpoint, Inline, Participant, ParticipantError, Reply, Request, Response, Verb},
};

use crate::faults::{Event, Fate, Faults};

/// One shard. While it is down it is empty, because what it had in memory is gone.
pub struct Shard<S: Service> {
    pub name: String,
    running: RwLock<Option<Arc<ResourceManager<S>>>>,
}

impl<S: Service> Shard<S> {
    pub fn new(name: String) -> Self {
        Self { name, running: RwLock::new(None) }
    }

    pub fn start(&self, manager: ResourceManager<S>) {
        *self.running.write() = Some(Arc::new(manager));
    }

    /// Crashes the shard: loses all memory. Blocks until calls under way are over, so that two
    /// resource managers never write to the log under one name.
    pub fn crash(&self) {
        *self.running.write() = None;
    }

    pub fn is_up(&self) -> bool {
        self.running.read().is_some()
    }

    /// Calls `use_it` if the shard is up; otherwise returns `None`.
    pub fn with<R>(&self, use_it: impl FnOnce(&ResourceManager<S>) -> R) -> Option<R> {
        self.running.read().as_deref().map(use_it)
    }
}

/// The coordinator's connection to a shard. [`Faults`] decides what happens on it.
pub struct Wire<S: Service> {
    shard: Arc<Shard<S>>,
    faults: Arc<Faults>,
}

impl<S: Service> Wire<S> {
    pub const fn new(shard: Arc<Shard<S>>, faults: Arc<Faults>) -> Self {
        Self { shard, faults }
    }

    /// Lets the shard answer; `None` if it is down.
    fn ask(&self, request: Request) -> Option<Result<Response, ParticipantError>> {
        let running = self.shard.running.read();
        let manager = running.as_ref()?;
        let answer = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&answer);
        Inline::new(Arc::clone(manager)).send(request, Reply::new(move |result| *slot.lock() = Some(result)));
        answer.lock().take()
    }

    fn refuse(&self, branch: &BranchId, request: &Request) -> Option<Result<Response, ParticipantError>> {
        let Request::Branch { call, .. } = request else { return None };
        // A participant that votes No has undone its work.
        self.shard.with(|manager| manager.rollback(branch, call).map(|()| Response::Voted(Vote::No)))
    }
}

impl<S: Service> Endpoint for Wire<S> {
    fn send(&self, request: Request, reply: Reply) {
        let Request::Branch { branch, verb, .. } = request.clone() else {
            if let Some(answer) = self.ask(request) {
                reply.send(answer);
            }
            return;
        };
        self.faults.happens(&branch, Event::Before(verb));
        let fate = self.faults.fate(&branch, verb, self.shard.is_up());
        let answer = match fate {
            Fate::LoseRequest => None,
            Fate::CrashBefore => {
                self.shard.crash();
                None
            }
            Fate::Refuse => self.refuse(&branch, &request),
            Fate::Fine | Fate::LoseAnswer | Fate::AnswerLate | Fate::CrashAfter => self.ask(request),
        };
        self.faults.happens(&branch, Event::After(verb));
        match (fate, answer) {
            (Fate::Fine | Fate::Refuse, Some(answer)) => reply.send(answer),
            (Fate::AnswerLate, Some(answer)) if verb == Verb::Prepare => self.faults.keep_waiting(reply, answer),
            (Fate::CrashAfter, _) => self.shard.crash(),
            // Dropping the reply shows the coordinator a broken connection.
            _ => {}
        }
    }
}
