//! The service of the tests of `tables`: a stock whose steps are not idempotent, so that a step that is done twice is seen.
//!
//! It is that of the same module of `ringpact-postgres`, whose tests run here, too.

use std::sync::Mutex;

use ringpact::{BranchId, ServiceError};
use ringpact_sqlx::{AsyncService, SqlxPgTx as PgTx};
use sqlx::{Connection as _, Executor as _, PgConnection, Postgres, postgres::PgArguments, query::Query, raw_sql};

use crate::tables::Work;

/// Sells pieces of `stock`: those that are set aside are in `reserved`, those that are sold in `sold`.
#[derive(Default)]
pub(crate) struct Stock {
    /// What each opening has said.
    pub(crate) opened: Mutex<Vec<Vec<BranchId>>>,
}

/// Returns a query that leaves no prepared statement in the session, because a proxy may give it to others.
fn query(sql: &str) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

impl AsyncService<PgTx> for Stock {
    type Work = Work;

    async fn try_reserve(&self, tx: &mut PgTx, branch: &BranchId, work: &Work) -> Result<(), ServiceError> {
        let (what, id, pieces) = work;
        let take = "UPDATE stock SET free = free - $2 WHERE id = $1 AND free >= $2";
        if query(take).bind(id).bind(pieces).execute(&mut **tx).await?.rows_affected() == 0 {
            return Err("out of stock".into());
        }
        let reserve = "INSERT INTO reserved VALUES ($1, $2, $3)";
        query(reserve).bind(branch.to_string()).bind(id).bind(pieces).execute(&mut **tx).await?;
        match what.as_str() {
            "swallows an error" => drop(tx.execute("SELECT 1 / 0").await),
            "goes back to a savepoint" => goes_back(tx).await?,
            "forgets a savepoint" => std::mem::forget(tx.begin().await?),
            "commits" => tx.execute("COMMIT").await.map(drop)?,
            "rolls back" => tx.execute(raw_sql("ROLLBACK; BEGIN")).await.map(drop)?,
            "loses its session" => tx.execute("SELECT pg_terminate_backend(pg_backend_pid())").await.map(drop)?,
            "waits" => tx.execute("SELECT pg_sleep(3)").await.map(drop)?,
            _ => {}
        }
        if let Some(reason) = what.strip_prefix("refuse: ") { Err(reason.into()) } else { Ok(()) }
    }

    async fn confirm(&self, tx: &mut PgTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        let id = branch.to_string();
        let sell = query("INSERT INTO sold SELECT * FROM reserved WHERE branch = $1").bind(&id);
        let sold = sell.execute(&mut **tx).await?.rows_affected();
        gives_up(tx, &id, works, sold).await
    }

    async fn cancel(&self, tx: &mut PgTx, branch: &BranchId, works: &[Work]) -> Result<(), ServiceError> {
        for (_, id, pieces) in works {
            let give_back = query("UPDATE stock SET free = free + $2 WHERE id = $1").bind(id).bind(pieces);
            give_back.execute(&mut **tx).await?;
        }
        gives_up(tx, &branch.to_string(), works, works.len() as u64).await
    }

    async fn opened(&self, tx: &mut PgTx, promised: &[BranchId]) -> Result<(), ServiceError> {
        for branch in promised {
            let reserved = query("SELECT 1 FROM reserved WHERE branch = $1").bind(branch.to_string());
            if reserved.fetch_optional(&mut **tx).await?.is_none() {
                return Err(format!("{branch} has promised, and nothing is reserved").into());
            }
        }
        self.opened.lock().expect("no panic").push(promised.to_vec());
        Ok(())
    }
}

/// Deletes the branch's reservations, which must be as many as its pieces of work.
async fn gives_up(conn: &mut PgConnection, id: &str, works: &[Work], found: u64) -> Result<(), ServiceError> {
    let deleted = query("DELETE FROM reserved WHERE branch = $1").bind(id).execute(conn).await?.rows_affected();
    if (deleted, found) == (works.len() as u64, works.len() as u64) {
        return Ok(());
    }
    Err(format!("{id}: {deleted} and {found} reservations for {} pieces of work", works.len()).into())
}

/// Does what is to be kept in a savepoint, and what is not in another one.
async fn goes_back(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut kept = conn.begin().await?;
    query("UPDATE stock SET free = free - 1 WHERE id = 8").execute(&mut *kept).await?;
    {
        let mut undone = kept.begin().await?;
        query("UPDATE stock SET free = free - 1 WHERE id = 9").execute(&mut *undone).await?;
        drop(query("UPDATE stock SET free = -1").execute(&mut *undone).await);
        undone.rollback().await?;
    }
    kept.commit().await
}
