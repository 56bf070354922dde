//! What a transaction or a commit can still do once its coordinator is dropped: get an answer, and
//! do no harm.

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use crate::support::{
    Manager, block_on, branch, eventually,
    logs::SlowLog,
    manager, name, shared,
    wire::{Fate, Sent, Wire},
};
use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, Name, Participant, ParticipantError, Vote,
    participant::{Call, Life, Verb},
};

/// Two participants; "b" does not vote yet.
fn with_a_held_vote() -> (MemoryLog, Coordinator, Manager, Manager, Wire) {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldReply,
        _ => Fate::Deliver,
    });
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).endpoint("b", wire.clone());
    (log, builder.open().expect("an empty log opens"), a, b, wire)
}

/// Found in review: the vote came in after the coordinator had been dropped and opened again on the
/// same log. The `Commit` that was still held drove its transaction on and logged a decision to
/// commit, although the new coordinator had meanwhile rolled the branches back: the client was told
/// "committed", and no participant had the change.
#[test]
fn a_commit_held_over_a_reopening_decides_nothing() {
    let (log, coordinator, a, b, wire) = with_a_held_vote();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let commit = txn.commit();
    drop(coordinator);
    let coordinator = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    assert!(coordinator.settle(Duration::from_secs(5)));
    wire.release();
    commit.wait().expect_err("the branches were rolled back when the coordinator was opened again");
    assert_eq!((a.service().balance(), b.service().balance()), (0, 0));
}

/// The same, with a transaction that the client commits only after the coordinator is dropped.
#[test]
fn a_transaction_held_over_a_reopening_decides_nothing() {
    let (log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    for manager in &managers {
        manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
    }
    drop(coordinator);
    txn.commit().wait().expect_err("its coordinator is gone");
    assert!(managers.iter().all(|m| m.service().balance() == 0 && m.service().reserved.lock().is_empty()));
    drop(log);
}

/// Found in review: once the coordinator's threads are gone, no thread times the votes out.
#[test]
fn a_commit_that_waits_for_a_vote_gets_an_error_when_its_coordinator_is_dropped() {
    let (_log, coordinator, a, b, wire) = with_a_held_vote();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let commit = txn.commit();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(commit.wait()));
    thread::sleep(Duration::from_millis(20));
    drop(coordinator);
    let answer = told.recv_timeout(Duration::from_secs(5)).expect("the waiting thread hears of it");
    answer.expect_err("nothing was decided");
    assert_eq!(wire.held(), 1, "the vote is still on its way");
}

/// Found in review: a transaction that was dropped after its coordinator, with a participant that
/// does not answer, kept itself, the log and all participants in memory forever.
#[test]
fn nothing_is_kept_in_memory_once_coordinator_and_transactions_are_gone() {
    let log = Arc::new(MemoryLog::new());
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |_| Fate::LoseRequest);
    let coordinator =
        Coordinator::builder(log.clone()).participant("a", a.clone()).endpoint("b", wire.clone()).open().unwrap();
    let mut held = coordinator.begin();
    let mut committed = coordinator.begin();
    for txn in [&mut held, &mut committed] {
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
    }
    let commit = committed.commit();
    drop(coordinator);
    drop(held);
    drop(commit);
    drop(wire);
    assert_eq!(Arc::strong_count(&a), 1, "a is still held");
    assert_eq!(Arc::strong_count(&b), 1, "b is still held");
    assert_eq!(Arc::strong_count(&log), 3, "one each here and at the two managers");
}

#[test]
fn a_dropped_coordinator_drops_its_participants_at_once() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    for _ in 0..10 {
        let mut txn = coordinator.begin();
        for manager in &managers {
            manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
        }
        txn.commit().wait().unwrap();
    }
    drop(coordinator);
    assert!(managers.iter().all(|manager| Arc::strong_count(manager) == 1));
    // The branches that it left behind block nothing.
    assert_eq!(managers[0].in_doubt(&name("c")).unwrap(), [] as [ringpact::BranchId; 0]);
    assert!(managers[0].execute(&branch(1, "a"), 2).is_ok());
}

/// The next opening will find what is already in the log, so the client gets the same answer now.
#[test]
fn a_commit_whose_decision_is_on_its_way_to_the_disk_is_answered_after_the_drop() {
    let log = SlowLog::new(Duration::from_millis(30));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let open = |log| Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    for waited in [true, false] {
        let coordinator = open(log.clone());
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        let before = a.service().balance();
        let commit = txn.commit();
        drop(coordinator);
        let answer = if waited { commit.wait() } else { block_on(commit) };
        answer.expect("the decision was in the log before the coordinator went");
        assert_eq!((a.service().balance(), b.service().balance()), (before + 2, before + 2));
    }
    assert_eq!(open(log).recovered().rolled_back, 0);
}

