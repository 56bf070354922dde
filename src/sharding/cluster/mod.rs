//! [`Cluster`]: a coordinator, the keeper of a ring, a mover, and the shards of services on the ring's
//! nodes.
//!
//! In reading order: this file has the cluster and how it is opened, by its `settings.rs` and `set_up.rs`;
//! `routes.rs` has what clients use, `execute_async.rs` the same for tasks, and `read.rs` reads; `change.rs` has
//! changes of the nodes, `oversized.rs` what they can't move, and `check.rs` whether the shards are as the ring
//! has them; `directory.rs` has which shards there are, and `core.rs` what the parts of a cluster share;
//! `follower.rs` has processes that use a cluster and don't keep its ring.

use std::{
    fmt, io,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use thiserror::Error;

use self::{directory::Directory, routes::AnyRoutes, set_up::SetUp, settings::Settings};
use super::{
    Connection, FileRingStore, KeeperRefusal, MemoryRingStore, RingStore, ShardError, SharedAssignment,
    keeper::RingTable,
};
use crate::{
    Coordinator,
    log::{LogId, TransactionLog},
    participant::{Endpoint, OpenError, ParticipantError, Reply, Request, ResourceManager, ServiceError},
    platform::Platform,
    ring::{HashRing, NodeId, RingError},
    txn::{BranchError, CommitError, CoordinatorError, Limits, Policy, Transaction, VerdictEndpoint},
};

mod change;
mod check;
mod core;
mod directory;
mod execute_async;
mod follower;
mod oversized;
mod read;
mod routes;
mod set_up;
mod settings;

pub use change::{ChangeBuilder, Moving, Plan, Progress};
pub use check::{ShardFault, ShardFinding};
pub(super) use core::{ClusterCore, KEEPER};
pub use directory::AssignmentFeed;
pub(super) use directory::NamedShard;
pub use follower::{ClusterFollower, FollowerBuilder};
pub use oversized::Oversized;
pub use routes::{DEFAULT_PATIENCE, RouteError, Routed, ServiceClient, shard_name};

/// Shards of services on the nodes of a ring, in which keys are found by their hash, several of them
/// change in one transaction, and nodes join and leave while clients write. Shared by [`Arc`] or by
/// reference.
///
/// It has a [`Coordinator`], and keeps the ring on the coordinator's log. One cluster keeps a ring.
/// Other processes follow its [assignment](Self::assignment).
///
/// Dropping it stops its threads and abandons what is under way, as a crash would; the next opening
/// goes on with it, a change of the ring as well. The drop blocks until the threads have returned from
/// calls of shards.
pub struct Cluster {
    core: Arc<ClusterCore>,
}

/// Builds a [`Cluster`].
#[must_use = "a builder does nothing until `open`"]
pub struct ClusterBuilder {
    settings: Settings,
    store: Option<Box<dyn RingStore>>,
    first: Option<HashRing>,
    verdicts: ClusterVerdicts,
    /// Services that are given up.
    dropped: Vec<String>,
}

/// Answers shards in other processes what became of their branches, from the moment at which the
/// cluster's coordinator can tell: an [`Endpoint`] for
/// [`ShardHost::set_verdict_endpoint`](crate::sharding::ShardHost::set_verdict_endpoint). A clone is
/// another handle. Until then, and when the cluster is gone, it fails every request.
#[derive(Clone, Default)]
pub struct ClusterVerdicts(Arc<OnceLock<VerdictEndpoint>>);

impl Endpoint for ClusterVerdicts {
    fn send(&self, request: Request, reply: Reply) {
        match self.0.get() {
            Some(verdicts) => verdicts.send(request, reply),
            None => reply.send(Err(ParticipantError::Unreachable)),
        }
    }

    fn sends_at_once(&self) -> bool {
        true
    }
}

impl fmt::Debug for ClusterVerdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterVerdicts").field(&self.0.get().is_some()).finish()
    }
}

impl Cluster {
    /// Returns a builder for a cluster that keeps its decisions and its ring in `log`. Pass a clone of
    /// an `Arc` to share the log with shards of this process.
    pub fn builder(log: impl TransactionLog) -> ClusterBuilder {
        let (settings, verdicts) = (Settings::new(log), ClusterVerdicts::default());
        ClusterBuilder { settings, store: None, first: None, dropped: Vec::new(), verdicts }
    }

