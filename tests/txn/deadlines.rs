//! Time-outs of whole transactions: one that is not committed in time is rolled back, and
//! participants know how much time is left.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    eventually, manager,
    scripted::Scripted,
    shared,
    wire::{Fate, Sent, Wire},
};
use ringpact::{
    CommitError, Coordinator, MemoryLog, Policy,
    participant::Verb,
    txn::{BranchError, RollbackCause, TransactionState},
};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_transaction_that_is_not_committed_is_rolled_back_at_its_deadline() {
    let log = MemoryLog::new();
    let a = manager("a", log.clone());
    let policy = Policy::default().transaction_timeout(Duration::from_millis(60));
    let coordinator = Coordinator::builder(log).policy(policy).participant("a", a.clone()).open().unwrap();
    let begun = Instant::now();
    let mut held = coordinator.begin();
    a.execute(held.branch("a").unwrap(), 2).unwrap();
    let mut lost = coordinator.begin();
    a.execute(lost.branch("a").unwrap(), 4).unwrap();
    std::mem::forget(lost); // its client hangs
    assert_eq!((coordinator.status().begun, coordinator.status().in_flight), (2, 2));
    eventually("both are rolled back", SOON, || a.service().reserved.lock().is_empty());
    assert!(begun.elapsed() >= Duration::from_millis(60), "before their time: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_millis(600), "long after their time: {:?}", begun.elapsed());
    eventually("they have ended", SOON, || coordinator.status().transactions.is_empty());
    assert_eq!(coordinator.status().in_flight, 0);
    // A client that comes late is told why, and can do no more work.
    assert!(matches!(held.branch("b"), Err(BranchError::UnknownParticipant { .. })));
    let error = held.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::Expired, .. }), "{error}");
    assert_eq!(a.service().balance(), 0);
}

#[test]
fn an_expired_transaction_takes_no_more_branches() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin_within(Duration::from_millis(20));
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    eventually("it is over", SOON, || coordinator.status().transactions.is_empty());
    assert!(matches!(txn.branch("b"), Err(BranchError::Over { .. })));
    drop(txn);
    assert!(managers[0].service().reserved.lock().is_empty());
}

/// Each transaction has its own deadline; one that begins later can expire earlier.
#[test]
fn transactions_expire_in_the_order_of_their_deadlines() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut patient = coordinator.begin_within(Duration::from_millis(150));
    let mut hasty = coordinator.begin_within(Duration::from_millis(30));
    let eternal = coordinator.begin_within(Duration::MAX);
    managers[0].execute(patient.branch("a").unwrap(), 2).unwrap();
    managers[0].execute(hasty.branch("a").unwrap(), 4).unwrap();
    eventually("the hasty one is over", SOON, || managers[0].service().reserved.lock().len() == 1);
    assert_eq!(coordinator.status().begun, 2);
    eventually("the patient one is over", SOON, || managers[0].service().reserved.lock().is_empty());
    assert_eq!(coordinator.status().begun, 1);
    eternal.commit().wait().unwrap();
}

#[test]
fn a_transaction_that_is_committed_in_time_is_left_alone() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    for _ in 0..20 {
        let mut txn = coordinator.begin_within(Duration::from_millis(40));
        managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
        managers[1].execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    thread::sleep(Duration::from_millis(80));
    assert_eq!((managers[0].service().balance(), managers[1].service().balance()), (40, 40));
}

/// The coordinator does not wait for votes beyond the deadline, even if the policy allows a longer
/// wait.
#[test]
fn the_deadline_ends_the_wait_for_votes() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_secs(600));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire);
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin_within(Duration::from_millis(80));
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
}

#[test]
fn participants_learn_how_much_time_is_left() {
    let (a, b) = (Scripted::new(), Scripted::new());
    let policy = Policy::default().delivery_timeout(Duration::from_secs(7));
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy);
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    let in_about = |call: ringpact::participant::Call, wanted: Duration| {
        let left = call.deadline.expect("there is one").saturating_duration_since(Instant::now());
        assert!(left <= wanted && left + Duration::from_secs(1) > wanted, "{left:?} of {wanted:?}");
        assert_eq!(call.epoch, coordinator.epoch());
    };
    let mut txn = coordinator.begin_within(Duration::from_secs(3));
    txn.branch("a").unwrap();
    b.fail(Verb::Prepare, crate::support::scripted::broken());
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap_err();
    assert_eq!(b.told(), [Verb::Prepare, Verb::Rollback]);
    in_about(a.last_call(), policy.delivery_timeout);
    let mut txn = coordinator.begin_within(Duration::from_secs(3));
    txn.branch("b").unwrap();
    let commit = txn.commit();
    in_about(b.last_call(), Duration::from_secs(3));
    commit.wait().unwrap();
}

#[test]
fn the_status_shows_an_open_transaction_with_its_age() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    thread::sleep(Duration::from_millis(20));
    let [open] = &coordinator.status().transactions[..] else { panic!("one is open") };
    assert_eq!((&open.txn, open.state, open.branches.len()), (txn.id(), TransactionState::Active, 1));
    assert!(open.age >= Duration::from_millis(20) && open.age < SOON, "{:?}", open.age);
}
