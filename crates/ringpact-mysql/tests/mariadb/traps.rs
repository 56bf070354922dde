//! What MariaDB does otherwise than one expects. Each test shows the trap on a plain connection where
//! it can, and then what the participant makes of it.

use mysql_async::{Error, prelude::Queryable as _};
use ringpact::{Vote, participant::AsyncParticipant as _};
use ringpact_mysql::{BranchTimeouts, MySqlError, MySqlParticipant};
use ringpact_servers::mariadb::is_mysql;
use std::time::Duration;

use crate::support::{branch, branch_of, call, chain, commit, insert, promise, roll_back, shop, with_database};

const NOTA: u16 = 1397;

fn code(error: &Error) -> u16 {
    match error {
        Error::Server(error) => error.code,
        error => panic!("{error}"),
    }
}

#[test]
fn a_promise_is_tied_to_its_session_which_commits_it() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        assert_eq!((payments.status().sessions, payments.status().promised), (1, 1));
        // Another connection hears that the id is unknown, although it is listed. MySQL ties promises to no session.
        if !is_mysql() {
            let [listed] = payments.orphans(&[]).await.expect("a list").try_into().expect("one");
            let mut other = database.conn().await;
            let error = other.query_drop(format!("XA COMMIT {}", listed.id)).await.expect_err("it is tied");
            assert_eq!(code(&error), NOTA);
        }
        commit(&payments, &branch(1)).await;
        assert_eq!((database.committed("a").await, payments.status().sessions), (1, 0));
    });
}

/// Another process of the service hears the decision. The session that has the promise is ended, and
/// the promise is not.
#[test]
fn an_id_that_is_unknown_and_listed_is_ended_once_its_session_is() {
    with_database(async |database| {
        let (first, second) = (database.open().await, database.open().await);
        promise(&first, &branch(1), "a").await;
        promise(&first, &branch(2), "b").await;
        second.commit(&branch(1), &call()).await.expect("committed");
        second.rollback(&branch(2), &call()).await.expect("rolled back");
        assert_eq!((database.committed("a").await, database.committed("b").await), (1, 0));
        // The first process hears the decisions as well.
        first.commit(&branch(1), &call()).await.expect("committed");
        first.rollback(&branch(2), &call()).await.expect("rolled back");
        assert_eq!((database.committed("a").await, database.prepared(&first).await), (1, 0));
    });
}

#[test]
fn xa_recover_lists_the_whole_server_and_only_own_promises_are_taken() {
    with_database(async |database| {
        let elsewhere = crate::support::Database::make(&crate::support::server().expect("it runs").socket()).await;
        let (payments, namesake) = (database.open().await, elsewhere.open().await);
        // The same branch of the same names, in another database of the server.
        promise(&namesake, &branch(1), "a").await;
        promise(&payments, &branch(1), "a").await;
        promise(&payments, &branch_of("another", 1, 2), "b").await;
        // Another program, with parts of the same lengths.
        let mut foreign = database.conn().await;
        let id = format!("X'{}',X'{}',1", "07".repeat(32), "07".repeat(16));
        let sql = format!("XA START {id};INSERT INTO account VALUES ('foreign', 1);XA END {id};XA PREPARE {id}");
        foreign.query_drop(sql).await.expect("prepared");

        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        assert_eq!(payments.orphans(&[shop()]).await.expect("a list").len(), 1);
        roll_back(&payments, &branch(1)).await;
        assert_eq!(namesake.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        commit(&namesake, &branch(1)).await;
        assert_eq!((database.committed("a").await, elsewhere.committed("a").await), (0, 1));
        foreign.query_drop(format!("XA ROLLBACK {id}")).await.expect("it is still there");
    });
}

#[test]
fn a_failed_statement_dooms_the_branch_though_the_database_would_commit_the_rest() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        let statement = "INSERT INTO account VALUES (?, 1)";
        let error = work.exec_drop(statement, ("a",)).await.expect_err("a duplicate key");
        assert!(!MySqlParticipant::is_transient(&error) && chain(&error).contains("1062"), "{}", chain(&error));
        // Neither this handle nor another one takes more work.
        assert!(matches!(work.exec_drop(statement, ("b",)).await, Err(MySqlError::Over)));
        drop(work);
        assert!(matches!(payments.work(&branch(1)).await, Err(MySqlError::Work(_))));
        let no = payments.prepare(&branch(1), &call()).await.expect_err("a No");
        assert!(chain(&no).contains("1062"), "{}", chain(&no));
        assert_eq!((database.committed("a").await, database.committed("b").await), (0, 0));
    });
}

