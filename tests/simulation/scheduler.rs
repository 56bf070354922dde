//! Threads that take turns, and a clock that only they move: a run is a function of the seed.
//!
//! A thread is a coroutine. It runs until it waits; then the seed draws the next one among those that can run, and where
//! none can, the clock moves on to the next that sleeps.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    fmt::{self, Write as _},
    mem::ManuallyDrop,
    sync::Arc,
    time::{Duration, Instant},
};

use fastrand::Rng;
use generator::{Generator, Gn};
use parking_lot::Mutex;
use ringpact::platform::{Platform, Simulator, Woken};
use xxhash_rust::xxh3::Xxh3Default;

/// A coroutine's stack, in words; what of it is not used costs nothing.
const STACK_WORDS: usize = 0x1_0000;

/// How long a turn takes at the most: time passes, whatever the threads do.
const LONGEST_TURN: Duration = Duration::from_micros(20);

/// A thread's turns before it is suspected of never coming to an end, in a run that has this many in all.
const MOST_TURNS: u64 = 3_000_000;

type Work = Box<dyn FnOnce() + Send>;
type Stack = Generator<'static, (), ()>;

pub struct Scheduler {
    begun: Instant,
    inner: Mutex<Inner>,
}

struct Inner {
    now: Duration,
    random: Rng,
    current: u64,
    spawned: u64,
    turns: u64,
    /// Not yet begun.
    /// What threads were started for, to be read when one is stuck.
    names: HashMap<u64, String>,
    fresh: HashMap<u64, Work>,
    /// The threads that can run.
    ready: Vec<u64>,
    /// The threads that wait, each with the place and the number of its wait.
    waiting: HashMap<usize, Vec<(u64, u64)>>,
    /// What each thread that waits is waiting for, and what ended the last wait of others.
    waits: BTreeMap<u64, Wait>,
    timers: BinaryHeap<Reverse<(Duration, u64, u64)>>,
    wait_numbers: u64,
    trace: Trace,
}

#[derive(Clone, Copy)]
enum Wait {
    At { place: usize, number: u64 },
    Over(Woken),
}

/// Everything that happens, as one hash; and as text, if the run is to be read.
struct Trace {
    hash: Xxh3Default,
    line: String,
    shown: bool,
}

/// The place at which a thread sleeps that is not notified.
const NOWHERE: usize = 0;

impl Scheduler {
    pub fn new(seed: u64, shown: bool) -> Arc<Self> {
        let trace = Trace { hash: Xxh3Default::new(), line: String::new(), shown };
        let inner = Inner {
            now: Duration::ZERO,
            random: Rng::with_seed(seed),
            current: 0,
            spawned: 0,
            turns: 0,
            fresh: HashMap::new(),
            names: HashMap::new(),
            ready: Vec::new(),
            waiting: HashMap::new(),
            waits: BTreeMap::new(),
            timers: BinaryHeap::new(),
            wait_numbers: 0,
            trace,
        };
        Arc::new(Self { begun: Instant::now(), inner: Mutex::new(inner) })
    }

    pub fn platform(self: &Arc<Self>) -> Platform {
        Platform::simulated(Arc::clone(self) as Arc<dyn Simulator>)
    }

