//! Many tasks at few rows, and many tasks at rows of their own.

use std::sync::Arc;

use ringpact::{Coordinator, FileLog, error_chain};
use ringpact_servers::{mariadb::MariaDb, missing};
use tokio::{runtime::Handle, task::JoinSet};

use super::{Goods, stock, take};
use crate::support::{Database, MySqlParticipant, SOON, runtime};

const TASKS: i64 = 32;

async fn open(database: &Database, log: &std::path::Path) -> (Goods, Arc<Coordinator>) {
    let goods = stock(database.tables("payments").pool(database.pool_of(32))).await;
    let shop = Coordinator::builder(FileLog::open(log).expect("a log"))
        .name("shop")
        .async_participant("payments", goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    (goods, Arc::new(shop))
}

/// Has each task carry out transactions of two pieces of work, of articles that are drawn from a range.
async fn run(
    goods: &Goods,
    shop: &Arc<Coordinator>,
    each: usize,
    articles: impl Fn(i64) -> std::ops::Range<i64>,
) -> u64 {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (goods, shop, articles) = (goods.clone(), Arc::clone(shop), articles(task));
        tasks.spawn(async move {
            let mut committed = 0;
            for _ in 0..each {
                let (first, second) = (fastrand::i64(articles.clone()), fastrand::i64(articles.clone()));
                let mut txn = shop.begin_async().await;
                let works = async {
                    goods.execute(&mut txn, take(first, 1)).await?;
                    goods.execute(&mut txn, take(second, 1)).await
                };
                if let Err(error) = works.await {
                    assert!(MySqlParticipant::is_transient(&error), "{}", error_chain(&error));
                    txn.rollback();
                    continue;
                }
                txn.commit().await.expect("nothing is in the way of a promise");
                committed += 1;
            }
            committed
        });
    }
    let mut committed = 0;
    while let Some(task) = tasks.join_next().await {
        committed += task.expect("no panic");
    }
    assert!(shop.settle_async(2 * SOON).await, "{:?}", shop.status());
    committed
}

#[test]
fn thirty_two_tasks_meet_only_what_passes_and_no_deadlock_beside_their_own() {
    let Some(server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    let log = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        database.make_stock(1_000_000).await;
        for id in 10..TASKS {
            database.sql(&format!("INSERT INTO stock VALUES ({id}, 1000000)")).await;
        }
        let (goods, shop) = open(&database, log.path()).await;
        // Branches of different tasks have no row in common, but they are neighbours in `ringpact_branch`. At *repeatable
        // read* the server counts deadlocks here.
        let committed = run(&goods, &shop, 8, |task| task..task + 1).await;
        assert_eq!(committed, 8 * TASKS.unsigned_abs());
        let deadlocks = "SELECT CAST(SUM(COUNT) AS UNSIGNED) FROM information_schema.innodb_metrics \
                         WHERE NAME = 'lock_deadlocks'";
        assert_eq!(database.value::<u64>(deadlocks).await, Some(0));
        let committed = run(&goods, &shop, 4, |_| 0..3).await;
        assert!(committed > 2 * TASKS.unsigned_abs(), "most are sold: {committed}");
        assert_eq!(database.audit(1_000_000).await, 0);
    });
}
