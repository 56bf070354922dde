//! What lies between hosts: it delays, loses, repeats and reorders, and sometimes is not there at all.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use ringpact::{
    Name, ParticipantError, Vote,
    participant::{Endpoint, Reply, Request, Response, Verb},
};

use super::{host::Life, mutants::Mutant, plan::Network, scheduler::Scheduler, served::Served, world::World};

/// How late what is late comes.
const LATEST: Duration = Duration::from_secs(2);

/// The world that lies between hosts.
pub trait Air: Send + Sync + 'static {
    fn clock(&self) -> &Arc<Scheduler>;
    /// Whether things go wrong now.
    fn is_faulty(&self) -> bool;
    /// How bad it is, and in which number of messages a host crashes at one.
    fn network(&self) -> (Network, u32);
    fn is_cut(&self, a: usize, b: usize) -> bool;
    fn crash_at_message(&self, host: usize);
    fn counts_message(&self, is_lost: bool);
}

/// Sends something off. `arrive` is called each time that it arrives, by a thread of its own.
pub fn send<A: Air>(air: &Arc<A>, from: usize, to: usize, arrive: impl Fn() + Send + Sync + 'static) {
    let (clock, (network, crash_at_message)) = (air.clock(), air.network());
    if air.is_faulty() && clock.once_in(crash_at_message) {
        let host = if clock.draw(fastrand::Rng::bool) { from } else { to };
        air.crash_at_message(host);
    }
    let copies = match air.is_faulty() {
        true if air.is_cut(from, to) || clock.once_in(network.lost) => 0,
        true if clock.once_in(network.doubled) => 2,
        _ => 1,
    };
    air.counts_message(copies == 0);
    let arrive = Arc::new(arrive);
    for _ in 0..copies {
        let (air, arrive) = (Arc::clone(air), Arc::clone(&arrive));
        let late = air.is_faulty() && clock.once_in(network.late);
        let slowest = if late { LATEST } else { network.slowest };
        let delay = network.fastest + slowest.mul_f64(clock.draw(fastrand::Rng::f64));
        clock.start(move || {
            air.clock().sleep(delay);
            arrive();
        });
    }
}

impl Air for World {
    fn clock(&self) -> &Arc<Scheduler> {
        &self.clock
    }

    fn is_faulty(&self) -> bool {
        self.faulty()
    }

    fn network(&self) -> (Network, u32) {
        (self.plan.network, self.plan.crash_at_message)
    }

    fn is_cut(&self, a: usize, b: usize) -> bool {
        Self::is_cut(self, a, b)
    }

    fn crash_at_message(&self, host: usize) {
        if let Some(life) = self.hosts[host].life() {
            life.crash("at a message");
        }
    }

    fn counts_message(&self, is_lost: bool) {
        self.count(|counts| {
            counts.messages += 1;
            counts.lost += u64::from(is_lost);
        });
    }
}

impl World {
    /// Sends something off; see [`send`].
    pub fn send(self: &Arc<Self>, from: usize, to: usize, arrive: impl Fn() + Send + Sync + 'static) {
        send(self, from, to, arrive);
    }
}

/// A coordinator's way to a resource manager of another process.
pub struct Wire {
    pub from: Arc<Life>,
    pub to: usize,
    pub name: Name,
}

impl Endpoint for Wire {
    fn send(&self, request: Request, reply: Reply) {
        let world = &self.from.world;
        if !self.from.is_alive() {
            return;
        }
        let (mut request, number) = (request, world.number());
        world.clock.note(format_args!("{} sends {number} to {}: {}", self.from, self.name, Shown(&request)));
        self.mutate_request(&mut request);
        self.from.sent.goes_out(&self.from, &self.name, &mut request);
        let what = Kind::of(&request);
        let asks = world.absences.asks(world, &self.name, &request);
        let awaited = Arc::new(Awaited { from: Arc::clone(&self.from), reply: Mutex::new(Some(reply)) });
        if self.is(Mutant::ForgetsEarly) && what == Kind::Decision {
            awaited.answer(Ok(Response::Done));
        }
        let (from, to, name) = (Arc::clone(&self.from), self.to, self.name.clone());
        world.send(self.from.host, self.to, move || {
            let world = &from.world;
            let Some(life) = world.hosts[to].life().filter(|life| life.is_up()) else {
                world.clock.note(format_args!("{number} finds no host"));
                return;
            };
            world.clock.note(format_args!("{number} arrives at {life}"));
            let (served, there, asks) = (Served { life: Arc::clone(&life), name: name.clone() }, life, asks.clone());
            let (awaited, from, name) = (Arc::clone(&awaited), from.host, name.clone());
            serve(served, &request, move |mut result| {
                if !there.is_alive() {
                    return;
                }
                let world = Arc::clone(&there.world);
                world.clock.note(format_args!("{number} is answered by {there}: {}", Outcome(&result)));
                mutate_vote(&world, what, &mut result);
                let result = Mutex::new(Some(result));
                there.world.send(to, from, move || {
                    // The second copy of an answer finds that no thread waits for it any more.
                    let result = result.lock().take();
                    if let Some(result) = result {
                        if let Some(asks) = &asks {
                            world.absences.is_answered(&world, &name, asks);
                        }
                        awaited.answer(result);
                    }
                });
            });
        });
    }
}

