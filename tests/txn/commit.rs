//! A transaction commits at all its participants or at none, and costs the forced writes that the
//! protocol's page says.

use std::{
    future::Future,
    num::NonZeroUsize,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use crate::support::{Manager, manager, scripted::Scripted, shared};
use parking_lot::Mutex;
use ringpact::{BranchId, CommitError, Coordinator, MemoryLog, Policy, TransactionLog};

#[test]
fn all_participants_have_the_change_when_wait_returns() {
    let (_, coordinator, managers) = shared(&["a", "b", "c"]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    txn.commit().wait().unwrap();
    assert_eq!(managers.iter().map(|m| m.service().balance()).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(coordinator.status().in_doubt(), 0);
}

#[test]
fn one_refusal_leaves_no_participant_with_the_change() {
    let (_, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    assert!(managers[1].execute(txn.branch("b").unwrap(), 3).is_err());
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { .. }), "{error}");
    assert!(error.to_string().ends_with("b voted no"), "{error}");
    for manager in &managers {
        assert_eq!(manager.service().balance(), 0);
        assert!(manager.service().reserved.lock().is_empty(), "the reservation was given back");
    }
}

#[test]
fn dropping_a_transaction_rolls_it_back() {
    let (_, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    drop(txn);
    assert!(managers[0].service().reserved.lock().is_empty());
    assert_eq!(coordinator.status().begun, 0);
}

#[test]
fn a_dropped_commit_goes_on_without_its_holder() {
    let (_, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 4).unwrap();
    }
    drop(txn.commit());
    assert!(coordinator.settle(Duration::from_secs(10)));
    assert_eq!(managers[1].service().balance(), 4);
}

#[test]
fn slow_participants_are_prepared_in_parallel() {
    struct Slow(Manager);
    impl ringpact::Participant for Slow {
        fn prepare(
            &self,
            branch: &BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<ringpact::Vote, ringpact::ParticipantError> {
            std::thread::sleep(Duration::from_millis(100));
            self.0.prepare(branch, call)
        }
        fn commit(
            &self,
            branch: &BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<(), ringpact::ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(
            &self,
            branch: &BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<(), ringpact::ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(&self, coordinator: &ringpact::Name) -> Result<Vec<BranchId>, ringpact::ParticipantError> {
            self.0.in_doubt(coordinator)
        }
    }
    let log = MemoryLog::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let managers: Vec<_> = names.iter().map(|name| manager(name, log.clone())).collect();
    let mut builder = Coordinator::builder(log);
    for manager in &managers {
        builder =
            builder.slow_participant(manager.name().as_str(), Slow(Arc::clone(manager)), NonZeroUsize::new(1).unwrap());
    }
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    let start = std::time::Instant::now();
    txn.commit().wait().unwrap();
    assert!(start.elapsed() < Duration::from_millis(8 * 100), "one after the other: {:?}", start.elapsed());
    assert!(coordinator.settle(Duration::from_secs(10)));
    assert!(managers.iter().all(|m| m.service().balance() == 2));
}

#[test]
fn forced_writes_are_those_of_the_table_in_the_docs() {
    // On the coordinator's log: 1 in all, whatever the number of participants.
    let (log, coordinator, managers) = shared(&["a", "b", "c"]);
    let forced = |work: &dyn Fn()| {
        let before = log.stats().forced;
        work();
        log.stats().forced - before
    };
    let run = |works: &[i64]| {
        let mut txn = coordinator.begin();
        for (manager, work) in managers.iter().zip(works) {
            let _ = manager.execute(txn.branch(manager.name().as_str()).unwrap(), *work);
        }
        let _ = txn.commit().wait();
    };
    assert_eq!(forced(&|| run(&[2, 2, 2])), 1, "three that share the log");
    assert_eq!(forced(&|| run(&[2, 2, 0])), 1, "one of them read-only");
    assert_eq!(forced(&|| run(&[0, 0, 0])), 0, "all read-only");
    assert_eq!(forced(&|| run(&[2, 2, 3])), 0, "rolled back");
    assert_eq!(forced(&|| run(&[2])), 1, "one participant: its own, none of the coordinator's");
    assert_eq!(forced(&|| run(&[0])), 0, "one participant, read-only");

    // Logs of their own: 1 at the coordinator, 2 at each participant.
    let logs: Vec<_> = (0..4).map(|_| MemoryLog::new()).collect();
    let managers: Vec<_> = ["a", "b", "c"].iter().zip(&logs).map(|(name, log)| manager(name, log.clone())).collect();
    let mut builder = Coordinator::builder(logs[3].clone());
    for manager in &managers {
        builder = builder.participant(manager.name().as_str(), Arc::clone(manager));
    }
    let coordinator = builder.open().unwrap();
    let count = || logs.iter().map(|log| log.stats().forced).collect::<Vec<_>>();
    let run = |works: &[i64]| {
        let before = count();
        let mut txn = coordinator.begin();
        for (manager, work) in managers.iter().zip(works) {
            let _ = manager.execute(txn.branch(manager.name().as_str()).unwrap(), *work);
        }
        let _ = txn.commit().wait();
        count().iter().zip(before).map(|(after, before)| after - before).collect::<Vec<_>>()
    };
    assert_eq!(run(&[2, 2, 2]), [2, 2, 2, 1]);
    assert_eq!(run(&[2, 2, 0]), [2, 2, 0, 1], "read-only: none");
    assert_eq!(run(&[2]), [1, 0, 0, 0], "one participant: none at the coordinator");
    let rolled_back = run(&[2, 2, 3]);
    assert_eq!(rolled_back, [2, 2, 0, 0], "a promise and its end; nothing where nothing was promised, nor to decide");
    assert_eq!(
        run(&[3, 2, 2]),
        [0, 0, 0, 0],
        "the first No ends the first phase: no other participant is asked to promise"
    );
    assert_eq!(run(&[0, 0, 0]), [0, 0, 0, 0], "all read-only");
    assert_eq!(run(&[0]), [0, 0, 0, 0], "one participant, read-only");
    assert_eq!(run(&[3]), [0, 0, 0, 0], "one participant that refuses");
    let before = count();
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.rollback();
    assert_eq!(count(), before, "the client rolls back before any participant has promised");

    // With a last resource: the decision, and the promises and commits of the others.
    let (log, own) = (MemoryLog::new(), MemoryLog::new());
    let (a, queue) = (manager("a", own.clone()), Scripted::new());
    let builder = Coordinator::builder(log.clone()).last_resource("queue", queue.clone());
    let coordinator = builder.participant("a", a.clone()).open().unwrap();
    let run = |work: Option<i64>| {
        let before = (log.stats().forced, own.stats().forced);
        let mut txn = coordinator.begin();
        txn.branch("queue").unwrap();
        if let Some(work) = work {
            let _ = a.execute(txn.branch("a").unwrap(), work);
        }
        let _ = txn.commit().wait();
        (log.stats().forced - before.0, own.stats().forced - before.1)
    };
    assert_eq!(run(Some(2)), (1, 2));
    assert_eq!(run(Some(3)), (0, 0), "the other one refuses");
    assert_eq!(run(Some(0)), (0, 0), "the other one only looks");
    assert_eq!(run(None), (0, 0), "alone");
}

#[test]
fn a_commit_can_be_awaited() {
    struct Flag(Mutex<bool>, parking_lot::Condvar);
    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            *self.0.lock() = true;
            self.1.notify_one();
        }
    }
    let (_, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    let mut commit = Box::pin(txn.commit());
    let flag = Arc::new(Flag(Mutex::new(false), parking_lot::Condvar::new()));
    let waker = Waker::from(Arc::clone(&flag));
    let result = loop {
        match commit.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => break result,
            Poll::Pending => {
                let mut woken = flag.0.lock();
                while !std::mem::take(&mut *woken) {
                    flag.1.wait(&mut woken);
                }
            }
        }
    };
    result.unwrap();
    assert_eq!(managers[0].service().balance(), 2);
}

#[test]
fn a_promise_is_settled_after_the_process_has_crashed() {
    let log = MemoryLog::new();
    let policy = Policy::default().prepare_timeout(Duration::from_millis(200));
    let a = manager("a", log.clone());
    let b = manager("b", log.clone());
    let coordinator = Coordinator::builder(log.clone())
        .policy(policy)
        .participant("a", Arc::clone(&a))
        .participant("b", Arc::clone(&b))
        .open()
        .unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let commit = txn.commit(); // prepared, and the decision handed to the log, which syncs it at once
    let log = log.crash();
    drop((commit, coordinator, a, b));

    let a = manager("a", log.clone());
    let b = manager("b", log.clone());
    assert_eq!(a.service().balance(), 0, "the promise is restored, not carried out");
    let coordinator =
        Coordinator::builder(log).participant("a", Arc::clone(&a)).participant("b", Arc::clone(&b)).open().unwrap();
    assert_eq!(coordinator.recovered().committed, 1);
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
    assert_eq!(coordinator.status().in_doubt(), 0);
}
