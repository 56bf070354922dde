//! A checkpoint lets the log forget. Until then, what was committed is confirmed again after a
//! crash.

use std::sync::Arc;

use parking_lot::Mutex;
use ringpact::{
    BranchId, Coordinator, Epoch, MemoryLog, Name, Participant, ParticipantError, ResourceManager, Service,
    ServiceError, TransactionLog, TxnOrdinal,
    participant::{Call, MAX_REMEMBERED_OUTCOMES},
};

use crate::txn_support::{self, Account, Disk, Fault, Op, branch, call, manager_on, name};

/// A call that says that all transactions before this one have ended.
fn call_of(branch: &BranchId) -> Call {
    let mut call = call();
    call.ended_below = branch.txn().ordinal();
    call
}

fn commit(manager: &txn_support::Manager, branch: &BranchId) {
    manager.execute(branch, 2).unwrap();
    manager.prepare(branch, &call_of(branch)).unwrap();
    manager.commit(branch, &call_of(branch)).unwrap();
}

#[test]
fn the_log_stays_bounded_under_many_commits() {
    let log = MemoryLog::new();
    let open = |name: &str| {
        let options = ResourceManager::<Account>::options().checkpoint_every(10);
        Arc::new(options.open(name, log.clone(), Account::default()).unwrap())
    };
    let (a, b) = (open("a"), open("b"));
    let builder = Coordinator::builder(log.clone()).name("shop");
    let coordinator = builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap();
    let mut most = 0;
    for n in 0..500 {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        if n % 3 != 0 {
            b.execute(txn.branch("b").unwrap(), 2).unwrap();
        }
        if n % 7 == 0 {
            txn.rollback();
        } else {
            txn.commit().wait().unwrap();
        }
        let live = ["a", "b", "shop"].map(|owner| log.live(&name(owner)).unwrap().len());
        most = most.max(live.iter().sum());
    }
    // Two records for each commit since the last checkpoint at each manager, with one checkpoint
    // overlapping.
    assert!(most <= 2 * 2 * 20 + 3, "{most} live records");
    assert!(most >= 10, "the test saw nothing to forget");
    assert!(a.status().finished <= 1100, "outcomes are forgotten too: {:?}", a.status());
    assert_eq!(a.service().asked(Op::Cancel).len(), 500_usize.div_ceil(7));
}

#[test]
fn a_branch_in_the_place_of_a_forgotten_one_begins_with_nothing_of_it() {
    let a = manager_on("a", MemoryLog::new(), &Disk::default());
    for n in 1..=3 {
        commit(&a, &branch(n, "a"));
    }
    a.execute(&branch(4, "a"), 2).unwrap();
    a.rollback(&branch(4, "a"), &call_of(&branch(4, "a"))).unwrap();
    commit(&a, &branch(5, "a")); // which says that all before it have ended
    a.checkpoint().unwrap();
    assert_eq!(a.status().finished, 1, "all but the fifth are forgotten");
    let before = a.service().balance();
    for n in 6..=9 {
        commit(&a, &branch(n, "a"));
        assert_eq!(a.service().balance(), before + 2 * (n as i64 - 5), "branch {n} has its own work, and only that");
    }
    let unknown = a.commit(&branch(10, "a"), &call_of(&branch(10, "a")));
    assert!(matches!(unknown, Err(ringpact::ParticipantError::UnknownBranch)), "{unknown:?}");
}

#[test]
fn confirm_is_repeated_after_a_crash_up_to_the_last_checkpoint_and_never_after() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let branches: Vec<_> = (1..=5).map(|n| branch(n, "a")).collect();
    for branch in &branches[..3] {
        commit(&a, branch);
    }
    a.checkpoint().unwrap(); // the third has not ended as far as the manager knows, so it is kept and repeated
    for branch in &branches[3..] {
        commit(&a, branch);
    }
    assert_eq!(a.service().asked(Op::Confirm), branches);
    drop(a);

    let log = log.crash();
    let a = manager_on("a", log.clone(), &disk);
    assert_eq!(a.service().asked(Op::Confirm), branches[2..], "the same branch ids, in order, once each");
    assert_eq!(a.service().asked(Op::Restore), []);
    assert_eq!(a.service().balance(), 10, "idempotent: once each all the same");
    // A commit that is re-delivered now is acknowledged and not confirmed a third time.
    a.commit(&branches[4], &call()).unwrap();
    assert_eq!(a.service().asked(Op::Confirm).len(), 3);

    let after = branch(6, "a");
    commit(&a, &after);
    a.checkpoint().unwrap();
    commit(&a, &branch(7, "a"));
    a.checkpoint().unwrap();
    drop(a);
    let a = manager_on("a", log.crash(), &disk);
    assert_eq!(a.service().asked(Op::Confirm), [branch(7, "a")], "what ended before a checkpoint is never repeated");
    assert_eq!(a.service().balance(), 14);
}

#[test]
fn a_failed_checkpoint_forgets_nothing_and_is_visible_and_tried_again() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let options = ResourceManager::<Account>::options().checkpoint_every(2);
    let a = Arc::new(options.open("a", log.clone(), Account::on(&disk)).unwrap());
    a.service().fail(Op::Checkpoint, [Fault::Fail, Fault::Panic]);
    for n in 1..=4 {
        commit(&a, &branch(n, "a"));
        assert_eq!(a.status().last_checkpoint_error.is_some(), n >= 2, "after commit {n}");
    }
    assert_eq!(
        a.status().last_checkpoint_error.as_deref(),
        Some("the participant panicked; see its panic message, the call is repeated")
    );
    assert_eq!(log.live(a.name()).unwrap().len(), 8, "a promise and a commit each: nothing was forgotten");
    assert!(disk.lock().is_empty());
    commit(&a, &branch(5, "a"));
    commit(&a, &branch(6, "a"));
    assert_eq!(a.status().last_checkpoint_error, None);
    assert_eq!(log.live(a.name()).unwrap().len(), 2, "all but the last, which has not ended yet");
    assert_eq!(disk.lock().len(), 6);
}

