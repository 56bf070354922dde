//! A process of the cluster's world, and the machine it runs on: started, crashed at any moment, started again on what its disk has
//! kept.

use std::{
    collections::BTreeMap,
    fmt,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    Coordinator, FileLog, LogError, LogId, ServiceError, Transaction, TransactionLog,
    participant::{Endpoint, OpenError, Reply},
    ring::NodeId,
    sharding::{
        Cluster, ClusterError, ClusterFollower, ClusterVerdicts, Connection, RemoteShard, ServiceClient, ShardHost,
        SharedAssignment, shard_name,
    },
};

use super::{
    log::Log,
    network::{FeedWire, Link, VerdictWire, Wire},
    plan::{NODES, Near, SERVICES, Seat, SitePlan},
    shard::{Book, Ledger, Put},
    store::{Kept, RingFiles},
    world::World,
};
use crate::{
    MS,
    disk::{Disk, Machine},
    plan,
    scheduler::Scheduler,
    sim_storage::{Keep, SimStorage},
};

pub type Shards = ShardHost<Ledger>;

pub struct Host {
    pub plan: SitePlan,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lives: u64,
    life: Option<Arc<Life>>,
    disk: SimStorage,
    books: Vec<Book>,
    kept: Kept,
    is_off: bool,
}

/// A process from its start to its end.
pub struct Life {
    pub world: Arc<World>,
    pub host: usize,
    number: u64,
    alive: AtomicBool,
    storage: SimStorage,
    running: Mutex<Running>,
    /// Calls that are inside the log.
    pub in_log: AtomicUsize,
    /// Answers that never came. A thread waits for each, for as long as the process lives.
    pub limbo: Mutex<Vec<Reply>>,
}

#[derive(Default)]
struct Running {
    up: bool,
    log: Option<Arc<FileLog>>,
    shards: BTreeMap<usize, Arc<Shards>>,
    desk: Option<Arc<Desk>>,
    /// The keeper's answers to shards, from before its cluster is open.
    verdicts: Option<ClusterVerdicts>,
}

/// Where clients begin transactions.
pub struct Desk {
    pub seat: Seated,
    pub services: [ServiceClient<Put>; SERVICES.len()],
}

pub enum Seated {
    Keeper(Cluster),
    Follower(ClusterFollower),
}

impl Desk {
    pub fn begin(&self) -> Transaction {
        match &self.seat {
            Seated::Keeper(cluster) => cluster.begin(),
            Seated::Follower(follower) => follower.begin(),
        }
    }

    pub fn coordinator(&self) -> &Coordinator {
        match &self.seat {
            Seated::Keeper(cluster) => cluster.coordinator(),
            Seated::Follower(follower) => follower.coordinator(),
        }
    }

    pub fn assignment(&self) -> &Arc<SharedAssignment> {
        match &self.seat {
            Seated::Keeper(cluster) => cluster.assignment(),
            Seated::Follower(follower) => follower.assignment(),
        }
    }

    pub fn cluster(&self) -> Option<&Cluster> {
        match &self.seat {
            Seated::Keeper(cluster) => Some(cluster),
            Seated::Follower(_) => None,
        }
    }
}

impl Host {
    pub fn new(plan: SitePlan, world: &super::plan::Plan) -> Self {
        let ring = world.first_ring();
        let is_here = |position| plan.node.is_some_and(|node| ring.owner_at(position).id().as_str() == NODES[node]);
        let book = |_| Arc::new(Mutex::new(super::shard::Saved::first(is_here)));
        let books = SERVICES.iter().map(book).collect();
        Self { plan, state: Mutex::new(State { books, disk: SimStorage::new(), ..State::default() }) }
    }

    /// The process that runs, or starts, if one does.
    pub fn life(&self) -> Option<Arc<Life>> {
        self.state.lock().life.clone()
    }

    /// Whether it is turned off for good.
    pub fn is_off(&self) -> bool {
        self.state.lock().is_off
    }

