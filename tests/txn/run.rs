//! `Coordinator::run` tries a whole transaction again while what fails is transient: a limited number
//! of times, for a limited time, and never if the outcome is not known.

use std::{
    error::Error as StdError,
    fmt,
    future::{Future, pending},
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, ResourceManager,
    Service, ServiceError, Transaction, Vote, error_chain,
    participant::{Call, Decision, LastResource, Verb},
    txn::{BranchError, RollbackCause, RunError, RunOptions, WorkError},
};

use crate::support::{block_on, scripted::Scripted};

const MS: Duration = Duration::from_millis(1);

/// Short pauses, so that the tests are quick.
const QUICK: RunOptions = RunOptions::DEFAULT.first_backoff(MS).longest_backoff(MS);

/// An error of a database's client library.
#[derive(Debug, PartialEq, Eq)]
enum DbError {
    Deadlock,
    UniqueViolation,
}

impl fmt::Display for DbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deadlock => "deadlock detected",
            Self::UniqueViolation => "duplicate key",
        })
    }
}

impl StdError for DbError {}

/// A database that recognises its deadlocks. Its next votes are refused with these errors.
#[derive(Default)]
struct Database {
    refuse: AtomicU32,
    prepared: AtomicU32,
}

impl Participant for Database {
    fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
        self.prepared.fetch_add(1, Ordering::SeqCst);
        match self.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => Err(ParticipantError::refused(DbError::Deadlock)),
            Err(_) => Ok(Vote::Yes),
        }
    }
    fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        Ok(Vec::new())
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        error.downcast_ref() == Some(&DbError::Deadlock)
    }
}

fn opened(database: &Arc<Database>) -> Coordinator {
    let builder = Coordinator::builder(MemoryLog::new()).name("shop").participant("db", Arc::clone(database));
    builder.participant("other", Scripted::new()).open().expect("an empty log opens")
}

/// Enlists both participants, so that both phases are needed.
fn enlist(txn: &mut Transaction) -> Result<(), BranchError> {
    txn.branch("db")?;
    txn.branch("other").map(drop)
}

/// Work that fails with these errors, one in each attempt, and then succeeds with its number of calls.
fn failing<'a>(
    errors: &'a [DbError],
    calls: &'a mut usize,
) -> impl FnMut(&mut Transaction) -> Result<usize, WorkError> + 'a {
    move |txn| {
        enlist(txn)?;
        *calls += 1;
        match errors.get(*calls - 1) {
            Some(DbError::Deadlock) => Err(DbError::Deadlock.into()),
            Some(DbError::UniqueViolation) => Err(DbError::UniqueViolation.into()),
            None => Ok(*calls),
        }
    }
}

#[test]
fn work_that_fails_transiently_is_tried_again_as_a_new_transaction() {
    let database = Arc::new(Database::default());
    let coordinator = opened(&database);
    let mut ids = Vec::new();
    let value = coordinator.run_blocking_with(QUICK, |txn| {
        enlist(txn).expect("both are registered");
        ids.push(txn.id().clone());
        if ids.len() < 3 { Err(std::io::Error::other(DbError::Deadlock)) } else { Ok("sold") }
    });
    assert_eq!(value.expect("the third attempt commits"), "sold");
    ids.dedup();
    assert_eq!(ids.len(), 3, "each attempt is a transaction of its own");
    assert_eq!(database.prepared.load(Ordering::SeqCst), 1, "only the last one is committed");
    assert!(coordinator.settle(Duration::ZERO));
}

#[test]
fn a_transient_reason_of_a_no_is_tried_again() {
    let database = Arc::new(Database { refuse: AtomicU32::new(2), ..Database::default() });
    let coordinator = opened(&database);
    let mut calls = 0;
    let value = coordinator.run_blocking_with(QUICK, failing(&[], &mut calls));
    assert_eq!(value.expect("the third vote is Yes"), 3);
}

