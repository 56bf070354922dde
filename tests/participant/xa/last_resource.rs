//! The participant as a last resource, on the database in memory.

use std::time::Duration;

use ringpact::{
    BranchId, Coordinator, CoordinatorError, Epoch, LogId, MemoryLog, Name, ParticipantError, TransactionLog, TxnId,
    error_chain,
    participant::{
        AsyncLastResource, AsyncParticipant, Decision, EndedOpening, LastResourceAnswer, Life, conformance,
        xa::{XaOptions, XaParticipant},
    },
};
use tokio::{runtime::Handle, task::yield_now};

use super::{
    DatabaseHarness, Goods, branch, call, change,
    database::{Database, Fate, Statement},
    open, run, runtime,
};

async fn commits(goods: &Goods, branch: &BranchId) -> Decision {
    match AsyncLastResource::commit(goods, branch, &call()).await {
        Err(ParticipantError::Refused(_)) => Decision::Rollback,
        answer => answer.expect("it answers"),
    }
}

async fn is_committed(goods: &Goods, branch: &BranchId) -> LastResourceAnswer {
    goods.committed(branch).await.expect("it answers")
}

#[test]
fn a_database_conforms_as_a_last_resource() {
    let runtime = runtime();
    let report = conformance::check_async_last_resource(runtime.handle(), || {
        let database = Database::default();
        let goods = runtime.block_on(open(&database));
        DatabaseHarness { database, goods: goods.into() }
    });
    assert_eq!((report.skipped.len(), report.passed.len()), (0, 13));
}

/// The commit has lost its connection, and the server still carries it out.
#[test]
fn a_commit_that_comes_late_is_ended_before_the_answer() {
    run(async {
        for fate in [Fate::Late, Fate::LostAfter, Fate::LostBefore] {
            let (database, branch) = (Database::default(), branch(1));
            drop(change(&open(&database).await, &branch).await);
            let goods = open(&database).await;
            drop(change(&goods, &branch).await);
            database.next(Statement::CommitOnePhase, fate);
            // The database is away for a moment, so nothing is known yet.
            database.next(Statement::Fence, Fate::LostBefore);
            AsyncLastResource::commit(&goods, &branch, &call()).await.expect_err("the answer is lost");
            let answer = is_committed(&goods, &branch).await;
            database.time_passes();
            let is_applied = database.applied(&branch) == 1;
            assert_eq!(is_applied, fate == Fate::LostAfter, "{fate:?}");
            assert_eq!(answer == LastResourceAnswer::Committed, is_applied, "{fate:?}");
            let expected = if is_applied { Decision::Commit } else { Decision::Rollback };
            assert_eq!((commits(&goods, &branch).await, is_committed(&goods, &branch).await), (expected, answer));
        }
    });
}

/// The question does not wait for an answer that never comes: it ends the session.
#[test]
fn a_commit_that_hangs_does_not_hold_the_answer_up() {
    run(async {
        let (database, branch) = (Database::default(), branch(1));
        let goods = open(&database).await;
        drop(change(&goods, &branch).await);
        database.next(Statement::CommitOnePhase, Fate::Unanswered);
        let (hangs, of) = (goods.clone(), branch.clone());
        let hanging = tokio::spawn(async move { AsyncLastResource::commit(&hangs, &of, &call()).await });
        while goods.status().lost == 0 {
            yield_now().await;
        }
        let (asks, of) = (goods.clone(), branch.clone());
        let asking = tokio::spawn(async move { asks.committed(&of).await });
        while database.count(Statement::Fence) == 0 {
            yield_now().await;
        }
        // A real session ends with an error now.
        hanging.abort();
        let answer = asking.await.expect("no panic").expect("it answers");
        assert_eq!((answer, commits(&goods, &branch).await), (LastResourceAnswer::NotCommitted, Decision::Rollback));
    });
}

#[test]
fn the_answer_outlives_the_process_and_binds_an_earlier_one() {
    run(async {
        let database = Database::default();
        let log = LogId::from_bytes([7; 16]);
        let (first, second) = (Life::new(log, Epoch::new(1), 5), Life::new(log, Epoch::new(2), 9));
        let second = second.continuing(EndedOpening { epoch: Epoch::new(1), position: 8 });
        let shop = Name::from_static("shop");
        let slow = open(&database).await;
        AsyncParticipant::meet(&slow, &shop, &first).await.expect("the first life");
        let (done, under_way) = (branch(1), branch(2));
        drop(change(&slow, &done).await);
        drop(change(&slow, &under_way).await);
        assert_eq!(commits(&slow, &done).await, Decision::Commit);

        let new = open(&database).await;
        AsyncParticipant::meet(&new, &shop, &second).await.expect("the second life");
        assert_eq!(is_committed(&new, &done).await, LastResourceAnswer::Committed);
        assert_eq!(is_committed(&new, &under_way).await, LastResourceAnswer::NotCommitted);
        assert_eq!(commits(&slow, &under_way).await, Decision::Rollback, "its session was ended");
        assert_eq!((database.applied(&done), database.applied(&under_way)), (1, 0));
        new.work(&under_way).await.map(drop).expect_err("it is of an earlier life");
    });
}

