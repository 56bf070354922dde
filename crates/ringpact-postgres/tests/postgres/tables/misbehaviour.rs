//! Services and databases that do what they should not.

use std::time::{Duration, Instant};

use ringpact::{ParticipantError, Vote, error_chain, participant::AsyncParticipant};

use super::{Work, named, stock, take};
use crate::support::{BranchTimeouts, Db, PgParticipant, TableWorkError};

fn does(what: &str) -> Work {
    (what.to_owned(), 1, 1)
}

/// `COMMIT` succeeds in each of these cases, and keeps nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_not_done_if_its_transaction_is_not_the_branchs_any_more() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    for (sequence, what, says) in
        [(1, "swallows an error", "can only be rolled back"), (2, "rolls back", "has ended the branch's transaction")]
    {
        let branch = db.branch(sequence);
        let error = goods.execute_under(&branch, &does(what)).await.expect_err(what);
        let text = error_chain(&error).to_string();
        assert!(text.contains(says), "{text}");
        let no = goods.prepare(&branch, &named()).await.expect_err("a No");
        assert!(error_chain(&no).to_string().contains(says), "{}", error_chain(&no));
        assert_eq!((db.audit().await, db.free(1).await), (0, 100));
    }
    // The service has committed its work itself. So the row is there, too, and the rollback gives the work back.
    let branch = db.branch(3);
    let error = goods.execute_under(&branch, &does("commits")).await.expect_err("its transaction is over");
    assert!(error_chain(&error).to_string().contains("has ended the branch's transaction"), "{}", error_chain(&error));
    goods.prepare(&branch, &named()).await.expect_err("a No");
    assert_eq!((db.audit().await, db.free(1).await), (0, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_lost_in_the_middle_leaves_nothing() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    let branch = db.branch(1);
    goods.execute_under(&branch, &take(1, 1)).await.expect("there are enough");
    goods.execute_under(&branch, &does("loses its session")).await.expect_err("it is lost");
    let no = goods.prepare(&branch, &named()).await.expect_err("a piece of work is missing");
    assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
    assert_eq!(db.audit().await, 0);
    // Each connection of the pool may be dead before it is used.
    let sessions = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                    WHERE datname = current_database() AND pid <> pg_backend_pid()";
    db.admin.batch_execute(sessions).await.expect("they end");
    goods.execute_under(&db.branch(2), &take(1, 1)).await.expect("another connection is taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_kept_whatever_its_text() {
    let Some(db) = Db::with_stock().await else { return };
    let (goods, other) = (db.stock().await, db.stock().await);
    let branch = db.branch(1);
    let refusal = "it's \\ full\0 of 木";
    let error = goods.execute_under(&branch, &does(&format!("refuse: {refusal}"))).await.expect_err("a refusal");
    assert!(matches!(error, TableWorkError::Service(_)), "{error:?}");
    // Another process answers with it.
    let no = other.prepare(&branch, &named()).await.expect_err("a No");
    assert!(error_chain(&no).to_string().contains(refusal), "{}", error_chain(&no));
    assert_eq!(db.audit().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_a_free_connection_is_waited_for_for_a_limited_time() {
    let Some(db) = Db::with_stock().await else { return };
    let timeouts = BranchTimeouts::default().connection(Duration::from_millis(300));
    let goods = stock(db.builder_with(1).timeouts(timeouts)).await;
    let (waiting, branch) = (goods.clone(), db.branch(1));
    let slow = tokio::spawn(async move { waiting.execute_under(&branch, &does("waits")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let begun = Instant::now();
    let error = goods.execute_under(&db.branch(2), &take(2, 1)).await.expect_err("the connection is in use");
    let text = error_chain(&error).to_string();
    assert!(text.contains("no connection of the pool was free") && text.contains("size of 1"), "{text}");
    assert!(PgParticipant::is_transient(&error) && begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let error = goods.prepare(&db.branch(2), &named()).await.expect_err("the connection is in use");
    assert!(error_chain(&error).to_string().contains("size of 1"), "{}", error_chain(&error));
    slow.await.expect("no panic").expect("it has its connection");
    // The note that it can only be rolled back is in memory: the database could not be told.
    let no = goods.prepare(&db.branch(2), &named()).await.expect_err("a No");
    assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_waited_for_again_and_then_the_error_may_pass() {
    let Some(db) = Db::with_stock().await else { return };
    let timeouts = BranchTimeouts::default().lock(Duration::from_millis(100));
    let goods = stock(db.builder().timeouts(timeouts)).await;
    let holder = db.client().await;
    holder.batch_execute("BEGIN; SELECT FROM stock WHERE id = 1 FOR UPDATE").await.expect("a lock");
    let error = goods.execute_under(&db.branch(1), &take(1, 1)).await.expect_err("it is locked");
    assert!(goods.is_transient(&error), "{}", error_chain(&error));
    let (second, work) = (db.branch(2), take(1, 1));
    let (worked, freed) = tokio::join!(goods.execute_under(&second, &work), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        holder.batch_execute("ROLLBACK").await
    });
    freed.expect("a rollback");
    worked.expect("the second time it is free");
    assert_eq!(goods.prepare(&db.branch(2), &named()).await.expect("a vote"), Vote::Yes);
    assert!(goods.prepare(&db.branch(1), &named()).await.is_err());
    assert_eq!(db.audit().await, 1);
}
