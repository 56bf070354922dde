//! `open_shard`: shards whose records are rows.

use std::sync::{
    LazyLock,
    atomic::{AtomicUsize, Ordering},
};

use ringpact::{
    BranchId, ServiceError, TxnId,
    ring::{KeyHasher as _, Position, Xxh3},
    sharding::Keyed,
};
use ringpact_postgres::{AsyncService, PgShard, PgTx, ShardTable, column_of, set_up_shards, tokio_postgres::Client};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::support::{Db, PgBuilder};

mod branches;
mod cluster;
mod conformance;
mod opening;
mod records;

/// The runtime of these tests. Shards block, so the tests are no tasks of it.
pub(crate) static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
});

/// Positions at which mistakes show: at both ends, in the middle, and two equal ones.
const PLACES: [u64; 14] = [
    0,
    u64::MAX,
    1,
    u64::MAX - 1,
    1 << 62,
    1 << 63,
    (1 << 63) + 1,
    (1 << 63) - 1,
    9 << 60,
    11 << 60,
    1 << 40,
    3 << 60,
    7 << 61,
    7 << 61,
];

/// The last two of [`PLACES`].
pub(crate) const EQUAL: [u32; 2] = [12, 13];

pub(crate) fn position(key: u32) -> Position {
    let place = PLACES.get(key as usize).map(|place| Position::new(*place));
    place.unwrap_or_else(|| Xxh3::default().hash_key(&key.to_le_bytes()))
}

/// Adds to the sum of a key, and writes a line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Add {
    pub(crate) key: u32,
    pub(crate) amount: i64,
}

impl Keyed for Add {
    fn position(&self) -> Position {
        position(self.key)
    }
}

/// The service of these tests, over the tables `sum_x`, `line_x` and `held_x`. Its steps are not idempotent, so one that is done
/// twice is seen.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    tables: String,
}

impl Ledger {
    /// Makes the tables, under names of their own.
    pub(crate) async fn new(admin: &Client) -> Self {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let x = MADE.fetch_add(1, Ordering::SeqCst).to_string();
        let tables = format!(
            "CREATE TABLE sum_{x} (id integer PRIMARY KEY, position bigint NOT NULL, sum bigint NOT NULL, \
             seen boolean NOT NULL DEFAULT false); \
             CREATE TABLE line_{x} (id integer NOT NULL REFERENCES sum_{x}, position bigint NOT NULL, \
             \"What, and why\" text, at timestamptz, ratio double precision, raw bytea); \
             CREATE TABLE held_{x} (branch text NOT NULL, id integer NOT NULL, amount bigint NOT NULL); \
             CREATE INDEX ON sum_{x} (position); CREATE INDEX ON line_{x} (position)"
        );
        admin.batch_execute(&tables).await.expect("tables");
        Self { tables: x }
    }

    pub(crate) fn records(&self) -> [ShardTable; 2] {
        [
            ShardTable::new(format!("sum_{}", self.tables)).columns(["id", "sum"]),
            ShardTable::new(format!("line_{}", self.tables)).columns(["id", "What, and why", "at", "ratio", "raw"]),
        ]
    }

    pub(crate) async fn open(&self, builder: PgBuilder) -> PgShard<Self> {
        builder.open_shard(self.clone(), self.records()).await.expect("a shard")
    }

    /// Replaces the names of tables in a statement.
    pub(crate) fn sql(&self, statement: &str) -> String {
        statement.replace("_x", &format!("_{}", self.tables))
    }

    /// Returns what there is of a key.
    pub(crate) async fn seen(&self, admin: &Client, key: u32) -> Option<String> {
        let query = self.sql(
            "SELECT sum_x.sum || ' ' || coalesce((SELECT string_agg(concat_ws('/', \"What, and why\", at, ratio, raw), '+' \
             ORDER BY line_x::text) FROM line_x WHERE line_x.id = sum_x.id), '') FROM sum_x WHERE id = $1",
        );
        admin.query_opt(&query, &[&(key as i32)]).await.expect("a row or none").map(|row| row.get(0))
    }

    pub(crate) async fn held(&self, admin: &Client) -> i64 {
        admin.query_one(&self.sql("SELECT count(*) FROM held_x"), &[]).await.expect("a number").get(0)
    }
}

/// Texts that a row must bring along as they are.
const TEXTS: [Option<&str>; 5] = [None, Some(""), Some("\\N"), Some("a\tb\nc\\d\r"), Some("\u{1f980} {},\"'")];

impl AsyncService<PgTx> for Ledger {
    type Work = Add;

    async fn try_reserve(&self, tx: &mut PgTx, branch: &BranchId, work: &Add) -> Result<(), ServiceError> {
        if work.amount < 0 {
            let query = "SELECT sum + (SELECT coalesce(sum(least(amount, 0)), 0)::bigint FROM held_x WHERE id = $1) \
                         FROM sum_x WHERE id = $1 FOR UPDATE";
            let free = tx.query_opt(&self.sql(query), &[&(work.key as i32)]).await?;
            if free.is_none_or(|row| row.get::<_, i64>(0) + work.amount < 0) {
                return Err("too little is left".into());
            }
        }
        let hold = self.sql("INSERT INTO held_x VALUES ($1, $2, $3)");
        tx.execute(&hold, &[&branch.txn().to_string(), &(work.key as i32), &work.amount]).await?;
        Ok(())
    }

    async fn confirm(&self, tx: &mut PgTx, branch: &BranchId, works: &[Add]) -> Result<(), ServiceError> {
        for work in works {
            self.give_up(tx, branch.txn(), work).await?;
            let add = "INSERT INTO sum_x AS known (id, position, sum) VALUES ($1, $2, $3) \
                       ON CONFLICT (id) DO UPDATE SET sum = known.sum + excluded.sum";
            let (id, at) = (work.key as i32, column_of(work.position()));
            tx.execute(&self.sql(add), &[&id, &at, &work.amount]).await?;
            let text = TEXTS[work.amount.unsigned_abs() as usize % TEXTS.len()];
            let line =
                "INSERT INTO line_x VALUES ($1, $2, $3, to_timestamp(($4::bigint)::double precision), $4 / 3.0, $5)";
            tx.execute(&self.sql(line), &[&id, &at, &text, &work.amount, &work.amount.to_le_bytes().as_slice()])
                .await?;
        }
        Ok(())
    }

    async fn cancel(&self, tx: &mut PgTx, branch: &BranchId, works: &[Add]) -> Result<(), ServiceError> {
        for work in works {
            self.give_up(tx, branch.txn(), work).await?;
        }
        Ok(())
    }
}

impl Ledger {
    async fn give_up(&self, tx: &mut PgTx, txn: &TxnId, work: &Add) -> Result<(), ServiceError> {
        let delete =
            "DELETE FROM held_x WHERE ctid = (SELECT min(ctid) FROM held_x WHERE (branch, id, amount) = ($1, $2, $3))";
        let parameters: [&(dyn ringpact_postgres::tokio_postgres::types::ToSql + Sync); 3] =
            [&txn.to_string(), &(work.key as i32), &work.amount];
        match tx.execute(&self.sql(delete), &parameters).await? {
            1 => Ok(()),
            found => Err(format!("{txn}: {found} reservations for {work:?}").into()),
        }
    }
}

/// A database for shards.
pub(crate) async fn database() -> Option<Db> {
    let db = Db::new().await?;
    set_up_shards(&db.admin).await.expect("the set-up");
    Some(db)
}
