//! The pool of the branches' connections is the application's.

use std::time::{Duration, Instant};

use ringpact::{
    Coordinator, MemoryLog, Vote, error_chain,
    participant::{
        AsyncParticipant,
        xa::{XaErrorKind, XaWorkError},
    },
};
use sqlx::{Executor as _, postgres::PgPoolOptions, raw_sql};
use tokio::runtime::Handle;

use crate::support::{BranchTimeouts, Db, GOODS, PgParticipant, TAKE, attempt, call, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_waits_for_a_connection_only_for_a_time_and_promises_are_ended_meanwhile() {
    let Some(db) = Db::new().await else { return };
    let impatient = PgPoolOptions::new().max_connections(1).acquire_timeout(Duration::from_millis(200));
    let of_branch = BranchTimeouts::default().connection(Duration::from_millis(200));
    for (first, pool, timeouts) in
        [(1, db.pool(1), of_branch), (11, impatient.connect_lazy_with(db.url.clone()), BranchTimeouts::default())]
    {
        let goods = db.builder().pool(pool).timeouts(timeouts).open().await.expect("a participant");
        let before = db.promised(&goods, first).await;
        // The promise holds no connection: this branch gets the only one.
        let holder = db.branch(first + 1);
        work(&goods, &holder, "SELECT 1").await;
        let begun = Instant::now();
        let error = goods.work(&db.branch(first + 2)).await.expect_err("no connection is free");
        assert!(begun.elapsed() >= Duration::from_millis(200));
        assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
        assert!(matches!(&error, XaWorkError::Database(error) if error.kind() == XaErrorKind::Transient));
        assert!(error_chain(&error).contains("raise the pool's size of 1"), "{}", error_chain(&error));
        goods.commit(&before, &call()).await.expect("a commit");
        goods.rollback(&holder, &call()).await.expect("a rollback");
        work(&goods, &db.branch(first + 3), TAKE).await;
        goods.rollback(&db.branch(first + 3), &call()).await.expect("a rollback");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_call_that_is_dropped_leaves_no_transaction_in_the_pool() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().pool(db.pool(1)).open().await.expect("a participant");
    for sequence in 1..=20 {
        let within = Duration::from_micros(sequence * 40);
        drop(tokio::time::timeout(within, goods.work(&db.branch(sequence))).await);
        goods.rollback(&db.branch(sequence), &call()).await.expect("a rollback");
    }
    let branch = db.promised(&goods, 30).await;
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!(db.free(0).await, 99);
}

/// Promises are ended on idle connections of the pool, and what an application has left in those must not be in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_in_a_connection_of_the_pool_does_not_keep_a_promise_from_its_end() {
    let Some(db) = Db::new().await else { return };
    let pool = db.pool(1);
    let goods = db.builder().pool(pool.clone()).open().await.expect("a participant");
    let left = ["SET ROLE pg_monitor", "BEGIN", "SELECT nothing", "SET default_transaction_read_only = on"];
    for (sequence, left) in (1..).zip(left) {
        let branch = db.promised(&goods, sequence).await;
        let mut conn = pool.acquire().await.expect("a connection");
        drop(conn.execute(raw_sql(left)).await);
        drop(conn);
        goods.commit(&branch, &call()).await.expect("a commit");
        let mut conn = pool.acquire().await.expect("a connection");
        conn.execute(raw_sql("ROLLBACK")).await.expect("no transaction");
        conn.execute(raw_sql("DISCARD ALL")).await.expect("nothing is set");
        conn.close().await.expect("its cache of statements is not that of the server any more");
    }
    assert_eq!((db.free(0).await, db.prepared().await), (96, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_is_dropped_with_its_participant_closes_its_connection() {
    let Some(db) = Db::new().await else { return };
    let pool = db.pool(2);
    let goods = db.builder().pool(pool.clone()).open().await.expect("a participant");
    let branch = db.branch(1);
    work(&goods, &branch, TAKE).await;
    drop(goods);
    for conn in [&mut pool.acquire().await.expect("a connection"), &mut pool.acquire().await.expect("another")] {
        let sql = "UPDATE stock SET free = free - 1 WHERE id = 5";
        conn.execute(raw_sql(sql)).await.expect("no transaction is open in it");
    }
    assert_eq!((db.free(0).await, db.free(5).await), (100, 98));
    let begun = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    db.until(begun, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_was_held_at_its_commit_is_over_when_it_is_dropped() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().pool(db.pool(1)).open().await.expect("a participant");
    let shop = Coordinator::builder(MemoryLog::new())
        .name("holder")
        .async_participant(GOODS, goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    for _ in 0..3 {
        let mut txn = shop.begin_async().await;
        let mut held = goods.branch(&mut txn).await.expect("work");
        attempt(&mut held, TAKE).await.expect("the row and the only connection are free");
        let error = txn.commit().await.expect_err("the branch is at work");
        assert!(error_chain(&error).contains("drop what `branch` returned"), "{}", error_chain(&error));
        drop(held);
        assert_eq!((goods.status().sessions, goods.status().active), (0, 0));
    }
}

/// `ringpact-postgres` and this crate are the same participant, so a service can change its client library.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_of_the_participant_ends_its_promises() {
    let Some(db) = Db::new().await else { return };
    let (first, second) = (db.goods().await, db.goods().await);
    let (kept, undone) = (db.promised(&first, 1).await, db.branch(2));
    work(&first, &undone, "UPDATE stock SET free = 0 WHERE id = 3").await;
    assert_eq!(first.prepare(&undone, &call()).await.expect("a vote"), Vote::Yes);
    second.commit(&kept, &call()).await.expect("a commit");
    second.rollback(&undone, &call()).await.expect("a rollback");
    first.commit(&kept, &call()).await.expect("a repeated commit");
    assert_eq!((db.free(0).await, db.free(3).await, db.prepared().await), (99, 100, 0));
}
