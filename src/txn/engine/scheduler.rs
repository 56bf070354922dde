//! The coordinator's own few threads: a clock, and workers that drive transactions for which no
//! client waits.
//!
//! The clock calls only the system: it notices which timers are due and queues their targets for
//! the workers. Workers run the protocol; they call the log and wakers, and leave participants to
//! those participants' own [lanes](crate::txn::engine::lanes). If all workers are blocked all the
//! same, the clock starts another one.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io, mem,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    foreign::catch_panic,
    platform::{Condvar, Platform, Thread},
};

/// Number of workers of a coordinator. They pass messages on and run the protocol, so they are
/// seldom busy.
const WORKERS: usize = 2;

/// Maximum number of workers, when some are blocked. A log or a waker that does not return blocks a
/// worker; the limit bounds the threads that it can take.
const MAX_WORKERS: usize = 8;

/// Time in one piece of work after which a worker counts as blocked.
const BLOCKED_AFTER: Duration = Duration::from_millis(100);

/// Pause between two sweeps; see [`Sweep`].
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Number of timers at which the scheduler first drops timers whose target is gone.
const FEW_TIMERS: usize = 1 << 10;

/// The thread on which an item runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::txn) enum Runner {
    /// A caller's thread. It calls participants itself, because it waits for them anyway.
    Caller,
    /// A worker. It calls no participant, because other transactions wait for it.
    Worker,
}

/// An item that a thread can run, such as a transaction.
pub(in crate::txn) trait Runnable: Send + Sync {
    /// Goes on as far as possible without waiting. An unnecessary run does no harm.
    fn run(self: Arc<Self>, by: Runner);
}

/// The safety net under the wake-ups. It is called once every [`SWEEP_EVERY`] to find items that
/// could go on and were not run, such as a transaction with a [`Commit`](crate::txn::Commit) that
/// is held but not polled.
pub(in crate::txn) trait Sweep: Send + Sync {
    fn sweep(&self);
}

struct Sweeping(Weak<dyn Sweep>);

impl Runnable for Sweeping {
    fn run(self: Arc<Self>, _: Runner) {
        if let Some(sweeper) = self.0.upgrade() {
            sweeper.sweep();
        }
    }
}

/// Queues of items to run now, and a heap of timers for items to run later.
pub(in crate::txn) struct Scheduler {
    platform: Platform,
    state: Mutex<Queues>,
    /// Workers wait here.
    work: Condvar,
    /// The clock waits here.
    tick: Condvar,
}

#[derive(Default)]
struct Queues {
    ready: VecDeque<Arc<dyn Runnable>>,
    /// Items whose time has come. Workers take them in turn with ready ones, so that neither delays
    /// the other.
    due: VecDeque<Arc<dyn Runnable>>,
    due_is_next: bool,
    timers: BinaryHeap<Reverse<Timer>>,
    /// Number of timers at which those with a dropped target are removed.
    crowded_at: usize,
    /// For each worker, the time at which it began its present piece of work.
    busy_since: Vec<Option<Instant>>,
    idle: usize,
    /// Whether the clock checks that workers are not blocked.
    watched: bool,
    threads: Vec<Thread>,
    closed: bool,
}

impl Queues {
    fn next(&mut self) -> Option<Arc<dyn Runnable>> {
        self.due_is_next = !self.due_is_next;
        let (first, second) =
            if self.due_is_next { (&mut self.due, &mut self.ready) } else { (&mut self.ready, &mut self.due) };
        first.pop_front().or_else(|| second.pop_front())
    }

    /// Adds a timer. Amortised O(log n). Nearly all items end long before their time-out, which may
    /// be years away. So timers of ended items are dropped now and then, and there are never many
    /// more than twice as many timers as items.
    fn set(&mut self, timer: Timer) {
        self.timers.push(Reverse(timer));
        if self.timers.len() >= self.crowded_at {
            self.timers.retain(|Reverse(timer)| timer.what.strong_count() > 0);
            self.crowded_at = FEW_TIMERS.max(2 * self.timers.len());
        }
    }

    fn has_work(&self) -> bool {
        !self.ready.is_empty() || !self.due.is_empty()
    }

    /// Moves due items to the workers' queue, and returns their number.
    fn strike(&mut self, now: Instant) -> usize {
        let before = self.due.len();
        while self.timers.peek().is_some_and(|Reverse(timer)| timer.at <= now) {
            self.due.extend(self.timers.pop().and_then(|Reverse(timer)| timer.what.upgrade()));
        }
        self.due.len() - before
    }

