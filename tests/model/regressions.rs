//! Bugs that the search of the protocol's states found, each as it showed to users.
//! The search is in `state_space.rs`.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Name, Participant, Policy, ResourceManager, Service, ServiceError,
    TransactionLog, TxnId, Vote,
    log::{Fact, Heuristic, Lsn, Record},
    participant::Call,
    txn::{Action, CommitProtocol, Input, Remembered},
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

/// A promise was rolled back, the coordinator was told so, and the participant's crash lost the
/// record of the rollback. Then the promise was back, with what it had set aside, and no
/// coordinator would settle it: the coordinator had ended the transaction, and asks what
/// participants hold only when it opens.
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

/// A decision's end is written lazily. `ended_below`, which lets participants forget, used to pass
/// the end before it was durable. A crash then brought the decision back, and its commit was
/// delivered forever to participants that had forgotten it.
#[test]
fn ended_below_does_not_pass_an_end_that_a_crash_can_take_back() {
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
    drop(later); // rolled back: tells `a` the new `ended_below`, and forces nothing
    assert!(coordinator.settle(Duration::from_secs(10)));
    a.checkpoint().unwrap();

    let log = log.crash();
    drop(coordinator);
    let coordinator = open(log);
    assert_eq!(coordinator.recovered().committed, 1, "the end was lost");
    assert!(coordinator.settle(Duration::from_secs(5)), "the commit is acknowledged once more");
}

/// A branch had ended otherwise than decided, and the log had no room for the record of it. The
/// next record found room again, and said that no participant was owed anything any more. After a
/// crash nothing told that the branches had not ended alike.
#[test]
fn an_outcome_that_the_log_refuses_is_not_lost_with_the_next_record() {
    let name = |text: &str| Name::new(text).expect("a valid name");
    let (a, b, coordinator) = (name("a"), name("b"), name("c"));
    let txn = TxnId::new(coordinator.clone(), Epoch::new(1), 1);
    let mut protocol = CommitProtocol::new(txn.clone(), Policy::default());
    let participants = [protocol.enlist(a.clone()), protocol.enlist(b.clone())];
    let (begun, mut log) = (Instant::now(), Vec::new());
    // The log takes every record except those that `is_refused` names.
    let mut feed = |now, input, is_refused: fn(&Fact) -> bool| {
        protocol.handle(now, input);
        while let Some(action) = protocol.poll(now) {
            let Action::Append(fact, _) = action else { continue };
            let refused = is_refused(&fact);
            let taken = (!refused).then(|| Record { owner: coordinator.clone(), fact });
            log.extend(taken);
            let lsn = Lsn::new(log.len() as u64);
            protocol.handle(now, if refused { Input::AppendRefused } else { Input::Appended(lsn) });
            if !refused {
                protocol.handle(now, Input::Durable(lsn));
            }
        }
        Remembered::all(&log).remove(&txn).map(|memory| (memory.owed, memory.heuristics))
    };
    feed(begun, Input::Commit, |_| false);
    for branch in participants {
        feed(begun, Input::Voted(branch, Vote::Yes), |_| false);
    }
    let no_room = |fact: &Fact| matches!(fact, Fact::Heuristic { .. });
    feed(begun, Input::AlreadyRolledBack(participants[0]), no_room);
    let memory = feed(begun, Input::Done(participants[1]), |_| false);
    assert_eq!(memory, Some((vec![a.clone()], Vec::new())), "the next life asks again");
    let later = begun + Duration::from_secs(60);
    let memory = feed(later, Input::Tick, |_| false);
    assert_eq!(memory, Some((Vec::new(), vec![(a, Heuristic::RolledBack)])), "or there is room for it some time");
}
