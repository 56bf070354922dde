//! How clients await something: by executors of every kind that there is.

use std::{
    future::Future,
    panic::resume_unwind,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use parking_lot::Mutex;
use ringpact::platform::Simulator;

use super::{plan::Wakers, scheduler::Scheduler};

/// Awaits it, in simulated time.
pub fn block_on<F>(clock: &Arc<Scheduler>, wakers: Wakers, future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    match wakers {
        Wakers::Notify | Wakers::Panic => notified(clock, wakers == Wakers::Panic, future),
        Wakers::Poll => polled(clock, future),
    }
}

/// A place to wait at, and whether there was a reason not to.
struct Notify {
    clock: Arc<Scheduler>,
    is_notified: AtomicBool,
    panics: bool,
}

impl Notify {
    fn new(clock: &Arc<Scheduler>, panics: bool) -> Arc<Self> {
        Arc::new(Self { clock: Arc::clone(clock), is_notified: AtomicBool::new(false), panics })
    }

    fn place(&self) -> usize {
        std::ptr::from_ref(&self.is_notified).addr()
    }

    fn notify(&self) {
        self.is_notified.store(true, Ordering::Relaxed);
        self.clock.notify_all(self.place());
    }

    fn await_it(&self) {
        while !self.is_notified.swap(false, Ordering::Relaxed) {
            self.clock.wait(self.place(), None);
        }
    }
}

impl Wake for Notify {
    fn wake(self: Arc<Self>) {
        self.notify();
        if self.panics {
            resume_unwind(Box::new("a waker's panic, on purpose"));
        }
    }
}

/// The smallest executor: the thread that waits is notified, and polls again. Its wakers may panic after that.
fn notified<F: Future>(clock: &Arc<Scheduler>, panics: bool, future: F) -> F::Output {
    let notify = Notify::new(clock, panics);
    let waker = Waker::from(Arc::clone(&notify));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        notify.await_it();
    }
}

/// A future until it is done, and then what it returned.
type Progress<F> = (Option<Pin<Box<F>>>, Option<<F as Future>::Output>);

/// A task that the thread that wakes it polls in place.
struct Polled<F: Future> {
    future: Mutex<Progress<F>>,
    /// It was woken while it was polled.
    again: AtomicBool,
    done: Arc<Notify>,
}

impl<F> Polled<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn poll(self: &Arc<Self>) {
        self.again.store(true, Ordering::Relaxed);
        // Another thread may be at it, and wait for something in the middle. It looks again when it is through.
        while let Some(mut task) = self.future.try_lock()
            && self.again.swap(false, Ordering::Relaxed)
        {
            let waker = Waker::from(Arc::clone(self));
            let Some(future) = &mut task.0 else { return };
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                *task = (None, Some(output));
                drop(task);
                return self.done.notify();
            }
        }
    }
}

impl<F> Wake for Polled<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}

fn polled<F>(clock: &Arc<Scheduler>, future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let done = Notify::new(clock, false);
    let future = Mutex::new((Some(Box::pin(future)), None));
    let task = Arc::new(Polled { future, again: AtomicBool::new(false), done: Arc::clone(&done) });
    task.poll();
    done.await_it();
    let output = task.future.lock().1.take();
    output.expect("it is done")
}
