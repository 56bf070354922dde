//! [`Assignment`]: which node has a position now, while data moves. Pure.
//!
//! In reading order: the assignment and its look-up, the steps from one to the next, and
//! [`SharedAssignment`], which threads share.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    platform::{Condvar, Platform},
    ring::{HashRing, NodeId, PinnedRing, Pins, Position, PositionRange, RangeMap, RangeSet, RingEpoch},
    sharding::Tenure,
};

/// Number of ranges that a version keeps apart from its older ones. A new version copies these, and
/// all others only when this many have come together: so a chunk costs the same, however many came
/// before it.
const MAX_RECENT: usize = 128;

/// Number of steps that are kept for clients that are behind. A client that is further behind gets
/// the whole assignment.
const MAX_STEPS: usize = 4096;

/// A ring, and the ranges that are held on some of its nodes.
pub(super) type Layout = PinnedRing<HashRing>;

/// Which of a change's two rings has a position now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_enums, reason = "a change is between two rings")]
pub enum Side {
    /// The ring before the change.
    Before,
    /// The ring after it.
    After,
}

impl Side {
    /// Returns the other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Before => Self::After,
            Self::After => Self::Before,
        }
    }
}

/// The side on which a position is, and the hand-over that brought it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Placed {
    pub(super) side: Side,
    pub(super) tenure: Tenure,
}

/// Which node has each position. A plain value; a clone copies at most a few ranges.
///
/// While no data moves, a [`HashRing`] says it. While a change is under way there are two rings, and
/// the assignment knows which ranges have moved already.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    epoch: RingEpoch,
    stable: Arc<Layout>,
    /// The ring that the change under way leads to.
    after: Option<Arc<Layout>>,
    /// All hand-overs up to this one are in `stable`.
    settled: Tenure,
    moved: Moved,
}

/// What has moved in the change under way.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Moved {
    older: Arc<RangeMap<Placed>>,
    /// These count where `older` says something else.
    recent: RangeMap<Placed>,
    recent_ranges: usize,
}

impl Moved {
    fn get(&self, position: Position) -> Option<&Placed> {
        self.recent.get(position).or_else(|| self.older.get(position))
    }

    fn insert(&mut self, ranges: &RangeSet, placed: Placed) {
        for range in ranges.iter() {
            self.recent.insert(range, placed);
            self.recent_ranges += 1;
        }
        if self.recent_ranges > MAX_RECENT {
            Arc::make_mut(&mut self.older).extend(self.recent.iter().map(|(range, placed)| (range, *placed)));
            (self.recent, self.recent_ranges) = (RangeMap::new(), 0);
        }
    }

    /// Returns what has moved of these ranges.
    fn within(&self, ranges: &RangeSet) -> RangeMap<Placed> {
        let mut map = RangeMap::new();
        for range in ranges.iter() {
            map.extend(self.older.overlapping(range).map(|(range, placed)| (range, *placed)));
            map.extend(self.recent.overlapping(range).map(|(range, placed)| (range, *placed)));
        }
        map
    }

    /// Returns all of it as one map.
    pub(super) fn to_map(&self) -> RangeMap<Placed> {
        let mut map = (*self.older).clone();
        map.extend(self.recent.iter().map(|(range, placed)| (range, *placed)));
        map
    }
}

/// Where to find a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place<'a> {
    /// The node that has it.
    pub node: &'a NodeId,
    /// The latest hand-over of the position that this assignment knows of. The shard is told, so
    /// that it knows which of the two is behind.
    pub known: Tenure,
}

/// One step from an assignment to the next, as clients of other processes follow them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AssignmentStep {
    /// A change has begun, to this ring.
    Began {
        /// The ring, with its pins.
        after: Arc<PinnedRing<HashRing>>,
    },
    /// These ranges have moved.
    Moved {
        /// The ranges.
        ranges: RangeSet,
        /// The side that they are on now.
        side: Side,
        /// The number of the hand-over.
        tenure: Tenure,
    },
    /// The change has ended: everything is on this side.
    Ended {
        /// The side.
        side: Side,
        /// The latest hand-over.
        settled: Tenure,
    },
}

impl Assignment {
    /// Returns the assignment of a ring on which nothing moves.
    pub(super) fn new(epoch: RingEpoch, stable: Arc<Layout>, settled: Tenure) -> Self {
        Self { epoch, stable, after: None, settled, moved: Moved::default() }
    }

    /// Returns the epoch, the number of this version. It differs between two versions that differ,
    /// and never goes back.
    #[must_use]
    pub const fn epoch(&self) -> RingEpoch {
        self.epoch
    }

    /// Returns the ring before the change that is under way; the ring, if none is.
    #[must_use]
    pub fn ring(&self) -> &HashRing {
        self.stable.ring()
    }

