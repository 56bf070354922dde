//! [`ServiceClient`]: sends clients' work of one service to the shards that have its keys.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock, Weak, atomic::Ordering},
    time::Duration,
};

use arc_swap::ArcSwap;
use thiserror::Error;

use super::{
    ClusterError,
    directory::{Directory, NamedShard},
};
use crate::{
    id::{BranchId, IdError, Name},
    participant::{Participant, ServiceError},
    ring::{NodeId, Position, RingEpoch},
    sharding::{
        Connection, GateRefusal, Keyed, ShardError, ShardLink, ShardMoves, Tenure, detachable::Detachable, link::Reach,
    },
    txn::{BranchError, Transaction, policy::after},
};

/// Time for which a client waits for keys that are on their way, by default. Far longer than a chunk
/// takes, and short beside the time-out of a transaction.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(2);

/// Maximum time for which one call waits at a shard for a position. Then the client looks at the
/// assignment again.
pub(super) const WAIT_AT_SHARD: Duration = Duration::from_millis(100);

/// Returns the name of a service's shard on a node, under which the shard and the coordinator know it:
/// `goods.node-7` for the service `goods` on the node `node-7`.
///
/// # Errors
///
/// [`IdError`] if the two names together are not a valid name.
pub fn shard_name(service: &str, node: &NodeId) -> Result<Name, IdError> {
    Name::new(&format!("{service}.{node}"))
}

/// Makes the connection to a service's shard on a node.
pub(super) type Connect<W> = Box<dyn Fn(&NodeId) -> Result<Connection<W>, ServiceError> + Send + Sync>;

/// The shards of one service.
pub(super) struct Routes<W> {
    service: String,
    connect: Connect<W>,
    routes: ArcSwap<BTreeMap<NodeId, Route<W>>>,
}

pub(super) struct Route<W> {
    pub(super) participant: Name,
    pub(super) link: Arc<dyn ShardLink<W>>,
    /// What the coordinator has of a shard of this process.
    local: Option<Arc<Detachable>>,
}

/// Where a piece of work goes.
pub(super) struct Way<W> {
    pub(super) route: Route<W>,
    pub(super) node: NodeId,
    /// The latest hand-over of the position that the assignment knows of.
    pub(super) known: Tenure,
    /// The assignment's.
    pub(super) epoch: RingEpoch,
}

impl<W> Clone for Route<W> {
    fn clone(&self) -> Self {
        Self { participant: self.participant.clone(), link: Arc::clone(&self.link), local: self.local.clone() }
    }
}

/// The shards of one service, whatever its work is.
pub(super) trait AnyRoutes: Send + Sync {
    fn service(&self) -> &str;
    /// Connects to the shard on the node. Returns its name and how the coordinator reaches it.
    fn connect(&self, node: &NodeId) -> Result<(Name, Reach), ServiceError>;
    fn disconnect(&self, node: &NodeId);
    fn moves(&self, node: &NodeId) -> Option<NamedShard>;
    /// Returns the nodes that there are connections to.
    fn nodes(&self) -> Vec<NodeId>;
}

impl<W: 'static> Routes<W> {
    pub(super) fn new(service: &str, connect: Connect<W>) -> Self {
        Self { service: service.to_owned(), connect, routes: ArcSwap::default() }
    }
}

impl<W: 'static> AnyRoutes for Routes<W> {
    fn service(&self) -> &str {
        &self.service
    }

    fn connect(&self, node: &NodeId) -> Result<(Name, Reach), ServiceError> {
        let participant = shard_name(&self.service, node)?;
        let connection = (self.connect)(node)?;
        let (reach, local) = match connection.reach {
            Reach::AtOnce(shard) => {
                let local = Detachable::new(shard);
                (Reach::AtOnce(Arc::clone(&local) as Arc<dyn Participant>), Some(local))
            }
            reach => (reach, None),
        };
        let route = Route { participant: participant.clone(), link: connection.link, local };
        self.routes.rcu(|routes| {
            let mut routes = (**routes).clone();
            routes.insert(node.clone(), route.clone());
            routes
        });
        Ok((participant, reach))
    }

    fn disconnect(&self, node: &NodeId) {
        let before = self.routes.rcu(|routes| {
            let mut routes = (**routes).clone();
            routes.remove(node);
            routes
        });
        if let Some(local) = before.get(node).and_then(|route| route.local.as_ref()) {
            local.detach();
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.routes.load().keys().cloned().collect()
    }

    fn moves(&self, node: &NodeId) -> Option<NamedShard> {
        let routes = self.routes.load();
        routes.get(node).map(|route| (route.participant.clone(), Arc::clone(&route.link) as Arc<dyn ShardMoves>))
    }
}

