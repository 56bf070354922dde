//! A process and the machine it runs on: started, crashed at any moment, started again on what its disks have kept.

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
    Coordinator, FileLog, LogError, LogId, Name, ParticipantError, ResourceManager, TransactionLog,
    participant::{Endpoint, OpenError, Participant, Reply},
    txn::{CoordinatorBuilder, CoordinatorError},
};

#[cfg(feature = "tokio")]
use super::databases::Base;
use super::{
    MS,
    bounds::Growth,
    busy::Busy,
    disk::{Disk, Machine},
    ledger::Books,
    log::{Log, Owner, make_up_for_ends},
    mailer::{MAIL, Mailer},
    marks::{self, Sent},
    mutants::Mutant,
    network::{Wire, verdict_endpoints},
    operator::{Word, id_of, is_refusal},
    plan::{self, HostPlan, Nearby},
    scheduler::Scheduler,
    served::Served,
    sim_storage::{Keep, SimStorage},
    store::{Book, Store},
    world::World,
};

pub type Manager = ResourceManager<Store>;

pub struct Host {
    pub plan: HostPlan,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lives: u64,
    life: Option<Arc<Life>>,
    /// One for each log.
    disks: Vec<SimStorage>,
    /// Which log is on each; copies have the id of what they are copies of.
    ids: Vec<[u8; 3]>,
    books: BTreeMap<&'static str, Book>,
    /// What the operator says when the coordinator is opened.
    word: Word,
    /// Why it was not, last time.
    refused: Option<ParticipantError>,
    is_retired: bool,
}

/// A process from its start to its end.
pub struct Life {
    pub world: Arc<World>,
    pub host: usize,
    number: u64,
    alive: AtomicBool,
    disks: Vec<SimStorage>,
    ids: Vec<[u8; 3]>,
    running: Mutex<Running>,
    /// Calls that are inside a log.
    pub in_log: AtomicUsize,
    /// Branches that a resource manager is busy with.
    pub busy: Busy,
    /// Answers that never came. A thread waits for each, for as long as the process lives.
    pub limbo: Mutex<Vec<Reply>>,
    /// What its logs may have grown to.
    pub growth: Growth,
    /// What its coordinator has sent, and when that was opened.
    pub sent: Sent,
    opened_at: Mutex<Duration>,
    /// Branches that its participants with databases were told to commit.
    #[cfg(feature = "tokio")]
    pub told_to_commit: Mutex<std::collections::BTreeSet<ringpact::BranchId>>,
}

#[derive(Default)]
struct Running {
    up: bool,
    logs: Vec<Arc<FileLog>>,
    managers: BTreeMap<Name, Arc<Manager>>,
    coordinator: Option<Arc<Coordinator>>,
    #[cfg(feature = "tokio")]
    bases: BTreeMap<Name, Base>,
}

impl Host {
    pub fn new(host: usize, plan: HostPlan) -> Self {
        let books = plan.managers.iter().map(|(name, _)| (*name, Book::of(name))).collect();
        let disks = (0..plan.logs).map(|_| SimStorage::new()).collect();
        let ids = (0..plan.logs).map(|log| [1 + host as u8, 1 + log as u8, 0]).collect();
        Self { plan, state: Mutex::new(State { disks, ids, books, ..State::default() }) }
    }

    /// The id of one of its logs.
    pub fn log_id(&self, log: usize) -> [u8; 3] {
        self.state.lock().ids[log]
    }

    /// What is durable of one of its logs now.
    pub fn copy_of_log(&self, log: usize) -> SimStorage {
        self.state.lock().disks[log].crash(Keep::Nothing)
    }

    /// Crashes the process if there is one, and has the next one find another log in the place of this one. Gives what was
    /// there.
    pub fn put_log(&self, log: usize, disk: SimStorage, id: [u8; 3], why: &str) -> SimStorage {
        if let Some(life) = self.life() {
            life.crash(why);
        }
        let mut state = self.state.lock();
        state.ids[log] = id;
        std::mem::replace(&mut state.disks[log], disk)
    }

    /// What the operator says when the coordinator is opened from now on.
    pub fn say(&self, word: Word) {
        self.state.lock().word = word;
    }

    pub fn word(&self) -> Word {
        self.state.lock().word
    }