/// Has a process answer a request that has come over the network: at once, or by a task.
fn serve(served: Served, request: &Request, answer: impl FnOnce(Result<Response, ParticipantError>) + Send + 'static) {
    #[cfg(feature = "tokio")]
    if served.life.world.plan.has_database(served.name.as_str()) {
        return super::databases::serve(served, request, Reply::new(answer));
    }
    answer(served.answer(request));
}

/// The ways of a process's participants to the coordinators of other processes.
pub fn verdict_endpoints(from: &Arc<Life>) -> Vec<(Name, VerdictWire)> {
    let others = from.world.hosts.iter().enumerate().filter(|(host, _)| *host != from.host);
    // No participant has been told of the second one.
    let others = others.filter(|(_, other)| !other.plan.is_second);
    let to = |(host, name): (usize, &str)| {
        (name.parse().expect("a valid name"), VerdictWire { from: Arc::clone(from), to: host })
    };
    others.filter_map(|(host, other)| other.plan.coordinator.map(|(name, _)| to((host, name)))).collect()
}

/// A participant's way to a coordinator of another process, to ask what became of a branch.
pub struct VerdictWire {
    pub from: Arc<Life>,
    pub to: usize,
}

impl Endpoint for VerdictWire {
    fn send(&self, request: Request, reply: Reply) {
        let world = &self.from.world;
        if !self.from.is_alive() {
            return;
        }
        let number = world.number();
        world.clock.note(format_args!("{} asks host {} in {number}: {}", self.from, self.to, Shown(&request)));
        let awaited = Arc::new(Awaited { from: Arc::clone(&self.from), reply: Mutex::new(Some(reply)) });
        let (from, to) = (Arc::clone(&self.from), self.to);
        world.send(self.from.host, self.to, move || {
            let Some(life) = from.world.hosts[to].life().filter(|life| life.is_up()) else { return };
            let Some(coordinator) = life.coordinator() else { return };
            let (there, from, awaited) = (Arc::clone(&life), Arc::clone(&from), Arc::clone(&awaited));
            let back = Reply::new(move |result| {
                let world = &from.world;
                world.clock.note(format_args!("{number} is answered by {there}: {}", Outcome(&result)));
                let result = Mutex::new(Some(result));
                world.send(to, from.host, move || {
                    let result = result.lock().take();
                    if let Some(result) = result {
                        awaited.answer(result);
                    }
                });
            });
            coordinator.verdict_endpoint().send(request.clone(), back);
        });
    }
}

/// A reply that is on its way; when the last message that could bring it is gone, so is it.
struct Awaited {
    from: Arc<Life>,
    reply: Mutex<Option<Reply>>,
}

impl Awaited {
    fn answer(&self, result: Result<Response, ParticipantError>) {
        let reply = self.reply.lock().take();
        if let Some(reply) = reply
            && self.from.is_alive()
        {
            reply.send(result);
        }
    }
}

impl Drop for Awaited {
    /// A transport may notice that its message was lost, and say so; or it may not.
    fn drop(&mut self) {
        let reply = self.reply.lock().take();
        if let Some(reply) = reply
            && self.from.is_alive()
            && self.from.world.clock.draw(fastrand::Rng::bool)
        {
            self.from.limbo.lock().push(reply);
        }
    }
}

impl Wire {
    fn is(&self, mutant: Mutant) -> bool {
        self.from.world.is_mutated(mutant)
    }

    fn mutate_request(&self, request: &mut Request) {
        let Request::Branch { branch, verb, call } = request else { return };
        let epoch = branch.txn().epoch();
        let of_earlier_life = self.from.coordinator().is_none_or(|coordinator| epoch < coordinator.epoch());
        if self.is(Mutant::PresumesCommit) && *verb == Verb::Rollback && of_earlier_life {
            *verb = Verb::Commit;
        }
        if self.is(Mutant::MarkRunsAhead) {
            call.ended_below.epoch = epoch.next();
        }
    }
}

fn mutate_vote(world: &World, what: Kind, result: &mut Result<Response, ParticipantError>) {
    if what != Kind::Question {
        return;
    }
    let ignored = match result {
        Ok(Response::Voted(Vote::No)) | Err(ParticipantError::Refused(_)) => world.is_mutated(Mutant::IgnoresNo),
        Err(_) => world.is_mutated(Mutant::IgnoresSilence),
        Ok(_) => false,
    };
    if ignored {
        *result = Ok(Response::Voted(Vote::Yes));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Question,
    Decision,
    Other,
}

impl Kind {
    const fn of(request: &Request) -> Self {
        match request {
            Request::Branch { verb: Verb::Prepare, .. } => Self::Question,
            Request::Branch { verb: Verb::Commit, .. } => Self::Decision,
            _ => Self::Other,
        }
    }
}

/// A request as it is noted: without what differs from run to run, the log's id.
struct Shown<'a>(&'a Request);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Request::Branch { branch, verb, call } => {
                write!(f, "{verb:?} {branch}, ended below {}:{}", call.ended_below.epoch, call.ended_below.sequence)
            }
            Request::InDoubt { coordinator, .. } => write!(f, "what is in doubt of {coordinator}"),
            Request::Verdict { branch } => write!(f, "what became of {branch}"),
            other => write!(f, "{other:?}"),
        }
    }
}

struct Outcome<'a>(&'a Result<Response, ParticipantError>);

impl std::fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Ok(response) => write!(f, "{response:?}"),
            Err(error) => write!(f, "{error}"),
        }
    }
}
