//! Participants retire while the coordinator is open.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ringpact::{
    Coordinator, LogId, MemoryLog, Participant, ParticipantError,
    participant::{Call, Decision, Inline, Verb},
    txn::{BranchError, CoordinatorError, RetireError, TransactionState},
};

use super::membership::{MS, SOON, Seen, commit, open, quick};
use crate::support::{
    eventually, manager,
    scripted::{Scripted, broken},
    wire::{Fate, Wire},
};

#[test]
fn one_that_retires_gets_no_new_branches_and_is_dropped_when_the_last_one_has_ended() {
    for ends in [Decision::Commit, Decision::Rollback] {
        let (a, b) = (Seen::new(), Scripted::new());
        let coordinator = open(MemoryLog::new());
        coordinator.add_participant("a", a.clone()).unwrap();
        coordinator.add_participant("b", b.clone()).unwrap();
        let held = |seen: &Seen| Arc::strong_count(&seen.alive);
        assert_eq!(held(&a), 2);
        let mut txn = coordinator.begin();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        let mut other = coordinator.begin();
        coordinator.retire("a").unwrap();
        let error = other.branch("a").unwrap_err();
        assert!(matches!(error, BranchError::Retiring { .. }), "{error}");
        assert!(error.to_string().contains("a retires"), "{error}");
        txn.branch("a").expect("it has a branch already");
        let status = coordinator.status();
        assert_eq!((status.retiring[0].participant.as_str(), status.retiring[0].transactions), ("a", 1));
        assert!(status.to_string().contains("a retires, 1 open transactions"), "{status}");
        assert!(matches!(coordinator.retire("a"), Err(RetireError::Retiring { .. })));
        let again = coordinator.add_participant("a", Scripted::new());
        assert!(matches!(again, Err(CoordinatorError::Retiring { .. })));
        assert!(!a.is_dropped());
        match ends {
            Decision::Commit => txn.commit().wait().unwrap(),
            Decision::Rollback => txn.rollback(),
        }
        eventually("it is dropped", SOON, || a.is_dropped());
        assert_eq!(coordinator.status().retiring, []);
        assert!(matches!(other.branch("a"), Err(BranchError::UnknownParticipant { .. })));
        assert!(matches!(coordinator.retire("a"), Err(RetireError::Unknown { .. })));
        let told = match ends {
            Decision::Commit => vec![Verb::Prepare, Verb::Commit],
            Decision::Rollback => vec![Verb::Rollback],
        };
        assert_eq!(a.inner.told(), told);
        // The name is free, and the new one gets new branches only.
        let next = Seen::new();
        coordinator.add_participant("a", next.clone()).unwrap();
        other.branch("a").unwrap();
        other.commit().wait().unwrap();
        assert_eq!((a.inner.told().len(), next.inner.told().len()), (told.len(), 2));
    }
}

#[test]
fn one_that_nothing_needs_is_dropped_at_once_of_every_kind() {
    let log = MemoryLog::new();
    let (at_once, slow, sent, built) = (Seen::new(), Seen::new(), Seen::new(), Seen::new());
    let builder = Coordinator::builder(log).policy(quick()).participant("built", built.clone());
    let coordinator = builder.open().unwrap();
    coordinator.add_participant("a", at_once.clone()).unwrap();
    coordinator.add_slow_participant("b", slow.clone(), NonZeroUsize::MIN).unwrap();
    coordinator.add_endpoint("d", Inline::new(sent.clone())).unwrap();
    commit(&coordinator, &["a", "b", "d", "built"]).unwrap();
    assert!(coordinator.settle(SOON));
    for (name, seen) in [("a", Some(&at_once)), ("b", Some(&slow)), ("d", Some(&sent)), ("built", None)] {
        coordinator.retire(name).unwrap();
        eventually("it is dropped", SOON, || seen.is_none_or(Seen::is_dropped));
        assert!(matches!(coordinator.begin().branch(name), Err(BranchError::UnknownParticipant { .. })));
    }
    assert!(coordinator.status().circuits.is_empty());
    // That of the builder gets no more messages, and is dropped with the coordinator.
    let (told, next) = (built.inner.told().len(), Seen::new());
    coordinator.add_participant("built", next.clone()).unwrap();
    commit(&coordinator, &["built"]).unwrap();
    assert_eq!((built.inner.told().len(), next.inner.told().len()), (told, 2));
    assert!(!built.is_dropped());
    drop(coordinator);
    assert!(built.is_dropped() && next.is_dropped());
}