/// A service whose keys are spread over the nodes of a cluster, as clients use it. A clone is another
/// handle on the same.
///
/// [`ClusterBuilder::service`](super::ClusterBuilder::service) returns it; it works once the cluster
/// is open.
pub struct ServiceClient<W> {
    pub(super) directory: Arc<OnceLock<Weak<Directory>>>,
    pub(super) routes: Arc<Routes<W>>,
}

impl<W> Clone for ServiceClient<W> {
    fn clone(&self) -> Self {
        Self { directory: Arc::clone(&self.directory), routes: Arc::clone(&self.routes) }
    }
}

/// Where a piece of work goes, for a transport of one's own; see [`ServiceClient::branch_for`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Routed {
    /// The branch under which the shard works.
    pub branch: BranchId,
    /// The node of the shard.
    pub node: NodeId,
    /// The latest hand-over of the position that this process knows of, for
    /// [`ShardHost::execute`](crate::sharding::ShardHost::execute).
    pub known: Tenure,
}

impl<W: 'static> ServiceClient<W> {
    /// Returns the way to the shard of a position.
    pub(super) fn way(&self, directory: &Directory, position: Position) -> Result<Way<W>, RouteError> {
        loop {
            let assignment = directory.assignment.load();
            let (place, epoch) = (assignment.place(position), assignment.epoch());
            let found = self.routes.routes.load().get(place.node).cloned();
            let route = match found {
                Some(route) => route,
                None if directory.assignment.load().epoch() == epoch => self.join(directory, place.node)?,
                // The node has left meanwhile.
                None => continue,
            };
            return Ok(Way { route, node: place.node.clone(), known: place.known, epoch });
        }
    }

    /// Returns the way to the shard of a position, its branch in the transaction, and whether the transaction
    /// had that before.
    pub(super) fn enlist(
        &self,
        directory: &Directory,
        txn: &mut Transaction,
        position: Position,
    ) -> Result<(Way<W>, BranchId, bool), RouteError> {
        loop {
            let way = self.way(directory, position)?;
            let had_branch = txn.has_branch(&way.route.participant);
            match txn.branch(&way.route.participant).cloned() {
                Ok(branch) => return Ok((way, branch, had_branch)),
                Err(error) if directory.assignment.load().epoch() == way.epoch => return Err(error.into()),
                // The node has left meanwhile.
                Err(_) => {}
            }
        }
    }

    /// Connects to a node. A process that follows the keeper does so when it first hears of it.
    fn join(&self, directory: &Directory, node: &NodeId) -> Result<Route<W>, RouteError> {
        directory.join(node).map_err(|error| RouteError::NoShard { node: node.clone(), error: Box::new(error) })?;
        self.routes.routes.load().get(node).cloned().ok_or(RouteError::NotOpen)
    }

    pub(super) fn directory(&self) -> Result<Arc<Directory>, RouteError> {
        self.directory.get().and_then(Weak::upgrade).ok_or(RouteError::NotOpen)
    }
}

