//! Many tasks at few rows.

use std::sync::Arc;

use ringpact::{Coordinator, FileLog, txn::RunOptions};
use tokio::{runtime::Handle, task::JoinSet};

use super::{stock, take};
use crate::support::{Db, PgParticipant};

const TASKS: i64 = 32;
const EACH: i64 = 6;

/// Each transaction takes a piece of two articles, in an order that makes deadlocks likely.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_tasks_at_three_rows_meet_only_what_passes() {
    let Some(db) = Db::with_stock().await else { return };
    db.admin.batch_execute("UPDATE stock SET free = 1000000").await.expect("plenty");
    let dir = tempfile::tempdir().expect("a directory");
    let goods = stock(db.builder_with(16)).await;
    let shop = Coordinator::builder(FileLog::open(dir.path()).expect("a log"))
        .name("shop")
        .async_participant("goods", goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let shop = Arc::new(shop);
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (goods, shop) = (goods.clone(), Arc::clone(&shop));
        tasks.spawn(async move {
            for number in 0..EACH {
                let (first, second) = (fastrand::i64(0..3), fastrand::i64(0..3));
                let mut txn = shop.begin_async().await;
                let works = async {
                    goods.execute(&mut txn, take(first, 1)).await?;
                    goods.execute(&mut txn, take(second, 1)).await
                };
                if let Err(error) = works.await {
                    assert!(PgParticipant::is_transient(&error), "{task} {number}: {}", ringpact::error_chain(&error));
                    txn.rollback();
                    continue;
                }
                txn.commit().await.expect("nothing is in the way of a promise");
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    assert!(shop.settle_async(std::time::Duration::from_secs(20)).await, "{:?}", shop.status());
    let sold = db.number("SELECT coalesce(sum(pieces), 0)::bigint FROM sold").await;
    assert!(sold > TASKS * EACH, "most are sold: {sold}");
    let all = "SELECT sum(free)::bigint + (SELECT sum(pieces)::bigint FROM sold) FROM stock";
    assert_eq!(db.number(all).await, 10 * 1_000_000);
    assert_eq!(db.number("SELECT count(*) FROM reserved").await, 0);
}

/// Serializable transactions fail at any statement, and at the commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serialization_failures_are_tried_again() {
    let Some(db) = Db::with_stock().await else { return };
    db.admin.batch_execute("UPDATE stock SET free = 1000000").await.expect("plenty");
    let level = "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || current_database() || \
                 ' SET default_transaction_isolation = ''serializable'''; END $$";
    db.admin.batch_execute(level).await.expect("a setting");
    let dir = tempfile::tempdir().expect("a directory");
    let goods = stock(db.builder_with(8)).await;
    let shop = Coordinator::builder(FileLog::open(dir.path()).expect("a log"))
        .name("shop")
        .async_participant("goods", goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let shop = Arc::new(shop);
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let (goods, shop) = (goods.clone(), Arc::clone(&shop));
        tasks.spawn(async move {
            for _ in 0..4 {
                let work = |mut txn: ringpact::txn::Attempt| {
                    let goods = goods.clone();
                    async move { goods.execute(&mut txn, take(1, 1)).await }
                };
                let done = shop.run_with(RunOptions::DEFAULT.attempts(50), work).await;
                done.unwrap_or_else(|error| panic!("{}", ringpact::error_chain(&error)));
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.expect("no panic");
    }
    assert!(shop.settle_async(std::time::Duration::from_secs(20)).await, "{:?}", shop.status());
    assert_eq!(db.number("SELECT sum(pieces)::bigint FROM sold").await, 32);
    assert_eq!(db.free(1).await, 1_000_000 - 32);
}
