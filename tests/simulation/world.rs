//! Everything there is in a run, and what goes wrong in it as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::txn::BranchError;

#[cfg(feature = "tokio")]
use super::databases::Databases;
use super::{
    MS, absences::Absences, acquaintances::Acquaintances, host::Host, ledger::Ledger, mailer::Post, mutants::Mutant,
    operator::Desk, plan::Plan, scheduler::Scheduler,
};

pub struct World {
    pub clock: Arc<Scheduler>,
    pub plan: Plan,
    pub mutant: Option<Mutant>,
    pub hosts: Vec<Host>,
    pub ledger: Mutex<Ledger>,
    pub letters: Post,
    #[cfg(feature = "tokio")]
    pub databases: Databases,
    pub acquaintances: Acquaintances,
    pub absences: Absences,
    pub desk: Desk,
    /// Services whose branches a mutant refuses for good, by the coordinator's host.
    pub refused: Mutex<BTreeMap<(usize, String), BranchError>>,
    pub clients: AtomicUsize,
    phase: Mutex<Phase>,
    faults_ended: AtomicBool,
    counts: Mutex<Counts>,
    /// Pairs of hosts that don't reach each other.
    cuts: Mutex<BTreeSet<(usize, usize)>>,
    numbers: AtomicU64,
    /// The host that is to be down for long has been.
    was_long_down: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Whatever can go wrong may.
    Faults,
    /// Nothing goes wrong any more.
    Peace,
    /// A host that crashes loses all that was not synced.
    PowerCut,
    /// A host that is down stays down.
    Over,
}

/// What a run has seen, so that it can be told whether it was worth anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub committed: u64,
    pub rolled_back: u64,
    pub indeterminate: u64,
    pub unanswered: u64,
    /// Letters that were sent, and of them those without the purchase that they are about.
    pub letters: u64,
    pub false_letters: u64,
    pub crashes: u64,
    pub messages: u64,
    pub lost: u64,
    pub failed_io: u64,
    /// Participants that have refused a coordinator, and transactions that an operator has settled.
    pub refusals: u64,
    pub unclaimed: u64,
    /// Branches that were refused because a circuit is open, and how often a dead participant was called long after.
    pub circuits: u64,
    pub dead_spoken_to: u64,
    /// Participants that were added to an open coordinator, and that were told to retire.
    pub added: u64,
    pub retired: u64,
    /// Of participants' tasks.
    #[cfg(feature = "tokio")]
    pub panics: u64,
    /// Statements that databases were sent, those that were lost, and servers that were stopped.
    pub statements: u64,
    pub lost_statements: u64,
    pub stopped_servers: u64,
    pub turns: u64,
}

impl Counts {
    /// What every run should see now and then.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("committed", self.committed),
            ("rolled back", self.rolled_back),
            ("indeterminate", self.indeterminate),
            ("unanswered", self.unanswered),
            ("letters", self.letters),
            ("letters about nothing", self.false_letters),
            ("crashes", self.crashes),
            ("messages", self.messages),
            ("lost messages", self.lost),
            ("failed operations of a disk", self.failed_io),
            ("refused messages of another log or life", self.refusals),
            ("unclaimed transactions", self.unclaimed),
            ("branches refused by circuits", self.circuits),
            ("added participants", self.added),
            ("retired participants", self.retired),
            #[cfg(feature = "tokio")]
            ("panics of tasks", self.panics),
            #[cfg(feature = "tokio")]
            ("statements", self.statements),
            #[cfg(feature = "tokio")]
            ("lost statements", self.lost_statements),
            #[cfg(feature = "tokio")]
            ("stopped databases", self.stopped_servers),
        ]
    }
}

impl World {
    pub fn new(clock: Arc<Scheduler>, plan: Plan, mutant: Option<Mutant>) -> Arc<Self> {
        let hosts = plan.hosts.iter().cloned().enumerate().map(|(host, plan)| Host::new(host, plan)).collect();
        Arc::new(Self {
            clock,
            #[cfg(feature = "tokio")]
            databases: Databases::new(&plan, mutant),
            plan,
            mutant,
            hosts,
            ledger: Mutex::default(),
            letters: Post::default(),
            acquaintances: Acquaintances::default(),
            absences: Absences::default(),
            desk: Desk::default(),
            refused: Mutex::default(),
            clients: AtomicUsize::new(0),
            phase: Mutex::new(Phase::Faults),
            faults_ended: AtomicBool::new(false),
            counts: Mutex::default(),
            cuts: Mutex::default(),
            numbers: AtomicU64::new(0),
            was_long_down: AtomicBool::new(false),
        })
    }

