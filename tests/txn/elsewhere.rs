//! Bugs that users of other coordinators reported, with one test for each.

use std::{
    fs,
    num::NonZeroUsize,
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Manager, Op, eventually,
    logs::SlowLog,
    manager, name,
    scripted::{Scripted, broken},
    wire::{Fate, Sent, Wire},
};
use ringpact::{
    BranchId, Coordinator, Epoch, FileLog, MemoryLog, Name, Participant, ParticipantError, Policy, TxnId, Vote,
    participant::{Call, Verb},
};

const SOON: Duration = Duration::from_secs(10);

fn quick() -> Policy {
    Policy::default().first_backoff(Duration::from_millis(2)).park_after_attempts(3)
}

fn transfer(coordinator: &Coordinator, a: &Manager, b: &Manager) -> ringpact::Commit {
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit()
}

/// Seata #4073, #6374: the rollback came first, found nothing and called that a success. The
/// prepare, and the work, came after it, and what they had set aside was never given back.
#[test]
fn a_rollback_that_overtakes_its_prepare_leaves_no_dangling_branch() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let wire = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Prepare) => Fate::HoldRequest,
        _ => Fate::Deliver,
    });
    let policy = quick().prepare_timeout(Duration::from_millis(30));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", wire.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    let branch = txn.branch("b").unwrap().clone(); // its work is still on the way
    txn.commit().wait().unwrap_err();
    assert!(coordinator.settle(SOON));
    b.execute(&branch, 2).expect_err("the work that comes after the rollback");
    wire.release();
    assert!(b.service().reserved.lock().is_empty());
    assert_eq!(b.in_doubt(coordinator.name()).unwrap(), []);
}

/// Seata #4073: "unknown" counted as success for commits, too.
#[test]
fn an_unknown_branch_is_a_success_for_a_rollback_but_a_heuristic_hazard_for_a_commit() {
    for (verb, heuristics) in [(Verb::Rollback, 0), (Verb::Commit, 1)] {
        let b = Scripted::failing(verb, ParticipantError::UnknownBranch);
        let builder = Coordinator::builder(MemoryLog::new()).participant("a", Scripted::new());
        let coordinator = builder.participant("b", b.clone()).open().unwrap();
        let mut txn = coordinator.begin();
        txn.branch("a").unwrap();
        txn.branch("b").unwrap();
        if verb == Verb::Commit {
            txn.commit().wait().unwrap_err();
        } else {
            txn.rollback()
        }
        assert_eq!((coordinator.status().heuristic, coordinator.status().in_doubt()), (heuristics, heuristics));
        assert_eq!(b.times_told(verb), 1);
    }
}

/// Found by simulation: an operator retried a hazard. Meanwhile the coordinator had told the
/// participant that the transaction had ended. So the participant answered "a late message",
/// however often it was told.
#[test]
fn a_hazard_that_is_retried_without_success_is_a_hazard_again() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let uncommitted = Wire::new(b.clone(), |sent| match sent {
        Sent::Branch(Verb::Commit) => Fate::LoseRequest,
        _ => Fate::Deliver,
    });
    let open = |log: &MemoryLog| Coordinator::builder(log.clone()).policy(quick()).participant("a", a.clone());
    let coordinator = open(&log).endpoint("b", uncommitted).open().unwrap();
    let mut txn = coordinator.begin();
    let id = txn.id().clone();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
    let log = log.crash();
    drop(coordinator);

    let b = manager("b", MemoryLog::new()); // its log is lost
    let coordinator = open(&log).participant("b", b.clone()).open().unwrap();
    for _ in 0..3 {
        eventually("it is a hazard, and once more", SOON, || {
            let status = coordinator.status();
            (status.heuristic, status.settling, status.parked) == (1, 0, 0)
        });
        transfer(&coordinator, &a, &b).wait().unwrap();
        coordinator.retry(&id).unwrap();
    }
    // During the retry there is nothing to forget yet, and `forget` says so.
    eventually("it is forgotten", SOON, || coordinator.forget(&id).is_ok());
    // Another thread may carry it out.
    eventually("nothing is left", SOON, || coordinator.settle(SOON));
}

