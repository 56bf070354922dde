//! The status shows every open transaction, without waiting for a participant that hangs.

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Refused, eventually, manager,
    scripted::{Scripted, broken},
    wire::{Fate, Sent, Wire},
};
use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, MemoryLog, ResourceManager, Service, ServiceError,
    participant::Verb,
    txn::{BranchState, TransactionState},
};

const SOON: Duration = Duration::from_secs(5);

/// Hangs in `confirm` until the test releases it.
struct Hanging(Mutex<mpsc::Receiver<()>>);

impl Service for Hanging {
    type Work = i64;
    type Refusal = Refused;
    fn try_reserve(&self, _: &BranchId, _: &i64) -> Result<(), Refused> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        let _ = self.0.lock().recv();
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        Ok(())
    }
}

#[test]
fn a_branch_that_hangs_in_a_service_does_not_delay_the_status() {
    let (let_go, hangs) = mpsc::channel();
    let log = MemoryLog::new();
    let a = manager("a", log.clone());
    let b = Arc::new(ResourceManager::open("b", log.clone(), Hanging(Mutex::new(hangs))).unwrap());
    let builder = Coordinator::builder(log).participant("a", a.clone());
    let coordinator = builder.slow_participant("b", b.clone(), NonZeroUsize::new(1).unwrap()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let id = txn.id().clone();
    drop(txn.commit());
    eventually("b is at it", SOON, || a.service().balance() == 2 && b.status().settling == 1);
    let asked = Instant::now();
    let status = coordinator.status();
    assert!(asked.elapsed() < Duration::from_millis(200), "it waited: {:?}", asked.elapsed());
    let [open] = &status.transactions[..] else { panic!("{status}") };
    assert_eq!((&open.txn, open.state), (&id, TransactionState::Committing));
    let states: Vec<_> = open.branches.iter().map(|branch| (branch.participant.as_str(), branch.state)).collect();
    assert_eq!(states, [("b", BranchState::Told), ("a", BranchState::Done)]);
    assert_eq!((status.settling, status.in_doubt()), (1, 1));
    let_go.send(()).unwrap();
    assert!(coordinator.settle(SOON));
    assert!(coordinator.status().transactions.is_empty());
}

/// The branch hangs on the client's own thread.
#[test]
fn a_branch_that_hangs_on_the_committing_thread_does_not_delay_the_status() {
    let (let_go, hangs) = mpsc::channel();
    let log = MemoryLog::new();
    let b = Arc::new(ResourceManager::open("b", log.clone(), Hanging(Mutex::new(hangs))).unwrap());
    let coordinator = Coordinator::builder(log).participant("b", b.clone()).open().unwrap();
    thread::scope(|scope| {
        let mut txn = coordinator.begin();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        let client = scope.spawn(|| txn.commit().wait());
        eventually("it is at it", SOON, || coordinator.status().settling == 1 && b.status().settling == 1);
        assert_eq!(coordinator.status().transactions[0].state, TransactionState::Delegated);
        let_go.send(()).unwrap();
        client.join().unwrap().unwrap();
    });
}

#[test]
fn it_shows_failed_attempts_and_the_last_error() {
    let (a, b) = (Scripted::new(), Scripted::failing(Verb::Commit, broken()));
    let builder = Coordinator::builder(MemoryLog::new()).name("c");
    let coordinator = builder.participant("a", a).participant("b", b.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit().wait().unwrap();
    let mut status = coordinator.status();
    eventually("a few attempts have failed, and none is under way", SOON, || {
        status = coordinator.status();
        let branch = &status.transactions[0].branches[1];
        branch.state == BranchState::Failing && branch.failures >= 2
    });
    let page = status.to_string();
    assert!(page.contains(&format!("{}: committing, for ", status.transactions[0].txn)), "{page}");
    assert!(
        page.contains("b: failing, ")
            && page.contains(" failed attempts, last: ")
            && page.contains("the test wants it broken"),
        "{page}"
    );
    b.mend();
    assert!(coordinator.settle(SOON));
}

#[test]
fn it_names_participants_that_have_not_said_what_they_hold() {
    let log = MemoryLog::new();
    let b = manager("b", log.clone());
    let wire = Wire::new(b, |sent| if sent == Sent::InDoubt { Fate::LoseRequest } else { Fate::Deliver });
    let coordinator = Coordinator::builder(log).endpoint("b", wire).open().unwrap();
    let status = coordinator.status();
    assert_eq!((status.unanswered, status.in_doubt()), (1, 1));
    let (participant, error) = status.unanswered_by.first_key_value().unwrap();
    assert!(participant.as_str() == "b" && error.as_ref().unwrap().to_string().contains("did not answer"), "{status}");
}
