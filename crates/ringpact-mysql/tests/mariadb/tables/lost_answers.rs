//! The connection is lost around the `COMMIT` of a step. The row decides when the message comes again.

use std::time::{Duration, Instant};

use ringpact::{ParticipantError, Vote, participant::AsyncParticipant as _};
use ringpact_servers::cutter::{Cut, Cutter};
use tokio::time::sleep;

use super::{Goods, named, promise, repeated, stock, take, with_stock};
use crate::support::{Database, SOON, branch, server, shop};

/// Opens a participant whose connections can be cut.
async fn cuttable(database: &Database) -> (Cutter, Goods) {
    let cutter = Cutter::before(server().expect("a server").port()).expect("a port");
    let goods = stock(database.tables_at(cutter.port())).await;
    (cutter, goods)
}

const CUTS: [Cut; 2] = [Cut::Before, Cut::After];
const COMMIT: &str = ";COMMIT";

#[test]
fn a_message_whose_commit_was_lost_is_carried_out_once() {
    with_stock(async |database| {
        let (cutter, goods) = cuttable(&database).await;
        for (sequence, cut) in (1..).zip(CUTS) {
            let (sold, undone) = (branch(2 * sequence), branch(2 * sequence + 1));
            for branch in [&sold, &undone] {
                goods.execute_under(branch, &take(1, 3)).await.expect("there are enough");
                cutter.arm(COMMIT, cut);
                let lost = goods.prepare(branch, &named()).await.expect_err("no answer came");
                assert!(matches!(lost, ParticipantError::Resource(_)) && !cutter.is_armed(), "{lost:?}");
                assert_eq!(repeated(async || goods.prepare(branch, &named()).await).await.expect("a vote"), Vote::Yes);
            }
            cutter.arm(COMMIT, cut);
            goods.commit(&sold, &named()).await.expect_err("no answer came");
            assert!(!cutter.is_armed());
            // The server answers the first statement of the message before it carries out the second.
            let begun = Instant::now();
            while goods.in_doubt(&shop()).await.expect("a list").contains(&sold) != (cut == Cut::Before) {
                assert!(begun.elapsed() < SOON, "{cut:?}");
                sleep(Duration::from_millis(5)).await;
            }
            for _ in 0..3 {
                repeated(async || goods.commit(&sold, &named()).await).await.expect("committed");
            }
            cutter.arm(COMMIT, cut);
            goods.rollback(&undone, &named()).await.expect_err("no answer came");
            assert!(!cutter.is_armed());
            for _ in 0..3 {
                repeated(async || goods.rollback(&undone, &named()).await).await.expect("rolled back");
            }
            let wrong = goods.rollback(&sold, &named()).await.expect_err("it is committed");
            assert!(matches!(wrong, ParticipantError::AlreadyCommitted), "{wrong:?}");
            let wrong = goods.commit(&undone, &named()).await.expect_err("it is rolled back");
            assert!(matches!(wrong, ParticipantError::AlreadyRolledBack), "{wrong:?}");
            assert!(database.is_sold(&sold).await && !database.is_sold(&undone).await);
            assert_eq!(database.audit(100).await, 0, "{cut:?}");
        }
    });
}

#[test]
fn work_whose_commit_was_lost_can_only_be_rolled_back() {
    with_stock(async |database| {
        let (cutter, goods) = cuttable(&database).await;
        for (sequence, cut) in (1..).zip(CUTS) {
            let branch = branch(sequence);
            goods.execute_under(&branch, &take(1, 1)).await.expect("there are enough");
            cutter.arm(COMMIT, cut);
            goods.execute_under(&branch, &take(2, 1)).await.expect_err("no answer came");
            assert!(!cutter.is_armed());
            goods.execute_under(&branch, &take(3, 1)).await.expect_err("a part may be missing");
            let no = repeated(async || goods.prepare(&branch, &named()).await).await.expect_err("a No");
            assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
            assert_eq!(database.audit(100).await, 0, "{cut:?}");
        }
    });
}

#[test]
fn confirm_and_cancel_take_effect_once_however_often_the_message_comes() {
    with_stock(async |database| {
        let goods = database.stock().await;
        let (sold, undone, call) = (branch(1), branch(2), named());
        promise(&goods, &sold, take(1, 3)).await;
        promise(&goods, &undone, take(1, 4)).await;
        for _ in 0..4 {
            let both = tokio::join!(goods.commit(&sold, &call), goods.commit(&sold, &call));
            assert!(matches!(both, (Ok(()), Ok(()))), "{both:?}");
            let both = tokio::join!(goods.rollback(&undone, &call), goods.rollback(&undone, &call));
            assert!(matches!(both, (Ok(()), Ok(()))), "{both:?}");
        }
        assert!(database.is_sold(&sold).await && !database.is_sold(&undone).await);
        assert_eq!((database.audit(100).await, database.free(1).await), (0, 97));
    });
}
