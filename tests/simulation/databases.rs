//! Services that keep what they have in a database which can prepare: production's participant for such, on a database in memory.
//! Its server is a machine of its own. Connections to it are lost, statements come late, it stops at any moment, and finds its
//! promises little by little when it is started again.

use std::{collections::BTreeMap, fmt, future::Future, sync::Arc, time::Duration};

use ringpact::{
    BranchId, Name, ParticipantError, TxnId, Vote,
    participant::{
        AsyncParticipant, Call, Decision, Endpoint, Greeting, Life as CoordinatorsLife, Reply, Request, Spawned, Verb,
        xa::{XaOpenError, XaOptions, XaParticipant},
    },
};

use super::{
    MS,
    executor::block_on,
    host::{Host, Life},
    mutants::Mutant,
    network::verdict_endpoints,
    plan::{Plan, Wakers},
    served::Served,
    sim_database::{Database, Defect, Fate, Statement, Step, Way},
    store::{PLENTY, STOCK, SoldOut, Work},
    tasks::sleep,
    world::World,
};

/// How late the server does what it does late. It is all done when peace has come.
const LATEST: Duration = Duration::from_secs(2);

/// How long a process waits for its database before it asks again.
const ASKS_AGAIN: Duration = Duration::from_millis(20);

/// How often a server looks for sessions that do nothing. Longer than a client that is at work keeps silent.
const LOOKS_FOR_IDLE: Duration = Duration::from_secs(2);

/// A service's participant in a process.
pub type Base = XaParticipant<Database<Work>>;

/// All databases, by their services. They outlive every process.
pub struct Databases(BTreeMap<&'static str, Database<Work>>);

impl Databases {
    pub fn new(plan: &Plan, mutant: Option<Mutant>) -> Self {
        let defect = match mutant {
            Some(Mutant::FencesNothing) => Some(Defect::FencesNothing),
            Some(Mutant::BelievesWhatIsNotThere) => Some(Defect::BelievesWhatIsNotThere),
            Some(Mutant::BelievesLateLists) => Some(Defect::BelievesLateLists),
            Some(Mutant::LeavesNoMarker) => Some(Defect::LeavesNoMarker),
            _ => None,
        };
        let make = || match defect {
            Some(defect) => Database::default().with_defect(defect),
            None => Database::default(),
        };
        Self(plan.databases.iter().map(|service| (*service, make())).collect())
    }

    /// Whether one has a promise.
    pub fn has_promise(&self) -> bool {
        self.0.values().any(|database| !database.promised().is_empty())
    }

    /// All servers go down with everything else, and are up again at once.
    pub fn lose_power(&self) {
        for database in self.0.values() {
            database.stop();
            database.start(|| true);
            database.recover();
        }
    }
}

/// Has servers end what is idle, and stop now and then for as long as there are faults.
pub fn have_mishaps(world: &Arc<World>) {
    for database in world.databases.0.values() {
        let (world, database) = (Arc::clone(world), database.clone());
        world.clock.clone().start(move || {
            while !world.is_over() {
                world.clock.sleep(LOOKS_FOR_IDLE);
                database.end_idle();
            }
        });
    }
    let Some(every) = world.plan.database.stops_every else { return };
    for service in world.databases.0.keys().copied() {
        let world = Arc::clone(world);
        world.clock.clone().start(move || {
            while world.faulty() {
                world.clock.sleep((every * 2).mul_f64(world.clock.draw(fastrand::Rng::f64)));
                if world.faulty() {
                    stop(&world, service);
                }
            }
        });
    }
}

/// Stops a server, and has it started again.
fn stop(world: &Arc<World>, service: &'static str) {
    let database = &world.databases.0[service];
    if database.is_down() {
        return;
    }
    world.clock.note(format_args!("the database of {service} stops"));
    world.count(|counts| counts.stopped_servers += 1);
    database.stop();
    let (world, database, plan) = (Arc::clone(world), database.clone(), world.plan.database);
    world.clock.clone().start(move || {
        let clock = &world.clock;
        clock.sleep(plan.longest_down.mul_f64(clock.draw(fastrand::Rng::f64)));
        if !database.is_down() {
            return;
        }
        clock.note(format_args!("the database of {service} starts"));
        database.start(|| clock.draw(fastrand::Rng::bool));
        clock.sleep(plan.longest_recovery.mul_f64(clock.draw(fastrand::Rng::f64)));
        clock.note(format_args!("the database of {service} has found its promises"));
        database.recover();
    });
}

/// A process's connections to its database.
struct Line {
    life: Arc<Life>,
    service: &'static str,
}

impl Line {
    fn world(&self) -> &Arc<World> {
        &self.life.world
    }

    async fn travel(&self) {
        let (clock, network) = (&self.world().clock, self.world().plan.network);
        let pause = network.fastest + network.slowest.mul_f64(clock.draw(fastrand::Rng::f64) / 2.0);
        sleep(clock, pause).await;
    }

    /// What goes wrong at any moment: the process crashes, the server stops.
    fn have_mishap(&self) {
        let world = self.world();
        if !world.faulty() {
            return;
        }
        if world.clock.once_in(world.plan.crash_at_message) {
            self.life.crash("at a statement");
        }
        if world.clock.once_in(world.plan.database.stops_at_statement) {
            stop(world, self.service);
        }
    }

    fn fate(&self, statement: Statement) -> Fate {
        let (world, clock) = (self.world(), &self.world().clock);
        let plan = world.plan.database;
        if !world.faulty() {
            return Fate::Answered;
        }
        let may_be_refused = matches!(statement, Statement::Work | Statement::Prepare | Statement::CommitOnePhase);
        let may_be_denied = matches!(statement, Statement::CommitPrepared | Statement::RollbackPrepared);
        if clock.once_in(plan.lost) {
            [Fate::LostBefore, Fate::LostAfter, Fate::Late][clock.draw(|random| random.usize(..3))]
        } else if may_be_refused && clock.once_in(plan.refused) {
            Fate::Refused
        } else if may_be_denied && clock.once_in(plan.denied) {
            Fate::Denied
        } else {
            Fate::Answered
        }
    }
}

impl Way for Line {
    fn go(&self, statement: Statement) -> Step<'_, Fate> {
        Box::pin(async move {
            let world = self.world();
            world.count(|counts| counts.statements += 1);
            if !self.life.is_alive() {
                return Fate::LostBefore;
            }
            let fate = self.fate(statement);
            self.travel().await;
            self.have_mishap();
            // What a process had sent before it crashed may still arrive.
            let fate = match self.life.is_alive() {
                true => fate,
                false if self.flip() => Fate::Late,
                false => Fate::LostBefore,
            };
            world
                .clock
                .note(format_args!("{}, {statement:?} at the database of {}: {fate:?}", self.life, self.service));
            if matches!(fate, Fate::LostBefore | Fate::LostAfter | Fate::Late) {
                world.count(|counts| counts.lost_statements += 1);
            }
            fate
        })
    }

    fn come_back(&self, _: Statement) -> Step<'_, bool> {
        Box::pin(async move {
            self.have_mishap();
            let is_answered = !self.world().databases.0[self.service].is_down();
            self.travel().await;
            is_answered && self.life.is_alive()
        })
    }

    fn later(&self, does: Box<dyn FnOnce() + Send>) {
        let clock = Arc::clone(&self.world().clock);
        self.world().clock.start(move || {
            clock.sleep(LATEST.mul_f64(clock.draw(fastrand::Rng::f64)));
            does();
        });
    }

    fn flip(&self) -> bool {
        self.world().clock.draw(fastrand::Rng::bool)
    }
}

