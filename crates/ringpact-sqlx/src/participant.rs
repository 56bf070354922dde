//! A database as a participant: [`SqlxParticipant`].

use std::{error::Error as StdError, fmt, future::Future};

use ringpact::{
    BranchId, Name, Transaction,
    participant::{
        Decision,
        xa::{AsXa, Prepared, XaError, XaParticipant, XaStatus, XaWorkError},
    },
};
use sqlx::Pool;

use crate::{SqlxBranch, SqlxBuilder, SqlxDatabase};

/// A database as a participant, over sqlx. Cheap to clone: clones share one participant.
///
/// Register it with [`async_participant`](ringpact::txn::CoordinatorBuilder::async_participant) under its own name, and work
/// through [`branch`](Self::branch).
///
/// Register it on the runtime on which it was opened, and drop it and its branches there: connections belong to a runtime. Each
/// process that opens the same database under the same name is the same participant. Two participants need two names.
///
/// ```no_run
/// # #[cfg(feature = "postgres")]
/// # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use ringpact::{Coordinator, FileLog};
/// use ringpact_sqlx::SqlxPgParticipant;
///
/// let goods = SqlxPgParticipant::builder("goods").pool(pool).open().await?;
/// let shop = Coordinator::builder(FileLog::open("shop.log")?)
///     .name("shop")
///     .async_participant("goods", goods.clone(), tokio::runtime::Handle::current())
///     .open()?;
/// let mut txn = shop.begin_async().await;
/// let mut branch = goods.branch(&mut txn).await?;
/// sqlx::query("UPDATE stock SET free = free - 1 WHERE id = $1").bind(7_i64).execute(&mut *branch).await?;
/// drop(branch);
/// txn.commit().await?;
/// # Ok(())
/// # }
/// ```
pub struct SqlxParticipant<DB: SqlxDatabase>(XaParticipant<DB::Backend>);

impl<DB: SqlxDatabase> SqlxParticipant<DB> {
    /// The statements that prepare a database. They may be run again at any time. They are the same as those of
    /// `ringpact-postgres` or `ringpact-mysql`.
    pub const SETUP_SQL: &'static str = DB::SETUP;

    /// Returns the options of a participant of this name. Give it a pool, then call [`open`](SqlxBuilder::open).
    ///
    /// The name is stable: a database that comes back under another name is another participant.
    pub fn builder(name: &str) -> SqlxBuilder<DB> {
        SqlxBuilder::new(name)
    }

    pub(crate) const fn new(participant: XaParticipant<DB::Backend>) -> Self {
        Self(participant)
    }

    /// Runs [`SETUP_SQL`](Self::SETUP_SQL) in the pool's database.
    ///
    /// # Errors
    ///
    /// The database's own, for example if the role may not create tables.
    pub async fn setup(pool: &Pool<DB>) -> Result<(), sqlx::Error> {
        DB::run(pool, DB::SETUP).await
    }

    /// Returns the participant's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// Lets this participant take part in the transaction, and begins its branch in the database, or continues it. Waits
    /// while another task has the branch, and up to 10 s for a connection of the pool.
    ///
    /// Drop what is returned before the transaction commits: while it lives, the branch votes No.
    ///
    /// # Errors
    ///
    /// As [`XaWorkError`] lists. The transaction can then only be rolled back.
    pub fn branch(
        &self,
        txn: &mut Transaction,
    ) -> impl Future<Output = Result<SqlxBranch<DB>, XaWorkError>> + Send + use<DB> {
        let branch = self.0.branch(txn);
        async move { branch.await.map(SqlxBranch) }
    }

    /// Like [`branch`](Self::branch), for the branch of a transaction whose coordinator is in another process.
    ///
    /// Do all work of a branch in one life of this process. If the process is restarted in the middle, the database undoes
    /// the work done so far, and a later call begins the branch again without a word: it can't tell.
    ///
    /// # Errors
    ///
    /// As for [`branch`](Self::branch).
    pub async fn work(&self, branch: &BranchId) -> Result<SqlxBranch<DB>, XaWorkError> {
        self.0.work(branch).await.map(SqlxBranch)
    }

    /// Whether the error, or one that it comes from, may pass if the whole transaction is tried again: a serialization
    /// failure, a deadlock, a lock that did not come free in time, a lack of room, a lost connection, a server that is away.
    #[must_use]
    pub fn is_transient(error: &(dyn StdError + 'static)) -> bool {
        DB::is_transient(error)
    }

    /// Returns what this participant is doing, as far as this process knows. Does not ask the database.
    #[must_use]
    pub fn status(&self) -> XaStatus {
        self.0.status()
    }

    /// Returns this participant's prepared transactions in the database that none of these coordinators has made: promises
    /// that only a lost coordinator, or an operator, can end.
    ///
    /// # Errors
    ///
    /// The database could not be asked.
    pub async fn orphans(&self, coordinators: &[Name]) -> Result<Vec<Prepared>, XaError> {
        DB::knows(self.0.backend(), coordinators);
        self.0.orphans(coordinators).await
    }

    /// Ends a prepared transaction by an operator's decision. Its coordinator, if there still is one, hears of a heuristic
    /// outcome when it decides otherwise.
    ///
    /// # Errors
    ///
    /// [`NotThere`](ringpact::participant::xa::XaErrorKind::NotThere) if there is none with this id, and what else the database
    /// says.
    pub async fn settle(&self, id: &str, decision: Decision) -> Result<(), XaError> {
        self.0.settle(id, decision).await
    }

    /// Begins no more branches, and rolls back those that have promised nothing, except those that a client works under.
    /// Promises stay in the database, and the next opening settles them.
    pub async fn shutdown(&self) {
        self.0.shutdown().await;
    }
}

impl<DB: SqlxDatabase> AsXa for SqlxParticipant<DB> {
    type Backend = DB::Backend;

    fn as_xa(&self) -> &XaParticipant<DB::Backend> {
        &self.0
    }
}

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
impl SqlxParticipant<sqlx::Postgres> {
    /// Returns [`SETUP_SQL`](Self::SETUP_SQL) for a schema of another name.
    ///
    /// # Errors
    ///
    /// [`SqlxOpenError::Schema`](crate::SqlxOpenError::Schema) if the name would need quotes.
    pub fn setup_sql_for(schema: &str) -> Result<String, crate::SqlxOpenError> {
        Ok(ringpact_sql::postgres::setup_sql(schema)?)
    }
}

impl<DB: SqlxDatabase> Clone for SqlxParticipant<DB> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<DB: SqlxDatabase> fmt::Debug for SqlxParticipant<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxParticipant").field("name", self.name()).finish_non_exhaustive()
    }
}
