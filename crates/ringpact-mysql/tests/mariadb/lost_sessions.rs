//! Sessions that are lost in the middle of a promise or a commit. The tests hold the server's commits
//! back (`BACKUP STAGE BLOCK_COMMIT`; in MySQL `FLUSH TABLES WITH READ LOCK`), so that a statement is under way for as
//! long as they want. That stops the whole server, so each has its own.

use std::time::{Duration, Instant};

use ringpact::{
    Epoch, LogId,
    participant::{AsyncParticipant as _, Decision, EndedOpening, Life},
};
use ringpact_servers::{
    mariadb::{MariaDb, is_mysql},
    missing,
};
use tokio::time::sleep;

use crate::support::{
    BranchTimeouts, Conn, Database, branch, branch_of, call, carry_out, chain, commit, commit_alone, insert, promise,
    roll_back, runtime, shop, with_database,
};

pub fn with_own_server(test: impl AsyncFnOnce(Database)) {
    let Some(server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    runtime().block_on(async { test(Database::make(&server.socket()).await).await });
}

/// Holds all commits back, until the connection is closed.
pub async fn hold_commits(database: &Database) -> Conn {
    let mut conn = database.conn().await;
    let statements: &[&str] = if is_mysql() {
        &["FLUSH TABLES WITH READ LOCK"]
    } else {
        &["BACKUP STAGE START", "BACKUP STAGE FLUSH", "BACKUP STAGE BLOCK_DDL", "BACKUP STAGE BLOCK_COMMIT"]
    };
    for statement in statements {
        carry_out(&mut conn, *statement).await.expect("commits are held");
    }
    conn
}

pub async fn let_commits_go(mut conn: Conn) {
    let statement = if is_mysql() { "UNLOCK TABLES" } else { "BACKUP STAGE END" };
    carry_out(&mut conn, statement).await.expect("commits go on");
    conn.disconnect().await.expect("it is closed");
}

/// Waits until a connection waits to carry out a statement that begins so. MySQL holds the marker's row back already, which is in
/// the same message.
pub async fn is_held(database: &Database, statement: &str) {
    let statement = if is_mysql() { "INSERT INTO" } else { statement };
    let sql = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{}' \
         AND (state LIKE 'Waiting for backup%' OR state = 'Waiting for global read lock') AND info LIKE '{statement}%'",
        database.name
    );
    while database.value::<u64>(&sql).await != Some(1) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// The server goes on with a statement whose client is gone. Nothing of it may be left after the
/// rollback was acknowledged.
#[test]
fn a_session_lost_in_the_middle_of_prepare_leaves_no_promise_after_the_rollback() {
    with_own_server(async |database| {
        let payments = database.open().await;
        for round in 1..=5 {
            insert(&payments, &branch(round), "a").await;
            let held = hold_commits(&database).await;
            let task = tokio::spawn({
                let payments = payments.clone();
                async move { payments.prepare(&branch(round), &call()).await }
            });
            is_held(&database, "XA PREPARE").await;
            task.abort();
            assert!(task.await.expect_err("it was aborted").is_cancelled());
            // Rolled back while the statement is held, and while it goes on.
            if round % 2 == 0 {
                roll_back(&payments, &branch(round)).await;
                let_commits_go(held).await;
            } else {
                let_commits_go(held).await;
                roll_back(&payments, &branch(round)).await;
            }
            assert_eq!(database.prepared(&payments).await, 0);
            sleep(Duration::from_millis(100)).await;
            assert_eq!((database.prepared(&payments).await, database.committed("a").await), (0, 0));
        }
    });
}

#[test]
fn a_one_phase_commit_whose_answer_was_lost_is_answered_as_it_ended() {
    with_own_server(async |database| {
        let payments = database.open().await;
        let mut seen = Vec::new();
        for round in 1..=6 {
            let account = round.to_string();
            insert(&payments, &branch(round), &account).await;
            let held = hold_commits(&database).await;
            let task = tokio::spawn({
                let payments = payments.clone();
                async move { payments.commit_one_phase(&branch(round), &call()).await }
            });
            is_held(&database, "XA PREPARE").await;
            task.abort();
            assert!(task.await.expect_err("it was aborted").is_cancelled());
            let decision = if round % 2 == 0 {
                let decision = commit_alone(&payments, &branch(round)).await;
                let_commits_go(held).await;
                decision
            } else {
                let_commits_go(held).await;
                // The statement may end before its session is ended, and may not.
                sleep(Duration::from_millis(20 * (round - 1))).await;
                commit_alone(&payments, &branch(round)).await
            };
            sleep(Duration::from_millis(100)).await;
            assert_eq!(database.committed(&account).await, u64::from(decision == Decision::Commit));
            assert_eq!(commit_alone(&payments, &branch(round)).await, decision);
            seen.push(decision);
        }
        assert!(seen.contains(&Decision::Commit) && seen.contains(&Decision::Rollback), "{seen:?}");
    });
}

#[test]
fn a_promise_whose_connection_is_lost_is_committed_and_rolled_back_from_another() {
    with_database(async |database| {
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        promise(&payments, &branch(2), "b").await;
        database.kill_connections().await;
        commit(&payments, &branch(1)).await;
        roll_back(&payments, &branch(2)).await;
        assert_eq!((database.committed("a").await, database.committed("b").await), (1, 0));
        // Repeats find the marker, and that there is none.
        commit(&payments, &branch(1)).await;
        roll_back(&payments, &branch(2)).await;
        assert_eq!((database.committed("a").await, database.prepared(&payments).await), (1, 0));
    });
}

#[test]
fn a_branch_whose_connection_is_lost_before_the_promise_votes_no() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        database.kill_connections().await;
        payments.prepare(&branch(1), &call()).await.expect_err("a No");
        roll_back(&payments, &branch(1)).await;
        assert_eq!((database.committed("a").await, database.prepared(&payments).await), (0, 0));
        assert_eq!(payments.status().sessions, 0);
    });
}

