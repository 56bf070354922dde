//! Many transactions at once, blocked on, awaited and dropped: each has its outcome, and the totals
//! are exact.

use std::{
    future::{Future, poll_fn},
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use crate::support::{
    Manager, Op, block_on,
    logs::SlowLog,
    manager, shared,
    wire::{Fate, Sent, Wire},
};
use parking_lot::Mutex;
use ringpact::{Commit, CommitError, Coordinator, Policy, TransactionLog, participant::Verb};

const SETTLED_WITHIN: Duration = Duration::from_secs(15);

fn begin(coordinator: &Coordinator, managers: &[Manager], amounts: &[i64]) -> Commit {
    let mut txn = coordinator.begin();
    for (manager, amount) in managers.iter().zip(amounts) {
        // An odd amount is refused and makes the transaction roll back, as intended.
        let _ = manager.execute(txn.branch(manager.name().as_str()).unwrap(), *amount);
    }
    txn.commit()
}

fn nothing_is_left(coordinator: &Coordinator, managers: &[Manager]) {
    assert!(coordinator.settle(SETTLED_WITHIN), "{:?}", coordinator.status());
    assert!(coordinator.status().transactions.is_empty());
    for manager in managers {
        assert!(manager.service().reserved.lock().is_empty(), "{} holds reservations", manager.name());
        let status = manager.status();
        assert_eq!((status.active, status.prepared, status.settling), (0, 0, 0));
    }
}

/// What the client does with the `Commit`.
fn finish(commit: Commit, way: usize) {
    let expect_fine = |result: Result<(), CommitError>| {
        if let Err(error) = result {
            assert!(error.to_string().ends_with("voted no"), "{error}");
        }
    };
    match way {
        0 => drop(commit),
        1 => expect_fine(block_on(commit)),
        2 => {
            // Polled once, with a waker that does nothing, and dropped.
            let mut commit = commit;
            let _ = Pin::new(&mut commit).poll(&mut Context::from_waker(Waker::noop()));
        }
        3 => {
            // Polled by one task, then waited for by a thread: the last one that asks is woken.
            let mut commit = commit;
            let polled = Pin::new(&mut commit).poll(&mut Context::from_waker(Waker::noop()));
            if polled.is_pending() {
                expect_fine(commit.wait())
            }
        }
        _ => expect_fine(commit.wait()),
    }
}

#[test]
fn totals_are_exact_under_thousands_of_concurrent_transactions() {
    const THREADS: usize = 6;
    const EACH: usize = 500;
    let log = SlowLog::new(Duration::from_micros(200));
    let managers: Vec<_> = ["a", "b", "c"].iter().map(|name| manager(name, log.clone())).collect();
    let builder = Coordinator::builder(log.clone());
    let builder = builder.participant("a", managers[0].clone()).participant("b", managers[1].clone());
    // One participant answers late, from threads of its own.
    let builder = builder.slow_participant("c", managers[2].clone(), NonZeroUsize::new(2).unwrap());
    let coordinator = builder.open().unwrap();
    let expected = [const { AtomicI64::new(0) }; 3];
    thread::scope(|scope| {
        for worker in 0..THREADS {
            let (coordinator, managers, expected) = (&coordinator, &managers, &expected);
            scope.spawn(move || {
                for n in 0..EACH {
                    let kind = worker * EACH + n;
                    let amounts = match kind % 10 {
                        0 => vec![2, 2, 3],
                        1..4 => vec![2],
                        4..6 => vec![0, 4],
                        _ => vec![2, 4, 6],
                    };
                    if !kind.is_multiple_of(10) {
                        expected.iter().zip(&amounts).for_each(|(sum, amount)| {
                            sum.fetch_add(*amount, Ordering::Relaxed);
                        });
                    }
                    finish(begin(coordinator, managers, &amounts), kind % 7);
                }
            });
        }
    });
    nothing_is_left(&coordinator, &managers);
    for (manager, expected) in managers.iter().zip(expected) {
        assert_eq!(manager.service().balance(), expected.into_inner(), "{}", manager.name());
        let mut confirmed = manager.service().asked(Op::Confirm);
        let all = confirmed.len();
        confirmed.sort();
        confirmed.dedup();
        assert_eq!(confirmed.len(), all, "some branch was confirmed twice");
    }
}

#[test]
fn ten_thousand_commits_started_and_then_awaited_by_one_thread() {
    const COMMITS: i64 = 10_000;
    let log = SlowLog::new(Duration::from_micros(500));
    let managers: Vec<_> = ["a", "b"].iter().map(|name| manager(name, log.clone())).collect();
    let builder = Coordinator::builder(log.clone());
    let builder = builder.participant("a", managers[0].clone()).participant("b", managers[1].clone());
    let coordinator = builder.open().unwrap();
    let commits: Vec<_> = (0..COMMITS).map(|_| begin(&coordinator, &managers, &[2, 2])).collect();
    block_on(async {
        for commit in commits {
            commit.await.unwrap();
        }
    });
    nothing_is_left(&coordinator, &managers);
    assert_eq!((managers[0].service().balance(), managers[1].service().balance()), (2 * COMMITS, 2 * COMMITS));
    let syncs = log.stats().syncs;
    assert!(syncs < COMMITS.unsigned_abs() / 10, "they did not share syncs: {syncs}");
}

/// All of them share one task's waker; each poll goes to those that are not done yet.
#[test]
fn commits_that_are_joined_in_one_task_all_wake_it() {
    let log = SlowLog::new(Duration::from_micros(300));
    let managers: Vec<_> = ["a", "b"].iter().map(|name| manager(name, log.clone())).collect();
    let builder = Coordinator::builder(log);
    let builder = builder.slow_participant("a", managers[0].clone(), NonZeroUsize::new(2).unwrap());
    let coordinator = builder.participant("b", managers[1].clone()).open().unwrap();
    for _ in 0..20 {
        let mut open: Vec<_> = (0..50).map(|_| begin(&coordinator, &managers, &[2, 2])).collect();
        block_on(poll_fn(|context| {
            open.retain_mut(|commit| match Pin::new(commit).poll(context) {
                Poll::Ready(result) => {
                    result.unwrap();
                    false
                }
                Poll::Pending => true,
            });
            if open.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        }));
    }
    nothing_is_left(&coordinator, &managers);
    assert_eq!(managers[0].service().balance(), 20 * 50 * 2);
}

/// Every third message or answer is lost, every fifth doubled.
#[test]
fn totals_are_exact_over_wires_that_lose_and_double() {
    const THREADS: usize = 4;
    const EACH: usize = 100;
    let log = SlowLog::new(Duration::from_micros(100));
    let managers: Vec<_> = ["a", "b"].iter().map(|name| manager(name, log.clone())).collect();
    let policy = Policy::default().first_backoff(Duration::from_millis(1));
    let mut builder = Coordinator::builder(log).policy(policy);
    for manager in &managers {
        let mut count = 0_usize;
        let fates = move |sent| {
            count += 1;
            // Most votes get through; otherwise nothing would ever commit.
            match (sent, count % 15) {
                (Sent::Branch(Verb::Prepare), 0) => Fate::LoseReply,
                (Sent::Branch(Verb::Prepare), _) => Fate::Deliver,
                (_, 3 | 9) => Fate::LoseRequest,
                (_, 0 | 6 | 12) => Fate::LoseReply,
                (_, 5 | 10) => Fate::DeliverTwice,
                _ => Fate::Deliver,
            }
        };
        builder = builder.endpoint(manager.name().as_str(), Wire::new(manager.clone(), fates));
    }
    let coordinator = builder.open().unwrap();
    let committed = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let commit = begin(&coordinator, &managers, &[2, 4]);
                    committed.fetch_add(usize::from(commit.wait().is_ok()), Ordering::Relaxed);
                }
            });
        }
    });
    nothing_is_left(&coordinator, &managers);
    let committed = i64::try_from(committed.into_inner()).unwrap();
    assert!(committed > 100, "hardly anything committed: {committed}");
    assert_eq!(managers.iter().map(|m| m.service().balance()).collect::<Vec<_>>(), [2 * committed, 4 * committed]);
}

