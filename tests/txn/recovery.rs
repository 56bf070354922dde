//! A coordinator that is opened again settles what it left behind, wherever it was stopped.

use std::{sync::Arc, time::Duration};

use crate::support::{
    Disk, Manager, manager, manager_on, name,
    wire::{Fate, Sent, Wire},
};
use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Participant, ParticipantError, Policy, TransactionLog, log::Lsn,
    participant::Verb,
};

fn quick() -> Policy {
    Policy::default().first_backoff(Duration::from_millis(2)).delivery_timeout(Duration::from_millis(50))
}

/// The point at which the process stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    WorkDone,
    /// Only the first participant has been asked for its vote.
    FirstPrepared,
    BothPrepared,
    Decided,
    /// Only the first participant has been told.
    FirstToldToCommit,
    BothToldToCommit,
    RolledBackAtTheFirst,
}

struct House {
    log: MemoryLog,
    /// "b" has a log of its own.
    log_of_b: MemoryLog,
    disks: [Disk; 2],
}

impl House {
    fn managers(&self) -> [Manager; 2] {
        [manager_on("a", self.log.clone(), &self.disks[0]), manager_on("b", self.log_of_b.clone(), &self.disks[1])]
    }

    fn crash(&self) -> Self {
        Self { log: self.log.crash(), log_of_b: self.log_of_b.crash(), disks: self.disks.clone() }
    }

    /// The coordinator's process crashes, and "b" goes on, having lost nothing.
    fn crash_of_coordinator(&self) -> Self {
        self.log_of_b.wait(Lsn::new(u64::MAX)).unwrap();
        self.crash()
    }
}

/// Runs one transaction up to the stage. Messages beyond it stay on the wires.
fn run_to(stage: Stage, house: &House) -> bool {
    let [a, b] = house.managers();
    let fate = move |of_first: bool| {
        move |sent| match (stage, sent) {
            (Stage::FirstPrepared, Sent::Branch(Verb::Prepare)) if !of_first => Fate::HoldRequest,
            (Stage::BothPrepared, Sent::Branch(Verb::Prepare)) if !of_first => Fate::HoldReply,
            (Stage::Decided, Sent::Branch(Verb::Commit)) => Fate::HoldRequest,
            (Stage::FirstToldToCommit, Sent::Branch(Verb::Commit)) if !of_first => Fate::HoldRequest,
            (Stage::BothToldToCommit, Sent::Branch(Verb::Commit)) => Fate::HoldReply,
            (Stage::RolledBackAtTheFirst, Sent::Branch(Verb::Rollback)) if !of_first => Fate::HoldRequest,
            _ => Fate::Deliver,
        }
    };
    let (to_a, to_b) = (Wire::new(a.clone(), fate(true)), Wire::new(b.clone(), fate(false)));
    let builder = Coordinator::builder(house.log.clone()).policy(quick());
    let coordinator = builder.endpoint("a", to_a).endpoint("b", to_b).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    match stage {
        Stage::WorkDone => drop((coordinator, txn)), // in this order: no coordinator is left to roll it back
        Stage::RolledBackAtTheFirst => drop(txn),
        Stage::FirstPrepared | Stage::BothPrepared => drop(txn.commit()),
        Stage::Decided | Stage::FirstToldToCommit | Stage::BothToldToCommit => return txn.commit().wait().is_ok(),
    }
    false
}

#[test]
fn wherever_the_process_stops_the_outcome_is_all_or_nothing_and_nothing_stays_reserved() {
    let stages = [
        Stage::WorkDone,
        Stage::FirstPrepared,
        Stage::BothPrepared,
        Stage::Decided,
        Stage::FirstToldToCommit,
        Stage::BothToldToCommit,
        Stage::RolledBackAtTheFirst,
    ];
    for stage in stages {
        // The processes stop together, or the coordinator's alone.
        for whole_house in [true, false] {
            let house = House { log: MemoryLog::new(), log_of_b: MemoryLog::new(), disks: Default::default() };
            let told = run_to(stage, &house);
            let house = if whole_house { house.crash() } else { house.crash_of_coordinator() };
            let mut last = Epoch::default();
            for _ in 2..4 {
                let [a, b] = house.managers();
                let builder = Coordinator::builder(house.log.clone()).policy(quick());
                let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
                assert!(coordinator.epoch() > last, "epochs grow at each opening");
                last = coordinator.epoch();
                assert_eq!(coordinator.status().in_doubt(), 0, "{stage:?}: inline participants are settled at opening");
                let balances = [&a, &b].map(|manager| manager.service().balance());
                assert_eq!(balances, if told { [2, 2] } else { [0, 0] }, "{stage:?}, whole house: {whole_house}");
                for manager in [&a, &b] {
                    assert!(manager.service().reserved.lock().is_empty(), "{stage:?}: left reserved");
                    assert_eq!(manager.in_doubt(coordinator.name()).unwrap(), [] as [BranchId; 0], "{stage:?}");
                }
                assert!(told || coordinator.recovered().committed == 0);
            }
        }
    }
}

