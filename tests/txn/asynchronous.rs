//! Asynchronous participants, alone and in one transaction with others, without a thread for each
//! call.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use crate::support::{Manager, eventually, manager};
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, Name, Participant, ParticipantError, Policy, Vote, error_chain,
    participant::{AsyncParticipant, Call, Endpoint, MAX_QUEUED_REQUESTS, Reply, Request, Spawned, Verb},
    txn::RollbackCause,
};
use tokio::runtime::{Builder, Handle, Runtime, RuntimeFlavor};

/// A resource manager behind a slow connection.
struct Far {
    manager: Manager,
    takes: Duration,
    panics_at: Option<&'static str>,
}

impl Far {
    async fn travel(&self, what: &str) {
        tokio::time::sleep(self.takes).await;
        assert!(self.panics_at != Some(what), "the test wants {what} to panic");
    }
}

impl AsyncParticipant for Far {
    async fn prepare(&self, branch: &BranchId, call: &Call) -> Result<Vote, ParticipantError> {
        self.travel("prepare").await;
        self.manager.prepare(branch, call)
    }
    async fn commit(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.travel("commit").await;
        self.manager.commit(branch, call)
    }
    async fn rollback(&self, branch: &BranchId, call: &Call) -> Result<(), ParticipantError> {
        self.travel("rollback").await;
        self.manager.rollback(branch, call)
    }
    async fn in_doubt(&self, coordinator: &Name) -> Result<Vec<BranchId>, ParticipantError> {
        self.manager.in_doubt(coordinator)
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

fn open(log: &MemoryLog, a: &Manager, far: Far, runtime: &Handle) -> Coordinator {
    let builder = Coordinator::builder(log.clone())
        .policy(Policy::default().prepare_timeout(Duration::from_secs(60)).first_backoff(Duration::from_millis(5)));
    builder.participant("a", a.clone()).async_participant("far", far, runtime.clone()).open().unwrap()
}

#[test]
fn one_transaction_has_participants_of_both_kinds() {
    let runtime = runtime();
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("far", log.clone()));
    let far = Far { manager: b.clone(), takes: Duration::from_millis(5), panics_at: None };
    let coordinator = open(&log, &a, far, runtime.handle());
    for awaited in [true, false] {
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("far").unwrap(), 2).unwrap();
        let commit = txn.commit();
        if awaited { runtime.block_on(commit) } else { commit.wait() }.unwrap();
        assert!(coordinator.settle(Duration::from_secs(5)));
    }
    let mut alone = coordinator.begin();
    b.execute(alone.branch("far").unwrap(), 2).unwrap();
    runtime.block_on(alone.commit()).unwrap();
    assert_eq!((a.service().balance(), b.service().balance()), (4, 6));
    let mut refused = coordinator.begin();
    a.execute(refused.branch("a").unwrap(), 2).unwrap();
    b.execute(refused.branch("far").unwrap(), 3).unwrap_err();
    runtime.block_on(refused.commit()).unwrap_err();
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert!(a.service().reserved.lock().is_empty() && b.service().reserved.lock().is_empty());
}

#[test]
fn a_panic_is_a_failure_of_that_branch_only() {
    let runtime = runtime();
    for panics_at in ["prepare", "commit"] {
        let log = MemoryLog::new();
        let (a, b) = (manager("a", log.clone()), manager("far", log.clone()));
        let far = Far { manager: b.clone(), takes: Duration::ZERO, panics_at: Some(panics_at) };
        let coordinator = open(&log, &a, far, runtime.handle());
        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("far").unwrap(), 2).unwrap();
        let result = runtime.block_on(txn.commit());
        if panics_at == "commit" {
            result.expect("it is committed");
            let seen = || coordinator.status().transactions[0].branches[0].last_error.clone();
            eventually("it is seen", Duration::from_secs(5), || matches!(seen(), Some(ParticipantError::Panicked)));
        } else {
            let CommitError::RolledBack { cause: RollbackCause::Failed { error, .. }, .. } = result.unwrap_err() else {
                panic!("a panic is a failed vote");
            };
            assert!(matches!(error, ParticipantError::Panicked), "{error}");
        }
        assert!(a.service().reserved.lock().is_empty());
    }
}

#[test]
fn on_a_runtime_that_is_gone_calls_fail_and_no_client_waits_forever() {
    let gone = runtime();
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("far", log.clone()));
    let far = Far { manager: b.clone(), takes: Duration::ZERO, panics_at: None };
    let coordinator = open(&log, &a, far, gone.handle());
    eventually("it has said what it holds", Duration::from_secs(5), || coordinator.status().unanswered == 0);
    drop(gone);
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("far").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::Failed { .. }, .. }), "{error}");
    assert_eq!(coordinator.status().settling, 1, "the rollback is still to be delivered, and is seen");
}

