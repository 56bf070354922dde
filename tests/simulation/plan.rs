//! What a seed draws before anything happens: where everything is, how many clients there are, and how bad the world is.

use std::time::Duration;

use fastrand::Rng;
use ringpact::{Policy, txn::Limits};

/// The shop's services, and their resource managers' names.
pub const SERVICES: [&str; 3] = ["goods", "orders", "payments"];

/// A process on a machine of its own: its logs, and what is kept in which of them.
#[derive(Clone, Debug, Default)]
pub struct HostPlan {
    pub logs: usize,
    /// The coordinator's name, and its log.
    pub coordinator: Option<(&'static str, usize)>,
    pub managers: Vec<(&'static str, usize)>,
    /// It is a second process with a coordinator of that name, which there should be one of. It starts when it is told to.
    pub is_second: bool,
}

/// What happens to a coordinator's log, once.
#[derive(Clone, Copy, Debug)]
pub struct LogFault {
    /// Where the coordinator is.
    pub host: usize,
    pub kind: LogFaultKind,
    /// When a copy of its log is made, and how much later it happens.
    pub copied_after: Duration,
    pub happens_after: Duration,
    /// How long it lasts, if it can be undone.
    pub lasts: Duration,
    /// The operator acts at once, or a while later.
    pub prompt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFaultKind {
    /// It is gone for good.
    Lost,
    /// It is gone for good, but for the copy.
    Restored,
    /// An empty log is opened in its place, by mistake, for a while.
    SwappedForEmpty,
    /// The copy is.
    SwappedForCopy,
    /// A second coordinator of the name is opened elsewhere for a while, on a log of its own.
    SecondOnEmpty,
    /// On the copy.
    SecondOnCopy,
}

/// How a coordinator reaches the resource managers of its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nearby {
    Inline,
    Pooled,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub hosts: Vec<HostPlan>,
    pub nearby: Nearby,
    /// The service whose resource manager coordinators reach by a task for each call, wherever it is.
    #[cfg(feature = "tokio")]
    pub by_tasks: Option<&'static str>,
    /// Such a task panics once in this number of times.
    #[cfg(feature = "tokio")]
    pub task_panics: u32,
    pub clients: usize,
    pub purchases: usize,
    /// Factor by which there are more purchases than usual.
    pub busier: u64,
    pub policy: Policy,
    pub limits: Limits,
    pub checkpoint_every: usize,
    pub seal_after: Duration,
    pub network: Network,
    pub disk: Disk,
    /// A crash at one in this number of messages, and at one in this number of disk operations; 0 for never.
    pub crash_at_message: u32,
    pub crash_at_io: u32,
    /// How long a host stays down.
    pub longest_down: Duration,
    /// How often something happens to the world as a whole: a partition, a crash, a coordinator that is opened again.
    pub mishaps_every: Option<Duration>,
    /// A service's try blocks for long once in this number of times.
    pub try_blocks: u32,
    /// A host without a coordinator that is down for long, once, and for how long. Clients go on meanwhile.
    pub long_down: Option<(usize, Duration)>,
    /// A service fails to confirm, cancel or check once in this number of times.
    pub service_fails: u32,
    pub log_fault: Option<LogFault>,
    pub wakers: Wakers,
    /// How long a client pauses between two purchases.
    pub pause: Duration,
    /// Whether the post remembers which letters were sent.
    pub remembers: bool,
    /// The services that keep what they have in a database of their own, which can prepare.
    pub databases: Vec<&'static str>,
    /// Services that coordinators are opened with or without, and that come and go while they are open; and how often
    /// that is looked at.
    pub coming: Vec<&'static str>,
    pub comes_every: Duration,
    #[cfg(feature = "tokio")]
    pub database: Database,
}

/// What goes wrong with databases, and on the way to them.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Database {
    /// One in this number of statements loses its connection, is refused, finds its promise held by another session.
    pub lost: u32,
    pub refused: u32,
    pub denied: u32,
    /// A server stops at one in this number of statements.
    pub stops_at_statement: u32,
    /// How often a server is stopped besides, and how long at most it is down, and then finds its promises.
    pub stops_every: Option<Duration>,
    pub longest_down: Duration,
    pub longest_recovery: Duration,
    pub max_promises: usize,
}

/// What the wakers of clients that await something do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakers {
    /// They have the client polled later.
    Notify,
    /// The same; and then they panic.
    Panic,
    /// They poll there and then.
    Poll,
}

#[derive(Clone, Copy, Debug)]
pub struct Network {
    pub fastest: Duration,
    pub slowest: Duration,
    /// One in this number is lost, comes twice, is much later than usual.
    pub lost: u32,
    pub doubled: u32,
    pub late: u32,
}

