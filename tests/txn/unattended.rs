//! Transactions go on to their end, whatever their clients do with the `Commit`.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    eventually,
    logs::SlowLog,
    manager, shared,
    wire::{Fate, Sent, Wire},
};
use ringpact::{Coordinator, MemoryLog, Policy, participant::Verb};

/// The longest that the sweep may take, with room for a busy machine.
const SWEPT_WITHIN: Duration = Duration::from_millis(2500);

#[test]
fn a_commit_held_and_never_polled_is_finished_by_the_sweep_and_blocks_no_other() {
    let log = SlowLog::new(Duration::from_millis(1));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let builder = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    let begin = || {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit()
    };
    let held = begin();
    let started = Instant::now();
    for _ in 0..20 {
        begin().wait().unwrap();
    }
    assert!(started.elapsed() < Duration::from_millis(900), "the held one is in the way: {:?}", started.elapsed());
    eventually("the held commit is carried out", SWEPT_WITHIN, || a.service().balance() == 42);
    assert!(coordinator.settle(SWEPT_WITHIN));
    held.wait().expect("its answer was kept for it");
}

/// Found in review: the votes woke the task, which did not poll. No other thread drove the
/// transaction until its votes timed out, and what it had reserved was blocked until then.
#[test]
fn a_commit_polled_once_and_then_neglected_is_finished_by_the_sweep() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = |participant| {
        Wire::new(participant, |sent| match sent {
            Sent::Branch(Verb::Prepare) => Fate::HoldReply,
            _ => Fate::Deliver,
        })
    };
    let (to_a, to_b) = (wire(a.clone()), wire(b.clone()));
    let policy = Policy::default().prepare_timeout(Duration::from_secs(600));
    let builder = Coordinator::builder(log).policy(policy).endpoint("a", to_a.clone()).endpoint("b", to_b.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let mut commit = pin!(txn.commit());
    to_a.release();
    assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    thread::sleep(Duration::from_millis(50)); // the driver is done with the first vote
    to_b.release(); // the last vote: it wakes a task that does not poll
    eventually("the neglected commit is carried out", SWEPT_WITHIN, || a.service().balance() == 2);
    assert!(coordinator.settle(SWEPT_WITHIN));
    let answer = commit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(answer, Poll::Ready(Ok(()))), "{answer:?}");
}

#[test]
fn a_commit_dropped_after_a_poll_goes_on() {
    let log = SlowLog::new(Duration::from_millis(5));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let builder = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let mut commit = Box::pin(txn.commit());
    assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(commit);
    let started = Instant::now();
    assert!(coordinator.settle(SWEPT_WITHIN));
    assert!(started.elapsed() < Duration::from_millis(500), "not driven on, swept: {:?}", started.elapsed());
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

#[test]
fn an_answer_is_kept_for_a_late_poll() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    let mut commit = pin!(txn.commit());
    for _ in 0..3 {
        let answer = commit.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(answer, Poll::Ready(Ok(()))), "{answer:?}");
    }
}

/// Wakers are code of others. A bug: the panic unwound through the thread that drove the
/// transaction, and no thread drove it any more.
#[test]
fn a_waker_that_panics_does_not_keep_its_transaction_from_being_settled() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("the test wants this to panic");
        }
    }
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_millis(50));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire);
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let mut commit = txn.commit();
    let waker = Waker::from(Arc::new(Panics));
    assert!(Pin::new(&mut commit).poll(&mut Context::from_waker(&waker)).is_pending());
    assert!(coordinator.settle(Duration::from_secs(10)), "{}", coordinator.status());
    assert!(commit.wait().is_err(), "the vote has not come");
    assert!([a, b].iter().all(|manager| manager.service().reserved.lock().is_empty()));
}
