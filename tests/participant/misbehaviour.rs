//! Services that panic or fail, and messages that are wrong: each is answered, and nothing stays
//! reserved.

use std::panic::{AssertUnwindSafe, catch_unwind};

use ringpact::{
    MemoryLog, Participant, ParticipantError, Vote,
    participant::{Decision, ExecuteError},
};

use crate::txn_support::{self, Disk, Fault, Op, branch, call, manager, manager_on};

#[test]
fn a_try_that_panics_dooms_the_branch_and_is_cancelled() {
    let a = manager("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, 2).unwrap();
    a.service().fail(Op::Try, [Fault::Panic]);
    let panic = catch_unwind(AssertUnwindSafe(|| drop(a.execute(&branch, 4)))).expect_err("the client gets the panic");
    assert!(panic.downcast_ref::<String>().is_some_and(|text| text.contains("Try")));
    assert_eq!(a.service().reserved.lock().get(&branch), Some(&6), "it came far enough to set something aside");
    assert_eq!(txn_support::vote(a.prepare(&branch, &call())), Vote::No);
    assert!(a.service().reserved.lock().is_empty());
}

#[test]
fn a_confirm_that_panics_is_repeated_by_the_next_commit() {
    let a = manager("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, 2).unwrap();
    a.prepare(&branch, &call()).unwrap();
    a.service().fail(Op::Confirm, [Fault::Panic, Fault::Fail, Fault::Fail]);
    assert!(matches!(a.commit(&branch, &call()), Err(ParticipantError::Panicked)));
    // There is no way back: told to roll back, it has the service confirm as well.
    for failed in [a.rollback(&branch, &call()).unwrap_err(), a.commit(&branch, &call()).unwrap_err()] {
        assert!(ringpact::error_chain(&failed).ends_with("the account refuses"), "{failed}");
    }
    assert_eq!(a.in_doubt(&txn_support::name("c")).unwrap(), std::slice::from_ref(&branch), "it is not finished");
    a.commit(&branch, &call()).unwrap();
    a.commit(&branch, &call()).unwrap();
    assert!(matches!(a.rollback(&branch, &call()), Err(ParticipantError::AlreadyCommitted)));
    assert_eq!((a.service().balance(), a.service().asked(Op::Confirm).len()), (2, 4));
}

#[test]
fn a_confirm_that_failed_is_repeated_at_the_next_opening() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let branch = branch(1, "a");
    a.execute(&branch, 2).unwrap();
    a.prepare(&branch, &call()).unwrap();
    a.service().fail(Op::Confirm, [Fault::Fail]);
    a.commit(&branch, &call()).unwrap_err();
    drop(a);
    let a = manager_on("a", log.crash(), &disk);
    assert_eq!(a.service().balance(), 2);
    a.commit(&branch, &call()).unwrap();
    assert_eq!(a.service().asked(Op::Confirm).len(), 1);
}

#[test]
fn a_cancel_that_panics_is_repeated_by_the_next_rollback() {
    let a = manager("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, 2).unwrap();
    a.prepare(&branch, &call()).unwrap();
    a.service().fail(Op::Cancel, [Fault::Panic]);
    assert!(matches!(a.rollback(&branch, &call()), Err(ParticipantError::Panicked)));
    assert!(matches!(a.commit(&branch, &call()), Err(ParticipantError::AlreadyRolledBack)), "there is no way back");
    a.rollback(&branch, &call()).unwrap();
    a.rollback(&branch, &call()).unwrap();
    assert_eq!((a.service().reserved.lock().len(), a.service().asked(Op::Cancel).len()), (0, 2));
}

/// Found in review: a repeated prepare was answered by a No, which says that all is undone,
/// although the cancel had failed. The coordinator sends nothing after a No, so nothing ever gave
/// the reservation back.
#[test]
fn a_no_is_said_only_once_the_work_is_undone() {
    let a = manager("a", MemoryLog::new());
    let branch = branch(1, "a");
    a.execute(&branch, 2).unwrap();
    assert!(matches!(a.execute(&branch, 3), Err(ExecuteError::Refused(_))));
    a.service().fail(Op::Cancel, [Fault::Fail, Fault::Fail]);
    a.prepare(&branch, &call()).expect_err("the cancel failed");
    a.prepare(&branch, &call()).expect_err("and failed again");
    assert_eq!(txn_support::vote(a.prepare(&branch, &call())), Vote::No);
    assert!(a.service().reserved.lock().is_empty(), "it said No and kept the reservation");
}

#[test]
fn a_branch_of_another_participant_is_refused_by_every_call() {
    let a = manager("a", MemoryLog::new());
    let stray = branch(1, "b");
    let call = call();
    let misrouted = |error: ParticipantError| matches!(error, ParticipantError::Misrouted { .. });
    assert!(matches!(a.execute(&stray, 2), Err(ExecuteError::Misrouted { .. })));
    assert!(misrouted(a.prepare(&stray, &call).unwrap_err()));
    assert!(misrouted(a.commit(&stray, &call).unwrap_err()));
    assert!(misrouted(a.rollback(&stray, &call).unwrap_err()));
    let error = a.commit_one_phase(&stray, &call).unwrap_err();
    assert_eq!(error.to_string(), "branch c:1:1:b is not for this participant, a; register it under its own name");
    let status = a.status();
    let remembered = [status.active, status.prepared, status.settling, status.finished];
    assert_eq!(remembered, [0; 4], "nothing is remembered of it");
    assert!(a.service().asked.lock().is_empty());
}

#[test]
fn work_after_the_vote_is_refused_and_not_tried() {
    let a = manager("a", MemoryLog::new());
    let [promised, alone, looked, undone] = [1, 2, 3, 4].map(|n| branch(n, "a"));
    for branch in [&promised, &alone, &undone] {
        a.execute(branch, 2).unwrap();
    }
    a.execute(&looked, 0).unwrap();
    a.prepare(&promised, &call()).unwrap();
    assert_eq!(a.commit_one_phase(&alone, &call()).unwrap(), Decision::Commit);
    assert_eq!(a.prepare(&looked, &call()).unwrap(), Vote::ReadOnly);
    a.rollback(&undone, &call()).unwrap();
    let tried = a.service().asked(Op::Try).len();
    for branch in [&promised, &alone, &looked, &undone] {
        let error = a.execute(branch, 2).unwrap_err();
        assert!(matches!(&error, ExecuteError::Closed { branch: of } if of == branch), "{error}");
    }
    assert_eq!(a.service().asked(Op::Try).len(), tried);
    a.commit(&promised, &call()).unwrap();
    assert_eq!(a.service().balance(), 4);
}

#[test]
fn read_only_branches_are_neither_confirmed_nor_cancelled() {
    let a = manager("a", MemoryLog::new());
    let (voted, undone, doomed) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    for branch in [&voted, &undone, &doomed] {
        a.execute(branch, 0).unwrap();
    }
    a.execute(&doomed, 3).unwrap_err();
    assert_eq!(a.prepare(&voted, &call()).unwrap(), Vote::ReadOnly);
    a.rollback(&undone, &call()).unwrap();
    assert_eq!(txn_support::vote(a.prepare(&doomed, &call())), Vote::No);
    assert_eq!((a.service().asked(Op::Confirm).len(), a.service().asked(Op::Cancel).len()), (0, 0));
}
