//! What the parts of a cluster share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
};

use super::{ClusterError, routes::AnyRoutes};
use crate::{
    Coordinator,
    id::Name,
    participant::{ExecuteError, ResourceManager},
    platform::Platform,
    ring::{HashRing, NodeId, PositionRange, RangeSet},
    sharding::{
        ShardMoves, SharedAssignment, Tenure,
        keeper::{Control, KeeperRefusal, RingState, RingTable, RingWork},
        link::Reach,
        mover::Mover,
    },
    txn::{BranchError, Transaction},
};

/// The keeper's name as a participant.
pub(in crate::sharding) const KEEPER: &str = "ring";

pub(in crate::sharding) struct ClusterCore {
    pub(in crate::sharding) coordinator: Coordinator,
    pub(in crate::sharding) keeper: Arc<ResourceManager<RingTable>>,
    /// Where keys are. Until the cluster is open, nothing reads it.
    pub(super) assignment: Arc<SharedAssignment>,
    pub(super) services: Vec<Arc<dyn AnyRoutes>>,
    pub(in crate::sharding) platform: Platform,
    pub(super) mover: Arc<Mover>,
    /// Number of times that a shard's gate refused a client's work.
    pub(super) refused: AtomicU64,
}

/// One service's shards on the two nodes of a chunk.
pub(in crate::sharding) struct Ends {
    pub(in crate::sharding) from: (Name, Arc<dyn ShardMoves>),
    pub(in crate::sharding) to: (Name, Arc<dyn ShardMoves>),
}

impl ClusterCore {
    pub(super) fn new(
        coordinator: Coordinator,
        keeper: Arc<ResourceManager<RingTable>>,
        services: Vec<Arc<dyn AnyRoutes>>,
        platform: Platform,
        assignment: Arc<SharedAssignment>,
    ) -> Self {
        let (mover, refused) = (Mover::new(platform.clone()), AtomicU64::new(0));
        Self { coordinator, keeper, assignment, services, platform, mover, refused }
    }

    pub(in crate::sharding) fn table(&self) -> &RingTable {
        self.keeper.service()
    }

    /// Returns the state of the ring.
    pub(in crate::sharding) fn state(&self) -> Option<RingState> {
        self.table().state()
    }

    /// Has the keeper take a step, in a transaction of its own. Blocks for that.
    pub(in crate::sharding) fn control(&self, control: &Control) -> Result<(), ClusterError> {
        loop {
            let revision = self.table().with_state(|state| state.revision).unwrap_or_default() + 1;
            match self.control_at(revision, control) {
                // Another step is being taken. It ends soon.
                Err(ClusterError::Keeper(KeeperRefusal::Stale)) => self.mover.pause(),
                result => return result,
            }
        }
    }

    /// As [`control`](Self::control), if this is the next step since the state was read.
    pub(in crate::sharding) fn control_at(&self, revision: u64, control: &Control) -> Result<(), ClusterError> {
        let mut txn = self.coordinator.begin();
        let branch = txn.branch(KEEPER)?.clone();
        let work = RingWork::Control { revision, control: control.clone() };
        match self.keeper.execute(&branch, work) {
            Ok(()) => decided(txn),
            Err(ExecuteError::Refused(refusal)) => Err(ClusterError::Keeper(refusal)),
            Err(error) => Err(ClusterError::Work(Arc::new(error))),
        }
    }

    /// Connects to the shards of all services on the node, and registers them with the coordinator.
    pub(in crate::sharding) fn join(&self, node: &NodeId) -> Result<(), ClusterError> {
        for service in &self.services {
            if service.moves(node).is_some() {
                continue;
            }
            let failed =
                |error| ClusterError::Connect { service: service.service().to_owned(), node: node.clone(), error };
            let (name, reach) = service.connect(node).map_err(|error| failed(Arc::from(error)))?;
            let added = match reach {
                Reach::AtOnce(participant) => self.coordinator.add_participant(name.as_str(), participant),
                Reach::Slow(participant, threads) => {
                    self.coordinator.add_slow_participant(name.as_str(), participant, threads)
                }
                Reach::Endpoint(endpoint) => self.coordinator.add_endpoint(name.as_str(), endpoint),
            };
            if let Err(error) = added {
                // So that the next try connects again.
                service.disconnect(node);
                return Err(failed(Arc::new(error)));
            }
        }
        Ok(())
    }

