//! How hosts of the cluster reach each other: coordinators' messages, work and moves, and the keeper's feed, over the simulated
//! network.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Name, ParticipantError, Vote,
    participant::{Decision, Endpoint, Inline, Participant, Reply, Request, Response, Verb},
    platform::Simulator,
    sharding::{GateRefusal, ShardError, ShardLink, ShardMoves, ShardRequest, ShardResponse, Tenure},
};

use super::{
    host::{Life, Seated, Shards},
    mutants::Mutant,
    plan::position,
    shard::Put,
    world::World,
};
use crate::{MS, network::send};

/// A coordinator's way to a shard of another process, as a participant.
pub struct Wire {
    pub from: Arc<Life>,
    pub to: usize,
    pub service: usize,
    pub name: Name,
}

/// The first byte, behind the version, of a message that asks for work. It is the only kind that may be done twice by mistake, so a
/// transport must tell repeats apart.
const EXECUTE: u8 = 0;

impl Endpoint for Wire {
    fn send(&self, request: Request, reply: Reply) {
        let world = &self.from.world;
        if !self.from.is_alive() {
            return;
        }
        let number = world.number();
        world.clock.note(format_args!("{} sends {number} to {}: {}", self.from, self.name, Shown(&request)));
        let awaited = Arc::new(Awaited { from: Arc::clone(&self.from), reply: Mutex::new(Some(reply)) });
        let (from, to, service) = (Arc::clone(&self.from), self.to, self.service);
        let is_once = matches!(&request, Request::Message { body } if body.get(1) == Some(&EXECUTE));
        let has_arrived = AtomicBool::new(false);
        send(world, self.from.host, self.to, move || {
            let world = &from.world;
            let Some(served) = Served::at(world, to, service) else {
                return world.clock.note(format_args!("{number} finds no host"));
            };
            if has_arrived.swap(true, Ordering::Relaxed) && is_once {
                return;
            }
            world.clock.note(format_args!("{number} arrives at {}", served.life));
            let (awaited, from, there) = (Arc::clone(&awaited), from.host, Arc::clone(&served.life));
            served.answer(
                &request,
                Reply::new(move |result| {
                    if !there.is_alive() {
                        return;
                    }
                    let world = &there.world;
                    world.clock.note(format_args!("{number} is answered by {there}: {}", Outcome(&result)));
                    let result = Mutex::new(Some(result));
                    send(world, to, from, move || {
                        // The second copy of an answer finds that no thread waits for it any more.
                        let result = result.lock().take();
                        if let Some(result) = result {
                            awaited.answer(result);
                        }
                    });
                }),
            );
        });
    }
}

/// A follower's way to the keeper's feed.
pub struct FeedWire {
    pub from: Arc<Life>,
}

impl Endpoint for FeedWire {
    fn send(&self, request: Request, reply: Reply) {
        let world = &self.from.world;
        if !self.from.is_alive() {
            return;
        }
        let request = if world.is_mutated(Mutant::SkipsAStep) { skip(request) } else { request };
        world.clock.note(format_args!("{} asks the keeper for news: {}", self.from, Shown(&request)));
        let awaited = Arc::new(Awaited { from: Arc::clone(&self.from), reply: Mutex::new(Some(reply)) });
        let from = Arc::clone(&self.from);
        send(world, self.from.host, World::KEEPER, move || {
            let world = &from.world;
            let keeper = world.hosts[World::KEEPER].life().filter(|life| life.is_up());
            let Some(desk) = keeper.and_then(|life| life.desk()) else { return };
            let Seated::Keeper(cluster) = &desk.seat else { return };
            let (world, back, awaited) = (Arc::clone(world), from.host, Arc::clone(&awaited));
            let reply = Reply::new(move |result| {
                world.clock.note(format_args!("the keeper has news: {}", Outcome(&result)));
                let result = Mutex::new(Some(result));
                send(&world, World::KEEPER, back, move || {
                    let result = result.lock().take();
                    if let Some(result) = result {
                        awaited.answer(result);
                    }
                });
            });
            cluster.feed().send(request.clone(), reply);
        });
    }
}