    /// Starts a process, and does so again until one has started.
    pub fn start(&self, world: &Arc<World>, host: usize) {
        if self.is_off() {
            return;
        }
        let (life, books, kept) = {
            let mut state = self.state.lock();
            state.lives += 1;
            let life = Arc::new(Life {
                world: Arc::clone(world),
                host,
                number: state.lives,
                alive: AtomicBool::new(true),
                storage: state.disk.clone(),
                running: Mutex::default(),
                in_log: AtomicUsize::new(0),
                limbo: Mutex::default(),
            });
            state.life = Some(Arc::clone(&life));
            (life, state.books.clone(), Arc::clone(&state.kept))
        };
        world.clock.note(format_args!("{life} starts"));
        match life.open(&self.plan, &books, kept) {
            Ok(()) => {
                life.running.lock().up = true;
                world.clock.note(format_args!("{life} is up"));
            }
            Err(error) => {
                world.clock.note(format_args!("{life} does not open: {}", ringpact::error_chain(&error)));
                if life.is_alive() && error.is_wrong(world) {
                    world.is_wrong(format_args!("{life} does not open: {}", ringpact::error_chain(&error)));
                }
                life.crash("because it could not open");
            }
        }
    }
}

impl Life {
    /// Stands in for a random number: no other process of the run has it.
    pub fn incarnation(&self) -> u64 {
        self.number * 64 + self.host as u64 + 1
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub fn log_id(&self) -> LogId {
        let mut id = [0; 16];
        (id[0], id[15]) = (1 + self.host as u8, 1);
        LogId::from_bytes(id)
    }

    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    pub fn is_up(&self) -> bool {
        self.is_alive() && self.running.lock().up
    }

    pub fn desk(&self) -> Option<Arc<Desk>> {
        self.running.lock().desk.clone().filter(|_| self.is_alive())
    }

    /// Where shards ask this process's coordinator.
    pub fn verdicts(&self) -> Option<Arc<dyn Endpoint>> {
        if let Some(verdicts) = self.running.lock().verdicts.clone() {
            return Some(Arc::new(verdicts));
        }
        Some(Arc::new(self.desk()?.coordinator().verdict_endpoint()))
    }

    pub fn shards(&self) -> Vec<Arc<Shards>> {
        self.running.lock().shards.values().cloned().collect()
    }

    pub fn shard(&self, service: usize) -> Option<Arc<Shards>> {
        self.running.lock().shards.get(&service).cloned().filter(|_| self.is_alive())
    }

    pub fn node(&self) -> Option<&'static str> {
        self.world.hosts[self.host].plan.node.map(|node| NODES[node])
    }

    fn open(self: &Arc<Self>, plan: &SitePlan, books: &[Book], kept: Kept) -> Result<(), OpeningError> {
        let disk = Disk { life: Arc::clone(self), storage: self.storage.clone() };
        let options = FileLog::options().segment_bytes(0).seal_after(self.world.plan.seal_after);
        let options = options.storage(disk).platform(self.world.clock.platform());
        let log = Arc::new(options.open(format!("/{}", self.host))?);
        self.keep(|running| running.log = Some(Arc::clone(&log)))?;
        if let Some(node) = plan.node {
            for (service, name) in SERVICES.into_iter().enumerate() {
                let options = ringpact::participant::ResourceManagerOptions::default();
                let options = options.checkpoint_every(self.world.plan.checkpoint_every);
                let options = options.platform(self.world.clock.platform());
                let name = shard_name(name, &NodeId::from(NODES[node]))?;
                let ledger = Ledger::open(self, service, &books[service]);
                let log = Log { life: Arc::clone(self), log: Arc::clone(&log), is_keepers: false };
                let shard = Arc::new(ShardHost::open_with(options, name.as_str(), log, ledger)?);
                for (coordinator, to) in self.world.coordinators().filter(|(_, to)| *to != self.host) {
                    shard.set_verdict_endpoint(coordinator, VerdictWire { from: Arc::clone(self), to });
                }
                self.keep(|running| drop(running.shards.insert(service, shard)))?;
            }
        }
        if let Some(seat) = plan.seat {
            let desk = Arc::new(self.open_desk(seat, log, kept)?);
            self.keep(|running| running.desk = Some(desk))?;
        }
        Ok(())
    }

