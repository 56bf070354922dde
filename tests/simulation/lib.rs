//! A shop in a simulated world: production coordinators, resource managers and logs, on simulated hosts with disks and a
//! network that fail in every way they can, in an order that a seed draws.
//!
//! | file | what it is |
//! |---|---|
//! | `scheduler` | threads that take turns, and the clock |
//! | `plan` | what a seed draws beforehand |
//! | `world`, `network`, `host`, `busy`, `disk` | where it happens, and what goes wrong there |
//! | `store`, `served`, `tasks` | the shop's services, and how coordinators reach them |
//! | `databases` | services that keep what they have in a database which can prepare |
//! | `mailer`, `client`, `executor` | its last resource, the customers, and how they wait |
//! | `members` | services that coordinators are opened without, that are added, and retire |
//! | `operator` | coordinators' logs that are lost, restored or mixed up, and what an operator does then |
//! | `ledger`, `bounds`, `marks`, `acquaintances`, `absences` | the oracle |
//! | `log`, `mutants` | bugs planted at the seams, which the oracle must notice |
//! | `cluster` | a second world, in which data moves between shards |
//!
//! A run goes through these phases. *Faults*: clients buy, everything that can fails. *Peace*: nothing fails any more;
//! within a minute of simulated time all transactions must be settled, everywhere, and new ones must go through.
//! *Power cut*: all hosts crash at once and keep only what was synced; what clients were told must still be so. At the
//! end the logs must have forgotten all that has ended; and all along, whenever a client is through with a purchase, they
//! must hold nothing but of what is still open or remembered, and take no more than two segments for it.

mod absences;
mod acquaintances;
mod bounds;
mod busy;
mod client;
pub mod cluster;
#[cfg(feature = "tokio")]
mod databases;
mod disk;
mod executor;
mod host;
mod ledger;
mod log;
mod mailer;
mod marks;
mod members;
pub mod mutants;
mod network;
mod operator;
mod plan;
mod scheduler;
mod served;
#[cfg(feature = "tokio")]
#[path = "../common/sim_database/mod.rs"]
#[allow(dead_code)] // the participants' tests use the rest of it
mod sim_database;
#[path = "../common/sim_storage.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod sim_storage;
mod store;
#[cfg(feature = "tokio")]
mod tasks;
mod world;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
    time::Duration,
};

use fastrand::Rng;
use mutants::Mutant;
use plan::Plan;
use scheduler::Scheduler;
use world::{Counts, Phase, World};

const MS: Duration = Duration::from_millis(1);

/// How long clients may take, faults and all.
const LONGEST_DAY: Duration = Duration::from_secs(600);

/// How long it may take until all is settled, once nothing fails any more. The longest back-off is half a second.
const LONGEST_PEACE: Duration = Duration::from_secs(60);

/// How long a run may take on a real clock. Nearly all take milliseconds.
const LONGEST_RUN: Duration = Duration::from_secs(120);

/// Sets the stream that databases are drawn from apart from that of all else.
#[cfg(feature = "tokio")]
const DATABASES: u64 = 0x64_6174_6162_6173;

/// The same for services that come and go.
const MEMBERS: u64 = 0x6d_656d_6265_7273;

/// What a log has that grows while its process lives, in a report.
pub const OVERGROWN: &str = "grows without need";

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    pub seed: u64,
    /// A hash of everything that has happened, in its order.
    pub hash: u64,
    pub took: Duration,
    pub counts: Counts,
    /// What must not have happened.
    pub wrong: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, hash, took, counts, wrong } = self;
        write!(f, "seed {seed}, trace {hash:016x}, {took:.1?} simulated, {counts:?}")?;
        wrong.iter().try_for_each(|what| write!(f, "\n  {what}"))
    }
}

/// As [`run`], on a thread of its own: a run that does not come to an end is wrong for that.
pub fn run_in_time(seed: u64, mutant: Option<Mutant>) -> Report {
    in_time(seed, move || run(seed, mutant, false)).unwrap_or_else(|wrong| Report {
        seed,
        hash: 0,
        took: Duration::ZERO,
        counts: Counts::default(),
        wrong: vec![wrong],
    })
}

