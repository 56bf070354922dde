//! What an operator sees and does.

use std::time::Duration;

use ringpact::{
    Epoch, LogId, Name, ParticipantError,
    participant::{AsyncParticipant, Decision, EndedOpening, Life, xa::XaErrorKind},
};

use crate::support::{Db, call, call_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_of_lost_coordinators_are_listed_and_settled() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    let (first, second) = (db.promised(&goods, 1).await, db.branch(2));
    crate::support::work(&goods, &second, "UPDATE stock SET free = 7 WHERE id = 1").await;
    assert!(goods.prepare(&second, &call()).await.is_ok());
    // Other software's, and another participant's, are not listed.
    let other = db.client().await;
    other
        .batch_execute("BEGIN; UPDATE stock SET free = 1 WHERE id = 2; PREPARE TRANSACTION 'it''s \\'")
        .await
        .expect("ok");
    assert_eq!(db.prepared().await, 3);
    let later = db.goods().await;
    let orphans = later.orphans(&[]).await.expect("a list");
    let branches: Vec<_> = orphans.iter().filter_map(|orphan| orphan.branch.clone()).collect();
    assert_eq!(branches, [first.clone(), second]);
    assert!(orphans.iter().all(|orphan| orphan.age.is_some_and(|age| age < Duration::from_secs(60))));
    assert!(later.orphans(&[first.txn().coordinator().clone()]).await.expect("a list").is_empty());
    later.settle(&orphans[0].id, Decision::Commit).await.expect("settled");
    later.settle(&orphans[1].id, Decision::Rollback).await.expect("settled");
    later.settle("it's \\", Decision::Rollback).await.expect("settled");
    let error = later.settle("unknown", Decision::Commit).await.expect_err("there is none");
    assert_eq!(error.kind(), XaErrorKind::NotThere);
    assert_eq!((db.prepared().await, db.free(0).await, db.free(1).await), (0, 99, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_lost_its_log_is_refused_and_its_promises_stay() {
    let Some(db) = Db::new().await else { return };
    let shop = db.branch(1).txn().coordinator().clone();
    let of_log = |byte| Life::new(LogId::from_bytes([byte; 16]), Epoch::new(1), 5);
    let goods = db.goods().await;
    goods.meet(&shop, &of_log(1)).await.expect("an introduction");
    db.promised(&goods, 1).await;
    let later = db.goods().await;
    let answer = later.meet(&shop, &of_log(2)).await;
    assert!(matches!(answer, Err(ParticipantError::OtherLog(_))), "{answer:?}");
    let of_another = call_with(|call| (call.identity, call.epoch) = (LogId::from_bytes([2; 16]), Epoch::new(1)));
    assert!(later.rollback(&db.branch(1), &of_another).await.is_err());
    assert_eq!(db.prepared().await, 1);
    assert_eq!(later.orphans(&[]).await.expect("a list").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_counts_branches_and_a_shutdown_rolls_back_what_has_not_promised() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    db.promised(&goods, 1).await;
    crate::support::work(&goods, &db.branch(2), "UPDATE stock SET free = 7 WHERE id = 1").await;
    let status = goods.status();
    assert_eq!((status.active, status.promised, status.sessions, status.lost), (1, 1, 1, 0));
    goods.shutdown().await;
    let status = goods.status();
    assert_eq!((status.active, status.promised, status.sessions), (0, 1, 0));
    assert!(goods.work(&db.branch(3)).await.is_err());
    assert_eq!((db.prepared().await, db.free(1).await), (1, 100));
}

/// Another process of the participant has met a later life of the coordinator, and a restored log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_that_another_process_has_met_is_not_overtaken() {
    let Some(db) = Db::new().await else { return };
    let (first, second) = (db.goods().await, db.goods().await);
    let (shop, log) = (Name::from_static("shop"), LogId::from_bytes([7; 16]));
    let (early, late) = (Life::new(log, Epoch::new(10), 5), Life::new(log, Epoch::new(20), 9));
    second.meet(&shop, &late).await.expect("nothing is known");
    let error = first.meet(&shop, &early).await.expect_err("another process knows a later life");
    assert!(matches!(error, ParticipantError::Superseded(_)), "{error}");
    // An operator has restored an older copy of the log. It stays accepted after a restart.
    let mut restored = early.continuing(EndedOpening { epoch: late.epoch, position: 9 });
    restored.replaces = log;
    second.meet(&shop, &restored).await.expect("an operator said so");
    let third = db.goods().await;
    third.meet(&shop, &early).await.expect("it is what was noted");
    let error = third.meet(&shop, &late).await.expect_err("it does not continue the restored one");
    assert!(matches!(error, ParticipantError::Superseded(_)), "{error}");
}