    /// Begins a transaction; see [`Coordinator::begin`].
    pub fn begin(&self) -> Transaction {
        self.core.directory.coordinator.begin()
    }

    /// As [`begin`](Self::begin), with another time-out for this transaction; see
    /// [`Coordinator::begin_within`].
    pub fn begin_within(&self, timeout: Duration) -> Transaction {
        self.core.directory.coordinator.begin_within(timeout)
    }

    /// Returns the coordinator: for [`run`](Coordinator::run), for its status, and for operators. Other
    /// participants may be added to it.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.core.directory.coordinator
    }

    /// Returns which node has each position now, as it changes: for reads, and for other processes.
    #[must_use]
    pub fn assignment(&self) -> &Arc<SharedAssignment> {
        &self.core.directory.assignment
    }

    /// Returns an endpoint at which [followers](ClusterFollower) in other processes learn where keys are.
    #[must_use]
    pub fn feed(&self) -> AssignmentFeed {
        AssignmentFeed(Arc::clone(&self.core.directory.assignment))
    }

    /// Returns a builder for a change of the nodes.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Keeper`] while another change is under way.
    pub fn change(&self) -> Result<ChangeBuilder, ClusterError> {
        ChangeBuilder::new(Arc::clone(&self.core))
    }

    /// Returns the change that is under way, or `None` if none is.
    #[must_use]
    pub fn moving(&self) -> Option<Moving> {
        let change = self.core.state()?.change?;
        Some(Moving { core: Arc::clone(&self.core), since: change.since })
    }

    /// Returns the nodes that have given all their keys away, and that transactions may still name. Once a node is not among
    /// these and not on the ring, its process can be stopped for good.
    #[must_use]
    pub fn leaving(&self) -> Vec<NodeId> {
        self.core.state().map(|state| state.leavers.into_keys().collect()).unwrap_or_default()
    }

    /// Returns the number of times that a shard refused a client's work of this process because its key
    /// was on its way or had moved. The client then asked again.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.core.directory.refused.load(Ordering::Relaxed)
    }

    /// Shuts down cleanly: stops moving data after the chunks that are on their way, and shuts the
    /// coordinator down; see [`Coordinator::shutdown`]. Returns what is left. Blocks for `timeout`, and
    /// before that until shards have returned from calls for these chunks.
    pub fn shutdown(&self, timeout: Duration) -> crate::txn::CoordinatorStatus {
        self.core.mover.close();
        self.core.directory.coordinator.shutdown(timeout)
    }

    /// Saves the ring now, so that the next opening has less to read. The keeper does so by itself after
    /// a number of chunks.
    ///
    /// # Errors
    ///
    /// The ring store's, or the log's.
    pub fn checkpoint(&self) -> Result<(), ServiceError> {
        self.core.keeper.checkpoint()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.core.mover.close();
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("coordinator", &self.core.directory.coordinator)
            .field("assignment", &self.core.directory.assignment)
            .finish_non_exhaustive()
    }
}

impl ClusterBuilder {
    /// Names the coordinator; see [`CoordinatorBuilder::name`](crate::txn::CoordinatorBuilder::name).
    pub fn name(mut self, name: &str) -> Self {
        self.settings.name = Some(name.to_owned());
        self
    }

