//! The pool of the branches' connections.

use std::time::{Duration, Instant};

use ringpact::{Coordinator, MemoryLog, Vote, error_chain, participant::AsyncParticipant};
use ringpact_postgres::{
    BranchTimeouts, PgParticipant, XaErrorKind, XaWorkError,
    deadpool_postgres::{Manager, Pool},
    tokio_postgres::{GenericClient, NoTls},
};

use tokio::runtime::Handle;

use crate::support::{Db, GOODS, TAKE, call, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_waits_for_a_connection_only_for_a_time_and_promises_are_ended_meanwhile() {
    let Some(db) = Db::new().await else { return };
    let timeouts = BranchTimeouts::default().connection(Duration::from_millis(200));
    let goods = db.builder().connections(1).timeouts(timeouts).open().await.expect("a participant");
    let before = db.promised(&goods, 1).await;
    // The promise holds no connection: this branch gets the only one.
    let holder = db.branch(2);
    work(&goods, &holder, "SELECT 1").await;
    let begun = Instant::now();
    let error = goods.work(&db.branch(3)).await.expect_err("no connection is free");
    assert!(begun.elapsed() >= Duration::from_millis(200));
    assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
    assert!(matches!(&error, XaWorkError::Database(error) if error.kind() == XaErrorKind::Transient));
    goods.commit(&before, &call()).await.expect("a commit");
    goods.rollback(&holder, &call()).await.expect("a rollback");
    work(&goods, &db.branch(4), TAKE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_work_call_that_is_dropped_leaves_no_transaction_in_the_pool() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().connections(1).open().await.expect("a participant");
    for sequence in 1..=20 {
        let within = Duration::from_micros(sequence * 40);
        drop(tokio::time::timeout(within, goods.work(&db.branch(sequence))).await);
        goods.rollback(&db.branch(sequence), &call()).await.expect("a rollback");
    }
    let branch = db.promised(&goods, 30).await;
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!(db.free(0).await, 99);
}

/// A function of an application's, which works with any client.
async fn take(client: &impl GenericClient, id: i64) -> u64 {
    client.execute("UPDATE stock SET free = free - 1 WHERE id = $1", &[&id]).await.expect("the statement succeeds")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_the_applications_own_is_used_and_its_functions_work_under_a_branch() {
    let Some(db) = Db::new().await else { return };
    let manager = Manager::new(db.url.parse().expect("a configuration"), NoTls);
    let pool = Pool::builder(manager).max_size(2).build().expect("a pool");
    let goods =
        PgParticipant::builder(GOODS).pool(pool.clone()).accept_fsync_off().open().await.expect("a participant");
    let branch = db.branch(1);
    {
        let at_work = goods.work(&branch).await.expect("work");
        assert_eq!(take(&**at_work, 0).await, 1);
        let cached = at_work.prepare_cached("SELECT free FROM stock WHERE id = $1").await.expect("a statement");
        let free: i64 = at_work.query_one(&cached, &[&0_i64]).await.expect("a row").get(0);
        assert_eq!(free, 99);
    }
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    assert_eq!(pool.status().available, pool.status().size);
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!(take(&**pool.get().await.expect("a connection"), 1).await, 1);
}

/// Promises are ended on idle connections of the pool, and what an application has left in those must not be in the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_in_a_connection_of_the_pool_does_not_keep_a_promise_from_its_end() {
    let Some(db) = Db::new().await else { return };
    let manager = Manager::new(db.url.parse().expect("a configuration"), NoTls);
    let pool = Pool::builder(manager).max_size(1).build().expect("a pool");
    let goods =
        PgParticipant::builder(GOODS).pool(pool.clone()).accept_fsync_off().open().await.expect("a participant");
    let left = ["SET ROLE pg_monitor", "BEGIN", "SELECT nothing", "SET default_transaction_read_only = on"];
    for (sequence, left) in (1..).zip(left) {
        let branch = db.promised(&goods, sequence).await;
        let client = pool.get().await.expect("a connection");
        drop(client.batch_execute(left).await);
        drop(client);
        goods.commit(&branch, &call()).await.expect("a commit");
        let client = pool.get().await.expect("a connection");
        client.batch_execute("ROLLBACK").await.expect("no transaction");
        client.batch_execute("DISCARD ALL").await.expect("nothing is set");
    }
    assert_eq!((db.free(0).await, db.prepared().await), (96, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_was_held_at_its_commit_is_over_when_it_is_dropped() {
    let Some(db) = Db::new().await else { return };
    let goods = db.builder().connections(1).open().await.expect("a participant");
    let shop = Coordinator::builder(MemoryLog::new())
        .name("holder")
        .async_participant(GOODS, goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    for _ in 0..3 {
        let mut txn = shop.begin_async().await;
        let held = goods.branch(&mut txn).await.expect("work");
        held.batch_execute(TAKE).await.expect("the row and the only connection are free");
        let error = txn.commit().await.expect_err("the branch is at work");
        assert!(error_chain(&error).contains("drop what `branch` returned"), "{}", error_chain(&error));
        drop(held);
        assert_eq!((goods.status().sessions, goods.status().active), (0, 0));
    }
}
