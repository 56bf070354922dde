//! Options of a participant, and its opening: [`SqlxBuilder`].

use std::fmt;

use ringpact::{
    Name,
    participant::{
        tables::{AsyncService, TableParticipant},
        xa::{DEFAULT_MAX_PROMISES, XaOptions, XaParticipant},
    },
};
use ringpact_sql::{BranchTimeouts, mysql::CONTROL_CONNECTIONS, postgres::DEFAULT_SCHEMA};
use sqlx::Pool;

use crate::{SqlxDatabase, SqlxOpenError, SqlxParticipant, SqlxTables, SqlxTx, database::Wanted};

/// Options of a participant that is to be opened; see [`SqlxParticipant::builder`].
#[must_use = "a builder does nothing until `open`"]
pub struct SqlxBuilder<DB: SqlxDatabase> {
    name: String,
    pool: Option<Pool<DB>>,
    control_connections: u32,
    max_promises: usize,
    timeouts: BranchTimeouts,
    accepts_loss: bool,
    is_last_resource: bool,
    schema: String,
}

impl<DB: SqlxDatabase> SqlxBuilder<DB> {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pool: None,
            control_connections: CONTROL_CONNECTIONS as u32,
            max_promises: DEFAULT_MAX_PROMISES,
            timeouts: BranchTimeouts::default(),
            accepts_loss: false,
            is_last_resource: false,
            schema: DEFAULT_SCHEMA.to_owned(),
        }
    }

    /// Takes the branches' connections from this pool. It may be used for other things, too.
    pub fn pool(mut self, pool: Pool<DB>) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Number of connections that end promises and sessions, besides the pool's; 4 if nothing else is said. They have the pool's
    /// connect options, and none of its hooks. More help when very many branches commit at once.
    pub const fn control_connections(mut self, connections: u32) -> Self {
        self.control_connections = connections;
        self
    }

    /// Maximum number of promises of this process that wait for their decision; [`DEFAULT_MAX_PROMISES`] if nothing else is said.
    /// Above it no branch begins, with an error that may pass.
    ///
    /// In PostgreSQL the server's `max_prepared_transactions` must be at least as high: add up all processes and participants of
    /// one server. In MariaDB and MySQL each promise holds its connection, so the pool must have more.
    pub const fn max_promises(mut self, promises: usize) -> Self {
        self.max_promises = promises;
        self
    }

    /// How long a branch may keep its locks without a step forward. The pool's own time-out for `acquire` holds, too.
    pub const fn timeouts(mut self, timeouts: BranchTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Accepts a server that may lose promises and commits in a crash, because it does not write them to disk at once.
    /// Transactions can then be torn: use it for tests only.
    pub const fn accept_loss(mut self) -> Self {
        self.accepts_loss = true;
        self
    }

    /// Opens the participant as a last resource only, for a database without prepared transactions. A transaction can have one
    /// such participant. Register it with
    /// [`async_last_resource`](ringpact::txn::CoordinatorBuilder::async_last_resource); a coordinator does not open with it as an
    /// ordinary participant, and it votes No on each prepare.
    pub const fn last_resource(mut self) -> Self {
        self.is_last_resource = true;
        self
    }

    /// Opens the participant: checks the server, the database and its user, and asks which coordinators are known.
    ///
    /// # Errors
    ///
    /// As [`SqlxOpenError`] lists. Each says what to change.
    pub async fn open(self) -> Result<SqlxParticipant<DB>, SqlxOpenError> {
        let name = self.name.clone();
        let options = XaOptions::default().max_promises(self.max_promises);
        let options = if self.is_last_resource { options.last_resource() } else { options };
        let backend = self.backend(false).await?;
        Ok(SqlxParticipant::new(XaParticipant::open(&name, backend, options).await?))
    }

    /// Opens a participant whose service has its reservations in tables of the database, instead of prepared transactions. See
    /// [`SqlxTables`] for an example.
    ///
    /// [`max_promises`](Self::max_promises) and [`last_resource`](Self::last_resource) say nothing here: a promise is a row, and
    /// holds neither a connection nor a lock. PostgreSQL need not allow prepared transactions, and MySQL wants no
    /// `XA_RECOVER_ADMIN`. Checks the rest as [`open`](Self::open) does, and the table of branches. Tells the service what is
    /// promised ([`AsyncService::opened`]).
    ///
    /// # Errors
    ///
    /// As [`SqlxOpenError`] lists. Each says what to change.
    pub async fn open_tables<S: AsyncService<SqlxTx<DB>>>(
        self,
        service: S,
    ) -> Result<TableParticipant<SqlxTables<DB>, S>, SqlxOpenError> {
        let name = self.name.clone();
        let backend = self.max_promises(0).backend(true).await?;
        Ok(TableParticipant::open(name, DB::tables(backend), service).await?)
    }

    /// Checks the database.
    async fn backend(self, is_for_tables: bool) -> Result<DB::Backend, SqlxOpenError> {
        let participant = Name::new(&self.name)?;
        let Some(pool) = self.pool else { return Err(SqlxOpenError::NoPool { participant: self.name }) };
        let wanted = Wanted {
            participant,
            pool,
            control_connections: self.control_connections.max(1),
            max_promises: self.max_promises,
            is_last_resource: self.is_last_resource,
            timeouts: self.timeouts,
            accepts_loss: self.accepts_loss,
            schema: self.schema,
            is_for_tables,
        };
        DB::backend(wanted).await
    }
}

#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
impl SqlxBuilder<sqlx::Postgres> {
    /// Name of the schema with the participant's own tables; `ringpact` if nothing else is said.
    pub fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }
}

impl<DB: SqlxDatabase> fmt::Debug for SqlxBuilder<DB> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlxBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}