/// Omicron #5947: one bad transaction stopped all recovery.
#[test]
fn one_broken_transaction_never_stops_the_recovery_of_the_others() {
    const TRANSACTIONS: usize = 20;
    let log = MemoryLog::new();
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let lost = |participant: &Manager| {
        Wire::new(participant.clone(), |sent| match sent {
            Sent::Branch(Verb::Commit) => Fate::LoseRequest,
            _ => Fate::Deliver,
        })
    };
    // No commit is repeated: many failures in a row would open the circuits.
    let once = quick().first_backoff(SOON * 60).longest_backoff(SOON * 60);
    let builder = Coordinator::builder(log.clone()).policy(once).endpoint("a", lost(&a)).endpoint("b", lost(&b));
    let broken_one = Scripted::failing(Verb::Commit, broken());
    let coordinator = builder.participant("broken", broken_one.clone()).open().unwrap();
    for number in 0..TRANSACTIONS {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("b").unwrap(), 2).unwrap();
        if number == 3 {
            txn.branch("broken").unwrap();
        }
        txn.commit().wait().unwrap();
    }
    let log = log.crash();
    drop(coordinator);
    // "b" hangs in the call for the first; "gone" is named in the log and does not exist any more.
    let builder = Coordinator::builder(log.clone()).policy(quick()).participant("a", a.clone());
    let hangs = Wire::new(b.clone(), {
        let mut first = true;
        move |sent| match sent {
            Sent::Branch(Verb::Commit) if std::mem::replace(&mut first, false) => Fate::HoldReply,
            _ => Fate::Deliver,
        }
    });
    let coordinator = builder.endpoint("b", hangs.clone()).open().unwrap();
    eventually("all others are recovered", SOON, || b.service().balance() == 2 * TRANSACTIONS as i64);
    assert_eq!((a.service().balance(), coordinator.recovered().committed), (2 * TRANSACTIONS as i64, TRANSACTIONS));
    // New transactions go on.
    transfer(&coordinator, &a, &b).wait().unwrap();
    hangs.release();
    eventually("only the broken one is left", SOON, || coordinator.status().transactions.len() == 1);
}

/// Seata #7004: a retry ran beside the decision, and told a participant the opposite of what was
/// then decided.
#[test]
fn a_retry_that_races_the_decision_loses() {
    let log = SlowLog::new(Duration::from_millis(120));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let to_b = Wire::new(b.clone(), |_| Fate::Deliver);
    let policy = quick().prepare_timeout(Duration::from_millis(20));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone()).endpoint("b", to_b.clone());
    let coordinator = builder.open().unwrap();
    let mut txn = coordinator.begin_within(Duration::from_millis(40));
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let id = txn.id().clone();
    let commit = txn.commit();
    // While the decision is on its way to the disk, votes time out, the deadline passes,
    // participants ask, operators retry.
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(60) {
        coordinator.retry(&id).unwrap();
        coordinator.force(&id, ringpact::participant::Decision::Rollback).unwrap_err();
        coordinator.forget(&id).unwrap_err();
        thread::sleep(Duration::from_millis(5));
        assert_eq!(to_b.times_sent(Sent::Branch(Verb::Commit)), 0, "told before it was decided");
    }
    commit.wait().unwrap();
    assert!(coordinator.settle(SOON));
    assert_eq!(to_b.times_sent(Sent::Branch(Verb::Rollback)), 0);
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

/// Jepsen on Bufstream 0.1: a delayed commit hit a later transaction. Here ids do not repeat, and
/// messages of an earlier life are refused as well.
#[test]
fn a_duplicate_or_stale_message_of_an_earlier_epoch_is_refused() {
    let b = manager("b", MemoryLog::new());
    let of = |epoch, sequence| TxnId::new(name("c"), Epoch::new(epoch), sequence).branch(&name("b"));
    let call = |epoch| {
        let mut call = crate::support::call();
        call.epoch = Epoch::new(epoch);
        call
    };
    let (promised, worked, unseen) = (of(1, 1), of(1, 2), of(1, 3));
    b.execute(&promised, 2).unwrap();
    b.execute(&worked, 4).unwrap();
    assert_eq!(b.prepare(&promised, &call(1)).unwrap(), Vote::Yes);
    // The coordinator is opened again, and its first call comes in.
    let current = of(2, 1);
    b.execute(&current, 8).unwrap();
    assert_eq!(b.prepare(&current, &call(2)).unwrap(), Vote::Yes);
    let refused = |what: &str, answer: Result<(), ParticipantError>| {
        assert!(matches!(answer, Err(ParticipantError::Superseded(_))), "{what}: {answer:?}");
    };
    for branch in [&promised, &worked, &unseen] {
        refused("a prepare", b.prepare(branch, &call(1)).map(drop));
        refused("a commit", b.commit(branch, &call(1)));
        refused("a rollback", b.rollback(branch, &call(1)));
        refused("a one-phase commit", b.commit_one_phase(branch, &call(1)).map(drop));
    }
    b.execute(&unseen, 16).expect_err("work for a transaction that can only be rolled back");
    assert_eq!((b.service().balance(), b.service().reserved.lock().len()), (0, 3));
    // What the new life says of old transactions counts, even if the participant does not know the
    // branch any more.
    b.commit(&promised, &call(2)).unwrap();
    b.rollback(&worked, &call(2)).unwrap();
    b.rollback(&unseen, &call(2)).unwrap();
    assert_eq!(crate::support::vote(b.prepare(&unseen, &call(2))), Vote::No);
    assert_eq!((b.service().balance(), b.service().reserved.lock().len()), (2, 1));
}

