//! Bugs that the search of the protocol's states found, each as it showed outside. See `protocol_model.rs`.

use std::{convert::Infallible, sync::Arc};

use ringpact::{
    BranchId, Epoch, MemoryLog, Name, Participant, ResourceManager, Service, ServiceError, TransactionLog, TxnId, Vote,
    participant::Call,
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
