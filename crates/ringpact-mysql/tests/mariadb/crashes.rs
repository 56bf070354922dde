//! The server is killed (`kill -9`) between promise and decision.

use ringpact::{
    Epoch, LogId,
    participant::{AsyncParticipant as _, Decision, EndedOpening, Life},
};
use ringpact_servers::{mariadb::MariaDb, missing};

use crate::support::{Database, branch, call, commit, commit_alone, insert, promise, roll_back, runtime, shop};

#[test]
fn promises_survive_the_server() {
    let Some(mut server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        let payments = database.open().await;
        promise(&payments, &branch(1), "a").await;
        promise(&payments, &branch(2), "b").await;
        insert(&payments, &branch(3), "c").await;
        server.kill();
        // Nothing is carried out, and nothing is answered that is not so.
        payments.commit(&branch(1), &call()).await.expect_err("the server is down");
        payments.rollback(&branch(2), &call()).await.expect_err("the server is down");
        payments.prepare(&branch(3), &call()).await.expect_err("its work is lost");
        server.restart();
        // Of the last one the answer was lost, so it is in doubt until it is rolled back.
        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1), branch(2), branch(3)]);
        commit(&payments, &branch(1)).await;
        roll_back(&payments, &branch(2)).await;
        roll_back(&payments, &branch(3)).await;
        for (account, times) in [("a", 1), ("b", 0), ("c", 0)] {
            assert_eq!(database.committed(account).await, times, "{account}");
        }
        // The server numbers connections from the start again. No session is taken for another.
        promise(&payments, &branch(4), "d").await;
        commit(&payments, &branch(4)).await;
        assert_eq!((database.committed("d").await, database.prepared(&payments).await), (1, 0));
    });
}

/// The promise carries how far the coordinator's log had come, also through a crash of both.
#[test]
fn a_promise_survives_server_and_process_with_its_position() {
    let Some(mut server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        let payments = database.open().await;
        let log = LogId::from_bytes(*b"the log of shop.");
        let life = Life::new(log, Epoch::new(1), 5);
        payments.meet(&shop(), &life).await.expect("met");
        insert(&payments, &branch(1), "a").await;
        let mut at_12 = call();
        (at_12.identity, at_12.epoch, at_12.position) = (log, Epoch::new(1), 12);
        payments.prepare(&branch(1), &at_12).await.expect("a vote");
        server.restart();
        drop(payments);

        let payments = database.open().await;
        // An older copy of the log, which ended before the promise, and the newest.
        let after = |position| EndedOpening { epoch: Epoch::new(1), position };
        let copy = Life::new(log, Epoch::new(2), 90).continuing(after(11));
        payments.meet(&shop(), &copy).await.expect_err("an older copy");
        let newest = Life::new(log, Epoch::new(3), 90).continuing(after(12));
        payments.meet(&shop(), &newest).await.expect("the newest");
        assert_eq!(payments.in_doubt(&shop()).await.expect("a list"), [branch(1)]);
        commit(&payments, &branch(1)).await;
        assert_eq!(database.committed("a").await, 1);
    });
}

/// `XA COMMIT .. ONE PHASE` was answered, and came back as a promise: no coordinator would have committed it.
#[test]
fn what_was_answered_as_committed_is_so_after_a_crash() {
    let Some(mut server) = MariaDb::start(&[]) else { return missing("MariaDB", "mariadbd is not installed") };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        let payments = database.open().await;
        for round in 0..5 {
            let (alone, promised) = (branch(2 * round + 1), branch(2 * round + 2));
            promise(&payments, &promised, &promised.to_string()).await;
            insert(&payments, &alone, &alone.to_string()).await;
            if round % 2 == 0 {
                commit(&payments, &promised).await;
                assert_eq!(commit_alone(&payments, &alone).await, Decision::Commit);
            } else {
                assert_eq!(commit_alone(&payments, &alone).await, Decision::Commit);
                commit(&payments, &promised).await;
            }
            server.restart();
            for account in [&alone, &promised] {
                assert_eq!(database.committed(&account.to_string()).await, 1, "{account}, round {round}");
            }
            assert_eq!(database.prepared(&payments).await, 0);
        }
    });
}
