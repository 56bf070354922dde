//! Code of others: participants, services, endpoints, logs, wakers, and the drop of any of them.
//!
//! Three rules hold wherever this crate runs such code. It runs under no lock of ours, because it may come back and ask for
//! that lock. It runs on no thread of a log, because it may wait for the log. And its panic ends here: it has printed its
//! message, and whoever happens to be on this thread, another transaction's client perhaps, has nothing to do with it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// Runs it; a panic ends here.
pub(crate) fn catch_panic(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// Wakes a task. An executor may poll the task here and now.
pub(crate) fn wake(waker: Waker) {
    catch_panic(|| waker.wake());
}

/// Drops what others may have given a drop of their own.
pub(crate) fn drop_value<T>(what: T) {
    catch_panic(|| drop(what));
}
