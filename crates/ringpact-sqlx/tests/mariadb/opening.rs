//! What a participant refuses to open on. The checks are those of `ringpact-mysql`; these tests are about how sqlx's pool comes
//! to them.

use ringpact_servers::{mariadb::MariaDb, missing};
use ringpact_sqlx::SqlxOpenError;

use crate::support::{Database, MySqlParticipant, chain, runtime, with_database};

/// Opens a participant that is to be refused, and checks what the refusal says.
async fn is_refused(database: &Database, says: &[&str]) {
    let builder = MySqlParticipant::builder("payments").pool(database.pool(12)).max_promises(8);
    let error = builder.open().await.expect_err("it is refused");
    let text = chain(&error);
    assert!(matches!(error, SqlxOpenError::Unsuitable { .. }), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{text}\" does not say \"{part}\"");
    }
}

#[test]
fn tables_must_be_there_and_able_to_prepare() {
    with_database(async |database| {
        database.open().await;
        database.sql("ALTER TABLE ringpact_marker ENGINE = MyISAM").await;
        is_refused(&database, &["MyISAM", "ALTER TABLE ringpact_marker ENGINE = InnoDB"]).await;
        database.sql("ALTER TABLE ringpact_marker ENGINE = InnoDB, DROP COLUMN position").await;
        is_refused(&database, &["other columns than id, position"]).await;
        database.sql("DROP TABLE ringpact_marker").await;
        is_refused(&database, &["ringpact_marker is missing", "SETUP_SQL"]).await;
        MySqlParticipant::setup(&database.pool(1)).await.expect("the tables");
        database.open().await;
    });
}

#[test]
fn names_pools_and_connections_are_checked() {
    with_database(async |database| {
        let builder = MySqlParticipant::builder;
        let error = builder("pay ments").pool(database.pool(12)).open().await.expect_err("a space");
        assert!(matches!(error, SqlxOpenError::Name(_)), "{error:?}");
        let error = builder("payments").open().await.expect_err("no pool");
        assert!(matches!(error, SqlxOpenError::NoPool { .. }), "{error:?}");
        let error = builder("payments").pool(database.pool(12)).open().await.expect_err("64 and 12");
        let text = chain(&error);
        assert!(text.contains("64 promises") && text.contains("only 12") && text.contains("at most 11"), "{text}");
        let error = builder("payments").pool(database.pool(5_000)).open().await.expect_err("400 and 5000");
        assert!(chain(&error).contains("max_connections is 400"), "{}", chain(&error));
        let missing = sqlx::mysql::MySqlPoolOptions::new().connect_lazy_with(database.opts().database("missing"));
        let error = builder("payments").pool(missing).max_promises(8).open().await.expect_err("no such one");
        assert!(matches!(error, SqlxOpenError::Database(_)), "{error:?}");
    });
}

#[test]
fn a_server_that_may_lose_promises_is_refused() {
    let Some(server) = MariaDb::start(&["--innodb-flush-log-at-trx-commit=2"]) else {
        return missing("MariaDB", "mariadbd is not installed");
    };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        is_refused(&database, &["innodb_flush_log_at_trx_commit is 2", "SET GLOBAL"]).await;
        let builder = MySqlParticipant::builder("payments").pool(database.pool(12)).max_promises(8);
        builder.accept_loss().open().await.expect("it was told so");
    });
}
