//! What moves between two rings.
//!
//! In reading order: this file has the ranges and the [`Movement`]; [`between`] finds the movement
//! between any two rings, and [`join`] that of a node that joins; [`replica_movement`] is for
//! positions that several nodes hold.

mod between;
mod join;
mod replica_movement;

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Node, Position};

pub use replica_movement::{ReplicaMove, ReplicaMovement};

/// The positions clockwise from `start` (exclusive) to `end` (inclusive). Exhaustive on purpose: a
/// range has two ends.
///
/// A range may pass position 0: if `start` is above `end`, it has all positions after `start` and
/// all up to `end`. If `start` is equal to `end`, it is the whole circle. There is no empty range.
///
/// ```
/// use ringpact::ring::{Position, PositionRange};
///
/// let range = PositionRange { start: Position::MAX, end: Position::new(9) };
/// assert!(range.contains(Position::new(0)) && range.contains(Position::new(9)));
/// assert!(!range.contains(Position::MAX) && !range.contains(Position::new(10)));
/// assert_eq!(range.width(), 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a range has two ends, and callers make ranges")]
pub struct PositionRange {
    /// The last position before the range.
    pub start: Position,
    /// The last position of the range.
    pub end: Position,
}

impl PositionRange {
    /// Whether `position` is in the range.
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        let (after_start, up_to_end) = (self.start < position, position <= self.end);
        if self.start < self.end { after_start && up_to_end } else { after_start || up_to_end }
    }

    /// Returns the number of positions in the range, from 1 to 2^64.
    #[must_use]
    pub fn width(&self) -> u128 {
        match self.end.as_u64().wrapping_sub(self.start.as_u64()) {
            0 => 1 << 64,
            width => u128::from(width),
        }
    }

    /// Returns the range's share of the circle, above 0.0 and up to 1.0.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        fraction(self.width())
    }

    /// Returns the range as one or two ranges of numbers that don't pass 0, ascending, for a
    /// `BETWEEN` in a query.
    ///
    /// ```
    /// use ringpact::ring::{Position, PositionRange};
    ///
    /// let range = PositionRange { start: Position::new(u64::MAX - 1), end: Position::new(9) };
    /// assert_eq!(range.segments().collect::<Vec<_>>(), [0..=9, u64::MAX..=u64::MAX]);
    /// ```
    pub fn segments(&self) -> impl Iterator<Item = RangeInclusive<u64>> + use<> {
        let (start, end) = (self.start.as_u64(), self.end.as_u64());
        let after_start = start.checked_add(1);
        let (low, high) = if start < end {
            (after_start.map(|first| first..=end), None)
        } else {
            (Some(0..=end), after_start.map(|first| first..=u64::MAX))
        };
        low.into_iter().chain(high)
    }
}

/// A range of positions that changes its owner. It borrows the nodes of both rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MovedRange<'a> {
    /// The range that moves.
    pub range: PositionRange,
    /// The owner in the ring before.
    pub from: &'a Node,
    /// The owner in the ring after. It never has the same id as `from`.
    pub to: &'a Node,
}

/// Exactly what moves between two rings: a position is in one of the ranges if and only if its
/// owner changes. [`HashRing::movement`](super::HashRing::movement) returns it. It borrows the
/// nodes of both rings; a clone copies the list.
///
/// The ranges are disjoint, and ascend by their end. The first may pass position 0. Two that touch
/// differ in `from` or in `to`.
///
/// ```
/// use ringpact::ring::HashRing;
///
/// let before = HashRing::new(["a", "b", "c"])?;
/// let mut after = before.clone();
/// after.remove("b")?;
///
/// let movement = before.movement(&after)?;
/// let moved = movement.find(before.position("user:42"));
/// assert_eq!(moved.is_some(), before.owner("user:42").id() == "b");
/// assert!((0.25..0.42).contains(&movement.fraction()));
/// # Ok::<(), ringpact::ring::RingError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Movement<'a> {
    ranges: Vec<MovedRange<'a>>,
}

impl<'a> Movement<'a> {
    /// Returns the ranges that move.
    #[must_use]
    pub fn ranges(&self) -> &[MovedRange<'a>] {
        &self.ranges
    }

    /// Returns the range that `position` moves with, or `None` if its owner stays. O(log R) for R
    /// ranges.
    #[must_use]
    pub fn find(&self, position: Position) -> Option<&MovedRange<'a>> {
        let index = self.ranges.partition_point(|moved| moved.range.end < position);
        // Beyond the last end there can only be a range that passes 0, and that is the first one.
        self.ranges.get(index).or(self.ranges.first()).filter(|moved| moved.range.contains(position))
    }

    /// Whether every position keeps its owner.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the exact number of positions that move, from 0 to 2^64.
    #[must_use]
    pub fn width(&self) -> u128 {
        self.ranges.iter().map(|moved| moved.range.width()).sum()
    }

    /// Returns the share of the circle that moves, from 0.0 to 1.0.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        fraction(self.width())
    }
}

impl<'m, 'a> IntoIterator for &'m Movement<'a> {
    type Item = &'m MovedRange<'a>;
    type IntoIter = std::slice::Iter<'m, MovedRange<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.iter()
    }
}

impl<'a> IntoIterator for Movement<'a> {
    type Item = MovedRange<'a>;
    type IntoIter = std::vec::IntoIter<MovedRange<'a>>;

    fn into_iter(self) -> Self::IntoIter {
        self.ranges.into_iter()
    }
}

fn fraction(width: u128) -> f64 {
    const CIRCLE: f64 = (1_u128 << 64) as f64;
    width as f64 / CIRCLE
}