    /// Why the coordinator was not opened last time, if a participant has refused it.
    pub fn take_refusal(&self) -> Option<ParticipantError> {
        self.state.lock().refused.take()
    }

    /// Its process ends, and is not started again.
    pub fn retire(&self) {
        self.state.lock().is_retired = true;
        if let Some(life) = self.life() {
            life.crash("for good");
        }
    }

    pub fn is_retired(&self) -> bool {
        self.state.lock().is_retired
    }

    /// The process that runs, or starts, if one does.
    pub fn life(&self) -> Option<Arc<Life>> {
        self.state.lock().life.clone()
    }

    /// Starts a process, and does so again until one has started.
    pub fn start(&self, world: &Arc<World>, host: usize) {
        if self.is_retired() {
            return;
        }
        let (life, books) = {
            let mut state = self.state.lock();
            state.lives += 1;
            let life = Arc::new(Life {
                world: Arc::clone(world),
                host,
                number: state.lives,
                alive: AtomicBool::new(true),
                disks: state.disks.clone(),
                ids: state.ids.clone(),
                running: Mutex::default(),
                in_log: AtomicUsize::new(0),
                busy: Busy::default(),
                limbo: Mutex::default(),
                growth: Growth::default(),
                sent: Sent::default(),
                opened_at: Mutex::default(),
                #[cfg(feature = "tokio")]
                told_to_commit: Mutex::default(),
            });
            state.life = Some(Arc::clone(&life));
            (life, state.books.clone())
        };
        world.acquaintances.restart(world, self);
        world.clock.note(format_args!("{life} starts"));
        match life.open(&self.plan, &books) {
            Ok(()) => {
                life.running.lock().up = true;
                world.clock.note(format_args!("{life} is up"));
            }
            Err(error) => {
                if let OpeningError::Coordinator(CoordinatorError::Refused { error, .. }) = &error {
                    self.state.lock().refused = Some(error.clone());
                }
                if life.is_alive() && error.is_wrong(world) {
                    world.is_wrong(format_args!("{life} does not open: {error}"));
                }
                life.crash("because it could not open");
            }
        }
    }
}

impl Life {
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// Stands in for a random number: no other process of the run has it.
    pub fn incarnation(&self) -> u64 {
        self.number * 64 + self.host as u64 + 1
    }

    /// When its coordinator was opened.
    pub fn opened_at(&self) -> Duration {
        *self.opened_at.lock()
    }

    /// The id of one of its logs.
    pub fn log_id(&self, log: usize) -> LogId {
        id_of(self.ids[log])
    }

    pub fn is_up(&self) -> bool {
        self.is_alive() && self.running.lock().up
    }

    pub fn coordinator(&self) -> Option<Arc<Coordinator>> {
        self.running.lock().coordinator.clone().filter(|_| self.is_alive())
    }

    pub fn manager(&self, name: &Name) -> Option<Arc<Manager>> {
        self.running.lock().managers.get(name).cloned()
    }

    pub fn managers(&self) -> Vec<Arc<Manager>> {
        self.running.lock().managers.values().cloned().collect()
    }

    /// The participant of a service that has a database.
    #[cfg(feature = "tokio")]
    pub fn base(&self, name: &Name) -> Option<Base> {
        self.running.lock().bases.get(name).cloned()
    }

    /// All of them.
    #[cfg(feature = "tokio")]
    pub fn bases(&self) -> Vec<Base> {
        self.running.lock().bases.values().cloned().collect()
    }

    pub fn logs(&self) -> Vec<Arc<FileLog>> {
        self.running.lock().logs.clone()
    }

    /// What all files on its disks take, in bytes.
    pub fn disk_bytes(&self) -> Vec<usize> {
        self.disks.iter().map(SimStorage::used).collect()
    }

