//! The connection is lost around the `COMMIT` of a step. The row decides when the message comes again.

use ringpact::{ParticipantError, Vote, participant::AsyncParticipant};
use ringpact_servers::cutter::{Cut, Cutter};

use super::{Goods, named, promise, repeated, stock, take};
use crate::support::{Db, server};

/// Opens a participant whose connections can be cut.
async fn cuttable(db: &Db) -> (Cutter, Goods) {
    let cutter = Cutter::before(server().expect("a server").port()).expect("a port");
    let goods = stock(db.builder_at(cutter.port(), 16)).await;
    (cutter, goods)
}

const CUTS: [Cut; 2] = [Cut::Before, Cut::After];
const COMMIT: &str = "; COMMIT";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_whose_commit_was_lost_is_carried_out_once() {
    let Some(db) = Db::with_stock().await else { return };
    let (cutter, goods) = cuttable(&db).await;
    for (sequence, cut) in (1..).zip(CUTS) {
        let (sold, undone) = (db.branch(2 * sequence), db.branch(2 * sequence + 1));
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
        assert_eq!(goods.in_doubt(&db.shop).await.expect("a list").contains(&sold), cut == Cut::Before);
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
        assert!(db.is_sold(&sold).await && !db.is_sold(&undone).await);
        assert_eq!(db.audit().await, 0, "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_whose_commit_was_lost_can_only_be_rolled_back() {
    let Some(db) = Db::with_stock().await else { return };
    let (cutter, goods) = cuttable(&db).await;
    for (sequence, cut) in (1..).zip(CUTS) {
        let branch = db.branch(sequence);
        goods.execute_under(&branch, &take(1, 1)).await.expect("there are enough");
        cutter.arm(COMMIT, cut);
        goods.execute_under(&branch, &take(2, 1)).await.expect_err("no answer came");
        assert!(!cutter.is_armed());
        goods.execute_under(&branch, &take(3, 1)).await.expect_err("a part may be missing");
        let no = repeated(async || goods.prepare(&branch, &named()).await).await.expect_err("a No");
        assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
        assert_eq!(db.audit().await, 0, "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn confirm_and_cancel_take_effect_once_however_often_the_message_comes() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    let (sold, undone) = (db.branch(1), db.branch(2));
    promise(&goods, &sold, take(1, 3)).await;
    promise(&goods, &undone, take(1, 4)).await;
    let call = named();
    for _ in 0..4 {
        let both = tokio::join!(goods.commit(&sold, &call), goods.commit(&sold, &call));
        assert!(matches!(both, (Ok(()), Ok(()))), "{both:?}");
        let both = tokio::join!(goods.rollback(&undone, &call), goods.rollback(&undone, &call));
        assert!(matches!(both, (Ok(()), Ok(()))), "{both:?}");
    }
    assert!(db.is_sold(&sold).await && !db.is_sold(&undone).await);
    assert_eq!((db.audit().await, db.free(1).await), (0, 97));
}
