//! [`Pause`]: a wait by the coordinator's own clock, on no runtime.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    coordinator_core::CoordinatorCore,
    scheduler::{Runnable, Runner},
};
use crate::{foreign, platform::Woken, txn::policy::after};

/// A task that waits. A worker runs it to wake the task.
#[derive(Default)]
pub(in crate::txn) struct Sleeper(Mutex<Option<Waker>>);

impl Sleeper {
    /// Sets the waker of the task, or removes it. A replaced one is dropped without a lock.
    pub(in crate::txn) fn set(&self, waker: Option<Waker>) {
        let old = std::mem::replace(&mut *self.0.lock(), waker);
        foreign::drop_value(old);
    }
}

impl Runnable for Sleeper {
    fn run(self: Arc<Self>, _: Runner) {
        let waker = self.0.lock().take();
        waker.into_iter().for_each(foreign::wake);
    }
}

/// Future that is ready after a time, which counts from its creation, or when the coordinator loses
/// its log. A dropped one leaves nothing behind. The coordinator must exist until then, because its clock stops with it.
#[must_use = "futures do nothing unless polled"]
pub(in crate::txn) struct Pause<'a> {
    core: &'a CoordinatorCore,
    until: Instant,
    /// What wakes the task, once it has been pending.
    sleeper: Option<Arc<Sleeper>>,
}

impl<'a> Pause<'a> {
    pub(in crate::txn) fn new(core: &'a CoordinatorCore, pause: Duration) -> Self {
        Self { core, until: after(core.platform.now(), pause), sleeper: None }
    }
}

impl Future for Pause<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (core, until) = (self.core, self.until);
        let sleeper = self.sleeper.get_or_insert_with(|| {
            let sleeper = Arc::new(Sleeper::default());
            let weak = Arc::downgrade(&sleeper);
            let timed: Weak<dyn Runnable> = weak;
            core.scheduler.enqueue_at(until, timed);
            sleeper
        });
        // The waker first, so that no wake-up is lost in between.
        sleeper.set(Some(context.waker().clone()));
        // A coordinator that has lost its log has no clock any more.
        if core.is_gone() || core.platform.now() >= until { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        // A worker may still have the sleeper in its queue: without a waker it does nothing.
        if let Some(sleeper) = &self.sleeper {
            sleeper.set(None);
        }
    }
}

impl CoordinatorCore {
    /// Blocks for this time.
    pub(in crate::txn) fn pause(&self, pause: Duration) {
        let until = after(self.platform.now(), pause);
        let (place, lock) = (self.platform.condvar(), Mutex::new(()));
        let mut guard = lock.lock();
        while self.platform.now() < until && place.wait_until(&mut guard, until) == Woken::Notified {}
    }
}
