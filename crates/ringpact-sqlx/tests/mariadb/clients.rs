//! What clients of a branch meet: the pool's limits, time-outs, and a handle that is still held.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use ringpact::{Coordinator, MemoryLog, participant::AsyncParticipant as _, txn::Attempt};
use ringpact_servers::mariadb::is_mysql;
use tokio::{runtime::Handle, time::sleep};

use crate::support::{
    BranchTimeouts, MySqlParticipant, attempt, branch, call, chain, commit, insert, promise, roll_back, with_database,
};

fn shop(payments: &MySqlParticipant) -> Coordinator {
    let builder = Coordinator::builder(MemoryLog::new()).name("shop");
    builder.async_participant("payments", payments.clone(), Handle::current()).open().expect("a coordinator")
}

#[test]
fn a_statement_under_way_is_interrupted_by_the_rollback() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let client = tokio::spawn({
            let payments = payments.clone();
            async move {
                let mut work = payments.work(&branch(1)).await.expect("a branch");
                attempt(&mut work, "SELECT SLEEP(9)").await
            }
        });
        let asleep = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{}' AND state = 'User sleep'",
            database.name
        );
        while database.value::<u64>(&asleep).await != Some(1) {
            sleep(Duration::from_millis(5)).await;
        }
        let begun = std::time::Instant::now();
        roll_back(&payments, &branch(1)).await;
        drop(client.await.expect("no panic"));
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        assert!(payments.work(&branch(1)).await.is_err());
        assert_eq!((database.committed("a").await, payments.status().sessions), (0, 0));
    });
}

#[test]
fn a_client_that_keeps_its_handle_does_not_hold_a_rollback_up() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        roll_back(&payments, &branch(1)).await;
        attempt(&mut work, "INSERT INTO account VALUES ('b', 1)").await.expect_err("it is rolled back");
        drop(work);
        // The lock on the row is free.
        promise(&payments, &branch(2), "a").await;
        commit(&payments, &branch(2)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(1));
    });
}

#[test]
fn a_transaction_that_commits_while_a_handle_is_held_says_so() {
    with_database(async |database| {
        let payments = database.open().await;
        let shop = shop(&payments);
        let mut txn = shop.begin_async().await;
        let mut work = payments.branch(&mut txn).await.expect("a branch");
        attempt(&mut work, "INSERT INTO account VALUES ('a', 1)").await.expect("a row");
        let error = txn.commit().await.expect_err("it is at work");
        assert!(chain(&error).contains("drop what `branch` returned"), "{}", chain(&error));
        drop(work);
        assert_eq!(database.committed("a").await, 0);
    });
}

/// Two transactions lock the same rows in opposite orders, over and over.
#[test]
fn run_tries_victims_of_deadlocks_again_until_they_commit() {
    with_database(async |database| {
        let payments = database.open().await;
        let shop = shop(&payments);
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
                        sqlx::query(update).bind(account).execute(&mut *branch).await?;
                        sleep(Duration::from_millis(10)).await;
                    }
                    Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
                };
                shop.run(work).await.expect("it commits in the end");
            }
        };
        tokio::join!(add(["a", "b"]), add(["b", "a"]));
        assert_eq!(database.value::<i64>("SELECT CAST(SUM(cents) AS SIGNED) FROM account").await, Some(40));
        assert!(tries.into_inner() > 20, "there was no deadlock");
    });
}

#[test]
fn pauses_that_take_too_long_end_the_branch_and_not_the_promise() {
    with_database(async |database| {
        let second = Duration::from_secs(1);
        let payments = database.open_with(BranchTimeouts::default().statement(second).idle(second)).await;
        // MySQL reads no condition without a row.
        database.sql("INSERT INTO account VALUES ('z', 1)").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        let slow = "SELECT COUNT(*) FROM account WHERE SLEEP(8) = 0";
        let error = attempt(&mut work, slow).await.expect_err("it takes too long");
        assert!(error.to_string().contains(if is_mysql() { "3024" } else { "1969" }), "{error}");
        drop(work);
        roll_back(&payments, &branch(1)).await;

        insert(&payments, &branch(2), "a").await;
        promise(&payments, &branch(3), "b").await;
        sleep(Duration::from_millis(2_500)).await;
        payments.prepare(&branch(2), &call()).await.expect_err("its session was ended");
        roll_back(&payments, &branch(2)).await;
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
        assert!(MySqlParticipant::is_transient(&error), "{}", chain(&error));
        assert!(chain(&error).contains("no connection was free"), "{}", chain(&error));
        // Branches that are there go on, and those that end make room.
        for sequence in 1..=12 {
            roll_back(&payments, &branch(sequence)).await;
        }
        promise(&payments, &branch(14), "a").await;
        commit(&payments, &branch(14)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(1));
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
        assert!(chain(&error).contains("the limit is 8"), "{}", chain(&error));
        commit(&payments, &branch(1)).await;
        insert(&payments, &branch(10), "a").await;
    });
}

/// The participant's pool is the application's. A connection with a branch in it must not come back to it.
#[test]
fn connections_of_branches_that_are_dropped_do_not_come_back_to_the_pool() {
    with_database(async |database| {
        let pool = database.pool(4);
        let payments = MySqlParticipant::builder("payments").pool(pool.clone()).max_promises(3);
        let payments = payments.open().await.expect("a participant");
        insert(&payments, &branch(1), "a").await;
        promise(&payments, &branch(2), "b").await;
        drop(payments);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(pool.acquire().await.expect("a connection"));
        }
        for (number, conn) in all.iter_mut().enumerate() {
            let sql = "INSERT INTO account VALUES (?, 1)";
            let insert = sqlx::query(sql).bind(number.to_string()).execute(&mut **conn);
            insert.await.expect("no transaction is open in it");
        }
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(4));
    });
}
