//! Everything there is in a run of the cluster's world, and what goes wrong in it as a whole.

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
use ringpact::{
    BranchId, Name,
    ring::{NodeId, RangeSet},
    sharding::Tenure,
};

use super::{
    host::{Host, Life},
    mutants::Mutant,
    oracle::{Oracle, Place},
    plan::{Plan, Seat, position},
    shard::Ledger,
};
use crate::{MS, network::Air, plan::Network, scheduler::Scheduler, world::Phase};

pub struct World {
    pub clock: Arc<Scheduler>,
    pub plan: Plan,
    pub mutant: Option<Mutant>,
    pub hosts: Vec<Host>,
    pub oracle: Mutex<Oracle>,
    pub clients: AtomicUsize,
    pub changes: AtomicUsize,
    /// Which hand-overs each branch has at its shard: whether the ranges arrive, and which they are.
    pub moves: Mutex<BTreeMap<BranchId, (bool, RangeSet)>>,
    /// Where clients that remember have found keys before.
    pub remembered: Mutex<BTreeMap<Place, (NodeId, Tenure)>>,
    /// Ranges that branches have promised to give away, and in which life of the host.
    pub promised: Mutex<BTreeMap<BranchId, (u64, RangeSet)>>,
    phase: Mutex<Phase>,
    faults_ended: AtomicBool,
    counts: Mutex<Counts>,
    /// Pairs of hosts that don't reach each other.
    cuts: Mutex<BTreeSet<(usize, usize)>>,
    numbers: AtomicU64,
}

/// What a run has seen, so that it can be told whether it was worth anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub committed: u64,
    pub rolled_back: u64,
    pub indeterminate: u64,
    pub reads: u64,
    pub refused: u64,
    pub hints: u64,
    pub changes: u64,
    pub cancelled: u64,
    pub chunks: u64,
    pub chunks_again: u64,
    pub given_up: u64,
    pub left: u64,
    pub crashes: u64,
    pub messages: u64,
    pub lost: u64,
    pub failed_io: u64,
    pub turns: u64,
}

impl Counts {
    /// What every run should see now and then.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("committed", self.committed),
            ("rolled back", self.rolled_back),
            ("indeterminate", self.indeterminate),
            ("reads", self.reads),
            ("refused at the end of a client's patience", self.refused),
            ("hints followed", self.hints),
            ("changes", self.changes),
            ("cancelled changes", self.cancelled),
            ("chunks", self.chunks),
            ("chunks that went again", self.chunks_again),
            ("transactions given up", self.given_up),
            ("nodes that left", self.left),
            ("crashes", self.crashes),
            ("messages", self.messages),
            ("lost messages", self.lost),
            ("failed operations of a disk", self.failed_io),
        ]
    }
}

impl World {
    /// The host of the keeper.
    pub const KEEPER: usize = 0;