    fn open(self: &Arc<Self>, plan: &HostPlan, books: &BTreeMap<&'static str, Book>) -> Result<(), OpeningError> {
        for (number, storage) in self.disks.iter().enumerate() {
            let disk = Disk { life: Arc::clone(self), storage: storage.clone() };
            let options = FileLog::options().segment_bytes(0).seal_after(self.world.plan.seal_after);
            let options = options.storage(disk).platform(self.world.clock.platform());
            // A copy has the files of what it is a copy of, wherever it is opened.
            let [host, log, _] = self.ids[number].map(usize::from);
            let log = options.open(format!("/{}-{}", host - 1, log - 1))?;
            self.growth.begins(number, log.recovery().live);
            let log = Arc::new(log);
            self.keep(log, |running, log| running.logs.push(log))?;
        }
        for (name, log) in &plan.managers {
            #[cfg(feature = "tokio")]
            if self.world.plan.has_database(name) {
                let base = super::databases::open(self, name).ok_or(OpeningError::Off)?;
                self.keep(Arc::new(base), |running, base| {
                    running.bases.insert(base.name().clone(), Base::clone(&base));
                })?;
                continue;
            }
            let log = Log::new(self, *log, Owner::Manager);
            let options = Manager::options().checkpoint_every(self.world.plan.checkpoint_every);
            let options = options.platform(self.world.clock.platform());
            let manager = options.open(name, log, Store::open(self, &books[name]))?;
            for (coordinator, endpoint) in verdict_endpoints(self) {
                manager.set_verdict_endpoint(coordinator, endpoint);
            }
            let (name, manager) = (manager.name().clone(), Arc::new(manager));
            self.keep(manager, |running, manager| drop(running.managers.insert(name, manager)))?;
        }
        self.open_coordinator()
    }

    /// Opens the coordinator, if there is to be one; for the second time, maybe, in the same process.
    pub fn open_coordinator(self: &Arc<Self>) -> Result<(), OpeningError> {
        let Some((name, log)) = self.world.hosts[self.host].plan.coordinator else { return Ok(()) };
        make_up_for_ends(&self.logs()[log])?;
        *self.opened_at.lock() = self.world.clock.elapsed();
        let mut builder = Coordinator::builder(Log::new(self, log, Owner::Coordinator))
            .platform(self.world.clock.platform())
            .name(name)
            .policy(self.world.plan.policy)
            .limits(self.world.plan.limits);
        for (host, other) in self.world.hosts.iter().enumerate() {
            for (name, _) in &other.plan.managers {
                let is_left_out = self.world.plan.comes_and_goes(name) && self.world.clock.draw(fastrand::Rng::bool);
                if !is_left_out {
                    builder = self.reach(host, name, builder)?;
                }
            }
        }
        builder = builder.last_resource(MAIL, Mailer(Arc::clone(self)));
        builder = self.world.hosts[self.host].word().said_to(builder);
        let coordinator = Arc::new(builder.open()?);
        self.keep(coordinator, |running, coordinator| running.coordinator = Some(coordinator))
    }

    /// Names a service to a coordinator, in the way in which it is reached.
    pub fn reach<R: Registers>(self: &Arc<Self>, host: usize, name: &'static str, to: R) -> Result<R, OpeningError> {
        let here = Served { life: Arc::clone(self), name: name.parse()? };
        let far = Wire { from: Arc::clone(self), to: host, name: name.parse()? };
        Ok(match self.world.plan.nearby {
            // A message that is changed in transit has to be in transit.
            _ if self.world.mutant.is_some_and(Mutant::needs_wire) => to.endpoint(name, far)?,
            #[cfg(feature = "tokio")]
            _ if host == self.host && self.world.plan.has_database(name) => {
                to.endpoint(name, super::databases::endpoint(here))?
            }
            #[cfg(feature = "tokio")]
            _ if self.world.plan.by_tasks == Some(name) => {
                to.endpoint(name, super::tasks::endpoint(self, host, name.parse()?))?
            }
            _ if host != self.host => to.endpoint(name, far)?,
            Nearby::Inline => to.participant(name, here)?,
            Nearby::Pooled => to.slow_participant(name, here, NonZeroUsize::new(2).expect("not 0"))?,
        })
    }

    /// Keeps what was opened, unless the process has crashed meanwhile.
    fn keep<T>(&self, what: Arc<T>, keep: impl FnOnce(&mut Running, Arc<T>)) -> Result<(), OpeningError> {
        if !self.is_alive() {
            return Err(OpeningError::Off);
        }
        keep(&mut self.running.lock(), what);
        Ok(())
    }

    /// Drops the coordinator; its clients find that out.
    pub fn close_coordinator(&self) {
        let coordinator = self.running.lock().coordinator.take();
        if let Some(coordinator) = coordinator {
            // A thread in the middle of a call to it releases it soon.
            if !self.world.clock.await_until(MS * 50, || Arc::strong_count(&coordinator) == 1) {
                // A client that waits for room to begin would wait on.
                let _ = coordinator.shutdown(Duration::ZERO);
                self.world.clock.await_until(MS * 1_000, || Arc::strong_count(&coordinator) == 1);
            }
            drop(coordinator);
        }
    }