    /// Returns the shards of a chunk from one node to another, service by service.
    pub(in crate::sharding) fn ends(&self, from: &NodeId, to: &NodeId) -> Result<Vec<Ends>, ClusterError> {
        let missing = |node: &NodeId| ClusterError::NoShard { node: node.clone() };
        let ends = |service: &Arc<dyn AnyRoutes>| {
            let from = service.moves(from).ok_or_else(|| missing(from))?;
            Ok(Ends { from, to: service.moves(to).ok_or_else(|| missing(to))? })
        };
        self.services.iter().map(ends).collect()
    }

    /// Takes the node's shards out of the coordinator, because it has no keys. Returns whether that is
    /// done: no unended transaction names them.
    pub(in crate::sharding) fn part(&self, node: &NodeId) -> bool {
        let mut is_gone = true;
        for service in &self.services {
            let Some((name, _)) = service.moves(node) else { continue };
            if self.coordinator.retire(name.as_str()) {
                service.disconnect(node);
            } else {
                is_gone = false;
            }
        }
        is_gone
    }

    /// Takes the nodes out that have given all their keys away. Returns whether all of them are gone.
    pub(in crate::sharding) fn retire_leavers(&self) -> bool {
        let leavers = self.table().with_state(|state| state.leavers.clone()).unwrap_or_default();
        let mut all_gone = true;
        for node in leavers {
            // If the keeper can't note it, the next look tries again.
            all_gone &= self.part(&node) && self.control(&Control::Left { node }).is_ok();
        }
        all_gone
    }
}

/// Commits, and waits until it is carried out.
fn decided(txn: Transaction) -> Result<(), ClusterError> {
    let commit = txn.commit();
    let delivered = commit.delivered();
    commit.wait().map_err(ClusterError::Commit)?;
    // If a participant is slow to carry it out, the coordinator repeats it until it does.
    let _ = delivered.wait();
    Ok(())
}

/// Has the first ring's nodes own their ranges, in one transaction with the keeper's first step.
pub(super) fn set_up(
    coordinator: &Coordinator,
    keeper: &ResourceManager<RingTable>,
    services: &[Arc<dyn AnyRoutes>],
    ring: &HashRing,
) -> Result<(), ClusterError> {
    let name = keeper.service().keep(ring).map_err(|error| ClusterError::Store(error.into()))?;
    let mut txn = coordinator.begin();
    let branch = txn.branch(KEEPER)?.clone();
    let work = RingWork::Control { revision: 1, control: Control::First { ring: name } };
    keeper.execute(&branch, work).map_err(|error| ClusterError::Work(Arc::new(error)))?;
    for (node, ranges) in shares(ring) {
        for service in services {
            let (name, shard) = service.moves(&node).ok_or_else(|| ClusterError::NoShard { node: node.clone() })?;
            let branch = txn.branch(&name)?.clone();
            let adopted = shard.adopt(&branch, &ranges, Tenure::FIRST);
            adopted.map_err(|error| ClusterError::Shard { node: node.clone(), error })?;
        }
    }
    decided(txn)
}

impl From<BranchError> for ClusterError {
    fn from(error: BranchError) -> Self {
        Self::Branch(error)
    }
}

/// Returns the ranges of each node of the ring. O(T) for T tokens.
fn shares(ring: &HashRing) -> BTreeMap<NodeId, RangeSet> {
    let positions: BTreeSet<_> = ring.tokens().map(|token| token.position).collect();
    let mut shares = BTreeMap::<_, RangeSet>::new();
    let mut start = *positions.last().expect("a ring is never empty");
    for end in positions {
        shares.entry(ring.owner_at(end).id().clone()).or_default().insert(PositionRange { start, end });
        start = end;
    }
    shares
}

// TEMPORARY
impl Coordinator {
    fn add_participant(&self, _: &str, _: Arc<dyn crate::Participant>) -> Result<(), crate::txn::CoordinatorError> {
        unimplemented!()
    }
    fn add_slow_participant(
        &self,
        _: &str,
        _: Arc<dyn crate::Participant>,
        _: std::num::NonZeroUsize,
    ) -> Result<(), crate::txn::CoordinatorError> {
        unimplemented!()
    }
    fn add_endpoint(
        &self,
        _: &str,
        _: Arc<dyn crate::participant::Endpoint>,
    ) -> Result<(), crate::txn::CoordinatorError> {
        unimplemented!()
    }
    fn retire(&self, _: &str) -> bool {
        unimplemented!()
    }
}
