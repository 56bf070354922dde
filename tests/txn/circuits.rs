//! A participant that does not answer, or cannot keep up, gets no more work, and other participants
//! are not affected.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{
    eventually,
    scripted::{Scripted, broken},
};
use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, Vote,
    participant::{Call, Decision, Verb},
    txn::{BranchError, CircuitState, CircuitStatus, Limits, OperatorError, Refusal, TransactionState},
};

const SOON: Duration = Duration::from_secs(5);

const MS: Duration = Duration::from_millis(1);

fn quick() -> Policy {
    Policy::default().first_backoff(5 * MS).longest_backoff(50 * MS)
}

fn open(policy: Policy, limits: Limits, bad: &Scripted, good: &Scripted) -> Coordinator {
    let builder = Coordinator::builder(MemoryLog::new()).name("c").policy(policy).limits(limits);
    builder.participant("bad", bad.clone()).participant("good", good.clone()).open().unwrap()
}

fn circuit(coordinator: &Coordinator) -> CircuitStatus {
    let circuits = coordinator.status().circuits;
    circuits.into_iter().find(|circuit| circuit.participant.as_str() == "bad").expect("each has one")
}

fn is_down(participant: &Scripted, is_down: bool) {
    participant.mend();
    if is_down {
        for verb in [Verb::Prepare, Verb::Commit, Verb::Rollback] {
            participant.fail(verb, ParticipantError::Unreachable);
        }
    }
}

