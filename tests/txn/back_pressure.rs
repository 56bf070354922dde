//! Limits: above them a transaction waits to begin, or is refused, as its client wants.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    block_on, eventually,
    logs::SlowLog,
    manager,
    scripted::{Scripted, broken},
};
use ringpact::{
    Coordinator, MemoryLog, TransactionLog,
    participant::Verb,
    txn::{BeginError, Limits},
};

const SOON: Duration = Duration::from_secs(5);

fn limited(log: impl TransactionLog, limits: Limits, a: &Scripted, b: &Scripted) -> Coordinator {
    let builder = Coordinator::builder(log).limits(limits);
    builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
}

#[test]
fn above_the_limit_a_transaction_is_refused_until_another_has_its_outcome() {
    let limits = Limits::default().in_flight(2);
    let coordinator = limited(MemoryLog::new(), limits, &Scripted::new(), &Scripted::new());
    let (first, second) = (coordinator.begin(), coordinator.try_begin().unwrap());
    let refused = coordinator.try_begin().unwrap_err();
    assert_eq!(refused, BeginError::InFlight { limit: 2 });
    assert!(refused.to_string().contains("2 transactions are in flight"), "{refused}");
    first.commit().wait().unwrap();
    let third = coordinator.try_begin().unwrap();
    assert!(coordinator.try_begin().is_err());
    drop(second);
    drop(third);
    assert_eq!(coordinator.status().in_flight, 0);
}

#[test]
fn above_the_limit_threads_and_tasks_wait_for_their_turn() {
    const CLIENTS: usize = 16;
    let limits = Limits::default().in_flight(3);
    let coordinator = limited(MemoryLog::new(), limits, &Scripted::new(), &Scripted::new());
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (coordinator, now, most) = (&coordinator, &now, &most);
            scope.spawn(move || {
                for _ in 0..50 {
                    let txn = if client % 2 == 0 { coordinator.begin() } else { block_on(coordinator.begin_async()) };
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    thread::yield_now();
                    now.fetch_sub(1, Ordering::SeqCst);
                    txn.commit().wait().unwrap();
                }
            });
        }
    });
    assert_eq!((most.load(Ordering::SeqCst), coordinator.status().in_flight), (3, 0));
}

/// A task that is woken and then dropped must not keep the slot that it was woken for.
#[test]
fn a_dropped_waiter_takes_no_turn() {
    use std::{future::Future, pin::pin, task::Context, task::Waker};
    let limits = Limits::default().in_flight(1);
    let coordinator = limited(MemoryLog::new(), limits, &Scripted::new(), &Scripted::new());
    let held = coordinator.begin();
    {
        let mut waits = pin!(coordinator.begin_async());
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    thread::scope(|scope| {
        let waits = scope.spawn(|| block_on(coordinator.begin_async()).commit().wait());
        thread::sleep(Duration::from_millis(20));
        held.commit().wait().unwrap();
        waits.join().unwrap().unwrap();
    });
}

/// A decided transaction is out of its client's hands; a participant that is down must not stop
/// other clients.
#[test]
fn transactions_that_are_only_being_delivered_do_not_count() {
    let b = Scripted::failing(Verb::Commit, broken());
    let limits = Limits::default().in_flight(1);
    let coordinator = limited(MemoryLog::new(), limits, &Scripted::new(), &b);
    for _ in 0..10 {
        let mut txn = coordinator.try_begin().unwrap();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        txn.commit().wait().unwrap();
    }
    assert_eq!((coordinator.status().settling, coordinator.status().in_flight), (10, 0));
    b.mend();
    assert!(coordinator.settle(SOON));
}

#[test]
fn while_the_disk_is_behind_transactions_wait_for_it() {
    let log = SlowLog::new(Duration::from_millis(60));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let limits = Limits::default().log_queue(4);
    let builder = Coordinator::builder(log).limits(limits);
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    let work = |mut txn: ringpact::Transaction| {
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit()
    };
    let commits: Vec<_> = (0..2).map(|_| work(coordinator.try_begin().unwrap())).collect();
    assert!(coordinator.status().log_queue >= 4);
    assert_eq!(coordinator.try_begin().unwrap_err(), BeginError::LogQueue { limit: 4 });
    let begun = Instant::now();
    let waited = work(coordinator.begin());
    assert!(begun.elapsed() > Duration::from_millis(5), "it did not wait: {:?}", begun.elapsed());
    let awaited = work(block_on(coordinator.begin_async()));
    for commit in commits.into_iter().chain([waited, awaited]) {
        commit.wait().unwrap();
    }
    eventually("the queue is empty", SOON, || coordinator.status().log_queue == 0);
}
