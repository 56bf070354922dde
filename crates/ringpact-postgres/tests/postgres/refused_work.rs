//! Work that PostgreSQL can't prepare, or would take for done although nothing is prepared: each gets a No with its reason.

use ringpact::{ParticipantError, Vote, error_chain, participant::AsyncParticipant};

use crate::support::{Db, PgParticipant, TAKE, attempt, call, no, work};

/// Does this work, which succeeds, and checks that the vote is a No for a reason with this text, and that nothing is left.
async fn is_refused(sql: &[&str], reason: &str) {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    for sql in sql {
        work(&goods, &branch, sql).await;
    }
    let found = no(&goods, &branch).await;
    assert!(found.contains(reason), "{found}");
    assert_eq!((db.prepared().await, db.markers().await), (0, 0));
    // The connection is of use again.
    let next = db.branch(2);
    work(&goods, &next, TAKE).await;
    assert_eq!(goods.prepare(&next, &call()).await.expect("a vote"), Vote::Yes);
    goods.rollback(&next, &call()).await.expect("a rollback");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_aborted_transaction_is_not_prepared_although_postgresql_says_that_it_was() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    let failed = attempt(&mut goods.work(&branch).await.expect("work"), "UPDATE stock SET free = -1").await;
    assert!(failed.is_err());
    let reason = no(&goods, &branch).await;
    assert!(reason.contains("a statement under the branch has failed"), "{reason}");
    assert_eq!((db.free(0).await, db.prepared().await, db.markers().await), (100, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_after_a_savepoint_does_not_doom_the_branch() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, &format!("{TAKE}; SAVEPOINT before")).await;
    let failed = attempt(&mut goods.work(&branch).await.expect("work"), "UPDATE stock SET free = -1").await;
    assert!(failed.is_err());
    work(&goods, &branch, "ROLLBACK TO SAVEPOINT before").await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!(db.free(0).await, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_the_works_own_is_found() {
    is_refused(&[TAKE, "COMMIT"], "has ended the branch's transaction by itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_the_works_own_is_found_if_another_transaction_follows() {
    is_refused(&[TAKE, "COMMIT", "BEGIN READ WRITE", TAKE], "has ended the branch's transaction by itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_with_chain_of_the_works_own_is_found() {
    is_refused(&[TAKE, "COMMIT AND CHAIN", TAKE], "has ended the branch's transaction by itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_of_the_works_own_is_found() {
    is_refused(&[TAKE, "ROLLBACK"], "has ended the branch's transaction by itself").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_application_name_is_found() {
    is_refused(&[TAKE, "SET application_name = 'shop'"], "has changed application_name").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_table_is_refused() {
    is_refused(&["CREATE TEMP TABLE basket (id bigint) ON COMMIT DROP"], "temporary").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notification_is_refused() {
    is_refused(&[TAKE, "NOTIFY sold"], "NOTIFY").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_outlives_the_transaction_is_refused() {
    is_refused(&[TAKE, "DECLARE rest CURSOR WITH HOLD FOR SELECT 1"], "WITH HOLD").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exported_snapshot_is_refused() {
    is_refused(&[TAKE, "SELECT pg_export_snapshot()"], "snapshots").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_advisory_lock_on_both_levels_is_refused() {
    is_refused(&[TAKE, "SELECT pg_advisory_lock(7), pg_advisory_xact_lock(7)"], "both session-level").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_constraint_is_checked_at_the_promise() {
    let schema = "CREATE TABLE line (stock bigint REFERENCES stock DEFERRABLE INITIALLY DEFERRED)";
    is_refused(&[schema, "INSERT INTO line VALUES (77)"], "foreign key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serializable_branch_that_only_reads_promises_because_its_reads_are_certified() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
    work(&goods, &branch, "SELECT free FROM stock").await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    goods.commit(&branch, &call()).await.expect("a commit");
    is_refused(&["SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", "SELECT 1"], "leave READ ONLY out").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_serialization_failure_is_a_no_that_may_pass() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let sold_out =
        |id| format!("UPDATE stock SET free = 0 WHERE id = {id} AND (SELECT sum(free) FROM stock WHERE id < 2) = 200");
    // Each reads what the other changes: only one of them may commit.
    let branches = [db.branch(1), db.branch(2)];
    for (branch, id) in branches.iter().zip(0..) {
        work(&goods, branch, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await;
        work(&goods, branch, &sold_out(id)).await;
    }
    assert_eq!(goods.prepare(&branches[0], &call()).await.expect("a vote"), Vote::Yes);
    let error = goods.prepare(&branches[1], &call()).await.expect_err("a conflict");
    assert!(matches!(error, ParticipantError::Refused(_)), "{error:?}");
    assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
    goods.commit(&branches[0], &call()).await.expect("a commit");
    assert_eq!((db.free(0).await, db.free(1).await), (0, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_is_still_at_work_votes_no() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    let mut at_work = goods.work(&branch).await.expect("work");
    attempt(&mut at_work, TAKE).await.expect("the statement succeeds");
    let reason = no(&goods, &branch).await;
    assert!(reason.contains("drop what `branch` returned"), "{reason}");
    drop(at_work);
    goods.rollback(&branch, &call()).await.expect("a rollback");
    assert_eq!((db.free(0).await, db.prepared().await), (100, 0));
    // The locks are gone.
    work(&goods, &db.branch(2), TAKE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doomed_branch_votes_no_for_that_reason() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    let mut at_work = goods.work(&branch).await.expect("work");
    attempt(&mut at_work, TAKE).await.expect("the statement succeeds");
    at_work.doom("the buyer is not known");
    drop(at_work);
    let reason = no(&goods, &branch).await;
    assert!(reason.contains("the buyer is not known"), "{reason}");
    assert_eq!(db.free(0).await, 100);
}
