//! A transaction goes on without a participant that has done nothing for it.

use std::time::{Duration, Instant};

use crate::support::{
    name,
    scripted::{Scripted, broken},
    shared,
};
use ringpact::{
    Coordinator, Epoch, MemoryLog, Name, ParticipantError, Policy, TransactionLog, TxnId,
    participant::Verb,
    txn::{BranchError, CircuitState, CommitProtocol, Input},
};

const SOON: Duration = Duration::from_secs(5);

fn open(log: impl TransactionLog, participants: &[(&str, &Scripted)]) -> Coordinator {
    let builder = Coordinator::builder(log).name("c");
    let add = |builder: ringpact::txn::CoordinatorBuilder, (name, participant): &(&str, &Scripted)| {
        builder.participant(name, (*participant).clone())
    };
    participants.iter().fold(builder, add).open().unwrap()
}

#[test]
fn it_gets_no_message() {
    let (a, b, c) = (Scripted::new(), Scripted::new(), Scripted::new());
    let coordinator = open(MemoryLog::new(), &[("a", &a), ("b", &b), ("c1", &c)]);
    let mut txn = coordinator.begin();
    for name in ["a", "b", "c1"] {
        txn.branch(name).unwrap();
    }
    txn.withdraw("a").unwrap();
    txn.commit().wait().unwrap();
    assert_eq!(a.told(), []);
    assert_eq!((b.told(), c.told()), (vec![Verb::Prepare, Verb::Commit], vec![Verb::Prepare, Verb::Commit]));
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.withdraw("a").unwrap();
    txn.rollback();
    assert_eq!((a.told(), b.times_told(Verb::Rollback)), (Vec::new(), 1));
    assert!(coordinator.settle(SOON));
}

#[test]
fn the_decision_names_only_the_others() {
    let (log, a) = (MemoryLog::new(), Scripted::new());
    let (b, c) = (Scripted::failing(Verb::Commit, broken()), Scripted::failing(Verb::Commit, broken()));
    let coordinator = open(log.clone(), &[("a", &a), ("b", &b), ("c1", &c)]);
    let mut txn = coordinator.begin();
    for name in ["b", "a", "c1"] {
        txn.branch(name).unwrap();
    }
    txn.withdraw("a").unwrap();
    txn.commit().wait().unwrap();
    let records = log.crash().live(coordinator.name()).unwrap();
    let decided = records.iter().find_map(|record| match &record.fact {
        ringpact::log::Fact::Decided { participants, .. } => Some(participants.clone()),
        _ => None,
    });
    let names: Vec<_> = decided.expect("it is owed").iter().map(ToString::to_string).collect();
    assert_eq!(names, ["b", "c1"]);
    let status = coordinator.status();
    let branches: Vec<_> = status.transactions[0].branches.iter().map(|branch| branch.participant.as_str()).collect();
    assert_eq!(branches, ["b", "c1"]);
}

#[test]
fn a_single_other_participant_decides_alone() {
    let (log, a, b) = (MemoryLog::new(), Scripted::new(), Scripted::new());
    let coordinator = open(log.clone(), &[("a", &a), ("b", &b)]);
    let appended = log.stats().appended;
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    txn.withdraw("a").unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((a.told(), b.told()), (Vec::new(), vec![Verb::CommitOnePhase]));
    assert_eq!(log.stats().appended, appended);
    // And none at all: nothing is sent or written.
    let mut txn = coordinator.begin();
    txn.branch("a").unwrap();
    txn.withdraw("a").unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((a.told(), log.stats().appended), (Vec::new(), appended));
}

#[test]
fn it_can_be_enlisted_again_under_the_same_branch_id() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    let first = txn.branch("a").unwrap().clone();
    managers[1].execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.withdraw("a").unwrap();
    let second = txn.branch("a").unwrap().clone();
    assert_eq!(first, second);
    managers[0].execute(&second, 4).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((managers[0].service().balance(), managers[1].service().balance()), (4, 2));
    assert!(coordinator.settle(SOON));
}

/// The protocol keeps nothing of it: whatever was enlisted and withdrawn, the transaction is the one in
/// which only what is left was enlisted.
#[test]
fn a_withdrawn_branch_leaves_no_trace_in_the_protocol() {
    let txn = TxnId::new(name("c"), Epoch::new(1), 1);
    let names: Vec<Name> = (0..12).map(|number| name(&format!("p{number}"))).collect();
    let new = || CommitProtocol::new(txn.clone(), Policy::default());
    let enlist = |protocol: &mut CommitProtocol, number: usize| match number {
        0 => protocol.enlist_last_resource(names[number].clone()),
        1 => protocol.enlist_remembering_last_resource(names[number].clone()),
        number if number % 2 == 0 => Some(protocol.enlist_early(names[number].clone())),
        number => Some(protocol.enlist(names[number].clone())),
    };
    fastrand::seed(3);
    for _ in 0..1_000 {
        let (mut protocol, mut left) = (new(), Vec::new());
        for _ in 0..fastrand::usize(0..40) {
            let number = fastrand::usize(0..names.len());
            match left.iter().position(|other| *other == number) {
                Some(index) => {
                    assert!(protocol.withdraw(index));
                    left.remove(index);
                }
                None => match enlist(&mut protocol, number) {
                    Some(index) => {
                        assert_eq!(index, left.len());
                        left.push(number);
                    }
                    None => assert!(left.contains(&0) || left.contains(&1), "there is a last resource"),
                },
            }
            assert!(!protocol.withdraw(left.len()), "there is no such branch");
        }
        let mut plain = new();
        left.iter().for_each(|number| assert!(enlist(&mut plain, *number).is_some()));
        assert_eq!(protocol, plain);
        let now = Instant::now();
        protocol.handle(now, Input::Commit);
        assert!(!protocol.withdraw(0), "the client works no longer");
    }
}