/// A participant that hangs is called again and again, and each call leaves one more task waiting.
#[test]
fn tasks_of_a_participant_that_hangs_have_a_bound() {
    #[derive(Clone)]
    struct Hangs(Arc<tokio::sync::Semaphore>);
    impl AsyncParticipant for Hangs {
        async fn prepare(&self, _: &BranchId, _: &Call) -> Result<Vote, ParticipantError> {
            Ok(Vote::No)
        }
        async fn commit(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            Ok(())
        }
        async fn rollback(&self, _: &BranchId, _: &Call) -> Result<(), ParticipantError> {
            self.0.acquire().await.map(drop).map_err(ParticipantError::resource)
        }
        async fn in_doubt(&self, _: &Name) -> Result<Vec<BranchId>, ParticipantError> {
            Ok(Vec::new())
        }
    }
    let runtime = runtime();
    let hangs = Hangs(Arc::new(tokio::sync::Semaphore::new(0)));
    let spawned = Spawned::new(hangs.clone(), runtime.handle().clone());
    let (tell, told) = mpsc::channel();
    let send = || {
        let (tell, branch) = (tell.clone(), crate::support::branch(1, "far"));
        let request = Request::Branch { branch, verb: Verb::Rollback, call: crate::support::call() };
        spawned.send(request, Reply::new(move |result| drop(tell.send(result))));
    };
    (0..=MAX_QUEUED_REQUESTS).for_each(|_| send());
    let refused: Vec<_> = told.try_iter().collect();
    assert!(matches!(&refused[..], [Err(ParticipantError::Unreachable)]), "{}", refused.len());
    hangs.0.add_permits(1);
    for _ in 0..MAX_QUEUED_REQUESTS {
        told.recv_timeout(Duration::from_secs(5)).expect("those that wait are not forgotten").unwrap();
    }
    eventually("the last task is gone", Duration::from_secs(5), || {
        send();
        told.recv_timeout(Duration::from_secs(5)).is_ok_and(|result| result.is_ok())
    });
}

/// Blocks inside of a task of the runtime, which is a mistake.
fn block_on_its_own<T: Send + 'static>(runtime: &Runtime, block: impl FnOnce() -> T + Send + 'static) -> T {
    let blocks = async move { block() };
    match runtime.handle().runtime_flavor() {
        RuntimeFlavor::CurrentThread => runtime.block_on(blocks),
        _ => runtime.block_on(runtime.spawn(blocks)).expect("it does not panic"),
    }
}

/// A bug: it took five seconds, and the error was "not all participants voted in time".
#[test]
fn a_thread_that_blocks_the_participants_runtime_gets_an_error_that_says_so() {
    let of_one = Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime");
    let current = Builder::new_current_thread().enable_time().build().expect("a runtime");
    for runtime in [current, of_one] {
        let log = MemoryLog::new();
        let (a, b) = (manager("a", log.clone()), manager("far", log.clone()));
        let far = Far { manager: b.clone(), takes: Duration::from_millis(1), panics_at: None };
        let soon = Duration::from_millis(200);
        let policy = Policy::default().prepare_timeout(soon).delivery_timeout(soon);
        let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone());
        let coordinator = Arc::new(builder.async_participant("far", far, runtime.handle().clone()).open().unwrap());
        let settles = || {
            runtime.block_on(async {
                while coordinator.status().in_doubt() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        };
        settles();

        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("far").unwrap(), 2).unwrap();
        let error = block_on_its_own(&runtime, || txn.commit().wait()).unwrap_err();
        let CommitError::RolledBack { cause: RollbackCause::Failed { participant, error: why }, .. } = &error else {
            panic!("{error}");
        };
        assert!(participant.as_str() == "far" && matches!(why, ParticipantError::NotBegun { .. }), "{error}");
        assert!(error_chain(&error).contains("`.await` it there"), "{error}");
        settles();

        let mut alone = coordinator.begin();
        b.execute(alone.branch("far").unwrap(), 2).unwrap();
        let error = block_on_its_own(&runtime, || alone.commit().wait()).unwrap_err();
        assert!(matches!(error, CommitError::Indeterminate { .. }), "{error}");
        assert!(error_chain(&error).contains("`.await` it there"), "{}", error_chain(&error));
        settles();

        let mut txn = coordinator.begin();
        a.execute(txn.branch("a").unwrap(), 2).unwrap();
        b.execute(txn.branch("far").unwrap(), 2).unwrap();
        let left = {
            let coordinator = Arc::clone(&coordinator);
            block_on_its_own(&runtime, move || {
                txn.rollback();
                coordinator.shutdown(soon * 5)
            })
        };
        assert!(left.to_string().contains("`.await` it there"), "{left}");
        settles();
    }
}

/// A participant that is slow, and has begun the call.
#[test]
fn a_slow_participant_that_has_begun_times_out() {
    let runtime = runtime();
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("far", log.clone()));
    let far = Far { manager: b.clone(), takes: Duration::from_millis(500), panics_at: None };
    let policy = Policy::default().prepare_timeout(Duration::from_millis(100));
    let builder = Coordinator::builder(log).policy(policy).participant("a", a.clone());
    let coordinator = builder.async_participant("far", far, runtime.handle().clone()).open().unwrap();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("far").unwrap(), 2).unwrap();
    let error = runtime.block_on(async { txn.commit().await }).unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::TimedOut, .. }), "{error}");
}