#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub sync: Duration,
    /// One sync in this number takes a second.
    pub slow: u32,
    /// One operation in this number fails; those that need room, for lack of it.
    pub fails: u32,
    pub full: u32,
}

const MS: fn(u64) -> Duration = Duration::from_millis;

impl Plan {
    pub fn draw(random: &mut Rng, needs_log_fault: bool) -> Self {
        let hosts = Self::draw_hosts(random);
        let calm = random.u8(..8) == 0;
        let mut often = |choices: &[u32]| if calm { 0 } else { choices[random.usize(..choices.len())] };
        let network = Network {
            fastest: Duration::from_micros(50),
            slowest: MS(2),
            lost: often(&[0, 50, 12]),
            doubled: often(&[0, 40, 8]),
            late: often(&[0, 30, 8]),
        };
        let disk = Disk {
            sync: MS(1),
            slow: often(&[0, 200, 40]),
            fails: often(&[0, 0, 400, 100]),
            full: often(&[0, 0, 300]),
        };
        let crash_at_message = often(&[0, 0, 300, 80]);
        let crash_at_io = often(&[0, 0, 300, 80]);
        let service_fails = often(&[0, 0, 20]);
        let mishaps_every = [None, Some(MS(400)), Some(MS(60))][often(&[0, 1, 2]) as usize];
        let mut plan = Self {
            hosts,
            busier: 1,
            try_blocks: 0,
            long_down: None,
            log_fault: None,
            wakers: Wakers::Notify,
            pause: MS(20),
            remembers: false,
            databases: Vec::new(),
            coming: Vec::new(),
            comes_every: Duration::ZERO,
            #[cfg(feature = "tokio")]
            database: Database::default(),
            network,
            disk,
            crash_at_message,
            crash_at_io,
            service_fails,
            mishaps_every,
            nearby: if random.bool() { Nearby::Inline } else { Nearby::Pooled },
            clients: random.usize(1..=6),
            purchases: random.usize(2..=8),
            policy: Policy::default()
                .prepare_timeout(MS([30, 200, 1_000][random.usize(..3)]))
                .delivery_timeout(MS([20, 200][random.usize(..2)]))
                .first_backoff(MS(2))
                .longest_backoff(MS([10, 500][random.usize(..2)]))
                .transaction_timeout(MS([60_000, 300, 50][random.usize(..3)]))
                .park_after_attempts([u32::MAX, 5, 1][random.usize(..3)]),
            limits: Limits::default()
                .in_flight([1_000, 2][random.usize(..2)])
                .log_queue([u64::MAX, 3][random.usize(..2)]),
            checkpoint_every: [1, 3, 10, 1_000][random.usize(..4)],
            seal_after: [MS(5), MS(50), Duration::MAX][random.usize(..3)],
            longest_down: MS([5, 100, 1_000][random.usize(..3)]),
            // The last to be drawn: without the feature all the rest is the same.
            #[cfg(feature = "tokio")]
            by_tasks: SERVICES.get(random.usize(..=SERVICES.len())).copied(),
            #[cfg(feature = "tokio")]
            task_panics: if calm { 0 } else { [0, 20][random.usize(..2)] },
        };
        plan.draw_bad_services(random, calm);
        plan.draw_log_fault(random, needs_log_fault);
        plan.wakers = [Wakers::Notify, Wakers::Notify, Wakers::Panic, Wakers::Poll][random.usize(..4)];
        // Long enough that every thread that waits forever for a dead host is found.
        if let Some((_, time)) = plan.long_down.as_mut().filter(|_| random.bool()) {
            *time *= 5;
            plan.pause = MS(400);
        }
        plan.remembers = random.bool();
        plan
    }

    /// Drawn after all else.
    fn draw_bad_services(&mut self, random: &mut Rng, calm: bool) {
        let (blocks, limit, down, time) =
            (random.usize(..3), random.usize(..3), random.usize(..4 * self.hosts.len()), MS(random.u64(2_000..6_000)));
        if calm {
            return;
        }
        self.try_blocks = [0, 40, 8][blocks];
        self.limits.undelivered = [usize::MAX, 20, 2][limit];
        if self.hosts.get(down).is_some_and(|host| host.coordinator.is_none()) {
            self.long_down = Some((down, time));
            self.busier = 8;
            self.purchases *= 8;
        }
    }

