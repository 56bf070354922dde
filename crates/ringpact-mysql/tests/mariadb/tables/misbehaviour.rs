//! Services and databases that do what they should not.

use std::time::{Duration, Instant};

use ringpact::{ParticipantError, Vote, error_chain, participant::AsyncParticipant as _};
use ringpact_servers::mariadb::is_mysql;

use super::{Work, named, repeated, stock, take, with_stock};
use crate::{
    stock::SWALLOWED_COMMIT,
    support::{BranchTimeouts, MySqlParticipant, TableWorkError, branch, carry_out, get_conn},
};

fn does(what: &str) -> Work {
    (what.to_owned(), 1, 1)
}

/// MariaDB would commit the rest in each of these cases.
#[test]
fn work_is_not_done_if_a_statement_has_failed_or_has_ended_the_transaction() {
    with_stock(async |database| {
        let goods = database.stock().await;
        for (sequence, what, says) in [
            (1, "swallows an error", "a statement of the service has failed"),
            (2, "commits", "has ended the transaction"),
            (3, "swallows a commit", SWALLOWED_COMMIT),
            (4, "commits and begins", "has ended the transaction"),
        ] {
            let branch = branch(sequence);
            let error = goods.execute_under(&branch, &does(what)).await.expect_err(what);
            let text = error_chain(&error).to_string();
            assert!(text.contains(says), "{text}");
            let no = goods.prepare(&branch, &named()).await.expect_err("a No");
            assert!(error_chain(&no).to_string().contains(says), "{}", error_chain(&no));
            // What the service has committed itself was committed with the row, so it is given back.
            assert_eq!((database.audit(100).await, database.free(1).await), (0, 100), "{what}");
        }
    });
}

#[test]
fn a_session_that_is_lost_in_the_middle_leaves_nothing() {
    with_stock(async |database| {
        let goods = database.stock().await;
        goods.execute_under(&branch(1), &take(1, 1)).await.expect("there are enough");
        let lost = goods.execute_under(&branch(1), &does("loses its session")).await.expect_err("it is lost");
        // MySQL tells a session that ends itself only that its statement was interrupted.
        assert!(MySqlParticipant::is_transient(&lost) || is_mysql(), "{}", error_chain(&lost));
        let no = goods.prepare(&branch(1), &named()).await.expect_err("a piece of work is missing");
        assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
        assert_eq!(database.audit(100).await, 0);
        // Each connection of the pool may be dead before it is used.
        database.kill_connections().await;
        goods.execute_under(&branch(2), &take(1, 1)).await.expect("another connection is taken");
    });
}

#[test]
fn a_refusal_is_kept_whatever_its_text() {
    with_stock(async |database| {
        let (goods, other) = (database.stock().await, database.stock().await);
        let refusal = "it's \\ full\0 of 木";
        let error = goods.execute_under(&branch(1), &does(&format!("refuse: {refusal}"))).await.expect_err("a refusal");
        assert!(matches!(error, TableWorkError::Service(_)), "{error:?}");
        // Another process answers with it.
        let no = other.prepare(&branch(1), &named()).await.expect_err("a No");
        assert!(error_chain(&no).to_string().contains(refusal), "{}", error_chain(&no));
        assert_eq!(database.audit(100).await, 0);
    });
}

#[test]
fn a_pool_without_a_free_connection_is_waited_for_for_a_limited_time() {
    with_stock(async |database| {
        let pool = database.pool_of(1);
        let timeouts = BranchTimeouts::default().connection(Duration::from_millis(500));
        let goods = stock(database.tables("payments").pool(pool.clone()).timeouts(timeouts)).await;
        goods.execute_under(&branch(1), &take(1, 1)).await.expect("there are enough");
        let held = get_conn(&pool).await;
        let begun = Instant::now();
        let error = goods.execute_under(&branch(1), &take(2, 1)).await.expect_err("the connection is in use");
        let text = error_chain(&error).to_string();
        assert!(text.contains("no connection was free") && text.contains("allow the pool more"), "{text}");
        assert!(MySqlParticipant::is_transient(&error) && goods.is_transient(&error), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        goods.prepare(&branch(1), &named()).await.expect_err("the connection is in use");
        drop(held);
        // The note that the branch can only be rolled back is in memory: the database could not be told.
        let no = repeated(async || goods.prepare(&branch(1), &named()).await).await.expect_err("a No");
        assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
        assert_eq!(database.audit(100).await, 0);
    });
}

#[test]
fn a_lock_is_waited_for_again_and_then_the_error_may_pass() {
    with_stock(async |database| {
        let goods = database.stock().await;
        let mut holder = database.conn().await;
        carry_out(&mut holder, "BEGIN; SELECT * FROM stock WHERE id = 1 FOR UPDATE").await.expect("a lock");
        let error = goods.execute_under(&branch(1), &take(1, 1)).await.expect_err("it is locked");
        assert!(goods.is_transient(&error), "{}", error_chain(&error));
        let (second, work) = (branch(2), take(1, 1));
        let (worked, freed) = tokio::join!(goods.execute_under(&second, &work), async {
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            carry_out(&mut holder, "ROLLBACK").await
        });
        freed.expect("a rollback");
        worked.expect("the second time it is free");
        assert_eq!(goods.prepare(&second, &named()).await.expect("a vote"), Vote::Yes);
        assert!(goods.prepare(&branch(1), &named()).await.is_err());
        assert_eq!(database.audit(100).await, 1);
    });
}