#[test]
fn the_tasks_call_does_the_same() {
    let database = Arc::new(Database { refuse: AtomicU32::new(1), ..Database::default() });
    let coordinator = opened(&database);
    let calls = AtomicU32::new(0);
    let value = block_on(coordinator.run_with(QUICK, async |mut txn| {
        enlist(&mut txn)?;
        match calls.fetch_add(1, Ordering::SeqCst) {
            0 => Err(WorkError::from(DbError::Deadlock)),
            call => Ok(call),
        }
    }));
    assert_eq!(value.expect("the third attempt commits"), 2);
    assert_eq!(database.prepared.load(Ordering::SeqCst), 2);
}

#[test]
fn attempts_are_limited_in_number() {
    let database = Arc::new(Database { refuse: AtomicU32::new(u32::MAX), ..Database::default() });
    let coordinator = opened(&database);
    let mut calls = 0;
    let error = coordinator.run_blocking_with(QUICK.attempts(4), failing(&[], &mut calls)).expect_err("no vote is Yes");
    assert!(matches!(error, RunError::GaveUp { attempts: 4, .. }) && error.is_rolled_back(), "{error:?}");
    assert_eq!(calls, 4);
    let text = error_chain(&error);
    assert!(text.contains("gave up after 4 attempts") && text.ends_with("deadlock detected"), "{text}");
}

#[test]
fn attempts_are_limited_in_time() {
    let database = Arc::new(Database { refuse: AtomicU32::new(u32::MAX), ..Database::default() });
    let coordinator = opened(&database);
    let options = QUICK.attempts(u32::MAX).time(50 * MS);
    let start = Instant::now();
    let error = block_on(coordinator.run_with(options, async |mut txn| enlist(&mut txn))).expect_err("no vote is Yes");
    assert!(matches!(error, RunError::GaveUp { attempts: 2.., .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn other_errors_of_the_work_are_not_tried_again() {
    let coordinator = opened(&Arc::default());
    let mut calls = 0;
    let errors = [DbError::Deadlock, DbError::UniqueViolation];
    let error = coordinator.run_blocking_with(QUICK, failing(&errors, &mut calls)).expect_err("the second is final");
    let RunError::Work(error) = error else { panic!("{error:?}") };
    assert_eq!(error.downcast_ref(), Some(&DbError::UniqueViolation), "it is the caller's own error");
    assert_eq!(calls, 2);
    assert!(coordinator.settle(Duration::ZERO), "and its transaction is rolled back");
}

#[test]
fn a_no_without_a_transient_reason_is_not_tried_again() {
    let coordinator = Coordinator::builder(MemoryLog::new())
        .participant("db", Scripted::failing(Verb::Prepare, ParticipantError::refused("no money")))
        .participant("other", Scripted::new())
        .open()
        .expect("an empty log opens");
    let mut calls = 0;
    let error = coordinator.run_blocking_with(QUICK, failing(&[], &mut calls)).expect_err("the vote is No");
    assert!(matches!(&error, RunError::RolledBack(_)), "{error:?}");
    assert_eq!(calls, 1);
}

/// A last resource that gives no answer: it may have committed.
#[derive(Default)]
struct Silent(AtomicU32);

impl LastResource for Silent {
    fn commit(&self, _: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(ParticipantError::resource(DbError::Deadlock))
    }
    fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        Ok(())
    }
    fn is_transient(&self, error: &(dyn StdError + 'static)) -> bool {
        error.is::<DbError>()
    }
}

/// A bug that this must not have: a payment is made twice, because the answer to the first got lost.
#[test]
fn an_outcome_that_is_not_known_is_never_tried_again() {
    let coordinator = Coordinator::builder(MemoryLog::new())
        .policy(Policy::default().prepare_timeout(20 * MS))
        .last_resource("mail", Silent::default())
        .participant("db", Database::default())
        .open()
        .expect("an empty log opens");
    let calls = AtomicU32::new(0);
    let both = |txn: &mut Transaction| {
        calls.fetch_add(1, Ordering::SeqCst);
        txn.branch("mail")?;
        txn.branch("db").map(drop)
    };
    let error = coordinator.run_blocking_with(QUICK, both).expect_err("no answer came");
    assert!(matches!(error, RunError::Indeterminate(_)) && !error.is_rolled_back(), "{error:?}");
    let error = block_on(coordinator.run_with(QUICK, async |mut txn| both(&mut txn))).expect_err("no answer came");
    assert!(matches!(error, RunError::Indeterminate(_)), "{error:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 2, "one attempt each");
}

#[test]
fn a_panic_of_the_work_rolls_back_and_is_not_tried_again() {
    let coordinator = opened(&Arc::default());
    let mut calls = 0;
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        coordinator.run_blocking_with(QUICK, |txn| -> Result<(), BranchError> {
            calls += 1;
            enlist(txn)?;
            panic!("the test wants the work to panic")
        })
    }));
    assert!(panicked.is_err() && calls == 1);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        block_on(coordinator.run_with(QUICK, async |mut txn| -> Result<(), BranchError> {
            enlist(&mut txn)?;
            panic!("the test wants the work to panic")
        }))
    }));
    assert!(panicked.is_err());
    assert!(coordinator.settle(Duration::ZERO), "nothing is left");
}

