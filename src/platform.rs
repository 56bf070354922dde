//! Threads, the clock and waiting: the system's, or a simulation's.
//!
//! Whatever in this crate starts a thread, blocks one or asks for the time does it through a [`Platform`]. As a rule
//! that is the system, at the price of a branch where a thread is about to sleep anyhow. A simulation puts a
//! [`Simulator`] in its place: its threads run one at a time, each until it waits, and so a whole run, production code
//! and all, is a function of a seed. `tests/simulation` is that simulation; it is not part of the public interface.
//!
//! Mutexes are the system's in both cases. Where one is held while its holder waits (a branch's, in a resource manager),
//! the simulation has to see to it that nobody else asks for it meanwhile.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::Wake,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// What threads and time a coordinator or a log lives on.
#[derive(Clone, Default)]
pub struct Platform(Option<Arc<dyn Simulator>>);

/// Stands in for the system. All its threads take turns: one runs until it waits or ends.
///
/// A *place* is where threads wait, by a number that is its alone for as long as somebody waits there.
pub trait Simulator: Send + Sync + 'static {
    /// The time.
    fn now(&self) -> Instant;
    /// Has a new thread do this work, later. Gives its number.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> u64;
    /// The number of the thread that calls.
    fn current(&self) -> u64;
    /// Blocks the thread that calls until somebody notifies this place, or until then.
    fn wait(&self, place: usize, until: Option<Instant>) -> Woken;
    /// Wakes one thread that waits there, if there is one.
    fn notify_one(&self, place: usize);
    /// Wakes all threads that wait there.
    fn notify_all(&self, place: usize);
}

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// A notification, perhaps one that was meant for something else.
    Notified,
    /// Time.
    TimedOut,
}

impl Platform {
    /// A simulation instead of the system.
    #[must_use]
    pub fn simulated(simulator: Arc<dyn Simulator>) -> Self {
        Self(Some(simulator))
    }

    pub(crate) fn now(&self) -> Instant {
        self.0.as_ref().map_or_else(Instant::now, |simulator| simulator.now())
    }

    pub(crate) fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Thread> {
        let Some(simulator) = &self.0 else {
            return thread::Builder::new().name(name.to_owned()).spawn(work).map(Thread::System);
        };
        let ended = Arc::new((Mutex::new(false), self.condvar()));
        let told = Arc::clone(&ended);
        let work = move || {
            work();
            *told.0.lock() = true;
            told.1.notify_all();
        };
        Ok(Thread::Simulated { number: simulator.spawn(name, Box::new(work)), ended })
    }

    pub(crate) fn current(&self) -> ThreadId {
        match &self.0 {
            None => ThreadId::System(thread::current().id()),
            Some(simulator) => ThreadId::Simulated(simulator.current()),
        }
    }

    pub(crate) fn condvar(&self) -> Condvar {
        Condvar { platform: self.clone(), system: parking_lot::Condvar::new() }
    }

    /// Blocks while the word has this value, until somebody wakes all who wait on it; or for no reason.
    pub(crate) fn wait_on(&self, word: &AtomicU32, value: u32) {
        match &self.0 {
            None => atomic_wait::wait(word, value),
            Some(simulator) if word.load(Ordering::Acquire) == value => drop(simulator.wait(place(word), None)),
            Some(_) => {}
        }
    }

    pub(crate) fn wake_all_on(&self, word: &AtomicU32) {
        match &self.0 {
            None => atomic_wait::wake_all(word),
            Some(simulator) => simulator.notify_all(place(word)),
        }
    }

    pub(crate) fn mailbox<T>(&self) -> Mailbox<T> {
        Mailbox(Arc::new((Mutex::default(), self.condvar())))
    }

    pub(crate) fn parker(&self) -> Parker {
        Parker { platform: self.clone(), thread: thread::current(), woken: AtomicBool::new(false) }
    }
}

impl fmt::Debug for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Platform(simulated)" } else { "Platform(system)" })
    }
}

