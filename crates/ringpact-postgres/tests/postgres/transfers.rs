//! A coordinator with its log and two databases: many transfers at once, and an audit of both.

use std::time::Duration;

use ringpact::{Coordinator, FileLog};
use tokio::{runtime::Handle, task::JoinSet};

use crate::support::{Db, PgParticipant, attempt};

const TELLERS: u64 = 8;
const TRANSFERS: u64 = 40;

/// Moves one piece between the databases. Returns whether it was committed.
async fn transfer(shop: &Coordinator, from: &PgParticipant, to: &PgParticipant, id: u64, is_wrong: bool) -> bool {
    let mut txn = shop.begin_async().await;
    let (mut branches, mut is_done) = (Vec::new(), true);
    for (participant, change) in [(from, -1), (to, if is_wrong { -1_000 } else { 1 })] {
        let Ok(mut branch) = participant.branch(&mut txn).await else { return false };
        let sql = format!("UPDATE stock SET free = free + {change} WHERE id = {id}");
        is_done &= attempt(&mut branch, &sql).await.is_ok();
        branches.push(branch);
    }
    drop(branches);
    if !is_done {
        txn.rollback();
        return false;
    }
    txn.commit().await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_torn_lost_or_left_over() {
    let (Some(here), Some(there)) = (Db::new().await, Db::new().await) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let mut open = Vec::new();
    for (db, name) in [(&here, "here"), (&there, "there")] {
        open.push(db.builder_of(name).open().await.expect("a participant"));
    }
    let shop = Coordinator::builder(FileLog::open(dir.path()).expect("a log"))
        .name("shop")
        .async_participant("here", open[0].clone(), Handle::current())
        .async_participant("there", open[1].clone(), Handle::current())
        .open()
        .expect("a coordinator");
    let shop = std::sync::Arc::new(shop);
    let mut tellers = JoinSet::new();
    for teller in 0..TELLERS {
        let (shop, here, there) = (shop.clone(), open[0].clone(), open[1].clone());
        tellers.spawn(async move {
            let mut committed = [0_i64; 2];
            for number in 0..TRANSFERS {
                // Tellers meet at some of the goods. Both directions lock in one order.
                let id = (teller * 7 + number * 3) % 10;
                if transfer(&shop, &here, &there, id, number % 5 == 4).await {
                    committed[0] += 1;
                }
                committed[1] += 1;
            }
            committed
        });
    }
    let [mut committed, mut all] = [0; 2];
    while let Some(teller) = tellers.join_next().await {
        let [done, tried] = teller.expect("no panic");
        (committed, all) = (committed + done, all + tried);
    }
    assert!(shop.settle_async(Duration::from_secs(20)).await, "{:?}", shop.status());
    assert_eq!(all, i64::try_from(TELLERS * TRANSFERS).expect("small"));
    assert!(committed > all / 2, "{committed} of {all}");
    let sum = "SELECT sum(free)::bigint FROM stock";
    assert_eq!((here.number(sum).await, there.number(sum).await), (1000 - committed, 1000 + committed));
    assert_eq!((here.prepared().await, there.prepared().await), (0, 0));
    assert_eq!((open[0].status().promised, open[1].status().promised), (0, 0));
}
