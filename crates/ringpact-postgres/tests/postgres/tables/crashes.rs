//! Sessions are lost, and the server stops as in a crash, in the middle of transactions over two services with tables.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use ringpact::{CommitError, Coordinator, FileLog};
use ringpact_servers::postgres::{Options, Postgres};
use tokio::{runtime::Handle, task::JoinSet, time::sleep};

use super::{Goods, stock, take};
use crate::support::{Db, admin_of, client, strings};

const CLIENTS: i64 = 8;
const EACH: i64 = 50;

/// What clients were told, by the text of the transaction's id.
#[derive(Default)]
struct Told {
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
}

/// Sells a piece of both goods.
async fn sell(shop: &Coordinator, [here, there]: &[Goods; 2], id: i64, told: &Mutex<Told>) {
    let mut txn = shop.begin_async().await;
    let name = txn.id().to_string();
    let works = async {
        here.execute(&mut txn, take(id, 1)).await?;
        there.execute(&mut txn, take(id, 1)).await
    };
    if works.await.is_err() {
        txn.rollback();
        told.lock().expect("no panic").rolled_back.insert(name);
        sleep(Duration::from_millis(50)).await;
        return;
    }
    match txn.commit().await {
        Ok(()) => drop(told.lock().expect("no panic").committed.insert(name)),
        Err(CommitError::RolledBack { .. }) => drop(told.lock().expect("no panic").rolled_back.insert(name)),
        Err(_) => {}
    }
}

/// Returns the transactions that have sold something here.
async fn sold(db: &Db, participant: &str) -> BTreeSet<String> {
    let client = client(&db.url).await;
    let rows = strings(&client, "SELECT branch FROM sold").await;
    let txn = |branch: &String| branch.strip_suffix(&format!(":{participant}")).expect("a branch").to_owned();
    let all: BTreeSet<String> = rows.iter().map(txn).collect();
    assert_eq!(all.len(), rows.len(), "{participant}: confirmed twice");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_torn_lost_or_confirmed_twice_when_sessions_are_lost_and_the_server_crashes() {
    let Some(server) = Postgres::start(Options { fsync: true, max_prepared_transactions: 0 }) else { return };
    let mut dbs = [Db::on(&server).await, Db::on(&server).await];
    for db in &dbs {
        db.make_stock().await;
    }
    let goods = [stock(dbs[0].builder_that_syncs("here")).await, stock(dbs[1].builder_that_syncs("there")).await];
    let dir = tempfile::tempdir().expect("a directory");
    let shop = Coordinator::builder(FileLog::open(dir.path()).expect("a log"))
        .name("shop")
        .async_participant("here", goods[0].clone(), Handle::current())
        .async_participant("there", goods[1].clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let (shop, told) = (Arc::new(shop), Arc::new(Mutex::new(Told::default())));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let (shop, goods, told) = (Arc::clone(&shop), goods.clone(), Arc::clone(&told));
        clients.spawn(async move {
            for _ in 0..EACH {
                sell(&shop, &goods, number, &told).await;
            }
        });
    }
    let killer = admin_of(&server).await;
    for _ in 0..30 {
        sleep(Duration::from_millis(10)).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity \
                    WHERE application_name LIKE 'ringpact tables%' ORDER BY random() LIMIT 1) AS one";
        killer.batch_execute(kill).await.expect("one session is ended");
    }
    for _ in 0..2 {
        sleep(Duration::from_millis(400)).await;
        tokio::task::block_in_place(|| {
            server.stop_immediately().expect("a stopped server");
            server.start_again().expect("a server");
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    assert!(shop.settle_async(Duration::from_secs(60)).await, "{:?}", shop.status());
    for db in &mut dbs {
        db.admin = client(&db.url).await;
        assert_eq!(db.audit().await, 0, "a reservation is left");
    }
    let (here, there) = (sold(&dbs[0], "here").await, sold(&dbs[1], "there").await);
    assert_eq!(here, there, "torn");
    let told = told.lock().expect("no panic");
    assert!(told.committed.is_subset(&here), "lost");
    assert!(told.rolled_back.is_disjoint(&here), "torn from what the client was told");
    assert!(!told.committed.is_empty() && !told.rolled_back.is_empty(), "the crash was in the middle");
}
