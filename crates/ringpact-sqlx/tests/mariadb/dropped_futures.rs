//! A future of sqlx is dropped in the middle of a statement. sqlx then loses count of the server's answers, and takes one for
//! another.

use std::{
    future::poll_fn,
    task::Poll,
    time::{Duration, Instant},
};

use ringpact::{Vote, participant::AsyncParticipant as _};
use sqlx::query;
use tokio::time::timeout;

use crate::support::{attempt, branch, call, commit, insert, polled, promise, roll_back, with_database};

/// Drops statements at each of their steps. A Yes must be a promise, and nothing may be left.
#[test]
fn a_statement_that_is_dropped_at_any_step_leaves_no_false_promise() {
    with_database(async |database| {
        let payments = database.open().await;
        let (mut yes, mut no) = (0_u64, 0);
        for sequence in 1..=150_u64 {
            let account = format!("sure {sequence}");
            insert(&payments, &branch(sequence), &account).await;
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            // With no, some or many parameters and columns, not in the cache, and failing at the server now and then.
            let comment = format!("/* {sequence} */");
            let polls = sequence / 4 % 5;
            let _answer = match sequence % 4 {
                0 => {
                    let sql = format!("SELECT ?, ?, ?, ?, ?, ?, id, cents FROM account {comment}");
                    let mut many = query(&sql);
                    for number in 0..6 {
                        many = many.bind(number);
                    }
                    polled(polls, many.fetch_all(&mut *work)).await.map(drop)
                }
                1 => {
                    let sql = format!("INSERT INTO account VALUES (?, 1) {comment}");
                    polled(polls, query(&sql).bind(&account).execute(&mut *work)).await.map(drop)
                }
                2 => {
                    let sql = format!("INSERT INTO account VALUES (?, ?) {comment}");
                    let other = format!("other {sequence}");
                    polled(polls, query(&sql).bind(other).bind(5).execute(&mut *work)).await.map(drop)
                }
                _ => {
                    polled(polls, attempt(&mut work, "SELECT * FROM account; SELECT 1; DO 0; SELECT 2")).await.map(drop)
                }
            };
            drop(work);
            match payments.prepare(&branch(sequence), &call()).await {
                Ok(Vote::Yes) => {
                    assert_eq!(database.prepared(&payments).await, 1, "{sequence}");
                    commit(&payments, &branch(sequence)).await;
                    assert_eq!(database.committed(&account).await, 1);
                    yes += 1;
                }
                Ok(vote) => panic!("{vote:?}"),
                Err(_) => {
                    roll_back(&payments, &branch(sequence)).await;
                    assert_eq!(database.committed(&account).await, 0);
                    no += 1;
                }
            }
            assert_eq!(database.prepared(&payments).await, 0);
        }
        assert!(yes > 0 && no > 0, "{yes} and {no}");
        let sure = database.value::<u64>("SELECT COUNT(*) FROM account WHERE id LIKE 'sure%'").await;
        assert_eq!(sure, Some(yes));
        // Each of the pool's connections is of use.
        for sequence in 1_000..1_008 {
            promise(&payments, &branch(sequence), &sequence.to_string()).await;
        }
        for sequence in 1_000..1_008 {
            commit(&payments, &branch(sequence)).await;
        }
    });
}

/// Statements of any number of parameters and columns, dropped before the server has answered that they are prepared. What sqlx
/// then reads may look like a whole answer, and must not be taken for that of `XA PREPARE`. Here the server refuses it.
#[test]
fn the_answer_of_another_statement_is_not_taken_for_that_of_the_promise() {
    with_database(async |database| {
        let payments = database.open().await;
        let shapes = (0..8_u64).flat_map(|params| (0..5_u64).map(move |columns| (params, columns)));
        for (sequence, (params, columns)) in (1..).zip(shapes) {
            insert(&payments, &branch(sequence), "a").await;
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            // From here on the promise fails.
            attempt(&mut work, "DO RELEASE_ALL_LOCKS()").await.expect("they are free");
            let list = |count: u64, item: &str| vec![item; usize::try_from(count).expect("a few")].join(", ");
            let values = if params == 0 { "0".to_owned() } else { list(params, "?") };
            let sql = if columns == 0 {
                format!("UPDATE account SET cents = 1 WHERE cents IN ({values}) /* {sequence} */")
            } else {
                format!("SELECT {} FROM account WHERE cents IN ({values}) /* {sequence} */", list(columns, "cents"))
            };
            let mut statement = query(&sql);
            for number in 0..params {
                statement = statement.bind(number);
            }
            let mut statement = Box::pin(statement.fetch_all(&mut *work));
            let _polled = poll_fn(|context| Poll::Ready(statement.as_mut().poll(context).is_ready())).await;
            drop(statement);
            drop(work);
            let vote = payments.prepare(&branch(sequence), &call()).await;
            assert!(vote.is_err(), "{params} and {columns}: {vote:?}");
            roll_back(&payments, &branch(sequence)).await;
            assert_eq!((database.committed("a").await, database.prepared(&payments).await), (0, 0));
        }
    });
}

/// The same before a rollback: the connection must not come back to the pool with the branch in it.
#[test]
fn a_rollback_after_a_dropped_statement_leaves_nothing_in_the_pool() {
    with_database(async |database| {
        let payments = database.open().await;
        for sequence in 1..=60_u64 {
            insert(&payments, &branch(sequence), "a").await;
            let mut work = payments.work(&branch(sequence)).await.expect("a branch");
            let sql = format!("INSERT INTO account VALUES (?, ?) /* {sequence} */");
            let statement = query(&sql).bind("b").bind(5).execute(&mut *work);
            let _answer = timeout(Duration::from_micros(sequence * 8), statement).await;
            drop(work);
            roll_back(&payments, &branch(sequence)).await;
        }
        assert_eq!(database.value::<u64>("SELECT COUNT(*) FROM account").await, Some(0));
        promise(&payments, &branch(100), "a").await;
        promise(&payments, &branch(101), "b").await;
    });
}

#[test]
fn a_statement_that_its_caller_gave_up_does_not_hold_the_rollback_up() {
    with_database(async |database| {
        let payments = database.open().await;
        insert(&payments, &branch(1), "a").await;
        let mut work = payments.work(&branch(1)).await.expect("a branch");
        let statement = attempt(&mut work, "SELECT SLEEP(8)");
        timeout(Duration::from_millis(100), statement).await.expect_err("it takes longer");
        drop(work);
        let begun = Instant::now();
        payments.prepare(&branch(1), &call()).await.expect_err("no answer is in time");
        roll_back(&payments, &branch(1)).await;
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        assert_eq!(database.committed("a").await, 0);
    });
}

#[test]
fn a_work_call_that_is_dropped_leaves_no_branch_in_the_pool() {
    with_database(async |database| {
        let payments = database.open().await;
        for sequence in 1..=40 {
            let within = Duration::from_micros(sequence * 60);
            drop(timeout(within, payments.work(&branch(sequence))).await);
            roll_back(&payments, &branch(sequence)).await;
        }
        promise(&payments, &branch(100), "a").await;
        commit(&payments, &branch(100)).await;
        assert_eq!((database.committed("a").await, database.prepared(&payments).await), (1, 0));
    });
}
