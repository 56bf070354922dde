//! Options of a participant, and its opening: [`PgBuilder`].

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool::managed::QueueMode;
use deadpool_postgres::{ClientWrapper, Hook, HookError, Manager, Metrics, Pool};
use ringpact::{
    Name,
    participant::{
        tables::{AsyncService, TableParticipant},
        xa::{DEFAULT_MAX_PROMISES, XaOptions, XaParticipant},
    },
    sharding::Keyed,
};
use ringpact_sql::{
    BranchTimeouts,
    postgres::{DEFAULT_SCHEMA, Wanted, check, check_for_tables, check_schema, presets},
};
use tokio_postgres::{Config, NoTls};

use crate::{
    PgBackend, PgParticipant, PgShard, PgTables, PgTx, ShardTable,
    control::{Control, DEFAULT_CONNECTIONS},
    error::PgOpenError,
};

/// Time after its last branch began for which a connection counts as alive without being asked.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Number of connections of a pool that the participant makes itself.
const DEFAULT_POOL: usize = 16;

/// Options of a participant that is to be opened; see [`PgParticipant::builder`].
#[must_use = "a builder does nothing until `open`"]
pub struct PgBuilder {
    name: String,
    pool: Option<Pool>,
    config: Option<Config>,
    connections: usize,
    control_connections: usize,
    max_promises: usize,
    is_last_resource: bool,
    timeouts: BranchTimeouts,
    schema: String,
    may_lose_promises: bool,
}

impl PgBuilder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pool: None,
            config: None,
            connections: DEFAULT_POOL,
            control_connections: DEFAULT_CONNECTIONS,
            max_promises: DEFAULT_MAX_PROMISES,
            is_last_resource: false,
            timeouts: BranchTimeouts::default(),
            schema: DEFAULT_SCHEMA.to_owned(),
            may_lose_promises: false,
        }
    }

    /// Takes the branches' connections from this pool: the way to TLS. Its `recycling_method` may stay `Fast`.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pool = Some(pool);
        self
    }

    /// Makes a pool of connections without TLS by this configuration, if no pool is given.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Number of connections of the pool that the participant makes itself; 16 if nothing else is said.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Number of connections that end promises and sessions, besides the pool's; 4 if nothing else is said. More help when
    /// very many branches commit at once.
    pub fn control_connections(mut self, connections: usize) -> Self {
        self.control_connections = connections;
        self
    }

    /// Maximum number of promises of this process that wait for their decision. The server's `max_prepared_transactions` must
    /// be at least as high: add up all processes and participants of one server. [`DEFAULT_MAX_PROMISES`] if nothing else is
    /// said.
    pub fn max_promises(mut self, promises: usize) -> Self {
        self.max_promises = promises;
        self
    }

    /// Opens the participant as a last resource only, for a database without prepared transactions
    /// (`max_prepared_transactions = 0`). A transaction can have one such participant. Register it with
    /// [`async_last_resource`](ringpact::txn::CoordinatorBuilder::async_last_resource); a coordinator does not open with it as
    /// an ordinary participant, and it votes No on each prepare.
    pub fn last_resource(mut self) -> Self {
        self.is_last_resource = true;
        self
    }

    /// How long a branch may keep its locks without a step forward.
    pub fn timeouts(mut self, timeouts: BranchTimeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// Name of the schema with the participant's own tables; `ringpact` if nothing else is said.
    pub fn schema(mut self, schema: &str) -> Self {
        schema.clone_into(&mut self.schema);
        self
    }

    /// Opens even if the server does not sync what it writes, so that a crash of its machine loses promises. For tests.
    pub fn accept_fsync_off(mut self) -> Self {
        self.may_lose_promises = true;
        self
    }

    /// Opens the participant: checks the server, the database and the role, and asks which coordinators are known.
    ///
    /// # Errors
    ///
    /// As [`PgOpenError`] lists. Each says what to change.
    pub async fn open(self) -> Result<PgParticipant, PgOpenError> {
        let name = self.name.clone();
        let options = XaOptions::default().max_promises(self.max_promises);
        let options = if self.is_last_resource { options.last_resource() } else { options };
        let backend = self.backend(false).await?;
        let opened = XaParticipant::open(&name, backend, options).await;
        opened.map(PgParticipant::new).map_err(PgOpenError::Participant)
    }

    /// Opens a participant whose service has its reservations in tables of the database, instead of prepared transactions. See
    /// [`PgTables`] for an example.
    ///
    /// The server need not allow prepared transactions, so [`max_promises`](Self::max_promises) and
    /// [`last_resource`](Self::last_resource) say nothing here: a promise is a row, and holds neither a connection nor a lock.
    /// Checks the rest as [`open`](Self::open) does. Tells the service what is promised ([`AsyncService::opened`]).
    ///
    /// # Errors
    ///
    /// As [`PgOpenError`] lists. Each says what to change.
    pub async fn open_tables<S: AsyncService<PgTx>>(
        self,
        service: S,
    ) -> Result<TableParticipant<PgTables, S>, PgOpenError> {
        let name = self.name.clone();
        let backend = self.max_promises(0).backend(true).await?;
        let opened = TableParticipant::open(name, PgTables::new(backend), service).await;
        opened.map_err(PgOpenError::Participant)
    }

    /// Opens a shard whose records are the rows of these tables, to be given to a [`ShardHost`](ringpact::sharding::ShardHost)
    /// of the same name. See [`PgShard`] for an example. All shards of a service have the same tables.
    ///
    /// As for [`open_tables`](Self::open_tables), the server need not allow prepared transactions. Waits for transactions that an
    /// earlier process of the shard has left.
    ///
    /// # Errors
    ///
    /// As [`PgOpenError`] lists. Each says what to change.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub async fn open_shard<S: AsyncService<PgTx, Work: Keyed + Clone>>(
        self,
        service: S,
        tables: impl IntoIterator<Item = ShardTable>,
    ) -> Result<PgShard<S>, PgOpenError> {
        let (name, timeouts, schema) = (Name::new(&self.name)?, self.timeouts, self.schema.clone());
        let backend = self.max_promises(0).backend(true).await?;
        PgShard::open(name, PgTables::new(backend), service, tables.into_iter().collect(), timeouts, schema).await
    }

    /// Makes the connections' pools, and checks the names, the database, and what the connections lead to.
    async fn backend(self, is_for_tables: bool) -> Result<PgBackend, PgOpenError> {
        let participant = Name::new(&self.name)?;
        check_schema(&self.schema)?;
        let sets_up = Arc::new(AtomicBool::new(false));
        let (pool, is_own) = match (self.pool, self.config) {
            (Some(pool), _) => (pool, false),
            (None, Some(config)) => {
                let message = presets(&self.timeouts, &self.schema);
                (own_pool(config, self.connections, message, Arc::clone(&sets_up))?, true)
            }
            (None, None) => return Err(PgOpenError::NoDatabase { participant: self.name }),
        };
        let control = Control::beside(pool, self.control_connections)?;
        let wanted = Wanted {
            schema: &self.schema,
            max_promises: self.max_promises,
            is_last_resource: self.is_last_resource,
            may_lose_promises: self.may_lose_promises,
            connection: self.timeouts.connection,
        };
        if is_for_tables {
            check_for_tables(&control, &wanted).await?;
        } else {
            check(&control, &wanted).await?;
        }
        let can_preset = is_own && control.leads_to_one_session().await;
        if can_preset {
            // The checks may have left a connection without presets in the pool.
            sets_up.store(true, Ordering::Relaxed);
            control.empty_pool();
        }
        let backend = PgBackend::new(participant, control, self.timeouts, self.schema);
        if can_preset {
            backend.set_preset();
        }
        Ok(backend)
    }
}

