//! A last resource cannot promise: the coordinator asks it once all others have promised, and its
//! answer is the outcome.

use std::time::{Duration, Instant};

use crate::support::{
    Manager, eventually,
    logs::{FaultyLog, LogFault},
    manager,
    scripted::{Scripted, broken},
};
use ringpact::{
    CommitError, Coordinator, Epoch, MemoryLog, Name, ParticipantError, Policy, TransactionLog, TxnId, Vote,
    log::Heuristic,
    participant::{Decision, LastResourceAnswer, Verb},
    txn::{Action, BranchError, Cause, CommitProtocol, Input, Outcome, RollbackCause, TransactionState},
};

fn open(log: impl TransactionLog, a: &Manager, b: &Manager, queue: &Scripted) -> Coordinator {
    let policy = Policy::default().prepare_timeout(Duration::from_millis(60));
    let builder = Coordinator::builder(log).name("c").policy(policy);
    let builder = builder.last_resource("queue", queue.clone()).last_resource("other", Scripted::new());
    builder.participant("a", a.clone()).participant("b", b.clone()).open().unwrap()
}

fn transaction(coordinator: &Coordinator, a: &Manager, b: &Manager, amount: i64) -> ringpact::Transaction {
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), amount).unwrap();
    let _ = b.execute(txn.branch("b").unwrap(), amount + 1);
    txn
}

/// All agree, the queue has committed, and it is uncertain whether the log holds the decision.
fn commit_indeterminate(coordinator: &Coordinator, a: &Manager, b: &Manager) {
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::Indeterminate { error: Some(_), .. }), "{error}");
}

#[test]
fn it_commits_after_all_others_have_promised_and_before_the_decision() {
    let log = MemoryLog::new();
    let (a, b, queue) = (manager("a", log.clone()), manager("b", MemoryLog::new()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let forced = log.stats().forced;
    txn.commit().wait().unwrap();
    assert_eq!(queue.told(), [Verb::CommitOnePhase], "it is never asked to promise, and told once");
    assert_eq!(log.stats().forced - forced, 1, "one decision, as ever");
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
    assert!(coordinator.settle(Duration::from_secs(5)));
}

#[test]
fn another_participants_no_rolls_it_back_before_it_is_asked() {
    let log = MemoryLog::new();
    let (a, b, queue) = (manager("a", log.clone()), manager("b", log.clone()), Scripted::new());
    let coordinator = open(log, &a, &b, &queue);
    let error = transaction(&coordinator, &a, &b, 2).commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::RolledBack { cause: RollbackCause::VotedNo { .. }, .. }), "{error}");
    assert_eq!(queue.told(), [Verb::Rollback]);
    assert!(a.service().reserved.lock().is_empty());
}

#[test]
fn if_it_refuses_no_participant_commits() {
    struct Refuses;
    impl ringpact::participant::LastResource for Refuses {
        fn commit(
            &self,
            _: &ringpact::BranchId,
            _: &ringpact::participant::Call,
        ) -> Result<Decision, ParticipantError> {
            Ok(Decision::Rollback)
        }
        fn rollback(&self, _: &ringpact::BranchId, _: &ringpact::participant::Call) -> Result<(), ParticipantError> {
            panic!("it has rolled back already")
        }
    }
    let log = MemoryLog::new();
    let a = manager("a", log.clone());
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).last_resource("queue", Refuses);
    let coordinator = builder.open().unwrap();
    let forced = log.stats().forced;
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.branch("queue").unwrap();
    let error = txn.commit().wait().unwrap_err();
    let CommitError::RolledBack { cause: RollbackCause::VotedNo { participant, .. }, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((participant.as_str(), log.stats().forced), ("queue", forced));
    assert!(a.service().reserved.lock().is_empty());
    assert!(coordinator.settle(Duration::ZERO));
}