    /// Drawn from a stream of its own, so that all else in a seed is as it was before there were databases.
    #[cfg(feature = "tokio")]
    pub fn draw_databases(&mut self, random: &mut Rng, is_needed: bool) {
        if random.u8(..4) > 0 && !is_needed {
            return;
        }
        let mut services = SERVICES.to_vec();
        random.shuffle(&mut services);
        services.truncate(random.usize(1..=SERVICES.len()));
        self.databases = services;
        let calm = random.u8(..8) == 0;
        let mut often = |choices: [u32; 3]| if calm { 0 } else { choices[random.usize(..3)] };
        self.database = Database {
            lost: often([0, 60, 12]),
            refused: often([0, 100, 20]),
            denied: often([0, 20, 4]),
            stops_at_statement: often([0, 300, 80]),
            stops_every: [None, Some(MS(400)), Some(MS(150))][often([0, 1, 2]) as usize],
            // Up for longer than it takes to open a participant, or no purchase would ever be made.
            longest_down: MS([5, 50, 150][random.usize(..3)]),
            longest_recovery: MS([5, 20, 100][random.usize(..3)]),
            max_promises: [64, 64, 3][random.usize(..3)],
        };
    }

    /// Drawn from a stream of its own, too. A copy of a log settles by presumption without participants that are not there, and
    /// the oracle knows only of those that do not answer; so not together with what becomes of logs.
    pub fn draw_members(&mut self, random: &mut Rng) {
        if random.u8(..4) > 0 || self.log_fault.is_some() {
            return;
        }
        let mut services = SERVICES.to_vec();
        random.shuffle(&mut services);
        services.truncate(random.usize(1..=SERVICES.len()));
        self.coming = services;
        self.comes_every = MS([10, 60, 300][random.usize(..3)]);
    }

    /// Whether coordinators may be without the service for a while.
    pub fn comes_and_goes(&self, service: &str) -> bool {
        self.coming.contains(&service)
    }

    /// Whether the service keeps what it has in a database.
    pub fn has_database(&self, service: &str) -> bool {
        self.databases.contains(&service)
    }

    /// Drawn after that.
    fn draw_log_fault(&mut self, random: &mut Rng, is_needed: bool) {
        use LogFaultKind::{Lost, Restored, SecondOnCopy, SecondOnEmpty, SwappedForCopy, SwappedForEmpty};
        if random.u8(..4) > 0 && !is_needed {
            return;
        }
        let kinds = [Lost, Restored, SwappedForEmpty, SwappedForCopy, SecondOnEmpty, SecondOnCopy];
        let kind = kinds[random.usize(..kinds.len())];
        let coordinators: Vec<_> =
            (0..self.hosts.len()).filter(|host| self.hosts[*host].coordinator.is_some()).collect();
        let mut up_to = |most: u64| MS(1).mul_f64(most as f64 * random.f64());
        let (copied_after, happens_after, lasts) = (up_to(60), up_to(150), up_to(400));
        let host = coordinators[random.usize(..coordinators.len())];
        self.log_fault = Some(LogFault { host, kind, copied_after, happens_after, lasts, prompt: random.bool() });
        self.busier *= 2;
        self.purchases *= 2;
        let there = &mut self.hosts[host];
        let Some((name, log)) = there.coordinator else { return };
        if matches!(kind, SecondOnEmpty | SecondOnCopy) {
            self.hosts.push(HostPlan { logs: 1, coordinator: Some((name, 0)), is_second: true, ..HostPlan::default() });
        } else if there.managers.iter().any(|(_, other)| *other == log) {
            // What participants have promised is not lost along with it.
            there.coordinator = Some((name, there.logs));
            there.logs += 1;
        }
    }

    fn draw_hosts(random: &mut Rng) -> Vec<HostPlan> {
        let of = |service: &'static str| HostPlan { logs: 1, managers: vec![(service, 0)], ..HostPlan::default() };
        let [goods, orders, payments] = SERVICES;
        match random.u8(..5) {
            // Everything in one process, on one log.
            0 => {
                let managers = SERVICES.map(|service| (service, 0)).into();
                vec![HostPlan { logs: 1, coordinator: Some(("shop", 0)), managers, ..HostPlan::default() }]
            }
            // In one process, each with a log of its own.
            1 => {
                let managers = vec![(goods, 1), (orders, 2), (payments, 3)];
                vec![HostPlan { logs: 4, coordinator: Some(("shop", 0)), managers, ..HostPlan::default() }]
            }
            // Each in a process of its own.
            2 => {
                let alone = HostPlan { logs: 1, coordinator: Some(("shop", 0)), ..HostPlan::default() };
                [alone].into_iter().chain(SERVICES.map(of)).collect()
            }
            // A bit of everything.
            3 => {
                let managers = vec![(goods, 0), (orders, 1)];
                let near = HostPlan { logs: 2, coordinator: Some(("shop", 0)), managers, ..HostPlan::default() };
                vec![near, of(payments)]
            }
            // Two coordinators, each near to one service and far from the others.
            _ => {
                let near = |name, service| HostPlan { coordinator: Some((name, 0)), ..of(service) };
                vec![near("shop", goods), near("kiosk", orders), of(payments)]
            }
        }
    }
}