/// The services whose databases have carried out their branch, and whose processes were started since: they have forgotten how far
/// the coordinator's log was then.
pub fn forgetful(world: &World, txn: &TxnId) -> Vec<Name> {
    let names = world.databases.0.iter().map(|(service, database)| {
        let name: Name = service.parse().expect("a valid name");
        (database.applied(&txn.branch(&name)) > 0, name)
    });
    let remembers = |name: &Name| {
        let mut lives = world.hosts.iter().filter_map(Host::life);
        lives.any(|life| life.told_to_commit.lock().contains(&txn.branch(name)))
    };
    names.filter(|(has_applied, name)| *has_applied && !remembers(name)).map(|(_, name)| name).collect()
}

/// Opens the participant, as soon as the database answers. `None` if the process does not live to see it.
pub fn open(life: &Arc<Life>, service: &'static str) -> Option<Base> {
    let world = &life.world;
    let options = XaOptions::default().max_promises(world.plan.database.max_promises);
    while life.is_alive() {
        let database = world.databases.0[service].reached_by(Line { life: Arc::clone(life), service });
        match block_on(&world.clock, Wakers::Notify, XaParticipant::open(service, database, options)) {
            Ok(base) => {
                for (coordinator, endpoint) in verdict_endpoints(life) {
                    base.set_verdict_endpoint(coordinator, endpoint);
                }
                return Some(base);
            }
            Err(XaOpenError::Name(error)) => unreachable!("{service} is a name: {error}"),
            Err(error) => world.clock.note(format_args!("{life}, {service}: {error}")),
        }
        world.clock.sleep(ASKS_AGAIN);
    }
    None
}

/// Does a client's work under a branch. Says whether it is done.
pub fn execute(life: &Arc<Life>, base: Base, branch: &BranchId, work: Work) -> bool {
    let (world, branch) = (Arc::clone(&life.world), branch.clone());
    let note = format!("{life}, {branch}");
    block_on(&life.world.clock, Wakers::Notify, async move {
        let done = change(&world, &base, &branch, work).await;
        if let Err(why) = &done {
            world.clock.note(format_args!("{note}: {why}"));
        }
        done.is_ok()
    })
}