    /// Everything is over, at this very moment. What the disks have kept is there when the host starts again.
    pub fn crash(self: &Arc<Self>, why: &str) {
        if !self.alive.swap(false, Ordering::Relaxed) {
            return;
        }
        let world = &self.world;
        world.clock.note(format_args!("{self} CRASHES {why}"));
        world.count(|counts| counts.crashes += 1);
        let keep = || match world.clock.draw(|random| (random.u8(..4), random.u64(..))) {
            (0, _) => Keep::Nothing,
            (1, _) => Keep::Everything,
            (_, seed) => Keep::Some(seed),
        };
        let disks = self.disks.iter().map(|disk| {
            disk.freeze_at(0);
            disk.crash(if world.is_powerless() { Keep::Nothing } else { keep() })
        });
        let host = &world.hosts[self.host];
        {
            let mut state = host.state.lock();
            state.disks = disks.collect();
            state.life = None;
        }
        let life = Arc::clone(self);
        world.clock.start(move || life.bury());
        if world.is_over() || host.is_retired() {
            return;
        }
        let (world, host) = (Arc::clone(world), self.host);
        world.clock.clone().start(move || {
            let pause = world.plan.longest_down.mul_f64(world.clock.draw(fastrand::Rng::f64));
            let (pause, down_since) = (world.take_long_down(host).unwrap_or(pause), world.clock.elapsed());
            world.clock.sleep(pause);
            marks::check_circuits(&world, host, down_since);
            world.hosts[host].start(&world, host);
        });
    }

    /// Ends what the production code has running; nothing of it is seen or heard outside.
    fn bury(self: &Arc<Self>) {
        let clock = &self.world.clock;
        let logs = std::mem::take(&mut self.running.lock().logs);
        logs.iter().for_each(|log| log.abandon());
        let limbo = std::mem::take(&mut *self.limbo.lock());
        drop(limbo);
        // When its coordinator ends, no thread may be inside the log.
        if !clock.await_until(MS * 10_000, || self.in_log.load(Ordering::Relaxed) == 0) {
            self.world.is_wrong(format_args!("{self}: a log that was abandoned keeps its callers waiting"));
        }
        self.close_coordinator();
        let managers = std::mem::take(&mut self.running.lock().managers);
        drop(managers);
        #[cfg(feature = "tokio")]
        {
            let bases = std::mem::take(&mut self.running.lock().bases);
            drop(bases);
        }
        clock.note(format_args!("{self} is buried"));
    }

    /// Ends it in peace.
    pub fn shut_down(self: &Arc<Self>) {
        self.close_coordinator();
        let running = std::mem::take(&mut *self.running.lock());
        drop(running.managers);
        self.limbo.lock().clear();
        for log in running.logs {
            if self.world.clock.await_until(MS * 1_000, || Arc::strong_count(&log) == 1)
                && let Ok(log) = Arc::try_unwrap(log)
                && let Err(error) = log.close()
            {
                self.world.is_wrong(format_args!("{self}: the log does not close: {error}"));
            }
        }
        self.alive.store(false, Ordering::Relaxed);
        let mut state = self.world.hosts[self.host].state.lock();
        state.life = None;
    }

    /// What is in the books of all its services.
    pub fn books(&self) -> Books {
        let sold = self.managers().into_iter().flat_map(|manager| manager.service().sold());
        #[cfg(feature = "tokio")]
        let sold = sold.chain(self.bases().into_iter().flat_map(|base| base.backend().all_applied()));
        sold.collect()
    }

