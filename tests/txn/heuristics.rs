//! Branches that end otherwise than decided are reported, kept through restarts, shown, and
//! forgotten only by an operator.

use std::time::Duration;

use crate::support::{
    name,
    scripted::{Scripted, broken},
};
use ringpact::{
    CommitError, Coordinator, MemoryLog, ParticipantError, TransactionLog, TxnId,
    log::Heuristic,
    participant::{Decision, Verb},
    txn::{BranchState, OperatorError, TransactionState},
};

fn open(log: &MemoryLog, a: &Scripted, b: &Scripted) -> Coordinator {
    let builder = Coordinator::builder(log.clone()).name("c");
    builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
}

/// Each way in which a branch can differ from a commit or a rollback, and the outcome of the
/// transaction then.
#[test]
fn a_branch_that_differs_from_the_decision_is_kept_until_it_is_forgotten() {
    let cases = [
        (Verb::Commit, ParticipantError::UnknownBranch, Heuristic::Hazard, Heuristic::Hazard),
        (Verb::Commit, ParticipantError::AlreadyRolledBack, Heuristic::RolledBack, Heuristic::Mixed),
        (Verb::Commit, ParticipantError::Heuristic(Heuristic::RolledBack), Heuristic::RolledBack, Heuristic::Mixed),
        (Verb::Commit, ParticipantError::Heuristic(Heuristic::Mixed), Heuristic::Mixed, Heuristic::Mixed),
        (Verb::Commit, ParticipantError::Heuristic(Heuristic::Hazard), Heuristic::Hazard, Heuristic::Hazard),
        (Verb::Rollback, ParticipantError::AlreadyCommitted, Heuristic::Committed, Heuristic::Mixed),
        (Verb::Rollback, ParticipantError::Heuristic(Heuristic::Committed), Heuristic::Committed, Heuristic::Mixed),
        (Verb::Rollback, ParticipantError::Heuristic(Heuristic::Hazard), Heuristic::Hazard, Heuristic::Hazard),
    ];
    for (verb, answer, of_b, of_all) in cases {
        let log = MemoryLog::new();
        let (a, b) = (Scripted::new(), Scripted::failing(verb, answer.clone()));
        let coordinator = open(&log, &a, &b);
        let mut txn = coordinator.begin();
        let id = txn.id().clone();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        let decision = if verb == Verb::Commit {
            let error = txn.commit().wait().unwrap_err();
            assert!(matches!(&error, CommitError::Heuristic { outcome, .. } if *outcome == of_all), "{error}");
            Decision::Commit
        } else {
            txn.rollback();
            Decision::Rollback
        };
        let kept = |coordinator: &Coordinator| {
            let status = coordinator.status();
            assert_eq!((status.heuristic, status.in_doubt()), (1, 1), "{answer}: {status}");
            let transaction = status.transactions[0].clone();
            assert_eq!(transaction.txn, id);
            let of_b_alone = transaction.branches.len() == 1;
            let whole = if of_b_alone { of_b } else { of_all };
            assert_eq!(transaction.state, TransactionState::Heuristic(decision, whole), "{answer}");
            let b = transaction.branches.iter().find(|branch| branch.participant.as_str() == "b").unwrap();
            assert_eq!(b.state, BranchState::Heuristic(of_b));
        };
        kept(&coordinator);
        assert_eq!(b.times_told(verb), 1, "it is not told again");
        assert!(!coordinator.settle(Duration::from_millis(10)), "an operator is to look");
        // The outcome survives crashes, any number of them.
        drop(coordinator);
        let mut log = log.crash();
        for _ in 0..2 {
            let coordinator = open(&log, &a, &b);
            kept(&coordinator);
            drop(coordinator);
            log = log.crash();
        }
        let coordinator = open(&log, &a, &b);
        assert!(matches!(coordinator.force(&id, decision), Err(OperatorError::NotParked { .. })));
        coordinator.forget(&id).unwrap();
        assert_eq!(coordinator.status().in_doubt(), 0);
        let error = coordinator.forget(&id).unwrap_err();
        assert!(matches!(&error, OperatorError::Unknown { txn } if *txn == id), "{error}");
        assert!(coordinator.settle(Duration::ZERO));
        let live = log.live(&name("c")).unwrap();
        assert!(live.iter().all(|record| record.fact.epoch().is_some()), "{live:?}");
        assert_eq!((b.times_told(verb), a.times_told(verb)), (1, 1), "no participant was told anything again");
    }
}

#[test]
fn a_branch_that_ended_by_itself_as_decided_is_no_heuristic() {
    for (verb, answer) in [(Verb::Commit, Heuristic::Committed), (Verb::Rollback, Heuristic::RolledBack)] {
        let (a, b) = (Scripted::new(), Scripted::failing(verb, ParticipantError::Heuristic(answer)));
        let coordinator = open(&MemoryLog::new(), &a, &b);
        let mut txn = coordinator.begin();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        if verb == Verb::Commit {
            txn.commit().wait().unwrap()
        } else {
            txn.rollback()
        }
        assert_eq!(coordinator.status().in_doubt(), 0);
    }
}

#[test]
fn an_unknown_branch_is_a_success_for_a_rollback_and_a_hazard_for_a_commit() {
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Rollback, ParticipantError::UnknownBranch));
    let coordinator = open(&MemoryLog::new(), &a, &b);
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.rollback();
    assert_eq!(coordinator.status().in_doubt(), 0);
    b.fail(Verb::Commit, ParticipantError::UnknownBranch);
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::Heuristic { outcome: Heuristic::Hazard, .. }), "{error}");
}

/// The participant was opened on the wrong log, knew nothing, and is then opened on the right one.
#[test]
fn a_hazard_can_be_retried_once_the_participants_log_is_found() {
    let log = MemoryLog::new();
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Commit, ParticipantError::UnknownBranch));
    let coordinator = open(&log, &a, &b);
    let mut txn = coordinator.begin();
    let id = txn.id().clone();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap_err();
    b.mend();
    coordinator.retry(&id).unwrap();
    assert!(coordinator.settle(Duration::from_secs(5)), "{}", coordinator.status());
    assert_eq!((a.times_told(Verb::Commit), b.times_told(Verb::Commit)), (1, 2));
    assert_eq!(log.live(&name("c")).unwrap().len(), 1);
}

/// The only participant has no other to differ from; it has the right to commit.
#[test]
fn the_only_participant_that_has_committed_is_no_heuristic() {
    let log = MemoryLog::new();
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Rollback, ParticipantError::AlreadyCommitted));
    let first = open(&log, &a, &Scripted::new());
    b.holds_in_doubt(TxnId::new(name("c"), first.epoch(), 1).branch(&name("b")));
    drop(first);
    let coordinator = open(&log, &a, &b);
    assert_eq!((coordinator.recovered().rolled_back, coordinator.status().in_doubt()), (1, 0));
}

#[test]
fn a_failure_is_not_a_heuristic() {
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Commit, broken()));
    let coordinator = open(&MemoryLog::new(), &a, &b);
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    let id = txn.id().clone();
    txn.commit().wait().unwrap();
    assert!(matches!(coordinator.forget(&id), Err(OperatorError::NotHeuristic { .. })));
    b.mend();
    assert!(coordinator.settle(Duration::from_secs(5)));
}
