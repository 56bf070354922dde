//! Sessions are killed, and then the server (`kill -9`), in the middle of transactions over two services
//! with tables.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use ringpact::{Coordinator, FileLog, txn::CommitError};
use ringpact_servers::{mariadb::MariaDb, missing};
use tokio::{runtime::Handle, task::JoinSet, time::sleep};

use super::{Goods, stock, take};
use crate::support::{Database, SOON, carry_out, runtime, strings};

const CLIENTS: i64 = 8;
const EACH: i64 = 40;
const NAMES: [&str; 2] = ["here", "there"];

/// What clients were told, by the text of the transaction's id.
#[derive(Default)]
struct Told {
    committed: BTreeSet<String>,
    rolled_back: BTreeSet<String>,
}

/// Sells a piece of both goods.
async fn sell(shop: &Coordinator, goods: &[Goods], id: i64, told: &Mutex<Told>) {
    let mut txn = shop.begin_async().await;
    let name = txn.id().to_string();
    let works = async {
        goods[0].execute(&mut txn, take(id, 1)).await?;
        goods[1].execute(&mut txn, take(id, 1)).await
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
async fn sold(database: &Database, participant: &str) -> BTreeSet<String> {
    let mut conn = database.conn().await;
    let rows = strings(&mut conn, "SELECT branch FROM sold").await;
    conn.disconnect().await.expect("it is closed");
    let txn = |branch: &String| branch.strip_suffix(&format!(":{participant}")).expect("a branch").to_owned();
    let all: BTreeSet<String> = rows.iter().map(txn).collect();
    assert_eq!(all.len(), rows.len(), "{participant}: confirmed twice");
    all
}

#[test]
fn nothing_is_torn_lost_or_confirmed_twice_when_sessions_and_the_server_are_killed() {
    let Some(mut server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    let log = tempfile::tempdir().expect("a directory");
    runtime().block_on(async {
        let mut shop = Coordinator::builder(FileLog::open(log.path()).expect("a log")).name("shop");
        let (mut databases, mut goods) = (Vec::new(), Vec::new());
        for name in NAMES {
            let database = Database::make(&server.socket()).await;
            database.make_stock(100).await;
            let opened = stock(database.tables(name)).await;
            shop = shop.async_participant(name, opened.clone(), Handle::current());
            databases.push(database);
            goods.push(opened);
        }
        let (shop, told) = (Arc::new(shop.open().expect("a coordinator")), Arc::new(Mutex::new(Told::default())));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (shop, goods, told) = (Arc::clone(&shop), goods.clone(), Arc::clone(&told));
            clients.spawn(async move {
                for _ in 0..EACH {
                    sell(&shop, &goods, number, &told).await;
                }
            });
        }
        for number in 0..30 {
            sleep(Duration::from_millis(10)).await;
            let database: &Database = &databases[number % 2];
            let connections = database.connections().await;
            let Some(id) = fastrand::choice(&connections) else { continue };
            let mut conn = database.conn().await;
            // It may have ended by itself.
            let _gone = carry_out(&mut conn, format!("KILL {id}")).await;
            conn.disconnect().await.expect("it is closed");
        }
        for _ in 0..2 {
            sleep(Duration::from_millis(400)).await;
            tokio::task::block_in_place(|| server.restart());
        }
        while let Some(client) = clients.join_next().await {
            client.expect("no panic");
        }
        assert!(shop.settle_async(3 * SOON).await, "{:?}", shop.status());
        for database in &databases {
            assert_eq!(database.audit(100).await, 0, "a reservation is left");
        }
        let (here, there) = (sold(&databases[0], NAMES[0]).await, sold(&databases[1], NAMES[1]).await);
        assert_eq!(here, there, "torn");
        let told = told.lock().expect("no panic");
        assert!(told.committed.is_subset(&here), "lost");
        assert!(told.rolled_back.is_disjoint(&here), "torn from what the client was told");
        assert!(!told.committed.is_empty() && !told.rolled_back.is_empty(), "the kill was in the middle");
    });
}
