//! Transactions of unusual shapes, and impossible names.

use crate::support::{manager, shared};
use ringpact::{
    Coordinator, IdError, MemoryLog, Participant, TransactionLog,
    txn::{BranchError, CoordinatorError},
};

#[test]
fn a_transaction_without_branches_commits_and_writes_nothing() {
    let (log, coordinator, _) = shared(&["a"]);
    let before = log.stats().appended;
    coordinator.begin().commit().wait().unwrap();
    coordinator.begin().rollback();
    assert_eq!(log.stats().appended, before);
    assert!(coordinator.status().transactions.is_empty());
}

#[test]
fn a_read_only_transaction_commits_and_writes_nothing() {
    let (log, coordinator, managers) = shared(&["a", "b"]);
    let before = log.stats().appended;
    for participants in [1, 2] {
        let mut txn = coordinator.begin();
        for manager in managers.iter().take(participants) {
            manager.execute(txn.branch(manager.name().as_str()).unwrap(), 0).unwrap();
        }
        txn.commit().wait().unwrap();
    }
    assert_eq!(log.stats().appended, before);
    assert!(coordinator.status().transactions.is_empty());
    assert!(managers.iter().all(|manager| manager.in_doubt(coordinator.name()).unwrap().is_empty()));
}

#[test]
fn a_branch_without_work_votes_no() {
    let (_log, coordinator, managers) = shared(&["a", "b"]);
    let mut txn = coordinator.begin();
    managers[0].execute(txn.branch("a").unwrap(), 2).unwrap();
    txn.branch("b").unwrap();
    let error = txn.commit().wait().unwrap_err();
    assert!(error.to_string().ends_with("b voted no"), "{error}");
    assert_eq!(managers[0].service().balance(), 0);
}

#[test]
fn the_same_participant_has_one_branch_however_often_it_is_named() {
    let (_log, coordinator, managers) = shared(&["a"]);
    let mut txn = coordinator.begin();
    let first = txn.branch("a").unwrap().clone();
    assert_eq!(txn.branch("a").unwrap(), &first);
    assert_eq!(first.to_string(), format!("{}:{}:1:a", coordinator.name(), coordinator.epoch()));
    managers[0].execute(&first, 2).unwrap();
    managers[0].execute(&first, 4).unwrap();
    txn.commit().wait().unwrap();
    assert_eq!(managers[0].service().balance(), 6);
}

#[test]
fn impossible_names_are_refused() {
    let (_log, coordinator, _) = shared(&["a"]);
    let mut txn = coordinator.begin();
    assert!(
        matches!(txn.branch("unknown"), Err(BranchError::UnknownParticipant { participant }) if participant.as_str() == "unknown")
    );
    assert!(matches!(txn.branch("a:b"), Err(BranchError::Name(IdError::NameCharacter { character: ':', .. }))));
    let open = |names: &[&str]| {
        let mut builder = Coordinator::builder(MemoryLog::new());
        for name in names {
            let own_name = if name.is_empty() { "a" } else { name };
            builder = builder.participant(name, manager(own_name, MemoryLog::new()));
        }
        builder.open().map(drop)
    };
    assert!(
        matches!(open(&["a", "b", "a"]), Err(CoordinatorError::DuplicateParticipant { participant }) if participant.as_str() == "a")
    );
    assert!(matches!(open(&["a", ""]), Err(CoordinatorError::Name(IdError::NameLength { length: 0 }))));
    let unnamed = Coordinator::builder(MemoryLog::new()).name("no spaces").open();
    assert!(matches!(unnamed.map(drop), Err(CoordinatorError::Name(IdError::NameCharacter { character: ' ', .. }))));
}

/// Found in review: to the log, records of owners with the same name belong to one owner. So the
/// coordinator's "ended" made the log drop the participant's commit, and a crash undid it.
#[test]
fn a_coordinator_is_not_opened_under_the_name_of_its_participant() {
    let log = MemoryLog::new();
    let both = manager("both", log.clone());
    let opened = Coordinator::builder(log.clone()).name("both").participant("both", both).open();
    assert!(matches!(opened.map(drop), Err(CoordinatorError::OwnName { name }) if name.as_str() == "both"));
    assert_eq!(log.stats().appended, 0, "nothing was written before the mistake was seen");
}
