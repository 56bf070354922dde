//! Services with tables: what sqlx adds to what the tests of `ringpact-mysql` have.

use std::time::Duration;

use ringpact::{BranchId, ParticipantError, ServiceError, Vote, error_chain, participant::AsyncParticipant as _};
use ringpact_servers::mariadb::is_mysql;
use ringpact_sqlx::{AsyncService, SqlxMySqlTx};
use sqlx::{Connection as _, query};

use crate::{
    support::{BranchTimeouts, branch, call, get_conn, polled},
    tables::{Work, named, stock, with_stock},
};

fn does(what: &str) -> Work {
    (what.to_owned(), 1, 1)
}

/// sqlx hands its connection out, so the participant asks the server.
#[test]
fn an_error_that_the_service_swallows_is_seen_once_a_table_was_opened() {
    with_stock(async |database| {
        database
            .sql(
                "CREATE PROCEDURE handles() BEGIN DECLARE CONTINUE HANDLER FOR SQLEXCEPTION BEGIN END; \
                 INSERT INTO stock VALUES (1, 1); END; \
                 CREATE TRIGGER keep BEFORE DELETE ON stock FOR EACH ROW SIGNAL SQLSTATE '45000'",
            )
            .await;
        let timeouts = BranchTimeouts::default().statement(Duration::from_millis(500));
        let goods = stock(database.tables("payments").pool(database.pool(1)).timeouts(timeouts)).await;
        let failing = [
            "INSERT INTO stock VALUES (2, 1)",
            "INSERT INTO stock VALUES (20, NULL)",
            "UPDATE stock SET free = 'much'",
            "DELETE FROM stock WHERE id = 1",
            "SELECT id = (SELECT 1 UNION SELECT 2) FROM stock",
            "SELECT SLEEP(free) FROM stock",
        ];
        // MySQL finds this error before it opens the table. The statement would have changed nothing.
        let failing = failing.into_iter().filter(|sql| !is_mysql() || !sql.contains("UNION"));
        let others = ["swallows an error", "swallows errors"].map(str::to_owned);
        let works = failing.map(|sql| format!("swallows: {sql}")).chain(others);
        for (sequence, what) in (1..).zip(works) {
            let error = goods.execute_under(&branch(sequence), &does(&what)).await.expect_err(&what);
            assert!(error_chain(&error).contains("a statement of the service has failed"), "{what}: {error:?}");
            let no = goods.prepare(&branch(sequence), &named()).await.expect_err("a No");
            assert!(matches!(no, ParticipantError::Refused(_)), "{no:?}");
            assert_eq!((database.audit(100).await, database.free(1).await), (0, 100), "{what}");
        }
        // What came before the service does not count.
        goods.execute_under(&branch(30), &does("keeps to what it may")).await.expect("nothing has failed");
        assert_eq!(goods.prepare(&branch(30), &named()).await.expect("a vote"), Vote::Yes);
    });
}

/// As the page of `SqlxTx` says. These statements change nothing, and what the service does beside them is kept.
#[test]
fn an_error_before_a_table_is_opened_is_not_seen() {
    with_stock(async |database| {
        let goods = database.stock().await;
        let failing =
            ["SELEC 1", "INSERT INTO missing VALUES (1)", "UPDATE stock SET missing = 1", "SIGNAL SQLSTATE '45000'"];
        for (sequence, sql) in (1..).zip(failing) {
            goods.execute_under(&branch(sequence), &does(&format!("swallows: {sql}"))).await.expect(sql);
        }
        assert_eq!(database.audit(100).await, 4);
    });
}

#[test]
fn a_transaction_of_sqlx_in_a_step_is_a_savepoint_and_nothing_stays_in_the_pool() {
    with_stock(async |database| {
        let pool = database.pool(1);
        let goods = stock(database.tables("payments").pool(pool.clone())).await;
        let (limit, isolation) = if is_mysql() {
            ("max_execution_time", "transaction_isolation")
        } else {
            ("max_statement_time", "tx_isolation")
        };
        let sql = &format!(
            "SELECT CONCAT_WS(' ', @@wait_timeout, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@{limit}, \
             @@autocommit, @@{isolation})"
        );
        let before: String = database.value(sql).await.expect("the settings");
        for sequence in [1, 2] {
            let branch = branch(sequence);
            goods.execute_under(&branch, &does("keeps to what it may")).await.expect("nothing has failed");
            assert_eq!(goods.prepare(&branch, &named()).await.expect("a vote"), Vote::Yes);
            goods.commit(&branch, &named()).await.expect("it is promised");
            let mut conn = get_conn(&pool).await;
            assert!(!conn.is_in_transaction());
            let mut own = conn.begin().await.expect("a transaction of the application's");
            query("UPDATE stock SET free = free - 1 WHERE id = 7").execute(&mut *own).await.expect("a row");
            own.commit().await.expect("a commit");
            let after: String = sqlx::query_scalar(sql).fetch_one(&mut *conn).await.expect("the settings");
            assert_eq!(after, before);
        }
        let free = [database.free(1).await, database.free(7).await, database.free(8).await, database.free(9).await];
        assert_eq!(free, [98, 98, 98, 100]);
        goods.execute_under(&branch(3), &does("forgets a savepoint")).await.expect("it is kept");
        assert!(!get_conn(&pool).await.is_in_transaction(), "it is a new one");
    });
}

/// Drops a future of sqlx at one of its steps, and goes on.
#[derive(Debug)]
struct Hasty;

impl AsyncService<SqlxMySqlTx> for Hasty {
    /// A number, and how often the future is polled.
    type Work = (u64, u64);

    async fn try_reserve(&self, tx: &mut SqlxMySqlTx, _: &BranchId, work: &Self::Work) -> Result<(), ServiceError> {
        let (number, polls) = work;
        query("UPDATE stock SET free = free - 1 WHERE id = 0").execute(&mut **tx).await?;
        // A statement that the cache does not have, so it is prepared first. A third of them fail at the server.
        let id = if number % 3 == 0 { 1 } else { 1_000 + number };
        let sql = format!("INSERT INTO stock VALUES (?, ?) /* {number} */");
        let statement = query(&sql).bind(id).bind(0).execute(&mut **tx);
        let _answer = polled(*polls, statement).await;
        Ok(())
    }

    async fn confirm(&self, _: &mut SqlxMySqlTx, _: &BranchId, _: &[Self::Work]) -> Result<(), ServiceError> {
        Ok(())
    }

    async fn cancel(&self, tx: &mut SqlxMySqlTx, _: &BranchId, works: &[Self::Work]) -> Result<(), ServiceError> {
        let give_back = query("UPDATE stock SET free = free + ? WHERE id = 0");
        give_back.bind(u64::try_from(works.len())?).execute(&mut **tx).await?;
        Ok(())
    }
}

#[test]
fn a_step_whose_future_of_sqlx_was_dropped_is_done_or_refused() {
    with_stock(async |database| {
        let builder = database.tables("payments").pool(database.pool(1));
        let goods = builder.open_tables(Hasty).await.expect("a participant");
        let (mut committed, mut refused) = (0, 0);
        for sequence in 1..=90_u64 {
            let branch = branch(sequence);
            let worked = goods.execute_under(&branch, &(sequence, sequence % 5)).await;
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
        assert_eq!(database.free(0).await, 100 - committed);
        let inserted = database.value::<i64>("SELECT COUNT(*) FROM stock WHERE id > 1000").await.expect("a count");
        assert!(inserted <= committed, "{inserted} and {committed}");
        assert!(committed > 0 && refused > 0, "{committed} and {refused}");
    });
}