#[test]
fn a_lock_that_is_not_free_in_time_dooms_the_branch_and_may_pass() {
    with_database(async |database| {
        let payments = database.open_with(BranchTimeouts::default().lock(Duration::from_secs(1))).await;
        database.sql("INSERT INTO account VALUES ('a', 1)").await;
        let update = "UPDATE account SET cents = cents + 1 WHERE id = 'a'";
        let mut first = payments.work(&branch(1)).await.expect("a branch");
        first.query_drop(update).await.expect("it is free");
        insert(&payments, &branch(2), "b").await;
        let mut second = payments.work(&branch(2)).await.expect("a branch");
        let error = second.query_drop(update).await.expect_err("it is locked");
        assert!(MySqlParticipant::is_transient(&error) && chain(&error).contains("1205"), "{}", chain(&error));
        drop((first, second));
        let no = payments.prepare(&branch(2), &call()).await.expect_err("a No");
        assert!(MySqlParticipant::is_transient(&no), "{}", chain(&no));
        assert_eq!(payments.prepare(&branch(1), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.value::<i64>("SELECT SUM(cents) FROM account").await, Some(2));
    });
}

#[test]
fn the_victim_of_a_deadlock_is_rolled_back_and_may_pass() {
    with_database(async |database| {
        let payments = database.open().await;
        database.sql("INSERT INTO account VALUES ('a', 1), ('b', 1)").await;
        let update = "UPDATE account SET cents = cents + 1 WHERE id = ?";
        let mut first = payments.work(&branch(1)).await.expect("a branch");
        let mut second = payments.work(&branch(2)).await.expect("a branch");
        first.exec_drop(update, ("a",)).await.expect("it is free");
        second.exec_drop(update, ("b",)).await.expect("it is free");
        let (one, other) = tokio::join!(first.exec_drop(update, ("b",)), second.exec_drop(update, ("a",)));
        drop((first, second));
        let (victim, survivor) = if one.is_err() { (1, 2) } else { (2, 1) };
        let error = one.and(other).expect_err("one of them is the victim");
        assert!(MySqlParticipant::is_transient(&error) && chain(&error).contains("1213"), "{}", chain(&error));
        payments.prepare(&branch(victim), &call()).await.expect_err("a No");
        roll_back(&payments, &branch(victim)).await;
        assert_eq!(payments.prepare(&branch(survivor), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(survivor)).await;
        assert_eq!(database.value::<i64>("SELECT SUM(cents) FROM account").await, Some(4));
        // The victim's connection went back to the pool without its transaction.
        promise(&payments, &branch(3), "c").await;
        commit(&payments, &branch(3)).await;
    });
}

/// A promise of a branch that has written nothing is rolled back when its connection is lost, by error
/// 1402. So such a branch promises nothing.
#[test]
fn a_branch_that_only_reads_promises_nothing() {
    with_database(async |database| {
        let payments = database.open().await;
        // The second one has a connection that is registered, and maybe one that has written.
        for sequence in 1..=3 {
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            let count: Option<u64> = work.query_first("SELECT COUNT(*) FROM account").await.expect("a count");
            assert_eq!(count, Some(sequence - 1));
            drop(work);
            assert_eq!(payments.prepare(&branch(sequence), &call()).await.expect("a vote"), Vote::ReadOnly);
            assert_eq!(database.prepared(&payments).await, 0);
            promise(&payments, &branch(sequence + 10), &sequence.to_string()).await;
            commit(&payments, &branch(sequence + 10)).await;
        }
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM ringpact_marker").await, Some(3));
    });
}

#[test]
fn a_select_that_calls_a_function_which_writes_is_no_read() {
    with_database(async |database| {
        let payments = database.open().await;
        database.sql("SET GLOBAL log_bin_trust_function_creators = 1").await;
        database
            .sql("CREATE FUNCTION pay() RETURNS INT BEGIN INSERT INTO account VALUES ('a', 1); RETURN 1; END")
            .await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        assert_eq!(work.query_first("SELECT pay()").await.expect("paid"), Some(1));
        drop(work);
        assert_eq!(payments.prepare(&branch(1), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.committed("a").await, 1);
    });
}

#[test]
fn a_commit_of_the_clients_own_is_refused_and_dooms_the_branch() {
    with_database(async |database| {
        let payments = database.open().await;
        for (sequence, own) in
            ["COMMIT", "ROLLBACK", "START TRANSACTION", "XA COMMIT 'x'", "DROP TABLE account"].into_iter().enumerate()
        {
            let branch = branch(u64::try_from(sequence).expect("a few"));
            insert(&payments, &branch, "a").await;
            let mut work = payments.work(&branch).await.expect("a branch");
            work.query_drop(own).await.expect_err("the transaction is the coordinator's");
            drop(work);
            payments.prepare(&branch, &call()).await.expect_err("a No");
        }
        assert_eq!(database.committed("a").await, 0);
    });
}

/// A client that frees all locks of its connection takes the fence away with them.
#[test]
fn a_branch_that_has_freed_the_sessions_lock_promises_nothing() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        work.query_drop("DO RELEASE_ALL_LOCKS()").await.expect("they are free");
        drop(work);
        let no = payments.prepare(&branch(1), &call()).await.expect_err("a No");
        assert!(chain(&no).contains("has lost its lock"), "{}", chain(&no));
        assert_eq!((database.committed("a").await, database.prepared(&payments).await), (0, 0));
    });
}

/// What a client sets in its session, the next branch must not find.
#[test]
fn settings_of_one_branch_do_not_reach_the_next() {
    with_database(async |database| {
        let payments = database.open().await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        work.query_drop("SET @own = 1, SESSION sql_mode = 'ANSI_QUOTES'").await.expect("it is set");
        // MySQL has none in a transaction that it could prepare, unless `xa_detach_on_prepare` is off.
        let made = work.query_drop("CREATE TEMPORARY TABLE own (id INT)").await;
        assert!(made.is_ok() || is_mysql(), "{made:?}");
        drop(work);
        roll_back(&payments, &branch(1)).await;
        let mut work = payments.work(&branch(2)).await.expect("a branch");
        assert_eq!(work.query_first::<Option<u64>>("SELECT @own").await.expect("an answer"), Some(None));
        work.query_drop("SELECT * FROM own").await.expect_err("it is gone");
    });
}
