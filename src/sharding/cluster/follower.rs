//! [`ClusterFollower`]: a process that uses the shards of a cluster, and does not keep the ring.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use super::{
    ClusterError,
    directory::{Directory, ask},
    routes::ServiceClient,
    settings::Settings,
};
use crate::{
    Coordinator,
    log::{LogId, TransactionLog},
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
    settings: Settings,
    keeper: Arc<dyn Endpoint>,
}

impl ClusterFollower {
    /// Returns a builder for a follower that keeps its decisions in `log`, its own, and reaches the
    /// keeper's [feed](super::Cluster::feed) by `keeper`.
    pub fn builder(log: impl TransactionLog, keeper: Arc<dyn Endpoint>) -> FollowerBuilder {
        FollowerBuilder { settings: Settings::new(log), keeper }
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
    pub const fn replaces_log(mut self, lost: LogId) -> Self {
        self.settings.replaces = lost;
        self
    }

    /// For operators: says that the log was restored from an older copy; see
    /// [`CoordinatorBuilder::log_was_restored`](crate::txn::CoordinatorBuilder::log_was_restored).
    pub fn log_was_restored(mut self) -> Self {
        self.settings.replaces = self.settings.log.id();
        self
    }

    /// Adds a service; see [`ClusterBuilder::service`](super::ClusterBuilder::service).
    pub fn service<W: 'static>(
        mut self,
        name: &str,
        connect: impl Fn(&NodeId) -> Result<Connection<W>, ServiceError> + Send + Sync + 'static,
    ) -> (Self, ServiceClient<W>) {
        let client = self.settings.service(name, Box::new(connect));
        (self, client)
    }

    /// Uses the threads and the clock of `platform` instead of the system's.
    #[doc(hidden)]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.settings.platform = platform;
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
        let Self { settings, keeper } = self;
        settings.check()?;
        let (_, update) = ask(&settings.platform, &*keeper, RingEpoch::new(0)).map_err(ClusterError::NoKeeper)?;
        let AssignmentUpdate::Whole(first) = update else {
            return Err(ClusterError::NoKeeper(Arc::from(Box::<dyn std::error::Error + Send + Sync>::from(
                "the keeper answered a question that was not asked",
            ))));
        };
        let rings = [Some(first.ring()), first.after()];
        let members = rings.into_iter().flatten().flat_map(|ring| ring.nodes());
        let nodes: BTreeSet<NodeId> = members.map(|node| node.id().clone()).collect();
        let coordinator = settings.coordinator(&nodes, |builder| builder)?;
        let Settings { services, directory: place, platform, .. } = settings;
        let assignment = Arc::new(SharedAssignment::on(&platform, *first));
        let directory = Arc::new(Directory::new(coordinator, assignment, services, platform, Some(keeper)));
        // A builder opens once, so the place is free.
        let _ = place.set(Arc::downgrade(&directory));
        Ok(ClusterFollower { directory })
    }
}

impl fmt::Debug for FollowerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.settings.services.iter().map(|service| service.service()).collect();
        f.debug_struct("FollowerBuilder").field("services", &services).finish_non_exhaustive()
    }
}