    /// Whether there is work, and every worker is blocked.
    fn is_stuck(&self, now: Instant) -> bool {
        let blocked = |since: &Option<Instant>| since.is_some_and(|since| since + BLOCKED_AFTER <= now);
        self.has_work() && self.idle == 0 && self.busy_since.iter().all(blocked)
    }
}

struct Timer {
    at: Instant,
    /// Weak, so that a transaction that ends long before its time-out frees what it holds. Its own
    /// memory is freed with the timer.
    what: Weak<dyn Runnable>,
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

impl Scheduler {
    pub(in crate::txn) fn new(platform: Platform) -> Self {
        Self { state: Mutex::default(), work: platform.condvar(), tick: platform.condvar(), platform }
    }

    /// Starts the threads. They end after [`close`](Self::close); the caller joins what
    /// [`take_threads`](Self::take_threads) returns.
    pub(in crate::txn) fn start(self: &Arc<Self>, sweeper: &Weak<dyn Sweep>) -> io::Result<()> {
        let (scheduler, sweeper) = (Arc::clone(self), Weak::clone(sweeper));
        let mut started = self.platform.spawn("ringpact-clock", move || scheduler.keep_time(sweeper)).map(|clock| {
            self.state.lock().threads.push(clock);
        });
        for _ in 0..WORKERS {
            started = started.and_then(|()| self.start_worker());
        }
        if started.is_err() {
            self.close();
        }
        started
    }

    fn start_worker(self: &Arc<Self>) -> io::Result<()> {
        let scheduler = Arc::clone(self);
        let mut state = self.state.lock();
        let number = state.busy_since.len();
        // The worker counts as busy until it waits for work for the first time.
        state.busy_since.push(Some(self.platform.now()));
        drop(state);
        let thread = self.platform.spawn("ringpact-worker", move || scheduler.serve(number))?;
        self.state.lock().threads.push(thread);
        Ok(())
    }

    pub(in crate::txn) fn take_threads(&self) -> Vec<Thread> {
        mem::take(&mut self.state.lock().threads)
    }

    /// Queues the item to run on a worker as soon as one is free.
    pub(in crate::txn) fn enqueue(&self, what: Arc<dyn Runnable>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.ready.push_back(what);
        let unwatched = state.idle == 0 && !mem::replace(&mut state.watched, true);
        drop(state);
        self.work.notify_one();
        if unwatched {
            self.tick.notify_one();
        }
    }

    /// Runs the item on a worker at the given time, if it still exists then.
    pub(in crate::txn) fn enqueue_at(&self, at: Instant, what: Weak<dyn Runnable>) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let first = state.timers.peek().is_none_or(|Reverse(timer)| at < timer.at);
        state.set(Timer { at, what });
        drop(state);
        if first {
            self.tick.notify_one();
        }
    }

    /// Stops the threads, and drops what is queued.
    pub(in crate::txn) fn close(&self) {
        drop(self.stop());
    }

    /// Stops the threads, without waiting for them. Returns what was queued, and what the timers were
    /// set for.
    pub(in crate::txn) fn stop(&self) -> Vec<Arc<dyn Runnable>> {
        let mut state = self.state.lock();
        state.closed = true;
        let (ready, due, timers) =
            (mem::take(&mut state.ready), mem::take(&mut state.due), mem::take(&mut state.timers));
        drop(state);
        self.work.notify_all();
        self.tick.notify_all();
        let timed = timers.into_iter().filter_map(|Reverse(timer)| timer.what.upgrade());
        ready.into_iter().chain(due).chain(timed).collect()
    }

    fn keep_time(self: &Arc<Self>, sweeper: Weak<dyn Sweep>) {
        let sweeping = Arc::new(Sweeping(sweeper));
        let mut sweep_at = self.platform.now();
        let mut state = self.state.lock();
        while !state.closed {
            let now = self.platform.now();
            let mut struck = state.strike(now);
            if sweep_at <= now {
                sweep_at = now + SWEEP_EVERY;
                // The last sweep may still run.
                if Arc::strong_count(&sweeping) == 1 {
                    state.due.push_back(Arc::clone(&sweeping) as Arc<dyn Runnable>);
                    struck += 1;
                }
            }
            for _ in 0..struck.min(state.idle) {
                self.work.notify_one();
            }
            if state.is_stuck(now) && state.busy_since.len() < MAX_WORKERS {
                drop(state);
                // If no thread can be started, the present ones have to do.
                let _ = self.start_worker();
                state = self.state.lock();
                continue;
            }
            state.watched = state.has_work();
            let timer = state.timers.peek().map(|Reverse(timer)| timer.at);
            let look = state.watched.then(|| now + BLOCKED_AFTER);
            let until = timer.into_iter().chain(look).chain([sweep_at]).min().unwrap_or(sweep_at);
            self.tick.wait_until(&mut state, until);
        }
    }