    /// Sets time-outs and back-off.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.settings.policy = policy;
        self
    }

    /// Sets limits on what may be under way at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// For operators: says that the log replaces `lost`, which is gone for good; see
    /// [`CoordinatorBuilder::replaces_log`](crate::txn::CoordinatorBuilder::replaces_log).
    ///
    /// The lost log also had what has moved since the ring store was last
    /// [saved](Cluster::checkpoint). Open the cluster with the store that went with the lost log. If
    /// nothing has moved since it was saved, nothing is missing. Else clients of ranges that have moved since are
    /// refused, because the shards know better; see [backups](crate::docs::backups).
    pub const fn replaces_log(mut self, lost: LogId) -> Self {
        self.settings.replaces = lost;
        self
    }

    /// For operators: says that the log was restored from an older copy; see
    /// [`CoordinatorBuilder::log_was_restored`](crate::txn::CoordinatorBuilder::log_was_restored). The same
    /// holds for what has moved as for [`replaces_log`](Self::replaces_log).
    pub fn log_was_restored(mut self) -> Self {
        self.settings.replaces = self.settings.log.id();
        self
    }

    /// Keeps rings in this store, which must be as durable as the log. The store and the log belong
    /// together over all openings.
    ///
    /// Without it, a log with a [directory](TransactionLog::directory) has a
    /// [`FileRingStore`](crate::sharding::FileRingStore) beside that: in `town.log.ring` for the log
    /// `town.log`. Any other log has a [`MemoryRingStore`], which is right for a log in memory only.
    pub fn store(mut self, store: impl RingStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Sets the ring with which the cluster begins. Once it has begun, this is not looked at any more:
    /// the nodes change by [`Cluster::change`].
    ///
    /// The shards own their ranges from then on, with the records that they have: a service that is
    /// sharded already by this ring keeps its data.
    pub fn first_ring(mut self, ring: HashRing) -> Self {
        self.first = Some(ring);
        self
    }

    /// Adds a service. `connect` makes the connection to its shard on a node. It is called for each node
    /// at the opening, and for each node that joins; it may block. All services of a cluster are on each
    /// node, and move together. No other participant may have a name that begins with the service's and a
    /// dot: it would be taken for a shard.
    ///
    /// A service may be added at a later opening, also while a change is under way. If none of its shards
    /// has ever owned a position, they own from then on what the ring gives to their nodes, with the records
    /// that they have. The opening fails if one of them does not answer. A service that was left out and
    /// comes back is not new: its shards have what they had.
    ///
    /// Returns the builder, and what clients use once the cluster is open.
    pub fn service<W: 'static>(
        mut self,
        name: &str,
        connect: impl Fn(&NodeId) -> Result<Connection<W>, ServiceError> + Send + Sync + 'static,
    ) -> (Self, ServiceClient<W>) {
        let client = self.settings.service(name, Box::new(connect));
        (self, client)
    }

    /// Gives up a service that the cluster had before, and that is not added any more. Its shards keep what they
    /// have, and move no more; add it again only under another name, with new shards.
    pub fn drops_service(mut self, name: &str) -> Self {
        self.dropped.push(name.to_owned());
        self
    }

    /// Returns an endpoint at which shards in other processes learn what became of their branches. It is
    /// there before the cluster is open: a shard that was opened again asks which transactions have begun
    /// before it votes, and the opening needs votes to set up the first ring.
    #[must_use]
    pub fn verdicts(&self) -> ClusterVerdicts {
        self.verdicts.clone()
    }

    /// Uses the threads and the clock of `platform` instead of the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.settings.platform = platform;
        self
    }

    /// Opens the cluster: replays the log, connects to all shards, settles what an earlier life left in
    /// doubt, and goes on with a change that was under way. Blocks as
    /// [`CoordinatorBuilder::open`](crate::txn::CoordinatorBuilder::open) does.
    ///
    /// # Errors
    ///
    /// [`ClusterError`]; nothing is lost, and it can be opened again.
    pub fn open(self) -> Result<Cluster, ClusterError> {
        let Self { settings, store, first, dropped, verdicts } = self;
        settings.check()?;
        let store = store.map_or_else(|| default_store(&*settings.log), Ok)?;
        let table = RingTable::open(store).map_err(|error| ClusterError::Store(error.into()))?;
        let options = ResourceManager::<RingTable>::options().platform(settings.platform.clone());
        let keeper = options.open(KEEPER, Arc::clone(&settings.log), table);
        let keeper = Arc::new(keeper.map_err(|error| ClusterError::Open(Arc::new(error)))?);
        // What its log says may not be left out: the ring would be an older one than the shards know.
        if let Some(trouble) = keeper.status().troubled.into_iter().next() {
            return Err(ClusterError::Work(Arc::new(trouble)));
        }
        let state = keeper.service().state();
        let nodes = match (&state, &first) {
            (Some(state), _) => state.nodes(),
            (None, Some(first)) => first.nodes().iter().map(|node| node.id().clone()).collect(),
            (None, None) => return Err(ClusterError::Keeper(KeeperRefusal::NoRing)),
        };
        let coordinator = settings.coordinator(&nodes, |builder| builder.participant(KEEPER, Arc::clone(&keeper)))?;
        // A builder opens once, so the place is free.
        let _ = verdicts.0.set(coordinator.verdict_endpoint());
        let set_up = SetUp {
            platform: &settings.platform,
            coordinator: &coordinator,
            keeper: &keeper,
            services: &settings.services,
        };
        if let (None, Some(first)) = (state, &first) {
            set_up.first_ring(first)?;
            // The store is all that is left if the log is lost.
            keeper.checkpoint().map_err(|error| ClusterError::Store(error.into()))?;
        }
        set_up.new_services(&dropped)?;
        let published = keeper.service().publish(&settings.platform)?;
        let assignment = published.ok_or(ClusterError::Keeper(KeeperRefusal::NoRing))?;
        let Settings { services, directory: place, platform, .. } = settings;
        let directory = Directory::new(coordinator, assignment, services, platform, None);
        let core = Arc::new(ClusterCore::new(directory, keeper));
        // A builder opens once, so the place is free.
        let _ = place.set(Arc::downgrade(&core.directory));
        core.mover.drive(&core);
        core.mover.retire(&core);
        Ok(Cluster { core })
    }
}

