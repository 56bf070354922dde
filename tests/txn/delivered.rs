//! What `Commit::delivered` waits for: every branch has acknowledged, or the caller gets the reason
//! why not.

use std::{
    future::Future,
    num::NonZeroUsize,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::{Duration, Instant},
};

use crate::support::{
    Manager, block_on, eventually,
    logs::SlowLog,
    manager,
    scripted::{Scripted, broken},
};
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, TransactionLog, Vote,
    log::Heuristic,
    participant::{AsyncParticipant, Call, Decision, Verb},
    txn::DeliveryError,
};

const SOON: Duration = Duration::from_secs(5);

/// How long the second phase takes at a [`Late`] participant.
const LATE: Duration = Duration::from_millis(100);

/// Votes at once, and takes a while to carry out the decision.
#[derive(Clone)]
struct Late(Manager);

impl Participant for Late {
    fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.prepare(branch, call)
    }
    fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        thread::sleep(LATE);
        self.0.commit(branch, call)
    }
    fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        thread::sleep(LATE);
        self.0.rollback(branch, call)
    }
    fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.0.in_doubt(coordinator)
    }
}

impl AsyncParticipant for Late {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.0.prepare(branch, call)
    }
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        tokio::time::sleep(LATE).await;
        self.0.commit(branch, call)
    }
    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        tokio::time::sleep(LATE).await;
        self.0.rollback(branch, call)
    }
    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.0.in_doubt(coordinator)
    }
}

struct Shop {
    coordinator: Coordinator,
    managers: [Manager; 3],
    _runtime: tokio::runtime::Runtime,
}

const NAMES: [&str; 3] = ["at-once", "slow", "async"];

fn shop(log: impl TransactionLog + Clone) -> Shop {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let managers = NAMES.map(|name| manager(name, log.clone()));
    let coordinator = Coordinator::builder(log)
        .participant("at-once", managers[0].clone())
        .slow_participant("slow", Late(managers[1].clone()), NonZeroUsize::MIN)
        .async_participant("async", Late(managers[2].clone()), runtime.handle().clone())
        .open()
        .unwrap();
    eventually("all have reported", SOON, || coordinator.status().unanswered == 0);
    Shop { coordinator, managers, _runtime: runtime }
}

impl Shop {
    fn worked(&self, names: &[&str]) -> ringpact::Transaction {
        let mut txn = self.coordinator.begin();
        for manager in self.managers.iter().filter(|manager| names.contains(&manager.name().as_str())) {
            manager.execute(txn.branch(manager.name().as_str()).unwrap(), 2).unwrap();
        }
        txn
    }

    fn balances(&self) -> [i64; 3] {
        [0, 1, 2].map(|number| self.managers[number].service().balance())
    }
}

/// A bug: `commit().await` returned before slow and asynchronous participants had applied anything;
/// the documentation said otherwise.
#[test]
fn a_read_after_it_sees_the_write_at_every_kind_of_participant() {
    let shop = shop(MemoryLog::new());
    let commit = shop.worked(&NAMES).commit();
    let delivered = commit.delivered();
    commit.wait().unwrap();
    assert_eq!(shop.balances(), [2, 0, 0], "the answer comes when all were told");
    delivered.wait().unwrap();
    assert_eq!(shop.balances(), [2, 2, 2]);
    let commit = shop.worked(&NAMES).commit();
    let delivered = commit.delivered();
    block_on(async {
        commit.await.unwrap();
        delivered.await.unwrap();
    });
    assert_eq!(shop.balances(), [4, 4, 4]);
}

