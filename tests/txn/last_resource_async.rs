//! An asynchronous last resource is asked by tasks: no thread of the coordinator waits for its answer,
//! and answers that are lost, late or never come cost nothing but time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use ringpact::{
    BranchId, CommitError, Coordinator, MemoryLog, ParticipantError, Policy, Transaction,
    participant::{AsyncLastResource, Call, Decision, LastResourceAnswer},
};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::{Manager, manager};

const SOON: Duration = Duration::from_secs(10);

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It takes effect, and no answer comes.
    Hangs,
    /// It takes effect, and its task ends without an answer.
    Panics,
    /// It fails before it takes effect.
    Fails,
    /// It is answered, late.
    Late(Duration),
}

/// A resource with a marker for each branch that it has committed or given up. It outlives processes.
#[derive(Clone, Default)]
struct Far(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    markers: BTreeMap<BranchId, Decision>,
    /// What becomes of the next commits, and of the next questions.
    commits: VecDeque<Fate>,
    questions: VecDeque<Fate>,
    asked: usize,
    /// The log of the coordinator, and what is left of it if the process dies at the next commit.
    dies: Option<(MemoryLog, Option<MemoryLog>)>,
}

impl Far {
    fn mark(&self, branch: &BranchId, marker: Decision) -> Decision {
        *self.0.lock().markers.entry(branch.clone()).or_insert(marker)
    }

    fn next(&self, commits: impl IntoIterator<Item = Fate>, questions: impl IntoIterator<Item = Fate>) {
        let mut state = self.0.lock();
        (state.commits, state.questions) = (commits.into_iter().collect(), questions.into_iter().collect());
    }

    async fn call(&self, fate: Fate, branch: &BranchId, marker: Decision) -> Result<Decision, ParticipantError> {
        match fate {
            Fate::Fails => return Err(ParticipantError::Unreachable),
            Fate::Late(by) => tokio::time::sleep(by).await,
            _ => {}
        }
        let decision = self.mark(branch, marker);
        match fate {
            Fate::Hangs => std::future::pending().await,
            Fate::Panics => panic!("the test wants this to panic"),
            _ => Ok(decision),
        }
    }
}

impl AsyncLastResource for Far {
    async fn commit(&self, branch: &BranchId, _: &Call) -> Result<Decision, ParticipantError> {
        let fate = self.0.lock().commits.pop_front().unwrap_or(Fate::Answered);
        let decision = self.call(fate, branch, Decision::Commit).await;
        if let Some((log, left)) = &mut self.0.lock().dies {
            *left = Some(log.crash());
        }
        match decision {
            Ok(Decision::Rollback) => Err(ParticipantError::refused("it was given up")),
            answer => answer,
        }
    }

    async fn rollback(&self, branch: &BranchId, _: &Call) -> Result<(), ParticipantError> {
        match self.mark(branch, Decision::Rollback) {
            Decision::Commit => Err(ParticipantError::AlreadyCommitted),
            Decision::Rollback => Ok(()),
        }
    }

