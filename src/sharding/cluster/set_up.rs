//! How shards come to own their ranges without a hand-over: when the first ring is set up, and when a service
//! is added to a cluster that has a ring already.

use std::{
    collections::{BTreeMap, BTreeSet},
    slice,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    ClusterError,
    core::{KEEPER, decided},
    directory::shards,
    routes::AnyRoutes,
};
use crate::{
    Coordinator,
    participant::{ExecuteError, ResourceManager},
    platform::Platform,
    ring::{HashRing, NodeId, Pins, RangeSet},
    sharding::{
        ShardError, Tenure,
        assignment::{Layout, shares},
        keeper::{Control, KeeperRefusal, RingTable, RingWork},
    },
    txn::{CommitError, Transaction},
};

/// Maximum time that an opening waits for what an earlier one has left undecided or undelivered.
const SET_UP_WITHIN: Duration = Duration::from_secs(5);

/// Time after which it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What an opening of a cluster has before the cluster is open.
pub(super) struct SetUp<'a> {
    pub(super) platform: &'a Platform,
    pub(super) coordinator: &'a Coordinator,
    pub(super) keeper: &'a ResourceManager<RingTable>,
    pub(super) services: &'a [Arc<dyn AnyRoutes>],
}

impl SetUp<'_> {
    /// Has the first ring's nodes own their ranges, unless an earlier opening has done so. That one may
    /// have been cut off in the middle: then its transaction ends first.
    pub(super) fn first_ring(&self, ring: &HashRing) -> Result<(), ClusterError> {
        self.patiently(|| self.try_first_ring(ring))
    }

    /// Has the shards of services that the cluster has not had before own the ranges that the assignment
    /// gives to their nodes. Nothing moves yet, and no client works here yet.
    ///
    /// The keeper notes which services have had their ranges. So shards that have lost everything are not
    /// taken for those of a new service. If a crash comes before the note, the shards own their ranges at
    /// the next opening, or are about to, and only the note is made.
    ///
    /// # Errors
    ///
    /// A known service is not there, and is not among the `dropped` ones.
    pub(super) fn new_services(&self, dropped: &[String]) -> Result<(), ClusterError> {
        let table = self.keeper.service();
        let failed = |error| ClusterError::Store(Arc::new(error));
        let before = table.set_up_services().map_err(failed)?;
        let known: BTreeSet<String> = before.iter().filter(|name| !dropped.contains(name)).cloned().collect();
        let is_there = |name: &String| self.services.iter().any(|service| service.service() == name);
        if let Some(service) = known.iter().find(|name| !is_there(name)).cloned() {
            return Err(ClusterError::MissingService { service });
        }
        let new: Vec<_> = self.services.iter().filter(|service| !known.contains(service.service())).collect();
        for service in &new {
            self.patiently(|| self.try_new_service(service))?;
        }
        let mut all = known.clone();
        all.extend(new.into_iter().map(|service| service.service().to_owned()));
        if all == before { Ok(()) } else { table.note_services(&all).map_err(failed) }
    }

    /// Calls `step` again while its failure may pass, for a few seconds.
    fn patiently(&self, step: impl Fn() -> Result<(), ClusterError>) -> Result<(), ClusterError> {
        let until: Instant = self.platform.now() + SET_UP_WITHIN;
        loop {
            match step() {
                Err(error) if may_pass(&error) && self.platform.now() < until => {
                    let _ = self.platform.mailbox::<()>().take_until(self.platform.now() + LOOK_AGAIN);
                }
                result => return result,
            }
        }
    }

    /// Has all shards own their ranges in one transaction with the keeper's first step.
    fn try_first_ring(&self, ring: &HashRing) -> Result<(), ClusterError> {
        let table = self.keeper.service();
        if table.state().is_some() {
            return Ok(());
        }
        let layout = Layout::new(ring.clone(), Pins::new()).map_err(ClusterError::Ring)?;
        let name = table.keep(&layout, 1).map_err(|error| ClusterError::Store(error.into()))?;
        let mut txn = self.coordinator.begin();
        let branch = txn.branch(KEEPER)?.clone();
        let work = RingWork::Control { revision: 1, control: Control::First { ring: name } };
        self.keeper.execute(&branch, work).map_err(|error| match error {
            ExecuteError::Refused(refusal) => ClusterError::Keeper(refusal),
            error => ClusterError::Work(Arc::new(error)),
        })?;
        adopt(&mut txn, self.services, &shares(&layout), Tenure::FIRST)?;
        decided(self.platform, txn)
    }

    /// Has the shards of one service own their ranges in one transaction, if none of them has ever owned one.
    fn try_new_service(&self, service: &Arc<dyn AnyRoutes>) -> Result<(), ClusterError> {
        // Chunks of an earlier opening must have ended, because they say which node has their ranges. The
        // latest number is below that of each chunk that follows.
        let settled = self.keeper.service().with_settled(|state| (state.assignment.shares(), state.latest));
        let (shares, latest) = settled.ok_or(ClusterError::Keeper(KeeperRefusal::Stale))?;
        let service = slice::from_ref(service);
        if !is_new(service, &shares)? {
            return Ok(());
        }
        let mut txn = self.coordinator.begin();
        adopt(&mut txn, service, &shares, latest)?;
        decided(self.platform, txn)
    }
}

/// Whether a step may succeed a moment later. A shard that was opened before the coordinator votes No at
/// first, because it has just heard which transactions began since; and what an earlier opening has left
/// may not have ended yet.
fn may_pass(error: &ClusterError) -> bool {
    matches!(
        error,
        ClusterError::Commit(CommitError::RolledBack { .. })
            | ClusterError::Keeper(KeeperRefusal::Stale | KeeperRefusal::NotFirst)
            | ClusterError::Shard { error: ShardError::Gate(_) | ShardError::Unreachable, .. }
    )
}

/// Whether no shard of the service has ever owned a position. A shard that does not answer counts only if no
/// other one knows better.
fn is_new(service: &[Arc<dyn AnyRoutes>], shares: &BTreeMap<NodeId, RangeSet>) -> Result<bool, ClusterError> {
    let mut unknown = Ok(true);
    for node in shares.keys() {
        for (_, shard) in shards(service, node)? {
            match shard.status() {
                Ok(status) if status.latest > Tenure::NONE => return Ok(false),
                Ok(_) => {}
                Err(error) => unknown = Err(ClusterError::Shard { node: node.clone(), error }),
            }
        }
    }
    unknown
}

/// Does the work of owning these ranges at the services' shards, with the records that they have there.
fn adopt(
    txn: &mut Transaction,
    services: &[Arc<dyn AnyRoutes>],
    shares: &BTreeMap<NodeId, RangeSet>,
    tenure: Tenure,
) -> Result<(), ClusterError> {
    for (node, ranges) in shares {
        for (name, shard) in shards(services, node)? {
            let branch = txn.branch(&name)?.clone();
            let adopted = shard.adopt(&branch, ranges, tenure);
            adopted.map_err(|error| ClusterError::Shard { node: node.clone(), error })?;
        }
    }
    Ok(())
}