/// Returns a pool whose connections are sent this message when they are made, as soon as the flag says so. The connection that
/// was used last comes first, because its session has the most in its caches.
fn own_pool(
    config: Config,
    connections: usize,
    message: String,
    sets_up: Arc<AtomicBool>,
) -> Result<Pool, PgOpenError> {
    let message: Arc<str> = message.into();
    let set_up = Hook::async_fn(move |client: &mut ClientWrapper, _| {
        let (message, sets_up) = (Arc::clone(&message), sets_up.load(Ordering::Relaxed));
        Box::pin(async move {
            if !sets_up {
                return Ok(());
            }
            client.batch_execute(&message).await.map_err(HookError::Backend)
        })
    });
    // A branch does not wait for the answer to its `BEGIN`, so it can't try another connection if this one is dead.
    let try_out = Hook::async_fn(|client: &mut ClientWrapper, metrics: &Metrics| {
        let is_fresh = metrics.last_used() < TRUSTED_FOR;
        Box::pin(async move {
            if is_fresh {
                return Ok(());
            }
            client.batch_execute("").await.map_err(HookError::Backend)
        })
    });
    let builder = Pool::builder(Manager::new(config, NoTls)).max_size(connections).queue_mode(QueueMode::Lifo);
    builder.post_create(set_up).pre_recycle(try_out).build().map_err(|error| PgOpenError::Pool(Box::new(error)))
}

impl fmt::Debug for PgBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgBuilder").field("name", &self.name).field("schema", &self.schema).finish_non_exhaustive()
    }
}
