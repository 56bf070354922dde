//! The coordinator's calls for async code, on no runtime: they block no thread, the coordinator's
//! own clock ends them in time, and a dropped future leaves nothing behind.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    CommitError, Coordinator, MemoryLog, Policy,
    participant::Verb,
    txn::{BeginError, BranchError, Limits, RollbackCause},
};

use crate::support::{
    block_on, eventually,
    scripted::{Scripted, broken},
    wire::{Fate, Sent, Wire},
};

const SOON: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn poll<F: Future + Unpin>(future: &mut F, woken: &Arc<Woken>) -> Poll<F::Output> {
    let waker = Waker::from(Arc::clone(woken));
    std::pin::Pin::new(future).poll(&mut Context::from_waker(&waker))
}

/// Returns a coordinator with a decided transaction, and the wire that holds its last
/// acknowledgement.
fn delivering() -> (Coordinator, Wire) {
    let wire = Wire::new(Arc::new(Scripted::new()), |sent| match sent {
        Sent::Branch(Verb::Commit) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().delivery_timeout(SOON * 60);
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("a", Scripted::new());
    let coordinator = builder.endpoint("b", wire.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    (coordinator, wire)
}

#[test]
fn begin_within_async_waits_for_a_slot_and_sets_the_time_out() {
    let limits = Limits::default().in_flight(1);
    let coordinator = Coordinator::builder(MemoryLog::new()).limits(limits).open().unwrap();
    let first = coordinator.begin();
    let woken = Arc::new(Woken::default());
    let mut begins = Box::pin(coordinator.begin_within_async(30 * MS));
    assert!(poll(&mut begins, &woken).is_pending());
    drop(Box::pin(coordinator.begin_within_async(30 * MS)));
    first.rollback();
    eventually("the task is woken", SOON, || woken.times() == 1);
    let Poll::Ready(second) = poll(&mut begins, &woken) else { panic!("a slot is free") };
    thread::sleep(60 * MS);
    let error = second.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::Expired, .. }), "{error}");
}

#[test]
fn settle_async_is_woken_by_the_last_acknowledgement() {
    let (coordinator, wire) = delivering();
    let woken = Arc::new(Woken::default());
    let mut settles = Box::pin(coordinator.settle_async(SOON * 60));
    assert!(poll(&mut settles, &woken).is_pending());
    assert_eq!(woken.times(), 0);
    wire.release();
    eventually("the task is woken", SOON, || woken.times() > 0);
    let settled = block_on(settles);
    assert!(settled && coordinator.status().in_doubt() == 0);
    assert!(block_on(coordinator.settle_async(Duration::ZERO)), "nothing is left to wait for");
}

/// The test's executor has no timer, and no other thread polls.
#[test]
fn settle_async_ends_at_its_time_out_by_the_coordinators_own_clock() {
    let (coordinator, wire) = delivering();
    let begun = Instant::now();
    assert!(!block_on(coordinator.settle_async(50 * MS)));
    assert!(begun.elapsed() >= 50 * MS);
    assert!(!block_on(coordinator.settle_async(Duration::ZERO)));
    wire.release();
    assert!(block_on(coordinator.settle_async(SOON)));
}

#[test]
fn settle_async_does_not_wait_for_an_operator() {
    let policy = Policy::default().park_after_attempts(1);
    let b = Scripted::failing(Verb::Commit, broken());
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("a", Scripted::new());
    let coordinator = builder.participant("b", b).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    let begun = Instant::now();
    assert!(!block_on(coordinator.settle_async(SOON * 60)), "a parked transaction is not settled");
    assert!(begun.elapsed() < SOON);
}

#[test]
fn a_dropped_settle_async_leaves_nothing_behind() {
    let (coordinator, wire) = delivering();
    let woken = Arc::new(Woken::default());
    for _ in 0..1_000 {
        let mut settles = Box::pin(coordinator.settle_async(20 * MS));
        assert!(poll(&mut settles, &woken).is_pending());
        assert!(poll(&mut settles, &woken).is_pending());
    }
    assert_eq!(Arc::strong_count(&woken), 1, "no waker is kept");
    thread::sleep(40 * MS);
    wire.release();
    assert!(block_on(coordinator.settle_async(SOON)));
    assert_eq!((woken.times(), Arc::strong_count(&woken)), (0, 1));
}

#[test]
fn many_tasks_that_settle_are_all_woken() {
    let (coordinator, wire) = delivering();
    thread::scope(|scope| {
        let tasks: Vec<_> = (0..8).map(|_| scope.spawn(|| block_on(coordinator.settle_async(SOON)))).collect();
        let thread = scope.spawn(|| coordinator.settle(SOON));
        thread::sleep(20 * MS);
        wire.release();
        assert!(tasks.into_iter().chain([thread]).all(|task| task.join().unwrap()));
    });
}

/// A waker may panic; other waiting tasks and the transaction must not notice.
#[test]
fn a_waker_of_settle_async_that_panics_harms_no_other_task() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("the test wants this waker to panic");
        }
    }
    let (coordinator, wire) = delivering();
    let waker = Waker::from(Arc::new(Panics));
    let mut panics = Box::pin(coordinator.settle_async(SOON * 60));
    assert!(panics.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    thread::scope(|scope| {
        let settles = scope.spawn(|| block_on(coordinator.settle_async(SOON)));
        thread::sleep(20 * MS);
        wire.release();
        assert!(settles.join().unwrap());
    });
    assert!(block_on(panics));
}

#[test]
fn shutdown_async_rolls_back_uncommitted_transactions_and_finishes_decided_ones() {
    let (coordinator, wire) = delivering();
    let mut open = coordinator.begin();
    open.branch("a").unwrap();
    let left = block_on(coordinator.shutdown_async(30 * MS));
    assert_eq!((left.begun, left.settling), (0, 1), "{left}");
    assert!(matches!(open.branch("b"), Err(BranchError::Over { .. })));
    assert_eq!(coordinator.try_begin().unwrap_err(), BeginError::ShuttingDown);
    wire.release();
    let left = block_on(coordinator.shutdown_async(SOON));
    assert_eq!((left.in_doubt(), left.transactions.len()), (0, 0), "{left}");
}

/// The future is lazy. Once it was polled, dropping it ends only the wait.
#[test]
fn a_dropped_shutdown_async_ends_only_the_wait() {
    let (coordinator, wire) = delivering();
    drop(coordinator.shutdown_async(SOON));
    coordinator.try_begin().expect("it was not polled").rollback();
    let woken = Arc::new(Woken::default());
    {
        let mut shuts_down = pin!(coordinator.shutdown_async(SOON));
        let waker = Waker::from(Arc::clone(&woken));
        assert!(shuts_down.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(Arc::strong_count(&woken), 1, "no waker is kept");
    assert_eq!(coordinator.try_begin().unwrap_err(), BeginError::ShuttingDown);
    wire.release();
    eventually("the decided transaction is finished", SOON, || coordinator.status().in_doubt() == 0);
}

/// Executors for several threads need it.
#[test]
fn the_futures_are_send() {
    fn is_send<F: Future + Send>(_: F) {}
    let coordinator = Coordinator::builder(MemoryLog::new()).open().unwrap();
    is_send(coordinator.begin_async());
    is_send(coordinator.begin_within_async(SOON));
    is_send(coordinator.settle_async(SOON));
    is_send(coordinator.shutdown_async(SOON));
}
