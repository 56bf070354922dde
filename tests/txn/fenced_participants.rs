//! Resource managers on a log that another holder has taken over; and two coordinators, the old one
//! and the new holder's, on participants that are shared.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, LogError, MemoryLog, Name, Participant, ParticipantError, Policy,
    TransactionLog, Vote,
    participant::{Call, Decision, ExecuteError, Life, ResourceManagerOptions},
    txn::RollbackCause,
};

use crate::support::{
    Account, Disk, Manager, Op, block_on, call, eventually, held::HeldLog, manager, manager_on, name,
};

const SOON: Duration = Duration::from_secs(10);
const HOLDER: &str = "standby:9000";

/// The address of a participant: first the process that has lost its log, and then the new holder's.
#[derive(Clone)]
struct Address(Arc<Mutex<Manager>>);

impl Address {
    fn of(manager: &Manager) -> Self {
        Self(Arc::new(Mutex::new(Arc::clone(manager))))
    }

    fn moves_to(&self, manager: &Manager) {
        *self.0.lock() = Arc::clone(manager);
    }

    fn there(&self) -> Manager {
        Arc::clone(&self.0.lock())
    }
}

impl Participant for Address {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.there().prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.there().commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.there().rollback(branch, call)
    }
    fn commit_one_phase(&self, branch: &BranchId, call: &Call) -> Result<Decision, ParticipantError> {
        self.there().commit_one_phase(branch, call)
    }
    fn meet(&self, coordinator: &Name, life: &Life) -> Result<(), ParticipantError> {
        self.there().meet(coordinator, life)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.there().in_doubt(coordinator)
    }
}

fn quick() -> Policy {
    let milli = Duration::from_millis(1);
    Policy::default().first_backoff(milli).longest_backoff(5 * milli)
}

#[track_caller]
fn assert_fenced<T: std::fmt::Debug>(result: Result<T, ParticipantError>) {
    let error = result.expect_err("the log is another holder's");
    assert!(matches!(&error, ParticipantError::Log(LogError::Fenced { holder }) if holder.as_deref() == Some(HOLDER)));
}

#[test]
fn a_resource_manager_on_a_lost_log_does_nothing_and_says_so() {
    let (log, of) = (MemoryLog::new(), crate::support::branch);
    let manager = manager("a", log.clone());
    for sequence in 1..=3 {
        manager.execute(&of(sequence, "a"), 2).unwrap();
    }
    assert_eq!(manager.prepare(&of(1, "a"), &call()).unwrap(), Vote::Yes);
    let _taken = log.take_over(HOLDER, 0);
    let before = manager.service().asked.lock().len();

    assert_fenced(manager.prepare(&of(1, "a"), &call())); // it has promised
    assert_fenced(manager.prepare(&of(2, "a"), &call()));
    assert_fenced(manager.commit(&of(1, "a"), &call()));
    assert_fenced(manager.rollback(&of(1, "a"), &call()));
    assert_fenced(manager.rollback(&of(9, "a"), &call()));
    assert_fenced(manager.commit_one_phase(&of(3, "a"), &call()));
    assert_fenced(manager.in_doubt(&name("c")));
    let worked = manager.execute(&of(4, "a"), 2);
    assert!(matches!(&worked, Err(ExecuteError::Fenced { holder, .. }) if holder.as_deref() == Some(HOLDER)));
    let text = manager.checkpoint().unwrap_err().to_string();
    assert!(text.contains(HOLDER), "{text}");
    assert_eq!(manager.service().asked.lock().len(), before, "the service is not called any more");
    assert_eq!(manager.status().fenced, log.lost());
}

/// The log does not tell of the takeover before the next write.
#[test]
fn a_paused_resource_manager_acknowledges_no_promise_and_no_commit() {
    let of = crate::support::branch;
    for is_appended_before in [true, false] {
        let log = HeldLog::new();
        let manager = manager("a", log.clone());
        for sequence in 1..=3 {
            manager.execute(&of(sequence, "a"), 2).unwrap();
        }
        assert_eq!(manager.prepare(&of(1, "a"), &call()).unwrap(), Vote::Yes);
        log.be_deaf();
        let take_over = |records: usize| {
            if is_appended_before {
                eventually("the records are on their way", SOON, || log.pending() >= records);
            }
            drop(log.take_over(HOLDER, 0));
        };
        if is_appended_before {
            log.hold();
        } else {
            take_over(0);
        }
        thread::scope(|scope| {
            let answers = [
                scope.spawn(|| manager.prepare(&of(2, "a"), &call()).map(drop)),
                scope.spawn(|| manager.commit(&of(1, "a"), &call())),
            ];
            if is_appended_before {
                take_over(2);
            }
            answers.into_iter().for_each(|answer| assert_fenced(answer.join().unwrap()));
        });
        // One that decides alone has decided: its commit is surely in no log.
        let alone = manager.commit_one_phase(&of(3, "a"), &call()).unwrap_err();
        assert!(matches!(alone, ParticipantError::Refused(_)), "{alone:?}");
        let chain = ringpact::error_chain(&alone);
        assert!(chain.contains(HOLDER), "{chain}");
        for op in [Op::Confirm, Op::Cancel] {
            assert!(manager.service().asked(op).is_empty(), "the service was called: {op:?}");
        }
    }
}