async fn change(
    world: &Arc<World>,
    base: &Base,
    branch: &BranchId,
    work: Work,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let at_work = base.work(branch).await?;
    let stock = STOCK * world.plan.busier;
    let session = at_work.session().ok_or("no session")?;
    let worked = session.work(|works| {
        if !work.changes() {
            return Ok(None);
        }
        let taken: u64 = works.iter().filter(|other| other.article == work.article).map(|other| other.quantity).sum();
        let has_enough = work.article == PLENTY || taken + work.quantity <= stock;
        if has_enough { Ok(Some(work)) } else { Err(SoldOut) }
    });
    match worked.await {
        Ok(Ok(())) => {}
        // The client may go on all the same, so the branch is to vote No.
        Ok(Err(why)) => {
            at_work.doom(why.to_string());
            return Err(why.into());
        }
        Err(error) => {
            at_work.doom(error.to_string());
            return Err(error.into());
        }
    }
    // Some clients keep the session for a while.
    if world.faulty() && world.clock.once_in(world.plan.try_blocks) {
        sleep(&world.clock, (MS * 1_500).mul_f64(world.clock.draw(fastrand::Rng::f64))).await;
    }
    Ok(())
}

/// How a coordinator of the same process reaches it: by production's adapter.
pub fn endpoint(served: Served) -> impl Endpoint {
    let platform = served.life.world.clock.platform();
    Spawned::simulated(InDatabase(Arc::new(served)), platform)
}

/// A request has come over the network. The process has it answered by a task.
pub fn serve(served: Served, request: &Request, reply: Reply) {
    endpoint(served).send(request.clone(), reply);
}

/// A service with a database as its process serves it to coordinators.
struct InDatabase(Arc<Served>);

impl InDatabase {
    fn base(&self) -> Result<Base, ParticipantError> {
        self.0.life.base(&self.0.name).ok_or(ParticipantError::Unreachable)
    }

    async fn on<T: fmt::Debug, F: Future<Output = Result<T, ParticipantError>> + Send>(
        &self,
        verb: Verb,
        branch: &BranchId,
        call: &Call,
        serve: impl FnOnce(Base, Call) -> F + Send,
    ) -> Result<T, ParticipantError> {
        let base = self.base()?;
        let heard = self.0.hears(branch, call)?;
        if matches!(verb, Verb::Commit | Verb::CommitOnePhase) {
            self.0.life.told_to_commit.lock().insert(branch.clone());
        }
        let served = serve(base, heard.call.clone()).await;
        let served = self.0.is_answered(branch.txn().coordinator(), &heard, served);
        self.0.has_served(verb, branch, call, served)
    }
}

impl AsyncParticipant for InDatabase {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        let on = branch.clone();
        let vote = self.on(Verb::Prepare, branch, call, |base, call| async move { base.prepare(&on, &call).await });
        self.0.mutate_vote(vote.await)
    }

    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.0.skips(Verb::Commit) {
            return Ok(());
        }
        let on = branch.clone();
        self.on(Verb::Commit, branch, call, |base, call| async move { base.commit(&on, &call).await }).await
    }

    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        if self.0.skips(Verb::Rollback) {
            return Ok(());
        }
        let on = branch.clone();
        self.on(Verb::Rollback, branch, call, |base, call| async move {
            AsyncParticipant::rollback(&base, &on, &call).await
        })
        .await
    }

    async fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        let on = branch.clone();
        self.on(Verb::CommitOnePhase, branch, call, |base, call| async move { base.commit_one_phase(&on, &call).await })
            .await
    }

    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        let base = self.base()?;
        if self.0.is_mutated(Mutant::ReportsNothingInDoubt) {
            return Ok(Vec::new());
        }
        AsyncParticipant::in_doubt(&base, coordinator).await
    }

    async fn meet(&self, coordinator: &Name, life: &CoordinatorsLife) -> Result<(), ParticipantError> {
        let base = self.base()?;
        let (heard, seen) = self.0.is_met_by(coordinator, life);
        let met = AsyncParticipant::meet(&base, coordinator, &seen).await;
        self.0.is_answered(coordinator, &heard, met)
    }

    fn greet(&self, greeting: &Greeting) {
        if let Ok(base) = self.base() {
            AsyncParticipant::greet(&base, &self.0.is_greeted(greeting));
        }
    }
}

/// What stands in the way of peace in a process's databases. A branch that is only active in the process is none: its work came
/// after all that could end it, and the server has ended its session.
pub fn unrest(life: &Life) -> Vec<String> {
    let mut unrest = Vec::new();
    for base in life.bases() {
        let (status, database) = (base.status(), base.backend());
        let (promised, worked_on) = (database.promised(), database.worked_on());
        if status.promised > 0 || !promised.is_empty() || !worked_on.is_empty() {
            // Without the age of the oldest promise, by a clock that the world knows nothing of.
            let (bound, lost) = (status.promised, status.lost);
            unrest.push(format!(
                "{life}, {}: {bound} bound, {lost} lost; promised {promised:?}, at work {worked_on:?}",
                base.name()
            ));
        }
    }
    unrest
}
