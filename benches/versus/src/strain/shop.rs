//! The shop that is strained: two healthy services that share a log with the coordinator, and one
//! that can be made bad.

use std::{
    convert::Infallible,
    fs, io,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use ringpact::{
    BranchId, Coordinator, FileLog, Name, Participant, ParticipantError, ResourceManager, Service, ServiceError, Vote,
    participant::Call, txn::Limits,
};

use crate::log::failed;

/// What the bad participant does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It answers at once.
    #[default]
    Good,
    /// It fails each call at once.
    Down,
    /// It returns from no call before the mood changes.
    Hung,
    /// It votes, and cannot roll back.
    NoRollback,
    /// It takes this long for each call, on one thread.
    Slow(Duration),
}

/// The participant named `bad`, for the coordinator and for the service of a resource manager.
#[derive(Default)]
pub struct Bad {
    mood: Mutex<Mood>,
    changed: Condvar,
    alone: Mutex<()>,
}

impl Bad {
    pub fn set(&self, mood: Mood) {
        *self.mood.lock() = mood;
        self.changed.notify_all();
    }

    fn call(&self, rolls_back: bool) -> Result<(), ParticipantError> {
        let mut mood = self.mood.lock();
        while *mood == Mood::Hung {
            self.changed.wait(&mut mood);
        }
        match *mood {
            Mood::Good | Mood::Hung => Ok(()),
            Mood::Down => Err(ParticipantError::Unreachable),
            Mood::NoRollback if rolls_back => Err(ParticipantError::resource("it can't")),
            Mood::NoRollback => Ok(()),
            Mood::Slow(time) => {
                drop(mood);
                let _alone = self.alone.lock();
                thread::sleep(time);
                Ok(())
            }
        }
    }
}

/// The same participant, as the coordinator calls it.
pub struct Called(pub Arc<Bad>);

impl Participant for Called {
    fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        self.0.call(false).map(|()| Vote::Yes)
    }
    fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.0.call(false)
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.0.call(true)
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// A service that keeps nothing, and whose try can hang.
pub struct Shelf(Option<Arc<Bad>>);

impl Service for Shelf {
    type Work = u64;
    type Refusal = Infallible;

    fn try_reserve(&self, _: &BranchId, _: &u64) -> Result<(), Infallible> {
        if let Some(bad) = &self.0 {
            let _ = bad.call(false);
        }
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        Ok(())
    }
}

pub type Manager = Arc<ResourceManager<Shelf>>;

/// How the bad participant is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// On the thread that commits.
    AtOnce,
    /// On this number of threads of its own.
    Pooled(usize),
    /// As a service behind a resource manager on the coordinator's log.
    Managed,
}

pub struct Shop {
    pub coordinator: Coordinator,
    pub healthy: [Manager; 2],
    pub bad: Arc<Bad>,
    pub managed: Option<Manager>,
    dir: PathBuf,
}

pub const HEALTHY: [&str; 2] = ["goods", "orders"];
pub const BAD: &str = "bad";

impl Shop {
    pub fn open(dir: &Path, reached: Reached, in_flight: usize) -> io::Result<Self> {
        let log = Arc::new(FileLog::open(dir.join("log")).map_err(failed)?);
        let bad = Arc::new(Bad::default());
        let open = |name, service| ResourceManager::open(name, Arc::clone(&log), service).map(Arc::new).map_err(failed);
        let healthy = [open(HEALTHY[0], Shelf(None))?, open(HEALTHY[1], Shelf(None))?];
        let mut builder = Coordinator::builder(Arc::clone(&log)).limits(Limits::default().in_flight(in_flight));
        for manager in &healthy {
            builder = builder.participant(manager.name().as_str(), Arc::clone(manager));
        }
        let mut managed = None;
        builder = match reached {
            Reached::AtOnce => builder.participant(BAD, Called(Arc::clone(&bad))),
            Reached::Pooled(threads) => {
                let threads = NonZeroUsize::new(threads).expect("not 0");
                builder.slow_participant(BAD, Called(Arc::clone(&bad)), threads)
            }
            Reached::Managed => {
                let manager = managed.insert(open(BAD, Shelf(Some(Arc::clone(&bad))))?);
                builder.participant(BAD, Arc::clone(manager))
            }
        };
        let coordinator = builder.open().map_err(failed)?;
        Ok(Self { coordinator, healthy, bad, managed, dir: dir.to_owned() })
    }

    /// Commits a transaction of the two healthy services.
    pub fn buy(&self, number: u64) {
        let mut txn = self.coordinator.begin();
        for manager in &self.healthy {
            let branch = txn.branch(manager.name().as_str()).expect("it is a participant");
            manager.execute(branch, number).expect("nothing is refused");
        }
        txn.commit().wait().expect("all vote Yes");
    }

    /// Begins to commit a transaction of the bad participant and a healthy one, and does not wait
    /// for it.
    pub fn try_bad(&self) {
        let mut txn = self.coordinator.begin();
        if txn.branch(BAD).is_ok() && txn.branch(HEALTHY[0]).is_ok() {
            let branch = txn.branch(HEALTHY[0]).expect("it takes part").clone();
            if self.healthy[0].execute(&branch, 1).is_ok() {
                drop(txn.commit());
            }
        }
    }

    /// Commits a transaction of the bad participant and a healthy one, and waits for it. Returns
    /// whether it has committed.
    pub fn buy_bad(&self) -> bool {
        let mut txn = self.coordinator.begin();
        if txn.branch(BAD).is_err() {
            return false;
        }
        let done = txn.branch(HEALTHY[0]).is_ok_and(|branch| self.healthy[0].execute(branch, 1).is_ok());
        done && txn.commit().wait().is_ok()
    }

    /// Returns the megabytes that the log takes on disk.
    pub fn log_mb(&self) -> f64 {
        let files = fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|data| data.len()).sum::<u64>() as f64 / 1e6
    }

    /// Opens the shop once more, healthy, and returns how many milliseconds that took.
    pub fn reopen(self, reached: Reached) -> f64 {
        self.bad.set(Mood::Good);
        let dir = self.dir.clone();
        drop(self);
        let given_up = Instant::now() + Duration::from_secs(60);
        loop {
            let begun = Instant::now();
            match Self::open(&dir, reached, usize::MAX >> 1) {
                Ok(_) => return begun.elapsed().as_secs_f64() * 1e3,
                // Threads that still hold the old log let go of it soon.
                Err(_) if Instant::now() < given_up => thread::sleep(Duration::from_millis(1)),
                Err(_) => return f64::NAN,
            }
        }
    }
}

/// Returns the megabytes of this process's memory.
pub fn rss_mb() -> f64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok());
    pages.map_or(f64::NAN, |pages| pages * 4096.0 / 1e6)
}

/// Tells the threads that strain the shop to stop, however the measuring ends.
#[derive(Default)]
pub struct Stop(AtomicBool);

impl Stop {
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
