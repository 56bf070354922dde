//! Branches that wait for one another.

use std::time::Duration;

use ringpact::{ParticipantError, Vote, participant::AsyncParticipant};
use tokio::{spawn, time::sleep};

use crate::support::{BranchTimeouts, Db, PgParticipant, TAKE, attempt, call, no, sqlstate, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_does_not_come_free_is_an_error_that_may_pass() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let first = db.promised(&goods, 1).await;
    let second = db.branch(2);
    let error = attempt(&mut goods.work(&second).await.expect("work"), TAKE).await.expect_err("a time-out");
    assert!(PgParticipant::is_transient(&error), "{error:?}");
    no(&goods, &second).await;
    goods.commit(&first, &call()).await.expect("a commit");
    assert_eq!(db.free(0).await, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_ends_one_of_the_two_with_an_error_that_may_pass() {
    let Some(db) = Db::new().await else { return };
    let timeouts = BranchTimeouts::default().lock(Duration::from_secs(5));
    let goods = db.builder().timeouts(timeouts).open().await.expect("a participant");
    let branches = [db.branch(1), db.branch(2)];
    let take = |id: usize| format!("UPDATE stock SET free = free - 1 WHERE id = {id}");
    for (id, branch) in branches.iter().enumerate() {
        work(&goods, branch, &take(id)).await;
    }
    let cross = |index: usize| {
        let (goods, branch) = (goods.clone(), branches[index].clone());
        spawn(async move { attempt(&mut goods.work(&branch).await.expect("work"), &take(1 - index)).await })
    };
    let (first, second) = (cross(0), cross(1));
    let results = [first.await.expect("no panic"), second.await.expect("no panic")];
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.len() == 1 && PgParticipant::is_transient(failed[0]), "{results:?}");
    for (branch, result) in branches.iter().zip(&results) {
        if result.is_ok() {
            assert_eq!(goods.prepare(branch, &call()).await.expect("a vote"), Vote::Yes);
            goods.commit(branch, &call()).await.expect("a commit");
        } else {
            no(&goods, branch).await;
        }
    }
    assert_eq!((db.free(0).await, db.free(1).await), (99, 99));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_interrupts_the_statement_under_way() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    let mut at_work = goods.work(&branch).await.expect("work");
    attempt(&mut at_work, TAKE).await.expect("the statement succeeds");
    let statement = spawn(async move { attempt(&mut at_work, "SELECT pg_sleep(8)").await });
    db.until("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(8)'", 1).await;
    assert!(matches!(goods.rollback(&branch, &call()).await, Err(ParticipantError::Busy)));
    let interrupted = statement.await.expect("no panic").expect_err("an interrupted statement");
    assert_eq!(sqlstate(&interrupted).as_deref(), Some("57014"));
    goods.rollback(&branch, &call()).await.expect("a rollback");
    work(&goods, &db.branch(2), TAKE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_keeps_the_branch_loses_its_session() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    let mut at_work = goods.work(&branch).await.expect("work");
    attempt(&mut at_work, TAKE).await.expect("the statement succeeds");
    assert!(matches!(goods.rollback(&branch, &call()).await, Err(ParticipantError::Busy)));
    goods.rollback(&branch, &call()).await.expect("a rollback");
    assert!(attempt(&mut at_work, TAKE).await.is_err());
    drop(at_work);
    work(&goods, &db.branch(2), TAKE).await;
    assert_eq!(goods.status().lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_branch_gives_up_its_locks() {
    let Some(db) = Db::new().await else { return };
    let timeouts = BranchTimeouts::default().idle(Duration::from_millis(100));
    let goods = db.builder().timeouts(timeouts).open().await.expect("a participant");
    let idle = db.branch(1);
    work(&goods, &idle, TAKE).await;
    sleep(Duration::from_millis(300)).await;
    work(&goods, &db.branch(2), TAKE).await;
    let reason = no(&goods, &idle).await;
    assert!(reason.contains("the branch's session was lost"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_its_caller_gave_up_does_not_hold_the_rollback_up() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    let mut at_work = goods.work(&branch).await.expect("work");
    attempt(&mut at_work, TAKE).await.expect("the statement succeeds");
    let given_up = tokio::time::timeout(Duration::from_millis(100), attempt(&mut at_work, "SELECT pg_sleep(8)")).await;
    assert!(given_up.is_err());
    drop(at_work);
    goods.rollback(&branch, &call()).await.expect("a rollback");
    db.until("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(8)' AND state = 'active'", 0).await;
    work(&goods, &db.branch(2), TAKE).await;
}
