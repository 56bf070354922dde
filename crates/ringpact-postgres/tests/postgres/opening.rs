//! What a participant refuses to open on, and that the refusal says what to change.

use ringpact::{Vote, error_chain, participant::AsyncParticipant};
use ringpact_postgres::{PgOpenError, PgParticipant};
use ringpact_servers::postgres::{Options, Postgres};

use crate::support::{Db, GOODS, TAKE, call, no, work};

/// Checks that the error names the change.
#[track_caller]
fn says(opened: Result<PgParticipant, PgOpenError>, change: &str) {
    let error = opened.expect_err("an unsuitable database");
    let text = error_chain(&error).to_string();
    assert!(matches!(error, PgOpenError::Unsuitable { .. }) && text.contains(change), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_the_set_up_is_refused() {
    let Some(db) = Db::new().await else { return };
    says(db.builder().schema("acid").open().await, "SETUP_SQL");
    let sql = PgParticipant::setup_sql_for("acid").expect("a name");
    db.admin.batch_execute(&sql).await.expect("a set-up");
    db.admin.batch_execute(&sql).await.expect("a set-up may be repeated");
    let goods = db.builder().schema("acid").open().await.expect("a participant");
    let branch = db.branch_of(GOODS, 1);
    work(&goods, &branch, TAKE).await;
    assert_eq!(goods.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    goods.commit(&branch, &call()).await.expect("a commit");
    assert_eq!((db.number("SELECT count(*) FROM acid.marker").await, db.markers().await), (1, 0));
    let other = "CREATE OR REPLACE FUNCTION acid.setup_version() RETURNS integer LANGUAGE sql AS 'SELECT 7'";
    db.admin.batch_execute(other).await.expect("another version");
    says(db.builder().schema("acid").open().await, "SETUP_SQL");
    db.admin.batch_execute("DROP TABLE acid.life").await.expect("an incomplete set-up");
    says(db.builder().schema("acid").open().await, "SETUP_SQL");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_is_refused_with_the_statements_that_grant_them() {
    let Some(db) = Db::new().await else { return };
    let clerk = "clerk_1";
    db.admin.batch_execute(&format!("CREATE ROLE {clerk} LOGIN; GRANT ALL ON stock TO {clerk}")).await.expect("a role");
    let url = db.url.replace("user=postgres", &format!("user={clerk}"));
    let open = || PgParticipant::builder(GOODS).config(url.parse().expect("a configuration")).accept_fsync_off().open();
    says(open().await, "GRANT USAGE ON SCHEMA ringpact TO \"clerk_1\"");
    db.admin.batch_execute(&format!("GRANT USAGE ON SCHEMA ringpact TO {clerk}")).await.expect("a right");
    says(open().await, "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES");
    let rest = format!("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ringpact TO {clerk}");
    db.admin.batch_execute(&rest).await.expect("a right");
    let goods = open().await.expect("a participant");
    // The role ends its own promises and sessions, with no more rights than these.
    let (kept, undone) = (db.branch_of(GOODS, 1), db.branch_of(GOODS, 2));
    work(&goods, &kept, TAKE).await;
    assert_eq!(goods.prepare(&kept, &call()).await.expect("a vote"), Vote::Yes);
    goods.commit(&kept, &call()).await.expect("a commit");
    let at_work = goods.work(&undone).await.expect("work");
    at_work.batch_execute(TAKE).await.expect("the statement succeeds");
    assert!(goods.rollback(&undone, &call()).await.is_err());
    goods.rollback(&undone, &call()).await.expect("a rollback that ends the session");
    drop(at_work);
    assert_eq!(db.free(0).await, 99);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_lose_promises_is_refused_unless_that_is_accepted() {
    let Some(db) = Db::new().await else { return };
    let builder = || PgParticipant::builder(GOODS).config(db.url.parse().expect("a configuration"));
    says(builder().open().await, "fsync = on");
    builder().accept_fsync_off().open().await.expect("a participant");
}

/// A commit in one phase would be lost. Promises, and their commits, are synced by the server in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_whose_commits_are_not_synced_is_refused_unless_that_is_accepted() {
    let Some(server) = Postgres::start(Options { fsync: true, ..Options::default() }) else { return };
    let db = Db::on(&server).await;
    let builder = || PgParticipant::builder(GOODS).config(db.url.parse().expect("a configuration"));
    builder().open().await.expect("a participant");
    for setting in ["ROLE postgres SET synchronous_commit = off", "ROLE postgres RESET synchronous_commit"] {
        db.admin.batch_execute(&format!("ALTER {setting}")).await.expect("a setting");
        if setting.contains("off") {
            says(builder().open().await, "SET synchronous_commit = on");
            builder().accept_fsync_off().open().await.expect("a participant");
        }
    }
    let url = format!("{} options='-c synchronous_commit=off'", db.url);
    says(
        PgParticipant::builder(GOODS).config(url.parse().expect("a configuration")).open().await,
        "connection's options",
    );
    builder().open().await.expect("a participant");
}

/// Branches say `READ WRITE`; the participant's own notes would fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_read_only_by_default_is_refused() {
    let Some(db) = Db::new().await else { return };
    let url = format!("{} options='-c default_transaction_read_only=on'", db.url);
    let builder = PgParticipant::builder(GOODS).config(url.parse().expect("a configuration")).accept_fsync_off();
    says(builder.open().await, "RESET default_transaction_read_only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_builder_without_a_database_or_with_bad_names_is_refused() {
    assert!(matches!(PgParticipant::builder(GOODS).open().await, Err(PgOpenError::NoDatabase { .. })));
    assert!(matches!(PgParticipant::builder("a b").open().await, Err(PgOpenError::Name(_))));
    assert!(matches!(PgParticipant::builder(GOODS).schema("A").open().await, Err(PgOpenError::Schema(_))));
    let nowhere = "host=127.0.0.1 port=1 user=x connect_timeout=1".parse().expect("a configuration");
    assert!(matches!(PgParticipant::builder(GOODS).config(nowhere).open().await, Err(PgOpenError::Database(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_whose_connections_change_their_role_is_refused() {
    use ringpact_postgres::deadpool_postgres::{Hook, HookError, Manager, Pool};
    use ringpact_postgres::tokio_postgres::NoTls;

    let Some(db) = Db::new().await else { return };
    let manager = Manager::new(db.url.parse().expect("a configuration"), NoTls);
    let change = Hook::async_fn(|client, _| {
        Box::pin(async move { client.batch_execute("SET ROLE pg_monitor").await.map_err(HookError::Backend) })
    });
    let pool = Pool::builder(manager).max_size(2).post_create(change).build().expect("a pool");
    says(PgParticipant::builder(GOODS).pool(pool).accept_fsync_off().open().await, "SET ROLE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_room_for_too_few_promises_is_refused() {
    let Some(server) = Postgres::start(Options { max_prepared_transactions: 2, ..Options::default() }) else { return };
    let db = Db::on(&server).await;
    says(db.builder().open().await, "ALTER SYSTEM SET max_prepared_transactions = 64");
    // Each of them fits, but both together do not.
    let (one, other) = (db.builder_of("one").max_promises(2), db.builder_of("other").max_promises(2));
    let (one, other) = (one.open().await.expect("a participant"), other.open().await.expect("a participant"));
    for sequence in 1..=2 {
        let branch = db.branch_of("one", sequence);
        work(&one, &branch, &format!("UPDATE stock SET free = 0 WHERE id = {sequence}")).await;
        assert_eq!(one.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    }
    let full = one.work(&db.branch_of("one", 3)).await.expect_err("the participant's own limit");
    assert!(full.to_string().contains("2 promises of participant one wait"), "{full}");
    assert!(PgParticipant::is_transient(&full));
    let branch = db.branch_of("other", 1);
    work(&other, &branch, TAKE).await;
    let error = other.prepare(&branch, &call()).await.expect_err("no room");
    assert!(PgParticipant::is_transient(&error));
    assert!(error_chain(&error).to_string().contains("raise max_prepared_transactions"));
    other.rollback(&branch, &call()).await.expect("a rollback");
    let other_branch = db.branch_of("other", 2);
    one.commit(&db.branch_of("one", 1), &call()).await.expect("a commit");
    work(&other, &other_branch, TAKE).await;
    assert_eq!(other.prepare(&other_branch, &call()).await.expect("a vote"), Vote::Yes);
    let nothing = no(&other, &branch).await;
    assert!(nothing.contains("max_prepared_transactions"), "{nothing}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused() {
    let Some(server) = Postgres::start(Options::default()) else { return };
    let db = Db::on(&server).await;
    server.stop_immediately().expect("a stopped server");
    server.start_as_standby().expect("a standby");
    says(db.builder().open().await, "Connect to the primary");
}
