//! [`HeldLock`]: a lock that is held while the service is called, and knows which thread holds it.
//!
//! A service may come back to the resource manager from inside its own method. If it asked for the
//! lock that its own thread holds, it would wait forever. So such a thread is refused instead.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::platform::Platform;

/// Stands for no thread: [`Platform::thread_number`](crate::platform::Platform::thread_number) is at
/// least 1.
const NO_THREAD: u64 = 0;

/// A value behind a lock that knows its holder.
#[derive(Debug, Default)]
pub(super) struct HeldLock<T> {
    value: Mutex<T>,
    /// The number of the thread that calls the service under the lock. A thread compares it only with
    /// its own number, which no other thread writes here, so no order of memory is needed.
    holder: AtomicU64,
}

/// The lock, held by a thread that may call the service.
pub(super) struct HeldGuard<'a, T> {
    value: MutexGuard<'a, T>,
    holder: &'a AtomicU64,
}

impl<T> HeldLock<T> {
    pub(super) const fn new(value: T) -> Self {
        Self { value: Mutex::new(value), holder: AtomicU64::new(NO_THREAD) }
    }

    /// Blocks until the lock is free, and takes it. Returns `None` if this very thread holds it.
    pub(super) fn hold(&self, platform: &Platform) -> Option<HeldGuard<'_, T>> {
        let thread = platform.thread_number();
        if self.holder.load(Ordering::Relaxed) == thread {
            return None;
        }
        Some(self.held(platform.lock(&self.value), thread))
    }

    /// Takes the lock if it is free.
    pub(super) fn try_hold(&self, thread: u64) -> Option<HeldGuard<'_, T>> {
        Some(self.held(self.value.try_lock()?, thread))
    }

    /// Takes the lock for a look, if it is free. The service is not called under it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.value.try_lock()
    }

    /// Like [`try_lock`](Self::try_lock), but blocks for at most this long if the lock is not free.
    pub(super) fn try_lock_within(&self, platform: &Platform, time: Duration) -> Option<MutexGuard<'_, T>> {
        platform.lock_within(&self.value, time)
    }

    pub(super) fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn held<'a>(&'a self, value: MutexGuard<'a, T>, thread: u64) -> HeldGuard<'a, T> {
        self.holder.store(thread, Ordering::Relaxed);
        HeldGuard { value, holder: &self.holder }
    }
}

impl<T> Deref for HeldGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for HeldGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for HeldGuard<'_, T> {
    fn drop(&mut self) {
        // Before the lock is free, because the next holder writes its own number.
        self.holder.store(NO_THREAD, Ordering::Relaxed);
    }
}
