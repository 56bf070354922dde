//! Rows of ended branches are deleted.

use ringpact::{Epoch, TxnOrdinal, participant::AsyncParticipant as _};
use tokio::task::JoinSet;

use super::{named, promise, take, with_stock};
use crate::support::branch;

#[test]
fn the_table_stays_small() {
    with_stock(async |database| {
        let goods = database.stock().await;
        promise(&goods, &branch(1), take(9, 1)).await;
        let mut clients = JoinSet::new();
        for client in 0..8_u64 {
            let goods = goods.clone();
            clients.spawn(async move {
                for number in 0..75 {
                    let branch = branch(2 + 8 * number + client);
                    promise(&goods, &branch, take(i64::try_from(client).expect("small"), 1)).await;
                    goods.commit(&branch, &named()).await.expect("it is promised");
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("no panic");
        }
        assert_eq!(database.rows().await, 601, "the coordinator needs all of them");
        let mut later = named();
        later.ended_below = TxnOrdinal { epoch: Epoch::new(1), sequence: 602 };
        goods.rollback(&branch(602), &later).await.expect("nothing is there");
        // The promise that no decision reached stays, and so does the tombstone.
        assert_eq!(database.rows().await, 2);
        let states = "SELECT CAST(SUM(state) AS UNSIGNED) FROM ringpact_branch";
        assert_eq!(database.value::<u64>(states).await, Some(3 + 5));
    });
}
