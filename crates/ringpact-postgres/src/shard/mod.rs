//! Shards in a database: [`PgShard`], whose records are rows with a position, and move to other databases while clients
//! write.
//!
//! | file, in reading order | what is in it |
//! |---|---|
//! | `mod.rs` | [`PgShard`], as a service and as a shard |
//! | `table.rs` | [`ShardTable`]: which rows are records, and how a position is stored |
//! | `branches.rs` | try, confirm and cancel, each once, with the branch's row in the same transaction |
//! | `records.rs` | export, import and discard |
//! | `image.rs` | which ranges the shard owns, and the fence against an earlier process |
//! | `step.rs` | one transaction of the database, from a thread that blocks |
//! | `check.rs`, `setup.sql` | what is checked at opening, and the shards' own tables |

use std::{error::Error as StdError, fmt, sync::Arc};

use ringpact::{
    BranchId, Name, Service, ServiceError, TxnOrdinal,
    participant::{
        tables::{AsyncService, TableBackend as _},
        xa::XaError,
    },
    ring::PositionRange,
    sharding::{Export, GateImage, GateNote, Keyed, Records, Shard},
};
use ringpact_sql::{BranchTimeouts, postgres::SETUP_SQL};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_postgres::Client;

use crate::{
    PgTables, PgTx,
    error::{PgOpenError, failure},
};

mod branches;
mod check;
mod image;
mod records;
mod step;
mod table;

use step::Failure;
use table::Resolved;
pub use table::{ShardTable, column_of, position_of};

/// The shards' own tables, for the schema `ringpact`.
const SHARD_SQL: &str = include_str!("setup.sql");

