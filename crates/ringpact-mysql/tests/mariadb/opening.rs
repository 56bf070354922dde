//! What a participant checks when it opens: each refusal says what to change.

use mysql_async::{OptsBuilder, PoolConstraints, PoolOpts, prelude::Queryable as _};
use ringpact_mysql::{MySqlOpenError, MySqlParticipant};
use ringpact_servers::{
    mariadb::{MariaDb, is_mysql},
    missing,
};

use crate::support::{Database, chain, runtime, with_database};

/// Opens a participant that is to be refused, and checks what the refusal says.
async fn is_refused(database: &Database, user: &str, says: &[&str]) {
    let builder = MySqlParticipant::builder("payments").opts(database.opts_as(user)).max_promises(8);
    let error = builder.open().await.expect_err("it is refused");
    let text = chain(&error);
    assert!(matches!(error, MySqlOpenError::Misconfigured { .. }), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{text}\" does not say \"{part}\"");
    }
}

#[test]
fn tables_must_be_there_and_able_to_prepare() {
    with_database(async |database| {
        database.open().await;
        database.sql("ALTER TABLE ringpact_marker ENGINE = MyISAM").await;
        is_refused(&database, "root", &["MyISAM", "ALTER TABLE ringpact_marker ENGINE = InnoDB"]).await;
        database.sql("ALTER TABLE ringpact_marker ENGINE = InnoDB, DROP COLUMN position").await;
        is_refused(&database, "root", &["other columns than id, position"]).await;
        database.sql("DROP TABLE ringpact_marker").await;
        is_refused(&database, "root", &["ringpact_marker is missing", "SETUP_SQL"]).await;
        database.sql(MySqlParticipant::SETUP_SQL).await;
        database.sql(MySqlParticipant::SETUP_SQL).await; // twice changes nothing
        database.open().await;
    });
}

#[test]
fn privileges_are_asked_for_by_name() {
    with_database(async |database| {
        let user = format!("limited_{}", database.name);
        database.sql(&format!("CREATE USER {user}@localhost")).await;
        let grant = async |what: &str| {
            database.sql(&format!("GRANT {what} ON {}.* TO {user}@localhost", database.name)).await;
        };
        grant("SELECT").await;
        is_refused(&database, &user, &["GRANT INSERT ON"]).await;
        grant("INSERT").await;
        is_refused(&database, &user, &["GRANT DELETE ON"]).await;
        grant("DELETE").await;
        is_refused(&database, &user, &["GRANT UPDATE ON", "ringpact_session"]).await;
        database.sql(&format!("GRANT UPDATE ON {}.ringpact_session TO {user}@localhost", database.name)).await;
        is_refused(&database, &user, &["GRANT UPDATE ON", "ringpact_coordinator"]).await;
        grant("UPDATE").await;
        if is_mysql() {
            is_refused(&database, &user, &["GRANT XA_RECOVER_ADMIN ON *.*"]).await;
            database.sql(&format!("GRANT XA_RECOVER_ADMIN ON *.* TO {user}@localhost")).await;
        }
        let builder = MySqlParticipant::builder("payments").opts(database.opts_as(&user)).max_promises(8);
        let payments = builder.open().await.expect("it has all it needs");
        // That is also enough to end its own sessions.
        crate::support::insert(&payments, &crate::support::branch(1), "a").await;
        let _held = payments.work(&crate::support::branch(1)).await.expect("a branch");
        crate::support::roll_back(&payments, &crate::support::branch(1)).await;
    });
}

#[test]
fn the_pool_must_be_larger_than_the_number_of_promises() {
    with_database(async |database| {
        let error = MySqlParticipant::builder("payments").opts(database.opts()).open().await.expect_err("64 and 12");
        let text = chain(&error);
        assert!(text.contains("64 promises") && text.contains("only 12") && text.contains("at most 11"), "{text}");
        let pool = PoolOpts::default().with_constraints(PoolConstraints::new(0, 5_000).expect("valid"));
        let opts = OptsBuilder::from_opts(database.opts()).pool_opts(pool);
        let error = MySqlParticipant::builder("payments").opts(opts).open().await.expect_err("400 and 5000");
        let text = chain(&error);
        assert!(text.contains("max_connections is 400") && text.contains("5004 connections"), "{text}");
    });
}

#[test]
fn names_and_connections_are_checked() {
    with_database(async |database| {
        let error = MySqlParticipant::builder("pay ments").opts(database.opts()).open().await.expect_err("a space");
        assert!(matches!(error, MySqlOpenError::Name(_)), "{error:?}");
        let error = MySqlParticipant::builder("payments").open().await.expect_err("no database");
        assert!(matches!(error, MySqlOpenError::NoDatabase), "{error:?}");
        let opts = OptsBuilder::from_opts(database.opts()).db_name(None::<String>);
        let builder = MySqlParticipant::builder("payments").opts(opts).max_promises(8);
        let error = builder.open().await.expect_err("no default database");
        assert!(chain(&error).contains("no default database"), "{}", chain(&error));
        let opts = OptsBuilder::from_opts(database.opts()).db_name(Some("missing"));
        let builder = MySqlParticipant::builder("payments").opts(opts).max_promises(8);
        assert!(matches!(builder.open().await.expect_err("no such one"), MySqlOpenError::Database(_)));
    });
}

#[test]
fn a_server_that_may_lose_promises_is_refused() {
    let Some(server) = MariaDb::start(&["--innodb-flush-log-at-trx-commit=2"]) else {
        return missing("MariaDB", "mariadbd is not installed");
    };
    runtime().block_on(async {
        let database = Database::make(&server.socket()).await;
        is_refused(&database, "root", &["innodb_flush_log_at_trx_commit is 2", "SET GLOBAL"]).await;
        let builder = MySqlParticipant::builder("payments").opts(database.opts()).max_promises(8);
        builder.accept_loss().open().await.expect("it was told so");
        let mut root = database.conn().await;
        for (wrong, right, says) in [
            ("sync_binlog = 0, GLOBAL innodb_flush_log_at_trx_commit = 1", "sync_binlog = 1", "sync_binlog is 0"),
            ("binlog_format = STATEMENT", "binlog_format = MIXED", "binlog_format = MIXED"),
            ("read_only = 1", "read_only = 0", "read_only is on"),
        ] {
            root.query_drop(format!("SET GLOBAL {wrong}")).await.expect("it is set");
            is_refused(&database, "root", &[says]).await;
            root.query_drop(format!("SET GLOBAL {right}")).await.expect("it is set");
        }
        database.open().await;
    });
}