/// More branches than a linear search is for: each keeps its index.
#[test]
fn of_many_branches_any_can_go_and_come_back() {
    let names: Vec<String> = (0..24).map(|number| format!("p{number}")).collect();
    let all: Vec<Scripted> = names.iter().map(|_| Scripted::new()).collect();
    let participants: Vec<_> = names.iter().map(String::as_str).zip(&all).collect();
    let coordinator = open(MemoryLog::new(), &participants);
    fastrand::seed(5);
    for _ in 0..50 {
        let mut txn = coordinator.begin();
        let mut enlisted = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let number = fastrand::usize(0..names.len());
            if fastrand::bool() {
                let branch = txn.branch(&names[number]).unwrap();
                assert_eq!(branch.participant().as_str(), names[number]);
                enlisted.insert(number);
            } else if enlisted.remove(&number) {
                txn.withdraw(&names[number]).unwrap();
            } else {
                assert!(matches!(txn.withdraw(&names[number]), Err(BranchError::NotEnlisted { .. })));
            }
        }
        let before: Vec<_> = all.iter().map(|participant| participant.told().len()).collect();
        txn.commit().wait().unwrap();
        assert!(coordinator.settle(SOON));
        for (number, participant) in all.iter().enumerate() {
            assert_eq!(participant.told().len() > before[number], enlisted.contains(&number), "{number}");
        }
    }
}

#[test]
fn the_place_of_the_last_resource_is_free_again() {
    let (queue, other, a, b) = (Scripted::new(), Scripted::new(), Scripted::new(), Scripted::new());
    let builder = Coordinator::builder(MemoryLog::new()).participant("a", a.clone()).participant("b", b.clone());
    let coordinator =
        builder.last_resource("queue", queue.clone()).last_resource("other", other.clone()).open().unwrap();
    let mut txn = coordinator.begin();
    txn.branch("queue").unwrap();
    txn.branch("a").unwrap();
    txn.branch("b").unwrap();
    assert!(matches!(txn.branch("other"), Err(BranchError::SecondLastResource { .. })));
    txn.withdraw("queue").unwrap();
    txn.branch("other").unwrap();
    assert!(matches!(txn.branch("queue"), Err(BranchError::SecondLastResource { .. })));
    txn.withdraw("a").unwrap();
    txn.commit().wait().unwrap();
    assert_eq!((queue.told(), other.told()), (Vec::new(), vec![Verb::CommitOnePhase]));
    assert_eq!((a.told(), b.told()), (Vec::new(), vec![Verb::Prepare, Verb::Commit]));
}

#[test]
fn a_transaction_that_is_over_withdraws_nothing() {
    let a = Scripted::new();
    let coordinator = open(MemoryLog::new(), &[("a", &a)]);
    let mut txn = coordinator.begin_within(Duration::from_millis(1));
    txn.branch("a").unwrap();
    crate::support::eventually("it expires", SOON, || a.times_told(Verb::Rollback) == 1);
    let error = txn.withdraw("a").unwrap_err();
    assert!(matches!(error, BranchError::Over { .. }), "{error}");
    let mut txn = coordinator.begin();
    assert!(matches!(txn.withdraw("a"), Err(BranchError::NotEnlisted { .. })));
    assert!(matches!(txn.withdraw("no such one"), Err(BranchError::Name(_))));
}

/// The one new branch that an open circuit lets through was to find out whether the participant
/// answers. Withdrawn, it finds out nothing, and the next one takes its place at once.
#[test]
fn a_withdrawn_trial_leaves_its_place_to_the_next() {
    let (bad, good) = (Scripted::new(), Scripted::new());
    for verb in [Verb::Prepare, Verb::Rollback] {
        bad.fail(verb, ParticipantError::Unreachable);
    }
    let policy = Policy::default().first_backoff(Duration::from_secs(1)).longest_backoff(Duration::from_secs(600));
    let builder = Coordinator::builder(MemoryLog::new()).policy(policy);
    let coordinator = builder.participant("bad", bad.clone()).participant("good", good.clone()).open().unwrap();
    let state = || coordinator.status().circuits[0].state;
    while state() != CircuitState::Open {
        let mut txn = coordinator.begin();
        txn.branch("bad").unwrap();
        txn.branch("good").unwrap();
        assert!(txn.commit().wait().is_err());
    }
    for transaction in coordinator.status().transactions {
        coordinator.park(&transaction.txn).unwrap();
    }
    bad.mend();
    let mut txn = coordinator.begin();
    crate::support::eventually("a trial is let through", SOON, || txn.branch("bad").is_ok());
    assert!(matches!(coordinator.begin().branch("bad"), Err(BranchError::Refused { .. })));
    txn.branch("good").unwrap();
    txn.withdraw("bad").unwrap();
    txn.commit().wait().unwrap();
    let mut next = coordinator.begin();
    next.branch("bad").expect("the trial's place is free at once");
    next.branch("good").unwrap();
    next.commit().wait().unwrap();
    assert_eq!(state(), CircuitState::Closed);
}