    fn serve(&self, number: usize) {
        let mut state = self.state.lock();
        while !state.closed {
            let Some(next) = state.next() else {
                state.busy_since[number] = None;
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
                state.busy_since[number] = Some(self.platform.now());
                continue;
            };
            drop(state);
            catch_panic(|| next.run(Runner::Worker));
            let now = self.platform.now();
            state = self.state.lock();
            state.busy_since[number] = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    struct Ends;

    impl Runnable for Ends {
        fn run(self: Arc<Self>, _: Runner) {}
    }

    /// A bug: each message to a remote participant sets a timer, perhaps for years, and the memory
    /// of each such transaction was kept until then.
    #[test]
    fn timers_of_ended_transactions_do_not_pile_up() {
        let scheduler = Scheduler::new(Platform::default());
        let at = scheduler.platform.now() + Duration::from_secs(1_000_000_000);
        let lasting: Vec<Arc<dyn Runnable>> = (0..100).map(|_| Arc::new(Ends) as Arc<dyn Runnable>).collect();
        lasting.iter().for_each(|what| scheduler.enqueue_at(at, Arc::downgrade(what)));
        for _ in 0..100_000 {
            let passing: Arc<dyn Runnable> = Arc::new(Ends);
            scheduler.enqueue_at(at, Arc::downgrade(&passing));
            assert!(scheduler.state.lock().timers.len() <= FEW_TIMERS);
        }
        let state = scheduler.state.lock();
        assert_eq!(state.timers.iter().filter(|timer| timer.0.what.strong_count() > 0).count(), lasting.len());
    }

    struct Does<F>(F);

    impl<F: Fn() + Send + Sync> Runnable for Does<F> {
        fn run(self: Arc<Self>, _: Runner) {
            (self.0)();
        }
    }

    impl Sweep for () {
        fn sweep(&self) {}
    }

    /// A bug: a panic ended its thread, and after two of them nothing was driven any more.
    #[test]
    fn a_panic_costs_no_thread() {
        let scheduler = Arc::new(Scheduler::new(Platform::default()));
        let no_sweep: Weak<dyn Sweep> = Weak::<()>::new();
        scheduler.start(&no_sweep).expect("a few threads");
        for _ in 0..=WORKERS {
            scheduler.enqueue(Arc::new(Does(|| panic!("the test wants this to panic"))));
        }
        let (tell, told) = mpsc::channel();
        scheduler.enqueue(Arc::new(Does(move || tell.send(()).expect("the test waits for it"))));
        let goes_on = told.recv_timeout(Duration::from_secs(5));
        scheduler.close();
        scheduler.take_threads().into_iter().for_each(Thread::join);
        goes_on.expect("items after them run");
    }

    /// A bug: after two wakers that did not return, no time-out worked any more.
    #[test]
    fn blocked_workers_do_not_delay_timers() {
        let scheduler = Arc::new(Scheduler::new(Platform::default()));
        let no_sweep: Weak<dyn Sweep> = Weak::<()>::new();
        scheduler.start(&no_sweep).expect("a few threads");
        let (release, held) = mpsc::channel::<()>();
        let held = Mutex::new(held);
        let hangs: Arc<dyn Runnable> = Arc::new(Does(move || _ = held.lock().recv()));
        for _ in 0..MAX_WORKERS - 1 {
            scheduler.enqueue(Arc::clone(&hangs));
        }
        let (tell, told) = mpsc::channel();
        let timed: Arc<dyn Runnable> = Arc::new(Does(move || tell.send(()).expect("the test waits for it")));
        scheduler.enqueue_at(scheduler.platform.now() + Duration::from_millis(10), Arc::downgrade(&timed));
        let goes_on = told.recv_timeout(Duration::from_secs(5));
        drop(release);
        scheduler.close();
        scheduler.take_threads().into_iter().for_each(Thread::join);
        goes_on.expect("the timer's item runs");
    }

    /// A bug: while timers were always due, ready items never ran.
    #[test]
    fn due_and_ready_items_take_turns() {
        let ends = || Arc::new(Ends) as Arc<dyn Runnable>;
        let mut state = Queues::default();
        state.due.extend((0..10).map(|_| ends()));
        state.ready.extend((0..3).map(|_| ends()));
        for left in [2, 1, 0] {
            state.next();
            state.next();
            assert_eq!(state.ready.len(), left);
        }
        assert_eq!(state.due.len(), 7);
        assert_eq!(std::iter::from_fn(|| state.next()).count(), 7);
    }
}