#[test]
fn there_is_at_most_one() {
    let log = MemoryLog::new();
    let (a, b) = (manager("a", log.clone()), manager("b", log.clone()));
    let coordinator = open(log, &a, &b, &Scripted::new());
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    let error = txn.branch("other").unwrap_err();
    assert!(matches!(&error, BranchError::SecondLastResource { participant } if participant.as_str() == "other"));
    txn.commit().wait().expect("alone it decides by itself");
}

#[test]
fn if_the_others_only_read_it_decides_alone_and_nothing_is_logged() {
    let log = MemoryLog::new();
    let (a, b, queue) = (manager("a", log.clone()), manager("b", log.clone()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    let forced = log.stats().forced;
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 0).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((queue.told(), log.stats().forced), (vec![Verb::CommitOnePhase], forced));
}

/// The last resource does not say what it has done. The others cannot wait forever because of that;
/// it is told to roll back, and the client gets `Indeterminate`.
#[test]
fn if_it_does_not_answer_in_time_the_outcome_is_indeterminate_and_the_rest_rolled_back() {
    let log = MemoryLog::new();
    let (a, b, queue) = (manager("a", log.clone()), manager("b", log.clone()), Scripted::new());
    queue.fail(Verb::CommitOnePhase, broken());
    let coordinator = open(log, &a, &b, &queue);
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(matches!(error, CommitError::Indeterminate { .. }), "{error}");
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!(queue.told().last(), Some(&Verb::Rollback));
    assert_eq!((a.service().balance(), a.service().reserved.lock().len()), (0, 0));
}

/// The last resource had committed, and says so only when it is told to roll back: a heuristic
/// outcome, which is kept.
#[test]
fn if_it_had_committed_after_all_a_heuristic_outcome_is_kept() {
    let log = MemoryLog::new();
    let (a, b, queue) = (manager("a", log.clone()), manager("b", log.clone()), Scripted::new());
    queue.fail(Verb::CommitOnePhase, ParticipantError::Unreachable);
    queue.fail(Verb::Rollback, ParticipantError::AlreadyCommitted);
    let coordinator = open(log, &a, &b, &queue);
    let mut txn = coordinator.begin();
    let id = txn.id().clone();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap_err();
    let kept = TransactionState::Heuristic(Decision::Rollback, Heuristic::Mixed);
    let state = || coordinator.status().transactions[0].state;
    eventually("its rollback is answered", Duration::from_secs(5), || state() == kept);
    coordinator.forget(&id).unwrap();
}

/// The last resource has committed, and the decision cannot be written: any other end of the other
/// branches would be wrong.
#[test]
fn if_the_log_refuses_the_decision_the_others_follow_it_and_the_client_gets_no_certain_answer() {
    let log = FaultyLog::new(LogFault::RefusesDecisions);
    let (a, b, queue) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    log.break_down();
    commit_indeterminate(&coordinator, &a, &b);
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
    assert_eq!(queue.told(), [Verb::CommitOnePhase]);
}

/// Found by the search of the protocol's states: on the coordinator's log no participant forces its
/// commit, because the decision stands before it. Here there is no decision, so a crash undid what
/// a service had confirmed, and recovery cancelled it.
#[test]
fn without_a_decision_in_the_log_each_follower_makes_its_commit_durable_before_it_carries_it_out() {
    let log = FaultyLog::new(LogFault::RefusesDecisions);
    let (a, b, queue) = (manager("a", log.clone()), manager("b", log.clone()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    log.break_down();
    commit_indeterminate(&coordinator, &a, &b);
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
    let survives = log.inner.crash();
    drop(coordinator);
    let (a, b) = (manager("a", survives.clone()), manager("b", survives.clone()));
    let coordinator = open(survives, &a, &b, &queue);
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), b.service().balance()), (2, 2));
}

