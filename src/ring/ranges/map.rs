//! [`RangeMap`]: a value for each position of some ranges.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::ring::{Position, PositionRange};

/// A value for each position of some [ranges](PositionRange); other positions have none. A plain
/// value: a clone copies it.
///
/// Neighbouring positions with equal values are one range, across position 0 too. So two maps are
/// equal if and only if each position has the same value in both, however they were made.
///
/// With n ranges in the map and k ranges in or next to the argument, changes take O(k log n), and
/// a look-up takes O(log n). Serialised, it is the list of its ranges and values; a list in which
/// two ranges overlap is refused.
///
/// ```
/// use ringpact::ring::{Position, PositionRange, RangeMap};
///
/// let range = |start, end| PositionRange { start: Position::new(start), end: Position::new(end) };
/// let mut map = RangeMap::new();
/// map.insert(range(10, 20), "a");
/// map.insert(range(15, 30), "b");
/// assert_eq!(map.get(Position::new(15)), Some(&"a"));
/// assert_eq!(map.get(Position::new(16)), Some(&"b"));
/// assert_eq!(map.iter().collect::<Vec<_>>(), [(range(10, 15), &"a"), (range(15, 30), &"b")]);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RangeMap<T> {
    /// The last position and the value of each segment, by its first position. Segments are
    /// disjoint and don't pass position 0. Two that touch have different values.
    segments: BTreeMap<u64, (u64, T)>,
}

impl<T> RangeMap<T> {
    /// Returns a map in which no position has a value.
    #[must_use]
    pub const fn new() -> Self {
        Self { segments: BTreeMap::new() }
    }

    /// Returns the value of `position`, or `None` if it has none. O(log n).
    #[must_use]
    pub fn get(&self, position: Position) -> Option<&T> {
        let number = position.as_u64();
        let (_, (last, value)) = self.segments.range(..=number).next_back()?;
        (*last >= number).then_some(value)
    }

    /// Whether no position has a value.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Returns the number of positions that have a value, from 0 to 2^64. O(n).
    #[must_use]
    pub fn width(&self) -> u128 {
        self.segments.iter().map(|(first, (last, _))| u128::from(last - first) + 1).sum()
    }

    /// Whether each position of `range` has a value. O(log n + k).
    #[must_use]
    pub fn covers(&self, range: PositionRange) -> bool {
        range.segments().all(|asked| {
            let mut next = Some(*asked.start());
            for (first, last, _) in self.touching(&asked) {
                if next.is_none_or(|next| first > next) {
                    return false;
                }
                next = last.checked_add(1);
                if last >= *asked.end() {
                    return true;
                }
            }
            false
        })
    }

    /// Whether any position of `range` has a value. O(log n).
    #[must_use]
    pub fn overlaps(&self, range: PositionRange) -> bool {
        range.segments().any(|asked| self.touching(&asked).next().is_some())
    }

    /// Returns the parts of `range` that have a value, and the values; ascending from position 0,
    /// with a part that passes position 0 cut in two. O(log n + k).
    pub fn overlapping(&self, range: PositionRange) -> impl Iterator<Item = (PositionRange, &T)> {
        range.segments().flat_map(move |asked| {
            let (low, high) = (*asked.start(), *asked.end());
            self.touching(&asked).map(move |(first, last, value)| (between(first.max(low), last.min(high)), value))
        })
    }

    /// Returns the parts of `range` that have no value; ascending from position 0, with a part that
    /// passes position 0 cut in two. O(log n + k).
    #[must_use]
    pub fn gaps(&self, range: PositionRange) -> Vec<PositionRange> {
        let mut gaps = Vec::new();
        for asked in range.segments() {
            let mut next = Some(*asked.start());
            for (first, last, _) in self.touching(&asked) {
                if let Some(next) = next.filter(|next| *next < first) {
                    gaps.push(between(next, first - 1));
                }
                next = last.checked_add(1);
            }
            if let Some(next) = next.filter(|next| next <= asked.end()) {
                gaps.push(between(next, *asked.end()));
            }
        }
        gaps
    }