#[test]
fn a_dropped_future_rolls_its_transaction_back() {
    let coordinator = opened(&Arc::default());
    let mut future = Box::pin(coordinator.run_with(QUICK, async |mut txn| {
        enlist(&mut txn)?;
        pending::<()>().await;
        Ok::<_, BranchError>(())
    }));
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(coordinator.status().transactions.len(), 1);
    drop(future);
    assert!(coordinator.settle(Duration::ZERO));
    assert_eq!(coordinator.status().transactions.len(), 0);
}

#[test]
fn a_future_that_is_dropped_in_a_pause_leaves_nothing_behind() {
    let database = Arc::new(Database { refuse: AtomicU32::new(1), ..Database::default() });
    let coordinator = opened(&database);
    let options = QUICK.first_backoff(Duration::from_secs(5)).longest_backoff(Duration::from_secs(5));
    {
        let mut future = pin!(coordinator.run_with(options, async |mut txn| enlist(&mut txn)));
        assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        assert_eq!(database.prepared.load(Ordering::SeqCst), 1);
    }
    assert!(coordinator.settle(Duration::ZERO));
}

#[test]
fn work_that_keeps_its_attempt_does_not_commit() {
    let coordinator = opened(&Arc::default());
    let kept = parking_lot::Mutex::new(None);
    let error = block_on(coordinator.run_with(QUICK, async |mut txn| {
        enlist(&mut txn)?;
        *kept.lock() = Some(txn);
        Ok::<_, BranchError>(())
    }));
    assert!(matches!(error, Err(RunError::Kept { .. })), "{error:?}");
    drop(kept);
    assert!(coordinator.settle(Duration::ZERO), "it is rolled back");
}

#[test]
fn a_shutdown_ends_the_attempts() {
    let database = Arc::new(Database { refuse: AtomicU32::new(u32::MAX), ..Database::default() });
    let coordinator = opened(&database);
    let options = QUICK.attempts(u32::MAX).time(Duration::MAX);
    let error = thread::scope(|scope| {
        let runs = scope.spawn(|| coordinator.run_blocking_with(options, enlist));
        thread::sleep(20 * MS);
        let left = coordinator.shutdown(Duration::from_secs(10));
        assert_eq!(left.in_doubt(), 0);
        runs.join().expect("it does not panic")
    });
    assert!(error.expect_err("no vote is Yes").is_rolled_back());
}

/// A store that lets one branch at a time reserve.
#[derive(Default)]
struct Busy(AtomicU32);

impl Service for Busy {
    type Work = bool;
    type Refusal = DbError;

