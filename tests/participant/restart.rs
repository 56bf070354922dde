//! What a restart restores: promises, in the order in which they were made, and nothing else. Or a
//! clear error.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use ringpact::{
    BranchId, MemoryLog, Participant, ParticipantError, ResourceManager, Service, ServiceError, TransactionLog, Vote,
    log::{Durability, Fact, Record},
    participant::{BranchTrouble, Life, OpenError},
};

use crate::txn_support::{self, Account, Disk, Fault, Op, branch, call, manager_on};

fn prepared(manager: &txn_support::Manager, sequence: u64, amounts: &[i64]) -> BranchId {
    let branch = branch(sequence, manager.name().as_str());
    for amount in amounts {
        manager.execute(&branch, *amount).unwrap();
    }
    assert_eq!(manager.prepare(&branch, &call()).unwrap(), Vote::Yes);
    branch
}

#[test]
fn only_promises_in_doubt_are_restored_and_in_the_order_of_the_log() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    // Their order in the log differs from that of their numbers and from that of their work.
    let sevenfold = prepared(&a, 7, &[2, 4]);
    let committed = prepared(&a, 3, &[6]);
    let rolled_back = prepared(&a, 9, &[8]);
    let last = prepared(&a, 1, &[10]);
    a.execute(&branch(2, "a"), 12).unwrap();
    a.commit(&committed, &call()).unwrap();
    a.rollback(&rolled_back, &call()).unwrap();
    log.wait(
        log.append(
            Record { owner: txn_support::name("other"), fact: Fact::Ended { txn: last.txn().clone() } },
            Durability::Forced,
        )
        .unwrap(),
    )
    .unwrap();
    drop(a);

    let a = manager_on("a", log.crash(), &disk);
    assert_eq!(a.service().asked(Op::Restore), [sevenfold.clone(), last.clone()]);
    assert_eq!(a.service().asked(Op::Confirm), [committed]);
    assert_eq!(a.service().asked(Op::Try), [], "the work of branches that had not promised is void");
    assert_eq!(a.service().reserved.lock().get(&sevenfold), Some(&6));
    assert_eq!((a.status().prepared, a.status().active), (2, 0));
    a.commit(&sevenfold, &call()).unwrap();
    a.rollback(&last, &call()).unwrap();
    assert_eq!((a.service().balance(), a.service().reserved.lock().len()), (12, 0));
}

/// One branch that could not be restored used to keep the whole resource manager from opening, and
/// with it every coordinator that needed it.
#[test]
fn a_branch_that_cannot_be_restored_is_shown_and_does_not_keep_others_from_opening() {
    for (op, fault) in [(Op::Restore, Fault::Fail), (Op::Confirm, Fault::Fail), (Op::Restore, Fault::Panic)] {
        let (log, disk) = (MemoryLog::new(), Disk::default());
        let a = manager_on("a", log.clone(), &disk);
        let (first, second, third) = (prepared(&a, 1, &[2]), prepared(&a, 2, &[4]), prepared(&a, 3, &[8]));
        a.commit(&first, &call()).unwrap();
        drop(a);
        let log = log.crash();
        let account = Account::on(&disk);
        account.fail(op, [fault]);
        let a = ResourceManager::open("a", log.clone(), account).unwrap();
        let [trouble] = &a.status().troubled[..] else { panic!("{:?}", a.status()) };
        let concerned = if op == Op::Restore { &second } else { &first };
        assert_eq!(trouble.branch(), concerned, "{trouble}");
        let what = if op == Op::Restore { "restore branch" } else { "confirm branch" };
        assert!(trouble.to_string().contains(&format!("{what} {concerned}")), "{trouble}");
        // Nothing of it is lost, the others are not touched, and work goes on. The next message, and
        // a checkpoint at any time, has it tried again.
        let asked = a.service().asked(op).len();
        a.service().fail(op, [fault, fault]);
        a.execute(&branch(4, "a"), 16).unwrap();
        assert_eq!(&a.service().asked(op)[asked..], std::slice::from_ref(concerned), "tried again at the next call");
        assert_eq!(a.status().troubled.len(), 1);
        a.checkpoint().unwrap();
        assert_eq!((a.service().asked(op).len(), a.status().troubled.len()), (asked + 2, 1), "{:?}", a.status());
        a.commit(&third, &call()).unwrap();
        assert_eq!(a.prepare(&branch(4, "a"), &call()).unwrap(), Vote::Yes);
        a.checkpoint().unwrap();
        assert!(a.status().troubled.is_empty(), "mended at the checkpoint, if no call came first");
        assert_eq!(a.service().balance(), 10);
        a.commit(&second, &call()).unwrap();
        assert_eq!(a.service().balance(), 14);
        drop(a);
        let a = manager_on("a", log, &disk);
        assert_eq!(a.in_doubt(&txn_support::name("c")).unwrap(), [branch(4, "a")]);
        assert_eq!(a.service().balance(), 14, "opened again, all of it is there");
    }
}

