//! An opening says what is missing, and with which statement it comes.

use ringpact_postgres::{PgOpenError, ShardTable};

use super::{Ledger, RUNTIME, database};
use crate::support::Db;

async fn problem(db: &Db, ledger: &Ledger, table: ShardTable) -> String {
    match db.builder_of("goods.node-1").open_shard(ledger.clone(), [table]).await {
        Err(PgOpenError::Unsuitable { problem, change }) => format!("{problem}. {change}"),
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it opens"),
    }
}

#[test]
fn each_problem_is_named_with_what_mends_it() {
    RUNTIME.block_on(async {
        let Some(db) = Db::new().await else { return };
        let ledger = Ledger::new(&db.admin).await;
        let goods = || ShardTable::new("goods").columns(["id", "pieces"]);
        assert!(problem(&db, &ledger, goods()).await.contains("Run PgShard::setup_sql"));
        ringpact_postgres::set_up_shards(&db.admin).await.expect("the set-up");
        ringpact_postgres::set_up_shards(&db.admin).await.expect("the set-up again");
        assert!(problem(&db, &ledger, goods()).await.contains("there is no table goods"));
        let steps = [
            (
                "CREATE TABLE goods (id bigint PRIMARY KEY, pieces bigint, place text)",
                "ALTER TABLE goods ADD COLUMN position bigint",
            ),
            ("ALTER TABLE goods ADD COLUMN position bigint", "ALTER TABLE goods ALTER COLUMN position SET NOT NULL"),
            ("ALTER TABLE goods ALTER COLUMN position SET NOT NULL", "Run CREATE INDEX ON goods (position)"),
            ("CREATE INDEX ON goods (id, position)", "Run CREATE INDEX ON goods (position)"),
            ("CREATE INDEX ON goods (position) WHERE id > 5", "Run CREATE INDEX ON goods (position)"),
            (
                "CREATE INDEX ON goods (position); ALTER TABLE goods ALTER COLUMN place SET NOT NULL",
                "columns place of table goods",
            ),
        ];
        for (statement, expected) in steps {
            db.admin.batch_execute(statement).await.expect("a statement");
            let found = problem(&db, &ledger, goods()).await;
            assert!(found.contains(expected), "{statement}: {found}");
        }
        for (columns, expected) in [
            (vec![], "has no columns to move"),
            (vec!["id", "position"], "is named among them"),
            (vec!["id", "piece"], "lacks some of the columns"),
            (vec!["id", "id", "place"], "lacks some of the columns"),
        ] {
            let found = problem(&db, &ledger, ShardTable::new("goods").columns(columns)).await;
            assert!(found.contains(expected), "{found}");
        }
        db.admin.batch_execute("ALTER TABLE goods ALTER COLUMN place SET DEFAULT ''").await.expect("a default");
        db.builder_of("goods.node-1").open_shard(ledger.clone(), [goods()]).await.expect("now it opens");
        db.admin.batch_execute("CREATE TABLE \"Odd, name\" (LIKE goods INCLUDING ALL)").await.expect("a table");
        let odd = ShardTable::new("public.\"Odd, name\"").columns(["id", "pieces"]);
        db.builder_of("goods.node-1").open_shard(ledger.clone(), [odd]).await.expect("it opens");
    });
}

#[test]
fn a_runtime_with_one_thread_is_refused() {
    let Some(db) = RUNTIME.block_on(database()) else { return };
    let ledger = RUNTIME.block_on(Ledger::new(&db.admin));
    let small = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let opened = small.block_on(db.builder_of("goods.node-1").open_shard(ledger.clone(), ledger.records()));
    let error = opened.expect_err("callers would wait forever");
    assert!(error.to_string().contains("new_multi_thread"), "{error}");
    RUNTIME.block_on(async { database().await.map(drop) });
}