    fn open_desk(self: &Arc<Self>, seat: Seat, log: Arc<FileLog>, kept: Kept) -> Result<Desk, OpeningError> {
        let (world, platform) = (&self.world, self.world.clock.platform());
        let log = Log { life: Arc::clone(self), log, is_keepers: seat == Seat::Keeper };
        match seat {
            Seat::Keeper => {
                let builder = Cluster::builder(log)
                    .name("keeper")
                    .policy(world.plan.policy)
                    .store(RingFiles { life: Arc::clone(self), kept })
                    .first_ring(world.plan.first_ring())
                    .platform(platform);
                self.keep(|running| running.verdicts = Some(builder.verdicts()))?;
                let (builder, goods) = builder.service(SERVICES[0], self.connects(0, world.plan.by_messages[0]));
                let (builder, accounts) = builder.service(SERVICES[1], self.connects(1, world.plan.by_messages[0]));
                Ok(Desk { seat: Seated::Keeper(builder.open()?), services: [goods, accounts] })
            }
            Seat::Follower => {
                let builder = ClusterFollower::builder(log, Arc::new(FeedWire { from: Arc::clone(self) }))
                    .name("follower")
                    .policy(world.plan.policy)
                    .platform(platform);
                let (builder, goods) = builder.service(SERVICES[0], self.connects(0, world.plan.by_messages[1]));
                let (builder, accounts) = builder.service(SERVICES[1], self.connects(1, world.plan.by_messages[1]));
                Ok(Desk { seat: Seated::Follower(builder.open()?), services: [goods, accounts] })
            }
        }
    }

    /// Makes connections to the shards of a service.
    fn connects(
        self: &Arc<Self>,
        service: usize,
        by_messages: bool,
    ) -> impl Fn(&NodeId) -> Result<Connection<Put>, ServiceError> + Send + Sync + 'static {
        let life = Arc::clone(self);
        move |node| {
            if life.node() == Some(node.as_str()) {
                let shard = life.shard(service).ok_or("the machine is off")?;
                return Ok(match life.world.plan.near {
                    Near::Local => Connection::local(shard),
                    Near::Slow => Connection::slow(shard, NonZeroUsize::new(2).ok_or("no threads")?),
                });
            }
            let to = life.world.plan.site_of(node.as_str()).ok_or("there is no such node")?;
            let name = shard_name(SERVICES[service], node)?;
            let wire = Arc::new(Wire { from: Arc::clone(&life), to, service, name });
            if !by_messages {
                return Ok(Connection::with_link(Arc::new(Link { from: Arc::clone(&life), to, service }), wire));
            }
            let remote = RemoteShard::new(Arc::clone(&wire) as Arc<dyn ringpact::participant::Endpoint>);
            let remote = remote.answer_within(life.world.plan.answer_within).platform(life.world.clock.platform());
            Ok(Connection::with_link(Arc::new(remote), wire))
        }
    }

    /// Keeps what was opened, unless the process has crashed meanwhile.
    fn keep(&self, keep: impl FnOnce(&mut Running)) -> Result<(), OpeningError> {
        if !self.is_alive() {
            return Err(OpeningError::Off);
        }
        keep(&mut self.running.lock());
        Ok(())
    }

    /// Ends for good.
    pub fn turn_off(self: &Arc<Self>) {
        self.world.hosts[self.host].state.lock().is_off = true;
        self.crash("for good");
    }

    /// Everything is over, at this very moment. What the disk has kept is there when the host starts again.
    pub fn crash(self: &Arc<Self>, why: &str) {
        if !self.alive.swap(false, Ordering::Relaxed) {
            return;
        }
        let world = &self.world;
        world.clock.note(format_args!("{self} CRASHES {why}"));
        world.count(|counts| counts.crashes += 1);
        let keep = match world.clock.draw(|random| (random.u8(..4), random.u64(..))) {
            _ if world.is_powerless() => Keep::Nothing,
            (0, _) => Keep::Nothing,
            (1, _) => Keep::Everything,
            (_, seed) => Keep::Some(seed),
        };
        self.storage.freeze_at(0);
        let host = &world.hosts[self.host];
        {
            let mut state = host.state.lock();
            state.disk = self.storage.crash(keep);
            state.life = None;
        }
        let life = Arc::clone(self);
        world.clock.start(move || life.bury());
        if world.is_over() {
            return;
        }
        let (world, host) = (Arc::clone(world), self.host);
        world.clock.clone().start(move || {
            let pause = world.plan.longest_down.mul_f64(world.clock.draw(fastrand::Rng::f64));
            let long = if world.faulty() && world.clock.once_in(20) { MS * 2_000 } else { Duration::ZERO };
            world.clock.sleep(pause + long);
            world.hosts[host].start(&world, host);
        });
    }

    /// Ends what the production code has running; nothing of it is seen or heard outside.
    fn bury(self: &Arc<Self>) {
        let clock = &self.world.clock;
        let log = self.running.lock().log.take();
        if let Some(log) = log {
            log.abandon();
        }
        let limbo = std::mem::take(&mut *self.limbo.lock());
        drop(limbo);
        if !clock.await_until(MS * 10_000, || self.in_log.load(Ordering::Relaxed) == 0) {
            self.world.is_wrong(format_args!("{self}: a log that was abandoned keeps its callers waiting"));
        }
        self.close_desk();
        let shards = std::mem::take(&mut self.running.lock().shards);
        drop(shards);
        clock.note(format_args!("{self} is buried"));
    }

    fn close_desk(&self) {
        let desk = self.running.lock().desk.take();
        let Some(desk) = desk else { return };
        // A thread in the middle of a call to it releases it soon.
        if !self.world.clock.await_until(MS * 50, || Arc::strong_count(&desk) == 1) {
            let _ = desk.coordinator().shutdown(Duration::ZERO);
            self.world.clock.await_until(MS * 20_000, || Arc::strong_count(&desk) == 1);
        }
        drop(desk);
    }

    /// Ends it in peace.
    pub fn shut_down(self: &Arc<Self>) {
        self.close_desk();
        let running = std::mem::take(&mut *self.running.lock());
        drop(running.shards);
        self.limbo.lock().clear();
        if let Some(log) = running.log
            && self.world.clock.await_until(MS * 1_000, || Arc::strong_count(&log) == 1)
            && let Ok(log) = Arc::try_unwrap(log)
            && let Err(error) = log.close()
        {
            self.world.is_wrong(format_args!("{self}: the log does not close: {error}"));
        }
        self.alive.store(false, Ordering::Relaxed);
        self.world.hosts[self.host].state.lock().life = None;
    }

    /// What stands in the way of peace in this process.
    pub fn unrest(&self) -> Vec<String> {
        let mut unrest = Vec::new();
        if let Some(desk) = self.desk() {
            let status = desk.coordinator().status();
            if status.in_doubt() + status.begun > 0 || !status.retiring.is_empty() {
                unrest.push(format!("{self}: {status}"));
            }
            if desk.cluster().is_some_and(|cluster| cluster.moving().is_some()) {
                unrest.push(format!("{self}: a change is under way"));
            }
        }
        for shard in self.shards() {
            let (branches, status, held) = (shard.branches(), shard.status(), shard.shard().held());
            let open = branches.active + branches.prepared + branches.settling + branches.troubled.len();
            if open + status.holds + status.leaving + status.arriving + held > 0 {
                unrest.push(format!("{self}, {}: {branches:?}, {status:?}, holds {held}", shard.name()));
            }
        }
        unrest
    }
}