/// The queue of a slow participant holds transactions, which hold participants.
#[test]
fn a_slow_participant_is_dropped_once_its_queue_is_served() {
    struct Slow(Manager);
    impl Participant for Slow {
        fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
            thread::sleep(Duration::from_millis(10));
            self.0.prepare(branch, call)
        }
        fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.in_doubt(coordinator)
        }
    }
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let builder = Coordinator::builder(log).participant("a", a.clone());
    let coordinator = builder.slow_participant("b", Slow(b.clone()), NonZeroUsize::new(1).unwrap()).open().unwrap();
    for _ in 0..10 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        drop(txn.commit());
    }
    drop(coordinator);
    eventually("both are let go", Duration::from_secs(5), || Arc::strong_count(&a) == 1 && Arc::strong_count(&b) == 1);
}

/// Notes the verbs that reach a participant, and the `ended_below` of commits.
struct Told {
    manager: Manager,
    calls: Mutex<Vec<(Verb, Call)>>,
}

impl Participant for Told {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.calls.lock().push((Verb::Prepare, call.clone()));
        self.manager.prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.calls.lock().push((Verb::Commit, call.clone()));
        self.manager.commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.calls.lock().push((Verb::Rollback, call.clone()));
        self.manager.rollback(branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.manager.in_doubt(coordinator)
    }
}

fn with_two_who_are_told() -> (Coordinator, [Arc<Told>; 2]) {
    let log = MemoryLog::new();
    let told = ["a", "b"].map(|name| Arc::new(Told { manager: manager(name, log.clone()), calls: Mutex::default() }));
    let [a, b] = &told;
    let builder = Coordinator::builder(log).participant("a", Arc::clone(a)).participant("b", Arc::clone(b));
    (builder.open().expect("an empty log opens"), told)
}

/// Found by simulation: a client went on to deliver a decision after its coordinator was dropped,
/// which therefore knew of no open transaction any more. The call's `ended_below` said that
/// everything had ended. The participants forgot the branch at their next checkpoint, and the next
/// coordinator delivered the decision forever without success.
#[test]
fn ended_below_of_a_dropped_coordinator_passes_nothing() {
    let (coordinator, told) = with_two_who_are_told();
    let mut txn = coordinator.begin();
    for told in &told {
        told.manager.execute(txn.branch(told.manager.name()).unwrap(), 2).unwrap();
    }
    let ordinal = txn.id().ordinal();
    let commit = txn.commit();
    drop(coordinator);
    commit.wait().expect("the decision is in the log");
    for told in told {
        let calls = told.calls.lock();
        let (_, call) = calls.iter().find(|(verb, _)| *verb == Verb::Commit).expect("it was told to commit");
        assert!(call.ended_below <= ordinal, "{call:?} says that {ordinal:?} has ended");
    }
}

/// Found by simulation: a client began to commit after its coordinator was dropped, and the next
/// one had already asked what was in doubt. The participants promised, and no coordinator ever told
/// them the outcome.
#[test]
fn nothing_is_promised_to_a_dropped_coordinator() {
    let (coordinator, told) = with_two_who_are_told();
    let mut txn = coordinator.begin();
    for told in &told {
        told.manager.execute(txn.branch(told.manager.name()).unwrap(), 2).unwrap();
    }
    drop(coordinator);
    drop(txn.commit());
    for told in told {
        assert!(told.calls.lock().iter().all(|(verb, _)| *verb != Verb::Prepare));
        assert_eq!(told.manager.status().prepared, 0);
    }
}

/// Found by the stress test: a client delivered a decision after its coordinator was dropped and
/// the next one was opened on the same log. The call said how far that log is durable now, which
/// included the records of the next life. So the participant took the next life for an older copy
/// of the log, and refused it.
#[test]
fn a_commit_held_over_a_reopening_does_not_make_participants_refuse_the_next_life() {
    /// Runs something when a coordinator introduces itself, before the participant hears of it.
    struct Hooked(Manager, Mutex<Option<Box<dyn FnOnce() + Send>>>);
    impl Participant for Hooked {
        fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
            self.0.prepare(branch, call)
        }
        fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.in_doubt(coordinator)
        }
        fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
            let hook = self.1.lock().take();
            hook.into_iter().for_each(|hook| hook());
            self.0.meet(coordinator, life)
        }
    }
    let log = SlowLog::new(Duration::from_millis(30));
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let hooked = Arc::new(Hooked(a.clone(), Mutex::default()));
    let open = || Coordinator::builder(log.clone()).participant("a", hooked.clone()).participant("b", b.clone()).open();
    let coordinator = open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let commit = txn.commit();
    drop(coordinator);
    *hooked.1.lock() = Some(Box::new(move || commit.wait().expect("the decision was in the log")));
    let next = open().expect("it is the next life of the same log");
    assert!(next.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}
