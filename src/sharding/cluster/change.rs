//! Changes of a cluster's nodes: [`ChangeBuilder`], its [`Plan`], and [`Moving`], the change under way.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{ClusterError, Oversized, core::ClusterCore, oversized};
use crate::{
    id::Name,
    ring::{HashRing, Movement, Node, NodeId, PositionRange, RangeSet, RingError},
    sharding::{
        KeeperRefusal, MAX_CHUNK_RANGES, Pace, ShardError, ShardMoves, Side,
        assignment::Layout,
        keeper::{ChangeState, Control, RingState},
        mover::Blocked,
    },
    txn::policy::after,
};

/// Collects what is to change; see [`Cluster::change`](super::Cluster::change). All of it becomes one
/// change, so each key moves at most once.
#[must_use = "a change is nothing until it is planned and started"]
pub struct ChangeBuilder {
    core: Arc<ClusterCore>,
    revision: u64,
    before: Arc<Layout>,
    after: Result<Layout, RingError>,
}

impl ChangeBuilder {
    pub(super) fn new(core: Arc<ClusterCore>) -> Result<Self, ClusterError> {
        let state = core.state().ok_or(ClusterError::Keeper(KeeperRefusal::NoRing))?;
        if state.change.is_some() {
            return Err(ClusterError::Keeper(KeeperRefusal::UnderWay));
        }
        let before = Arc::clone(state.assignment.layout());
        Ok(Self { core, revision: state.revision, after: Ok((*before).clone()), before })
    }

    /// Adds a node.
    pub fn join(self, node: impl Into<Node>) -> Self {
        self.edit(|ring| ring.add(node))
    }

    /// Removes a node. It serves its keys until they have moved.
    pub fn leave(self, node: impl AsRef<str>) -> Self {
        self.edit(|ring| ring.remove(node).map(drop))
    }

    /// Changes the weight of a node.
    pub fn weight(self, node: impl AsRef<str>, weight: u32) -> Self {
        self.edit(|ring| match ring.ring().node(node.as_ref()) {
            Some(found) => ring.replace(found.clone().with_weight(weight)).map(drop),
            None => Err(RingError::UnknownNode { id: NodeId::from(node.as_ref()) }),
        })
    }

    /// Holds a range on a node, whatever the ring says: for keys that need a node of their own. A node
    /// with pins can't leave.
    pub fn pin(self, range: PositionRange, node: impl AsRef<str>) -> Self {
        self.edit(|ring| ring.pin_range(range, node.as_ref()))
    }

    /// Gives a range back to the nodes that the ring names.
    pub fn unpin(self, range: PositionRange) -> Self {
        self.edit(|ring| {
            ring.unpin_range(range);
            Ok(())
        })
    }

    fn edit(mut self, edit: impl FnOnce(&mut Layout) -> Result<(), RingError>) -> Self {
        self.after = self.after.and_then(|mut ring| edit(&mut ring).map(|()| ring));
        self
    }

    /// Returns what would move, without doing anything. O(T) for T tokens.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Ring`]: the first thing that the ring can't do.
    pub fn plan(self) -> Result<Plan, ClusterError> {
        let after = self.after.map_err(ClusterError::Ring)?;
        Ok(Plan { core: self.core, revision: self.revision, before: self.before, after })
    }
}

impl fmt::Debug for ChangeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChangeBuilder").field("after", &self.after).finish_non_exhaustive()
    }
}

/// What a change would move: a dry run, which can be [started](Self::start).
#[must_use = "a plan does nothing until it is started"]
pub struct Plan {
    core: Arc<ClusterCore>,
    revision: u64,
    before: Arc<Layout>,
    after: Layout,
}

impl Plan {
    /// Returns the ring after the change.
    #[must_use]
    pub fn after(&self) -> &HashRing {
        self.after.ring()
    }

