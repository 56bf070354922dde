//! The service of the tests of `tables`: a stock whose steps are not idempotent, so that a step that is done twice is seen.
//!
//! It is that of the same module of `ringpact-mysql`, whose tests run here, too.

use std::sync::Mutex;

use ringpact::{BranchId, ServiceError};
use ringpact_sqlx::{AsyncService, SqlxMySqlTx as MySqlTx};
use sqlx::{Connection as _, Executor as _, MySqlConnection, query, raw_sql};

use crate::tables::Work;

/// What an answer says if the service has swallowed the error of a statement that commits. sqlx shows no error of it.
pub const SWALLOWED_COMMIT: &str = "has ended the transaction";

/// Sells pieces of `stock`: those that are set aside are in `reserved`, those that are sold in `sold`.
#[derive(Debug, Default)]
pub struct Stock {
    /// What each opening has said.
    pub opened: Mutex<Vec<Vec<BranchId>>>,
}

impl AsyncService<MySqlTx> for Stock {
    type Work = Work;

    async fn try_reserve(&self, tx: &mut MySqlTx, branch: &BranchId, work: &Work) -> Result<(), ServiceError> {
        let (what, id, pieces) = work;
        let take =
            query("UPDATE stock SET free = free - ? WHERE id = ? AND free >= ?").bind(pieces).bind(id).bind(pieces);
        if take.execute(&mut **tx).await?.rows_affected() == 0 {
            return Err("out of stock".into());
        }
        let reserve = query("INSERT INTO reserved VALUES (?, ?, ?)").bind(branch.to_string()).bind(id).bind(pieces);
        reserve.execute(&mut **tx).await?;
        match what.as_str() {
            "swallows an error" => drop(tx.execute("INSERT INTO stock VALUES (1, 1)").await),
            "swallows errors" => swallows(tx).await,
            "keeps to what it may" => may(tx).await?,
            "forgets a savepoint" => std::mem::forget(tx.begin().await?),
            "commits and begins" => tx.execute(raw_sql("COMMIT; START TRANSACTION")).await.map(drop)?,
            "commits" => tx.execute(raw_sql("COMMIT")).await.map(drop)?,
            "swallows a commit" => drop(tx.execute(raw_sql("CREATE TABLE made (id INT)")).await),
            "loses its session" => tx.execute(raw_sql("KILL CONNECTION_ID()")).await.map(drop)?,
            _ => {}
        }
        if let Some(sql) = what.strip_prefix("swallows: ") {
            drop(query(sql).execute(&mut **tx).await.expect_err("it fails"));
        }
        if let Some(reason) = what.strip_prefix("refuse: ") { Err(reason.into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut MySqlTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        let id = branch.to_string();
        let sell = query("INSERT INTO sold SELECT * FROM reserved WHERE branch = ?").bind(&id);
        let sold = sell.execute(&mut **tx).await?.rows_affected();
        gives_up(tx, &id, works, sold).await
    }

    async fn cancel(&self, tx: &mut MySqlTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        for (_, id, pieces) in works {
            query("UPDATE stock SET free = free + ? WHERE id = ?").bind(pieces).bind(id).execute(&mut **tx).await?;
        }
        gives_up(tx, &branch.to_string(), works, works.len() as u64).await
    }

    async fn opened(&self, tx: &mut MySqlTx, promised: &[BranchId]) -> Result<(), ServiceError> {
        for branch in promised {
            let reserved = query("SELECT 1 FROM reserved WHERE branch = ?").bind(branch.to_string());
            if reserved.fetch_optional(&mut **tx).await?.is_none() {
                return Err(format!("{branch} has promised, and nothing is reserved").into());
            }
        }
        self.opened.lock().expect("no panic").push(promised.to_vec());
        Ok(())
    }
}

/// Deletes the branch's reservations, which must be as many as its pieces of work.
async fn gives_up(conn: &mut MySqlConnection, id: &str, works: &[Work], found: u64) -> Result<(), ServiceError> {
    let deleted = query("DELETE FROM reserved WHERE branch = ?").bind(id).execute(conn).await?.rows_affected();
    if (deleted, found) == (works.len() as u64, works.len() as u64) {
        return Ok(());
    }
    Err(format!("{id}: {deleted} and {found} reservations for {} pieces of work", works.len()).into())
}

/// Swallows the error of a statement that went back to a savepoint, and goes on.
async fn swallows(conn: &mut MySqlConnection) {
    let mut undone = conn.begin().await.expect("a savepoint");
    drop(query("INSERT INTO stock VALUES (1, 1)").execute(&mut *undone).await.expect_err("it is there"));
    undone.rollback().await.expect("back to the savepoint");
    conn.execute("UPDATE stock SET free = free - 1 WHERE id = 9").await.expect("a row");
}

/// Carries out statements that look as if they failed, and do not.
async fn may(conn: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    let mut kept = conn.begin().await?;
    query("UPDATE stock SET free = free - ? WHERE id = 8").bind(1).execute(&mut *kept).await?;
    {
        let mut undone = kept.begin().await?;
        query("UPDATE stock SET free = free - 1 WHERE id = 9").execute(&mut *undone).await?;
        undone.rollback().await?;
    }
    drop(kept.begin().await?);
    kept.commit().await?;
    conn.execute("INSERT IGNORE INTO stock VALUES (1, 1)").await?;
    conn.execute("INSERT INTO stock VALUES (1, 1) ON DUPLICATE KEY UPDATE free = free").await?;
    conn.execute(raw_sql("DO 1 / 0; SELECT 1 / 0 FROM stock; SELECT * FROM stock LIMIT 0 FOR UPDATE")).await?;
    conn.execute("DELETE FROM stock WHERE id = 1000").await?;
    conn.execute("CREATE TEMPORARY TABLE aside (id INT) ENGINE = InnoDB").await?;
    conn.execute("INSERT INTO aside VALUES (1)").await?;
    conn.execute("DROP TEMPORARY TABLE aside").await?;
    conn.execute("SELECT COUNT(*) FROM information_schema.tables").await.map(drop)
}