    /// Returns the ranges that are held on given nodes, before the change that is under way.
    #[must_use]
    pub fn pins(&self) -> &Pins {
        self.stable.pins()
    }

    pub(super) const fn layout(&self) -> &Arc<Layout> {
        &self.stable
    }

    /// Returns the ring that the change under way leads to, if one is under way.
    #[must_use]
    pub fn after(&self) -> Option<&HashRing> {
        self.after.as_ref().map(|after| after.ring())
    }

    /// Returns where a position is. O(1) while nothing moves, O(log n) for n ranges that have moved.
    #[must_use]
    pub fn place(&self, position: Position) -> Place<'_> {
        let Some(after) = &self.after else {
            return Place { node: self.stable.owner_at(position).id(), known: self.settled };
        };
        match self.moved.get(position) {
            None => Place { node: self.stable.owner_at(position).id(), known: self.settled },
            Some(Placed { side: Side::Before, tenure }) => {
                Place { node: self.stable.owner_at(position).id(), known: *tenure }
            }
            Some(Placed { side: Side::After, tenure }) => Place { node: after.owner_at(position).id(), known: *tenure },
        }
    }

    /// Returns the ranges that are on this side of the change under way, of those that it moves.
    /// Empty if none is under way. O(T) for the tokens of both rings.
    #[must_use]
    pub fn moving(&self, side: Side) -> Vec<(PositionRange, NodeId, NodeId)> {
        let Some(after) = &self.after else { return Vec::new() };
        let movement = self.stable.movement(after).unwrap_or_default();
        let moved = self.moved.to_map();
        let mut found = Vec::new();
        for part in movement.ranges() {
            let (before, after) = (part.from.id(), part.to.id());
            let parts: Vec<_> = match side {
                Side::After => moved
                    .overlapping(part.range)
                    .filter(|(_, placed)| placed.side == Side::After)
                    .map(|(range, _)| range)
                    .collect(),
                Side::Before => {
                    let mut left = RangeSet::from_iter([part.range]);
                    for (range, placed) in moved.overlapping(part.range) {
                        if placed.side == Side::After {
                            left.remove(range);
                        }
                    }
                    left.iter().collect()
                }
            };
            found.extend(parts.into_iter().map(|range| match side {
                Side::Before => (range, before.clone(), after.clone()),
                Side::After => (range, after.clone(), before.clone()),
            }));
        }
        found
    }

    /// Returns the ranges of each node that has some, as they are now. O(T) for the tokens of both rings.
    pub(super) fn shares(&self) -> BTreeMap<NodeId, RangeSet> {
        let mut shares = shares(&self.stable);
        for (range, node, before) in self.moving(Side::After) {
            shares.entry(before).or_default().remove(range);
            shares.entry(node).or_default().insert(range);
        }
        shares.retain(|_, ranges| !ranges.is_empty());
        shares
    }

    /// Returns the nodes that have no keys once the change has ended on this side.
    pub(super) fn leavers(&self, side: Side) -> Vec<NodeId> {
        let Some(after) = &self.after else { return Vec::new() };
        let (stays, goes) = match side {
            Side::Before => (self.stable.ring(), after.ring()),
            Side::After => (after.ring(), self.stable.ring()),
        };
        let ids = goes.nodes().iter().map(|node| node.id());
        ids.filter(|id| stays.node(id.as_str()).is_none()).cloned().collect()
    }

    /// Returns the same as of another epoch.
    pub(super) const fn at(mut self, epoch: RingEpoch) -> Self {
        self.epoch = epoch;
        self
    }

    /// Whether all of the ranges are on this side of the change under way.
    pub(super) fn is_all_on(&self, ranges: &RangeSet, side: Side) -> bool {
        let moved = self.moved.within(ranges);
        match side {
            Side::Before => moved.iter().all(|(_, placed)| placed.side == Side::Before),
            Side::After => {
                moved.iter().all(|(_, placed)| placed.side == Side::After)
                    && ranges.iter().all(|range| moved.covers(range))
            }
        }
    }

    /// Whether the assignment knows of this hand-over of the ranges, or of a later one.
    pub(super) fn knows(&self, ranges: &RangeSet, tenure: Tenure) -> bool {
        tenure <= self.settled || self.moved.within(ranges).iter().any(|(_, placed)| placed.tenure >= tenure)
    }

    /// Takes one step, to this epoch.
    pub(super) fn apply(&mut self, step: &AssignmentStep, epoch: RingEpoch) {
        self.epoch = epoch;
        match step {
            AssignmentStep::Began { after } => {
                self.after = Some(Arc::clone(after));
                self.moved = Moved::default();
            }
            AssignmentStep::Moved { ranges, side, tenure } => {
                self.moved.insert(ranges, Placed { side: *side, tenure: *tenure });
            }
            AssignmentStep::Ended { side, settled } => {
                if let Some(after) = self.after.take().filter(|_| *side == Side::After) {
                    self.stable = after;
                }
                self.settled = *settled;
                self.moved = Moved::default();
            }
        }
    }
}

