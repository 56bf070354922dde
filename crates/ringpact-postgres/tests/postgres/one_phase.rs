//! Transactions with this branch alone.

use ringpact::participant::{AsyncParticipant, Decision};

use crate::support::{Db, TAKE, call, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_one_phase_leaves_a_marker_and_no_promise() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    assert_eq!(goods.commit_one_phase(&branch, &call()).await.expect("a decision"), Decision::Commit);
    assert_eq!((db.free(0).await, db.prepared().await, db.markers().await), (99, 0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_only_reads_is_committed_without_a_marker() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, "SELECT free FROM stock").await;
    assert_eq!(goods.commit_one_phase(&branch, &call()).await.expect("a decision"), Decision::Commit);
    assert_eq!(db.markers().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notifications_and_temporary_tables_are_allowed() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, &format!("{TAKE}; CREATE TEMP TABLE basket (id bigint) ON COMMIT DROP; NOTIFY sold")).await;
    assert_eq!(goods.commit_one_phase(&branch, &call()).await.expect("a decision"), Decision::Commit);
    assert_eq!(db.free(0).await, 99);
}

/// A crash of the server would lose a commit that was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_synced_whatever_the_work_has_set() {
    let Some(db) = Db::new().await else { return };
    let look = "CREATE TABLE seen (setting text); CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS \
                'BEGIN INSERT INTO seen VALUES (current_setting(''synchronous_commit'')); RETURN NULL; END'; \
                CREATE CONSTRAINT TRIGGER look AFTER UPDATE ON stock DEFERRABLE INITIALLY DEFERRED FOR EACH ROW \
                EXECUTE FUNCTION look()";
    db.admin.batch_execute(look).await.expect("a look at each commit");
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, &format!("SET LOCAL synchronous_commit = off; {TAKE}")).await;
    assert_eq!(goods.commit_one_phase(&branch, &call()).await.expect("a decision"), Decision::Commit);
    assert_eq!(db.number("SELECT count(*) FROM seen WHERE setting <> 'off'").await, 1);
}
