//! What clients of a branch meet: statements that are interrupted or dropped, limits, time-outs, and
//! a handle that is still held.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mysql_async::{OptsBuilder, Pool, PoolConstraints, PoolOpts, prelude::Queryable as _};
use ringpact::{Coordinator, MemoryLog, Vote, participant::AsyncParticipant as _, txn::Attempt};
use ringpact_mysql::{BranchTimeouts, MySqlError, MySqlParticipant};
use ringpact_servers::mariadb::is_mysql;
use tokio::{runtime::Handle, time::sleep};

use crate::support::{branch, call, chain, commit, insert, promise, roll_back, with_database};

#[test]
fn a_statement_under_way_is_interrupted_by_the_rollback() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let began = Instant::now();
        let client = tokio::spawn({
            let payments = payments.clone();
            async move {
                let mut work = payments.work(&branch(1)).await.expect("a branch");
                work.query_first::<u64>("SELECT SLEEP(9)").await
            }
        });
        let asleep = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{}' AND state = 'User sleep'",
            database.name
        );
        while database.value::<u64>(&asleep).await != Some(1) {
            sleep(Duration::from_millis(5)).await;
        }
        roll_back(&payments, &branch(1)).await;
        let answer = client.await.expect("no panic");
        // SLEEP answers 1 when it is interrupted; other statements fail.
        assert!(matches!(answer, Ok(Some(1)) | Err(_)), "{answer:?}");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert!(payments.work(&branch(1)).await.is_err());
        assert_eq!((database.committed("a").await, payments.status().sessions), (0, 0));
    });
}

/// The client neither carries anything out nor drops its handle.
#[test]
fn a_client_that_keeps_its_handle_does_not_hold_a_rollback_up() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        roll_back(&payments, &branch(1)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(0));
        work.query_drop("INSERT INTO account VALUES ('b', 1)").await.expect_err("it is rolled back");
        drop(work);
        // The lock on the row is free.
        promise(&payments, &branch(2), "a").await;
        commit(&payments, &branch(2)).await;
    });
}

#[test]
fn a_transaction_that_commits_while_a_handle_is_held_says_so() {
    with_database(async |database| {
        let payments = database.open().await;
        let builder = Coordinator::builder(MemoryLog::new()).name("shop");
        let shop = builder.async_participant("payments", payments.clone(), Handle::current()).open().expect("open");
        let mut txn = shop.begin_async().await;
        let mut work = payments.branch(&mut txn).await.expect("a branch");
        work.query_drop("INSERT INTO account VALUES ('a', 1)").await.expect("a row");
        let error = txn.commit().await.expect_err("it is at work");
        assert!(chain(&error).contains("drop what `branch` returned"), "{}", chain(&error));
        drop(work);
        assert_eq!(database.committed("a").await, 0);
    });
}

/// The application asks the error of `commit` whether to try again.
#[test]
fn the_error_of_a_commit_tells_whether_it_may_pass() {
    with_database(async |database| {
        let payments = database.open_with(BranchTimeouts::default().lock(Duration::from_secs(1))).await;
        let builder = Coordinator::builder(MemoryLog::new()).name("shop");
        let shop = builder.async_participant("payments", payments.clone(), Handle::current()).open().expect("open");
        database.sql("INSERT INTO account VALUES ('a', 1)").await;
        let mut holder = payments.work(&crate::support::branch_of("another", 1, 1)).await.expect("a branch");
        holder.query_drop("UPDATE account SET cents = 2").await.expect("it is free");
        for (statement, may_pass) in
            [("UPDATE account SET cents = 3", true), ("INSERT INTO account VALUES (NULL, 1)", false)]
        {
            let mut txn = shop.begin_async().await;
            let mut work = payments.branch(&mut txn).await.expect("a branch");
            let failed = work.query_drop(statement).await.expect_err("locked, and null");
            drop(work);
            let error = txn.commit().await.expect_err("it votes No");
            assert_eq!(
                (MySqlParticipant::is_transient(&failed), MySqlParticipant::is_transient(&error)),
                (may_pass, may_pass),
                "{}",
                chain(&error)
            );
        }
    });
}