/// A bug: each transaction that was tried stayed open until it was parked, and told the dead
/// participant its end again and again: 330,000 messages a second, and two kilobytes a transaction.
#[test]
fn clients_that_go_on_trying_leave_nothing_behind_and_send_the_dead_participant_little() {
    let (bad, good) = (Scripted::new(), Scripted::new());
    is_down(&bad, true);
    let coordinator = open(quick(), Limits::default(), &bad, &good);
    let (mut tried, mut refused) = (0, None);
    for _ in 0..20_000 {
        let mut txn = coordinator.begin();
        match txn.branch("bad") {
            Ok(_) => {
                tried += 1;
                txn.branch("good").unwrap();
                assert!(txn.commit().wait().is_err());
            }
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.expect("its circuit has opened");
    assert!(matches!(error, BranchError::Refused { why: Refusal::NotAnswering, .. }), "{error}");
    assert!(error.to_string().contains("bad takes no new branches: it does not answer"), "{error}");
    assert!(tried < 200, "{tried} were tried");
    assert!(coordinator.status().transactions.len() <= tried);
    let seen = circuit(&coordinator);
    assert_eq!((seen.state, seen.undelivered), (CircuitState::Open, tried));
    assert!(matches!(seen.last_error, Some(ParticipantError::Unreachable)) && seen.next_probe.is_some());
    let page = coordinator.status().to_string();
    assert!(page.contains("circuit of bad: open for") && page.contains("next probe in"), "{page}");
    let told = bad.told().len();
    thread::sleep(500 * MS);
    let probes = bad.told().len() - told;
    assert!((1..=40).contains(&probes), "{probes} probes in half a second");
    is_down(&bad, false);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    eventually("it is closed", SOON, || circuit(&coordinator).state == CircuitState::Closed);
    assert_eq!(circuit(&coordinator).undelivered, 0);
    let mut txn = coordinator.begin();
    txn.branch("bad").unwrap();
    txn.branch("good").unwrap();
    txn.commit().wait().unwrap();
}

/// If no decision is owed, a new transaction now and then finds out that the participant answers
/// again.
#[test]
fn a_circuit_without_decisions_to_probe_with_closes_too() {
    let (bad, good) = (Scripted::new(), Scripted::new());
    is_down(&bad, true);
    let coordinator = open(quick(), Limits::default(), &bad, &good);
    let buy = || {
        let mut txn = coordinator.begin();
        let admitted = txn.branch("bad").is_ok() && txn.branch("good").is_ok();
        admitted && txn.commit().wait().is_ok()
    };
    eventually("it opens", SOON, || {
        buy();
        circuit(&coordinator).state == CircuitState::Open
    });
    let given_up = coordinator.give_up("bad");
    assert!(given_up >= 8, "{given_up}");
    eventually("they are parked", SOON, || coordinator.status().parked == given_up);
    assert_eq!(coordinator.status().in_doubt(), given_up, "what is owed is counted once, and not with its circuit");
    for transaction in coordinator.status().transactions {
        coordinator.force(&transaction.txn, Decision::Rollback).unwrap();
    }
    let status = coordinator.status();
    assert_eq!(status.in_doubt(), 0, "nothing is left to settle, and it still does not answer");
    let open: Vec<_> = status.open_circuits().map(|circuit| circuit.participant.as_str()).collect();
    assert_eq!(open, ["bad"]);
    is_down(&bad, false);
    eventually("one is tried and the circuit closes", SOON, buy);
    assert_eq!(circuit(&coordinator).state, CircuitState::Closed);
    assert_eq!(coordinator.status().open_circuits().count(), 0);
}

/// The participant votes, and cannot commit. Its promises fill it up, whatever the reason.
#[test]
fn unacknowledged_decisions_count_against_a_limit() {
    let (bad, good) = (Scripted::failing(Verb::Commit, broken()), Scripted::new());
    let limits = Limits::default().undelivered(8);
    let policy = quick().park_after_attempts(20);
    let coordinator = open(policy, limits, &bad, &good);
    let buy = || -> Result<(), BranchError> {
        let mut txn = coordinator.begin();
        txn.branch("bad")?;
        txn.branch("good")?;
        txn.commit().wait().expect("it has promised");
        Ok(())
    };
    let mut bought = 0;
    let error = loop {
        match buy() {
            Ok(()) => bought += 1,
            Err(error) => break error,
        }
        thread::sleep(10 * MS); // until it has failed again
    };
    // By then the circuit may be open, because as many have failed in a row. Both are reasons to
    // refuse.
    assert!(matches!(error, BranchError::Refused { outstanding: 8.., .. }), "{error}");
    assert!((8..=13).contains(&bought), "{bought}");
    for _ in 0..500 {
        if coordinator.status().parked == bought {
            break;
        }
        thread::sleep(10 * MS);
    }
    assert_eq!(coordinator.status().parked, bought, "{}", coordinator.status());
    let parked_ones_count = buy().unwrap_err();
    let is_about_them =
        |error: &BranchError| matches!(error, BranchError::Refused { outstanding, .. } if *outstanding == bought);
    assert!(is_about_them(&parked_ones_count), "{parked_ones_count}");
    bad.mend();
    assert_eq!(coordinator.retry_all(), bought);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    buy().unwrap();
}

/// A bug: decisions that were parked at the first failure did not count.
#[test]
fn decisions_that_are_parked_at_once_count_too() {
    let (bad, good) = (Scripted::failing(Verb::Commit, broken()), Scripted::new());
    let limits = Limits::default().undelivered(5);
    let coordinator = open(quick().park_after_attempts(1), limits, &bad, &good);
    let mut bought = 0;
    let error = loop {
        let mut txn = coordinator.begin();
        if let Err(error) = txn.branch("bad") {
            break error;
        }
        txn.branch("good").unwrap();
        txn.commit().wait().expect("it has promised");
        bought += 1;
    };
    assert!(matches!(error, BranchError::Refused { why: Refusal::Undelivered, outstanding: 5, .. }), "{error}");
    assert_eq!(bought, 5);
    bad.mend();
    assert_eq!(coordinator.retry_all(), 5);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
}

/// A participant that answered each commit `AlreadyRolledBack` left 25,000 outcomes in four seconds,
/// because nothing limited them.
#[test]
fn heuristic_outcomes_count_until_they_are_forgotten() {
    let (bad, good) = (Scripted::failing(Verb::Commit, ParticipantError::AlreadyRolledBack), Scripted::new());
    let coordinator = open(quick(), Limits::default().undelivered(5), &bad, &good);
    let buy = || -> Result<(), BranchError> {
        let mut txn = coordinator.begin();
        txn.branch("bad")?;
        txn.branch("good")?;
        drop(txn.commit().wait());
        Ok(())
    };
    let mut bought = 0;
    let error = loop {
        match buy() {
            Ok(()) => bought += 1,
            Err(error) => break error,
        }
        let known = || circuit(&coordinator).undelivered;
        eventually("it is counted", SOON, || known() == bought);
        assert!(bought <= 5, "{bought}");
    };
    assert!(matches!(error, BranchError::Refused { why: Refusal::Undelivered, outstanding: 5, .. }), "{error}");
    assert_eq!((bought, coordinator.status().heuristic), (5, 5));
    let transactions = coordinator.status().transactions;
    coordinator.retry(&transactions[0].txn).unwrap();
    assert_eq!(circuit(&coordinator).undelivered, 5, "a retry changes nothing about it");
    coordinator.forget(&transactions[0].txn).unwrap();
    eventually("one may be tried", SOON, || circuit(&coordinator).undelivered == 4);
    buy().unwrap();
    eventually("and counts again", SOON, || buy().is_err());
    for transaction in coordinator.status().transactions {
        coordinator.forget(&transaction.txn).unwrap();
    }
    eventually("nothing is left of them", SOON, || circuit(&coordinator).undelivered == 0);
    assert_eq!(circuit(&coordinator).state, CircuitState::Closed);
}

/// A bug: `force` refused for an hour.
#[test]
fn an_operator_parks_a_decision_now_and_forces_it() {
    for decision in [Decision::Commit, Decision::Rollback] {
        let verb = if decision == Decision::Commit { Verb::Commit } else { Verb::Rollback };
        let (bad, good) = (Scripted::failing(verb, broken()), Scripted::new());
        let coordinator = open(Policy::default(), Limits::default(), &bad, &good);
        let mut txn = coordinator.begin();
        let id = txn.id().clone();
        txn.branch("bad").unwrap();
        txn.branch("good").unwrap();
        let early = coordinator.park(&id).unwrap_err();
        assert!(matches!(early, OperatorError::NotDecided { state: TransactionState::Active, .. }), "{early}");
        match decision {
            Decision::Commit => txn.commit().wait().unwrap(),
            Decision::Rollback => txn.rollback(),
        }
        assert!(matches!(coordinator.force(&id, decision), Err(OperatorError::NotParked { .. })));
        coordinator.park(&id).unwrap();
        assert_eq!(coordinator.status().transactions[0].state, TransactionState::Parked(decision));
        coordinator.park(&id).unwrap();
        coordinator.force(&id, decision).unwrap();
        assert_eq!(coordinator.status().in_doubt(), 0);
        assert!(matches!(coordinator.park(&id), Err(OperatorError::Unknown { .. })));
    }
}

/// Hangs in the calls that the test names, until the test opens it.
#[derive(Default)]
struct Hung {
    all: AtomicBool,
    branch: Mutex<Option<BranchId>>,
    under_way: AtomicUsize,
    done: AtomicUsize,
}

impl Hung {
    fn call(&self, branch: &BranchId) {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        while self.all.load(Ordering::SeqCst) || self.branch.lock().as_ref() == Some(branch) {
            thread::sleep(MS);
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
    }
}

impl Participant for Hung {
    fn prepare(&self, branch: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        self.call(branch);
        Ok(Vote::Yes)
    }
    fn commit(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.call(branch);
        Ok(())
    }
    fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        self.call(branch);
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
}

/// However the test ends, hanging calls return.
struct Frees<'a>(&'a Hung);

impl Drop for Frees<'_> {
    fn drop(&mut self) {
        self.0.all.store(false, Ordering::SeqCst);
        *self.0.branch.lock() = None;
    }
}

fn pooled(policy: Policy, threads: usize) -> (Arc<Hung>, Coordinator) {
    let hung = Arc::new(Hung::default());
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("good", Scripted::new());
    let threads = NonZeroUsize::new(threads).unwrap();
    (Arc::clone(&hung), builder.slow_participant("bad", hung, threads).open().unwrap())
}

#[test]
fn one_hanging_branch_does_not_open_the_circuit_for_others() {
    let policy = quick().prepare_timeout(1_000 * MS).delivery_timeout(20 * MS);
    // One thread for the prepare, one for the rollback.
    let (hung, coordinator) = pooled(policy, 3);
    let frees = Frees(&hung);
    let mut locked = coordinator.begin();
    *hung.branch.lock() = Some(locked.branch("bad").unwrap().clone());
    locked.branch("good").unwrap();
    assert!(locked.commit().wait().is_err());
    for _ in 0..200 {
        let mut txn = coordinator.begin();
        txn.branch("bad").unwrap();
        txn.branch("good").unwrap();
        drop(txn.commit());
        thread::sleep(MS);
    }
    assert_eq!(circuit(&coordinator).state, CircuitState::Closed);
    drop(frees);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
}

#[test]
fn a_hanging_participant_opens_its_circuit_and_is_told_everything_once_it_is_back() {
    let policy = quick().prepare_timeout(200 * MS).delivery_timeout(50 * MS);
    let (hung, coordinator) = pooled(policy, 2);
    let _frees = Frees(&hung);
    hung.all.store(true, Ordering::SeqCst);
    let mut admitted = 0;
    for _ in 0..300 {
        let mut txn = coordinator.begin();
        if txn.branch("bad").is_ok() {
            admitted += 1;
            txn.branch("good").unwrap();
            drop(txn.commit());
        }
        thread::sleep(2 * MS);
    }
    let seen = circuit(&coordinator);
    assert_eq!(seen.state, CircuitState::Open, "{seen}");
    assert!(admitted < 200, "{admitted} of 300");
    // Some may have been sent before; all others cost no message and no timer.
    assert_eq!(hung.under_way.load(Ordering::SeqCst), 2);
    hung.all.store(false, Ordering::SeqCst);
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!(circuit(&coordinator).undelivered, 0);
    assert!(hung.done.load(Ordering::SeqCst) <= 3 * admitted, "{admitted}");
}

/// Ten times as many clients as it can serve. A bug: it was busy with rollbacks of branches that it
/// had not come to, and with repeats of them.
#[test]
fn a_participant_with_too_many_clients_works_at_its_full_rate() {
    const CLIENTS: usize = 300;
    const CALL: Duration = Duration::from_millis(2);
    struct Slow;
    impl Participant for Slow {
        fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            thread::sleep(CALL);
            Ok(Vote::Yes)
        }
        fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            thread::sleep(CALL);
            Ok(())
        }
        fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            thread::sleep(CALL);
            Ok(())
        }
        fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
    }
    let policy = quick().prepare_timeout(1_000 * MS).delivery_timeout(500 * MS);
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("good", Scripted::new());
    let coordinator = builder.slow_participant("bad", Slow, NonZeroUsize::MIN).open().unwrap();
    let (bought, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let goodput = |clients: usize| {
        over.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let mut txn = coordinator.begin();
                        let admitted = txn.branch("bad").is_ok() && txn.branch("good").is_ok();
                        match txn.commit().wait() {
                            Ok(()) if admitted => drop(bought.fetch_add(1, Ordering::SeqCst)),
                            Ok(()) | Err(CommitError::RolledBack { .. }) => thread::sleep(20 * MS),
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            thread::sleep(Duration::from_secs(3)); // the first rush is over
            let before = bought.load(Ordering::SeqCst);
            thread::sleep(Duration::from_secs(2));
            let bought = bought.load(Ordering::SeqCst) - before;
            over.store(true, Ordering::SeqCst);
            bought
        })
    };
    let (capacity, crowded) = (goodput(CLIENTS / 10), goodput(CLIENTS));
    // The benches measure how near it comes; this machine may be busy otherwise.
    assert!(crowded * 10 >= capacity * 5, "{crowded} of {capacity} in two seconds");
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
}
