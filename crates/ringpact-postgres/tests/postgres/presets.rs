//! What is set up once in each connection, and proxies that give each transaction another session of the server.

use ringpact::{Coordinator, MemoryLog, Vote, error_chain, participant::AsyncParticipant};
use ringpact_postgres::PgParticipant;
use ringpact_servers::pgbouncer::PgBouncer;
use tokio::{runtime::Handle, task::JoinSet};

use crate::support::{Db, GOODS, TAKE, attempt, call, no, server, work};

const PREPARED: &str = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'ringpact%'";

/// Returns the time-outs that hold under the branch, and the number of statements that are prepared there.
async fn seen(goods: &PgParticipant, db: &Db, sequence: u64) -> ([String; 3], i64) {
    let branch = db.branch(sequence);
    let at_work = goods.work(&branch).await.expect("work");
    let mut found = [const { String::new() }; 3];
    for (name, found) in
        ["lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"].iter().zip(&mut found)
    {
        *found = at_work.query_one(&format!("SHOW {name}"), &[]).await.expect("a row").get(0);
    }
    let prepared = at_work.query_one(PREPARED, &[]).await.expect("a row").get(0);
    drop(at_work);
    goods.rollback(&branch, &call()).await.expect("a rollback");
    (found, prepared)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_has_its_time_outs_with_presets_and_without() {
    let Some(db) = Db::new().await else { return };
    let expected = ["500ms", "10s", "30s"].map(str::to_owned);
    let with = db.goods().await;
    assert_eq!(seen(&with, &db, 1).await, (expected.clone(), 3));
    let without = db.builder().connections(1).open().await.expect("a participant");
    assert_eq!(seen(&without, &db, 2).await, (expected, 0));
}

/// The promise of the branch is missing then. Nothing is lost but that branch, and the next ones do without presets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_that_drops_what_was_set_up_votes_no_and_may_be_tried_again() {
    let Some(db) = Db::new().await else { return };
    let goods = db.goods().await;
    work(&goods, &db.branch(1), TAKE).await;
    work(&goods, &db.branch(1), "DEALLOCATE ALL").await;
    let error = goods.prepare(&db.branch(1), &call()).await.expect_err("no promise can be made");
    assert!(PgParticipant::is_transient(&error), "{}", error_chain(&error));
    assert!(error_chain(&error).contains("DEALLOCATE"), "{}", error_chain(&error));
    for sequence in 2..5 {
        work(&goods, &db.branch(sequence), TAKE).await;
        work(&goods, &db.branch(sequence), "DEALLOCATE ALL").await;
        assert_eq!(goods.prepare(&db.branch(sequence), &call()).await.expect("a vote"), Vote::Yes);
        goods.commit(&db.branch(sequence), &call()).await.expect("a commit");
    }
    assert_eq!((db.free(0).await, db.prepared().await, db.markers().await), (97, 0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_proxy_that_pools_transactions_nothing_is_set_in_its_sessions() {
    let Some(db) = Db::new().await else { return };
    let Some(server) = server() else { return };
    let database = db.url.rsplit('=').next().expect("a name").to_owned();
    for sessions in [4, 12] {
        let Some(proxy) = PgBouncer::start(server, sessions) else { return };
        let goods = db.builder().config(proxy.url(&database).parse().expect("a configuration")).connections(8);
        let goods = goods.open().await.expect("a participant");
        let shop = Coordinator::builder(MemoryLog::new())
            .name(&format!("{}-{sessions}", db.shop))
            .async_participant(GOODS, goods.clone(), Handle::current())
            .open()
            .expect("a coordinator");
        let shop = std::sync::Arc::new(shop);
        let before = db.number("SELECT sum(free)::bigint FROM stock").await;
        let mut clients = JoinSet::new();
        for client in 0..8_i64 {
            let (goods, shop) = (goods.clone(), std::sync::Arc::clone(&shop));
            clients.spawn(async move {
                let mut committed = 0;
                for _ in 0..6 {
                    let mut txn = shop.begin_async().await;
                    let Ok(branch) = goods.branch(&mut txn).await else { continue };
                    let take = format!("UPDATE stock SET free = free - 1 WHERE id = {client}");
                    branch.batch_execute(&take).await.expect("the row is this client's own");
                    drop(branch);
                    committed += i64::from(txn.commit().await.is_ok());
                }
                committed
            });
        }
        let committed: i64 = clients.join_all().await.into_iter().sum();
        assert_eq!(committed, 48);
        assert!(shop.settle_async(std::time::Duration::from_secs(10)).await);
        assert_eq!(before - db.number("SELECT sum(free)::bigint FROM stock").await, committed);
        assert_eq!(db.prepared().await, 0);
        // Another user of the same sessions finds nothing that was set in them.
        let other = crate::support::client(&proxy.url(&database)).await;
        for _ in 0..sessions {
            let rows = other.simple_query(&format!("{PREPARED}; SHOW lock_timeout")).await.expect("rows");
            let values: Vec<_> = rows
                .iter()
                .filter_map(|row| match row {
                    ringpact_postgres::tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                })
                .collect();
            assert_eq!(values, ["0", "0"]);
        }
    }
}

/// The work's statements are sent before `BEGIN` is answered. If that fails, they must not be committed alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_of_its_branch_a_connection_changes_nothing() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    work(&goods, &branch, "ROLLBACK").await;
    let refused = attempt(&mut goods.work(&branch).await.expect("work"), TAKE).await;
    assert!(error_chain(&refused.expect_err("no branch")).contains("read-only transaction"));
    let reason = no(&goods, &branch).await;
    assert!(reason.contains("has ended the branch's transaction by itself"), "{reason}");
    assert_eq!((db.free(0).await, db.prepared().await, db.markers().await), (100, 0, 0));
}

/// The setting would stay in the session, and a later branch whose `BEGIN` fails would commit its statements one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_makes_its_session_writable_is_refused() {
    let Some(db) = Db::new().await else { return };
    let (goods, branch) = (db.goods().await, db.branch(1));
    work(&goods, &branch, TAKE).await;
    work(&goods, &branch, "SET default_transaction_read_only = off").await;
    let reason = no(&goods, &branch).await;
    assert!(reason.contains("SET TRANSACTION"), "{reason}");
    let branch = db.branch(2);
    work(&goods, &branch, TAKE).await;
    work(&goods, &branch, "ROLLBACK").await;
    let refused = attempt(&mut goods.work(&branch).await.expect("work"), TAKE).await;
    assert!(error_chain(&refused.expect_err("no branch")).contains("read-only transaction"));
    assert_eq!(db.free(0).await, 100);
}

/// What is set once in each connection is dropped by the work. The step is tried again without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_drops_what_was_set_up_is_done_again_without_it() {
    let Some(db) = Db::with_stock().await else { return };
    let goods = db.stock().await;
    for sequence in 1..4 {
        let work = ("drops what was set up".to_owned(), 1, 1);
        goods.execute_under(&db.branch(sequence), &work).await.expect("the second try does without");
    }
    assert_eq!(db.audit().await, 3);
}
