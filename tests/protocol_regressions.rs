//! Bugs that the search of the protocol's states found, each as it showed outside. See `protocol_model.rs`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Name, Participant, ResourceManager, Service, ServiceError, TransactionLog,
    TxnId, Vote, participant::Call,
};

/// Takes any work and does nothing.
struct Idle;

impl Service for Idle {
    type Work = u8;
    type Refusal = Infallible;
    fn try_reserve(&self, _: &BranchId, _: &u8) -> Result<(), Infallible> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[u8]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[u8]) -> Result<(), ServiceError> {
        Ok(())
    }
}

fn manager(name: &str, log: MemoryLog) -> Arc<ResourceManager<Idle>> {
    Arc::new(ResourceManager::open(name, log, Idle).expect("the log opens"))
}

/// A promise was rolled back, the coordinator told so, and the record of it lost in the participant's crash. The
/// promise was then back, with what it had set aside, and nobody left to ask: the coordinator had ended the
/// transaction, and asks what participants hold only when it opens.
#[test]
fn a_rolled_back_promise_does_not_come_back_with_the_participants_crash() {
    let (log, coordinators) = (MemoryLog::new(), MemoryLog::new());
    let coordinator = Name::new("c").expect("a valid name");
    let goods = manager("goods", log.clone());
    let branch = TxnId::new(coordinator.clone(), Epoch::new(1), 1).branch(goods.name());
    let call = Call::new(coordinators.id());
    goods.execute(&branch, 1).unwrap();
    assert_eq!(goods.prepare(&branch, &call).unwrap(), Vote::Yes);
    goods.rollback(&branch, &call).unwrap();

    let goods = manager("goods", log.crash());
    assert_eq!(goods.in_doubt(&coordinator).unwrap(), []);
}

/// A decision's end is written lazily. The mark that lets participants forget used to pass it before it was durable:
/// a crash brought the decision back, and its commit was delivered for ever to participants that had forgotten it.
#[test]
fn the_mark_does_not_pass_an_end_that_a_crash_can_take_back() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let open = |log: MemoryLog| {
        let builder = Coordinator::builder(log).participant("a", Arc::clone(&a)).participant("b", Arc::clone(&b));
        builder.open().expect("the log opens")
    };
    let coordinator = open(log.clone());
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 1).unwrap();
    b.execute(txn.branch("b").unwrap(), 1).unwrap();
    txn.commit().wait().unwrap();
    let mut later = coordinator.begin();
    a.execute(later.branch("a").unwrap(), 1).unwrap();
    drop(later); // rolled back: tells `a` the mark, and forces nothing
    assert!(coordinator.settle(Duration::from_secs(10)));
    a.checkpoint().unwrap();

    let log = log.crash();
    drop(coordinator);
    let coordinator = open(log);
    assert_eq!(coordinator.recovered().committed, 1, "the end was lost");
    assert!(coordinator.settle(Duration::from_secs(5)), "the commit is acknowledged once more");
}