/// Two transactions lock the same rows in opposite orders, over and over.
#[test]
fn run_tries_victims_of_deadlocks_again_until_they_commit() {
    with_database(async |database| {
        let payments = database.open().await;
        let builder = Coordinator::builder(MemoryLog::new()).name("shop");
        let shop = builder.async_participant("payments", payments.clone(), Handle::current()).open().expect("open");
        database.sql("INSERT INTO account VALUES ('a', 0), ('b', 0)").await;
        let tries = AtomicU64::new(0);
        let add = async |order: [&'static str; 2]| {
            for _ in 0..10 {
                let payments = payments.clone();
                let work = async |mut txn: Attempt| {
                    tries.fetch_add(1, Ordering::SeqCst);
                    let mut branch = payments.branch(&mut txn).await?;
                    for account in order {
                        let update = "UPDATE account SET cents = cents + 1 WHERE id = ?";
                        branch.exec_drop(update, (account,)).await?;
                        sleep(Duration::from_millis(10)).await;
                    }
                    Ok::<(), MySqlError>(())
                };
                shop.run(work).await.expect("it commits in the end");
            }
        };
        tokio::join!(add(["a", "b"]), add(["b", "a"]));
        assert_eq!(database.value::<i64>("SELECT SUM(cents) FROM account").await, Some(40));
        assert!(tries.into_inner() > 20, "there was no deadlock");
    });
}

#[test]
fn a_statement_whose_future_was_dropped_dooms_the_branch() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        let statement = work.query_drop("INSERT INTO account SELECT SLEEP(1), 1");
        tokio::time::timeout(Duration::from_millis(100), statement).await.expect_err("it takes longer");
        work.query_drop("SELECT 1").await.expect_err("an answer is unread");
        drop(work);
        payments.prepare(&branch(1), &call()).await.expect_err("a No");
        roll_back(&payments, &branch(1)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(0));
    });
}

#[test]
fn statements_and_pauses_that_take_too_long_doom_the_branch() {
    with_database(async |database| {
        let second = Duration::from_secs(1);
        let timeouts = BranchTimeouts::default().statement(second).idle(second);
        let payments = database.open_with(timeouts).await;
        // MySQL reads no condition without a row.
        database.sql("INSERT INTO account VALUES ('z', 1)").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        let error = work.query_drop("SELECT COUNT(*) FROM account WHERE SLEEP(8) = 0").await;
        let error = error.expect_err("it takes too long");
        let code = if is_mysql() { "3024" } else { "1969" };
        assert!(chain(&error).contains(code), "{}", chain(&error));
        drop(work);
        payments.prepare(&branch(1), &call()).await.expect_err("a No");

        insert(&payments, &branch(2), "a").await;
        promise(&payments, &branch(3), "b").await;
        sleep(Duration::from_millis(2_500)).await;
        let no = payments.prepare(&branch(2), &call()).await.expect_err("a No");
        assert!(MySqlParticipant::is_transient(&no), "{}", chain(&no));
        // A promise outlives the connection.
        commit(&payments, &branch(3)).await;
        assert_eq!((database.committed("a").await, database.committed("b").await), (0, 1));
    });
}

#[test]
fn a_pool_without_a_free_connection_is_an_error_that_may_pass() {
    with_database(async |database| {
        let payments = database.open_with(BranchTimeouts::default().connection(Duration::from_secs(1))).await;
        for sequence in 1..=12 {
            insert(&payments, &branch(sequence), &sequence.to_string()).await;
        }
        let error = payments.work(&branch(13)).await.expect_err("all connections are taken");
        assert!(
            MySqlParticipant::is_transient(&error) && chain(&error).contains("no connection was free"),
            "{}",
            chain(&error)
        );
        // Branches that are there go on, and those that end make room.
        for sequence in 1..=12 {
            roll_back(&payments, &branch(sequence)).await;
        }
        promise(&payments, &branch(14), "a").await;
        commit(&payments, &branch(14)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(1));
    });
}