    /// What stands in the way of peace in this process.
    pub fn unrest(&self) -> Vec<String> {
        let mut unrest = Vec::new();
        if let Some(coordinator) = self.coordinator() {
            let status = coordinator.status();
            let is_missing = |name: &&&str| status.circuits.iter().all(|there| there.participant.as_str() != **name);
            let missing: Vec<_> = self.world.plan.coming.iter().filter(is_missing).collect();
            if !missing.is_empty() || !status.retiring.is_empty() {
                unrest.push(format!("{self}: without {missing:?}; retiring {:?}", status.retiring));
            }
            if status.in_doubt() + status.begun > 0 {
                unrest.push(format!("{self}: {status}"));
            }
        }
        if let Some(busy) = self.busy.with_what() {
            unrest.push(format!("{self}: busy with {busy:?}"));
            return unrest;
        }
        for manager in self.managers() {
            let status = manager.status();
            let reserved = manager.service().reserved();
            if status.active + status.prepared + status.settling > 0 || !reserved.is_empty() {
                unrest.push(format!("{self}, {}: {status:?}, reserved {reserved:?}", manager.name()));
            }
        }
        #[cfg(feature = "tokio")]
        unrest.extend(super::databases::unrest(self));
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

    fn keeps_replaced(&self) -> bool {
        self.world.is_mutated(Mutant::KeepsReplacedSegments) && self.is_up()
    }

    /// A log may be poisoned; the host's operator notices, and starts it again.
    fn repair_soon(self: &Arc<Self>) {
        let life = Arc::clone(self);
        self.world.clock.start(move || {
            let clock = &life.world.clock;
            let owner: Name = "reader".parse().expect("a valid name");
            // The log may be in the middle of something slow, and tell of it afterwards.
            for _ in 0..10 {
                clock.sleep((MS * 500).mul_f64(clock.draw(fastrand::Rng::f64)));
                if life.is_up() && life.logs().iter().any(|log| log.live(&owner).is_err()) {
                    return life.crash("because its log is poisoned");
                }
            }
        });
    }

    fn mutate_sync(&self, sync: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        if self.world.is_mutated(Mutant::SyncsNothing) {
            return Ok(());
        }
        let result = sync();
        if self.world.is_mutated(Mutant::SwallowsFailedSyncs) { Ok(()) } else { result }
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}.{}", self.host, self.number)
    }
}

/// What participants can be named to: a coordinator that is to be opened, or one that is open.
pub trait Registers: Sized {
    fn participant(self, name: &str, participant: impl Participant) -> Result<Self, CoordinatorError>;
    fn slow_participant(
        self,
        name: &str,
        participant: impl Participant,
        threads: NonZeroUsize,
    ) -> Result<Self, CoordinatorError>;
    fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Result<Self, CoordinatorError>;
}

impl Registers for CoordinatorBuilder {
    fn participant(self, name: &str, participant: impl Participant) -> Result<Self, CoordinatorError> {
        Ok(Self::participant(self, name, participant))
    }
    fn slow_participant(
        self,
        name: &str,
        participant: impl Participant,
        threads: NonZeroUsize,
    ) -> Result<Self, CoordinatorError> {
        Ok(Self::slow_participant(self, name, participant, threads))
    }
    fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Result<Self, CoordinatorError> {
        Ok(Self::endpoint(self, name, endpoint))
    }
}

impl Registers for &Coordinator {
    fn participant(self, name: &str, participant: impl Participant) -> Result<Self, CoordinatorError> {
        self.add_participant(name, participant).map(|()| self)
    }
    fn slow_participant(
        self,
        name: &str,
        participant: impl Participant,
        threads: NonZeroUsize,
    ) -> Result<Self, CoordinatorError> {
        self.add_slow_participant(name, participant, threads).map(|()| self)
    }
    fn endpoint(self, name: &str, endpoint: impl Endpoint) -> Result<Self, CoordinatorError> {
        self.add_endpoint(name, endpoint).map(|()| self)
    }
}

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Manager(#[from] OpenError),
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    #[error(transparent)]
    Name(#[from] ringpact::IdError),
    #[error("the machine is off")]
    Off,
}

impl OpeningError {
    /// Whether it should not have happened, whatever the disks and services did.
    fn is_wrong(&self, world: &World) -> bool {
        if let Self::Coordinator(CoordinatorError::Refused { error, .. }) = self
            && is_refusal(error)
        {
            return world.plan.log_fault.is_none();
        }
        let log = match self {
            Self::Log(log) | Self::Manager(OpenError::Log(log)) | Self::Coordinator(CoordinatorError::Log(log)) => log,
            _ => return true,
        };
        matches!(log, LogError::Damaged { .. } | LogError::UnknownVersion { .. }) || !world.had_faults()
    }
}

/// How long a call may take before its caller gives up.
pub const PATIENCE: Duration = Duration::from_millis(300);