/// The coordinator of such a branch may be told already that it is done. Then no message comes for
/// it, and a checkpoint may be a thousand commits away, so any other message has it tried again.
#[test]
fn one_error_at_opening_is_mended_by_the_next_message_about_anything() {
    type Message = fn(&txn_support::Manager);
    let messages: [(&str, Message); 6] = [
        ("execute", |a| a.execute(&branch(9, "a"), 2).unwrap()),
        ("prepare", |a| drop(a.prepare(&branch(9, "a"), &call()))),
        ("commit", |a| drop(a.commit(&branch(9, "a"), &call()))),
        ("rollback", |a| a.rollback(&branch(9, "a"), &call()).unwrap()),
        ("in_doubt", |a| drop(a.in_doubt(&txn_support::name("d")))),
        ("meet", |a| drop(a.meet(&txn_support::name("d"), &Life::default()))),
    ];
    for (op, fault) in [(Op::Confirm, Fault::Fail), (Op::Confirm, Fault::Panic), (Op::Restore, Fault::Fail)] {
        for (message, send) in messages {
            let (log, disk) = (MemoryLog::new(), Disk::default());
            let a = manager_on("a", log.clone(), &disk);
            let (committed, promised) = (prepared(&a, 1, &[2]), prepared(&a, 2, &[4]));
            a.commit(&committed, &call()).unwrap();
            drop(a);
            let account = Account::on(&disk);
            account.fail(op, [fault]);
            let a = Arc::new(ResourceManager::open("a", log.crash(), account).unwrap());
            assert_eq!(a.status().troubled.len(), 1);
            send(&a);
            assert!(a.status().troubled.is_empty(), "{message} has {op:?} tried again: {:?}", a.status());
            assert_eq!(a.service().balance(), 2);
            assert_eq!(a.service().reserved.lock().get(&promised), Some(&4));
        }
    }
}

/// A service that fails for longer is asked with pauses, and a branch at which it always fails does
/// not keep the others from being mended.
#[test]
fn errors_that_last_are_tried_again_with_pauses() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let branches: Vec<_> = (1..=40).map(|n| prepared(&a, n, &[2])).collect();
    branches.iter().for_each(|branch| a.commit(branch, &call()).unwrap());
    drop(a);
    let account = Account::on(&disk);
    account.fail(Op::Confirm, [Fault::Fail; 42]);
    let a = ResourceManager::open("a", log.crash(), account).unwrap();
    assert_eq!(a.status().troubled.len(), 40);
    for _ in 0..1000 {
        a.in_doubt(&txn_support::name("d")).unwrap();
    }
    let asked = a.service().asked(Op::Confirm).len();
    assert!((41..=80).contains(&asked), "one call fails once, and a thousand calls do not each: {asked}");
    txn_support::eventually("all are mended", std::time::Duration::from_secs(10), || {
        a.in_doubt(&txn_support::name("d")).unwrap();
        a.status().troubled.is_empty()
    });
    assert_eq!((a.service().balance(), a.service().asked(Op::Confirm).len()), (80, 40 + 42));
}

/// A promise that the service can't restore is not committed, and can be rolled back.
#[test]
fn a_promise_that_stays_unrestorable_is_refused_and_can_be_rolled_back() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let broken = prepared(&a, 1, &[2]);
    drop(a);
    let account = Account::on(&disk);
    account.fail(Op::Restore, [Fault::Fail, Fault::Fail]);
    let a = ResourceManager::open("a", log.crash(), account).unwrap();
    let error = a.commit(&broken, &call()).unwrap_err();
    assert!(ringpact::error_chain(&error).contains("could not restore"), "{error}");
    a.rollback(&broken, &call()).unwrap();
    assert!(a.status().troubled.is_empty());
    assert_eq!((a.service().balance(), a.in_doubt(&txn_support::name("c")).unwrap().len()), (0, 0));
}

