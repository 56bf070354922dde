//! What MariaDB does otherwise than one expects, and what sqlx adds to it.

use std::time::Duration;

use ringpact::{Vote, participant::AsyncParticipant as _};
use ringpact_servers::mariadb::is_mysql;
use sqlx::{Connection as _, Error, MySqlConnection, query};

use crate::support::{
    BranchTimeouts, Database, MySqlParticipant, attempt, branch, branch_of, call, carry_out, chain, commit, insert,
    promise, roll_back, server, shop, with_database,
};

const NOTA: &str = "1397";

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
            let error = carry_out(&mut other, format!("XA COMMIT {}", listed.id)).await.expect_err("it is tied");
            assert!(error.to_string().contains(NOTA), "{error}");
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
        first.commit(&branch(1), &call()).await.expect("committed");
        first.rollback(&branch(2), &call()).await.expect("rolled back");
        assert_eq!((database.committed("a").await, database.committed("b").await), (1, 0));
        assert_eq!(database.prepared(&first).await, 0);
    });
}

#[test]
fn xa_recover_lists_the_whole_server_and_only_own_promises_are_taken() {
    with_database(async |database| {
        let elsewhere = Database::make(&server().expect("it runs").socket()).await;
        let (payments, namesake) = (database.open().await, elsewhere.open().await);
        promise(&namesake, &branch(1), "a").await;
        promise(&payments, &branch(1), "a").await;
        promise(&payments, &branch_of("another", 1, 2), "b").await;
        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        roll_back(&payments, &branch(1)).await;
        assert_eq!(namesake.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        commit(&namesake, &branch(1)).await;
        assert_eq!((database.committed("a").await, elsewhere.committed("a").await), (0, 1));
    });
}

#[test]
fn the_victim_of_a_deadlock_is_rolled_back_and_may_pass() {
    with_database(async |database| {
        let payments = database.open().await;
        database.sql("INSERT INTO account VALUES ('a', 1), ('b', 1)").await;
        let update = |id| format!("UPDATE account SET cents = cents + 1 WHERE id = '{id}'");
        let (a, b) = (update("a"), update("b"));
        let mut first = payments.work(&branch(1)).await.expect("a branch");
        let mut second = payments.work(&branch(2)).await.expect("a branch");
        attempt(&mut first, &a).await.expect("it is free");
        attempt(&mut second, &b).await.expect("it is free");
        let (one, other) = tokio::join!(attempt(&mut first, &b), attempt(&mut second, &a));
        drop((first, second));
        let (victim, survivor) = if one.is_err() { (1, 2) } else { (2, 1) };
        let error = one.and(other).expect_err("one of them is the victim");
        assert!(MySqlParticipant::is_transient(&error) && error.to_string().contains("1213"), "{error}");
        // The work goes on as if nothing were.
        let no = payments.prepare(&branch(victim), &call()).await.expect_err("a No");
        assert!(MySqlParticipant::is_transient(&no), "{}", chain(&no));
        roll_back(&payments, &branch(victim)).await;
        assert_eq!(payments.prepare(&branch(survivor), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(survivor)).await;
        assert_eq!(database.value::<i64>("SELECT CAST(SUM(cents) AS SIGNED) FROM account").await, Some(4));
        promise(&payments, &branch(3), "c").await;
        commit(&payments, &branch(3)).await;
    });
}

#[test]
fn a_lock_that_is_not_free_in_time_is_an_error_that_may_pass() {
    with_database(async |database| {
        let payments = database.open_with(BranchTimeouts::default().lock(Duration::from_secs(1))).await;
        promise(&payments, &branch(1), "a").await;
        let mut second = payments.work(&branch(2)).await.expect("a branch");
        let error = attempt(&mut second, "INSERT INTO account VALUES ('a', 2)").await.expect_err("it is locked");
        assert!(MySqlParticipant::is_transient(&error) && error.to_string().contains("1205"), "{error}");
        second.doom(error);
        drop(second);
        let no = payments.prepare(&branch(2), &call()).await.expect_err("a No");
        assert!(MySqlParticipant::is_transient(&no), "{}", chain(&no));
        commit(&payments, &branch(1)).await;
    });
}

/// sqlx hands its connection out, so the participant does not see this error.
#[test]
fn after_a_failed_statement_the_rest_commits_unless_the_caller_dooms_the_branch() {
    with_database(async |database| {
        let payments = database.open().await;
        for (sequence, is_doomed) in [(1, true), (2, false)] {
            let account = sequence.to_string();
            insert(&payments, &branch(sequence), &account).await;
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            let again = format!("INSERT INTO account VALUES ('{account}', 2)");
            let error = attempt(&mut work, &again).await.expect_err("a duplicate key");
            assert!(!MySqlParticipant::is_transient(&error), "{error}");
            if is_doomed {
                work.doom(error);
            }
            drop(work);
            let vote = payments.prepare(&branch(sequence), &call()).await;
            assert_eq!(vote.is_err(), is_doomed, "{vote:?}");
            if is_doomed {
                roll_back(&payments, &branch(sequence)).await;
            } else {
                commit(&payments, &branch(sequence)).await;
            }
            assert_eq!(database.committed(&account).await, u64::from(!is_doomed));
        }
    });
}

#[test]
fn a_commit_of_the_clients_own_is_refused_and_the_branch_goes_on() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        for own in ["COMMIT", "ROLLBACK", "BEGIN", "START TRANSACTION", "XA COMMIT 'x'", "DROP TABLE account"] {
            let error = attempt(&mut work, own).await.expect_err("the transaction is the coordinator's");
            assert!(error.to_string().contains("XAER_"), "{own}: {error}");
        }
        drop(work);
        assert_eq!(database.committed("a").await, 0);
        assert_eq!(payments.prepare(&branch(1), &call()).await.expect("a vote"), Vote::Yes);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.committed("a").await, 1);
    });
}

