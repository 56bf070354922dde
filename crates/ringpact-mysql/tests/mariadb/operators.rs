//! What operators see and do: orphans, settling by hand, heuristics, and markers that are no longer
//! needed.

use ringpact::{
    Epoch, LogId, Name, ParticipantError, TxnOrdinal, Vote,
    log::Heuristic,
    participant::{AsyncParticipant as _, Decision, EndedOpening, Life, xa::XaErrorKind},
};

use crate::support::{branch, branch_of, call, carry_out, commit, insert, promise, roll_back, shop, with_database};

#[test]
fn promises_of_lost_coordinators_are_listed_and_settled() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        for (sequence, account) in [(1, "b"), (2, "c")] {
            promise(&payments, &branch_of("lost", 1, sequence), account).await;
        }
        let orphans = payments.orphans(&[shop()]).await.expect("a list");
        let named: Vec<_> = orphans.iter().filter_map(|orphan| orphan.branch.clone()).collect();
        assert_eq!(named, [branch_of("lost", 1, 1), branch_of("lost", 1, 2)]);
        for (orphan, decision) in orphans.iter().zip([Decision::Commit, Decision::Rollback]) {
            payments.settle(&orphan.id, decision).await.expect("settled");
            let error = payments.settle(&orphan.id, decision).await.expect_err("it is gone");
            assert_eq!(error.kind(), XaErrorKind::NotThere);
        }
        assert_eq!((database.committed("b").await, database.committed("c").await), (1, 0));
        assert!(payments.orphans(&[shop()]).await.expect("a list").is_empty());
        let error = payments.settle("1; DROP TABLE account", Decision::Commit).await.expect_err("no id");
        assert_eq!(error.kind(), XaErrorKind::Refused);
        commit(&payments, &branch(1)).await;
    });
}

/// A new process knows coordinators only by what the database says.
#[test]
fn orphans_of_an_unknown_coordinator_are_listed_without_its_name() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch_of("lost", 1, 1), "a").await;
        drop(payments);
        database.kill_connections().await;
        let payments = database.open().await;
        let [orphan] = payments.orphans(&[shop()]).await.expect("a list").try_into().expect("one");
        assert_eq!((orphan.branch, orphan.is_own), (None, true));
        let lost = Name::from_static("lost");
        assert!(payments.orphans(&[lost]).await.expect("a list").is_empty());
        payments.settle(&orphan.id, Decision::Commit).await.expect("settled");
        assert_eq!(database.committed("a").await, 1);
    });
}

#[test]
fn a_promise_that_an_operator_has_rolled_back_is_a_heuristic() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        let [listed] = payments.orphans(&[]).await.expect("a list").try_into().expect("one");
        database.kill_connections().await;
        let mut operator = database.conn().await;
        carry_out(&mut operator, format!("XA ROLLBACK {}", listed.id)).await.expect("rolled back");
        let answer = payments.commit(&branch(1), &call()).await;
        assert!(matches!(answer, Err(ParticipantError::Heuristic(Heuristic::RolledBack))), "{answer:?}");
        assert_eq!(database.committed("a").await, 0);
    });
}

#[test]
fn a_promise_that_an_operator_has_committed_is_committed() {
    with_database(async |database| {
        let payments = database.open().await;
        for sequence in [1, 2] {
            promise(&payments, &branch(sequence), &sequence.to_string()).await;
        }
        for listed in payments.orphans(&[]).await.expect("a list") {
            payments.settle(&listed.id, Decision::Commit).await.expect("settled");
        }
        payments.commit(&branch(1), &call()).await.expect("it is committed");
        let answer = payments.rollback(&branch(2), &call()).await;
        assert!(matches!(answer, Err(ParticipantError::AlreadyCommitted)), "{answer:?}");
        assert_eq!((database.committed("1").await, database.committed("2").await), (1, 1));
    });
}

#[test]
fn markers_of_ended_transactions_are_deleted() {
    with_database(async |database| {
        let payments = database.open().await;
        for sequence in 1..=20 {
            promise(&payments, &branch(sequence), &sequence.to_string()).await;
            commit(&payments, &branch(sequence)).await;
        }
        let others = branch_of("another", 1, 1);
        promise(&payments, &others, "other").await;
        commit(&payments, &others).await;
        let markers = "SELECT COUNT(*) FROM ringpact_marker";
        assert_eq!(database.value::<u64>(markers).await, Some(21));
        let mut later = call();
        (later.epoch, later.ended_below) = (Epoch::new(2), TxnOrdinal { epoch: Epoch::new(2), sequence: 0 });
        let last = branch_of("shop", 2, 5);
        insert(&payments, &last, "last").await;
        assert_eq!(payments.prepare(&last, &later).await.expect("a vote"), Vote::Yes);
        // The other coordinator's, and that of the promise, which other transactions do not see.
        assert_eq!(database.value::<u64>(markers).await, Some(1));
        payments.commit(&last, &later).await.expect("committed");
        assert_eq!(database.value::<u64>(markers).await, Some(2));
    });
}

#[test]
fn a_participant_that_is_shut_down_begins_nothing_and_keeps_its_promises() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        insert(&payments, &branch(2), "b").await;
        payments.shutdown().await;
        payments.work(&branch(3)).await.expect_err("it is shut down");
        payments.prepare(&branch(2), &call()).await.expect_err("it is rolled back");
        let reopened = database.open().await;
        commit(&reopened, &branch(1)).await;
        roll_back(&reopened, &branch(2)).await;
        assert_eq!((database.committed("a").await, database.committed("b").await), (1, 0));
    });
}

/// Another process of the participant has met a later life of the coordinator, and a restored log.
#[test]
fn a_life_that_another_process_has_met_is_not_overtaken() {
    with_database(async |database| {
        let (first, second) = (database.open().await, database.open().await);
        let log = LogId::from_bytes([7; 16]);
        let (early, late) = (Life::new(log, Epoch::new(10), 5), Life::new(log, Epoch::new(20), 9));
        second.meet(&shop(), &late).await.expect("nothing is known");
        let error = first.meet(&shop(), &early).await.expect_err("another process knows a later life");
        assert!(matches!(error, ParticipantError::Superseded(_)), "{error}");
        // An operator has restored an older copy of the log. It stays accepted after a restart.
        let mut restored = early.continuing(EndedOpening { epoch: late.epoch, position: 9 });
        restored.replaces = log;
        second.meet(&shop(), &restored).await.expect("an operator said so");
        let third = database.open().await;
        third.meet(&shop(), &early).await.expect("it is what was noted");
        let error = third.meet(&shop(), &late).await.expect_err("it does not continue the restored one");
        assert!(matches!(error, ParticipantError::Superseded(_)), "{error}");
    });
}
