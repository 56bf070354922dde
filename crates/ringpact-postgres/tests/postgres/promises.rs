//! Promises, and what a message that comes again finds of them.

use ringpact::{Epoch, ParticipantError, Vote, id::TxnOrdinal, log::Heuristic, participant::AsyncParticipant};

use crate::support::{Db, TAKE, attempt, call, call_with, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_commit_is_told_from_a_lost_one_by_its_marker() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let branch = db.promised(&goods, 1).await;
    goods.commit(&branch, &call()).await.expect("a commit");
    goods.commit(&branch, &call()).await.expect("a repeated commit");
    // Another process of the participant knows it only from the database.
    let other = db.goods().await;
    other.commit(&branch, &call()).await.expect("a repeated commit");
    assert!(matches!(other.rollback(&branch, &call()).await, Err(ParticipantError::AlreadyCommitted)));
    let unknown = db.branch(2);
    assert!(matches!(other.commit(&unknown, &call()).await, Err(ParticipantError::UnknownBranch)));
    assert_eq!(db.free(0).await, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_prepare_of_a_longer_log_leaves_the_promise_as_it_is() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let branch = db.promised(&goods, 1).await;
    let later = call_with(|call| call.position = 70);
    assert_eq!(goods.prepare(&branch, &later).await.expect("a vote"), Vote::Yes);
    goods.commit(&branch, &later).await.expect("a commit");
    assert_eq!((db.prepared().await, db.free(0).await), (0, 99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_only_reads_leaves_the_transaction_and_its_locks() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, "SELECT free FROM stock; SELECT pg_advisory_xact_lock(3)").await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::ReadOnly);
    assert_eq!((db.prepared().await, db.markers().await), (0, 0));
    let locks = "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database \
                 WHERE locktype = 'advisory' AND datname = current_database()";
    assert_eq!(db.number(locks).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_has_only_locked_rows_promises() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, "SELECT free FROM stock WHERE id = 0 FOR UPDATE").await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    let other = attempt(&mut goods.work(&db.branch(2)).await.expect("work"), TAKE).await;
    assert!(other.is_err(), "the lock stays until the decision");
    goods.commit(&branch, &call()).await.expect("a commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_did_by_hand_is_reported() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let branch = db.promised(&goods, 1).await;
    db.admin.batch_execute(&format!("ROLLBACK PREPARED '{branch}@0'")).await.expect("by hand");
    for _ in 0..2 {
        let answer = goods.commit(&branch, &call()).await;
        assert!(matches!(answer, Err(ParticipantError::Heuristic(Heuristic::RolledBack))), "{answer:?}");
    }
    let branch = db.promised(&goods, 2).await;
    db.admin.batch_execute(&format!("COMMIT PREPARED '{branch}@0'")).await.expect("by hand");
    let answer = goods.rollback(&branch, &call()).await;
    assert!(matches!(answer, Err(ParticipantError::AlreadyCommitted)), "{answer:?}");
    let branch = db.promised(&goods, 3).await;
    db.admin.batch_execute(&format!("COMMIT PREPARED '{branch}@0'")).await.expect("by hand");
    goods.commit(&branch, &call()).await.expect("it was committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_of_ended_transactions_are_deleted() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    for sequence in [1, 2, 600] {
        let branch = db.promised(&goods, sequence).await;
        goods.commit(&branch, &call()).await.expect("a commit");
    }
    assert_eq!(db.markers().await, 3);
    let ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 590 };
    let branch = db.promised(&goods, 601).await;
    goods.commit(&branch, &call_with(|call| call.ended_below = ended_below)).await.expect("a commit");
    assert_eq!(db.markers().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_numbers_are_kept_exactly() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    for sequence in [u64::MAX, u64::MAX - 1, i64::MAX as u64 + 1] {
        let branch = db.promised(&goods, sequence).await;
        let other = db.goods().await;
        other.commit(&branch, &call()).await.expect("a commit");
        goods.commit(&branch, &call()).await.expect("a repeated commit");
    }
    let kept = "SELECT count(*) FROM ringpact.marker \
                WHERE right(branch, 16) IN ('ffffffffffffffff', 'fffffffffffffffe', '8000000000000000')";
    assert_eq!(db.number(kept).await, 3);
}