/// Found by simulation: the decision's sync failed after it was written. It was not certain that
/// the log held it, so there was no end to write, and `ended_below` passed the transaction. The
/// participants forgot their branches. The next life found the decision and delivered it to
/// participants that knew nothing of it.
#[test]
fn followers_do_not_forget_a_decision_that_a_failed_log_may_hold() {
    let log = FaultyLog::new(LogFault::FailsAfterWriting);
    let (a, b, queue) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    log.break_down();
    commit_indeterminate(&coordinator, &a, &b);
    // The calls of these transactions carry `ended_below`.
    for manager in [&a, &b] {
        let mut txn = coordinator.begin();
        manager.execute(txn.branch(manager.name()).unwrap(), 2).unwrap();
        txn.commit().wait().unwrap();
        manager.checkpoint().unwrap();
    }
    drop(coordinator);
    let coordinator = open(log.inner.crash(), &a, &b, &queue);
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((coordinator.recovered().committed, coordinator.status().heuristic), (1, 0), "{}", coordinator.status());
    assert_eq!((a.service().balance(), b.service().balance()), (4, 4));
}

/// The documented window: the process dies after the resource has committed and before the decision
/// is durable, and the resource does not remember what it did. The others are rolled back, and no log
/// knows that this differs. `last_resource_remembers` has the same with one that remembers.
#[test]
fn the_documented_window_exists() {
    let log = crate::support::logs::SlowLog::new(Duration::from_millis(150));
    let (a, b, queue) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()), Scripted::new());
    let coordinator = open(log.clone(), &a, &b, &queue);
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    let commit = txn.commit();
    assert_eq!(queue.told(), [Verb::CommitOnePhase], "it has committed, and the decision is not durable yet");
    let survives = log.crash();
    std::mem::forget(commit);
    drop(coordinator);
    let coordinator = open(survives, &a, &b, &queue);
    assert!(coordinator.settle(Duration::from_secs(5)));
    assert_eq!((a.service().balance(), a.service().reserved.lock().len()), (0, 0), "the other is rolled back");
    assert_eq!(queue.told(), [Verb::CommitOnePhase], "and it has committed");
}

/// A bug: it had the time that a vote may take, even if its transaction had less left: the client
/// waited beyond the deadline.
#[test]
fn a_last_resource_has_no_more_time_than_its_transaction() {
    let name = |text| Name::new(text).expect("a valid name");
    let begun = Instant::now();
    let after = |seconds| begun + Duration::from_secs(seconds);
    // Once the others vote in time, and once so late that the resource is not asked at all.
    for (voted_after, has_answer) in [(8, Outcome::Indeterminate), (10, Outcome::RolledBack(Cause::TimedOut))] {
        let policy = Policy::default().prepare_timeout(Duration::from_secs(30));
        let mut protocol = CommitProtocol::new(TxnId::new(name("shop"), Epoch::new(1), 1), policy);
        protocol.expires(after(10));
        let goods = protocol.enlist(name("goods"));
        assert_eq!(protocol.enlist_last_resource(name("letters")), Some(1));
        protocol.handle(begun, Input::Commit);
        assert_eq!(protocol.poll(begun), Some(Action::Send(goods, Verb::Prepare)));
        let mut sent = Vec::new();
        for (now, input) in [(after(voted_after), Input::Voted(goods, Vote::Yes)), (after(10), Input::Tick)] {
            protocol.handle(now, input);
            if protocol.deadline().is_some_and(|at| at <= now) {
                protocol.handle(now, Input::Tick);
            }
            while let Some(action) = protocol.poll(now) {
                match action {
                    Action::Answer(outcome) => assert_eq!(outcome, has_answer),
                    Action::Send(branch, verb) => sent.push((branch, verb)),
                    Action::AskLastResource(branch) => {
                        protocol.handle(now, Input::LastResource(branch, LastResourceAnswer::Unknown));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        let is_asked = sent.iter().any(|(branch, verb)| *branch != goods && *verb == Verb::CommitOnePhase);
        assert_eq!(is_asked, has_answer == Outcome::Indeterminate, "{sent:?}");
        assert!(sent.contains(&(goods, Verb::Rollback)), "{sent:?}");
    }
}
