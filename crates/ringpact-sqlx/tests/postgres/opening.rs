//! What a participant refuses to open on. The checks are those of `ringpact-postgres`; these tests are about how sqlx's pool
//! comes to them.

use ringpact::{Vote, error_chain, participant::AsyncParticipant};
use ringpact_servers::postgres::{Options, Postgres};
use ringpact_sqlx::SqlxOpenError;
use sqlx::{Executor as _, postgres::PgPoolOptions, raw_sql};

use crate::support::{Db, GOODS, PgParticipant, TAKE, call, work};

/// Checks that the error names the change.
#[track_caller]
fn says(opened: Result<PgParticipant, SqlxOpenError>, change: &str) {
    let error = opened.expect_err("an unsuitable database");
    let text = error_chain(&error).to_string();
    assert!(matches!(error, SqlxOpenError::Unsuitable { .. }) && text.contains(change), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_the_set_up_is_refused() {
    let Some(db) = Db::new().await else { return };
    says(db.builder().schema("acid").open().await, "SETUP_SQL");
    let sql = PgParticipant::setup_sql_for("acid").expect("a name");
    for _ in ["a set-up", "it may be repeated"] {
        db.admin.batch_execute(&sql).await.expect("a set-up");
        PgParticipant::setup(&db.pool(1)).await.expect("a set-up");
    }
    let goods = db.builder().schema("acid").open().await.expect("a participant");
    let branch = db.branch_of(GOODS, 1);
    work(&goods, &branch, TAKE).await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!((db.number("SELECT count(*) FROM acid.marker").await, db.markers().await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_promises_is_refused_unless_that_is_accepted() {
    let Some(db) = Db::new().await else { return };
    says(db.builder_that_syncs(GOODS).open().await, "fsync = on");
    db.builder().open().await.expect("a participant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_builder_without_a_pool_or_with_bad_names_is_refused() {
    let Some(db) = Db::new().await else { return };
    assert!(matches!(PgParticipant::builder(GOODS).open().await, Err(SqlxOpenError::NoPool { .. })));
    let pool = || db.pool(1);
    assert!(matches!(PgParticipant::builder("a b").pool(pool()).open().await, Err(SqlxOpenError::Name(_))));
    let opened = PgParticipant::builder(GOODS).pool(pool()).schema("A").open().await;
    assert!(matches!(opened, Err(SqlxOpenError::Schema(_))));
    let nowhere = PgPoolOptions::new().connect_lazy_with(db.url.clone().port(1));
    assert!(matches!(PgParticipant::builder(GOODS).pool(nowhere).open().await, Err(SqlxOpenError::Database(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_whose_connections_change_their_role_is_refused() {
    let Some(db) = Db::new().await else { return };
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(|conn, _| Box::pin(async move { conn.execute(raw_sql("SET ROLE pg_monitor")).await.map(drop) }))
        .connect_lazy_with(db.url.clone());
    says(db.builder().pool(pool).open().await, "SET ROLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_room_for_too_few_promises_is_refused() {
    let Some(server) = Postgres::start(Options { max_prepared_transactions: 1, ..Options::default() }) else { return };
    let db = Db::on(&server).await;
    says(db.builder().open().await, "ALTER SYSTEM SET max_prepared_transactions = 64");
    // Each of them fits, but both together do not.
    let (one, other) = (db.builder_of("one").max_promises(1), db.builder_of("other").max_promises(1));
    let (one, other) = (one.open().await.expect("a participant"), other.open().await.expect("a participant"));
    let (first, second) = (db.branch_of("one", 1), db.branch_of("other", 1));
    work(&one, &first, "UPDATE stock SET free = 0 WHERE id = 1").await;
    assert_eq!(one.prepare(&first, &call()).await.expect("a vote"), Vote::Yes);
    let full = one.work(&db.branch_of("one", 2)).await.expect_err("the participant's own limit");
    assert!(PgParticipant::is_transient(&full));
    work(&other, &second, TAKE).await;
    let error = other.prepare(&second, &call()).await.expect_err("no room");
    assert!(PgParticipant::is_transient(&error));
    assert!(error_chain(&error).to_string().contains("raise max_prepared_transactions"));
    other.rollback(&second, &call()).await.expect("a rollback");
    one.commit(&first, &call()).await.expect("a commit");
    assert_eq!((db.free(0).await, db.free(1).await), (100, 0));
}