/// Nothing is said of a transaction whose marker may be deleted, or of a life that is not known yet.
#[test]
fn what_it_can_not_know_it_does_not_say() {
    run(async {
        let (database, shop) = (Database::default(), Name::from_static("shop"));
        let goods = open(&database).await;
        drop(change(&goods, &branch(9)).await);
        let mut later = call();
        later.ended_below = branch(9).txn().ordinal();
        AsyncLastResource::commit(&goods, &branch(9), &later).await.expect("it commits");
        assert_eq!(is_committed(&goods, &branch(1)).await, LastResourceAnswer::Unknown);
        let first = Life::new(LogId::from_bytes([7; 16]), Epoch::new(1), 5);
        AsyncParticipant::meet(&goods, &shop, &first).await.expect("the first life");
        let future = TxnId::new(shop, Epoch::new(2), 1).branch(goods.name());
        assert!(matches!(goods.committed(&future).await, Err(ParticipantError::Stale)));
        let misrouted = branch(1).txn().branch(&Name::from_static("money"));
        assert!(matches!(goods.committed(&misrouted).await, Err(ParticipantError::Misrouted { .. })));
    });
}

#[test]
fn one_that_cannot_promise_is_refused_as_an_ordinary_participant() {
    run(async {
        let options = XaOptions::default().last_resource();
        let goods = XaParticipant::open("goods", Database::default(), options).await.expect("the database answers");
        let builder = || Coordinator::builder(MemoryLog::new()).name("shop");
        let ordinary = builder().async_participant("goods", goods.clone(), Handle::current());
        let refused =
            tokio::task::spawn_blocking(|| ordinary.open()).await.expect("no panic").expect_err("it can't promise");
        assert!(matches!(&refused, CoordinatorError::CannotPromise { participant } if participant == "goods"));
        assert_eq!(
            refused.to_string(),
            "participant goods cannot promise, because it was opened as a last resource: register it with \
             async_last_resource, or open it as an ordinary participant"
        );
        // A coordinator in another process does not see that. It gets a No that says why.
        let asked = branch(1);
        drop(change(&goods, &asked).await);
        let no = goods.prepare(&asked, &call()).await.expect_err("a No");
        assert!(matches!(no, ParticipantError::Refused(_)));
        assert!(error_chain(&no).to_string().contains("register it with async_last_resource"), "{}", error_chain(&no));
        assert_eq!(goods.backend().applied(&asked), 0);

        let shop = builder().async_last_resource("goods", goods.clone(), Handle::current()).open().expect("it opens");
        let mut txn = shop.begin_async().await;
        goods.branch(&mut txn).await.expect("a branch").session().expect("it has begun").change(1);
        let id = txn.id().branch(goods.name());
        txn.commit().await.expect("it commits");
        assert_eq!(goods.backend().applied(&id), 1);
        assert!(shop.settle_async(Duration::from_secs(5)).await);
    });
}

/// What it promised as an ordinary participant is settled by the coordinator that has it as a last
/// resource: a decision of the log is carried out, the rest is rolled back.
#[test]
fn promises_of_an_earlier_registration_are_settled() {
    run(async {
        let (database, log) = (Database::default(), MemoryLog::new());
        let goods = open(&database).await;
        let builder = |log| Coordinator::builder(log).name("shop");
        let shop = builder(log.clone()).async_participant("goods", goods.clone(), Handle::current());
        let shop = shop.open().expect("it opens");
        let epoch = shop.begin_async().await.id().epoch();
        let promised = TxnId::new(Name::from_static("shop"), epoch, 1_000).branch(goods.name());
        drop(change(&goods, &promised).await);
        let life = Life::new(log.id(), epoch, 1);
        let mut call = call();
        (call.identity, call.epoch) = (life.log, life.epoch);
        goods.prepare(&promised, &call).await.expect("a promise");
        assert!(database.is_promised(&promised));
        drop(shop);
        let goods = open(&database).await;
        let shop = builder(log.crash()).async_last_resource("goods", goods.clone(), Handle::current());
        let shop = shop.open().expect("it opens");
        assert!(shop.settle_async(Duration::from_secs(5)).await, "{}", shop.status());
        assert_eq!((database.is_promised(&promised), database.applied(&promised)), (false, 0));
    });
}