/// The coordinator is dropped while its clients are at work: none of them hangs, and every answer
/// is true.
#[test]
fn a_coordinator_dropped_under_load_hangs_no_client_and_gives_no_wrong_answer() {
    for round in 0..20 {
        let log = SlowLog::new(Duration::from_micros(300));
        let managers: Vec<_> = ["a", "b"].iter().map(|name| manager(name, log.clone())).collect();
        let open = || {
            let builder = Coordinator::builder(log.clone()).participant("a", managers[0].clone());
            builder.slow_participant("b", managers[1].clone(), NonZeroUsize::new(1).unwrap()).open().unwrap()
        };
        let coordinator = open();
        let outcomes = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..4 {
                let commits: Vec<_> = (0..10).map(|_| begin(&coordinator, &managers, &[2, 2])).collect();
                let outcomes = &outcomes;
                scope.spawn(move || {
                    for (n, commit) in commits.into_iter().enumerate() {
                        let txn = commit.txn().clone();
                        let outcome = if n % 2 == 0 { commit.wait() } else { block_on(commit) };
                        outcomes.lock().push((txn, outcome));
                    }
                });
            }
            thread::sleep(Duration::from_micros(100 * round));
            drop(coordinator);
            // In the same process and on the same log, while the clients still hold their commits.
            let coordinator = open();
            assert!(coordinator.settle(SETTLED_WITHIN));
            drop(coordinator);
        });
        let coordinator = open();
        nothing_is_left(&coordinator, &managers);
        for (txn, outcome) in outcomes.into_inner() {
            let applied = [0, 1].map(|n: usize| {
                let branch = txn.branch(managers[n].name());
                managers[n].service().applied.lock().contains_key(&branch)
            });
            assert_eq!(applied[0], applied[1], "round {round}: {txn} is half applied, its client heard {outcome:?}");
            match outcome {
                Ok(()) => assert!(applied[0], "round {round}: {txn} was told committed and is not"),
                Err(CommitError::RolledBack { .. }) => {
                    assert!(!applied[0], "round {round}: {txn} was told rolled back")
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn a_participant_can_run_transactions_of_its_own_during_a_call() {
    let (_log, inner, managers) = shared(&["x", "y"]);
    let inner = Arc::new(inner);
    struct Nested(Manager, Arc<Coordinator>, Vec<Manager>);
    impl ringpact::Participant for Nested {
        fn prepare(
            &self,
            branch: &ringpact::BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<ringpact::Vote, ringpact::ParticipantError> {
            begin(&self.1, &self.2, &[2, 2]).wait().map_err(ringpact::ParticipantError::resource)?;
            self.0.prepare(branch, call)
        }
        fn commit(
            &self,
            branch: &ringpact::BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<(), ringpact::ParticipantError> {
            self.0.commit(branch, call)
        }
        fn rollback(
            &self,
            branch: &ringpact::BranchId,
            call: &ringpact::participant::Call,
        ) -> Result<(), ringpact::ParticipantError> {
            self.0.rollback(branch, call)
        }
        fn in_doubt(
            &self,
            coordinator: &ringpact::Name,
        ) -> Result<Vec<ringpact::BranchId>, ringpact::ParticipantError> {
            self.0.in_doubt(coordinator)
        }
    }
    let log = SlowLog::new(Duration::from_micros(100));
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let nested = Nested(a.clone(), Arc::clone(&inner), managers.clone());
    let coordinator = Coordinator::builder(log).participant("a", nested).participant("b", b.clone()).open().unwrap();
    for _ in 0..10 {
        begin(&coordinator, &[a.clone(), b.clone()], &[2, 2]).wait().unwrap();
    }
    assert_eq!((a.service().balance(), managers[1].service().balance()), (20, 20));
    nothing_is_left(&inner, &managers);
}