/// To a healthy coordinator the process is one that does not answer: it is told again until the new
/// holder of its log answers, which has the promise.
#[test]
fn a_decision_is_delivered_to_the_new_holder_of_the_participants_log() {
    let (log_of_b, disk) = (MemoryLog::new(), Disk::default());
    let (a, b) = (manager("a", MemoryLog::new()), manager_on("b", log_of_b.clone(), &disk));
    let address = Address::of(&b);
    let log = HeldLog::new();
    let builder = Coordinator::builder(log.clone()).policy(quick()).participant("a", a.clone());
    let coordinator = builder.participant("b", address.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    log.hold();
    let commit = txn.commit();
    let taken = log_of_b.take_over(HOLDER, 0); // b has promised, and the decision is on its way
    let unheld = thread::spawn({
        let log = log.clone();
        move || log.release()
    });
    let delivered = commit.delivered();
    commit.wait().expect("both have promised");
    unheld.join().unwrap();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(b.service().balance(), 0, "the old process does nothing");
    let shown = coordinator.status();
    assert_eq!(shown.settling, 1, "{shown}");

    let next = manager_on("b", taken, &disk);
    address.moves_to(&next);
    delivered.wait().expect("the new holder has the promise");
    assert_eq!((a.service().balance(), next.service().balance()), (2, 2));
}

/// A prepare that the lost log refuses is no No: the rollback still goes out, because the new holder may
/// hold a promise that waits for it.
#[test]
fn a_participant_that_has_lost_its_log_is_still_told_of_the_rollback() {
    let (log_of_b, disk) = (HeldLog::new(), Disk::default());
    let (a, b) = (manager("a", MemoryLog::new()), manager_on("b", log_of_b.clone(), &disk));
    let address = Address::of(&b);
    let builder = Coordinator::builder(MemoryLog::new()).policy(quick()).participant("a", a.clone());
    let coordinator = builder.participant("b", address.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    // The promise is durable, and its answer does not come: the log is taken over in between.
    log_of_b.hold();
    log_of_b.be_deaf();
    let (taken, commit) = thread::scope(|scope| {
        let commit = scope.spawn(|| txn.commit());
        eventually("the promise is on its way", SOON, || log_of_b.pending() > 0);
        let taken = log_of_b.take_over(HOLDER, 0);
        (taken, commit.join().unwrap())
    });
    let error = commit.wait().unwrap_err();
    let CommitError::RolledBack { cause: RollbackCause::Failed { participant, error }, .. } = &error else {
        panic!("{error}");
    };
    assert!(participant.as_str() == "b" && matches!(error, ParticipantError::Log(LogError::Fenced { .. })), "{error}");
    assert_eq!(coordinator.status().settling, 1, "it waits for b's acknowledgement");
    address.moves_to(&manager_on("b", taken, &disk));
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
}

/// The only participant writes to the coordinator's log, and both lose it.
#[test]
fn a_participant_alone_on_the_lost_log_tells_what_is_durable() {
    for is_durable in [true, false] {
        let (log, disk) = (HeldLog::new(), Disk::default());
        let a = manager_on("a", log.clone(), &disk);
        let coordinator = Coordinator::builder(log.clone()).name("shop").participant("a", a.clone()).open().unwrap();
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        log.hold();
        let (taken, commit) = thread::scope(|scope| {
            let commit = scope.spawn(|| txn.commit());
            eventually("the commit is on its way", SOON, || log.pending() > 0);
            let pending = log.pending();
            let taken = log.take_over(HOLDER, if is_durable { pending } else { 0 });
            (taken, commit.join().unwrap())
        });
        match commit.wait() {
            Ok(()) => assert!(is_durable),
            Err(CommitError::RolledBack { cause, .. }) => assert!(!is_durable, "{cause}"),
            Err(error) => panic!("the log knows it: {error}"),
        }
        let next = manager_on("a", taken.clone(), &disk);
        let coordinator = Coordinator::builder(taken).name("shop").participant("a", next.clone()).open().unwrap();
        assert!(coordinator.settle(SOON));
        assert_eq!(next.service().balance(), if is_durable { 2 } else { 0 });
    }
}

/// What clients were told, summed up.
#[derive(Default)]
struct Told {
    committed: AtomicI64,
    rolled_back: AtomicI64,
}

/// Commits transactions of two participants until the coordinator begins no more, at most this many.
fn commit_until_fenced(coordinator: &Coordinator, managers: &[Manager; 2], at_most: usize, told: &Told) {
    for number in 0..at_most {
        let mut txn = coordinator.begin();
        for manager in managers {
            let Ok(branch) = txn.branch(manager.name()) else { return };
            // Refused by a participant that has met the new holder, or has lost its own log.
            let _ = manager.execute(branch, 2);
        }
        let commit = txn.commit();
        match if number % 2 == 0 { commit.wait() } else { block_on(commit) } {
            Ok(()) => told.committed.fetch_add(1, Ordering::SeqCst),
            Err(CommitError::RolledBack { .. }) => told.rolled_back.fetch_add(1, Ordering::SeqCst),
            Err(error) => panic!("the log knows it: {error}"),
        };
    }
}

/// Both coordinators work at the same participants for a while. One process was paused, and wakes only
/// by what it writes.
#[test]
fn two_coordinators_on_shared_participants_tear_nothing() {
    for round in 0..6 {
        // Work that comes late, of a client that the participant let in just before it met the new
        // holder, is under no transaction any more. It is given back after a while.
        let options = ResourceManagerOptions::default().abandon_after(Duration::from_millis(200));
        let managers = ["a", "b"].map(|name| {
            let account = Account::on(&Disk::default());
            Arc::new(options.clone().open(name, MemoryLog::new(), account).unwrap())
        });
        let open = |log: &HeldLog| {
            let builder = Coordinator::builder(log.clone()).name("shop").policy(quick());
            let builder = builder.participant("a", managers[0].clone()).participant("b", managers[1].clone());
            builder.open().unwrap()
        };
        let log = HeldLog::new();
        let old = open(&log);
        if round % 2 == 0 {
            log.be_deaf();
        }
        let told = Told::default();
        let next = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| commit_until_fenced(&old, &managers, 400, &told));
            }
            thread::sleep(Duration::from_millis(3 + round));
            let next = Arc::new(open(&log.take_over(HOLDER, 0)));
            for _ in 0..2 {
                let (next, managers, told) = (Arc::clone(&next), &managers, &told);
                scope.spawn(move || commit_until_fenced(&next, managers, 50, told));
            }
            next
        });
        log.hear();
        eventually("the old one knows", SOON, || old.status().fenced.is_some());
        assert!(next.settle(SOON), "{}", next.status());
        let committed = told.committed.load(Ordering::SeqCst);
        let balances = managers.each_ref().map(|manager| manager.service().balance());
        assert_eq!(balances, [2 * committed; 2], "round {round}: each commit is at both, once, and nothing else is");
        let applied = managers.each_ref().map(|manager| {
            let applied = manager.service().applied.lock();
            applied.keys().map(|branch| branch.txn().clone()).collect::<Vec<_>>()
        });
        assert_eq!(applied[0], applied[1], "round {round}");
        eventually("nothing is set aside any more", SOON, || {
            managers.iter().for_each(|manager| manager.checkpoint().unwrap());
            managers.iter().all(|manager| manager.service().reserved.lock().is_empty())
        });
    }
}