/// A thread that was started.
#[derive(Debug)]
pub(crate) enum Thread {
    System(thread::JoinHandle<()>),
    Simulated { number: u64, ended: Arc<(Mutex<bool>, Condvar)> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadId {
    System(thread::ThreadId),
    Simulated(u64),
}

impl Thread {
    pub(crate) fn id(&self) -> ThreadId {
        match self {
            Self::System(thread) => ThreadId::System(thread.thread().id()),
            Self::Simulated { number, .. } => ThreadId::Simulated(*number),
        }
    }

    /// Waits for its end, be it a panic: that has printed its message, and there is nothing left to do for it.
    pub(crate) fn join(self) {
        match self {
            Self::System(thread) => drop(thread.join()),
            Self::Simulated { ended, .. } => {
                let mut done = ended.0.lock();
                while !*done {
                    ended.1.wait(&mut done);
                }
            }
        }
    }
}

/// A condition variable. Wake-ups may be spurious.
#[derive(Debug)]
pub(crate) struct Condvar {
    platform: Platform,
    system: parking_lot::Condvar,
}

impl Condvar {
    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        match &self.platform.0 {
            None => self.system.wait(guard),
            Some(simulator) => drop(MutexGuard::unlocked(guard, || simulator.wait(place(self), None))),
        }
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> Woken {
        match &self.platform.0 {
            None if self.system.wait_until(guard, until).timed_out() => Woken::TimedOut,
            None => Woken::Notified,
            Some(simulator) => MutexGuard::unlocked(guard, || simulator.wait(place(self), Some(until))),
        }
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, pause: Duration) -> Woken {
        match &self.platform.0 {
            None if self.system.wait_for(guard, pause).timed_out() => Woken::TimedOut,
            None => Woken::Notified,
            Some(simulator) => {
                let until = simulator.now().checked_add(pause);
                MutexGuard::unlocked(guard, || simulator.wait(place(self), until))
            }
        }
    }

    pub(crate) fn notify_one(&self) {
        match &self.platform.0 {
            None => drop(self.system.notify_one()),
            Some(simulator) => simulator.notify_one(place(self)),
        }
    }

    pub(crate) fn notify_all(&self) {
        match &self.platform.0 {
            None => drop(self.system.notify_all()),
            Some(simulator) => simulator.notify_all(place(self)),
        }
    }
}

/// Where one thread waits for what others have for it.
pub(crate) struct Mailbox<T>(Arc<(Mutex<VecDeque<T>>, Condvar)>);

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn put(&self, what: T) {
        self.0.0.lock().push_back(what);
        self.0.1.notify_one();
    }

    /// What comes first, if anything comes until then.
    pub(crate) fn take_until(&self, until: Instant) -> Option<T> {
        let mut queue = self.0.0.lock();
        while queue.is_empty() {
            if self.0.1.wait_until(&mut queue, until) == Woken::TimedOut {
                break;
            }
        }
        queue.pop_front()
    }
}

/// Lets the thread that made it sleep until it is woken.
#[derive(Debug)]
pub(crate) struct Parker {
    platform: Platform,
    thread: thread::Thread,
    woken: AtomicBool,
}

impl Parker {
    pub(crate) fn park(&self) {
        while !self.woken.swap(false, Ordering::Acquire) {
            match &self.platform.0 {
                None => thread::park(),
                Some(simulator) => drop(simulator.wait(place(self), None)),
            }
        }
    }

    pub(crate) fn unpark(&self) {
        self.woken.store(true, Ordering::Release);
        match &self.platform.0 {
            None => self.thread.unpark(),
            Some(simulator) => simulator.notify_all(place(self)),
        }
    }
}

/// As a task's waker: for a thread that runs one and has nothing else to do.
impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }
}

/// Nobody waits at what has been moved or dropped, so an address is a place's name for as long as it needs one.
fn place<T>(what: &T) -> usize {
    std::ptr::from_ref(what).addr()
}