#[test]
fn names_that_cannot_retire_are_refused() {
    let builder = Coordinator::builder(MemoryLog::new()).last_resource("queue", Scripted::new());
    let coordinator = builder.open().unwrap();
    assert!(matches!(coordinator.retire("unknown"), Err(RetireError::Unknown { .. })));
    assert!(matches!(coordinator.retire("no name"), Err(RetireError::Name(_))));
    assert!(matches!(coordinator.retire("queue"), Err(RetireError::LastResource { .. })));
}

/// A parked transaction waits for an operator, however long; so does a heuristic one.
#[test]
fn parked_and_heuristic_transactions_keep_it() {
    let (a, b) = (Seen::new(), Seen::new());
    a.inner.fail(Verb::Commit, broken());
    let coordinator = Coordinator::builder(MemoryLog::new()).policy(quick().park_after_attempts(2)).open().unwrap();
    coordinator.add_participant("a", a.clone()).unwrap();
    coordinator.add_participant("b", b.clone()).unwrap();
    commit(&coordinator, &["a", "b"]).unwrap();
    coordinator.retire("a").unwrap();
    coordinator.retire("b").unwrap();
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    eventually("the one that has acknowledged is dropped all the same", SOON, || b.is_dropped());
    let status = coordinator.status();
    let txn = status.transactions[0].txn.clone();
    assert_eq!((status.retiring.len(), a.is_dropped()), (1, false));
    coordinator.force(&txn, Decision::Rollback).unwrap();
    assert!(matches!(coordinator.status().transactions[0].state, TransactionState::Heuristic(..)));
    thread::sleep(20 * MS);
    assert_eq!((coordinator.status().retiring.len(), a.is_dropped()), (1, false));
    coordinator.forget(&txn).unwrap();
    eventually("it is dropped", SOON, || a.is_dropped() && coordinator.status().retiring.is_empty());
}

/// It is told until it answers: to retire is not to be forgotten.
#[test]
fn what_it_owes_is_still_delivered() {
    let a = Seen::new();
    a.inner.fail(Verb::Commit, ParticipantError::Unreachable);
    let coordinator = open(MemoryLog::new());
    coordinator.add_participant("a", a.clone()).unwrap();
    coordinator.add_participant("b", Scripted::new()).unwrap();
    commit(&coordinator, &["a", "b"]).unwrap();
    coordinator.retire("a").unwrap();
    let told = a.inner.times_told(Verb::Commit);
    eventually("it is told again", SOON, || a.inner.times_told(Verb::Commit) > told);
    assert!(!a.is_dropped());
    a.inner.mend();
    eventually("it is dropped", SOON, || a.is_dropped());
    assert!(coordinator.settle(SOON));
}

#[test]
fn a_withdrawn_branch_does_not_keep_it() {
    let (a, b) = (Seen::new(), Scripted::new());
    let coordinator = open(MemoryLog::new());
    coordinator.add_participant("a", a.clone()).unwrap();
    coordinator.add_participant("b", b).unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    coordinator.retire("a").unwrap();
    txn.withdraw("a").unwrap();
    eventually("it is dropped", SOON, || a.is_dropped());
    assert!(txn.branch("a").is_err());
    txn.commit().wait().unwrap();
}

/// A dead participant never says what it holds, and must not stay for that.
#[test]
fn one_that_has_not_said_what_it_holds_can_go_and_come_back() {
    let (log, own) = (MemoryLog::new(), MemoryLog::new());
    let b = manager("b", own);
    let coordinator = open(log.clone());
    coordinator.add_participant("b", b.clone()).unwrap();
    coordinator.add_participant("a", Scripted::new()).unwrap();
    let mut txn = coordinator.begin();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.branch("a").unwrap();
    let promised = txn.branch("b").unwrap().clone();
    b.prepare(&promised, &Call::new(LogId::NONE)).unwrap();
    drop(coordinator);
    let coordinator = open(log);
    let is_dead = Arc::new(AtomicBool::new(true));
    let dead = Arc::clone(&is_dead);
    let wire = |dead: Arc<AtomicBool>| {
        Wire::new(b.clone(), move |_| if dead.load(Ordering::SeqCst) { Fate::LoseRequest } else { Fate::Deliver })
    };
    coordinator.add_endpoint("b", wire(dead)).unwrap();
    assert_eq!(coordinator.status().unanswered, 1);
    coordinator.retire("b").unwrap();
    let status = coordinator.status();
    assert_eq!((status.unanswered, status.retiring.len(), status.circuits.len()), (0, 0, 0));
    assert!(coordinator.settle(SOON));
    assert!(!b.service().reserved.lock().is_empty(), "it holds the branch all the same");
    is_dead.store(false, Ordering::SeqCst);
    coordinator.add_endpoint("b", wire(is_dead)).unwrap();
    eventually("it is settled", SOON, || b.service().reserved.lock().is_empty());
    assert!(coordinator.settle(SOON));
    drop(txn); // of the first life, as if that had crashed
}