/// A process that was only slow goes on after the coordinator was opened again elsewhere and was told
/// what is in doubt.
#[test]
fn a_process_of_an_earlier_epoch_promises_nothing_once_a_later_one_has_asked() {
    with_database(async |database| {
        let (slow, new) = (database.open().await, database.open().await);
        let log = LogId::from_bytes(*b"the log of shop.");
        let first = Life::new(log, Epoch::new(1), 1);
        slow.meet(&shop(), &first).await.expect("the first life");
        insert(&slow, &branch(1), "a").await;
        promise(&slow, &branch(2), "b").await;
        let other = branch_of("another", 1, 1);
        insert(&slow, &other, "c").await;

        let second = Life::new(log, Epoch::new(2), 9).continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        new.meet(&shop(), &second).await.expect("the second life");
        assert_eq!(new.in_doubt(&shop()).await.expect("a list"), [branch(2)]);

        slow.prepare(&branch(1), &call()).await.expect_err("its session is ended");
        // It does not know yet. Neither a connection that it had begins anything, nor a new one.
        for _ in 0..4 {
            let error = slow.work(&branch(3)).await.expect_err("its epoch is over");
            assert!(chain(&error).contains("the coordinator was opened again"), "{}", chain(&error));
        }
        assert_eq!(new.in_doubt(&shop()).await.expect("a list"), [branch(2)]);
        // Other coordinators are not concerned.
        assert_eq!(slow.prepare(&other, &call()).await.expect("a vote"), ringpact::Vote::Yes);
        commit(&slow, &other).await;
        commit(&new, &branch(2)).await;
        assert_eq!((database.committed("b").await, database.committed("c").await), (1, 1));
    });
}

/// Under SERIALIZABLE each read in a transaction locks. None may lock what a later life needs.
#[test]
fn promises_of_a_serializable_session_do_not_hold_a_later_life_up() {
    with_database(async |database| {
        let serializable = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE";
        let payments = database.open_as("payments", 12, 8, BranchTimeouts::default(), Some(serializable)).await;
        let log = LogId::from_bytes(*b"the log of shop.");
        payments.meet(&shop(), &Life::new(log, Epoch::new(1), 1)).await.expect("the first life");
        promise(&payments, &branch(1), "a").await;
        let second = Life::new(log, Epoch::new(2), 9).continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        payments.meet(&shop(), &second).await.expect("the second life");
        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.committed("a").await, 1);
    });
}

/// Between the mark and the end of its session, a connection must begin nothing.
#[test]
fn a_connection_whose_row_is_marked_begins_nothing() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        roll_back(&payments, &branch(1)).await;
        database.sql("UPDATE ringpact_session SET fenced = 1").await;
        // The pool may have other connections, whose rows are not there yet. They are kept until the marked one comes.
        let mut others = Vec::new();
        let error = loop {
            assert!(others.len() < 6, "no branch was begun on the connection whose row is marked");
            match payments.work(&branch(2 + others.len() as u64)).await {
                Ok(other) => others.push(other),
                Err(error) => break error,
            }
            sleep(Duration::from_millis(50)).await;
        };
        assert!(chain(&error).contains("ringpact_session"), "{}", chain(&error));
        drop(others);
        // No later epoch is noted, so the connection that comes next has a row of its own.
        promise(&payments, &branch(9), "b").await;
        commit(&payments, &branch(9)).await;
        assert_eq!((database.committed("a").await, database.committed("b").await), (0, 1));
    });
}

/// A day's connections have left their rows.
#[test]
fn rows_of_connections_that_are_closed_cost_a_later_life_little() {
    with_database(async |database| {
        let payments = database.open().await;
        let log = LogId::from_bytes(*b"the log of shop.");
        payments.meet(&shop(), &Life::new(log, Epoch::new(1), 1)).await.expect("the first life");
        promise(&payments, &branch(1), "a").await;
        database
            .sql(
                "INSERT INTO ringpact_session \
                 SELECT UNHEX(LEFT(SHA2(ROW_NUMBER() OVER (), 256), 32)), participant, coordinator, epoch, 0 FROM ringpact_session, \
                 information_schema.collations AS one, information_schema.collations AS other LIMIT 20000",
            )
            .await;
        let second = Life::new(log, Epoch::new(2), 9).continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        payments.meet(&shop(), &second).await.expect("the second life");
        let began = Instant::now();
        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM ringpact_session").await, Some(0));
        commit(&payments, &branch(1)).await;
        assert_eq!(database.committed("a").await, 1);
    });
}