/// A function of an application's, which makes a transaction of its own. It works with any connection.
async fn pay(conn: &mut MySqlConnection, account: &str, is_kept: bool) -> Result<(), Error> {
    let mut txn = conn.begin().await?;
    query("INSERT INTO account VALUES (?, 1)").bind(account).execute(&mut *txn).await?;
    if is_kept { txn.commit().await } else { txn.rollback().await }
}

#[test]
fn a_transaction_of_sqlx_under_a_branch_is_a_savepoint() {
    with_database(async |database| {
        let pool = database.pool(2);
        let payments = MySqlParticipant::builder("payments").pool(pool.clone()).max_promises(1);
        let payments = payments.open().await.expect("a participant");
        for sequence in [1, 2, 3] {
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            pay(&mut work, &format!("kept {sequence}"), true).await.expect("kept");
            pay(&mut work, "undone", false).await.expect("undone");
            drop(work.begin().await.expect("a savepoint"));
            {
                let mut outer = work.begin().await.expect("a savepoint");
                pay(&mut outer, "undone", false).await.expect("undone");
                pay(&mut outer, &format!("inner {sequence}"), true).await.expect("kept");
                outer.commit().await.expect("released");
            }
            assert!(work.is_in_transaction());
            drop(work);
            assert_eq!(database.committed(&format!("kept {sequence}")).await, 0);
            if sequence == 3 {
                payments.commit_one_phase(&branch(3), &call()).await.expect("a commit");
            } else {
                assert_eq!(payments.prepare(&branch(sequence), &call()).await.expect("a vote"), Vote::Yes);
                commit(&payments, &branch(sequence)).await;
            }
            // An application's own transaction, on each of the pool's connections.
            let (mut one, mut other) = (pool.acquire().await.expect("one"), pool.acquire().await.expect("another"));
            assert!(!one.is_in_transaction() && !other.is_in_transaction());
            pay(&mut one, &format!("one {sequence}"), true).await.expect("a commit");
            pay(&mut other, &format!("other {sequence}"), true).await.expect("a commit");
            assert_eq!(database.committed(&format!("one {sequence}")).await, 1);
        }
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(12));
        assert_eq!(database.committed("undone").await, 0);
    });
}

/// A branch that only reads promises, because its locks must stay and nothing tells whether it has some.
#[test]
fn a_branch_that_only_reads_promises() {
    with_database(async |database| {
        let payments = database.open().await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        attempt(&mut work, "SELECT * FROM account FOR UPDATE").await.expect("rows");
        drop(work);
        assert_eq!(payments.prepare(&branch(1), &call()).await.expect("a vote"), Vote::Yes);
        // By its marker it is told from a lost one, also after its connection is lost.
        database.kill_connections().await;
        commit(&payments, &branch(1)).await;
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM ringpact_marker").await, Some(1));
    });
}

/// A client that frees all locks of its connection takes the fence away with them.
#[test]
fn a_branch_that_has_freed_the_sessions_lock_promises_nothing() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        attempt(&mut work, "DO RELEASE_ALL_LOCKS()").await.expect("they are free");
        drop(work);
        let no = payments.prepare(&branch(1), &call()).await.expect_err("a No");
        assert!(chain(&no).contains("has lost its lock"), "{}", chain(&no));
        assert_eq!((database.committed("a").await, database.prepared(&payments).await), (0, 0));
    });
}

/// sqlx does not reset a connection when it comes back to the pool.
#[test]
fn the_branchs_settings_and_locks_do_not_stay_in_the_pool() {
    with_database(async |database| {
        let pool = database.pool(1);
        let payments = MySqlParticipant::builder("payments").pool(pool.clone()).max_promises(0);
        let payments = payments.open().await;
        assert!(payments.is_err() || payments.is_ok_and(|payments| payments.status().promised == 0));
        let pool = database.pool(2);
        let payments = MySqlParticipant::builder("payments").pool(pool.clone()).max_promises(1);
        let payments = payments.open().await.expect("a participant");
        let limit = if is_mysql() { "max_execution_time" } else { "max_statement_time" };
        let sql = &format!(
            "SELECT CONCAT_WS(' ', @@wait_timeout, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@{limit}, \
             @@autocommit, COALESCE(IS_USED_LOCK('x'), 'free'))"
        );
        let before: String = database.value(sql).await.expect("the settings");
        for sequence in 1..=3 {
            insert(&payments, &branch(sequence), &sequence.to_string()).await;
            match sequence {
                1 => roll_back(&payments, &branch(1)).await,
                2 => drop(payments.commit_one_phase(&branch(2), &call()).await.expect("a commit")),
                _ => {
                    payments.prepare(&branch(3), &call()).await.expect("a vote");
                    commit(&payments, &branch(3)).await;
                }
            }
            let conns = [pool.acquire().await.expect("one"), pool.acquire().await.expect("another")];
            for mut conn in conns {
                let after: String = sqlx::query_scalar(sql).fetch_one(&mut *conn).await.expect("the settings");
                assert_eq!(after, before, "{sequence}");
            }
            let locks = "SELECT COUNT(*) FROM ringpact_session \
                         WHERE IS_USED_LOCK(CONCAT('ringpact:', LOWER(HEX(id)))) IS NOT NULL";
            assert_eq!(database.value::<u64>(locks).await, Some(0));
        }
    });
}
