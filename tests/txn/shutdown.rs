//! A clean shutdown: nothing new begins, decided transactions finish, and the call reports what is
//! left.

use std::{thread, time::Duration};

use crate::support::{
    block_on, manager,
    scripted::{Scripted, broken},
    shared,
    wire::{Fate, Sent, Wire},
};
use ringpact::{
    CommitError, Coordinator, MemoryLog, Policy,
    participant::Verb,
    txn::{BeginError, BranchError, TransactionState},
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn nothing_new_begins_and_uncommitted_transactions_are_rolled_back() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut open = coordinator.begin();
    managers[0].execute(open.branch("a").unwrap(), 2).unwrap();
    let left = coordinator.shutdown(SOON);
    assert_eq!((left.in_doubt(), left.transactions.len()), (0, 0), "{left}");
    assert!(managers[0].service().reserved.lock().is_empty());
    assert!(matches!(open.branch("b"), Err(BranchError::Over { .. })));
    assert!(matches!(open.commit().wait(), Err(CommitError::RolledBack { .. })));
    assert_eq!(coordinator.try_begin().unwrap_err(), BeginError::ShuttingDown);
    for mut late in [coordinator.begin(), block_on(coordinator.begin_async())] {
        assert!(matches!(late.branch("a"), Err(BranchError::Over { .. })));
        assert!(matches!(late.commit().wait(), Err(CommitError::RolledBack { .. })));
    }
    assert!(coordinator.status().transactions.is_empty());
}

#[test]
fn decided_transactions_finish_within_the_given_time() {
    let b = Scripted::failing(Verb::Commit, broken());
    let builder = Coordinator::builder(MemoryLog::new()).participant("a", Scripted::new());
    let coordinator = builder.participant("b", b.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    let left = coordinator.shutdown(Duration::from_millis(30));
    assert_eq!((left.settling, left.transactions[0].state), (1, TransactionState::Committing), "{left}");
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            b.mend();
        });
        let left = coordinator.shutdown(SOON);
        assert_eq!(left.in_doubt(), 0, "{left}");
    });
}

/// A transaction that is being committed goes on, because its client has asked for that.
#[test]
fn a_commit_under_way_is_finished() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let builder = Coordinator::builder(log).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    drop(txn.commit());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            wire.release();
        });
        assert_eq!(coordinator.shutdown(SOON).in_doubt(), 0);
    });
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

#[test]
fn parked_transactions_are_left_and_reported() {
    let policy = Policy::default().park_after_attempts(1);
    let b = Scripted::failing(Verb::Commit, broken());
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("a", Scripted::new());
    let coordinator = builder.participant("b", b).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    let left = coordinator.shutdown(SOON);
    assert_eq!((left.parked, left.settling), (1, 0), "it did not wait for what only an operator can end");
}

#[test]
fn a_client_that_waits_to_begin_gets_an_error() {
    let limits = ringpact::txn::Limits::default().in_flight(1);
    let coordinator = Coordinator::builder(MemoryLog::new()).limits(limits).open().unwrap();
    let held = coordinator.begin();
    thread::scope(|scope| {
        let thread = scope.spawn(|| coordinator.begin().commit().wait());
        let task = scope.spawn(|| block_on(coordinator.begin_async()).commit().wait());
        thread::sleep(Duration::from_millis(30));
        assert_eq!(coordinator.shutdown(SOON).in_doubt(), 0);
        thread.join().unwrap().unwrap_err();
        task.join().unwrap().unwrap_err();
    });
    drop(held);
}