/// Runs something on a thread of its own. If it does not come to an end, it waits somewhere that the scheduler knows nothing of; its thread
/// stays behind.
fn in_time<T: Send + 'static>(seed: u64, run: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let (done, is_done) = mpsc::channel();
    let runs = thread::spawn(move || drop(done.send(run())));
    match is_done.recv_timeout(LONGEST_RUN) {
        Ok(report) => Ok(report),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("seed {seed}: {:?}", runs.join()),
        Err(mpsc::RecvTimeoutError::Timeout) => Err(format!("it has not come to an end within {LONGEST_RUN:?}")),
    }
}

/// Runs a seed. With `shown`, prints everything that happens.
pub fn run(seed: u64, mutant: Option<Mutant>, shown: bool) -> Report {
    run_on(seed, mutant, shown, GoesOn::ToTheEnd)
}

/// Runs a seed with a planted bug up to the first thing that is wrong, and returns that. A run to the end finds the same first thing.
/// But a world that the bug keeps from ever settling takes hundreds of times as long as others.
pub fn find(seed: u64, mutant: Mutant) -> Option<String> {
    run_on(seed, Some(mutant), false, GoesOn::WhileAllIsWell).wrong.into_iter().next()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum GoesOn {
    ToTheEnd,
    WhileAllIsWell,
}

fn run_on(seed: u64, mutant: Option<Mutant>, shown: bool, goes_on: GoesOn) -> Report {
    let mut plan = Plan::draw(&mut Rng::with_seed(seed), mutant.is_some_and(Mutant::needs_log_fault));
    #[cfg(feature = "tokio")]
    plan.draw_databases(&mut Rng::with_seed(seed ^ DATABASES), mutant.is_some_and(Mutant::needs_database));
    if mutant.is_none() {
        plan.draw_members(&mut Rng::with_seed(seed ^ MEMBERS));
    }
    if shown {
        println!("{plan:#?}");
    }
    let clock = Scheduler::new(seed, shown);
    let world = World::new(Arc::clone(&clock), plan, mutant);
    let director = Arc::clone(&world);
    clock.start(move || direct(&director));
    let is_enough = || goes_on == GoesOn::WhileAllIsWell && !world.ledger.lock().wrong.is_empty();
    let ended = catch_unwind(AssertUnwindSafe(|| clock.run(is_enough)));
    let mut counts = world.counts();
    counts.turns = clock.turns();
    let mut wrong = std::mem::take(&mut world.ledger.lock().wrong);
    match ended {
        Ok(0) => {}
        Ok(_) if goes_on == GoesOn::WhileAllIsWell && !wrong.is_empty() => {} // they were left in the middle
        Ok(stuck) => wrong.push(format!("{stuck} threads wait forever")),
        Err(_) => wrong.push("a thread panicked".to_owned()),
    }
    Report { seed, hash: clock.hash(), took: clock.elapsed(), counts, wrong }
}

fn direct(world: &Arc<World>) {
    let clock = &world.clock;
    for host in (0..world.hosts.len()).filter(|host| !world.hosts[*host].plan.is_second) {
        let (world, started) = (Arc::clone(world), host);
        clock.start(move || world.hosts[started].start(&world, started));
    }
    client::start(world);
    world.have_mishaps();
    #[cfg(feature = "tokio")]
    databases::have_mishaps(world);
    operator::start(world);
    members::start(world);
    if !clock.await_until(LONGEST_DAY, || world.clients.load(Ordering::Relaxed) == 0) {
        world.is_wrong(format_args!("the clients' day does not come to an end"));
    }
    clock.await_until(LONGEST_DAY, || world.desk.is_over());
    world.enter(Phase::Peace);
    settle_for_good(world);
    audit(world, "in peace");
    world.enter(Phase::PowerCut);
    world.hosts.iter().filter_map(host::Host::life).for_each(|life| life.crash("in the power cut"));
    #[cfg(feature = "tokio")]
    world.databases.lose_power();
    world.enter(Phase::Peace);
    settle_for_good(world);
    audit(world, "after the power cut");
    bounds::check_in_the_end(world);
    let books = world.hosts.iter().filter_map(host::Host::life).flat_map(|life| life.books()).collect();
    {
        use ledger::Told::{Committed, Indeterminate, RolledBack};
        let ledger = world.ledger.lock();
        let count = |told| ledger.count(told) as u64;
        let letters = &world.letters.lock().sent;
        world.count(|counts| {
            (counts.letters, counts.false_letters) =
                (letters.len() as u64, ledger.false_letters(&books, letters) as u64);
            (counts.committed, counts.rolled_back) = (count(Some(Committed)), count(Some(RolledBack)));
            (counts.indeterminate, counts.unanswered) = (count(Some(Indeterminate)), count(None));
        });
    }
    world.enter(Phase::Over);
    world.hosts.iter().filter_map(host::Host::life).for_each(|life| life.shut_down());
}

/// Settles again if the operator has meanwhile stopped a process, to open its coordinator with a word. The books of a process that is
/// down can't be read.
fn settle_for_good(world: &Arc<World>) {
    let is_up = |host: &host::Host| host.is_retired() || host.life().is_some_and(|life| life.is_up());
    for _ in 0..3 {
        settle(world);
        if world.hosts.iter().all(is_up) {
            return;
        }
    }
}

/// Waits until all is settled, new transactions included.
fn settle(world: &Arc<World>) {
    let clock = &world.clock;
    let in_service = world.hosts.iter().filter(|host| !host.is_retired()).count();
    let lives = || world.hosts.iter().filter_map(host::Host::life).filter(|life| life.is_up()).collect::<Vec<_>>();
    if !clock.await_until(LONGEST_PEACE, || lives().len() == in_service) {
        return world.is_wrong(format_args!("not all hosts start, although nothing fails any more"));
    }
    clock.sleep(MS * 3_000); // what is still on its way arrives
    // A log that was poisoned before is found out now.
    if !clock.await_until(LONGEST_PEACE, || lives().len() == in_service) {
        return world.is_wrong(format_args!("not all hosts stay up, although nothing fails any more"));
    }
    world.faults_have_worn_off();
    if !clock.await_until(LONGEST_PEACE, || !probe_and_forget(world, &lives()) && is_quiet(world, MS * 2_000)) {
        let unrest: Vec<_> = lives().iter().flat_map(|life| life.unrest()).collect();
        return world.is_wrong(format_args!("no peace: {unrest:#?}"));
    }
    for life in lives() {
        if let Some(coordinator) = life.coordinator() {
            marks::check_in_peace(&life, &coordinator.status());
        }
    }
}

/// New transactions go through. They carry the news of what has ended; checkpoints then forget it. Says whether
/// anything went wrong with that.
fn probe_and_forget(world: &Arc<World>, lives: &[Arc<host::Life>]) -> bool {
    let mut wrong = false;
    lives.iter().filter_map(|life| life.coordinator()).for_each(|coordinator| {
        operator::forget_heuristics(world, &coordinator);
        coordinator.retry_all();
    });
    for life in lives.iter().filter(|life| life.coordinator().is_some()) {
        for _ in 0..2 {
            let told = client::purchase(life, &client::Wish::probe());
            wrong |= told != Some(ledger::Told::Committed);
        }
    }
    is_quiet(world, MS * 2_000);
    for life in lives {
        for manager in life.managers() {
            if let Err(error) = life.with_all(|| manager.checkpoint()) {
                world.clock.note(format_args!("{life}, {}: {error}", manager.name()));
                wrong = true;
            }
        }
    }
    wrong
}

/// Whether everything comes to an end within this time.
fn is_quiet(world: &World, limit: Duration) -> bool {
    let lives: Vec<_> = world.hosts.iter().filter_map(host::Host::life).collect();
    world.clock.await_until(limit, || lives.iter().all(|life| life.unrest().is_empty()))
}

fn audit(world: &World, when: &str) {
    let lives: Vec<_> = world.hosts.iter().filter_map(host::Host::life).collect();
    let books = lives.iter().flat_map(|life| life.books()).collect();
    // A lost or older log forgets decisions, whatever the post remembers, and an operator settles what is left.
    let remembers = world.plan.remembers && world.plan.log_fault.is_none();
    world.ledger.lock().audit(when, &books, &world.letters.lock().sent, remembers);
}