/// A shard whose records are rows of tables in a PostgreSQL database. Made by
/// [`PgBuilder::open_shard`](crate::PgBuilder::open_shard), and given to a
/// [`ShardHost`](ringpact::sharding::ShardHost).
///
/// The service writes *try*, *confirm* and *cancel* in SQL over its own columns, as for [`PgTables`]: none of them needs to be
/// idempotent. The shard moves the rows.
///
/// ```no_run
/// use std::{num::NonZeroUsize, sync::Arc};
///
/// use ringpact::{
///     BranchId, FileLog, HashRing, ServiceError,
///     ring::{KeyHasher, NodeId, Position, Xxh3},
///     sharding::{Cluster, Connection, FileRingStore, Keyed, ShardHost, shard_name},
/// };
/// use ringpact_postgres::{AsyncService, PgParticipant, PgTx, ShardTable, column_of};
///
/// #[derive(Clone, serde::Serialize, serde::Deserialize)]
/// struct Take { article: i64, pieces: i64 }
///
/// impl Keyed for Take {
///     fn position(&self) -> Position {
///         Xxh3::default().hash_key(&self.article.to_le_bytes())
///     }
/// }
///
/// /// Table `stock (id bigint PRIMARY KEY, position bigint NOT NULL, pieces bigint NOT NULL, held bigint NOT NULL DEFAULT 0)`,
/// /// and `CREATE INDEX ON stock (position)`.
/// struct Stock;
///
/// impl AsyncService<PgTx> for Stock {
///     type Work = Take;
///
///     async fn try_reserve(&self, tx: &mut PgTx, _: &BranchId, take: &Take) -> Result<(), ServiceError> {
///         let hold = "UPDATE stock SET held = held + $2 WHERE id = $1 AND pieces - held >= $2";
///         if tx.execute(hold, &[&take.article, &take.pieces]).await? == 1 { Ok(()) } else { Err("sold out".into()) }
///     }
///
///     async fn confirm(&self, tx: &mut PgTx, _: &BranchId, takes: &[Take]) -> Result<(), ServiceError> {
///         for take in takes {
///             let sell = "UPDATE stock SET pieces = pieces - $2, held = held - $2 WHERE id = $1";
///             tx.execute(sell, &[&take.article, &take.pieces]).await?;
///         }
///         Ok(())
///     }
///
///     async fn cancel(&self, tx: &mut PgTx, _: &BranchId, takes: &[Take]) -> Result<(), ServiceError> {
///         for take in takes {
///             tx.execute("UPDATE stock SET held = held - $2 WHERE id = $1", &[&take.article, &take.pieces]).await?;
///         }
///         Ok(())
///     }
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// // `held` is not among the columns: a range is handed over when nothing is held in it.
/// let table = ShardTable::new("stock").columns(["id", "pieces"]);
/// let config = "host=db1 user=shop dbname=goods".parse()?;
/// let shard = PgParticipant::builder("goods.node-1").config(config).open_shard(Stock, [table]).await?;
/// // From here on threads block, so this is not for a thread of the runtime.
/// let host = Arc::new(ShardHost::open("goods.node-1", FileLog::open("goods.log")?, shard)?);
/// # let _: (Connection<Take>, _) = (Connection::slow(host, NonZeroUsize::new(8).unwrap()), column_of(Position::MAX));
/// # Ok(())
/// # }
/// ```
///
/// # What to know
///
/// - **The position is a column** of type `bigint`, `NOT NULL`, with an index. A row that is made gets
///   [`column_of`]`(work.position())`. See there why it is `bigint`.
/// - **What is set aside is no record.** Keep it in columns that [`ShardTable::columns`] leaves out, or in a table of its own.
/// - **A branch's confirm and cancel take effect once**: the branch's row (`ringpact.branch`) is written in the same
///   transaction. A commit whose answer was lost is found there. Rows go when the host takes a checkpoint.
/// - **Each transaction is at *read committed***, whatever the role's default is: a read that decides something must lock, or be
///   part of the `UPDATE`.
/// - **One process has a shard.** An opening waits until transactions of an earlier process have ended, and any that comes
///   later does nothing. Two shards in one database need two names, and tables of their own.
/// - **Calls block** a thread for as long as the database takes, at most for the [`BranchTimeouts`]: connect hosts by
///   [`Connection::slow`](ringpact::sharding::Connection::slow), or run each in a process of its own. The runtime must have
///   several threads. A call from one of its own threads moves that thread's other tasks away first.
/// - **Behind a proxy that pools transactions** it does not work, because rows move by `COPY`.
/// - Triggers of the tables run for rows that arrive. What they change makes the shard refuse the chunk, because it is not what
///   was sent.
pub struct PgShard<S> {
    name: Name,
    tables: PgTables,
    service: S,
    records: Vec<Resolved>,
    runtime: Handle,
    timeouts: BranchTimeouts,
    schema: String,
    /// The first statements of each transaction.
    fence: String,
    opening: String,
}

