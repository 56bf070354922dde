//! Positions that are held on a node, whichever node owns them by placement.
//!
//! In reading order: this file has [`Pins`]; [`pinned_ring`] has the ring with pins; [`movement`]
//! finds what moves between two of them.

mod movement;
mod pinned_ring;

use serde::{Deserialize, Serialize};

pub use pinned_ring::PinnedRing;

use super::{HashRing, Movement, NodeId, Position, PositionRange, RangeMap, RangeSet, RingError};

/// Version number of the serialised form of [`Pins`].
pub const PINS_FORMAT_VERSION: u32 = 1;

/// Positions that are held on given nodes: a hot key on a large machine, a customer's range in a
/// country, or ranges on their old owners until the data has moved. It is plain data; a clone copies
/// it. A [`PinnedRing`] puts it over a ring.
///
/// A position has at most one pin; a later one replaces an earlier one. With P pinned ranges, all
/// calls take O(log P) unless they say otherwise.
///
/// ```
/// use ringpact::ring::{HashRing, PinnedRing, Pins};
///
/// // Each range that moves to a newcomer stays where it is until its data has been copied.
/// let before = HashRing::new(["a", "b", "c"])?;
/// let mut after = before.clone();
/// after.add("d")?;
/// let movement = before.movement(&after)?;
/// let mut ring = PinnedRing::new(&after, Pins::holding(&movement))?;
/// assert_eq!(ring.owner("user:42"), before.owner("user:42"));
///
/// for moved in &movement {
///     // Copy the data of `moved.range` from `moved.from` to `moved.to`. Then:
///     ring.unpin_range(moved.range);
/// }
/// assert!(ring.pins().is_empty());
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Pins {
    ranges: RangeMap<NodeId>,
}

impl Pins {
    /// Returns no pins.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: RangeMap::new() }
    }

    /// Returns pins that hold every range of a movement on the node that gives it. In the ring after
    /// the movement, all positions then have the owners that they had before. O(R log R) for R
    /// ranges.
    ///
    /// A node that has left can't hold its ranges: [`PinnedRing::new`] refuses its pins, and
    /// [`release`](Self::release) removes them.
    #[must_use]
    pub fn holding(movement: &Movement<'_>) -> Self {
        Self { ranges: movement.ranges().iter().map(|moved| (moved.range, moved.from.id().clone())).collect() }
    }

    /// Holds a range on the node with this id.
    pub fn pin_range(&mut self, range: PositionRange, id: impl Into<NodeId>) {
        self.ranges.insert(range, id.into());
    }

    /// Holds one position on the node with this id: that of a key, with [`HashRing::position`].
    pub fn pin_position(&mut self, position: Position, id: impl Into<NodeId>) {
        self.pin_range(only(position), id);
    }

    /// Removes the pins of a range, and leaves what reaches beyond it.
    pub fn unpin_range(&mut self, range: PositionRange) {
        self.ranges.remove(range);
    }

    /// Removes the pin of a position.
    pub fn unpin_position(&mut self, position: Position) {
        self.unpin_range(only(position));
    }

    /// Removes all pins to the node with this id, and returns what they held. O(P log P).
    pub fn release(&mut self, id: impl AsRef<str>) -> RangeSet {
        let held = self.of(id);
        held.iter().for_each(|range| self.ranges.remove(range));
        held
    }

    /// Returns the id of the node that `position` is held on, or `None` if it has no pin.
    #[must_use]
    pub fn get(&self, position: Position) -> Option<&NodeId> {
        self.ranges.get(position)
    }

    /// Returns the positions that are held on the node with this id. O(P log P).
    #[must_use]
    pub fn of(&self, id: impl AsRef<str>) -> RangeSet {
        self.iter().filter(|(_, pinned)| pinned.as_str() == id.as_ref()).map(|(range, _)| range).collect()
    }

    /// Returns the ranges and the ids of the nodes that hold them, ascending by their end. The first
    /// may pass position 0. Two that touch have different nodes.
    pub fn iter(&self) -> impl Iterator<Item = (PositionRange, &NodeId)> {
        self.ranges.iter()
    }

    /// Whether there are no pins.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the number of positions that are held, from 0 to 2^64. O(P).
    #[must_use]
    pub fn width(&self) -> u128 {
        self.ranges.width()
    }

    /// Checks that each pin is to a member of `ring`. O(P log N).
    ///
    /// Inside [`SharedRing::update`](super::SharedRing::update), after the change, it refuses a change
    /// that takes a node away from its pins:
    ///
    /// ```
    /// use ringpact::ring::{HashRing, Pins, RingError, SharedRing};
    ///
    /// let shared = SharedRing::new(HashRing::new(["a", "b"])?);
    /// let mut pins = Pins::new();
    /// pins.pin_position(shared.load().position("celebrity"), "b");
    ///
    /// let refused = shared.update(|ring| {
    ///     ring.remove("b")?;
    ///     pins.check(ring)
    /// });
    /// assert_eq!(refused.unwrap_err(), RingError::PinnedNode { id: "b".into() });
    /// assert!(shared.load().node("b").is_some());
    /// # Ok::<(), RingError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`RingError::PinnedNode`] with the first id that is not a member.
    pub fn check<H>(&self, ring: &HashRing<H>) -> Result<(), RingError> {
        match self.iter().find(|(_, id)| ring.node(id).is_none()) {
            Some((_, id)) => Err(RingError::PinnedNode { id: id.clone() }),
            None => Ok(()),
        }
    }
}

/// Returns the range of one position.
fn only(position: Position) -> PositionRange {
    PositionRange { start: Position::new(position.as_u64().wrapping_sub(1)), end: position }
}

/// The wire form.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Pins", deny_unknown_fields)]
struct Form {
    format: u32,
    ranges: RangeMap<NodeId>,
}

impl From<Pins> for Form {
    fn from(pins: Pins) -> Self {
        Self { format: PINS_FORMAT_VERSION, ranges: pins.ranges }
    }
}

impl TryFrom<Form> for Pins {
    type Error = RingError;

    fn try_from(form: Form) -> Result<Self, RingError> {
        match form.format {
            PINS_FORMAT_VERSION => Ok(Self { ranges: form.ranges }),
            found => Err(RingError::UnsupportedPins { found }),
        }
    }
}
