//! Several processes are one participant, after each other and at the same time.

use ringpact::{ParticipantError, Vote, participant::AsyncParticipant as _};

use super::{Stock, life, named, promise, repeated, take, with_stock};
use crate::support::{branch, shop};

#[test]
fn a_process_that_starts_again_is_told_what_is_promised() {
    with_stock(async |database| {
        let goods = database.stock().await;
        goods.meet(&shop(), &life()).await.expect("a new coordinator");
        assert_eq!(*goods.service().opened.lock().expect("no panic"), [vec![]], "nothing is promised yet");
        for sequence in [3, 1, 2] {
            promise(&goods, &branch(sequence), take(1, 1)).await;
        }
        goods.execute_under(&branch(4), &take(1, 1)).await.expect("there are enough");
        goods.commit(&branch(2), &named()).await.expect("it is promised");
        drop(goods);

        let goods = database.stock().await;
        let promised = vec![branch(1), branch(3)];
        assert_eq!(*goods.service().opened.lock().expect("no panic"), [promised]);
        assert_eq!(goods.in_doubt(&shop()).await.expect("a list"), [branch(1), branch(3), branch(4)]);
        goods.commit(&branch(1), &named()).await.expect("it is promised");
        goods.rollback(&branch(3), &named()).await.expect("it is promised");
        goods.rollback(&branch(4), &named()).await.expect("it has promised nothing");
        goods.commit(&branch(2), &named()).await.expect("it is committed");
        assert_eq!((database.audit(100).await, database.free(1).await), (0, 98));
    });
}

#[test]
fn a_participant_does_not_open_if_the_service_misses_a_reservation() {
    with_stock(async |database| {
        promise(&database.stock().await, &branch(1), take(1, 1)).await;
        database.sql("DELETE FROM reserved").await;
        let error = database.tables("payments").open_tables(Stock::default()).await.expect_err("a loss");
        let text = ringpact::error_chain(&error).to_string();
        assert!(text.contains("nothing is reserved"), "{text}");
    });
}

#[test]
fn two_processes_at_one_branch_have_one_outcome() {
    with_stock(async |database| {
        let (here, there) = (database.stock().await, database.stock().await);
        for sequence in 1..=30 {
            let branch = branch(sequence);
            let (work, call) = (take(1, 1), named());
            let (one, other) = tokio::join!(here.execute_under(&branch, &work), there.execute_under(&branch, &work));
            one.and(other).expect("the row of the branch is waited for");
            let votes = tokio::join!(
                repeated(async || here.prepare(&branch, &call).await),
                repeated(async || there.prepare(&branch, &call).await)
            );
            assert!(matches!(votes, (Ok(Vote::Yes), Ok(Vote::Yes))), "{votes:?}");
            let ends = if sequence % 2 == 0 {
                tokio::join!(
                    repeated(async || here.commit(&branch, &call).await),
                    repeated(async || there.commit(&branch, &call).await)
                )
            } else {
                tokio::join!(
                    repeated(async || here.rollback(&branch, &call).await),
                    repeated(async || there.rollback(&branch, &call).await)
                )
            };
            assert!(matches!(ends, (Ok(()), Ok(()))), "{ends:?}");
        }
        assert_eq!((database.audit(100).await, database.free(1).await), (0, 70));
    });
}

/// Work at one process and a rollback at the other: whichever comes first, nothing stays set aside.
#[test]
fn late_work_at_another_process_is_refused() {
    with_stock(async |database| {
        let (here, there) = (database.stock().await, database.stock().await);
        for sequence in 1..=30 {
            let branch = branch(sequence);
            let (work, call) = (take(1, 1), named());
            let (_, undone) = tokio::join!(
                here.execute_under(&branch, &work),
                repeated(async || there.rollback(&branch, &call).await)
            );
            undone.expect("a rollback");
            here.execute_under(&branch, &work).await.expect_err("it is rolled back");
            let no = there.prepare(&branch, &call).await.expect_err("it is rolled back");
            assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
            assert_eq!(database.audit(100).await, 0);
        }
    });
}