/// A participant that is down when the coordinator opens is asked until it answers, and then
/// settled.
#[test]
fn a_participant_that_answers_later_is_settled_then_and_delays_no_other() {
    let house = House { log: MemoryLog::new(), log_of_b: MemoryLog::new(), disks: Default::default() };
    run_to(Stage::BothPrepared, &house);
    let house = house.crash();
    let [a, b] = house.managers();
    assert_eq!((a.status().prepared, b.status().prepared), (0, 1), "a shares the log and its promise was not synced");
    let mut asked = 0;
    let wire = Wire::new(b.clone(), move |sent| match sent {
        Sent::InDoubt if asked < 3 => {
            asked += 1;
            Fate::LoseRequest
        }
        _ => Fate::Deliver,
    });
    let policy = quick().first_backoff(Duration::from_millis(20));
    let builder = Coordinator::builder(house.log.clone()).policy(policy);
    let coordinator = builder.participant("a", a.clone()).endpoint("b", wire.clone()).open().unwrap();
    assert_eq!((coordinator.recovered().unanswered, coordinator.status().unanswered), (1, 1));
    assert_eq!(b.service().reserved.lock().len(), 1, "not yet");
    // Meanwhile new transactions work, also with that participant.
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 4).unwrap();
    b.execute(txn.branch("b").unwrap(), 4).unwrap();
    txn.commit().wait().unwrap();
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((coordinator.recovered().rolled_back, coordinator.recovered().unanswered), (1, 0));
    assert!(b.service().reserved.lock().is_empty());
    assert_eq!((a.service().balance(), b.service().balance()), (4, 4));
    assert_eq!(wire.times_sent(Sent::InDoubt), 4);
}

/// Found in review: a request that got no answer at all, not even that there will be none, was
/// never repeated, and the branches of earlier epochs stayed in doubt as long as the coordinator
/// lived.
#[test]
fn an_unanswered_question_is_repeated() {
    let log_of_b = MemoryLog::new();
    let b = manager("b", log_of_b);
    let mut kept = false;
    let wire = Wire::new(b.clone(), move |sent| match sent {
        Sent::InDoubt if !std::mem::replace(&mut kept, true) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let log = MemoryLog::new();
    let old = Coordinator::builder(log.clone()).participant("b", b.clone()).open().unwrap();
    let mut txn = old.begin();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    std::mem::forget(txn);
    drop(old);
    let coordinator = Coordinator::builder(log).policy(quick()).endpoint("b", wire.clone()).open().unwrap();
    assert!(coordinator.settle(Duration::from_secs(5)), "the coordinator did not ask again");
    assert!(b.service().reserved.lock().is_empty());
    assert_eq!(coordinator.recovered().rolled_back, 1);
    wire.release(); // the first answer after all: it changes nothing
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((coordinator.recovered().rolled_back, wire.times_sent(Sent::Branch(Verb::Rollback))), (1, 1));
}

#[test]
fn a_decision_for_a_missing_participant_waits_for_it_and_delays_no_other() {
    let house = House { log: MemoryLog::new(), log_of_b: MemoryLog::new(), disks: Default::default() };
    assert!(run_to(Stage::Decided, &house));
    let house = house.crash();
    let [a, b] = house.managers();
    let without_b = Coordinator::builder(house.log.clone()).policy(quick()).participant("a", a.clone()).open().unwrap();
    assert_eq!((without_b.recovered().committed, without_b.status().settling), (1, 1));
    // It does answer, if it is asked: the operator must hear that it is not.
    let branches = without_b.status().transactions[0].branches.clone();
    let of_b = branches.iter().find(|branch| branch.participant.as_str() == "b").unwrap();
    assert!(matches!(of_b.last_error, Some(ParticipantError::NotRegistered)), "{of_b:?}");
    assert!(without_b.status().to_string().contains("opened without this participant"), "{}", without_b.status());
    assert_eq!((a.service().balance(), b.service().balance()), (2, 0));
    let mut txn = without_b.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    drop(without_b);
    let with_b = Coordinator::builder(house.log.clone()).participant("a", a.clone()).participant("b", b.clone());
    let with_b = with_b.open().unwrap();
    assert!(with_b.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), b.service().balance()), (4, 2));
}

#[test]
fn the_coordinators_log_forgets_what_has_ended() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let builder = Coordinator::builder(log.clone()).name("shop");
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    for _ in 0..100 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
    }
    assert_eq!(log.live(&name("shop")).unwrap().len(), 1, "its epoch, and nothing else");
    drop((coordinator, Arc::clone(&a)));
}