/// The promise of a branch that is still in doubt outlives every checkpoint.
#[test]
fn a_checkpoint_keeps_what_is_not_decided() {
    let (log, disk) = (MemoryLog::new(), Disk::default());
    let a = manager_on("a", log.clone(), &disk);
    let open = branch(1, "a");
    a.execute(&open, 8).unwrap();
    a.prepare(&open, &call()).unwrap();
    for n in 2..30 {
        let branch = branch(n, "a");
        a.execute(&branch, 2).unwrap();
        a.prepare(&branch, &call()).unwrap();
        a.commit(&branch, &call()).unwrap();
        a.checkpoint().unwrap();
    }
    drop(a);
    let a = manager_on("a", log.crash(), &disk);
    assert_eq!(a.service().asked(Op::Restore), std::slice::from_ref(&open));
    a.commit(&open, &call()).unwrap();
    assert_eq!(a.service().balance(), 8 + 28 * 2);
}

/// A rollback leaves a tombstone. It is dropped once `ended_below` has passed it.
#[test]
fn tombstones_do_not_pile_up() {
    let a = manager_on("a", MemoryLog::new(), &Disk::default());
    for n in 1..=20_000 {
        let branch = branch(n, "a");
        let mut call = call();
        call.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: n };
        a.rollback(&branch, &call).unwrap();
    }
    assert!(a.status().finished <= 2048, "{:?}", a.status());
}

/// While one transaction stays open, or one participant does not answer what it holds,
/// `ended_below` does not move. What ends meanwhile is remembered up to a limit; the oldest
/// outcomes beyond it are forgotten.
#[test]
fn rollbacks_are_bounded_while_ended_below_does_not_move() {
    const TRANSACTIONS: u64 = 4 * MAX_REMEMBERED_OUTCOMES as u64;
    let log = MemoryLog::new();
    let a = manager_on("a", log, &Disk::default());
    (1..=TRANSACTIONS).for_each(|n| a.rollback(&branch(n, "a"), &call()).unwrap());
    assert!(a.status().finished <= 2 * MAX_REMEMBERED_OUTCOMES, "{:?}", a.status());
    let late = branch(TRANSACTIONS, "a");
    a.execute(&late, 2).expect_err("what is remembered is refused");
}

/// The same of commits, which are remembered in the log, too.
#[test]
fn commits_are_bounded_while_ended_below_does_not_move() {
    let log = MemoryLog::new();
    let b = manager_on("b", log.clone(), &Disk::default());
    for n in 1..=2 * MAX_REMEMBERED_OUTCOMES as u64 {
        let branch = branch(n, "b");
        b.execute(&branch, 2).unwrap();
        b.prepare(&branch, &call()).unwrap();
        b.commit(&branch, &call()).unwrap();
    }
    b.checkpoint().unwrap();
    assert_eq!(b.status().finished, MAX_REMEMBERED_OUTCOMES);
    assert_eq!(log.live(b.name()).unwrap().len(), 2 * MAX_REMEMBERED_OUTCOMES, "a promise and a commit each");
    let first = b.commit(&branch(1, "b"), &call());
    assert!(matches!(first, Err(ParticipantError::UnknownBranch)), "{first:?}");
    b.commit(&branch(2 * MAX_REMEMBERED_OUTCOMES as u64, "b"), &call()).expect("the last ones are remembered");
}

/// Remembers which transactions it is told to forget.
#[derive(Default)]
struct Forgets(Mutex<Vec<TxnOrdinal>>);

impl Service for Forgets {
    type Work = i64;
    type Refusal = txn_support::Refused;
    fn try_reserve(&self, _: &BranchId, _: &i64) -> Result<(), txn_support::Refused> {
        Ok(())
    }
    fn confirm(&self, _: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[i64]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) {
        assert_eq!(*coordinator, *branch(1, "a").txn().coordinator());
        self.0.lock().push(below);
    }
}

#[test]
fn a_service_is_told_which_branches_are_never_confirmed_again() {
    let log = MemoryLog::new();
    let a = ResourceManager::open("a", log.clone(), Forgets::default()).unwrap();
    let done = |number: u64, ended: u64| {
        let (branch, mut call) = (branch(number, "a"), call());
        call.ended_below = self::branch(ended, "a").txn().ordinal();
        a.execute(&branch, 2).unwrap();
        a.prepare(&branch, &call).unwrap();
        a.commit(&branch, &call).unwrap();
    };
    done(1, 1);
    a.checkpoint().unwrap();
    assert_eq!(a.service().0.lock().len(), 0, "its transaction has not ended");
    done(2, 1);
    // Only promised, however the coordinator's word is: its commit may still be repeated.
    a.execute(&branch(3, "a"), 2).unwrap();
    a.prepare(&branch(3, "a"), &call()).unwrap();
    done(4, 4);
    a.checkpoint().unwrap();
    let told = |number: u64| branch(number, "a").txn().ordinal();
    assert_eq!(*a.service().0.lock(), [told(3)]);
    a.checkpoint().unwrap();
    assert_eq!(a.service().0.lock().len(), 1, "nothing more has ended");
    // A log that crashes has none of those that were told.
    let log = log.crash();
    let b = ResourceManager::open("a", log, Forgets::default()).unwrap();
    assert_eq!(b.status().finished + b.status().prepared, 2, "{:?}", b.status());
}
