//! sqlx's own `Transaction` under a branch is a savepoint, however it ends.

use ringpact::{Vote, participant::AsyncParticipant};
use sqlx::{Connection as _, PgConnection, query};

use crate::support::{Db, TAKE, call, no};

/// A function of an application's, which makes a transaction of its own. It works with any connection.
async fn take(conn: &mut PgConnection, id: i64, is_kept: bool) -> Result<(), sqlx::Error> {
    let mut txn = conn.begin().await?;
    query("UPDATE stock SET free = free - 1 WHERE id = $1").bind(id).execute(&mut *txn).await?;
    if is_kept { txn.commit().await } else { txn.rollback().await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_sqlx_under_a_branch_is_a_savepoint() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().pool(db.pool(1)).open().await.expect("a participant");
    // Twice, on one connection: its count of transactions is right afterwards.
    for sequence in [1, 2] {
        let branch = db.branch(sequence);
        let mut at_work = goods.work(&branch).await.expect("work");
        take(&mut at_work, 0, true).await.expect("kept");
        take(&mut at_work, 1, false).await.expect("undone");
        let dropped = at_work.begin().await.expect("a savepoint");
        drop(dropped);
        {
            let mut outer = at_work.begin().await.expect("a savepoint");
            let mut inner = outer.begin().await.expect("a savepoint in it");
            query("UPDATE stock SET free = -1").execute(&mut *inner).await.expect_err("a violated constraint");
            inner.rollback().await.expect("back to it");
            query(TAKE).execute(&mut *outer).await.expect("the savepoint has saved the branch");
            outer.commit().await.expect("released");
        }
        assert!(at_work.is_in_transaction());
        drop(at_work);
        assert_eq!(db.free(0).await, 102 - 2 * i64::try_from(sequence).expect("small"), "nothing is committed yet");
        assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
        goods.commit(&branch, &call()).await.expect("a commit");
    }
    assert_eq!((db.free(0).await, db.free(1).await), (96, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_comes_back_to_the_pool_without_a_transaction() {
    let Some(db) = Db::new().await else { return };
    let pool = db.pool(1);
    let goods = db.builder().pool(pool.clone()).open().await.expect("a participant");
    for (sequence, end) in (1..).zip(["promise", "one phase", "rollback", "read only", "no"]) {
        let branch = db.branch(sequence);
        let mut at_work = goods.work(&branch).await.expect("work");
        if end != "read only" {
            query(TAKE).execute(&mut *at_work).await.expect("the statement succeeds");
        }
        if end == "no" {
            query("SELECT nothing").execute(&mut *at_work).await.expect_err("there is no such column");
        }
        drop(at_work);
        match end {
            "promise" => {
                assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
                goods.commit(&branch, &call()).await.expect("a commit");
            }
            "one phase" => drop(goods.commit_one_phase(&branch, &call()).await.expect("a commit")),
            "rollback" => goods.rollback(&branch, &call()).await.expect("a rollback"),
            "read only" => assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::ReadOnly),
            _ => drop(no(&goods, &branch).await),
        }
        // An application's own transaction, on the same connection.
        let mut conn = pool.acquire().await.expect("a connection");
        assert!(!conn.is_in_transaction(), "{end}");
        let mut txn = conn.begin().await.expect("a transaction");
        query("UPDATE stock SET free = free - 1 WHERE id = 9")
            .execute(&mut *txn)
            .await
            .expect("the statement succeeds");
        txn.commit().await.expect("a commit");
        assert_eq!(db.free(9).await, 100 - i64::try_from(sequence).expect("small"), "{end}");
        let name: String = sqlx::query_scalar("SELECT current_setting('application_name')")
            .fetch_one(&mut *conn)
            .await
            .expect("a name");
        assert_eq!(name, "", "{end}");
    }
    assert_eq!((db.free(0).await, db.prepared().await), (98, 0));
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    db.until(sessions, 0).await;
}

/// sqlx counts a transaction that was never ended. Such a connection is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_was_forgotten_costs_the_connection() {
    let Some(db) = Db::new().await else { return };
    let pool = db.pool(1);
    let goods = db.builder().pool(pool.clone()).open().await.expect("a participant");
    for (sequence, is_committed) in [(1, true), (2, false)] {
        let branch = db.branch(sequence);
        let mut at_work = goods.work(&branch).await.expect("work");
        std::mem::forget(at_work.begin().await.expect("a savepoint"));
        query(TAKE).execute(&mut *at_work).await.expect("the statement succeeds");
        drop(at_work);
        if is_committed {
            assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
            goods.commit(&branch, &call()).await.expect("a commit");
        } else {
            goods.rollback(&branch, &call()).await.expect("a rollback");
        }
        let mut conn = pool.acquire().await.expect("a new connection");
        assert!(!conn.is_in_transaction());
        conn.ping().await.expect("it answers");
    }
    assert_eq!((db.free(0).await, db.prepared().await), (99, 0));
}

/// A future of sqlx is dropped at each of its steps. The statement is carried out or is not, the branch commits or votes No,
/// and the connection serves the next branch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_future_that_is_dropped_in_the_middle_of_a_statement_leaves_nothing_half_done() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().pool(db.pool(1)).open().await.expect("a participant");
    let (mut committed, mut refused) = (0, 0);
    for sequence in 1..=60_u64 {
        let branch = db.branch(sequence);
        let mut at_work = goods.work(&branch).await.expect("work");
        query(TAKE).execute(&mut *at_work).await.expect("the statement succeeds");
        // A statement that the cache does not have, so it is prepared first. A third of them fail at the server.
        let change = if sequence % 3 == 0 { -1_000_000 } else { -1 };
        let sql = format!("UPDATE stock SET free = free + $1 WHERE id = 1 AND {sequence} = {sequence}");
        let statement = query(&sql).bind(change).execute(&mut *at_work);
        let answer = tokio::time::timeout(std::time::Duration::from_micros(sequence * 15), statement).await;
        drop(at_work);
        match goods.prepare(&branch, &call()).await {
            Ok(Vote::Yes) => {
                assert!(sequence % 3 != 0 || answer.is_err(), "{answer:?}");
                goods.commit(&branch, &call()).await.expect("a commit");
                committed += 1;
            }
            Ok(vote) => panic!("{vote:?}"),
            Err(_) => {
                goods.rollback(&branch, &call()).await.expect("a rollback");
                refused += 1;
            }
        }
    }
    assert_eq!((db.free(0).await, db.prepared().await), (100 - committed, 0));
    assert!((100 - committed..=100).contains(&db.free(1).await), "{}", db.free(1).await);
    assert!(committed > 0 && refused > 0, "{committed} and {refused}");
}
