//! The longest names, the highest numbers, the largest work.

use ringpact::{Epoch, Name, TxnId, Vote, participant::AsyncParticipant};

use super::{named, promise, stock, take};
use crate::support::{Db, TableWorkError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_names_and_the_highest_numbers_are_kept_apart() {
    let Some(db) = Db::with_stock().await else { return };
    let name = |end: &str| Name::new(&format!("{}{end}", "A-b_c.0".repeat(9))).expect("63 bytes, and one");
    let goods = stock(db.builder_of(name("P").as_str())).await;
    let call = || {
        let mut call = named();
        (call.epoch, call.position) = (Epoch::new(u64::MAX), u64::MAX);
        call
    };
    let branch =
        |coordinator: &str, sequence| TxnId::new(name(coordinator), Epoch::new(u64::MAX), sequence).branch(&name("P"));
    // Names that differ in case alone, and numbers that a double would round.
    let branches = [branch("c", u64::MAX), branch("C", u64::MAX), branch("c", u64::MAX - 1)];
    for branch in &branches {
        goods.execute_under(branch, &take(1, 1)).await.expect("there are enough");
        assert_eq!(goods.prepare(branch, &call()).await.expect("a vote"), Vote::Yes);
    }
    let (goods, lower) =
        (stock(db.builder_of(name("P").as_str())).await, stock(db.builder_of(name("p").as_str())).await);
    assert_eq!(goods.in_doubt(&name("c")).await.expect("a list"), [branches[2].clone(), branches[0].clone()]);
    assert_eq!(goods.in_doubt(&name("C")).await.expect("a list"), [branches[1].clone()]);
    assert_eq!(lower.in_doubt(&name("c")).await.expect("a list"), []);
    goods.commit(&branches[0], &call()).await.expect("it is promised");
    goods.rollback(&branches[1], &call()).await.expect("it is promised");
    assert_eq!(goods.in_doubt(&name("c")).await.expect("a list"), [branches[2].clone()]);
    assert!(db.is_sold(&branches[0]).await && !db.is_sold(&branches[1]).await);
    assert_eq!(db.audit().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_up_to_the_limit_is_kept() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    let large = |bytes: usize| ("x".repeat(bytes), 1, 1);
    promise(&goods, &db.branch(1), large(900_000)).await;
    let error = goods.execute_under(&db.branch(2), &large(2_000_000)).await.expect_err("too much");
    assert!(matches!(error, TableWorkError::TooMuchWork { .. }), "{error}");
    goods.commit(&db.branch(1), &named()).await.expect("it is promised");
    assert_eq!(
        db.number("SELECT max(length(works))::bigint FROM ringpact.branch").await,
        0,
        "ended branches keep none"
    );
    assert_eq!(db.audit().await, 0);
}
