//! Time-outs and back-off: they come when they should, and no setting of them stops other work.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Fault, Op, eventually, manager, shared,
    wire::{Fate, Sent, Wire},
};
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, Vote,
    participant::{Call, Verb},
    txn::RollbackCause,
};

#[test]
fn a_late_vote_rolls_back_and_does_no_harm_when_it_comes() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_millis(50));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
    assert!(coordinator.settle(Duration::from_secs(5)));
    wire.release();
    assert!(coordinator.settle(Duration::from_secs(5)));
    for manager in [&a, &b] {
        assert_eq!(manager.service().balance(), 0);
        assert!(manager.service().reserved.lock().is_empty(), "the late yes left a reservation");
        assert_eq!(manager.in_doubt(coordinator.name()).unwrap(), [] as [BranchId; 0]);
    }
}

/// The prepare comes late, after the rollback that overtook it.
#[test]
fn a_prepare_that_the_rollback_overtakes_promises_nothing() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_millis(50));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap_err();
    assert!(coordinator.settle(Duration::from_secs(5)));
    wire.release();
    assert!(b.service().reserved.lock().is_empty());
    assert_eq!(b.in_doubt(coordinator.name()).unwrap(), [] as [BranchId; 0]);
}

/// Found in review: a time-out of `Duration::MAX`, which means "forever", overflowed the clock, and
/// the panic left the transaction stuck.
#[test]
fn a_policy_that_waits_forever_does_not_overflow_the_clock() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let policy = Policy::default().prepare_timeout(Duration::MAX).delivery_timeout(Duration::MAX);
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    for participants in [&["a"][..], &["a", "b"]] {
        let mut txn = coordinator.begin();
        for (manager, name) in [&a, &b].into_iter().zip(participants) {
            manager.execute(txn.branch(name).unwrap(), 2).unwrap();
        }
        txn.commit().wait().unwrap();
    }
    drop(coordinator.begin());
    assert!(coordinator.settle(Duration::MAX));
    assert_eq!((a.service().balance(), b.service().balance()), (4, 2));
}

/// Found in review: with a back-off of zero, a participant that failed at once was called again at
/// once, forever, on the client's thread. So the client of a committed transaction never got its
/// answer.
#[test]
fn a_back_off_of_zero_does_not_spin_on_the_clients_thread() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let policy = Policy::default().first_backoff(Duration::ZERO).longest_backoff(Duration::ZERO);
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    a.service().fail(Op::Confirm, [Fault::Fail; 100_000]);
    let (tell, told) = mpsc::channel();
    let client = thread::spawn(move || tell.send(txn.commit().wait()));
    told.recv_timeout(Duration::from_millis(500))
        .expect("the client hears before the participant has recovered")
        .unwrap();
    client.join().unwrap().unwrap();
    a.service().faults.lock().clear();
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

/// Found in review: one driver thread slept past a time-out that was set after it had gone to
/// sleep, while the other thread, which should have watched it, was inside a participant.
#[test]
fn time_outs_come_in_time_while_a_driver_thread_is_inside_a_participant() {
    /// Takes long to roll back, so that the thread that calls it is busy for that long.
    struct Sluggish;
    impl Participant for Sluggish {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::Yes)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            thread::sleep(Duration::from_millis(900));
            Ok(())
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
    }
    let log = MemoryLog::new();
    let b = manager("b", log.clone());
    let wire = Wire::new(b, |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_millis(50));
    let builder = Coordinator::builder(log).policy(policy);
    let quick = manager("quick", MemoryLog::new());
    let builder = builder.participant("sluggish", Sluggish).participant("quick", quick.clone());
    let coordinator = builder.endpoint("late", wire).open().unwrap();
    thread::sleep(Duration::from_millis(20)); // both driver threads are asleep now
    let started = Instant::now();
    let [first, second] = ["sluggish", "quick"].map(|other| {
        let mut txn = coordinator.begin();
        if other == "quick" {
            quick.execute(txn.branch("quick").unwrap(), 2).unwrap();
        }
        txn.branch(other).unwrap();
        txn.branch("late").unwrap();
        let commit = txn.commit();
        thread::sleep(Duration::from_millis(5));
        commit
    });
    let error = second.wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(500), "told after {:?}", started.elapsed());
    first.wait().unwrap_err();
}

#[test]
fn after_a_lost_acknowledgement_the_call_is_repeated_with_back_off_and_has_one_effect() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let mut lost = 0;
    let wire = Wire::new(b.clone(), move |sent| match sent {
        Sent::Branch(Verb::Commit) if lost < 4 => {
            lost += 1;
            if lost % 2 == 0 { Fate::LoseReply } else { Fate::LoseRequest }
        }
        _ => Fate::Deliver,
    });
    let policy = Policy::default().first_backoff(Duration::from_millis(10));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let started = Instant::now();
    txn.commit().wait().expect("it is committed whether or not it is acknowledged");
    assert_eq!(coordinator.status().settling, 1, "not acknowledged, so not forgotten");
    assert!(coordinator.settle(Duration::from_secs(5)));
    let pauses = Duration::from_millis((10 + 20 + 40 + 80) / 2);
    assert!(started.elapsed() >= pauses, "no back-off: {:?}", started.elapsed());
    assert_eq!(wire.times_sent(Sent::Branch(Verb::Commit)), 5);
    assert_eq!(b.service().asked(Op::Confirm).len(), 1, "told five times, confirmed once");
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

/// No answer comes, and the reply is not dropped either.
#[test]
fn after_no_acknowledgement_the_call_is_repeated() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let mut kept = false;
    let wire = Wire::new(b.clone(), move |sent| match sent {
        Sent::Branch(Verb::Commit) if !std::mem::replace(&mut kept, true) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().delivery_timeout(Duration::from_millis(30));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    assert!(coordinator.settle(Duration::from_secs(5)));
    wire.release(); // late and double: without effect
    assert_eq!(coordinator.status().in_doubt(), 0);
    assert_eq!(b.service().asked(Op::Confirm).len(), 1);
}

#[test]
fn an_only_participant_that_never_answers_leaves_the_outcome_open_and_commits_nothing_later() {
    let log = MemoryLog::new();
    let a = manager("a", log.clone());
    let wire = Wire::new(a.clone(), |sent| match sent {
        Sent::Branch(Verb::CommitOnePhase) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let policy = Policy::default().prepare_timeout(Duration::from_millis(50));
    let coordinator = Coordinator::builder(log).policy(policy).endpoint("a", wire.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::Indeterminate { error: None, .. }), "{error}");
    assert!(coordinator.settle(Duration::from_secs(5)));
    wire.release();
    assert_eq!(a.service().balance(), 0, "the rollback that followed came first");
    eventually("the late reply is dealt with", Duration::from_secs(5), || coordinator.status().in_doubt() == 0);
}

#[test]
fn settle_returns_false_at_its_time_out() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    managers[0].service().fail(Op::Confirm, [Fault::Fail; 8]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    txn.commit().wait().unwrap();
    assert!(!coordinator.settle(Duration::from_millis(20)));
    managers[0].service().faults.lock().clear();
    assert!(coordinator.settle(Duration::from_secs(10)));
    assert_eq!(managers[0].service().balance(), 2);
}