/// Why a piece of work was not done.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum PgShardRefusal {
    /// The service has refused the work, or failed in it.
    #[error("the service has not reserved what the work needs")]
    Service(#[source] Arc<dyn StdError + Send + Sync>),
    /// The database has not done the work.
    #[error("the database has not done the work")]
    Database(#[source] XaError),
}

impl<S> PgShard<S> {
    /// Returns the statements that prepare a database for shards, for the schema `ringpact`. They may be run again at any time.
    #[must_use]
    pub fn setup_sql() -> String {
        format!("{SETUP_SQL}{SHARD_SQL}")
    }

    /// Returns the shard's name, which its host must have, too.
    #[must_use]
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the service.
    #[must_use]
    pub const fn service(&self) -> &S {
        &self.service
    }
}

/// Runs the set-up for shards in the client's database, as one transaction; see [`PgShard::setup_sql`].
///
/// # Errors
///
/// The database's own, for example if the role may not create a schema.
pub async fn set_up_shards(client: &Client) -> Result<(), XaError> {
    let run = client.batch_execute(&PgShard::<()>::setup_sql()).await;
    run.map_err(|error| failure(error, ringpact_sql::postgres::During::Repeatable))
}

impl<S: AsyncService<PgTx, Work: Keyed + Clone>> PgShard<S> {
    pub(crate) async fn open(
        name: Name,
        tables: PgTables,
        service: S,
        records: Vec<ShardTable>,
        timeouts: BranchTimeouts,
        schema: String,
    ) -> Result<Self, PgOpenError> {
        let runtime = check::runtime()?;
        let fence = image::fence(&name, &schema);
        let mut shard = Self {
            name,
            tables,
            service,
            records: Vec::new(),
            runtime,
            timeouts,
            schema,
            fence,
            opening: String::new(),
        };
        shard.records = shard.check(&records).await?;
        shard.opening = shard.begin_opening().await?;
        Ok(shard)
    }
}

impl<S: AsyncService<PgTx, Work: Keyed + Clone>> Service for PgShard<S> {
    type Work = S::Work;
    type Refusal = PgShardRefusal;

    fn try_reserve(&self, branch: &BranchId, work: &S::Work) -> Result<(), PgShardRefusal> {
        self.block(self.reserve(branch, work)).map_err(|failure| match failure {
            Failure::Database(error) => PgShardRefusal::Database(error),
            Failure::Service(error) => PgShardRefusal::Service(error.into()),
        })
    }

    fn confirm(&self, branch: &BranchId, works: &[S::Work]) -> Result<(), ServiceError> {
        Ok(self.block(self.confirm_once(branch, works))?)
    }

    fn cancel(&self, branch: &BranchId, _: &[S::Work]) -> Result<(), ServiceError> {
        // The row says what was set aside.
        Ok(self.block(self.cancel_once(branch))?)
    }

    fn dooms(&self, refusal: &PgShardRefusal) -> bool {
        match refusal {
            PgShardRefusal::Service(error) => self.service.dooms(&**error),
            // It may have been done, if only the answer was lost.
            PgShardRefusal::Database(_) => true,
        }
    }

    fn is_transient(&self, refusal: &PgShardRefusal) -> bool {
        self.tables.is_transient(refusal)
    }

    fn restore(&self, branch: &BranchId, works: &[S::Work]) -> Result<(), ServiceError> {
        Ok(self.block(self.restore_once(branch, works))?)
    }

    fn opened(&self, promised: &[BranchId]) -> Result<(), ServiceError> {
        Ok(self.block(self.give_back_void(promised))?)
    }

    fn forget_below(&self, coordinator: &Name, below: TxnOrdinal) {
        // What stays costs only space, and goes at a later checkpoint.
        let _ = self.block(self.forget(coordinator, below));
    }
}

impl<S: AsyncService<PgTx, Work: Keyed + Clone>> Shard for PgShard<S> {
    fn export(&self, range: PositionRange, into: &mut Export) -> Result<(), ServiceError> {
        Ok(self.block(self.export_to(range, into))?)
    }

    fn import(&self, range: PositionRange, records: Records<'_>) -> Result<(), ServiceError> {
        Ok(self.block(self.import_from(range, records))?)
    }

    fn discard(&self, range: PositionRange) -> Result<(), ServiceError> {
        Ok(self.block(self.delete(range))?)
    }

    fn load(&self) -> Result<GateImage, ServiceError> {
        Ok(self.block(self.image())?)
    }

    fn save(&self, _: &mut dyn FnMut() -> GateImage) -> Result<(), ServiceError> {
        // Data and notes are durable already. The image takes the notes in, so that they do not pile up.
        Ok(self.block(self.fold_notes())?)
    }

    fn note(&self, note: &GateNote) -> Result<(), ServiceError> {
        Ok(self.block(self.append_note(note))?)
    }
}

impl<S> fmt::Debug for PgShard<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgShard").field("name", &self.name).field("records", &self.records).finish_non_exhaustive()
    }
}
