//! [`ClusterFollower`]: a process that uses the shards of a cluster, and does not keep the ring.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use super::{
    ClusterError,
    directory::{Directory, ask, node_of, register},
    routes::{AnyRoutes, Connect, Routes, ServiceClient},
};
use crate::{
    Coordinator,
    log::TransactionLog,
    participant::{Endpoint, ServiceError},
    platform::Platform,
    ring::{NodeId, RingEpoch},
    sharding::{AssignmentUpdate, Connection, SharedAssignment},
    txn::{Limits, Policy, Transaction},
};

/// A coordinator of transactions at the shards of a cluster whose ring is kept by another process. Any
/// number of them may use one cluster. Shared by reference or by [`Arc`].
///
/// It learns where keys are from the keeper's [feed](super::Cluster::feed), when a shard tells it that
/// it is behind; so a key that has moved costs one message more, once. While the keeper is down, it
/// works with what it knows.
pub struct ClusterFollower {
    directory: Arc<Directory>,
}

/// Builds a [`ClusterFollower`].
#[must_use = "a builder does nothing until `open`"]
pub struct FollowerBuilder {
    log: Arc<dyn TransactionLog>,
    keeper: Arc<dyn Endpoint>,
    name: Option<String>,
    policy: Policy,
    limits: Limits,
    services: Vec<Arc<dyn AnyRoutes>>,
    directory: Arc<OnceLock<Weak<Directory>>>,
    platform: Platform,
}

impl ClusterFollower {
    /// Returns a builder for a follower that keeps its decisions in `log`, its own, and reaches the
    /// keeper's [feed](super::Cluster::feed) by `keeper`.
    pub fn builder(log: impl TransactionLog, keeper: Arc<dyn Endpoint>) -> FollowerBuilder {
        FollowerBuilder {
            log: Arc::new(log),
            keeper,
            name: None,
            policy: Policy::DEFAULT,
            limits: Limits::default(),
            services: Vec::new(),
            directory: Arc::default(),
            platform: Platform::default(),
        }
    }

    /// Begins a transaction; see [`Coordinator::begin`].
    pub fn begin(&self) -> Transaction {
        self.directory.coordinator.begin()
    }

    /// Returns the coordinator.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        &self.directory.coordinator
    }

    /// Returns which node has each position, as far as this process knows.
    #[must_use]
    pub fn assignment(&self) -> &Arc<SharedAssignment> {
        &self.directory.assignment
    }

    /// Asks the keeper what has changed, for at most two seconds, and blocks for that. A client needs it
    /// only to be up to date before it is told.
    pub fn refresh(&self) {
        self.directory.refresh(self.directory.assignment.load().epoch());
    }

    /// Shuts the coordinator down; see [`Coordinator::shutdown`].
    pub fn shutdown(&self, timeout: Duration) -> crate::txn::CoordinatorStatus {
        self.directory.coordinator.shutdown(timeout)
    }
}

impl fmt::Debug for ClusterFollower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterFollower")
            .field("coordinator", &self.directory.coordinator)
            .field("assignment", &self.directory.assignment)
            .finish_non_exhaustive()
    }
}

impl FollowerBuilder {
    /// Names the coordinator; see [`CoordinatorBuilder::name`](crate::txn::CoordinatorBuilder::name). It
    /// must have another name than the keeper's and all others.
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// Sets time-outs and back-off.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets limits on what may be under way at once.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a service; see [`ClusterBuilder::service`](super::ClusterBuilder::service).
    pub fn service<W: 'static>(
        mut self,
        name: &str,
        connect: impl Fn(&NodeId) -> Result<Connection<W>, ServiceError> + Send + Sync + 'static,
    ) -> (Self, ServiceClient<W>) {
        let routes = Arc::new(Routes::new(name, Box::new(connect) as Connect<W>));
        self.services.push(Arc::clone(&routes) as Arc<dyn AnyRoutes>);
        let client = ServiceClient { directory: Arc::clone(&self.directory), routes };
        (self, client)
    }

    /// Uses the threads and the clock of `platform` instead of the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Opens the follower: asks the keeper for the assignment, connects to all shards, and settles what
    /// an earlier life left in doubt. Blocks for that.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoKeeper`] if the keeper does not answer; else as for
    /// [`ClusterBuilder::open`](super::ClusterBuilder::open).
    pub fn open(self) -> Result<ClusterFollower, ClusterError> {
        let (_, update) = ask(&self.platform, &*self.keeper, RingEpoch::new(0)).map_err(ClusterError::NoKeeper)?;
        let AssignmentUpdate::Whole(first) = update else {
            return Err(ClusterError::NoKeeper(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
                "the keeper answered a question that was not asked",
            ))));
        };
        let rings = [Some(first.ring()), first.after()];
        let mut nodes: BTreeSet<NodeId> =
            rings.into_iter().flatten().flat_map(|ring| ring.nodes()).map(|node| node.id().clone()).collect();
        let mut builder =
            Coordinator::builder(self.log).policy(self.policy).limits(self.limits).platform(self.platform.clone());
        if let Some(name) = &self.name {
            builder = builder.name(name);
        }
        // A transaction that was decided may still have to be told to nodes that have left since.
        let named = builder.named_in_log().map_err(|error| ClusterError::Coordinator(Arc::new(error)))?;
        nodes.extend(named.iter().filter_map(|participant| node_of(&self.services, participant)));
        let builder = register(builder, &self.services, &nodes)?;
        let coordinator = builder.open().map_err(|error| ClusterError::Coordinator(Arc::new(error)))?;
        let assignment = Arc::new(SharedAssignment::on(&self.platform, *first));
        let (services, keeper) = (self.services, Some(self.keeper));
        let directory = Arc::new(Directory::new(coordinator, assignment, services, self.platform, keeper));
        // A builder opens once, so the place is free.
        let _ = self.directory.set(Arc::downgrade(&directory));
        Ok(ClusterFollower { directory })
    }
}

impl fmt::Debug for FollowerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.services.iter().map(|service| service.service()).collect();
        f.debug_struct("FollowerBuilder").field("services", &services).finish_non_exhaustive()
    }
}