/// A shard's way to a coordinator of another process, to ask what became of a branch.
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
        world.clock.note(format_args!("{} asks host {}: {}", self.from, self.to, Shown(&request)));
        let awaited = Arc::new(Awaited { from: Arc::clone(&self.from), reply: Mutex::new(Some(reply)) });
        let (from, to) = (Arc::clone(&self.from), self.to);
        send(world, self.from.host, self.to, move || {
            let life = from.world.hosts[to].life().filter(|life| life.is_alive());
            let Some(verdicts) = life.and_then(|life| life.verdicts()) else { return };
            let (from, awaited) = (Arc::clone(&from), Arc::clone(&awaited));
            let back = Reply::new(move |result| {
                let result = Mutex::new(Some(result));
                send(&from.world, to, from.host, move || {
                    let result = result.lock().take();
                    if let Some(result) = result {
                        awaited.answer(result);
                    }
                });
            });
            verdicts.send(request.clone(), back);
        });
    }
}

/// A question for the steps since an epoch becomes one since the epoch after it.
fn skip(request: Request) -> Request {
    let Request::Message { body } = request else { return request };
    let epoch = body[1..].iter().rev().fold(0_u64, |epoch, byte| epoch << 7 | u64::from(byte & 0x7F));
    if epoch == 0 {
        return Request::Message { body };
    }
    let (mut epoch, mut skipped) = (epoch + 1, vec![body[0]]);
    while epoch > 0x7F {
        skipped.push(epoch as u8 | 0x80);
        epoch >>= 7;
    }
    skipped.push(epoch as u8);
    Request::Message { body: skipped }
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

/// The world's own way of work and moves to a shard of another process.
pub struct Link {
    pub from: Arc<Life>,
    pub to: usize,
    pub service: usize,
}

/// An answer, and the thread that waits for it.
struct Answer<T>(Mutex<Option<T>>);

impl Link {
    /// Has the shard answer, and waits for that.
    fn call<T: Send + 'static>(
        &self,
        what: impl fmt::Display,
        patience: Duration,
        is_once: bool,
        serve: impl Fn(&Served) -> T + Send + Sync + 'static,
    ) -> Option<T> {
        let world = &self.from.world;
        if !self.from.is_alive() {
            return None;
        }
        let number = world.number();
        world.clock.note(format_args!("{} asks host {}, {} in {number} {what}", self.from, self.to, self.service));
        let answer = Arc::new(Answer(Mutex::new(None)));
        let (told, there, from, to, service) =
            (Arc::clone(&answer), Arc::clone(world), self.from.host, self.to, self.service);
        let has_arrived = AtomicBool::new(false);
        send(world, from, to, move || {
            let Some(served) = Served::at(&there, to, service) else { return };
            if has_arrived.swap(true, Ordering::Relaxed) && is_once {
                return;
            }
            there.clock.note(format_args!("{number} arrives at {}", served.life));
            let result = serve(&served);
            if !served.life.is_alive() {
                return;
            }
            there.clock.note(format_args!("{number} is answered by {}", served.life));
            let (told, result, clock) = (Arc::clone(&told), Mutex::new(Some(result)), Arc::clone(&there.clock));
            send(&there, to, from, move || {
                if let Some(result) = result.lock().take() {
                    told.0.lock().get_or_insert(result);
                    clock.notify_all(std::ptr::from_ref(&*told).addr());
                }
            });
        });
        let until = world.clock.now() + world.plan.answer_within + patience;
        loop {
            let come = answer.0.lock().take();
            if come.is_some() || world.clock.now() >= until {
                return come;
            }
            world.clock.wait(std::ptr::from_ref(&*answer).addr(), Some(until));
        }
    }

    /// Reads a key. `None`: there was no answer.
    pub fn read(&self, key: u32, known: Tenure, patience: Duration) -> Option<Result<Option<Vec<u32>>, GateRefusal>> {
        self.call(format_args!("for key {key}"), patience, false, move |served| served.read(key, known, patience))
    }

    /// Has work done, perhaps because of another shard's hint.
    pub fn work(
        &self,
        branch: &BranchId,
        known: Tenure,
        put: Put,
        patience: Duration,
        is_hinted: bool,
    ) -> Result<(), ShardError> {
        let branch = branch.clone();
        let what = format!("for {put:?} under {branch}, {known}");
        let serve = move |served: &Served| served.execute(&branch, known, put, patience, is_hinted);
        self.call(what, patience, true, serve).unwrap_or(Err(ShardError::Unreachable))
    }
}