    async fn committed(&self, branch: &BranchId) -> Result<LastResourceAnswer, ParticipantError> {
        let fate = {
            let mut state = self.0.lock();
            state.asked += 1;
            state.questions.pop_front().unwrap_or(Fate::Answered)
        };
        Ok(match self.call(fate, branch, Decision::Rollback).await? {
            Decision::Commit => LastResourceAnswer::Committed,
            Decision::Rollback => LastResourceAnswer::NotCommitted,
        })
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().expect("a runtime")
}

fn open(log: MemoryLog, a: &Manager, far: &Far, runtime: &Handle) -> Coordinator {
    let policy =
        Policy::default().prepare_timeout(Duration::from_millis(60)).delivery_timeout(Duration::from_millis(60));
    let policy = policy.first_backoff(Duration::from_millis(2)).longest_backoff(Duration::from_millis(10));
    let builder = Coordinator::builder(log).name("c").policy(policy).participant("a", a.clone());
    builder.async_last_resource("far", far.clone(), runtime.clone()).open().expect("the log opens")
}

fn begin(coordinator: &Coordinator, a: &Manager) -> Transaction {
    let mut txn = coordinator.begin();
    txn.branch("far").expect("it is registered");
    a.execute(txn.branch("a").expect("it is registered"), 2).expect("it accepts even amounts");
    txn
}

/// What the client hears, and whether all is committed, for each fate of the commit and of the question.
#[test]
fn whatever_becomes_of_the_answers_all_ends_as_the_resource_has_decided() {
    const LATE: Fate = Fate::Late(Duration::from_millis(90));
    let runtime = runtime();
    for (commits, questions, expected) in [
        (vec![], vec![], Ok(true)),
        (vec![Fate::Hangs; 9], vec![], Ok(true)),
        (vec![Fate::Panics; 99], vec![], Ok(true)),
        (vec![Fate::Fails; 99], vec![], Ok(false)),
        // It answers No when the question has given it up.
        (vec![LATE; 9], vec![Fate::Answered], Ok(false)),
        (vec![LATE; 9], vec![Fate::Late(Duration::from_millis(50))], Ok(false)),
        // It is asked again. The client waits no longer.
        (vec![Fate::Hangs; 9], vec![Fate::Panics], Err(true)),
        (vec![Fate::Hangs; 9], vec![Fate::Hangs], Err(true)),
        (vec![Fate::Fails; 99], vec![Fate::Fails; 3], Err(false)),
    ] {
        let (a, far) = (manager("a", MemoryLog::new()), Far::default());
        let coordinator = open(MemoryLog::new(), &a, &far, runtime.handle());
        far.next(commits.clone(), questions.clone());
        let outcome = begin(&coordinator, &a).commit().wait();
        assert!(coordinator.settle(SOON), "{}", coordinator.status());
        let heard = match outcome {
            Ok(()) => Ok(true),
            Err(CommitError::RolledBack { .. }) => Ok(false),
            Err(CommitError::Indeterminate { .. }) => Err(a.service().balance() == 2),
            Err(error) => panic!("{error}"),
        };
        // A late commit may be answered just before the question.
        let is_late = commits.first() == Some(&LATE);
        assert!(heard == expected || is_late && heard == Ok(true), "{commits:?}, {questions:?}: {heard:?}");
        let is_committed = far.0.lock().markers.values().all(|marker| *marker == Decision::Commit);
        assert_eq!((a.service().balance() == 2, far.0.lock().markers.len()), (is_committed, 1), "{commits:?}");
        assert!(a.service().reserved.lock().is_empty());
        assert_eq!(coordinator.status().heuristic, 0);
    }
}

#[test]
fn the_others_follow_it_when_the_process_died_before_the_decision_was_durable() {
    let runtime = runtime();
    let (a, far, log) = (manager("a", MemoryLog::new()), Far::default(), MemoryLog::new());
    far.0.lock().dies = Some((log.clone(), None));
    let coordinator = open(log, &a, &far, runtime.handle());
    let txn = begin(&coordinator, &a);
    let branch = txn.id().branch(&"a".parse().expect("a name"));
    let error = txn.commit().wait().expect_err("its log dies before the decision is durable");
    assert!(matches!(error, CommitError::Indeterminate { .. }), "{error}");
    let (_, left) = far.0.lock().dies.take().expect("it was set");
    drop(coordinator);
    // The promise was made again in the log that is left: the manager has one of its own.
    let other = manager("a", MemoryLog::new());
    other.execute(&branch, 2).expect("it accepts even amounts");
    ringpact::Participant::prepare(&*other, &branch, &crate::support::call()).expect("a promise");
    far.next([], [Fate::Fails, Fate::Panics, Fate::Hangs]);
    let coordinator = open(left.expect("it has committed"), &other, &far, runtime.handle());
    assert!(coordinator.settle(SOON), "{}", coordinator.status());
    assert_eq!((other.service().balance(), far.0.lock().asked), (2, 4));
}

/// A runtime that is gone answers nothing. The others stay in doubt, and a shutdown does not wait.
#[test]
fn without_its_runtime_the_others_stay_in_doubt() {
    let (a, far) = (manager("a", MemoryLog::new()), Far::default());
    let runtime = runtime();
    let coordinator = open(MemoryLog::new(), &a, &far, runtime.handle());
    let txn = begin(&coordinator, &a);
    drop(runtime);
    let error = txn.commit().wait().expect_err("no answer comes");
    assert!(matches!(error, CommitError::Indeterminate { .. }), "{error}");
    assert!(!coordinator.settle(Duration::from_millis(50)));
    assert!(coordinator.status().to_string().contains("asking the last resource"), "{}", coordinator.status());
    assert_eq!(a.service().balance(), 0);
    let begun = Instant::now();
    drop(coordinator);
    assert!(begun.elapsed() < SOON);
}
