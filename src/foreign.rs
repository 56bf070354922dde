//! Foreign code: participants, services, endpoints, logs, wakers, and the drop of any of them.
//!
//! Three rules hold wherever this crate runs such code. It runs under no lock of this crate,
//! because it may come back and ask for that lock. It runs on no thread of a log, because it may
//! wait for the log. And its panic ends at the call: it has printed its message, and the thread
//! that it happens to run on, perhaps that of another transaction's client, must not suffer from
//! it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

/// Runs the work. A panic ends here.
pub(crate) fn catch_panic(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// Wakes a task. An executor may poll the task here and now.
pub(crate) fn wake(waker: Waker) {
    catch_panic(|| waker.wake());
}

/// Drops a value that may have a foreign drop.
pub(crate) fn drop_value<T>(what: T) {
    catch_panic(|| drop(what));
}
