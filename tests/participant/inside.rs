//! A service that comes back to its own resource manager from inside its methods is answered. It used
//! to wait for the lock that its own thread held, without end.

use std::{
    sync::{Arc, OnceLock, Weak},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, MemoryLog, Participant, ResourceManager, Service, ServiceError, Vote, error_chain,
    participant::ExecuteError,
};

use crate::txn_support::{Op, Refused, branch, call};

/// Calls its own resource manager from each of its methods, and notes what it is told.
#[derive(Default)]
struct Looped {
    manager: OnceLock<Weak<ResourceManager<Self>>>,
    told: Mutex<Vec<(Op, String)>>,
}

impl Looped {
    fn manager(&self) -> Arc<ResourceManager<Self>> {
        self.manager.get().unwrap().upgrade().unwrap()
    }

    fn execute(&self, op: Op, branch: &BranchId) {
        let inside = self.manager().execute(branch, 2);
        let Err(ExecuteError::Inside { branch: of }) = &inside else { panic!("{inside:?}") };
        assert_eq!(of, branch);
        self.told.lock().push((op, inside.unwrap_err().to_string()));
    }
}

impl Service for Looped {
    type Work = i64;
    type Refusal = Refused;

    fn try_reserve(&self, branch: &BranchId, _: &i64) -> Result<(), Refused> {
        self.execute(Op::Try, branch);
        Ok(())
    }

    fn confirm(&self, branch: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        self.execute(Op::Confirm, branch);
        Ok(())
    }

    fn cancel(&self, branch: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        self.execute(Op::Cancel, branch);
        Ok(())
    }

    fn checkpoint(&self) -> Result<(), ServiceError> {
        let inside = self.manager().checkpoint().unwrap_err();
        self.told.lock().push((Op::Checkpoint, error_chain(&*inside)));
        Ok(())
    }
}

#[test]
fn a_service_that_calls_back_for_its_own_branch_or_checkpoint_is_told_so() {
    let a = Arc::new(ResourceManager::open("a", MemoryLog::new(), Looped::default()).unwrap());
    a.service().manager.set(Arc::downgrade(&a)).unwrap();
    let client = Arc::clone(&a);
    let thread = thread::spawn(move || {
        let (one, other) = (branch(1, "a"), branch(2, "a"));
        client.execute(&one, 2).unwrap();
        client.execute(&other, 2).unwrap();
        assert_eq!(client.prepare(&one, &call()).unwrap(), Vote::Yes, "what was refused inside has doomed nothing");
        client.commit(&one, &call()).unwrap();
        client.rollback(&other, &call()).unwrap();
        client.checkpoint().unwrap();
    });
    crate::txn_support::eventually("no call hangs", Duration::from_secs(10), || thread.is_finished());
    thread.join().unwrap();
    let told = a.service().told.lock();
    let ops: Vec<_> = told.iter().map(|(op, _)| *op).collect();
    assert_eq!(ops, [Op::Try, Op::Try, Op::Confirm, Op::Cancel, Op::Checkpoint]);
    assert!(told[0].1.contains("while it works at that branch"), "{}", told[0].1);
    assert!(told[4].1.contains("leave out that call"), "{}", told[4].1);
}