impl Machine for Life {
    fn clock(&self) -> &Arc<Scheduler> {
        &self.world.clock
    }

    fn is_alive(&self) -> bool {
        Self::is_alive(self)
    }

    fn is_faulty(&self) -> bool {
        self.world.faulty()
    }

    fn disk(&self) -> (plan::Disk, u32) {
        (self.world.plan.disk, self.world.plan.crash_at_io)
    }

    fn crash_at_io(self: &Arc<Self>) {
        self.crash("at an operation of its disk");
    }

    fn has_failed_io(&self) {
        self.world.count(|counts| counts.failed_io += 1);
    }

    /// The log may be poisoned; the host's operator notices, and starts it again.
    fn repair_soon(self: &Arc<Self>) {
        let life = Arc::clone(self);
        self.world.clock.start(move || {
            let clock = &life.world.clock;
            let owner = "reader".parse().expect("a valid name");
            for _ in 0..10 {
                clock.sleep((MS * 500).mul_f64(clock.draw(fastrand::Rng::f64)));
                let log = life.running.lock().log.clone();
                if life.is_up() && log.is_some_and(|log| log.live(&owner).is_err()) {
                    return life.crash("because its log is poisoned");
                }
            }
        });
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}.{}", self.host, self.number)
    }
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Shard(#[from] OpenError),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Name(#[from] ringpact::IdError),
    #[error("the machine is off")]
    Off,
}

impl OpeningError {
    /// Whether it should not have happened, whatever the disks did.
    fn is_wrong(&self, world: &World) -> bool {
        let is_damage = |log: &LogError| matches!(log, LogError::Damaged { .. } | LogError::UnknownVersion { .. });
        match self {
            Self::Log(log) | Self::Shard(OpenError::Log(log)) => is_damage(log) || !world.had_faults(),
            Self::Cluster(ClusterError::NoKeeper(_)) => false,
            _ => !world.had_faults(),
        }
    }
}
