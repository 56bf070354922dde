//! What a service with tables refuses to open on, and that the refusal says what to change.

use ringpact_servers::{mariadb::MariaDb, missing};

use super::{Stock, stock, take, with_stock};
use crate::support::{Database, MySqlParticipant, branch, chain, is_unsuitable, runtime};

async fn is_refused(database: &Database, user: &str, says: &[&str]) {
    let error = database.tables_as(user).open_tables(Stock::default()).await.expect_err("it is refused");
    let text = chain(&error);
    assert!(is_unsuitable(&error), "{text}");
    for part in says {
        assert!(text.contains(part), "\"{text}\" does not say \"{part}\"");
    }
}

#[test]
fn an_old_set_up_is_refused_and_brought_up_in_place() {
    with_stock(async |database| {
        // What earlier versions had: no table of branches.
        database.sql("DROP TABLE ringpact_branch").await;
        is_refused(&database, "root", &["ringpact_branch is missing", "SETUP_SQL"]).await;
        database.sql(MySqlParticipant::SETUP_SQL).await;
        let goods = database.stock().await;
        goods.execute_under(&branch(1), &take(1, 1)).await.expect("there are enough");
        database.sql(MySqlParticipant::SETUP_SQL).await;
        assert_eq!(database.rows().await, 1, "what is there stays");
        database.sql("ALTER TABLE ringpact_branch ENGINE = MyISAM").await;
        is_refused(&database, "root", &["MyISAM", "ALTER TABLE ringpact_branch ENGINE = InnoDB"]).await;
        database.sql("ALTER TABLE ringpact_branch ENGINE = InnoDB, DROP COLUMN refusal").await;
        is_refused(&database, "root", &["ringpact_branch has other columns"]).await;
    });
}

/// The user needs no right to see prepared transactions, and none on the tables of `XA`.
#[test]
fn privileges_are_asked_for_by_name() {
    with_stock(async |database| {
        let user = format!("clerk_{}", database.name);
        database.sql(&format!("CREATE USER {user}@localhost")).await;
        let grant = async |what: &str, table: &str| {
            database.sql(&format!("GRANT {what} ON {}.{table} TO {user}@localhost", database.name)).await;
        };
        grant("SELECT, INSERT, UPDATE, DELETE", "stock").await;
        grant("SELECT, INSERT, DELETE", "reserved").await;
        grant("SELECT", "ringpact_branch").await;
        grant("SELECT", "ringpact_coordinator").await;
        for right in ["INSERT", "UPDATE", "DELETE"] {
            is_refused(&database, &user, &[&format!("GRANT {right} ON"), "ringpact_branch"]).await;
            grant(right, "ringpact_branch").await;
        }
        for right in ["INSERT", "UPDATE"] {
            is_refused(&database, &user, &[&format!("GRANT {right} ON"), "ringpact_coordinator"]).await;
            grant(right, "ringpact_coordinator").await;
        }
        let goods = stock(database.tables_as(&user)).await;
        goods.execute_under(&branch(1), &take(1, 1)).await.expect("it has all it needs");
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
        database.tables("payments").accept_loss().open_tables(Stock::default()).await.expect("it was told so");
    });
}