    /// Draws something.
    pub fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.inner.lock().random)
    }

    /// Whether it happens, once in this number of times.
    pub fn once_in(&self, times: u32) -> bool {
        times > 0 && self.draw(|random| random.u32(..times)) == 0
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.inner.lock().now
    }

    /// Takes down what happens.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let inner = &mut *self.inner.lock();
        let trace = &mut inner.trace;
        trace.line.clear();
        let (now, current) = (inner.now, inner.current);
        write!(trace.line, "{:>12.6} {current:>4}  {what}", now.as_secs_f64())
            .expect("a string takes what it is given");
        trace.hash.update(trace.line.as_bytes());
        if trace.shown {
            println!("{}", trace.line);
        }
    }

    /// A hash of all that was noted.
    pub fn hash(&self) -> u64 {
        self.inner.lock().trace.hash.digest()
    }

    pub fn turns(&self) -> u64 {
        self.inner.lock().turns
    }

    pub fn start(&self, work: impl FnOnce() + Send + 'static) {
        self.spawn("", Box::new(work));
    }

    pub fn sleep(&self, pause: Duration) {
        let until = self.now() + pause;
        self.wait(NOWHERE, Some(until));
    }

    /// Sleeps, a little at a time, until it holds. Says whether it came to hold within this time.
    pub fn await_until(&self, limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
        let until = self.elapsed() + limit;
        while !holds() {
            if self.elapsed() > until {
                return false;
            }
            self.sleep(Duration::from_micros(500));
        }
        true
    }

    /// Runs all threads until every one has ended, or until it is enough. Returns the number of threads that are left: without an
    /// early end, those that wait forever.
    pub fn run(&self, is_enough: impl Fn() -> bool) -> usize {
        thread_local! {
            /// Of threads that have ended, in earlier runs too: new ones are dear.
            static STACKS: Cell<Vec<Stack>> = const { Cell::new(Vec::new()) };
        }
        let mut threads = ManuallyDrop::new(HashMap::<u64, Stack>::new());
        let mut stacks = STACKS.take();
        while !is_enough()
            && let Some((thread, fresh)) = self.next()
        {
            if let Some(work) = fresh {
                let mut stack = stacks.pop().unwrap_or_else(|| Gn::new_opt(STACK_WORDS, || {}));
                if !stack.is_done() {
                    stack.resume(); // a stack's first life is empty, so that all its lives begin alike
                }
                stack.init_code(work);
                threads.insert(thread, stack);
            }
            let stack = threads.get_mut(&thread).expect("a ready thread has begun and not ended");
            stack.resume();
            if stack.is_done() {
                stacks.extend(threads.remove(&thread));
                self.inner.lock().waits.remove(&thread);
            }
        }
        STACKS.set(stacks);
        if self.inner.lock().trace.shown {
            let inner = self.inner.lock();
            threads.keys().for_each(|thread| println!("thread {thread}, {:?}, waits forever", inner.names[thread]));
        }
        // The threads that are left are not dropped: that would unwind them, and run code that is no longer scheduled.
        threads.len()
    }

    fn next(&self) -> Option<(u64, Option<Work>)> {
        let inner = &mut *self.inner.lock();
        inner.turns += 1;
        let (turns, current) = (inner.turns, inner.current);
        assert!(
            turns < MOST_TURNS,
            "the run does not come to an end: thread {current}, {:?}",
            inner.names.get(&current)
        );
        loop {
            inner.expire();
            if !inner.ready.is_empty() {
                let chosen = inner.random.usize(..inner.ready.len());
                let thread = inner.ready.swap_remove(chosen);
                inner.now += LONGEST_TURN.mul_f64(inner.random.f64());
                inner.current = thread;
                return Some((thread, inner.fresh.remove(&thread)));
            }
            let Reverse((at, ..)) = inner.timers.peek()?;
            inner.now = inner.now.max(*at);
        }
    }

    fn notify(&self, place: usize, all: bool) {
        let inner = &mut *self.inner.lock();
        while let Some(waiting) = inner.waiting.get_mut(&place).filter(|waiting| !waiting.is_empty()) {
            let chosen = inner.random.usize(..waiting.len());
            let (thread, _) = waiting.swap_remove(chosen);
            inner.wake(thread, Woken::Notified);
            if !all {
                return;
            }
        }
    }
}

impl Inner {
    /// Wakes those whose time has come.
    fn expire(&mut self) {
        while let Some(Reverse((at, number, thread))) = self.timers.peek().copied() {
            if at > self.now {
                return;
            }
            self.timers.pop();
            match self.waits.get(&thread) {
                Some(Wait::At { place, number: waits_for }) if *waits_for == number => {
                    if let Some(waiting) = self.waiting.get_mut(place) {
                        waiting.retain(|(_, other)| *other != number);
                    }
                    self.wake(thread, Woken::TimedOut);
                }
                _ => {} // it was woken before
            }
        }
    }

    fn wake(&mut self, thread: u64, woken: Woken) {
        self.waits.insert(thread, Wait::Over(woken));
        self.ready.push(thread);
    }
}

impl Simulator for Scheduler {
    fn now(&self) -> Instant {
        self.begun + self.elapsed()
    }

    fn spawn(&self, name: &str, work: Work) -> u64 {
        let inner = &mut *self.inner.lock();
        inner.spawned += 1;
        inner.names.insert(inner.spawned, name.to_owned());
        inner.fresh.insert(inner.spawned, work);
        inner.ready.push(inner.spawned);
        inner.spawned
    }

    fn current(&self) -> u64 {
        self.inner.lock().current
    }

    fn wait(&self, place: usize, until: Option<Instant>) -> Woken {
        let thread = {
            let inner = &mut *self.inner.lock();
            inner.wait_numbers += 1;
            let (thread, number) = (inner.current, inner.wait_numbers);
            inner.waits.insert(thread, Wait::At { place, number });
            if place != NOWHERE {
                inner.waiting.entry(place).or_default().push((thread, number));
            }
            if let Some(until) = until {
                inner.timers.push(Reverse((until.saturating_duration_since(self.begun), number, thread)));
            }
            thread
        };
        #[expect(deprecated, reason = "what is recommended instead can't be called from within production code")]
        generator::yield_with(());
        match self.inner.lock().waits.get(&thread) {
            Some(Wait::Over(woken)) => *woken,
            _ => unreachable!("a running thread does not wait"),
        }
    }

    fn notify_one(&self, place: usize) {
        self.notify(place, false);
    }

    fn notify_all(&self, place: usize) {
        self.notify(place, true);
    }
}