impl<W: Keyed + Clone + 'static> ServiceClient<W> {
    /// Has the shard of the work's key do the work, under a branch of the transaction. Takes part of
    /// the transaction's time while the key is on its way to another node: at most
    /// [`DEFAULT_PATIENCE`]. Blocks for that, and while the service tries; from async code use
    /// [`execute_async`](Self::execute_async).
    ///
    /// # Errors
    ///
    /// [`RouteError::Refused`] if the key stayed on its way for too long; the transaction can go on
    /// without this work. After [`RouteError::Shard`], roll the transaction back;
    /// [`RouteError::refusal`] is the service's own refusal.
    /// [`Coordinator::run`](crate::Coordinator::run) tries again what may succeed as a new transaction.
    pub fn execute(&self, txn: &mut Transaction, work: W) -> Result<(), RouteError> {
        self.execute_within(txn, work, DEFAULT_PATIENCE)
    }

    /// As [`execute`](Self::execute), and waits for at most `patience` for a key that is on its way.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub fn execute_within(&self, txn: &mut Transaction, work: W, patience: Duration) -> Result<(), RouteError> {
        let directory = self.directory()?;
        let position = work.position();
        let mut until = None;
        loop {
            let (way, branch, had_branch) = self.enlist(&directory, txn, position)?;
            let now = directory.platform.now();
            let until = *until.get_or_insert_with(|| after(now, patience));
            let wait = until.saturating_duration_since(now).min(WAIT_AT_SHARD);
            let refusal = match way.route.link.execute(&branch, way.known, work.clone(), wait) {
                Ok(()) => return Ok(()),
                Err(ShardError::Gate(refusal)) => refusal,
                Err(error) => return Err(RouteError::Shard(error)),
            };
            if !had_branch {
                // The shard has no trace of the branch, so the transaction goes on without it.
                txn.withdraw(&way.route.participant)?;
            }
            if directory.platform.now() >= until {
                return Err(RouteError::Refused { node: way.node, refusal });
            }
            directory.refused.fetch_add(1, Ordering::Relaxed);
            // Also if the refusal was to be brief: it was not, although the call waited at the shard.
            directory.refresh(way.epoch);
        }
    }

    /// Returns the branch and the node for a key, for a transport of one's own: it carries the work to
    /// the node, and calls [`ShardHost::execute`](crate::sharding::ShardHost::execute) there. If that
    /// refuses, [withdraw](Transaction::withdraw) the branch and ask again.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub fn branch_for(&self, txn: &mut Transaction, position: Position) -> Result<Routed, RouteError> {
        let directory = self.directory()?;
        let (Way { node, known, .. }, branch, _) = self.enlist(&directory, txn, position)?;
        Ok(Routed { branch, node, known })
    }

    /// Returns the node that has a position now, and the latest hand-over that this process knows of:
    /// for reads of several keys at once, through [`ShardHost::read`](crate::sharding::ShardHost::read). For
    /// one key there is [`read`](Self::read).
    ///
    /// # Errors
    ///
    /// [`RouteError::NotOpen`].
    pub fn locate(&self, position: Position) -> Result<(NodeId, Tenure), RouteError> {
        let directory = self.directory()?;
        let assignment = directory.assignment.load();
        let place = assignment.place(position);
        Ok((place.node.clone(), place.known))
    }
}

impl<W> fmt::Debug for ServiceClient<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceClient").field("service", &self.routes.service).finish_non_exhaustive()
    }
}

/// Reason why work did not come to its shard.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// The cluster is not open yet, or closed.
    #[error("the cluster of this service is not open")]
    NotOpen,
    /// There is no connection to the node.
    #[error("there is no connection to node {node}")]
    NoShard {
        /// The node.
        node: NodeId,
        /// The reason.
        #[source]
        error: Box<ClusterError>,
    },
    /// The key's position stayed on its way for too long. The shard has done nothing.
    #[error("node {node} did not take the work while the client waited")]
    Refused {
        /// The node that was asked last.
        node: NodeId,
        /// What it said.
        #[source]
        refusal: GateRefusal,
    },
    /// The shard did not do the work.
    #[error("the shard did not do the work")]
    Shard(#[source] ShardError),
    /// The transaction takes no such branch.
    #[error("the transaction takes no branch at the shard")]
    Branch(#[source] BranchError),
}

impl RouteError {
    /// Returns the service's own refusal, or `None` if the work failed for another reason. From a shard of
    /// this process it is the service's [`Refusal`](crate::Service::Refusal), which can be downcast. From
    /// another process it is a [`RemoteWorkError`](crate::sharding::RemoteWorkError) with the refusal's text.
    ///
    /// It is among the [causes](crate::causes) of the error, too: also of a
    /// [`RunError`](crate::txn::RunError) that has it as its source.
    #[must_use]
    pub fn refusal(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Shard(ShardError::Refused(refusal)) => Some(&**refusal),
            _ => None,
        }
    }

    /// Whether the service refused the work: "sold out".
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(self, Self::Shard(ShardError::Refused(_)))
    }

    /// Whether the key was on its way to another node for as long as the client waited.
    #[must_use]
    pub const fn is_moving(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }

    /// Whether the shard did not answer, or could not be connected to. It may have done the work, so the
    /// transaction is to be rolled back.
    #[must_use]
    pub const fn is_unreachable(&self) -> bool {
        matches!(self, Self::NoShard { .. } | Self::Shard(ShardError::Unreachable))
    }
}

impl From<BranchError> for RouteError {
    fn from(error: BranchError) -> Self {
        Self::Branch(error)
    }
}