    fn try_reserve(&self, _: &BranchId, is_duplicate: &bool) -> Result<(), DbError> {
        match self.0.fetch_add(1, Ordering::SeqCst) {
            _ if *is_duplicate => Err(DbError::UniqueViolation),
            0 | 1 => Err(DbError::Deadlock),
            _ => Ok(()),
        }
    }
    fn confirm(&self, _: &BranchId, _: &[bool]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn cancel(&self, _: &BranchId, _: &[bool]) -> Result<(), ServiceError> {
        Ok(())
    }
    fn is_transient(&self, refusal: &DbError) -> bool {
        *refusal == DbError::Deadlock
    }
}

#[test]
fn a_service_says_which_of_its_refusals_are_transient() {
    let log = MemoryLog::new();
    let goods = Arc::new(ResourceManager::open("goods", log.clone(), Busy::default()).expect("an empty log opens"));
    let threads = NonZeroUsize::MIN;
    let builder = Coordinator::builder(log).slow_participant("goods", Arc::clone(&goods), threads);
    let coordinator = builder.open().expect("an empty log opens");
    let sell = |is_duplicate| {
        let goods = &goods;
        move |txn: &mut Transaction| -> Result<(), WorkError> { Ok(goods.execute(txn.branch("goods")?, is_duplicate)?) }
    };
    coordinator.run_blocking_with(QUICK, sell(false)).expect("the third attempt reserves");
    let error = coordinator.run_blocking_with(QUICK, sell(true)).expect_err("it is refused for good");
    assert!(matches!(error, RunError::Work(_)), "{error:?}");
    assert_eq!(goods.service().0.load(Ordering::SeqCst), 4);
}

#[test]
fn votes_that_come_too_late_are_tried_again() {
    let builder = Coordinator::builder(MemoryLog::new()).policy(Policy::default().prepare_timeout(5 * MS));
    let slow = Scripted::failing(Verb::Prepare, ParticipantError::Unreachable);
    let coordinator = builder.participant("db", slow.clone()).participant("other", Scripted::new()).open();
    let coordinator = coordinator.expect("an empty log opens");
    let mut calls = 0;
    coordinator
        .run_blocking_with(QUICK, |txn| {
            calls += 1;
            if calls == 3 {
                slow.mend();
            }
            enlist(txn)
        })
        .expect("it answers in the end");
    assert_eq!(calls, 3);
}

/// Each attempt is a future of the caller's, so `run` must not keep it from being `Send`.
#[cfg(feature = "tokio")]
mod send {
    use super::*;

    async fn work_on(txn: &mut Transaction, table: &str) -> Result<usize, WorkError> {
        enlist(txn)?;
        tokio::task::yield_now().await;
        Ok(table.len())
    }

    /// As the handler of a web server is: an async function, with references into what it owns.
    async fn handle(coordinator: &Coordinator, table: &str) -> Result<usize, RunError> {
        coordinator.run(async |mut txn| work_on(&mut txn, table).await).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_future_can_be_spawned() {
        let database = Arc::new(Database { refuse: AtomicU32::new(1), ..Database::default() });
        let coordinator = Arc::new(opened(&database));
        let (table, shared) = (Arc::new(String::from("stock")), Arc::clone(&coordinator));
        let owned = Arc::clone(&table);
        let spawned = tokio::spawn(async move {
            let name = owned.as_str();
            let attempts = AtomicU32::new(0);
            let length = shared
                .run_with(QUICK, async |mut txn| {
                    attempts.fetch_add(1, Ordering::SeqCst);
                    txn.branch("other")?;
                    let length = work_on(&mut txn, name).await?;
                    work_on(&mut txn, &owned).await?;
                    Ok::<_, WorkError>(length)
                })
                .await;
            length.map(|length| (length, attempts.load(Ordering::SeqCst)))
        });
        assert_eq!(spawned.await.expect("it does not panic").expect("it commits"), (5, 2));
        let shared = Arc::clone(&coordinator);
        let spawned = tokio::spawn(async move { handle(&shared, &table).await });
        assert_eq!(spawned.await.expect("it does not panic").expect("it commits"), 5);
        // With a closure that returns a future, for work that is not an asynchronous closure.
        let table = "orders";
        let length = coordinator.run(|mut txn| async move { work_on(&mut txn, table).await }).await;
        assert_eq!(length.expect("it commits"), 6);
    }
}

#[test]
fn errors_say_what_to_do() {
    let rolled_back =
        CommitError::RolledBack { txn: opened(&Arc::default()).begin().id().clone(), cause: RollbackCause::TimedOut };
    let error = RunError::RolledBack(Box::new(rolled_back));
    let text = error_chain(&error);
    assert!(text.contains("remove the cause, then run it again: transaction shop"), "{text}");
}
