//! Rows of ended branches are deleted.

use ringpact::{Epoch, TxnOrdinal, participant::AsyncParticipant};
use tokio::task::JoinSet;

use super::{named, promise, take};
use crate::support::Db;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_stays_small() {
    let Some(db) = Db::with_stock().await else { return };
    db.admin.batch_execute("UPDATE stock SET free = 1000000").await.expect("plenty");
    let goods = db.stock().await;
    promise(&goods, &db.branch(1), take(9, 1)).await;
    let mut clients = JoinSet::new();
    for client in 0..8_u64 {
        let (goods, branches) = (goods.clone(), (0..150).map(|n| db.branch(2 + 8 * n + client)).collect::<Vec<_>>());
        clients.spawn(async move {
            for branch in branches {
                promise(&goods, &branch, take(i64::try_from(client).expect("small"), 1)).await;
                goods.commit(&branch, &named()).await.expect("it is promised");
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("no panic");
    }
    assert_eq!(db.rows().await, 1_201, "the coordinator needs all of them");
    let mut later = named();
    later.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 1_202 };
    goods.rollback(&db.branch(1_202), &later).await.expect("nothing is there");
    // The promise that no decision reached stays, and so does the tombstone.
    assert_eq!(db.rows().await, 2);
    assert_eq!(db.number("SELECT sum(state)::bigint FROM ringpact.branch").await, 3 + 5);
}
