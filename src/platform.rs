//! Threads, the clock and waiting: the system's, or a simulation's.
//!
//! All code of this crate that starts a thread, blocks one or asks for the time does it through a
//! [`Platform`]. Usually that is the system, and the price is a branch when a thread is about to
//! sleep anyway. A simulation puts a [`Simulator`] in its place. The simulator's threads run one at
//! a time, each until it waits. So a whole run, production code included, is a function of a seed.
//! `tests/simulation` is that simulation. It is not part of the public interface.
//!
//! Mutexes are the system's in both cases. A mutex that may be held while its holder waits (a
//! branch's, in a resource manager) is taken by `Platform::lock`, which lets the simulation's other
//! threads go on meanwhile.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Wake,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};

/// Simulated time after which a thread looks again whether a mutex is free.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// The threads and the clock that a coordinator or a log uses. A clone is another handle on the
/// same platform.
#[derive(Clone, Default)]
pub struct Platform(Option<Arc<dyn Simulator>>);

/// Stands in for the system. All its threads take turns: one runs until it waits or ends.
///
/// A *place* is where threads wait. Its number belongs to it alone as long as a thread waits there.
pub trait Simulator: Send + Sync + 'static {
    /// Returns the time.
    fn now(&self) -> Instant;
    /// Makes a new thread do this work, later. Returns the thread's number.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> u64;
    /// Returns the number of the calling thread.
    fn current(&self) -> u64;
    /// Blocks the calling thread until another one notifies this place, or until the given time.
    fn wait(&self, place: usize, until: Option<Instant>) -> Woken;
    /// Wakes one thread that waits at the place, if there is one.
    fn notify_one(&self, place: usize);
    /// Wakes all threads that wait at the place.
    fn notify_all(&self, place: usize);
}

/// What ended a wait. Exhaustive on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "simulators construct it")]
pub enum Woken {
    /// A notification, perhaps one that was meant for another thread.
    Notified,
    /// The time was up.
    TimedOut,
}

impl Platform {
    /// Returns a platform that is this simulation instead of the system.
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

    /// Returns the number of the calling thread: at least 1, and never that of another thread.
    pub(crate) fn thread_number(&self) -> u64 {
        static GIVEN: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            /// The number of this thread, 0 until it needs one.
            static OWN: Cell<u64> = const { Cell::new(0) };
        }
        match &self.0 {
            None => OWN.with(|own| {
                if own.get() == 0 {
                    own.set(GIVEN.fetch_add(1, Ordering::Relaxed) + 1);
                }
                own.get()
            }),
            // Several of a simulation's threads may take turns on one thread of the system.
            Some(simulator) => simulator.current() + 1,
        }
    }

    pub(crate) fn condvar(&self) -> Condvar {
        Condvar { platform: self.clone(), system: parking_lot::Condvar::new() }
    }

    /// Blocks while the word has this value, until another thread wakes all that wait on it. May
    /// also return for no reason.
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

    /// Blocks until the mutex is free, and takes it: for a mutex that may be held while its holder waits.
    pub(crate) fn lock<'a, T>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        if self.0.is_none() {
            return mutex.lock();
        }
        loop {
            if let Some(guard) = mutex.try_lock() {
                return guard;
            }
            self.look_again(mutex);
        }
    }

    /// As [`lock`](Self::lock), for at most this long.
    pub(crate) fn lock_within<'a, T>(&self, mutex: &'a Mutex<T>, time: Duration) -> Option<MutexGuard<'a, T>> {
        if self.0.is_none() {
            return mutex.try_lock_for(time);
        }
        let until = self.now() + time;
        loop {
            if let Some(guard) = mutex.try_lock() {
                return Some(guard);
            }
            if self.now() >= until {
                return None;
            }
            self.look_again(mutex);
        }
    }

    /// Lets a simulation's other threads have their turns, so that one of them may release the mutex.
    fn look_again<T>(&self, mutex: &Mutex<T>) {
        if let Some(simulator) = &self.0 {
            simulator.wait(place(mutex), simulator.now().checked_add(LOOK_AGAIN));
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

    /// Whether the thread has ended.
    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Self::System(thread) => thread.is_finished(),
            Self::Simulated { ended, .. } => *ended.0.lock(),
        }
    }

    /// Blocks until the thread has ended. If it has panicked, it has printed its message, and there
    /// is nothing left to do.
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

/// A queue at which one thread waits for items from others. A clone is another handle on the same
/// queue.
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

    /// Blocks until there is an item, at most until the given time. Returns the first item, if
    /// there is one.
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

/// Lets the thread that created it sleep until it is woken.
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

/// As the waker of a task: for a thread that runs one task and has nothing else to do.
impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.unpark();
    }
}

/// Returns the number of a place: its address. No thread waits at a place that has been moved or
/// dropped, so the number is unique as long as it is needed.
fn place<T>(what: &T) -> usize {
    std::ptr::from_ref(what).addr()
}
