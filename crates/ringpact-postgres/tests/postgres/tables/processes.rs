//! Several processes are one participant, after each other and at the same time.

use ringpact::{ParticipantError, Vote, participant::AsyncParticipant};

use super::{life, named, promise, repeated, take};
use crate::support::Db;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_starts_again_is_told_what_is_promised() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    goods.meet(&db.shop, &life()).await.expect("a new coordinator");
    assert_eq!(*goods.service().opened.lock().expect("no panic"), [vec![]], "nothing is promised yet");
    for sequence in [3, 1, 2] {
        promise(&goods, &db.branch(sequence), take(1, 1)).await;
    }
    goods.execute_under(&db.branch(4), &take(1, 1)).await.expect("there are enough");
    goods.commit(&db.branch(2), &named()).await.expect("it is promised");
    drop(goods);

    let goods = db.stock().await;
    let promised = vec![db.branch(1), db.branch(3)];
    assert_eq!(*goods.service().opened.lock().expect("no panic"), [promised]);
    assert_eq!(goods.in_doubt(&db.shop).await.expect("a list"), [db.branch(1), db.branch(3), db.branch(4)]);
    goods.commit(&db.branch(1), &named()).await.expect("it is promised");
    goods.rollback(&db.branch(3), &named()).await.expect("it is promised");
    goods.rollback(&db.branch(4), &named()).await.expect("it has promised nothing");
    goods.commit(&db.branch(2), &named()).await.expect("it is committed");
    assert_eq!((db.audit().await, db.free(1).await), (0, 98));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_participant_does_not_open_if_the_service_misses_a_reservation() {
    let Some(db) = Db::with_stock().await else { return };
    promise(&db.stock().await, &db.branch(1), take(1, 1)).await;
    db.admin.batch_execute("DELETE FROM reserved").await.expect("a deletion");
    let error = db.builder().open_tables(super::Stock::default()).await.expect_err("a loss");
    let text = ringpact::error_chain(&error).to_string();
    assert!(text.contains("nothing is reserved"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_at_one_branch_have_one_outcome() {
    let Some(db) = Db::with_stock().await else { return };
    let (here, there) = (db.stock().await, db.stock().await);
    for sequence in 1..=30 {
        let branch = db.branch(sequence);
        let work = take(1, 1);
        let (one, other) = tokio::join!(here.execute_under(&branch, &work), there.execute_under(&branch, &work));
        one.and(other).expect("the row of the branch is waited for");
        let (one, other) = (named(), named());
        let votes = tokio::join!(
            repeated(async || here.prepare(&branch, &one).await),
            repeated(async || there.prepare(&branch, &other).await)
        );
        assert!(matches!(votes, (Ok(Vote::Yes), Ok(Vote::Yes))), "{votes:?}");
        if sequence % 2 == 0 {
            let ends = tokio::join!(
                repeated(async || here.commit(&branch, &one).await),
                repeated(async || there.commit(&branch, &other).await)
            );
            assert!(matches!(ends, (Ok(()), Ok(()))), "{ends:?}");
        } else {
            let ends = tokio::join!(
                repeated(async || here.rollback(&branch, &one).await),
                repeated(async || there.rollback(&branch, &other).await)
            );
            assert!(matches!(ends, (Ok(()), Ok(()))), "{ends:?}");
        }
    }
    assert_eq!((db.audit().await, db.free(1).await), (0, 70));
}

/// Work at one process and a rollback at the other: whichever comes first, nothing stays set aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_work_at_another_process_is_refused() {
    let Some(db) = Db::with_stock().await else { return };
    let (here, there) = (db.stock().await, db.stock().await);
    for sequence in 1..=30 {
        let branch = db.branch(sequence);
        let (work, call) = (take(1, 1), named());
        let (_, undone) =
            tokio::join!(here.execute_under(&branch, &work), repeated(async || there.rollback(&branch, &call).await));
        undone.expect("a rollback");
        here.execute_under(&branch, &work).await.expect_err("it is rolled back");
        let no = there.prepare(&branch, &named()).await.expect_err("it is rolled back");
        assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
        assert_eq!(db.audit().await, 0);
    }
}
