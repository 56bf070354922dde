//! A decision that cannot be delivered is parked: shown, kept through restarts, blocking nothing,
//! until an operator acts.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::support::{
    Fault, Op, eventually, manager, name,
    scripted::{Scripted, broken},
};
use ringpact::{
    Coordinator, MemoryLog, Policy, TransactionLog,
    log::Heuristic,
    participant::{Decision, Verb},
    txn::{BranchState, OperatorError, TransactionState},
};

const SOON: Duration = Duration::from_secs(5);

/// Three attempts, and no long pauses between them.
fn three_attempts() -> Policy {
    Policy::default()
        .first_backoff(Duration::from_millis(2))
        .longest_backoff(Duration::from_millis(4))
        .park_after_attempts(3)
}

fn open(log: &MemoryLog, a: &Scripted, b: &Scripted) -> Coordinator {
    let builder = Coordinator::builder(log.clone()).name("c").policy(three_attempts());
    builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
}

/// A transaction of both; "b" fails the decision.
fn parked(coordinator: &Coordinator, decision: Decision) -> ringpact::TxnId {
    let mut txn = coordinator.begin();
    let id = txn.id().clone();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    match decision {
        Decision::Commit => txn.commit().wait().expect("it is committed, whichever participants have heard of it"),
        Decision::Rollback => txn.rollback(),
    }
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    id
}

fn verb(decision: Decision) -> Verb {
    match decision {
        Decision::Commit => Verb::Commit,
        Decision::Rollback => Verb::Rollback,
    }
}

#[test]
fn after_its_attempts_a_decision_is_parked_with_its_reason() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let (a, b) = (Scripted::new(), Scripted::failing(verb(decision), broken()));
        let coordinator = open(&MemoryLog::new(), &a, &b);
        let id = parked(&coordinator, decision);
        assert_eq!(b.times_told(verb(decision)), 3);
        let status = coordinator.status();
        let transaction = &status.transactions[0];
        assert_eq!((&transaction.txn, transaction.state), (&id, TransactionState::Parked(decision)));
        let of_b = transaction.branches.iter().find(|branch| branch.participant.as_str() == "b").unwrap();
        assert_eq!((of_b.state, of_b.failures), (BranchState::Parked, 3));
        let last = of_b.last_error.as_ref().expect("it failed");
        assert!(ringpact::error_chain(last).contains("the test wants it broken"));
        let page = status.to_string();
        assert!(page.contains("parked while") && page.contains("3 failed attempts"), "{page}");
        thread::sleep(Duration::from_millis(50));
        assert_eq!(b.times_told(verb(decision)), 3, "the coordinator no longer retries");
        assert!(!coordinator.settle(Duration::from_millis(1)));
    }
}

#[test]
fn a_time_limit_parks_as_well() {
    let log = MemoryLog::new();
    let b = Scripted::failing(Verb::Commit, broken());
    let policy = three_attempts().park_after_attempts(u32::MAX).park_after(Duration::from_millis(40));
    let builder = Coordinator::builder(log).policy(policy).participant("a", Scripted::new());
    let coordinator = builder.participant("b", b.clone()).open().unwrap();
    parked(&coordinator, Decision::Commit);
    assert!(b.times_told(Verb::Commit) > 3);
}

#[test]
fn an_operator_retries_and_it_ends() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let (a, b) = (Scripted::new(), Scripted::failing(verb(decision), broken()));
        let log = MemoryLog::new();
        let coordinator = open(&log, &a, &b);
        let id = parked(&coordinator, decision);
        coordinator.retry(&id).unwrap();
        eventually("it was told three times more", SOON, || b.times_told(verb(decision)) == 6);
        eventually("it is parked again", SOON, || coordinator.status().parked == 1);
        b.mend();
        assert_eq!(coordinator.retry_all(), 1);
        assert!(coordinator.settle(SOON), "{}", coordinator.status());
        assert_eq!((a.times_told(verb(decision)), b.times_told(verb(decision))), (1, 7));
        assert_eq!(log.live(&name("c")).unwrap().len(), 1, "its epoch, and nothing else");
        let error = coordinator.retry(&id).unwrap_err();
        assert!(matches!(&error, OperatorError::Unknown { txn } if *txn == id), "{error}");
    }
}

#[test]
fn an_operator_forces_what_was_decided_and_it_ends() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let (a, b) = (Scripted::new(), Scripted::failing(verb(decision), broken()));
        let log = MemoryLog::new();
        let coordinator = open(&log, &a, &b);
        let id = parked(&coordinator, decision);
        assert!(matches!(coordinator.forget(&id), Err(OperatorError::NotHeuristic { .. })));
        coordinator.force(&id, decision).unwrap();
        eventually("it has ended", SOON, || coordinator.status().in_doubt() == 0);
        assert_eq!((log.live(&name("c")).unwrap().len(), b.times_told(verb(decision))), (1, 3));
    }
}

#[test]
fn an_operator_forces_the_opposite_and_it_is_kept_as_heuristic() {
    for (decision, forced, of_b) in [
        (Decision::Commit, Decision::Rollback, Heuristic::RolledBack),
        (Decision::Rollback, Decision::Commit, Heuristic::Committed),
    ] {
        let (a, b) = (Scripted::new(), Scripted::failing(verb(decision), broken()));
        let log = MemoryLog::new();
        let coordinator = open(&log, &a, &b);
        let id = parked(&coordinator, decision);
        coordinator.force(&id, forced).unwrap();
        let transaction = coordinator.status().transactions[0].clone();
        assert_eq!(transaction.state, TransactionState::Heuristic(decision, Heuristic::Mixed));
        drop(coordinator);
        let coordinator = open(&log.crash(), &a, &b);
        let transaction = coordinator.status().transactions[0].clone();
        assert_eq!(transaction.branches.last().unwrap().state, BranchState::Heuristic(of_b), "it survives a crash");
        coordinator.forget(&id).unwrap();
        assert_eq!(coordinator.status().in_doubt(), 0);
        assert_eq!(b.times_told(verb(decision)), 3, "nothing more was said to it");
    }
}