/// Returns the ranges of each node of the ring that has some. O(T) for T tokens and pins.
pub(super) fn shares(layout: &Layout) -> BTreeMap<NodeId, RangeSet> {
    let mut ends: BTreeSet<_> = layout.ring().tokens().map(|token| token.position).collect();
    ends.extend(layout.pins().iter().flat_map(|(range, _)| [range.start, range.end]));
    let mut shares = BTreeMap::<_, RangeSet>::new();
    let mut start = *ends.last().expect("a ring is never empty");
    for end in ends {
        shares.entry(layout.owner_at(end).id().clone()).or_default().insert(PositionRange { start, end });
        start = end;
    }
    shares
}

/// What a client that is behind needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum AssignmentUpdate {
    /// The steps since the client's version. Each makes the next epoch.
    Steps(Vec<AssignmentStep>),
    /// The whole assignment, because the client is too far behind.
    Whole(Box<Assignment>),
}

/// An assignment that changes while threads look up in it. Shared by [`Arc`].
///
/// Readers never block. Each change makes a new version, which has the next epoch.
pub struct SharedAssignment {
    current: ArcSwap<Assignment>,
    steps: Mutex<VecDeque<AssignmentStep>>,
    changed: Condvar,
}

impl SharedAssignment {
    /// Returns a shared assignment whose first version is this one: for a client in another process,
    /// which follows the [updates](Self::since) of the keeper's.
    #[must_use]
    pub fn new(first: Assignment) -> Self {
        Self::on(&Platform::default(), first)
    }

    pub(super) fn on(platform: &Platform, first: Assignment) -> Self {
        Self { current: ArcSwap::from_pointee(first), steps: Mutex::default(), changed: platform.condvar() }
    }

    /// Returns the present version. Never blocks.
    #[must_use]
    pub fn load(&self) -> arc_swap::Guard<Arc<Assignment>> {
        self.current.load()
    }

    /// Publishes the step as the next version.
    pub(super) fn publish(&self, step: AssignmentStep) {
        let mut steps = self.steps.lock();
        let mut next = (**self.current.load()).clone();
        let epoch = RingEpoch::new(next.epoch.as_u64() + 1);
        next.apply(&step, epoch);
        self.current.store(Arc::new(next));
        steps.push_back(step);
        if steps.len() > MAX_STEPS {
            steps.pop_front();
        }
        drop(steps);
        self.changed.notify_all();
    }

    /// Returns what a client with the version of this epoch needs to come to the present one. No steps
    /// if it has that already. O(number of steps).
    #[must_use]
    pub fn since(&self, epoch: RingEpoch) -> AssignmentUpdate {
        let steps = self.steps.lock();
        let current = self.current.load_full();
        let behind = current.epoch.as_u64().checked_sub(epoch.as_u64());
        match behind.and_then(|behind| steps.len().checked_sub(usize::try_from(behind).ok()?)) {
            Some(first) => AssignmentUpdate::Steps(steps.range(first..).cloned().collect()),
            // Also a client of an epoch that never was: its keeper has lost its state.
            None => AssignmentUpdate::Whole(Box::new((*current).clone())),
        }
    }

    /// Takes in what a keeper said to [`since`](Self::since) with the epoch of this version. An update
    /// that does not fit any more, because another thread was faster, changes nothing.
    pub fn update(&self, asked: RingEpoch, update: AssignmentUpdate) {
        match update {
            AssignmentUpdate::Whole(whole) => {
                let _one_at_a_time = self.steps.lock();
                if whole.epoch > self.current.load().epoch {
                    self.current.store(Arc::new(*whole));
                }
            }
            AssignmentUpdate::Steps(steps) => {
                let _one_at_a_time = self.steps.lock();
                let mut next = (**self.current.load()).clone();
                if next.epoch != asked || steps.is_empty() {
                    return;
                }
                for step in &steps {
                    next.apply(step, RingEpoch::new(next.epoch.as_u64() + 1));
                }
                self.current.store(Arc::new(next));
            }
        }
        self.changed.notify_all();
    }

    /// Blocks until there is a version after this epoch, for at most `timeout`.
    pub(super) fn wait_past(&self, epoch: RingEpoch, timeout: std::time::Duration) {
        let mut steps = self.steps.lock();
        if self.current.load().epoch <= epoch {
            let _ = self.changed.wait_for(&mut steps, timeout);
        }
    }
}

impl fmt::Debug for SharedAssignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedAssignment").field("epoch", &self.load().epoch).finish_non_exhaustive()
    }
}