/// The participant's pool is the application's. A connection with a branch in it must not come back to
/// it, also if the pool does not reset connections.
#[test]
fn connections_of_branches_that_are_dropped_do_not_come_back_to_the_pool() {
    with_database(async |database| {
        let constraints = PoolConstraints::new(4, 4).expect("valid");
        let without_reset = PoolOpts::default().with_reset_connection(false).with_constraints(constraints);
        let pool = Pool::new(OptsBuilder::from_opts(database.opts()).pool_opts(without_reset));
        let open = async || {
            let builder = MySqlParticipant::builder("payments").pool(pool.clone()).max_promises(3);
            builder.open().await.expect("a participant")
        };
        let payments = open().await;
        insert(&payments, &branch(1), "a").await;
        promise(&payments, &branch(2), "b").await;
        drop(payments);
        // All that the pool has, at once.
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(pool.get_conn().await.expect("a connection"));
        }
        for (number, conn) in all.iter_mut().enumerate() {
            let sql = format!("INSERT INTO account VALUES ('{number}', 1)");
            conn.query_drop(sql).await.expect("no transaction is open in it");
        }
        drop(all);
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(4));
        // Such a pool serves branches one after the other, too.
        let payments = open().await;
        commit(&payments, &branch(2)).await;
        for sequence in 3..9 {
            promise(&payments, &branch(sequence), &format!("later {sequence}")).await;
            commit(&payments, &branch(sequence)).await;
        }
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(11));
    });
}

#[test]
fn above_the_limit_of_promises_no_branch_begins() {
    with_database(async |database| {
        let payments = database.open().await;
        for sequence in 1..=8 {
            promise(&payments, &branch(sequence), &sequence.to_string()).await;
        }
        let error = payments.work(&branch(9)).await.expect_err("the limit is reached");
        assert!(MySqlParticipant::is_transient(&error), "{error:?}");
        assert!(matches!(error, MySqlError::Work(_)) && chain(&error).contains("the limit is 8"), "{}", chain(&error));
        commit(&payments, &branch(1)).await;
        insert(&payments, &branch(10), "a").await;
    });
}

#[test]
fn a_handle_has_the_methods_of_the_client_library() {
    with_database(async |database| {
        let payments = database.open().await;
        database.sql("CREATE TABLE line (id INT AUTO_INCREMENT PRIMARY KEY, text VARCHAR(9)) ENGINE = InnoDB").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        work.exec_drop("INSERT INTO line (text) VALUES (?)", ("one",)).await.expect("a row");
        assert_eq!((work.last_insert_id(), work.affected_rows()), (Some(1), 1));
        work.exec_batch("INSERT INTO line (text) VALUES (?)", [("two",), ("three",)]).await.expect("two rows");
        let texts: Vec<String> = work.query("SELECT text FROM line ORDER BY id").await.expect("rows");
        assert_eq!(texts, ["one", "two", "three"]);
        let lengths = work.query_map("SELECT text FROM line ORDER BY id", |text: String| text.len()).await;
        assert_eq!(lengths.expect("rows"), [3, 3, 5]);
        let ids = work.exec_map("SELECT id FROM line WHERE id > ?", (1,), |id: u32| id).await.expect("rows");
        assert_eq!(ids.len(), 2);
        let first: Option<String> = work.exec_first("SELECT text FROM line WHERE id = ?", (2,)).await.expect("a row");
        assert_eq!(first.as_deref(), Some("two"));
        let none: Vec<u32> = work.exec("SELECT id FROM line WHERE id = ?", (9,)).await.expect("no rows");
        assert!(none.is_empty());
        drop(work);
        assert_eq!(payments.prepare(&branch(1), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM line").await, Some(3));
    });
}