/// Atomikos #99: one transaction that hung, and a log that grew to gigabytes.
#[test]
fn the_log_stays_bounded_under_a_stuck_participant() {
    const TRANSACTIONS: i64 = 10_000;
    // Two segments of four times what is live: some hundred promises on both sides between two
    // checkpoints, and those under way. All that was ever written is several times that.
    const MOST: u64 = 1 << 20;
    let dir = tempfile::tempdir().unwrap();
    let log = std::sync::Arc::new(FileLog::options().segment_bytes(64 << 10).open(dir.path()).unwrap());
    let options = || ringpact::ResourceManager::<crate::support::Account>::options().checkpoint_every(256);
    let open = |name: &str| std::sync::Arc::new(options().open(name, log.clone(), Default::default()).unwrap());
    let (a, b) = (open("a"), open("b"));
    let builder = Coordinator::builder(log.clone()).policy(quick()).participant("a", a.clone());
    let stuck = Scripted::failing(Verb::Commit, broken());
    let coordinator = builder.participant("b", b.clone()).participant("stuck", stuck).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.branch("stuck").unwrap();
    txn.commit().wait().unwrap();
    eventually("it is parked", SOON, || coordinator.status().parked == 1);
    // A file may go while the directory is read.
    let length = |file: fs::DirEntry| file.metadata().map_or(0, |metadata| metadata.len());
    let size = || fs::read_dir(dir.path()).unwrap().map(|file| length(file.unwrap())).sum::<u64>();
    let mut commits = Vec::new();
    let mut largest = 0;
    for number in 0..TRANSACTIONS {
        commits.push(transfer(&coordinator, &a, &b));
        if number % 64 == 63 {
            commits.drain(..).for_each(|commit| commit.wait().unwrap());
            largest = largest.max(size());
        }
    }
    commits.drain(..).for_each(|commit| commit.wait().unwrap());
    assert!(largest <= MOST, "the directory grew to {largest} bytes");
    assert_eq!((a.service().balance(), b.service().balance()), (2 + 2 * TRANSACTIONS, 2 * TRANSACTIONS));
    assert_eq!(coordinator.status().parked, 1);
}

/// A participant that takes half a second must cost that half second only to transactions that it
/// is in.
#[test]
fn a_slow_participant_slows_only_the_transactions_that_it_is_in() {
    struct Slow(Manager);
    impl Participant for Slow {
        fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
            thread::sleep(Duration::from_millis(500));
            self.0.prepare(branch, call)
        }
        fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            thread::sleep(Duration::from_millis(500));
            self.0.commit(branch, call)
        }
        fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            self.0.in_doubt(coordinator)
        }
    }
    let log = MemoryLog::new();
    let (a, b, slow) = (manager("a", log.clone()), manager("b", log.clone()), manager("slow", log.clone()));
    let builder = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone());
    let two = NonZeroUsize::new(2).unwrap();
    let coordinator = builder.slow_participant("slow", Slow(slow.clone()), two).open().unwrap();
    let begun = Instant::now();
    let slow_ones: Vec<_> = (0..4)
        .map(|_| {
            let mut txn = coordinator.begin();
            a.execute(txn.branch("a").unwrap(), 2).unwrap();
            slow.execute(txn.branch("slow").unwrap(), 2).unwrap();
            txn.commit()
        })
        .collect();
    let quick_ones = 200;
    for _ in 0..quick_ones {
        transfer(&coordinator, &a, &b).wait().unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(450), "they waited for the slow one: {:?}", begun.elapsed());
    for commit in slow_ones {
        commit.wait().unwrap();
    }
    assert!(begun.elapsed() > Duration::from_millis(900));
    assert!(coordinator.settle(SOON));
    assert_eq!((slow.service().balance(), b.service().asked(Op::Confirm).len()), (8, quick_ones));
}
