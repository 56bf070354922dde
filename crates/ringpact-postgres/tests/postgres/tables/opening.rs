//! What a service with tables refuses to open on, and that the refusal says what to change.

use ringpact::{Vote, error_chain, participant::AsyncParticipant};
use ringpact_servers::postgres::{Options, Postgres};

use super::{Stock, life, stock, take};
use crate::support::{Db, GOODS, PgBuilder, PgOpenError, PgParticipant, accepting_loss, call, work};

async fn is_refused(builder: PgBuilder, says: &str) {
    let error = builder.open_tables(Stock::default()).await.expect_err("unsuitable");
    let text = error_chain(&error).to_string();
    assert!(matches!(error, PgOpenError::Unsuitable { .. }) && text.contains(says), "{text}");
}

/// What version 1 had: no table of branches, markers with four columns, and lives without a tag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_set_up_is_refused_and_brought_up_in_place() {
    let Some(db) = Db::with_stock().await else { return };
    let old = "DROP TABLE ringpact.branch, ringpact.marker; ALTER TABLE ringpact.life DROP COLUMN tag; CREATE TABLE ringpact.marker (participant text, coordinator text, \
               epoch numeric(20), sequence numeric(20), PRIMARY KEY (participant, coordinator, epoch, sequence)); \
               CREATE OR REPLACE FUNCTION ringpact.setup_version() RETURNS integer LANGUAGE sql AS 'SELECT 1'";
    db.admin.batch_execute(old).await.expect("an old set-up");
    is_refused(db.builder(), "version 1").await;
    is_refused(db.builder(), "SETUP_SQL").await;
    db.admin.batch_execute(PgParticipant::SETUP_SQL).await.expect("a set-up");
    // Prepared transactions go on as well.
    let prepares = db.builder_of("prepares").open().await.expect("a participant");
    let branch = db.branch_of("prepares", 1);
    work(&prepares, &branch, "SELECT pg_current_xact_id()").await;
    assert_eq!(prepares.prepare(&branch, &call()).await.expect("a vote"), Vote::Yes);
    prepares.commit(&branch, &call()).await.expect("a commit");
    prepares.meet(&db.shop, &life()).await.expect("the row of a life");
    let goods = db.stock().await;
    goods.execute_under(&db.branch(1), &take(1, 1)).await.expect("there are enough");
    db.admin.batch_execute(PgParticipant::SETUP_SQL).await.expect("a set-up may be repeated");
    assert_eq!((db.rows().await, db.markers().await), (1, 1), "what is there stays");
    db.admin.batch_execute("DROP TABLE ringpact.branch").await.expect("an incomplete set-up");
    is_refused(db.builder(), "SETUP_SQL").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_and_a_server_that_loses_commits_are_refused() {
    let Some(db) = Db::with_stock().await else { return };
    let role = "CREATE ROLE clerk_2 LOGIN; GRANT USAGE ON SCHEMA ringpact TO clerk_2; \
                GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ringpact, public TO clerk_2; \
                REVOKE UPDATE ON ringpact.branch FROM clerk_2";
    db.admin.batch_execute(role).await.expect("a role");
    let builder = || db.builder_as("clerk_2");
    is_refused(builder(), "fsync = on").await;
    is_refused(accepting_loss(builder()), "GRANT SELECT, INSERT, UPDATE, DELETE ON ringpact.branch TO \"clerk_2\"")
        .await;
    db.admin.batch_execute("GRANT UPDATE ON ringpact.branch TO clerk_2").await.expect("a right");
    let goods = stock(accepting_loss(builder())).await;
    goods.execute_under(&db.branch(1), &take(1, 1)).await.expect("it has all it needs");
}

/// A managed database often allows no prepared transactions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_need_not_be_allowed() {
    let Some(server) = Postgres::start(Options { fsync: true, max_prepared_transactions: 0 }) else { return };
    let db = Db::on(&server).await;
    db.make_stock().await;
    let builder = || db.builder_that_syncs(GOODS);
    builder().open().await.expect_err("it can't prepare");
    stock(builder()).await.execute_under(&db.branch(1), &take(1, 1)).await.expect("there are enough");
    let off = "ALTER ROLE postgres SET synchronous_commit = off";
    db.admin.batch_execute(off).await.expect("a setting");
    is_refused(builder(), "synchronous_commit").await;
}
