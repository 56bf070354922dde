//! [`RangeSet`]: a set of positions.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::RangeMap;
use crate::ring::{Position, PositionRange};

/// A set of positions, kept as disjoint [ranges](PositionRange). A plain value: a clone copies it.
///
/// Ranges that touch are one range, across position 0 too. So two sets are equal if and only if
/// they have the same positions. With n ranges in the set and k ranges in or next to the argument,
/// changes take O(k log n), and a look-up takes O(log n).
///
/// Serialised, it is the list of its ranges; a list in which two ranges overlap is refused.
///
/// ```
/// use ringpact::ring::{Position, PositionRange, RangeSet};
///
/// let range = |start, end| PositionRange { start: Position::new(start), end: Position::new(end) };
/// let mut set = RangeSet::from_iter([range(10, 20), range(20, 30)]);
/// assert_eq!(set.iter().collect::<Vec<_>>(), [range(10, 30)]);
///
/// set.remove(range(15, 16));
/// assert!(set.contains(Position::new(15)) && !set.contains(Position::new(16)));
/// assert_eq!(set.width(), 19);
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RangeSet {
    ranges: RangeMap<()>,
}

impl RangeSet {
    /// Returns the empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self { ranges: RangeMap::new() }
    }

    /// Returns the set of all positions.
    #[must_use]
    pub fn full() -> Self {
        Self::from_iter([PositionRange { start: Position::MAX, end: Position::MAX }])
    }

    /// Whether the set has this position. O(log n).
    #[must_use]
    pub fn contains(&self, position: Position) -> bool {
        self.ranges.get(position).is_some()
    }

    /// Whether the set has all positions of `range`. O(log n + k).
    #[must_use]
    pub fn covers(&self, range: PositionRange) -> bool {
        self.ranges.covers(range)
    }

    /// Whether the set has any position of `range`. O(log n).
    #[must_use]
    pub fn overlaps(&self, range: PositionRange) -> bool {
        self.ranges.overlaps(range)
    }

    /// Returns the parts of `range` that are in the set; ascending from position 0, with a part
    /// that passes position 0 cut in two. O(log n + k).
    pub fn overlapping(&self, range: PositionRange) -> impl Iterator<Item = PositionRange> {
        self.ranges.overlapping(range).map(|(part, ())| part)
    }

    /// Returns the parts of `range` that are not in the set; ascending from position 0, with a part
    /// that passes position 0 cut in two. O(log n + k).
    #[must_use]
    pub fn gaps(&self, range: PositionRange) -> Vec<PositionRange> {
        self.ranges.gaps(range)
    }

    /// Whether the set has no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether the set has all positions. O(n).
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.width() == 1 << 64
    }

    /// Returns the number of positions in the set, from 0 to 2^64. O(n).
    #[must_use]
    pub fn width(&self) -> u128 {
        self.ranges.width()
    }

    /// Returns the ranges of the set, ascending by their end. The first may pass position 0. No two
    /// of them touch.
    pub fn iter(&self) -> impl Iterator<Item = PositionRange> {
        self.ranges.iter().map(|(range, ())| range)
    }

    /// Adds the positions of `range`.
    pub fn insert(&mut self, range: PositionRange) {
        self.ranges.insert(range, ());
    }

    /// Removes the positions of `range`.
    pub fn remove(&mut self, range: PositionRange) {
        self.ranges.remove(range);
    }
}

impl Extend<PositionRange> for RangeSet {
    fn extend<I: IntoIterator<Item = PositionRange>>(&mut self, ranges: I) {
        ranges.into_iter().for_each(|range| self.insert(range));
    }
}

impl FromIterator<PositionRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = PositionRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        set.extend(ranges);
        set
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |range: PositionRange| format!("({:#x}, {:#x}]", range.start.as_u64(), range.end.as_u64());
        f.debug_set().entries(self.iter().map(shown)).finish()
    }
}

impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().collect::<Vec<_>>())
    }
}

impl<'de> Deserialize<'de> for RangeSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut set = Self::new();
        for range in Vec::<PositionRange>::deserialize(deserializer)? {
            if set.overlaps(range) {
                return Err(de::Error::custom(format_args!(
                    "the range after {} up to {} overlaps another range of the list; list each position once",
                    range.start.as_u64(),
                    range.end.as_u64()
                )));
            }
            set.insert(range);
        }
        Ok(set)
    }
}
