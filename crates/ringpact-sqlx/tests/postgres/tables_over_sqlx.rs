//! Services with tables: what sqlx adds to what the tests of `ringpact-postgres` have.

use std::time::Duration;

use ringpact::{BranchId, ParticipantError, ServiceError, Vote, participant::AsyncParticipant};
use ringpact_sqlx::{AsyncService, SqlxPgTx};
use sqlx::{Connection as _, query};

use crate::{
    support::{Db, call},
    tables::{Work, named, stock},
};

fn does(what: &str) -> Work {
    (what.to_owned(), 1, 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_sqlx_in_a_step_is_a_savepoint() {
    let Some(db) = Db::with_stock().await else { return };
    let pool = db.pool(1);
    let goods = stock(db.builder().pool(pool.clone())).await;
    // Twice, on one connection: its count of transactions is right afterwards.
    for sequence in [1, 2] {
        let branch = db.branch(sequence);
        goods.execute_under(&branch, &does("goes back to a savepoint")).await.expect("its error is undone");
        assert_eq!(goods.prepare(&branch, &named()).await.expect("a vote"), Vote::Yes);
        goods.commit(&branch, &named()).await.expect("it is promised");
        let mut conn = pool.acquire().await.expect("a connection");
        assert!(!conn.is_in_transaction());
        let mut own = conn.begin().await.expect("a transaction of the application's");
        query("UPDATE stock SET free = free - 1 WHERE id = 7").execute(&mut *own).await.expect("a row");
        own.commit().await.expect("a commit");
        let tag = sqlx::query_scalar("SELECT current_setting('application_name')");
        let tag: String = tag.fetch_one(&mut *conn).await.expect("a row");
        assert_eq!(tag, "");
    }
    assert_eq!([db.free(1).await, db.free(7).await, db.free(8).await, db.free(9).await], [98, 98, 98, 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_was_forgotten_costs_the_connection() {
    let Some(db) = Db::with_stock().await else { return };
    let pool = db.pool(1);
    let goods = stock(db.builder().pool(pool.clone())).await;
    for sequence in [1, 2] {
        goods.execute_under(&db.branch(sequence), &does("forgets a savepoint")).await.expect("it is kept");
        assert!(!pool.acquire().await.expect("a new connection").is_in_transaction());
    }
    assert_eq!((db.audit().await, db.free(1).await), (2, 98));
}

/// Drops a future of sqlx at one of its steps, and goes on.
#[derive(Debug)]
struct Hasty;

impl AsyncService<SqlxPgTx> for Hasty {
    /// A number, a time in microseconds, and what the statement adds.
    type Work = (u64, u64, i64);

    async fn try_reserve(&self, tx: &mut SqlxPgTx, _: &BranchId, work: &Self::Work) -> Result<(), ServiceError> {
        let (number, within, change) = work;
        query("UPDATE stock SET free = free - 1 WHERE id = 0").execute(&mut **tx).await?;
        // A statement that the cache does not have, so it is prepared first.
        let sql = format!("UPDATE stock SET free = free + $1 WHERE id = 1 AND {number} = {number}");
        let statement = query(&sql).bind(change).execute(&mut **tx);
        let _answer = tokio::time::timeout(Duration::from_micros(*within), statement).await;
        Ok(())
    }

    async fn confirm(&self, _: &mut SqlxPgTx, _: &BranchId, _: &[Self::Work]) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn cancel(&self, tx: &mut SqlxPgTx, _: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        let give_back = query("UPDATE stock SET free = free + $1 WHERE id = 0");
        give_back.bind(i64::try_from(works.len())?).execute(&mut **tx).await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_future_of_sqlx_was_dropped_is_done_or_refused() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.builder().pool(db.pool(1)).open_tables(Hasty).await.expect("a participant");
    let (mut committed, mut refused) = (0, 0);
    for sequence in 1..=60_u64 {
        let branch = db.branch(sequence);
        // A third of the statements fail at the server.
        let change = if sequence % 3 == 0 { -1_000_000 } else { -1 };
        let worked = goods.execute_under(&branch, &(sequence, sequence * 15, change)).await;
        match goods.prepare(&branch, &call()).await {
            Ok(vote) => {
                assert!(vote == Vote::Yes && worked.is_ok(), "{vote:?} after {worked:?}");
                goods.commit(&branch, &call()).await.expect("it is promised");
                committed += 1;
            }
            Err(no) => {
                assert!(worked.is_err() && matches!(no, ParticipantError::Refused(_)), "{no:?} after {worked:?}");
                refused += 1;
            }
        }
    }
    assert_eq!(db.free(0).await, 100 - committed);
    assert!((100 - committed..=100).contains(&db.free(1).await), "{}", db.free(1).await);
    assert!(committed > 0 && refused > 0, "{committed} and {refused}");
}
