//! The server stops and starts again.

use std::time::Duration;

use ringpact::{Vote, participant::AsyncParticipant};
use ringpact_servers::postgres::{Options, Postgres};
use tokio::time::sleep;

use crate::support::{BranchTimeouts, Db, GOODS, TAKE, call, work};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_survive_an_immediate_stop_and_what_was_not_promised_does_not() {
    let options = Options { fsync: true, ..Options::default() };
    let Some(server) = Postgres::start(options) else { return };
    let db = Db::on(&server).await;
    let goods = db.builder_that_syncs(GOODS).open().await.expect("a participant: fsync is on");
    let kept = db.promised(&goods, 1).await;
    let lost = db.branch(2);
    work(&goods, &lost, "UPDATE stock SET free = 0 WHERE id = 1").await;
    server.stop_immediately().expect("a stopped server");
    assert!(goods.commit(&kept, &call()).await.is_err());
    assert!(goods.work(&db.branch(3)).await.is_err());
    server.start_again().expect("a server");
    let answer = goods.prepare(&lost, &call()).await;
    assert!(!matches!(answer, Ok(Vote::Yes | Vote::ReadOnly)), "{answer:?}");
    goods.rollback(&lost, &call()).await.expect("a rollback");
    goods.commit(&kept, &call()).await.expect("a commit");
    goods.commit(&kept, &call()).await.expect("a repeated commit");
    // Branches find new connections at once.
    let next = db.branch(4);
    work(&goods, &next, TAKE).await;
    assert_eq!(goods.prepare(&next, &call()).await.expect("a vote"), Vote::Yes);
    goods.rollback(&next, &call()).await.expect("a rollback");
    let db = Db { admin: crate::support::client(&db.url).await, ..db };
    assert_eq!((db.free(0).await, db.free(1).await, db.prepared().await), (99, 100, 0));
}

/// PostgreSQL takes a cancelled wait for a standby for success; its time-out for statements does not cancel that wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_that_no_standby_has_confirmed_is_none() {
    let Some(server) = Postgres::start(Options::default()) else { return };
    let db = Db::on(&server).await;
    let timeouts = BranchTimeouts::default().statement(Duration::from_millis(100));
    let goods = db.builder().timeouts(timeouts).open().await.expect("a participant");
    let set = |names: &str| format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
    db.admin.batch_execute("SET synchronous_commit = local").await.expect("a setting");
    db.admin.batch_execute(&set("far")).await.expect("a setting");
    db.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a setting");
    // Any session that sees the setting will do: they all hear of it in the same way.
    db.until("SELECT count(*) FROM pg_settings WHERE name = 'synchronous_standby_names' AND setting = 'far'", 1).await;
    sleep(Duration::from_millis(300)).await;
    let branch = db.branch(1);
    work(&goods, &branch, TAKE).await;
    let answer = goods.prepare(&branch, &call()).await;
    assert!(!matches!(answer, Ok(Vote::Yes)), "{answer:?}");
    assert_eq!(goods.status().lost, 1);
    db.admin.batch_execute(&set("")).await.expect("a setting");
    db.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a setting");
    goods.rollback(&branch, &call()).await.expect("a rollback");
    assert_eq!((db.free(0).await, db.prepared().await), (100, 0));
}
