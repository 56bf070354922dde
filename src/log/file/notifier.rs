//! The threads on which tasks are woken. Nothing else of the log happens there.
//!
//! A waker is foreign code. Its executor may poll the task where it wakes it. The task may append
//! to this very log and wait for it, or wait for another task. The waker may panic, and so may its
//! drop. So wakers are neither woken nor dropped on the writer's thread, the keeper's or another
//! caller's, nor under a lock; and a panic of one ends with it.
//!
//! One thread does it as long as it makes progress. While wakers are left to be woken, a second
//! thread watches the first. If wakers are woken too slowly, perhaps because one of them does not
//! return, the second thread wakes them too, and a third one watches.

use std::{
    collections::VecDeque,
    fmt, io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use super::wakers::Wakers;
use crate::platform::{Condvar, Platform, Woken};

/// Maximum number of threads that wake tasks of one log. This is how many wakers may block at a
/// time, each until something else happens, before the others have to wait for one of them to
/// return.
const MAX_THREADS: usize = 16;

/// How long a thread watches the others wake tasks before it judges them. An ordinary waker takes
/// well below a microsecond. The time is long enough for a thread that the system has taken off its
/// processor.
const PATIENCE: Duration = Duration::from_millis(5);

/// Number of wakers woken within [`PATIENCE`] below which another thread helps.
const PACE: u64 = 100;

/// Maximum number of empty buffers kept: for the batch in flight, and for the one being filled.
const BUFFERS: usize = 2;

/// Wakes tasks. When it is dropped, its threads end once all wakers have been woken.
pub(super) struct Notifier(Arc<WakingThreads>);

struct WakingThreads {
    platform: Platform,
    state: Mutex<NotifierState>,
    /// Threads that have nothing to wake wait here.
    idle: Condvar,
}

#[derive(Default)]
struct NotifierState {
    /// The wakers to be woken or dropped. No list is empty.
    lists: VecDeque<WakerList>,
    buffers: Vec<Vec<Waker>>,
    /// Number of wakers that were taken out of the lists so far.
    taken: u64,
    threads: usize,
    /// Number of threads that wake, without those that another thread has begun to help since:
    /// these may be stuck.
    active: usize,
    /// Number of times that a thread has begun to help.
    round: u64,
    /// Number of threads that sleep until they are notified, and of those that watch.
    sleeping: usize,
    watching: usize,
    /// Whether a thread was notified or started, and has not taken the lock since.
    called: bool,
    ended: bool,
}

/// The wakers of one batch.
struct WakerList {
    wakers: VecDeque<Waker>,
    then: WakeOrDrop,
}

/// What is done with a waker.
#[derive(Clone, Copy)]
enum WakeOrDrop {
    Wake,
    Drop,
}

impl Notifier {
    /// Starts the first thread.
    pub(super) fn start(platform: &Platform) -> io::Result<Self> {
        let inner = WakingThreads { platform: platform.clone(), state: Mutex::default(), idle: platform.condvar() };
        let notifier = Self(Arc::new(inner));
        let mut state = notifier.0.state.lock();
        WakingThreads::spawn(&notifier.0, &mut state)?;
        drop(state);
        Ok(notifier)
    }

    /// Has all of them woken, and leaves an empty list. Does not block.
    pub(super) fn wake(&self, wakers: &mut Wakers) {
        if wakers.is_empty() {
            return;
        }
        let mut state = self.0.state.lock();
        let empty = state.buffers.pop().unwrap_or_default();
        let wakers = wakers.take(empty);
        self.put(state, wakers, WakeOrDrop::Wake);
    }

    /// Has all of them dropped. Does not block.
    pub(super) fn dispose(&self, wakers: Vec<Waker>) {
        if !wakers.is_empty() {
            self.put(self.0.state.lock(), wakers, WakeOrDrop::Drop);
        }
    }

    fn put(&self, mut state: MutexGuard<'_, NotifierState>, wakers: Vec<Waker>, then: WakeOrDrop) {
        state.lists.push_back(WakerList { wakers: wakers.into(), then });
        WakingThreads::call(&self.0, &mut state);
    }

    /// Lets the threads wake the wakers that are left, then end. Does not wait for them, because
    /// one may be in foreign code forever.
    pub(super) fn end(&self) {
        self.0.state.lock().ended = true;
        self.0.idle.notify_all();
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

impl WakingThreads {
    fn spawn(this: &Arc<Self>, state: &mut NotifierState) -> io::Result<()> {
        let inner = Arc::clone(this);
        this.platform.spawn("ringpact-notify", move || inner.run())?;
        state.threads += 1;
        state.called = true;
        Ok(())
    }

    /// Makes sure that a thread wakes what there is, and that another one watches the threads that
    /// do.
    fn call(this: &Arc<Self>, state: &mut NotifierState) {
        if state.called || state.active > 0 && state.watching > 0 {
            return;
        }
        if state.sleeping + state.watching > 0 {
            state.called = true;
            this.idle.notify_one();
        } else if state.threads < MAX_THREADS {
            // If the system has no thread to give, no thread helps; the next call tries again.
            let _ = Self::spawn(this, state);
        }
    }

    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            state.called = false;
            // Sleep, or wake tasks, or watch the thread that does.
            if state.lists.is_empty() {
                // One thread in reserve is enough.
                if state.ended || state.sleeping > 1 {
                    break;
                }
                state.sleeping += 1;
                self.idle.wait(&mut state);
                state.sleeping -= 1;
            } else if state.active == 0 || self.is_too_slow(&mut state) {
                self.work(&mut state);
            }
        }
        state.threads -= 1;
    }

    /// Watches the threads that wake for a while. Returns whether they are too slow.
    fn is_too_slow(&self, state: &mut MutexGuard<'_, NotifierState>) -> bool {
        let before = state.taken;
        state.watching += 1;
        let woken = self.idle.wait_for(state, PATIENCE);
        state.watching -= 1;
        woken == Woken::TimedOut && state.taken - before < PACE && !state.lists.is_empty()
    }

    /// Wakes until no waker is left.
    fn work(self: &Arc<Self>, state: &mut MutexGuard<'_, NotifierState>) {
        // The thread that did this before may be stuck, and no longer counts.
        state.round += 1;
        state.active = 1;
        let round = state.round;
        while let Some((waker, then)) = state.take() {
            if !state.lists.is_empty() {
                Self::call(self, state);
            }
            MutexGuard::unlocked(state, || finish(waker, then));
        }
        if state.round == round {
            state.active = 0;
        }
    }
}

impl NotifierState {
    fn take(&mut self) -> Option<(Waker, WakeOrDrop)> {
        let list = self.lists.front_mut()?;
        let taken = list.wakers.pop_front().map(|waker| (waker, list.then));
        if list.wakers.is_empty()
            && let Some(list) = self.lists.pop_front()
            && self.buffers.len() < BUFFERS
        {
            self.buffers.push(list.wakers.into());
        }
        self.taken += 1;
        taken
    }
}

/// Runs foreign code. Its panic ends here, and so does a panic of the drop of what it has panicked
/// with.
fn finish(waker: Waker, then: WakeOrDrop) {
    let result = catch_unwind(AssertUnwindSafe(|| match then {
        WakeOrDrop::Wake => waker.wake(),
        WakeOrDrop::Drop => drop(waker),
    }));
    if let Err(payload) = result
        && let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload)))
    {
        mem::forget(another);
    }
}