/// The same log, opened by other versions of the service.
macro_rules! service_with_work {
    ($name:ident, $work:ty) => {
        struct $name;
        impl Service for $name {
            type Work = $work;
            type Refusal = txn_support::Refused;
            fn try_reserve(&self, _: &BranchId, _: &$work) -> Result<(), txn_support::Refused> {
                Ok(())
            }
            fn confirm(&self, _: &BranchId, _: &[$work]) -> Result<(), ServiceError> {
                Ok(())
            }
            fn cancel(&self, _: &BranchId, _: &[$work]) -> Result<(), ServiceError> {
                Ok(())
            }
        }
    };
}
service_with_work!(OfPairs, (u8, u8));
service_with_work!(OfBytes, u8);
service_with_work!(OfTexts, String);

#[test]
fn work_of_another_version_of_the_service_is_refused_and_kept() {
    let log = MemoryLog::new();
    let pairs = ResourceManager::open("a", log.clone(), OfPairs).unwrap();
    let branch = branch(1, "a");
    pairs.execute(&branch, (1, 200)).unwrap();
    pairs.prepare(&branch, &call()).unwrap();
    drop(pairs);
    let log = log.crash();
    let texts = ResourceManager::open("a", log.clone(), OfTexts).unwrap();
    let [error] = &texts.status().troubled[..] else { panic!("{:?}", texts.status()) };
    assert!(matches!(&error, BranchTrouble::Unreadable { branch: of, .. } if *of == branch), "{error}");
    assert!(error.to_string().contains("service version that wrote it"), "{error}");
    for answer in [texts.commit(&branch, &call()), texts.rollback(&branch, &call())] {
        assert!(ringpact::error_chain(&answer.unwrap_err()).contains("can't be read"), "it answers by its trouble");
    }
    assert_eq!(texts.in_doubt(&txn_support::name("c")).unwrap(), std::slice::from_ref(&branch));
    texts.execute(&self::branch(2, "a"), "others go on".to_owned()).unwrap();
    drop(texts);
    let pairs = ResourceManager::open("a", log, OfPairs).unwrap();
    assert_eq!(pairs.in_doubt(&txn_support::name("c")).unwrap(), [branch]);
}

/// Found in review: the decoder stops at the end of its type. So work of which a version of the
/// service reads only the beginning was taken for other, valid work.
#[test]
fn work_of_which_only_the_beginning_can_be_read_is_refused() {
    let log = MemoryLog::new();
    let pairs = ResourceManager::open("a", log.clone(), OfPairs).unwrap();
    let branch = branch(1, "a");
    pairs.execute(&branch, (1, 100)).unwrap();
    pairs.prepare(&branch, &call()).unwrap();
    let bytes = ResourceManager::open("a", log.crash(), OfBytes).unwrap();
    let [error] = &bytes.status().troubled[..] else { panic!("{:?}", bytes.status()) };
    assert!(matches!(&error, BranchTrouble::Unreadable { branch: of, .. } if *of == branch), "{error}");
}

#[test]
fn a_commit_without_its_work_is_refused() {
    let log = MemoryLog::new();
    let branch = branch(1, "a");
    let fact = Fact::Committed { txn: branch.txn().clone(), work: None };
    log.append(Record { owner: txn_support::name("a"), fact }, Durability::Forced).unwrap();
    let bytes = ResourceManager::open("a", log, OfBytes).unwrap();
    let [error] = &bytes.status().troubled[..] else { panic!("{:?}", bytes.status()) };
    assert!(matches!(&error, BranchTrouble::Incomplete { branch: of } if *of == branch), "{error}");
    assert!(bytes.commit(&branch, &call()).is_err());
}

#[test]
fn a_log_that_is_closed_is_an_error_and_so_is_a_bad_name() {
    let log = MemoryLog::new();
    drop(log.crash());
    assert!(matches!(ResourceManager::open("a", log, OfBytes).map(drop), Err(OpenError::Log(_))));
    assert!(matches!(ResourceManager::open("a b", MemoryLog::new(), OfBytes).map(drop), Err(OpenError::Name(_))));
}

/// Found in review ("hanging try"): work came so late that its transaction had ended, and the
/// manager had lost the tombstone in a restart. No message would ever have ended that branch.
#[test]
fn work_that_comes_late_and_after_a_restart_is_undone_at_the_next_checkpoint() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let (ended, next, open) = (branch(1, "a"), branch(2, "a"), branch(3, "a"));
    a.rollback(&ended, &call()).unwrap();
    drop(a);
    let a = manager_on("a", log.crash(), &disk);
    for branch in [&ended, &next, &open] {
        a.execute(branch, 2).unwrap();
    }
    let mut call = call();
    call.ended_below = next.txn().ordinal();
    a.prepare(&next, &call).unwrap();
    a.service().fail(Op::Cancel, [Fault::Fail]);
    a.checkpoint().unwrap();
    assert!(a.service().reserved.lock().contains_key(&ended), "the cancel failed and is tried again at the next one");
    a.checkpoint().unwrap();
    let left: Vec<_> = a.service().reserved.lock().keys().cloned().collect();
    assert_eq!(left, [next.clone(), open.clone()], "what has not ended is left alone");
    assert_eq!(a.in_doubt(&txn_support::name("c")).unwrap().len(), 2);
    assert!(a.execute(&ended, 2).is_err());
}

