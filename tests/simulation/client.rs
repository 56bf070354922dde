//! Clients: they buy things, change their minds, lose patience, and remember what they were told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, Commit, CommitError, Transaction, TxnId,
    platform::Simulator,
    txn::{BranchError, Refusal},
};

use super::{
    MS, bounds,
    executor::block_on,
    host::{Life, PATIENCE},
    ledger::Told,
    mailer::MAIL,
    mutants::Mutant,
    plan::{SERVICES, Wakers},
    scheduler::Scheduler,
    store::{ARTICLES, PLENTY, Work},
    world::World,
};

/// Starts all clients, spread over the coordinators.
pub fn start(world: &Arc<World>) {
    let coordinators: Vec<_> =
        (0..world.hosts.len()).filter(|host| world.hosts[*host].plan.coordinator.is_some()).collect();
    for client in 0..world.plan.clients {
        let (world, host) = (Arc::clone(world), coordinators[client % coordinators.len()]);
        world.clients.fetch_add(1, Ordering::Relaxed);
        world.clock.clone().start(move || {
            for _ in 0..world.plan.purchases {
                world.clock.sleep(world.plan.pause.mul_f64(world.clock.draw(fastrand::Rng::f64)));
                if let Some(life) = await_life(&world, host) {
                    purchase(&life, &Wish::draw(&world.clock));
                }
                bounds::check_now(&world);
            }
            world.clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn await_life(world: &World, host: usize) -> Option<Arc<Life>> {
    let mut life = None;
    world.clock.await_until(MS * 20_000, || {
        life = world.hosts[host].life().filter(|life| life.is_up());
        life.is_some() || world.hosts[host].is_retired()
    });
    life
}

/// What a client wants, and how it goes about it.
pub struct Wish {
    works: Vec<(&'static str, Work)>,
    end: End,
    /// It goes on after a refusal, to see whether that is noticed.
    stubborn: bool,
    /// It thinks between one piece of work and the next.
    dawdles: bool,
    /// It wants a letter about it.
    wants_letter: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Wait,
    Await,
    /// It starts to commit and does not stay for the answer.
    WalkAway,
    RollBack,
}

impl Wish {
    fn draw(clock: &Scheduler) -> Self {
        clock.draw(|random| {
            let mut services = SERVICES.to_vec();
            random.shuffle(&mut services);
            services.truncate([1, 2, 3, 3, 3, 3][random.usize(..6)]);
            let quantity = random.u64(1..=3);
            let (article, value) = (random.u8(..ARTICLES), quantity * random.u64(1..=9));
            let looks = |random: &mut fastrand::Rng| random.u8(..8) == 0;
            let work = |quantity| Work { article, quantity, value };
            let mut works: Vec<_> = services
                .into_iter()
                .map(|service| (service, if looks(random) { Work { value: 0, ..work(0) } } else { work(quantity) }))
                .collect();
            // Some work is done in two pieces.
            if random.u8(..4) == 0
                && let Some((service, whole)) = works.iter().find(|(_, work)| work.quantity > 1).copied()
            {
                works.retain(|(other, _)| *other != service);
                works.push((service, Work { quantity: whole.quantity - 1, value: whole.value - 1, ..whole }));
                works.push((service, Work { quantity: 1, value: 1, ..whole }));
            }
            let end = match random.u8(..8) {
                0 => End::RollBack,
                1 => End::WalkAway,
                2..5 => End::Await,
                _ => End::Wait,
            };
            Self {
                works,
                end,
                stubborn: random.bool(),
                dawdles: random.u8(..4) == 0,
                wants_letter: random.u8(..4) == 0,
            }
        })
    }

    /// A bit of something that there is plenty of, at every service.
    pub fn probe() -> Self {
        let work = Work { article: PLENTY, quantity: 1, value: 1 };
        let works = SERVICES.map(|service| (service, work)).into();
        Self { works, end: End::Wait, stubborn: false, dawdles: false, wants_letter: false }
    }
}

/// Goes through with it, as far as it goes. Gives what the client was told, if it was told anything.
pub fn purchase(life: &Arc<Life>, wish: &Wish) -> Option<Told> {
    let mut id = None;
    let told = go_through_with(life, wish, &mut id);
    if let Some(id) = id {
        life.world.ledger.lock().left(&id, life.world.clock.elapsed());
    }
    told
}

fn go_through_with(life: &Arc<Life>, wish: &Wish, begun: &mut Option<TxnId>) -> Option<Told> {
    let world = &life.world;
    let coordinator = life.coordinator()?;
    let mut txn = match (world.plan.wakers, wish.end) {
        (wakers @ (Wakers::Poll | Wakers::Panic), End::Await) => {
            block_on(&world.clock, wakers, async move { coordinator.begin_async().await })
        }
        _ => {
            let txn = coordinator.begin();
            drop(coordinator);
            txn
        }
    };
    let id = txn.id().clone();
    if !life.is_alive() {
        return None;
    }
    world.ledger.lock().begun(&id, life.host);
    *begun = Some(id.clone());
    let mut all_done = true;
    for (service, work) in &wish.works {
        if wish.dawdles {
            world.clock.sleep((MS * 100).mul_f64(world.clock.draw(fastrand::Rng::f64)));
        }
        match work_at(life, &mut txn, service, *work) {
            Some(true) => {}
            Some(false) if wish.stubborn => all_done = false,
            // Refused, or its outcome is unknown: there is no point in going on.
            _ => return None,
        }
    }
    if wish.wants_letter {
        match txn.branch(MAIL) {
            Ok(branch) => {
                world.ledger.lock().branched(branch);
                world.ledger.lock().wrote(branch);
            }
            // Its time is up, or the participant's circuit is open.
            Err(BranchError::Over { .. } | BranchError::Refused { .. }) => return None,
            Err(error) => unreachable!("the mailer takes part: {error}"),
        }
    }
    if wish.end == End::RollBack || !life.is_alive() {
        return None;
    }
    if all_done {
        world.ledger.lock().committing(&id);
    }
    world.clock.note(format_args!("{life} commits {id}, {:?}", wish.end));
    let result = match wish.end {
        End::WalkAway => {
            drop(txn.commit());
            return None;
        }
        End::Await => block_on(&world.clock, world.plan.wakers, txn.commit()),
        _ => Commit::wait(txn.commit()),
    };
    if !life.is_alive() {
        return None;
    }
    let told = match &result {
        Ok(()) => Told::Committed,
        Err(CommitError::RolledBack { .. }) => Told::RolledBack,
        Err(_) => Told::Indeterminate,
    };
    world.clock.note(format_args!("{life} is told about {id}: {told:?}"));
    let mut ledger = world.ledger.lock();
    ledger.told(&id, told);
    if told == Told::Committed && !all_done {
        ledger.is_wrong(format_args!("{id} was committed although some of its work was refused"));
    }
    Some(told)
}

/// Has a service take part. A mutant refuses for good what was refused once.
fn branch_at(life: &Life, txn: &mut Transaction, service: &str) -> Result<BranchId, BranchError> {
    let (world, of) = (&life.world, (life.host, service.to_owned()));
    if let Some(refused) = world.refused.lock().get(&of) {
        return Err(refused.clone());
    }
    let result = txn.branch(service).cloned();
    match &result {
        Ok(branch) => world.ledger.lock().branched(branch),
        Err(error @ BranchError::Refused { why: Refusal::NotAnswering, .. }) => {
            world.count(|counts| counts.circuits += 1);
            if world.is_mutated(Mutant::NeverClosesCircuits) {
                world.refused.lock().insert(of, error.clone());
            }
        }
        Err(_) => {}
    }
    result
}

/// Has one service do its part. `None`: there was no answer.
fn work_at(life: &Arc<Life>, txn: &mut Transaction, service: &str, work: Work) -> Option<bool> {
    let world = &life.world;
    let branch = match branch_at(life, txn, service) {
        Ok(branch) => branch,
        // Its time is up, or the participant's circuit is open.
        Err(BranchError::Over { .. } | BranchError::Refused { .. }) => return None,
        Err(BranchError::UnknownParticipant { .. } | BranchError::Retiring { .. })
            if world.plan.comes_and_goes(service) =>
        {
            return None;
        }
        Err(error) => unreachable!("every service takes part: {error}"),
    };
    let to = world.hosts.iter().position(|host| host.plan.managers.iter().any(|(name, _)| *name == service))?;
    world.clock.note(format_args!("{life} asks for {work:?} under {branch}"));
    let done = if to == life.host {
        Some(execute(life, &branch, work))
    } else {
        let answer = Arc::new(Answer::default());
        let (told, from, world_there, asked) = (Arc::clone(&answer), life.host, Arc::clone(world), branch.clone());
        let arrived = AtomicBool::new(false);
        world.send(life.host, to, move || {
            // Work is sent once, because it is not idempotent. A transport that repeats must tell repeats apart.
            let Some(there) = world_there.hosts[to].life().filter(|life| life.is_up()) else { return };
            if arrived.swap(true, Ordering::Relaxed) {
                return;
            }
            let done = execute(&there, &asked, work);
            if there.is_alive() {
                let (told, world) = (Arc::clone(&told), Arc::clone(&world_there));
                world_there.send(to, from, move || told.give(&world.clock, done));
            }
        });
        answer.await_for(&world.clock)
    };
    if done == Some(true) && life.is_alive() {
        world.ledger.lock().worked(&branch, work);
    }
    done
}

fn execute(life: &Arc<Life>, branch: &BranchId, work: Work) -> bool {
    #[cfg(feature = "tokio")]
    if let Some(base) = life.base(branch.participant()) {
        return super::databases::execute(life, base, branch, work);
    }
    let Some(manager) = life.manager(branch.participant()) else { return false };
    life.with_branch(branch, || life.is_alive() && manager.execute(branch, work).is_ok())
}

#[derive(Default)]
struct Answer(Mutex<Option<bool>>);

impl Answer {
    fn place(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn give(&self, clock: &Scheduler, done: bool) {
        *self.0.lock() = Some(done);
        clock.notify_all(self.place());
    }

    fn await_for(&self, clock: &Scheduler) -> Option<bool> {
        let answer = *self.0.lock();
        if answer.is_none() {
            clock.wait(self.place(), Some(clock.now() + PATIENCE));
        }
        *self.0.lock()
    }
}
