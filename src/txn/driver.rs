//! The coordinator's own few threads: they drive on what nobody waits for, and mind the clock.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::platform::{Condvar, Platform, Thread};

/// Threads of a coordinator. They deliver decisions to in-process participants and hand requests to others, so they
/// are seldom busy; a second one keeps time-outs going while the first is inside a participant.
const THREADS: usize = 2;

/// How often what hangs is looked for; see [`Sweep`].
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// So many timers are kept before anybody asks whether they are still of use.
const FEW_TIMERS: usize = 1 << 10;

/// Something that can go on when it is run.
pub(super) trait Driven: Send + Sync {
    /// Goes on as far as possible without waiting. Running it once too often does no harm.
    fn run(self: Arc<Self>);
}

/// The safety net under the wake-ups: called every so often to find what could go on and was not run, such as a
/// transaction whose [`Commit`](super::Commit) is held but not polled.
pub(super) trait Sweep: Send + Sync {
    fn sweep(&self);
}

/// A queue of what is to be run now, and a heap of what is to be run later.
pub(super) struct Driver {
    platform: Platform,
    state: Mutex<State>,
    change: Condvar,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<dyn Driven>>,
    timers: BinaryHeap<Reverse<Timer>>,
    /// With so many timers it is time to drop those of what has ended.
    crowded_at: usize,
    swept: Option<Instant>,
    /// When each thread that sleeps wakes by itself.
    asleep_until: [Option<Instant>; THREADS],
    closed: bool,
}

impl State {
    /// Whether a thread that sleeps should get up because this one is about to be away: there is more to run, or the
    /// next timer was set after the sleeper had gone to sleep, and comes before it wakes.
    fn needs_another(&self) -> bool {
        let timer = self.timers.peek().map(|Reverse(timer)| timer.at);
        let mut sleepers = self.asleep_until.iter().flatten();
        !self.ready.is_empty() || timer.is_some_and(|at| sleepers.any(|until| at < *until))
    }

    /// Amortised O(log n). Nearly everything ends long before its time-out, which may be years away: so of the timers there
    /// are never many more than twice as many as of what they are for.
    fn set(&mut self, timer: Timer) {
        self.timers.push(Reverse(timer));
        if self.timers.len() >= self.crowded_at {
            self.timers.retain(|Reverse(timer)| timer.what.strong_count() > 0);
            self.crowded_at = FEW_TIMERS.max(2 * self.timers.len());
        }
    }
}

struct Timer {
    at: Instant,
    /// Weak, so that a transaction which ends long before its time-out lets go of what it has. The memory that it lay in is
    /// given back with the timer.
    what: Weak<dyn Driven>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Timer {}
impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Driver {
    pub(super) fn new(platform: Platform) -> Self {
        Self { state: Mutex::default(), change: platform.condvar(), platform }
    }

    /// Starts the threads. They end with [`close`](Self::close).
    pub(super) fn start(self: &Arc<Self>, sweeper: &Weak<dyn Sweep>) -> io::Result<Vec<Thread>> {
        let spawn = |thread| {
            let (driver, sweeper) = (Arc::clone(self), Weak::clone(sweeper));
            self.platform.spawn("ringpact-driver", move || driver.serve(thread, &sweeper))
        };
        let threads: io::Result<Vec<_>> = (0..THREADS).map(spawn).collect();
        if threads.is_err() {
            self.close();
        }
        threads
    }

    /// Has it run soon.
    pub(super) fn enqueue(&self, what: Arc<dyn Driven>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.ready.push_back(what);
        drop(state);
        self.change.notify_one();
    }

    /// Has it run at that time, if it is still there then.
    pub(super) fn enqueue_at(&self, at: Instant, what: Weak<dyn Driven>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let first = state.timers.peek().is_none_or(|Reverse(timer)| at < timer.at);
        state.set(Timer { at, what });
        drop(state);
        if first {
            self.change.notify_one();
        }
    }

    /// Stops the threads; what is queued is dropped.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let dropped = (std::mem::take(&mut state.ready), std::mem::take(&mut state.timers));
        drop(state);
        drop(dropped);
        self.change.notify_all();
    }

    fn serve(&self, thread: usize, sweeper: &Weak<dyn Sweep>) {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                return;
            }
            let now = self.platform.now();
            if state.swept.is_none_or(|at| at + SWEEP_EVERY <= now) {
                state.swept = Some(now);
                drop(state);
                if let Some(sweeper) = sweeper.upgrade() {
                    guarded(|| sweeper.sweep());
                }
                state = self.state.lock();
                continue;
            }
            let due = state.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now);
            let next = if due { state.timers.pop().and_then(|Reverse(timer)| timer.what.upgrade()) } else { None };
            let Some(next) = next.or_else(|| state.ready.pop_front()) else {
                if !due {
                    let timer = state.timers.peek().map(|Reverse(timer)| timer.at);
                    let until = timer.into_iter().chain([now + SWEEP_EVERY]).min().unwrap_or(now);
                    state.asleep_until[thread] = Some(until);
                    self.change.wait_until(&mut state, until);
                    state.asleep_until[thread] = None;
                }
                continue;
            };
            let needs_another = state.needs_another();
            drop(state);
            if needs_another {
                self.change.notify_one();
            }
            guarded(|| next.run());
            state = self.state.lock();
        }
    }
}

/// Logs and wakers are not ours. One that panics has printed its message; the threads are needed for everybody else.
pub(super) fn guarded(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Ends;

    impl Driven for Ends {
        fn run(self: Arc<Self>) {}
    }

    /// Each message to a participant far away sets a timer, perhaps for ever: the memory of each such transaction was kept
    /// until that time had come.
    #[test]
    fn timers_of_what_has_ended_do_not_pile_up() {
        let driver = Driver::new(Platform::default());
        let at = driver.platform.now() + Duration::from_secs(1_000_000_000);
        let lasting: Vec<Arc<dyn Driven>> = (0..100).map(|_| Arc::new(Ends) as Arc<dyn Driven>).collect();
        lasting.iter().for_each(|what| driver.enqueue_at(at, Arc::downgrade(what)));
        for _ in 0..100_000 {
            let passing: Arc<dyn Driven> = Arc::new(Ends);
            driver.enqueue_at(at, Arc::downgrade(&passing));
            assert!(driver.state.lock().timers.len() <= FEW_TIMERS);
        }
        let state = driver.state.lock();
        assert_eq!(state.timers.iter().filter(|timer| timer.0.what.strong_count() > 0).count(), lasting.len());
    }

    struct Does<F>(F);

    impl<F: Fn() + Send + Sync> Driven for Does<F> {
        fn run(self: Arc<Self>) {
            (self.0)();
        }
    }

    impl Sweep for () {
        fn sweep(&self) {}
    }

    /// The thread ended, and after the second one nothing was driven any more.
    #[test]
    fn a_panic_costs_no_thread() {
        let driver = Arc::new(Driver::new(Platform::default()));
        let nobody: Weak<dyn Sweep> = Weak::<()>::new();
        let threads = driver.start(&nobody).expect("two threads");
        for _ in 0..=THREADS {
            driver.enqueue(Arc::new(Does(|| panic!("the test wants this to panic"))));
        }
        let (tell, told) = mpsc::channel();
        driver.enqueue(Arc::new(Does(move || tell.send(()).expect("the test waits for it"))));
        let goes_on = told.recv_timeout(Duration::from_secs(5));
        driver.close();
        threads.into_iter().for_each(Thread::join);
        goes_on.expect("what comes after them is driven");
    }
}