    pub fn new(clock: Arc<Scheduler>, plan: Plan, mutant: Option<Mutant>) -> Arc<Self> {
        let hosts = plan.sites.iter().map(|site| Host::new(*site, &plan)).collect();
        let oracle = Mutex::new(Oracle::new(&plan));
        Arc::new(Self {
            clock,
            plan,
            mutant,
            hosts,
            oracle,
            clients: AtomicUsize::new(0),
            changes: AtomicUsize::new(0),
            moves: Mutex::default(),
            remembered: Mutex::default(),
            promised: Mutex::default(),
            phase: Mutex::new(Phase::Faults),
            faults_ended: AtomicBool::new(false),
            counts: Mutex::default(),
            cuts: Mutex::default(),
            numbers: AtomicU64::new(0),
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
        *self.phase.lock() == Phase::Faults && !self.plan.is_calm
    }

    /// Whether it is the time in which things go wrong, if they do at all.
    pub fn is_day(&self) -> bool {
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
        self.oracle.lock().wrong.push(what.to_string());
    }

    pub fn lives(&self) -> Vec<Arc<Life>> {
        self.hosts.iter().filter_map(Host::life).collect()
    }

    /// The coordinators' names, and their hosts.
    pub fn coordinators(&self) -> impl Iterator<Item = (Name, usize)> {
        let seats = self.plan.sites.iter().enumerate().filter_map(|(host, site)| Some((site.seat?, host)));
        seats.map(|(seat, host)| {
            let name = if seat == Seat::Keeper { "keeper" } else { "follower" };
            (name.parse().expect("a valid name"), host)
        })
    }

    /// A shard's gate has let work in, or a read, and has not run on since: no other shard may do so now.
    pub fn admits(&self, ledger: &Ledger, key: u32) {
        if !ledger.life.is_alive() {
            return;
        }
        let (at, service) = (position(key), ledger.service);
        match ledger.tenure(at) {
            None => self.is_wrong(format_args!("{} lets work in at key {key}, which it does not own", ledger.life)),
            Some(tenure) => {
                let latest = self.oracle.lock().is_let_in(service, key, tenure);
                if let Some(latest) = latest {
                    self.is_wrong(format_args!(
                        "{} lets work in at key {key} under tenure {tenure}, and there was work under {latest}",
                        ledger.life
                    ));
                }
            }
        }
        for life in self.lives().into_iter().filter(|life| life.host != ledger.life.host) {
            let Some(other) = life.shard(service) else { continue };
            if other.read(at, Tenure::NONE, Duration::ZERO, |_| ()).is_ok() {
                self.is_wrong(format_args!("{} and {life} both serve key {key} of service {service}", ledger.life));
            }
            if other.shard().holds(at) {
                let service = super::plan::SERVICES[service];
                self.is_wrong(format_args!(
                    "{} lets work in at key {key} of {service}, and {life} has unfinished work there",
                    ledger.life
                ));
            }
        }
    }

    /// Has things happen to the world for as long as there are faults.
    pub fn have_mishaps(self: &Arc<Self>) {
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
        let (kind, a, b) = self.clock.draw(|random| (random.u8(..8), random.usize(..hosts), random.usize(..hosts)));
        match kind {
            0..3 => {
                if let Some(life) = self.hosts[a].life() {
                    life.crash("by mishap");
                }
            }
            3 => {
                if let Some(life) = self.hosts[Self::KEEPER].life() {
                    life.crash("by mishap");
                }
            }
            4 => {
                self.clock.note(format_args!("all hosts crash"));
                self.lives().iter().for_each(|life| life.crash("with all hosts"));
            }
            5 if a != b => {
                self.clock.note(format_args!("hosts {a} and {b} are cut off from each other"));
                self.cuts.lock().insert((a.min(b), a.max(b)));
                let (world, pause) = (Arc::clone(self), self.clock.draw(|random| MS * random.u32(..1_500)));
                self.clock.start(move || {
                    world.clock.sleep(pause);
                    world.cuts.lock().remove(&(a.min(b), a.max(b)));
                });
            }
            6 => {
                let Some(life) = self.hosts[a].life().filter(|life| life.is_up()) else { return };
                self.clock.start(move || {
                    for shard in life.shards() {
                        let saved = shard.checkpoint();
                        life.world.clock.note(format_args!("{life} saves {}: {:?}", shard.name(), saved.is_ok()));
                    }
                });
            }
            _ => {
                let Some(life) = self.hosts[a].life().filter(|life| life.is_up()) else { return };
                self.clock.start(move || {
                    let Some(desk) = life.desk() else { return };
                    life.world.clock.note(format_args!("{life} retries {}", desk.coordinator().retry_all()));
                    if let Some(cluster) = desk.cluster() {
                        let saved = cluster.checkpoint();
                        life.world.clock.note(format_args!("{life} saves its ring: {:?}", saved.is_ok()));
                    }
                });
            }
        }
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
        self.cuts.lock().contains(&(a.min(b), a.max(b)))
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
