//! Whether shards own what the ring gives to their nodes, and what to do if one has lost its data.

use std::{fmt, time::Duration};

use super::{Cluster, ClusterError, core::decided};
use crate::{
    ring::{NodeId, RangeSet},
    sharding::{KeeperRefusal, ShardError, ShardMoves, Tenure, keeper::RingState},
};

/// Maximum time that a check waits for the last chunks of a change that is paused: for the time-out of their
/// transactions, and a little more.
const SETTLED_WITHIN: Duration = Duration::from_secs(15);

/// What is wrong with a shard; see [`Cluster::check_shards`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ShardFinding {
    /// The service.
    pub service: String,
    /// The node.
    pub node: NodeId,
    /// What was found.
    pub fault: ShardFault,
}

/// What can be wrong with a shard. Clients' work is refused where a shard does not own a position, so none of
/// this changes data.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ShardFault {
    /// It did not answer, so nothing is known.
    Silent(ShardError),
    /// It does not own these ranges, which the ring gives to its node: it was opened without its data, or with
    /// data that is older than the ring. Restore both data and log of the shard; or see
    /// [`Cluster::replace_lost_shard`].
    Lacks(RangeSet),
    /// It owns these ranges, which the ring gives to another node: its data is older than the ring, or the ring
    /// is older than the shard.
    HasSurplus(RangeSet),
    /// It has taken part in a hand-over that the keeper does not know of: the coordinator's log and the ring
    /// store are older than the shard. Restore them.
    IsAhead(Tenure),
}

impl fmt::Display for ShardFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, node, fault } = self;
        write!(f, "the shard of {service} on node {node} ")?;
        let share = |ranges: &RangeSet| ranges.iter().map(|range| range.fraction() * 100.0).sum::<f64>();
        match fault {
            ShardFault::Silent(error) => write!(f, "does not answer: {error}"),
            ShardFault::Lacks(ranges) => write!(f, "lacks {:.3} % of the circle", share(ranges)),
            ShardFault::HasSurplus(ranges) => {
                write!(f, "owns {:.3} % of the circle that the ring gives to other nodes", share(ranges))
            }
            ShardFault::IsAhead(latest) => {
                write!(f, "knows of hand-over {latest}, and the keeper of the ring does not")
            }
        }
    }
}

impl Cluster {
    /// Asks all shards what they own, and returns what is not as the ring has it: shards that have lost their
    /// data, or were restored from a backup of another day. Call it after an opening for which something was
    /// restored, and if a node refuses all work. Blocks until all have answered, or the time for that is up,
    /// one after the other.
    ///
    /// ```
    /// # use ringpact::{HashRing, MemoryLog, sharding::Cluster};
    /// # let cluster = Cluster::builder(MemoryLog::new()).first_ring(HashRing::new(["node-1"])?).open()?;
    /// for finding in cluster.check_shards()? {
    ///     eprintln!("{finding}");
    /// }
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClusterError::Keeper`] while ranges move: pause the change, and ask again.
    pub fn check_shards(&self) -> Result<Vec<ShardFinding>, ClusterError> {
        let directory = &self.core.directory;
        let look = |state: &RingState| (state.assignment.shares(), state.assignment.epoch(), state.latest);
        let (mut shares, epoch, latest) = self.settled(look)?;
        let mut findings = Vec::new();
        for node in directory.nodes() {
            let share = shares.remove(&node).unwrap_or_default();
            for service in &directory.services {
                let Some((_, shard)) = service.moves(&node) else { continue };
                let found = match shard.status() {
                    Ok(status) if status.leaving + status.arriving > 0 => return Err(in_motion()),
                    Ok(status) if status.latest > latest => Ok(vec![ShardFault::IsAhead(status.latest)]),
                    Ok(_) => compare(&*shard, &share),
                    Err(error) => Err(error),
                };
                let found = found.unwrap_or_else(|error| vec![ShardFault::Silent(error)]);
                let found = found.into_iter().map(|fault| (service.service().to_owned(), node.clone(), fault));
                findings.extend(found.map(|(service, node, fault)| ShardFinding { service, node, fault }));
            }
        }
        // Otherwise some answers are from before a hand-over, and some from after it.
        if self.settled(|state| state.assignment.epoch())? == epoch { Ok(findings) } else { Err(in_motion()) }
    }

    /// Has the shard of a service on a node own the ranges that the ring gives to it and that it lacks, with
    /// the records that it has there. Returns these ranges. **For a shard whose data is lost for good**: what
    /// was there is gone, and clients find these keys absent from now on. If there is a backup, restore the
    /// shard's data and log instead.
    ///
    /// Blocks for one transaction.
    ///
    /// # Errors
    ///
    /// [`ClusterError::NoShard`]: there is no such shard, or no such service. [`ClusterError::Keeper`] while ranges move: pause the
    /// change, and try again. [`ClusterError::Shard`], [`ClusterError::Commit`]: nothing has changed.
    pub fn replace_lost_shard(&self, service: &str, node: &NodeId) -> Result<RangeSet, ClusterError> {
        let directory = &self.core.directory;
        let found = directory.services.iter().find(|known| known.service() == service);
        let found = found.and_then(|service| service.moves(node));
        let (name, shard) = found.ok_or_else(|| ClusterError::NoShard { node: node.clone() })?;
        // While this shard lacks a range no chunk can take it away from there, and its gate does not take a range
        // twice. So a change that goes on meanwhile does no harm.
        let share = |state: &RingState| (state.assignment.shares().remove(node).unwrap_or_default(), state.latest);
        let (mut lacks, latest) = self.settled(share)?;
        let failed = |error| ClusterError::Shard { node: node.clone(), error };
        shard.owned().map_err(failed)?.iter().for_each(|range| lacks.remove(range));
        if !lacks.is_empty() {
            let mut txn = directory.coordinator.begin();
            let branch = txn.branch(&name)?.clone();
            shard.adopt(&branch, &lacks, latest).map_err(failed)?;
            decided(&directory.platform, txn)?;
        }
        Ok(lacks)
    }

    /// Waits for chunks that are on their way, if the change is paused and no others follow.
    fn settled<R>(&self, look: impl Fn(&RingState) -> R) -> Result<R, ClusterError> {
        let until = self.core.directory.platform.now() + SETTLED_WITHIN;
        loop {
            if let Some(found) = self.core.table().with_settled(&look) {
                return Ok(found);
            }
            let moves = |state: &RingState| state.change.as_ref().is_some_and(|change| !change.is_paused);
            let goes_on = self.core.table().with_state(moves).unwrap_or_default();
            if goes_on || self.core.directory.platform.now() >= until {
                return Err(in_motion());
            }
            self.core.mover.pause();
        }
    }
}

const fn in_motion() -> ClusterError {
    ClusterError::Keeper(KeeperRefusal::InMotion)
}

/// Compares what a shard owns with what the ring gives it.
fn compare(shard: &dyn ShardMoves, share: &RangeSet) -> Result<Vec<ShardFault>, ShardError> {
    let owned = shard.owned()?;
    let (lacks, surplus) = (without(share, &owned), without(&owned, share));
    let lacks = (!lacks.is_empty()).then_some(ShardFault::Lacks(lacks));
    let surplus = (!surplus.is_empty()).then_some(ShardFault::HasSurplus(surplus));
    Ok(lacks.into_iter().chain(surplus).collect())
}

/// Returns what of the first is not in the second.
fn without(ranges: &RangeSet, others: &RangeSet) -> RangeSet {
    let mut left = ranges.clone();
    others.iter().for_each(|range| left.remove(range));
    left
}
