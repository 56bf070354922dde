//! Proxies that give each transaction another session of the server.

use std::{sync::Arc, time::Duration};

use ringpact::{Coordinator, MemoryLog};
use ringpact_servers::pgbouncer::PgBouncer;
use tokio::{runtime::Handle, task::JoinSet};

use super::{stock, take};
use crate::support::{Db, GOODS, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transfers_go_through_a_proxy_that_pools_transactions() {
    let Some(db) = Db::with_stock().await else { return };
    let Some(server) = server() else { return };
    let Some(proxy) = PgBouncer::start(server, 4) else { return };
    let goods = stock(db.builder_at(proxy.port(), 8)).await;
    let shop = Coordinator::builder(MemoryLog::new())
        .name(db.shop.as_str())
        .async_participant(GOODS, goods.clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let shop = Arc::new(shop);
    let mut clients = JoinSet::new();
    for client in 0..8_i64 {
        let (goods, shop) = (goods.clone(), Arc::clone(&shop));
        clients.spawn(async move {
            let mut committed = 0;
            for round in 0..4 {
                let mut txn = shop.begin_async().await;
                goods.execute(&mut txn, take(client, 1)).await.expect("the row is this client's own");
                if round == 3 {
                    txn.rollback();
                } else {
                    committed += i64::from(txn.commit().await.is_ok());
                }
            }
            committed
        });
    }
    let committed: i64 = clients.join_all().await.into_iter().sum();
    assert_eq!(committed, 24);
    assert!(shop.settle_async(Duration::from_secs(10)).await);
    assert_eq!(db.audit().await, 0);
    assert_eq!(db.number("SELECT count(*) FROM sold").await, committed);
    // Nothing stays set in the sessions of the proxy. What the participant does after its last answer may take a moment.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'ringpact tables%'";
    for _ in 0..100 {
        if db.number(left).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a session has kept its tag");
}
