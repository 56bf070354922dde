//! A sync of the log fails while a decision is being written. The coordinator reports neither
//! commit nor rollback, and tells no participant anything. The next opening of the log settles the
//! transaction, at all participants alike.

use std::{collections::BTreeMap, io, sync::Arc, thread};

use crate::common::{Keep, Op, SimStorage, open_sim};
use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, FileLog, LogError, ResourceManager, Service, ServiceError, TransactionLog,
    txn::RollbackCause,
};

/// What an account has set aside for each branch, and what became of it.
#[derive(Default)]
struct Account {
    states: Mutex<BTreeMap<BranchId, State>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Reserved,
    Confirmed,
    Cancelled,
}

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl Service for Account {
    type Work = u64;
    type Refusal = Never;
    fn try_reserve(&self, branch: &BranchId, _: &u64) -> Result<(), Never> {
        self.states.lock().insert(branch.clone(), State::Reserved);
        Ok(())
    }
    fn confirm(&self, branch: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        self.states.lock().insert(branch.clone(), State::Confirmed);
        Ok(())
    }
    fn cancel(&self, branch: &BranchId, _: &[u64]) -> Result<(), ServiceError> {
        self.states.lock().insert(branch.clone(), State::Cancelled);
        Ok(())
    }
}

impl Account {
    /// By the sequence number of their transactions.
    fn states(&self) -> Vec<(u64, State)> {
        self.states.lock().iter().map(|(branch, state)| (branch.txn().sequence(), *state)).collect()
    }
}

struct House {
    log: Arc<FileLog>,
    coordinator: Coordinator,
    managers: [Arc<ResourceManager<Account>>; 2],
}

impl House {
    fn open(storage: &SimStorage) -> Self {
        let log = Arc::new(open_sim(storage).unwrap());
        let manager = |name| Arc::new(ResourceManager::open(name, log.clone(), Account::default()).unwrap());
        let managers = [manager("goods"), manager("orders")];
        let builder = Coordinator::builder(log.clone()).name("shop");
        let builder = builder.participant("goods", managers[0].clone()).participant("orders", managers[1].clone());
        Self { coordinator: builder.open().unwrap(), log, managers }
    }

    fn commit(&self) -> Result<(), CommitError> {
        let mut txn = self.coordinator.begin();
        for (manager, name) in self.managers.iter().zip(["goods", "orders"]) {
            manager.execute(txn.branch(name).unwrap(), 1).unwrap();
        }
        txn.commit().wait()
    }

    /// The storage as a crash of the process would leave it.
    fn abandon(self) {
        self.log.abandon();
    }
}

#[test]
fn a_decision_whose_sync_failed_is_neither_reported_nor_carried_out() {
    for round in 0..10 {
        let storage = SimStorage::new();
        let house = House::open(&storage);
        house.commit().unwrap();
        storage.fail(Op::Sync, 1, io::ErrorKind::Other);
        let results = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| house.commit())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let (mut indeterminate, mut rolled_back) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Err(CommitError::Indeterminate { txn, error: Some(LogError::Poisoned { .. }), .. }) => {
                    indeterminate.push(txn.sequence());
                }
                // The transaction came so late that a promise was refused: a participant voted No,
                // and nothing was decided.
                Err(CommitError::RolledBack {
                    txn,
                    cause: RollbackCause::Failed { .. } | RollbackCause::VotedNo { .. },
                }) => {
                    rolled_back.push(txn.sequence());
                }
                other => panic!("round {round}: {other:?}"),
            }
        }
        assert!(!indeterminate.is_empty(), "round {round}: no transaction was in flight");
        for manager in &house.managers {
            for (sequence, state) in manager.service().states() {
                if indeterminate.contains(&sequence) {
                    assert_eq!(state, State::Reserved, "round {round}: {sequence} is not decided");
                }
            }
        }
        assert!(matches!(house.log.live(house.coordinator.name()), Err(LogError::Poisoned { .. })));
        let ops = storage.ops();
        assert!(house.commit().is_err());
        assert_eq!(storage.ops(), ops, "nothing is written any more");
        house.abandon();

        // What is really there settles it: the page cache may hold all the records, the medium may
        // not.
        for keep in [Some(Keep::Nothing), Some(Keep::Some(round)), None] {
            let storage = keep.map_or_else(|| storage.clone(), |keep| storage.crash(keep));
            let house = House::open(&storage);
            assert!(house.coordinator.settle(std::time::Duration::from_secs(20)));
            let [goods, orders] = [0, 1].map(|manager| -> BTreeMap<u64, State> {
                house.managers[manager].service().states().into_iter().collect()
            });
            for sequence in &indeterminate {
                let (goods, orders) = (goods.get(sequence), orders.get(sequence));
                let confirmed = |state: Option<&State>| state == Some(&State::Confirmed);
                assert_eq!(confirmed(goods), confirmed(orders), "{sequence} {keep:?}: {goods:?}, {orders:?}");
                assert_ne!(goods, Some(&State::Reserved), "{sequence} is settled");
                assert_ne!(orders, Some(&State::Reserved), "{sequence} is settled");
            }
            for sequence in &rolled_back {
                for state in [goods.get(sequence), orders.get(sequence)] {
                    assert_ne!(state, Some(&State::Confirmed), "{sequence} {keep:?}: it was reported rolled back");
                }
            }
            house.abandon();
        }
    }
}