/// Nothing is given up silently: an operator that opens the coordinator again may have repaired the
/// cause, and sees the transaction still parked if not.
#[test]
fn a_parked_decision_stays_parked_through_a_restart_and_is_tried_once_more() {
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Commit, broken()));
    let log = MemoryLog::new();
    let coordinator = open(&log, &a, &b);
    let id = parked(&coordinator, Decision::Commit);
    drop(coordinator);
    let mut log = log.crash();
    for opening in 1..=3 {
        let coordinator = open(&log, &a, &b);
        eventually("it is parked", SOON, || coordinator.status().parked == 1);
        assert_eq!(coordinator.status().transactions[0].state, TransactionState::Parked(Decision::Commit));
        assert_eq!(b.times_told(Verb::Commit), 3 + opening, "once more");
        assert_eq!(a.times_told(Verb::Commit), 1, "a participant that has acknowledged is not told again");
        drop(coordinator);
        log = log.crash();
    }
    b.mend();
    let coordinator = open(&log, &a, &b);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert!(coordinator.retry(&id).is_err(), "it has ended");
}

/// A bug: `ended_below` stood still at the first stuck transaction for all participants, so none
/// could ever forget anything.
#[test]
fn a_stuck_participant_does_not_make_others_outcomes_pile_up() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let builder = Coordinator::builder(log.clone()).name("c").policy(three_attempts());
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    b.service().fail(Op::Confirm, [Fault::Fail; 3]);
    let mut stuck = coordinator.begin();
    a.execute(stuck.branch("a").unwrap(), 2).unwrap();
    b.execute(stuck.branch("b").unwrap(), 2).unwrap();
    let stuck_id = stuck.id().clone();
    stuck.commit().wait().unwrap();
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    for _ in 0..50 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    a.checkpoint().unwrap();
    b.checkpoint().unwrap();
    let live = |owner: &str| log.live(&name(owner)).unwrap().len();
    assert!(live("a") <= 4, "a has acknowledged everything, and may forget it: {}", live("a"));
    assert!(live("b") >= 50, "b may not, from the stuck one on: {}", live("b"));
    assert_eq!(
        live("c"),
        4,
        "the epoch, the decision, the participants that owed before it was parked, and the parking"
    );
    coordinator.retry(&stuck_id).unwrap();
    assert!(coordinator.settle(SOON));
    assert_eq!((a.service().balance(), b.service().balance()), (102, 102));
}

/// A crash after that makes the coordinator tell no participant again that has forgotten.
#[test]
fn a_participant_that_has_forgotten_is_not_told_again_after_a_crash() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let open = |log: &MemoryLog| {
        let builder = Coordinator::builder(log.clone()).name("c").policy(three_attempts());
        builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
    };
    let coordinator = open(&log);
    b.service().fail(Op::Confirm, [Fault::Fail; 3]);
    let work = |coordinator: &Coordinator| {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    };
    work(&coordinator);
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    (0..3).for_each(|_| work(&coordinator));
    a.checkpoint().unwrap();
    let log = log.crash();
    drop(coordinator);
    let coordinator = open(&log);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!((a.service().balance(), b.service().balance()), (8, 8));
}

/// A transaction that is retried at any moment, also between its parking and its entry in the table
/// of parked ones, is neither lost nor left without a thread that drives it.
#[test]
fn retrying_during_parking_loses_nothing() {
    const TRANSACTIONS: usize = 100;
    /// Fewer than open the circuit of a failing participant: on a slow machine none of them is
    /// parked before the next.
    const BROKEN_FOR: usize = 5;
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Commit, broken()));
    let policy = three_attempts().park_after_attempts(1);
    let log = MemoryLog::new();
    let builder = Coordinator::builder(log.clone()).name("c").policy(policy);
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    /// However the test ends, its threads do.
    struct Done<'d>(&'d AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for transaction in coordinator.status().transactions {
                    // It may have ended meanwhile.
                    let _ = coordinator.retry(&transaction.txn);
                }
            }
        });
        for number in 0..TRANSACTIONS {
            let mut txn = coordinator.begin();
            txn.branch("a").unwrap();
            txn.branch("b").unwrap();
            txn.commit().wait().unwrap();
            if (number + 1) % BROKEN_FOR == 0 {
                b.mend();
                eventually("all of them end", SOON, || coordinator.status().transactions.is_empty());
                b.fail(Verb::Commit, broken());
            }
        }
    });
    assert!(coordinator.settle(SOON));
    assert_eq!((log.live(&name("c")).unwrap().len(), a.times_told(Verb::Commit)), (1, TRANSACTIONS));
}

/// A bug: the operator's request was queued for it, and a transaction with a queued input took no
/// more work of its client.
#[test]
fn a_retry_changes_nothing_for_a_transaction_that_is_still_at_work() {
    let coordinator = open(&MemoryLog::new(), &Scripted::new(), &Scripted::new());
    for _ in 0..1_000 {
        let mut txn = coordinator.begin();
        coordinator.retry(txn.id()).unwrap();
        txn.branch("a").unwrap();
        coordinator.retry(txn.id()).unwrap();
        txn.branch("b").unwrap();
        txn.commit().wait().unwrap();
    }
}
