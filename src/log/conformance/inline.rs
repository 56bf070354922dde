//! The check with an executor that polls a task where it is woken: a waker is foreign code, and may
//! do anything there.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, mpsc},
    task::{Context, Poll, Wake, Waker},
    thread,
};

use parking_lot::Mutex;

use super::{Factory, NEVER, RECORDS_PER_THREAD, prepared, require};
use crate::log::{Durability, TransactionLog};

const TASKS: u64 = 4;

/// `inline`: tasks that are polled where they are woken, and append and wait meanwhile, make
/// progress.
pub(super) fn check(factory: &mut impl Factory) {
    let log = Arc::new(factory.create());
    let (done, finished) = mpsc::channel();
    for task in 0..TASKS {
        let (log, done) = (Arc::clone(&log), done.clone());
        let work = async move {
            for number in 1..=RECORDS_PER_THREAD {
                let owner = format!("inline-{task}");
                log.commit_async(prepared(&owner, number)).await.map_err(|error| error.to_string())?;
                let lsn = log.append(prepared("b", number), Durability::Forced).map_err(|error| error.to_string())?;
                log.wait(lsn).map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        // On a thread of its own, because this thread, too, may be the one that is stuck.
        thread::spawn(move || Inline::start(work, done));
    }
    for _ in 0..TASKS {
        let result = finished.recv_timeout(NEVER);
        require!("inline", result.is_ok(), "a task that is polled where it is woken never gets on");
        require!("inline", matches!(result, Ok(Ok(()))), "such a task can't use the log: {result:?}");
    }
}

type CheckedTask = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// An executor that polls its task where it is woken.
struct Inline {
    work: Mutex<Option<CheckedTask>>,
    done: mpsc::Sender<Result<(), String>>,
}

impl Inline {
    fn start(work: impl Future<Output = Result<(), String>> + Send + 'static, done: mpsc::Sender<Result<(), String>>) {
        Arc::new(Self { work: Mutex::new(Some(Box::pin(work))), done }).wake();
    }
}

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        // The task is held while it is polled, so that a wake-up on another thread waits for that.
        let mut work = self.work.lock();
        let waker = Waker::from(Arc::clone(&self));
        let polled = work.as_mut().map(|work| work.as_mut().poll(&mut Context::from_waker(&waker)));
        if let Some(Poll::Ready(result)) = polled {
            *work = None;
            let _ = self.done.send(result); // the suite may have given up
        }
    }
}
