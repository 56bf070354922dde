//! Calls for one branch at the same time: they run one after the other, have one outcome, and do
//! not deadlock.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use ringpact::{BranchId, MemoryLog, Participant, ParticipantError, Vote, participant::Decision};

use crate::txn_support::{self, Op, branch, call, eventually, manager, name, shared};

const SOON: Duration = Duration::from_secs(5);

const ROUNDS: u64 = 300;

/// Repeats a call while another one is under way for the branch, as a coordinator does.
fn unless_busy<T>(ask: impl Fn() -> Result<T, ParticipantError>) -> Result<T, ParticipantError> {
    loop {
        match ask() {
            Err(ParticipantError::Busy) => thread::yield_now(),
            answer => return answer,
        }
    }
}

#[test]
fn execute_prepare_and_rollback_at_once_leave_nothing_and_every_try_is_undone() {
    let a = manager("a", MemoryLog::new());
    for round in 1..=ROUNDS {
        let branch = branch(round, "a");
        let start = Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    for _ in 0..3 {
                        drop(a.execute(&branch, 2));
                    }
                });
            }
            scope.spawn(|| {
                start.wait();
                drop(a.prepare(&branch, &call()));
            });
            scope.spawn(|| {
                start.wait();
                unless_busy(|| a.rollback(&branch, &call())).expect("a rollback of what is not committed succeeds");
            });
        });
        assert!(a.execute(&branch, 2).is_err(), "the branch is over");
        assert!(a.service().reserved.lock().is_empty(), "round {round} left a reservation");
        assert_ne!(a.prepare(&branch, &call()).ok(), Some(Vote::Yes));
    }
    assert_eq!(a.in_doubt(&txn_support::name("c")).unwrap(), [] as [BranchId; 0]);
    assert_eq!(a.service().balance(), 0);
}

#[test]
fn commit_and_rollback_at_once_have_one_outcome_that_both_agree_on() {
    let a = manager("a", MemoryLog::new());
    let committed = AtomicUsize::new(0);
    for round in 1..=ROUNDS {
        let branch = branch(round, "a");
        a.execute(&branch, 2).unwrap();
        a.prepare(&branch, &call()).unwrap();
        let start = Barrier::new(2);
        let (commit, rollback) = thread::scope(|scope| {
            let commit = scope.spawn(|| {
                start.wait();
                unless_busy(|| a.commit(&branch, &call()))
            });
            start.wait();
            let rollback = unless_busy(|| a.rollback(&branch, &call()));
            (commit.join().expect("commit does not panic"), rollback)
        });
        assert_ne!(commit.is_ok(), rollback.is_ok(), "round {round}: {commit:?} and {rollback:?}");
        let applied = a.service().applied.lock().contains_key(&branch);
        assert_eq!(applied, commit.is_ok());
        committed.fetch_add(usize::from(applied), Ordering::Relaxed);
    }
    assert_eq!(a.service().asked(Op::Confirm).len(), committed.into_inner());
    assert!(a.service().reserved.lock().is_empty());
}

#[test]
fn one_phase_commits_at_once_agree_and_have_one_effect() {
    let a = manager("a", MemoryLog::new());
    for round in 1..=ROUNDS {
        let branch = branch(round, "a");
        a.execute(&branch, 2).unwrap();
        let start = Barrier::new(3);
        let answers: Vec<_> = thread::scope(|scope| {
            let ask = || {
                start.wait();
                unless_busy(|| a.commit_one_phase(&branch, &call())).expect("nothing stands in its way")
            };
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(answers, [Decision::Commit; 3]);
    }
    assert_eq!(a.service().asked(Op::Confirm).len(), usize::try_from(ROUNDS).unwrap());
}

/// Checkpoints, status and the ends of branches take locks in different orders.
#[test]
fn checkpoints_and_questions_at_once_with_commits_do_not_deadlock() {
    let (_log, coordinator, managers) = shared(&["a"]);
    let a = &managers[0];
    let workers: usize = 3;
    let per_worker = usize::try_from(ROUNDS).unwrap();
    thread::scope(|scope| {
        let work = || {
            for n in 0..per_worker {
                let mut txn = coordinator.begin();
                a.execute(txn.branch("a").unwrap(), 2).unwrap();
                if n % 4 == 0 { txn.rollback() } else { txn.commit().wait().unwrap() }
            }
        };
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        while threads.iter().any(|thread| !thread.is_finished()) {
            a.checkpoint().unwrap();
            assert!(a.in_doubt(coordinator.name()).unwrap().len() <= workers);
            assert!(a.status().active <= workers);
        }
    });
    // A rollback that met a question is repeated.
    assert!(coordinator.settle(Duration::from_secs(30)));
    let committed = workers * (per_worker - per_worker.div_ceil(4));
    assert_eq!(a.service().balance(), 2 * i64::try_from(committed).unwrap());
    assert_eq!(a.service().asked(Op::Confirm).len(), committed);
    assert!(a.service().reserved.lock().is_empty());
}

/// A coordinator that opens asks what is in doubt. One branch that hung in the service used to keep
/// the answer back, and with it the recovery of all others.
#[test]
fn a_branch_that_hangs_in_the_service_is_listed_in_doubt_with_the_others() {
    let a = manager("a", MemoryLog::new());
    let (hangs, waits, done) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    for branch in [&hangs, &waits, &done] {
        a.execute(branch, 2).unwrap();
        a.prepare(branch, &call()).unwrap();
    }
    a.commit(&done, &call()).unwrap();
    let held = a.service().applied.lock();
    thread::scope(|scope| {
        let commit = scope.spawn(|| a.commit(&hangs, &call()));
        eventually("it is in the service", SOON, || a.status().settling == 1);
        let (tell, told) = mpsc::channel();
        let a = &a;
        scope.spawn(move || tell.send(a.in_doubt(&name("c"))).expect("the test waits for it"));
        let answer = told.recv_timeout(SOON);
        drop(held);
        assert_eq!(answer.expect("an answer").unwrap(), [hangs.clone(), waits.clone()]);
        commit.join().unwrap().unwrap();
    });
    assert_eq!(a.in_doubt(&name("c")).unwrap(), [waits]);
}
