//! A coordinator whose log refuses or fails reports exactly what is known, and does nothing beyond
//! that.

use crate::support::{
    Op,
    logs::{FaultyLog, LogFault},
    manager,
};
use ringpact::{CommitError, Coordinator, MemoryLog, txn::RollbackCause};

#[test]
fn a_decision_that_the_log_refuses_is_a_rollback() {
    let log = FaultyLog::new(LogFault::RefusesDecisions);
    let (a, b) = (manager("a", log.clone()), manager("b", MemoryLog::new()));
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    log.break_down();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    let error = txn.commit().wait().unwrap_err();
    let CommitError::RolledBack { cause: RollbackCause::LogRefused { error }, .. } = &error else {
        panic!("{error}");
    };
    assert!(error.to_string().contains("free disk space"), "{error}");
    assert_eq!(coordinator.status().in_doubt(), 0);
    for manager in [&a, &b] {
        assert_eq!(manager.service().balance(), 0);
        assert!(manager.service().reserved.lock().is_empty());
    }
    // Read-only and single-participant transactions need no decision, and go on.
    let mut txn = coordinator.begin();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    txn.commit().wait().unwrap();
}

#[test]
fn a_decision_that_may_or_may_not_be_written_is_neither_committed_nor_rolled_back() {
    let faults = [
        (LogFault::FailsAfterWriting, 2),
        (LogFault::FailsBeforeWriting, 0),
        (LogFault::HasFailed, 0),
        (LogFault::Panics, 2),
    ];
    for (fault, balance) in faults {
        for awaited in [true, false] {
            let log = FaultyLog::new(fault);
            let (log_of_a, log_of_b) = (MemoryLog::new(), MemoryLog::new());
            let (a, b) = (manager("a", log_of_a.clone()), manager("b", log_of_b.clone()));
            let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).participant("b", b.clone());
            let coordinator = builder.open().unwrap();
            log.break_down();
            let mut txn = coordinator.begin();
            a.execute(txn.branch("a").unwrap(), 2).unwrap();
            b.execute(txn.branch("b").unwrap(), 2).unwrap();
            let commit = txn.commit();
            let error = if awaited { crate::support::block_on(commit) } else { commit.wait() }.unwrap_err();
            assert!(matches!(error, CommitError::Indeterminate { error: Some(_), .. }), "{error}");
            let status = coordinator.status();
            assert_eq!((status.indeterminate, status.settling, status.in_doubt()), (1, 0, 1));
            for manager in [&a, &b] {
                assert_eq!(manager.status().prepared, 1, "it keeps its promise");
                assert_eq!(manager.service().reserved.lock().len(), 1);
                let asked = |op| manager.service().asked(op).len();
                assert_eq!((asked(Op::Confirm), asked(Op::Cancel)), (0, 0), "no participant was told anything");
            }
            drop(coordinator);

            let log = log.inner.crash();
            let builder = Coordinator::builder(log).participant("a", a.clone()).participant("b", b.clone());
            let coordinator = builder.open().unwrap();
            assert_eq!(coordinator.status().in_doubt(), 0);
            for manager in [&a, &b] {
                assert_eq!(manager.service().balance(), balance, "{fault:?}: reopening settles it");
                assert!(manager.service().reserved.lock().is_empty());
            }
        }
    }
}

/// No client waits for the outcome: the transaction must neither spin nor report an outcome.
#[test]
fn an_unattended_transaction_stays_indeterminate_when_the_log_fails() {
    let log = FaultyLog::new(LogFault::FailsBeforeWriting);
    let (a, b) = (manager("a", MemoryLog::new()), manager("b", MemoryLog::new()));
    let builder = Coordinator::builder(log.clone()).participant("a", a.clone()).participant("b", b.clone());
    let coordinator = builder.open().unwrap();
    log.break_down();
    let mut txn = coordinator.begin();
    a.execute(txn.branch("a").unwrap(), 2).unwrap();
    b.execute(txn.branch("b").unwrap(), 2).unwrap();
    drop(txn.commit());
    crate::support::eventually("it is known to be indeterminate", std::time::Duration::from_secs(5), || {
        coordinator.status().indeterminate == 1
    });
    assert!(!coordinator.settle(std::time::Duration::from_millis(50)), "in doubt until the log is opened again");
    assert_eq!((a.status().prepared, b.status().prepared), (1, 1));
}