/// Returns the store for rings that goes with this log.
fn default_store(log: &dyn TransactionLog) -> io::Result<Box<dyn RingStore>> {
    Ok(match log.directory() {
        Some(directory) => Box::new(FileRingStore::beside(directory)?),
        None => Box::new(MemoryRingStore::new()),
    })
}

impl fmt::Debug for ClusterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.settings.services.iter().map(|service| service.service()).collect();
        f.debug_struct("ClusterBuilder").field("services", &services).finish_non_exhaustive()
    }
}

/// Reason why a cluster could not be opened, or a change could not be made.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// Two services have one name.
    #[error("two services are named {service}; each needs a name of its own")]
    DuplicateService {
        /// The name.
        service: String,
    },
    /// The name of one service begins with the name of another one and a dot, so the name of a shard
    /// would not tell which of the two it is of.
    #[error("the services {service} and {other} can't be told apart by the names of their shards; rename one of them")]
    AmbiguousService {
        /// The service with the shorter name.
        service: String,
        /// The other one.
        other: String,
    },
    /// The cluster had a service before that it was opened without. Its ranges would stay where they are when
    /// nodes join and leave.
    #[error(
        "the cluster has a service {service}; open it with that service, or give it up with `ClusterBuilder::drops_service`"
    )]
    MissingService {
        /// The service.
        service: String,
    },
    /// The keeper of the ring did not answer.
    #[error("the keeper of the ring did not answer; start it, and check the endpoint that reaches its feed")]
    NoKeeper(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The keeper's resource manager could not be opened.
    #[error("the keeper of the ring could not be opened")]
    Open(#[source] Arc<OpenError>),
    /// The coordinator could not be opened.
    #[error("the cluster's coordinator could not be opened")]
    Coordinator(#[source] Arc<CoordinatorError>),
    /// The ring store could not be read or written.
    #[error("the ring store failed")]
    Store(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// There is no connection to a shard.
    #[error("no connection to the shard of {service} on node {node}; start the shard there, and try again")]
    Connect {
        /// The service.
        service: String,
        /// The node.
        node: NodeId,
        /// The reason.
        #[source]
        error: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The cluster is not connected to the node.
    #[error("the cluster is not connected to the shards of node {node}")]
    NoShard {
        /// The node.
        node: NodeId,
    },
    /// A node that is to join has left a moment ago, and transactions still name it.
    #[error(
        "node {node} left before, and transactions still name it; the coordinator's status shows them, try again later"
    )]
    StillLeaving {
        /// The node.
        node: NodeId,
    },
    /// The ring can't be changed so.
    #[error("the ring can't be changed so")]
    Ring(#[source] RingError),
    /// The keeper did not take the step.
    #[error("the keeper of the ring did not take the step")]
    Keeper(#[source] KeeperRefusal),
    /// The keeper could not do its work.
    #[error("the keeper of the ring could not do its work")]
    Work(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// A shard did not do its part.
    #[error("the shard on node {node} did not do its part")]
    Shard {
        /// The node.
        node: NodeId,
        /// What it said.
        #[source]
        error: ShardError,
    },
    /// The transaction could not be made.
    #[error("the transaction could not be made")]
    Branch(#[source] BranchError),
    /// The transaction did not commit.
    #[error("the transaction did not commit")]
    Commit(#[source] CommitError),
}

impl ClusterError {
    fn connect(service: &dyn AnyRoutes, node: &NodeId, error: ServiceError) -> Self {
        Self::Connect { service: service.service().to_owned(), node: node.clone(), error: error.into() }
    }
}

impl From<io::Error> for ClusterError {
    fn from(error: io::Error) -> Self {
        Self::Store(Arc::new(error))
    }
}