/// A service like a database: what is set aside survives a restart, and so does what is bought.
/// Fails to open when the test says so.
#[derive(Clone, Default)]
struct Lasting(Arc<Mutex<Rows>>);

#[derive(Default)]
struct Rows {
    reserved: BTreeMap<BranchId, i64>,
    bought: BTreeMap<BranchId, i64>,
    opened: Vec<Vec<BranchId>>,
    fails: Option<txn_support::Fault>,
}

impl Service for Lasting {
    type Work = i64;
    type Refusal = txn_support::Refused;
    fn try_reserve(&self, branch: &BranchId, work: &i64) -> Result<(), txn_support::Refused> {
        *self.0.lock().reserved.entry(branch.clone()).or_default() += work;
        Ok(())
    }
    fn confirm(&self, branch: &BranchId, works: &[i64]) -> Result<(), ServiceError> {
        let mut rows = self.0.lock();
        rows.reserved.remove(branch);
        rows.bought.insert(branch.clone(), works.iter().sum());
        Ok(())
    }
    fn cancel(&self, branch: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        self.0.lock().reserved.remove(branch);
        Ok(())
    }
    fn restore(&self, _: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        let mut rows = self.0.lock();
        match rows.fails.take() {
            Some(txn_support::Fault::Fail) => return Err("the database is down".into()),
            Some(txn_support::Fault::Panic) => panic!("the test wants this to panic"),
            None => {}
        }
        rows.opened.push(promised.to_vec());
        rows.reserved.retain(|branch, _| promised.contains(branch));
        Ok(())
    }
}

/// The documentation of `restore` said to do nothing there. Then what unpromised branches had set
/// aside stayed set aside forever.
#[test]
fn a_service_whose_reservations_survive_gives_back_those_of_branches_that_had_not_promised() {
    let (log, database) = (MemoryLog::new(), Lasting::default());
    let open = |log: &MemoryLog| ResourceManager::open("a", log.clone(), database.clone());
    let a = open(&log).unwrap();
    let [working, promised, committed, undone, alone, looked] = [1, 2, 3, 4, 5, 6].map(|number| branch(number, "a"));
    for branch in [&working, &promised, &committed, &undone, &alone] {
        a.execute(branch, 2).unwrap();
    }
    for branch in [&promised, &committed, &undone] {
        a.prepare(branch, &call()).unwrap();
    }
    a.commit(&committed, &call()).unwrap();
    a.rollback(&undone, &call()).unwrap();
    a.commit_one_phase(&alone, &call()).unwrap();
    drop(a);
    let log = log.crash();
    let a = open(&log).unwrap();
    assert_eq!(database.0.lock().opened, [vec![], vec![promised.clone()]], "once at each opening");
    assert_eq!(database.0.lock().reserved.keys().collect::<Vec<_>>(), [&promised], "it has what it needs, and no more");
    assert_eq!(database.0.lock().bought.keys().collect::<Vec<_>>(), [&committed, &alone]);
    // The promised branch goes on as before, and work that comes after the opening is not taken for
    // a leftover.
    a.execute(&looked, 2).unwrap();
    a.commit(&promised, &call()).unwrap();
    assert_eq!(database.0.lock().reserved.keys().collect::<Vec<_>>(), [&looked]);
    assert!(matches!(a.prepare(&working, &call()), Err(ParticipantError::Refused(_))));
}

/// What it holds would stay set aside forever, because `opened` is called once at each opening.
#[test]
fn a_service_that_cannot_give_back_what_it_holds_does_not_open() {
    let (log, database) = (MemoryLog::new(), Lasting::default());
    for fault in [txn_support::Fault::Fail, txn_support::Fault::Panic] {
        database.0.lock().fails = Some(fault);
        let error = ResourceManager::open("a", log.clone(), database.clone()).map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Service(_)), "{error}");
    }
    ResourceManager::open("a", log, database).unwrap();
}