    /// Returns the ranges and their values, ascending by their end. The first may pass position 0.
    /// Two that touch have different values.
    pub fn iter(&self) -> impl Iterator<Item = (PositionRange, &T)>
    where
        T: PartialEq,
    {
        // The last segment goes on in the first one if both touch position 0.
        let joined =
            self.segments.len() > 1
                && self.segments.first_key_value().zip(self.segments.last_key_value()).is_some_and(
                    |((first, (_, low)), (_, (last, high)))| *first == 0 && *last == u64::MAX && low == high,
                );
        let tail = self.segments.last_key_value().filter(|_| joined).map(|(first, _)| *first);
        self.segments.iter().filter(move |(first, _)| Some(**first) != tail).map(move |(first, (last, value))| {
            let first = if *first == 0 { tail.unwrap_or(0) } else { *first };
            (between(first, *last), value)
        })
    }

    /// Returns the segments that have a position in `asked`, ascending: first position, last
    /// position, value.
    fn touching<'a>(&'a self, asked: &RangeInclusive<u64>) -> impl Iterator<Item = (u64, u64, &'a T)> + use<'a, T> {
        let (low, high) = (*asked.start(), *asked.end());
        let before = self.segments.range(..low).next_back().filter(move |(_, (last, _))| *last >= low);
        before.into_iter().chain(self.segments.range(low..=high)).map(|(first, (last, value))| (*first, *last, value))
    }
}

/// Changes.
impl<T: Clone + PartialEq> RangeMap<T> {
    /// Gives each position of `range` this value, in place of the value that it has.
    pub fn insert(&mut self, range: PositionRange, value: T) {
        for asked in range.segments() {
            self.cut(&asked);
            let (mut first, mut last) = asked.into_inner();
            // Join neighbours that have the same value.
            if let Some((&before, (end, other))) = self.segments.range(..first).next_back()
                && end.checked_add(1) == Some(first)
                && *other == value
            {
                first = before;
            }
            if let Some(next) = last.checked_add(1)
                && let Some((end, _)) = self.segments.get(&next).filter(|(_, other)| *other == value)
            {
                last = *end;
                self.segments.remove(&next);
            }
            self.segments.insert(first, (last, value.clone()));
        }
    }

    /// Takes the value from each position of `range`.
    pub fn remove(&mut self, range: PositionRange) {
        range.segments().for_each(|asked| self.cut(&asked));
    }

    /// Takes the values from the positions of `asked`, and keeps what reaches beyond them.
    fn cut(&mut self, asked: &RangeInclusive<u64>) {
        let (low, high) = (*asked.start(), *asked.end());
        let cut: Vec<_> = self.touching(asked).map(|(first, last, value)| (first, last, value.clone())).collect();
        for (first, last, value) in cut {
            self.segments.remove(&first);
            if first < low {
                self.segments.insert(first, (low - 1, value.clone()));
            }
            if last > high {
                self.segments.insert(high + 1, (last, value));
            }
        }
    }
}

/// Returns the range from `first` to `last`, both inclusive. `first` may be above `last`: then the
/// range passes position 0.
const fn between(first: u64, last: u64) -> PositionRange {
    PositionRange { start: Position::new(first.wrapping_sub(1)), end: Position::new(last) }
}

impl<T> Default for RangeMap<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + PartialEq> Extend<(PositionRange, T)> for RangeMap<T> {
    fn extend<I: IntoIterator<Item = (PositionRange, T)>>(&mut self, ranges: I) {
        ranges.into_iter().for_each(|(range, value)| self.insert(range, value));
    }
}

/// Of ranges that overlap, the later one counts.
impl<T: Clone + PartialEq> FromIterator<(PositionRange, T)> for RangeMap<T> {
    fn from_iter<I: IntoIterator<Item = (PositionRange, T)>>(ranges: I) -> Self {
        let mut map = Self::new();
        map.extend(ranges);
        map
    }
}

impl<T: fmt::Debug + PartialEq> fmt::Debug for RangeMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |range: PositionRange| format!("({:#x}, {:#x}]", range.start.as_u64(), range.end.as_u64());
        f.debug_map().entries(self.iter().map(|(range, value)| (shown(range), value))).finish()
    }
}

impl<T: Serialize + PartialEq> Serialize for RangeMap<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().collect::<Vec<_>>())
    }
}

impl<'de, T: Deserialize<'de> + Clone + PartialEq> Deserialize<'de> for RangeMap<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Self::new();
        for (range, value) in Vec::<(PositionRange, T)>::deserialize(deserializer)? {
            if map.overlaps(range) {
                return Err(de::Error::custom(format_args!(
                    "the range after {} up to {} overlaps another range of the list; each position may have one value",
                    range.start.as_u64(),
                    range.end.as_u64()
                )));
            }
            map.insert(range, value);
        }
        Ok(map)
    }
}