/// The same with participants on the coordinator's log, which move to the new holder's process along
/// with it.
#[test]
fn what_was_acknowledged_on_a_shared_log_is_what_the_new_holder_has() {
    for round in 0..6 {
        let (log, disks) = (HeldLog::new(), [Disk::default(), Disk::default()]);
        let open = |log: &HeldLog| {
            let managers = [manager_on("a", log.clone(), &disks[0]), manager_on("b", log.clone(), &disks[1])];
            let builder = Coordinator::builder(log.clone()).name("shop").policy(quick());
            let builder = builder.participant("a", managers[0].clone()).participant("b", managers[1].clone());
            (builder.open().unwrap(), managers)
        };
        let (old, managers) = open(&log);
        if round % 2 == 0 {
            log.be_deaf();
        }
        let told = Told::default();
        let taken = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| commit_until_fenced(&old, &managers, usize::MAX, &told));
            }
            thread::sleep(Duration::from_millis(3 + round));
            log.take_over(HOLDER, 0)
        });
        let (next, moved) = open(&taken);
        assert!(next.settle(SOON), "{}", next.status());
        let committed = told.committed.load(Ordering::SeqCst);
        let balances = moved.each_ref().map(|manager| manager.service().balance());
        assert_eq!(balances, [2 * committed; 2], "round {round}: acknowledged is what is there");
        assert!(moved.iter().all(|manager| manager.service().reserved.lock().is_empty()), "round {round}");
        assert!(committed > 0, "round {round}: nothing was committed before the takeover");
    }
}