    pub fn is_mutated(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub fn enter(&self, phase: Phase) {
        self.clock.note(format_args!("=== {phase:?} ==="));
        *self.phase.lock() = phase;
        self.cuts.lock().clear();
    }

    pub fn faulty(&self) -> bool {
        *self.phase.lock() == Phase::Faults
    }

    /// Whether faults may still show, although there are no new ones.
    pub fn had_faults(&self) -> bool {
        !self.faults_ended.load(Ordering::Relaxed)
    }

    pub fn faults_have_worn_off(&self) {
        self.faults_ended.store(true, Ordering::Relaxed);
    }

    pub fn is_powerless(&self) -> bool {
        *self.phase.lock() == Phase::PowerCut
    }

    pub fn is_over(&self) -> bool {
        *self.phase.lock() == Phase::Over
    }

    pub fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock());
    }

    pub fn counts(&self) -> Counts {
        *self.counts.lock()
    }

    pub fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn is_wrong(&self, what: fmt::Arguments<'_>) {
        self.clock.note(format_args!("WRONG: {what}"));
        self.ledger.lock().is_wrong(what);
    }

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.lock().contains(&(a.min(b), a.max(b)))
    }

    /// How long the host stays down, where this is the time that it is down for long.
    pub fn take_long_down(&self, host: usize) -> Option<Duration> {
        let (_, time) = self.plan.long_down.filter(|(down, _)| *down == host && self.faulty())?;
        (!self.was_long_down.swap(true, Ordering::Relaxed)).then_some(time)
    }

    /// Has things happen to the world for as long as there are faults.
    pub fn have_mishaps(self: &Arc<Self>) {
        if let Some((host, _)) = self.plan.long_down {
            let world = Arc::clone(self);
            self.clock.start(move || {
                world.clock.sleep((MS * 200).mul_f64(world.clock.draw(fastrand::Rng::f64)));
                if let Some(life) = world.hosts[host].life().filter(|_| world.faulty()) {
                    life.crash("for long");
                }
            });
        }
        let Some(every) = self.plan.mishaps_every else { return };
        let world = Arc::clone(self);
        self.clock.start(move || {
            while world.faulty() {
                world.clock.sleep((every * 2).mul_f64(world.clock.draw(fastrand::Rng::f64)));
                if world.faulty() {
                    world.have_mishap();
                }
            }
        });
    }

    fn have_mishap(self: &Arc<Self>) {
        let hosts = self.hosts.len();
        let (kind, a, b) = self.clock.draw(|random| (random.u8(..6), random.usize(..hosts), random.usize(..hosts)));
        match kind {
            0 | 1 => {
                if let Some(life) = self.hosts[a].life() {
                    life.crash("by mishap");
                }
            }
            2 => {
                self.clock.note(format_args!("all hosts crash"));
                self.hosts.iter().filter_map(Host::life).for_each(|life| life.crash("with all hosts"));
            }
            3 if a != b => {
                self.clock.note(format_args!("hosts {a} and {b} are cut off from each other"));
                self.cuts.lock().insert((a.min(b), a.max(b)));
                let (world, pause) = (Arc::clone(self), self.clock.draw(|random| MS * random.u32(..1_500)));
                self.clock.start(move || {
                    world.clock.sleep(pause);
                    world.cuts.lock().remove(&(a.min(b), a.max(b)));
                });
            }
            4 => {
                let Some(life) = self.hosts[a].life().filter(|life| life.is_up()) else { return };
                let world = Arc::clone(self);
                self.clock.start(move || {
                    for manager in life.managers() {
                        let resolution = life.with_all(|| manager.resolve_in_doubt(MS * 20));
                        world
                            .clock
                            .note(format_args!("{life}, {} has asked for verdicts: {resolution:?}", manager.name()));
                    }
                    if let Some(coordinator) = life.coordinator() {
                        world.clock.note(format_args!("{life} retries {} transactions", coordinator.retry_all()));
                    }
                });
            }
            _ => {
                let Some(life) = self.hosts[a].life().filter(|life| life.is_up()) else { return };
                if life.coordinator().is_none() {
                    return;
                }
                // On a log, and beside resource managers, that live on.
                self.clock.note(format_args!("{life} opens its coordinator again"));
                life.close_coordinator();
                if life.is_up() && life.open_coordinator().is_err() {
                    life.crash("because its coordinator did not open");
                }
            }
        }
    }
}