impl ShardMoves for Link {
    fn ask(&self, request: ShardRequest) -> Result<ShardResponse, ShardError> {
        let (patience, asked) = (request.patience(), request.clone());
        let serve = move |served: &Served| served.ask(&asked);
        self.call(AskedFor(&request), patience, false, serve).unwrap_or(Err(ShardError::Unreachable))
    }
}

/// A request, as the account of a run shows it.
struct AskedFor<'a>(&'a ShardRequest);

impl fmt::Display for AskedFor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ShardRequest::Take { branch, ranges, tenure, .. } => {
                write!(f, "to take {ranges:?} under {branch}, {tenure}")
            }
            request => write!(f, "to {request:?}"),
        }
    }
}

impl ShardLink<Put> for Link {
    fn execute(&self, branch: &BranchId, known: Tenure, put: Put, patience: Duration) -> Result<(), ShardError> {
        self.work(branch, known, put, patience, false)
    }
}

/// A shard as its process serves it to others, and what a mutant makes of that.
pub struct Served {
    pub life: Arc<Life>,
    pub shard: Arc<Shards>,
}

impl Served {
    fn at(world: &World, host: usize, service: usize) -> Option<Self> {
        let life = world.hosts[host].life().filter(|life| life.is_up())?;
        let shard = life.shard(service)?;
        Some(Self { life, shard })
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.life.world.is_mutated(mutant)
    }

    /// How long a gate keeps work waiting: a mutant passes it at once.
    fn patience(&self, key: u32, patience: Duration, is_hinted: bool) -> Duration {
        let passes = is_hinted && self.is(Mutant::FollowsHintsBlindly)
            || self.is(Mutant::FreezeNotRestored) && self.was_frozen(key);
        if passes { Duration::ZERO } else { patience }
    }

    /// Whether the position is in ranges that this shard has promised to give away before it was started.
    fn was_frozen(&self, key: u32) -> bool {
        let (at, number) = (position(key), self.life.number());
        let promised = self.life.world.promised.lock();
        let of_it = promised.iter().filter(|(branch, _)| branch.participant() == self.shard.name());
        of_it.map(|(_, promise)| promise).any(|(since, ranges)| *since < number && ranges.contains(at))
    }

    fn goes_past_gate(&self, key: u32, refusal: &GateRefusal, is_hinted: bool, gateless: Mutant) -> bool {
        self.is(gateless)
            || is_hinted && self.is(Mutant::FollowsHintsBlindly)
            || self.is(Mutant::FreezeNotRestored) && *refusal == GateRefusal::Moving && self.was_frozen(key)
    }

    fn ask(&self, request: &ShardRequest) -> Result<ShardResponse, ShardError> {
        let moves = &self.life.world.moves;
        if let ShardRequest::Take { branch, ranges, .. } = request {
            moves.lock().insert(branch.clone(), (true, ranges.clone()));
        }
        let response = self.shard.ask(request.clone())?;
        if let ShardRequest::Release { branch, ranges, .. } = request {
            moves.lock().insert(branch.clone(), (false, ranges.clone()));
            if self.is(Mutant::DiscardsBeforeDecision) && self.life.is_alive() {
                use ringpact::sharding::Shard;
                ranges.iter().for_each(|range| _ = self.shard.shard().discard(range));
            }
        }
        Ok(response)
    }

    fn execute(
        &self,
        branch: &BranchId,
        known: Tenure,
        put: Put,
        patience: Duration,
        is_hinted: bool,
    ) -> Result<(), ShardError> {
        match self.shard.execute(branch, known, put, self.patience(put.key, patience, is_hinted)) {
            Err(ShardError::Gate(refusal))
                if self.goes_past_gate(put.key, &refusal, is_hinted, Mutant::ForgetsGateAtWork) =>
            {
                self.life.world.clock.note(format_args!("{put:?} goes past the gate of {}", self.life));
                self.shard.shard().ungated.lock().entry(branch.clone()).or_default().push(put);
                Ok(())
            }
            result => result,
        }
    }