    /// Returns the ranges that would move, each with its node before and after, and their exact share
    /// of all keys. O(T).
    #[must_use]
    pub fn movement(&self) -> Movement<'_> {
        self.before.movement(&self.after).unwrap_or_default()
    }

    /// Asks the shards how many bytes of records would move. Blocks; each shard reads all records that
    /// would leave it.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Shard`]: a shard does not answer.
    pub fn bytes(&self) -> Result<u64, ClusterError> {
        let mut bytes = 0;
        self.for_parts(|_, _, shard, part| {
            bytes += shard.measure(&part, u64::MAX)?.1.bytes;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Asks the shards for positions that could not move, because their records have more than
    /// [`MAX_CHUNK_BYTES`](crate::sharding::MAX_CHUNK_BYTES) together. The change would end only when
    /// they have less. Blocks; each shard reads all records that would leave it.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Shard`]: a shard does not answer.
    pub fn oversized(&self) -> Result<Vec<Oversized>, ClusterError> {
        let mut found = Vec::new();
        self.for_parts(|node, name, shard, part| oversized::find(node, name, shard, part, &mut found))?;
        Ok(found)
    }

    /// Calls `each` with the shards that records would leave, and the ranges that would, some at a time.
    fn for_parts(
        &self,
        mut each: impl FnMut(&NodeId, &Name, &dyn ShardMoves, RangeSet) -> Result<(), ShardError>,
    ) -> Result<(), ClusterError> {
        let movement = self.movement();
        let mut left = BTreeMap::<&NodeId, Vec<_>>::new();
        for moved in movement.ranges() {
            left.entry(moved.from.id()).or_default().push(moved.range);
        }
        for (node, ranges) in left {
            for (name, shard) in self.core.directory.shards(node)? {
                for part in ranges.chunks(MAX_CHUNK_RANGES) {
                    each(node, &name, &*shard, part.iter().copied().collect())
                        .map_err(|error| ClusterError::Shard { node: node.clone(), error })?;
                }
            }
        }
        Ok(())
    }

    /// Connects to the nodes that join, makes the change durable, and starts to move data at this pace.
    /// Blocks for that, not for the move. The change goes on after a restart of the cluster.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Connect`]: a node that is to join has no shard. [`ClusterError::StillLeaving`]: it
    /// has just left. [`ClusterError::Keeper`]: the ring was changed since the plan was made; make a new
    /// one. Nothing has changed then.
    pub fn start(self, pace: Pace) -> Result<Moving, ClusterError> {
        let core = Arc::clone(&self.core);
        let ids = self.after.ring().nodes().iter().map(Node::id);
        let joining: Vec<_> = ids.filter(|id| self.before.ring().node(id.as_str()).is_none()).cloned().collect();
        core.wait_for_leavers(&joining)?;
        core.one_start(|| self.begin(&joining, pace))?;
        core.mover.drive(&core);
        Ok(Moving { core, since: self.revision + 1 })
    }

    fn begin(&self, joining: &[NodeId], pace: Pace) -> Result<(), ClusterError> {
        let core = &self.core;
        let result = joining.iter().try_for_each(|node| core.directory.join(node)).and_then(|()| {
            let ring =
                core.table().keep(&self.after, self.revision + 1).map_err(|error| ClusterError::Store(error.into()))?;
            let begun = core.control_at(self.revision + 1, &Control::Begin { ring: ring.clone(), pace });
            // Only if it is certain: after a commit whose outcome is not known the ring may be needed.
            if matches!(begun, Err(ClusterError::Keeper(_))) {
                core.table().let_go(&ring);
            }
            begun
        });
        if result.is_err() {
            // Another change may have brought some of them in meanwhile.
            let members = core.state().map(|state| state.nodes()).unwrap_or_default();
            joining.iter().filter(|node| !members.contains(*node)).for_each(|node| _ = core.directory.part(node));
            // Those that are not out yet are seen off, so that a later plan connects to them again.
            core.mover.retire(core);
        }
        result
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan").field("movement", &self.movement()).finish_non_exhaustive()
    }
}

/// A change that is under way; see [`Plan::start`] and [`Cluster::moving`](super::Cluster::moving). A
/// clone is another handle. Dropping it changes nothing.
#[derive(Clone)]
pub struct Moving {
    pub(super) core: Arc<ClusterCore>,
    /// The control step in which the change began.
    pub(super) since: u64,
}

/// How far a change has come, a snapshot.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// Whether the change has ended.
    pub is_over: bool,
    /// Whether it is paused.
    pub is_paused: bool,
    /// Whether it was cancelled, and goes back.
    pub is_cancelled: bool,
    /// The share of the change that has moved, from 0.0 to 1.0; of what is to go back, if it was
    /// cancelled.
    pub fraction: f64,
    /// Number of chunks that have moved since this process drives the change.
    pub chunks: u64,
    /// Number of their records.
    pub records: u64,
    /// Number of bytes of these records, as they travel.
    pub bytes: u64,
    /// Number of chunks that failed and went again.
    pub again: u64,
    /// Number of bytes that were exported for chunks that failed.
    pub bytes_again: u64,
    /// The longest time for which a chunk held up its keys.
    pub longest_freeze: Duration,
    /// Time since this process drives the change.
    pub elapsed: Duration,
    /// Time until the end, at the mean rate since then. `None` while it is paused; and while nothing has
    /// moved, because there is no rate yet: `blocked` says what is in the way, if something is. If a part is
    /// blocked for long, the time grows.
    pub remaining: Option<Duration>,
    /// The pace at which it moves, or `None` if it is over.
    pub pace: Option<Pace>,
    /// Ranges that could not move at their last try, by pair of nodes, and why.
    pub blocked: Vec<Blocked>,
}

impl Moving {
    /// Returns how far the change has come. Does not block. O(T) for T tokens.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let view = self.core.mover.view();
        let tally = view.tally;
        let now = self.core.directory.platform.now();
        let elapsed = tally.begun.map_or(Duration::ZERO, |begun: Instant| now.saturating_duration_since(begun));
        let state = self.core.state();
        let own = |change: &&ChangeState| change.since == self.since;
        let change = state.as_ref().and_then(|state| state.change.as_ref().filter(own).map(|change| (state, change)));
        let width = |side| -> u128 {
            let moving = change.map(|(state, _)| state.assignment.moving(side)).unwrap_or_default();
            moving.iter().map(|(range, ..)| range.width()).sum()
        };
        let (left, done) = change.map_or((0, 0), |(_, change)| (width(change.toward.other()), width(change.toward)));
        let fraction = if left == 0 { 1.0 } else { done as f64 / (left as f64 + done as f64) };
        let is_paused = change.is_some_and(|(_, change)| change.is_paused);
        let remaining = (tally.width > 0 && !is_paused)
            .then(|| Duration::try_from_secs_f64(elapsed.as_secs_f64() * left as f64 / tally.width as f64).ok())
            .flatten();
        Progress {
            is_over: change.is_none(),
            is_paused,
            is_cancelled: change.is_some_and(|(_, change)| change.toward == Side::Before),
            fraction,
            chunks: tally.chunks,
            records: tally.records,
            bytes: tally.bytes,
            again: tally.again,
            bytes_again: tally.bytes_again,
            longest_freeze: tally.longest_freeze,
            elapsed,
            remaining,
            pace: change.map(|(_, change)| change.pace.clone()),
            blocked: view.blocked,
        }
    }

    /// Stops after the chunks that are on their way, until [`resume`](Self::resume). Survives a restart.
    /// Blocks for one transaction.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Keeper`] if the change has ended.
    pub fn pause(&self) -> Result<(), ClusterError> {
        self.steer(None, Some(true))
    }

    /// Goes on. Blocks for one transaction.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn resume(&self) -> Result<(), ClusterError> {
        self.steer(None, Some(false))
    }

    /// Moves at this pace from now on. Blocks for one transaction.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn set_pace(&self, pace: Pace) -> Result<(), ClusterError> {
        self.steer(Some(pace), None)
    }

    fn steer(&self, pace: Option<Pace>, is_paused: Option<bool>) -> Result<(), ClusterError> {
        self.check()?;
        self.core.control(&Control::Steer { pace, is_paused })?;
        self.core.mover.steer(&self.core);
        Ok(())
    }

    /// Moves back what has moved. In the end the ring is the one before the change, with all data.
    /// Blocks for one transaction, not for the move.
    ///
    /// # Errors
    ///
    /// [`ClusterError::Keeper`] if the change has ended, or was cancelled already.
    pub fn cancel(&self) -> Result<(), ClusterError> {
        self.check()?;
        self.core.control(&Control::Turn)?;
        self.core.mover.drive(&self.core);
        Ok(())
    }

    /// Blocks until the change has ended, at most for `timeout`. Returns whether it has.
    #[must_use = "the change may still be under way"]
    pub fn wait(&self, timeout: Duration) -> bool {
        let until = after(self.core.directory.platform.now(), timeout);
        self.core.mover.wait_while(|| self.goes_on(), until)
    }

    /// Whether this change, and not a later one, is under way.
    fn goes_on(&self) -> bool {
        let own = |state: &RingState| state.change.as_ref().is_some_and(|change| change.since == self.since);
        self.core.table().with_state(own).unwrap_or_default()
    }

    fn check(&self) -> Result<(), ClusterError> {
        if self.goes_on() { Ok(()) } else { Err(ClusterError::Keeper(KeeperRefusal::NothingMoves)) }
    }
}

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Moving").field("progress", &self.progress()).finish_non_exhaustive()
    }
}