/// With a slow log, so that a thread has to drive the transaction past its decision.
#[test]
fn it_needs_no_wait_for_the_commit_beside_it() {
    let shop = shop(SlowLog::new(Duration::from_millis(5)));
    let begun = Instant::now();
    for round in 1..=3 {
        // The `Commit` is dropped,
        shop.worked(&NAMES).commit().delivered().wait().unwrap();
        // held and never polled,
        let held = shop.worked(&NAMES).commit();
        held.delivered().wait().unwrap();
        // or polled once and then forgotten.
        let commit = shop.worked(&NAMES).commit();
        let delivered = commit.delivered();
        let mut commit = pin!(commit);
        assert!(commit.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        block_on(delivered).unwrap();
        assert_eq!(shop.balances(), [6 * round; 3]);
        block_on(commit).unwrap();
    }
    // Nine deliveries of 100 ms each; if they waited for the sweep it would add up to a second to
    // each.
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[test]
fn it_comes_with_one_participant_or_none_and_after_the_end() {
    let shop = shop(MemoryLog::new());
    for names in [&[][..], &["at-once"], &["slow"], &["async"]] {
        let commit = shop.worked(names).commit();
        let (first, second) = (commit.delivered(), commit.delivered());
        first.wait().unwrap();
        commit.wait().unwrap();
        second.wait().unwrap();
    }
    assert_eq!(shop.balances(), [2, 2, 2]);
}

#[test]
fn a_rollback_is_delivered_too_and_reported_as_one() {
    let shop = shop(MemoryLog::new());
    let mut txn = shop.worked(&NAMES);
    shop.managers[0].execute(txn.branch("at-once").unwrap(), 3).unwrap_err();
    let error = txn.commit().delivered().wait().unwrap_err();
    assert!(matches!(&error, DeliveryError::NotCommitted(CommitError::RolledBack { .. })), "{error}");
    assert!(shop.managers.iter().all(|manager| manager.service().reserved.lock().is_empty()));
}

fn with_b(b: &Scripted) -> Coordinator {
    let policy = Policy::default()
        .first_backoff(Duration::from_millis(1))
        .longest_backoff(Duration::from_millis(1))
        .park_after_attempts(3);
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy).participant("a", Scripted::new());
    builder.slow_participant("b", b.clone(), NonZeroUsize::MIN).open().unwrap()
}

fn commit(coordinator: &Coordinator) -> ringpact::Commit {
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.commit()
}

#[test]
fn a_parked_transaction_is_an_error_and_a_retried_one_is_delivered() {
    let b = Scripted::failing(Verb::Commit, broken());
    let coordinator = with_b(&b);
    let commit = commit(&coordinator);
    let (first, second) = (commit.delivered(), commit.delivered());
    commit.wait().unwrap();
    let error = first.wait().unwrap_err();
    let DeliveryError::Parked { txn, decision: Decision::Commit, participants } = &error else { panic!("{error}") };
    assert_eq!(participants.iter().map(Name::as_str).collect::<Vec<_>>(), ["b"]);
    assert!(error.to_string().contains("acknowledged it: b; see"), "{error}");
    b.mend();
    coordinator.retry(txn).unwrap();
    eventually("it is delivered", SOON, || coordinator.status().transactions.is_empty());
    second.wait().unwrap();
}

#[test]
fn a_heuristic_outcome_is_an_error() {
    let b = Scripted::failing(Verb::Commit, ParticipantError::Heuristic(Heuristic::RolledBack));
    let coordinator = with_b(&b);
    let error = commit(&coordinator).delivered().wait().unwrap_err();
    let is_mixed =
        matches!(&error, DeliveryError::NotCommitted(CommitError::Heuristic { outcome: Heuristic::Mixed, .. }));
    assert!(is_mixed, "{error}");
}

#[test]
fn a_dropped_coordinator_wakes_it_with_an_error() {
    let b = Scripted::failing(Verb::Commit, broken());
    let coordinator = Coordinator::builder(MemoryLog::new())
        .participant("a", Scripted::new())
        .slow_participant("b", b, NonZeroUsize::MIN)
        .open()
        .unwrap();
    let delivered = commit(&coordinator).delivered();
    let waits = thread::spawn(move || delivered.wait());
    thread::sleep(Duration::from_millis(50));
    drop(coordinator);
    let error = waits.join().unwrap().unwrap_err();
    assert!(matches!(error, DeliveryError::Abandoned { .. }), "{error}");
}

/// Counts how often it is woken, and panics if the test wants that.
struct Counts {
    woken: AtomicUsize,
    panics: bool,
}

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics, "the test wants this to panic");
    }
}

#[test]
fn once_dropped_it_is_not_woken_and_a_panicking_waker_keeps_no_other_from_being_woken() {
    let shop = shop(MemoryLog::new());
    let commit = shop.worked(&NAMES).commit();
    let wakers = [false, true, false].map(|panics| Arc::new(Counts { woken: AtomicUsize::new(0), panics }));
    let mut waiting: Vec<_> = wakers.iter().map(|_| Box::pin(commit.delivered())).collect();
    for (delivered, counts) in waiting.iter_mut().zip(&wakers) {
        let waker = Waker::from(Arc::clone(counts));
        assert!(delivered.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    drop(waiting.remove(0));
    let last = waiting.pop().expect("there were three");
    commit.wait().unwrap();
    block_on(last).unwrap();
    eventually("the one that panics is woken", SOON, || wakers[1].woken.load(Ordering::SeqCst) == 1);
    assert_eq!(wakers[0].woken.load(Ordering::SeqCst), 0);
    assert_eq!(Arc::strong_count(&wakers[0]), 1, "its waker is let go");
    assert!(matches!(waiting[0].as_mut().poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))));
    shop.worked(&NAMES).commit().delivered().wait().unwrap();
}

/// Waits begin at every moment around the end.
#[test]
fn no_wake_up_is_lost() {
    let b = Scripted::new();
    let coordinator = with_b(&b);
    for number in 0..2_000_u32 {
        let delivered = commit(&coordinator).delivered();
        if number % 3 == 0 {
            thread::yield_now();
        }
        if number % 2 == 0 { block_on(delivered).unwrap() } else { delivered.wait().unwrap() }
    }
}