    fn read(&self, key: u32, known: Tenure, patience: Duration) -> Result<Option<Vec<u32>>, GateRefusal> {
        let patience = self.patience(key, patience, false);
        match self.shard.read(position(key), known, patience, |ledger| ledger.get(key)) {
            Err(refusal) if self.goes_past_gate(key, &refusal, false, Mutant::ForgetsGateAtReads) => {
                Ok(self.shard.shard().get(key))
            }
            Ok(tokens) => {
                self.life.world.admits(self.shard.shard(), key);
                Ok(tokens)
            }
            refused => refused,
        }
    }

    /// Puts a request that has come over the network.
    fn answer(&self, request: &Request, reply: Reply) {
        let Request::Branch { branch, verb, call } = request else {
            return Inline::new(Arc::clone(&self.shard)).send(request.clone(), reply);
        };
        let (world, ledger) = (&self.life.world, self.shard.shard());
        let has_ungated = ledger.ungated.lock().contains_key(branch);
        if has_ungated {
            let answer = match verb {
                Verb::Prepare => Response::Voted(Vote::Yes),
                Verb::CommitOnePhase => Response::Decided(Decision::Commit),
                _ => Response::Done,
            };
            match verb {
                Verb::Prepare => {}
                Verb::Rollback => drop(ledger.ungated.lock().remove(branch)),
                _ => drop(ledger.write_ungated(branch)),
            }
            let (shard, request) = (Arc::clone(&self.shard), request.clone());
            Inline::new(shard).send(request, Reply::new(|_| {}));
            return reply.send(Ok(answer));
        }
        let (served, asked, call) =
            (Self { life: Arc::clone(&self.life), shard: Arc::clone(&self.shard) }, branch.clone(), call.clone());
        let moves = world.moves.lock().get(branch).cloned();
        let then = move |result: Result<Response, ParticipantError>| {
            let world = &served.life.world;
            if let (Ok(answer), Some((arrives, ranges))) = (&result, &moves)
                && served.life.is_alive()
            {
                match answer {
                    Response::Voted(Vote::Yes) if !arrives => {
                        world.promised.lock().insert(asked.clone(), (served.life.number(), ranges.clone()));
                        if world.faulty() && world.clock.once_in(world.plan.crash_at_promise) {
                            served.life.crash("with a promise to give ranges away");
                        }
                    }
                    Response::Voted(Vote::Yes) if world.is_mutated(Mutant::OpensAtPrepare) => {
                        let _ = served.shard.commit(&asked, &call);
                    }
                    Response::Voted(Vote::Yes) if world.is_mutated(Mutant::HandsOverByTimeOut) => {
                        let (clock, shard, asked, call) =
                            (Arc::clone(&world.clock), Arc::clone(&served.shard), asked.clone(), call.clone());
                        world.clock.start(move || {
                            clock.sleep(MS * 40);
                            if shard.branches().prepared > 0 {
                                let _ = shard.commit(&asked, &call);
                            }
                        });
                    }
                    Response::Done => drop(world.promised.lock().remove(&asked)),
                    _ => {}
                }
            }
            reply.send(result);
        };
        Inline::new(Arc::clone(&self.shard)).send(request.clone(), Reply::new(then));
    }
}

/// A request as it is noted: without what differs from run to run, the log's id.
struct Shown<'a>(&'a Request);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Request::Branch { branch, verb, call } => {
                write!(f, "{verb:?} {branch}, ended below {}:{}", call.ended_below.epoch, call.ended_below.sequence)
            }
            Request::InDoubt { coordinator, .. } => write!(f, "what is in doubt of {coordinator}"),
            Request::Message { body } => write!(f, "a message of {} bytes of kind {:?}", body.len(), body.get(1)),
            other => write!(f, "{other:?}"),
        }
    }
}

struct Outcome<'a>(&'a Result<Response, ParticipantError>);

impl fmt::Display for Outcome<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(Response::Message { body }) => write!(f, "{} bytes of kind {:?}", body.len(), body.get(1)),
            Ok(response) => write!(f, "{response:?}"),
            Err(error) => write!(f, "{error}"),
        }
    }
}
