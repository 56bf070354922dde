//! The checks with many threads or tasks at one log.

use std::{
    collections::HashSet,
    future::{Future, poll_fn},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
};

use super::{
    Ending, Factory, NEVER, RECORDS_PER_THREAD, THREADS, append, live_of, prepared, record, require, txn, wait,
};
use crate::log::{Durability, Fact, LogError, Lsn, MAX_RECORD_BYTES, TransactionLog};

/// `threads`: many threads append at once. Each finds its records, in order, and no number was
/// given twice.
pub(super) fn threads(factory: &mut impl Factory) {
    let log = factory.create();
    let numbers: Vec<Vec<Lsn>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn({
                    let log = &log;
                    move || append_some(log, thread)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let distinct: HashSet<_> = numbers.iter().flatten().collect();
    require!("threads", distinct.len() as u64 == THREADS * RECORDS_PER_THREAD, "a number was given twice");
    require!("threads", numbers.iter().all(|own| own.is_sorted()), "a thread's numbers are out of order");
    let log = factory.reopen(log, Ending::Crash);
    for thread in 0..THREADS {
        let owner = format!("thread-{thread}");
        let expected: Vec<_> = (1..=RECORDS_PER_THREAD).map(|number| prepared(&owner, number)).collect();
        require!("threads", live_of(&log, &owner) == expected, "{owner} does not find its records");
    }
}

fn append_some(log: &impl TransactionLog, thread: u64) -> Vec<Lsn> {
    let owner = format!("thread-{thread}");
    let append_one = |number| {
        let lsn = append(log, prepared(&owner, number), Durability::Forced);
        wait(log, lsn);
        require!("threads", log.durable() >= lsn, "waited for {lsn:?}, but durable() is {:?}", log.durable());
        lsn
    };
    (1..=RECORDS_PER_THREAD).map(append_one).collect()
}

/// `tasks`: a task that was told to wait is woken, and many tasks can wait for one record.
pub(super) fn tasks(factory: &mut impl Factory) {
    let log = factory.create();
    let numbers: Vec<_> = (1..=50).map(|number| append(&log, prepared("a", number), Durability::Forced)).collect();
    thread::scope(|scope| {
        for wanted in [&numbers[..], &numbers[25..], &numbers[49..]] {
            let log = &log;
            scope.spawn(move || wanted.iter().for_each(|lsn| block_on_durable(log, *lsn, "tasks")));
        }
    });
    let log = factory.reopen(log, Ending::Crash);
    require!("tasks", live_of(&log, "a").len() == 50, "{} of 50 awaited records survived", live_of(&log, "a").len());
}

/// `commits`: a future that commits appends one forced record when it is first polled, and resolves
/// once that is durable.
pub(super) fn commits(factory: &mut impl Factory) {
    let log = factory.create();
    drop(log.commit_async(prepared("dropped", 1)));
    require!("commits", live_of(&log, "dropped").is_empty(), "a future that was never polled has appended");
    let mut dropped = log.commit_async(prepared("dropped", 2));
    let _ = Pin::new(&mut dropped).poll(&mut Context::from_waker(Waker::noop()));
    drop(dropped);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let log = &log;
            scope.spawn(move || commit_some(log, thread));
        }
    });
    let forced = log.stats().forced;
    let expected = THREADS * RECORDS_PER_THREAD + 1;
    require!("commits", forced == expected, "{expected} records were committed, counted {forced} forced ones");
    let too_large = record("a", Fact::Prepared { txn: txn(1), work: vec![7; MAX_RECORD_BYTES] });
    let refused = block_on(log.commit_async(too_large), "commits");
    require!("commits", matches!(refused, Err(LogError::TooLarge { .. })), "too large a record got {refused:?}");
    let log = factory.reopen(log, Ending::Crash);
    require!("commits", live_of(&log, "dropped") == [prepared("dropped", 2)], "what was polled once is not in the log");
    for thread in 0..THREADS {
        let owner = format!("task-{thread}");
        let expected: Vec<_> = (1..=RECORDS_PER_THREAD).map(|number| prepared(&owner, number)).collect();
        require!("commits", live_of(&log, &owner) == expected, "{owner} does not find what it has committed");
    }
}

fn commit_some(log: &impl TransactionLog, thread: u64) {
    let mut last = Lsn::NONE;
    for number in 1..=RECORDS_PER_THREAD {
        let lsn = block_on(log.commit_async(prepared(&format!("task-{thread}"), number)), "commits")
            .unwrap_or_else(|error| panic!("the log refuses a record that it must take: {error}"));
        require!("commits", lsn > last, "{lsn:?} was given after {last:?}");
        require!("commits", log.durable() >= lsn, "committed {lsn:?}, but durable() is {:?}", log.durable());
        last = lsn;
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(super) fn block_on_durable(log: &impl TransactionLog, lsn: Lsn, check: &str) {
    block_on(poll_fn(|context| log.poll_durable(lsn, context)), check)
        .unwrap_or_else(|error| panic!("awaiting {lsn:?} failed: {error}"));
}

/// The smallest executor: one task, one thread.
pub(super) fn block_on<F: Future + Unpin>(mut future: F, check: &str) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        let begun = std::time::Instant::now();
        thread::park_timeout(NEVER);
        let is_woken = begun.elapsed() < NEVER;
        assert!(is_woken, "the log breaks its contract, check `{check}`: a task that waits is never woken");
    }
}
